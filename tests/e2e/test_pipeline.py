"""The main job from outside: a record changes, and the signed POST arrives and stands in the log."""

import json
import time
from typing import Any

import pika
import pytest
import requests
from standardwebhooks import Webhook as Verifier

from services.cli.client import ApiError
from shared.broker.topology import build
from tests.e2e.conftest import KEY, Hari
from tests.journal import JournalReceiver, Line
from tests.waiting import eventually

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def add(hari: Hari, url: str, **fields: Any) -> Any:
    body = {"name": "Test", "entity": "Deal", "event": "save", "url": url, "secret": SECRET}
    return hari.api.call("POST", "/webhooks", body | fields)


def log(hari: Hari, webhook_id: str) -> list[Any]:
    found: list[Any] = hari.api.call("GET", "/deliveries", webhook_id=webhook_id)["data"]
    return found


def in_state(hari: Hari, webhook_id: str, state: str) -> Any:
    """The webhook's newest delivery, once it is in this state, with its attempts."""

    def found() -> Any:
        rows = log(hari, webhook_id)
        return rows[0] if rows and rows[0]["state"] == state else None

    return hari.api.call("GET", f"/deliveries/{eventually(found, 20, state)['id']}")


def test_a_change_becomes_a_signed_post_and_a_log_row(hari: Hari) -> None:
    with JournalReceiver(keep_bodies=True) as endpoint:
        webhook = add(hari, endpoint.url)
        deal = hari.api.call("POST", "/records/Deal", {"name": "Skates", "stage": "Offer"})
        hari.api.call("PATCH", f"/records/Deal/{deal['id']}", {"stage": "Won"})
        eventually(lambda: len(endpoint.lines) == 2, 20)
        line = next(line for line in endpoint.lines if b'"updated"' in line.body)
        headers = {
            "webhook-id": line.delivery_id,
            "webhook-timestamp": line.timestamp,
            "webhook-signature": line.signature,
        }
        payload = Verifier(SECRET).verify(line.body, headers)
        assert payload["event"] == "updated"
        assert payload["entity"] == "Deal"
        assert payload["record"]["stage"] == "Won"
        assert payload["record"]["version"] == 2
        assert payload["changed"] == ["stage"]
        assert payload["previous"] == {"stage": "Offer"}
        assert payload["user"]["id"].startswith("key_")
        delivery = hari.api.call("GET", f"/deliveries/{line.delivery_id}")
        eventually(lambda: hari.api.call("GET", f"/deliveries/{line.delivery_id}")["state"] == "delivered")
        delivery = hari.api.call("GET", f"/deliveries/{line.delivery_id}")
        [attempt] = delivery["attempts"]
        assert (attempt["attempt_no"], attempt["status"], attempt["error"]) == (1, 200, None)
        assert attempt["request"]["body"].encode() == line.body
        assert attempt["request"]["url"] == endpoint.url
        assert SECRET not in json.dumps(delivery)
        hari.api.call("DELETE", f"/webhooks/{webhook['id']}")


def test_a_filter_on_a_changed_field_fires_once_on_that_transition(hari: Hari) -> None:
    with JournalReceiver(keep_bodies=True) as endpoint:
        webhook = add(hari, endpoint.url, filter={"changed.stage": "Won", "record.amount": {"$gte": 1000}})
        marker = add(hari, endpoint.url, event="delete")
        deal = hari.api.call("POST", "/records/Deal", {"name": "Skates", "stage": "Offer", "amount": 1200})
        small = hari.api.call("POST", "/records/Deal", {"name": "Small", "stage": "Offer", "amount": 10})
        hari.api.call("PATCH", f"/records/Deal/{deal['id']}", {"stage": "Won"})
        hari.api.call("PATCH", f"/records/Deal/{small['id']}", {"stage": "Won"})
        hari.api.call("PATCH", f"/records/Deal/{deal['id']}", {"amount": 1300})
        hari.api.call("DELETE", f"/records/Deal/{deal['id']}")
        # The delete comes last: once it is dispatched, so is everything before it.
        eventually(lambda: log(hari, marker["id"]), 20)
        assert [(row["record_id"], row["event"]) for row in log(hari, webhook["id"])] == [(deal["id"], "updated")]
        with pytest.raises(ApiError, match="unknown"):
            hari.api.call("PATCH", f"/webhooks/{webhook['id']}", {"filter": {"record.stage": {"$like": "W%"}}})
        assert hari.api.call("PATCH", f"/webhooks/{webhook['id']}", {"filter": None})["id"] == webhook["id"]
        assert "filter" not in hari.api.call("GET", f"/webhooks/{webhook['id']}")
        for found in (webhook, marker):
            hari.api.call("DELETE", f"/webhooks/{found['id']}")


