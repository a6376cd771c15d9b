"""From the canonical envelope to the body that one kind of endpoint wants. Pure.

`hari`, the default, is the envelope's own bytes and never comes here. Every other body is rendered anew for each
attempt from the stored envelope and the format that held when the delivery was made, so that it is the same bytes each
time.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import orjson

from shared.errors import FieldError
from shared.model import HARI, Format, Json, Webhook
from shared.outgoing.templates import (
    TemplateError,
    as_text,
    compile_template,
    escape_mrkdwn,
    shortened,
    template_of,
)

JSON_TYPE = "application/json"
CLOUDEVENTS_TYPE = "application/cloudevents+json"
CUSTOM = "custom"
GOOGLE = "google-apps-script"
GOOGLE_HOST = "script.googleusercontent.com"
"""Where Apps Script sends whoever posted to it, once the script has run."""
REDIRECTS = (GOOGLE,)
MOST_FORMER = 10
_RECORDS_OWN = ("id", "version", "created_at", "updated_at")
# Slack's limits: 3,000 characters for a section's text, 2,000 for a field, 10 fields (Block Kit, "Section block").
_MOST_TITLE, _MOST_VALUE, _MOST_FIELDS = 150, 200, 10


def body_of(form: Format, canonical: bytes, secret: str | None) -> bytes:
    """The body in this form. Raises TemplateError, of which the text is for people.

    `secret` goes where the form asks for it, since not every endpoint can read headers; the log passes a mask.
    """
    if form.preset == HARI.preset:
        return canonical
    build = partial(_custom, form.template or "null") if form.preset == CUSTOM else _PRESETS.get(form.preset)
    if build is None:
        raise TemplateError(f"this version does not know the preset {form.preset}")
    try:
        return orjson.dumps(build(orjson.loads(canonical), secret))
    except (TypeError, ValueError) as error:  # a record that is nested so deep that nothing can go around it
        raise TemplateError(f"it cannot be written as JSON: {error}") from None


def content_type(form: Format) -> str:
    """The media type of a body in this form."""
    return CLOUDEVENTS_TYPE if form.preset == "cloudevents" else JSON_TYPE


def form_at(formers: Sequence[tuple[datetime, Format]], created_at: datetime) -> Format | None:
    """The former form that a delivery made at this time keeps: an edit changes later deliveries only. None: today's."""
    return next((former for until, former in formers if created_at < until), None)


def redirect_of(webhook: Webhook) -> str | None:
    """The redirect that counts as delivered: the webhook's own, or the one that its preset implies."""
    return webhook.redirect or (GOOGLE if webhook.format.preset == GOOGLE else None)


def change_format(before: Format, preset: str | None, template: Any) -> tuple[Format, list[FieldError]]:
    """(the form after this change, what is wrong with it). None leaves the preset; so does ... the template.

    Leaving `custom` drops the template.
    """
    preset = before.preset if preset is None else preset
    if preset != CUSTOM:
        needless = template is not ... and template is not None
        return Format(preset), [FieldError("/template", 'needs preset "custom"')] if needless else []
    text = before.template if template is ... else None if template is None else orjson.dumps(template).decode()
    errors = [] if text is not None else [FieldError("/template", 'is required with preset "custom"')]
    return Format(CUSTOM, text), errors


def check_template(template: Any) -> list[FieldError]:
    """What is wrong with a template that is to be saved."""
    return compile_template(template)[1]


def _custom(template: str, payload: Json, secret: str | None) -> Any:
    return template_of(template).render(payload if secret is None else payload | {"secret": secret})


def _standard(payload: Json, _secret: str | None) -> Json:
    """Standard Webhooks 1.0, "Payload structure": {type, timestamp, data}."""
    rest = {key: value for key, value in payload.items() if key != "timestamp"}
    return {"type": _dotted(payload), "timestamp": payload["timestamp"], "data": rest}


