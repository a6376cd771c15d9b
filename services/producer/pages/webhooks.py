"""Settings > Webhooks: the list, adding and editing, tests, secrets, switching off, deleting."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from services.producer import webhooks_api
from services.producer.pages.fields import by_field, webhook_form, webhook_given
from services.producer.pages.show import html
from services.producer.pages.visit import Admin, Operator, Viewer, Visit
from shared.errors import FieldError, Refused, Unavailable
from shared.model import Json, Webhook
from shared.store import health, webhooks
from shared.store.delivery_log import text_of
from shared.store.paging import MAX_LIMIT, read_cursor

LIST = "/settings/webhooks"
SHOWN_OF_BODY = 200
FIELDS = ("name", "entity", "event", "url", "secret", "headers", "filter", "timeout_s", "concurrency", "version")
router = APIRouter(prefix=LIST)


@router.get("")
async def list_page(visit: Viewer, cursor: str | None = None) -> Response:
    """Outgoing webhooks, newest first."""
    deps = visit.deps
    after = read_cursor(cursor) if cursor is not None else None
    found = await deps.run(webhooks.newest, deps.box, limit=MAX_LIMIT, after=after)
    fared = await deps.run(health.of_webhooks, [webhook.id for webhook in found.rows], deps.now())
    return await visit.page("webhooks.html", rows=found.rows, health=fared, next_cursor=found.next_cursor)


@router.get("/incoming")
async def incoming_page(visit: Viewer) -> Response:
    """Where incoming webhooks will stand."""
    return await visit.page("incoming.html")


@router.get("/new")
async def new_page(visit: Admin) -> Response:
    """The empty form."""
    defaults = {"event": "save", "timeout_s": str(visit.deps.timeout_s), "concurrency": "16", "version": ""}
    blank = dict.fromkeys(("name", "entity", "url", "secret", "headers", "filter"), "")
    return await _form(visit, None, blank | defaults)


@router.post("/new")
async def create(visit: Admin) -> Response:
    """Create a webhook; the list then shows its secret, once."""
    given, errors = webhook_given(visit.form, {})
    secret = visit.form.get("secret", "")
    if "generate" in visit.form:
        given["secret"] = webhooks.new_secret()
    elif secret:
        given["secret"] = secret
    try:
        _raise(errors)
        webhook, values, warnings = await webhooks_api.create(visit.deps, given)
    except Refused as refused:
        return await _form(visit, None, dict(visit.form), refused, errors)
    text = f"{webhook.name} is active. Send a test to see whether it arrives."
    shown = values.get("secret") if "generate" in visit.form else None
    return await visit.go(LIST, text=text, warnings=_details(warnings), secret=shown, webhook_id=webhook.id)


@router.get("/{webhook_id}")
async def edit_page(webhook_id: str, visit: Admin) -> Response:
    """The form with this webhook's settings."""
    webhook = await webhooks_api.get(visit.deps, webhook_id)
    return await _form(visit, webhook, webhook_form(webhook))


@router.post("/{webhook_id}")
async def change(webhook_id: str, visit: Admin) -> Response:
    """Save the settings, unless somebody else has saved others since the form was shown."""
    webhook = await webhooks_api.get(visit.deps, webhook_id)
    given, errors = webhook_given(visit.form, webhook.headers)
    seen = visit.form.get("version", "")
    try:
        _raise(errors)
        version = int(seen) if seen.isdigit() and len(seen) < 10 else 0
        changed, _, warnings = await webhooks_api.change(visit.deps, webhook_id, given, version)
    except Refused as refused:
        return await _form(visit, webhook, dict(visit.form), refused, errors)
    return await visit.go(LIST, text=f"{changed.name} is saved.", warnings=_details(warnings))


@router.post("/{webhook_id}/test")
async def send_test(webhook_id: str, visit: Operator) -> Response:
    """Send a sample event and show what came back, in the row itself."""
    webhook = await webhooks_api.get(visit.deps, webhook_id)
    result = await _tested(visit, webhook)
    if visit.by_htmx:
        return html("test_result.html", webhook=webhook, result=result)
    return await visit.go(LIST, webhook_id=webhook_id, test=result)


