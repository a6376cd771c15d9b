"""Brings the database's schema up to date, and tells a process whether it is."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from shared.db import Database
from shared.errors import SettingsError

SCRIPTS = Path(__file__).resolve().parent.parent / "deploy" / "migrations"
_LOCK = 0x4841_5250  # the key of a PostgreSQL advisory lock; the relay's is another


def migrate(database: Database) -> tuple[str | None, str]:
    """Migrate to this version's schema; returns (revision before, revision now). Raises Unavailable.

    Two at once take turns, and the second finds nothing to do: on PostgreSQL by an advisory lock that ends with the
    transaction, on SQLite because every transaction of ours holds the write lock from its start.
    """
    with database.transaction() as conn:
        _take_turns(conn)
        before = _revision(conn)
        config = _config()
        config.attributes["connection"] = conn
        command.upgrade(config, "head")
        return before, _head()


def undo_all(database: Database) -> None:
    """Drop every table of ours, with what is in it."""
    with database.transaction() as conn:
        _take_turns(conn)
        config = _config()
        config.attributes["connection"] = conn
        command.downgrade(config, "base")


def check_schema(database: Database) -> None:
    """Raises SettingsError unless the schema is this version's, Unavailable when the database is away."""
    with database.transaction() as conn:
        found = _revision(conn)
    head = _head()
    if found == head:
        return
    if found is not None and found not in {script.revision for script in _scripts().walk_revisions()}:
        raise SettingsError(f"the database's schema ({found}) is newer than this version ({head}); update HARi")
    state = f"is at revision {found}" if found is not None else "has no tables"
    raise SettingsError(f"the database {state}, this version needs {head}; run: hari migrate")


def _take_turns(conn: Connection) -> None:
    if conn.dialect.name == "postgresql":
        conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def _revision(conn: Connection) -> str | None:
    return MigrationContext.configure(conn).get_current_revision()


def _head() -> str:
    head = _scripts().get_current_head()
    assert head is not None, "there is one line of migrations"
    return head


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    return config
