"""Webhooks and API keys in the database, on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, select, update

from services.dispatcher.claim import claim
from shared.db import Database
from shared.errors import Refused, SettingsError
from shared.model import HARI, DeliveryTask, Format, State, Subscription, Trigger
from shared.outgoing.presets import form_at
from shared.secrets import SecretBox, new_key
from shared.sql import later, now
from shared.store import api_keys, deliveries, outbox, webhooks
from shared.store.deliveries import Match
from shared.store.paging import read_cursor
from shared.tables import deliveries as d
from shared.tables import metadata, versions
from tests.builders import SECRET_KEY, a_new_webhook, an_event
from tests.waiting import eventually

BOX = SecretBox((SECRET_KEY,))
KEY = "hari_0123456789abcdefghijklmnop"


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    database = Database(request.getfixturevalue(f"{request.param}_database_url"))
    metadata.create_all(database.engine)
    with database.transaction() as conn:
        conn.execute(insert(versions).values(name="webhooks", value=1))
    yield database
    database.close()


@pytest.fixture
def conn(database: Database) -> Iterator[Connection]:
    with database.transaction() as conn:
        yield conn


def waiting(conn: Connection, webhook_id: str, *, in_flight: bool) -> str:
    """A delivery of this webhook that waits, or is in flight; returns its id."""
    an_id = f"dlv_{webhook_id}_{in_flight}"
    made = an_event()
    outbox.append(conn, [made])
    day = outbox.lock_known(conn, [made.id])[made.id].event_day
    deliveries.insert_matches(conn, [Match(day, an_id, webhook_id, made.id, in_flight)], None)
    return an_id


def states(conn: Connection) -> dict[str, tuple[str, str | None]]:
    return {row.id: (row.state, row.reason) for row in conn.execute(select(d.c.id, d.c.state, d.c.reason))}


def test_a_webhook_comes_back_as_it_was_stored(conn: Connection) -> None:
    new = a_new_webhook(secret="s3cret", headers={"X-Team": "a", "X-B": "b"}, timeout_s=3, concurrency=7, active=False)
    made = webhooks.create(conn, BOX, new)
    assert webhooks.get(conn, BOX, made.id) == made
    assert webhooks.load(conn, BOX, [made.id, made.id, "wh_none"]) == {made.id: made}
    assert webhooks.load(conn, BOX, []) == {}
    for name in ("name", "entity", "trigger", "url", "secret", "headers", "timeout_s", "concurrency", "active"):
        assert getattr(made, name) == getattr(new, name)
    assert (made.version, made.deleted, made.old_secret, made.deactivated_reason) == (1, False, None, None)
    assert list(made.headers) == ["X-Team", "X-B"]


def test_secrets_are_encrypted_and_need_their_key(conn: Connection) -> None:
    made = webhooks.create(conn, BOX, a_new_webhook(secret="s3cret", headers={"X-Token": "t0ken"}))
    stored = conn.execute(select(webhooks.w)).one()
    assert b"s3cret" not in bytes(stored.secret)
    assert b"t0ken" not in bytes(stored.headers)
    with pytest.raises(SettingsError, match="HARI_SECRET_KEYS lacks the key"):
        webhooks.get(conn, SecretBox((new_key(),)), made.id)
    both = SecretBox((new_key(), SECRET_KEY))  # a new key in front: what the old one wrote still opens
    assert webhooks.load(conn, both, [made.id])[made.id].secret == "s3cret"


def test_load_is_one_statement_whatever_the_number(database: Database, conn: Connection) -> None:
    ids = [webhooks.create(conn, BOX, a_new_webhook(name=str(no))).id for no in range(64)]
    seen: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    assert len(webhooks.load(conn, BOX, ids)) == 64
    webhooks.load(conn, BOX, ids[:3])
    assert len(seen) == 2
    assert seen[0] == seen[1]  # one text, so that the server can keep it prepared


def test_every_change_raises_the_version(conn: Connection) -> None:
    seen = [webhooks.version(conn)]

    def raised() -> bool:
        seen.append(webhooks.version(conn))
        return seen[-1] == seen[-2] + 1

    made = webhooks.create(conn, BOX, a_new_webhook(secret="a"))
    assert raised()
    webhooks.change(conn, BOX, made.id, {"name": "b"})
    assert raised()
    webhooks.rotate_secret(conn, BOX, made.id, "b", 10)
    assert raised()
    assert webhooks.deactivate_gone(conn, made.id, made.url, "410")
    assert raised()
    assert webhooks.delete(conn, BOX, made.id)
    assert raised()
    webhooks.change(conn, BOX, made.id, {"name": "c"})
    assert not raised()


def test_subscriptions_are_the_active_ones_with_their_version(conn: Connection) -> None:
    one = webhooks.create(conn, BOX, a_new_webhook(concurrency=3))
    webhooks.create(conn, BOX, a_new_webhook(active=False))
    gone = webhooks.create(conn, BOX, a_new_webhook())
    webhooks.delete(conn, BOX, gone.id)
    two = webhooks.create(conn, BOX, a_new_webhook(entity="Task", trigger=Trigger.DELETE))
    version, found = webhooks.subscriptions(conn)
    assert version == webhooks.version(conn) == 6
    assert sorted(found, key=lambda s: s.entity) == [
        Subscription(one.id, "Deal", Trigger.SAVE, 3),
        Subscription(two.id, "Task", Trigger.DELETE, 16),
    ]


def test_a_rotation_keeps_the_old_secret_until_its_time_on_the_database_clock(conn: Connection) -> None:
    made = webhooks.create(conn, BOX, a_new_webhook(secret="first"))
    webhooks.rotate_secret(conn, BOX, made.id, "second", 60)
    assert live(conn, made.id) == ("second", "first")
    webhooks.rotate_secret(conn, BOX, made.id, "third", 60)
    assert live(conn, made.id) == ("third", "second")
    conn.execute(update(webhooks.w).values(old_secret_until=later(-1)))
    assert live(conn, made.id) == ("third", None)
    webhooks.rotate_secret(conn, BOX, made.id, "fourth", 0)
    assert live(conn, made.id) == ("fourth", None)
    assert conn.execute(select(webhooks.w.c.old_secret)).scalar_one() is None
    assert webhooks.rotate_secret(conn, BOX, "wh_none", "x", 0) is None


def test_a_first_secret_has_no_older_one(conn: Connection) -> None:
    made = webhooks.create(conn, BOX, a_new_webhook())
    webhooks.rotate_secret(conn, BOX, made.id, "first", 60)
    assert live(conn, made.id) == ("first", None)


@pytest.mark.parametrize("secret", ["new", None], ids=["another secret", "no secret"])
def test_a_changed_secret_takes_the_place_of_both(conn: Connection, secret: str | None) -> None:
    made = webhooks.create(conn, BOX, a_new_webhook(secret="first"))
    webhooks.rotate_secret(conn, BOX, made.id, "second", 60)
    webhooks.change(conn, BOX, made.id, {"secret": secret})
    assert live(conn, made.id) == (secret, None)


def live(conn: Connection, webhook_id: str) -> tuple[str | None, str | None]:
    webhook = webhooks.load(conn, BOX, [webhook_id])[webhook_id]
    return webhook.secret, webhook.old_secret


@pytest.mark.parametrize("how", ["deactivate", "delete", "gone"])
def test_what_waits_is_cancelled_at_once_and_what_is_in_flight_is_not(conn: Connection, how: str) -> None:
    made, other = (webhooks.create(conn, BOX, a_new_webhook()) for _ in range(2))
    waits, flies = (waiting(conn, made.id, in_flight=in_flight) for in_flight in (False, True))
    stays = waiting(conn, other.id, in_flight=False)
    match how:
        case "deactivate":
            webhooks.change(conn, BOX, made.id, {"active": False})
            reason = "the webhook was deactivated"
        case "delete":
            webhooks.delete(conn, BOX, made.id)
            reason = "the webhook was deleted"
        case _:
            webhooks.deactivate_gone(conn, made.id, made.url, "410 Gone")
            reason = "the webhook was deactivated: 410 Gone"
    found = states(conn)
    assert found[waits] == (State.CANCELLED, reason)
    assert found[flies] == (State.PENDING, None)
    assert found[stays][0] == State.WAITING


def test_a_change_that_leaves_it_active_cancels_nothing(conn: Connection) -> None:
    made = webhooks.create(conn, BOX, a_new_webhook())
    waits = waiting(conn, made.id, in_flight=False)
    webhooks.change(conn, BOX, made.id, {"name": "b", "active": True})
    assert states(conn)[waits][0] == State.WAITING


def test_gone_counts_only_for_the_url_that_answered(conn: Connection) -> None:
    made = webhooks.create(conn, BOX, a_new_webhook())
    assert not webhooks.deactivate_gone(conn, made.id, "https://example.com/former", "410 Gone")
    assert webhooks.deactivate_gone(conn, made.id, made.url, "410 Gone")
    assert not webhooks.deactivate_gone(conn, made.id, made.url, "410 Gone")
    found = webhooks.load(conn, BOX, [made.id])[made.id]
    assert (found.active, found.deactivated_reason, found.version) == (False, "410 Gone", 2)
    again = webhooks.change(conn, BOX, made.id, {"active": True})
    assert again is not None
    assert (again.active, again.deactivated_reason) == (True, None)


def test_a_deleted_webhook_is_only_to_be_loaded_and_without_its_secrets(conn: Connection) -> None:
    made = webhooks.create(conn, BOX, a_new_webhook(secret="s", headers={"X-A": "b"}))
    assert webhooks.delete(conn, BOX, made.id)
    assert not webhooks.delete(conn, BOX, made.id)
    assert webhooks.get(conn, BOX, made.id) is None
    assert webhooks.newest(conn, BOX, limit=5).rows == []
    assert webhooks.change(conn, BOX, made.id, {"active": True}) is None
    assert webhooks.rotate_secret(conn, BOX, made.id, "x", 0) is None
    found = webhooks.load(conn, BOX, [made.id])[made.id]
    assert (found.deleted, found.active, found.secret, found.headers) == (True, False, None, {})


def test_a_change_may_ask_for_a_version(conn: Connection) -> None:
    made = webhooks.create(conn, BOX, a_new_webhook())
    assert webhooks.change(conn, BOX, made.id, {"name": "b"}, if_version=1) is not None
    with pytest.raises(Refused, match="is at version 2, not 1") as refused:
        webhooks.change(conn, BOX, made.id, {"name": "c"}, if_version=1)
    assert refused.value.status == 412
    with pytest.raises(Refused, match="is at version 2, not 3"):
        webhooks.delete(conn, BOX, made.id, if_version=3)


def test_webhooks_are_listed_in_pages(conn: Connection) -> None:
    made = [webhooks.create(conn, BOX, a_new_webhook(name=str(no))).id for no in range(5)]
    first = webhooks.newest(conn, BOX, limit=3)
    assert first.next_cursor is not None
    second = webhooks.newest(conn, BOX, limit=3, after=read_cursor(first.next_cursor))
    assert sorted(webhook.id for page in (first, second) for webhook in page.rows) == sorted(made)
    assert second.next_cursor is None


def test_changes_at_once_lose_no_version(database: Database) -> None:
    with database.transaction() as conn:
        made = webhooks.create(conn, BOX, a_new_webhook(concurrency=1))

    def change(no: int) -> None:
        with database.transaction() as conn:
            webhooks.change(conn, BOX, made.id, {"concurrency": no})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(change, range(1, 21)))
    with database.transaction() as conn:
        assert webhooks.load(conn, BOX, [made.id])[made.id].version == 21
        assert webhooks.version(conn) == 22


def test_of_two_changes_that_saw_the_same_version_one_is_refused(database: Database) -> None:
    with database.transaction() as conn:
        made = webhooks.create(conn, BOX, a_new_webhook())
    at_once = Barrier(2)

    def change(name: str) -> int:
        refused = 0
        for version in range(1, 21):
            at_once.wait(10)
            try:
                with database.transaction() as conn:
                    webhooks.change(conn, BOX, made.id, {"name": name}, if_version=version)
            except Refused:
                refused += 1
        return refused

    with ThreadPoolExecutor(2) as pool:
        refused = sum(pool.map(change, ["a", "b"]))
    with database.transaction() as conn:
        assert webhooks.load(conn, BOX, [made.id])[made.id].version == 21
    assert refused == 20


def test_a_first_key_is_made_once_and_kept_as_a_hash(conn: Connection) -> None:
    made = api_keys.ensure_first(conn, None)
    assert made is not None
    assert made.startswith("hari_")
    assert len(made) == 48  # 256 bits in base64
    assert api_keys.ensure_first(conn, None) is None
    found = api_keys.find(conn, api_keys.hash_of(made))
    assert found is not None
    assert (found.name, found.prefix) == ("first key", made[:9])
    assert made not in str(conn.execute(select(api_keys.k)).all())


def test_a_given_key_is_added_once_and_never_told(conn: Connection) -> None:
    for _ in range(2):
        assert api_keys.ensure_first(conn, KEY) is None
    assert len(conn.execute(select(api_keys.k)).all()) == 1
    assert api_keys.ensure_first(conn, None) is None  # there is a key: none is made


def test_two_first_starts_make_one_key(database: Database) -> None:
    def start(_no: int) -> Any:
        with database.transaction() as conn:
            return api_keys.ensure_first(conn, None)

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(start, range(4)))
    assert len([key for key in made if key is not None]) == 1


def test_an_unknown_or_revoked_key_is_not_found(conn: Connection) -> None:
    made = api_keys.create(conn, "CI", KEY)
    assert api_keys.find(conn, api_keys.hash_of(KEY)) == made
    assert api_keys.find(conn, api_keys.hash_of(KEY + "x")) is None
    assert api_keys.revoke(conn, made.id)
    assert not api_keys.revoke(conn, made.id)
    assert api_keys.find(conn, api_keys.hash_of(KEY)) is None
    api_keys.ensure_first(conn, KEY)
    assert api_keys.find(conn, api_keys.hash_of(KEY)) is None  # a restart does not bring a revoked key back


def test_an_edit_of_the_form_keeps_the_one_before_it_for_older_deliveries(conn: Connection) -> None:
    made = webhooks.create(conn, BOX, a_new_webhook(preset="custom", template={"a": 1}, redirect="google-apps-script"))
    first = Format("custom", '{"a":1}')
    assert (made.format, made.former_formats, made.redirect) == (first, (), "google-apps-script")
    # The database's clock must have moved on between delivery and edit: the time of the edit belongs to the new form.
    waiting(conn, made.id, in_flight=False)
    created_at = conn.execute(select(d.c.created_at)).scalar_one()
    webhooks.change(conn, BOX, made.id, {"name": "same form"})
    webhooks.change(conn, BOX, made.id, {"template": {"a": 1}})
    assert webhooks.load(conn, BOX, [made.id])[made.id].former_formats == ()
    eventually(lambda: conn.execute(select(now())).scalar_one() > created_at)
    changed = webhooks.change(conn, BOX, made.id, {"preset": "slack"})
    assert changed is not None
    assert changed.format == Format("slack")
    assert form_at(changed.former_formats, created_at) == first
    assert form_at(changed.former_formats, conn.execute(select(now())).scalar_one()) is None
    day = conn.execute(select(d.c.event_day)).scalar_one()
    [claimed] = claim(conn, BOX, [DeliveryTask(f"dlv_{made.id}_False", day, 1, made.id)], None)
    assert claimed.format == first


def test_the_ten_forms_before_todays_are_kept(conn: Connection) -> None:
    made = webhooks.create(conn, BOX, a_new_webhook(preset="custom", template=[0]))
    for number in range(1, 13):
        webhooks.change(conn, BOX, made.id, {"template": [number]})
    kept = webhooks.load(conn, BOX, [made.id])[made.id]
    assert kept.format.template == "[12]"
    assert [form.template for _, form in kept.former_formats] == [f"[{number}]" for number in range(2, 12)]


def test_a_form_that_does_not_fit_changes_nothing(conn: Connection) -> None:
    with pytest.raises(Refused):
        webhooks.create(conn, BOX, a_new_webhook(preset="custom"))
    made = webhooks.create(conn, BOX, a_new_webhook())
    with pytest.raises(Refused) as refused:
        webhooks.change(conn, BOX, made.id, {"name": "other", "template": {}})
    assert [error.pointer for error in refused.value.errors] == ["/template"]
    assert webhooks.get(conn, BOX, made.id) == made
    assert made.format is HARI
