"""The records table. Only `shared.changes` writes through here, so that every change has its event."""

from datetime import datetime

import orjson
from sqlalchemy import Connection, delete, insert, select, update

from shared.clock import rfc3339
from shared.entities import Entity
from shared.model import Json
from shared.store.paging import After, AnyRow, Page, newest_first, page_of
from shared.tables import records as r

_COLUMNS = (r.c.id, r.c.version, r.c.created_at, r.c.updated_at, r.c.fields)


def get(conn: Connection, entity: Entity, record_id: str) -> Json | None:
    """The record, flat, with every declared field; None if there is none."""
    found = conn.execute(select(*_COLUMNS).where(r.c.entity == entity.name, r.c.id == record_id)).one_or_none()
    return None if found is None else _record(entity, found)


def lock(conn: Connection, entity: Entity, record_id: str) -> Json | None:
    """`get`, with the row locked until the transaction ends."""
    statement = select(*_COLUMNS).where(r.c.entity == entity.name, r.c.id == record_id)
    if conn.dialect.name == "postgresql":  # SQLite's transaction holds the one write lock from its start
        statement = statement.with_for_update()
    found = conn.execute(statement).one_or_none()
    return None if found is None else _record(entity, found)


def newest(conn: Connection, entity: Entity, *, limit: int, after: After | None = None) -> Page[Json]:
    """Records of this entity, newest first."""
    statement = newest_first(
        select(*_COLUMNS).where(r.c.entity == entity.name), r.c.created_at, r.c.id, limit=limit, after=after
    )
    return page_of(conn.execute(statement).all(), limit, lambda row: _record(entity, row))


def add(conn: Connection, entity: Entity, record_id: str, fields: Json, now: datetime) -> Json:
    """A new record, as `get` would return it."""
    row = {"id": record_id, "version": 1, "created_at": now, "updated_at": now}
    conn.execute(insert(r).values(entity=entity.name, fields=orjson.dumps(fields), **row))
    return _flat(entity, record_id, 1, now, now, fields)


def replace(conn: Connection, entity: Entity, record_id: str, version: int, fields: Json, now: datetime) -> None:
    """New fields and version for a record whose row the caller has locked."""
    row = update(r).where(r.c.entity == entity.name, r.c.id == record_id)
    conn.execute(row.values(version=version, updated_at=now, fields=orjson.dumps(fields)))


def remove(conn: Connection, entity: Entity, record_id: str) -> None:
    conn.execute(delete(r).where(r.c.entity == entity.name, r.c.id == record_id))


def _record(entity: Entity, row: AnyRow) -> Json:
    return _flat(entity, row.id, row.version, row.created_at, row.updated_at, orjson.loads(row.fields))


def _flat(entity: Entity, record_id: str, version: int, created_at: datetime, updated_at: datetime, own: Json) -> Json:
    # A field declared after the record was written reads as null; one no longer declared still shows what it holds.
    fields = dict.fromkeys(entity.fields) | own
    times = {"created_at": rfc3339(created_at), "updated_at": rfc3339(updated_at)}
    return {"id": record_id, "version": version, **times, **fields}
