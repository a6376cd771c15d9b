"""What is RabbitMQ's own: frames, confirms, alarms, restarts. What both adapters promise is test_broker_contract.py."""

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pika
import pytest

from shared.broker import rabbitmq, rabbitmq_connection, rabbitmq_consumer, rabbitmq_publisher
from shared.broker.port import Broker, HeaderValue, Message, Received
from shared.broker.rabbitmq import RabbitMQ, arguments_of
from shared.broker.rabbitmq_connection import check_version
from shared.broker.rabbitmq_frames import encode_content, encode_publish
from shared.broker.rabbitmq_publisher import Publisher
from shared.broker.topology import Queue, Topology, build
from shared.errors import SettingsError, Unavailable
from tests.servers import OwnRabbitMQ, free_port
from tests.servers.proxy import Proxy
from tests.waiting import eventually_async, run

DEADLINE_S = 120


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def sync(*args: Any, **kwargs: Any) -> None:
        run(test(*args, **kwargs), DEADLINE_S)

    return sync


@pytest.fixture(autouse=True)
def _quick_reconnects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq_connection, "LONGEST_WAIT_S", 0.5)


@asynccontextmanager
async def opened(url: str, *topologies: Topology) -> AsyncIterator[RabbitMQ]:
    broker = RabbitMQ(url, name="test")
    await broker.start()
    try:
        await eventually_async(lambda: broker.connected, 30)
        for topology in topologies:
            await broker.declare(topology)
        yield broker
    finally:
        await broker.close()


def tasks(topology: Topology, count: int, first: int = 0) -> list[Message]:
    return [Message(topology.deliver_exchange, "deliver", b"x" * 100, f"m{no}") for no in range(first, first + count)]


def with_max_length(topology: Topology, max_length: int) -> Topology:
    """The topology with that length for the deliver queue."""
    shorten = [
        replace(queue, max_length=max_length) if queue.name == topology.deliver else queue for queue in topology.queues
    ]
    return replace(topology, queues=tuple(shorten))


async def publish(broker: Broker, messages: list[Message]) -> None:
    assert await broker.publish(messages) == [None] * len(messages)


