"""What only the embedded broker does: its file, its errors, its thread."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.broker.embedded import Embedded
from shared.broker.port import Message
from shared.broker.topology import Exchange, Queue, Topology, build
from tests.waiting import eventually_async, run

TOPOLOGY = build("t.", [])


@asynccontextmanager
async def opened(path: Path, topology: Topology = TOPOLOGY) -> AsyncIterator[Embedded]:
    broker = Embedded(path)
    await broker.start()
    try:
        await eventually_async(lambda: broker.connected)
        await broker.declare(topology)
        yield broker
    finally:
        await broker.close()


def an_event(name: str) -> Message:
    return Message(TOPOLOGY.events_exchange, "record.Deal.updated", b"{}", name)


async def taken(broker: Embedded, queue: str, count: int) -> list[str]:
    consumer = await broker.consume(queue, 1000)
    received: list[str] = []
    while len(received) < count:
        received += [message.message_id for message in await consumer.next_batch(1000, 0)]
    return received


def test_a_locked_file_is_unavailable_until_it_is_free_and_no_ack_is_lost(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "broker.db") as broker:
            assert await broker.publish([an_event("a"), an_event("b")]) == [None, None]
            consumer = await broker.consume(TOPOLOGY.events, 10)
            batch = await consumer.next_batch(2, 5)
            with _locked(tmp_path / "broker.db"):
                consumer.ack(batch[:1])
                (answer,) = await broker.publish([an_event("c")])
                assert str(answer).startswith("unavailable: ")
                await eventually_async(lambda: not broker.connected)
            await eventually_async(lambda: broker.connected)
            assert await broker.publish([an_event("d")]) == [None]
        async with opened(tmp_path / "broker.db") as broker:
            assert await taken(broker, TOPOLOGY.events, 2) == ["b", "d"]

    run(scenario())


class _locked:
    """Another program's write lock on the file, such as a backup takes."""

    def __init__(self, path: Path) -> None:
        self._other = sqlite3.connect(path, isolation_level=None)

    def __enter__(self) -> None:
        self._other.execute("BEGIN EXCLUSIVE")

    def __exit__(self, *_: Any) -> None:
        self._other.execute("ROLLBACK")
        self._other.close()


def test_a_file_that_cannot_be_opened_yet_is_tried_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        broker = Embedded(tmp_path / "later" / "broker.db")
        await broker.start()
        (answer,) = await broker.publish([an_event("a")])
        assert str(answer).startswith("unavailable: ")
        assert not broker.connected
        (tmp_path / "later").mkdir()
        await eventually_async(lambda: broker.connected)
        await broker.declare(TOPOLOGY)
        assert await broker.publish([an_event("a")]) == [None]
        await broker.close()

    run(scenario())


def test_closing_ends_the_thread_even_if_the_file_was_never_opened(tmp_path: Path) -> None:
    async def scenario() -> None:
        never_started = Embedded(tmp_path / "a.db")
        await never_started.close()
        away = Embedded(tmp_path / "no such directory" / "b.db")
        await away.start()
        await away.close()

    run(scenario())
    assert "hari-broker" not in [thread.name for thread in threading.enumerate()]


def test_a_loop_that_went_away_without_closing_ends_the_thread(tmp_path: Path) -> None:
    async def scenario() -> None:
        broker = Embedded(tmp_path / "broker.db")
        await broker.start()
        await eventually_async(lambda: broker.connected)
        await broker.declare(build("t.", [0.1]))
        wait = Message(TOPOLOGY.wait_exchange, "100", b"", "m")
        assert await broker.publish([wait]) == [None]
        await broker.consume(TOPOLOGY.deliver, 1)

    run(scenario())
    for thread in threading.enumerate():
        if thread.name == "hari-broker":
            thread.join(10)
            assert not thread.is_alive()


def test_a_delay_that_the_new_schedule_no_longer_names_still_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        before = build("t.", [0.3])
        async with opened(tmp_path / "broker.db", before) as broker:
            assert await broker.publish([Message(before.wait_exchange, "300", b"", "m")]) == [None]
        async with opened(tmp_path / "broker.db", build("t.", [7])) as broker:
            assert await taken(broker, TOPOLOGY.deliver, 1) == ["m"]

    run(scenario())


def test_a_message_whose_way_on_is_full_waits_for_room(tmp_path: Path) -> None:
    """RabbitMQ too, but after its timer of three minutes."""
    exchange = Exchange("x", "direct")
    delayed = Queue("delayed", (("x", "in"),), ttl_ms=20, dead_letter=("x", "on"))
    narrow = Queue("narrow", (("x", "on"),), max_length=2)
    topology = replace(TOPOLOGY, exchanges=(*TOPOLOGY.exchanges, exchange), queues=(*TOPOLOGY.queues, delayed, narrow))

    async def scenario() -> None:
        async with opened(tmp_path / "broker.db", topology) as broker:
            assert await broker.publish([Message("x", "in", b"", f"m{no}") for no in range(4)]) == [None] * 4
            await eventually_async(lambda: _has_depths(broker, {"delayed": 2, "narrow": 2}))
            assert await taken(broker, "narrow", 4) == ["m0", "m1", "m2", "m3"]

    run(scenario())


async def _has_depths(broker: Embedded, depths: dict[str, int]) -> bool:
    return await broker.depths(list(depths)) == depths


def test_an_unknown_exchange_is_unroutable(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "broker.db") as broker:
            (answer,) = await broker.publish([Message("nowhere", "key", b"")])
            assert str(answer).startswith("unroutable: ")

    run(scenario())


def test_a_tag_is_never_used_again_while_the_process_lives(tmp_path: Path) -> None:
    """SQLite would give a deleted row's id to the next one; a late second ack would then end somebody else."""

    async def scenario() -> None:
        async with opened(tmp_path / "broker.db") as broker:
            consumer = await broker.consume(TOPOLOGY.events, 10)
            await broker.publish([an_event("first")])
            first = await consumer.next_batch(1, 0)
            consumer.ack(first)
            await broker.publish([an_event("second")])
            await consumer.next_batch(1, 0)
            consumer.ack(first)
        async with opened(tmp_path / "broker.db") as broker:
            assert await taken(broker, TOPOLOGY.events, 1) == ["second"]

    run(scenario())


def test_one_consumer_cannot_end_what_another_was_handed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "broker.db") as broker:
            await broker.publish([an_event("m")])
            stale = await (await broker.consume(TOPOLOGY.events, 1)).next_batch(1, 0)
        async with opened(tmp_path / "broker.db") as broker:
            consumer = await broker.consume(TOPOLOGY.events, 1)
            assert await consumer.next_batch(1, 0) != stale
            consumer.ack(stale)
        async with opened(tmp_path / "broker.db") as broker:
            assert await taken(broker, TOPOLOGY.events, 1) == ["m"]

    run(scenario())


def test_a_message_reaches_a_consumer_without_polling(tmp_path: Path) -> None:
    """Two hundred round trips, one after the other: with any polling interval they would take far longer than this."""

    async def scenario() -> None:
        async with opened(tmp_path / "broker.db") as broker:
            consumer = await broker.consume(TOPOLOGY.events, 1)
            async with asyncio.timeout(20):  # a tenth of a second each; measured: half a millisecond
                for no in range(200):
                    await broker.publish([an_event(f"m{no}")])
                    consumer.ack(await consumer.next_batch(1, 0))

    run(scenario())
