"""Publishing with pipelined confirms: one future and one deadline for each call, whatever its number of messages.

Its side effect is the publish connection. The rules are RabbitMQ's: https://www.rabbitmq.com/docs/confirms
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from shared.broker.port import Message
from shared.broker.rabbitmq_connection import Channel, ChannelLost
from shared.broker.rabbitmq_frames import emit, encode_content, encode_publish

log = logging.getLogger("hari.broker")

CONFIRM_S = 10.0
CHUNK_BYTES = 1 << 16


class _Call:
    """One `publish`: its messages had the delivery tags from `first` on."""

    __slots__ = ("done", "first", "messages", "reasons", "waiting")

    def __init__(self, messages: Sequence[Message], first: int) -> None:
        self.messages, self.first, self.waiting = messages, first, len(messages)
        self.reasons: list[str | None] = [None] * len(messages)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Publisher:
    """Publishes on one channel of the connection it was last opened on. `drop` asks for another connection."""

    def __init__(self, drop: Callable[[str], None]) -> None:
        self._drop = drop
        self._channel: Channel | None = None
        self._blocked = ""
        self._why_not = "not connected"
        self._unconfirmed: dict[int, _Call] = {}
        self._next_tag = self._lowest = self._next_return = 1
        self._methods: dict[tuple[str, str], bytes] = {}

    @property
    def ready(self) -> bool:
        return self._channel is not None and self._channel.raw.is_open and not self._blocked

    async def open(self, connection: Any) -> None:
        """Take this new connection into use. Raises Unavailable."""
        channel = await Channel.open(connection)
        channel.raw.add_on_return_callback(self._on_return)
        await channel.call(channel.raw.confirm_delivery, ack_nack_callback=self._on_confirm)
        channel.lost.add_done_callback(self._on_lost)
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        self._next_tag = self._lowest = self._next_return = 1
        self._methods.clear()
        self._blocked = ""
        self._channel = channel

    def down(self, why: str) -> None:
        """The connection is gone: what was not confirmed may have arrived or not."""
        self._channel, self._blocked, self._why_not = None, "", why
        self._settle_all(lambda _message: f"unconfirmed: {why}")

    async def publish(self, messages: Sequence[Message]) -> list[str | None]:
        """As `Broker.publish`."""
        if not messages:
            return []
        channel = self._channel
        if channel is None or not self.ready:
            return [f"unavailable: {self._blocked or self._why_not}"] * len(messages)
        call = self._send(channel, messages)
        try:
            async with asyncio.timeout(CONFIRM_S):
                await call.done
        except TimeoutError:
            self._give_up(call, f"unconfirmed: no answer in {CONFIRM_S:.0f} s")
        except asyncio.CancelledError:
            self._give_up(call, "unconfirmed: cancelled")
            raise
        return call.reasons

    def _send(self, channel: Channel, messages: Sequence[Message]) -> _Call:
        """Write all messages without a pause, so that a call's delivery tags are one range."""
        connection, number, methods = channel.raw.connection, channel.raw.channel_number, self._methods
        frame_max = connection.params.frame_max
        encoded = []  # all of them before the first is written: one that cannot be encoded must not cost a tag
        for message in messages:
            address = (message.exchange, message.routing_key)
            method = methods.get(address)
            if method is None:
                if len(methods) > 4096:
                    methods.clear()
                method = methods[address] = encode_publish(number, *address)
            encoded.append(method + encode_content(number, message, frame_max))
        call = _Call(messages, self._next_tag)
        self._next_tag += len(messages)
        self._unconfirmed.update(dict.fromkeys(range(call.first, self._next_tag), call))
        chunk, size = [], 0
        for frames in encoded:
            chunk.append(frames)
            size += len(frames)
            if size > CHUNK_BYTES:
                emit(connection, chunk)
                chunk, size = [], 0
        if chunk:
            emit(connection, chunk)
        return call

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        reason = None if method.NAME == "Basic.Ack" else "nacked: the queue is full, or the broker could not store it"
        if method.multiple:
            for tag in range(self._lowest, method.delivery_tag + 1):
                self._settle(tag, reason)
            self._lowest = method.delivery_tag + 1
        else:
            self._settle(method.delivery_tag, reason)

    def _settle(self, tag: int, reason: str | None) -> None:
        call = self._unconfirmed.pop(tag, None)
        if call is None:
            return  # its call timed out, or an earlier `multiple` covered it
        if reason is not None:
            call.reasons[tag - call.first] = reason
        call.waiting -= 1
        if not call.waiting and not call.done.done():
            call.done.set_result(None)

    def _on_return(self, _channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        """Note that a message had no queue. Its confirmation follows, and settles it.

        Returns come in the order of publishing and say no delivery tag: the message is the next one with this address
        and id. Two of the same address and id share their fate, so it does not matter which is which.
        """
        wanted = (method.exchange, method.routing_key, properties.message_id or "")
        for tag in range(self._next_return, self._next_tag):
            call = self._unconfirmed.get(tag)
            if call is None:
                continue
            message = call.messages[tag - call.first]
            if (message.exchange, message.routing_key, message.message_id) == wanted:
                call.reasons[tag - call.first] = f"unroutable: {method.exchange} has no queue for {method.routing_key}"
                self._next_return = tag + 1
                return

    def _on_lost(self, lost: "asyncio.Future[ChannelLost]") -> None:
        """The broker closed our only channel: start over on a new connection, where the topology is declared again."""
        why = lost.result()

        def reason(message: Message) -> str:
            # 404: nothing reached an exchange that is not there; the rest of what was on its way is in doubt.
            missing = why.code == 404 and f"exchange '{message.exchange}'" in why.text
            return f"{'unroutable' if missing else 'unconfirmed'}: {why.text}"

        if why.code:
            self._channel, self._why_not = None, why.text
            self._settle_all(reason)
            self._drop(why.text)

    def _settle_all(self, reason: Callable[[Message], str]) -> None:
        for tag, call in list(self._unconfirmed.items()):
            index = tag - call.first
            self._settle(tag, call.reasons[index] or reason(call.messages[index]))

    def _give_up(self, call: _Call, reason: str) -> None:
        for tag in range(call.first, call.first + len(call.messages)):
            if self._unconfirmed.get(tag) is call:
                del self._unconfirmed[tag]
                call.reasons[tag - call.first] = call.reasons[tag - call.first] or reason

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        self._blocked = f"the broker blocks publishing: {frame.method.reason}"
        log.warning("broker.blocked", extra={"reason": str(frame.method.reason)})

    def _on_unblocked(self, _connection: Any, _frame: Any) -> None:
        self._blocked = ""
        log.info("broker.unblocked")
