"""Keeps the match index fresh: reloaded when the webhooks' version moved, and in full every five minutes."""

import asyncio
import time

from shared.db import Database
from shared.errors import Unavailable
from shared.logs import logger
from shared.outgoing.match import MatchIndex, build_index
from shared.store import webhooks
from shared.wakeups import Wakeups

POLL_S = 0.5
FULL_S = 300.0
STALE_S = 30.0
_log = logger("hari.dispatcher")


class Subscriptions:
    """The match index as it stands now; `stale` once nothing could be read for 30 s: then nobody may match."""

    def __init__(self, database: Database, wakeups: Wakeups) -> None:
        self._database = database
        self._wakeups = wakeups
        self._index = build_index(0, ())
        self._checked_at = self._loaded_at = 0.0

    def index(self) -> MatchIndex:
        return self._index

    @property
    def stale(self) -> bool:
        return time.monotonic() - self._checked_at > STALE_S

    async def load(self) -> None:
        """Read every subscription now. Raises Unavailable."""
        version, found = await self._database.run(webhooks.subscriptions)
        self._index = build_index(version, found)
        self._loaded_at = self._checked_at = time.monotonic()
        _log.info("subscriptions.loaded", version=version, count=len(found))

    async def refresh(self) -> None:
        """See to it that the index is not older than this call. Raises Unavailable."""
        version = await self._database.run(webhooks.version)
        self._checked_at = time.monotonic()
        if version != self._index.version or time.monotonic() - self._loaded_at > FULL_S:
            await self.load()

    async def run(self) -> None:
        """Follow changes until cancelled: at once when woken, within half a second anyway."""
        while True:
            await self._wakeups.wait("webhooks", POLL_S)
            try:
                await self.refresh()
            except Unavailable as error:
                _log.warning("subscriptions.waiting", reason=str(error))
                await asyncio.sleep(POLL_S)
