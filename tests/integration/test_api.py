"""The API's calls and shapes, on SQLite and on PostgreSQL."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest
import requests
from sqlalchemy import func, select, update

from services.producer import shapes
from services.producer.send_test import TestResult as Met
from shared import metrics
from shared.db import Database
from shared.errors import Unavailable
from shared.ids import delivery_id
from shared.model import State
from shared.sql import later
from shared.store import api_keys, attempts, deliveries, outbox, webhooks
from shared.store.attempts import AttemptRow
from shared.store.deliveries import Match, Result
from shared.tables import deliveries as d
from shared.tables import outbox as o
from tests.api import KEY, Api, errors
from tests.builders import NOON, an_envelope, an_event
from tests.waiting import eventually

WEBHOOK = {"name": "Zapier", "entity": "Deal", "event": "save", "url": "https://example.com/hook"}


@pytest.fixture(params=["sqlite", "postgresql"])
def api(request: pytest.FixtureRequest) -> Iterator[Api]:
    api = Api(request.getfixturevalue(f"{request.param}_database_url"))
    yield api
    api.close()


def events(api: Api) -> list[Any]:
    """The payloads in the outbox, in their order."""
    with api.database.transaction() as conn:
        return [orjson.loads(body) for body in conn.execute(select(o.c.body).order_by(o.c.seq)).scalars()]


def delivered(api: Api, webhook_id: str, event_id: str | None = None, state: State = State.DELIVERED) -> str:
    """A delivery with one attempt, as the dispatcher leaves it; returns its id."""
    event = an_event(event_id=event_id)
    found = delivery_id(event.id, webhook_id)
    status, error = (200, None) if state is State.DELIVERED else (None, "timeout")
    with api.database.transaction() as conn:
        outbox.append(conn, [event])
        day = outbox.lock_known(conn, [event.id])[event.id].event_day
        deliveries.insert_matches(conn, [Match(day, found, webhook_id, event.id, True)], None)
        result = Result(day, found, 1, state, None, 0, 0, None, None, status, error)
        deliveries.apply_results(conn, [result])
        headers = orjson.dumps([("Content-Type", "application/json"), ("X-Webhook-Secret", "••••")])
        came = orjson.dumps([("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]) if status else None
        row = AttemptRow(day, found, 1, NOON, status, error, None, 12.5, request_url="https://example.com/hook")
        values = {"request_headers": headers, "response_headers": came, "response_body": b"\xff\x00" if status else b""}
        attempts.add(conn, [row._replace(**values)])
    return found


def test_a_record_is_created_read_changed_and_deleted_and_each_change_is_an_event(api: Api) -> None:
    made = api.call("POST", "/records/Deal", {"name": "Engine", "amount": 10}, status=201)
    assert made | {"id": "", "created_at": "", "updated_at": ""} == {
        "id": "",
        "version": 1,
        "created_at": "",
        "updated_at": "",
        "name": "Engine",
        "stage": None,
        "amount": 10,
        "close_date": None,
        "contact_id": None,
    }
    path = f"/records/Deal/{made['id']}"
    assert api.call("GET", path) == made
    changed = api.call("PATCH", path, {"stage": "Won", "amount": 10})
    assert (changed["version"], changed["stage"], changed["created_at"]) == (2, "Won", made["created_at"])
    assert api.call("GET", path) == changed
    assert api.call("PATCH", path, {"stage": "Won"}) == changed  # changes nothing: no event
    api.call("DELETE", path, status=204)
    api.call("GET", path, status=404)
    api.call("DELETE", path, status=404)

    created, updated, deleted = events(api)
    assert [event["event"] for event in (created, updated, deleted)] == ["created", "updated", "deleted"]
    assert created["record"] == made
    assert "changed" not in created
    assert (updated["record"], updated["changed"], updated["previous"]) == (changed, ["stage"], {"stage": None})
    assert deleted["record"] == changed | {"version": 3}
    assert created["user"]["name"] == "bootstrap"
    assert created["user"]["id"].startswith("key_")
    assert api.notified == ["outbox"] * 3


def test_a_change_passes_hop_and_trace_on(api: Api) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    api.call("POST", "/records/Task", {}, status=201, headers={"X-HARi-Hop": "3", "traceparent": trace})
    api.call("POST", "/records/Task", {}, status=201, headers={"X-HARi-Hop": "-1", "traceparent": "nonsense"})
    with api.database.transaction() as conn:
        rows = conn.execute(select(o.c.hop, o.c.traceparent).order_by(o.c.seq)).all()
    assert [tuple(row) for row in rows] == [(3, trace), (0, None)]


def test_records_are_listed_newest_first_by_cursor(api: Api) -> None:
    made = [api.call("POST", "/records/Task", {"title": str(no)}, status=201)["id"] for no in range(5)]
    seen: list[str] = []
    cursor = None
    for count in (2, 2, 1):
        page = api.call("GET", "/records/Task", params={"limit": 2, "cursor": cursor})
        assert len(page["data"]) == count
        seen += [record["id"] for record in page["data"]]
        cursor = page["next_cursor"]
    assert cursor is None
    assert seen == made[::-1]


def test_an_etag_guards_against_lost_updates(api: Api) -> None:
    made = api.request("POST", "/api/v1/records/Task", {"title": "a"})
    path = f"/records/Task/{made.json()['id']}"
    assert made.headers["ETag"] == '"1"'
    api.call("PATCH", path, {"title": "b"}, headers={"If-Match": made.headers["ETag"]})
    problem = api.call("PATCH", path, {"title": "c"}, status=412, headers={"If-Match": made.headers["ETag"]})
    assert problem["detail"] == "the record is at version 2, not 1"
    api.call("DELETE", path, status=412, headers={"If-Match": "nonsense"})
    api.call("PATCH", path, {"title": "d"}, headers={"If-Match": "*"})


def test_changes_to_one_record_at_once_are_each_one_version_and_one_event(api: Api) -> None:
    made = api.call("POST", "/records/Deal", {"amount": 0}, status=201)

    def change(amount: int) -> None:
        answer = requests.patch(
            f"{api.url}/api/v1/records/Deal/{made['id']}",
            json={"amount": amount},
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=20,
        )
        assert answer.status_code == 200, answer.text

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(1, 25)))
    versions = [event["record"]["version"] for event in events(api)]
    assert versions == list(range(1, 26))  # in the order of the outbox, too


def test_events_of_another_crm_are_taken_once(api: Api) -> None:
    batch = [an_envelope(id=f"evt-{no}") for no in range(3)]
    assert api.call("POST", "/events", batch, status=202) == {"accepted": 3, "duplicates": 0}
    assert api.call("POST", "/events", batch[1], status=202) == {"accepted": 0, "duplicates": 1}
    mixed = [batch[2], an_envelope(id="evt-3", extra="is dropped"), an_envelope(id="evt-3")]
    assert api.call("POST", "/events", mixed, status=202) == {"accepted": 1, "duplicates": 2}
    assert len(events(api)) == 4
    assert "extra" not in events(api)[3]
    assert api.notified == ["outbox"] * 2


def test_an_event_with_a_known_id_and_another_body_takes_nothing(api: Api) -> None:
    api.call("POST", "/events", an_envelope(id="evt-1"), status=202)
    other = an_envelope(id="evt-1", record={"id": "42", "name": "other"})
    problem = api.call("POST", "/events", [an_envelope(id="evt-2"), other], status=409)
    assert errors(problem) == {"/1/id": "evt-1 is known with another body"}
    within = [an_envelope(id="evt-3"), an_envelope(id="evt-3", record={"id": "43"})]
    assert errors(api.call("POST", "/events", within, status=409)) == {"/1/id": "evt-3 is known with another body"}
    assert len(events(api)) == 1


def test_a_webhook_is_created_read_listed_changed_and_deleted(api: Api) -> None:
    made = api.call("POST", "/webhooks", WEBHOOK | {"secret": "s3cret", "headers": {"X-Team": "a"}}, status=201)
    assert made["secret"] == "s3cret"
    assert made["headers"] == {"X-Team": "a"}
    plain = {key: value for key, value in made.items() if key not in ("id", "created_at", "secret", "headers")}
    assert plain == WEBHOOK | {"has_secret": True, "active": True, "version": 1, "timeout_s": 15, "concurrency": 16} | {
        "preset": "hari"
    }
    assert re.fullmatch(r"wh_[0-9a-f]{32}", made["id"])
    path = f"/webhooks/{made['id']}"
    later_on = {key: value for key, value in made.items() if key != "secret"} | {"headers": {"X-Team": "••••"}}
    assert api.call("GET", path) == later_on
    assert api.call("GET", "/webhooks") == {"data": [later_on], "next_cursor": None}
    changed = api.call("PATCH", path, {"name": "Slack", "timeout_s": 5, "secret": None, "headers": {}})
    assert (changed["name"], changed["timeout_s"], changed["has_secret"], changed["version"]) == ("Slack", 5, False, 2)
    assert "secret" not in changed
    assert "headers" not in changed
    api.call("DELETE", path, status=204)
    for method in ("GET", "PATCH", "DELETE"):
        api.call(method, path, {}, status=404)
    assert api.call("GET", "/webhooks")["data"] == []
    with api.database.transaction() as conn:
        assert webhooks.version(conn) == 4
    assert api.notified == ["webhooks"] * 3


def test_webhooks_are_listed_by_entity_and_event(api: Api) -> None:
    deal = api.call("POST", "/webhooks", WEBHOOK, status=201)["id"]
    task = api.call("POST", "/webhooks", WEBHOOK | {"entity": "Task", "event": "delete"}, status=201)["id"]
    ids = [webhook["id"] for webhook in api.call("GET", "/webhooks")["data"]]
    assert ids == [task, deal]
    assert [w["id"] for w in api.call("GET", "/webhooks", params={"entity": "Deal"})["data"]] == [deal]
    assert [w["id"] for w in api.call("GET", "/webhooks", params={"event": "delete"})["data"]] == [task]


def test_a_rotation_answers_with_the_new_secret_and_keeps_the_old_one_for_the_overlap(api: Api) -> None:
    made = api.call("POST", "/webhooks", WEBHOOK | {"secret": "first"}, status=201)
    path = f"/webhooks/{made['id']}/rotate-secret"
    rotated = api.call("POST", path)
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", rotated["secret"])
    assert live(api, made["id"]) == (rotated["secret"], "first")
    assert api.call("POST", path, {"secret": "third", "overlap_s": 60})["secret"] == "third"
    assert live(api, made["id"]) == ("third", rotated["secret"])  # at most two: the first one ended
    api.call("POST", path, {"secret": "fourth", "overlap_s": 0})
    assert live(api, made["id"]) == ("fourth", None)
    api.call("POST", "/webhooks/wh_none/rotate-secret", status=404)


def live(api: Api, webhook_id: str) -> tuple[str | None, str | None]:
    with api.database.transaction() as conn:
        webhook = webhooks.load(conn, api.box, [webhook_id])[webhook_id]
    return webhook.secret, webhook.old_secret


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_deactivating_and_deleting_cancel_what_waits(api: Api, method: str) -> None:
    made = api.call("POST", "/webhooks", WEBHOOK, status=201)
    found = delivered(api, made["id"])
    with api.database.transaction() as conn:
        conn.execute(update(d).values(state="waiting", next_attempt_at=later(60), check_at=later(60)))
    body, status = ({"active": False}, 200) if method == "PATCH" else (None, 204)
    api.call(method, f"/webhooks/{made['id']}", body, status=status)
    log = api.call("GET", f"/deliveries/{found}")
    word = "deactivated" if method == "PATCH" else "deleted"
    assert (log["state"], log["reason"]) == ("cancelled", f"the webhook was {word}")
    assert "next_attempt_at" not in log


def test_a_name_that_does_not_resolve_is_saved_with_a_warning(api: Api) -> None:
    made = api.call("POST", "/webhooks", WEBHOOK | {"url": "https://later.example.com/x"}, status=201)
    [warning] = made["warnings"]
    assert warning == {"pointer": "/url", "detail": "the host name does not resolve: later.example.com"}


def test_a_resolver_that_does_not_answer_holds_up_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.producer.webhooks_api.RESOLVE_S", 0.05)
    made = api.call("POST", "/webhooks", WEBHOOK | {"url": "https://slow.example.com/x"}, status=201)
    assert not api.slow_name_answers.is_set()
    assert made["warnings"] == [{"pointer": "/url", "detail": "the host name does not resolve: slow.example.com"}]


def test_send_test_answers_what_came_back(api: Api) -> None:
    made = api.call("POST", "/webhooks", WEBHOOK | {"active": False, "secret": "s"}, status=201)
    path = f"/webhooks/{made['id']}/test"
    answer = {"delivery_id": "dlv_test", "status": 200, "error": None, "duration_ms": 12.5, "response_body": "ok"}
    assert api.call("POST", path) == answer
    [(webhook, user)] = api.tested
    assert (webhook.id, webhook.secret, user.name) == (made["id"], "s", "bootstrap")
    api.test_answer = Met("dlv_test", None, "timeout", 15000.0, b"\xff")
    assert api.call("POST", path)["response_body"] == {"base64": "/w=="}
    api.test_answer = Met("dlv_test", 200, None, 1.0, "ö€".encode()[:-1], truncated=True)
    assert api.call("POST", path)["response_body"] == "ö"
    api.test_answer = Unavailable("no dispatcher is running")
    assert api.call("POST", path, status=503)["detail"] == "no dispatcher is running"
    api.call("POST", "/webhooks/wh_none/test", status=404)


def test_a_delivery_shows_what_was_sent_and_what_came_back(api: Api) -> None:
    made = api.call("POST", "/webhooks", WEBHOOK, status=201)
    found = delivered(api, made["id"], "evt_1")
    body = an_event(event_id="evt_1").body.decode()
    shown = api.call("GET", f"/deliveries/{found}")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", shown.pop("created_at"))
    plain = {"id": found, "webhook_id": made["id"], "event_id": "evt_1", "entity": "Deal", "event": "updated"}
    plain |= {"record_id": "rec_1", "test": False, "state": "delivered", "body_bytes": len(body)}
    request_headers = {"Content-Type": "application/json", "X-Webhook-Secret": "••••"}
    attempt = {
        "attempt_no": 1,
        "started_at": "2026-11-23T12:00:00.123Z",
        "status": 200,
        "error": None,
        "duration_ms": 12.5,
        "request": {"url": "https://example.com/hook", "headers": request_headers, "body": body},
        "response": {"headers": {"Set-Cookie": "a=1, b=2"}, "body": {"base64": "/wA="}, "truncated": False},
    }
    assert shown == plain | {"attempts": [attempt]}
    [listed] = api.call("GET", "/deliveries")["data"]
    del listed["created_at"]
    assert listed == plain | {"attempt_count": 1, "last_status": 200, "last_error": None}
    api.call("DELETE", f"/webhooks/{made['id']}", status=204)
    assert api.call("GET", f"/deliveries/{found}")["attempts"] == [attempt]  # the log outlives its webhook
    api.call("GET", "/deliveries/dlv_none", status=404)


def test_an_attempt_in_flight_is_an_attempt_without_a_result(api: Api) -> None:
    made = api.call("POST", "/webhooks", WEBHOOK, status=201)
    event = an_event()
    found = delivery_id(event.id, made["id"])
    with api.database.transaction() as conn:
        outbox.append(conn, [event])
        day = outbox.lock_known(conn, [event.id])[event.id].event_day
        deliveries.insert_matches(conn, [Match(day, found, made["id"], event.id, True)], None)
    shown = api.call("GET", f"/deliveries/{found}")
    [attempt] = shown["attempts"]
    assert shown["state"] == "pending"
    assert attempt.pop("started_at")
    assert attempt == {
        "attempt_no": 1,
        "status": None,
        "error": None,
        "duration_ms": None,
        "request": None,
        "response": None,
    }


def test_deliveries_are_filtered(api: Api) -> None:
    one, two = (api.call("POST", "/webhooks", WEBHOOK, status=201)["id"] for _ in range(2))
    good, bad = delivered(api, one, "evt_good"), delivered(api, two, "evt_bad", State.DEAD)
    cases: list[tuple[dict[str, Any], set[str]]] = [
        ({}, {good, bad}),
        ({"webhook_id": one}, {good}),
        ({"state": "dead"}, {bad}),
        ({"entity": "Deal"}, {good, bad}),
        ({"entity": "Task"}, set()),
        ({"record_id": "rec_1", "event": "updated"}, {good, bad}),
        ({"event": "created"}, set()),
        ({"event_id": "evt_good"}, {good}),
        ({"status": 200}, {good}),
        ({"test": "false"}, {good, bad}),
        ({"test": "true"}, set()),
        ({"since": "2020-01-01T00:00:00Z"}, {good, bad}),
        ({"until": "2020-01-01T00:00:00+02:00"}, set()),
    ]
    for params, expected in cases:
        found = api.call("GET", "/deliveries", params=params)["data"]
        assert {delivery["id"] for delivery in found} == expected, params
    assert [delivery["id"] for delivery in api.call("GET", "/dead")["data"]] == [bad]
    assert api.call("GET", "/dead", params={"webhook_id": one})["data"] == []
    first = api.call("GET", "/deliveries", params={"limit": 1})
    second = api.call("GET", "/deliveries", params={"limit": 1, "cursor": first["next_cursor"]})
    assert [first["data"][0]["id"], second["data"][0]["id"], second["next_cursor"]] == [bad, good, None]


def test_answers_have_the_shapes_of_the_document(api: Api) -> None:
    body = WEBHOOK | {"secret": "s", "headers": {"X-A": "b"}, "url": "https://later.example.com/"}
    made = api.call("POST", "/webhooks", body, status=201)
    good, bad = delivered(api, made["id"]), delivered(api, made["id"], state=State.DEAD)
    record = api.call("POST", "/records/Deal", {}, status=201)
    with api.database.transaction() as conn:
        conn.execute(update(webhooks.w).values(deactivated_reason="410 Gone"))
        conn.execute(update(d).where(d.c.id == bad).values(reason="timeout", next_attempt_at=later(60)))
    shapes.Webhook.model_validate(made)
    shapes.Record.model_validate(record)
    path = f"/webhooks/{made['id']}"
    for call, shape in {
        ("GET", path): shapes.Webhook,
        ("GET", "/webhooks"): shapes.Page[shapes.Webhook],
        ("POST", f"{path}/rotate-secret"): shapes.Webhook,
        ("POST", f"{path}/test"): shapes.Tested,
        ("GET", "/records/Deal"): shapes.Page[shapes.Record],
        ("GET", "/deliveries"): shapes.Page[shapes.ListedDelivery],
        ("GET", "/dead"): shapes.Page[shapes.ListedDelivery],
        ("GET", f"/deliveries/{good}"): shapes.Delivery,
        ("GET", f"/deliveries/{bad}"): shapes.Delivery,
    }.items():
        shape.model_validate(api.call(*call))
    shapes.Accepted.model_validate(api.call("POST", "/events", an_envelope(), status=202))


def test_requests_are_counted_by_method_and_status(api: Api) -> None:
    def count(method: str, status_class: str) -> float:
        return metrics.http_requests.labels(method, status_class)._value.get()  # type: ignore[no-any-return]

    before = count("GET", "4xx"), count("other", "4xx")
    api.request("GET", "/api/v1/webhooks/wh_none")
    api.request("PROPFIND", "/api/v1/webhooks")
    expected = before[0] + 1, before[1] + 1
    eventually(lambda: (count("GET", "4xx"), count("other", "4xx")) == expected)  # counted once the answer is out


def test_secrets_are_nowhere_in_clear_in_the_database(api: Api) -> None:
    body = WEBHOOK | {"secret": "very-s3cret", "headers": {"X-Token": "t0ken-in-header"}}
    made = api.call("POST", "/webhooks", body, status=201)
    api.call("POST", f"/webhooks/{made['id']}/rotate-secret", {"secret": "next-s3cret"})
    with api.database.transaction() as conn:
        row = conn.execute(select(webhooks.w)).one()
        hashes = conn.execute(select(api_keys.k)).one()
    for text in (b"s3cret", b"t0ken"):
        assert all(text not in bytes(value) for value in row if isinstance(value, bytes | memoryview))
    assert KEY not in str(hashes)
    assert (hashes.prefix, bytes(hashes.key_hash)) == (KEY[:9], api_keys.hash_of(KEY))


def test_every_route_but_health_and_openapi_asks_for_a_key(api: Api) -> None:
    document = requests.get(f"{api.url}/openapi.json", timeout=20).json()
    calls = [(method, path) for path, methods in document["paths"].items() for method in methods]
    assert len(calls) >= 16
    for method, path in calls:
        url = api.url + re.sub(r"{\w+}", "x", path)
        for headers, says in (
            ({}, "send an API key: Authorization: Bearer hari_..."),
            ({"Authorization": "Bearer "}, "send an API key: Authorization: Bearer hari_..."),
            ({"Authorization": f"Basic {KEY}"}, "send an API key: Authorization: Bearer hari_..."),
            ({"Authorization": "Bearer hari_wrong"}, "this API key is unknown or revoked"),
        ):
            answer = requests.request(method, url, headers=headers, timeout=20)
            assert answer.status_code == 401, (method, path)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert answer.json()["detail"].startswith(says)
    assert requests.get(f"{api.url}/healthz", timeout=20).status_code == 200


def test_a_revoked_key_stops_working(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.producer.auth.REMEMBERED_S", 0.0)
    api.call("GET", "/webhooks")
    with api.database.transaction() as conn:
        key = api_keys.find(conn, api_keys.hash_of(KEY))
        assert key is not None
        assert api_keys.revoke(conn, key.id)
    api.call("GET", "/webhooks", status=401)


def test_readiness_names_what_is_missing(api: Api) -> None:
    assert api.request("GET", "/readyz").status_code == 200
    api.troubles["broker"] = "not connected"
    answer = api.request("GET", "/readyz")
    assert (answer.status_code, answer.text) == (503, "broker: not connected\n")


def test_a_database_that_is_away_is_503_with_retry_after(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_database: Database, *_args: Any, **_kwargs: Any) -> Any:
        raise Unavailable("database: connection refused")

    api.call("GET", "/webhooks")  # the key is remembered
    monkeypatch.setattr(Database, "_in_transaction", away)
    answer = api.request("GET", "/api/v1/webhooks")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert api.request("GET", "/readyz").status_code == 503
    assert api.request("GET", "/healthz").status_code == 200


def test_no_event_is_left_by_a_change_that_was_rolled_back(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    real = outbox.append

    def append_and_fail(*args: Any, **kwargs: Any) -> Any:
        real(*args, **kwargs)
        raise Unavailable("in doubt")

    monkeypatch.setattr("shared.store.outbox.append", append_and_fail)
    api.call("POST", "/records/Task", {"title": "lost"}, status=503)
    with api.database.transaction() as conn:
        assert conn.execute(select(func.count()).select_from(o)).scalar_one() == 0
    assert api.call("GET", "/records/Task")["data"] == []
    assert api.notified == []
