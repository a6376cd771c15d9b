"""Deliveries as housekeeping sees them: claims that ran out, rows that are due, rows that nobody wants any more."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, Executable, and_, case, func, literal, null, or_, select, tuple_, update

from shared.model import DeliveryTask, State
from shared.sql import Date, Float, Rows, Text, later, now
from shared.store.deliveries import (
    AWAITED,
    CANCELLED,
    CLAIM_COLUMNS,
    DELIVERED,
    IN_TURN,
    LIVE,
    ClaimRow,
    cancel_waiting,
)
from shared.tables import deliveries as d
from shared.tables import webhooks as w

LONGEST_CHECK_S = 3600
LEAST_EXPIRY_S = 3 * 86400


@dataclass(frozen=True, slots=True)
class DueRow:
    """A live row that housekeeping should look at now."""

    event_day: date
    id: str
    attempt_no: int
    webhook_id: str
    checks: int
    concurrency: int


def expired_claims(conn: Connection, limit: int = 500) -> list[tuple[ClaimRow, datetime]]:
    """Claims whose lease is over, with the time they were made; their rows are locked until the transaction ends."""
    late = select(*CLAIM_COLUMNS, d.c.claimed_at).where(d.c.check_at <= now(), d.c.lease_until <= now())
    return _closable(conn, late.order_by(d.c.event_day, d.c.id).limit(limit))


def every_claim(conn: Connection, limit: int = 500) -> list[tuple[ClaimRow, datetime]]:
    """Claims in flight whatever their lease: for a start that knows every owner dead (embedded, lock held)."""
    return _closable(conn, select(*CLAIM_COLUMNS, d.c.claimed_at).where(d.c.lease_until.is_not(None)).limit(limit))


def _closable(conn: Connection, statement: Any) -> list[tuple[ClaimRow, datetime]]:
    if conn.dialect.name == "postgresql":
        statement = statement.with_for_update(skip_locked=True)
    return [(ClaimRow(*row[:-1]), row[-1]) for row in conn.execute(statement)]


def due(conn: Connection, limit: int = 1000) -> list[DueRow]:
    """Live rows, tests apart, that wait and are due to be looked at; locked until the transaction ends."""
    columns = (d.c.event_day, d.c.id, d.c.attempt_no, d.c.webhook_id, d.c.checks, w.c.concurrency)
    statement = (
        select(*columns)
        .join(w, w.c.id == d.c.webhook_id)
        .where(d.c.check_at <= now(), d.c.lease_until.is_(None), AWAITED, d.c.test.is_(False))
        .order_by(d.c.check_at)
        .limit(limit)
    )
    if conn.dialect.name == "postgresql":
        statement = statement.with_for_update(skip_locked=True, of=d)
    return [DueRow(*row) for row in conn.execute(statement)]


def overdue(conn: Connection, at_least: int) -> bool:
    """Whether so many rows are due to be looked at."""
    late = select(literal(1)).where(d.c.check_at <= now()).limit(at_least).subquery()
    return conn.execute(select(func.count()).select_from(late)).scalar_one() >= at_least


_CHECKS = Rows("checks", event_day=Date, id=Text, check_s=Float)


@cache
def _check_later(dialect: str, in_turn: bool) -> Executable:
    c = _CHECKS.table(dialect)
    moved: dict[str, Any] = {"check_at": later(c.c.check_s), "checks": d.c.checks + 1}
    if in_turn:
        waits = {"state": State.WAITING.value, "reason": IN_TURN, "next_attempt_at": null()}
        moved |= {name: case((d.c.state == DELIVERED, d.c[name]), else_=value) for name, value in waits.items()}
    live = and_(d.c.event_day == c.c.event_day, d.c.id == c.c.id, d.c.lease_until.is_(None), AWAITED)
    return update(d).where(live).values(moved)


def check_later(conn: Connection, rows: Collection[DueRow], check_s: float, *, in_turn: bool = False) -> None:
    """Look at these again after `check_s`, doubled for each time before, up to an hour.

    `in_turn`: from now on they wait for their turn, not for a time.
    """
    dialect = conn.dialect.name
    moves = sorted((r.event_day, r.id, min(check_s * 2 ** min(r.checks, 12), LONGEST_CHECK_S)) for r in rows)
    conn.execute(_check_later(dialect, in_turn), _CHECKS.params(dialect, moves))


def publish_by_row(conn: Connection, tasks: Collection[DeliveryTask]) -> None:
    """The broker did not take these tasks: housekeeping publishes them when they are due."""
    for task in sorted(tasks, key=lambda task: (task.event_day, task.delivery_id)):
        conn.execute(
            update(d)
            .where(d.c.event_day == task.event_day, d.c.id == task.delivery_id, AWAITED)
            .where(d.c.attempt_no == task.attempt_no - 1, d.c.lease_until.is_(None))
            .values(check_at=func.coalesce(d.c.next_attempt_at, now()))
        )


def cancel_of_inactive(conn: Connection, changed_within_s: float | None) -> int:
    """Cancel what inactive and deleted webhooks still have waiting; `changed_within_s` looks at recent changes only."""
    idle = select(w.c.id).where(or_(w.c.active.is_(False), w.c.deleted_at.is_not(None)))
    if changed_within_s is not None:
        idle = idle.where(w.c.updated_at >= later(literal(-changed_within_s)))
    cancelled = 0
    for webhook_id in conn.execute(idle).scalars().all():
        cancelled += cancel_waiting(conn, webhook_id, "the webhook was deactivated or deleted")
    return cancelled


def expire(conn: Connection, schedule_s: float, limit: int = 500) -> int:
    """End as dead what waited for its turn longer than the whole schedule without an attempt. Returns how many.

    At least three days, whatever the schedule: a short one must not expire a backlog that is being worked off.
    """
    longest_s = max(schedule_s, LEAST_EXPIRY_S)
    old = and_(
        d.c.state == State.WAITING.value,
        d.c.next_attempt_at.is_(None),
        d.c.lease_until.is_(None),
        func.coalesce(d.c.claimed_at, d.c.created_at) < later(literal(-longest_s)),
        func.coalesce(d.c.resent_at, d.c.created_at) < later(literal(-longest_s)),
    )
    first = select(d.c.event_day, d.c.id).where(old).limit(limit)
    dead = CANCELLED | {"state": State.DEAD.value, "reason": "expired"}
    return conn.execute(update(d).where(tuple_(d.c.event_day, d.c.id).in_(first), old).values(dead)).rowcount


def cancel_lost_tests(conn: Connection) -> None:
    """End tests that no dispatcher took in time: a test is sent now or never."""
    lost = and_(d.c.test, d.c.lease_until.is_(None), d.c.check_at <= now(), d.c.state.in_(LIVE))
    conn.execute(update(d).where(lost).values(CANCELLED | {"reason": "no dispatcher took the test in time"}))
