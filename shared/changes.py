"""The only door through which a record changes: record, version and event in the caller's one transaction."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection

from shared.clock import rfc3339
from shared.entities import MAX_RECORD_BYTES, RESERVED, Entity, check_fields
from shared.errors import FieldError, Refused
from shared.ids import new_id
from shared.model import Actor, Change, Event, Json
from shared.store import outbox, records
from shared.wire import new_event


@dataclass(frozen=True, slots=True)
class Saved:
    """The record after the change, and the event of it; no event when nothing changed."""

    record: Json
    event: Event | None


def save_record(
    conn: Connection,
    *,
    entity: Entity,
    record_id: str | None,
    fields: Mapping[str, Any],
    user: Actor,
    now: datetime,
    if_version: int | None = None,
    hop: int = 0,
    traceparent: str | None = None,
) -> Saved | None:
    """Create a record (`record_id` None) or change the given fields of one; None if there is no such record.

    The event goes into the outbox, in the caller's transaction; the record's row is locked before, so that per record
    outbox rows stand in the order of versions. What changes nothing writes nothing and makes no event. Raises Refused
    naming every field at fault, and with status 412 when the record is not at `if_version`.
    """
    clean, errors = check_fields(entity, fields)
    if errors:
        raise Refused("some fields cannot be used", errors=errors)
    now = _to_millisecond(now)
    if record_id is None:
        own = dict.fromkeys(entity.fields) | clean
        _check_size(own)
        record = records.add(conn, entity, new_id("rec"), own, now)
        event = _event(entity, Change.CREATED, record, now, user, hop, traceparent)
        outbox.append(conn, [event])
        return Saved(record, event)

    before = records.lock(conn, entity, record_id)
    if before is None:
        return None
    _check_version(before, if_version)
    previous = {name: before[name] for name, value in clean.items() if before[name] != value}
    if not previous:
        return Saved(before, None)
    own = {name: clean[name] if name in previous else before[name] for name in before if name not in RESERVED}
    _check_size(own)
    version = before["version"] + 1
    records.replace(conn, entity, record_id, version, own, now)
    times = {"created_at": before["created_at"], "updated_at": rfc3339(now)}
    record = {"id": record_id, "version": version, **times, **own}
    event = _event(entity, Change.UPDATED, record, now, user, hop, traceparent, previous)
    outbox.append(conn, [event])
    return Saved(record, event)


def delete_record(
    conn: Connection,
    *,
    entity: Entity,
    record_id: str,
    user: Actor,
    now: datetime,
    if_version: int | None = None,
    hop: int = 0,
    traceparent: str | None = None,
) -> Saved | None:
    """Delete a record; None if there is no such record. Raises Refused as `save_record` does.

    The event carries the last known record with its version raised by one: receivers drop what is not newer.
    """
    before = records.lock(conn, entity, record_id)
    if before is None:
        return None
    _check_version(before, if_version)
    records.remove(conn, entity, record_id)
    record = before | {"version": before["version"] + 1}
    event = _event(entity, Change.DELETED, record, now, user, hop, traceparent)
    outbox.append(conn, [event])
    return Saved(record, event)


def _event(
    entity: Entity,
    change: Change,
    record: Json,
    now: datetime,
    user: Actor,
    hop: int,
    traceparent: str | None,
    previous: Json | None = None,
) -> Event:
    return new_event(
        event_id=new_id("evt"),
        change=change,
        entity=entity.name,
        record=record,
        timestamp=now,
        user=user,
        previous=previous,
        hop=hop,
        traceparent=traceparent,
    )


def _check_size(own: Json) -> None:
    if len(orjson.dumps(own)) > MAX_RECORD_BYTES:
        wrong = FieldError("", f"the record would be larger than {MAX_RECORD_BYTES:,} bytes of JSON")
        raise Refused(wrong.detail, errors=[wrong])


def _check_version(record: Json, if_version: int | None) -> None:
    if if_version is not None and record["version"] != if_version:
        raise Refused(f"the record is at version {record['version']}, not {if_version}", status=412)


def _to_millisecond(moment: datetime) -> datetime:
    """SQLite keeps milliseconds: what we answer now must read the same later."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
