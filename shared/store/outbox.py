"""The outbox: every event from the commit of its change on; the relay empties it, the dispatcher marks what it did."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache

from sqlalchemy import Connection, Executable, func, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from shared.model import Event
from shared.sql import BigInteger, Float, Rows, Text, later, now, today
from shared.tables import outbox
from shared.wire import body_hash

LONGEST_CHECK_S = 3600
ROWS_A_STATEMENT = 500  # SQLite takes 32,766 parameters


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """An event as the relay publishes it."""

    seq: int
    event_id: str
    entity: str
    event: str
    body: bytes = field(repr=False)
    hop: int
    traceparent: str | None
    publish_count: int


@dataclass(frozen=True, slots=True)
class Known:
    """What the outbox knows of an event that arrived on the broker."""

    seq: int
    event_day: date
    body_hash: bytes
    dispatched: bool


def append(conn: Connection, events: Sequence[Event], *, published: bool = False) -> list[str]:
    """Add the events whose ids are new and return those ids; a known id is left as it is.

    Rows are numbered in the order given, and published in it. `published`: they came over the broker, so that the relay
    has nothing to do; then they are sorted, because two dispatchers may write the same ones at once.
    """
    if not events:
        return []
    insert = sqlite_insert if conn.dialect.name == "sqlite" else postgresql_insert
    shared_values = {"event_day": today(), "created_at": now(), "published_at": now() if published else None}
    rows = [
        shared_values
        | {
            "event_id": event.id,
            "entity": event.entity,
            "event": event.change.value,
            "record_id": event.record_id,
            "body": event.body,
            "body_hash": body_hash(event.body),
            "hop": event.hop,
            "traceparent": event.traceparent,
        }
        for event in (sorted(events, key=lambda event: event.id) if published else events)
    ]
    inserted: list[str] = []
    for start in range(0, len(rows), ROWS_A_STATEMENT):
        statement = insert(outbox).values(rows[start : start + ROWS_A_STATEMENT])
        statement = statement.on_conflict_do_nothing(index_elements=["event_id"])
        inserted += conn.execute(statement.returning(outbox.c.event_id)).scalars()
    return inserted


def hashes(conn: Connection, event_ids: Collection[str]) -> dict[str, bytes]:
    """The body hash of each of these events that is known."""
    rows = conn.execute(select(outbox.c.event_id, outbox.c.body_hash).where(outbox.c.event_id.in_(event_ids)))
    return {row.event_id: row.body_hash for row in rows}


def bodies(conn: Connection, event_ids: Collection[str]) -> dict[str, tuple[bytes, int, str | None]]:
    """(body, hop, traceparent) of each of these events."""
    columns = (outbox.c.event_id, outbox.c.body, outbox.c.hop, outbox.c.traceparent)
    rows = conn.execute(select(*columns).where(outbox.c.event_id.in_(sorted(event_ids))))
    return {row.event_id: (row.body, row.hop, row.traceparent) for row in rows}


def take_unpublished(conn: Connection, limit: int) -> list[OutboxRow]:
    """Up to `limit` unpublished rows, oldest first.

    The caller holds the relay's lock, so rows leave in the order of their numbers; per record that is the order of its
    versions, because the record's row is locked before the outbox row is written.
    """
    columns = (c for c in outbox.c if c.name in OutboxRow.__slots__)
    batch = select(*columns).where(outbox.c.published_at.is_(None)).order_by(outbox.c.seq).limit(limit)
    return [OutboxRow(**row) for row in conn.execute(batch).mappings()]


_SEQS = Rows("seqs", seq=BigInteger)
_CHECKS = Rows("checks", seq=BigInteger, check_s=Float)
_IDS = Rows("ids", event_id=Text)


@cache
def _mark_published(dialect: str) -> Executable:
    batch = _CHECKS.table(dialect)
    if dialect == "postgresql":
        # An UPDATE takes its rows in the order of its plan, which changes with the table's size.
        rows = select(batch.c.seq, batch.c.check_s).join(outbox, outbox.c.seq == batch.c.seq)
        batch = rows.order_by(outbox.c.seq).with_for_update(of=outbox).cte("locked")
    return (
        update(outbox)
        .where(outbox.c.seq == batch.c.seq)
        .values(published_at=now(), publish_count=outbox.c.publish_count + 1, check_at=later(batch.c.check_s))
    )


def mark_published(conn: Connection, rows: Sequence[OutboxRow], check_s: float) -> None:
    """The broker has confirmed these; the reconciler doubts it after `check_s`, doubled each further time up to 1 h."""
    dialect = conn.dialect.name
    batch = sorted((row.seq, min(check_s * 2 ** min(row.publish_count, 12), LONGEST_CHECK_S)) for row in rows)
    conn.execute(_mark_published(dialect), _CHECKS.params(dialect, batch))


@cache
def _lock_known(dialect: str) -> Executable:
    batch = _IDS.table(dialect)
    columns = (outbox.c.event_id, outbox.c.seq, outbox.c.event_day, outbox.c.body_hash, outbox.c.dispatched_at)
    # In the order of seq, as the relay updates them: two orders would deadlock.
    statement = select(*columns).join(batch, batch.c.event_id == outbox.c.event_id).order_by(outbox.c.seq)
    return statement.with_for_update(of=outbox) if dialect == "postgresql" else statement


def lock_known(conn: Connection, event_ids: Collection[str]) -> dict[str, Known]:
    """What is known of these events, their rows locked until the transaction ends."""
    dialect = conn.dialect.name
    rows = conn.execute(_lock_known(dialect), _IDS.params(dialect, [(event_id,) for event_id in event_ids]))
    return {row.event_id: Known(row.seq, row.event_day, row.body_hash, row.dispatched_at is not None) for row in rows}


@cache
def _mark_dispatched(dialect: str) -> Executable:
    batch = _SEQS.table(dialect)
    return update(outbox).where(outbox.c.seq == batch.c.seq).values(dispatched_at=now(), check_at=None)


def mark_dispatched(conn: Connection, seqs: Collection[int]) -> None:
    """These events have their deliveries, or match nothing: they are never matched again."""
    dialect = conn.dialect.name
    conn.execute(_mark_dispatched(dialect), _SEQS.params(dialect, [(seq,) for seq in sorted(seqs)]))


def unpublish_overdue(conn: Connection, *, queue_is_empty: bool, limit: int = 1000) -> int:
    """Give events that the broker seems to have lost back to the relay; returns how many.

    Overdue is what was published long enough ago and has no dispatch although the queue has gone past it: a later one
    was dispatched, or the queue is empty. So a healthy backlog is never published twice.
    """
    passed = select(func.max(outbox.c.seq)).where(outbox.c.dispatched_at.is_not(None)).scalar_subquery()
    overdue = (
        select(outbox.c.seq)
        .where(outbox.c.dispatched_at.is_(None), outbox.c.published_at.is_not(None), outbox.c.check_at <= now())
        .order_by(outbox.c.check_at)
        .limit(limit)
    )
    if not queue_is_empty:
        overdue = overdue.where(outbox.c.seq < passed)
    if conn.dialect.name == "postgresql":
        overdue = overdue.with_for_update(skip_locked=True)  # who holds one is about to settle it
    seqs = sorted(conn.execute(overdue).scalars())
    if seqs:
        again = update(outbox).where(outbox.c.seq.in_(seqs), outbox.c.dispatched_at.is_(None))
        conn.execute(again.values(published_at=None, check_at=None))
    return len(seqs)


def backlog(conn: Connection) -> tuple[int, float]:
    """(unpublished rows, age of the oldest in seconds)."""
    oldest = select(func.count(), func.min(outbox.c.created_at), now()).where(outbox.c.published_at.is_(None))
    count, created_at, at = conn.execute(oldest).one()
    return count, (at - created_at).total_seconds() if created_at is not None else 0.0
