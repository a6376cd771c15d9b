"""The error types. Pure.

Ask of each failure: would the same input work later? That names its type. A customer's endpoint that fails is none of
them: it is an `Outcome`.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class HariError(Exception):
    """Every error of ours; its text says what was wrong and what to do."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one field. `pointer` is a JSON pointer into the request body ("" is the whole body)."""

    pointer: str
    detail: str


class Malformed(HariError):
    """The input can never work: answered 400, or parked with this text as its reason. `errors`: the fields at fault,
    all of them, when they can be named."""

    def __init__(self, detail: str = "", *, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail or "; ".join(f"{error.pointer}: {error.detail}" for error in errors))
        self.errors = tuple(errors)


class Refused(HariError):
    """Understood but not allowed. `status` is the HTTP status an API answers, `errors` the fields at fault."""

    def __init__(self, detail: str, *, status: int = 422, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.errors = tuple(errors)


class Unavailable(HariError):
    """Our side is away (database, broker, dispatcher): hold what you have and try again; an API answers 503."""


class SettingsError(HariError):
    """The process cannot start as it is configured; the text names every bad setting."""
