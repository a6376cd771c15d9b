"""The relay: unpublished outbox rows -> confirmed publish -> mark published. One is active, others stand by."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine

from shared import failpoint, metrics
from shared.assembly import Parts
from shared.broker.port import Broker, Message
from shared.broker.topology import Topology
from shared.db import Database, our_errors, single_connection_engine
from shared.errors import Unavailable
from shared.logs import logger
from shared.patience import Patience
from shared.store import outbox, roles
from shared.store.outbox import OutboxRow
from shared.wakeups import Wakeups
from shared.wire import event_headers

BATCH = 1000
POLL_S = 0.1
STAND_BY_S = 1.0
LONGEST_BACKOFF_S = 5.0
_log = logger("hari.relay")


@dataclass(frozen=True, slots=True)
class Relay:
    """Carries the outbox to the broker until `stop` is set; outlives every outage of either."""

    database: Database
    broker: Broker
    topology: Topology
    wakeups: Wakeups
    reconcile_after_s: float
    stop: asyncio.Event

    async def run(self) -> None:
        """Hold the lock, relay, and stand by again whenever the lock's connection is lost."""
        while not self.stop.is_set():
            try:
                if self.database.is_sqlite:  # one process, and one thread that owns the file: no lock to hold
                    await self._relay(self.database.run)
                else:
                    await self._relay_under_lock()
            except Unavailable as error:
                _log.warning("relay.waiting", reason=str(error))
            finally:
                metrics.relay_active.set(0)
            await self._pause(STAND_BY_S)

    async def _relay_under_lock(self) -> None:
        # The batches are marked on the connection that holds the lock: when it dies, lock and marks die together.
        loop = asyncio.get_running_loop()
        engine = single_connection_engine(self.database)
        conn = await loop.run_in_executor(None, _open_locked, engine)
        if conn is None:
            return

        async def run(work: Callable[..., Any], *args: Any) -> Any:
            return await loop.run_in_executor(None, _in_transaction, conn, work, args)

        try:
            await self._relay(run)
        finally:
            await loop.run_in_executor(None, conn.close)
            engine.dispose()

    async def _relay(self, run: Callable[..., Awaitable[Any]]) -> None:
        _log.info("relay.active")
        metrics.relay_active.set(1)
        backoff_s = POLL_S
        while not self.stop.is_set():
            moved, failed = await self._relay_batch(run)
            backoff_s = min(backoff_s * 2, LONGEST_BACKOFF_S) if failed else POLL_S
            if failed:
                await self._pause(backoff_s * random.uniform(0.5, 1))  # noqa: S311 - jitter, no secret
            elif moved == 0:
                await self.wakeups.wait("outbox", POLL_S)

    async def _relay_batch(self, run: Callable[..., Awaitable[Any]]) -> tuple[int, int]:
        """Publish one batch and mark what was confirmed; returns (confirmed, not confirmed)."""
        metrics.broker_connected.set(self.broker.connected)
        rows = await run(outbox.take_unpublished, BATCH)
        if not rows:
            return 0, 0
        failpoint.reach("relay.taken")
        answers = await self.broker.publish([self._message(row) for row in rows])
        failpoint.reach("relay.confirmed")
        confirmed = [row for row, answer in zip(rows, answers, strict=True) if answer is None]
        if confirmed:
            # A crash before this line publishes them again; dispatch drops what it has dispatched.
            await run(outbox.mark_published, confirmed, self.reconcile_after_s)
            failpoint.reach("relay.marked")
            metrics.events_published.inc(len(confirmed))
            _log.info("outbox.relayed", count=len(confirmed))
        refused = [answer for answer in answers if answer is not None]
        if refused:
            _log.warning("outbox.held", count=len(refused), reason=refused[0])
        return len(confirmed), len(refused)

    def _message(self, row: OutboxRow) -> Message:
        key = f"record.{row.entity}.{row.event}"
        headers = event_headers(row.hop, row.traceparent)
        return Message(self.topology.events_exchange, key, row.body, row.event_id, headers)

    async def _pause(self, for_s: float) -> None:
        """Wait, but not past a stop."""
        try:
            await asyncio.wait_for(self.stop.wait(), for_s)
        except TimeoutError:
            return


async def serve(parts: Parts, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    """Run one relay until `stop` is set."""
    settings = parts.settings
    relay = Relay(parts.database, parts.broker, parts.topology, parts.wakeups, settings.reconcile_after_s, stop)
    await Patience()(parts.broker.declare, parts.topology)
    ready()
    await relay.run()
    _log.info("relay.stopped")


def _open_locked(engine: Engine) -> Connection | None:
    with our_errors():
        conn = engine.connect()
        if roles.try_relay_lock(conn):
            conn.commit()
            return conn
        conn.close()
        return None


def _in_transaction(conn: Connection, work: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    with our_errors(), conn.begin():
        return work(conn, *args)
