"""An endpoint in its own process (`python -m benchmarks.raw_receiver PORT`): answers 200, journals event ids and times.

Speaks just enough HTTP for clients that send Content-Length and wait for each answer.
"""

import asyncio
import json
import re
import sys
import time
from typing import Any

import uvloop

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
EVENT_ID = re.compile(rb'"id":"([^"]+)"')


class Endpoint(asyncio.Protocol):
    """One connection; `journal` and `requests` belong to all of them."""

    requests = 0
    journal: list[tuple[str, int]]

    def __init__(self, journal: list[tuple[str, int]]) -> None:
        self.journal = journal
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport  # uvloop's is no subclass of asyncio.Transport

    def data_received(self, data: bytes) -> None:
        arrived_ns = time.monotonic_ns()
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[: end + 2]
            length = LENGTH.search(head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            body, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
            Endpoint.requests += 1
            self._transport.write(self._answer(head, body, arrived_ns))

    def _answer(self, head: bytes, body: bytes, arrived_ns: int) -> bytes:
        if head.startswith(b"GET /count"):
            return _content(b"server accepts handled requests\n 0 0 %d\n" % Endpoint.requests)
        if head.startswith(b"GET /journal"):
            return _content(json.dumps(self.journal).encode())
        found = EVENT_ID.search(body)
        if found:
            self.journal.append((found[1].decode(), arrived_ns))
        return OK


def _content(text: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)


async def serve(port: int) -> None:
    journal: list[tuple[str, int]] = []
    server = await asyncio.get_running_loop().create_server(lambda: Endpoint(journal), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
