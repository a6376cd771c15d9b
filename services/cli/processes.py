"""The processes: each role alone, or all of them in one (`hari up`)."""

import asyncio
import contextlib
import fcntl
import gc
import os
import resource
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import uvloop

from services.cli.health import check
from shared import failpoint, logs, metrics
from shared.assembly import Parts, open_parts
from shared.db import Database
from shared.errors import SettingsError
from shared.migrate import check_schema, migrate
from shared.process import Readiness, metrics_port, stop_on_signals
from shared.settings import URL_FILE, Settings, read_settings, unknown_settings

_log = logs.logger("hari.process")
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
CONNECTED_POLL_S = 0.5

Role = Callable[[Parts, asyncio.Event, Callable[[], None]], Coroutine[Any, Any, None]]
ROLES = ("producer", "relay", "dispatcher")


def _role(name: str, readiness: Readiness) -> Role:
    """The service of this name; a process imports only what it runs. The producer's /readyz speaks for all of them."""
    if name == "producer":
        from services.producer import service as producer

        return partial(producer.serve, troubles=lambda: readiness.troubles)
    if name == "relay":
        from services.producer import relay

        return relay.serve
    from services.dispatcher import service as dispatcher

    return dispatcher.serve


def up() -> None:
    """All roles in one process, on one loop; migrates first, refuses a data directory that is in use."""
    settings = read_settings()
    on_loopback = all(_is_loopback(host) for host, _ in (settings.producer_bind, settings.metrics_bind))
    opened = on_loopback and not settings.egress_allow
    if opened:
        settings = settings.model_copy(update={"egress_allow": LOOPBACK})
    logs.set_up(settings.log_format, "up")
    with _data_dir_lock(settings):
        _migrate(settings)
        if opened:
            print("hari: everything listens on loopback, so webhooks may call 127.0.0.0/8 and ::1 too", file=sys.stderr)
        uvloop.run(_serve(settings, ROLES, announce=True))


def run_role(role: str) -> None:
    """One role until SIGTERM or SIGINT."""
    settings = read_settings()
    if settings.embedded:
        raise SettingsError(
            "on embedded defaults everything runs in one process: start it with `hari up`, "
            "or set HARI_DATABASE_URL and HARI_BROKER_URL"
        )
    logs.set_up(settings.log_format, role)
    database = Database(settings.effective_database_url)
    check_schema(database)
    database.close()
    uvloop.run(_serve(settings, [role]))


def migrate_now() -> None:
    """Bring the schema to this version."""
    settings = read_settings()
    logs.set_up(settings.log_format, "migrate")
    with _data_dir_lock(settings):
        _migrate(settings)
    print("hari: the database is at this version's schema", file=sys.stderr)


def _migrate(settings: Settings) -> None:
    database = Database(settings.effective_database_url)
    try:
        migrate(database)
    finally:
        database.close()


def health() -> int:
    """0 when the process that serves HARI_METRICS_BIND on this host is ready, else 1 and what is missing."""
    return check(read_settings().metrics_bind)


async def _serve(settings: Settings, roles: Sequence[str], *, announce: bool = False) -> None:
    for name, near in unknown_settings(os.environ).items():
        _log.warning("setting.unknown", name=name, hint=f"did you mean {near}?" if near else "nothing reads it")
    stop = stop_on_signals()
    failpoint.arm(settings.failpoint)
    # Every request under way is a descriptor; a soft limit of 1,024 is for programs that use select().
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # What was imported stays: the collector need not look at it again, nor run for every few hundred deliveries.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    parts = open_parts(settings)
    readiness = Readiness(*roles, "broker")
    with metrics_port(settings.metrics_bind, readiness):
        parts.wakeups.start()
        await parts.broker.start()
        tasks = [
            asyncio.create_task(_role(name, readiness)(parts, stop, partial(readiness.set, name, None)), name=name)
            for name in roles
        ]
        watching = asyncio.create_task(_watch_broker(parts, readiness))
        if announce:
            announcing = asyncio.create_task(_announce(settings, readiness))
        try:
            await _until_stopped(stop, tasks)
        finally:
            stop.set()
            await asyncio.gather(*tasks, return_exceptions=True)
            watching.cancel()
            if announce:
                announcing.cancel()
            await parts.close()


async def _until_stopped(stop: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    for task in tasks:
        if task.done():
            task.result()  # a role that ended by itself ends the process with its error
    await asyncio.gather(*tasks)


async def _watch_broker(parts: Parts, readiness: Readiness) -> None:
    while True:
        metrics.broker_connected.set(parts.broker.connected)
        readiness.set("broker", None if parts.broker.connected else "not connected")
        await asyncio.sleep(CONNECTED_POLL_S if not readiness.troubles else 0.02)


async def _announce(settings: Settings, readiness: Readiness) -> None:
    await readiness.wait()
    host, port = settings.producer_bind
    if settings.embedded:
        (settings.data_dir / URL_FILE).write_text(f"http://{host}:{port}")
    print(f"hari: ready. Pages and API on http://{host}:{port}  (stop with Ctrl-C)", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _data_dir_lock(settings: Settings) -> Iterator[None]:
    """One process a data directory; the lock goes with the process, however it ends."""
    if not settings.embedded:
        yield
        return
    os.umask(0o077)  # whatever is made from here on holds customers' data
    _make_data_dir(settings)
    with Path(settings.data_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            where = settings.data_dir.absolute()
            raise SettingsError(
                f"another hari process uses {where}: stop it, or set HARI_DATA_DIR to another directory"
            ) from None
        yield


def _make_data_dir(settings: Settings) -> None:
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        where = settings.data_dir.absolute()
        raise SettingsError(f"HARI_DATA_DIR: cannot make {where}: {error.strerror}") from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
