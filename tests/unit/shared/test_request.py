"""The exact bytes of a POST, and which secrets and headers may be saved."""

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import orjson
import pytest

from shared.model import Claimed, Format, Request, Webhook
from shared.outgoing.checks import check_headers, check_secret
from shared.outgoing.request import MASK, build_request, stored_headers
from shared.signing import key_of, verify
from tests.builders import a_webhook, an_event

GOLDEN = Path(__file__).parents[2] / "golden"
NOW = datetime(2026, 11, 23, 10, 15, 30, 999_999, tzinfo=UTC)
BODY = '{"id":"evt_1","event":"updated","record":{"name":"Zoë"}}'.encode()
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def a_claimed(webhook: Webhook, hop: int = 0, traceparent: str | None = None, body: bytes = BODY) -> Claimed:
    """The right to make a first attempt."""
    return Claimed("dlv_" + "a" * 26, date(2026, 11, 23), 1, "evt_1", body, webhook, hop=hop, traceparent=traceparent)


def on_the_wire(request: Request) -> bytes:
    """The part of the request that is ours, as HTTP/1.1 writes it."""
    lines = [f"POST {request.url}", *(f"{name}: {value}" for name, value in request.headers)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + request.body


@pytest.mark.parametrize(
    ("name", "claimed"),
    [
        ("plain", a_claimed(a_webhook(url="https://example.com/hook"))),
        (
            "everything",
            a_claimed(
                a_webhook(
                    url="https://example.com/hook?a=1",
                    secret="s3cret with spaces",
                    old_secret=SECRET,
                    headers={"X-Team": "sales", "Authorization": "Bearer abc"},
                ),
                hop=2,
                traceparent=TRACEPARENT,
            ),
        ),
    ],
)
def test_golden_request(name: str, claimed: Claimed) -> None:
    request = build_request(claimed, NOW, version="1.2.3")
    assert on_the_wire(request) == (GOLDEN / f"request_{name}.http").read_bytes()


def test_the_body_is_the_same_bytes_and_the_deadline_the_webhooks() -> None:
    request = build_request(a_claimed(a_webhook(timeout_s=7)), NOW, version="1")
    assert request.body is BODY
    assert request.timeout_s == 7.0


def test_both_secrets_sign_while_a_rotation_overlaps() -> None:
    webhook = a_webhook(secret="new", old_secret="old")
    headers = dict(build_request(a_claimed(webhook), NOW, version="1").headers)
    new, old = headers["webhook-signature"].split(" ")
    for key, signature in (("new", new), ("old", old)):
        verify(
            [key_of(key)], headers["webhook-id"], headers["webhook-timestamp"], BODY, signature, now_s=NOW.timestamp()
        )
    assert headers["X-Webhook-Secret"] == "new"


def test_a_removed_secret_signs_nothing() -> None:
    names = [name for name, _ in build_request(a_claimed(a_webhook(old_secret="old")), NOW, version="1").headers]
    assert "webhook-signature" not in names
    assert "X-Webhook-Secret" not in names


def test_stored_headers_hold_no_credential() -> None:
    webhook = a_webhook(secret="s3cret", headers={"Authorization": "Bearer abc", "x-trace": "abc"})
    request = build_request(a_claimed(webhook, traceparent=TRACEPARENT), NOW, version="1")
    stored = dict(stored_headers(request))
    assert [name for name, _ in stored_headers(request)] == [name for name, _ in request.headers]
    assert {name for name, value in stored.items() if value == MASK} == {"X-Webhook-Secret", "Authorization", "x-trace"}
    assert stored["webhook-signature"].startswith("v1,")
    assert stored["traceparent"] == TRACEPARENT


@pytest.mark.parametrize(
    "secret",
    [
        "x",
        "two words",
        "~!@#$%^&*()_+\"'\\;:,",
        "a" * 256,
        SECRET,
        "whsec_" + "A" * 32,
        "whsec_" + "A" * 84 + "AA==",
        "whsecure but plain",
    ],
)
def test_secrets_that_are_fine(secret: str) -> None:
    assert check_secret(secret) == []


@pytest.mark.parametrize(
    ("secret", "says"),
    [
        pytest.param("", "1 to 256", id="an empty secret"),
        pytest.param("a" * 257, "1 to 256", id="257 characters"),
        pytest.param(" a", "space", id="a space in front"),
        pytest.param("a ", "space", id="a space at the end"),
        pytest.param(" ", "space", id="only a space"),
        pytest.param("a\r\nX-Admin: 1", "ASCII", id="a line break"),
        pytest.param("a\nb", "ASCII", id="a bare line feed"),
        pytest.param("a\n", "ASCII", id="a line feed at the end"),
        pytest.param("a\0b", "ASCII", id="NUL"),
        pytest.param("a\tb", "ASCII", id="a tab"),
        pytest.param("a\x7f", "ASCII", id="DEL"),
        pytest.param("grüße", "ASCII", id="letters that are not ASCII"),
        pytest.param("whsec_", "base64", id="whsec_ alone"),
        pytest.param("whsec_secret", "base64", id="whsec_ with text"),
        pytest.param("whsec_" + "A" * 28, "base64", id="whsec_ with 21 bytes"),
        pytest.param("whsec_" + "A" * 88, "base64", id="whsec_ with 66 bytes"),
        pytest.param("whsec_" + "A" * 31 + "=A", "base64", id="whsec_ with padding inside"),
        pytest.param("whsec_" + "A" * 31 + "-", "base64", id="whsec_ in the URL alphabet"),
    ],
)
def test_secrets_that_are_refused(secret: str, says: str) -> None:
    (problem,) = check_secret(secret)
    assert problem.pointer == "/secret"
    assert says in problem.detail
    assert len(secret) < 8 or secret not in problem.detail, "a message never repeats the secret"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Team": "sales"},
        {"Authorization": "Basic dXNlcjpwYXNz", "Accept": "application/json"},
        {"X-Odd_but.legal~token!": "two words, and more; even = signs"},
        {f"X-{n}": "v" for n in range(20)},
        {"X-Long": "a" * 4090},
    ],
)
def test_headers_that_are_fine(headers: dict[str, str]) -> None:
    assert check_headers(headers) == []


