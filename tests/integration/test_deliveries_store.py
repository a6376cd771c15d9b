"""The claim protocol, statement by statement, on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, update

from services.dispatcher.housekeeping import close_claims, take_due
from services.dispatcher.record import write
from shared.db import Database
from shared.errors import Malformed, Unavailable
from shared.model import (
    Actor,
    Attempt,
    Change,
    Claimed,
    DeliveryTask,
    Event,
    Outcome,
    Postpone,
    Problem,
    Request,
    State,
)
from shared.sql import later
from shared.store import attempts, deliveries, outbox, upkeep
from shared.store.attempts import AttemptRow
from shared.store.deliveries import Match, Result
from shared.tables import attempts as attempts_table
from shared.tables import deliveries as d
from shared.tables import metadata, webhooks
from shared.tables import outbox as outbox_table
from shared.wire import new_event
from tests.builders import a_webhook

WAITS_S = (5.0, 30.0)


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


def add_webhook(conn: Connection, webhook_id: str = "wh_1", **values: Any) -> str:
    row: dict[str, Any] = {"id": webhook_id, "name": "n", "entity": "Deal", "event": "save", "url": "https://e.test/"}
    row |= {"active": True, "timeout_s": 15, "concurrency": 4, "version": 1}
    moment = datetime.now(UTC)
    conn.execute(insert(webhooks).values(row | {"created_at": moment, "updated_at": moment} | values))
    return webhook_id


def an_event(event_id: str = "evt_1") -> Event:
    record = {"id": "rec_1", "version": 1}
    user = Actor("usr_1", "Ada")
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return new_event(
        event_id=event_id, change=Change.CREATED, entity="Deal", record=record, timestamp=moment, user=user
    )


def dispatched(conn: Connection, *, claim: bool, webhook_id: str = "wh_1", delivery_id: str = "dlv_1") -> date:
    """One delivery as dispatch leaves it; returns its day."""
    outbox.append(conn, [an_event(f"evt_{delivery_id}")])
    day = outbox.lock_known(conn, [f"evt_{delivery_id}"])[f"evt_{delivery_id}"].event_day
    match = Match(day, delivery_id, webhook_id, f"evt_{delivery_id}", claim)
    assert deliveries.insert_matches(conn, [match], None) == {delivery_id}
    return day


def row(conn: Connection, delivery_id: str = "dlv_1") -> Any:
    return conn.execute(select(d).where(d.c.id == delivery_id)).one()


def a_result(day: date, attempt_no: int = 1, state: State = State.DELIVERED, **values: Any) -> Result:
    plain: dict[str, Any] = {"reason": None, "failures": 0, "unknowns": 0, "wait_s": None, "check_s": None}
    plain |= {"status": 200, "error": None}
    return Result(event_day=day, delivery_id="dlv_1", attempt_no=attempt_no, state=state, **(plain | values))


def test_a_first_claim_comes_with_the_row(conn: Connection) -> None:
    add_webhook(conn)
    dispatched(conn, claim=True)
    found = row(conn)
    assert (found.state, found.attempt_no) == ("pending", 1)
    lease_s = (found.lease_until - found.claimed_at).total_seconds()
    assert lease_s == pytest.approx(30, abs=0.01)


def test_without_a_slot_the_row_waits_for_its_turn(conn: Connection) -> None:
    add_webhook(conn)
    dispatched(conn, claim=False)
    found = row(conn)
    assert (found.state, found.attempt_no, found.lease_until, found.next_attempt_at) == ("waiting", 0, None, None)
    assert found.check_at is not None


def test_the_same_match_twice_makes_one_delivery(conn: Connection) -> None:
    add_webhook(conn)
    day = dispatched(conn, claim=True)
    assert deliveries.insert_matches(conn, [Match(day, "dlv_1", "wh_1", "evt_dlv_1", True)], None) == set()
    assert row(conn).attempt_no == 1


@pytest.mark.parametrize("values", [{"active": False}, {"deleted_at": datetime.now(UTC)}], ids=["inactive", "deleted"])
def test_a_webhook_out_of_service_gets_no_delivery(conn: Connection, values: dict[str, Any]) -> None:
    add_webhook(conn, **values)
    outbox.append(conn, [an_event()])
    assert deliveries.insert_matches(conn, [Match(date(2026, 1, 1), "dlv_1", "wh_1", "evt_1", True)], None) == set()


def test_a_claim_is_granted_once(conn: Connection) -> None:
    add_webhook(conn)
    day = dispatched(conn, claim=False)
    task = DeliveryTask("dlv_1", day, 1, "wh_1")
    [granted] = deliveries.claim(conn, [task], None)
    assert (granted.id, granted.attempt_no, granted.event_id) == ("dlv_1", 1, "evt_dlv_1")
    assert deliveries.claim(conn, [task], None) == []


@pytest.mark.parametrize("attempt_no", [1, 3], ids=["the one in flight", "one too far"])
def test_a_claim_of_another_number_is_refused(conn: Connection, attempt_no: int) -> None:
    add_webhook(conn)
    day = dispatched(conn, claim=True)
    assert deliveries.claim(conn, [DeliveryTask("dlv_1", day, attempt_no, "wh_1")], None) == []


def test_the_next_number_is_refused_while_one_is_in_flight(conn: Connection) -> None:
    add_webhook(conn)
    day = dispatched(conn, claim=True)
    assert deliveries.claim(conn, [DeliveryTask("dlv_1", day, 2, "wh_1")], None) == []


@pytest.mark.parametrize("state", ["delivered", "dead", "cancelled"])
def test_a_claim_of_what_is_over_is_refused(conn: Connection, state: str) -> None:
    add_webhook(conn)
    day = dispatched(conn, claim=False)
    conn.execute(update(d).values(state=state, check_at=None))
    assert deliveries.claim(conn, [DeliveryTask("dlv_1", day, 1, "wh_1")], None) == []


@pytest.mark.parametrize("values", [{"active": False}, {"deleted_at": datetime.now(UTC)}], ids=["inactive", "deleted"])
def test_a_claim_for_a_webhook_out_of_service_is_refused(conn: Connection, values: dict[str, Any]) -> None:
    add_webhook(conn)
    day = dispatched(conn, claim=False)
    conn.execute(update(webhooks).values(values))
    assert deliveries.claim(conn, [DeliveryTask("dlv_1", day, 1, "wh_1")], None) == []


def test_a_test_may_be_claimed_for_an_inactive_webhook(conn: Connection) -> None:
    add_webhook(conn, active=False)
    day = deliveries.create_test(conn, delivery_id="dlv_t", webhook_id="wh_1", event_id="evt_1", give_up_s=20)
    [granted] = deliveries.claim(conn, [DeliveryTask("dlv_t", day, 1, "wh_1")], None)
    assert granted.test


def test_turns_are_taken_oldest_first_and_no_more_than_asked(conn: Connection) -> None:
    add_webhook(conn)
    for number in range(3):
        dispatched(conn, claim=False, delivery_id=f"dlv_{number}")
        conn.execute(
            update(d).where(d.c.id == f"dlv_{number}").values(created_at=datetime(2026, 1, 1 + number, tzinfo=UTC))
        )
    assert {r.id for r in deliveries.claim_in_turn(conn, "wh_1", 2, None)} == {"dlv_0", "dlv_1"}
    assert {r.id for r in deliveries.claim_in_turn(conn, "wh_1", 2, None)} == {"dlv_2"}


def test_a_task_over_the_cap_waits_and_spends_no_attempt(conn: Connection) -> None:
    add_webhook(conn)
    day = dispatched(conn, claim=True)
    deliveries.apply_results(conn, [a_result(day, state=State.WAITING, wait_s=0.0, check_s=240.0, failures=1)])
    deliveries.wait_for_turn(conn, [DeliveryTask("dlv_1", day, 2, "wh_1")])
    found = row(conn)
    assert (found.state, found.attempt_no, found.next_attempt_at, found.failures) == ("waiting", 1, None, 1)
    assert [r.attempt_no for r in deliveries.claim_in_turn(conn, "wh_1", 5, None)] == [2]


def test_a_result_ends_the_claim_once(conn: Connection) -> None:
    add_webhook(conn)
    day = dispatched(conn, claim=True)
    assert deliveries.apply_results(conn, [a_result(day)]) == {("dlv_1", 1)}
    found = row(conn)
    assert (found.state, found.lease_until, found.check_at, found.last_status) == ("delivered", None, None, 200)
    assert deliveries.apply_results(conn, [a_result(day, state=State.DEAD)]) == set()
    assert row(conn).state == "delivered"


def test_a_failure_waits_for_its_time(conn: Connection) -> None:
    add_webhook(conn)
    day = dispatched(conn, claim=True)
    result = a_result(day, state=State.WAITING, status=500, wait_s=5.0, check_s=245.0, failures=1)
    deliveries.apply_results(conn, [result])
    found = row(conn)
    assert (found.state, found.failures, found.last_status) == ("waiting", 1, 500)
    assert (found.check_at - found.next_attempt_at).total_seconds() == pytest.approx(240, abs=0.01)


def test_what_was_postponed_gives_its_claim_back_unspent_and_unlogged(conn: Connection) -> None:
    add_webhook(conn)
    day = dispatched(conn, claim=True)
    outcome = Outcome(problem=Problem.UNKNOWN, detail="the dispatcher had no file descriptor left", own_trouble=True)
    claimed = Claimed("dlv_1", day, 1, "evt_dlv_1", b"{}", a_webhook())
    request = Request("https://example.com/hook", (), b"{}")
    assert write(conn, [Attempt(claimed, request, outcome, Postpone(5.0), datetime.now(UTC))], 240) == []
    found = row(conn)
    assert (found.state, found.attempt_no, found.failures, found.lease_until) == ("waiting", 0, 0, None)
    assert found.reason == outcome.detail
    assert found.check_at == found.next_attempt_at is not None
    assert conn.execute(select(attempts_table)).all() == []
    conn.execute(update(d).values(check_at=later(-1)))
    assert [task.attempt_no for task in take_due(conn, 240)] == [1]


def test_an_expired_claim_is_closed_as_unknown_and_the_next_follows_at_once(conn: Connection) -> None:
    add_webhook(conn)
    dispatched(conn, claim=True)
    assert close_claims(conn, WAITS_S).closed == 0, "its lease still runs"
    conn.execute(update(d).values(lease_until=later(-1), check_at=later(-1)))
    assert close_claims(conn, WAITS_S).closed == 1
    found = row(conn)
    assert (found.state, found.unknowns, found.failures, found.lease_until) == ("waiting", 1, 0, None)
    logged = conn.execute(select(attempts_table)).one()
    assert (logged.attempt_no, logged.error, logged.status) == (1, "unknown", None)
    assert [task.attempt_no for task in take_due(conn, 240)] == [2]


def test_three_unknowns_in_a_row_are_one_failure(conn: Connection) -> None:
    add_webhook(conn)
    dispatched(conn, claim=True)
    conn.execute(update(d).values(lease_until=later(-1), check_at=later(-1), unknowns=2))
    close_claims(conn, WAITS_S)
    found = row(conn)
    assert (found.unknowns, found.failures) == (0, 1)
    assert found.next_attempt_at is not None


def test_a_late_success_completes_its_row_and_delivers(conn: Connection) -> None:
    add_webhook(conn)
    day = dispatched(conn, claim=True)
    close_claims(conn, WAITS_S, every=True)
    assert deliveries.apply_results(conn, [a_result(day)]) == set(), "too late for the claim"
    late = AttemptRow(day, "dlv_1", 1, datetime.now(UTC), 200, None, None, 12.0)
    attempts.complete(conn, [late])
    deliveries.deliver_late(conn, [a_result(day)])
    assert row(conn).state == "delivered"
    logged = conn.execute(select(attempts_table)).one()
    assert (logged.status, logged.error) == (200, None)


def test_a_known_result_is_never_overwritten(conn: Connection) -> None:
    day = date(2026, 1, 1)
    attempts.add(conn, [AttemptRow(day, "dlv_1", 1, datetime.now(UTC), 200, None, None, 12.0)])
    attempts.complete(conn, [AttemptRow(day, "dlv_1", 1, datetime.now(UTC), 500, None, None, 12.0)])
    assert conn.execute(select(attempts_table.c.status)).scalar_one() == 200


def test_due_rows_are_published_once_then_later_and_later(conn: Connection) -> None:
    add_webhook(conn)
    dispatched(conn, claim=False)
    conn.execute(update(d).values(check_at=later(-1)))
    assert len(take_due(conn, 240)) == 1
    assert take_due(conn, 240) == []
    for expected_s in (480, 960, 1920, 3600, 3600):
        conn.execute(update(d).values(check_at=later(-1)))
        assert len(take_due(conn, 240)) == 1
        in_s = conn.execute(select(d.c.check_at)).scalar_one() - datetime.now(UTC)
        assert in_s.total_seconds() == pytest.approx(expected_s, abs=20)


def test_a_webhook_is_fed_twice_its_cap_and_the_rest_waits_for_its_turn(conn: Connection) -> None:
    add_webhook(conn)
    for number in range(12):
        dispatched(conn, claim=False, delivery_id=f"dlv_{number:02}")
    conn.execute(update(d).values(check_at=later(-1), next_attempt_at=later(-1)))
    assert len(take_due(conn, 240)) == 8
    assert conn.execute(select(d).where(d.c.next_attempt_at.is_(None))).all().__len__() == 4


def test_cancelling_leaves_what_is_in_flight_and_tests_alone(conn: Connection) -> None:
    add_webhook(conn)
    dispatched(conn, claim=True, delivery_id="dlv_flying")
    dispatched(conn, claim=False, delivery_id="dlv_waiting")
    deliveries.create_test(conn, delivery_id="dlv_test", webhook_id="wh_1", event_id="evt_1", give_up_s=20)
    assert deliveries.cancel_waiting(conn, "wh_1", "deactivated") == 1
    assert [row(conn, i).state for i in ("dlv_flying", "dlv_waiting", "dlv_test")] == [
        "pending",
        "cancelled",
        "pending",
    ]


def test_what_waited_longer_than_the_schedule_expires(conn: Connection) -> None:
    add_webhook(conn)
    dispatched(conn, claim=False)
    assert upkeep.expire(conn, 35) == 0
    conn.execute(update(d).values(created_at=later(-40)))
    assert upkeep.expire(conn, 35) == 0, "a short schedule expires nothing that is days younger than three"
    conn.execute(update(d).values(created_at=later(-4 * 86400)))
    assert upkeep.expire(conn, 35) == 1
    assert (row(conn).state, row(conn).reason) == ("dead", "expired")


def test_an_event_is_appended_once(conn: Connection) -> None:
    assert outbox.append(conn, [an_event("evt_a"), an_event("evt_b")]) == ["evt_a", "evt_b"]
    assert outbox.append(conn, [an_event("evt_b"), an_event("evt_c")]) == ["evt_c"]


def test_a_relayed_batch_is_not_taken_again(conn: Connection) -> None:
    outbox.append(conn, [an_event(f"evt_{n}") for n in range(5)])
    batch = outbox.take_unpublished(conn, 3)
    assert [taken.event_id for taken in batch] == ["evt_0", "evt_1", "evt_2"]
    outbox.mark_published(conn, batch, 240)
    assert [taken.event_id for taken in outbox.take_unpublished(conn, 3)] == ["evt_3", "evt_4"]
    assert outbox.backlog(conn)[0] == 2


def test_only_events_that_the_queue_has_passed_are_given_back(conn: Connection) -> None:
    outbox.append(conn, [an_event(f"evt_{n}") for n in range(3)])
    outbox.mark_published(conn, outbox.take_unpublished(conn, 3), -1)
    assert outbox.unpublish_overdue(conn, queue_is_empty=False) == 0, "a backlog is healthy"
    known = outbox.lock_known(conn, ["evt_1"])
    outbox.mark_dispatched(conn, [known["evt_1"].seq])
    assert outbox.unpublish_overdue(conn, queue_is_empty=False) == 1, "the queue went past evt_0, not past evt_2"
    assert outbox.unpublish_overdue(conn, queue_is_empty=True) == 1
    states = conn.execute(select(outbox_table.c.event_id).where(outbox_table.c.published_at.is_(None))).scalars().all()
    assert set(states) == {"evt_0", "evt_2"}


def test_a_full_disk_during_copy_is_our_trouble_not_the_rows(postgresql_database_url: str) -> None:
    database = Database(postgresql_database_url)
    metadata.create_all(database.engine)
    with database.transaction() as conn:
        conn.exec_driver_sql(
            "CREATE FUNCTION full_disk() RETURNS trigger AS $$ BEGIN "
            "RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$ LANGUAGE plpgsql"
        )
        conn.exec_driver_sql("CREATE TRIGGER t BEFORE INSERT ON attempts FOR EACH ROW EXECUTE FUNCTION full_disk()")
    full = AttemptRow(date(2026, 1, 1), "dlv_1", 1, datetime.now(UTC), 200, None, None, 12.0)
    with pytest.raises(Unavailable, match="no space left"), database.transaction() as conn:
        attempts.add(conn, [full])
    with database.transaction() as conn:
        conn.exec_driver_sql("DROP TRIGGER t ON attempts")
    with pytest.raises(Malformed), database.transaction() as conn:
        attempts.add(conn, [full._replace(detail="nul \x00")])
    database.close()
