"""One running product for each pair of servers: `hari up` on embedded files, and on RabbitMQ with PostgreSQL."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from services.cli.client import Api
from tests.servers import delete_by_prefix, free_port
from tests.stack import Stack, settings_for

KEY = "hari_" + "k" * 32


@dataclass(frozen=True)
class Hari:
    """A running product and the way to it."""

    api: Api
    url: str
    process: Any
    embedded: bool
    queue_prefix: str
    broker_url: str | None


@pytest.fixture(scope="module", params=["embedded", "servers"])
def hari(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hari]:
    directory = tmp_path_factory.mktemp("hari")
    port = free_port()
    prefix = f"e{secrets.token_hex(4)}."
    settings = {
        "HARI_PRODUCER_BIND": f"127.0.0.1:{port}",
        "HARI_BOOTSTRAP_API_KEY": KEY,
        "HARI_DATA_DIR": str(directory),
    }
    settings |= {"HARI_RETRY_SCHEDULE": "500ms,500ms", "HARI_EGRESS_ALLOW": "127.0.0.0/8"}
    broker = None
    if request.param == "servers":
        broker = request.getfixturevalue("rabbitmq_server")
        database_url = _new_database(request.getfixturevalue("postgresql_url"))
        settings = settings_for(database_url, broker.url, prefix) | settings
    with Stack(settings, directory) as stack:
        process = stack.start("up").wait_ready()
        url = f"http://127.0.0.1:{port}"
        yield Hari(Api(url, KEY), url, process, broker is None, prefix, broker.url if broker else None)
        assert process.stop() == 0
    if broker is not None:
        delete_by_prefix(broker, prefix)


def _new_database(admin_url: str) -> str:
    name = f"e{secrets.token_hex(6)}"
    with psycopg.connect(admin_url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return make_url(admin_url).set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path
