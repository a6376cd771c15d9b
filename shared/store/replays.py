"""Replays of events and redrives of dead deliveries: ranges too long for one request, worked off in bounded steps.

A step is one transaction that sends some again and moves the cursor: a crash between two steps loses and repeats
nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import Connection, func, insert, select, tuple_, update

from shared.errors import Refused
from shared.ids import delivery_id, new_id
from shared.model import TRIGGERS_OF, Change, State, Trigger
from shared.outgoing.filters import Filter, compile_filter
from shared.sql import now
from shared.store import deliveries, resends
from shared.store.deliveries import Match
from shared.store.paging import AnyRow
from shared.store.resends import DeadFilter
from shared.tables import deliveries as d
from shared.tables import outbox as o
from shared.tables import replays as r
from shared.tables import webhooks as w

EVENTS_A_STEP = 1000
DEAD_A_STEP = 500
# Numbers are given at the insert and times at the statement: between two transactions their orders may differ so far.
SLACK = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Range:
    """Which events a replay sends to its webhook: those stored from `since` on, before `until`."""

    webhook_id: str
    since: datetime
    until: datetime
    include_delivered: bool = False


@dataclass(frozen=True, slots=True)
class Stepped:
    """What a step did: `after` is the last event it looked at, None at the end of the range."""

    count: int
    after: int | None


def first_seq(conn: Connection, since: datetime) -> int:
    """The number after which every event stored from `since` on stands; found by halving, so it costs no index."""
    low, high = conn.execute(select(func.min(o.c.seq), func.max(o.c.seq))).one()
    if low is None:
        return 0
    while low < high:
        middle = (low + high) // 2
        found = conn.execute(select(o.c.seq, o.c.created_at).where(o.c.seq <= middle).order_by(o.c.seq.desc()).limit(1))
        if found.one().created_at + SLACK < since:
            low = middle + 1
        else:
            high = middle
    return int(low) - 1


def count_step(conn: Connection, wanted: Range, after: int) -> Stepped:
    """How many deliveries the next events after this one would make or send again."""
    matches, last = _matches(conn, wanted, after)
    keys = [(match.event_day, match.delivery_id) for match in matches]
    held = {State.PENDING.value, State.WAITING.value} | (set() if wanted.include_delivered else {State.DELIVERED.value})
    rows = conn.execute(select(d.c.state).where(tuple_(d.c.event_day, d.c.id).in_(keys), d.c.state.in_(held)))
    return Stepped(len(matches) - len(rows.all()), last)


def replay_step(conn: Connection, wanted: Range, after: int) -> Stepped:
    """Send the next events after this one: create what has no delivery, resend what is over.

    Raises Refused (409) when the webhook is inactive or deleted.
    """
    matches, last = _matches(conn, wanted, after)
    keys = {match.delivery_id: (match.event_day, match.delivery_id) for match in matches}
    again = resends.send_again(conn, keys.values(), also_delivered=wanted.include_delivered)
    created = deliveries.insert_matches(conn, matches, None)
    resends.ask_now(conn, [keys[found] for found in created])
    return Stepped(again + len(created), last)


def _matches(conn: Connection, wanted: Range, after: int) -> tuple[list[Match], int | None]:
    """(what of the next events the webhook wants as it stands now, the last event looked at)."""
    trigger, entity, compiled = _subscription(conn, wanted.webhook_id)
    changes = [change.value for change in Change if trigger in TRIGGERS_OF[change]]
    window = select(o.c.seq, o.c.created_at).where(o.c.seq > after).order_by(o.c.seq).limit(EVENTS_A_STEP).subquery()
    last, at = conn.execute(select(func.max(window.c.seq), func.min(window.c.created_at))).one()
    if last is None or at >= wanted.until + SLACK:
        return [], None
    columns = (o.c.event_day, o.c.event_id, o.c.body)
    events = (
        select(*columns)
        .where(o.c.seq > after, o.c.seq <= last, o.c.entity == entity, o.c.event.in_(changes))
        # What is not dispatched yet will be, by the same rules.
        .where(o.c.created_at >= wanted.since, o.c.created_at < wanted.until, o.c.dispatched_at.is_not(None))
    )
    return [_match(row, wanted.webhook_id) for row in conn.execute(events) if _wants(compiled, row)], last


def check_active(conn: Connection, webhook_id: str) -> None:
    """Raises Refused: 404 when there is no such webhook, 409 when it is inactive."""
    _subscription(conn, webhook_id)


def _subscription(conn: Connection, webhook_id: str) -> tuple[Trigger, str, Filter | None]:
    columns = (w.c.event, w.c.entity, w.c.filter, w.c.active)
    found = conn.execute(select(*columns).where(w.c.id == webhook_id, w.c.deleted_at.is_(None))).one_or_none()
    if found is None:
        raise Refused(f"there is no webhook with the id {webhook_id}", status=404)
    if not found.active:
        raise Refused("the webhook is inactive; activate it first", status=409)
    compiled, errors = compile_filter(orjson.loads(found.filter)) if found.filter is not None else (None, [])
    if errors:  # it was checked when it was saved: only another version's dialect comes here
        raise Refused("the webhook's filter cannot be read by this version; save it again", status=409)
    return Trigger(found.event), found.entity, compiled


def _wants(compiled: Filter | None, row: AnyRow) -> bool:
    payload = orjson.loads(row.body)
    return not payload.get("test") and (compiled is None or compiled.failing(payload) is None)


def _match(row: AnyRow, webhook_id: str) -> Match:
    return Match(row.event_day, delivery_id(row.event_id, webhook_id), webhook_id, row.event_id, False)


def add_replay(conn: Connection, wanted: Range, after: int) -> str:
    """Have this range worked off from this event on; returns the replay's id."""
    return _add(
        conn,
        kind="replay",
        webhook_id=wanted.webhook_id,
        since=wanted.since,
        until=wanted.until,
        include_delivered=wanted.include_delivered,
        after_seq=after,
    )


