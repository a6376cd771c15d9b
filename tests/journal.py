"""An endpoint that writes down every POST before it answers: the receivers' side of the ledger."""

import asyncio
import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass

Answer = Callable[["Line"], int]


@dataclass(frozen=True, slots=True)
class Line:
    """One POST as received. `status` is what it was answered, 0 while that is not decided."""

    path: str
    delivery_id: str
    timestamp: str
    signature: str
    body_sha256: bytes
    body: bytes
    status: int = 0


class JournalReceiver:
    """Listens on a free loopback port; `answer(line)` chooses the status. Keeps bodies only when asked to."""

    def __init__(self, answer: Answer = lambda _line: 200, *, delay_s: float = 0.0, keep_bodies: bool = False) -> None:
        self.lines: list[Line] = []
        self._answer = answer
        self._delay_s = delay_s
        self._keep_bodies = keep_bodies
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal-receiver", daemon=True)

    def __enter__(self) -> "JournalReceiver":
        self._thread.start()
        self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024))
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()
        pending = asyncio.all_tasks(self._loop)
        for task in pending:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *rest = head.split("\r\n")
                headers = {
                    name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest if line)
                }
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                line = Line(
                    path=first.split(" ")[1],
                    delivery_id=headers.get("webhook-id", ""),
                    timestamp=headers.get("webhook-timestamp", ""),
                    signature=headers.get("webhook-signature", ""),
                    body_sha256=hashlib.sha256(body).digest(),
                    body=body if self._keep_bodies else b"",
                )
                status = self._answer(line)
                self.lines.append(
                    Line(
                        line.path, line.delivery_id, line.timestamp, line.signature, line.body_sha256, line.body, status
                    )
                )
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok" % status)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
