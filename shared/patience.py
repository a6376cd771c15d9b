"""Hold what you have while our own side is away, and try again until it is back."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from shared.errors import Unavailable
from shared.logs import logger

T = TypeVar("T")
P = ParamSpec("P")
FIRST_S, LONGEST_S = 0.05, 2.0
_log = logger("hari.patience")


class Patience:
    """Calls again for as long as the answer is Unavailable. `on_trouble(True)` and `(False)` frame an outage."""

    def __init__(self, on_trouble: Callable[[bool], Awaitable[None]] | None = None) -> None:
        self._on_trouble = on_trouble
        self._in_trouble = 0

    async def __call__(self, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """The answer of `call`, however long it takes; other errors pass through."""
        wait_s, tries = FIRST_S, 0
        while True:
            try:
                answer = await call(*args, **kwargs)
            except Unavailable as error:
                tries += 1
                if tries == 2:  # a deadlock needs one more try, an outage more
                    await self._trouble(1)
                    _log.warning("work.held", reason=str(error))
                await asyncio.sleep(wait_s * random.uniform(0.5, 1))  # noqa: S311 - jitter, no secret
                wait_s = min(wait_s * 2, LONGEST_S)
            else:
                if tries >= 2:
                    await self._trouble(-1)
                    _log.info("work.resumed", tries=tries)
                return answer

    async def _trouble(self, step: int) -> None:
        before, self._in_trouble = self._in_trouble, self._in_trouble + step
        if self._on_trouble is not None and (before == 0 or self._in_trouble == 0):
            await self._on_trouble(self._in_trouble > 0)
