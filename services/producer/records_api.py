"""/records and /events: our own records, and the events of a CRM that keeps its own."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from sqlalchemy import Connection
from starlette.responses import Response

from services.producer import shapes
from services.producer.answers import Json, etag, page
from services.producer.auth import User
from services.producer.body import Body, IfVersion, origin
from services.producer.deps import Deps, Given
from services.producer.openapi import json_body
from shared.changes import Saved, delete_record, save_record
from shared.entities import Entity
from shared.errors import FieldError, Malformed, Refused
from shared.model import Event
from shared.store import outbox, records
from shared.store.paging import MAX_LIMIT, read_cursor
from shared.wire import body_hash, read_event

MAX_EVENTS = 1000
router = APIRouter(tags=["records"])

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Rows on a page.")]
Cursor = Annotated[str | None, Query(description="next_cursor of the page before.")]
EntityName = Annotated[str, Path(description="Record type, like Deal.")]
_FIELDS = json_body({"type": "object", "description": "The record's own fields; null clears one."})
_ENVELOPE = {
    "type": "object",
    "required": ["id", "event", "entity", "record", "timestamp"],
    "description": "An event, as docs/asyncapi.yaml describes it.",
}
_EVENTS = json_body(
    {"oneOf": [_ENVELOPE, {"type": "array", "minItems": 1, "maxItems": MAX_EVENTS, "items": _ENVELOPE}]}
)


@router.post("/records/{entity}", status_code=201, response_model=shapes.Record, openapi_extra=_FIELDS)
async def create_record(entity: EntityName, request: Request, user: User, deps: Given, given: Body) -> Response:
    """Create a record; its event is `created`."""
    kind = _entity(deps, entity)
    saved = await deps.run(
        save_record, entity=kind, record_id=None, fields=_object(given), user=user, now=deps.now(), **_caused(request)
    )
    assert saved is not None, "a new record is always saved"
    location = {"Location": f"/api/v1/records/{kind.name}/{saved.record['id']}"}
    return _saved(deps, saved, 201, location)


@router.get("/records/{entity}", response_model=shapes.Page[shapes.Record])
async def list_records(entity: EntityName, deps: Given, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """Records of one entity, newest first."""
    after = read_cursor(cursor) if cursor is not None else None
    return page(await deps.run(records.newest, _entity(deps, entity), limit=limit, after=after))


@router.get("/records/{entity}/{record_id}", response_model=shapes.Record)
async def get_record(entity: EntityName, record_id: str, deps: Given) -> Response:
    """One record."""
    kind = _entity(deps, entity)
    found = await deps.run(records.get, kind, record_id)
    if found is None:
        raise _unknown(kind, record_id)
    return Json(found, headers=etag(found["version"]))


@router.patch("/records/{entity}/{record_id}", response_model=shapes.Record, openapi_extra=_FIELDS)
async def change_record(
    entity: EntityName, record_id: str, request: Request, user: User, deps: Given, given: Body, if_version: IfVersion
) -> Response:
    """Change some fields; the event is `updated`, with what changed. What changes nothing makes no event."""
    kind = _entity(deps, entity)
    saved = await deps.run(
        save_record,
        entity=kind,
        record_id=record_id,
        fields=_object(given),
        user=user,
        now=deps.now(),
        if_version=if_version,
        **_caused(request),
    )
    if saved is None:
        raise _unknown(kind, record_id)
    return _saved(deps, saved, 200)


@router.delete("/records/{entity}/{record_id}", status_code=204)
async def remove_record(
    entity: EntityName, record_id: str, request: Request, user: User, deps: Given, if_version: IfVersion
) -> Response:
    """Delete a record; its event is `deleted`."""
    kind = _entity(deps, entity)
    saved = await deps.run(
        delete_record,
        entity=kind,
        record_id=record_id,
        user=user,
        now=deps.now(),
        if_version=if_version,
        **_caused(request),
    )
    if saved is None:
        raise _unknown(kind, record_id)
    deps.wakeups.notify("outbox")
    return Response(status_code=204)


@router.post("/events", status_code=202, response_model=shapes.Accepted, openapi_extra=_EVENTS, tags=["events"])
async def publish_events(request: Request, deps: Given, given: Body) -> Response:
    """Take one event or a batch, all or nothing; an id that is known already, with the same body, changes nothing."""
    batch = given if isinstance(given, list) else [given]
    if not 1 <= len(batch) <= MAX_EVENTS:
        wrong = FieldError("", f"a batch has 1 to {MAX_EVENTS:,} events, this one has {len(batch):,}")
        raise Refused(wrong.detail, errors=[wrong])
    events = _events(batch, deps, **origin(request), single=not isinstance(given, list))
    accepted = await deps.run(accept_events, events)
    if accepted:
        deps.wakeups.notify("outbox")
    return Json({"accepted": accepted, "duplicates": len(events) - accepted}, 202)


def accept_events(conn: Connection, events: list[Event]) -> int:
    """Add these events to the outbox; returns how many were new. Raises Refused (409) when one is known with another
    body, and then none is added."""
    first = {event.id: event for event in reversed(events)}
    new = set(outbox.append(conn, list(first.values())))
    known = outbox.hashes(conn, [event_id for event_id in first if event_id not in new])
    known |= {event_id: body_hash(first[event_id].body) for event_id in new}
    errors = [
        FieldError(f"/{at}/id" if len(events) > 1 else "/id", f"{event.id} is known with another body")
        for at, event in enumerate(events)
        if known[event.id] != body_hash(event.body)
    ]
    if errors:
        raise Refused("an event with this id is known with another body; nothing was taken", status=409, errors=errors)
    return len(new)


def _events(batch: list[Any], deps: Deps, *, hop: int, traceparent: str | None, single: bool) -> list[Event]:
    events, errors = [], []
    for at, given in enumerate(batch):
        at_item = "" if single else f"/{at}"
        try:
            event = read_event(given, deps.entities, hop=hop, traceparent=traceparent)
        except Malformed as error:
            faults = error.errors or [FieldError("", str(error))]
            errors += [FieldError(at_item + fault.pointer, fault.detail) for fault in faults]
            continue
        events.append(event)
    if errors:
        raise Refused("some events cannot be used; nothing was taken", errors=errors)
    return events


def _entity(deps: Deps, name: str) -> Entity:
    found = deps.entities.get(name)
    if found is None:
        raise Refused(f"there is no entity {name}; there are {', '.join(sorted(deps.entities))}", status=404)
    return found


def _unknown(entity: Entity, record_id: str) -> Refused:
    return Refused(f"there is no {entity.name} with the id {record_id}", status=404)


def _object(given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        wrong = FieldError("", 'must be a JSON object of fields, like {"name": "..."}')
        raise Refused("the body cannot be used", errors=[wrong])
    return given


def _caused(request: Request) -> dict[str, Any]:
    # Who asks for silence and gets an event would only learn it from those who were told.
    if "x-hari-silent" in request.headers:
        raise Refused("X-HARi-Silent is not supported by this version; nothing was changed")
    return origin(request)


def _saved(deps: Deps, saved: Saved, status: int, headers: dict[str, str] | None = None) -> Response:
    if saved.event is not None:
        deps.wakeups.notify("outbox")
    return Json(saved.record, status, etag(saved.record["version"]) | (headers or {}))