def test_a_change_that_changes_nothing_sends_nothing(hari: Hari) -> None:
    with JournalReceiver(keep_bodies=True) as endpoint:
        webhook = add(hari, endpoint.url, entity="Task")
        task = hari.api.call("POST", "/records/Task", {"title": "Call"})
        hari.api.call("PATCH", f"/records/Task/{task['id']}", {"title": "Call"})
        hari.api.call("DELETE", f"/records/Task/{task['id']}")
        # The delete's delivery proves that whatever the PATCH had made would be there too.
        eventually(lambda: len(log(hari, webhook["id"])) == 1, 20)
        assert [row["event"] for row in log(hari, webhook["id"])] == ["created"]
        hari.api.call("DELETE", f"/webhooks/{webhook['id']}")


def test_a_failure_is_retried_with_the_same_id_and_body(hari: Hari) -> None:
    answers = iter([500, 404, 200])
    with JournalReceiver(lambda _: next(answers)) as endpoint:
        webhook = add(hari, endpoint.url, entity="Lead", event="create")
        hari.api.call("POST", "/records/Lead", {"name": "L"})
        delivery = in_state(hari, webhook["id"], "delivered")
        assert [attempt["status"] for attempt in delivery["attempts"]] == [500, 404, 200]
        assert len({line.delivery_id for line in endpoint.lines}) == 1
        assert len({line.body_sha256 for line in endpoint.lines}) == 1
        hari.api.call("DELETE", f"/webhooks/{webhook['id']}")


def test_what_never_succeeds_ends_dead_and_is_listed(hari: Hari) -> None:
    with JournalReceiver(lambda _: 503) as endpoint:
        webhook = add(hari, endpoint.url, entity="Lead", event="create")
        hari.api.call("POST", "/records/Lead", {"name": "L"})
        delivery = in_state(hari, webhook["id"], "dead")
        assert delivery["reason"] == "no success in 3 attempts"
        assert len(delivery["attempts"]) == 3
        assert delivery["id"] in {row["id"] for row in hari.api.call("GET", "/dead")["data"]}
        hari.api.call("DELETE", f"/webhooks/{webhook['id']}")


def test_gone_deactivates_the_webhook(hari: Hari) -> None:
    with JournalReceiver(lambda _: 410) as endpoint:
        webhook = add(hari, endpoint.url, entity="Company")
        hari.api.call("POST", "/records/Company", {"name": "C"})
        in_state(hari, webhook["id"], "cancelled")
        found = hari.api.call("GET", f"/webhooks/{webhook['id']}")
        assert not found["active"]
        assert "410" in found["deactivated_reason"]
        hari.api.call("DELETE", f"/webhooks/{webhook['id']}")


def test_send_test_answers_with_the_status_it_met(hari: Hari) -> None:
    with JournalReceiver(lambda _: 418, keep_bodies=True) as endpoint:
        webhook = add(hari, endpoint.url, entity="Contact", active=False)
        result = hari.api.call("POST", f"/webhooks/{webhook['id']}/test")
        assert (result["status"], result["error"], result["response_body"]) == (418, None, "ok")
        [line] = endpoint.lines
        assert json.loads(line.body)["test"] is True
        assert in_state(hari, webhook["id"], "dead")["test"] is True
        assert len(endpoint.lines) == 1
        hari.api.call("DELETE", f"/webhooks/{webhook['id']}")


def test_a_deactivated_webhook_gets_nothing_and_its_waiting_ones_are_cancelled(hari: Hari) -> None:
    with JournalReceiver(lambda _: 500) as endpoint:
        webhook = add(hari, endpoint.url, entity="Company")
        hari.api.call("POST", "/records/Company", {"name": "C"})
        eventually(lambda: log(hari, webhook["id"]), 20)
        hari.api.call("PATCH", f"/webhooks/{webhook['id']}", {"active": False})
        in_state(hari, webhook["id"], "cancelled")
        count = len(log(hari, webhook["id"]))
        marker = add(hari, endpoint.url, entity="Company")
        hari.api.call("POST", "/records/Company", {"name": "later"})
        eventually(lambda: log(hari, marker["id"]), 20)
        assert len(log(hari, webhook["id"])) == count
        for found in (webhook, marker):
            hari.api.call("DELETE", f"/webhooks/{found['id']}")