def words(reasons: list[str | None]) -> list[str]:
    """The first word of each reason, `ok` for a confirmed message."""
    return [reason.partition(":")[0] if reason else "ok" for reason in reasons]


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Level and reason of each line about the broker."""
    return [(record.levelname, str(getattr(record, "reason", ""))) for record in caplog.records]


async def depth(broker: Broker, queue: str) -> int:
    return (await broker.depths([queue]))[queue]


# -- pure: what goes over the wire


@pytest.mark.parametrize(
    "message",
    [
        Message("x", "k", b"body", "evt_1"),
        Message("x", "k", b"", ""),
        Message("x", "k", b"b", "é" * 100, {"hop": 2**40, "traceparent": "00-ab", "b": b"\xff", "n": None, "t": True}),
        Message("", "k" * 255, b"x" * 5000, "m"),
    ],
    ids=["a plain message", "nothing in it", "headers and an id beyond ASCII", "a body of two frames"],
)
def test_our_frames_are_those_that_pika_would_send(message: Message) -> None:
    sent: list[bytes] = []
    connection = SimpleNamespace(_body_max_length=4096 - 8, _output_marshaled_frames=sent.extend)
    method = pika.spec.Basic.Publish(exchange=message.exchange, routing_key=message.routing_key, mandatory=True)
    headers: dict[str, HeaderValue] | None = dict(message.headers) or None
    properties = pika.BasicProperties(delivery_mode=2, message_id=message.message_id or None, headers=headers)
    pika.connection.Connection._send_message(connection, 7, method, (properties, message.body))
    ours = encode_publish(7, message.exchange, message.routing_key) + encode_content(7, message, 4096)
    assert ours == b"".join(sent)


@pytest.mark.parametrize(
    ("queue", "arguments"),
    [
        (
            Queue("work", (), dead_letter=("dlx", "dead")),
            {
                "x-queue-type": "quorum",
                "x-overflow": "reject-publish",
                "x-delivery-limit": 20,
                "x-max-length": 500_000,
                "x-dead-letter-exchange": "dlx",
                "x-dead-letter-routing-key": "dead",
                "x-dead-letter-strategy": "at-least-once",
            },
        ),
        (
            Queue("wait", (), ttl_ms=5000, dead_letter=("deliver", "d"), delivery_limit=None, max_length=None),
            {
                "x-queue-type": "quorum",
                "x-overflow": "reject-publish",
                "x-message-ttl": 5000,
                "x-dead-letter-exchange": "deliver",
                "x-dead-letter-routing-key": "d",
                "x-dead-letter-strategy": "at-least-once",
            },
        ),
        (
            Queue("window", (), delivery_limit=None, max_length=10, drop_oldest=True),
            {"x-queue-type": "quorum", "x-overflow": "drop-head", "x-max-length": 10},
        ),
    ],
    ids=["a work queue", "a wait queue", "a window that forgets"],
)
def test_arguments_of_a_queue(queue: Queue, arguments: dict[str, str | int]) -> None:
    assert arguments_of(queue) == arguments


@pytest.mark.parametrize("version", ["3.9.29", "3.8.0", "2.8.7"])
def test_an_old_broker_is_refused(version: str) -> None:
    connection = SimpleNamespace(server_properties={"product": "RabbitMQ", "version": version})
    with pytest.raises(SettingsError, match=rf"RabbitMQ {version}.*3\.10 or newer"):
        check_version(connection)


@pytest.mark.parametrize(
    ("product", "version"), [("RabbitMQ", "3.10.0"), ("RabbitMQ", "4.0.5"), ("RabbitMQ", "10.1"), ("LavinMQ", "2.0.0")]
)
def test_a_newer_or_another_broker_is_not_judged_by_its_number(product: str, version: str) -> None:
    check_version(SimpleNamespace(server_properties={"product": product, "version": version}))


# -- publishing


def test_returns_that_come_before_one_confirmation_for_all_find_their_messages() -> None:
    """The broker may return several messages and then confirm them together; two may even look the same."""

    async def scenario() -> list[str | None]:
        publisher = Publisher(lambda _why: None)
        connection = SimpleNamespace(params=SimpleNamespace(frame_max=131072), _output_marshaled_frames=lambda _: None)
        raw = SimpleNamespace(is_open=True, channel_number=1, connection=connection)
        publisher._channel = SimpleNamespace(raw=raw)  # type: ignore[assignment]
        good, lost = Message("x", "good", b""), Message("x", "lost", b"")
        answer = asyncio.ensure_future(publisher.publish([good, lost, good, lost, lost]))
        await asyncio.sleep(0)
        for _ in range(2):
            method = SimpleNamespace(exchange="x", routing_key="lost")
            publisher._on_return(None, method, pika.BasicProperties(), b"")
        publisher._on_confirm(pika.frame.Method(1, pika.spec.Basic.Nack(5, multiple=False)))
        publisher._on_confirm(pika.frame.Method(1, pika.spec.Basic.Ack(4, multiple=True)))
        return await answer

    assert words(run(scenario())) == ["ok", "unroutable", "ok", "unroutable", "nacked"]


@on_a_loop
async def test_a_body_longer_than_a_frame_arrives_whole(rabbitmq_url: str, queue_prefix: str) -> None:
    topology = build(queue_prefix, ())
    body = bytes(range(256)) * 2000
    async with opened(rabbitmq_url, topology) as broker:
        await publish(broker, [Message(topology.deliver_exchange, "deliver", body, "big"), *tasks(topology, 1)])
        consumer = await broker.consume(topology.deliver, 10)
        received = [*await consumer.next_batch(1, 0), *await consumer.next_batch(1, 0)]
        assert [message.body for message in received] == [body, b"x" * 100]


@on_a_loop
async def test_each_answer_belongs_to_its_message_when_some_are_refused(rabbitmq_url: str, queue_prefix: str) -> None:
    topology = with_max_length(build(queue_prefix, ()), 3)
    nowhere = Message(topology.deliver_exchange, "no such key", b"", "n")
    urgent = Message(topology.deliver_exchange, "urgent", b"", "u")
    async with opened(rabbitmq_url, topology) as broker:

        async def full() -> bool:  # a quorum queue says so a little late
            return "nacked" in words(await broker.publish(tasks(topology, 5)))

        await eventually_async(full, 10)
        held = await depth(broker, topology.deliver)
        batch = [message for task in tasks(topology, 20) for message in (task, nowhere, urgent)]
        reasons = words(await broker.publish(batch))
        assert reasons == ["nacked", "unroutable", "ok"] * 20
        assert await depth(broker, topology.deliver) == held
        assert await depth(broker, topology.urgent) == 20


@on_a_loop
async def test_an_exchange_that_is_missing_takes_only_its_own_messages_down(
    rabbitmq_url: str, queue_prefix: str
) -> None:
    topology = build(queue_prefix, ())
    async with opened(rabbitmq_url, topology) as broker:
        reasons = await broker.publish([*tasks(topology, 1), Message(f"{queue_prefix}gone", "k", b"", "m")])
        assert words(reasons) in (["ok", "unroutable"], ["unconfirmed", "unroutable"])
        await eventually_async(lambda: broker.connected, 10)
        await publish(broker, tasks(topology, 1))


@on_a_loop
async def test_a_broker_that_falls_silent_leaves_messages_unconfirmed(
    rabbitmq_url: str, queue_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topology = build(queue_prefix, ())
    monkeypatch.setattr(rabbitmq_publisher, "CONFIRM_S", 0.3)
    async with Proxy(rabbitmq_url) as proxy, opened(proxy.url, topology) as broker:
        proxy.freeze()
        reasons = await broker.publish(tasks(topology, 3))
        assert [reason for reason in reasons if reason] == ["unconfirmed: no answer in 0 s"] * 3
        assert not broker._publisher._unconfirmed  # nothing is kept for answers that nobody waits for
        proxy.thaw()
        assert words(await broker.publish(tasks(topology, 2, first=3))) == ["ok", "ok"]  # late answers are not theirs
        assert await depth(broker, topology.deliver) == 5


@on_a_loop
async def test_closing_does_not_hang_on_a_silent_broker(rabbitmq_url: str, queue_prefix: str) -> None:
    async with Proxy(rabbitmq_url) as proxy:
        broker = RabbitMQ(proxy.url)
        await broker.start()
        await eventually_async(lambda: broker.connected, 30)
        await broker.consume("any", 1)
        proxy.freeze()
        await asyncio.wait_for(broker.close(), 20)


@on_a_loop
async def test_closing_in_the_middle_of_a_handshake_is_quiet(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq_connection, "ATTEMPT_S", 0.5)
    accepted: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _reader, writer: accepted.append(writer), "127.0.0.1", 0)
    broker = RabbitMQ(f"amqp://127.0.0.1:{silent.sockets[0].getsockname()[1]}")
    await broker.start()
    await eventually_async(lambda: len(accepted) == 2)
    await broker.close()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
    for writer in accepted:
        writer.transport.abort()
    silent.close()


@on_a_loop
async def test_a_cut_connection_leaves_messages_unconfirmed_and_is_opened_again(
    rabbitmq_url: str, queue_prefix: str
) -> None:
    topology = build(queue_prefix, ())
    async with Proxy(rabbitmq_url) as proxy, opened(proxy.url, topology) as broker:
        proxy.freeze()
        pending = asyncio.ensure_future(broker.publish(tasks(topology, 3)))
        await asyncio.sleep(0)
        proxy.cut()
        reasons = await pending
        assert words(reasons) == ["unconfirmed"] * 3
        assert "no answer" not in str(reasons)  # known at once, not after the deadline
        assert words(await broker.publish(tasks(topology, 1))) == ["unavailable"]
        proxy.thaw()
        await eventually_async(lambda: broker.connected, 30)
        await publish(broker, tasks(topology, 1))


# -- consuming


@on_a_loop
async def test_pausing_under_way_costs_no_delivery(rabbitmq_url: str, queue_prefix: str) -> None:
    """A rejection of what is on its way would count towards the delivery limit."""
    topology = build(queue_prefix, ())
    async with opened(rabbitmq_url, topology) as broker:
        await publish(broker, tasks(topology, 500))
        consumer = await broker.consume(topology.deliver, 500)
        received: list[Received] = []
        while len(received) < 500:
            batch = await consumer.next_batch(20, 0)
            received += batch
            consumer.ack(batch)
            await consumer.pause()
            await consumer.resume()
        assert [message.message_id for message in received] == [f"m{no}" for no in range(500)]
        assert not any(message.redelivered for message in received)


@on_a_loop
async def test_acks_with_gaps_keep_the_channel_open(rabbitmq_url: str, queue_prefix: str) -> None:
    """A `multiple` ack that names a tag acked before is an error to RabbitMQ, which closes the channel."""
    topology = build(queue_prefix, ())
    async with opened(rabbitmq_url, topology) as broker:
        await publish(broker, tasks(topology, 10))
        consumer = await broker.consume(topology.deliver, 10)
        received: list[Received] = []
        while len(received) < 10:
            received += await consumer.next_batch(10, 0)
        for places in ([4], [2, 7], [0, 1, 3], [3], [9, 8, 5, 6], [0]):
            consumer.ack([received[place] for place in places])
            await asyncio.sleep(0)
        await publish(broker, tasks(topology, 1, first=10))
        (last,) = await consumer.next_batch(10, 0)
        assert (last.message_id, last.channel_no) == ("m10", received[0].channel_no)
        consumer.ack([last])
    async with opened(rabbitmq_url) as broker:
        assert await depth(broker, topology.deliver) == 0


@on_a_loop
async def test_an_ack_for_a_lost_channel_ends_nothing_of_the_new_one(rabbitmq_url: str, queue_prefix: str) -> None:
    topology = build(queue_prefix, ())
    async with Proxy(rabbitmq_url) as proxy, opened(proxy.url, topology) as broker:
        await publish(broker, tasks(topology, 1))
        consumer = await broker.consume(topology.deliver, 10)
        (before,) = await consumer.next_batch(1, 0)
        proxy.cut()
        (again,) = await consumer.next_batch(1, 0)
        assert (again.message_id, again.redelivered) == ("m0", True)
        assert again.channel_no != before.channel_no
        consumer.ack([before])  # the same delivery tag, on a channel that is no more
    async with opened(rabbitmq_url) as broker:
        assert await depth(broker, topology.deliver) == 1


@on_a_loop
async def test_a_deleted_queue_is_declared_and_consumed_again(
    rabbitmq_url: str, queue_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq_consumer, "REOPEN_S", 0.05)
    topology = build(queue_prefix, ())
    async with opened(rabbitmq_url, topology) as broker:
        await publish(broker, tasks(topology, 1))
        consumer = await broker.consume(topology.deliver, 10)
        consumer.ack(await consumer.next_batch(1, 0))

        def delete() -> None:
            with pika.BlockingConnection(pika.URLParameters(rabbitmq_url)) as connection:
                connection.channel().queue_delete(topology.deliver)

        await asyncio.to_thread(delete)

        async def published() -> bool:
            return await broker.publish(tasks(topology, 1, first=1)) == [None]

        await eventually_async(published, 10)
        (received,) = await consumer.next_batch(1, 0)
        assert received.message_id == "m1"


# -- the topology


@on_a_loop
async def test_other_arguments_are_refused_in_the_brokers_own_words(rabbitmq_url: str, queue_prefix: str) -> None:
    topology = build(queue_prefix, ())
    async with opened(rabbitmq_url, topology) as broker:
        with pytest.raises(SettingsError) as refused:
            await broker.declare(with_max_length(topology, 7))
        for words_of_it in (f"queue {topology.deliver} ", "x-max-length", "'7'", "'500000'", "HARI_QUEUE_PREFIX"):
            assert words_of_it in str(refused.value)
        assert broker.connected
        await publish(broker, tasks(topology, 1))


@on_a_loop
async def test_many_processes_may_check_at_once(rabbitmq_url: str, queue_prefix: str) -> None:
    topology = build(queue_prefix, ())
    async with opened(rabbitmq_url, topology) as one, opened(rabbitmq_url) as two, opened(rabbitmq_url) as three:
        await asyncio.gather(*(broker.self_check(topology) for broker in (one, two, three, one, two, three)))


@on_a_loop
async def test_another_process_s_probe_proves_the_same(
    rabbitmq_url: str, queue_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topology = build(queue_prefix, ())
    async with opened(rabbitmq_url, topology) as one, opened(rabbitmq_url) as two:

        async def taken_by_another(_messages: object) -> list[str | None]:
            return await two.publish([Message(topology.probe_exchange, "wait", b"", "theirs")])

        monkeypatch.setattr(one, "publish", taken_by_another)
        await one.self_check(topology)


@on_a_loop
async def test_a_probe_of_an_earlier_time_proves_nothing(
    rabbitmq_url: str, queue_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq, "CHECK_S", 0.5)
    topology = build(queue_prefix, ())
    leads_nowhere = [replace(queue, bindings=()) if queue.ttl_ms else queue for queue in topology.queues]
    async with opened(rabbitmq_url, replace(topology, queues=tuple(leads_nowhere))) as broker:
        await publish(broker, [Message(topology.probe_exchange, "back", b"", "old")] * 3)
        with pytest.raises(SettingsError, match=r"did not come back within .* \(unroutable"):
            await broker.self_check(topology)


@on_a_loop
async def test_a_broker_that_is_not_there_is_unavailable_at_once() -> None:
    broker = RabbitMQ(f"amqp://127.0.0.1:{free_port()}")
    await broker.start()
    try:
        topology = build("", ())
        for call in (broker.declare(topology), broker.self_check(topology), broker.depths(["q"])):
            with pytest.raises(Unavailable, match="refused"):
                await call
    finally:
        await broker.close()


# -- a server of our own: killed, short of memory, with users


@on_a_loop
async def test_everything_goes_on_after_the_broker_was_killed(
    own_rabbitmq_server: OwnRabbitMQ, queue_prefix: str
) -> None:
    server, topology = own_rabbitmq_server, build(queue_prefix, (0.2,))
    async with opened(server.url, topology) as broker:
        await publish(broker, tasks(topology, 100))
        consumer = await broker.consume(topology.deliver, 20)
        first = await consumer.next_batch(10, 0)
        consumer.ack(first)
        await asyncio.to_thread(server.sync)
        await asyncio.to_thread(server.kill)
        await eventually_async(lambda: not broker.connected, 10)
        assert words(await broker.publish(tasks(topology, 1))) == ["unavailable"]
        await asyncio.to_thread(server.restart)
        await eventually_async(lambda: broker.connected, 60)
        seen = {message.message_id for message in first}
        while len(seen) < 100:
            batch = await consumer.next_batch(50, 0)
            consumer.ack(batch)
            seen |= {message.message_id for message in batch}
        assert seen == {f"m{no}" for no in range(100)}
        await broker.self_check(topology)


@on_a_loop
async def test_a_broker_that_lost_everything_gets_its_topology_back(
    own_rabbitmq_server: OwnRabbitMQ, queue_prefix: str
) -> None:
    server, topology = own_rabbitmq_server, build(queue_prefix, ())
    async with opened(server.url, topology) as broker:
        consumer = await broker.consume(topology.deliver, 20)
        for words_of_it in (("stop_app",), ("force_reset",), ("start_app",)):
            await asyncio.to_thread(server.ctl, *words_of_it)
        await eventually_async(lambda: broker.connected, 60)
        await publish(broker, tasks(topology, 3))
        received: list[Received] = []
        while len(received) < 3:
            received += await consumer.next_batch(3, 0)
        assert [message.message_id for message in received] == ["m0", "m1", "m2"]


@on_a_loop
async def test_a_memory_alarm_makes_publishing_unavailable_and_consuming_goes_on(
    own_rabbitmq_server: OwnRabbitMQ, queue_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    server, topology = own_rabbitmq_server, build(queue_prefix, ())
    caplog.set_level(logging.INFO, "hari.broker")
    async with opened(server.url, topology) as broker:
        await publish(broker, tasks(topology, 10))
        consumer = await broker.consume(topology.deliver, 1)
        try:
            await asyncio.to_thread(server.ctl, "set_vm_memory_high_watermark", "0.00001")
            in_flight = asyncio.ensure_future(broker.publish(tasks(topology, 1, first=10)))  # meets the alarm
            await eventually_async(lambda: not broker.connected, 10)
            assert words(await broker.publish(tasks(topology, 1))) == ["unavailable"]
            for no in range(10):  # prefetch 1: each comes only once the ack of the one before was taken
                (message,) = await consumer.next_batch(1, 0)
                assert message.message_id == f"m{no}"
                consumer.ack([message])
        finally:
            await asyncio.to_thread(server.ctl, "set_vm_memory_high_watermark", "0.6")
        await eventually_async(lambda: broker.connected, 10)
        assert words(await in_flight) in (["ok"], ["unconfirmed"])
        await publish(broker, tasks(topology, 1, first=11))
    told = [record.getMessage() for record in caplog.records]
    assert [word for word in told if "blocked" in word] == ["broker.blocked", "broker.unblocked"]


@on_a_loop
async def test_a_user_that_may_not_enter_is_told_what_to_do_and_let_in_later(
    own_rabbitmq_server: OwnRabbitMQ, queue_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    server, topology = own_rabbitmq_server, build(queue_prefix, ())
    broker = RabbitMQ(server.url.replace("guest:guest@", "platform:secret@"))
    await broker.start()
    try:
        with pytest.raises(Unavailable, match=r"user 'platform'.*HARI_BROKER_URL"):
            await broker.declare(topology)
        await asyncio.to_thread(server.ctl, "add_user", "platform", "secret")
        await eventually_async(lambda: any("rabbitmqctl add_vhost" in reason for _, reason in logged(caplog)), 60)
        await asyncio.to_thread(server.ctl, "set_permissions", "platform", "", ".*", ".*")
        await eventually_async(lambda: broker.connected, 60)
        with pytest.raises(SettingsError, match=r"lacks a permission.*set_permissions"):
            await broker.declare(topology)
        await asyncio.to_thread(server.ctl, "set_permissions", "platform", ".*", ".*", ".*")
        await broker.declare(topology)
        await publish(broker, tasks(topology, 1))
    finally:
        await broker.close()
        await asyncio.to_thread(server.ctl, "delete_user", "platform")
    assert {level for level, reason in logged(caplog) if "HARI_BROKER_URL" in reason} == {"ERROR"}
    assert not any("secret" in reason for _, reason in logged(caplog))


@on_a_loop
async def test_publishers_and_consumers_at_full_speed_lose_nothing(rabbitmq_url: str, queue_prefix: str) -> None:
    """No time is asserted: the rate is printed, for people (pytest -s)."""
    topology = build(queue_prefix, ())
    count, started = 5000, time.monotonic()
    async with opened(rabbitmq_url, topology) as broker:
        consumer = await broker.consume(topology.deliver, 1000)
        batches = [broker.publish(tasks(topology, 250, first)) for first in range(0, count, 250)]
        publishing = asyncio.gather(*batches)
        seen: list[str] = []
        while len(seen) < count:
            batch = await consumer.next_batch(250, 0.002)
            consumer.ack(batch)
            seen += [message.message_id for message in batch]
        assert not any(reason for answers in await publishing for reason in answers)
        assert sorted(seen) == sorted(f"m{no}" for no in range(count))
        print(f"{count / (time.monotonic() - started):.0f} messages/s through the broker")
