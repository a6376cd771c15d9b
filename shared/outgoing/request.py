"""The POST that a subscriber gets: headers in their order and signed bytes. Pure.

Runs once for every attempt, thousands of times a second.
"""

from datetime import datetime

from shared.model import HARI, Claimed, Request
from shared.outgoing.presets import body_of, content_type, redirect_of
from shared.outgoing.templates import TemplateError
from shared.signing import key_of, sign

MAX_BODY_BYTES = 1024 * 1024
"""A larger payload is never sent: its attempt is `payload_too_large`."""
MASK = "••••"

_JSON = ("Content-Type", "application/json")
_OPEN_NAMES = {
    *("Content-Type", "webhook-id", "webhook-timestamp", "webhook-signature", "User-Agent", "traceparent", "X-HARi-Hop")
}


def build_request(claimed: Claimed, now: datetime, *, version: str) -> Request:
    """The request for this attempt. `now` is the host's clock: receivers compare the timestamp with theirs.

    X-HARi-Hop counts the POSTs of ours that led here, this one included: 1 for a change that a person made. While a
    rotation overlaps, the new secret's signature comes first and the old one's second. What cannot be rendered has a
    `fault` and no body.
    """
    webhook, body, kind, fault = claimed.webhook, claimed.body, _JSON, None
    if claimed.format is not HARI:
        kind = ("Content-Type", content_type(claimed.format))
        try:
            body = body_of(claimed.format, body, webhook.secret)
        except TemplateError as error:
            body, fault = b"", str(error)
    timestamp_s = int(now.timestamp())
    headers = [kind]
    if webhook.secret is not None:
        headers.append(("X-Webhook-Secret", webhook.secret))
    headers.append(("webhook-id", claimed.delivery_id))
    headers.append(("webhook-timestamp", str(timestamp_s)))
    if webhook.secret is not None:
        signature = sign(key_of(webhook.secret), claimed.delivery_id, timestamp_s, body)
        if webhook.old_secret is not None:
            signature += " " + sign(key_of(webhook.old_secret), claimed.delivery_id, timestamp_s, body)
        headers.append(("webhook-signature", signature))
    headers.append(("User-Agent", f"HARi-Webhooks/{version}"))
    if claimed.traceparent is not None:
        headers.append(("traceparent", claimed.traceparent))
    headers.append(("X-HARi-Hop", str(claimed.hop + 1)))
    headers.extend(webhook.headers.items())
    return Request(webhook.url, tuple(headers), body, float(webhook.timeout_s), redirect_of(webhook), fault)


def stored_headers(request: Request) -> list[tuple[str, str]]:
    """The headers as the delivery log may keep them: the secret masked, static ones too (they may be credentials)."""
    return [(name, value if name in _OPEN_NAMES else MASK) for name, value in request.headers]
