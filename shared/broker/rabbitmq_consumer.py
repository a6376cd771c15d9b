"""One consumer of one queue: its own channel, batches as they come, acks combined. Lives through reconnects."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from shared.broker.port import Received
from shared.broker.rabbitmq_connection import Channel, Link
from shared.errors import Unavailable

log = logging.getLogger("hari.broker")

REOPEN_S = 0.5


class RabbitConsumer:
    """Fills `shared.broker.port.Consumer`. `redeclare` puts back what may be missing when the broker closed us."""

    def __init__(self, link: Link, queue: str, prefetch: int, redeclare: Callable[[Any], Awaitable[None]]) -> None:
        self._link, self._queue, self._prefetch, self._redeclare = link, queue, prefetch, redeclare
        self._loop = asyncio.get_running_loop()
        self._buffer: deque[Received] = deque()
        self._wanted = 1
        self._arrived: asyncio.Future[None] | None = None
        self._channel: Channel | None = None
        self._channel_no = 0
        self._served: Any = None
        self._tag: str | None = None
        self._paused = self._stopped = False
        self._changing = asyncio.Lock()
        self._settled_to = 0
        self._settled: set[int] = set()
        self._fresh: list[int] = []
        self._task = asyncio.create_task(self._keep_open(), name=f"consume {queue}")

    async def next_batch(self, most: int, wait_s: float) -> list[Received]:
        buffer = self._buffer
        while not self._stopped:
            if not buffer:
                await self._arrival(1, None)
            elif len(buffer) < most and wait_s > 0:
                await self._arrival(most, wait_s)
                wait_s = 0
            else:
                return [buffer.popleft() for _ in range(min(most, len(buffer)))]
        return []

    def ack(self, batch: Iterable[Received]) -> None:
        first = not self._fresh
        for message in batch:
            tag = message.delivery_tag
            if message.channel_no == self._channel_no and tag > self._settled_to and tag not in self._settled:
                self._settled.add(tag)
                self._fresh.append(tag)
        if first and self._fresh:
            self._loop.call_soon(self.send_acks)

    def send_acks(self) -> None:
        """Send what `ack` collected: one frame for the prefix without gaps, one for each message beyond a gap.

        A `multiple` must name a tag that is not acked yet (else RabbitMQ closes the channel): the last fresh one.
        """
        fresh, self._fresh = self._fresh, []
        channel = self._channel
        if not fresh or channel is None or not channel.raw.is_open:
            return
        while self._settled_to + 1 in self._settled:
            self._settled_to += 1
            self._settled.remove(self._settled_to)
        prefix = [tag for tag in fresh if tag <= self._settled_to]
        if prefix:
            channel.raw.basic_ack(max(prefix), multiple=True)
        for tag in fresh:
            if tag > self._settled_to:
                channel.raw.basic_ack(tag)

    async def pause(self) -> None:
        self._paused = True
        await self._match()

    async def resume(self) -> None:
        self._paused = False
        await self._match()

    async def stop(self) -> None:
        self._stopped = True
        self._wake()
        await self._match()
        while self._buffer:
            self._hand_back(self._buffer.popleft())

    async def close(self) -> None:
        """Stop, send the last acks, forget the channel; the connection's close ends it."""
        await self.stop()
        self.send_acks()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _keep_open(self) -> None:
        while not self._stopped:
            connection = await self._link.up()
            try:
                why: Exception = await self._serve(connection)
            except Exception as error:  # whatever it is, a consumer that gives up helps nobody
                why = error
            self._forget_channel()
            if connection.is_open and not self._stopped:
                log.warning("broker.consumer_lost", extra={"queue": self._queue, "reason": str(why)})
                await asyncio.sleep(REOPEN_S)
            else:
                await asyncio.sleep(0.01)  # the link's own task must get its turn to notice

    async def _serve(self, connection: Any) -> Exception:
        """Open a channel, consume on it, and return why it was lost."""
        if self._served is connection:  # lost on a connection that lives: its queue may have been deleted
            await self._redeclare(connection)
        self._served = connection
        channel = await Channel.open(connection)
        channel.raw.add_on_cancel_callback(
            lambda _frame: channel.close()
        )  # the broker cancelled us: queue gone or moved
        await channel.call(channel.raw.basic_qos, prefetch_count=self._prefetch)  # global_qos kills a quorum connection
        self._channel, self._channel_no = channel, self._channel_no + 1
        await self._match()
        return await channel.lost

    def _forget_channel(self) -> None:
        """Acks for it are void from now on, and what it delivered will be delivered again."""
        self._channel, self._tag = None, None
        self._channel_no += 1
        self._buffer.clear()
        self._settled_to = 0
        self._settled.clear()
        self._fresh.clear()

    async def _match(self) -> None:
        """Make the broker's side what `_paused` and `_stopped` ask for; a lost channel does so when it is reopened."""
        async with self._changing:
            channel, wanted = self._channel, not (self._paused or self._stopped)
            if channel is None or wanted == (self._tag is not None):
                return
            try:
                if wanted:
                    on_message = self._receiver(self._channel_no)
                    answer = await channel.call(
                        channel.raw.basic_consume, queue=self._queue, on_message_callback=on_message
                    )
                    self._tag = str(answer.consumer_tag)
                else:
                    tag, self._tag = self._tag, None
                    await channel.cancel(str(tag))
            except Unavailable:
                channel.close()

    def _receiver(self, channel_no: int) -> Callable[..., None]:
        buffer, queue = self._buffer, self._queue

        def on_message(_channel: Any, method: Any, properties: Any, body: bytes) -> None:
            message = Received(
                queue,
                body,
                _as_text(properties.message_id),
                properties.headers or {},
                method.redelivered,
                channel_no,
                method.delivery_tag,
            )
            if self._stopped:
                self._hand_back(message)
                return
            buffer.append(message)
            if self._arrived is not None and len(buffer) >= self._wanted:
                self._wake()

        return on_message

    def _hand_back(self, message: Received) -> None:
        channel = self._channel
        if message.channel_no == self._channel_no and channel is not None and channel.raw.is_open:
            self._settled.add(message.delivery_tag)
            channel.raw.basic_nack(message.delivery_tag, requeue=True)

    async def _arrival(self, wanted: int, wait_s: float | None) -> None:
        """Wait until `wanted` messages are here, `wait_s` has passed, or the consumer is stopped."""
        assert self._arrived is None, "one next_batch at a time"
        self._wanted = wanted
        self._arrived = arrived = self._loop.create_future()
        timer = self._loop.call_later(wait_s, self._wake) if wait_s is not None else None
        try:
            await arrived
        finally:
            self._arrived = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)


def _as_text(message_id: object) -> str:
    """A foreign client's message id as text: pika gives bytes where it is not UTF-8."""
    text = message_id.decode("latin-1") if isinstance(message_id, bytes) else str(message_id or "")
    return text.replace("\x00", "")
