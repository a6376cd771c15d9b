"""How the form of a webhook's bodies is kept in its row: today's, and the few before it. Pure.

A delivery keeps the form of the time it was made, so that its body is the same bytes at every attempt.
"""

from collections.abc import Sequence
from datetime import datetime

import orjson

from shared.model import HARI, Format


def format_of(preset: str, template: str | None) -> Format:
    """The format in these columns; the default one is always the same object, so that nobody need look at it."""
    return HARI if preset == HARI.preset else Format(preset, template)


def former_formats(text: str | None) -> tuple[tuple[datetime, Format], ...]:
    """The formats that held before, oldest first, each with the time until which it did."""
    rows = orjson.loads(text) if text is not None else ()
    return tuple((datetime.fromisoformat(until), format_of(preset, template)) for until, preset, template in rows)


def former_text(former: Sequence[tuple[datetime, Format]]) -> str:
    """What `former_formats` reads."""
    return orjson.dumps([(until.isoformat(), form.preset, form.template) for until, form in former]).decode()
