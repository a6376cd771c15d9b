"""The embedded broker's thread: it alone has kombu and the SQLite file, and commits together what came in together.

It sleeps until a command comes or a message is due, so that an idle broker costs nothing and a message waits for
nothing.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from kombu import connection, entity, messaging
from kombu.exceptions import ChannelError
from kombu.transport.virtual.base import NotEquivalentError

from shared.broker.port import Message, Received
from shared.broker.sqlite_transport import QueueFull, Transport, Unroutable
from shared.broker.topology import Queue, Topology
from shared.errors import SettingsError, Unavailable
from shared.logs import logger

log = logger(__name__)

AGAIN_S = 0.5  # after an error of the file
LONGEST_SLEEP_S = 30.0  # a system clock set forward is noticed after this at the latest


@dataclass(frozen=True, slots=True)
class Command:
    """Work for the thread; its result, or the exception it raised, goes to `answer`.

    `answer` None: nobody waits, and a failed commit keeps the command for the next one. `stored`: whether it belongs in
    the transaction; what only changes the thread's own memory does not fail with the file.
    """

    work: Callable[[], Any]
    answer: "asyncio.Future[Any] | None"
    stored: bool = True


Commands = SimpleQueue[Command]
Result = tuple["asyncio.Future[Any] | None", Any]


class Tap:
    """One consumer on the thread's side: a kombu channel with its prefetch, and whom to tell of new messages."""

    _numbers = count(1)  # for the whole process: a message of a broker closed before is never taken for one of ours

    def __init__(self, worker: "Worker", queue: str, prefetch: int, arrive: Callable[[list[Received]], None]) -> None:
        self.channel_no = next(Tap._numbers)
        self.queue = queue
        self._worker = worker
        self._arrive = arrive
        self._leased: list[Received] = []
        self._channel = worker.connection.channel()
        self._consumer = messaging.Consumer(
            self._channel,
            [entity.Queue(queue)],
            on_message=self._on_message,
            auto_declare=False,
            prefetch_count=prefetch,
        )
        self._consumer.consume()

    def _on_message(self, message: Any) -> None:
        self._leased.append(
            Received(
                self.queue,
                message.body,
                message.properties["message_id"],
                message.headers,
                message.delivery_info["redelivered"],
                self.channel_no,
                message.delivery_tag,
            )
        )

    def hand_out(self) -> None:
        """Lease what the prefetch leaves room for and send it to the event loop."""
        with suppress(Empty):  # paused, or the prefetch is used up
            self._channel.drain_events()
        if self._leased:
            self._worker.tell(self._arrive, self._leased)
            self._leased = []

    def ack(self, tags: Sequence[int]) -> None:
        for tag in tags:
            self._channel.basic_ack(tag)

    def give_back(self, tags: Sequence[int]) -> None:
        for tag in tags:
            self._channel.basic_reject(tag, requeue=True)

    def pause(self) -> None:
        self._consumer.cancel()

    def resume(self) -> None:
        self._consumer.consume()

    def stop(self) -> None:
        self.pause()
        self._worker.taps.discard(self)


