"""/webhooks: who is told about which changes."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query
from starlette.responses import Response

from services.producer import shapes
from services.producer.answers import Json, etag
from services.producer.auth import User
from services.producer.body import Body, IfVersion, OptionalBody
from services.producer.deps import Deps, Given
from services.producer.forms import Rotation, WebhookChange, WebhookForm, read_rotation, read_webhook
from services.producer.openapi import body_of
from services.producer.records_api import Cursor, Limit
from shared.clock import rfc3339
from shared.egress import Target, check_at_save, parse_url
from shared.errors import FieldError, Refused
from shared.model import Json as JsonObject
from shared.model import Trigger, Webhook
from shared.outgoing.request import MASK
from shared.store import webhooks
from shared.store.delivery_log import text_of
from shared.store.paging import read_cursor
from shared.store.webhooks import NewWebhook

RESOLVE_S = 3.0
router = APIRouter(prefix="/webhooks", tags=["webhooks"])


@router.post("", status_code=201, response_model=shapes.Webhook, openapi_extra=body_of(WebhookForm))
async def create_webhook(deps: Given, given: Body) -> Response:
    """Create an outgoing webhook; the answer shows its secret for the last time."""
    webhook, values, warnings = await create(deps, given)
    headers = {"Location": f"/api/v1/webhooks/{webhook.id}"} | etag(webhook.version)
    return Json(shown(webhook, values, warnings), 201, headers)


@router.get("", response_model=shapes.Page[shapes.Webhook])
async def list_webhooks(
    deps: Given,
    limit: Limit = 50,
    cursor: Cursor = None,
    entity: Annotated[str | None, Query(description="Only those of this record type.")] = None,
    event: Annotated[Trigger | None, Query(description="Only those of this event.")] = None,
) -> Response:
    """Webhooks, newest first."""
    after = read_cursor(cursor) if cursor is not None else None
    found = await deps.run(webhooks.newest, deps.box, limit=limit, after=after, entity=entity, trigger=event)
    return Json({"data": [shown(webhook) for webhook in found.rows], "next_cursor": found.next_cursor})


@router.get("/{webhook_id}", response_model=shapes.Webhook)
async def get_webhook(webhook_id: str, deps: Given) -> Response:
    """One webhook."""
    webhook = await get(deps, webhook_id)
    return Json(shown(webhook), headers=etag(webhook.version))


@router.patch("/{webhook_id}", response_model=shapes.Webhook, openapi_extra=body_of(WebhookChange, change=True))
async def change_webhook(webhook_id: str, deps: Given, given: Body, if_version: IfVersion) -> Response:
    """Change some settings; `active` false cancels what waits, a new secret takes the old one's place at once."""
    webhook, values, warnings = await change(deps, webhook_id, given, if_version)
    return Json(shown(webhook, values, warnings), headers=etag(webhook.version))


@router.delete("/{webhook_id}", status_code=204)
async def delete_webhook(webhook_id: str, deps: Given, if_version: IfVersion) -> Response:
    """Delete a webhook; what waits is cancelled, its delivery log stays readable."""
    await delete(deps, webhook_id, if_version)
    return Response(status_code=204)


@router.post(
    "/{webhook_id}/rotate-secret", response_model=shapes.Webhook, openapi_extra=body_of(Rotation, required=False)
)
async def rotate_secret(webhook_id: str, deps: Given, given: OptionalBody) -> Response:
    """Make another secret the one that is sent; the old one signs too for `overlap_s`. The answer shows the new one."""
    webhook = await rotate(deps, webhook_id, given)
    return Json(shown(webhook, {"secret"}), headers=etag(webhook.version))


@router.post("/{webhook_id}/test", response_model=shapes.Tested)
async def send_test(webhook_id: str, user: User, deps: Given) -> Response:
    """Send one sample event now, to an inactive webhook too, and answer what came back."""
    result = await deps.send_test(await get(deps, webhook_id), user)
    answer: JsonObject = {"delivery_id": result.delivery_id, "status": result.status, "error": result.error}
    body = text_of(result.response_body, truncated=result.truncated)
    return Json(answer | {"duration_ms": result.duration_ms, "response_body": body})


# What the calls above and the pages do alike: check, write, tell the dispatchers.


async def create(deps: Deps, given: Any) -> tuple[Webhook, JsonObject, list[FieldError]]:
    """(the new webhook, the values that were given, warnings). Raises Refused naming every field at fault."""
    values, warnings = await read_given(WebhookForm, given, deps)
    new = NewWebhook(**{"timeout_s": deps.timeout_s, **values})
    webhook = await deps.run(webhooks.create, deps.box, new)
    deps.wakeups.notify("webhooks")
    return webhook, values, warnings


