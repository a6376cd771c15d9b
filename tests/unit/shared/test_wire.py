"""The envelope: what is read, what is refused with which pointer, and that one event has one spelling."""

from typing import Any

import orjson
import pytest

from shared.errors import Malformed
from shared.model import Actor, Change
from shared.wire import body_hash, decode_event, decode_task, encode_task, event_headers, new_event, routing_key
from tests.builders import ADA, NOON, an_envelope, an_event

ENTITIES = ("Deal", "Task")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no id": ({"id": None}, "/id: must be 1 to 64 characters"),
    "an id with a dot": ({"id": "a.b"}, "/id: "),
    "an empty id": ({"id": ""}, "/id: "),
    "an id of 65 characters": ({"id": "a" * 65}, "/id: "),
    "an id with a line break": ({"id": "a\n"}, "/id: "),
    "an id that is a number": ({"id": 7}, "/id: "),
    "an event that is no change": ({"event": "saved"}, '/event: must be "created", "updated" or "deleted"'),
    "an event that is no text": ({"event": ["created"]}, "/event: "),
    "an entity that is not declared": ({"entity": "Ghost"}, "/entity: must be a declared entity, one of Deal, Task"),
    "an entity in other letters": ({"entity": "deal"}, "/entity: "),
    "an entity that is a list": ({"entity": ["Deal"]}, "/entity: "),
    "no record": ({"record": None}, "/record: must be a JSON object"),
    "a record that is a list": ({"record": [1]}, "/record: "),
    "a record without id": ({"record": {"name": "x"}}, "/record/id: must be a string"),
    "a record id that is true": ({"record": {"id": True}}, "/record/id: "),
    "a record id of 201 characters": ({"record": {"id": "a" * 201}}, "/record/id: "),
    "an empty record id": ({"record": {"id": ""}}, "/record/id: "),
    "no timestamp": ({"timestamp": None}, "/timestamp: must be an RFC 3339 time with an offset"),
    "a timestamp without offset": ({"timestamp": "2026-11-23T10:15:30"}, "/timestamp: "),
    "a timestamp in Unix seconds": ({"timestamp": 1795428930}, "/timestamp: "),
    "a timestamp before the year 1": ({"timestamp": "0001-01-01T00:00:00+14:00"}, "/timestamp: "),
    "a user that is text": ({"user": "Ada"}, "/user: must be"),
    "a user without name": ({"user": {"id": "1"}}, "/user: "),
    "changed that is text": ({"event": "updated", "changed": "stage"}, "/changed: must be a list"),
    "changed that holds a number": ({"event": "updated", "changed": [1]}, "/changed: "),
    "previous that is a list": ({"event": "updated", "previous": []}, "/previous: must be an object"),
}


@pytest.mark.parametrize(("values", "reason"), BAD.values(), ids=BAD)
def test_a_malformed_event_is_refused_with_its_pointer(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(Malformed) as error:
        decode_event(orjson.dumps(an_envelope(**values)), {}, ENTITIES)
    assert str(error.value).startswith(reason)


def test_every_fault_of_an_event_is_named_at_once() -> None:
    wrong = {"id": "a.b", "event": "updated", "entity": "Ghost", "record": {"id": True}, "timestamp": "noon"}
    wrong |= {"user": "Ada", "changed": "stage", "previous": []}
    with pytest.raises(Malformed) as error:
        decode_event(orjson.dumps(wrong), {}, ENTITIES)
    pointers = ["/id", "/entity", "/record/id", "/timestamp", "/user", "/changed", "/previous"]
    assert [fault.pointer for fault in error.value.errors] == pointers
    assert str(error.value).startswith("/id: must be 1 to 64 characters of A-Z a-z 0-9 _ : -; /entity: must be")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"", "not valid JSON", id="nothing"),
        pytest.param(b"{", "not valid JSON", id="half an object"),
        pytest.param(b'{"a": NaN}', "not valid JSON", id="NaN"),
        pytest.param(b'{"a": 1e400}', "not valid JSON", id="a number that is infinite"),
        pytest.param(b'"\\ud800"', "not valid JSON", id="half a surrogate pair"),
        pytest.param(b"\xff\xfe{", "not valid JSON", id="UTF-16"),
        pytest.param(b"[" * 100_000, "not valid JSON", id="a hundred thousand brackets"),
        pytest.param(b'{"record": {"n": 18446744073709551616}}', "/record/n: an integer of more", id="65 bits"),
        pytest.param(b"[]", "the message must be a JSON object", id="a list"),
        pytest.param(b"null", "the message must be a JSON object", id="null"),
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        decode_event(body, {}, ENTITIES)


def test_reading_what_was_written_gives_the_same_bytes() -> None:
    event = an_event(previous={"stage": "Offer", "amount": None})
    assert decode_event(event.body, {}, ENTITIES).body == event.body
    foreign = decode_event(orjson.dumps(an_envelope(more=1, user={"id": 7, "name": "Ada", "email": "x"})), {}, ENTITIES)
    assert decode_event(foreign.body, {}, ENTITIES).body == foreign.body
    assert foreign.payload["user"] == {"id": "7", "name": "Ada"}
    assert "more" not in foreign.payload


