"""Redrive and replay: what they count, what they send, and that a crash between two steps changes nothing."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, select, update

from services.dispatcher.housekeeping import replay_step, take_due
from shared.ids import delivery_id
from shared.model import State
from shared.sql import later
from shared.store import deliveries, outbox, replays
from shared.store.deliveries import Match, Result
from shared.tables import deliveries as d
from shared.tables import outbox as o
from shared.tables import replays as r
from tests.api import Api, errors
from tests.builders import an_event

WEBHOOK = {"name": "Zapier", "entity": "Deal", "event": "save", "url": "https://example.com/hook"}
LONG_AGO = "2026-01-01T00:00:00Z"


@pytest.fixture(params=["sqlite", "postgresql"])
def api(request: pytest.FixtureRequest) -> Iterator[Api]:
    api = Api(request.getfixturevalue(f"{request.param}_database_url"))
    yield api
    api.close()


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.store.replays.EVENTS_A_STEP", 2)
    monkeypatch.setattr("shared.store.replays.DEAD_A_STEP", 2)


def a_webhook(api: Api, **values: Any) -> str:
    return str(api.call("POST", "/webhooks", WEBHOOK | values, status=201)["id"])


def an_old_event(conn: Connection, webhook_id: str, state: State | None, event_id: str, **more: Any) -> str:
    """A dispatched event and its delivery in this state (None: it has none); returns the delivery's id."""
    event = an_event(event_id=event_id, **more)
    found = delivery_id(event.id, webhook_id)
    outbox.append(conn, [event], published=True)
    known = outbox.lock_known(conn, [event.id])[event.id]
    outbox.mark_dispatched(conn, [known.seq])
    if state is not None:
        deliveries.insert_matches(conn, [Match(known.event_day, found, webhook_id, event.id, True)], None)
        wait_s = 60.0 if state is State.WAITING else None
        reason = None if state is State.DELIVERED else "answered 500"
        result = Result(known.event_day, found, 1, state, reason, 3, 1, wait_s, wait_s, 500, None)
        deliveries.apply_results(conn, [result])
    return found


def work_off(api: Api) -> list[int]:
    """Every step until there is none, as housekeeping makes them."""
    counts = []
    while True:
        with api.database.transaction() as conn:
            count = replays.step(conn)
        if count is None:
            return counts
        counts.append(count)


def states(api: Api) -> dict[str, str]:
    with api.database.transaction() as conn:
        return {row.id: row.state for row in conn.execute(select(d.c.id, d.c.state))}


def until() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat()


def test_dead_deliveries_are_redriven_by_id(api: Api) -> None:
    webhook_id = a_webhook(api)
    with api.database.transaction() as conn:
        dead, other = (an_old_event(conn, webhook_id, State.DEAD, f"evt_{n}") for n in range(2))
        good = an_old_event(conn, webhook_id, State.DELIVERED, "evt_good")
    body = {"delivery_ids": [dead, good, "dlv_none", dead]}
    assert api.call("POST", "/dead/redrive", body, status=202) == {"count": 1}
    assert api.call("POST", "/dead/redrive", body, status=202) == {"count": 0}, "run twice does no more than once"
    assert states(api) == {dead: "pending", other: "dead", good: "delivered"}
    with api.database.transaction() as conn:
        assert [(task.delivery_id, task.attempt_no) for task in take_due(conn, 240)] == [(dead, 2)]
        assert conn.execute(select(d.c.failures).where(d.c.id == dead)).scalar_one() == 0


def test_dead_deliveries_are_redriven_by_filter_in_steps(api: Api) -> None:
    one, two, idle = a_webhook(api), a_webhook(api), a_webhook(api)
    with api.database.transaction() as conn:
        mine = {an_old_event(conn, one, State.DEAD, f"evt_{n}") for n in range(5)}
        old = an_old_event(conn, one, State.DEAD, "evt_old")
        conn.execute(update(d).where(d.c.id == old).values(created_at=later(-3 * 86400)))
        foreign = an_old_event(conn, two, State.DEAD, "evt_two")
        an_old_event(conn, idle, State.DEAD, "evt_idle")
    api.call("PATCH", f"/webhooks/{idle}", {"active": False})
    since = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    body = {"webhook_id": one, "since": since, "reason": "answered 500"}
    assert api.call("POST", "/dead/redrive", body | {"reason": "else"}, status=202) == {"count": 0}
    assert api.call("POST", "/dead/redrive", body, status=202)["count"] == 5
    assert {found for found, state in states(api).items() if state == "pending"} == set(), "the request only counts"
    assert work_off(api) == [2, 2, 1, 0]
    assert {found for found, state in states(api).items() if state == "pending"} == mine
    assert api.call("POST", "/dead/redrive", {"webhook_id": idle}, status=409)["detail"].startswith(
        "the webhook is ina"
    )
    api.call("POST", "/dead/redrive", {"webhook_id": "wh_none"}, status=404)
    assert api.call("POST", "/dead/redrive", {}, status=202)["count"] == 2, "not what belongs to an inactive webhook"
    work_off(api)
    assert [states(api)[found] for found in (old, foreign)] == ["pending"] * 2


