"""What a webhook may be set to: each wrong field gets its pointer and its message, all of them at once."""

from typing import Any

import pytest

from services.producer.forms import WebhookChange, WebhookForm, read_rotation, read_webhook
from shared.errors import FieldError, Refused
from shared.model import Trigger

GOOD: dict[str, Any] = {"name": "Zapier", "entity": "Deal", "event": "save", "url": "https://example.com/"}
FORBIDDEN_HEADERS = ("x-webhook-secret", "X-HARi-Hop", "Webhook-Id", "Host", "content-length", "Proxy-Authorization")


def no_faults(_url: str) -> tuple[list[FieldError], list[FieldError]]:
    return [], []


def faults(form: type[WebhookChange], given: Any) -> dict[str, str]:
    with pytest.raises(Refused) as refused:
        read_webhook(form, given, ("Deal", "Task"), no_faults)
    assert refused.value.status == 422
    return {error.pointer: error.detail for error in refused.value.errors}


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "an empty name": ({"name": ""}, "/name", "must not be empty"),
    "a blank name": ({"name": "  "}, "/name", "must not be blank"),
    "a name with NUL": ({"name": "a\x00"}, "/name", "must not hold control characters"),
    "a name of 201 characters": ({"name": "x" * 201}, "/name", "must have at most 200 characters"),
    "a name that is a number": ({"name": 1}, "/name", "must be text"),
    "a name that is null": ({"name": None}, "/name", "must be text"),
    "an entity that is not declared": ({"entity": "Ghost"}, "/entity", "must be one of Deal, Task"),
    "an entity that is a list": ({"entity": ["Deal"]}, "/entity", "must be text"),
    "an event of the wire": ({"event": "created"}, "/event", "must be one of 'save', 'create', 'update' or 'delete'"),
    "an event that is null": ({"event": None}, "/event", "must be one of 'save'"),
    "a URL that is a number": ({"url": 5}, "/url", "must be text"),
    "an empty secret": ({"secret": ""}, "/secret", "must have 1 to 256 characters"),
    "a secret of 257 characters": ({"secret": "x" * 257}, "/secret", "must have 1 to 256 characters"),
    "a secret with a line break": ({"secret": "a\r\nX-Evil: 1"}, "/secret", "must be printable ASCII"),
    "a secret with umlauts": ({"secret": "schlüssel"}, "/secret", "must be printable ASCII"),
    "a secret that ends in a space": ({"secret": "a "}, "/secret", "must not start or end with a space"),
    "a whsec_ secret that is no base64": ({"secret": "whsec_!"}, "/secret", "there must be base64 of 24 to 64 bytes"),
    "a whsec_ secret of 3 bytes": ({"secret": "whsec_AAAA"}, "/secret", "there must be base64 of 24 to 64 bytes"),
    "a secret that is a number": ({"secret": 5}, "/secret", "must be text"),
    "active that is 1": ({"active": 1}, "/active", "must be true or false"),
    "active that is text": ({"active": "true"}, "/active", "must be true or false"),
    "active that is null": ({"active": None}, "/active", "must be true or false"),
    "a timeout of 0": ({"timeout_s": 0}, "/timeout_s", "must be at least 1"),
    "a timeout of 31": ({"timeout_s": 31}, "/timeout_s", "must be at most 30"),
    "a timeout of 1.5": ({"timeout_s": 1.5}, "/timeout_s", "must be a whole number"),
    "a timeout that is text": ({"timeout_s": "15"}, "/timeout_s", "must be a whole number"),
    "a timeout that is true": ({"timeout_s": True}, "/timeout_s", "must be a whole number"),
    "a concurrency of 0": ({"concurrency": 0}, "/concurrency", "must be at least 1"),
    "a concurrency of 257": ({"concurrency": 257}, "/concurrency", "must be at most 256"),
    "headers that are a list": ({"headers": []}, "/headers", "must be a JSON object of header names and values"),
    "headers that are null": ({"headers": None}, "/headers", "must be a JSON object of header names and values"),
    "a header that is a number": ({"headers": {"X-A": 1}}, "/headers/X-A", "must be text"),
    "an empty header": ({"headers": {"X-A": ""}}, "/headers/X-A", "must not be empty"),
    "a header with a line break": ({"headers": {"X-A": "a\nb"}}, "/headers/X-A", "without line breaks"),
    "a header's name with a colon": ({"headers": {"X:A": "a"}}, "/headers/X:A", "letters, digits and hyphens"),
    "a header's name with a slash": ({"headers": {"a/b": "a"}}, "/headers/a~1b", "letters, digits and hyphens"),
    "a header twice": ({"headers": {"X-A": "a", "x-a": "b"}}, "/headers/x-a", "is there twice"),
    "twenty-one headers": ({"headers": {f"X-{no}": "a" for no in range(21)}}, "/headers", "at most 20 headers"),
    "a field that is not enforced yet": (
        {"rate_limit": 1},
        "/rate_limit",
        "unknown field; known are name, entity, event",
    ),
    "an unknown preset": ({"preset": "teams"}, "/preset", "must be one of 'hari', 'standard'"),
    "a preset that is null": ({"preset": None}, "/preset", "must be one of 'hari'"),
    "a template with a wrong path": (
        {"preset": "custom", "template": {"a": ["{{ recrod.name }}"]}},
        "/template/a/0",
        "a path begins with one of record",
    ),
    "an unknown redirect": ({"redirect": "follow"}, "/redirect", "must be one of 'google-apps-script'"),
    "a filter that is no object": ({"filter": "stage"}, "/filter", "must be an object of paths and conditions"),
    "a filter with an unknown operator": (
        {"filter": {"record.a": {"$like": 1}}},
        "/filter/record.a/$like",
        "is unknown",
    ),
    "a field of the answer": ({"id": "wh_1"}, "/id", "unknown field"),
    "a field that is misspelt": ({"Name": "x"}, "/Name", "unknown field"),
}
BAD |= {
    f"the header {name}": ({"headers": {name: "a"}}, f"/headers/{name}", "is set by HARI or by HTTP itself")
    for name in FORBIDDEN_HEADERS
}


