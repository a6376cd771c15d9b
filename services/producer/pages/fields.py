"""Form fields <-> what the API takes, so that both are checked by the same code. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from shared.entities import Entity, Kind
from shared.errors import FieldError
from shared.model import Json, Webhook
from shared.outgoing.request import MASK

TEXTS = ("name", "entity", "event", "url")
NUMBERS = ("timeout_s", "concurrency")


def webhook_given(form: Mapping[str, str], stored: Mapping[str, str]) -> tuple[Json, list[FieldError]]:
    """(the body that the API would take, what cannot even be put into one).

    `stored`: headers as they are; a masked value in the form stands for the stored one.
    """
    given: Json = {name: form.get(name, "").strip() for name in TEXTS}
    given |= {name: _number(form[name]) for name in NUMBERS if form.get(name, "").strip()}
    headers, errors = _headers(form.get("headers", ""), stored)
    given["headers"] = headers
    given["filter"], filter_errors = _filter(form.get("filter", "").strip())
    return given, errors + filter_errors


def webhook_form(webhook: Webhook) -> dict[str, str]:
    """The fields that show this webhook; header values stay masked."""
    shown = {"name": webhook.name, "entity": webhook.entity, "event": webhook.trigger.value, "url": webhook.url}
    shown |= {"timeout_s": str(webhook.timeout_s), "concurrency": str(webhook.concurrency)}
    shown["headers"] = "\n".join(f"{name}: {MASK}" for name in webhook.headers)
    shown["filter"] = orjson.dumps(webhook.filter, option=orjson.OPT_INDENT_2).decode() if webhook.filter else ""
    return shown | {"version": str(webhook.version)}


def record_given(entity: Entity, form: Mapping[str, str]) -> Json:
    """The record's fields as the API would take them; an empty one is null."""
    return {name: _value(kind, form[name]) for name, kind in entity.fields.items() if name in form}


def record_form(entity: Entity, record: Mapping[str, Any]) -> dict[str, str]:
    """The fields that show this record."""
    return {name: _text(record.get(name)) for name in entity.fields}


def by_field(errors: Sequence[FieldError]) -> dict[str, str]:
    """Field -> what is wrong with it; "" is the form as a whole."""
    found: dict[str, list[str]] = {}
    for error in errors:
        _, _, path = error.pointer.partition("/")
        field, _, inner = path.partition("/")
        inner = inner.replace("~1", "/").replace("~0", "~")
        found.setdefault(field, []).append(f"{inner}: {error.detail}" if inner else error.detail)
    return {field: "; ".join(details) for field, details in found.items()}


def _headers(text: str, stored: Mapping[str, str]) -> tuple[dict[str, str], list[FieldError]]:
    headers: dict[str, str] = {}
    for line_no, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        if not colon or not name:
            return headers, [FieldError("/headers", f"line {line_no} is no header; write Name: value")]
        if name in headers:
            return headers, [FieldError("/headers", f"line {line_no}: {name} is there twice")]
        headers[name] = stored[name] if value == MASK and name in stored else value
    return headers, []


def _filter(text: str) -> tuple[Any, list[FieldError]]:
    if not text:
        return None, []
    try:
        return orjson.loads(text), []
    except orjson.JSONDecodeError as error:
        return None, [FieldError("/filter", f"is not valid JSON: {error}")]


def _number(text: str) -> Any:
    """The number, or the text itself: whoever checks it says what is wrong."""
    text = text.strip()
    for kind in (int, float):
        try:
            return kind(text) if len(text) <= 40 else text
        except ValueError:
            continue
    return text


def _value(kind: Kind, text: str) -> Any:
    if not text.strip():
        return None
    match kind:
        case Kind.NUMBER:
            return _number(text)
        case Kind.BOOLEAN:
            return {"true": True, "false": False}.get(text, text)
        case Kind.TEXT:
            return text.replace("\r\n", "\n")
    return text.strip()


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
