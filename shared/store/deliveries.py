"""Deliveries: created at dispatch, claimed for one attempt at a time, ended once. The claim fences every race.

A row is live while `check_at` is set (a delivered one: while a person's resend of it is open). In flight: `lease_until`
set. Waiting for a time: `next_attempt_at` set. Waiting for its turn (its webhook was at its cap): neither.
"""

from collections.abc import Collection, Sequence
from datetime import date, datetime
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Executable,
    and_,
    bindparam,
    case,
    false,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from shared.model import DeliveryTask, State
from shared.sql import Boolean, Date, Float, Integer, Rows, Text, later, now, today
from shared.tables import deliveries as d
from shared.tables import outbox
from shared.tables import webhooks as w

LEASE_MARGIN_S = 15
TURN_CHECK_S = 10
IN_TURN = "its webhook is at its limit of concurrent requests"
LIVE = (State.PENDING.value, State.WAITING.value)
DELIVERED = State.DELIVERED.value
# An attempt is asked for, or will be: the live states, and what was delivered and a person wants once more.
AWAITED = or_(d.c.state.in_(LIVE), and_(d.c.state == DELIVERED, d.c.check_at.is_not(None)))


def _unless_delivered(value: Any, kept: Any = None) -> Any:
    """`value`, or `kept` in a row that was delivered before: what a resend meets changes its attempts only."""
    return case((d.c.state == DELIVERED, null() if kept is None else kept), else_=value)


class Match(NamedTuple):
    """A delivery to create. `claim`: a slot is free, so that its first attempt is claimed by the same insert.

    The field order of these rows is that of the statements' batches; they are plain tuples because thousands a second
    are made.
    """

    event_day: date
    delivery_id: str
    webhook_id: str
    event_id: str
    claim: bool


class ClaimRow(NamedTuple):
    """A granted claim, without what other tables hold (body, URL, secret)."""

    event_day: date
    id: str
    attempt_no: int
    webhook_id: str
    event_id: str
    failures: int
    unknowns: int
    test: bool
    created_at: datetime


class Result(NamedTuple):
    """What an attempt makes of its delivery. `wait_s`: until the next attempt; `check_s`: until housekeeping looks."""

    event_day: date
    delivery_id: str
    attempt_no: int
    state: State
    reason: str | None
    failures: int
    unknowns: int
    wait_s: float | None
    check_s: float | None
    status: int | None
    error: str | None


_MATCHES = Rows("matches", event_day=Date, id=Text, webhook_id=Text, event_id=Text, claim=Boolean)
_TASKS = Rows("tasks", event_day=Date, id=Text, attempt_no=Integer)
_RESULTS = Rows(
    "results",
    event_day=Date,
    id=Text,
    attempt_no=Integer,
    state=Text,
    reason=Text,
    failures=Integer,
    unknowns=Integer,
    wait_s=Float,
    check_s=Float,
    status=Integer,
    error=Text,
)
CLAIM_COLUMNS = tuple(d.c[name] for name in ClaimRow._fields)
_LEASE_S = func.coalesce(bindparam("lease_s", type_=Float), w.c.timeout_s + LEASE_MARGIN_S)


@cache
def _insert_matches(dialect: str) -> Executable:
    m = _MATCHES.table(dialect)
    claimed = m.c.claim
    values: dict[str, Any] = {
        "event_day": m.c.event_day,
        "id": m.c.id,
        "webhook_id": m.c.webhook_id,
        "event_id": m.c.event_id,
        "created_at": now(),
        "test": false(),
        "state": case((claimed, State.PENDING.value), else_=State.WAITING.value),
        "reason": case((claimed, null()), else_=IN_TURN),
        "attempt_no": case((claimed, 1), else_=0),
        "failures": literal(0),
        "unknowns": literal(0),
        "claimed_at": case((claimed, now()), else_=null()),
        "lease_until": case((claimed, later(_LEASE_S)), else_=null()),
        "check_at": case((claimed, later(_LEASE_S)), else_=later(literal(TURN_CHECK_S))),
        "checks": literal(0),
    }
    rows = select(*values.values()).join_from(
        m, w, and_(w.c.id == m.c.webhook_id, w.c.active, w.c.deleted_at.is_(None))
    )
    # WHERE: without one, SQLite reads ON CONFLICT as part of the join.
    rows = rows.where(m.c.id.is_not(None))
    into = (sqlite_insert if dialect == "sqlite" else postgresql_insert)(d).from_select(list(values), rows)
    return into.on_conflict_do_nothing(index_elements=["event_day", "id"]).returning(d.c.id)


