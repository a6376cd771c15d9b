"""docs/asyncapi.yaml says what the product publishes, and promises no message that it would not take."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from jsonschema import Draft7Validator  # type: ignore[import-untyped]

from shared.broker.topology import build
from shared.entities import BUILT_IN
from shared.errors import Malformed
from shared.wire import decode_event, event_headers, routing_key
from tests.builders import an_event

DOCUMENT = yaml.safe_load((Path(__file__).parents[3] / "docs" / "asyncapi.yaml").read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]
CHANNEL = DOCUMENT["channels"]["recordEvents"]
EXAMPLES = DOCUMENT["components"]["messages"]["recordEvent"]["examples"]
ENVELOPE = Draft7Validator(SCHEMAS["envelope"])
HEADERS = Draft7Validator(SCHEMAS["headers"])
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

LEAST: dict[str, Any] = {
    "id": "crm-1",
    "event": "created",
    "entity": "Deal",
    "record": {"id": "42"},
    "timestamp": "2026-11-23T10:15:30Z",
}
UPDATED = {"event": "updated"}
GOOD: dict[str, dict[str, Any]] = {
    "the least": {},
    "a record id that is a number": {"record": {"id": 42}},
    "the largest number": {"record": {"id": 2**64 - 1}},
    "a record id of 200 characters": {"record": {"id": "x" * 200}},
    "an event id of 64 characters": {"id": "aZ9_:-" + "x" * 58},
    "an offset and a fraction": {"timestamp": "2026-11-23T12:15:30.123456+02:00"},
    "no user": {"user": None},
    "a user whose id is a number": {"user": {"id": 7, "name": "Ada"}},
    "changed without previous": UPDATED | {"changed": ["stage"]},
    "previous without changed": UPDATED | {"previous": {"stage": "Offer"}},
    "neither": UPDATED | {"changed": None, "previous": None},
    "keys that nobody knows": {"origin": "import", "tags": [1, 2]},
}
BAD: dict[str, dict[str, Any]] = {
    "no id": {"id": None},
    "an empty id": {"id": ""},
    "an id with a dot": {"id": "a.b"},
    "an id of 65 characters": {"id": "x" * 65},
    "a past tense that is none of ours": {"event": "saved"},
    "an entity in small letters": {"entity": "deal"},
    "no record": {"record": None},
    "a record that is a list": {"record": [1]},
    "a record without an id": {"record": {"name": "Engine"}},
    "an empty record id": {"record": {"id": ""}},
    "a record id of 201 characters": {"record": {"id": "x" * 201}},
    "a record id that is true": {"record": {"id": True}},
    "a record id with a fraction": {"record": {"id": 4.2}},
    "a record id beyond 64 bits": {"record": {"id": 2**64}},
    "a time without an offset": {"timestamp": "2026-11-23T10:15:30"},
    "a time that is a number": {"timestamp": 1795428930},
    "an hour that is none": {"timestamp": "2026-11-23T24:00:00Z"},
    "a user without a name": {"user": {"id": "7"}},
    "a user that is text": {"user": "Ada"},
    "changed as text": UPDATED | {"changed": "stage"},
    "changed with numbers": UPDATED | {"changed": [1]},
    "previous as a list": UPDATED | {"previous": ["stage"]},
}


def _accepts(envelope: dict[str, Any]) -> bool:
    # By the standard library: it writes numbers beyond 64 bits, which other publishers can do too.
    try:
        decode_event(json.dumps(envelope).encode(), {}, BUILT_IN)
    except Malformed:
        return False
    return True


@pytest.mark.parametrize("values", GOOD.values(), ids=GOOD)
def test_what_the_schema_takes_the_dispatcher_takes(values: dict[str, Any]) -> None:
    assert [error.message for error in ENVELOPE.iter_errors(LEAST | values)] == []
    assert _accepts(LEAST | values)


@pytest.mark.parametrize("values", BAD.values(), ids=BAD)
def test_what_the_schema_refuses_the_dispatcher_refuses(values: dict[str, Any]) -> None:
    assert not ENVELOPE.is_valid(LEAST | values)
    assert not _accepts(LEAST | values)


@pytest.mark.parametrize("missing", LEAST)
def test_every_required_key_is_required_by_both(missing: str) -> None:
    without = {key: value for key, value in LEAST.items() if key != missing}
    assert not ENVELOPE.is_valid(without)
    assert not _accepts(without)
    assert set(SCHEMAS["envelope"]["required"]) == set(LEAST)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["name"])
def test_every_example_is_taken_with_its_headers(example: dict[str, Any]) -> None:
    headers = example.get("headers", {})
    ENVELOPE.validate(example["payload"])
    HEADERS.validate(headers)
    event = decode_event(orjson.dumps(example["payload"]), headers, BUILT_IN)
    assert event.change == example["name"]
    assert event_headers(event.hop, event.traceparent) == headers


@pytest.mark.parametrize("change", ["created", "updated", "deleted"])
def test_what_the_product_publishes_is_described(change: str) -> None:
    event = an_event("Deal", change, hop=2, traceparent=TRACEPARENT)
    ENVELOPE.validate(orjson.loads(event.body))
    HEADERS.validate(event_headers(event.hop, event.traceparent))
    undescribed = set(orjson.loads(event.body)) - set(SCHEMAS["envelope"]["properties"])
    assert undescribed == set()
    assert set(event_headers(event.hop, event.traceparent)) == set(SCHEMAS["headers"]["properties"])
    assert routing_key(event) == CHANNEL["address"].format(entity="Deal", event=change)


def test_the_exchange_is_the_one_that_is_declared() -> None:
    topology = build("", (5.0,))
    [declared] = [exchange for exchange in topology.exchanges if exchange.name == topology.events_exchange]
    described = CHANNEL["bindings"]["amqp"]["exchange"]
    assert (described["name"], described["type"]) == (declared.name, declared.kind)
    assert topology.parked in DOCUMENT["info"]["description"]
    assert topology.unrouted in DOCUMENT["info"]["description"]
