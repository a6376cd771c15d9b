"""What uvicorn leaves open: a deadline and a size for request headers, and a cap on connections."""

import asyncio
from asyncio import TimerHandle

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_S = 10.0
MAX_HEADERS_BYTES = 64 * 1024
MOST_CONNECTIONS = 1000
_NOTHING_MORE = b"Connection: close\r\nContent-Length: 0\r\n\r\n"
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n" + _NOTHING_MORE
_SLOW = b"HTTP/1.1 408 Request Timeout\r\n" + _NOTHING_MORE
_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + _NOTHING_MORE


class GuardedConnection(HttpToolsProtocol):
    """One connection. It ends when the headers of a request are not whole in time: the first ones after it was made,
    later ones after the answer before. Bodies have a deadline of their own, where they are read."""

    _deadline: TimerHandle | None = None
    _waiting_for_headers = False
    _header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= MOST_CONNECTIONS:
            self.transport = transport
            self._end(_FULL)
            return
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        self._header_bytes += len(data)
        super().data_received(data)
        # Only now: what came may hold a body too, or several requests.
        if self._waiting_for_headers and self._header_bytes > MAX_HEADERS_BYTES and not self._answering():
            self._end(_LARGE)

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._answering():  # a pipelined request may be next
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_headers(self) -> None:
        self._stop_waiting()
        if not self.transport.is_closing():
            self._waiting_for_headers = True
            self._header_bytes = 0
            self._deadline = self.loop.call_later(HEADERS_S, self._too_slow)

    def _stop_waiting(self) -> None:
        self._waiting_for_headers = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._end(_SLOW if self._header_bytes else b"")

    def _end(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()
