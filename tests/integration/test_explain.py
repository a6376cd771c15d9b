"""Explain and dry run: verdicts and exact requests, on SQLite and on PostgreSQL."""

import socket
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from sqlalchemy import func, select

from services.producer import shapes
from shared.ids import delivery_id
from shared.store import deliveries, outbox
from shared.store.deliveries import Match
from shared.tables import deliveries as d
from shared.tables import outbox as o
from tests.api import Api, errors
from tests.builders import an_event

WEBHOOK = {"name": "Zapier", "entity": "Deal", "event": "save", "url": "https://example.com/hook"}


@pytest.fixture(params=["sqlite", "postgresql"])
def api(request: pytest.FixtureRequest) -> Iterator[Api]:
    api = Api(request.getfixturevalue(f"{request.param}_database_url"))
    yield api
    api.close()


def a_webhook(api: Api, **values: Any) -> str:
    return str(api.call("POST", "/webhooks", WEBHOOK | values, status=201)["id"])


def an_old_event(api: Api, *sent_to: str, dispatched: bool = True) -> str:
    event = an_event()
    with api.database.transaction() as conn:
        outbox.append(conn, [event], published=True)
        known = outbox.lock_known(conn, [event.id])[event.id]
        if dispatched:
            outbox.mark_dispatched(conn, [known.seq])
        rows = [Match(known.event_day, delivery_id(event.id, hook), hook, event.id, True) for hook in sent_to]
        deliveries.insert_matches(conn, rows, None)
    return event.id


def verdicts(answer: Any, *more: str) -> dict[str, tuple[Any, ...]]:
    rows = answer["webhooks"] if "webhooks" in answer else answer["matches"]
    return {row["webhook_id"]: tuple(row.get(name) for name in ("verdict", *more)) for row in rows}


def test_each_webhook_of_the_entity_has_a_verdict(api: Api) -> None:
    sent, gone = a_webhook(api), a_webhook(api)
    choosy = a_webhook(api, filter={"changed.stage": "Lost"})
    wrong, idle = a_webhook(api, event="delete"), a_webhook(api, active=False)
    a_webhook(api, entity="Task")
    deleted = a_webhook(api)
    api.call("DELETE", f"/webhooks/{deleted}", status=204)
    event_id = an_old_event(api, sent, gone)
    api.call("DELETE", f"/webhooks/{gone}", status=204)
    late = a_webhook(api)
    api.call("PATCH", f"/webhooks/{idle}", {"active": True})
    answer = api.call("GET", f"/events/{event_id}/explain")
    shapes.Explained.model_validate(answer)
    assert answer["event"]["id"] == event_id
    assert verdicts(answer, "clause", "delivery_id", "changed_since") == {
        sent: ("sent", None, delivery_id(event_id, sent), False),
        gone: ("sent", None, delivery_id(event_id, gone), True),
        choosy: ("filtered", 'changed.stage is "Lost"', None, False),
        wrong: ("wrong_event", None, None, False),
        idle: ("inactive", None, None, True),
        late: ("inactive", None, None, True),
    }
    api.call("GET", "/events/evt_none/explain", status=404)


def test_a_delivery_outlives_the_entity_of_its_webhook(api: Api) -> None:
    sent = a_webhook(api)
    event_id = an_old_event(api, sent)
    api.call("PATCH", f"/webhooks/{sent}", {"entity": "Task"})
    assert verdicts(api.call("GET", f"/events/{event_id}/explain")) == {sent: ("sent",)}


