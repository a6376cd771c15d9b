"""What travels: the event envelope (the broker's message and the subscriber's POST alike) and delivery tasks. Pure.

The envelope is the public contract of docs/asyncapi.yaml. Encoding is canonical: `encode(decode(x)) == x` for whatever
`encode` made, so that one hash tells a repeat from another body under the same id.
"""

import hashlib
import re
from collections.abc import Collection, Mapping
from datetime import date, datetime
from typing import Any

import orjson

from shared import exact_json
from shared.clock import rfc3339
from shared.errors import FieldError, Malformed
from shared.model import Actor, Change, DeliveryTask, Event, Json

EVENT_ID = re.compile(r"[A-Za-z0-9_:-]{1,64}")
MAX_PAYLOAD_BYTES = 1024 * 1024
TASK_FORMAT = 1
MOST_ATTEMPTS = 1_000_000


def new_event(
    *,
    event_id: str,
    change: Change,
    entity: str,
    record: Mapping[str, Any],
    timestamp: datetime,
    user: Actor,
    previous: Mapping[str, Any] | None = None,
    test: bool = False,
    hop: int = 0,
    traceparent: str | None = None,
) -> Event:
    """The event of a change that we made ourselves. `previous` (of an update): what changed, with its old values."""
    payload: Json = {
        "id": event_id,
        "event": change.value,
        "entity": entity,
        "record": dict(record),
        "timestamp": rfc3339(timestamp),
        "user": {"id": user.id, "name": user.name},
    }
    if change is Change.UPDATED and previous is not None:
        payload["changed"] = sorted(previous)
        payload["previous"] = {name: previous[name] for name in sorted(previous)}
    if test:
        payload["test"] = True
    return Event(event_id, entity, change, str(record["id"]), orjson.dumps(payload), payload, hop, traceparent)


def decode_event(body: bytes, headers: Mapping[str, object], entities: Collection[str]) -> Event:
    """The event in a broker message or an item of POST /events; raises Malformed with every JSON pointer at fault.

    Keys that the contract does not name are dropped; the timestamp is normalised to UTC milliseconds.
    """
    return read_event(
        exact_json.loads(body), entities, hop=_hop(headers), traceparent=_text(headers.get("traceparent"))
    )


def read_event(given: Any, entities: Collection[str], *, hop: int = 0, traceparent: str | None = None) -> Event:
    """The event in parsed JSON; see `decode_event`."""
    if not isinstance(given, dict):
        raise Malformed("the message must be a JSON object")
    faults: list[FieldError] = []
    event_id: Any = given.get("id")
    if not isinstance(event_id, str) or not EVENT_ID.fullmatch(event_id):
        faults.append(FieldError("/id", "must be 1 to 64 characters of A-Z a-z 0-9 _ : -"))
    word: Any = given.get("event")
    if word not in ("created", "updated", "deleted"):
        faults.append(FieldError("/event", 'must be "created", "updated" or "deleted"'))
    entity: Any = given.get("entity")
    if not isinstance(entity, str) or entity not in entities:
        faults.append(FieldError("/entity", f"must be a declared entity, one of {', '.join(sorted(entities))}"))
    record: Any = given.get("record")
    if not isinstance(record, dict):
        faults.append(FieldError("/record", "must be a JSON object, the full record"))
    elif fault := _record_id_fault(record.get("id")):
        faults.append(FieldError("/record/id", fault))
    payload: Json = {"id": event_id, "event": word, "entity": entity, "record": record}
    payload["timestamp"] = _timestamp(given.get("timestamp"), faults)
    if given.get("user") is not None:
        payload["user"] = _user(given["user"], faults)
    if word == "updated":
        payload |= _differences(given, faults)
    if faults:
        raise Malformed(errors=faults)
    return Event(event_id, entity, Change(word), str(record["id"]), _dump(payload), payload, hop, traceparent)


def _record_id_fault(given: object) -> str | None:
    if isinstance(given, bool) or not isinstance(given, str | int) or not 1 <= len(str(given)) <= 200:
        return "must be a string of 1 to 200 characters, or an integer"
    return "must not hold U+0000" if "\x00" in str(given) else None


