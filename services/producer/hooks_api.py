"""/hooks: REST Hooks, by which Zapier and its like subscribe and unsubscribe by themselves (resthooks.org)."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from services.producer import shapes
from services.producer.answers import Json
from services.producer.auth import User
from services.producer.body import Body
from services.producer.deps import Given
from services.producer.forms import EventWord, WebhookForm, read_form
from services.producer.openapi import body_of
from services.producer.send_test import sample_event
from services.producer.webhooks_api import delete_webhook, read_given
from shared.errors import FieldError, Refused
from shared.model import Trigger
from shared.store import webhooks
from shared.store.webhooks import NewWebhook

router = APIRouter(prefix="/hooks", tags=["REST hooks"])


class HookForm(BaseModel):
    """What POST takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    target_url: Annotated[str, Field(description="Where to POST.")]
    entity: Annotated[str, Field(description="Record type, like Deal.")]
    event: EventWord


@router.post("", status_code=201, response_model=shapes.Hook, openapi_extra=body_of(HookForm))
async def subscribe(deps: Given, given: Body) -> Response:
    """Subscribe a URL: an outgoing webhook without a secret, in the list like any other."""
    read = read_form(HookForm, given)
    form = {"name": f"REST hook: {read['entity']} {read['event']}"[:200], "url": read.pop("target_url"), **read}
    try:
        values, _ = await read_given(WebhookForm, form, deps)
    except Refused as error:
        raise Refused(str(error), errors=[_renamed(fault) for fault in error.errors]) from None
    settings: dict[str, Any] = {"timeout_s": deps.timeout_s, **values}
    webhook = await deps.run(webhooks.create, deps.box, NewWebhook(**settings))
    deps.wakeups.notify("webhooks")
    return Json({"id": webhook.id}, 201, {"Location": f"/api/v1/hooks/{webhook.id}"})


@router.delete("/{hook_id}", status_code=204)
async def unsubscribe(hook_id: str, deps: Given) -> Response:
    """Delete that webhook."""
    return await delete_webhook(hook_id, deps, None)


@router.get("/sample", response_model=list[dict[str, Any]])
async def sample_payloads(
    user: User,
    deps: Given,
    entity: Annotated[str, Query(description="Record type, like Deal.")],
    event: Annotated[Trigger, Query(description="Which changes.")],
) -> Response:
    """Payloads as the URL would get them, to map fields by: a bare array."""
    kind = deps.entities.get(entity)
    if kind is None:
        wrong = FieldError("/entity", f"must be one of {', '.join(sorted(deps.entities))}")
        raise Refused("some query parameters cannot be used", errors=[wrong])
    return Json([sample_event(kind, event, user, test=False).payload])


def _renamed(fault: FieldError) -> FieldError:
    return replace(fault, pointer="/target_url") if fault.pointer == "/url" else fault