async def change(
    deps: Deps, webhook_id: str, given: Any, if_version: int | None
) -> tuple[Webhook, JsonObject, list[FieldError]]:
    """`create` for some settings of one that is there. Raises Refused (also 404, 412)."""
    values, warnings = await read_given(WebhookChange, given, deps)
    if not values:
        return await get(deps, webhook_id), values, warnings
    webhook = _found(webhook_id, await deps.run(webhooks.change, deps.box, webhook_id, values, if_version=if_version))
    deps.wakeups.notify("webhooks")
    return webhook, values, warnings


async def delete(deps: Deps, webhook_id: str, if_version: int | None = None) -> None:
    """Delete it. Raises Refused (404, 412)."""
    if not await deps.run(webhooks.delete, deps.box, webhook_id, if_version=if_version):
        raise _unknown(webhook_id)
    deps.wakeups.notify("webhooks")


async def rotate(deps: Deps, webhook_id: str, given: Any) -> Webhook:
    """Give it the secret in `given`, or a new one. Raises Refused."""
    secret, overlap_s = read_rotation(given)
    secret = secret if secret is not None else webhooks.new_secret()
    rotated = await deps.run(webhooks.rotate_secret, deps.box, webhook_id, secret, overlap_s)
    webhook = _found(webhook_id, rotated)
    deps.wakeups.notify("webhooks")
    return webhook


def shown(webhook: Webhook, just_set: Collection[str] = (), warnings: Sequence[FieldError] = ()) -> JsonObject:
    """The webhook as the API shows it. Secret and header values, which may be credentials, are in clear only in the
    answer to the request that set them (`just_set`)."""
    answer: JsonObject = {"id": webhook.id, "name": webhook.name, "entity": webhook.entity}
    answer |= {"event": webhook.trigger.value, "url": webhook.url, "has_secret": webhook.secret is not None}
    if "secret" in just_set and webhook.secret is not None:
        answer["secret"] = webhook.secret
    answer["active"] = webhook.active
    if webhook.deactivated_reason is not None:
        answer["deactivated_reason"] = webhook.deactivated_reason
    answer |= {"version": webhook.version, "created_at": rfc3339(webhook.created_at)}
    if webhook.headers:
        clear = "headers" in just_set
        answer["headers"] = {name: value if clear else MASK for name, value in webhook.headers.items()}
    if webhook.filter is not None:
        answer["filter"] = webhook.filter
    answer["preset"] = webhook.format.preset
    if webhook.format.template is not None:
        answer["template"] = orjson.loads(webhook.format.template)
    if webhook.redirect is not None:
        answer["redirect"] = webhook.redirect
    answer |= {"timeout_s": webhook.timeout_s, "concurrency": webhook.concurrency}
    if warnings:
        answer["warnings"] = [{"pointer": warning.pointer, "detail": warning.detail} for warning in warnings]
    return answer


async def read_given(form: type[WebhookChange], given: Any, deps: Deps) -> tuple[JsonObject, list[FieldError]]:
    """(the settings given, warnings); its URL is resolved and vetted. Raises Refused."""
    url = given.get("url") if isinstance(given, dict) else None
    addresses = await _resolve(url, deps) if isinstance(url, str) else ()
    return read_webhook(form, given, deps.entities, lambda text: check_at_save(text, lambda _: addresses, deps.rules))


async def _resolve(url: str, deps: Deps) -> Sequence[str]:
    """The addresses of the URL's host now; none when there are none, or no answer came in time."""
    target = parse_url(url)
    if not isinstance(target, Target) or target.is_ip:
        return ()
    lookup = asyncio.get_running_loop().run_in_executor(None, deps.resolve, target.host)
    try:
        return await asyncio.wait_for(lookup, RESOLVE_S)
    except (OSError, TimeoutError, UnicodeError):
        return ()


async def get(deps: Deps, webhook_id: str) -> Webhook:
    """The webhook. Raises Refused (404)."""
    return _found(webhook_id, await deps.run(webhooks.get, deps.box, webhook_id))


def _found(webhook_id: str, webhook: Webhook | None) -> Webhook:
    if webhook is None:
        raise _unknown(webhook_id)
    return webhook


def _unknown(webhook_id: str) -> Refused:
    return Refused(f"there is no webhook with the id {webhook_id}", status=404)