def insert_matches(conn: Connection, matches: Sequence[Match], lease_s: float | None) -> set[str]:
    """Create these deliveries, claimed or waiting for their turn; returns the ids of those it created.

    What already exists is left as it is, and an inactive or deleted webhook gets none. `lease_s` overrides the lease of
    timeout + 15 s.
    """
    dialect = conn.dialect.name
    rows = _MATCHES.params(dialect, sorted(matches))
    return set(conn.execute(_insert_matches(dialect), rows | {"lease_s": lease_s}).scalars())


def _claimed_values(attempt_no: Any) -> dict[str, Any]:
    return {
        "state": _unless_delivered(State.PENDING.value, DELIVERED),
        "reason": null(),
        "attempt_no": attempt_no,
        "claimed_at": now(),
        "lease_until": later(_LEASE_S),
        "next_attempt_at": null(),
        "check_at": later(_LEASE_S),
        "checks": 0,
    }


@cache
def _claim(dialect: str) -> Executable:
    t = _TASKS.table(dialect)
    free = and_(AWAITED, d.c.lease_until.is_(None), d.c.attempt_no == t.c.attempt_no - 1)
    allowed = and_(w.c.id == d.c.webhook_id, w.c.deleted_at.is_(None), or_(w.c.active, d.c.test))
    return (
        update(d)
        .where(d.c.event_day == t.c.event_day, d.c.id == t.c.id, free, allowed)
        .values(_claimed_values(t.c.attempt_no))
        .returning(*CLAIM_COLUMNS)
    )


def claim(conn: Connection, tasks: Collection[DeliveryTask], lease_s: float | None) -> list[ClaimRow]:
    """Claim the attempts that these tasks ask for; returns those granted, in no order.

    Granted only if the delivery is live, not in flight, its last attempt is exactly the one before, and its webhook is
    active (or this is a test) and not deleted, all at this moment. No row back: someone else has it, or it is over.
    """
    dialect = conn.dialect.name
    rows = sorted({(task.event_day, task.delivery_id, task.attempt_no) for task in tasks})
    found = conn.execute(_claim(dialect), _TASKS.params(dialect, rows) | {"lease_s": lease_s})
    return [ClaimRow(*row) for row in found]


@cache
def _claim_in_turn(dialect: str) -> Executable:
    first = (
        select(d.c.event_day, d.c.id)
        .where(d.c.webhook_id == bindparam("of_webhook"), d.c.state == State.WAITING.value)
        .where(d.c.next_attempt_at.is_(None), d.c.lease_until.is_(None))
        .order_by(d.c.created_at)
        .limit(bindparam("most"))
    )
    if dialect == "postgresql":
        first = first.with_for_update(skip_locked=True)
    allowed = and_(w.c.id == d.c.webhook_id, w.c.active, w.c.deleted_at.is_(None))
    return (
        update(d)
        .where(tuple_(d.c.event_day, d.c.id).in_(first), allowed)
        .values(_claimed_values(d.c.attempt_no + 1))
        .returning(*CLAIM_COLUMNS)
    )


def claim_in_turn(conn: Connection, webhook_id: str, most: int, lease_s: float | None) -> list[ClaimRow]:
    """Claim up to `most` deliveries of this webhook that wait for their turn, oldest first."""
    values = {"of_webhook": webhook_id, "most": most, "lease_s": lease_s}
    return [ClaimRow(*row) for row in conn.execute(_claim_in_turn(conn.dialect.name), values)]


def webhooks_in_turn(conn: Connection) -> list[str]:
    """The webhooks that have deliveries waiting for their turn."""
    waiting = (d.c.state == State.WAITING.value, d.c.next_attempt_at.is_(None), d.c.lease_until.is_(None))
    return list(conn.execute(select(d.c.webhook_id).where(*waiting).distinct()).scalars())


@cache
def _wait_for_turn(dialect: str) -> Executable:
    t = _TASKS.table(dialect)
    return (
        update(d)
        .where(d.c.event_day == t.c.event_day, d.c.id == t.c.id, d.c.attempt_no == t.c.attempt_no - 1)
        .where(d.c.state.in_(LIVE), d.c.lease_until.is_(None))
        .values(
            state=State.WAITING.value, reason=IN_TURN, next_attempt_at=null(), check_at=later(literal(TURN_CHECK_S))
        )
    )


def wait_for_turn(conn: Connection, tasks: Collection[DeliveryTask]) -> None:
    """These were asked for while their webhook was at its cap: they wait as rows, and no attempt is spent."""
    dialect = conn.dialect.name
    rows = sorted({(task.event_day, task.delivery_id, task.attempt_no) for task in tasks})
    conn.execute(_wait_for_turn(dialect), _TASKS.params(dialect, rows))


@cache
def _release(dialect: str) -> Executable:
    t = _TASKS.table(dialect)
    return (
        update(d)
        .where(d.c.event_day == t.c.event_day, d.c.id == t.c.id, d.c.attempt_no == t.c.attempt_no)
        .where(d.c.state == State.PENDING.value, d.c.lease_until.is_not(None))
        .values(
            state=State.WAITING.value,
            reason=bindparam("why", type_=Text),
            attempt_no=d.c.attempt_no - 1,
            lease_until=null(),
            next_attempt_at=later(bindparam("for_s", type_=Float)),
            check_at=later(bindparam("for_s", type_=Float)),
        )
    )