FORBIDDEN_NAMES = [
    *(
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "Cookie",
        "Proxy-Authorization",
        "Expect",
        "Upgrade",
    ),
    *("Proxy-Connection", "TE", "Trailer", "Content-Type", "User-Agent", "traceparent", "X-HARi-Hop", "webhook-id"),
    *("X-Webhook-Secret", "webhook-signature"),
]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        *(pytest.param(name, "v", "set by HARI", id=f"{name} is ours or HTTP's") for name in FORBIDDEN_NAMES),
        pytest.param("HOST", "v", "set by HARI", id="in capitals too"),
        pytest.param("x-webhook-anything", "v", "set by HARI", id="our whole prefix"),
        pytest.param("", "v", "name", id="no name"),
        pytest.param("X Team", "v", "name", id="a space in the name"),
        pytest.param("X-Team:", "v", "name", id="a colon in the name"),
        pytest.param("X-Team\r\nX-Admin", "v", "name", id="a line break in the name"),
        pytest.param("X-Team\n", "v", "name", id="a line feed after the name"),
        pytest.param("X-Grüße", "v", "name", id="a name that is not ASCII"),
        pytest.param("X-Team", "", "empty", id="no value"),
        pytest.param("X-Team", "a\r\nX-Admin: 1", "ASCII", id="a line break in the value"),
        pytest.param("X-Team", "a\n", "ASCII", id="a line feed after the value"),
        pytest.param("X-Team", "a\0", "ASCII", id="NUL in the value"),
        pytest.param("X-Team", "a\tb", "ASCII", id="a tab in the value"),
        pytest.param("X-Team", "grüße", "ASCII", id="a value that is not ASCII"),
        pytest.param("X-Team", " a", "space", id="a space before the value"),
        pytest.param("X-Team", "a ", "space", id="a space after the value"),
    ],
)
def test_headers_that_are_refused(name: str, value: str, says: str) -> None:
    (problem,) = check_headers({name: value, "X-Fine": "v"})
    assert problem.pointer == f"/headers/{name}"
    assert says in problem.detail


@pytest.mark.parametrize(
    ("headers", "pointer", "says"),
    [
        ({f"X-{n}": "v" for n in range(21)}, "/headers", "20"),
        ({"X-Long": "a" * 4091}, "/headers", "4,096"),
        ({"X-Team": "a", "x-team": "b"}, "/headers/x-team", "twice"),
        ({"X/Y~": ""}, "/headers/X~1Y~0", "name"),
    ],
    ids=["21 headers", "4,097 characters", "the same name twice", "a pointer is escaped"],
)
def test_header_limits(headers: dict[str, str], pointer: str, says: str) -> None:
    (problem,) = check_headers(headers)
    assert problem.pointer == pointer
    assert says in problem.detail


def test_a_preset_is_rendered_signed_and_named() -> None:
    webhook = a_webhook(secret="s3cret", format=Format("cloudevents"))
    event = an_event()
    claimed = replace(a_claimed(webhook, body=event.body), format=webhook.format)
    request = build_request(claimed, NOW, version="1")
    headers = dict(request.headers)
    assert headers["Content-Type"] == "application/cloudevents+json"
    assert orjson.loads(request.body)["data"] == event.payload
    signed = [key_of("s3cret")], headers["webhook-id"], headers["webhook-timestamp"], request.body
    verify(*signed, headers["webhook-signature"], now_s=NOW.timestamp())
    assert (request.redirect, request.fault) == (None, None)


def test_what_cannot_be_rendered_has_a_fault_and_no_body() -> None:
    form = Format("custom", '"{{ record.name | date }}"')
    request = build_request(replace(a_claimed(a_webhook(), body=an_event().body), format=form), NOW, version="1")
    assert request.body == b""
    assert "date cannot read 'Engine'" in (request.fault or "")
