"""The database: engine, transactions, the thread that runs them, and turning driver errors into ours.

Store functions are sync, take `conn` first and never commit. Async loops hand them to `Database.run`; one thread on
SQLite, a few on PostgreSQL.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from shared.errors import HariError, Malformed, Unavailable

T = TypeVar("T")
P = ParamSpec("P")

SERIALIZATION_FAILURE, DEADLOCK = "40001", "40P01"
REFUSED_VALUE = ("22", "23", "54")  # SQLSTATE classes: data exception, integrity violation, limit exceeded
PG_THREADS = 4


class Database:
    """One engine and its threads; `url` is `sqlite:///path` or `postgresql://...`."""

    def __init__(self, url: str, *, threads: int | None = None) -> None:
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._threads = 1 if self.is_sqlite else (threads or PG_THREADS)
        self.engine = _sqlite_engine(url) if self.is_sqlite else _postgresql_engine(self.url, self._threads)
        self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="hari-db")

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction that commits at the end of the block and rolls back on any error.

        Raises Unavailable when the database is away, or a deadlock or an in-doubt commit asks for the same work again;
        Malformed when it refuses a value.
        """
        with our_errors(), self.engine.begin() as conn:
            yield conn

    async def run(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(conn, ...)` in one transaction on a database thread and return its answer. Raises as above."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(self._in_transaction, work, *args, **kwargs))

    def _in_transaction(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        with self.transaction() as conn:
            return work(conn, *args, **kwargs)

    def close(self) -> None:
        """Wait for running work, then close every connection."""
        self._executor.shutdown(wait=True)
        self.engine.dispose()


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(url, hide_parameters=True, connect_args={"check_same_thread": False, "timeout": 15.0})

    @event.listens_for(engine, "connect")
    def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        # FULL: a commit survives a power cut, because records promise it.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-16000"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _on_begin(conn: Connection) -> None:
        # IMMEDIATE takes the write lock at once: a transaction that reads and then writes cannot fail half-way.
        conn.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _postgresql_engine(url: Any, threads: int) -> Engine:
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=threads,
        max_overflow=threads,
        pool_pre_ping=False,
        pool_use_lifo=True,
        hide_parameters=True,  # an error's text must not hold customers' values
        connect_args={"connect_timeout": 5, "application_name": "hari", "options": "-c timezone=UTC"},
    )


def single_connection_engine(database: Database) -> Engine:
    """A second engine that opens a new connection at each `connect()`: for the relay, which holds one with its lock."""
    return create_engine(database.engine.url, poolclass=NullPool, connect_args={"connect_timeout": 5})


def open_listener(database: Database, channels: Iterable[str]) -> psycopg.Connection[Any]:
    """A connection that LISTENs on these channels and does nothing else (PostgreSQL). Raises psycopg's errors."""
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = psycopg.connect(url, autocommit=True, connect_timeout=5, application_name="hari-listen")
    for channel in channels:
        connection.execute(f"LISTEN {channel}".encode())
    return connection


@contextmanager
def our_errors() -> Iterator[None]:
    """Turns the driver's errors into ours, for the few who hold a connection of their own."""
    try:
        yield
    except DBAPIError as error:
        raise _ours(error.orig) from error
    except psycopg.Error as error:  # from COPY, which goes past SQLAlchemy
        raise _ours(error) from error


def _ours(error: BaseException | None) -> HariError:
    """Malformed when this value can never be stored, Unavailable for all else: a full disk, a read-only standby."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = f"database: {lines[0]}"  # not the statement and its parameters: they hold customers' data
    if isinstance(error, psycopg.Error):
        refused = (error.sqlstate or "").startswith(REFUSED_VALUE) or isinstance(error, psycopg.DataError)
    else:
        refused = isinstance(error, sqlite3.IntegrityError | sqlite3.DataError | sqlite3.ProgrammingError)
    return Malformed(text) if refused else Unavailable(text)
