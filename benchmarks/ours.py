"""The product: a full queue, one dispatcher process, every delivery claimed, signed, sent and logged."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from sqlalchemy import func, select

from benchmarks.children import Child, free_port, python, running, used_s, wait_for
from benchmarks.places import Place
from benchmarks.receiver import Receiver
from benchmarks.report import Measured
from benchmarks.work import ENTITIES_TOML, FAN_OUT, SLOTS, add_webhooks, fill_outbox
from shared.db import Database
from shared.migrate import migrate
from shared.secrets import SecretBox, new_key
from shared.tables import attempts, deliveries, outbox

WITHIN_S = 300


class Product:
    """The product's processes on one place."""

    def __init__(self, place: Place, directory: Path, endpoint_url: str) -> None:
        key = new_key()
        entities_file = directory / "entities.toml"
        entities_file.write_text(ENTITIES_TOML)
        self.directory = directory
        self.environ = {
            "HARI_DATABASE_URL": place.database_url,
            "HARI_BROKER_URL": place.broker_url,
            "HARI_QUEUE_PREFIX": place.prefix,
            "HARI_SECRET_KEYS": key,
            "HARI_EGRESS_ALLOW": "127.0.0.0/8",
            "HARI_ENTITIES_FILE": str(entities_file),
            "HARI_LOG_FORMAT": "json",
            "HARI_SLOTS": str(SLOTS),
        }
        self.database = Database(place.database_url)
        migrate(self.database)
        add_webhooks(self.database, SecretBox((key,)), endpoint_url)

    @contextmanager
    def process(self, role: str) -> Iterator[Child]:
        """`hari <role>` while the block runs."""
        environ = self.environ | {"HARI_METRICS_BIND": f"127.0.0.1:{free_port()}"}
        with running(f"hari {role}", python("services.cli", role), self.directory, environ) as child:
            bind = environ["HARI_METRICS_BIND"]
            wait_for(lambda: _ready(bind), 30, f"hari {role} is ready", child)
            yield child

    def relay_all(self) -> None:
        """Have a relay publish the whole outbox."""
        with self.process("relay") as relay:
            wait_for(self._all_published, 120, "the relay publishes the outbox", relay, poll_s=0.1)

    def _all_published(self) -> bool:
        with self.database.transaction() as conn:
            held = select(outbox.c.seq).where(outbox.c.published_at.is_(None)).limit(1)
            return conn.execute(held).first() is None

    def delivered(self) -> int:
        """Deliveries whose success is committed."""
        with self.database.transaction() as conn:
            done = select(func.count()).select_from(deliveries).where(deliveries.c.state == "delivered")
            return int(conn.execute(done).scalar_one())

    def first_attempt_at(self) -> float:
        """When the first POST began, as a Unix time, once every delivery has its one attempt row."""
        with self.database.transaction() as conn:
            started_at, rows = conn.execute(select(func.min(attempts.c.started_at), func.count())).one()
        assert rows == self.delivered(), f"{rows} attempts for {self.delivered()} deliveries"
        return float(started_at.timestamp())


def measure(place: Place, receiver: Receiver, directory: Path, count: int) -> Measured:
    """Deliveries per second of one dispatcher that finds about `count` of them waiting in its queue."""
    events = count // FAN_OUT
    product = Product(place, directory, receiver.url)
    try:
        fill_outbox(product.database, events)
        product.relay_all()
        receiver.forget()
        with product.process("dispatcher") as dispatcher:
            cpu_before_s = dispatcher.cpu_s()  # of starting up
            wait_for(
                lambda: receiver.posts() >= events * FAN_OUT, WITHIN_S, "all POSTs arrive", dispatcher, poll_s=0.05
            )
            wait_for(lambda: product.delivered() >= events * FAN_OUT, 30, "all deliveries are logged", dispatcher)
            ended_at = time.time()
            cpu_s = used_s(cpu_before_s, dispatcher.cpu_s())
        return Measured(events * FAN_OUT, ended_at - product.first_attempt_at(), cpu_s)
    finally:
        product.database.close()


def _ready(bind: str) -> bool:
    try:
        return requests.get(f"http://{bind}/readyz", timeout=2).ok
    except requests.RequestException:
        return False
