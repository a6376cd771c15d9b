"""Real processes, real servers, SIGKILL: every committed change arrives at every webhook, and nothing else does."""

import random
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import func, select

from shared.changes import save_record
from shared.clock import utcnow
from shared.db import Database
from shared.entities import read_entities
from shared.migrate import migrate
from shared.model import Actor, Trigger
from shared.secrets import SecretBox
from shared.store import webhooks
from shared.store.webhooks import NewWebhook
from shared.tables import deliveries, outbox
from tests.journal import JournalReceiver, Line
from tests.ledger import settle
from tests.servers import OwnPostgreSQL, OwnRabbitMQ
from tests.stack import Process, Stack, settings_for
from tests.waiting import eventually

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
USER = Actor("usr_1", "Ada")
DEAL = read_entities()["Deal"]
SHORT = {
    "HARI_RETRY_SCHEDULE": ",".join(["1s"] * 10 + ["2s"] * 5),
    "HARI_CLAIM_LEASE_S": "6",
    "HARI_RECONCILE_AFTER_S": "5",
}
CHANGES = 5_000
FAN_OUT = 3
EVERY_NTH_ROLLED_BACK = 50


class _RollBack(Exception):
    """Ends a transaction the way a CRM's own failure would."""


def _change(database: Database, number: int) -> str | None:
    """One record created in a transaction of its own; its event id, None when the transaction was rolled back."""
    try:
        with database.transaction() as conn:
            fields = {"name": f"Deal {number}", "stage": "Won", "amount": number}
            saved = save_record(conn, entity=DEAL, record_id=None, fields=fields, user=USER, now=utcnow())
            assert saved is not None
            assert saved.event is not None
            if number % EVERY_NTH_ROLLED_BACK == 0:
                raise _RollBack
            return saved.event.id
    except _RollBack:
        return None


def _add_webhooks(database: Database, box: SecretBox, url: str, count: int, **values: int) -> list[str]:
    with database.transaction() as conn:
        return [
            webhooks.create(
                conn,
                box,
                NewWebhook(name=f"n{n}", entity="Deal", trigger=Trigger.SAVE, url=f"{url}{n}", secret=SECRET, **values),
            ).id
            for n in range(count)
        ]


def _at_rest(database: Database) -> bool:
    with database.transaction() as conn:
        open_events = select(func.count()).select_from(outbox).where(outbox.c.dispatched_at.is_(None))
        live = select(func.count()).select_from(deliveries).where(deliveries.c.state.in_(("pending", "waiting")))
        return conn.execute(open_events).scalar_one() == 0 and conn.execute(live).scalar_one() == 0


def _queued(server: OwnRabbitMQ, prefix: str) -> dict[str, int]:
    """Messages, ready and unacked, of every queue that should be empty at rest."""
    table = server.ctl("list_queues", "name", "messages", "--silent", "--no-table-headers")
    rows = (line.split() for line in table.splitlines() if line.strip())
    counts = {name: int(count) for name, count in rows if name.startswith(prefix)}
    return {name: count for name, count in counts.items() if count and not name.endswith((".parked", "unrouted"))}


@pytest.mark.timeout(300)
def test_dispatchers_killed_every_second_and_a_broker_restart_lose_nothing(
    own_rabbitmq_server: OwnRabbitMQ, own_postgresql_server: OwnPostgreSQL, queue_prefix: str, tmp_path: Path
) -> None:
    chance = random.Random(20261123)
    answered = random.Random(7)

    def answer(_line: Line) -> int:
        return 500 if answered.random() < 0.2 else 200

    settings = settings_for(own_postgresql_server.url, own_rabbitmq_server.url, queue_prefix, **SHORT)
    database = Database(own_postgresql_server.url)
    migrate(database)
    box = SecretBox((settings["HARI_SECRET_KEYS"],))
    committed: list[str] = []
    with JournalReceiver(answer) as endpoint, Stack(settings, tmp_path) as stack:
        webhook_ids = _add_webhooks(database, box, endpoint.url, FAN_OUT, timeout_s=2)
        relays = [stack.start("relay") for _ in range(2)]
        dispatchers: list[Process] = [stack.start("dispatcher") for _ in range(3)]
        for process in [*relays, *dispatchers]:
            process.wait_ready()

        def write() -> None:
            for number in range(1, CHANGES + 1):
                event_id = _change(database, number)
                if event_id is not None:
                    committed.append(event_id)

        writer = threading.Thread(target=write)
        writer.start()
        kills = 0
        while writer.is_alive() or kills < 15:
            until = time.monotonic() + 1
            victim = chance.choice(dispatchers)
            victim.kill()
            kills += 1
            dispatchers[dispatchers.index(victim)] = stack.start("dispatcher")
            if kills == 8:
                own_rabbitmq_server.restart()
            threading.Event().wait(max(0, until - time.monotonic()))
        writer.join()
        relays[0].kill()
        eventually(lambda: _at_rest(database), 150, "every delivery ended")
        with database.transaction() as conn:
            ledger = settle(conn, committed, webhook_ids, endpoint.lines, SECRET)
        print(f"{ledger.summary()}, kills {kills}, seed 20261123")
        ledger.assert_holds()
        assert len(committed) == CHANGES - CHANGES // EVERY_NTH_ROLLED_BACK
        eventually(lambda: not _queued(own_rabbitmq_server, queue_prefix), 30, "every queue is empty in total")
        assert [process.stop() for process in (relays[1], *dispatchers)] == [0, 0, 0, 0]
    database.close()