def test_a_rotation_signs_with_both_until_the_overlap_is_over(hari: Hari) -> None:
    new = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
    with JournalReceiver(keep_bodies=True) as endpoint:
        webhook = add(hari, endpoint.url, entity="Contact", event="create")
        hari.api.call("POST", f"/webhooks/{webhook['id']}/rotate-secret", {"secret": new, "overlap_s": 3600})
        hari.api.call("POST", "/records/Contact", {"first_name": "Ada"})
        eventually(lambda: endpoint.lines, 20)
        assert _verifies(endpoint.lines[0], SECRET)
        assert _verifies(endpoint.lines[0], new)
        hari.api.call("POST", f"/webhooks/{webhook['id']}/rotate-secret", {"secret": SECRET, "overlap_s": 0})
        hari.api.call("POST", "/records/Contact", {"first_name": "Grace"})
        eventually(lambda: len(endpoint.lines) == 2, 20)
        assert _verifies(endpoint.lines[1], SECRET)
        assert not _verifies(endpoint.lines[1], new)
        hari.api.call("DELETE", f"/webhooks/{webhook['id']}")


def _verifies(line: Line, secret: str) -> bool:
    headers = {"webhook-id": line.delivery_id, "webhook-timestamp": line.timestamp, "webhook-signature": line.signature}
    try:
        Verifier(secret).verify(line.body, headers)
    except Exception:
        return False
    return True


def test_events_of_another_crm_are_accepted_once(hari: Hari) -> None:
    event = {
        "id": f"crm-{time.time_ns()}",
        "event": "created",
        "entity": "Deal",
        "record": {"id": "42", "anything": [1, {"deep": None}]},
        "timestamp": "2026-11-23T11:15:30+01:00",
    }
    with JournalReceiver(keep_bodies=True) as endpoint:
        webhook = add(hari, endpoint.url)
        assert hari.api.call("POST", "/events", event) == {"accepted": 1, "duplicates": 0}
        assert hari.api.call("POST", "/events", event) == {"accepted": 0, "duplicates": 1}
        with pytest.raises(ApiError, match="409"):
            hari.api.call("POST", "/events", event | {"record": {"id": "43"}})
        in_state(hari, webhook["id"], "delivered")
        [line] = endpoint.lines
        assert json.loads(line.body)["timestamp"] == "2026-11-23T10:15:30.000Z"
        hari.api.call("DELETE", f"/webhooks/{webhook['id']}")


def test_a_foreign_client_publishes_and_what_is_malformed_is_parked(hari: Hari) -> None:
    if hari.embedded:
        pytest.skip("the embedded broker has no network port for a foreign client")
    good = {"event": "created", "entity": "Deal", "record": {"id": "42"}, "timestamp": "2026-11-23T10:15:30Z"}
    topology = build(hari.queue_prefix, [])
    with JournalReceiver(keep_bodies=True) as endpoint:
        webhook = add(hari, endpoint.url)
        with pika.BlockingConnection(pika.URLParameters(hari.broker_url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            for body in (
                json.dumps(good | {"id": "amqp-1"}).encode(),
                b"{not json",
                json.dumps(good | {"id": "amqp-2", "entity": "Nothing"}).encode(),
                json.dumps(good | {"id": "amqp-1", "record": {"id": "43"}}).encode(),
                json.dumps(good | {"id": "amqp-3"}).encode(),
            ):
                channel.basic_publish(topology.events_exchange, "record.Deal.created", body, mandatory=True)
            eventually(lambda: {row["event_id"] for row in log(hari, webhook["id"])} == {"amqp-1", "amqp-3"}, 20)
            parked = eventually(lambda: _read_all(channel, topology.parked, 3), 20)
        reasons = sorted(str(properties.headers["x-hari-reason"]) for properties in parked)
        assert "/entity: must be a declared entity" in reasons[0]
        assert "an event with this id is known with another body" in reasons[1]
        assert "not valid JSON" in reasons[2]
        hari.api.call("DELETE", f"/webhooks/{webhook['id']}")


_read: list[Any] = []


def _read_all(channel: Any, queue: str, count: int) -> list[Any]:
    method, properties, _body = channel.basic_get(queue, auto_ack=True)
    if method is not None:
        _read.append(properties)
    return _read if len(_read) >= count else []


def test_without_a_key_nothing_is_told(hari: Hari) -> None:
    for path in ("/api/v1/webhooks", "/api/v1/deliveries", "/api/v1/records/Deal"):
        answer = requests.get(hari.url + path, timeout=5)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
    wrong = {"Authorization": f"Bearer {KEY}x"}
    assert requests.get(f"{hari.url}/api/v1/webhooks", headers=wrong, timeout=5).status_code == 401