def release(conn: Connection, claims: Collection[tuple[date, str, int]], wait_s: float, reason: str) -> None:
    """Give back these claims (event day, delivery id, attempt number): nothing was sent, through no fault of the
    endpoint. The same attempt is asked for again after `wait_s`; claims closed meanwhile stay as they are."""
    dialect = conn.dialect.name
    conn.execute(_release(dialect), _TASKS.params(dialect, sorted(claims)) | {"why": reason, "for_s": wait_s})


_by_key = itemgetter(0, 1, 2)


@cache
def _apply_results(dialect: str) -> Executable:
    r = _RESULTS.table(dialect)
    return (
        update(d)
        .where(d.c.event_day == r.c.event_day, d.c.id == r.c.id, d.c.attempt_no == r.c.attempt_no)
        .where(d.c.state.in_((State.PENDING.value, DELIVERED)), d.c.lease_until.is_not(None))
        .values(
            state=_unless_delivered(r.c.state, DELIVERED),
            reason=_unless_delivered(r.c.reason),
            failures=r.c.failures,
            unknowns=r.c.unknowns,
            lease_until=null(),
            next_attempt_at=_unless_delivered(later(r.c.wait_s)),
            check_at=_unless_delivered(later(r.c.check_s)),
            checks=0,
            last_status=r.c.status,
            last_error=r.c.error,
        )
        .returning(d.c.id, d.c.attempt_no)
    )


def apply_results(conn: Connection, results: Collection[Result]) -> set[tuple[str, int]]:
    """End these claims; returns the (delivery id, attempt number) of those that were still in flight.

    What was delivered before (a person had it resent) stays delivered, and nothing follows.
    The others come too late: housekeeping has closed them, or a later attempt or a person has moved the delivery on.
    """
    dialect = conn.dialect.name
    rows = sorted(results, key=_by_key)
    return {(row.id, row.attempt_no) for row in conn.execute(_apply_results(dialect), _RESULTS.params(dialect, rows))}


def deliver_late(conn: Connection, results: Collection[Result]) -> None:
    """A 2xx that comes after its claim was closed still wins, whatever became of the delivery since."""
    for r in sorted(results, key=lambda r: (r.event_day, r.delivery_id)):
        conn.execute(
            update(d)
            .where(d.c.event_day == r.event_day, d.c.id == r.delivery_id, d.c.state != State.DELIVERED.value)
            .values(
                state=State.DELIVERED.value,
                reason=None,
                lease_until=None,
                next_attempt_at=None,
                check_at=None,
                last_status=r.status,
                last_error=None,
            )
        )


CANCELLED = {"state": _unless_delivered(State.CANCELLED.value, DELIVERED), "next_attempt_at": None, "check_at": None}


def cancel_waiting(conn: Connection, webhook_id: str, reason: str) -> int:
    """Cancel what this webhook has waiting; attempts in flight finish and are logged. Returns how many."""
    waiting = and_(d.c.check_at.is_not(None), d.c.lease_until.is_(None), AWAITED, d.c.test.is_(False))
    values = CANCELLED | {"reason": _unless_delivered(reason)}
    return conn.execute(update(d).where(d.c.webhook_id == webhook_id, waiting).values(values)).rowcount


def create_test(conn: Connection, *, delivery_id: str, webhook_id: str, event_id: str, give_up_s: float) -> date:
    """A delivery that is a test: one attempt, on an inactive webhook too. Returns its event day."""
    day: date = conn.execute(select(today())).scalar_one()
    conn.execute(
        insert(d).values(
            event_day=day,
            id=delivery_id,
            webhook_id=webhook_id,
            event_id=event_id,
            created_at=now(),
            test=True,
            state=State.PENDING.value,
            attempt_no=0,
            failures=0,
            unknowns=0,
            check_at=later(literal(give_up_s)),
            checks=0,
        )
    )
    return day


def states(conn: Connection, keys: Collection[tuple[date, str]]) -> dict[str, State]:
    """The state of each of these deliveries that exists."""
    rows = conn.execute(select(d.c.id, d.c.state).where(tuple_(d.c.event_day, d.c.id).in_(sorted(keys))))
    return {row.id: State(row.state) for row in rows}


def event_is_dispatched(conn: Connection, event_id: str) -> bool:
    """Whether this event's deliveries exist (True too for an event we do not know)."""
    row = conn.execute(select(outbox.c.dispatched_at).where(outbox.c.event_id == event_id)).one_or_none()
    return row is None or row.dispatched_at is not None