def test_webhooks_of_other_entities_crowd_out_none(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.store.explanations.MOST_WEBHOOKS", 1)
    sent, other = a_webhook(api), a_webhook(api, entity="Task")
    api.call("PATCH", f"/webhooks/{other}", {"name": "changed, so it may have had another entity"})
    event_id = an_old_event(api, sent)
    assert verdicts(api.call("GET", f"/events/{event_id}/explain")) == {sent: ("sent",)}


def test_an_event_on_its_way_will_be_sent(api: Api) -> None:
    webhook_id = a_webhook(api)
    event_id = an_old_event(api, dispatched=False)
    answer = api.call("GET", f"/events/{event_id}/explain")
    assert verdicts(answer, "delivery_id") == {webhook_id: ("sent", None)}
    assert answer["event"]["dispatched"] is False


def test_a_dry_run_shows_the_exact_request_and_sends_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    webhook_id = a_webhook(
        api, secret="very-s3cret", headers={"Authorization": "t0ken"}, filter={"changed.stage": "Won"}
    )
    other = a_webhook(api, filter={"changed.stage": "Lost"})
    record = api.call("POST", "/records/Deal", {"name": "Engine", "stage": "Won"}, status=201)
    with api.database.transaction() as conn:
        before = conn.execute(select(func.count()).select_from(o)).scalar_one()

    def no_names(*_args: Any, **_more: Any) -> Any:
        raise AssertionError("a dry run asks no name server")

    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    body = {"entity": "Deal", "event": "updated", "record_id": record["id"], "previous": {"stage": "Offer"}}
    answer = api.call("POST", "/webhooks/dry-run", body)
    shapes.DryRunAnswer.model_validate(answer)
    assert verdicts(answer, "clause") == {
        webhook_id: ("sent", None),
        other: ("filtered", 'changed.stage is "Lost"'),
    }
    [request] = [match["request"] for match in answer["matches"] if "request" in match]
    payload = orjson.loads(request["body"])
    assert (payload["record"], payload["changed"], payload["previous"]) == (record, ["stage"], {"stage": "Offer"})
    assert request["url"] == WEBHOOK["url"]
    headers = request["headers"]
    assert (headers["X-Webhook-Secret"], headers["Authorization"]) == ("••••", "••••")
    assert headers["webhook-id"] == delivery_id(payload["id"], webhook_id)
    assert headers["webhook-signature"].startswith("v1,")
    assert "s3cret" not in str(answer)
    assert "t0ken" not in str(answer)
    with api.database.transaction() as conn:
        assert conn.execute(select(func.count()).select_from(o)).scalar_one() == before
        assert conn.execute(select(func.count()).select_from(d)).scalar_one() == 0


def test_a_dry_run_of_one_webhook_shows_its_request_whatever_the_verdict(api: Api) -> None:
    body = {"entity": "Deal", "event": "created", "record": {"stage": "Offer"}}
    idle = a_webhook(api, active=False)
    [match] = api.call("POST", "/webhooks/dry-run", body | {"webhook": idle})["matches"]
    assert (match["webhook_id"], match["verdict"]) == (idle, "inactive")
    assert orjson.loads(match["request"]["body"])["record"]["stage"] == "Offer"
    unsaved = {"url": "https://later.example.com/", "filter": {"record.stage": "Won"}, "secret": "s3cret"}
    [match] = api.call("POST", "/webhooks/dry-run", body | {"webhook": unsaved})["matches"]
    assert (match["webhook_id"], match["verdict"]) == ("wh_unsaved", "filtered")
    assert match["clause"] == 'record.stage is "Won"'
    assert match["request"]["url"] == "https://later.example.com/"
    assert match["request"]["headers"]["X-Webhook-Secret"] == "••••"


@pytest.mark.parametrize(
    ("values", "pointer"),
    [
        ({"entity": "Nothing", "record": {}}, "/entity"),
        ({"event": "saved", "record": {}}, "/event"),
        ({}, "/record"),
        ({"record": {}, "record_id": "rec_1"}, "/record"),
        ({"record": {}, "changed": ["stage"]}, "/changed"),
        ({"record": {}, "webhook": {"url": "ftp://x/"}}, "/webhook/url"),
        ({"record": {}, "webhook": {"nonsense": 1}}, "/webhook/nonsense"),
    ],
)
def test_a_dry_run_names_what_is_wrong(api: Api, values: dict[str, Any], pointer: str) -> None:
    body = {"entity": "Deal", "event": "created"} | values
    assert pointer in errors(api.call("POST", "/webhooks/dry-run", body, status=422))


def test_a_dry_run_of_what_is_not_there_is_404(api: Api) -> None:
    body = {"entity": "Deal", "event": "created"}
    api.call("POST", "/webhooks/dry-run", body | {"record_id": "rec_none"}, status=404)
    api.call("POST", "/webhooks/dry-run", body | {"record": {}, "webhook": "wh_none"}, status=404)


def test_a_dry_run_renders_a_template_that_is_not_saved_yet(api: Api) -> None:
    hook = {"preset": "custom", "template": {"text": "{{ record.name }} is {{ record.stage }}"}}
    run = {"entity": "Deal", "event": "created", "record": {"name": "Big", "stage": "Won"}, "webhook": hook}
    [match] = api.call("POST", "/webhooks/dry-run", run)["matches"]
    assert match["request"]["body"] == '{"text":"Big is Won"}'
    del hook["template"]
    problem = api.call("POST", "/webhooks/dry-run", run, status=422)
    assert set(errors(problem)) == {"/webhook/template"}


def test_a_dry_run_masks_the_secret_in_a_body_that_carries_it(api: Api) -> None:
    script = a_webhook(api, preset="google-apps-script", secret="only between us")
    run = {"entity": "Deal", "event": "created", "record": {"name": "Big"}, "webhook": script}
    [match] = api.call("POST", "/webhooks/dry-run", run)["matches"]
    assert "only between us" not in str(match)
    assert "••••" in match["request"]["body"]
