"""The few SQL words that PostgreSQL and SQLite spell differently: times, the database's clock, batches as tables.

Pure: builds expressions, touches no connection.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    Boolean,
    Date,
    DateTime,
    Dialect,
    Float,
    Integer,
    Text,
    bindparam,
    cast,
    column,
    func,
    select,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import ColumnElement, FromClause
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine


class UtcTime(TypeDecorator[datetime]):
    """An aware UTC time: timestamptz on PostgreSQL, milliseconds since 1970 on SQLite, which has no time type."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        sqlite = dialect.name == "sqlite"
        return dialect.type_descriptor(BigInteger() if sqlite else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None or dialect.name != "sqlite":
            return value
        return round(value.timestamp() * 1000)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return value  # type: ignore[no-any-return]
        return datetime.fromtimestamp(value / 1000, UTC)


class now(FunctionElement[datetime]):
    """The database's clock. Leases, due times and retention use it, so that hosts' clocks do not matter."""

    inherit_cache = True
    type = UtcTime()


@compiles(now, "postgresql")
def _now_postgresql(_element: now, _compiler: Any, **_kw: Any) -> str:
    return "statement_timestamp()"  # stable, unlike clock_timestamp(): an index can be used with it


@compiles(now, "sqlite")
def _now_sqlite(_element: now, _compiler: Any, **_kw: Any) -> str:
    return "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"


class later(FunctionElement[datetime]):
    """The database's clock plus its one argument in seconds (NULL gives NULL)."""

    inherit_cache = True
    type = UtcTime()


@compiles(later, "postgresql")
def _later_postgresql(element: later, compiler: Any, **kw: Any) -> str:
    return f"(statement_timestamp() + {compiler.process(element.clauses, **kw)} * interval '1 second')"


@compiles(later, "sqlite")
def _later_sqlite(element: later, compiler: Any, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"CAST(ROUND((julianday('now') - 2440587.5) * 86400000 + {seconds} * 1000) AS INTEGER)"


class today(FunctionElement[date]):
    """The database's day, in UTC."""

    inherit_cache = True
    type = Date()


@compiles(today, "postgresql")
def _today_postgresql(_element: today, _compiler: Any, **_kw: Any) -> str:
    return "(statement_timestamp() AT TIME ZONE 'UTC')::date"


@compiles(today, "sqlite")
def _today_sqlite(_element: today, _compiler: Any, **_kw: Any) -> str:
    return "date('now')"


class Rows:
    """A batch of rows as a table inside one statement: unnest() of arrays on PostgreSQL, json_each() on SQLite.

    Build the statement once from `table(dialect)`, execute it with `params(dialect, rows)`. The order of `rows` is the
    order in which PostgreSQL meets them: callers sort by key, so that two batches lock in one order.
    """

    def __init__(self, name: str, **columns: type[TypeEngine[Any]]) -> None:
        self.name = name
        self.columns = columns

    def table(self, dialect: str) -> FromClause:
        if dialect == "sqlite":
            each = func.json_each(bindparam(self.name, type_=Text)).table_valued("value", name=f"{self.name}_json")
            parts = [
                _from_json(func.json_extract(each.c.value, f"$[{at}]"), kind).label(name)
                for at, (name, kind) in enumerate(self.columns.items())
            ]
            return select(*parts).select_from(each).cte(self.name)
        arrays = [
            cast(bindparam(f"{self.name}_{name}", type_=Text), ARRAY(kind)) for name, kind in self.columns.items()
        ]
        typed = [column(name, kind) for name, kind in self.columns.items()]
        return func.unnest(*arrays).table_valued(*typed, name=self.name, joins_implicitly=True).render_derived()

    def params(self, dialect: str, rows: Iterable[Sequence[Any]]) -> dict[str, Any]:
        if dialect == "sqlite":
            return {self.name: orjson.dumps([[_to_json(value) for value in row] for row in rows]).decode()}
        turned = list(zip(*rows, strict=True)) or [()] * len(self.columns)
        return {
            f"{self.name}_{name}": _array_literal(values) for name, values in zip(self.columns, turned, strict=True)
        }


def _array_literal(values: Sequence[Any]) -> str:
    """PostgreSQL's text form of an array (its manual, 8.15.6): psycopg's own takes a regular expression per item."""
    return "{" + ",".join(["NULL" if value is None else _array_item(value) for value in values]) + "}"


def _array_item(value: Any) -> str:
    if not isinstance(value, str):
        return str(value)
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


def _from_json(extracted: ColumnElement[Any], kind: type[TypeEngine[Any]]) -> ColumnElement[Any]:
    return cast(extracted, kind) if kind in (Integer, BigInteger, Float) else type_coerce(extracted, kind)


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    return value.isoformat() if isinstance(value, date) else value


__all__ = ["BigInteger", "Boolean", "Date", "Float", "Integer", "Rows", "Text", "UtcTime", "later", "now", "today"]
