"""One AMQP connection that is opened again for ever, and its channels. Only this file and rabbitmq_frames import pika.

pika 1.4 has no types: what comes from it is `Any`.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.exceptions import ChannelClosedByBroker

from shared.errors import SettingsError, Unavailable

log = logging.getLogger("hari.broker")

HEARTBEAT_S = 20
ATTEMPT_S = 6.0
ANSWER_S = 10.0
CLOSE_S = 3.0
SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.2, 15.0
OLDEST_VERSION = (3, 10)


class ChannelLost(Unavailable):
    """The channel is gone. `code` is the broker's reply code, 0 when the whole connection was lost."""

    def __init__(self, why: BaseException) -> None:
        self.code = why.reply_code if isinstance(why, ChannelClosedByBroker) else 0
        self.text = str(why.reply_text) if isinstance(why, ChannelClosedByBroker) else _reason(why)
        super().__init__(f"channel lost: {self.text}")


class Channel:
    """A channel with awaitable calls. `lost` resolves, with the reason, when it is closed by whomever."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.lost: asyncio.Future[ChannelLost] = asyncio.get_running_loop().create_future()
        raw.add_on_close_callback(self._on_close)

    @classmethod
    async def open(cls, connection: Any) -> "Channel":
        """Raises Unavailable when the connection is lost first or does not answer."""
        if not connection.is_open:
            raise Unavailable("broker: connection lost")
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        channel = cls(connection.channel(on_open_callback=lambda raw: _resolve(opened, raw)))
        await channel._first_of(opened)
        return channel

    async def call(self, method: Callable[..., Any], **arguments: Any) -> Any:
        """The broker's answer to a method of `raw` that takes a `callback`. Raises ChannelLost, Unavailable."""
        if self.lost.done():
            raise self.lost.result()
        if not self.raw.is_open:
            raise Unavailable("broker: channel is closing")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        method(**arguments, callback=lambda frame: _resolve(answer, frame))
        return (await self._first_of(answer)).method

    async def cancel(self, consumer_tag: str) -> None:
        """Cancel a consumer, and keep what is on its way to us until the broker has agreed.

        pika would reject it instead, and each rejection counts towards a queue's delivery limit (before RabbitMQ 4.3).
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.raw.basic_cancel(consumer_tag, callback=lambda frame: _resolve(answer, frame))
        self.raw._cancelled.discard(consumer_tag)
        await self._first_of(answer)

    def close(self) -> None:
        if self.raw.is_open:
            self.raw.close()

    async def _first_of(self, answer: "asyncio.Future[Any]") -> Any:
        await asyncio.wait((answer, self.lost), timeout=ANSWER_S, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        if self.lost.done():
            raise self.lost.result()
        raise Unavailable(f"broker: no answer in {ANSWER_S:.0f} s")

    def _on_close(self, _raw: Any, why: BaseException) -> None:
        _resolve(self.lost, ChannelLost(why))


class Link:
    """Keeps one connection open: opens it, runs `on_up`, waits for its loss, calls `on_down`, and starts over.

    It counts as up once `on_up(connection)` has returned; an error from that is a failed attempt like any other.
    """

    def __init__(
        self, url: str, name: str, on_up: Callable[[Any], Awaitable[None]], on_down: Callable[[str], None]
    ) -> None:
        self._parameters = pika.URLParameters(url)
        self._parameters.heartbeat = HEARTBEAT_S
        self._parameters.socket_timeout = self._parameters.stack_timeout = ATTEMPT_S
        self._parameters.blocked_connection_timeout = None
        self._parameters.client_properties = {"connection_name": name, "product": "HARi Webhooks"}
        self._name, self._where = name, _where(url)
        self._user, self._vhost = self._parameters.credentials.username, self._parameters.virtual_host
        self._on_up, self._on_down = on_up, on_down
        self._connection: Any = None
        self._trouble = ""
        self._lost: asyncio.Future[str] | None = None
        self._attempt_over = asyncio.Event()
        self._up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        return self._up.is_set()

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._keep_open(), name=f"broker {self._name}")

    async def up(self) -> Any:
        """The open connection, however long it takes."""
        await self._up.wait()
        return self._connection

    async def up_now(self) -> Any:
        """The open connection; waits for an attempt that is under way. Raises Unavailable when that fails."""
        if self._task is None:
            raise Unavailable("broker: not started, or closed")
        if not self._up.is_set():
            await self._attempt_over.wait()
        if not self._up.is_set():
            raise Unavailable(f"broker at {self._where}: {self._trouble}")
        return self._connection

    async def close(self) -> None:
        """Close gracefully, but take only some seconds: a broker that blocks us does not read our farewell."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._close_connection()
        self._down("closed")
        self._trouble = "closed"
        self._attempt_over.set()

    def drop(self, why: str) -> None:
        """Close the present connection and open another: for a channel whose loss makes the rest useless."""
        log.warning("broker.dropped", extra={"connection": self._name, "reason": why})
        if self._connection is not None and self._connection.is_open:
            self._connection.close()

    async def _keep_open(self) -> None:
        failures = 0
        while True:
            self._attempt_over.clear()
            try:
                await self._on_up(await self._open())
            except Exception as error:  # whatever it is, a broker connection that gives up helps nobody
                self._failed(error)
                await self._close_connection()
            else:
                self._up_again()
                failures = 0
                why = await self._until_lost()
                log.warning("broker.lost", extra={"connection": self._name, "broker": self._where, "reason": why})
                self._down(why)
            # Full jitter, so that a restarted broker does not meet all its clients at once.
            await asyncio.sleep(random.uniform(SHORTEST_WAIT_S, _ceiling_s(failures)))  # noqa: S311 - jitter, no secret
            failures += 1

    async def _open(self) -> Any:
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[Any] = loop.create_future()
        lost: asyncio.Future[str] = loop.create_future()

        def on_done(answer: Any) -> None:
            if isinstance(answer, AsyncioConnection):
                self._connection, self._lost = answer, lost
                answer.add_on_close_callback(lambda _connection, error: _resolve(lost, _reason(error)))
            _resolve(opened, answer)

        AsyncioConnection.create_connection([self._parameters], on_done, custom_ioloop=loop)
        try:
            answer = await asyncio.shield(opened)
        except asyncio.CancelledError:
            # In the middle of its handshake pika 1.4.4 can neither close nor abort (assertions fail): let it end first.
            await asyncio.wait((opened,), timeout=ATTEMPT_S + 1)
            raise
        if not isinstance(answer, AsyncioConnection):
            raise Unavailable(self._advice(answer)) from answer
        return answer

    async def _until_lost(self) -> str:
        assert self._lost is not None, "opened before"
        return await asyncio.shield(self._lost)

    async def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None or connection.is_closed or self._lost is None:
            return
        if not connection.is_closing:
            connection.close()
        await asyncio.wait((self._lost,), timeout=CLOSE_S)
        if not connection.is_closed:
            connection._terminate_stream(pika.exceptions.StreamLostError("no answer to our close"))
            await asyncio.wait((self._lost,), timeout=CLOSE_S)

    def _up_again(self) -> None:
        self._trouble = ""
        self._up.set()
        self._attempt_over.set()
        log.info("broker.connected", extra={"connection": self._name, "broker": self._where})

    def _down(self, why: str) -> None:
        if self._up.is_set():
            self._up.clear()
            self._trouble = why
            self._on_down(why)

    def _failed(self, error: BaseException) -> None:
        """Log a trouble when it is new, not at each of many attempts."""
        trouble = str(error) or type(error).__name__
        if trouble != self._trouble:
            self._trouble = trouble
            passes = isinstance(error, Unavailable) and "HARI_BROKER_URL" not in trouble
            extra = {"connection": self._name, "broker": self._where, "reason": trouble}
            log.log(logging.WARNING if passes else logging.ERROR, "broker.unavailable", extra=extra)
        self._attempt_over.set()

    def _advice(self, error: BaseException) -> str:
        text = _reason(error)
        if "ACCESS_REFUSED" in text or "Authentication" in text:
            return f"{text}: the broker refuses user {self._user!r}; mend user or password in HARI_BROKER_URL"
        if "vhost" in text or "AccessDenied" in text:
            return (
                f"{text}: user {self._user!r} may not use vhost {self._vhost!r}; create it and give the permissions "
                "(rabbitmqctl add_vhost, set_permissions), or name another in HARI_BROKER_URL"
            )
        return text


