"""Host names to addresses, off the loop: cached, one query at a time for each name. Vets nothing."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from shared import dns

Addresses = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Answer:
    addresses: Addresses
    error: OSError | None
    expires_at: float


class Resolver:
    """`await resolver(host, wait_s)` gives all addresses of `host`, never an empty tuple.

    Raises OSError when it has none, TimeoutError (one of them) when that is not known within `wait_s`.

    Each query has a daemon thread of its own, at most `most_queries` at once: getaddrinfo cannot be cancelled, and an
    executor's thread that hangs in it would hold up the exit of the process.
    """

    def __init__(
        self,
        lookup: Callable[[str], Addresses] = dns.lookup,
        *,
        ttl_s: float = 60,
        negative_ttl_s: float = 3,
        most_names: int = 20_000,
        most_queries: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lookup = lookup
        self._ttl_s = ttl_s
        self._negative_ttl_s = negative_ttl_s
        self._most_names = most_names
        self._clock = clock
        self._answers: dict[str, _Answer] = {}
        self._asked: dict[str, asyncio.Task[_Answer]] = {}
        self._slots = asyncio.Semaphore(most_queries)

    async def __call__(self, host: str, wait_s: float) -> Addresses:
        answer = self._answers.get(host)
        if answer is None or answer.expires_at <= self._clock():
            async with asyncio.timeout(wait_s):
                answer = await self._flight(host)
        if answer.error is not None:
            raise answer.error.with_traceback(None)
        return answer.addresses

    async def _flight(self, host: str) -> _Answer:
        task = self._asked.get(host)
        if task is None:
            task = self._asked[host] = asyncio.create_task(self._ask(host))
            task.add_done_callback(lambda _: self._asked.pop(host))
        return await asyncio.shield(task)  # a caller whose time is up leaves the query to the others

    async def _ask(self, host: str) -> _Answer:
        async with self._slots:
            addresses, error = await self._in_thread(host)
        ttl_s = self._ttl_s if error is None else self._negative_ttl_s
        if len(self._answers) >= self._most_names:
            self._answers.clear()
        answer = self._answers[host] = _Answer(addresses, error, self._clock() + ttl_s)
        return answer

    async def _in_thread(self, host: str) -> tuple[Addresses, OSError | None]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[tuple[Addresses, OSError | None]] = loop.create_future()

        def settle(addresses: Addresses, error: OSError | None) -> None:
            if not done.done():
                done.set_result((addresses, error))

        def query() -> None:
            addresses, error = self._query(host)
            with suppress(RuntimeError):  # the loop has closed meanwhile: nobody waits any more
                loop.call_soon_threadsafe(settle, addresses, error)

        threading.Thread(target=query, name="resolve", daemon=True).start()
        return await done

    def _query(self, host: str) -> tuple[Addresses, OSError | None]:
        try:
            addresses = tuple(self._lookup(host))
        except OSError as error:
            return (), error
        except Exception as error:  # e.g. UnicodeError; the callers that wait must hear of it, whatever it is
            return (), OSError(f"{type(error).__name__}: {error}")
        return addresses, None if addresses else OSError("the name has no address")

    async def close(self) -> None:
        """Leave every query; threads that hang in one end with the process."""
        for task in list(self._asked.values()):
            task.cancel()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)