def add_redrive(conn: Connection, wanted: DeadFilter, until: datetime) -> str:
    """Have these dead deliveries sent again, as far as they were created before `until`."""
    filters = {"webhook_id": wanted.webhook_id, "since": wanted.since, "reason": wanted.reason}
    return _add(conn, kind="redrive", until=until, include_delivered=False, **filters)


def _add(conn: Connection, **values: Any) -> str:
    found = new_id("rpl")
    conn.execute(insert(r).values(id=found, created_at=now(), stepped_at=now(), sent_count=0, **values))
    return found


def step(conn: Connection) -> int | None:
    """Work off one step of the replay or redrive that waited longest; returns how many it sent, None when there is
    none."""
    first = select(r).where(r.c.finished_at.is_(None)).order_by(r.c.stepped_at, r.c.id).limit(1)
    if conn.dialect.name == "postgresql":
        first = first.with_for_update(skip_locked=True)
    job = conn.execute(first).one_or_none()
    if job is None:
        return None
    count, values = _step_redrive(conn, job) if job.kind == "redrive" else _step_replay(conn, job)
    values |= {"stepped_at": now(), "sent_count": r.c.sent_count + count}
    conn.execute(update(r).where(r.c.id == job.id).values(values))
    return count


def _step_replay(conn: Connection, job: AnyRow) -> tuple[int, dict[str, Any]]:
    try:
        done = replay_step(conn, Range(job.webhook_id, job.since, job.until, job.include_delivered), job.after_seq)
    except Refused as error:
        return 0, {"finished_at": now(), "ended_because": str(error)}
    return done.count, {"finished_at": now()} if done.after is None else {"after_seq": done.after}


def _step_redrive(conn: Connection, job: AnyRow) -> tuple[int, dict[str, Any]]:
    wanted = DeadFilter(job.webhook_id, job.since, job.until, job.reason)
    after = (job.after_at, job.after_id) if job.after_id is not None else None
    sent: Sequence[tuple[datetime, str]] = resends.redrive(conn, wanted, after, DEAD_A_STEP)
    if not sent:
        return 0, {"finished_at": now()}
    return len(sent), {"after_at": sent[-1][0], "after_id": sent[-1][1]}