def body_hash(body: bytes) -> bytes:
    """SHA-256 of a canonical body."""
    return hashlib.sha256(body).digest()


def routing_key(event: Event) -> str:
    """`record.<Entity>.<created|updated|deleted>`."""
    return f"record.{event.entity}.{event.change.value}"


def event_headers(hop: int, traceparent: str | None) -> dict[str, str | int]:
    """The AMQP headers that travel beside an event."""
    headers: dict[str, str | int] = {"x-hari-hop": hop} if hop else {}
    return headers | ({"traceparent": traceparent} if traceparent else {})


def encode_task(task: DeliveryTask) -> bytes:
    """A delivery task as bytes, with its format's number first."""
    return orjson.dumps(
        {
            "v": TASK_FORMAT,
            "delivery_id": task.delivery_id,
            "event_day": task.event_day,
            "attempt_no": task.attempt_no,
            "webhook_id": task.webhook_id,
        }
    )


def decode_task(body: bytes) -> DeliveryTask:
    """The task in these bytes; raises Malformed."""
    try:
        given = orjson.loads(body)
        if given["v"] != TASK_FORMAT:
            raise Malformed(f"delivery task of format {given['v']}, this version reads {TASK_FORMAT}")
        day = date.fromisoformat(given["event_day"])
        task = DeliveryTask(given["delivery_id"], day, given["attempt_no"], given["webhook_id"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise Malformed(f"not a delivery task: {error}") from None
    texts = isinstance(task.delivery_id, str) and isinstance(task.webhook_id, str)
    if not texts or not EVENT_ID.fullmatch(task.delivery_id) or not EVENT_ID.fullmatch(task.webhook_id):
        raise Malformed("not a delivery task: the ids must be 1 to 64 characters of A-Z a-z 0-9 _ : -")
    if not isinstance(task.attempt_no, int) or not 1 <= task.attempt_no <= MOST_ATTEMPTS:
        raise Malformed(f"not a delivery task: attempt_no must be a number from 1 to {MOST_ATTEMPTS}")
    return task


def _timestamp(given: object, faults: list[FieldError]) -> str | None:
    try:
        moment = datetime.fromisoformat(given) if isinstance(given, str) else None
        if moment is not None and moment.tzinfo is not None:
            return rfc3339(moment)
    except (ValueError, OverflowError):
        pass
    detail = "must be an RFC 3339 time with an offset, like 2026-11-23T10:15:30.123Z"
    faults.append(FieldError("/timestamp", detail))
    return None


def _user(given: object, faults: list[FieldError]) -> Json | None:
    if isinstance(given, dict):
        user_id, name = given.get("id"), given.get("name")
        if isinstance(user_id, str | int) and not isinstance(user_id, bool) and isinstance(name, str):
            return {"id": str(user_id), "name": name}
    faults.append(FieldError("/user", 'must be {"id": text, "name": text}'))
    return None


def _differences(given: Json, faults: list[FieldError]) -> Json:
    changed, previous = given.get("changed"), given.get("previous")
    before = len(faults)
    if changed is not None and not (isinstance(changed, list) and all(isinstance(name, str) for name in changed)):
        faults.append(FieldError("/changed", "must be a list of field names"))
    if previous is not None and not isinstance(previous, dict):
        faults.append(FieldError("/previous", "must be an object of field names and their former values"))
    if len(faults) > before:
        return {}
    found: Json = {}
    if changed is not None or previous is not None:
        found["changed"] = sorted(set(changed if changed is not None else previous or ()))
    if previous is not None:
        found["previous"] = previous
    return found


def _dump(payload: Json) -> bytes:
    try:
        return orjson.dumps(payload)
    except (TypeError, ValueError) as error:
        raise Malformed(f"cannot be written as JSON again: {error}") from None


def _hop(headers: Mapping[str, object]) -> int:
    hop = headers.get("x-hari-hop")
    return min(hop, 1000) if isinstance(hop, int) and hop > 0 else 0


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    # A traceparent has one form (W3C Trace Context, "traceparent Header"); another one is not passed on.
    return (
        value
        if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", value)
        else None
    )
