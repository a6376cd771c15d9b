"""The door through which records change: record, version and event together, on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import orjson
import pytest
from sqlalchemy import Connection, func, select

from shared.changes import Saved, delete_record, save_record
from shared.db import Database
from shared.entities import Entity, Kind, read_entities
from shared.errors import Refused
from shared.store import outbox, records
from shared.store.outbox import OutboxRow
from shared.store.paging import read_cursor
from shared.tables import metadata
from shared.tables import outbox as o
from tests.builders import ADA, NOON, an_event

ENTITIES = read_entities()
DEAL = ENTITIES["Deal"]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    database = Database(request.getfixturevalue(f"{request.param}_database_url"))
    metadata.create_all(database.engine)
    yield database
    database.close()


@pytest.fixture
def conn(database: Database) -> Iterator[Connection]:
    with database.transaction() as conn:
        yield conn


def save(conn: Connection, record_id: str | None = None, entity: Entity = DEAL, **fields: Any) -> Saved:
    saved = save_record(conn, entity=entity, record_id=record_id, fields=fields, user=ADA, now=NOON)
    assert saved is not None
    return saved


def unpublished(conn: Connection) -> list[OutboxRow]:
    return outbox.take_unpublished(conn, 1000)


def test_a_change_writes_record_and_event_with_what_changed(conn: Connection) -> None:
    made = save(conn, name="Engine", stage="Offer", amount=1)
    changed = save(conn, made.record["id"], stage="Won", amount=None)
    assert changed.event is not None
    assert changed.event.payload["changed"] == ["amount", "stage"]
    assert changed.event.payload["previous"] == {"amount": 1, "stage": "Offer"}
    assert changed.event.payload["user"] == {"id": "usr_ada", "name": "Ada Lovelace"}
    assert changed.record == records.get(conn, DEAL, made.record["id"])
    rows = unpublished(conn)
    assert made.event is not None
    assert [row.body for row in rows] == [made.event.body, changed.event.body]
    assert [row.event for row in rows] == ["created", "updated"]


def test_what_changes_nothing_writes_nothing(conn: Connection) -> None:
    made = save(conn, name="Engine", amount=3)
    for fields in ({}, {"name": "Engine"}, {"amount": 3.0}, {"stage": None}):
        assert save(conn, made.record["id"], **fields) == Saved(made.record, None)
    assert records.get(conn, DEAL, made.record["id"]) == made.record
    assert len(unpublished(conn)) == 1


def test_a_record_that_is_not_there_is_none(conn: Connection) -> None:
    gone: dict[str, Any] = {"entity": DEAL, "record_id": "rec_none", "user": ADA, "now": NOON}
    assert save_record(conn, fields={"name": "x"}, **gone) is None
    assert delete_record(conn, **gone) is None
    made = save(conn, name="Engine")
    assert records.get(conn, ENTITIES["Task"], made.record["id"]) is None  # an id belongs to its entity
    assert len(unpublished(conn)) == 1


def test_a_delete_carries_the_last_known_record_one_version_up(conn: Connection) -> None:
    made = save(conn, name="Engine")
    gone = delete_record(conn, entity=DEAL, record_id=made.record["id"], user=ADA, now=NOON)
    assert gone is not None
    assert gone.event is not None
    assert gone.event.payload["record"] == made.record | {"version": 2}
    assert records.get(conn, DEAL, made.record["id"]) is None


def test_the_door_refuses_what_does_not_fit_and_names_every_field(conn: Connection) -> None:
    with pytest.raises(Refused) as refused:
        save(conn, name=5, amount="x", colour="red")
    assert [error.pointer for error in refused.value.errors] == ["/name", "/amount", "/colour"]
    with pytest.raises(Refused, match="larger than 1,048,576 bytes"):
        save(conn, name="€" * 262_144, stage="€" * 262_144)
    assert unpublished(conn) == []


def test_a_record_answers_now_what_it_answers_later(conn: Connection) -> None:
    moment = datetime(2026, 11, 23, 10, 15, 30, 123999, tzinfo=UTC)
    saved = save_record(conn, entity=DEAL, record_id=None, fields={}, user=ADA, now=moment)
    assert saved is not None
    assert saved.record["created_at"] == "2026-11-23T10:15:30.123Z"
    assert records.get(conn, DEAL, saved.record["id"]) == saved.record


def test_a_field_declared_later_reads_as_null_and_one_no_longer_declared_stays(conn: Connection) -> None:
    made = save(conn, entity=Entity("Thing", {"old": Kind.TEXT}), old="kept").record
    found = records.get(conn, Entity("Thing", {"new": Kind.NUMBER}), made["id"])
    assert found == made | {"new": None}
    changed = save(conn, made["id"], Entity("Thing", {"new": Kind.NUMBER}), new=1)
    assert (changed.record["old"], changed.record["new"]) == ("kept", 1)


def test_any_character_comes_back(conn: Connection) -> None:
    text = "\x00 ' \" \\ </script> \r\n \U0001f680 \u2028"
    made = save(conn, name=text)
    assert records.get(conn, DEAL, made.record["id"]) == made.record
    assert made.record["name"] == text


def test_a_rolled_back_change_leaves_nothing(database: Database) -> None:
    with pytest.raises(Refused), database.transaction() as conn:
        _save_then_fail(conn)
    with database.transaction() as conn:
        assert unpublished(conn) == []
        assert records.newest(conn, DEAL, limit=1).rows == []


def _save_then_fail(conn: Connection) -> None:
    save(conn, name="Engine")
    save(conn, name=5)


def test_two_changes_at_once_take_turns_and_both_count(database: Database) -> None:
    with database.transaction() as conn:
        record_id = save(conn, amount=0).record["id"]
    at_once = Barrier(2)

    def change(field: str) -> None:
        at_once.wait(10)
        for value in range(20):
            with database.transaction() as conn:
                save(conn, record_id, **{field: f"{field} {value}"})

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(change, ["name", "stage"]))
    with database.transaction() as conn:
        found = records.get(conn, DEAL, record_id)
        versions = [_version(row.body) for row in unpublished(conn)]
    assert found is not None
    assert (found["name"], found["stage"], found["version"]) == ("name 19", "stage 19", 41)
    assert versions == list(range(1, 42))  # outbox rows of a record stand in the order of its versions


def _version(body: bytes) -> int:
    version: int = orjson.loads(body)["record"]["version"]
    return version


def test_pages_neither_skip_nor_repeat_records_of_one_moment(conn: Connection) -> None:
    made = [save(conn, amount=no).record["id"] for no in range(7)]  # all at NOON
    for no in range(3):
        moment = NOON + timedelta(milliseconds=no + 1)
        saved = save_record(conn, entity=DEAL, record_id=None, fields={}, user=ADA, now=moment)
        assert saved is not None
        made.append(saved.record["id"])
    seen, after = [], None
    while True:
        page = records.newest(conn, DEAL, limit=3, after=after)
        seen += [record["id"] for record in page.rows]
        newer = NOON + timedelta(days=1)  # what comes in meanwhile shifts no page
        save_record(conn, entity=DEAL, record_id=None, fields={}, user=ADA, now=newer)
        if page.next_cursor is None:
            break
        after = read_cursor(page.next_cursor)
    assert sorted(seen) == sorted(made)
    assert len(seen) == len(set(seen)) == 10
    assert seen[:3] == made[:6:-1]


def test_a_last_page_that_is_full_has_no_next_one(conn: Connection) -> None:
    for _ in range(2):
        save(conn)
    assert records.newest(conn, DEAL, limit=2).next_cursor is None
    assert records.newest(conn, DEAL, limit=1).next_cursor is not None


def test_an_event_is_added_once(conn: Connection) -> None:
    first, second = an_event(event_id="evt_1"), an_event(event_id="evt_2")
    assert outbox.append(conn, [first]) == ["evt_1"]
    assert outbox.append(conn, [second, first]) == ["evt_2"]
    assert conn.execute(select(func.count()).select_from(o)).scalar_one() == 2
