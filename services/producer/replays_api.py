"""/replays and /dead/redrive: many deliveries sent again. The request counts, housekeeping sends step by step."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy import Connection
from starlette.responses import Response

from services.producer import shapes
from services.producer.answers import Json
from services.producer.body import Body
from services.producer.deps import Deps, Given
from services.producer.forms import read_form
from services.producer.openapi import body_of
from shared.errors import FieldError, Refused
from shared.store import replays, resends
from shared.store.replays import EVENTS_A_STEP, Range
from shared.store.resends import DeadFilter

MOST_IDS = 1000
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)  # the year 1 of some time zones is one that Python cannot read back
MOST_EVENTS = 1_000_000
router = APIRouter(tags=["deliveries"])

_Time = Annotated[AwareDatetime, Field(strict=False)]


class RedriveForm(BaseModel):
    """What redrive takes: ids, or a filter on the dead deliveries (none of it: all of them)."""

    model_config = ConfigDict(extra="forbid", strict=True)

    delivery_ids: Annotated[list[str] | None, Field(min_length=1, max_length=MOST_IDS)] = None
    webhook_id: Annotated[str | None, Field(description="Only those of this webhook.")] = None
    since: Annotated[_Time | None, Field(description="Created at this time or later.")] = None
    until: Annotated[_Time | None, Field(description="Created before this time.")] = None
    reason: Annotated[str | None, Field(description="With exactly this reason.")] = None


class ReplayForm(BaseModel):
    """What a replay takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    webhook_id: str
    since: Annotated[_Time, Field(description="Events stored at this time or later.")]
    until: Annotated[_Time, Field(description="Events stored before this time.")]
    include_delivered: Annotated[bool, Field(description="Send once more what was delivered.")] = False
    dry_run: Annotated[bool, Field(description="Only count.")] = False


@router.post("/dead/redrive", status_code=202, response_model=shapes.Counted, openapi_extra=body_of(RedriveForm))
async def redrive_dead(deps: Given, given: Body) -> Response:
    """Begin a new round of dead deliveries: these ids, or all that a filter finds. Those of inactive and deleted
    webhooks, and ids that are not dead, are left as they are and not counted."""
    read = {name: value for name, value in read_form(RedriveForm, given).items() if value is not None}
    ids = read.pop("delivery_ids", None)
    if ids is not None:
        if read:
            wrong = [FieldError(f"/{name}", "cannot be combined with delivery_ids") for name in read]
            raise Refused("give delivery_ids or a filter, not both", errors=wrong)
        return Json({"count": await deps.run(resends.redrive_ids, ids)}, 202)
    if "since" in read:
        read["since"] = max(read["since"], EARLIEST)
    wanted = DeadFilter(**read)
    if wanted.webhook_id is not None:
        await deps.run(replays.check_active, wanted.webhook_id)
    count, job = await deps.run(_redrive, wanted, deps.now())
    return _counted(count, job)


def _redrive(conn: Connection, wanted: DeadFilter, now: datetime) -> tuple[int, str | None]:
    count = resends.count_dead(conn, wanted)
    until = min(wanted.until or now, now)
    return count, replays.add_redrive(conn, wanted, until) if count else None


@router.post("/replays", status_code=202, response_model=shapes.Counted, openapi_extra=body_of(ReplayForm))
async def replay_events(deps: Given, given: Body) -> Response:
    """Send the events of a time range that the webhook matches now: create what has no delivery, begin a new round of
    what is dead or cancelled; what was delivered only with `include_delivered`. 409 for an inactive webhook."""
    read = read_form(ReplayForm, given)
    if read["since"] >= read["until"]:
        raise Refused("the range is empty", errors=[FieldError("/until", "must be after since")])
    await deps.run(replays.check_active, read["webhook_id"])
    until = min(read["until"], deps.now())  # what comes later is delivered anyway
    wanted = Range(read["webhook_id"], max(read["since"], EARLIEST), until, read.get("include_delivered", False))
    start = await deps.run(replays.first_seq, wanted.since)
    count = await _count(deps, wanted, start)
    job = await deps.run(replays.add_replay, wanted, start) if count and not read.get("dry_run") else None
    return _counted(count, job)


async def _count(deps: Deps, wanted: Range, start: int) -> int:
    """In steps of their own transaction, so that nobody waits for a long range but who asked for it."""
    count, at = 0, start
    for _ in range(MOST_EVENTS // EVENTS_A_STEP):
        done = await deps.run(replays.count_step, wanted, at)
        count += done.count
        if done.after is None:
            return count
        at = done.after
    wrong = FieldError("/until", f"the range holds more than {MOST_EVENTS:,} events; make it shorter")
    raise Refused(wrong.detail, errors=[wrong])


def _counted(count: int, job: str | None) -> Response:
    answer: dict[str, Any] = {"count": count} if job is None else {"id": job, "count": count}
    return Json(answer, 202)
