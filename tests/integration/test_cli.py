"""The `hari` client's commands for a person's actions, against the API."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli.main import app
from shared.ids import delivery_id
from shared.model import State
from shared.store import deliveries, outbox
from shared.store.deliveries import Match, Result
from tests.api import KEY, Api
from tests.builders import an_event

WEBHOOK = {"name": "Zapier", "entity": "Deal", "event": "save", "url": "https://example.com/hook"}


@pytest.fixture
def api(sqlite_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    api = Api(sqlite_database_url)
    monkeypatch.setenv("HARI_URL", api.url)
    monkeypatch.setenv("HARI_API_KEY", KEY)
    yield api
    api.close()


def hari(*words: str, fails: bool = False) -> str:
    result = CliRunner().invoke(app, words)
    assert (result.exit_code != 0) is fails, result.output
    return result.output


def hari_json(*words: str) -> Any:
    return json.loads(hari(*words, "--json"))


@pytest.fixture
def dead(api: Api) -> str:
    """A dead delivery of evt_1 to a webhook; returns its id."""
    webhook_id = api.call("POST", "/webhooks", WEBHOOK, status=201)["id"]
    event = an_event(event_id="evt_1")
    found = delivery_id(event.id, webhook_id)
    with api.database.transaction() as conn:
        outbox.append(conn, [event], published=True)
        known = outbox.lock_known(conn, [event.id])[event.id]
        outbox.mark_dispatched(conn, [known.seq])
        deliveries.insert_matches(conn, [Match(known.event_day, found, webhook_id, event.id, True)], None)
        result = Result(known.event_day, found, 1, State.DEAD, "answered 500", 3, 1, None, None, 500, None)
        deliveries.apply_results(conn, [result])
    return found


def test_dead_deliveries_are_listed_and_redriven(api: Api, dead: str) -> None:
    assert dead in hari("dead", "list")
    assert [row["id"] for row in hari_json("dead", "list")["data"]] == [dead]
    assert "give ids, a filter, or --all" in hari("dead", "redrive", fails=True)
    assert "0 dead deliveries are sent again" in hari("dead", "redrive", "--reason", "else")
    assert "1 dead delivery is sent again" in hari("dead", "redrive", dead)
    assert hari_json("dead", "redrive", "--all") == {"count": 0}
    assert "nothing here yet" in hari("dead", "list")


def test_a_delivery_is_resent(api: Api, dead: str) -> None:
    assert f"attempt 2 of {dead} is on its way" in hari("delivery", "resend", dead)
    assert hari_json("delivery", "resend", dead) == {"id": dead, "attempt_no": 2}


def test_events_are_replayed(api: Api, dead: str) -> None:
    webhook_id = api.call("GET", "/webhooks")["data"][0]["id"]
    words = ("replay", webhook_id, "--since", "2026-01-01T00:00:00Z")
    assert "1 would be sent" in hari(*words, "--dry-run")
    assert hari_json(*words, "--until", "2026-01-02T00:00:00Z") == {"count": 0}
    answer = hari_json(*words, "--until", datetime.now(UTC).isoformat())
    assert (answer["count"], answer["id"][:4]) == (1, "rpl_")
    assert "1 are sent" in hari(*words)


def test_an_event_is_explained(api: Api, dead: str) -> None:
    shown = hari("event", "explain", "evt_1")
    assert "Deal updated" in shown
    assert dead in shown
    assert hari_json("event", "explain", "evt_1")["webhooks"][0]["verdict"] == "sent"


def test_keys_are_made_listed_and_revoked(api: Api) -> None:
    made = hari_json("key", "create", "--name", "CI", "--role", "viewer")
    assert made["key"].startswith("hari_")
    assert made["id"] in hari("key", "list")
    assert made["key"] not in hari("key", "list")
    assert f"revoked {made['id']}" in hari("key", "revoke", made["id"])
    shown = hari("key", "create", "--name", "CI", "--role", "operator")
    assert "hari_" in shown
    assert "operator" in shown
