"""Ids."""

import base64
import hashlib

from hypothesis import given
from hypothesis import strategies as st

from shared.ids import delivery_id, new_id


@given(st.text(), st.text())
def test_a_delivery_id_is_lower_case_base32_of_the_hash(event_id: str, webhook_id: str) -> None:
    digest = hashlib.sha256(f"{event_id}\n{webhook_id}".encode()).digest()
    assert delivery_id(event_id, webhook_id) == "dlv_" + base64.b32encode(digest).decode().lower()[:26]


def test_new_ids_differ_and_hold_no_dot() -> None:
    found = {new_id("evt") for _ in range(1000)}
    assert len(found) == 1000
    assert not any("." in one for one in found)
