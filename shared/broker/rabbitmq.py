"""The broker's port on RabbitMQ 3.10 and newer: two connections, the topology, the self-check.

Publish and consume have a connection each: at its memory alarm the broker blocks publishers, and must not block acks.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from shared.broker.port import Consumer, Message
from shared.broker.rabbitmq_connection import Channel, ChannelLost, Link, check_version
from shared.broker.rabbitmq_consumer import RabbitConsumer
from shared.broker.rabbitmq_publisher import Publisher
from shared.broker.topology import PROBE_MS, Queue, Topology
from shared.errors import SettingsError, Unavailable

CHECK_S = 5.0
PROBE_AGAIN_S = 0.3


class RabbitMQ:
    """Fills `shared.broker.port.Broker`. `name` is how the broker's own pages list our connections."""

    def __init__(self, url: str, *, name: str = "hari") -> None:
        logging.getLogger("pika").setLevel(logging.CRITICAL)  # it tells every reconnect as a handful of errors
        self._topologies: list[Topology] = []
        self._consumers: list[RabbitConsumer] = []
        self._publisher = Publisher(lambda why: self._publish_link.drop(why))
        self._publish_link = Link(url, f"{name} publish", self._on_publish_up, self._publisher.down)
        self._consume_link = Link(url, f"{name} consume", self._redeclare, lambda _why: None)

    @property
    def connected(self) -> bool:
        return self._publish_link.is_up and self._publisher.ready

    async def start(self) -> None:
        self._publish_link.start()
        self._consume_link.start()

    async def declare(self, topology: Topology) -> None:
        connection = await self._publish_link.up_now()
        check_version(connection)
        await declare(connection, topology)
        if topology not in self._topologies:
            self._topologies.append(topology)

    async def publish(self, messages: Sequence[Message]) -> list[str | None]:
        return await self._publisher.publish(messages)

    async def consume(self, queue: str, prefetch: int) -> Consumer:
        consumer = RabbitConsumer(self._consume_link, queue, prefetch, self._redeclare)
        self._consumers.append(consumer)
        return consumer

    async def depths(self, queues: Sequence[str]) -> dict[str, int]:
        channel = await Channel.open(await self._consume_link.up_now())
        try:
            return {
                queue: (await channel.call(channel.raw.queue_declare, queue=queue, passive=True)).message_count
                for queue in queues
            }
        finally:
            channel.close()

    async def self_check(self, topology: Topology) -> None:
        """As the port says. Any process's probe proves the same: several may check at once and take each other's.

        The purge and the look at `redelivered` leave out probes of an earlier time, without comparing clocks.
        """
        connection = await self._consume_link.up_now()
        check_version(connection)
        channel = await Channel.open(connection)
        loop = asyncio.get_running_loop()
        arrived, until = asyncio.Event(), loop.time() + CHECK_S
        outstanding: set[str] = set()
        fresh = False

        def on_probe(raw: Any, method: Any, properties: Any, _body: bytes) -> None:
            nonlocal fresh
            raw.basic_ack(method.delivery_tag)
            outstanding.discard(properties.message_id)
            fresh = fresh or not method.redelivered
            arrived.set()

        try:
            await channel.call(channel.raw.queue_purge, queue=topology.probe)
            await channel.call(channel.raw.basic_consume, queue=topology.probe, on_message_callback=on_probe)
            reason: str | None = None
            while not fresh:
                if channel.lost.done():
                    raise channel.lost.result()
                if loop.time() > until:
                    raise (
                        SettingsError(_lossy(topology, reason)) if self.connected else Unavailable(f"broker: {reason}")
                    )
                probe = uuid4().hex
                (reason,) = await self.publish([Message(topology.probe_exchange, "wait", b"", probe)])
                if reason is None:
                    outstanding.add(probe)
                await _set_within(arrived, PROBE_AGAIN_S)
            while outstanding and await _set_within(arrived, PROBE_AGAIN_S):
                pass  # ours that come late would stay in the queue
        finally:
            channel.close()

    async def close(self) -> None:
        await asyncio.gather(*(consumer.close() for consumer in self._consumers))
        self._consumers.clear()
        await asyncio.gather(self._publish_link.close(), self._consume_link.close())

    async def _on_publish_up(self, connection: Any) -> None:
        await self._redeclare(connection)
        await self._publisher.open(connection)

    async def _redeclare(self, connection: Any) -> None:
        for topology in self._topologies:
            await declare(connection, topology)


async def declare(connection: Any, topology: Topology) -> None:
    """Create everything in `topology` that is not there. Raises SettingsError, naming the object, or Unavailable."""
    channel = await Channel.open(connection)
    raw, what = channel.raw, ""
    try:
        for exchange in topology.exchanges:
            what = f"exchange {exchange.name}"
            arguments = {"alternate-exchange": exchange.alternate} if exchange.alternate else None
            await channel.call(
                raw.exchange_declare,
                exchange=exchange.name,
                exchange_type=exchange.kind,
                durable=True,
                arguments=arguments,
            )
        for queue in topology.queues:
            what = f"queue {queue.name}"
            await channel.call(raw.queue_declare, queue=queue.name, durable=True, arguments=arguments_of(queue))
            for source, routing_key in queue.bindings:
                await channel.call(raw.queue_bind, queue=queue.name, exchange=source, routing_key=routing_key)
    except ChannelLost as lost:
        if lost.code == 406:
            raise SettingsError(
                f"{what} exists on the broker with other arguments ({lost.text}). Delete it there once it is empty, "
                "or set another HARI_QUEUE_PREFIX"
            ) from lost
        if lost.code == 403:
            raise SettingsError(
                f"{what}: the broker's user lacks a permission ({lost.text}). It needs configure, write and read on "
                "names under HARI_QUEUE_PREFIX (rabbitmqctl set_permissions)"
            ) from lost
        raise
    finally:
        channel.close()


def arguments_of(queue: Queue) -> dict[str, str | int]:
    """The queue's arguments as RabbitMQ spells them. Pure."""
    arguments: dict[str, str | int] = {
        "x-queue-type": "quorum",
        "x-overflow": "drop-head" if queue.drop_oldest else "reject-publish",
    }
    if queue.delivery_limit is not None:
        arguments["x-delivery-limit"] = queue.delivery_limit
    if queue.max_length is not None:
        arguments["x-max-length"] = queue.max_length
    if queue.ttl_ms is not None:
        arguments["x-message-ttl"] = queue.ttl_ms
    if queue.dead_letter is not None:
        exchange, routing_key = queue.dead_letter
        arguments["x-dead-letter-exchange"] = exchange
        arguments["x-dead-letter-routing-key"] = routing_key
        # The default, at-most-once, loses what it cannot route; this one needs reject-publish, or is ignored silently.
        arguments["x-dead-letter-strategy"] = "at-least-once"
    return arguments


def _lossy(topology: Topology, reason: str | None) -> str:
    return (
        f"a message that went into a {PROBE_MS} ms wait queue of this broker did not come back within {CHECK_S:.0f} s "
        f"({reason or 'it was confirmed'}): retries would be lost. Look for policies on {topology.probe_exchange}*, "
        "and for the feature flag stream_queue (rabbitmqctl list_feature_flags)"
    )


async def _set_within(event: asyncio.Event, wait_s: float) -> bool:
    """Whether `event` was set within `wait_s`; it is cleared again."""
    try:
        async with asyncio.timeout(wait_s):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True
