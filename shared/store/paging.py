"""Lists, newest first, a page at a time by key: a page costs the same however deep it lies, and new rows shift none."""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

import orjson
from sqlalchemy import Column, Row, Select, literal, tuple_

from shared.errors import FieldError, Refused

T = TypeVar("T")
AnyRow = Row[*tuple[Any, ...]]
MAX_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows, and the cursor of the next ones; None on the last page."""

    rows: Sequence[T]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class After:
    """The last row of the page before: what follows is older."""

    at: datetime
    id: str


def write_cursor(after: After) -> str:
    """`after` as opaque text, safe in a URL."""
    # Microseconds: PostgreSQL keeps them, and a rounded cursor would skip or repeat a row.
    return base64.urlsafe_b64encode(orjson.dumps([after.at.isoformat(), after.id])).decode().rstrip("=")


def read_cursor(text: str) -> After:
    """What `write_cursor` wrote; raises Refused for anything else."""
    try:
        at, row_id = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None or not isinstance(row_id, str):
            raise ValueError(text)
    except (ValueError, TypeError, binascii.Error):
        wrong = FieldError("/cursor", "is not a cursor of ours; take next_cursor of the page before")
        raise Refused("the cursor cannot be used", errors=[wrong]) from None
    return After(moment, row_id)


def newest_first(
    statement: Select[Any], at: Column[Any], row_id: Column[Any], *, limit: int, after: After | None
) -> Select[Any]:
    """`statement` in pages of `limit` rows, and one more that tells whether there is a next page."""
    if after is not None:
        older = tuple_(literal(after.at, at.type), literal(after.id, row_id.type))
        statement = statement.where(tuple_(at, row_id) < older)
    return statement.order_by(at.desc(), row_id.desc()).limit(min(limit, MAX_LIMIT) + 1)


def page_of(
    rows: Sequence[Row[*tuple[Any, ...]]],
    limit: int,
    build: Callable[[Row[*tuple[Any, ...]]], T],
    at: str = "created_at",
) -> Page[T]:
    """The page in the rows that a `newest_first` statement found."""
    limit = min(limit, MAX_LIMIT)
    shown = rows[:limit]
    more = len(rows) > limit
    cursor = write_cursor(After(getattr(shown[-1], at), shown[-1].id)) if more else None
    return Page([build(row) for row in shown], cursor)
