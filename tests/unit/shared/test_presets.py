"""Presets: the body each makes of an event, within the rules of whoever receives it."""

from datetime import timedelta
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.model import HARI, Format
from shared.outgoing.presets import PRESETS, body_of, change_format, content_type, form_at, redirect_of
from shared.outgoing.templates import TemplateError
from shared.wire import read_event
from tests.builders import NOON, a_webhook, an_envelope, an_event
from tests.strict import slack_refuses

UPDATED = an_event(event_id="evt_1", record={"amount": 5}, previous={"stage": "Offer"})
CUSTOM = Format("custom", '{"n":"{{ record.name }}","s":"{{ secret }}"}')


def body(preset: str | Format, event: Any = UPDATED, secret: str | None = None) -> Any:
    return orjson.loads(body_of(Format(preset) if isinstance(preset, str) else preset, event.body, secret))


def test_the_default_is_the_events_own_bytes() -> None:
    assert body_of(HARI, UPDATED.body, "s") is UPDATED.body


def test_standard() -> None:
    assert body("standard") == {
        "type": "deal.updated",
        "timestamp": "2026-11-23T12:00:00.123Z",
        "data": {key: value for key, value in UPDATED.payload.items() if key != "timestamp"},
    }


def test_cloudevents() -> None:
    assert content_type(Format("cloudevents")) == "application/cloudevents+json"
    assert body("cloudevents") == {
        "specversion": "1.0",
        "id": "evt_1",
        "source": "/hari/Deal",
        "type": "hari.deal.updated",
        "subject": "rec_1",
        "time": "2026-11-23T12:00:00.123Z",
        "datacontenttype": "application/json",
        "data": UPDATED.payload,
    }


def test_zapier_is_flat() -> None:
    event = an_event(event_id="evt_1", record={"tags": ["a", 1]}, previous={"stage": "Offer", "name": None}, test=True)
    assert body("zapier", event) == {
        "id": "evt_1",
        "event": "updated",
        "entity": "Deal",
        "timestamp": "2026-11-23T12:00:00.123Z",
        "record_id": "rec_1",
        "record_version": 2,
        "record_name": "Engine",
        "record_stage": "Won",
        "record_tags": '["a",1]',
        "user_id": "usr_ada",
        "user_name": "Ada Lovelace",
        "changed": "name, stage",
        "previous_stage": "Offer",
        "previous_name": None,
        "test": True,
    }


def test_apps_script_gets_the_envelope_and_the_secret() -> None:
    assert body("google-apps-script", secret="s") == {"secret": "s", **UPDATED.payload}
    assert body("google-apps-script") == UPDATED.payload


def test_custom_gets_the_secret_where_it_asks_for_it() -> None:
    assert body(CUSTOM, secret="s") == {"n": "Engine", "s": "s"}
    assert body(CUSTOM) == {"n": "Engine", "s": None}


def test_slack_shows_what_changed() -> None:
    found = body("slack")
    assert found["text"] == "Deal updated: Engine\nstage: Offer → Won"
    assert found["blocks"] == [
        {"type": "section", "text": {"type": "mrkdwn", "text": "*Deal updated*: Engine"}},
        {"type": "section", "fields": [{"type": "mrkdwn", "text": "*stage*\nOffer → Won"}]},
        {
            "type": "context",
            "elements": [{"type": "mrkdwn", "text": "by Ada Lovelace at 2026-11-23T12:00:00.123Z"}],
        },
    ]


def test_slack_shows_nothing_as_a_dash() -> None:
    event = an_event(record={"stage": " \n"}, previous={"stage": None})
    assert body("slack", event)["text"] == "Deal updated: Engine\nstage: – → –"


def test_slack_of_a_created_person_shows_the_fields_that_hold_something() -> None:
    event = an_event("Contact", "created", record={"name": None, "first_name": "Ada", "last_name": "B", "stage": ""})
    assert body("slack", event)["text"] == "Contact created: Ada B\nfirst_name: Ada; last_name: B"


