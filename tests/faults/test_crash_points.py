"""Die between every two steps of relay and dispatcher, on RabbitMQ and PostgreSQL: nothing lost, nothing invented."""

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pika
import pytest
from sqlalchemy import select, update

from shared.broker.topology import Topology, build
from shared.clock import utcnow
from shared.db import Database
from shared.failpoint import POINTS
from shared.secrets import SecretBox
from shared.tables import deliveries, outbox, parked_messages
from tests.faults.world import SECRET, add_webhooks, at_rest, change, queued
from tests.journal import JournalReceiver, Line
from tests.ledger import settle
from tests.servers import OwnRabbitMQ
from tests.stack import Stack, settings_for
from tests.waiting import eventually

SHORT = {"HARI_RETRY_SCHEDULE": ",".join(["1s"] * 10), "HARI_CLAIM_LEASE_S": "3", "HARI_RECONCILE_AFTER_S": "3"}
FAN_OUT = 2
GAP_S = 0.02
RELAY_POINTS = [point for point in POINTS if point.startswith("relay.")]
DISPATCHER_POINTS = [point for point in POINTS if not point.startswith("relay.")]


class Traffic:
    """Changes without end, and now and then what ends in the parked and in the dead queue."""

    def __init__(self, database: Database, broker_url: str, topology: Topology) -> None:
        self.committed: list[str] = []
        self.unreadable = 0
        self._database = database
        self._broker_url = broker_url
        self._topology = topology
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        # A foreign client, with a library of its own.
        with pika.BlockingConnection(pika.URLParameters(self._broker_url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            number = 0
            while not self._stop.wait(GAP_S):
                number += 1
                event_id = change(self._database, number)
                if event_id is not None:
                    self.committed.append(event_id)
                self._lose_some_tasks()
                if number % 10 == 0:
                    channel.basic_publish(
                        self._topology.events_exchange, "record.Deal.created", b"not json", mandatory=True
                    )
                    self.unreadable += 1
                    self._bury_a_live_one(channel)

    def _bury_a_live_one(self, channel: object) -> None:
        """The newest event into the dead queue, as a delivery limit would put it there."""
        with self._database.transaction() as conn:
            body = conn.execute(select(outbox.c.body).order_by(outbox.c.seq.desc()).limit(1)).scalar_one()
        channel.basic_publish(self._topology.terminal_exchange, "dead", bytes(body), mandatory=True)  # type: ignore[attr-defined]

    def _lose_some_tasks(self) -> None:
        """What waits for its task is due for a look now, as if the broker had lost the task."""
        to_be_sent = (
            deliveries.c.state.in_(("pending", "waiting"))
            & deliveries.c.lease_until.is_(None)
            & deliveries.c.next_attempt_at.is_(None)
        )
        with self._database.transaction() as conn:
            conn.execute(update(deliveries).where(to_be_sent).values(check_at=utcnow()))


@pytest.mark.timeout(290)
@pytest.mark.parametrize(
    ("role", "points"), [("relay", RELAY_POINTS), ("dispatcher", DISPATCHER_POINTS)], ids=["relay", "dispatcher"]
)
def test_a_process_that_dies_at_any_point_loses_nothing(
    role: str,
    points: list[str],
    own_rabbitmq_server: OwnRabbitMQ,
    own_postgresql_database_url: str,
    queue_prefix: str,
    tmp_path: Path,
    a_database: Callable[[str], Database],
) -> None:
    settings = settings_for(own_postgresql_database_url, own_rabbitmq_server.url, queue_prefix, **SHORT)
    database = a_database(own_postgresql_database_url)
    box = SecretBox((settings["HARI_SECRET_KEYS"],))
    answered = random.Random(role)

    def answer(_line: Line) -> int:
        return 500 if answered.random() < 0.2 else 200

    with JournalReceiver(answer, delay_s=0.005) as endpoint, Stack(settings, tmp_path) as stack:
        webhook_ids = add_webhooks(database, box, endpoint.url, FAN_OUT, timeout_s=1, concurrency=1)
        for other in {"relay", "dispatcher"} - {role}:
            stack.start(other).wait_ready()
        with Traffic(database, own_rabbitmq_server.url, build(queue_prefix, [])) as traffic:
            for point in points:
                process = stack.start(role, HARI_FAILPOINT=f"{point}:2")
                eventually(process.ended, 40, f"{role} dead at {point}")
        stack.start(role).wait_ready()
        eventually(lambda: at_rest(database), 60, "every delivery ended")
        with database.transaction() as conn:
            ledger = settle(conn, traffic.committed, webhook_ids, endpoint.lines, SECRET)
            parked = conn.execute(select(parked_messages.c.body)).scalars().all()
        print(ledger.summary())
        ledger.assert_holds()
        assert sum(body == b"not json" for body in parked) >= traffic.unreadable
        eventually(lambda: not queued(own_rabbitmq_server, queue_prefix), 30, "every queue is empty in total")
