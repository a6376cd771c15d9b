"""The embedded broker: the port on one SQLite file, for `hari up` without a server.

This is the event loop's side; it sends commands to the thread of `embedded_thread` and awaits their answers.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from shared.broker.embedded_thread import Command, Commands, Tap, Worker
from shared.broker.port import Message, Received
from shared.broker.probe import probe
from shared.broker.topology import Topology
from shared.errors import Unavailable

T = TypeVar("T")


class Embedded:
    """`shared.broker.port.Broker` on one file. What was not acked when the process ended comes again at the next start.

    It does not lock the file: one process at a time may open it, and the caller sees to that.
    """

    def __init__(self, path: Path) -> None:
        self._commands: Commands = Commands()
        self._worker = Worker(path, self._commands)
        self._consumers: list[EmbeddedConsumer] = []
        self._closed = False

    @property
    def connected(self) -> bool:
        return self._worker.connected

    async def start(self) -> None:
        self._worker.start(asyncio.get_running_loop())

    async def declare(self, topology: Topology) -> None:
        await self._call(partial(self._worker.declare, topology))

    async def self_check(self, topology: Topology) -> None:
        await probe(self, topology)

    async def publish(self, messages: Sequence[Message]) -> list[str | None]:
        try:
            return await self._call(partial(self._worker.publish, messages))
        except Unavailable as error:
            return [f"unavailable: {error}"] * len(messages)

    async def consume(self, queue: str, prefetch: int) -> "EmbeddedConsumer":
        consumer = EmbeddedConsumer(self)
        consumer.tap = await self._call(partial(self._worker.consume, queue, prefetch, consumer.arrive), stored=False)
        self._consumers.append(consumer)
        return consumer

    async def depths(self, queues: Sequence[str]) -> dict[str, int]:
        return await self._call(partial(self._worker.depths, queues))

    async def close(self) -> None:
        for consumer in self._consumers:
            await consumer.stop()
        self._closed = True
        await self._worker.stop()

    async def _call(self, work: Callable[[], T], *, stored: bool = True) -> T:
        """Have the thread do `work`; the answer comes after its commit. Raises Unavailable."""
        if self._closed:
            raise Unavailable("the broker is closed")
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._commands.put(Command(work, answer, stored))
        return await answer

    def send(self, work: Callable[[], object]) -> None:
        """Have the thread do `work`, again and again until it is committed; after `close` it is dropped."""
        if not self._closed:
            self._commands.put(Command(work, None))


class EmbeddedConsumer:
    """`shared.broker.port.Consumer`: a buffer that the thread fills up to the prefetch."""

    tap: Tap

    def __init__(self, broker: Embedded) -> None:
        self._broker = broker
        self._buffer: deque[Received] = deque()
        self._news = asyncio.Event()
        self._stopped = False

    def arrive(self, batch: list[Received]) -> None:
        """Take what the thread leased for us."""
        self._buffer.extend(batch)
        self._news.set()

    async def next_batch(self, most: int, wait_s: float) -> list[Received]:
        await self._buffered(1)
        if len(self._buffer) < most and wait_s > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._buffered(most)
        return [self._buffer.popleft() for _ in range(min(most, len(self._buffer)))]

    async def _buffered(self, size: int) -> None:
        while len(self._buffer) < size and not self._stopped:
            self._news.clear()
            await self._news.wait()

    def ack(self, batch: Iterable[Received]) -> None:
        tags = [received.delivery_tag for received in batch if received.channel_no == self.tap.channel_no]
        if tags:
            self._broker.send(partial(self.tap.ack, tags))

    async def pause(self) -> None:
        await self._broker._call(self.tap.pause, stored=False)

    async def resume(self) -> None:
        await self._broker._call(self.tap.resume, stored=False)

    async def stop(self) -> None:
        if self._stopped:
            return
        await self._broker._call(self.tap.stop, stored=False)  # nothing arrives after this answer
        self._stopped = True
        unread = [received.delivery_tag for received in self._buffer]
        self._buffer.clear()
        self._news.set()
        self._broker.send(partial(self.tap.give_back, unread))
