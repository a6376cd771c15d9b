"""Where a run happens: real servers, and on them a fresh database and queue prefix for each measurement."""

import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
import psycopg
from psycopg import sql
from sqlalchemy import make_url

from benchmarks.children import BenchError
from shared.broker.topology import Topology, build
from shared.settings import DEFAULT_SCHEDULE, duration_s

WAITS_S = tuple(map(duration_s, DEFAULT_SCHEDULE.split(",")))


@dataclass(frozen=True)
class Servers:
    """URLs of a PostgreSQL server (its user may create databases) and a RabbitMQ, and what they are in words."""

    database_url: str
    broker_url: str
    words: str


@dataclass(frozen=True)
class Place:
    """A fresh database and a queue prefix of one measurement."""

    database_url: str
    broker_url: str
    prefix: str

    @property
    def topology(self) -> Topology:
        return build(self.prefix, WAITS_S)


@contextmanager
def servers(environ: Mapping[str, str]) -> Iterator[Servers]:
    """Those that HARI_DATABASE_URL and HARI_BROKER_URL name, else private ones that are gone at the end."""
    database_url, broker_url = environ.get("HARI_DATABASE_URL"), environ.get("HARI_BROKER_URL")
    if database_url and broker_url:
        yield Servers(database_url, broker_url, "the servers of HARI_DATABASE_URL and HARI_BROKER_URL")
        return
    if database_url or broker_url:
        raise BenchError("set HARI_DATABASE_URL and HARI_BROKER_URL both, or neither to have private servers made")
    made: list[Any] = []
    own = _test_servers(environ)
    try:
        for make in (own.own_postgresql, own.own_rabbitmq):
            try:
                made.append(make())
            except own.CannotHave as reason:
                raise BenchError(f"no server: {reason}. Or set HARI_DATABASE_URL and HARI_BROKER_URL") from None
        postgresql, rabbitmq = made
        yield Servers(postgresql.url, rabbitmq.url, f"{postgresql.source}; {rabbitmq.source}")
    finally:
        for server in made:
            server.stop()


def _test_servers(environ: Mapping[str, str]) -> Any:
    """tests.servers of the checkout: it knows how to find or make both."""
    checkout = Path(environ.get("HARI_CHECKOUT") or Path(__file__).resolve().parent.parent)
    if not (checkout / "tests" / "servers").is_dir():
        raise BenchError(
            "private servers are made only from a checkout of the project; "
            "set HARI_DATABASE_URL and HARI_BROKER_URL to servers of your own"
        )
    sys.path.insert(0, str(checkout))
    from tests import servers as own

    return own


@contextmanager
def fresh_place(servers: Servers) -> Iterator[Place]:
    """A new empty database and an unused queue prefix; both are removed at the end."""
    name = f"hari_bench_{secrets.token_hex(4)}"
    url = make_url(servers.database_url)
    place = Place(
        url.set(database=name).render_as_string(hide_password=False), servers.broker_url, f"{name.replace('_', '-')}."
    )
    admin_url = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(admin_url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield place
        finally:
            _delete_queues(place)
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _delete_queues(place: Place) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(place.broker_url))
    channel = connection.channel()
    for queue in place.topology.queues:
        channel.queue_delete(queue.name)
    for exchange in place.topology.exchanges:
        channel.exchange_delete(exchange.name)
    channel.queue_delete(f"{place.prefix}celery")
    connection.close()
