"""Fixtures of the whole suite: servers, names and databases of one's own, and the list of tests that had no server."""

import os
import secrets
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from tests.servers import (
    CannotHave,
    OwnPostgreSQL,
    OwnRabbitMQ,
    delete_by_prefix,
    last_lines,
    own_postgresql,
    own_rabbitmq,
    postgresql_for_tests,
    rabbitmq_for_tests,
)

NOT_RUN = "not run, no server: "
MARKERS = {
    "rabbitmq_server": "rabbitmq",
    "own_rabbitmq_server": "rabbitmq",
    "postgresql_server": "postgresql",
    "own_postgresql_server": "postgresql",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server, so that `-m "not rabbitmq"` is a choice."""
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in MARKERS:
                item.add_marker(MARKERS[fixture])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows the end of every log there is: of the product's processes and of the test's own servers."""
    report = yield
    if report.failed:
        known = getattr(item, "funcargs", {})
        logs = sorted(known["tmp_path"].glob("*.log")) if "tmp_path" in known else []
        servers = [value for value in known.values() if isinstance(value, OwnPostgreSQL | OwnRabbitMQ)]
        logs += [log for server in servers for log in server.logs()]
        report.sections += [(f"end of {log.name}", last_lines(log, 40)) for log in logs]
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    """Name every test that had no server, in the very last lines."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter is not None else []
    missed = [(report.nodeid, report.longrepr[2]) for report in skipped if NOT_RUN in str(report.longrepr)]
    if reporter is not None and missed:
        reporter.section(f"{len(missed)} tests NOT RUN for want of a server", yellow=True)
        for nodeid, reason in missed:
            reporter.write_line(f"{nodeid}: {reason.partition(NOT_RUN)[2].splitlines()[0]}")


@pytest.fixture(scope="session")
def rabbitmq_server(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The RabbitMQ that tests share: `.url`, `.source`. Not to be killed; `own_rabbitmq_server` is."""
    yield from _server(request, rabbitmq_for_tests)


@pytest.fixture(scope="session")
def postgresql_server(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The PostgreSQL that tests share: `.url`, `.source`. Not to be killed; `own_postgresql_server` is."""
    yield from _server(request, postgresql_for_tests)


@pytest.fixture(scope="module")
def own_rabbitmq_server(request: pytest.FixtureRequest) -> Iterator[OwnRabbitMQ]:
    """A RabbitMQ for the tests of one module, to `kill()`, `restart()` and bend with `ctl(...)`."""
    yield from _server(request, own_rabbitmq)


@pytest.fixture(scope="module")
def own_postgresql_server(request: pytest.FixtureRequest) -> Iterator[OwnPostgreSQL]:
    """A PostgreSQL for the tests of one module, to `kill()` and `restart()`."""
    yield from _server(request, own_postgresql)


@pytest.fixture(scope="session")
def rabbitmq_url(rabbitmq_server: Any) -> str:
    return str(rabbitmq_server.url)


@pytest.fixture(scope="session")
def postgresql_url(postgresql_server: Any) -> str:
    return str(postgresql_server.url)


@pytest.fixture
def queue_prefix(request: pytest.FixtureRequest) -> Iterator[str]:
    """A prefix of this test's own; what bears it on the shared server is deleted afterwards.

    A test's own server keeps it until it is stopped: deleting many queues at once, soon after a restart, can end
    RabbitMQ's dead-lettering for good (rabbitmq-server issue 16652), and then no queue can be declared any more.
    """
    prefix = f"t{secrets.token_hex(4)}."
    server = request.getfixturevalue("rabbitmq_server") if "rabbitmq_server" in request.fixturenames else None
    yield prefix
    if server is not None:
        delete_by_prefix(server, prefix)


@pytest.fixture
def postgresql_database_url(postgresql_url: str) -> Iterator[str]:
    """A fresh empty database, dropped after the test."""
    name = f"t{secrets.token_hex(6)}"
    with psycopg.connect(postgresql_url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield make_url(postgresql_url).set(database=name).render_as_string(hide_password=False)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def own_postgresql_database_url(own_postgresql_server: OwnPostgreSQL) -> str:
    """A fresh empty database on the module's own server; it goes with the server."""
    name = f"t{secrets.token_hex(6)}"
    with psycopg.connect(own_postgresql_server.url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return make_url(own_postgresql_server.url).set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def sqlite_database_url(tmp_path: Path) -> str:
    """A database file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'hari.db'}"


def _server(request: pytest.FixtureRequest, find: Any) -> Iterator[Any]:
    try:
        server = find()
    except CannotHave as reason:
        text = f"{NOT_RUN}{reason}"
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(text, pytrace=False)
        pytest.skip(text)
    _say(request.config, f"server: {server.source}")
    yield server
    server.stop()


def _say(config: pytest.Config, line: str) -> None:
    """Write one line to the terminal, past pytest's capture."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    if reporter is not None and capture is not None:
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(line)
