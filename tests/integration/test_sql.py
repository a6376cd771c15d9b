"""Batches as tables: what goes in comes out, on both databases."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from sqlalchemy import select

from shared.db import Database
from shared.sql import Boolean, Date, Float, Integer, Rows, Text


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    database = Database(request.getfixturevalue(f"{request.param}_database_url"))
    yield database
    database.close()


VALUES: list[tuple[Any, ...]] = [
    ("plain", 1, 1.5, date(2026, 11, 23), True),
    (None, None, None, None, None),
    ("NULL", -1, -0.25, date(1970, 1, 1), False),
    ('a "quoted" \\ {brace}, comma', 0, 1e300, date(2026, 1, 1), True),
    ("", 2**31 - 1, 0.0, date(2026, 1, 1), False),
    ("line\nbreak ünï \U0001f600 '; DROP TABLE x; --", 7, 3.0, date(2026, 1, 1), True),
]


def test_a_batch_comes_back_as_it_went_in(database: Database) -> None:
    rows = Rows("b", text=Text, number=Integer, real=Float, day=Date, flag=Boolean)
    with database.transaction() as conn:
        table = rows.table(conn.dialect.name)
        found = [tuple(row) for row in conn.execute(select(*table.c), rows.params(conn.dialect.name, VALUES))]
    assert found == VALUES


def test_an_empty_batch_is_an_empty_table(database: Database) -> None:
    rows = Rows("b", text=Text, number=Integer)
    with database.transaction() as conn:
        table = rows.table(conn.dialect.name)
        assert conn.execute(select(*table.c), rows.params(conn.dialect.name, [])).all() == []