class Worker:
    """The thread. `start`, `stop` and `connected` are for the event loop; everything else runs as a command."""

    def __init__(self, path: Path, commands: Commands) -> None:
        self.connected = False
        self.taps: set[Tap] = set()
        self.connection = connection.Connection(transport=Transport, transport_options={"path": str(path)})
        self._commands = commands
        self._to_commit: list[Command] = []
        self._trouble: str | None = None
        self._declared = False
        self._due_at: float | None = None
        self._stopping = False
        self._thread = Thread(target=self._run, name="hari-broker", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ended = loop.create_future()
        self._thread.start()

    async def stop(self) -> None:
        """Do what was sent before, then close the file and end."""
        if self._thread.ident is not None:
            self._commands.put(Command(self._end, None, stored=False))
            await self._ended
            self._thread.join()  # it has nothing left to do

    # -- commands

    def declare(self, topology: Topology) -> None:
        exchanges = {
            exchange.name: entity.Exchange(
                exchange.name,
                exchange.kind,
                channel=self._channel,
                arguments={"alternate-exchange": exchange.alternate} if exchange.alternate else None,
            )
            for exchange in topology.exchanges
        }
        try:
            for exchange in exchanges.values():
                exchange.declare()
            for queue in topology.queues:
                bindings = [entity.binding(exchanges[name], key) for name, key in queue.bindings]
                arguments = _arguments(queue)
                entity.Queue(queue.name, bindings, channel=self._channel, queue_arguments=arguments).declare()
        except (ChannelError, NotEquivalentError) as error:
            raise SettingsError(f"The broker's file holds another topology under these names: {error}") from error
        self._declared = True

    def publish(self, messages: Sequence[Message]) -> list[str | None]:
        return [self._publish(message) for message in messages]

    def _publish(self, message: Message) -> str | None:
        try:
            self._producer.publish(
                message.body,
                message.routing_key,
                exchange=message.exchange,
                headers=dict(message.headers),
                content_type="application/octet-stream",
                content_encoding="binary",
                message_id=message.message_id,
            )
        except QueueFull as error:
            return f"nacked: {error}"
        except Unroutable as error:
            return f"unroutable: {error}"
        return None

    def consume(self, queue: str, prefetch: int, arrive: Callable[[list[Received]], None]) -> Tap:
        tap = Tap(self, queue, prefetch, arrive)
        self.taps.add(tap)
        return tap

    def depths(self, queues: Sequence[str]) -> dict[str, int]:
        return {queue: self._transport.lengths.get(queue, 0) for queue in queues}

    def _end(self) -> None:
        self._stopping = True

    # -- the loop

    def _run(self) -> None:
        while not self._stopping and not self._open():
            for command in self._drain(AGAIN_S):
                self._refuse(command)
        while not self._stopping:
            self._step(self._drain(self._sleep_s()))
        self.connection.release()
        self.connected = False
        self.tell(_answer, [(self._ended, None)])

    def _open(self) -> bool:
        try:
            self.connection.connect()
        except sqlite3.Error as error:
            self._note(error)
            return False
        self._transport: Any = self.connection.transport
        self._channel: Any = self.connection.default_channel
        self._producer = messaging.Producer(self._channel, auto_declare=False)
        self._note(None)
        return True

    def _refuse(self, command: Command) -> None:
        if command.answer is None:
            command.work()  # before the file is open only `stop` sends such
        else:
            self.tell(_answer, [(command.answer, Unavailable("the broker's file cannot be opened"))])

    def _drain(self, timeout_s: float) -> list[Command]:
        """Every command there is; waits for the first."""
        commands: list[Command] = []
        with suppress(Empty):
            commands.append(self._commands.get(timeout=timeout_s))
            while True:
                commands.append(self._commands.get_nowait())
        return commands

    def _sleep_s(self) -> float:
        if not self.connected:
            return AGAIN_S
        if self._due_at is None:
            return LONGEST_SLEEP_S
        return min(max(0.0, self._due_at - time.time()), LONGEST_SLEEP_S)

    def _step(self, commands: list[Command]) -> None:
        """One transaction for everything that came in or is due, its answers, then what consumers have room for."""
        results: list[Result] = [(command.answer, _result(command)) for command in commands if not command.stored]
        stored = self._to_commit + [command for command in commands if command.stored]
        self._to_commit = []
        trouble: sqlite3.Error | None = None
        try:
            results += self._commit(stored)
        except sqlite3.Error as error:
            trouble = error
            self._to_commit = [command for command in stored if command.answer is None]
            results += [(command.answer, Unavailable(f"the broker's file: {error}")) for command in stored]
        self._note(trouble)  # before the answers: who is refused finds `connected` false
        self.tell(_answer, results)
        if trouble is None:
            self._hand_out()

    def _hand_out(self) -> None:
        try:
            for tap in self.taps:
                if self._transport.lengths.get(tap.queue):
                    tap.hand_out()
        except sqlite3.Error as error:
            self._note(error)

    def _commit(self, commands: list[Command]) -> list[Result]:
        with self._transport.transaction():
            results: list[Result] = [(command.answer, _result(command)) for command in commands]
            if self._declared:  # without bindings nothing can be dead-lettered
                self._channel.dead_letter_due()
                self._due_at = self._transport.next_due_at()
        return results

    def _note(self, trouble: sqlite3.Error | None) -> None:
        """Remember whether the file works, and log a trouble once."""
        reason = None if trouble is None else str(trouble)
        if reason is not None and reason != self._trouble:
            log.warning("broker.unavailable", reason=reason)
        self._trouble = reason
        self.connected = reason is None

    def tell(self, callback: Callable[..., object], *args: object) -> None:
        """Have the event loop call back. A loop that is gone needs no answer, and the thread ends."""
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            self._stopping = True


def _arguments(queue: Queue) -> dict[str, Any]:
    """The queue's arguments that the transport honours, under RabbitMQ's names."""
    exchange, routing_key = queue.dead_letter or (None, None)
    arguments = {
        "x-message-ttl": queue.ttl_ms,
        "x-dead-letter-exchange": exchange,
        "x-dead-letter-routing-key": routing_key,
        "x-delivery-limit": queue.delivery_limit,
        "x-max-length": queue.max_length,
        "x-overflow": "drop-head" if queue.drop_oldest else "reject-publish",
    }
    return {name: value for name, value in arguments.items() if value is not None}


def _result(command: Command) -> Any:
    """What the work returned, or the exception it raised; an error of the file goes up, it ends the transaction."""
    try:
        return command.work()
    except sqlite3.Error:
        raise
    except Exception as error:
        if command.answer is None:
            log.exception("broker.command_failed")
        return error


def _answer(results: Sequence[Result]) -> None:
    """On the event loop: give each answer to whoever still waits for it."""
    for future, result in results:
        if future is None or future.done():
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
