"""What every process does around its work: signals, the metrics and health port."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from shared.errors import SettingsError


class Readiness:
    """Which parts of this process are ready; the process is once all of them are."""

    def __init__(self, *parts: str) -> None:
        self._missing = dict.fromkeys(parts, "starting")
        self._complete = asyncio.Event()

    def set(self, part: str, trouble: str | None) -> None:
        """`part` is ready (None), or why not."""
        if trouble is None:
            self._missing.pop(part, None)
        else:
            self._missing[part] = trouble
        (self._complete.clear if self._missing else self._complete.set)()

    async def wait(self) -> None:
        """Until everything is ready."""
        await self._complete.wait()

    @property
    def troubles(self) -> dict[str, str]:
        return dict(self._missing)


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM or SIGINT sets; a second SIGINT ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask() -> None:
        if stop.is_set():
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask)
    return stop


class _QuietHandler(WSGIRequestHandler):
    timeout = 5

    def log_message(self, format: str, *args: Any) -> None:
        return


class _Server(ThreadingMixIn, WSGIServer):
    """A thread a request: a client that connects and says nothing keeps nobody else waiting."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False


@contextmanager
def metrics_port(bind: tuple[str, int], readiness: Readiness) -> Iterator[None]:
    """Serve /metrics, /healthz and /readyz on a thread of their own while the block runs.

    Raises SettingsError when the port cannot be had.
    """
    exposition = make_wsgi_app()

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            return exposition(environ, start)  # type: ignore[no-any-return]
        troubles = readiness.troubles if path == "/readyz" else {}
        status = "404 Not Found" if path not in ("/healthz", "/readyz") else "503 Not Ready" if troubles else "200 OK"
        start(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [("\n".join(f"{part}: {why}" for part, why in troubles.items()) or status[4:]).encode() + b"\n"]

    try:
        server = make_server(*bind, app, server_class=_Server, handler_class=_QuietHandler)
    except OSError as error:
        raise SettingsError(f"HARI_METRICS_BIND: cannot listen on {bind[0]}:{bind[1]}: {error.strerror}") from None
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
