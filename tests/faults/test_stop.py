"""SIGTERM: nothing new is taken, what is in flight finishes and is recorded."""

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import select

from shared.db import Database
from shared.secrets import SecretBox
from shared.tables import attempts, deliveries
from tests.faults.world import SECRET, add_webhooks, at_rest, change
from tests.journal import JournalReceiver
from tests.ledger import settle
from tests.servers import OwnRabbitMQ
from tests.stack import Stack, settings_for
from tests.waiting import eventually

CHANGES = 60


def test_a_dispatcher_told_to_stop_finishes_what_is_in_flight(
    own_rabbitmq_server: OwnRabbitMQ,
    own_postgresql_database_url: str,
    queue_prefix: str,
    tmp_path: Path,
    a_database: Callable[[str], Database],
) -> None:
    settings = settings_for(own_postgresql_database_url, own_rabbitmq_server.url, queue_prefix)
    database = a_database(own_postgresql_database_url)
    with JournalReceiver(delay_s=1.0) as endpoint, Stack(settings, tmp_path) as stack:
        webhook_ids = add_webhooks(
            database, SecretBox((settings["HARI_SECRET_KEYS"],)), endpoint.url, 1, concurrency=20
        )
        relay = stack.start("relay").wait_ready()
        first = stack.start("dispatcher").wait_ready()
        committed = [event_id for n in range(1, CHANGES + 1) if (event_id := change(database, n))]
        eventually(lambda: len(endpoint.lines) >= 20, 20)
        assert first.stop() == 0
        with database.transaction() as conn:
            logged = {row.delivery_id: row.status for row in conn.execute(select(attempts))}
            flying = conn.execute(select(deliveries).where(deliveries.c.lease_until.is_not(None))).all()
        assert set(logged) == {line.delivery_id for line in endpoint.lines}
        assert set(logged.values()) == {200}
        assert flying == []
        stack.start("dispatcher").wait_ready()
        eventually(lambda: at_rest(database), 60)
        with database.transaction() as conn:
            ledger = settle(conn, committed, webhook_ids, endpoint.lines, SECRET)
        ledger.assert_holds()
        assert ledger.duplicates == 0
        assert relay.stop() == 0
