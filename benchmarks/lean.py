"""The lean loop: plain pika and libcurl on one uvloop, in callbacks written for this alone. The limit of this machine.

No coroutine, egress guard, deadline or kept answer: nobody would send to customers so. Run and measured by
`benchmarks.loops`.
"""

import asyncio
import time
from collections import deque
from typing import Any

import pika
import pycurl
from pika.adapters.asyncio_connection import AsyncioConnection

from benchmarks.loops import HEADERS, main


class Loop:
    """Consumes with a prefetch of twice its connections, acks what is contiguous once a turn of the loop."""

    def __init__(self, queue: str, url: str, count: int, connections: int) -> None:
        self._queue, self._count, self._prefetch = queue, count, 2 * connections
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[float] = self._loop.create_future()
        self._free = [_handle(url) for _ in range(connections)]
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._tag_of: dict[Any, int] = {}
        self._finished: set[int] = set()
        self._acked_to = self._sent_ack_to = 0
        self._ack_is_due = self._timer_is_due = False
        self._started = 0.0
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, connections)
        self._multi.setopt(pycurl.M_MAX_TOTAL_CONNECTIONS, connections)
        self._multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_NOTHING)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        self._watched: dict[int, int] = {}

    def start(self, broker_url: str) -> None:
        AsyncioConnection(
            pika.URLParameters(broker_url),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._on_channel),
            on_open_error_callback=self._on_lost,
            on_close_callback=self._on_lost,
            custom_ioloop=self._loop,
        )

    def _on_lost(self, _connection: Any, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel
        channel.basic_qos(prefetch_count=self._prefetch)
        channel.basic_consume(self._queue, self._on_message)

    def _on_message(self, _channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        if not self._started:
            self._started = time.perf_counter()
        if self._free:
            self._post(method.delivery_tag, body)
        else:
            self._waiting.append((method.delivery_tag, body))

    def _post(self, tag: int, body: bytes) -> None:
        curl = self._free.pop()
        curl.setopt(pycurl.POSTFIELDS, body)
        self._tag_of[curl] = tag
        self._multi.add_handle(curl)

    def _finish(self, curl: Any) -> None:
        self._multi.remove_handle(curl)
        self._free.append(curl)
        self._finished.add(self._tag_of.pop(curl))
        if not self._ack_is_due:
            self._ack_is_due = True
            self._loop.call_soon(self._ack)
        if self._waiting:
            self._post(*self._waiting.popleft())

    def _ack(self) -> None:
        self._ack_is_due = False
        while self._acked_to + 1 in self._finished:
            self._acked_to += 1
            self._finished.remove(self._acked_to)
        if self._acked_to > self._sent_ack_to:
            self._channel.basic_ack(self._acked_to, multiple=True)
            self._sent_ack_to = self._acked_to
        if self._acked_to >= self._count and not self.done.done():
            self.done.set_result(time.perf_counter() - self._started)

    def _on_socket(self, what: int, fd: int, _multi: object, _assigned: object) -> None:
        wanted = 0 if what == pycurl.POLL_REMOVE else what
        changed = wanted ^ self._watched.pop(fd, 0)
        if wanted:
            self._watched[fd] = wanted
        if changed & pycurl.POLL_IN:
            if wanted & pycurl.POLL_IN:
                self._loop.add_reader(fd, self._act, fd, pycurl.CSELECT_IN)
            else:
                self._loop.remove_reader(fd)
        if changed & pycurl.POLL_OUT:
            if wanted & pycurl.POLL_OUT:
                self._loop.add_writer(fd, self._act, fd, pycurl.CSELECT_OUT)
            else:
                self._loop.remove_writer(fd)

    def _on_timer(self, timeout_ms: int) -> None:
        # Only the timer that starts transfers matters here: this endpoint never times out.
        if timeout_ms >= 0 and not self._timer_is_due:
            self._timer_is_due = True
            self._loop.call_later(timeout_ms / 1000, self._on_due)

    def _on_due(self) -> None:
        self._timer_is_due = False
        self._act(pycurl.SOCKET_TIMEOUT, 0)

    def _act(self, fd: int, events: int) -> None:
        _, running = self._multi.socket_action(fd, events)
        if running < len(self._tag_of):
            waiting = 1
            while waiting:
                waiting, succeeded, failed = self._multi.info_read()
                if failed:
                    self._on_lost(None, RuntimeError(f"a POST failed: {failed[0][2]}"))
                for curl in succeeded:
                    self._finish(curl)


def _handle(url: str) -> Any:
    curl = pycurl.Curl()
    for option, value in (
        (pycurl.URL, url),
        (pycurl.POST, 1),
        (pycurl.HTTPHEADER, [*(f"{name}: {value}" for name, value in HEADERS), "Expect:"]),
        (pycurl.PROXY, ""),
        (pycurl.NOSIGNAL, 1),
        (pycurl.WRITEFUNCTION, len),
    ):
        curl.setopt(option, value)
    return curl


async def drive(broker_url: str, queue: str, url: str, count: int, connections: int) -> tuple[float, float]:
    """(seconds, processor seconds) of `count` messages."""
    loop = Loop(queue, url, count, connections)
    before_s = time.process_time()
    loop.start(broker_url)
    seconds = await loop.done
    return seconds, time.process_time() - before_s


if __name__ == "__main__":
    main(drive)