def check_version(connection: Any) -> None:
    """Raise SettingsError for a RabbitMQ that knows no at-least-once dead-lettering (before 3.10)."""
    properties = connection.server_properties or {}
    version = str(properties.get("version", ""))
    numbers = tuple(int(word) for word in version.split(".")[:2] if word.isdigit())
    if properties.get("product") == "RabbitMQ" and len(numbers) == 2 and numbers < OLDEST_VERSION:
        raise SettingsError(
            f"the broker is RabbitMQ {version}; HARi Webhooks needs 3.10 or newer: "
            "older ones lose messages when they dead-letter from quorum queues"
        )


def _resolve(future: "asyncio.Future[Any]", answer: Any) -> None:
    if not future.done():
        future.set_result(answer)


def _ceiling_s(failures: int) -> float:
    return min(LONGEST_WAIT_S, SHORTEST_WAIT_S * 2.0 ** min(failures + 1, 10))


def _where(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or (5671 if parts.scheme == 'amqps' else 5672)}"


def _reason(error: BaseException) -> str:
    """The innermost error's words: pika wraps a refused connection four times."""
    while True:
        held = (getattr(error, "exception", None), *getattr(error, "exceptions", ())[-1:], *error.args[-1:])
        deeper = next((each for each in held if isinstance(each, BaseException)), None)
        if deeper is None:
            return str(error) or type(error).__name__
        error = deeper
