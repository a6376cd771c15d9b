"""Bad input at the API's door: each request gets its status, its pointer and its message, and changes nothing."""

import socket
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import requests
from sqlalchemy import func, select

from shared.tables import outbox, records, webhooks
from tests.api import KEY, Api, errors
from tests.builders import an_envelope
from tests.waiting import eventually

WEBHOOK = {"name": "Zapier", "entity": "Deal", "event": "save", "url": "https://example.com/hook"}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    api = Api(f"sqlite:///{tmp_path_factory.mktemp('api') / 'hari.db'}")
    yield api
    api.close()


@pytest.fixture(autouse=True)
def nothing_changes(api: Api) -> Iterator[None]:
    def counts() -> list[int]:
        with api.database.transaction() as conn:
            return [
                conn.execute(select(func.count()).select_from(table)).scalar_one()
                for table in (outbox, records, webhooks)
            ]

    before = counts()
    yield
    assert counts() == before
    assert api.notified == []


URLS = {
    "no scheme": ("example.com/hook", "must start with https://"),
    "another scheme": ("ftp://example.com/", "must start with https://"),
    "a file": ("file:///etc/passwd", "must start with https://"),
    "no host": ("https:///x", "host must be a canonical IP address or DNS name"),
    "a password": ("https://u:p@example.com/", "must not hold a user name or password"),
    "a fragment": ("https://example.com/#x", "must not have a fragment"),
    "a space": ("https://example.com/a b", "must not hold spaces"),
    "a line break": ("https://example.com/\r\nHost: x", "must not hold spaces, line breaks"),
    "a backslash": ("https://127.0.0.1\\@example.com/", "or backslashes"),
    "port 0": ("https://example.com:0/", "port must be a number from 1 to 65535"),
    "port 65536": ("https://example.com:65536/", "port must be a number from 1 to 65535"),
    "the port of a mail server": ("https://example.com:25/", "port 25 may not be called"),
    "the port of PostgreSQL": ("https://example.com:5432/", "port 5432 may not be called"),
    "over 2,048 characters": ("https://example.com/" + "x" * 2048, "longer than 2,048 characters"),
    "plain http": ("http://example.com/", "use https://"),
    "loopback": ("https://127.0.0.1:8443/", "an address that is not public"),
    "loopback by name": ("https://localhost/", "may lead only to networks in HARI_EGRESS_ALLOW"),
    "loopback in one number": ("https://2130706433/", "host must be a canonical IP address"),
    "loopback in hexadecimal": ("https://0x7f.1/", "host must be a canonical IP address"),
    "loopback in octal": ("https://0177.0.0.1/", "host must be a canonical IP address"),
    "loopback in IPv6": ("https://[::1]/", "an address that is not public"),
    "loopback in other digits": ("https://①②⑦.⓪.⓪.①/", "host must be a canonical IP address"),
    "a metadata service": ("https://169.254.169.254/latest", "an address that may never be called"),
    "a private network": ("https://10.0.0.1/", "an address that is not public"),
    "a name that leads inside": ("https://inside.example.com/", "an address that is not public"),
    "a name of one label": ("https://crm/", "a name without a public domain"),
    "an international name": ("https://bücher.example/", "host must be a canonical IP address or DNS name"),
}


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize(("url", "detail"), URLS.values(), ids=URLS)
def test_a_url_that_may_not_be_called_is_not_saved(api: Api, url: str, detail: str, method: str) -> None:
    path, body = ("/webhooks", WEBHOOK | {"url": url}) if method == "POST" else ("/webhooks/wh_1", {"url": url})
    found = errors(api.call(method, path, body, status=422))
    assert list(found) == ["/url"]
    assert detail in found["/url"]


def test_a_refusal_does_not_tell_where_a_name_leads(api: Api) -> None:
    body = WEBHOOK | {"url": "https://inside.example.com/"}
    assert "10.0.0.5" not in str(api.call("POST", "/webhooks", body, status=422))


