"""Presets and templates from outside: strict receivers take each at the first try, and each effect happens once."""

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli.client import ApiError
from services.cli.main import app
from tests.e2e.conftest import KEY, Hari
from tests.e2e.test_pipeline import in_state, log
from tests.strict import Answer, AppsScript, StrictReceiver, slack
from tests.waiting import eventually

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"


@contextmanager
def a_webhook(hari: Hari, url: str, **fields: Any) -> Iterator[str]:
    plain = {"name": "Preset", "entity": "Deal", "event": "save", "url": url}
    webhook_id = hari.api.call("POST", "/webhooks", plain | fields)["id"]
    try:
        yield webhook_id
    finally:
        hari.api.call("DELETE", f"/webhooks/{webhook_id}")


def a_deal(hari: Hari, **fields: Any) -> Any:
    return hari.api.call("POST", "/records/Deal", {"name": "Skates", "stage": "Offer"} | fields)


def test_slack_takes_the_preset_at_the_first_try_and_refuses_the_default(hari: Hari) -> None:
    with (
        StrictReceiver(slack) as good,
        StrictReceiver(slack) as bad,
        a_webhook(hari, good.url, preset="slack") as webhook_id,
        a_webhook(hari, bad.url) as plain_id,
    ):
        a_deal(hari, name="<!channel> & Söhne")
        delivery = in_state(hari, webhook_id, "delivered")
        assert [attempt["status"] for attempt in delivery["attempts"]] == [200]
        assert delivery["attempts"][0]["request"]["body"].encode() == good.posts[0]
        assert delivery["body_bytes"] == len(good.posts[0])
        assert json.loads(good.posts[0])["text"].startswith("Deal created: &lt;!channel&gt; &amp; Söhne")
        refused = in_state(hari, plain_id, "dead")["attempts"]
        assert {(attempt["status"], attempt["response"]["body"]) for attempt in refused} == {(400, "no_text")}


def test_slack_busy_is_waited_for_and_slack_gone_deactivates(hari: Hari) -> None:
    answers: list[Answer] = [(429, {"Retry-After": "1"}, b""), (200, {}, b"ok"), (410, {}, b"channel_is_archived")]
    with (
        StrictReceiver(lambda _: answers.pop(0)) as receiver,
        a_webhook(hari, receiver.url, preset="slack", event="create", entity="Lead") as webhook_id,
    ):
        hari.api.call("POST", "/records/Lead", {"name": "L"})
        delivery = in_state(hari, webhook_id, "delivered")
        assert [attempt["status"] for attempt in delivery["attempts"]] == [429, 200]
        assert len(set(receiver.posts)) == 1
        hari.api.call("POST", "/records/Lead", {"name": "M"})
        in_state(hari, webhook_id, "cancelled")
        found = hari.api.call("GET", f"/webhooks/{webhook_id}")
        assert not found["active"]
        assert "410" in found["deactivated_reason"]


def test_apps_script_ends_delivered_after_exactly_one_post(hari: Hari) -> None:
    rows: list[bytes] = []
    with (
        StrictReceiver(AppsScript(rows.append)) as script,
        a_webhook(hari, script.url, preset="google-apps-script", secret="s3cret") as webhook_id,
    ):
        a_deal(hari)
        delivery = in_state(hari, webhook_id, "delivered")
        [attempt] = delivery["attempts"]
        assert (attempt["status"], attempt["error"]) == (302, None)
        assert json.loads(rows[0])["secret"] == "s3cret"
        assert "s3cret" not in json.dumps(delivery)
        assert json.loads(attempt["request"]["body"])["secret"] == "••••"
        tested = hari.api.call("POST", f"/webhooks/{webhook_id}/test")
        assert (tested["status"], tested["error"]) == (302, None)
        assert (len(rows), script.gets) == (2, 0)


@pytest.mark.parametrize("settings", [{"preset": "google-apps-script"}, {"redirect": "google-apps-script"}])
def test_a_script_that_is_not_public_fails_with_a_hint(hari: Hari, settings: dict[str, str]) -> None:
    rows: list[bytes] = []
    with (
        StrictReceiver(AppsScript(rows.append, public=False)) as script,
        a_webhook(hari, script.url, event="delete", **settings) as webhook_id,
    ):
        hari.api.call("DELETE", f"/records/Deal/{a_deal(hari)['id']}")
        delivery = in_state(hari, webhook_id, "dead")
        assert {(attempt["status"], attempt["error"]) for attempt in delivery["attempts"]} == {(302, "redirect")}
        assert "accounts.google.com" in delivery["attempts"][0]["detail"]
        assert "Anyone" in delivery["attempts"][0]["detail"]
        assert (rows, script.gets) == ([], 0)


