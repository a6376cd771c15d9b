"""API keys and their roles: what each may call, on SQLite and on PostgreSQL."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from sqlalchemy import select

from services.producer import shapes
from shared.tables import api_keys
from tests.api import Api, errors

VIEWER_POSTS = {"/api/v1/webhooks/dry-run"}
OPERATOR_CALLS = {
    ("post", "/api/v1/records/{entity}"),
    ("patch", "/api/v1/records/{entity}/{record_id}"),
    ("delete", "/api/v1/records/{entity}/{record_id}"),
    ("post", "/api/v1/events"),
    ("post", "/api/v1/webhooks/{webhook_id}/test"),
    ("post", "/api/v1/deliveries/{delivery_id}/resend"),
    ("post", "/api/v1/dead/redrive"),
    ("post", "/api/v1/replays"),
}


@pytest.fixture(params=["sqlite", "postgresql"])
def api(request: pytest.FixtureRequest) -> Iterator[Api]:
    api = Api(request.getfixturevalue(f"{request.param}_database_url"))
    yield api
    api.close()


def a_key(api: Api, role: str) -> Any:
    return api.call("POST", "/keys", {"name": f"the {role}", "role": role}, status=201)


def test_a_key_is_made_listed_and_revoked(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.producer.auth.REMEMBERED_S", 0.0)
    made = a_key(api, "operator")
    shapes.ApiKey.model_validate(made)
    assert re.fullmatch(r"hari_[A-Za-z0-9_-]{43}", made["key"])
    page = api.call("GET", "/keys")
    shapes.Page[shapes.ApiKey].model_validate(page)
    assert [(key["name"], key["role"]) for key in page["data"]] == [
        ("the operator", "operator"),
        ("bootstrap", "admin"),
    ]
    assert made["key"] not in str(page)
    mine = {"Authorization": f"Bearer {made['key']}"}
    assert api.request("GET", "/api/v1/webhooks", headers=mine).status_code == 200
    api.call("DELETE", f"/keys/{made['id']}", status=204)
    assert api.request("GET", "/api/v1/webhooks", headers=mine).status_code == 401
    api.call("DELETE", f"/keys/{made['id']}", status=404)
    shapes.Page[shapes.ApiKey].model_validate(api.call("GET", "/keys"))
    with api.database.transaction() as conn:
        assert made["key"].encode() not in b"".join(conn.execute(select(api_keys.c.key_hash)).scalars())


def test_the_last_admin_stays(api: Api) -> None:
    [first] = api.call("GET", "/keys")["data"]
    a_key(api, "operator")
    assert "last key of an admin" in api.call("DELETE", f"/keys/{first['id']}", status=409)["detail"]
    other = a_key(api, "admin")
    api.call("DELETE", f"/keys/{other['id']}", status=204)


def test_a_key_needs_a_name_and_a_role(api: Api) -> None:
    assert set(errors(api.call("POST", "/keys", {}, status=422))) == {"/name", "/role"}
    assert set(errors(api.call("POST", "/keys", {"name": " ", "role": "viewer"}, status=422))) == {"/name"}
    assert set(errors(api.call("POST", "/keys", {"name": "x", "role": "root"}, status=422))) == {"/role"}


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_every_route_keeps_to_the_roles(api: Api, role: str) -> None:
    headers = {"Authorization": f"Bearer {a_key(api, role)['key']}"}
    document = requests.get(f"{api.url}/openapi.json", timeout=20).json()
    calls = [(method, path) for path, methods in document["paths"].items() for method in methods]
    assert len(calls) >= 24
    for method, path in calls:
        allowed = (method == "get" and not path.startswith("/api/v1/keys")) or path in VIEWER_POSTS
        allowed |= role == "operator" and (method, path) in OPERATOR_CALLS
        answer = requests.request(method, api.url + re.sub(r"{\w+}", "x", path), headers=headers, timeout=20)
        assert (answer.status_code != 403) is allowed, (method, path, answer.text)
        if not allowed:
            assert f"this one is {role}" in answer.json()["detail"]
