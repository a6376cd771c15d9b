"""The pipeline's bookkeeping, with fakes for database and endpoint."""

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

from services.dispatcher.dispatch import Dispatched
from services.dispatcher.lanes import Lanes
from services.dispatcher.pipeline import Pipeline
from shared.errors import Unavailable
from shared.model import Claimed, DeliveryTask, Outcome, Request, Subscription, Trigger, Webhook
from shared.outgoing.match import build_index
from shared.patience import Patience
from tests.builders import an_event
from tests.waiting import run

DAY = date(2026, 1, 1)
WEBHOOK = Webhook("wh_1", "n", "Deal", Trigger.SAVE, "https://e.test/", True, 1, datetime(2026, 1, 1, tzinfo=UTC))


class Fakes:
    """Grants what it is told to, and counts what is sent."""

    def __init__(self, granted: list[Claimed]) -> None:
        self.granted = granted
        self.sent: list[Request] = []
        self.recorded: list[Any] = []

    async def run(self, *_args: Any, **_kwargs: Any) -> list[Claimed]:
        return self.granted

    async def send(self, request: Request) -> Outcome:
        self.sent.append(request)
        return Outcome(status=200)

    async def refresh(self) -> None:
        """The index stays as it is."""

    def add(self, attempt: Any) -> None:
        self.recorded.append(attempt)


def a_claim(attempt_no: int) -> Claimed:
    return Claimed("dlv_1", DAY, attempt_no, "evt_1", b"{}", WEBHOOK)


def a_pipeline(fakes: Fakes, lanes: Lanes) -> Pipeline:
    index = build_index(1, [Subscription("wh_1", "Deal", Trigger.SAVE, 4)])
    anything: Any = fakes
    return Pipeline(
        database=anything,
        box=anything,
        lanes=lanes,
        recorder=anything,
        parking=anything,
        patience=Patience(),
        send=fakes.send,
        index=lambda: index,
        refresh=fakes.refresh,
        entities=frozenset({"Deal"}),
        waits_s=(1.0,),
        lease_s=None,
        version="1",
    )


def test_two_tasks_of_one_delivery_in_a_batch_make_the_one_attempt_granted() -> None:
    async def scenario() -> tuple[int, int]:
        lanes, fakes = Lanes(8), Fakes([a_claim(2)])
        pipeline = a_pipeline(fakes, lanes)
        tasks = [DeliveryTask("dlv_1", DAY, number, "wh_1") for number in (2, 3)]
        for task in tasks:
            assert lanes.take(task.webhook_id, 4)
        await pipeline._claim(tasks)
        await pipeline.finish_attempts()
        return len(fakes.sent), lanes.room

    assert run(scenario(), 5) == (1, 8)


def test_a_turn_asked_for_under_a_lowered_cap_takes_no_more_than_it() -> None:
    async def scenario() -> int:
        lanes, fakes = Lanes(16), Fakes([])
        pipeline = a_pipeline(fakes, lanes)
        lanes.wait_in_turn("wh_1")
        asked: list[Any] = []

        async def claim(*args: Any, **_kwargs: Any) -> list[Claimed]:
            asked.append(args[2])
            return []

        fakes.run = claim  # type: ignore[method-assign]
        turns = asyncio.create_task(pipeline.take_turns())
        while not asked:
            await asyncio.sleep(0)
        lanes.close()
        await turns
        return int(asked[0][0][1])

    assert run(scenario(), 5) == 4


def test_after_an_outage_a_batch_is_planned_again_with_the_index_of_then() -> None:
    before, after = (build_index(no, [Subscription(f"wh_{no}", "Deal", Trigger.SAVE, 4)]) for no in (1, 2))
    planned: list[set[str]] = []

    async def scenario() -> int:
        lanes, fakes = Lanes(8), Fakes([])
        shown = [before]

        async def away_once(*args: Any, **_kwargs: Any) -> Any:
            planned.append({found.subscription.webhook_id for found in args[3]})
            if len(planned) == 1:
                raise Unavailable("the database is away")
            return Dispatched({}, {}, [], 0, 0)

        async def refresh() -> None:
            shown[0] = after

        fakes.run = away_once  # type: ignore[method-assign]
        pipeline = replace(a_pipeline(fakes, lanes), index=lambda: shown[0], refresh=refresh)
        await pipeline._dispatch([an_event()])
        return lanes.room

    assert run(scenario(), 5) == 8, "every slot came back"
    assert planned == [{"wh_1"}, {"wh_2"}]
