"""Who is alive and who leads: leases, the processes table, the relay's lock, parked messages' mirror."""

from sqlalchemy import Connection, delete, func, insert, literal, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from shared.ids import new_id
from shared.sql import later, now
from shared.tables import leases, outbox, parked_messages, processes

RELAY_LOCK = 0x4841_5249  # "HARI"; the key of a PostgreSQL advisory lock
FORGOTTEN_AFTER_S = 3600


def take_lease(conn: Connection, name: str, owner: str, for_s: float) -> bool:
    """Take or renew the lease `name`; False while another owner holds it."""
    into = sqlite_insert if conn.dialect.name == "sqlite" else postgresql_insert
    statement = into(leases).values(name=name, owner=owner, until=later(literal(for_s)))
    statement = statement.on_conflict_do_update(
        index_elements=["name"],
        set_={"owner": owner, "until": later(literal(for_s))},
        where=or_(leases.c.owner == owner, leases.c.until < now()),
    )
    return conn.execute(statement.returning(leases.c.owner)).scalar_one_or_none() == owner


def give_up_lease(conn: Connection, name: str, owner: str) -> None:
    """Let the next one lead at once."""
    conn.execute(delete(leases).where(leases.c.name == name, leases.c.owner == owner))


def seen(conn: Connection, process_id: str, role: str) -> None:
    """This process lives. Rows that nobody refreshed for an hour go."""
    found = conn.execute(update(processes).where(processes.c.id == process_id).values(seen_at=now()))
    if found.rowcount == 0:
        conn.execute(insert(processes).values(id=process_id, role=role, seen_at=now()))
        conn.execute(delete(processes).where(processes.c.seen_at < later(literal(-FORGOTTEN_AFTER_S))))


def gone(conn: Connection, process_id: str) -> None:
    """This process stops in good order."""
    conn.execute(delete(processes).where(processes.c.id == process_id))


def alive(conn: Connection, role: str, within_s: float) -> int:
    """How many processes of this role were seen in the last `within_s` seconds."""
    recent = select(func.count()).where(processes.c.role == role, processes.c.seen_at >= later(literal(-within_s)))
    return conn.execute(recent).scalar_one()


def try_relay_lock(conn: Connection) -> bool:
    """Take the relay's lock for as long as this connection lives (PostgreSQL); SQLite has one process anyway."""
    if conn.dialect.name == "sqlite":
        return True
    return bool(conn.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": RELAY_LOCK}).scalar_one())


def add_parked(conn: Connection, *, queue: str, message_id: str, reason: str, body: bytes, event_id: str = "") -> None:
    """Mirror a parked message, so that people can read why it could not be used. At most 64 KiB of it is kept.

    Should the outbox hold `event_id`, the reconciler stops asking for it: parked once is enough.
    """
    row = {"queue": queue, "message_id": message_id[:255], "reason": reason[:1000], "body": body[:65536]}
    conn.execute(insert(parked_messages).values(id=new_id("prk"), parked_at=now(), **row))
    if event_id:
        conn.execute(update(outbox).where(outbox.c.event_id == event_id).values(check_at=None))
