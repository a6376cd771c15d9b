"""Send test: one sample delivery through the dispatcher, and the answer it met."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from sqlalchemy import Connection, select

from shared.assembly import Parts
from shared.broker.port import Message
from shared.clock import utcnow
from shared.entities import Entity, sample
from shared.errors import Refused, Unavailable
from shared.ids import delivery_id, new_id
from shared.model import Actor, Change, DeliveryTask, Event, State, Trigger, Webhook
from shared.store import deliveries, outbox, roles
from shared.tables import attempts
from shared.tables import deliveries as d
from shared.wire import encode_task, new_event

DISPATCHER_SEEN_S = 6.0
LONGEST_LEASE_MARGIN_S = 5.0
FIRST_POLL_S, LONGEST_POLL_S = 0.02, 0.25
_CHANGE_OF = {Trigger.CREATE: Change.CREATED, Trigger.UPDATE: Change.UPDATED, Trigger.DELETE: Change.DELETED}


@dataclass(frozen=True, slots=True)
class TestResult:
    """What the test met, as the API answers it."""

    delivery_id: str
    status: int | None
    error: str | None
    duration_ms: float | None
    response_body: bytes
    truncated: bool = False


async def send_test(parts: Parts, webhook: Webhook, user: Actor) -> TestResult:
    """Send a sample event to this webhook, active or not, and wait for what comes back.

    Raises Unavailable at once when no dispatcher runs or the broker is away, and after the webhook's timeout when
    nobody took the test.
    """
    if webhook.entity not in parts.entities:
        raise Refused(f"the entity {webhook.entity} is not declared any more, so there is no sample of it")
    if not await parts.database.run(roles.alive, "dispatcher", DISPATCHER_SEEN_S):
        raise Unavailable("no dispatcher is running, so nothing can be sent; start one with: hari dispatcher")
    task = await parts.database.run(_create, parts, webhook, user)
    topology = parts.topology
    message = Message(topology.deliver_exchange, "urgent", encode_task(task), task.delivery_id)
    [answer] = await parts.broker.publish([message])
    if answer is not None:
        raise Unavailable(f"the broker did not take the test ({answer}); nothing was sent")
    deadline = time.monotonic() + webhook.timeout_s + LONGEST_LEASE_MARGIN_S
    for pause_s in pauses_s():
        result = await parts.database.run(_result, task.event_day, task.delivery_id)
        if result is not None:
            return result
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(pause_s)
    raise Unavailable("the dispatcher did not report in time; the delivery log will show what became of the test")


async def ask_urgently(parts: Parts, task: DeliveryTask) -> None:
    """Publish a task past every backlog. Never fails: its row is due, so that housekeeping would publish it."""
    body, task_id = encode_task(task), f"{task.delivery_id}:{task.attempt_no}"
    await parts.broker.publish([Message(parts.topology.deliver_exchange, "urgent", body, task_id)])


def pauses_s() -> Iterator[float]:
    """How long to wait before each next look, without end: short for an endpoint that answers at once, and growing, so
    that a slow one costs few questions and is still seen within a quarter of a second."""
    pause_s = FIRST_POLL_S
    while True:
        yield pause_s
        pause_s = min(pause_s * 1.2, LONGEST_POLL_S)


def sample_event(entity: Entity, trigger: Trigger, user: Actor, *, test: bool) -> Event:
    """An event that never happened, as a webhook with this trigger would get it."""
    record = sample(entity, at=utcnow())
    previous = {name: None for name in list(record) if name not in ("id", "version", "created_at", "updated_at")}
    return new_event(
        event_id=new_id("evt"),
        change=_CHANGE_OF.get(trigger, Change.UPDATED),
        entity=entity.name,
        record=record,
        timestamp=utcnow(),
        user=user,
        previous=dict(list(previous.items())[:1]),
        test=test,
    )


def _create(conn: Connection, parts: Parts, webhook: Webhook, user: Actor) -> DeliveryTask:
    event = sample_event(parts.entities[webhook.entity], webhook.trigger, user, test=True)
    outbox.append(conn, [event], published=True)
    outbox.mark_dispatched(conn, [outbox.lock_known(conn, [event.id])[event.id].seq])
    found = delivery_id(event.id, webhook.id)
    give_up_s = webhook.timeout_s + LONGEST_LEASE_MARGIN_S
    day = deliveries.create_test(conn, delivery_id=found, webhook_id=webhook.id, event_id=event.id, give_up_s=give_up_s)
    return DeliveryTask(found, day, 1, webhook.id)


def _result(conn: Connection, day: date, found: str) -> TestResult | None:
    row = conn.execute(
        select(
            d.c.state,
            d.c.last_status,
            d.c.last_error,
            attempts.c.duration_ms,
            attempts.c.response_body,
            attempts.c.response_truncated,
        )
        .join_from(
            d,
            attempts,
            (attempts.c.event_day == d.c.event_day) & (attempts.c.delivery_id == d.c.id),
            isouter=True,
        )
        .where(d.c.event_day == day, d.c.id == found)
    ).one()
    if row.state not in (State.DELIVERED, State.DEAD, State.CANCELLED):
        return None
    return TestResult(
        found, row.last_status, row.last_error, row.duration_ms, row.response_body or b"", bool(row.response_truncated)
    )
