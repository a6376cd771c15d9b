"""May this secret, may these static headers be saved with a webhook? Pure."""

import re
from collections.abc import Mapping

from shared.errors import FieldError
from shared.signing import SECRET_PREFIX, key_of

MAX_SECRET_LENGTH = 256
MAX_HEADERS = 20
MAX_HEADERS_BYTES = 4096

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_PRINTABLE = re.compile(r"[\x20-\x7e]*")
_FORBIDDEN_NAMES = {
    *("host", "content-length", "transfer-encoding", "connection", "keep-alive", "cookie", "expect", "upgrade"),
    *("te", "trailer", "content-type", "user-agent", "traceparent"),
}
_FORBIDDEN_PREFIXES = ("proxy-", "x-hari-", "x-webhook-", "webhook-")


def check_secret(secret: str) -> list[FieldError]:
    """What is wrong with `secret`; never repeats it."""
    problem = None
    if not 1 <= len(secret) <= MAX_SECRET_LENGTH:
        problem = f"must have 1 to {MAX_SECRET_LENGTH} characters"
    elif not _PRINTABLE.fullmatch(secret):
        problem = "must be printable ASCII: it travels in a header"
    elif secret != secret.strip(" "):
        problem = "must not start or end with a space: receivers would not see it"
    elif secret.startswith(SECRET_PREFIX) and not _is_key(secret):
        problem = f"after {SECRET_PREFIX} there must be base64 of 24 to 64 bytes; use another prefix for plain text"
    return [FieldError("/secret", problem)] if problem is not None else []


def _is_key(secret: str) -> bool:
    try:
        return 24 <= len(key_of(secret)) <= 64
    except ValueError:
        return False


def check_headers(headers: Mapping[str, str]) -> list[FieldError]:
    """What is wrong with a webhook's static headers, each at its pointer; never repeats a value."""
    problems = []
    if len(headers) > MAX_HEADERS:
        problems.append(FieldError("/headers", f"at most {MAX_HEADERS} headers"))
    if sum(len(name) + len(value) for name, value in headers.items()) > MAX_HEADERS_BYTES:
        problems.append(FieldError("/headers", f"at most {MAX_HEADERS_BYTES:,} characters, names and values together"))
    seen = set()
    for name, value in headers.items():
        problem = _check_name(name) or _check_value(value)
        if problem is None and name.lower() in seen:
            problem = "is there twice: upper and lower case mean the same header"
        seen.add(name.lower())
        if problem is not None:
            problems.append(FieldError("/headers/" + name.replace("~", "~0").replace("/", "~1"), problem))
    return problems


def _check_name(name: str) -> str | None:
    if not _TOKEN.fullmatch(name):
        return "a header's name is letters, digits and hyphens"
    if name.lower() in _FORBIDDEN_NAMES or name.lower().startswith(_FORBIDDEN_PREFIXES):
        return "is set by HARI or by HTTP itself; choose another name"
    return None


def _check_value(value: str) -> str | None:
    if not value:
        return "must not be empty"
    if not _PRINTABLE.fullmatch(value):
        return "a header's value must be printable ASCII without line breaks"
    if value != value.strip(" "):
        return "a header's value must not start or end with a space"
    return None
