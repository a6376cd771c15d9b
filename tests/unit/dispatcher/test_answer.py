"""What libcurl reports, put into our words."""

import errno

import pytest

from services.dispatcher.answer import (
    MAX_HEADERS_BYTES,
    MAX_KEPT_BYTES,
    MAX_READ_BYTES,
    Answer,
    Failure,
    outcome_of,
    problem_of,
    retry_after_s,
)
from shared.model import Outcome, Problem, Timings
from shared.outgoing.request import MASK

NOW_S = 1_795_428_930.0  # Mon, 23 Nov 2026 10:15:30 GMT
CONNECTED = Timings(dns_ms=1, connect_ms=2)


def an_answer(*lines: str, body: bytes = b"") -> Answer:
    """An answer as it arrived."""
    answer = Answer()
    for line in lines:
        answer.add_header(line.encode("latin-1") + b"\r\n")
    answer.add_body(body)
    return answer


def outcome(answer: Answer, status: int, failure: Failure | None = None) -> Outcome:
    """The outcome with everything else plain."""
    return outcome_of(answer, status, failure, https=False, timeout_s=15, timings=CONNECTED, duration_ms=3, now_s=NOW_S)


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        pytest.param("120", 120.0, id="seconds"),
        pytest.param("0", 0.0, id="no wait"),
        pytest.param("9" * 5000, 999_999_999_999.0, id="a number without end stays a number"),
        pytest.param("Mon, 23 Nov 2026 10:16:30 GMT", 60.0, id="a date"),
        pytest.param("Monday, 23-Nov-26 10:16:30 GMT", 60.0, id="a date of RFC 850"),
        pytest.param("Mon, 23 Nov 2026 10:16:30 -0000", 60.0, id="a date without zone is UTC"),
        pytest.param("Mon, 23 Nov 2026 09:00:00 GMT", 0.0, id="a date gone by"),
        pytest.param("-5", None, id="a negative number"),
        pytest.param("1.5", None, id="a fraction"),
        pytest.param("soon", None, id="a word"),
        pytest.param("", None, id="nothing"),
        pytest.param("٣", None, id="other digits"),
        pytest.param("Mon, 99 Foo 2026 10:16:30 GMT", None, id="a date that is none"),
        pytest.param("Mon, 23 Nov 999999999999 10:16:30 GMT", None, id="a year out of range"),
    ],
)
def test_retry_after(value: str, wait_s: float | None) -> None:
    assert retry_after_s(value, NOW_S) == wait_s


def test_retry_after_of_a_failure_only() -> None:
    lines = ("HTTP/1.1 x", "retry-after: 7")
    assert outcome(an_answer(*lines), 503).retry_after_s == 7
    assert outcome(an_answer(*lines), 200).retry_after_s is None


