"""Slots and caps."""

import asyncio

from services.dispatcher.lanes import Lanes
from tests.waiting import run


def test_a_webhook_takes_no_more_than_its_cap() -> None:
    lanes = Lanes(10)
    assert [lanes.take("wh_a", 2) for _ in range(3)] == [True, True, False]
    assert lanes.take("wh_b", 2), "another webhook is not held up"


def test_a_process_takes_no_more_than_its_slots() -> None:
    lanes = Lanes(3)
    assert [lanes.take(f"wh_{n}", 16) for n in range(4)] == [True, True, True, False]
    assert lanes.room == 0


def test_a_slot_given_back_can_be_taken_again() -> None:
    lanes = Lanes(1)
    assert lanes.take("wh_a", 1)
    lanes.give_back("wh_a")
    assert lanes.take("wh_a", 1)
    assert lanes.free("wh_a", 1) == 0


def test_waiting_for_room_ends_when_a_slot_comes_free() -> None:
    async def scenario() -> int:
        lanes = Lanes(1)
        lanes.take("wh_a", 1)
        waiting = asyncio.create_task(lanes.wait_for_room())
        await asyncio.sleep(0)
        assert not waiting.done()
        lanes.give_back("wh_a")
        return await waiting

    assert run(scenario(), 5) == 1


def test_a_free_slot_wakes_those_that_wait_for_their_turn() -> None:
    async def scenario() -> None:
        lanes = Lanes(1)
        lanes.take("wh_a", 1)
        lanes.wait_in_turn("wh_b")
        await lanes.changed()
        waiting = asyncio.create_task(lanes.changed())
        await asyncio.sleep(0)
        assert not waiting.done()
        lanes.give_back("wh_a")
        await waiting

    run(scenario(), 5)


def test_closing_ends_the_wait_for_turns() -> None:
    async def scenario() -> bool:
        lanes = Lanes(1)
        waiting = asyncio.create_task(lanes.changed())
        await asyncio.sleep(0)
        lanes.close()
        return await waiting

    assert run(scenario(), 5) is False
