"""Migrations make exactly what shared/tables.py declares, on SQLite and on PostgreSQL, up and down."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from shared.db import Database
from shared.errors import SettingsError
from shared.migrate import check_schema, migrate, undo_all
from shared.store import webhooks
from shared.tables import metadata


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    database = Database(request.getfixturevalue(f"{request.param}_database_url"))
    yield database
    database.close()


def schema(database: Database) -> set[str]:
    """Tables, indexes and constraints in the database's own words."""
    sqlite = "SELECT sql FROM sqlite_master WHERE name NOT LIKE 'alembic%' AND sql IS NOT NULL"
    columns = "SELECT concat_ws(' ', table_name, ordinal_position, column_name, data_type, is_nullable, column_default)"
    postgresql = f"""
        {columns} FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
        UNION SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'
    """
    with database.transaction() as conn:
        rows = conn.execute(text(sqlite if database.is_sqlite else postgresql)).scalars().all()
    return {" ".join(row.split()) for row in rows}


def test_the_migrated_schema_is_the_declared_one(database: Database) -> None:
    migrate(database)
    migrated = schema(database)
    with database.transaction() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        assert webhooks.version(conn) == 1
    undo_all(database)
    assert inspect(database.engine).get_table_names() == ["alembic_version"]
    metadata.create_all(database.engine)
    assert migrated == schema(database)  # partial indexes too, which compare_metadata does not see


def test_migrations_go_down_and_up_again(database: Database) -> None:
    assert migrate(database) == (None, "0001")
    undo_all(database)
    assert migrate(database) == (None, "0001")
    assert migrate(database) == ("0001", "0001")
    check_schema(database)


def test_migrations_started_at_once_are_harmless(database: Database) -> None:
    starts = [Database(database.url.render_as_string(hide_password=False)) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(migrate, starts))
    for start in starts:
        start.close()
    assert sorted(str(before) for before, _ in answers) == ["0001", "0001", "0001", "None"]


def test_an_empty_database_says_to_migrate(database: Database) -> None:
    with pytest.raises(SettingsError, match=r"has no tables, this version needs 0001; run: hari migrate"):
        check_schema(database)


def test_a_database_of_a_later_version_says_to_update(database: Database) -> None:
    migrate(database)
    with database.transaction() as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SettingsError, match=r"\(9999\) is newer than this version \(0001\)"):
        check_schema(database)