def test_a_redrive_takes_each_delivery_once_although_it_dies_again(api: Api) -> None:
    webhook_id = a_webhook(api)
    with api.database.transaction() as conn:
        for n in range(3):
            an_old_event(conn, webhook_id, State.DEAD, f"evt_{n}")
    api.call("POST", "/dead/redrive", {}, status=202)
    with api.database.transaction() as conn:
        assert replays.step(conn) == 2
        conn.execute(update(d).values(state="dead", check_at=None))
    assert work_off(api) == [1, 0]


def test_a_replay_creates_what_is_missing_and_resends_what_is_over(api: Api) -> None:
    webhook_id = a_webhook(api, filter={"changed.stage": "Won"})
    with api.database.transaction() as conn:
        dead = an_old_event(conn, webhook_id, State.DEAD, "evt_dead")
        cancelled = an_old_event(conn, webhook_id, State.CANCELLED, "evt_cancelled")
        good = an_old_event(conn, webhook_id, State.DELIVERED, "evt_good")
        waiting = an_old_event(conn, webhook_id, State.WAITING, "evt_waiting")
        missed = an_old_event(conn, webhook_id, None, "evt_missed")
        an_old_event(conn, webhook_id, None, "evt_lost", record={"stage": "Lost"})
        an_old_event(conn, webhook_id, None, "evt_task", entity="Task")
        an_old_event(conn, webhook_id, None, "evt_deleted", event="deleted")
        an_old_event(conn, webhook_id, None, "evt_test", test=True)
        outbox.append(conn, [an_event(event_id="evt_undispatched")])
    body = {"webhook_id": webhook_id, "since": LONG_AGO, "until": until()}
    assert api.call("POST", "/replays", body | {"dry_run": True}, status=202) == {"count": 3}
    assert work_off(api) == []
    answer = api.call("POST", "/replays", body, status=202)
    assert answer["count"] == 3
    assert answer["id"].startswith("rpl_")
    assert sum(work_off(api)) == 3
    expected = {dead: "pending", cancelled: "pending", good: "delivered", waiting: "waiting", missed: "waiting"}
    assert states(api) == expected
    with api.database.transaction() as conn:
        due = {task.delivery_id: task.attempt_no for task in take_due(conn, 240)}
    assert due == {dead: 2, cancelled: 2, missed: 1}, "all of it is due at once"
    assert api.call("POST", "/replays", body, status=202) == {"count": 0}, "run twice does no more than once"


def test_a_replay_sends_delivered_ones_only_when_asked(api: Api) -> None:
    webhook_id = a_webhook(api)
    with api.database.transaction() as conn:
        good = an_old_event(conn, webhook_id, State.DELIVERED, "evt_good")
    body = {"webhook_id": webhook_id, "since": LONG_AGO, "until": until()}
    assert api.call("POST", "/replays", body, status=202) == {"count": 0}
    assert api.call("POST", "/replays", body | {"include_delivered": True}, status=202)["count"] == 1
    assert sum(work_off(api)) == 1
    with api.database.transaction() as conn:
        assert [task.delivery_id for task in take_due(conn, 240)] == [good]
    assert states(api) == {good: "delivered"}


def test_a_replay_keeps_to_its_range(api: Api) -> None:
    webhook_id = a_webhook(api)
    with api.database.transaction() as conn:
        found = [an_old_event(conn, webhook_id, None, f"evt_{n}") for n in range(9)]
        for n in range(9):
            at = datetime(2026, 3, 1 + n, tzinfo=UTC)
            conn.execute(update(o).where(o.c.event_id == f"evt_{n}").values(created_at=at))
        assert replays.first_seq(conn, datetime(2026, 3, 4, tzinfo=UTC)) == 3
        assert replays.first_seq(conn, datetime(2025, 3, 4, tzinfo=UTC)) == 0
        assert replays.first_seq(conn, datetime(2027, 3, 4, tzinfo=UTC)) == 8
    body = {"webhook_id": webhook_id, "since": "2026-03-04T00:00:00Z", "until": "2026-03-07T02:00:00+02:00"}
    assert api.call("POST", "/replays", body, status=202)["count"] == 3
    work_off(api)
    assert set(states(api)) == set(found[3:6])


