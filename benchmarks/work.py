"""What is delivered: 64 webhooks on 16 record types, three of four wanting each event, records of 1 kB."""

import orjson

from shared.clock import utcnow
from shared.db import Database
from shared.entities import Entity, parse_entities
from shared.ids import new_id
from shared.model import Actor, Change, Event, Trigger
from shared.secrets import SecretBox
from shared.store import outbox, webhooks
from shared.store.webhooks import NewWebhook, new_secret
from shared.wire import new_event

ENTITY_COUNT = 16
TRIGGERS = (Trigger.SAVE, Trigger.SAVE, Trigger.CREATE, Trigger.DELETE)
FAN_OUT = 3
WEBHOOK_COUNT = ENTITY_COUNT * len(TRIGGERS)
RECORD_BYTES = 1024
CONCURRENCY = 64
SLOTS = 512
"""POSTs in flight at once, in the dispatcher and in both loops alike."""
MIX = (
    f"{WEBHOOK_COUNT} webhooks with a secret on {ENTITY_COUNT} record types, fan-out {FAN_OUT}, "
    f"records of {RECORD_BYTES:,} bytes"
)
USER = Actor("usr_bench", "Benchmark")
ENTITIES_TOML = "".join(f'[Bench{no:02}.fields]\ntitle = "text"\nnotes = "text"\n' for no in range(ENTITY_COUNT))
ENTITIES = tuple(entity for name, entity in parse_entities(ENTITIES_TOML, "bench").items() if name.startswith("Bench"))


def add_webhooks(database: Database, box: SecretBox, url: str) -> None:
    """Store the webhooks, each with a secret and a path of its own."""
    with database.transaction() as conn:
        for entity in ENTITIES:
            for at, trigger in enumerate(TRIGGERS):
                webhooks.create(
                    conn,
                    box,
                    NewWebhook(
                        name=f"{entity.name} {at}",
                        entity=entity.name,
                        trigger=trigger,
                        url=f"{url}{entity.name}/{at}",
                        secret=new_secret(),
                        concurrency=CONCURRENCY,
                    ),
                )


def fields(no: int) -> dict[str, str]:
    """The fields of record `no`, as a client would send them: the whole record is 1 kB of JSON."""
    own = {"title": f"Record {no:08}", "notes": ""}
    return own | {"notes": "n" * (RECORD_BYTES - len(orjson.dumps(_record(own))))}


def entity_of(no: int) -> Entity:
    return ENTITIES[no % ENTITY_COUNT]


def event(no: int) -> Event:
    """The event of record `no` being created."""
    record = _record(fields(no))
    return new_event(
        event_id=new_id("evt"),
        change=Change.CREATED,
        entity=entity_of(no).name,
        record=record,
        timestamp=utcnow(),
        user=USER,
    )


def fill_outbox(database: Database, count: int) -> None:
    """Put `count` events into the outbox, as the API's batches do."""
    for start in range(0, count, 500):
        with database.transaction() as conn:
            outbox.append(conn, [event(no) for no in range(start, min(start + 500, count))])


def _record(own: dict[str, str]) -> dict[str, str | int]:
    now = "2026-11-23T10:15:30.123Z"
    return {"id": new_id("rec"), "version": 1, "created_at": now, "updated_at": now, **own}
