"""What Alembic runs: on the connection that `shared.migrate` hands over, inside its transaction and lock; for a
developer's `alembic revision` on the database that the settings name."""

from alembic import context
from sqlalchemy import Connection

from shared.db import Database
from shared.settings import read_settings
from shared.tables import metadata


def run(connection: Connection) -> None:
    # SQLite's DDL is transactional too once BEGIN is ours (shared.db): a migration that fails leaves nothing behind.
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    database = Database(read_settings().effective_database_url)
    with database.transaction() as own:
        run(own)
    database.close()