def _cloudevents(payload: Json, _secret: str | None) -> Json:
    """CloudEvents 1.0, JSON event format, structured mode."""
    return {
        "specversion": "1.0",
        "id": payload["id"],
        "source": f"/hari/{payload['entity']}",
        "type": f"hari.{_dotted(payload)}",
        "subject": str(payload["record"]["id"]),
        "time": payload["timestamp"],
        "datacontenttype": JSON_TYPE,
        "data": payload,
    }


def _dotted(payload: Json) -> str:
    return f"{payload['entity'].lower()}.{payload['event']}"


def _zapier(payload: Json, _secret: str | None) -> Json:
    """One level, which a Zap's editor offers as fields. What is nested deeper is JSON text, `changed` words."""
    flat: Json = {}
    for key, value in payload.items():
        if key == "changed":
            flat[key] = ", ".join(value)
        elif isinstance(value, dict):
            flat |= {f"{key}_{name}": _flat(inner) for name, inner in value.items()}
        else:
            flat[key] = value
    return flat


def _flat(value: Any) -> Any:
    return orjson.dumps(value).decode() if isinstance(value, dict | list) else value


def _google(payload: Json, secret: str | None) -> Json:
    """The envelope, and the secret in it: a script cannot read headers."""
    return payload if secret is None else {"secret": secret, **payload}


def _slack(payload: Json, _secret: str | None) -> Json:
    """`text` for notifications, blocks for the channel. Values are cut before they are escaped: no half `&amp;`."""
    record = payload["record"]
    head = f"{payload['entity']} {payload['event']}"
    title = _slack_text(_title(record), _MOST_TITLE)
    lines = {name: _slack_change(payload, name) for name in _slack_fields(payload)}
    sentence = f"{head}: {title}" + (" (test)" if payload.get("test") else "")
    blocks: list[Json] = [_section(f"*{head}*: {title}" + (" (test)" if payload.get("test") else ""))]
    if lines:
        fields = [_mrkdwn(f"*{_slack_text(name, 80)}*\n{value}") for name, value in lines.items()]
        blocks.append({"type": "section", "fields": fields})
    blocks.append({"type": "context", "elements": [_mrkdwn(_byline(payload))]})
    brief = "; ".join(f"{_slack_text(name, 80)}: {value}" for name, value in list(lines.items())[:3])
    return {"text": f"{sentence}\n{brief}" if brief else sentence, "blocks": blocks}


def _section(text: str) -> Json:
    return {"type": "section", "text": _mrkdwn(text)}


def _mrkdwn(text: str) -> Json:
    return {"type": "mrkdwn", "text": text}


def _title(record: Json) -> str:
    """What people call this record."""
    if record.get("first_name") or record.get("last_name"):
        return " ".join(as_text(record[name]) for name in ("first_name", "last_name") if record.get(name))
    called = next((name for name in ("name", "title", "email") if record.get(name)), "id")
    return as_text(record[called])


def _slack_fields(payload: Json) -> Sequence[str]:
    """The fields worth showing: what changed; else those that hold something."""
    if "changed" in payload:
        return payload["changed"][:_MOST_FIELDS]  # type: ignore[no-any-return]
    held = [name for name, value in payload["record"].items() if name not in _RECORDS_OWN and value not in (None, "")]
    return held[:_MOST_FIELDS]


def _slack_change(payload: Json, name: str) -> str:
    now = _slack_text(payload["record"].get(name), _MOST_VALUE)
    if name not in payload.get("previous", ()):
        return now
    return f"{_slack_text(payload['previous'][name], _MOST_VALUE)} → {now}"


def _slack_text(value: Any, most: int) -> str:
    """One line; a dash for nothing."""
    return escape_mrkdwn(shortened(" ".join(as_text(value)[: 4 * most].split()), most)) or "–"


def _byline(payload: Json) -> str:
    at, user = payload["timestamp"], payload.get("user")
    return f"by {_slack_text(user['name'], 80)} at {at}" if user else f"at {at}"


_PRESETS: dict[str, Callable[[Json, str | None], Json]] = {
    "standard": _standard,
    "cloudevents": _cloudevents,
    "slack": _slack,
    "zapier": _zapier,
    GOOGLE: _google,
}
PRESETS = (HARI.preset, *_PRESETS, CUSTOM)