@pytest.mark.parametrize("form", [WebhookForm, WebhookChange], ids=["create", "change"])
@pytest.mark.parametrize(("given", "pointer", "detail"), BAD.values(), ids=BAD)
def test_a_wrong_field_is_named(given: dict[str, Any], pointer: str, detail: str, form: type[WebhookChange]) -> None:
    body = GOOD | given if form is WebhookForm else given
    found = faults(form, body)
    assert list(found) == [pointer]
    assert detail in found[pointer]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"preset": "custom"}, "is required"),
        ({"template": {}}, "needs preset"),
        ({"preset": "slack", "template": 1}, "needs"),
    ],
)
def test_a_new_webhook_needs_preset_and_template_together(given: dict[str, Any], says: str) -> None:
    assert says in faults(WebhookForm, GOOD | given)["/template"]
    # A change is judged with what is stored, under its lock.
    assert read_webhook(WebhookChange, given, ("Deal",), no_faults) == (given, [])


def test_a_secret_that_is_refused_is_not_repeated() -> None:
    found = faults(WebhookChange, {"secret": "hunter2\n", "headers": {"X-Token": "hunter2\n"}})
    assert "hunter2" not in str(found)


@pytest.mark.parametrize("name", ["name", "entity", "event", "url"])
def test_a_new_webhook_needs_its_four_fields_and_a_change_none(name: str) -> None:
    rest = {key: value for key, value in GOOD.items() if key != name}
    assert faults(WebhookForm, rest) == {f"/{name}": "is required"}
    assert read_webhook(WebhookChange, {}, ("Deal",), no_faults) == ({}, [])


@pytest.mark.parametrize("given", [None, [], "x", 5, [GOOD]], ids=repr)
def test_a_body_that_is_no_object_is_refused(given: Any) -> None:
    assert faults(WebhookForm, given) == {"": "must be a JSON object"}


def test_every_fault_is_named_at_once() -> None:
    def forbidden(_url: str) -> tuple[list[FieldError], list[FieldError]]:
        return [FieldError("/url", "not public")], []

    given = {"name": 1, "entity": "Ghost", "url": "https://x", "secret": "", "timeout_s": 99, "headers": {"Host": "x"}}
    with pytest.raises(Refused) as refused:
        read_webhook(WebhookForm, given, ("Deal",), forbidden)
    pointers = [error.pointer for error in refused.value.errors]
    assert sorted(pointers) == ["/entity", "/event", "/headers/Host", "/name", "/secret", "/timeout_s", "/url"]


def test_only_what_was_given_is_read() -> None:
    values, warnings = read_webhook(WebhookChange, {"event": "delete", "secret": None}, ("Deal",), no_faults)
    assert (values, warnings) == ({"trigger": Trigger.DELETE, "secret": None}, [])
    assert read_webhook(WebhookForm, GOOD, ("Deal",), no_faults)[0] == {
        "name": "Zapier",
        "entity": "Deal",
        "trigger": Trigger.SAVE,
        "url": "https://example.com/",
    }


def test_a_warning_does_not_stop_the_save() -> None:
    warning = FieldError("/url", "does not resolve")
    assert read_webhook(WebhookForm, GOOD, ("Deal",), lambda _: ([], [warning]))[1] == [warning]


@pytest.mark.parametrize(
    ("given", "pointer", "detail"),
    [
        ({"overlap_s": -1}, "/overlap_s", "must be at least 0"),
        ({"overlap_s": 604_801}, "/overlap_s", "must be at most 604800"),
        ({"overlap_s": "60"}, "/overlap_s", "must be a whole number"),
        ({"secret": ""}, "/secret", "must have 1 to 256 characters"),
        ({"secret": 5}, "/secret", "must be text"),
        ({"overlap": 5}, "/overlap", "unknown field; known are secret, overlap_s"),
        ([], "", "must be a JSON object"),
    ],
    ids=["negative", "over a week", "as text", "an empty secret", "a number as secret", "misspelt", "a list"],
)
def test_a_wrong_rotation_is_named(given: Any, pointer: str, detail: str) -> None:
    with pytest.raises(Refused) as refused:
        read_rotation(given)
    [error] = refused.value.errors
    assert error.pointer == pointer
    assert detail in error.detail


def test_a_rotation_overlaps_for_a_day_unless_told() -> None:
    assert read_rotation({}) == (None, 86400)
    assert read_rotation({"secret": "new", "overlap_s": 0}) == ("new", 0)
