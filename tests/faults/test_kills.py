"""Real processes, real servers, SIGKILL: every committed change arrives at every webhook, and nothing else does."""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.db import Database
from shared.secrets import SecretBox
from tests.faults.world import EVERY_NTH_ROLLED_BACK, SECRET, add_webhooks, at_rest, change, queued
from tests.journal import JournalReceiver, Line
from tests.ledger import settle
from tests.servers import OwnPostgreSQL, OwnRabbitMQ
from tests.stack import Process, Stack, settings_for
from tests.waiting import eventually

SHORT = {
    "HARI_RETRY_SCHEDULE": ",".join(["1s"] * 10 + ["2s"] * 5),
    "HARI_CLAIM_LEASE_S": "6",
    "HARI_RECONCILE_AFTER_S": "5",
}
CHANGES = 5_000
FAN_OUT = 3


@pytest.mark.timeout(300)
def test_dispatchers_killed_every_second_and_a_broker_restart_lose_nothing(
    own_rabbitmq_server: OwnRabbitMQ,
    own_postgresql_server: OwnPostgreSQL,
    queue_prefix: str,
    tmp_path: Path,
    a_database: Callable[[str], Database],
) -> None:
    chance = random.Random(20261123)
    answered = random.Random(7)

    def answer(_line: Line) -> int:
        return 500 if answered.random() < 0.2 else 200

    settings = settings_for(own_postgresql_server.url, own_rabbitmq_server.url, queue_prefix, **SHORT)
    database = a_database(own_postgresql_server.url)
    box = SecretBox((settings["HARI_SECRET_KEYS"],))
    committed: list[str] = []
    with JournalReceiver(answer) as endpoint, Stack(settings, tmp_path) as stack:
        webhook_ids = add_webhooks(database, box, endpoint.url, FAN_OUT, timeout_s=2)
        relays = [stack.start("relay") for _ in range(2)]
        dispatchers: list[Process] = [stack.start("dispatcher") for _ in range(3)]
        for process in [*relays, *dispatchers]:
            process.wait_ready()

        def write() -> None:
            for number in range(1, CHANGES + 1):
                event_id = change(database, number)
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
        eventually(lambda: at_rest(database), 150, "every delivery ended")
        with database.transaction() as conn:
            ledger = settle(conn, committed, webhook_ids, endpoint.lines, SECRET)
        print(f"{ledger.summary()}, kills {kills}, seed 20261123")
        ledger.assert_holds()
        assert len(committed) == CHANGES - CHANGES // EVERY_NTH_ROLLED_BACK
        eventually(lambda: not queued(own_rabbitmq_server, queue_prefix), 30, "every queue is empty in total")
        assert [process.stop() for process in (relays[1], *dispatchers)] == [0, 0, 0, 0]
