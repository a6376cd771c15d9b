"""What one dispatcher at a time does for all: close expired claims, publish what is due, give overdue events back.

The leader is whoever holds the lease `housekeeping`. Every step is one transaction and safe to run twice.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from services.dispatcher.retry import decide_unknown
from shared import failpoint, metrics
from shared.broker.port import Broker, Message
from shared.broker.topology import Topology
from shared.db import Database
from shared.errors import Unavailable
from shared.logs import logger
from shared.model import Dead, DeliveryTask, Problem, Retry, State
from shared.store import attempts, deliveries, idempotency, outbox, replays, roles, upkeep
from shared.store.attempts import AttemptRow
from shared.store.deliveries import ClaimRow, Result
from shared.store.upkeep import DueRow
from shared.wire import encode_task

TICK_S = 1.0
LEASE_S = 8.0
LONGEST_TIMEOUT_S = 30
OVERDUE_S = 3.0
RARELY_S = 60.0
FULL_TICK = 500
FULL_SWEEP_S = 300.0
RECENT_S = 600.0
LEASE_NAME = "housekeeping"
_log = logger("hari.housekeeping")


@dataclass(frozen=True, slots=True)
class Expired:
    """Claims closed as unknown, and the dead among them."""

    closed: int
    dead: Sequence[tuple[DeliveryTask, str]]


def close_claims(conn: Connection, waits_s: Sequence[float], *, every: bool = False) -> Expired:
    """Close claims whose lease is over (`every`: all of them) as unknown; the next attempt follows at once."""
    found = upkeep.every_claim(conn) if every else upkeep.expired_claims(conn)
    results = [_unknown(row, () if row.test else waits_s) for row, _ in found]
    deliveries.apply_results(conn, results)
    attempts.add(conn, [_unknown_row(row, claimed_at) for row, claimed_at in found])
    dead = [
        (_next_task(row), r.reason or "") for (row, _), r in zip(found, results, strict=True) if r.state is State.DEAD
    ]
    return Expired(len(found), [(task, reason) for task, reason in dead])


def _unknown(row: ClaimRow, waits_s: Sequence[float]) -> Result:
    decision, failures, unknowns = decide_unknown(row.unknowns + 1, row.failures, waits_s, random.random())  # noqa: S311
    wait_s = decision.wait_s if isinstance(decision, Retry) else None
    return Result(
        event_day=row.event_day,
        delivery_id=row.id,
        attempt_no=row.attempt_no,
        state=State.WAITING if wait_s is not None else State.DEAD,
        reason=decision.reason if isinstance(decision, Dead) else "the worker ended before it knew the outcome",
        failures=failures,
        unknowns=unknowns,
        wait_s=wait_s,
        check_s=wait_s,
        status=None,
        error=Problem.UNKNOWN.value,
    )


def _unknown_row(row: ClaimRow, claimed_at: datetime) -> AttemptRow:
    return AttemptRow(
        event_day=row.event_day,
        delivery_id=row.id,
        attempt_no=row.attempt_no,
        started_at=claimed_at,
        status=None,
        error=Problem.UNKNOWN.value,
        detail="the worker ended before it knew the outcome; the endpoint may have received this request",
        duration_ms=0.0,
    )


def _next_task(row: ClaimRow | DueRow) -> DeliveryTask:
    return DeliveryTask(row.id, row.event_day, row.attempt_no + 1, row.webhook_id)


def take_due(conn: Connection, reconcile_after_s: float) -> list[DeliveryTask]:
    """The tasks to publish now; their rows' next check moves on in the same transaction.

    Each webhook is fed at most twice its cap; what is beyond waits for its turn, where a dispatcher pulls it.
    """
    rows = upkeep.due(conn)
    fed: Counter[str] = Counter()
    publish: list[DueRow] = []
    beyond: list[DueRow] = []
    for row in rows:
        fed[row.webhook_id] += 1
        (publish if fed[row.webhook_id] <= 2 * row.concurrency else beyond).append(row)
    if publish:
        upkeep.check_later(conn, publish, reconcile_after_s)
    if beyond:
        upkeep.check_later(conn, beyond, deliveries.TURN_CHECK_S, in_turn=True)
    return [_next_task(row) for row in publish]


def replay_step(conn: Connection) -> int | None:
    """One step of one replay or redrive, unless what is due fills a tick already: retries must not wait for it."""
    return None if upkeep.overdue(conn, FULL_TICK) else replays.step(conn)


class Housekeeper:
    """Runs the steps once a second while this process leads."""

    def __init__(
        self,
        database: Database,
        broker: Broker,
        topology: Topology,
        *,
        process_id: str,
        waits_s: Sequence[float],
        lease_s: float | None,
        reconcile_after_s: float,
    ) -> None:
        self._database = database
        self._broker = broker
        self._topology = topology
        self._process_id = process_id
        self._waits_s = waits_s
        self._longest_lease_s = lease_s or LONGEST_TIMEOUT_S + deliveries.LEASE_MARGIN_S
        self._reconcile_after_s = reconcile_after_s
        self._connected_since: float | None = None
        self._rarely_at = self._sweep_at = self._overdue_at = 0.0

    async def run(self) -> None:
        """Until cancelled; the lease is given up so that another leads at once."""
        try:
            while True:
                started = time.monotonic()
                try:
                    await self._tick()
                except Unavailable as error:
                    self._connected_since = None
                    _log.warning("housekeeping.waiting", reason=str(error))
                except Exception:  # the next tick may work; an alert watches the leader's gauge
                    _log.exception("housekeeping.failed")
                await asyncio.sleep(max(0.05, TICK_S - (time.monotonic() - started)))
        finally:
            metrics.housekeeping_leader.set(0)

    async def resign(self) -> None:
        """Let another process lead and be seen gone; best effort."""
        await self._database.run(roles.give_up_lease, LEASE_NAME, self._process_id)
        await self._database.run(roles.gone, self._process_id)

    async def _tick(self) -> None:
        await self._database.run(roles.seen, self._process_id, "dispatcher")
        self._connected_since = self._connected_since or time.monotonic()
        leads = await self._database.run(roles.take_lease, LEASE_NAME, self._process_id, LEASE_S)
        metrics.housekeeping_leader.set(leads)
        if not leads:
            return
        await self._close_expired()
        await self._publish_due()
        await self._give_back_overdue()
        await self._sweep()
        await self._replay()

    async def _close_expired(self) -> None:
        # A database that was away has kept results from being recorded: give their owners one lease to come back.
        if time.monotonic() - (self._connected_since or 0) < self._longest_lease_s:
            return
        expired = await self._database.run(close_claims, self._waits_s)
        await self.announce(expired)

    async def announce(self, expired: Expired) -> None:
        """Count and log what was closed; tell the dead queue."""
        if not expired.closed:
            return
        metrics.claims_expired.inc(expired.closed)
        _log.warning("claim.expired", count=expired.closed, dead=len(expired.dead))
        messages = [
            Message(
                self._topology.terminal_exchange, "dead", encode_task(task), task.delivery_id, {"x-hari-reason": reason}
            )
            for task, reason in expired.dead
        ]
        if messages:
            metrics.deliveries_dead.labels("unknown").inc(len(messages))
            await self._broker.publish(messages)  # the database holds the dead; their inbox may miss one

    async def _publish_due(self) -> None:
        if not self._broker.connected:
            return
        tasks = await self._database.run(take_due, self._reconcile_after_s)
        if not tasks:
            return
        failpoint.reach("due.committed")
        exchange = self._topology.deliver_exchange
        answers = await self._broker.publish(
            [Message(exchange, "deliver", encode_task(task), f"{task.delivery_id}:{task.attempt_no}") for task in tasks]
        )
        failed = [task for task, answer in zip(tasks, answers, strict=True) if answer is not None]
        metrics.tasks_republished.inc(len(tasks) - len(failed))
        _log.info("task.published", count=len(tasks) - len(failed), failed=len(failed))
        if failed:
            await self._database.run(upkeep.publish_by_row, failed)

    async def _replay(self) -> None:
        count = await self._database.run(replay_step)
        if count:
            _log.info("replay.stepped", count=count)

    async def _give_back_overdue(self) -> None:
        at = time.monotonic()
        if at < self._overdue_at or not self._broker.connected:
            return
        self._overdue_at = at + OVERDUE_S
        depths = await self._broker.depths([self._topology.events])
        empty = depths[self._topology.events] == 0
        count = await self._database.run(outbox.unpublish_overdue, queue_is_empty=empty)
        if count:
            metrics.events_republished.inc(count)
            _log.warning("event.given_back", count=count, reason="the broker seems to have lost them")

    async def _sweep(self) -> None:
        at = time.monotonic()
        full = at >= self._sweep_at
        cancelled = await self._database.run(upkeep.cancel_of_inactive, None if full else RECENT_S)
        if full:
            self._sweep_at = at + FULL_SWEEP_S
        await self._database.run(upkeep.cancel_lost_tests)
        if cancelled:
            _log.info("delivery.cancelled", count=cancelled)
        if at >= self._rarely_at:
            self._rarely_at = at + RARELY_S
            expired = await self._database.run(upkeep.expire, sum(self._waits_s) + RARELY_S)
            if expired:
                metrics.deliveries_dead.labels("expired").inc(expired)
                _log.warning("delivery.expired", count=expired)
            await self._database.run(idempotency.forget_old)
            await self._measure()

    async def _measure(self) -> None:
        pending, oldest_s = await self._database.run(outbox.backlog)
        metrics.outbox_pending.set(pending)
        metrics.outbox_oldest_age.set(oldest_s)
        if not self._broker.connected:
            return
        names = (self._topology.events, self._topology.deliver, self._topology.dead, self._topology.parked)
        for name, depth in (await self._broker.depths(names)).items():
            metrics.queue_messages.labels(name.rpartition(".")[2]).set(depth)
