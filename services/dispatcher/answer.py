"""What came back from an endpoint, kept within limits and put into our words. Pure: bytes and error codes in, an
`Outcome` out."""

import errno
import os
import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from urllib.parse import urlsplit

from shared.model import Outcome, Problem, Timings
from shared.outgoing.presets import GOOGLE_HOST
from shared.outgoing.request import MASK

MAX_HEADERS_BYTES = 64 * 1024
MAX_READ_BYTES = 64 * 1024
MAX_KEPT_BYTES = 16 * 1024
REMEMBERED_BYTES = 200


class Answer:
    """Collects one answer as it arrives. Its methods return -1 to make libcurl stop reading, None to go on."""

    __slots__ = ("body", "headers_bytes", "lines", "read_bytes", "stopped")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.lines: list[bytes] = []
        self.headers_bytes = 0
        self.body = b""
        self.read_bytes = 0
        self.stopped = False

    def add_header(self, line: bytes) -> int | None:
        """Take a line of any header block: interim (1xx) answers count too, so a flood of them ends here."""
        self.headers_bytes += len(line)
        if self.headers_bytes > MAX_HEADERS_BYTES:
            self.stopped = True
            return -1
        if line.startswith(b"HTTP/"):
            self.lines.clear()
        self.lines.append(line)
        return None

    def add_body(self, chunk: bytes) -> int | None:
        """Keep the head of the body as it came, never decompressed."""
        self.read_bytes += len(chunk)
        if len(self.body) < MAX_KEPT_BYTES:
            self.body = (self.body + chunk)[:MAX_KEPT_BYTES]
        if self.read_bytes > MAX_READ_BYTES:
            self.stopped = True
            return -1
        return None

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Names and values of the last answer, in order. What may be a credential is masked: cookies, and the query
        of Location."""
        pairs = [_remembered_pair(line) if len(line) < REMEMBERED_BYTES else _pair(line) for line in self.lines[1:]]
        return tuple([pair for pair in pairs if pair is not None])


def _pair(line: bytes) -> tuple[str, str] | None:
    name, colon, value = line.decode("latin-1").partition(":")
    if not colon:
        return None
    value = value.strip()
    return name, _masked(name, value) if name.lower() in _MASKED else value


# Endpoints answer with the same lines over and over.
_remembered_pair = lru_cache(maxsize=4096)(_pair)

_MASKED = {"location", "set-cookie"}


def _masked(name: str, value: str) -> str:
    if name.lower() == "set-cookie":
        return MASK
    return re.sub(r"//[^/?#]*@", f"//{MASK}@", re.sub(r"[?#].*", f"?{MASK}", value))


@dataclass(frozen=True, slots=True)
class Failure:
    """How libcurl says that a transfer ended early. `code` is a CURLE_* number, `message` its own words."""

    code: int
    message: str
    os_error: int = 0


def outcome_of(
    answer: Answer,
    status: int,
    failure: Failure | None,
    *,
    https: bool,
    timeout_s: float,
    timings: Timings,
    duration_ms: float,
    now_s: float,
    redirect: str | None = None,
) -> Outcome:
    """A final status line that was received decides, whatever the rest did; without one the failure does.

    `status`: of the last status line, 0 when there was none. `now_s`: Unix time, for a Retry-After that is a date.
    `redirect`: the kind of redirect that counts as delivered.
    """
    if status < 200:
        problem, detail = problem_of(failure, https=https, timeout_s=timeout_s, timings=timings, interim=status > 0)
        return Outcome(problem=problem, detail=detail, duration_ms=duration_ms, timings=timings)
    headers = answer.headers()
    named = {name.lower(): value for name, value in headers} if status >= 300 else {}
    redirected = 300 <= status < 400
    ran = redirect is not None and status == 302 and _host(named.get("location")) == GOOGLE_HOST
    detail = ""
    if ran:
        redirected = False
    elif redirected and redirect is not None:
        detail = NOT_PUBLIC.format(_to(named.get("location")))
    elif redirected:
        detail = f"redirects are not followed{_to(named.get('location'))}; set the URL to the final address"
    elif failure is not None and not answer.stopped:
        detail = f"the answer's body did not arrive whole ({problem_of(failure, timeout_s=timeout_s)[0]})"
    return Outcome(
        status=status,
        problem=Problem.REDIRECT if redirected else None,
        detail=detail,
        headers=headers,
        body=answer.body,
        truncated=failure is not None or answer.read_bytes > len(answer.body),
        duration_ms=duration_ms,
        timings=timings,
        retry_after_s=retry_after_s(named["retry-after"], now_s) if "retry-after" in named else None,
        ran=ran,
    )


NOT_PUBLIC = (
    "the script was not run: it redirected elsewhere{}; in Apps Script choose Deploy > Manage deployments, set "
    '"Who has access" to "Anyone", and use the Web app URL that ends in /exec'
)


def _host(location: str | None) -> str | None:
    try:
        return urlsplit(location).hostname if location is not None else None
    except ValueError:
        return None


def _to(location: str | None) -> str:
    if location is None:
        return ""
    host = _host(location)
    return f" (to {host[:255]})" if host else " (to another path)"


def retry_after_s(value: str, now_s: float) -> float | None:
    """Seconds to wait, from whole seconds or an HTTP date (RFC 9110 section 10.2.3); None when it is neither."""
    if value.isascii() and value.isdigit():
        return float(value[:12])
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now_s)


# CURLE_* numbers: https://curl.se/libcurl/c/libcurl-errors.html
NO_CONNECTION = 7
NO_CA_FILE = 77
_TIMEOUT = 28
_PROBLEMS = {
    1: Problem.PROTOCOL_ERROR,  # "HTTP/0.9 when not allowed": the answer is no HTTP
    6: Problem.DNS_ERROR,
    NO_CONNECTION: Problem.CONNECT_REFUSED,
    8: Problem.PROTOCOL_ERROR,
    18: Problem.CONNECTION_RESET,
    23: Problem.PROTOCOL_ERROR,  # we stopped reading: header block too long
    _TIMEOUT: Problem.TIMEOUT,
    35: Problem.TLS_ERROR,
    52: Problem.CONNECTION_RESET,
    55: Problem.CONNECTION_RESET,
    56: Problem.CONNECTION_RESET,
    58: Problem.TLS_ERROR,
    59: Problem.TLS_ERROR,
    60: Problem.TLS_ERROR,
    65: Problem.CONNECTION_RESET,  # the kept connection was dead; the body is never sent a second time
    83: Problem.TLS_ERROR,
    90: Problem.TLS_ERROR,
    91: Problem.TLS_ERROR,
    100: Problem.PROTOCOL_ERROR,
}


_LACKS = {
    errno.EMFILE: "file descriptor",
    errno.ENFILE: "file descriptor",
    errno.EADDRNOTAVAIL: "local port",
    errno.ENOBUFS: "memory for sockets",
    errno.ENOMEM: "memory for sockets",
}


def lack_of(os_error: int | None) -> str | None:
    """What this host has run out of, of the things that a connection needs; None for every other error."""
    return _LACKS.get(os_error or 0)


def problem_of(
    failure: Failure | None,
    *,
    timeout_s: float,
    https: bool = False,
    timings: Timings = Timings(),  # noqa: B008 - frozen
    interim: bool = False,
) -> tuple[Problem, str]:
    """The word for a transfer without a final status, and a sentence for people that names no address.

    `interim`: a 1xx answer did come.
    """
    if failure is None:
        return Problem.PROTOCOL_ERROR, "the endpoint ended its answer without a final status"
    problem = _PROBLEMS.get(failure.code, Problem.UNKNOWN)
    if failure.os_error == errno.ECONNRESET:  # also before or during the TLS handshake, where the code is another
        problem = Problem.CONNECTION_RESET
    match problem:
        case Problem.TIMEOUT:
            return problem, _timeout_detail(timeout_s, https, timings, interim)
        case Problem.CONNECT_REFUSED:
            reason = os.strerror(failure.os_error) if failure.os_error else "every address failed"
            return problem, f"no connection to the endpoint: {reason}"
        case Problem.CONNECTION_RESET:
            return problem, _RESETS.get(failure.code, "the endpoint reset the connection before it answered")
        case Problem.PROTOCOL_ERROR if failure.code == 23:
            return problem, "the endpoint sent more than 64 KiB of headers without a final status"
        case Problem.PROTOCOL_ERROR:
            return problem, f"the endpoint's answer is not valid HTTP/1.1: {failure.message}"
        case _:
            return problem, failure.message


_RESETS = {
    52: "the endpoint closed the connection without an answer",
    65: "the endpoint closed a kept connection while the request was on its way; whether it was read is not known",
}


def _timeout_detail(timeout_s: float, https: bool, timings: Timings, interim: bool) -> str:
    if timings.connect_ms is None:
        return f"no connection to the endpoint in {timeout_s:g} s"
    if https and timings.tls_ms is None:
        return f"the endpoint accepted the connection and did not finish the TLS handshake in {timeout_s:g} s"
    if interim:
        return f"the endpoint sent only interim (1xx) answers in {timeout_s:g} s"
    return f"the endpoint accepted the connection and did not answer in {timeout_s:g} s"
