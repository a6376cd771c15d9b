"""The whole embedded stack, killed ten times while 2,000 records change: nothing lost."""

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.db import Database
from shared.secrets import SecretBox, local_keys
from tests.faults.world import SECRET, add_webhooks, at_rest, change
from tests.journal import JournalReceiver, Line
from tests.ledger import settle
from tests.servers import free_port
from tests.stack import Stack
from tests.waiting import eventually

CHANGES = 2_000
KILLS = 10
SEED = 20261123


@pytest.mark.timeout(280)
def test_ten_kills_of_the_whole_stack_lose_nothing(tmp_path: Path, a_database: Callable[[str], Database]) -> None:
    settings = {
        "HARI_DATA_DIR": str(tmp_path),
        "HARI_PRODUCER_BIND": f"127.0.0.1:{free_port()}",
        "HARI_EGRESS_ALLOW": "127.0.0.0/8",
        "HARI_RETRY_SCHEDULE": ",".join(["1s"] * 12),
        "HARI_RECONCILE_AFTER_S": "5",
    }
    database = a_database(f"sqlite:///{tmp_path / 'hari.db'}")
    box = SecretBox(local_keys(tmp_path))
    answered, chance = random.Random(SEED), random.Random(SEED)
    committed: list[str] = []

    def answer(_line: Line) -> int:
        return 500 if answered.random() < 0.2 else 200

    def write() -> None:
        for number in range(1, CHANGES + 1):
            event_id = change(database, number)
            if event_id is not None:
                committed.append(event_id)

    with JournalReceiver(answer) as endpoint, Stack(settings, tmp_path) as stack:
        webhook_ids = add_webhooks(database, box, endpoint.url, 2, timeout_s=2)
        writer = threading.Thread(target=write)
        process = stack.start("up").wait_ready()
        writer.start()
        for _ in range(KILLS):
            goal = len(endpoint.lines) + chance.randint(1, 200)
            eventually(lambda goal=goal: len(endpoint.lines) >= goal or not writer.is_alive(), 60)  # type: ignore[misc]
            process.kill()
            process = stack.start("up").wait_ready()
        writer.join()
        eventually(lambda: at_rest(database), 90, "every delivery ended")
        with database.transaction() as conn:
            ledger = settle(conn, committed, webhook_ids, endpoint.lines, SECRET)
        print(f"{ledger.summary()}, kills {KILLS}, seed {SEED}")
        ledger.assert_holds()
        assert process.stop() == 0


def test_a_second_process_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    settings = {"HARI_DATA_DIR": str(tmp_path), "HARI_PRODUCER_BIND": f"127.0.0.1:{free_port()}"}
    with Stack(settings, tmp_path) as stack:
        stack.start("up").wait_ready()
        second = stack.start("up", HARI_PRODUCER_BIND=f"127.0.0.1:{free_port()}")
        eventually(second.ended, 20)
        assert f"another hari process uses {tmp_path}" in second.tail()
        assert second.stop() == 2
