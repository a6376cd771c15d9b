"""What a person wants sent again: the row says so, and housekeeping or a task brings it to a claim. Run twice, each
does no more than once: one attempt is asked for, and the claim is granted once."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Executable, and_, case, exists, func, or_, select, tuple_, update

from shared.errors import Refused
from shared.model import DeliveryTask, State
from shared.sql import Boolean, Date, Rows, Text, now
from shared.store.deliveries import DELIVERED
from shared.store.delivery_log import days
from shared.tables import deliveries as d
from shared.tables import outbox as o
from shared.tables import webhooks as w

RESENT = "a person asked for it again"
OVER = (State.DEAD.value, State.CANCELLED.value)
_SENDABLE = exists().where(w.c.id == d.c.webhook_id, w.c.active, w.c.deleted_at.is_(None))
_KEPT = exists().where(o.c.event_id == d.c.event_id)


def _new_round(over: ColumnElement[bool]) -> dict[str, Any]:
    """Asks for the next attempt now; where `over` holds, it is the first of a new round with the full schedule."""
    return {
        "state": case((over, State.PENDING.value), else_=d.c.state),
        "reason": case((d.c.state == DELIVERED, d.c.reason), else_=RESENT),
        "failures": case((over, 0), else_=d.c.failures),
        "unknowns": case((over, 0), else_=d.c.unknowns),
        "next_attempt_at": case((d.c.state == State.WAITING.value, now()), else_=None),
        "check_at": now(),  # should the task get lost, the next tick of housekeeping publishes it
        "checks": 0,
        "resent_at": now(),
    }


_OVER = d.c.state.in_(OVER)


def resend(conn: Connection, delivery_id: str) -> DeliveryTask | None:
    """Have the next attempt of this delivery made now; returns its task, None when there is no such delivery.

    Dead or cancelled: a new round. Waiting: the next attempt comes now. Delivered: one attempt, the state stays.
    Raises Refused (409) while an attempt is in flight, and for a test, an inactive or deleted webhook.
    """
    statement = (
        select(d.c.event_day, d.c.webhook_id, d.c.attempt_no, d.c.test, d.c.lease_until, w.c.active, w.c.deleted_at)
        .add_columns(_KEPT.label("kept"))
        .join_from(d, w, w.c.id == d.c.webhook_id)
        .where(d.c.event_day.in_(days(conn)), d.c.id == delivery_id)
    )
    found = conn.execute(statement.with_for_update(of=d) if _locks(conn) else statement).one_or_none()
    if found is None:
        return None
    if found.test:
        raise Refused("a test is sent once; send another one from its webhook", status=409)
    if found.lease_until is not None:
        raise Refused("an attempt is in flight; wait for its result", status=409)
    if found.deleted_at is not None:
        raise Refused("the webhook was deleted, so nothing is sent to it", status=409)
    if not found.active:
        raise Refused("the webhook is inactive; activate it first", status=409)
    if not found.kept:
        raise Refused("the payload is not kept any more", status=409)
    one = and_(d.c.event_day == found.event_day, d.c.id == delivery_id)
    conn.execute(update(d).where(one).values(_new_round(_OVER)))
    return DeliveryTask(delivery_id, found.event_day, found.attempt_no + 1, found.webhook_id)


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Which dead deliveries; None does not filter. `since` is included, `until` is not, both of their creation."""

    webhook_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    reason: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The dead that can be sent again: their webhook is active and their payload kept."""
        found = [d.c.state == State.DEAD.value, d.c.test.is_(False), _SENDABLE, _KEPT]
        if self.webhook_id is not None:
            found.append(d.c.webhook_id == self.webhook_id)
        if self.reason is not None:
            found.append(d.c.reason == self.reason)
        if self.since is not None:
            found.append(d.c.created_at >= self.since)
        if self.until is not None:
            found.append(d.c.created_at < self.until)
        return found


def count_dead(conn: Connection, wanted: DeadFilter) -> int:
    """How many dead deliveries a redrive by this filter would send again."""
    return conn.execute(select(func.count()).select_from(d).where(*wanted.conditions())).scalar_one()


def redrive_ids(conn: Connection, delivery_ids: Collection[str]) -> int:
    """Begin a new round of those of these that are dead and can be sent; returns how many."""
    these = and_(d.c.event_day.in_(days(conn)), d.c.id.in_(sorted(set(delivery_ids))))
    statement = update(d).where(these, *DeadFilter().conditions()).values(_new_round(_OVER))
    return conn.execute(statement).rowcount


def redrive(
    conn: Connection, wanted: DeadFilter, after: tuple[datetime, str] | None, limit: int
) -> Sequence[tuple[datetime, str]]:
    """Begin a new round of the first `limit` dead ones after this one, oldest first; returns those, in order."""
    first = select(d.c.event_day, d.c.id).where(*wanted.conditions())
    if after is not None:
        first = first.where(or_(d.c.created_at > after[0], and_(d.c.created_at == after[0], d.c.id > after[1])))
    first = first.order_by(d.c.created_at, d.c.id).limit(limit)
    if _locks(conn):
        first = first.with_for_update(of=d)
    again = update(d).where(tuple_(d.c.event_day, d.c.id).in_(first)).values(_new_round(_OVER))
    return sorted((row.created_at, row.id) for row in conn.execute(again.returning(d.c.created_at, d.c.id)))


Key = tuple[date, str]
_KEYS = Rows("keys", event_day=Date, id=Text, also_delivered=Boolean)


@cache
def _send_again(dialect: str) -> Executable:
    k = _KEYS.table(dialect)
    wanted = or_(_OVER, and_(k.c.also_delivered, d.c.state == DELIVERED, d.c.lease_until.is_(None)))
    here = and_(d.c.event_day == k.c.event_day, d.c.id == k.c.id, d.c.test.is_(False))
    return update(d).where(here, wanted).values(_new_round(_OVER)).returning(d.c.id)


def send_again(conn: Connection, keys: Collection[Key], *, also_delivered: bool) -> int:
    """Begin a new round of the dead and cancelled ones of these, a single attempt of the delivered ones."""
    dialect = conn.dialect.name
    rows = sorted((day, delivery_id, also_delivered) for day, delivery_id in keys)
    return len(conn.execute(_send_again(dialect), _KEYS.params(dialect, rows)).all())


@cache
def _ask_now(dialect: str) -> Executable:
    k = _KEYS.table(dialect)
    fresh = and_(d.c.attempt_no == 0, d.c.lease_until.is_(None), d.c.state == State.WAITING.value)
    return (
        update(d).where(d.c.event_day == k.c.event_day, d.c.id == k.c.id, fresh).values(reason=RESENT, check_at=now())
    )


def ask_now(conn: Connection, keys: Collection[Key]) -> None:
    """These were just created: their first attempt is due now."""
    dialect = conn.dialect.name
    conn.execute(_ask_now(dialect), _KEYS.params(dialect, sorted((day, found, False) for day, found in keys)))


def _locks(conn: Connection) -> bool:
    return conn.dialect.name == "postgresql"