def test_header_lines_stop_at_the_limit() -> None:
    answer = Answer()
    line = b"X-More: " + b"x" * 1014 + b"\r\n"
    for _ in range(MAX_HEADERS_BYTES // len(line)):
        assert answer.add_header(line) is None
    assert answer.add_header(line) == -1


def test_interim_answers_count_too_and_are_not_kept() -> None:
    answer = an_answer("HTTP/1.1 103 Hints", "Link: a", "", "HTTP/1.1 200 OK", "X-Id: 7", "")
    assert answer.headers() == (("X-Id", "7"),)
    stopped = [answer.add_header(b"HTTP/1.1 103 Hints\r\n") for _ in range(MAX_HEADERS_BYTES // 20 + 1)]
    assert stopped[-1] == -1


def test_a_body_is_kept_up_to_one_limit_and_read_up_to_another() -> None:
    answer = Answer()
    chunk = b"x" * 1000
    reads = 0
    while answer.add_body(chunk) is None:
        reads += 1
    assert reads == MAX_READ_BYTES // 1000
    assert len(answer.body) == MAX_KEPT_BYTES
    assert answer.stopped


@pytest.mark.parametrize(
    ("location", "kept"),
    [
        ("https://h.test/a?token=abc", f"https://h.test/a?{MASK}"),
        ("https://u:p@h.test/a#abc", f"https://{MASK}@h.test/a?{MASK}"),
        ("/a?b=c?d=e", f"/a?{MASK}"),
        ("//u@h.test", f"//{MASK}@h.test"),
        ("https://h.test/a@b", "https://h.test/a@b"),
        ("", ""),
    ],
)
def test_location_is_kept_without_credentials(location: str, kept: str) -> None:
    assert an_answer("HTTP/1.1 302 Found", f"Location: {location}").headers() == (("Location", kept),)


@pytest.mark.parametrize(
    ("location", "says"),
    [("https://u:p@h.test/a?token=abc", "(to h.test)"), ("/a?b", "(to another path)"), ("http://[", "another path")],
)
def test_redirects_name_the_host_alone(location: str, says: str) -> None:
    found = outcome(an_answer("HTTP/1.1 302 Found", f"Location: {location}"), 302)
    assert (found.status, found.problem) == (302, Problem.REDIRECT)
    assert says in found.detail
    assert "token" not in found.detail


@pytest.mark.parametrize("status", [200, 204, 404, 500])
@pytest.mark.parametrize("failure", [Failure(28, "timeout"), Failure(56, "reset"), Failure(18, "partial")])
def test_a_status_decides_whatever_follows(status: int, failure: Failure) -> None:
    found = outcome(an_answer("HTTP/1.1 x", body=b"half"), status, failure)
    assert (found.status, found.problem, found.truncated, found.body) == (status, None, True, b"half")


@pytest.mark.parametrize(
    ("failure", "problem", "says"),
    [
        pytest.param(Failure(1, "HTTP/0.9"), Problem.PROTOCOL_ERROR, "HTTP/0.9", id="not HTTP"),
        pytest.param(Failure(6, "x"), Problem.DNS_ERROR, "x", id="a name"),
        pytest.param(Failure(7, "x", errno.ECONNREFUSED), Problem.CONNECT_REFUSED, "refused", id="refused"),
        pytest.param(Failure(7, "x", errno.EHOSTUNREACH), Problem.CONNECT_REFUSED, "route", id="no route"),
        pytest.param(Failure(7, "x"), Problem.CONNECT_REFUSED, "every address", id="no reason given"),
        pytest.param(Failure(7, "x", errno.ECONNRESET), Problem.CONNECTION_RESET, "reset", id="reset on connect"),
        pytest.param(Failure(35, "x", errno.ECONNRESET), Problem.CONNECTION_RESET, "reset", id="reset in TLS"),
        pytest.param(Failure(35, "alert"), Problem.TLS_ERROR, "alert", id="a TLS alert"),
        pytest.param(Failure(60, "expired"), Problem.TLS_ERROR, "expired", id="a certificate"),
        pytest.param(Failure(52, "x"), Problem.CONNECTION_RESET, "without an answer", id="no answer"),
        pytest.param(Failure(65, "x"), Problem.CONNECTION_RESET, "kept connection", id="a dead kept connection"),
        pytest.param(Failure(23, "x"), Problem.PROTOCOL_ERROR, "64 KiB", id="too many headers"),
        pytest.param(Failure(8, "weird"), Problem.PROTOCOL_ERROR, "weird", id="a weird answer"),
        pytest.param(Failure(27, "out of memory"), Problem.UNKNOWN, "out of memory", id="anything else"),
        pytest.param(None, Problem.PROTOCOL_ERROR, "final status", id="an end without a status"),
    ],
)
def test_problems(failure: Failure | None, problem: Problem, says: str) -> None:
    found, detail = problem_of(failure, timeout_s=15, timings=CONNECTED)
    assert found is problem
    assert says in detail


@pytest.mark.parametrize(
    ("https", "timings", "interim", "says"),
    [
        pytest.param(True, Timings(dns_ms=1), False, "no connection", id="while connecting"),
        pytest.param(True, CONNECTED, False, "TLS handshake", id="in the TLS handshake"),
        pytest.param(True, Timings(1, 2, 3), False, "did not answer in 15 s", id="after TLS"),
        pytest.param(False, CONNECTED, False, "did not answer in 15 s", id="without TLS"),
        pytest.param(False, CONNECTED, True, "interim", id="after an interim answer"),
    ],
)
def test_timeouts_name_the_phase(https: bool, timings: Timings, interim: bool, says: str) -> None:
    found, detail = problem_of(Failure(28, "x"), timeout_s=15, https=https, timings=timings, interim=interim)
    assert found is Problem.TIMEOUT
    assert says in detail


ECHO = "https://script.googleusercontent.com/macros/echo?user_content_key=AbC"


def at_apps_script(status: int, location: str | None) -> Outcome:
    lines = [f"Location: {location}"] if location is not None else []
    answer = an_answer(f"HTTP/1.1 {status} X", *lines, body=b"moved")
    return outcome_of(
        *(answer, status, None),
        https=True,
        timeout_s=15,
        timings=CONNECTED,
        duration_ms=3,
        now_s=NOW_S,  # type: ignore[arg-type]
        redirect="google-apps-script",
    )


@pytest.mark.parametrize(
    ("status", "location", "ran"),
    [
        pytest.param(302, ECHO, True, id="302 to the script's answer"),
        pytest.param(302, ECHO.upper().replace("HTTPS", "https"), True, id="a host has no case"),
        pytest.param(302, "https://accounts.google.com/ServiceLogin", False, id="the sign-in page"),
        pytest.param(302, "https://script.googleusercontent.com.evil.test/", False, id="a host that only begins so"),
        pytest.param(302, "https://evil.test/script.googleusercontent.com", False, id="a path that says so"),
        pytest.param(302, "/macros/echo", False, id="the same host"),
        pytest.param(302, "https://[", False, id="no URL"),
        pytest.param(302, None, False, id="no location"),
        pytest.param(301, ECHO, False, id="301 is not how Apps Script answers"),
        pytest.param(307, ECHO, False, id="307 asks for the POST again"),
    ],
)
def test_apps_script_says_that_it_ran_by_one_redirect_alone(status: int, location: str | None, ran: bool) -> None:
    found = at_apps_script(status, location)
    assert found.succeeded is ran
    assert (found.status, found.problem) == (status, None if ran else Problem.REDIRECT)
    assert ("Anyone" in found.detail) is not ran


def test_without_that_setting_its_redirect_is_a_failure() -> None:
    found = outcome(an_answer("HTTP/1.1 302 X", f"Location: {ECHO}"), 302)
    assert (found.succeeded, found.problem) == (False, Problem.REDIRECT)


@pytest.mark.parametrize(("status", "succeeded"), [(200, True), (204, True), (404, False), (500, False)])
def test_other_statuses_mean_at_apps_script_what_they_always_mean(status: int, succeeded: bool) -> None:
    assert at_apps_script(status, None).succeeded is succeeded
