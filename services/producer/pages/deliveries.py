"""Deliveries: the log with its filters in the URL, and one delivery with every attempt."""

from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlencode

from fastapi import APIRouter
from starlette.responses import Response

from services.producer import deliveries_api
from services.producer.pages.visit import Operator, Viewer, Visit
from shared.errors import Refused
from shared.model import Change, State, Webhook
from shared.store import delivery_log, timings, webhooks
from shared.store.delivery_log import Filter
from shared.store.paging import MAX_LIMIT, read_cursor

ROWS = 50
NAMES = ("webhook_id", "state", "status", "entity", "event", "record_id", "event_id", "test", "since", "until")
router = APIRouter(prefix="/deliveries")


@router.get("")
async def list_page(visit: Viewer, cursor: str | None = None) -> Response:
    """Deliveries, newest first."""
    given = {name: visit.request.query_params.get(name, "").strip() for name in NAMES}
    wanted, wrong = read_filter(given)
    after = read_cursor(cursor) if cursor else None
    found = await visit.deps.run(delivery_log.newest, wanted, limit=ROWS, after=after)
    names = await _names(visit, {row["webhook_id"] for row in found.rows} | {given["webhook_id"]})
    query = urlencode({name: value for name, value in given.items() if value})
    return await visit.page(
        "deliveries.html",
        rows=found.rows,
        next_cursor=found.next_cursor,
        first_page=after is None,
        query=query,
        given=given,
        wrong=wrong,
        names=names,
        choices=await _choices(visit),
        states=list(State),
        changes=list(Change),
        entities=sorted(visit.deps.entities),
    )


@router.get("/{delivery_id}")
async def delivery_page(delivery_id: str, visit: Viewer) -> Response:
    """One delivery: its attempts, what was sent, what came back."""
    found = await visit.deps.run(delivery_log.get, delivery_id)
    if found is None:
        raise Refused(f"there is no delivery with the id {delivery_id}", status=404)
    webhook = (await _names(visit, {found["webhook_id"]})).get(found["webhook_id"])
    phases = await visit.deps.run(timings.of_delivery, delivery_id)
    return await visit.page("delivery.html", delivery=found, webhook=webhook, phases=phases)


@router.post("/{delivery_id}/resend")
async def resend(delivery_id: str, visit: Operator) -> Response:
    """Make the next attempt now."""
    page = f"/deliveries/{delivery_id}"
    try:
        attempt_no = await deliveries_api.resend(visit.deps, delivery_id)
    except Refused as refused:
        if refused.status != 409:
            raise
        return await visit.go(page, text=f"Not sent again: {refused}.")
    return await visit.go(page, text=f"Attempt {attempt_no} is on its way. Reload the page to see what it met.")


def read_filter(given: Mapping[str, str]) -> tuple[Filter, dict[str, str]]:
    """(the filter, field -> what is wrong with it); what cannot be used does not filter."""
    wrong: dict[str, str] = {}
    values: dict[str, object] = {
        name: given[name] for name in ("webhook_id", "entity", "record_id", "event_id") if given.get(name)
    }
    readers = {"state": State, "event": Change, "status": _status, "test": _yes_no, "since": _time, "until": _time}
    for name, read in readers.items():
        if not given.get(name):
            continue
        try:
            values[name] = read(given[name])
        except ValueError:
            wrong[name] = "cannot be used, so it does not filter"
    return Filter(**values), wrong  # type: ignore[arg-type]


def _status(text: str) -> int:
    status = int(text)
    if not 0 <= status <= 999:
        raise ValueError(text)
    return status


def _yes_no(text: str) -> bool:
    return {"true": True, "false": False}[text] if text in ("true", "false") else bool(int(text))


def _time(text: str) -> datetime:
    """A form's time has no offset: it is taken as UTC, as the page says."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


async def _names(visit: Visit, ids: set[str]) -> dict[str, Webhook]:
    return await visit.deps.run(webhooks.load, visit.deps.box, ids)


async def _choices(visit: Visit) -> list[Webhook]:
    page = await visit.deps.run(webhooks.newest, visit.deps.box, limit=MAX_LIMIT)
    return sorted(page.rows, key=lambda webhook: webhook.name.lower())
