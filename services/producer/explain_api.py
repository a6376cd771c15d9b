"""/events/{id}/explain and /webhooks/dry-run: why an event goes where, and what exactly would be sent."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection
from starlette.responses import Response

from services.producer import shapes
from services.producer.answers import Json
from services.producer.auth import User
from services.producer.body import Body
from services.producer.deps import Deps, Given
from services.producer.forms import WebhookChange, read_form, read_webhook
from services.producer.openapi import body_of
from shared.assembly import VERSION
from shared.egress import Target, parse_url
from shared.entities import sample
from shared.errors import FieldError, Refused
from shared.ids import delivery_id, new_id
from shared.model import HARI, Actor, Change, Claimed, Event, Trigger, Webhook
from shared.model import Json as JsonObject
from shared.outgoing import presets
from shared.outgoing.presets import change_format
from shared.outgoing.request import MASK, build_request, stored_headers
from shared.outgoing.verdict import Verdict, verdict_on
from shared.store import explanations, records, webhooks
from shared.store.delivery_log import text_of
from shared.store.paging import read_cursor
from shared.wire import new_event

MOST_WEBHOOKS, MOST_REQUESTS, PAGE = 1000, 100, 200
UNSAVED = "wh_unsaved"
_TRIGGER_OF = {Change.CREATED: Trigger.CREATE, Change.UPDATED: Trigger.UPDATE, Change.DELETED: Trigger.DELETE}
router = APIRouter()


class DryRun(BaseModel):
    """What a dry run takes: an event that never happened."""

    model_config = ConfigDict(extra="forbid", strict=True)

    entity: Annotated[str, Field(description="Record type, like Deal.")]
    event: Literal["created", "updated", "deleted"]
    record_id: Annotated[str | None, Field(description="A stored record, as it is now.")] = None
    record: Annotated[dict[str, Any] | None, Field(description="Or a record made up; what it lacks is sampled.")] = None
    changed: Annotated[list[str] | None, Field(description="Names of the fields that the update changed.")] = None
    previous: Annotated[dict[str, Any] | None, Field(description="Their values before.")] = None
    webhook: Annotated[
        str | dict[str, Any] | None,
        Field(description="Only this one: an id, or settings not saved yet as POST /webhooks takes them."),
    ] = None


@router.get("/events/{event_id}/explain", response_model=shapes.Explained, tags=["events"])
async def explain_event(event_id: str, deps: Given) -> Response:
    """Why each webhook of the event's entity got it or not, by today's settings."""
    found = await deps.run(explanations.explain, event_id)
    if found is None:
        raise Refused(f"there is no event with the id {event_id}", status=404)
    return Json(found)


@router.post("/webhooks/dry-run", response_model=shapes.DryRunAnswer, openapi_extra=body_of(DryRun), tags=["webhooks"])
async def dry_run(user: User, deps: Given, given: Body) -> Response:
    """Which webhooks an event would reach, and the exact request of each, secrets masked. Nothing is sent or stored."""
    read = read_form(DryRun, given)
    event = await _event(read, user, deps)
    hooks = await _webhooks(read.get("webhook"), event, deps)
    answer: list[JsonObject] = []
    left = MOST_REQUESTS
    for hook in hooks:
        verdict, clause = verdict_on(
            event, entity=hook.entity, trigger=hook.trigger, active=hook.active, filter=hook.filter
        )
        match: JsonObject = {"webhook_id": hook.id, "verdict": verdict.value}
        if clause is not None:
            match["clause"] = clause
        # One webhook is asked for to see its request, also when it would not be sent.
        if left and (verdict is Verdict.SENT or len(hooks) == 1):
            left -= 1
            match |= _request(event, hook, deps)
        answer.append(match)
    return Json({"matches": answer})


async def _event(read: JsonObject, user: Actor, deps: Deps) -> Event:
    kind = deps.entities.get(read["entity"])
    if kind is None:
        known = ", ".join(sorted(deps.entities))
        raise Refused("some fields cannot be used", errors=[FieldError("/entity", f"must be one of {known}")])
    given, record_id = read.get("record"), read.get("record_id")
    if (given is None) == (record_id is None):
        raise Refused("give record_id or record", errors=[FieldError("/record", "give either record_id or record")])
    if record_id is not None:
        record = await deps.run(records.get, kind, record_id)
        if record is None:
            raise Refused(f"there is no {kind.name} with the id {record_id}", status=404)
    else:
        record = sample(kind, at=deps.now()) | (given or {})
    previous = dict.fromkeys(read.get("changed") or ()) | (read.get("previous") or {})
    if previous and read["event"] != "updated":
        raise Refused("some fields cannot be used", errors=[FieldError("/changed", "only an update has changes")])
    return new_event(
        event_id=new_id("evt"),
        change=Change(read["event"]),
        entity=kind.name,
        record=record,
        timestamp=deps.now(),
        user=user,
        previous=previous,
    )


async def _webhooks(given: str | JsonObject | None, event: Event, deps: Deps) -> list[Webhook]:
    if isinstance(given, str):
        found = await deps.run(webhooks.get, deps.box, given)
        if found is None:
            raise Refused(f"there is no webhook with the id {given}", status=404)
        return [found]
    if given is not None:
        return [_unsaved(given, event, deps)]
    return await deps.run(_of_entity, deps, event.entity)


def _of_entity(conn: Connection, deps: Deps, entity: str) -> list[Webhook]:
    found: list[Webhook] = []
    page = webhooks.newest(conn, deps.box, limit=PAGE, entity=entity)
    found += page.rows
    while page.next_cursor is not None and len(found) < MOST_WEBHOOKS:
        after = read_cursor(page.next_cursor)
        page = webhooks.newest(conn, deps.box, limit=PAGE, entity=entity, after=after)
        found += page.rows
    return found


def _unsaved(given: JsonObject, event: Event, deps: Deps) -> Webhook:
    try:
        values, _ = read_webhook(WebhookChange, given, deps.entities, _check_url)
    except Refused as error:
        errors = [replace(fault, pointer=f"/webhook{fault.pointer}") for fault in error.errors]
        raise Refused(str(error), errors=errors) from None
    plain: JsonObject = {"name": "", "entity": event.entity, "trigger": _TRIGGER_OF[event.change], "active": True}
    plain |= {"url": "https://example.com/", "timeout_s": deps.timeout_s}
    form, errors = change_format(HARI, values.pop("preset", None), values.pop("template", None))
    if errors:
        errors = [replace(fault, pointer=f"/webhook{fault.pointer}") for fault in errors]
        raise Refused("preset and template do not fit each other", errors=errors)
    return Webhook(id=UNSAVED, version=1, created_at=deps.now(), format=form, **(plain | values))


def _check_url(url: str) -> tuple[list[FieldError], list[FieldError]]:
    """Its form only: a dry run asks no name server either."""
    target = parse_url(url)
    return ([], []) if isinstance(target, Target) else ([FieldError("/url", fault) for fault in target], [])


def _request(event: Event, hook: Webhook, deps: Deps) -> JsonObject:
    claimed = Claimed(
        delivery_id=delivery_id(event.id, hook.id),
        event_day=deps.now().date(),
        attempt_no=1,
        event_id=event.id,
        body=event.body,
        webhook=hook,
        format=hook.format,
    )
    request = build_request(claimed, deps.now(), version=VERSION)
    if request.fault is not None:
        return {"error": f"template_error: {request.fault}"}
    # A body that carries the secret shows it masked, as the delivery log does.
    body = request.body if hook.format is HARI else presets.body_of(hook.format, event.body, hook.secret and MASK)
    shown_as = {"url": request.url, "headers": dict(stored_headers(request)), "body": text_of(body)}
    return {"request": shown_as}
