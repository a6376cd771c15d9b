"""How stored bodies are shown."""

import base64

import pytest

from shared.model import Json
from shared.store.delivery_log import text_of


@pytest.mark.parametrize(
    ("body", "truncated", "shown"),
    [
        pytest.param(b"", False, "", id="an empty body is empty text"),
        pytest.param("größer".encode(), False, "größer", id="UTF-8 is text"),
        pytest.param("größe€".encode()[:-1], True, "größe", id="a character cut through is left out"),
        pytest.param("größe€".encode(), True, "größe€", id="a cut between characters leaves out nothing"),
        pytest.param("größe€".encode()[:-1], False, None, id="a whole body that ends so is not UTF-8"),
        pytest.param(b"\xffabc", True, None, id="other bytes are not UTF-8 however they end"),
    ],
)
def test_text_of(body: bytes, truncated: bool, shown: str | None) -> None:
    expected: Json | str = {"base64": base64.b64encode(body).decode()} if shown is None else shown
    assert text_of(body, truncated=truncated) == expected
