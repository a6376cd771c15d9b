"""The producer as a service: the first API key, then the API on its port until told to stop."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import uvicorn
from fastapi import FastAPI

from services.producer.app import create_app
from services.producer.connections import GuardedConnection
from services.producer.deps import Deps
from services.producer.first_start import first_start
from services.producer.send_test import ask_urgently, send_test
from shared.assembly import Parts
from shared.errors import SettingsError
from shared.logs import logger
from shared.patience import Patience
from shared.settings import Bind
from shared.store import webhooks

LAST_REQUESTS_S = 10
_log = logger("hari.producer")


async def serve(
    parts: Parts,
    stop: asyncio.Event,
    ready: Callable[[], None] = lambda: None,
    troubles: Callable[[], Mapping[str, str]] = dict,
) -> None:
    """Serve the API until `stop` is set; requests under way are finished. Signals are the caller's.

    `troubles` names what else of this process is not ready, for /readyz. Raises SettingsError when the port cannot be
    had.
    """
    settings = parts.settings
    with _listen(settings.producer_bind) as listener:
        await Patience()(parts.database.run, webhooks.check_secrets, parts.box)
        await first_start(parts)
        deps = Deps(
            database=parts.database,
            wakeups=parts.wakeups,
            box=parts.box,
            rules=parts.rules,
            entities=parts.entities,
            send_test=partial(send_test, parts),
            ask_urgently=partial(ask_urgently, parts),
            timeout_s=settings.delivery_timeout_s,
            secure_cookies=(settings.public_url or "").startswith("https://"),
            troubles=troubles,
        )
        await run_server(create_app(deps), listener, stop, ready)
    _log.info("producer.stopped")


async def run_server(app: FastAPI, listener: socket.socket, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    """Serve `app` on this socket until `stop` is set."""
    config = uvicorn.Config(
        app,
        http=GuardedConnection,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        timeout_graceful_shutdown=LAST_REQUESTS_S,
    )
    host, port = listener.getsockname()[:2]
    # Accepted sockets inherit it; asyncio itself would leave it off here, and answers would wait 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def started() -> None:
        _log.info("producer.started", host=host, port=port)
        ready()

    server = _Server(config, started)
    serving = asyncio.create_task(server.serve([listener]), name="api")
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: the process handles them, for every role in it."""
        yield


@contextlib.contextmanager
def _listen(bind: Bind) -> Iterator[socket.socket]:
    host, port = bind
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        why = error.strerror or error
        raise SettingsError(f"HARI_PRODUCER_BIND: cannot listen on {host}:{port}: {why}") from None
    with listener:
        yield listener
