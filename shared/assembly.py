"""From settings to the things every process holds: database, broker, topology, secret box, egress rules."""

import socket
from dataclasses import dataclass
from importlib.metadata import version

from shared.broker.port import Broker
from shared.broker.topology import Topology, build
from shared.db import Database
from shared.egress import EgressRules
from shared.entities import Entities, read_entities
from shared.secrets import SecretBox, local_keys
from shared.settings import Bind, Settings, keys_in
from shared.wakeups import Wakeups

VERSION = version("hari-webhooks")


@dataclass(frozen=True, slots=True)
class Parts:
    """What `open_parts` opened; `close` when done."""

    settings: Settings
    database: Database
    broker: Broker
    topology: Topology
    wakeups: Wakeups
    box: SecretBox
    rules: EgressRules
    entities: Entities

    async def close(self) -> None:
        """Close broker, wake-ups and database, in this order."""
        await self.broker.close()
        await self.wakeups.close()
        self.database.close()


def open_parts(settings: Settings) -> Parts:
    """Open everything; nothing connects yet. On embedded defaults the data directory is made."""
    if settings.embedded:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    entities = read_entities(settings.entities_file)
    database = Database(settings.effective_database_url)
    return Parts(
        settings=settings,
        database=database,
        broker=_broker(settings),
        topology=build(settings.queue_prefix, settings.retry_schedule),
        wakeups=Wakeups(database),
        box=SecretBox(_secret_keys(settings)),
        rules=EgressRules(
            allow=settings.egress_allow,
            allow_http=settings.allow_http,
            own=frozenset(_addresses(settings.producer_bind) | _addresses(settings.metrics_bind)),
            is_local=is_local,
        ),
        entities=entities,
    )


def _addresses(bind: Bind) -> set[Bind]:
    """Every address that this bind listens on: a name stands for those it has."""
    host, port = bind
    try:
        return {(str(found[4][0]), port) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError:
        return {bind}


def is_local(address: str) -> bool:
    """Whether `address` is one of this host's own at this moment; no packet is sent.

    Asked of the routing table, which uses a local destination as its own source: interfaces come and go, and trying to
    bind says yes to everything where net.ipv4.ip_nonlocal_bind is set.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            return str(probe.getsockname()[0]) == address
    except OSError:
        return False


def _broker(settings: Settings) -> Broker:
    if settings.broker_url is None:
        from shared.broker.embedded import Embedded

        return Embedded(settings.data_dir / "broker.db")
    from shared.broker.rabbitmq import RabbitMQ

    return RabbitMQ(settings.broker_url)


def _secret_keys(settings: Settings) -> tuple[str, ...]:
    if settings.secret_keys is not None:
        return keys_in(settings.secret_keys.get_secret_value())
    return local_keys(settings.data_dir)
