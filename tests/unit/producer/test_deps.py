"""A deadlock's victim is tried again; nothing else is."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from services.producer.deps import Deps
from shared.errors import Unavailable


def unavailable(sqlstate: str | None) -> Unavailable:
    orig = Exception("trouble")
    orig.sqlstate = sqlstate  # type: ignore[attr-defined]
    error = Unavailable("database: trouble")
    error.__cause__ = OperationalError("SELECT 1", {}, orig)
    return error


def ran(*answers: Any) -> tuple[Any, int]:
    """(what `Deps.run` came to, how often it asked the database), when the database answers so."""
    left = list(answers)

    async def run(_work: Any) -> Any:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    nothing: Any = None
    database: Any = SimpleNamespace(run=run)
    deps = Deps(database, nothing, nothing, nothing, nothing, nothing, nothing)
    try:
        found = asyncio.run(deps.run(lambda _conn: None))
    except Unavailable as error:
        found = str(error)
    return found, len(answers) - len(left)


@pytest.mark.parametrize("sqlstate", ["40P01", "40001"], ids=["a deadlock", "a serialization failure"])
def test_a_victim_is_tried_again_twice(sqlstate: str) -> None:
    assert ran(unavailable(sqlstate), 5) == (5, 2)
    assert ran(*[unavailable(sqlstate)] * 4) == ("database: trouble", 3)


@pytest.mark.parametrize("sqlstate", ["57P01", None], ids=["a shutdown, the commit in doubt", "a lost connection"])
def test_what_may_have_been_committed_is_not_tried_again(sqlstate: str | None) -> None:
    assert ran(unavailable(sqlstate), 5) == ("database: trouble", 1)
