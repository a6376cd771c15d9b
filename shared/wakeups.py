"""Wake-ups between processes: LISTEN/NOTIFY on PostgreSQL, plain asyncio events within the one embedded process.

A wake-up saves waiting, never carries anything: whoever waits also polls.
"""

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text

from shared.db import Database, open_listener
from shared.errors import Unavailable

LEAST_GAP_S = 0.01
CHANNELS = ("outbox", "webhooks")
if TYPE_CHECKING:
    import psycopg

_log = logging.getLogger("hari.wakeups")


class Wakeups:
    """Notify and wait by channel name. NOTIFY goes out on its own connection, after the commit, every 10 ms at most:
    inside the write transaction it cuts commits to 40 %, because PostgreSQL serialises them on one lock."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._events = {channel: asyncio.Event() for channel in CHANNELS}
        self._pending: set[str] = set()
        self._stir = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin listening and sending in the background (nothing to do on SQLite)."""
        if not self._database.is_sqlite:
            self._tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._listen())]

    def notify(self, channel: str) -> None:
        """Wake whoever waits for `channel`, here and in the other processes. Returns at once and never fails."""
        self._events[channel].set()
        if self._tasks:
            self._pending.add(channel)
            self._stir.set()

    async def wait(self, channel: str, timeout_s: float) -> bool:
        """Wait for a wake-up at most `timeout_s`; True if one came (also since the last wait)."""
        event = self._events[channel]
        with suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), timeout_s)
        woken = event.is_set()
        event.clear()
        return woken

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send(self) -> None:
        while True:
            await self._stir.wait()
            self._stir.clear()
            channels, self._pending = self._pending, set()
            try:
                await self._database.run(_notify_all, channels)
            except Unavailable:
                _log.debug("a wake-up was not sent: the database is away")
            await asyncio.sleep(LEAST_GAP_S)

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        names = [f"hari_{channel}" for channel in CHANNELS]
        while True:
            try:
                connection = await loop.run_in_executor(None, open_listener, self._database, names)
                lost: asyncio.Future[None] = loop.create_future()
                descriptor = connection.fileno()
                loop.add_reader(descriptor, self._on_readable, connection, lost)
                for event in self._events.values():
                    event.set()  # something may have happened while nobody listened
                try:
                    await lost
                finally:
                    loop.remove_reader(descriptor)
                    connection.close()
            except Exception as error:
                _log.info("listening for wake-ups again in a second: %s", type(error).__name__)
            await asyncio.sleep(1)

    def _on_readable(self, connection: "psycopg.Connection[Any]", lost: "asyncio.Future[None]") -> None:
        wire = connection.pgconn
        try:
            wire.consume_input()
            while notice := wire.notifies():
                event = self._events.get(notice.relname.decode().removeprefix("hari_"))
                if event is not None:
                    event.set()
        except Exception as error:
            if not lost.done():
                lost.set_exception(error)


def _notify_all(conn: Connection, channels: set[str]) -> None:
    for channel in channels:
        conn.execute(text(f"NOTIFY hari_{channel}"))
