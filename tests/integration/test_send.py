"""The sender against endpoints of every kind, on loopback: what it sends, what it says, and whom it never calls."""

import asyncio
import errno
import ipaddress
import os
import resource
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pycurl
import pytest
import uvloop

from services.dispatcher.answer import MAX_KEPT_BYTES, Failure
from services.dispatcher.curl import Line
from services.dispatcher.send import Sender
from shared.egress import NOT_PUBLIC, PLAIN_HTTP, EgressRules
from shared.model import Outcome, Problem, Request
from shared.outgoing.request import MASK, MAX_BODY_BYTES
from tests import receivers
from tests.receivers import Authority, Behaviour, Connection, Received, Receiver
from tests.waiting import eventually

LOOPBACK = EgressRules(allow=(ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1")))
SHORT_S = 0.3
"""The deadline of an attempt that is meant to run into it without an answer."""
ENOUGH_S = 1.5
"""The same where a status line must arrive before."""


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """Runs coroutines on one loop of each kind."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that the sender trusts."""
    return Authority(tmp_path_factory.mktemp("authority"))


def a_request(url: str, *, timeout_s: float = 15.0, body: bytes = b'{"a":1}', **headers: str) -> Request:
    """One POST."""
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Request(url, (("Content-Type", "application/json"), *named), body, timeout_s)


def resolving(*answers: str | Sequence[str] | OSError) -> Callable[[str, float], Awaitable[Sequence[str]]]:
    """A resolver that gives these answers in turn, the last one for ever."""
    left = list(answers)

    async def resolve(_host: str, _wait_s: float) -> Sequence[str]:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, OSError):
            raise answer
        return (answer,) if isinstance(answer, str) else tuple(answer)

    return resolve


class Sending:
    """A sender for the length of a `with`, driven from synchronous tests."""

    def __init__(self, runner: asyncio.Runner, **options: Any) -> None:
        self._runner = runner
        self._options: dict[str, Any] = {"resolve": resolving("127.0.0.1"), "rules": LOOPBACK} | options

    def __enter__(self) -> "Sending":
        self.sender = Sender(**self._options)
        return self

    def __exit__(self, *_error: object) -> None:
        self._runner.run(self.sender.close())

    def __call__(self, request: Request) -> Outcome:
        return self._runner.run(self.sender.send(request))

    def all(self, requests: Sequence[Request]) -> list[Outcome]:
        """Send them at the same time."""

        async def together() -> list[Outcome]:
            return await asyncio.gather(*(self.sender.send(request) for request in requests))

        return self._runner.run(together())


def send_once(runner: asyncio.Runner, request: Request, **options: Any) -> Outcome:
    """Send with a sender of its own."""
    with Sending(runner, **options) as send:
        return send(request)


# What is sent


def test_the_request_as_it_arrives(runner: asyncio.Runner) -> None:
    with Receiver() as receiver:
        request = a_request(
            receiver.url_for("localhost", "/a/../b//c?x=%2e&y=1"),
            X_Webhook_Secret="s p",
            User_Agent="HARi-Webhooks/1",
            X_Team="sales",
        )
        assert send_once(runner, request).succeeded
    (received,) = receiver.requests
    assert (received.method, received.path, received.body) == ("POST", "/a/../b//c?x=%2e&y=1", b'{"a":1}')
    assert received.headers == (
        ("Host", f"localhost:{receiver.port}"),
        ("Accept", "*/*"),
        ("Accept-Encoding", "identity"),
        ("Content-Type", "application/json"),
        ("X-Webhook-Secret", "s p"),
        ("User-Agent", "HARi-Webhooks/1"),
        ("X-Team", "sales"),
        ("Content-Length", "7"),
    )


def test_a_body_of_one_mebibyte_arrives_whole(runner: asyncio.Runner) -> None:
    body = os.urandom(MAX_BODY_BYTES)
    with Receiver() as receiver:
        assert send_once(runner, a_request(receiver.url, body=body)).succeeded
    assert receiver.requests[0].body == body
    assert receiver.requests[0].header("Expect") is None


def test_a_larger_payload_is_not_sent(runner: asyncio.Runner) -> None:
    with Receiver() as receiver:
        outcome = send_once(runner, a_request(receiver.url, body=bytes(MAX_BODY_BYTES + 1)))
    assert outcome.problem is Problem.PAYLOAD_TOO_LARGE
    assert outcome.final == "payload_too_large"
    assert receiver.connections == []


@pytest.mark.parametrize("value", ["a\r\nX-Admin: 1", "a\nb", "a\0b", "grüße"])
def test_a_header_that_smuggles_another_is_not_sent(runner: asyncio.Runner, value: str) -> None:
    with Receiver() as receiver:
        outcome = send_once(runner, a_request(receiver.url, X_Team=value))
    assert outcome.problem is Problem.UNKNOWN
    assert receiver.connections == []


def test_kept_connections_are_used_again(runner: asyncio.Runner) -> None:
    with Receiver() as receiver, Sending(runner) as send:
        for n in range(5):
            assert send(a_request(receiver.url, body=b"%d" % n)).succeeded
        assert [request.body for request in receiver.requests] == [b"0", b"1", b"2", b"3", b"4"]
        assert len(receiver.connections) == 1


def test_many_at_once(runner: asyncio.Runner) -> None:
    with Receiver() as receiver, Sending(runner) as send:
        for _ in range(3):
            outcomes = send.all([a_request(receiver.url, body=b"%d" % n) for n in range(200)])
            assert all(outcome.succeeded for outcome in outcomes)
        assert sorted(int(request.body) for request in receiver.requests) == sorted(list(range(200)) * 3)


def test_slow_endpoints_do_not_hold_up_others(runner: asyncio.Runner) -> None:
    with Receiver(receivers.hang) as hanging, Receiver() as good, Sending(runner) as send:
        stuck = [a_request(hanging.url, timeout_s=ENOUGH_S)] * 20
        outcomes = send.all([*stuck, *[a_request(good.url)] * 50])
    assert {outcome.problem for outcome in outcomes[:20]} == {Problem.TIMEOUT}
    assert all(outcome.succeeded for outcome in outcomes[20:])
    assert all(outcome.duration_ms < min(stuck.duration_ms for stuck in outcomes[:20]) for outcome in outcomes[20:])


def test_a_proxy_in_the_environment_is_ignored(runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as proxy, Receiver() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert send_once(runner, a_request(receiver.url)).succeeded
        assert len(receiver.requests) == 1
    assert proxy.connections == []


def test_netrc_is_not_read(runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login us password them\ndefault login us password them\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    with Receiver() as receiver:
        assert send_once(runner, a_request(receiver.url)).succeeded
    assert receiver.requests[0].header("Authorization") is None


# What comes back


def then_close(data: bytes) -> Behaviour:
    """Write and close."""
    return receivers.raw(data, then=Connection.close)


ANSWERS = [
    pytest.param(receivers.ok, 15, 200, None, "", False, id="200 is delivered"),
    pytest.param(receivers.answer(204), 15, 204, None, "", False, id="204 is delivered"),
    pytest.param(receivers.answer(299), 15, 299, None, "", False, id="299 is delivered"),
    pytest.param(receivers.answer(410), 15, 410, None, "", False, id="410 is a status"),
    pytest.param(receivers.answer(500), 15, 500, None, "", False, id="500 is a status"),
    pytest.param(receivers.answer(999), 15, 999, None, "", False, id="999 is a status"),
    pytest.param(receivers.redirect("/b", 301), 15, 301, "redirect", "another path", False, id="301 is not followed"),
    pytest.param(receivers.redirect("//h.test/b"), 15, 302, "redirect", "to h.test", False, id="302 is not followed"),
    pytest.param(receivers.redirect("/b", 303), 15, 303, "redirect", "", False, id="303 is not followed"),
    pytest.param(receivers.redirect("/b", 307), 15, 307, "redirect", "", False, id="307 is not followed"),
    pytest.param(receivers.redirect("/b", 308), 15, 308, "redirect", "", False, id="308 is not followed"),
    pytest.param(receivers.answer(304), 15, 304, "redirect", "not followed", False, id="304 is a redirect too"),
    pytest.param(receivers.slow(0.2), 15, 200, None, "", False, id="slow but in time is delivered"),
    pytest.param(receivers.hang, SHORT_S, None, "timeout", "did not answer in 0.3 s", False, id="a hang times out"),
    pytest.param(receivers.close, 15, None, "connection_reset", "without an answer", False, id="closed, no answer"),
    pytest.param(receivers.reset, 15, None, "connection_reset", "reset", False, id="RST, no answer"),
    pytest.param(receivers.garbage, 15, None, "protocol_error", "not valid HTTP", False, id="garbage is no HTTP"),
    pytest.param(then_close(b"hello"), 15, None, "protocol_error", "HTTP/0.9", False, id="HTTP/0.9 is refused"),
    pytest.param(then_close(b"HTTP/1.1 abc\r\n\r\n"), 15, None, "protocol_error", "", False, id="a status of letters"),
    pytest.param(then_close(b"HTTP/1.1 000 X\r\n\r\n"), 15, None, "protocol_error", "", False, id="status 000"),
    pytest.param(
        then_close(b"HTTP/1.1 200 OK\r\n"), 15, 200, None, "", False, id="a status line alone decides: closed"
    ),
    pytest.param(
        receivers.raw(b"HTTP/1.1 200 OK\r\n"), ENOUGH_S, 200, None, "timeout", True, id="a status line alone, then hang"
    ),
    pytest.param(then_close(b"HTTP/1.0 200 OK\r\n\r\nbody"), 15, 200, None, "", False, id="HTTP/1.0 is fine"),
    pytest.param(receivers.hang_mid_body, ENOUGH_S, 200, None, "timeout", True, id="200 and a body that hangs"),
    pytest.param(receivers.drip, ENOUGH_S, 200, None, "timeout", True, id="200 and a body that drips"),
    pytest.param(receivers.close_mid_body, 15, 200, None, "reset", True, id="200 and a body cut short"),
    pytest.param(receivers.reset_mid_body, 15, 200, None, "reset", True, id="200 and RST in the body"),
    pytest.param(receivers.endless_body, 15, 200, None, "", True, id="200 and a body without end"),
    pytest.param(receivers.endless_headers, 15, 200, None, "", True, id="200 and headers without end"),
    pytest.param(receivers.flood_of_1xx, 15, None, "protocol_error", "64 KiB of headers", False, id="a flood of 1xx"),
    pytest.param(
        receivers.raw(b"HTTP/1.1 100 Continue\r\n\r\n"), SHORT_S, None, "timeout", "", False, id="1xx and no more"
    ),
    pytest.param(
        receivers.raw(b"HTTP/1.1 103 Hints\r\nX-A: b\r\n\r\nHTTP/1.1 201 Made\r\nContent-Length: 0\r\n\r\n"),
        *(15, 201, None, "", False),
        id="1xx, then a final status",
    ),
    pytest.param(
        then_close(b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        *(15, 500, None, "whole", True),
        id="500 and chunks that are none",
    ),
    pytest.param(
        receivers.raw(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 200_000),
        *(15, 200, None, "", True),
        id="200 and one header line of 200 kB",
    ),
]


@pytest.mark.parametrize(("behaviour", "timeout_s", "status", "problem", "says", "truncated"), ANSWERS)
def test_outcomes(
    runner: asyncio.Runner,
    behaviour: Behaviour,
    timeout_s: float,
    status: int | None,
    problem: str | None,
    says: str,
    truncated: bool,
) -> None:
    with Receiver(behaviour) as receiver:
        outcome = send_once(runner, a_request(receiver.url, timeout_s=timeout_s))
        assert (outcome.status, outcome.problem) == (status, problem), outcome
        assert says in outcome.detail
        assert outcome.truncated is truncated
        assert outcome.succeeded is (problem is None and 200 <= (status or 0) < 300)
        assert outcome.final is None
        assert len(receiver.requests) == 1


def test_a_refused_connection(runner: asyncio.Runner) -> None:
    with Receiver() as receiver:
        url = receiver.url
    outcome = send_once(runner, a_request(url))
    assert outcome.problem is Problem.CONNECT_REFUSED
    assert "Connection refused" in outcome.detail
    assert outcome.timings.connect_ms is None


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """This process can open nothing more while the block runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
    try:
        with suppress(OSError):
            while True:
                held.append(os.dup(0))
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("name_is_known", [True, False])
def test_without_a_descriptor_it_is_our_own_trouble(runner: asyncio.Runner, name_is_known: bool) -> None:
    unknown = OSError(-3, "Temporary failure in name resolution")
    resolve = resolving("127.0.0.1", "127.0.0.1" if name_is_known else unknown)
    with Receiver() as receiver, Sending(runner, resolve=resolve) as send:

        async def scenario() -> tuple[Outcome, Outcome]:
            # What a first request opens once, is open; the second asks for a connection of its own.
            first = await send.sender.send(a_request(receiver.url_for("one.localhost")))
            with no_descriptors_left():
                return first, await send.sender.send(a_request(receiver.url_for("two.localhost")))

        first, outcome = runner.run(scenario())
        assert first.succeeded
        assert outcome.own_trouble, outcome
        assert "file descriptor" in outcome.detail
        assert len(receiver.requests) == 1


@pytest.mark.parametrize(("address", "ours"), [("127.0.0.1", True), ("::1", False)])
def test_without_a_local_port_it_is_our_own_trouble(runner: asyncio.Runner, address: str, ours: bool) -> None:
    with Sending(runner, resolve=resolving(address)) as send:

        async def fail(_line: Line) -> Failure:
            return Failure(7, "Failed to connect", errno.EADDRNOTAVAIL)

        send.sender._transfers.run = fail  # type: ignore[method-assign,assignment]
        outcome = send(a_request("http://receiver.localhost:8099/"))
    assert outcome.own_trouble is ours
    assert ("local port" in outcome.detail) is ours


@pytest.mark.parametrize(
    ("error", "says"), [(OSError(-2, "Name or service not known"), "not known"), (OSError("no address"), "no address")]
)
def test_a_name_that_does_not_resolve(runner: asyncio.Runner, error: OSError, says: str) -> None:
    outcome = send_once(runner, a_request("https://a.test/"), resolve=resolving(error))
    assert outcome.problem is Problem.DNS_ERROR
    assert says in outcome.detail


def test_a_name_without_addresses(runner: asyncio.Runner) -> None:
    outcome = send_once(runner, a_request("https://a.test/"), resolve=resolving(()))
    assert outcome.problem is Problem.DNS_ERROR


def test_dns_that_takes_the_whole_deadline(runner: asyncio.Runner) -> None:
    outcome = send_once(runner, a_request("https://a.test/"), resolve=resolving(TimeoutError()))
    assert outcome.problem is Problem.TIMEOUT
    assert "not resolved" in outcome.detail


def test_a_gzip_bomb_is_kept_as_it_came(runner: asyncio.Runner) -> None:
    with Receiver(receivers.gzip_bomb) as receiver:
        outcome = send_once(runner, a_request(receiver.url))
    assert outcome.succeeded
    assert outcome.truncated
    assert outcome.body == receivers.BOMB[:MAX_KEPT_BYTES]
    assert receiver.requests[0].header("Accept-Encoding") == "identity"


@pytest.mark.parametrize("length", [0, 1, MAX_KEPT_BYTES, MAX_KEPT_BYTES + 1, 60_000])
def test_bodies_up_to_the_limit_leave_the_connection_usable(runner: asyncio.Runner, length: int) -> None:
    body = os.urandom(length)
    with Receiver(receivers.answer(200, body=body)) as receiver, Sending(runner) as send:
        for _ in range(2):
            outcome = send(a_request(receiver.url))
            assert outcome.body == body[:MAX_KEPT_BYTES]
            assert outcome.truncated is (length > MAX_KEPT_BYTES)
        assert len(receiver.connections) == 1


def test_headers_of_the_answer_without_credentials(runner: asyncio.Runner) -> None:
    behaviour = receivers.answer(
        302, "X-Id: 7", "Set-Cookie: session=abc", "Location: https://u:p@h.test/a?token=abc#x", "X-Umlaut: \xfc"
    )
    with Receiver(behaviour) as receiver:
        outcome = send_once(runner, a_request(receiver.url))
    headers = dict(outcome.headers)
    assert headers["X-Id"] == "7"
    assert headers["Set-Cookie"] == MASK
    assert headers["Location"] == f"https://{MASK}@h.test/a?{MASK}"
    assert "abc" not in outcome.detail


def test_redirects_reach_nobody(runner: asyncio.Runner) -> None:
    with Receiver() as elsewhere, Receiver(receivers.redirect(elsewhere.url, 307)) as receiver:
        assert send_once(runner, a_request(receiver.url)).problem is Problem.REDIRECT
    assert elsewhere.connections == []


def test_retry_after_is_read(runner: asyncio.Runner) -> None:
    with Receiver(receivers.answer(429, "Retry-After: 17")) as receiver:
        assert send_once(runner, a_request(receiver.url)).retry_after_s == 17


def test_timings_stand_in_order(runner: asyncio.Runner, authority: Authority) -> None:
    with Receiver(receivers.slow(0.02), tls=authority.good()) as receiver:
        outcome = send_once(runner, a_request(receiver.url), ca_file=authority.ca_file)
    timings = outcome.timings
    assert timings.dns_ms is not None
    assert timings.connect_ms is not None
    assert timings.tls_ms is not None
    assert timings.first_byte_ms is not None
    assert 0 <= timings.dns_ms <= timings.connect_ms <= timings.tls_ms <= timings.first_byte_ms <= outcome.duration_ms


# Exactly one POST per attempt


@pytest.mark.parametrize("fault", [receivers.close, receivers.reset], ids=["FIN", "RST"])
@pytest.mark.parametrize("body", [b'{"a":1}', bytes(300_000)], ids=["a small body", "a large body"])
def test_a_kept_connection_that_dies_on_the_request_repeats_nothing(
    runner: asyncio.Runner, fault: Behaviour, body: bytes
) -> None:
    """libcurl would send it again by itself if it could rewind the body."""
    with Receiver(receivers.in_turn(receivers.ok, fault, receivers.ok)) as receiver, Sending(runner) as send:
        assert send(a_request(receiver.url, body=body)).succeeded
        outcome = send(a_request(receiver.url, body=body))
        assert (outcome.status, outcome.problem) == (None, Problem.CONNECTION_RESET)
        assert len(receiver.requests) == 2
        assert len(receiver.connections) == 1
        assert send(a_request(receiver.url, body=body)).succeeded
        assert len(receiver.requests) == 3


def test_a_connection_that_closed_while_idle_is_noticed(runner: asyncio.Runner) -> None:
    def answer_and_close(connection: Connection, request: Received) -> None:
        receivers.ok(connection, request)
        connection.close()

    with Receiver(answer_and_close) as receiver, Sending(runner) as send:
        for _ in range(3):
            assert send(a_request(receiver.url)).succeeded
            eventually(lambda: all(connection.closed.is_set() for connection in receiver.connections))
        assert len(receiver.requests) == 3


# TLS


TLS_FAULTS: list[Any] = [
    pytest.param(Authority.expired, "expired", id="an expired certificate"),
    pytest.param(Authority.wrong_host, "does not match|no alternative certificate subject name", id="another host's"),
    pytest.param(Authority.old_protocol, "TLS|SSL", id="TLS 1.1"),
    pytest.param(lambda _: receivers.self_signed(), "self-signed", id="a self-signed certificate"),
    pytest.param(lambda _: receivers.unknown_authority(), "issuer", id="an unknown authority"),
]


@pytest.mark.parametrize(("context", "says"), TLS_FAULTS)
def test_tls_that_cannot_be_trusted(
    runner: asyncio.Runner, authority: Authority, context: Callable[[Authority], ssl.SSLContext], says: str
) -> None:
    with Receiver(tls=context(authority)) as receiver:
        outcome = send_once(runner, a_request(receiver.url_for("localhost")), ca_file=authority.ca_file)
    assert outcome.problem is Problem.TLS_ERROR
    assert any(part in outcome.detail for part in says.split("|")), outcome.detail
    assert receiver.requests == []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_tls_that_is_good(runner: asyncio.Runner, authority: Authority, host: str) -> None:
    with Receiver(tls=authority.good()) as receiver, Sending(runner, ca_file=authority.ca_file) as send:
        for _ in range(2):
            assert send(a_request(receiver.url_for(host))).succeeded
        assert len(receiver.connections) == 1


def test_without_a_ca_file_only_the_public_authorities_count(runner: asyncio.Runner, authority: Authority) -> None:
    with Receiver(tls=authority.good()) as receiver:
        assert send_once(runner, a_request(receiver.url_for("localhost"))).problem is Problem.TLS_ERROR


def test_a_tls_handshake_that_hangs(runner: asyncio.Runner) -> None:
    async def say_nothing(_connection: Connection) -> None:
        """The client speaks first, and is not answered."""

    with Receiver(greeting=say_nothing) as receiver:
        outcome = send_once(runner, a_request(f"https://localhost:{receiver.port}/", timeout_s=SHORT_S))
    assert outcome.problem is Problem.TIMEOUT
    assert "TLS handshake" in outcome.detail


@pytest.mark.parametrize("end", [Connection.close, Connection.reset], ids=["FIN", "RST"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_closed_as_soon_as_accepted(runner: asyncio.Runner, scheme: str, end: Callable[[Connection], None]) -> None:
    async def greet(connection: Connection) -> None:
        end(connection)

    with Receiver(greeting=greet) as receiver:
        outcome = send_once(runner, a_request(f"{scheme}://localhost:{receiver.port}/"))
    assert outcome.problem in (Problem.CONNECTION_RESET, Problem.TLS_ERROR)


# Whom it never calls


@pytest.mark.parametrize(
    "rules",
    [EgressRules(), EgressRules(allow_http=True), EgressRules(allow=(ipaddress.ip_network("10.0.0.0/8"),))],
    ids=["no allow-list", "plain http allowed", "another network allowed"],
)
@pytest.mark.parametrize("host", ["127.0.0.1", "public.example"])
def test_a_listener_on_a_forbidden_address_stays_silent(runner: asyncio.Runner, rules: EgressRules, host: str) -> None:
    with Receiver() as receiver:
        outcome = send_once(runner, a_request(receiver.url_for(host)), rules=rules)
        assert outcome.problem is Problem.BLOCKED_TARGET
        assert outcome.final == "blocked_target"
        assert "127" not in outcome.detail
    assert receiver.connections == []


@pytest.mark.parametrize(
    "url", ["http://2130706433:{}/", "http://127.1:{}/", "http://①②⑦.0.0.1:{}/", "ftp://a.test/", ""]
)
def test_a_url_that_was_saved_when_rules_were_looser(runner: asyncio.Runner, url: str) -> None:
    with Receiver() as receiver:
        outcome = send_once(runner, a_request(url.format(receiver.port)))
    assert outcome.problem is Problem.BLOCKED_TARGET
    assert receiver.connections == []


def test_our_own_listener_is_not_called(runner: asyncio.Runner) -> None:
    with Receiver() as ours:
        rules = EgressRules(allow=LOOPBACK.allow, own=frozenset({("127.0.0.1", ours.port)}))
        assert send_once(runner, a_request(ours.url_for("a.test")), rules=rules).problem is Problem.BLOCKED_TARGET
    assert ours.connections == []


def test_dns_rebinding(runner: asyncio.Runner) -> None:
    """A name that leads to an allowed address now and to a forbidden one a moment later, and back."""
    rules = EgressRules(allow=(ipaddress.ip_network("127.0.0.1"),))
    answers = resolving("127.0.0.1", "127.0.0.2", ("127.0.0.1", "127.0.0.2"), "169.254.169.254", "127.0.0.1")
    with Receiver(host="127.0.0.2") as forbidden, Receiver() as allowed:
        with Sending(runner, rules=rules, resolve=answers) as send:
            outcomes = [send(a_request(allowed.url_for("a.test"))) for _ in range(5)]
        blocked = Problem.BLOCKED_TARGET
        assert [outcome.problem for outcome in outcomes] == [None, blocked, blocked, blocked, None]
        assert len(allowed.requests) == 2
    assert forbidden.connections == []


def test_the_second_line_judges_the_address_that_is_tried(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first line broken on purpose: libcurl is led to another address than the vetted ones."""
    rules = EgressRules(allow=(ipaddress.ip_network("127.0.0.1"),))
    with Receiver(host="127.0.0.2") as forbidden:
        monkeypatch.setattr(
            Line, "pin", lambda line: line.curl.setopt(pycurl.RESOLVE, [f"+{line.route.place}:127.0.0.2"])
        )
        outcome = send_once(runner, a_request(forbidden.url_for("a.test")), rules=rules)
    assert outcome.problem is Problem.BLOCKED_TARGET
    assert outcome.detail in (NOT_PUBLIC, PLAIN_HTTP)
    assert forbidden.connections == []


def test_the_third_line_judges_the_peer_of_a_kept_connection(runner: asyncio.Runner) -> None:
    with Receiver() as receiver, Sending(runner, resolve=resolving("127.0.0.1", "127.0.0.2")) as send:
        assert send(a_request(receiver.url_for("a.test"))).succeeded
        (line,) = send.sender._free
        line.rules = EgressRules(allow=(ipaddress.ip_network("127.0.0.2"),))
        outcome = send(a_request(receiver.url_for("a.test")))
        assert outcome.problem is Problem.BLOCKED_TARGET
        assert len(receiver.requests) == 1


def test_libcurl_never_asks_dns_itself(runner: asyncio.Runner) -> None:
    """Its cache without the entry that we count on: the entry is set, and nothing is sent twice."""
    with Receiver() as receiver, Sending(runner) as send:
        place = f"a.test:{receiver.port}"
        send.sender._transfers._pinned[place] = (f"+{place}:127.0.0.1", float("inf"))
        assert send(a_request(receiver.url_for("a.test"))).succeeded
        assert len(receiver.requests) == 1


def test_a_name_with_a_dead_and_a_live_address(runner: asyncio.Runner) -> None:
    with Receiver() as receiver:
        resolve = resolving(("127.0.0.2", "127.0.0.1"))
        assert send_once(runner, a_request(receiver.url_for("a.test")), resolve=resolve).succeeded


def test_ipv6(runner: asyncio.Runner) -> None:
    with suppress(OSError), Receiver(host="::1") as receiver:
        assert send_once(runner, a_request(receiver.url)).succeeded
        assert send_once(runner, a_request(receiver.url_for("a.test")), resolve=resolving("::1")).succeeded


# Life and death of the sender


def test_a_cancelled_send_leaves_the_sender_usable(runner: asyncio.Runner) -> None:
    async def cancel_one(sender: Sender, request: Request, seen: Callable[[], object]) -> None:
        task = asyncio.create_task(sender.send(request))
        while not seen():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with Receiver(receivers.in_turn(receivers.hang, receivers.ok)) as receiver, Sending(runner) as send:
        runner.run(cancel_one(send.sender, a_request(receiver.url), lambda: receiver.requests))
        eventually(lambda: receiver.connections[0].closed.is_set())
        assert send(a_request(receiver.url)).succeeded


def test_close_ends_what_is_under_way(runner: asyncio.Runner) -> None:
    async def close_meanwhile(sender: Sender, request: Request, seen: Callable[[], object]) -> None:
        task = asyncio.create_task(sender.send(request))
        while not seen():
            await asyncio.sleep(0.001)
        await sender.close()
        with pytest.raises(asyncio.CancelledError):
            await task

    with Receiver(receivers.hang) as receiver:
        sender = Sender(resolve=resolving("127.0.0.1"), rules=LOOPBACK)
        runner.run(close_meanwhile(sender, a_request(receiver.url), lambda: receiver.requests))
        eventually(lambda: receiver.connections[0].closed.is_set())


def test_no_file_descriptor_is_left_behind(runner: asyncio.Runner) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    with Receiver(receivers.reset) as receiver, Sending(runner) as send:
        send(a_request(receiver.url))
        eventually(lambda: receiver.connections[-1].closed.is_set())
        before = open_files()
        for _ in range(30):
            send(a_request(receiver.url))
        eventually(lambda: open_files() <= before)