def test_slack_escapes_after_it_cuts() -> None:
    found = body("slack", an_event("Deal", "created", record={"name": "<!channel>" + "&" * 500}))
    assert found["text"].startswith("Deal created: &lt;!channel&gt;&amp;")
    assert "&amp;…" in found["text"]


slowly = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # time decides nothing
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["name", "first_name", "last_name", "title", "stage", "", "<b>"]) | st.text(max_size=5)
RECORDS = st.dictionaries(NAMES, JSON, max_size=15)


@slowly
@given(
    RECORDS, RECORDS, st.lists(NAMES, max_size=15), st.sampled_from(["created", "updated", "deleted"]), st.booleans()
)
def test_every_preset_takes_every_event(record: Any, previous: Any, changed: Any, event: str, by: bool) -> None:
    more = {"user": {"id": 7, "name": "<A>"}} if by else {}
    envelope = an_envelope(event=event, record=record | {"id": 42}, changed=changed, previous=previous, **more)
    canonical = read_event(envelope, ("Deal",)).body
    for preset in PRESETS:
        form = CUSTOM if preset == "custom" else Format(preset)
        once = body_of(form, canonical, "s")
        assert once == body_of(form, canonical, "s")
        orjson.loads(once)
        if preset == "slack":
            assert slack_refuses(once) is None
        if preset == "zapier":
            assert not any(isinstance(value, dict | list) for value in orjson.loads(once).values())


def test_a_record_as_deep_as_json_goes_is_a_template_error_and_no_crash() -> None:
    deep: Any = 1
    for _ in range(250):
        deep = [deep]
    canonical = read_event(an_envelope(record={"id": "1", "a": deep}), ("Deal",)).body
    with pytest.raises(TemplateError, match="cannot be written as JSON"):
        body_of(Format("custom", '[[[[[["{{ record }}"]]]]]]'), canonical, None)


def test_a_preset_of_another_version_is_a_template_error() -> None:
    with pytest.raises(TemplateError, match="does not know the preset teams"):
        body_of(Format("teams"), UPDATED.body, None)


@pytest.mark.parametrize(
    ("before", "preset", "template", "after"),
    [
        pytest.param(HARI, None, ..., HARI, id="nothing given changes nothing"),
        pytest.param(HARI, "slack", ..., Format("slack"), id="another preset"),
        pytest.param(HARI, "custom", {"a": 1}, Format("custom", '{"a":1}'), id="custom with its template"),
        pytest.param(HARI, "custom", ..., 'is required with preset "custom"', id="custom without one"),
        pytest.param(HARI, None, {"a": 1}, 'needs preset "custom"', id="a template without custom"),
        pytest.param(HARI, "slack", None, Format("slack"), id="null is no template"),
        pytest.param(CUSTOM, None, [1], Format("custom", "[1]"), id="another template"),
        pytest.param(CUSTOM, None, None, 'is required with preset "custom"', id="custom keeps a template"),
        pytest.param(CUSTOM, "custom", ..., CUSTOM, id="custom again keeps its own"),
        pytest.param(CUSTOM, "slack", ..., Format("slack"), id="leaving custom drops it"),
    ],
)
def test_preset_and_template_change_together(before: Format, preset: Any, template: Any, after: Any) -> None:
    form, errors = change_format(before, preset, template)
    if isinstance(after, str):
        assert [(error.pointer, error.detail) for error in errors] == [("/template", after)]
    else:
        assert (form, errors) == (after, [])


def test_a_delivery_keeps_the_form_of_its_time() -> None:
    formers = ((NOON, Format("slack")), (NOON + timedelta(1), Format("zapier")))
    assert form_at(formers, NOON - timedelta(1)) == Format("slack")
    assert form_at(formers, NOON) == Format("zapier")
    assert form_at(formers, NOON + timedelta(1)) is None


def test_the_preset_implies_its_redirect() -> None:
    assert redirect_of(a_webhook()) is None
    assert redirect_of(a_webhook(format=Format("google-apps-script"))) == "google-apps-script"
    assert redirect_of(a_webhook(redirect="google-apps-script")) == "google-apps-script"
