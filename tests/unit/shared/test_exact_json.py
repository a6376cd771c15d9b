"""Integers that fit come through exactly; the others are named."""

import pytest

from shared.errors import Malformed
from shared.exact_json import TOO_BIG, loads


@pytest.mark.parametrize("number", [2**53 + 1, 2**63, 2**64 - 1, -(2**63), 1234567890123456789])
def test_an_integer_of_64_bits_is_kept_exactly(number: int) -> None:
    assert loads(b'{"a": [%d]}' % number) == {"a": [number]}


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        pytest.param(b"18446744073709551616", [""], id="one more than 64 bits unsigned"),
        pytest.param(b'{"a": -9223372036854775809}', ["/a"], id="one less than 64 bits signed"),
        pytest.param(b'{"a/b": {"c~d": [0, 99999999999999999999]}}', ["/a~1b/c~0d/1"], id="a pointer is escaped"),
        pytest.param(b'{"a": %s, "b": 1, "c": %s}' % (b"9" * 30, b"9" * 300), ["/a", "/c"], id="every place is named"),
    ],
)
def test_an_integer_beyond_64_bits_is_refused_with_its_place(body: bytes, pointers: list[str]) -> None:
    with pytest.raises(Malformed) as error:
        loads(body)
    assert [(fault.pointer, fault.detail) for fault in error.value.errors] == [(at, TOO_BIG) for at in pointers]


@pytest.mark.parametrize(
    ("body", "given"),
    [
        pytest.param(b'"99999999999999999999999"', "9" * 23, id="digits in text are text"),
        pytest.param(b"0.12345678901234567890123", 0.12345678901234567890123, id="a fraction is a float"),
        pytest.param(b"1e19", 1e19, id="an exponent makes a float"),
    ],
)
def test_what_is_no_integer_is_left_alone(body: bytes, given: object) -> None:
    assert loads(body) == given


@pytest.mark.parametrize("body", [b"", b"{", b"NaN", b"9" * 400])
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed, match="not valid JSON"):
        loads(body)


def test_deep_nesting_around_a_long_number_ends_in_malformed() -> None:
    body = b"[" * 1000 + b"99999999999999999999" + b"]" * 1000
    with pytest.raises(Malformed):
        loads(body)
