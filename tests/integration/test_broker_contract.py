"""What the code may expect of a broker, run on both adapters: these cases are the port's contract."""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from shared.broker.embedded import Embedded
from shared.broker.port import Broker, Consumer, HeaderValue, Message, Received
from shared.broker.rabbitmq import RabbitMQ
from shared.broker.topology import Exchange, Queue, Topology, build
from shared.errors import SettingsError, Unavailable
from tests.waiting import eventually_async, run

DEADLINE_S = 60


@dataclass(frozen=True)
class Adapter:
    """How to open one more broker on the same server or file, and the prefix of this test's names."""

    open: Callable[[], Broker]
    prefix: str


@pytest.fixture(params=["embedded", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> Adapter:
    if request.param == "embedded":
        return Adapter(lambda: Embedded(tmp_path / "broker.db"), "t.")
    url = request.getfixturevalue("rabbitmq_url")  # first: the prefix then knows which server to clean
    return Adapter(lambda: RabbitMQ(url), request.getfixturevalue("queue_prefix"))


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def sync(*args: Any, **kwargs: Any) -> None:
        run(test(*args, **kwargs), DEADLINE_S)

    return sync


@asynccontextmanager
async def opened(adapter: Adapter, topology: Topology) -> AsyncIterator[Broker]:
    broker = adapter.open()
    await broker.start()
    try:
        await eventually_async(lambda: broker.connected, 30)
        await broker.declare(topology)
        yield broker
    finally:
        await broker.close()


def standard(adapter: Adapter, waits_s: Sequence[float] = ()) -> Topology:
    return build(adapter.prefix, waits_s)


def with_queue(adapter: Adapter, kind: str, *queues: Queue) -> Topology:
    """The standard topology and, beside it, exchange `x` of this kind with these queues; names get the prefix."""
    topology = standard(adapter)
    exchange = Exchange(f"{adapter.prefix}x", kind)
    added = tuple(
        replace(
            queue,
            name=adapter.prefix + queue.name,
            bindings=tuple((exchange.name, key) for _, key in queue.bindings),
            dead_letter=(topology.terminal_exchange, "dead"),
        )
        for queue in queues
    )
    return replace(topology, exchanges=(*topology.exchanges, exchange), queues=topology.queues + added)


def an_event(topology: Topology, name: str, body: bytes = b"{}") -> Message:
    return Message(topology.events_exchange, "record.Deal.updated", body, message_id=name)


def events(topology: Topology, count: int) -> list[Message]:
    return [an_event(topology, f"m{no}") for no in range(count)]


def names(batch: Sequence[Received | Message]) -> list[str]:
    return [message.message_id for message in batch]


async def take(consumer: Consumer, count: int) -> list[Received]:
    """Exactly `count` messages, unacked; the test's deadline ends the wait."""
    taken: list[Received] = []
    while len(taken) < count:
        taken += await consumer.next_batch(count - len(taken), 0)
    return taken


async def publish(broker: Broker, messages: Sequence[Message]) -> None:
    assert await broker.publish(messages) == [None] * len(messages)


async def depth_is(broker: Broker, queue: str, depth: int) -> None:
    async def reached() -> bool:
        return (await broker.depths([queue]))[queue] == depth

    await eventually_async(reached, what=f"{queue} holds {depth}")


# -- publishing


@on_a_loop
async def test_a_message_arrives_with_its_body_headers_and_id(adapter: Adapter) -> None:
    topology = standard(adapter)
    headers: dict[str, HeaderValue] = {"text": "grün", "number": -7, "big": 2**40, "yes": True, "nothing": None}
    sent = Message(topology.events_exchange, "record.Deal.created", b'\x00\xff {"a": 1}', "evt_1", headers)
    async with opened(adapter, topology) as broker:
        await publish(broker, [sent])
        consumer = await broker.consume(topology.events, 10)
        (received,) = await take(consumer, 1)
        assert (received.queue, received.message_id) == (topology.events, "evt_1")
        assert received.body == sent.body
        assert dict(received.headers) == headers
        assert received.redelivered is False


@on_a_loop
async def test_bytes_stay_bytes_in_a_header(adapter: Adapter) -> None:
    topology = standard(adapter)
    headers: dict[str, HeaderValue] = {"utf8": b"plain", "raw": b"\x00\xfe\xff"}
    async with opened(adapter, topology) as broker:
        await publish(broker, [Message(topology.deliver_exchange, "deliver", b"", "m", headers)])
        (received,) = await take(await broker.consume(topology.deliver, 1), 1)
        assert dict(received.headers) == headers


@on_a_loop
async def test_an_empty_body_and_no_headers_arrive_as_such(adapter: Adapter) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        await publish(broker, [Message(topology.deliver_exchange, "deliver", b"")])
        (received,) = await take(await broker.consume(topology.deliver, 1), 1)
        assert (received.body, received.message_id, dict(received.headers)) == (b"", "", {})


@on_a_loop
async def test_a_message_of_200_kB_arrives_whole(adapter: Adapter) -> None:
    topology = standard(adapter)
    body = bytes(range(256)) * 800
    async with opened(adapter, topology) as broker:
        await publish(broker, [an_event(topology, "large", body)])
        (received,) = await take(await broker.consume(topology.events, 1), 1)
        assert received.body == body


@on_a_loop
async def test_messages_leave_a_queue_in_the_order_of_publishing(adapter: Adapter) -> None:
    topology = standard(adapter)
    sent = events(topology, 100)
    async with opened(adapter, topology) as broker:
        for first in range(0, 100, 10):
            await publish(broker, sent[first : first + 10])
        consumer = await broker.consume(topology.events, 100)
        assert names(await take(consumer, 100)) == names(sent)


@on_a_loop
async def test_answers_stand_in_the_order_of_the_messages(adapter: Adapter) -> None:
    topology = standard(adapter)
    good, lost = an_event(topology, "good"), Message(topology.wait_exchange, "no such delay", b"")
    async with opened(adapter, topology) as broker:
        answers = await broker.publish([good, lost, good, lost, lost, good])
        words = [answer and answer.split()[0].rstrip(":") for answer in answers]
        assert words == [None, "unroutable", None, "unroutable", "unroutable", None]
        await depth_is(broker, topology.events, 3)


@on_a_loop
async def test_publishing_nothing_answers_nothing(adapter: Adapter) -> None:
    async with opened(adapter, standard(adapter)) as broker:
        assert await broker.publish([]) == []


@on_a_loop
async def test_publishers_at_the_same_time_get_their_own_answers(adapter: Adapter) -> None:
    topology = standard(adapter)
    lost = Message(topology.wait_exchange, "no such delay", b"")
    async with opened(adapter, topology) as broker:
        batches = [[an_event(topology, f"m{no}")] if no % 2 else [lost] for no in range(60)]
        answers = await asyncio.gather(*(broker.publish(batch) for batch in batches))
        assert [answer is None for (answer,) in answers] == [bool(no % 2) for no in range(60)]


@on_a_loop
async def test_2000_messages_in_one_burst_arrive_once_each(adapter: Adapter) -> None:
    topology = standard(adapter)
    sent = events(topology, 2000)
    async with opened(adapter, topology) as broker:
        consumer = await broker.consume(topology.events, 300)
        publishing = asyncio.create_task(broker.publish(sent))
        received: list[Received] = []
        while len(received) < 2000:
            batch = await consumer.next_batch(250, 0.002)
            received += batch
            consumer.ack(batch)
        assert await publishing == [None] * 2000
        assert names(received) == names(sent)
        await depth_is(broker, topology.events, 0)


# -- routing


@pytest.mark.parametrize("key", ["record.Deal.created", "record.Deal", "record", "record.a.b.c", "record..x"])
@on_a_loop
async def test_record_hash_takes_every_key_that_begins_with_the_word_record(adapter: Adapter, key: str) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        await publish(broker, [Message(topology.events_exchange, key, b"")])
        await depth_is(broker, topology.events, 1)


@pytest.mark.parametrize("key", ["Deal.record", "records.Deal", "Record.Deal", ""])
@on_a_loop
async def test_what_no_queue_wants_goes_to_the_alternate_exchange(adapter: Adapter, key: str) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        await publish(broker, [Message(topology.events_exchange, key, b"", "stray")])
        assert names(await take(await broker.consume(topology.unrouted, 1), 1)) == ["stray"]
        assert await broker.depths([topology.events]) == {topology.events: 0}


@on_a_loop
async def test_a_star_stands_for_exactly_one_word(adapter: Adapter) -> None:
    topology = with_queue(adapter, "topic", Queue("starred", (("x", "a.*.c"),)))
    async with opened(adapter, topology) as broker:
        keys = ["a.b.c", "a.c", "a.b.b.c", "a.b.cc", "a.x-y.c"]
        answers = await broker.publish([Message(f"{adapter.prefix}x", key, b"", key) for key in keys])
        assert [key for key, answer in zip(keys, answers, strict=True) if answer is None] == ["a.b.c", "a.x-y.c"]


@on_a_loop
async def test_a_fanout_gives_every_queue_its_copy(adapter: Adapter) -> None:
    topology = with_queue(adapter, "fanout", Queue("one", (("x", ""),)), Queue("two", (("x", "key"),)))
    async with opened(adapter, topology) as broker:
        await publish(broker, [Message(f"{adapter.prefix}x", "anything", b"copy", "m")])
        for queue in ("one", "two"):
            (received,) = await take(await broker.consume(adapter.prefix + queue, 1), 1)
            assert (received.body, received.message_id) == (b"copy", "m")


@on_a_loop
async def test_a_queue_bound_twice_gets_one_copy(adapter: Adapter) -> None:
    topology = with_queue(adapter, "topic", Queue("both", (("x", "a.#"), ("x", "#.z"))))
    async with opened(adapter, topology) as broker:
        await publish(broker, [Message(f"{adapter.prefix}x", "a.z", b"")])
        await depth_is(broker, f"{adapter.prefix}both", 1)


# -- consuming


@on_a_loop
async def test_prefetch_bounds_what_is_handed_out(adapter: Adapter) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        await publish(broker, events(topology, 10))
        consumer = await broker.consume(topology.events, 3)
        first = await take(consumer, 3)
        await depth_is(broker, topology.events, 7)
        consumer.ack(first[:1])
        assert names(await take(consumer, 1)) == ["m3"]
        await depth_is(broker, topology.events, 6)


@on_a_loop
async def test_a_batch_has_at_most_what_was_asked_for(adapter: Adapter) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        await publish(broker, events(topology, 10))
        consumer = await broker.consume(topology.events, 10)
        await depth_is(broker, topology.events, 0)  # all ten are on their way to us
        seen: list[str] = []
        while len(seen) < 10:
            batch = await consumer.next_batch(4, 0.5)
            assert 1 <= len(batch) <= 4
            seen += names(batch)
        assert seen == [f"m{no}" for no in range(10)]


@on_a_loop
async def test_a_batch_waits_for_its_first_message(adapter: Adapter) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        consumer = await broker.consume(topology.events, 10)
        waiting = asyncio.create_task(consumer.next_batch(10, 0))
        await publish(broker, events(topology, 1))
        assert names(await waiting) == ["m0"]


@on_a_loop
async def test_a_cancelled_wait_loses_no_message(adapter: Adapter) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        consumer = await broker.consume(topology.events, 10)
        for no in range(20):
            waiting = asyncio.create_task(consumer.next_batch(10, 5))
            await publish(broker, [an_event(topology, f"m{no}")])
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            received = await take(consumer, 1)
            assert names(received) == [f"m{no}"]
            consumer.ack(received)


@on_a_loop
async def test_two_consumers_share_a_queue_without_duplicates(adapter: Adapter) -> None:
    topology = standard(adapter)
    received: list[str] = []

    async def work(consumer: Consumer) -> None:
        while batch := await consumer.next_batch(5, 0):
            received.extend(names(batch))
            consumer.ack(batch)

    async with opened(adapter, topology) as broker:
        consumers = [await broker.consume(topology.events, 5) for _ in range(2)]
        working = [asyncio.create_task(work(consumer)) for consumer in consumers]
        await publish(broker, events(topology, 300))
        await eventually_async(lambda: len(received) >= 300)
        for consumer in consumers:
            await consumer.stop()
        await asyncio.gather(*working)
    assert sorted(received) == sorted(names(events(topology, 300)))


@on_a_loop
async def test_each_of_two_consumers_has_its_own_prefetch(adapter: Adapter) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        await publish(broker, events(topology, 10))
        first = await take(await broker.consume(topology.events, 3), 3)
        second = await take(await broker.consume(topology.events, 2), 2)
        assert names(first + second) == ["m0", "m1", "m2", "m3", "m4"]
        await depth_is(broker, topology.events, 5)


# -- ack, and what comes again


@on_a_loop
async def test_an_acked_message_never_comes_again(adapter: Adapter) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        await publish(broker, events(topology, 5))
        consumer = await broker.consume(topology.events, 10)
        consumer.ack(await take(consumer, 5))
        await publish(broker, [an_event(topology, "later")])
        assert names(await take(consumer, 1)) == ["later"]
    async with opened(adapter, topology) as broker:
        (received,) = await take(await broker.consume(topology.events, 10), 1)
        assert received.message_id == "later"


@on_a_loop
async def test_closing_sends_the_acks_that_are_on_their_way(adapter: Adapter) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        await publish(broker, events(topology, 500))
        consumer = await broker.consume(topology.events, 500)
        for received in await take(consumer, 500):
            consumer.ack([received])
    async with opened(adapter, topology) as broker:
        await publish(broker, [an_event(topology, "only")])
        assert names(await take(await broker.consume(topology.events, 10), 1)) == ["only"]
        await depth_is(broker, topology.events, 0)


@on_a_loop
async def test_unacked_messages_come_again_after_close_and_say_so(adapter: Adapter) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        await publish(broker, events(topology, 3))
        await take(await broker.consume(topology.events, 10), 3)
    async with opened(adapter, topology) as broker:
        again = await take(await broker.consume(topology.events, 10), 3)
        assert names(again) == ["m0", "m1", "m2"]
        assert [received.redelivered for received in again] == [True, True, True]


@on_a_loop
async def test_acks_out_of_order_end_those_messages_and_no_others(adapter: Adapter) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        await publish(broker, events(topology, 6))
        consumer = await broker.consume(topology.events, 10)
        taken = await take(consumer, 6)
        consumer.ack([taken[3]])
        consumer.ack([taken[5], taken[0]])
    async with opened(adapter, topology) as broker:
        again = await take(await broker.consume(topology.events, 10), 3)
        assert names(again) == ["m1", "m2", "m4"]
        await depth_is(broker, topology.events, 0)


@on_a_loop
async def test_an_ack_of_a_broker_closed_before_is_dropped(adapter: Adapter) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        await publish(broker, events(topology, 1))
        consumer = await broker.consume(topology.events, 1)
        stale = await take(consumer, 1)
    async with opened(adapter, topology) as broker:
        await take(await broker.consume(topology.events, 1), 1)
        consumer.ack(stale)
    async with opened(adapter, topology) as broker:
        assert names(await take(await broker.consume(topology.events, 1), 1)) == ["m0"]


@on_a_loop
async def test_ready_messages_outlive_the_broker(adapter: Adapter) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        await publish(broker, events(topology, 20))
    async with opened(adapter, topology) as broker:
        await depth_is(broker, topology.events, 20)
        received = await take(await broker.consume(topology.events, 20), 20)
        assert names(received) == names(events(topology, 20))
        assert not any(message.redelivered for message in received)


@on_a_loop
async def test_a_message_lost_too_often_goes_to_the_dead_queue(adapter: Adapter) -> None:
    topology = with_queue(adapter, "direct", Queue("fragile", (("x", "in"),), delivery_limit=2))
    handed_out = 0
    for round_no in range(6):
        async with opened(adapter, topology) as broker:
            if round_no == 0:
                await publish(broker, [Message(f"{adapter.prefix}x", "in", b"poison", "p", {"k": "v"})])
            consumer = await broker.consume(f"{adapter.prefix}fragile", 1)
            handing = asyncio.create_task(consumer.next_batch(1, 0))
            dying = asyncio.create_task(depth_is(broker, topology.dead, 1))
            await asyncio.wait({handing, dying}, return_when=asyncio.FIRST_COMPLETED)
            dead, handed_out = not handing.done(), handed_out + handing.done()
            dying.cancel()
            handing.cancel()
            await asyncio.gather(dying, handing, return_exceptions=True)
            if dead:
                (received,) = await take(await broker.consume(topology.dead, 1), 1)
                assert (received.body, received.message_id, received.headers["k"]) == (b"poison", "p", "v")
                break
    else:
        pytest.fail("the message was handed out without end")
    assert handed_out == 3  # the first time, and twice more


# -- pause, resume, stop, close


@on_a_loop
async def test_a_paused_consumer_takes_nothing_until_it_resumes(adapter: Adapter) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        paused = await broker.consume(topology.events, 10)
        await paused.pause()
        await publish(broker, events(topology, 5))
        other = await broker.consume(topology.events, 10)
        received = await take(other, 5)
        assert names(received) == [f"m{no}" for no in range(5)]
        other.ack(received)
        await other.stop()
        await publish(broker, [an_event(topology, "after")])
        await depth_is(broker, topology.events, 1)
        await paused.resume()
        assert names(await take(paused, 1)) == ["after"]


@on_a_loop
async def test_what_was_handed_out_before_a_pause_is_still_ours_to_ack(adapter: Adapter) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        await publish(broker, events(topology, 4))
        consumer = await broker.consume(topology.events, 2)
        taken = await take(consumer, 2)
        await consumer.pause()
        consumer.ack(taken)
        await consumer.resume()
        assert names(await take(consumer, 2)) == ["m2", "m3"]
    async with opened(adapter, topology) as broker:
        again = await take(await broker.consume(topology.events, 10), 2)
        assert names(again) == ["m2", "m3"]


@on_a_loop
async def test_stop_hands_back_what_no_batch_has_returned(adapter: Adapter) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        await publish(broker, events(topology, 10))
        stopped = await broker.consume(topology.events, 10)
        taken = await take(stopped, 4)
        await depth_is(broker, topology.events, 0)
        await stopped.stop()
        assert await stopped.next_batch(10, 0) == []
        rest = await take(await broker.consume(topology.events, 10), 6)
        assert names(taken + rest) == [f"m{no}" for no in range(10)]
        stopped.ack(taken)
    async with opened(adapter, topology) as broker:
        again = await take(await broker.consume(topology.events, 10), 6)
        assert names(again) == names(rest)


@on_a_loop
async def test_a_stopped_consumer_answers_with_an_empty_batch(adapter: Adapter) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        consumer = await broker.consume(topology.events, 10)
        waiting = asyncio.create_task(consumer.next_batch(10, 5))
        await asyncio.sleep(0)  # let it begin to wait
        await consumer.stop()
        assert await waiting == []
        await publish(broker, events(topology, 1))
        assert await consumer.next_batch(10, 5) == []
        await depth_is(broker, topology.events, 1)
        await consumer.stop()


@on_a_loop
async def test_closing_stops_every_consumer_and_may_be_done_twice(adapter: Adapter) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        consumer = await broker.consume(topology.events, 10)
        waiting = asyncio.create_task(consumer.next_batch(10, 5))
        await asyncio.sleep(0)
        await broker.close()
        assert await waiting == []
        await broker.close()


@on_a_loop
async def test_a_closed_broker_says_unavailable(adapter: Adapter) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        assert broker.connected
    assert not broker.connected
    answers = await broker.publish(events(topology, 2))
    assert [str(answer).split(":")[0] for answer in answers] == ["unavailable", "unavailable"]
    with pytest.raises(Unavailable):
        await broker.depths([topology.events])
    with pytest.raises(Unavailable):
        await broker.declare(topology)


# -- delays


def waiting(topology: Topology, place: int, name: str) -> Message:
    """A message for the wait queue at this place of the schedule, as the dispatcher sends it."""
    return Message(topology.wait_exchange, str(topology.waits[place][0]), b"task", name, {"attempt": 2})


@on_a_loop
async def test_a_wait_queue_hands_its_message_on_after_its_delay(adapter: Adapter) -> None:
    topology = standard(adapter, [0.2])
    async with opened(adapter, topology) as broker:
        consumer = await broker.consume(topology.deliver, 10)
        begun = time.monotonic()
        await publish(broker, [waiting(topology, 1, "m")])
        (received,) = await take(consumer, 1)
        assert time.monotonic() - begun >= 0.199
        assert (received.queue, received.body, received.message_id) == (topology.deliver, b"task", "m")
        assert received.headers["attempt"] == 2
        await depth_is(broker, topology.waits[1][1], 0)


@on_a_loop
async def test_a_short_delay_is_not_held_back_by_a_long_one(adapter: Adapter) -> None:
    topology = standard(adapter, [0.1, 600])
    async with opened(adapter, topology) as broker:
        consumer = await broker.consume(topology.deliver, 10)
        await publish(broker, [waiting(topology, -1, "long"), waiting(topology, 0, "short")])
        assert names(await take(consumer, 1)) == ["short"]
        await depth_is(broker, topology.waits[-1][1], 1)


@on_a_loop
async def test_many_messages_in_one_wait_queue_all_come_once_in_order(adapter: Adapter) -> None:
    topology = standard(adapter, [0.1])
    sent = [waiting(topology, 0, f"m{no}") for no in range(1200)]
    async with opened(adapter, topology) as broker:
        consumer = await broker.consume(topology.deliver, 2000)
        await publish(broker, sent)
        received = await take(consumer, 1200)
        assert names(received) == names(sent)
        await depth_is(broker, topology.waits[0][1], 0)
        await depth_is(broker, topology.deliver, 0)


@on_a_loop
async def test_a_delay_goes_on_while_nobody_is_connected(adapter: Adapter) -> None:
    topology = standard(adapter, [0.1])
    async with opened(adapter, topology) as broker:
        await publish(broker, [waiting(topology, 0, "m")])
    async with opened(adapter, topology) as broker:
        assert names(await take(await broker.consume(topology.deliver, 1), 1)) == ["m"]


@on_a_loop
async def test_a_message_can_go_through_the_same_delay_again_and_again(adapter: Adapter) -> None:
    topology = standard(adapter, [0.05])
    async with opened(adapter, topology) as broker:
        consumer = await broker.consume(topology.deliver, 10)
        for _ in range(4):
            await publish(broker, [waiting(topology, 0, "m")])
            received = await take(consumer, 1)
            assert names(received) == ["m"]
            consumer.ack(received)


# -- limits


@on_a_loop
async def test_a_full_queue_refuses_and_keeps_what_it_confirmed(adapter: Adapter) -> None:
    topology = with_queue(adapter, "direct", Queue("small", (("x", "in"),), max_length=5))
    small = f"{adapter.prefix}small"
    async with opened(adapter, topology) as broker:
        confirmed: list[str] = []
        refusals: list[str] = []
        for no in range(20):  # one at a time: a quorum queue is allowed to notice a little late
            (answer,) = await broker.publish([Message(f"{adapter.prefix}x", "in", b"", f"m{no}")])
            if answer is None:
                confirmed.append(f"m{no}")
            else:
                refusals.append(answer)
        assert 5 <= len(confirmed) <= 7
        assert {refusal.split()[0].rstrip(":") for refusal in refusals} == {"nacked"}
        consumer = await broker.consume(small, 20)
        received = await take(consumer, len(confirmed))
        assert names(received) == confirmed
        consumer.ack(received)
        await depth_is(broker, small, 0)

        async def has_room() -> bool:
            return await broker.publish([Message(f"{adapter.prefix}x", "in", b"", "again")]) == [None]

        await eventually_async(has_room)
        assert names(await take(consumer, 1)) == ["again"]


@on_a_loop
async def test_a_window_forgets_its_oldest_and_confirms_all(adapter: Adapter) -> None:
    topology = with_queue(adapter, "direct", Queue("window", (("x", "in"),), max_length=5, drop_oldest=True))
    window = f"{adapter.prefix}window"
    async with opened(adapter, topology) as broker:
        await publish(broker, [Message(f"{adapter.prefix}x", "in", b"", f"m{no}") for no in range(12)])
        await depth_is(broker, window, 5)
        received = await take(await broker.consume(window, 10), 5)
        assert names(received) == ["m7", "m8", "m9", "m10", "m11"]


# -- declarations, depths, self-check


@on_a_loop
async def test_depths_count_what_is_ready_in_each_queue(adapter: Adapter) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        await publish(broker, [*events(topology, 3), Message(topology.deliver_exchange, "urgent", b"")])
        for queue, depth in ((topology.events, 3), (topology.urgent, 1), (topology.deliver, 0)):
            await depth_is(broker, queue, depth)
        asked = [topology.events, topology.urgent, topology.deliver]
        assert await broker.depths(asked) == dict(zip(asked, [3, 1, 0], strict=True))
        assert await broker.depths([]) == {}


@on_a_loop
async def test_declaring_twice_changes_nothing(adapter: Adapter) -> None:
    topology = standard(adapter, [600])
    async with opened(adapter, topology) as broker:
        await publish(broker, [*events(topology, 2), waiting(topology, 0, "w")])
        await broker.declare(topology)
        await publish(broker, events(topology, 1))
        await depth_is(broker, topology.events, 3)
        await depth_is(broker, topology.waits[0][1], 1)


@on_a_loop
async def test_a_queue_that_exists_with_other_arguments_is_refused_by_name(adapter: Adapter) -> None:
    async with opened(adapter, with_queue(adapter, "direct", Queue("same", (("x", "in"),), max_length=5))) as broker:
        with pytest.raises(SettingsError, match=f"{adapter.prefix}same"):
            await broker.declare(with_queue(adapter, "direct", Queue("same", (("x", "in"),), max_length=6)))
        await publish(broker, [Message(f"{adapter.prefix}x", "in", b"")])


@on_a_loop
async def test_the_self_check_passes_and_leaves_nothing_behind(adapter: Adapter) -> None:
    topology = standard(adapter)
    async with opened(adapter, topology) as broker:
        await asyncio.gather(broker.self_check(topology), broker.self_check(topology))
        await broker.self_check(topology)
    async with opened(adapter, topology) as broker:  # what was only handed out would be ready again
        for queue in topology.queues:
            await depth_is(broker, queue.name, 0)


@on_a_loop
async def test_the_self_check_refuses_a_wait_queue_that_leads_nowhere(adapter: Adapter) -> None:
    topology = standard(adapter)
    lost = (topology.probe_exchange, "nowhere")
    queues = tuple(
        replace(queue, dead_letter=lost) if ".probe.100" in queue.name else queue for queue in topology.queues
    )
    topology = replace(topology, queues=queues)
    async with opened(adapter, topology) as broker:
        with pytest.raises(SettingsError):
            await broker.self_check(topology)
