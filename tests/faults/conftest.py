"""Databases of the fault tests, closed however the test ends."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from shared.db import Database
from shared.migrate import migrate


@pytest.fixture
def a_database() -> Iterator[Callable[[str], Database]]:
    """Open the database of this URL and bring its tables up to date."""
    with ExitStack() as opened:

        def open_at(url: str) -> Database:
            database = opened.enter_context(closing(Database(url)))
            migrate(database)
            return database

        yield open_at
