"""Idempotency-Key on POST: one effect and one answer, on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from sqlalchemy import func, select, update

from shared.errors import Unavailable
from shared.sql import later
from shared.store import idempotency
from shared.tables import idempotency_keys as i
from shared.tables import outbox as o
from tests.api import Api
from tests.waiting import eventually

WEBHOOK = {"name": "Zapier", "entity": "Deal", "event": "save", "url": "https://example.com/hook"}
KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}


@pytest.fixture(params=["sqlite", "postgresql"])
def api(request: pytest.FixtureRequest) -> Iterator[Api]:
    api = Api(request.getfixturevalue(f"{request.param}_database_url"))
    yield api
    api.close()


def rows(api: Api, table: Any) -> int:
    with api.database.transaction() as conn:
        return int(conn.execute(select(func.count()).select_from(table)).scalar_one())


def test_the_same_request_has_one_effect_and_one_answer(api: Api) -> None:
    first = api.request("POST", "/api/v1/records/Deal", {"name": "Engine"}, headers=KEY)
    again = api.request("POST", "/api/v1/records/Deal", {"name": "Engine"}, headers=KEY)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    for name in ("ETag", "Location", "Content-Type", "Content-Length", "Cache-Control"):
        assert first.headers[name] == again.headers[name], name
    assert rows(api, o) == 1


def test_another_request_with_the_same_key_is_422(api: Api) -> None:
    api.call("POST", "/records/Deal", {"name": "Engine"}, status=201, headers=KEY)
    problem = api.call("POST", "/records/Deal", {"name": "Wheel"}, status=422, headers=KEY)
    assert problem["detail"] == "this Idempotency-Key came with another request; take a new one"
    api.call("POST", "/records/Company", {"name": "Engine"}, status=422, headers=KEY)
    assert rows(api, o) == 1


def test_the_keys_of_two_callers_do_not_meet(api: Api) -> None:
    other = api.call("POST", "/keys", {"name": "other", "role": "operator"}, status=201)["key"]
    api.call("POST", "/records/Deal", {"name": "Engine"}, status=201, headers=KEY)
    api.call("POST", "/records/Deal", {"name": "Mine"}, status=201, headers=KEY | {"Authorization": f"Bearer {other}"})


def test_while_the_first_is_under_way_the_second_is_409(api: Api) -> None:
    path = f"/webhooks/{api.call('POST', '/webhooks', WEBHOOK, status=201)['id']}/test"
    api.test_may_end.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post_apart, api, path)
        try:
            eventually(lambda: api.tested)
            assert "under way" in api.call("POST", path, status=409, headers=KEY)["detail"]
        finally:
            api.test_may_end.set()
        assert first.result().status_code == 200
    assert api.call("POST", path, headers=KEY) == first.result().json()
    assert len(api.tested) == 1


def post_apart(api: Api, path: str) -> requests.Response:
    headers = dict(api._session.headers) | KEY
    return requests.post(f"{api.url}/api/v1{path}", headers=headers, timeout=30)


def test_what_was_refused_may_be_tried_again(api: Api) -> None:
    api.call("POST", "/records/Deal", {"amount": "many"}, status=422, headers=KEY)
    api.call("POST", "/records/Deal", {"amount": 12}, status=201, headers=KEY)
    assert rows(api, i) == 1


def test_what_was_unavailable_may_be_tried_again(api: Api) -> None:
    webhook_id = api.call("POST", "/webhooks", WEBHOOK, status=201)["id"]
    good, api.test_answer = api.test_answer, Unavailable("no dispatcher is running")
    api.call("POST", f"/webhooks/{webhook_id}/test", status=503, headers=KEY)
    api.test_answer = good
    api.call("POST", f"/webhooks/{webhook_id}/test", headers=KEY)
    api.call("POST", f"/webhooks/{webhook_id}/test", headers=KEY)
    assert len(api.tested) == 2


def test_a_request_that_was_lost_is_made_again_after_a_while(api: Api) -> None:
    body = {"name": "Engine"}
    api.call("POST", "/records/Deal", body, status=201, headers=KEY)
    with api.database.transaction() as conn:
        conn.execute(update(i).values(status=None, answer=None))
    api.call("POST", "/records/Deal", body, status=409, headers=KEY)
    with api.database.transaction() as conn:
        conn.execute(update(i).values(created_at=later(-idempotency.LOST_S - 1)))
    api.call("POST", "/records/Deal", body, status=201, headers=KEY)


def test_a_key_is_forgotten_after_a_day(api: Api) -> None:
    api.call("POST", "/records/Deal", {"name": "Engine"}, status=201, headers=KEY)
    with api.database.transaction() as conn:
        idempotency.forget_old(conn)
        conn.execute(update(i).values(created_at=later(-86401)))
    api.call("POST", "/records/Deal", {"name": "Wheel"}, status=201, headers=KEY)
    with api.database.transaction() as conn:
        conn.execute(update(i).values(created_at=later(-86401)))
        idempotency.forget_old(conn)
    assert rows(api, i) == 0


def test_a_stored_answer_holds_no_secret_in_clear(api: Api) -> None:
    made = api.call("POST", "/webhooks", WEBHOOK | {"secret": "very-s3cret"}, status=201, headers=KEY)
    assert made["secret"] == "very-s3cret"
    assert api.call("POST", "/webhooks", WEBHOOK | {"secret": "very-s3cret"}, status=201, headers=KEY) == made
    with api.database.transaction() as conn:
        row = conn.execute(select(i)).one()
    assert all(b"s3cret" not in bytes(value) for value in row if isinstance(value, bytes | memoryview))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (KEY | {"Authorization": "Bearer hari_wrong"}, 401),
        ({"Idempotency-Key": "x" * 256}, 400),
        ({"Idempotency-Key": ""}, 400),
    ],
    ids=["a wrong API key", "too long", "empty"],
)
def test_a_bad_one_is_a_problem_and_changes_nothing(api: Api, headers: dict[str, str], status: int) -> None:
    answer = api.request("POST", "/api/v1/records/Deal", {"name": "Engine"}, headers=headers)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json")
    assert (rows(api, i), rows(api, o)) == (0, 0)