def test_one_event_has_one_hash_however_it_is_spelled() -> None:
    record = {"id": "42", "name": "Ü"}
    given = an_envelope(id="evt-1", record=record, timestamp="2026-11-23T12:15:30.123+02:00")
    spaced = orjson.dumps(dict(reversed(given.items())), option=orjson.OPT_INDENT_2)
    plain = orjson.dumps(given | {"timestamp": "2026-11-23T10:15:30.123000Z"})
    one, two = decode_event(spaced, {}, ENTITIES), decode_event(plain, {}, ENTITIES)
    assert body_hash(one.body) == body_hash(two.body)
    other = decode_event(orjson.dumps(given | {"record": {"id": "42"}}), {}, ENTITIES)
    assert body_hash(other.body) != body_hash(one.body)


def test_a_payload_has_the_keys_of_the_contract_in_their_order() -> None:
    event = new_event(
        event_id="evt_1",
        change=Change.UPDATED,
        entity="Deal",
        record={"id": "rec_1", "version": 7, "stage": "Won"},
        timestamp=NOON,
        user=Actor("usr_1", "Ada"),
        previous={"stage": "Offer", "amount": 1},
    )
    assert event.body == (
        b'{"id":"evt_1","event":"updated","entity":"Deal","record":{"id":"rec_1","version":7,"stage":"Won"},'
        b'"timestamp":"2026-11-23T12:00:00.123Z","user":{"id":"usr_1","name":"Ada"},'
        b'"changed":["amount","stage"],"previous":{"amount":1,"stage":"Offer"}}'
    )


def test_changed_and_previous_come_with_updates_only() -> None:
    for change in (Change.CREATED, Change.DELETED):
        event = new_event(
            event_id="e", change=change, entity="Deal", record={"id": "r"}, timestamp=NOON, user=ADA, previous={"a": 1}
        )
        assert {"changed", "previous"}.isdisjoint(event.payload)
    created = decode_event(orjson.dumps(an_envelope(changed=["a"], previous={"a": 1})), {}, ENTITIES)
    assert {"changed", "previous"}.isdisjoint(created.payload)
    updated = decode_event(orjson.dumps(an_envelope(event="updated", previous={"b": 1, "a": 2})), {}, ENTITIES)
    assert updated.payload["changed"] == ["a", "b"]


def test_a_test_says_so() -> None:
    assert an_event(test=True).payload["test"] is True
    assert "test" not in an_event().payload


@pytest.mark.parametrize(
    ("headers", "hop", "trace"),
    [
        ({}, 0, None),
        ({"x-hari-hop": 3, "traceparent": TRACE}, 3, TRACE),
        ({"traceparent": TRACE.encode()}, 0, TRACE),
        ({"x-hari-hop": "3", "traceparent": TRACE.upper()}, 0, None),
        ({"x-hari-hop": -1, "traceparent": f"{TRACE}\n"}, 0, None),
        ({"x-hari-hop": 10**9, "traceparent": 5}, 1000, None),
    ],
    ids=[
        "none",
        "both",
        "a trace in bytes",
        "a hop in text",
        "a negative hop, a trace with a line break",
        "a huge hop",
    ],
)
def test_hop_and_trace_come_from_the_headers(headers: dict[str, Any], hop: int, trace: str | None) -> None:
    event = decode_event(orjson.dumps(an_envelope()), headers, ENTITIES)
    assert (event.hop, event.traceparent) == (hop, trace)


def test_an_event_is_routed_by_entity_and_change() -> None:
    assert routing_key(an_event("Deal", "deleted")) == "record.Deal.deleted"
    assert event_headers(0, None) == {}
    assert event_headers(2, TRACE) == {"x-hari-hop": 2, "traceparent": TRACE}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'{"v":2}', id="another format"),
        pytest.param(b'{"v":1}', id="no ids"),
        pytest.param(
            b'{"v":1,"delivery_id":"d","event_day":"2026-13-01","attempt_no":1,"webhook_id":"w"}', id="no such day"
        ),
        pytest.param(
            b'{"v":1,"delivery_id":"d","event_day":"2026-11-23","attempt_no":0,"webhook_id":"w"}', id="attempt 0"
        ),
        pytest.param(
            b'{"v":1,"delivery_id":7,"event_day":"2026-11-23","attempt_no":1,"webhook_id":"w"}', id="an id in numbers"
        ),
    ],
)
def test_a_malformed_task_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed, match="delivery task"):
        decode_task(body)


def test_a_task_is_read_as_it_was_written() -> None:
    body = b'{"v":1,"delivery_id":"dlv_1","event_day":"2026-11-23","attempt_no":2,"webhook_id":"wh_1"}'
    assert encode_task(decode_task(body)) == body
