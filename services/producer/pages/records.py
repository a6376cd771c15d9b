"""Records: a plain list and form for each entity, so that a newcomer can make events."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import RedirectResponse, Response

from services.producer.pages.fields import by_field, record_form, record_given
from services.producer.pages.visit import Operator, Viewer, Visit
from shared.changes import delete_record, save_record
from shared.entities import Entity
from shared.errors import Refused
from shared.store import records
from shared.store.paging import read_cursor

ROWS = 50
COLUMNS = 4
router = APIRouter(prefix="/records")


@router.get("")
async def start(visit: Viewer) -> Response:
    """The first entity's list."""
    first = "Contact" if "Contact" in visit.deps.entities else next(iter(visit.deps.entities))
    return RedirectResponse(f"/records/{first}", 303)


@router.get("/{entity}")
async def list_page(entity: str, visit: Viewer, cursor: str | None = None) -> Response:
    """Records of one entity, newest first."""
    kind = _entity(visit, entity)
    after = read_cursor(cursor) if cursor else None
    found = await visit.deps.run(records.newest, kind, limit=ROWS, after=after)
    columns = list(kind.fields)[:COLUMNS]
    shown: dict[str, Any] = {"rows": found.rows, "next_cursor": found.next_cursor, "columns": columns}
    return await visit.page("records.html", entity=kind, entities=list(visit.deps.entities), **shown)


@router.get("/{entity}/new")
async def new_page(entity: str, visit: Operator) -> Response:
    """The empty form."""
    kind = _entity(visit, entity)
    return await _form(visit, kind, None, record_form(kind, {}))


@router.post("/{entity}/new")
async def create(entity: str, visit: Operator) -> Response:
    """Create a record; its event is `created`."""
    return await _save(visit, _entity(visit, entity), None)


@router.get("/{entity}/{record_id}")
async def edit_page(entity: str, record_id: str, visit: Operator) -> Response:
    """The form with this record's fields."""
    kind = _entity(visit, entity)
    found = await visit.deps.run(records.get, kind, record_id)
    if found is None:
        raise _unknown(kind, record_id)
    return await _form(visit, kind, found, record_form(kind, found))


@router.post("/{entity}/{record_id}")
async def change(entity: str, record_id: str, visit: Operator) -> Response:
    """Change a record; what changes nothing makes no event."""
    return await _save(visit, _entity(visit, entity), record_id)


@router.post("/{entity}/{record_id}/delete")
async def delete(entity: str, record_id: str, visit: Operator) -> Response:
    """Delete a record; its event is `deleted`."""
    kind, deps = _entity(visit, entity), visit.deps
    saved = await deps.run(delete_record, entity=kind, record_id=record_id, user=visit.actor, now=deps.now())
    if saved is None:
        raise _unknown(kind, record_id)
    deps.wakeups.notify("outbox")
    return await visit.go(f"/records/{kind.name}", text=f"The {kind.name} is deleted.", event_id=_event_id(saved.event))


async def _save(visit: Visit, kind: Entity, record_id: str | None) -> Response:
    deps, given = visit.deps, record_given(kind, visit.form)
    try:
        saved = await deps.run(
            save_record, entity=kind, record_id=record_id, fields=given, user=visit.actor, now=deps.now()
        )
    except Refused as refused:
        shown = {"id": record_id} if record_id is not None else None
        fields = record_form(kind, visit.form)
        return await _form(visit, kind, shown, fields, by_field(refused.errors), refused.status)
    if saved is None:
        raise _unknown(kind, record_id or "")
    if saved.event is None:
        return await visit.go(f"/records/{kind.name}", text="Nothing changed, so there is no event.")
    deps.wakeups.notify("outbox")
    word = "created" if record_id is None else "saved"
    return await visit.go(f"/records/{kind.name}", text=f"The {kind.name} is {word}.", event_id=saved.event.id)


async def _form(
    visit: Visit,
    kind: Entity,
    record: Any,
    fields: dict[str, str],
    errors: dict[str, str] | None = None,
    status: int = 200,
) -> Response:
    shown: dict[str, Any] = {"record": record, "fields": fields, "errors": errors or {}}
    return await visit.page("record_form.html", status, entity=kind, **shown)


def _entity(visit: Visit, name: str) -> Entity:
    found = visit.deps.entities.get(name)
    if found is None:
        raise Refused(f"there is no entity {name}; there are {', '.join(sorted(visit.deps.entities))}", status=404)
    return found


def _event_id(event: Any) -> str | None:
    return None if event is None else str(event.id)


def _unknown(kind: Entity, record_id: str) -> Refused:
    return Refused(f"there is no {kind.name} with the id {record_id}", status=404)