def test_won_fires_once_on_that_transition_and_an_edited_template_keeps_old_deliveries(hari: Hari) -> None:
    answers: list[Answer] = [(500, {}, b""), (200, {}, b"ok")]
    template = {"deal": "{{ record.name }}", "from": "{{ previous.stage }}", "amount": "{{ record.amount }}"}
    won = {"filter": {"changed.stage": "Won"}, "preset": "custom", "template": template}
    with (
        StrictReceiver(lambda _: answers.pop(0) if answers else (200, {}, b"ok")) as receiver,
        StrictReceiver(lambda _: (200, {}, b"ok")) as last,
        a_webhook(hari, receiver.url, **won) as webhook_id,
        a_webhook(hari, last.url, event="delete") as marker_id,
    ):
        deal = a_deal(hari, amount=1200)
        hari.api.call("PATCH", f"/records/Deal/{deal['id']}", {"amount": 1300})
        hari.api.call("PATCH", f"/records/Deal/{deal['id']}", {"stage": "Won"})
        eventually(lambda: receiver.posts, 20)
        hari.api.call("PATCH", f"/webhooks/{webhook_id}", {"template": ["another"]})
        in_state(hari, webhook_id, "delivered")
        hari.api.call("PATCH", f"/records/Deal/{deal['id']}", {"amount": 1400})
        hari.api.call("DELETE", f"/records/Deal/{deal['id']}")
        # The delete comes last: once it is dispatched, so is everything before it.
        eventually(lambda: log(hari, marker_id), 20)
        [row] = log(hari, webhook_id)
        assert [json.loads(body) for body in receiver.posts] == [
            {"deal": "Skates", "from": "Offer", "amount": 1300},
            {"deal": "Skates", "from": "Offer", "amount": 1300},
        ]
        shown = hari.api.call("GET", f"/deliveries/{row['id']}")["attempts"]
        assert [attempt["request"]["body"].encode() for attempt in shown] == receiver.posts
        assert row["body_bytes"] == len(receiver.posts[0])
        hari.api.call("POST", f"/webhooks/{webhook_id}/test")
        assert receiver.posts[-1] == b'["another"]'


def test_what_cannot_be_rendered_is_a_visible_row_and_never_sent(hari: Hari) -> None:
    with (
        StrictReceiver(lambda _: (200, {}, b"ok")) as receiver,
        a_webhook(hari, receiver.url, preset="custom", template=["{{ record.name | date }}"]) as webhook_id,
    ):
        a_deal(hari)
        delivery = in_state(hari, webhook_id, "dead")
        [attempt] = delivery["attempts"]
        assert (delivery["reason"], attempt["error"], attempt["status"]) == ("template_error", "template_error", None)
        assert "date cannot read 'Skates'" in attempt["detail"]
        assert attempt["request"]["body"] is None
        assert receiver.posts == []


def test_preset_and_template_must_fit(hari: Hari) -> None:
    with StrictReceiver(slack) as receiver, a_webhook(hari, receiver.url) as webhook_id:
        for change, pointer in (
            ({"preset": "custom"}, "/template"),
            ({"template": {}}, "/template"),
            ({"preset": "custom", "template": {"a": "{{ nothing }}"}}, "/template/a"),
        ):
            with pytest.raises(ApiError, match=pointer):
                hari.api.call("PATCH", f"/webhooks/{webhook_id}", change)
        custom = hari.api.call("PATCH", f"/webhooks/{webhook_id}", {"preset": "custom", "template": {"a": 1}})
        assert (custom["preset"], custom["template"]) == ("custom", {"a": 1})
        with pytest.raises(ApiError, match="/template"):
            hari.api.call("PATCH", f"/webhooks/{webhook_id}", {"template": None})
        plain = hari.api.call("PATCH", f"/webhooks/{webhook_id}", {"preset": "hari"})
        assert plain["preset"] == "hari"
        assert "template" not in plain


def commands() -> list[str]:
    """The `./hari webhook create` of every recipe."""
    text = "".join(path.read_text() for path in sorted(RECIPES.glob("*.md"))).replace("\\\n", "")
    found: list[str] = re.findall(r"^```sh\n\./hari (.*?)^```", text, re.MULTILINE | re.DOTALL)
    return found


@pytest.mark.parametrize("command", commands(), ids=lambda command: shlex.split(command)[3])
def test_the_commands_of_the_recipes_do_what_they_say(
    hari: Hari, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARI_URL", hari.url)
    monkeypatch.setenv("HARI_API_KEY", KEY)
    with StrictReceiver(lambda _: (200, {}, b"ok")) as receiver:
        words = [receiver.url if word.startswith("https://") else word for word in shlex.split(command)]
        made = CliRunner().invoke(app, [*words, "--json"])
        assert made.exit_code == 0, made.output
        webhook = json.loads(made.output)
        tested = hari.api.call("POST", f"/webhooks/{webhook['id']}/test")
        assert (tested["status"], tested["error"], len(receiver.posts)) == (200, None, 1)
        json.loads(receiver.posts[0])
        hari.api.call("DELETE", f"/webhooks/{webhook['id']}")
