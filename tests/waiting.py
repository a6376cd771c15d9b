"""Deadlines for tests: run a coroutine within one, poll a condition until it holds. Nothing here sleeps to be lucky."""

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

POLL_S = 0.01


def run(coro: Coroutine[Any, Any, T], deadline_s: float = 30) -> T:
    """Run `coro` on a fresh event loop and return its answer. Raises TimeoutError when the deadline passes first."""

    async def within_deadline() -> T:
        return await asyncio.wait_for(coro, deadline_s)

    return asyncio.run(within_deadline())


def eventually(condition: Callable[[], T], deadline_s: float = 10, what: str = "") -> T:
    """Poll `condition` until it returns something true, and return that. Raises AssertionError at the deadline.

    An AssertionError raised by `condition` counts as "not yet"; the last one is the cause of ours.
    """
    until = time.monotonic() + deadline_s
    while True:
        found, why = _ask(condition)
        if found:
            return found  # type: ignore[no-any-return]
        if time.monotonic() > until:
            raise AssertionError(_complaint(condition, deadline_s, what)) from why
        time.sleep(POLL_S)


async def eventually_async(condition: Callable[[], Any], deadline_s: float = 10, what: str = "") -> Any:
    """`eventually` for code on a loop, which goes on running meanwhile; `condition` may be a coroutine function."""
    until = time.monotonic() + deadline_s
    while True:
        found, why = _ask(condition)
        if inspect.isawaitable(found):
            try:
                found = await found
            except AssertionError as not_yet:
                found, why = None, not_yet
        if found:
            return found
        if time.monotonic() > until:
            raise AssertionError(_complaint(condition, deadline_s, what)) from why
        await asyncio.sleep(POLL_S)


def _ask(condition: Callable[[], Any]) -> tuple[Any, AssertionError | None]:
    try:
        return condition(), None
    except AssertionError as not_yet:
        return None, not_yet


def _complaint(condition: Callable[..., Any], deadline_s: float, what: str) -> str:
    return f"not within {deadline_s} s: {what or inspect.getsource(condition).strip()}"