@router.get("/{webhook_id}/secret")
async def secret_page(webhook_id: str, visit: Admin) -> Response:
    """Says what regenerating does, and asks how."""
    webhook = await webhooks_api.get(visit.deps, webhook_id)
    return await visit.page("secret.html", webhook=webhook, errors={})


@router.post("/{webhook_id}/secret")
async def regenerate(webhook_id: str, visit: Admin) -> Response:
    """Make another secret the one that is sent; the list then shows it, once."""
    own = visit.form.get("secret", "")
    given: Json = {"overlap_s": 0 if visit.form.get("leaked") else 86400}
    try:
        webhook = await webhooks_api.rotate(visit.deps, webhook_id, given | ({"secret": own} if own else {}))
    except Refused as refused:
        if refused.status != 422:
            raise
        webhook = await webhooks_api.get(visit.deps, webhook_id)
        return await visit.page("secret.html", 422, webhook=webhook, errors=by_field(refused.errors))
    text = f"{webhook.name} has a new secret."
    return await visit.go(LIST, text=text, secret=None if own else webhook.secret, webhook_id=webhook_id)


@router.post("/{webhook_id}/activate")
async def activate(webhook_id: str, visit: Admin) -> Response:
    """Switch it on."""
    webhook, _, _ = await webhooks_api.change(visit.deps, webhook_id, {"active": True}, None)
    return await visit.go(LIST, text=f"{webhook.name} is active: what changes from now on is sent.")


@router.post("/{webhook_id}/deactivate")
async def deactivate(webhook_id: str, visit: Admin) -> Response:
    """Switch it off; what waits is cancelled."""
    webhook, _, _ = await webhooks_api.change(visit.deps, webhook_id, {"active": False}, None)
    return await visit.go(LIST, text=f"{webhook.name} is inactive: nothing is sent, and what waited is cancelled.")


@router.get("/{webhook_id}/delete")
async def delete_page(webhook_id: str, visit: Admin) -> Response:
    """Says what goes and what stays, and asks."""
    webhook = await webhooks_api.get(visit.deps, webhook_id)
    count = await visit.deps.run(health.logged, webhook_id)
    return await visit.page("delete.html", webhook=webhook, count=count, most=health.MOST_LOGGED)


@router.post("/{webhook_id}/delete")
async def delete(webhook_id: str, visit: Admin) -> Response:
    """Delete it."""
    webhook = await webhooks_api.get(visit.deps, webhook_id)
    await webhooks_api.delete(visit.deps, webhook_id)
    return await visit.go(LIST, text=f"{webhook.name} is deleted. Its log stays readable under Deliveries.")


async def _form(
    visit: Visit,
    webhook: Webhook | None,
    fields: dict[str, str],
    refused: Refused | None = None,
    errors: list[FieldError] | None = None,
) -> Response:
    wrong: dict[str, str] = {}
    if refused is not None:
        if refused.status not in (412, 422):
            raise refused
        wrong = by_field(refused.errors)
        if refused.status == 412:
            wrong[""] = "Somebody else has saved this webhook meanwhile. Load the page again to see it as it is now."
    blank = dict.fromkeys(FIELDS, "")
    known = sorted(visit.deps.entities)
    shown: dict[str, Any] = {"webhook": webhook, "fields": blank | fields, "errors": wrong, "entities": known}
    return await visit.page("webhook_form.html", refused.status if refused is not None else 200, **shown)


async def _tested(visit: Visit, webhook: Webhook) -> Json:
    """What Send test met, or why nothing was sent."""
    try:
        result = await visit.deps.send_test(webhook, visit.actor)
    except (Refused, Unavailable) as error:
        return {"sorry": str(error)}
    body = text_of(result.response_body)
    first = body.strip().partition("\n")[0] if isinstance(body, str) else "(not text)"
    answer: Json = {"delivery_id": result.delivery_id, "status": result.status, "error": result.error}
    return answer | {"duration_ms": result.duration_ms, "first_line": first[:SHOWN_OF_BODY]}


def _raise(errors: list[FieldError]) -> None:
    if errors:
        raise Refused("some fields cannot be used", errors=errors)


def _details(warnings: list[FieldError]) -> list[str]:
    return [warning.detail for warning in warnings]
