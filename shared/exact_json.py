"""JSON in, with every integer exact. Pure.

orjson reads an integer beyond 64 bits as the nearest float, which is another number; and it cannot write one. Such an
integer is refused with its place: a receiver must get the number that the CRM stored, or nothing.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import orjson

from shared.errors import FieldError, Malformed

LEAST, MOST = -(2**63), 2**64 - 1
_LONG = re.compile(rb"[0-9]{19}")
_MOST_DIGITS = 20


class _TooBig:
    """Stands where an integer was that does not fit."""


_TOO_BIG = _TooBig()


def loads(body: bytes | bytearray) -> Any:
    """The parsed body. Raises Malformed when it is not JSON, and with `errors` for integers of more than 64 bits."""
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"not valid JSON: {error}") from None
    if _LONG.search(body) is None:
        return given
    try:
        errors = [FieldError(pointer, TOO_BIG) for pointer in _places(json.loads(body, parse_int=_integer), "")]
    except RecursionError:
        raise Malformed("not valid JSON: it nests too deep") from None
    if errors:
        raise Malformed(errors=errors)
    return given


TOO_BIG = "an integer of more than 64 bits cannot be kept exactly; send it as text"


def _integer(text: str) -> int | _TooBig:
    # The length first: int() takes long for thousands of digits, and refuses more than 4,300.
    if len(text) - text.startswith("-") > _MOST_DIGITS:
        return _TOO_BIG
    number = int(text)
    return number if LEAST <= number <= MOST else _TOO_BIG


def _places(given: Any, pointer: str) -> Iterator[str]:
    if isinstance(given, _TooBig):
        yield pointer
    elif isinstance(given, dict):
        for name, inner in given.items():
            yield from _places(inner, f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(given, list):
        for at, inner in enumerate(given):
            yield from _places(inner, f"{pointer}/{at}")
