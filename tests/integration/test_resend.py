"""Resend: the row's rules and the API's answers, on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from sqlalchemy import Connection, delete, select, update

from services.dispatcher.housekeeping import close_claims, take_due
from shared.ids import delivery_id
from shared.model import DeliveryTask, State
from shared.sql import later
from shared.store import deliveries, outbox, resends, upkeep
from shared.store.deliveries import Match, Result
from shared.tables import deliveries as d
from shared.tables import outbox as o
from tests.api import Api
from tests.builders import an_event

WEBHOOK = {"name": "Zapier", "entity": "Deal", "event": "save", "url": "https://example.com/hook"}


@pytest.fixture(params=["sqlite", "postgresql"])
def api(request: pytest.FixtureRequest) -> Iterator[Api]:
    api = Api(request.getfixturevalue(f"{request.param}_database_url"))
    yield api
    api.close()


@pytest.fixture
def webhook_id(api: Api) -> str:
    return str(api.call("POST", "/webhooks", WEBHOOK, status=201)["id"])


def a_delivery(api: Api, webhook_id: str, state: State | None, **values: Any) -> DeliveryTask:
    """A delivery whose first attempt met this; None: it is in flight. Returns the task of that attempt."""
    event = an_event()
    found = delivery_id(event.id, webhook_id)
    with api.database.transaction() as conn:
        outbox.append(conn, [event])
        day = outbox.lock_known(conn, [event.id])[event.id].event_day
        deliveries.insert_matches(conn, [Match(day, found, webhook_id, event.id, True)], None)
        if state is not None:
            wait_s = 60.0 if state is State.WAITING else None
            reason = None if state is State.DELIVERED else "answered 500"
            deliveries.apply_results(conn, [Result(day, found, 1, state, reason, 3, 1, wait_s, wait_s, 500, None)])
        if values:
            conn.execute(update(d).where(d.c.id == found).values(values))
    return DeliveryTask(found, day, 1, webhook_id)


def row(conn: Connection, found: str) -> Any:
    return conn.execute(select(d).where(d.c.id == found)).one()


def a_result(task: DeliveryTask, attempt_no: int, state: State, **values: Any) -> Result:
    plain = Result(task.event_day, task.delivery_id, attempt_no, state, None, 1, 0, None, None, 500, None)
    return plain._replace(**values)


@pytest.mark.parametrize("state", [State.DEAD, State.CANCELLED])
def test_what_was_over_begins_a_new_round(api: Api, webhook_id: str, state: State) -> None:
    task = a_delivery(api, webhook_id, state)
    answer = api.call("POST", f"/deliveries/{task.delivery_id}/resend", status=202)
    assert answer == {"id": task.delivery_id, "attempt_no": 2}
    next_task = DeliveryTask(task.delivery_id, task.event_day, 2, webhook_id)
    assert api.asked == [next_task]
    with api.database.transaction() as conn:
        found = row(conn, task.delivery_id)
        assert (found.state, found.failures, found.unknowns, found.attempt_no) == ("pending", 0, 0, 1)
        assert take_due(conn, 240) == [next_task], "a lost task is published by the next tick"
        [claimed] = deliveries.claim(conn, [next_task], None)
        assert (claimed.attempt_no, claimed.failures) == (2, 0)
        assert deliveries.claim(conn, [next_task], None) == []


def test_a_waiting_one_has_its_next_attempt_now_and_keeps_its_schedule(api: Api, webhook_id: str) -> None:
    task = a_delivery(api, webhook_id, State.WAITING)
    api.call("POST", f"/deliveries/{task.delivery_id}/resend", status=202)
    api.call("POST", f"/deliveries/{task.delivery_id}/resend", status=202)
    assert api.asked == [DeliveryTask(task.delivery_id, task.event_day, 2, webhook_id)] * 2, "it asks for one attempt"
    with api.database.transaction() as conn:
        found = row(conn, task.delivery_id)
        assert (found.state, found.failures) == ("waiting", 3)
        assert len(take_due(conn, 240)) == 1
        assert len(deliveries.claim(conn, api.asked, None)) == 1, "the wait queue's own task comes too late"


def test_a_delivered_one_gets_one_attempt_and_stays_delivered(api: Api, webhook_id: str) -> None:
    task = a_delivery(api, webhook_id, State.DELIVERED)
    api.call("POST", f"/deliveries/{task.delivery_id}/resend", status=202)
    with api.database.transaction() as conn:
        assert take_due(conn, 240) == api.asked
        assert take_due(conn, 240) == []
        deliveries.wait_for_turn(conn, api.asked)
        assert row(conn, task.delivery_id).state == "delivered"
        assert len(deliveries.claim(conn, api.asked, None)) == 1
        assert row(conn, task.delivery_id).state == "delivered"
    api.call("POST", f"/deliveries/{task.delivery_id}/resend", status=409)
    with api.database.transaction() as conn:
        failed = a_result(task, 2, State.WAITING, reason="answered 500", wait_s=5.0, check_s=245.0)
        assert deliveries.apply_results(conn, [failed]) == {(task.delivery_id, 2)}
        found = row(conn, task.delivery_id)
        assert (found.state, found.reason, found.lease_until, found.check_at) == ("delivered", None, None, None)
        assert found.last_status == 500
        assert deliveries.claim(conn, [DeliveryTask(task.delivery_id, task.event_day, 3, webhook_id)], None) == []


def test_a_lost_worker_leaves_a_delivered_one_delivered(api: Api, webhook_id: str) -> None:
    task = a_delivery(api, webhook_id, State.DELIVERED)
    api.call("POST", f"/deliveries/{task.delivery_id}/resend", status=202)
    with api.database.transaction() as conn:
        deliveries.claim(conn, api.asked, None)
        conn.execute(update(d).values(lease_until=later(-1), check_at=later(-1)))
        assert close_claims(conn, (5.0,)).closed == 1
        assert (row(conn, task.delivery_id).state, row(conn, task.delivery_id).check_at) == ("delivered", None)


def test_deactivating_withdraws_the_resend_of_a_delivered_one(api: Api, webhook_id: str) -> None:
    task = a_delivery(api, webhook_id, State.DELIVERED)
    api.call("POST", f"/deliveries/{task.delivery_id}/resend", status=202)
    api.call("PATCH", f"/webhooks/{webhook_id}", {"active": False})
    with api.database.transaction() as conn:
        found = row(conn, task.delivery_id)
        assert (found.state, found.reason, found.check_at) == ("delivered", None, None)
    api.call("PATCH", f"/webhooks/{webhook_id}", {"active": True})
    with api.database.transaction() as conn:
        assert deliveries.claim(conn, api.asked, None) == []


def test_a_webhook_at_its_cap_lets_a_resend_wait_its_turn(api: Api, webhook_id: str) -> None:
    api.call("PATCH", f"/webhooks/{webhook_id}", {"concurrency": 1})
    tasks = [a_delivery(api, webhook_id, state) for state in (State.DEAD, State.DEAD, State.DEAD, State.DELIVERED)]
    for task in tasks:
        api.call("POST", f"/deliveries/{task.delivery_id}/resend", status=202)
    with api.database.transaction() as conn:
        conn.execute(update(d).where(d.c.state == "delivered").values(check_at=later(60)))
        assert len(take_due(conn, 240)) == 2
        conn.execute(update(d).where(d.c.state == "delivered").values(check_at=later(-60)))
        conn.execute(update(d).where(d.c.state == "pending").values(check_at=later(-90)))
        assert len(take_due(conn, 240)) == 2
        assert row(conn, tasks[3].delivery_id).state == "delivered"


def test_an_old_one_that_is_sent_again_does_not_expire_before_its_turn(api: Api, webhook_id: str) -> None:
    task = a_delivery(api, webhook_id, State.DEAD)
    api.call("POST", f"/deliveries/{task.delivery_id}/resend", status=202)
    with api.database.transaction() as conn:
        old = {"created_at": later(-9 * 86400), "claimed_at": later(-9 * 86400)}
        conn.execute(update(d).values(old))
        deliveries.wait_for_turn(conn, api.asked)
        assert upkeep.expire(conn, 35) == 0
        conn.execute(update(d).values(resent_at=later(-9 * 86400)))
        assert upkeep.expire(conn, 35) == 1


def test_what_cannot_be_resent_says_why(api: Api, webhook_id: str) -> None:
    def refused(task: DeliveryTask) -> Any:
        return api.call("POST", f"/deliveries/{task.delivery_id}/resend", status=409)["detail"]

    api.call("POST", "/deliveries/dlv_none/resend", status=404)
    assert "in flight" in refused(a_delivery(api, webhook_id, None))
    assert "test" in refused(a_delivery(api, webhook_id, State.DELIVERED, test=True))
    dead = a_delivery(api, webhook_id, State.DEAD)
    with api.database.transaction() as conn:
        event_id = row(conn, dead.delivery_id).event_id
        kept = conn.execute(select(o).where(o.c.event_id == event_id)).mappings().one()
        conn.execute(delete(o).where(o.c.event_id == event_id))
    assert "not kept" in refused(dead)
    with api.database.transaction() as conn:
        conn.execute(o.insert().values(kept))
    api.call("PATCH", f"/webhooks/{webhook_id}", {"active": False})
    assert "inactive" in refused(dead)
    api.call("DELETE", f"/webhooks/{webhook_id}", status=204)
    assert "deleted" in refused(dead)
    assert api.asked == []


def test_a_delivery_of_any_day_is_found(api: Api, webhook_id: str) -> None:
    a_delivery(api, webhook_id, State.DEAD)
    task = a_delivery(api, webhook_id, State.DEAD, event_day=date(2026, 1, 2))
    with api.database.transaction() as conn:
        found = resends.resend(conn, task.delivery_id)
    assert found is not None
    assert found.event_day == date(2026, 1, 2)
