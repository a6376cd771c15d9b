"""A stored secret that no key opens: the start refuses, and at run time only that webhook waits."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select

from services.dispatcher.claim import UNREADABLE, claim, claim_in_turn
from services.dispatcher.dispatch import dispatch, plan
from services.dispatcher.lanes import Lanes
from shared.db import Database
from shared.errors import SettingsError
from shared.model import DeliveryTask, Webhook
from shared.outgoing.match import build_index
from shared.secrets import SecretBox, new_key
from shared.store import webhooks
from shared.tables import deliveries as d
from shared.tables import metadata, versions
from tests.builders import SECRET_KEY, a_new_webhook, an_event
from tests.servers import free_port
from tests.stack import Stack
from tests.waiting import eventually

BOX = SecretBox((SECRET_KEY,))


@pytest.fixture(params=["sqlite", "postgresql"])
def conn(request: pytest.FixtureRequest) -> Iterator[Connection]:
    database = Database(request.getfixturevalue(f"{request.param}_database_url"))
    metadata.create_all(database.engine)
    with database.transaction() as conn:
        conn.execute(insert(versions).values(name="webhooks", value=1))
        yield conn
    database.close()


def two_webhooks(conn: Connection) -> tuple[Webhook, Webhook]:
    """(one whose secret opens, one whose secret does not)."""
    lost = webhooks.create(conn, SecretBox((new_key(),)), a_new_webhook(name="Lost", secret="x"))
    return webhooks.create(conn, BOX, a_new_webhook(name="Fine", secret="y")), lost


def test_dispatch_claims_the_others_and_lets_this_one_wait(conn: Connection) -> None:
    fine, lost = two_webhooks(conn)
    event = an_event()
    planned = plan([event], build_index(*webhooks.subscriptions(conn)), Lanes(8))
    done = dispatch(conn, BOX, [event], planned, None)
    assert {match.webhook_id: match.claim for match in done.created.values()} == {fine.id: True, lost.id: False}
    row = conn.execute(select(d).where(d.c.webhook_id == lost.id)).one()
    assert (row.state, row.reason, row.attempt_no, row.lease_until) == ("waiting", UNREADABLE, 0, None)
    assert row.check_at == row.next_attempt_at is not None
    assert conn.execute(select(d.c.attempt_no).where(d.c.webhook_id == fine.id)).scalar_one() == 1


def test_a_claim_is_given_back_and_granted_again_once_the_key_is_there(conn: Connection) -> None:
    key = new_key()
    lost = webhooks.create(conn, SecretBox((key,)), a_new_webhook(secret="x"))
    event = an_event()
    planned = plan([event], build_index(*webhooks.subscriptions(conn)), Lanes(8))
    (made,) = dispatch(conn, BOX, [event], planned, None).created.values()
    task = DeliveryTask(made.delivery_id, made.event_day, 1, lost.id)
    assert claim(conn, BOX, [task], None) == []
    assert claim_in_turn(conn, BOX, [(lost.id, 4)], None) == []
    (claimed,) = claim(conn, SecretBox((SECRET_KEY, key)), [task], None)
    assert (claimed.attempt_no, claimed.failures) == (1, 0)


def test_the_check_names_the_webhooks_that_no_key_opens(conn: Connection) -> None:
    _, lost = two_webhooks(conn)
    with pytest.raises(SettingsError) as refused:
        webhooks.check_secrets(conn, BOX)
    assert f"webhook Lost ({lost.id})" in str(refused.value)
    assert "HARI_SECRET_KEYS" in str(refused.value)
    assert "Fine" not in str(refused.value)


def test_the_start_refuses_with_one_message(tmp_path: Path) -> None:
    settings = {"HARI_PRODUCER_BIND": f"127.0.0.1:{free_port()}", "HARI_DATA_DIR": str(tmp_path)}
    with Stack(settings, tmp_path) as stack:
        migrating = stack.start("migrate")
        eventually(migrating.ended, 30)
        database = Database(f"sqlite:///{tmp_path / 'hari.db'}")
        with database.transaction() as conn:
            webhooks.create(conn, SecretBox((new_key(),)), a_new_webhook(name="Lost", secret="x"))
        database.close()
        refused = stack.start("up")
        eventually(refused.ended, 30)
        said = [line for line in refused.log.read_text().splitlines() if not line.startswith("{")]
        assert sum("HARI_SECRET_KEYS" in line and "Lost" in line for line in said) == 1, said
        assert not any("Traceback" in line for line in said)
