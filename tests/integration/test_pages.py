"""The pages as a browser without JavaScript uses them: sign-in, roles, forms, what they show and what they hide."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from sqlalchemy import update

from services.producer.first_start import ensure_admin
from services.producer.pages import routers
from services.producer.pages.headers import HEADERS
from services.producer.pages.sign_in import MOST_FAILURES
from services.producer.send_test import TestResult as Met
from shared.errors import Unavailable
from shared.ids import delivery_id
from shared.model import Role, State
from shared.passwords import verify_password
from shared.store import deliveries, outbox, users, webhooks
from shared.store.deliveries import Match
from shared.tables import attempts
from tests.api import PASSWORDS, Api
from tests.builders import an_event
from tests.integration.test_api import delivered, events

WEBHOOK = {"name": "Zapier", "entity": "Deal", "event": "save", "url": "https://example.com/hook"}
FORM = WEBHOOK | {"headers": "", "filter": "", "timeout_s": "15", "concurrency": "16"}
BY_HTMX = {"HX-Request": "true"}
OPEN, VIEWER, OPERATOR, ADMIN = None, Role.VIEWER, Role.OPERATOR, Role.ADMIN
# Every page: the role it needs. A page that is missing here fails the test.
NEEDED = {
    "GET /": OPEN,
    "GET /sign-in": OPEN,
    "POST /sign-in": OPEN,
    "POST /sign-out": VIEWER,
    "GET /settings/webhooks": VIEWER,
    "GET /settings/webhooks/incoming": VIEWER,
    "GET /settings/webhooks/new": ADMIN,
    "POST /settings/webhooks/new": ADMIN,
    "GET /settings/webhooks/{webhook_id}": ADMIN,
    "POST /settings/webhooks/{webhook_id}": ADMIN,
    "POST /settings/webhooks/{webhook_id}/test": OPERATOR,
    "GET /settings/webhooks/{webhook_id}/secret": ADMIN,
    "POST /settings/webhooks/{webhook_id}/secret": ADMIN,
    "POST /settings/webhooks/{webhook_id}/activate": ADMIN,
    "POST /settings/webhooks/{webhook_id}/deactivate": ADMIN,
    "GET /settings/webhooks/{webhook_id}/delete": ADMIN,
    "POST /settings/webhooks/{webhook_id}/delete": ADMIN,
    "GET /deliveries": VIEWER,
    "GET /deliveries/{delivery_id}": VIEWER,
    "POST /deliveries/{delivery_id}/resend": OPERATOR,
    "GET /records": VIEWER,
    "GET /records/{entity}": VIEWER,
    "GET /records/{entity}/new": OPERATOR,
    "POST /records/{entity}/new": OPERATOR,
    "GET /records/{entity}/{record_id}": OPERATOR,
    "POST /records/{entity}/{record_id}": OPERATOR,
    "POST /records/{entity}/{record_id}/delete": OPERATOR,
}
ROUTES = [
    f"{method} {route.path}"
    for router in routers
    for route in router.routes
    if isinstance(route, APIRoute)
    for method in route.methods
]


@pytest.fixture(params=["sqlite", "postgresql"])
def api(request: pytest.FixtureRequest) -> Iterator[Api]:
    api = Api(request.getfixturevalue(f"{request.param}_database_url"))
    yield api
    api.close()


@pytest.fixture
def on_sqlite(sqlite_database_url: str) -> Iterator[Api]:
    api = Api(sqlite_database_url)
    yield api
    api.close()


def made(api: Api, **values: Any) -> str:
    return str(api.call("POST", "/webhooks", WEBHOOK | values, status=201)["id"])


def test_every_page_says_which_role_it_needs() -> None:
    assert sorted(ROUTES) == sorted(NEEDED)


def test_every_page_refuses_whoever_lacks_the_role(on_sqlite: Api) -> None:
    api = on_sqlite
    people = {role: api.browser(role) for role in Role}
    stranger = api.stranger()
    for route, needed in NEEDED.items():
        method, _, path = route.partition(" ")
        path = path.format(webhook_id="wh_x", delivery_id="dlv_x", entity="Deal", record_id="rec_x")
        if needed is OPEN or path == "/sign-out":
            continue
        visit = stranger.get if method == "GET" else stranger.post
        answer = visit(path)
        assert (answer.status_code, answer.headers["Location"].split("?")[0]) == (303, "/sign-in"), route
        for role, browser in people.items():
            answer = browser.get(path) if method == "GET" else browser.post(path)
            assert (answer.status_code == 403) is not role.may(needed), f"{route} as {role}: {answer.status_code}"
            assert answer.status_code < 500, route


def test_every_form_needs_the_token_of_its_session(on_sqlite: Api) -> None:
    api = on_sqlite
    admin = api.browser(Role.ADMIN)
    webhook_id = made(api)
    for token in ("", "x", api.browser(Role.OPERATOR).csrf):
        for route in (route for route in ROUTES if route.startswith("POST") and route != "POST /sign-in"):
            path = route[5:].format(webhook_id=webhook_id, delivery_id="dlv_x", entity="Deal", record_id="rec_x")
            answer = admin.post(path, FORM | {"csrf": token})
            assert (answer.status_code, "load the page again" in answer.text) == (403, True), route
    assert api.call("GET", f"/webhooks/{webhook_id}")["version"] == 1
    assert api.stranger().post("/sign-in", {"name": "admin", "password": PASSWORDS[Role.ADMIN]}).status_code == 403


def test_signing_in_and_out(api: Api) -> None:
    admin = api.browser(Role.ADMIN)
    [cookie] = [cookie for cookie in admin.cookies if cookie.name == "hari_session"]
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite") == "lax"
    assert admin.get("/settings/webhooks").status_code == 200
    kept = dict(admin.cookies)
    assert admin.post("/sign-out").status_code == 303
    assert admin.get("/settings/webhooks").status_code == 303
    admin.cookies.update(kept)
    assert admin.get("/settings/webhooks").status_code == 303, "the session is over, not only the cookie gone"


def test_a_session_ends_after_its_time(on_sqlite: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "SESSION_S", 0)
    assert on_sqlite.browser(Role.VIEWER).get("/settings/webhooks").status_code == 303


def test_wrong_passwords_are_refused_and_soon_not_even_tried(on_sqlite: Api) -> None:
    on_sqlite.browser(Role.ADMIN)
    stranger = on_sqlite.stranger()
    for name in ("admin", "nobody"):
        answers = [stranger.sign_in(name, "wrong") for _ in range(MOST_FAILURES)]
        assert {answer.status_code for answer in answers} == {422}
        assert "do not fit together" in answers[0].text
    refused = stranger.sign_in("admin", PASSWORDS[Role.ADMIN])
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 901


@pytest.mark.parametrize("target", ["//evil.example", "/\\evil.example", "https://evil.example", "/\t/evil.example"])
def test_signing_in_never_leads_to_another_site(on_sqlite: Api, target: str) -> None:
    on_sqlite.browser(Role.VIEWER)
    answer = on_sqlite.stranger().sign_in("viewer", PASSWORDS[Role.VIEWER], next=target)
    assert answer.headers["Location"] == "/"


def test_who_is_sent_to_sign_in_comes_back(on_sqlite: Api) -> None:
    stranger = on_sqlite.stranger()
    where = stranger.get("/deliveries?state=dead&status=500").headers["Location"]
    assert 'name="next" value="/deliveries?state=dead&amp;status=500"' in stranger.get(where).text
    assert stranger.post("/settings/webhooks/new", **BY_HTMX).headers["HX-Redirect"] == "/sign-in"


def test_every_answer_has_the_security_headers(on_sqlite: Api) -> None:
    admin = on_sqlite.browser(Role.ADMIN)
    for path in ("/", "/sign-in", "/settings/webhooks", "/nothing", "/static/hari.css", "/api/v1/webhooks", "/healthz"):
        answer = admin.get(path)
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS, path
    page = admin.get("/settings/webhooks")
    assert page.headers["Cache-Control"] == "no-store"
    assert "style=" not in page.text
    assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=", page.text)


def test_errors_are_pages_for_browsers_and_problems_for_programs(on_sqlite: Api) -> None:
    admin = on_sqlite.browser(Role.ADMIN)
    for path in ("/nothing", "/settings/webhooks/wh_x", "/deliveries/dlv_x", "/records/Ghost", "/deliveries?cursor=x"):
        answer = admin.get(path)
        assert (answer.status_code in (404, 422), answer.headers["Content-Type"][:9]) == (True, "text/html"), path
    answer = on_sqlite.request("GET", "/nothing")
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_the_first_admin_gets_a_password_once_and_a_given_one_replaces_it(api: Api) -> None:
    with api.database.transaction() as conn:
        printed = ensure_admin(conn, None)
        assert printed is not None
        assert ensure_admin(conn, None) is None
        user, stored = users.by_name(conn, "admin") or (None, "")
        assert user is not None
        assert (user.role, verify_password(printed, stored), printed in stored) == (Role.ADMIN, True, False)
        token = users.start_session(conn, user.id)
        assert ensure_admin(conn, "a given password") is None
        assert verify_password("a given password", (users.by_name(conn, "admin") or (None, ""))[1])
        assert users.session(conn, token) is None
        token = users.start_session(conn, user.id)
        ensure_admin(conn, "a given password")
        assert users.session(conn, token) is not None


def test_a_webhook_is_added_and_its_made_secret_shown_once(api: Api) -> None:
    admin = api.browser(Role.ADMIN)
    assert "No outgoing webhooks yet" in admin.get("/settings/webhooks").text
    assert admin.post("/settings/webhooks/new", FORM | {"generate": "1"}).headers["Location"] == "/settings/webhooks"
    page = admin.get("/settings/webhooks").text
    shown = re.search(r'id="new-secret"[^>]* value="(whsec_[^"]+)"', page)
    assert shown
    assert "whsec_" not in admin.get("/settings/webhooks").text
    [webhook] = api.call("GET", "/webhooks")["data"]
    assert {name: webhook[name] for name in WEBHOOK} == WEBHOOK
    assert "webhooks" in api.notified


def test_wrong_fields_stand_beside_their_message_and_nothing_is_lost(on_sqlite: Api) -> None:
    admin = on_sqlite.browser(Role.ADMIN)
    bad = FORM | {"name": "", "url": "http://10.0.0.5/x?<b>", "filter": "{", "timeout_s": "99", "headers": "Nonsense"}
    answer = admin.post("/settings/webhooks/new", bad | {"secret": "schlüssel"})
    assert answer.status_code == 422
    assert set(re.findall(r'class="fault" id="(\w+)-fault"', answer.text)) == {"filter", "headers"}
    answer = admin.post("/settings/webhooks/new", bad | {"secret": "schlüssel", "filter": "[1]", "headers": ""})
    faults = set(re.findall(r'class="fault" id="(\w+)-fault"', answer.text))
    assert faults == {"name", "url", "filter", "timeout_s", "secret"}
    assert 'value="http://10.0.0.5/x?&lt;b&gt;"' in answer.text
    assert on_sqlite.call("GET", "/webhooks")["data"] == []


def test_editing_keeps_masked_headers_and_refuses_a_stale_form(api: Api) -> None:
    webhook_id = made(api, headers={"Authorization": "Bearer x"}, filter={"record.stage": "Won"})
    admin = api.browser(Role.ADMIN)
    page = admin.get(f"/settings/webhooks/{webhook_id}").text
    assert "Bearer x" not in page
    assert "Authorization: ••••" in page
    changed = FORM | {"name": "New name", "headers": "Authorization: ••••\nX-A: b", "version": "1"}
    assert admin.post(f"/settings/webhooks/{webhook_id}", changed).status_code == 303
    with api.database.transaction() as conn:
        stored = webhooks.get(conn, api.box, webhook_id)
    assert stored is not None
    assert (stored.name, stored.filter, dict(stored.headers)) == (
        "New name",
        None,
        {"Authorization": "Bearer x", "X-A": "b"},
    )
    stale = admin.post(f"/settings/webhooks/{webhook_id}", changed | {"name": "Newer"})
    assert (stale.status_code, "Somebody else has saved" in stale.text) == (412, True)


def test_a_test_shows_in_the_row_what_came_back(on_sqlite: Api) -> None:
    api = on_sqlite
    path = f"/settings/webhooks/{made(api)}/test"
    operator = api.browser(Role.OPERATOR)
    api.test_answer = Met("dlv_1", 200, None, 182.4, b"<b>ok</b>\nmore")
    row = operator.post(path, **BY_HTMX).text
    assert "200 OK" in row
    assert "in 182 ms" in row
    assert "&lt;b&gt;ok&lt;/b&gt;</code>" in row
    assert row.lstrip().startswith("<tr")
    api.test_answer = Met("dlv_1", None, "dns_error", 3.0, b"")
    assert operator.post(path).headers["Location"] == "/settings/webhooks"
    assert "The name example.com was not found" in operator.get("/settings/webhooks").text
    assert "was not found" not in operator.get("/settings/webhooks").text
    api.test_answer = Unavailable("no dispatcher is running")
    assert "No dispatcher is running" in operator.post(path, **BY_HTMX).text


def test_regenerating_a_secret(api: Api) -> None:
    webhook_id = made(api, secret="old one")
    admin = api.browser(Role.ADMIN)
    path = f"/settings/webhooks/{webhook_id}/secret"
    assert "also signs for 24 hours" in admin.get(path).text
    assert admin.post(path, {"secret": "schlüssel"}).status_code == 422
    admin.post(path, {"secret": ""})
    assert 'value="whsec_' in admin.get("/settings/webhooks").text
    admin.post(path, {"secret": "my own", "leaked": "1"})
    assert "my own" not in admin.get("/settings/webhooks").text
    with api.database.transaction() as conn:
        stored = webhooks.get(conn, api.box, webhook_id)
    assert stored is not None
    assert (stored.secret, stored.old_secret) == ("my own", None)


def test_switching_off_on_and_deleting(api: Api) -> None:
    webhook_id = made(api)
    delivered(api, webhook_id)
    admin = api.browser(Role.ADMIN)
    admin.post(f"/settings/webhooks/{webhook_id}/deactivate")
    assert not api.call("GET", f"/webhooks/{webhook_id}")["active"]
    assert "is inactive" in admin.get("/settings/webhooks").text
    admin.post(f"/settings/webhooks/{webhook_id}/activate")
    assert api.call("GET", f"/webhooks/{webhook_id}")["active"]
    assert "Its 1 log entry stays readable" in admin.get(f"/settings/webhooks/{webhook_id}/delete").text
    admin.post(f"/settings/webhooks/{webhook_id}/delete")
    api.call("GET", f"/webhooks/{webhook_id}", status=404)
    assert "Zapier" in admin.get("/deliveries").text


def test_the_list_shows_how_each_webhook_fared(api: Api) -> None:
    webhook_id = made(api)
    delivered(api, webhook_id)
    delivered(api, webhook_id, state=State.DEAD)
    page = api.browser(Role.VIEWER).get("/settings/webhooks").text
    assert "1 of 2 delivered" in page
    assert "50.0 %" in page
    assert "/secret" not in page, "a viewer is not offered what is refused"


def test_the_log_filters_by_its_url_and_escapes_what_endpoints_said(api: Api) -> None:
    webhook_id = made(api, name="<script>alert(1)</script>")
    found = delivered(api, webhook_id)
    with api.database.transaction() as conn:
        conn.execute(update(attempts).values(dns_ms=2.6, connect_ms=20.2, first_byte_ms=147.9))
    viewer = api.browser(Role.VIEWER)
    assert f"/deliveries/{found}" in viewer.get(f"/deliveries?webhook_id={webhook_id}&state=delivered&status=200").text
    for query in ("state=dead", "status=500", "record_id=rec_x", "entity=Task", "since=2100-01-01T00:00", "test=true"):
        assert "Nothing fits these filters" in viewer.get(f"/deliveries?{query}").text, query
    assert "does not filter" in viewer.get("/deliveries?status=abc").text
    page = viewer.get(f"/deliveries/{found}").text
    assert "<script>alert" not in page
    assert "curl -X POST &#39;https://example.com/hook&#39;" in page
    assert "dns 3 · connect 20 · first byte 148 ms" in page
    assert "X-Webhook-Secret" in page
    assert "••••" in page


def test_records_are_made_changed_and_deleted_with_their_events(api: Api) -> None:
    operator = api.browser(Role.OPERATOR)
    wrong = operator.post("/records/Deal/new", {"name": "Engine", "amount": "much", "close_date": ""})
    assert (wrong.status_code, 'id="amount-fault">must be a number' in wrong.text) == (422, True)
    assert operator.post("/records/Deal/new", {"name": "Engine", "amount": "12.5", "stage": ""}).status_code == 303
    [record] = api.call("GET", "/records/Deal")["data"]
    assert (record["name"], record["amount"], record["stage"]) == ("Engine", 12.5, None)
    path = f"/records/Deal/{record['id']}"
    assert 'value="12.5"' in operator.get(path).text
    operator.post(path, {"name": "Engine", "amount": "12.5"})
    assert "Nothing changed" in operator.get("/records/Deal").text
    operator.post(path, {"stage": "Won"})
    assert api.call("GET", path)["version"] == 2
    operator.post(f"{path}/delete")
    api.call("GET", path, status=404)
    assert [(event["event"], event["user"]["name"]) for event in events(api)] == [
        ("created", "operator"),
        ("updated", "operator"),
        ("deleted", "operator"),
    ]


def test_a_dead_delivery_is_sent_again_from_its_page(api: Api) -> None:
    admin, viewer = api.browser(Role.ADMIN), api.browser(Role.VIEWER)
    webhook_id = made(api)
    path = f"/deliveries/{delivered(api, webhook_id, state=State.DEAD)}"
    assert "/resend" in admin.get(path).text
    assert "/resend" not in viewer.get(path).text
    assert admin.post(f"{path}/resend").headers["Location"] == path
    assert "Attempt 2 is on its way" in admin.get(path).text
    assert [task.attempt_no for task in api.asked] == [2]
    api.call("PATCH", f"/webhooks/{webhook_id}", {"active": False})
    admin.post(f"{path}/resend")
    assert "Not sent again" in admin.get(path).text
    assert len(api.asked) == 1


def test_an_attempt_in_flight_is_not_said_to_have_sent_nothing(api: Api) -> None:
    event, webhook_id = an_event(), made(api)
    found = delivery_id(event.id, webhook_id)
    with api.database.transaction() as conn:
        outbox.append(conn, [event])
        day = outbox.lock_known(conn, [event.id])[event.id].event_day
        deliveries.insert_matches(conn, [Match(day, found, webhook_id, event.id, True)], None)
    page = api.browser(Role.VIEWER).get(f"/deliveries/{found}").text
    assert "in flight" in page
    assert "once the attempt is over" in page
    assert "nothing sent" not in page
