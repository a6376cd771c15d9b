"""/deliveries and /dead: the delivery log."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime
from starlette.responses import Response

from services.producer import shapes
from services.producer.answers import Json, page
from services.producer.deps import Deps, Given
from services.producer.records_api import Cursor, Limit
from shared.errors import Refused
from shared.model import Change, State
from shared.store import delivery_log, resends
from shared.store.delivery_log import Filter
from shared.store.paging import read_cursor

router = APIRouter(tags=["deliveries"])

WebhookId = Annotated[str | None, Query(description="Only those of this webhook.")]
Since = Annotated[AwareDatetime | None, Query(description="Created at this time or later.")]
Until = Annotated[AwareDatetime | None, Query(description="Created before this time.")]


@router.get("/deliveries", response_model=shapes.Page[shapes.ListedDelivery])
async def list_deliveries(
    deps: Given,
    limit: Limit = 50,
    cursor: Cursor = None,
    webhook_id: WebhookId = None,
    state: State | None = None,
    entity: str | None = None,
    record_id: str | None = None,
    event: Change | None = None,
    event_id: str | None = None,
    status: Annotated[int | None, Query(ge=0, le=999, description="Of the last attempt.")] = None,
    test: Annotated[bool | None, Query(description="Only tests, or only others.")] = None,
    since: Since = None,
    until: Until = None,
) -> Response:
    """Deliveries, newest first."""
    wanted = Filter(
        webhook_id=webhook_id,
        state=state,
        entity=entity,
        record_id=record_id,
        event=event,
        event_id=event_id,
        status=status,
        test=test,
        since=since,
        until=until,
    )
    after = read_cursor(cursor) if cursor is not None else None
    return page(await deps.run(delivery_log.newest, wanted, limit=limit, after=after))


@router.get("/deliveries/{delivery_id}", response_model=shapes.Delivery)
async def get_delivery(delivery_id: str, deps: Given) -> Response:
    """One delivery with its attempts: what was sent, what came back."""
    found = await deps.run(delivery_log.get, delivery_id)
    if found is None:
        raise Refused(f"there is no delivery with the id {delivery_id}", status=404)
    return Json(found)


@router.post("/deliveries/{delivery_id}/resend", status_code=202, response_model=shapes.Resent)
async def resend_delivery(delivery_id: str, deps: Given) -> Response:
    """Make the next attempt now, with the same webhook-id and body.

    A dead or cancelled delivery begins a new round with the full schedule; of a delivered one it is a single attempt.
    409 while an attempt is in flight, and for an inactive or deleted webhook.
    """
    return Json({"id": delivery_id, "attempt_no": await resend(deps, delivery_id)}, 202)


async def resend(deps: Deps, delivery_id: str) -> int:
    """Have the next attempt made now; its number. For the call above and the page. Raises Refused (404, 409)."""
    task = await deps.run(resends.resend, delivery_id)
    if task is None:
        raise Refused(f"there is no delivery with the id {delivery_id}", status=404)
    await deps.ask_urgently(task)
    return task.attempt_no


@router.get("/dead", response_model=shapes.Page[shapes.ListedDelivery])
async def list_dead(
    deps: Given,
    limit: Limit = 50,
    cursor: Cursor = None,
    webhook_id: WebhookId = None,
    since: Since = None,
    until: Until = None,
) -> Response:
    """Dead deliveries, newest first: their schedule is used up, or no attempt can succeed."""
    wanted = Filter(webhook_id=webhook_id, state=State.DEAD, test=False, since=since, until=until)
    after = read_cursor(cursor) if cursor is not None else None
    return page(await deps.run(delivery_log.newest, wanted, limit=limit, after=after))