def test_a_crash_between_two_steps_loses_and_repeats_nothing(api: Api) -> None:
    webhook_id = a_webhook(api)
    with api.database.transaction() as conn:
        found = {an_old_event(conn, webhook_id, None, f"evt_{n}") for n in range(5)}
    api.call("POST", "/replays", {"webhook_id": webhook_id, "since": LONG_AGO, "until": until()}, status=202)
    with suppress(ZeroDivisionError), api.database.transaction() as conn:
        assert replays.step(conn) == 2
        raise ZeroDivisionError
    assert states(api) == {}
    assert work_off(api) == [2, 2, 1, 0]
    assert set(states(api)) == found


def test_a_replay_ends_when_its_webhook_does(api: Api) -> None:
    webhook_id = a_webhook(api)
    with api.database.transaction() as conn:
        for n in range(5):
            an_old_event(conn, webhook_id, None, f"evt_{n}")
    body = {"webhook_id": webhook_id, "since": LONG_AGO, "until": until()}
    api.call("POST", "/replays", body, status=202)
    api.call("PATCH", f"/webhooks/{webhook_id}", {"active": False})
    assert work_off(api) == [0]
    with api.database.transaction() as conn:
        assert conn.execute(select(r.c.ended_because)).scalar_one() == "the webhook is inactive; activate it first"
    assert api.call("POST", "/replays", body, status=409)["detail"] == "the webhook is inactive; activate it first"
    api.call("POST", "/replays", body | {"webhook_id": "wh_none"}, status=404)


def test_a_replay_waits_while_what_is_due_fills_a_tick(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.dispatcher.housekeeping.FULL_TICK", 2)
    webhook_id = a_webhook(api)
    with api.database.transaction() as conn:
        for n in range(2):
            an_old_event(conn, webhook_id, State.WAITING, f"evt_{n}")
        an_old_event(conn, webhook_id, None, "evt_missed")
    api.call("POST", "/replays", {"webhook_id": webhook_id, "since": LONG_AGO, "until": until()}, status=202)
    with api.database.transaction() as conn:
        conn.execute(update(d).values(check_at=later(-1)))
        assert replay_step(conn) is None
        assert len(take_due(conn, 240)) == 2
        assert replay_step(conn) == 0
        assert replay_step(conn) == 1


def test_replays_take_turns(api: Api) -> None:
    one, two = a_webhook(api), a_webhook(api)
    with api.database.transaction() as conn:
        for n in range(4):
            an_old_event(conn, one, None, f"evt_{n}")
    for webhook_id in (one, two):
        api.call("POST", "/replays", {"webhook_id": webhook_id, "since": LONG_AGO, "until": until()}, status=202)
    for _ in range(2):
        with api.database.transaction() as conn:
            replays.step(conn)
    with api.database.transaction() as conn:
        assert set(conn.execute(select(d.c.webhook_id)).scalars()) == {one, two}


def test_a_range_may_begin_and_end_anywhere(api: Api) -> None:
    webhook_id = a_webhook(api)
    with api.database.transaction() as conn:
        an_old_event(conn, webhook_id, State.DEAD, "evt_dead")
    ever = {"since": "0001-01-01T00:00:00+14:00", "until": "9999-12-31T23:59:59-14:00"}
    assert api.call("POST", "/replays", ever | {"webhook_id": webhook_id}, status=202)["count"] == 1
    assert api.call("POST", "/dead/redrive", ever, status=202)["count"] == 1
    assert sum(work_off(api)) == 1, "the second finds it sent again already"


def test_bad_ranges_name_the_field(api: Api) -> None:
    body = {"webhook_id": "wh_1", "since": "2026-01-02T00:00:00Z", "until": LONG_AGO}
    assert errors(api.call("POST", "/replays", body, status=422)) == {"/until": "must be after since"}
    assert set(errors(api.call("POST", "/replays", {"since": "yesterday"}, status=422))) == {
        "/since",
        "/until",
        "/webhook_id",
    }
    assert set(errors(api.call("POST", "/replays", body | {"since": "2026-01-02T00:00:00"}, status=422))) == {"/since"}
    both = {"delivery_ids": ["dlv_1"], "webhook_id": "wh_1"}
    assert set(errors(api.call("POST", "/dead/redrive", both, status=422))) == {"/webhook_id"}
    assert set(errors(api.call("POST", "/dead/redrive", {"delivery_ids": []}, status=422))) == {"/delivery_ids"}
    assert set(errors(api.call("POST", "/dead/redrive", {"state": "dead"}, status=422))) == {"/state"}
