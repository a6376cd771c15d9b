"""The delivery log as people read it: lists of deliveries, and one with its attempts and the payload that was sent."""

import base64
from codecs import getincrementaldecoder
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, case, func, or_, select

from shared.clock import rfc3339
from shared.model import HARI, Change, Json, State
from shared.outgoing.presets import body_of, form_at
from shared.outgoing.request import MASK
from shared.outgoing.templates import TemplateError
from shared.store.formats import format_of, former_formats
from shared.store.paging import After, AnyRow, Page, newest_first, page_of
from shared.tables import attempts as a
from shared.tables import deliveries as d
from shared.tables import outbox as o
from shared.tables import webhooks as w

_COLUMNS = (
    *(d.c.event_day, d.c.id, d.c.webhook_id, d.c.event_id, d.c.created_at, d.c.test, d.c.state, d.c.reason),
    *(d.c.attempt_no, d.c.claimed_at, d.c.lease_until, d.c.next_attempt_at, d.c.last_status, d.c.last_error),
    *(o.c.entity, o.c.event, o.c.record_id, func.length(o.c.body).label("body_bytes")),
    *(w.c.preset, w.c.template, w.c.former_formats, w.c.secret.is_not(None).label("has_secret")),
)
# The event's body only where another one is made of it; what is sent by default is the event's, and its length enough.
_TO_RENDER = case((or_(w.c.preset != HARI.preset, w.c.former_formats.is_not(None)), o.c.body)).label("to_render")
_JOINED = d.outerjoin(o, o.c.event_id == d.c.event_id).outerjoin(w, w.c.id == d.c.webhook_id)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which deliveries to list; None does not filter. `since` is included, `until` is not."""

    webhook_id: str | None = None
    state: State | None = None
    entity: str | None = None
    record_id: str | None = None
    event: Change | None = None
    event_id: str | None = None
    status: int | None = None
    test: bool | None = None
    since: datetime | None = None
    until: datetime | None = None


def newest(conn: Connection, wanted: Filter, *, limit: int, after: After | None = None) -> Page[Json]:
    """Deliveries as lists show them, newest first."""
    statement = select(*_COLUMNS, _TO_RENDER).select_from(_JOINED).where(*_conditions(wanted))
    found = conn.execute(newest_first(statement, d.c.created_at, d.c.id, limit=limit, after=after)).all()
    return page_of(found, limit, _listed)


def get(conn: Connection, delivery_id: str) -> Json | None:
    """One delivery with its attempts, the one in flight included; None if there is none."""
    statement = select(*_COLUMNS, o.c.body.label("to_render")).select_from(_JOINED)
    found = conn.execute(statement.where(d.c.event_day.in_(days(conn)), d.c.id == delivery_id)).one_or_none()
    if found is None:
        return None
    made = select(a).where(a.c.event_day == found.event_day, a.c.delivery_id == delivery_id).order_by(a.c.attempt_no)
    bodies = {with_secret: _body(found, with_secret) for with_secret in (False, True)}
    shown = [_attempt(row, bodies) for row in conn.execute(made)]
    if found.lease_until is not None and all(attempt["attempt_no"] != found.attempt_no for attempt in shown):
        shown.append(_in_flight(found))
    return _delivery(found) | {"attempts": shown}


def days(conn: Connection) -> list[date]:
    """The days that deliveries may have: their key begins with it, and an id does not tell it. Each day asked for is
    one look into the index."""
    first, last = conn.execute(select(func.min(d.c.event_day), func.max(d.c.event_day))).one()
    return [] if first is None else [first + timedelta(days=count) for count in range((last - first).days + 1)]


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    columns: Mapping[str, ColumnElement[Any]] = {
        "webhook_id": d.c.webhook_id,
        "state": d.c.state,
        "entity": o.c.entity,
        "record_id": o.c.record_id,
        "event": o.c.event,
        "event_id": d.c.event_id,
        "status": d.c.last_status,
        "test": d.c.test,
    }
    given = {f.name: getattr(wanted, f.name) for f in fields(wanted) if getattr(wanted, f.name) is not None}
    conditions = [column == given[name] for name, column in columns.items() if name in given]
    if wanted.since is not None:
        conditions.append(d.c.created_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(d.c.created_at < wanted.until)
    return conditions


def _delivery(row: AnyRow) -> Json:
    shown: Json = {"id": row.id, "webhook_id": row.webhook_id, "event_id": row.event_id}
    shown |= {"entity": row.entity, "event": row.event, "record_id": row.record_id}
    shown |= {"created_at": rfc3339(row.created_at), "test": row.test, "state": row.state}
    if row.reason is not None:
        shown["reason"] = row.reason
    if row.next_attempt_at is not None:
        shown["next_attempt_at"] = rfc3339(row.next_attempt_at)
    body = _body(row, row.has_secret) if row.to_render is not None else None
    return shown | {"body_bytes": row.body_bytes if row.to_render is None else len(body or b"")}


def _body(row: AnyRow, with_secret: bool) -> bytes | None:
    """What was sent, with the secret masked; None when the event is gone or could not be rendered."""
    if row.to_render is None:
        return None
    form = form_at(former_formats(row.former_formats), row.created_at) or format_of(
        row.preset or HARI.preset, row.template
    )
    try:
        return body_of(form, row.to_render, MASK if with_secret else None)
    except TemplateError:
        return None


def _listed(row: AnyRow) -> Json:
    last = {"attempt_count": row.attempt_no, "last_status": row.last_status, "last_error": row.last_error}
    return _delivery(row) | last


def _attempt(row: AnyRow, bodies: Mapping[bool, bytes | None]) -> Json:
    """`bodies`: as sent without a secret and with one; the headers tell which."""
    shown: Json = {"attempt_no": row.attempt_no, "started_at": rfc3339(row.started_at)}
    shown |= {"status": row.status, "error": row.error, "duration_ms": row.duration_ms}
    if row.detail is not None:
        shown["detail"] = row.detail
    if row.request_url is not None:
        headers = _headers(row.request_headers)
        body = bodies["X-Webhook-Secret" in headers]
        shown["request"] = {"url": row.request_url, "headers": headers, "body": None if body is None else text_of(body)}
    else:
        shown["request"] = None
    came = row.status is not None or row.response_headers is not None
    shown["response"] = (
        {
            "headers": _headers(row.response_headers),
            "body": text_of(row.response_body or b"", truncated=row.response_truncated),
            "truncated": row.response_truncated,
        }
        if came
        else None
    )
    return shown


def _in_flight(row: AnyRow) -> Json:
    """The attempt that a claim stands for: its own row comes with its result."""
    unknown = {"status": None, "error": None, "duration_ms": None, "request": None, "response": None}
    return {"attempt_no": row.attempt_no, "started_at": rfc3339(row.claimed_at)} | unknown


def _headers(stored: bytes | None) -> dict[str, str]:
    """Stored pairs as an object; a name that came more than once has its values in one, as HTTP allows."""
    shown: dict[str, str] = {}
    for name, value in orjson.loads(stored) if stored is not None else ():
        shown[name] = f"{shown[name]}, {value}" if name in shown else value
    return shown


def text_of(body: bytes, *, truncated: bool = False) -> str | Json:
    """A body as people and the API see it: text, or `{base64: ...}` of what is not UTF-8.

    Of a `truncated` one the rest of a character that was cut through is left out.
    """
    try:
        return getincrementaldecoder("utf-8")().decode(body, final=not truncated)
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}
