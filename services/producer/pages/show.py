"""Templates and the words in them: relative times, shortened URLs, outcomes as people say them. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from shared.assembly import VERSION
from shared.clock import utcnow
from shared.model import Timings, Trigger

EVENTS = {
    Trigger.SAVE: "After record save",
    Trigger.CREATE: "After record create",
    Trigger.UPDATE: "After record update",
    Trigger.DELETE: "After record delete",
}
PROBLEMS = {
    "dns_error": "name not found",
    "connect_refused": "connection refused",
    "connection_reset": "connection broken off",
    "tls_error": "TLS failed",
    "timeout": "too slow",
    "protocol_error": "no valid HTTP",
    "redirect": "redirected",
    "blocked_target": "blocked address",
    "payload_too_large": "payload too large",
    "template_error": "template failed",
    "unknown": "result unknown",
}
_WHY = {
    "dns_error": "The name {host} was not found. Check the spelling of the URL.",
    "connect_refused": "{host} refused the connection. Is the application running, and is the port right?",
    "connection_reset": "{host} broke the connection off before it had answered.",
    "tls_error": "No secure connection to {host}: its certificate is expired, not trusted, or for another name.",
    "timeout": "{host} did not answer in time. It should answer 200 first and do its work afterwards.",
    "protocol_error": "{host} answered, but not in HTTP that can be read.",
    "redirect": "{host} answered with a redirect, which is never followed. Put the final address into the webhook.",
    "blocked_target": "{host} has an address that must not be called. HARI_EGRESS_ALLOW can allow it.",
    "payload_too_large": "The payload is larger than 1 MiB, so it was not sent.",
    "template_error": "The template could not be filled in for this record, so nothing was sent.",
    "unknown": "The process that sent this ended before it could say what came back.",
}
_HINTS = {
    400: "The endpoint did not like the body.",
    401: "The endpoint wants credentials: set a header under More.",
    403: "The endpoint forbids it: check the secret or its credentials.",
    404: "The endpoint does not know this path: check the URL.",
    405: "The endpoint takes no POST at this path: check the URL.",
    410: "The endpoint wants nothing any more, so the webhook was deactivated.",
    429: "The endpoint asks for fewer requests at a time.",
}
_STEPS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def ago(moment: datetime | str, now: datetime | None = None) -> str:
    """`moment` as people say it: "3 min ago", "in 24 s"."""
    seconds = ((now or utcnow()) - _moment(moment)).total_seconds()
    size = int(abs(seconds))
    if size < 1:
        return "just now"
    length, unit = next(step for step in _STEPS if size >= step[0])
    count = f"{size // length} {unit}"
    return f"{count} ago" if seconds > 0 else f"in {count}"


def utc(moment: datetime | str) -> str:
    """`moment` exactly, in UTC."""
    return _moment(moment).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"


def _moment(given: datetime | str) -> datetime:
    return (datetime.fromisoformat(given) if isinstance(given, str) else given).astimezone(UTC)


def middle(text: str, most: int = 44) -> str:
    """`text` without its scheme, shortened in the middle to `most` characters."""
    text = text.removeprefix("https://")
    if len(text) <= most:
        return text
    head = (most - 1) * 2 // 3
    return f"{text[:head]}…{text[-(most - 1 - head) :]}"


def met(status: int | None, error: str | None) -> str:
    """What an attempt met, in a few words."""
    if error is not None:
        words = PROBLEMS.get(error, error)
        return f"{status} {words}" if status is not None else words
    if status is None:
        return "no answer yet"
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def why(status: int | None, error: str | None, url: str) -> str:
    """What an attempt met and what to do about it, in a sentence; "" when there is nothing to say."""
    if error is not None:
        return _WHY.get(error, "").format(host=urlsplit(url).hostname or "the endpoint")
    if status is None or 200 <= status < 300:
        return ""
    if status >= 500:
        return "The endpoint failed on its side: its own log says why."
    return _HINTS.get(status, "The endpoint refused the request.")


def good(status: int | None, error: str | None) -> bool:
    """Whether an attempt succeeded."""
    return error is None and status is not None and 200 <= status < 300


def phases(timings: Timings | None) -> str:
    """When each phase of an attempt that was reached was over, from its start; "" when none was."""
    if timings is None:
        return ""
    named = {"dns": timings.dns_ms, "connect": timings.connect_ms, "tls": timings.tls_ms}
    named["first byte"] = timings.first_byte_ms
    reached = [f"{name} {ms:,.0f}" for name, ms in named.items() if ms]
    return " · ".join(reached) + " ms" if reached else ""


def pretty(body: str | Mapping[str, Any] | None) -> str:
    """A body with one line for each member if it is JSON, else as it is."""
    if body is None:
        return ""
    if not isinstance(body, str):
        return f"(not text, {len(body['base64']) * 3 // 4:,} bytes) {body['base64']}"
    try:
        return orjson.dumps(orjson.loads(body), option=orjson.OPT_INDENT_2).decode()
    except orjson.JSONDecodeError:
        return body


def curl(request: Mapping[str, Any]) -> str:
    """The request as a command for a shell. Masked values stay masked."""
    parts = [f"curl -X POST {_quoted(request['url'])}"]
    parts += [f"-H {_quoted(f'{name}: {value}')}" for name, value in request["headers"].items()]
    if isinstance(request["body"], str):
        parts.append(f"--data-raw {_quoted(request['body'])}")
    return " \\\n  ".join(parts)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


_environment = Environment(
    loader=PackageLoader("services.producer.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters.update(ago=ago, utc=utc, middle=middle, pretty=pretty, curl=curl, phases=phases)
_environment.globals.update(met=met, why=why, good=good, events=EVENTS, version=VERSION)


def html(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """The page; never kept by a cache, since it may hold a secret."""
    text = _environment.get_template(template).render(values)
    return HTMLResponse(text, status, {"Cache-Control": "no-store"})
