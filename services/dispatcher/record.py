"""Step 5: results to the database in batches, then what follows to the broker."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection

from shared import failpoint, metrics
from shared.broker.port import Broker, Message
from shared.broker.topology import Topology
from shared.db import Database
from shared.errors import Malformed
from shared.logs import info_many, logger
from shared.model import Attempt, Dead, Delivered, DeliveryTask, Postpone, Retry, State
from shared.outgoing.request import stored_headers
from shared.patience import Patience
from shared.store import attempts, deliveries, upkeep, webhooks
from shared.store.attempts import AttemptRow
from shared.store.deliveries import Result
from shared.wire import encode_task

MOST = 500
LINGER_S = 0.005
GONE = "its endpoint answered 410 Gone"
_log = logger("hari.dispatcher")


@dataclass(frozen=True, slots=True)
class FollowUp:
    """What to publish once a result is committed: a retry into its wait queue, or a dead delivery."""

    task: DeliveryTask
    queue_ms: int | None
    dead_reason: str | None


def result_of(attempt: Attempt, reconcile_after_s: float) -> Result:
    """What this attempt makes of its delivery. Pure."""
    claimed, outcome, decision = attempt.claimed, attempt.outcome, attempt.decision
    wait_s = check_s = reason = None
    match decision:
        case Delivered():
            state = State.DELIVERED
        case Dead():
            state, reason = State.DEAD, decision.reason
        case Retry():
            state, wait_s = State.WAITING, decision.wait_s
            reason = str(outcome.problem) if outcome.problem else f"answered {outcome.status}"
            # In a wait queue the broker brings it back, and housekeeping looks only if it did not; else the row waits.
            check_s = wait_s + reconcile_after_s if decision.queue_ms is not None else wait_s
    return Result(
        event_day=claimed.event_day,
        delivery_id=claimed.delivery_id,
        attempt_no=claimed.attempt_no,
        state=state,
        reason=reason,
        failures=claimed.failures + (not outcome.succeeded),
        unknowns=0,
        wait_s=wait_s,
        check_s=check_s,
        status=outcome.status,
        error=outcome.word,
    )


def row_of(attempt: Attempt, *, bodies: bool = True) -> AttemptRow:
    """The attempt as it is stored, secrets replaced. Pure. `bodies` False leaves out what the endpoint sent."""
    claimed, outcome = attempt.claimed, attempt.outcome
    return AttemptRow(
        event_day=claimed.event_day,
        delivery_id=claimed.delivery_id,
        attempt_no=claimed.attempt_no,
        started_at=attempt.started_at,
        status=outcome.status,
        error=outcome.word,
        detail=outcome.detail.replace("\x00", "") or None,
        duration_ms=round(outcome.duration_ms, 3),
        dns_ms=outcome.timings.dns_ms,
        connect_ms=outcome.timings.connect_ms,
        tls_ms=outcome.timings.tls_ms,
        first_byte_ms=outcome.timings.first_byte_ms,
        request_url=attempt.request.url,
        request_headers=orjson.dumps(stored_headers(attempt.request)),
        response_headers=orjson.dumps(outcome.headers) if bodies else None,
        response_body=outcome.body if bodies else None,
        response_truncated=outcome.truncated,
    )


def write(
    conn: Connection, batch: Sequence[Attempt], reconcile_after_s: float, *, bodies: bool = True
) -> list[FollowUp]:
    """Commit these results: delivery states and attempt rows; returns what the broker must now be told.

    What was postponed only gives its claim back: nothing was sent, so there is no attempt to log.

    A result that comes after its claim was closed completes its attempt row; a late 2xx still delivers.
    """
    _give_back(conn, [a for a in batch if isinstance(a.decision, Postpone)])
    batch = [a for a in batch if not isinstance(a.decision, Postpone)]
    results = {(a.claimed.delivery_id, a.claimed.attempt_no): result_of(a, reconcile_after_s) for a in batch}
    _deactivate_gone(conn, batch, results)
    in_time = deliveries.apply_results(conn, list(results.values()))
    rows = {(a.claimed.delivery_id, a.claimed.attempt_no): row_of(a, bodies=bodies) for a in batch}
    attempts.add(conn, [row for key, row in rows.items() if key in in_time])
    late = [key for key in rows if key not in in_time]
    if late:
        attempts.complete(conn, [rows[key] for key in late])
        deliveries.deliver_late(conn, [results[key] for key in late if results[key].state is State.DELIVERED])
    return [
        follow_up
        for attempt in batch
        if (key := (attempt.claimed.delivery_id, attempt.claimed.attempt_no)) in in_time
        and (follow_up := _follow_up(attempt, results[key])) is not None
    ]


def _give_back(conn: Connection, batch: Sequence[Attempt]) -> None:
    for attempt in sorted(batch, key=lambda attempt: (attempt.claimed.event_day, attempt.claimed.delivery_id)):
        claimed, decision = attempt.claimed, attempt.decision
        assert isinstance(decision, Postpone)
        claim = claimed.event_day, claimed.delivery_id, claimed.attempt_no
        deliveries.release(conn, [claim], decision.wait_s, attempt.outcome.detail)


def _deactivate_gone(conn: Connection, batch: Sequence[Attempt], results: dict[tuple[str, int], Result]) -> None:
    """A 410 deactivates its webhook, if that still has the URL that answered; the delivery is cancelled with it."""
    for attempt in batch:
        claimed = attempt.claimed
        if not attempt.outcome.gone or claimed.test:
            continue
        if webhooks.deactivate_gone(conn, claimed.webhook.id, attempt.request.url, GONE):
            key = claimed.delivery_id, claimed.attempt_no
            reason = f"the webhook was deactivated: {GONE}"
            results[key] = results[key]._replace(state=State.CANCELLED, reason=reason, wait_s=None, check_s=None)
            metrics.webhooks_deactivated.labels("gone").inc()
            _log.warning("webhook.deactivated", webhook_id=claimed.webhook.id, reason=GONE)


def _follow_up(attempt: Attempt, result: Result) -> FollowUp | None:
    claimed, decision = attempt.claimed, attempt.decision
    task = DeliveryTask(claimed.delivery_id, claimed.event_day, claimed.attempt_no + 1, claimed.webhook.id)
    if result.state is State.WAITING and isinstance(decision, Retry) and decision.queue_ms is not None:
        return FollowUp(task, decision.queue_ms, None)
    if result.state is State.DEAD and not claimed.test:
        return FollowUp(task, None, result.reason)
    return None


class Recorder:
    """Collects results while a commit is under way and commits them together: batches grow with the load."""

    def __init__(
        self, database: Database, broker: Broker, topology: Topology, patience: Patience, reconcile_after_s: float
    ) -> None:
        self._database = database
        self._broker = broker
        self._topology = topology
        self._patience = patience
        self._reconcile_after_s = reconcile_after_s
        self._waiting: list[Attempt] = []
        self._arrived = asyncio.Event()
        self._closing = False
        self._following: set[asyncio.Task[None]] = set()

    def add(self, attempt: Attempt) -> None:
        """Have this result recorded soon. It is held until the database has taken it."""
        self._waiting.append(attempt)
        self._arrived.set()

    async def run(self) -> None:
        """Record until closed and empty."""
        while self._waiting or not self._closing:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                if len(self._waiting) < MOST and not self._closing:
                    await asyncio.sleep(LINGER_S)
                batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                await self._record(batch)
        await asyncio.gather(*self._following)

    def close(self) -> None:
        """No more results will come: `run` ends when the last one is recorded and followed up."""
        self._closing = True
        self._arrived.set()

    async def _record(self, batch: list[Attempt]) -> None:
        try:
            follow_ups = await self._patience(self._database.run, write, batch, self._reconcile_after_s)
        except Malformed as error:
            # Split until the bad row stands alone; that one is stored without what the endpoint sent.
            if len(batch) > 1:
                half = len(batch) // 2
                await self._record(batch[:half])
                await self._record(batch[half:])
                return
            _log.error("attempt.stored_without_bodies", delivery_id=batch[0].claimed.delivery_id, reason=str(error))
            without = self._database.run
            follow_ups = await self._patience(without, write, batch, self._reconcile_after_s, bodies=False)
        failpoint.reach("record.committed")
        _report(batch)
        if follow_ups:
            following = asyncio.create_task(self._follow(follow_ups))
            self._following.add(following)
            following.add_done_callback(self._following.discard)

    async def _follow(self, follow_ups: Sequence[FollowUp]) -> None:
        """Publish, confirmed; what the broker does not take stays a row that housekeeping publishes when due.

        A crash before this leaves the rows' `check_at`: housekeeping publishes them after `reconcile_after_s`.
        """
        answers = await self._broker.publish([self._message(follow_up) for follow_up in follow_ups])
        failpoint.reach("record.followed")
        held = [
            f.task for f, answer in zip(follow_ups, answers, strict=True) if answer is not None and not f.dead_reason
        ]
        for follow_up in follow_ups:
            if follow_up.dead_reason:
                metrics.deliveries_dead.labels(_dead_label(follow_up.dead_reason)).inc()
        metrics.retries_scheduled.labels("wait_queue").inc(sum(not f.dead_reason for f in follow_ups) - len(held))
        if held:
            metrics.retries_scheduled.labels("row").inc(len(held))
            await self._patience(self._database.run, upkeep.publish_by_row, held)

    def _message(self, follow_up: FollowUp) -> Message:
        body, task_id = encode_task(follow_up.task), f"{follow_up.task.delivery_id}:{follow_up.task.attempt_no}"
        if follow_up.dead_reason:
            headers = {"x-hari-reason": follow_up.dead_reason}
            return Message(self._topology.terminal_exchange, "dead", body, task_id, headers)
        return Message(self._topology.wait_exchange, str(follow_up.queue_ms), body, task_id)


def _decision_word(attempt: Attempt) -> str:
    if attempt.outcome.gone and not attempt.claimed.test:
        return "deactivate"
    return type(attempt.decision).__name__.lower()


def _dead_label(reason: str) -> str:
    return "schedule_used_up" if reason.startswith("no success") else reason


def _report(batch: Sequence[Attempt]) -> None:
    met: Counter[tuple[str, str]] = Counter()
    for attempt in batch:
        outcome = attempt.outcome
        met[outcome.word or "answered", metrics.status_class(outcome.status)] += 1
    postponed = [attempt.outcome.detail for attempt in batch if isinstance(attempt.decision, Postpone)]
    if postponed:
        _log.error("delivery.postponed", count=len(postponed), reason=postponed[0])
    for labels, count in met.items():
        metrics.attempts.labels(*labels).inc(count)
    metrics.attempt_duration.observe_many(attempt.outcome.duration_ms / 1000 for attempt in batch)
    info_many("hari.dispatcher", "delivery.attempted", map(_line, batch))


def _line(attempt: Attempt) -> dict[str, Any]:
    claimed, outcome = attempt.claimed, attempt.outcome
    return {
        "event_id": claimed.event_id,
        "delivery_id": claimed.delivery_id,
        "webhook_id": claimed.webhook.id,
        "attempt_no": claimed.attempt_no,
        "status": outcome.status,
        "error": outcome.word,
        "duration_ms": round(outcome.duration_ms, 1),
        "decision": _decision_word(attempt),
        "test": claimed.test,
    }
