"""The dispatcher's steps in order: an event batch in, POSTs out, results recorded. Read it top to bottom.

The order is the guarantee: claim, commit, ack; then send, commit, publish. Whatever dies in between leaves a row that
housekeeping finds. Runs on one event loop.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from services.dispatcher import claim as claims
from services.dispatcher.dispatch import CONFLICT, Dispatched, Planned, dispatch, first_of_each, plan
from services.dispatcher.lanes import Lanes
from services.dispatcher.parking import Parking
from services.dispatcher.record import Recorder
from services.dispatcher.retry import decide
from shared import failpoint, metrics
from shared.broker.port import Consumer, Received
from shared.db import Database
from shared.errors import Malformed
from shared.logs import logger
from shared.model import Attempt, Claimed, DeliveryTask, Event, Outcome, Problem, Request, Webhook
from shared.outgoing.match import MatchIndex
from shared.outgoing.request import build_request
from shared.patience import Patience
from shared.secrets import SecretBox
from shared.store import deliveries
from shared.wire import MAX_PAYLOAD_BYTES, decode_event, decode_task

EVENTS_A_BATCH = 250
GATHER_S = 0.002
WORTHWHILE_SLOTS = 128  # a transaction for fewer deliveries is worth waiting GATHER_S for more room
TURN_GATHER_S = 0.005
STALE_CLAIM_S = 2.0
DEFAULT_CAP = 16
URGENT_CAP = 1_000_000
_log = logger("hari.dispatcher")


class Send(Protocol):
    """Makes one request; whatever the endpoint does is an Outcome, never an exception."""

    async def __call__(self, request: Request) -> Outcome: ...


@dataclass(frozen=True)
class Pipeline:
    """The steps and what they need.

    `index` answers the match index as it stands now, `refresh` brings it up to date first.
    """

    database: Database
    box: SecretBox
    lanes: Lanes
    recorder: Recorder
    parking: Parking
    patience: Patience
    send: Send
    index: Callable[[], MatchIndex]
    refresh: Callable[[], Awaitable[None]]
    entities: frozenset[str]
    waits_s: Sequence[float]
    lease_s: float | None
    version: str
    _attempts: set[asyncio.Task[None]] = field(default_factory=set)

    async def dispatch_events(self, consumer: Consumer) -> None:
        """Dispatch batches of event messages until the consumer is stopped; every message gets one end."""
        while batch := await consumer.next_batch(EVENTS_A_BATCH, GATHER_S):
            failpoint.reach("dispatch.received")
            readable, parked = await self._decode_events(batch)
            consumer.ack(parked)
            while readable:
                room = await self.lanes.wait_for_room(WORTHWHILE_SLOTS, GATHER_S)
                fitting = self._fitting([event for _, event in readable], room)
                events, conflicting = first_of_each([event for _, event in readable[:fitting]])
                await self._park_conflicts(conflicting)
                await self._dispatch(events)
                consumer.ack(message for message, _ in readable[:fitting])
                failpoint.reach("dispatch.acked")
                readable = readable[fitting:]

    async def _decode_events(self, batch: Sequence[Received]) -> tuple[list[tuple[Received, Event]], list[Received]]:
        """(what can be read, with its event; what cannot, and is parked now)."""
        readable, parked = [], []
        for message in batch:
            try:
                readable.append((message, decode_event(message.body, message.headers, self.entities)))
            except Malformed as error:
                await self.parking.park(
                    message.queue, message.message_id, message.body, str(error), event_id=message.message_id
                )
                parked.append(message)
        return readable, parked

    def _fitting(self, events: Sequence[Event], room: int) -> int:
        """How many of these events match no more webhooks than there is room for; at least one."""
        index = self.index()
        for count, event in enumerate(events):
            room -= len(index.match(event))
            if room < 0:
                return max(count, 1)
        return len(events)

    async def _dispatch(self, events: Sequence[Event]) -> int:
        """One transaction for these events; then start what it claimed. Returns how many deliveries it made."""
        tried = False

        async def plan_and_write() -> tuple[list[Planned], Dispatched, float]:
            nonlocal tried
            if tried:  # an outage may have hidden changes to the webhooks
                await self.refresh()
            tried = True
            planned = plan(events, self.index(), self.lanes)
            issued = time.monotonic()
            try:
                return planned, await self.database.run(dispatch, self.box, events, planned, self.lease_s), issued
            except BaseException:
                self._give_back(planned)
                raise

        try:
            planned, done, issued = await self.patience(plan_and_write)
        except Malformed as error:
            return await self._dispatch_apart(events, error)
        failpoint.reach("dispatch.committed")
        await self._park_conflicts(done.refused)
        late = time.monotonic() - issued > STALE_CLAIM_S
        at, changed_at = time.time(), {event.id: _changed_at(event) for event in events}
        lags_s: list[float] = []
        for p in planned:
            match = done.created.get(p.delivery_id)
            wanted = p.subscription
            if match is not None and match.claim and p.claim and not late:
                lags_s.append(max(0.0, at - changed_at[p.event.id]))
                self.start(self._first_attempt(p, match, done.webhooks[wanted.webhook_id]))
            elif p.claim:
                self.lanes.give_back(wanted.webhook_id)
            elif match is not None:
                self.lanes.wait_in_turn(wanted.webhook_id)
        metrics.first_attempt_lag.observe_many(lags_s)
        metrics.events_dispatched.labels("yes").inc(done.matched)
        metrics.events_dispatched.labels("no").inc(done.unmatched)
        _log.info("event.matched", count=len(events), matched=done.matched, deliveries=len(done.created))
        return len(done.created)

    async def _park_conflicts(self, events: Sequence[Event]) -> None:
        for event in events:
            await self.parking.park("events", event.id, event.body, CONFLICT)

    async def _dispatch_apart(self, events: Sequence[Event], error: Malformed) -> int:
        """The database refused something in this batch: halve it until the bad event stands alone, and park that."""
        if len(events) == 1:
            event = events[0]
            await self.parking.park("events", event.id, event.body, str(error), event_id=event.id)
            return 0
        half = len(events) // 2
        return await self._dispatch(events[:half]) + await self._dispatch(events[half:])

    def _first_attempt(self, planned: Planned, match: deliveries.Match, webhook: Webhook) -> Claimed:
        event = planned.event
        return Claimed(
            delivery_id=match.delivery_id,
            event_day=match.event_day,
            attempt_no=1,
            event_id=event.id,
            body=event.body,
            webhook=webhook,
            format=webhook.format,
            hop=event.hop,
            traceparent=event.traceparent,
        )

    def _give_back(self, planned: Sequence[Planned]) -> None:
        for p in planned:
            if p.claim:
                self.lanes.give_back(p.subscription.webhook_id)

    async def claim_tasks(self, consumer: Consumer, *, urgent: bool = False) -> None:
        """Claim batches of delivery tasks until the consumer is stopped; what has no slot waits for its turn.

        `urgent`: a person waits for them, so that a free slot is enough, whatever their webhook has under way.
        """
        while True:
            room = await self.lanes.wait_for_room()
            batch = await consumer.next_batch(min(EVENTS_A_BATCH, room), GATHER_S)
            if not batch:
                return
            failpoint.reach("claim.received")
            tasks = await self._decode_tasks(batch)
            go, wait = self._split(tasks, urgent)
            if wait:
                await self.patience(self.database.run, deliveries.wait_for_turn, wait)
                for task in wait:
                    self.lanes.wait_in_turn(task.webhook_id)
            if go:
                await self._claim(go)
            consumer.ack(batch)

    async def _decode_tasks(self, batch: Sequence[Received]) -> list[DeliveryTask]:
        tasks = []
        for message in batch:
            try:
                tasks.append(decode_task(message.body))
            except Malformed as error:
                await self.parking.park(message.queue, message.message_id, message.body, str(error))
        return tasks

    def _split(self, tasks: Sequence[DeliveryTask], urgent: bool) -> tuple[list[DeliveryTask], list[DeliveryTask]]:
        """(tasks for which a slot was taken, tasks whose webhook is at its cap); repeats are dropped."""
        go: list[DeliveryTask] = []
        wait: list[DeliveryTask] = []
        for task in dict.fromkeys(tasks):
            cap = URGENT_CAP if urgent else self._cap(task.webhook_id)
            (go if self.lanes.take(task.webhook_id, cap) else wait).append(task)
        return go, wait

    def _cap(self, webhook_id: str) -> int:
        # An inactive webhook is not in the index; only its tests can be claimed.
        return self.index().caps.get(webhook_id, DEFAULT_CAP)

    async def _claim(self, tasks: Sequence[DeliveryTask]) -> None:
        issued = time.monotonic()
        try:
            granted = await self.patience(self.database.run, claims.claim, self.box, tasks, self.lease_s)
        except Malformed as error:
            for task in tasks:
                self.lanes.give_back(task.webhook_id)
            _log.error("claim.refused", reason=str(error), count=len(tasks))
            return
        failpoint.reach("claim.committed")
        stale = time.monotonic() - issued > STALE_CLAIM_S
        mine = {} if stale else {(claimed.delivery_id, claimed.attempt_no): claimed for claimed in granted}
        for task in tasks:
            claimed = mine.pop((task.delivery_id, task.attempt_no), None)
            if claimed is not None:
                self.start(claimed)
            else:
                self.lanes.give_back(task.webhook_id)

    async def take_turns(self) -> None:
        """Pull deliveries that wait for their turn whenever their webhook has free slots, until the lanes close."""
        while await self.lanes.changed():
            await asyncio.sleep(TURN_GATHER_S)
            taken = {webhook_id: self._take_many(webhook_id) for webhook_id in self.lanes.in_turn}
            taken = {webhook_id: count for webhook_id, count in taken.items() if count}
            self.lanes.in_turn.difference_update(taken)  # whoever begins to wait from now on says so again
            if taken:
                await self._claim_in_turn(taken)

    def _take_many(self, webhook_id: str) -> int:
        cap = self._cap(webhook_id)
        return sum(self.lanes.take(webhook_id, cap) for _ in range(self.lanes.free(webhook_id, cap)))

    async def _claim_in_turn(self, taken: dict[str, int]) -> None:
        issued = time.monotonic()
        wanted = sorted(taken.items())
        granted = await self.patience(self.database.run, claims.claim_in_turn, self.box, wanted, self.lease_s)
        failpoint.reach("turn.committed")
        stale = time.monotonic() - issued > STALE_CLAIM_S
        unused = dict(taken)
        for claimed in granted:
            if not stale:
                unused[claimed.webhook.id] -= 1
                self.start(claimed)
        for webhook_id in taken:
            for _ in range(unused[webhook_id]):
                self.lanes.give_back(webhook_id)
            if not unused[webhook_id] or stale:
                self.lanes.wait_in_turn(webhook_id)  # there may be more

    def start(self, claimed: Claimed) -> None:
        """Make this attempt in the background; its slot is taken already."""
        task = asyncio.create_task(self.attempt(claimed))
        self._attempts.add(task)
        task.add_done_callback(self._attempts.discard)

    async def attempt(self, claimed: Claimed) -> None:
        """Make the one attempt that `claimed` grants and have it recorded.

        The message that led here was acked, or will be: from here on the claim row is the memory, and a crash leaves it
        without a result for housekeeping to find.
        """
        started_at = datetime.now(UTC)
        request = build_request(claimed, started_at, version=self.version)
        failpoint.reach("attempt.claimed")
        try:
            if request.fault is not None:
                outcome = Outcome(problem=Problem.TEMPLATE_ERROR, detail=request.fault)
            elif len(request.body) > MAX_PAYLOAD_BYTES:
                outcome = Outcome(problem=Problem.PAYLOAD_TOO_LARGE, detail=TOO_LARGE.format(len(request.body)))
            else:
                outcome = await self.send(request)
        except Exception as error:  # a fault of ours; the attempt must not vanish with it
            _log.exception("attempt.broke", delivery_id=claimed.delivery_id)
            outcome = Outcome(problem=Problem.UNKNOWN, detail=f"fault in the dispatcher: {type(error).__name__}")
        finally:
            self.lanes.give_back(claimed.webhook.id)
        failpoint.reach("attempt.sent")
        waits_s = () if claimed.test else self.waits_s
        decision = decide(outcome, claimed.failures + (not outcome.succeeded), waits_s, random.random())  # noqa: S311
        self.recorder.add(Attempt(claimed, request, outcome, decision, started_at))

    async def finish_attempts(self) -> None:
        """Wait until every attempt under way has handed in its result."""
        while self._attempts:
            await asyncio.wait(self._attempts)


def _changed_at(event: Event) -> float:
    """When the record changed, by the clock of whoever changed it, in Unix seconds."""
    return datetime.fromisoformat(event.payload["timestamp"]).timestamp()


TOO_LARGE = "the payload has {} bytes; at most 1 MiB is sent"
