"""Why an event was sent to a webhook or not, from today's settings and the deliveries that there are."""

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, case, or_, select

from shared.clock import rfc3339
from shared.ids import delivery_id
from shared.model import Change, Event, Json, Trigger
from shared.outgoing.verdict import Verdict, verdict_on
from shared.store.paging import AnyRow
from shared.tables import deliveries as d
from shared.tables import outbox as o
from shared.tables import webhooks as w

MOST_WEBHOOKS = 1000


def explain(conn: Connection, event_id: str) -> Json | None:
    """The event, and a verdict for each webhook of its entity, newest first, a thousand at most; None when there is no
    such event.

    A delivery that exists says `sent`, whatever the settings are now. `changed_since` is true for a webhook that was
    changed after the event was dispatched: its verdict may not be what held then.
    """
    row = conn.execute(select(o).where(o.c.event_id == event_id)).one_or_none()
    if row is None:
        return None
    event = Event(row.event_id, row.entity, Change(row.event), row.record_id, row.body, orjson.loads(row.body), row.hop)
    hooks = _candidates(conn, event)
    made = _made(conn, row, [hook.id for hook in hooks])
    shown: Json = {"id": event.id, "entity": event.entity, "event": event.change.value, "record_id": event.record_id}
    shown |= {"created_at": rfc3339(row.created_at), "dispatched": row.dispatched_at is not None}
    verdicts = [_explained(event, row, hook, delivery_id(event.id, hook.id) in made) for hook in hooks]
    return {"event": shown, "webhooks": [found for found in verdicts if found is not None]}


def _candidates(conn: Connection, event: Event) -> Sequence[AnyRow]:
    # A webhook that had another entity when the event came has been changed since, so its version is above 1.
    columns = (w.c.id, w.c.name, w.c.entity, w.c.event, w.c.active, w.c.filter, w.c.updated_at, w.c.deleted_at)
    some = select(*columns).where(or_(w.c.entity == event.entity, w.c.version > 1))
    own_first = case((w.c.entity == event.entity, 0), else_=1)
    return conn.execute(some.order_by(own_first, w.c.created_at.desc(), w.c.id.desc()).limit(MOST_WEBHOOKS)).all()


def _made(conn: Connection, row: AnyRow, webhook_ids: Sequence[str]) -> set[str]:
    ids = [delivery_id(row.event_id, webhook_id) for webhook_id in webhook_ids]
    return set(conn.execute(select(d.c.id).where(d.c.event_day == row.event_day, d.c.id.in_(ids))).scalars())


def _explained(event: Event, row: AnyRow, hook: AnyRow, made: bool) -> Json | None:
    changed_since = hook.updated_at > (row.dispatched_at or row.created_at)
    shown: dict[str, Any] = {"webhook_id": hook.id, "name": hook.name}
    if made:
        sent = {"verdict": Verdict.SENT.value, "delivery_id": delivery_id(event.id, hook.id)}
        return shown | sent | {"changed_since": changed_since}
    if hook.deleted_at is not None or hook.entity != event.entity:
        return None
    verdict, clause = verdict_on(
        event,
        entity=hook.entity,
        trigger=Trigger(hook.event),
        active=hook.active,
        filter=orjson.loads(hook.filter) if hook.filter is not None else None,
    )
    # It would match now, but at dispatch it did not: it was inactive, or not there yet.
    if verdict is Verdict.SENT and row.dispatched_at is not None:
        verdict = Verdict.INACTIVE
    shown["verdict"] = verdict.value
    if clause is not None:
        shown["clause"] = clause
    return shown | {"changed_since": changed_since}
