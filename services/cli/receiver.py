"""A local endpoint that keeps what it receives: for the demo."""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One POST as it arrived."""

    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@contextmanager
def receiver() -> Iterator[tuple[str, "queue.Queue[ReceivedRequest]"]]:
    """An endpoint on a free loopback port that answers 200 "ok": (its URL, what it received)."""
    received: queue.Queue[ReceivedRequest] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            received.put(ReceivedRequest(self.path, tuple(self.headers.items()), body))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", received
    finally:
        server.shutdown()
        server.server_close()