BODIES: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 400, "the body is empty"),
    "half an object": (b'{"name":', 400, "is not valid JSON"),
    "NaN": (b'{"amount": NaN}', 400, "is not valid JSON"),
    "Infinity": (b'{"amount": -Infinity}', 400, "is not valid JSON"),
    "a number that is infinite": (b'{"amount": 1e400}', 400, "is not valid JSON"),
    "half a surrogate pair": (b'{"name": "\\ud800"}', 400, "is not valid JSON"),
    "not UTF-8": (b'{"name": "\xff"}', 400, "is not valid JSON"),
    "UTF-16": ('{"name": "x"}'.encode("utf-16"), 400, "is not valid JSON"),
    "a byte order mark": (b'\xef\xbb\xbf{"name": "x"}', 400, "is not valid JSON"),
    "a comment": (b'{"name": "x"} // x', 400, "is not valid JSON"),
    "a form": (b"name=x", 400, "is not valid JSON"),
    "sixty-five levels": (b'{"name":' + b"[" * 64 + b"]" * 64 + b"}", 400, "nests deeper than 64 levels"),
    "sixty-four levels": (b'{"name":' + b"[" * 63 + b"]" * 63 + b"}", 422, "some fields cannot be used"),
    "a hundred thousand levels": (b"[" * 100_000, 400, "is not valid JSON"),
    "a list": (b"[]", 422, "the body cannot be used"),
    "text": (b'"x"', 422, "the body cannot be used"),
    "null": (b"null", 422, "the body cannot be used"),
    "over 2 MiB": (b'{"name":"' + b"x" * 2_200_000 + b'"}', 413, "larger than 2,097,152 bytes"),
}


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "in chunks"])
@pytest.mark.parametrize(("body", "status", "detail"), BODIES.values(), ids=BODIES)
def test_a_body_that_cannot_be_read_says_why(api: Api, body: bytes, status: int, detail: str, chunked: bool) -> None:
    sent: Any = iter([body[: len(body) // 2], body[len(body) // 2 :]]) if chunked and body else body
    answer = api.request("POST", "/api/v1/records/Deal", data=sent)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json")
    problem = answer.json()
    assert (problem["type"], problem["status"]) == ("about:blank", status)
    assert detail in problem["detail"]


def test_a_body_announced_too_large_is_refused_before_it_is_sent(api: Api) -> None:
    host, port = api.url.removeprefix("http://").split(":")
    head = f"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(head.encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


FIELDS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "text as a number": ("Deal", {"amount": "1"}, "/amount", "must be a number"),
    "true as a number": ("Deal", {"amount": True}, "/amount", "must be a number"),
    "a number as text": ("Deal", {"name": 5}, "/name", "must be text"),
    "an object as text": ("Deal", {"name": {}}, "/name", "must be text"),
    "a date that does not exist": ("Deal", {"close_date": "2026-02-30"}, "/close_date", "must be a date like"),
    "an email address without @": ("Contact", {"email": "ada"}, "/email", "must be an email address"),
    "a field of another entity": ("Task", {"stage": "Won"}, "/stage", "Task has title, status, due_date"),
    "the id": ("Deal", {"id": "rec_1"}, "/id", "is set by HARI"),
    "the version": ("Deal", {"version": 5}, "/version", "is set by HARI"),
    "a name with a slash": ("Deal", {"a/b": 1}, "/a~1b", "unknown field"),
    "__proto__": ("Deal", {"__proto__": {}}, "/__proto__", "unknown field"),
    "over 262,144 characters": ("Deal", {"name": "x" * 262_145}, "/name", "at most 262,144 characters"),
}


@pytest.mark.parametrize(("entity", "body", "pointer", "detail"), FIELDS.values(), ids=FIELDS)
def test_a_wrong_record_field_is_named(api: Api, entity: str, body: dict[str, Any], pointer: str, detail: str) -> None:
    found = errors(api.call("POST", f"/records/{entity}", body, status=422))
    assert list(found) == [pointer]
    assert detail in found[pointer]


def test_a_record_over_1_mib_is_refused(api: Api) -> None:
    # 262,144 characters fit a field; two such fields of three bytes a character do not fit a record.
    body = orjson.dumps({"first_name": "€" * 262_144, "last_name": "€" * 262_144})
    assert errors(api.call("POST", "/records/Contact", status=422, data=body)) == {
        "": "the record would be larger than 1,048,576 bytes of JSON"
    }


EVENTS: dict[str, tuple[Any, str, str]] = {
    "no batch": ([], "", "a batch has 1 to 1,000 events, this one has 0"),
    "1,001 events": ([an_envelope()] * 1001, "", "a batch has 1 to 1,000 events, this one has 1,001"),
    "text": ("x", "", "must be a JSON object"),
    "a list in a batch": ([an_envelope(), []], "/1", "must be a JSON object"),
    "no id": (an_envelope(id=None), "/id", "must be 1 to 64 characters"),
    "a wrong id in a batch": ([an_envelope(), an_envelope(id="a.b")], "/1/id", "must be 1 to 64 characters"),
    "an unknown entity": (an_envelope(entity="Ghost"), "/entity", "must be a declared entity"),
    "an unknown event": (an_envelope(event="saved"), "/event", 'must be "created", "updated" or "deleted"'),
    "no record id": (an_envelope(record={}), "/record/id", "must be a string of 1 to 200 characters"),
    "a record id with NUL": (an_envelope(record={"id": "a\x00"}), "/record/id", "U+0000"),
    "no offset": (an_envelope(timestamp="2026-11-23T10:15:30"), "/timestamp", "with an offset"),
    "a wrong user": (an_envelope(user={}), "/user", "must be"),
}


@pytest.mark.parametrize(("body", "pointer", "detail"), EVENTS.values(), ids=EVENTS)
def test_a_wrong_event_is_named_and_nothing_of_its_batch_is_taken(
    api: Api, body: Any, pointer: str, detail: str
) -> None:
    found = errors(api.call("POST", "/events", body, status=422))
    assert list(found) == [pointer]
    assert detail in found[pointer]


def test_every_fault_of_every_event_is_named(api: Api) -> None:
    batch = [an_envelope(id="a.b", timestamp="noon"), an_envelope(), an_envelope(entity="Ghost", record=[], user="Ada")]
    found = errors(api.call("POST", "/events", batch, status=422))
    assert list(found) == ["/0/id", "/0/timestamp", "/2/entity", "/2/record", "/2/user"]


@pytest.mark.parametrize(("path", "pointer"), [("/records/Deal", "/amount"), ("/events", "/record/amount")])
def test_an_integer_beyond_64_bits_is_refused_not_rounded(api: Api, path: str, pointer: str) -> None:
    number = b"18446744073709551616"
    body = orjson.dumps(an_envelope(record={"id": "1", "amount": 7}) if path == "/events" else {"amount": 7})
    found = errors(api.call("POST", path, status=422, data=body.replace(b'"amount":7', b'"amount":' + number)))
    assert list(found) == [pointer]
    assert "64 bits" in found[pointer]


QUERIES = {
    "a limit of 0": ("/webhooks?limit=0", "/limit", "greater than or equal to 1"),
    "a limit of 201": ("/deliveries?limit=201", "/limit", "less than or equal to 200"),
    "a limit in words": ("/records/Deal?limit=ten", "/limit", "must be a valid integer"),
    "a cursor of another": ("/records/Deal?cursor=x", "/cursor", "is not a cursor of ours"),
    "a cursor of another kind": ("/deliveries?cursor=WzEsMl0", "/cursor", "is not a cursor of ours"),
    "a cursor in other letters": ("/dead?cursor=%C3%BC", "/cursor", "is not a cursor of ours"),
    "a state that is none": ("/deliveries?state=lost", "/state", "'pending', 'waiting', 'delivered'"),
    "an event of webhooks": ("/deliveries?event=save", "/event", "'created', 'updated' or 'deleted'"),
    "an event of the wire": ("/webhooks?event=created", "/event", "'save', 'create', 'update' or 'delete'"),
    "a status in words": ("/deliveries?status=ok", "/status", "must be a valid integer"),
    "a time without an offset": ("/deliveries?since=2026-11-23T10:15:30", "/since", "timezone"),
    "a time that is none": ("/dead?until=yesterday", "/until", "must be a valid datetime"),
    "a filter that is misspelt": (
        "/deliveries?webhook=wh_1",
        "/webhook",
        "known are: cursor, entity",
    ),
    "a filter of another list": ("/records/Deal?state=dead", "/state", "unknown parameter; known are: cursor, limit"),
    "a parameter where none is": ("/deliveries/dlv_1?x=1", "/x", "this call takes no parameters"),
    "NUL": ("/deliveries?webhook_id=%00", "/webhook_id", "must not hold NUL"),
}


@pytest.mark.parametrize(("path", "pointer", "detail"), QUERIES.values(), ids=QUERIES)
def test_a_wrong_parameter_is_named(api: Api, path: str, pointer: str, detail: str) -> None:
    found = errors(api.call("GET", path, status=422))
    assert list(found) == [pointer]
    assert detail in found[pointer]


PATHS = {
    "an unknown path": ("GET", "/nothing", "there is nothing at /api/v1/nothing"),
    "a slash too many": ("GET", "/webhooks/", "there is nothing at /api/v1/webhooks/"),
    "an entity that is not declared": ("GET", "/records/Ghost", "there is no entity Ghost; there are Company, Contact"),
    "an unknown record": ("GET", "/records/Deal/rec_x", "there is no Deal with the id rec_x"),
    "an unknown record to change": ("PATCH", "/records/Deal/rec_x", "there is no Deal with the id rec_x"),
    "an unknown record to delete": ("DELETE", "/records/Deal/rec_x", "there is no Deal with the id rec_x"),
    "an unknown webhook": ("GET", "/webhooks/wh_x", "there is no webhook with the id wh_x"),
    "an unknown webhook to delete": ("DELETE", "/webhooks/wh_x", "there is no webhook with the id wh_x"),
    "an unknown webhook to test": ("POST", "/webhooks/wh_x/test", "there is no webhook with the id wh_x"),
    "an unknown webhook to rotate": ("POST", "/webhooks/wh_x/rotate-secret", "there is no webhook with the id wh_x"),
    "an unknown delivery": ("GET", "/deliveries/dlv_x", "there is no delivery with the id dlv_x"),
    "an id with NUL": ("GET", "/webhooks/%00", "ids have no NUL character"),
}


@pytest.mark.parametrize(("method", "path", "detail"), PATHS.values(), ids=PATHS)
def test_what_is_not_there_is_404(api: Api, method: str, path: str, detail: str) -> None:
    problem = api.call(method, path, {}, status=404)
    assert detail in problem["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/v1/webhooks/wh_1", "DELETE, GET, PATCH"),
        ("DELETE", "/api/v1/records/Deal", "GET, POST"),
        ("GET", "/api/v1/events", "POST"),
        ("POST", "/healthz", "GET"),
    ],
)
def test_a_method_that_is_not_there_is_405_and_names_those_that_are(
    api: Api, method: str, path: str, allowed: str
) -> None:
    answer = api.request(method, path)
    assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["detail"] == f"{method} does not work here; use {allowed}"


def test_silence_is_refused_rather_than_ignored(api: Api) -> None:
    problem = api.call("POST", "/records/Deal", {}, status=422, headers={"X-HARi-Silent": "true"})
    assert "not supported by this version" in problem["detail"]


def test_a_mistake_of_ours_is_a_problem_without_details(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_args: Any, **_kwargs: Any) -> Any:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("shared.store.delivery_log.get", fail)
    answer = api.request("GET", "/api/v1/deliveries/dlv_1")
    assert (answer.status_code, answer.headers["Content-Type"]) == (500, "application/problem+json")
    assert answer.json()["detail"] == "HARi made a mistake; its log says more"
    eventually(lambda: "ZeroDivisionError" in caplog.text)


def test_the_document_loads_nothing_from_elsewhere(api: Api) -> None:
    assert requests.get(f"{api.url}/docs", timeout=10).status_code == 404
    assert requests.get(f"{api.url}/redoc", timeout=10).status_code == 404
    document = requests.get(f"{api.url}/openapi.json", timeout=10).json()
    assert "HTTPValidationError" not in document.get("components", {}).get("schemas", {})
