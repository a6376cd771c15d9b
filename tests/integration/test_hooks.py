"""REST Hooks: subscribe, sample, unsubscribe."""

from collections.abc import Iterator

import pytest

from services.producer import shapes
from tests.api import Api, errors


@pytest.fixture(params=["sqlite", "postgresql"])
def api(request: pytest.FixtureRequest) -> Iterator[Api]:
    api = Api(request.getfixturevalue(f"{request.param}_database_url"))
    yield api
    api.close()


def test_a_hook_is_a_webhook(api: Api) -> None:
    body = {"target_url": "https://example.com/hooks/1", "entity": "Deal", "event": "update"}
    made = api.call("POST", "/hooks", body, status=201)
    shapes.Hook.model_validate(made)
    [webhook] = api.call("GET", "/webhooks")["data"]
    assert (webhook["id"], webhook["url"], webhook["name"]) == (
        made["id"],
        "https://example.com/hooks/1",
        "REST hook: Deal update",
    )
    assert (webhook["entity"], webhook["event"], webhook["has_secret"]) == ("Deal", "update", False)
    assert api.notified == ["webhooks"]
    api.call("DELETE", f"/hooks/{made['id']}", status=204)
    api.call("DELETE", f"/hooks/{made['id']}", status=404)
    assert api.call("GET", "/webhooks")["data"] == []


def test_a_sample_is_a_bare_array_of_payloads(api: Api) -> None:
    [payload] = api.call("GET", "/hooks/sample", params={"entity": "Deal", "event": "update"})
    assert (payload["entity"], payload["event"], "test" in payload) == ("Deal", "updated", False)
    assert payload["record"]["id"]
    assert payload["changed"] == list(payload["previous"])
    [payload] = api.call("GET", "/hooks/sample", params={"entity": "Deal", "event": "create"})
    assert payload["event"] == "created"


def test_bad_hooks_name_their_own_fields(api: Api) -> None:
    assert set(errors(api.call("POST", "/hooks", {}, status=422))) == {"/target_url", "/entity", "/event"}
    body = {"target_url": "https://10.0.0.1/", "entity": "Deal", "event": "update"}
    assert set(errors(api.call("POST", "/hooks", body, status=422))) == {"/target_url"}
    assert set(errors(api.call("GET", "/hooks/sample", status=422))) == {"/entity", "/event"}
    wrong = {"entity": "Nothing", "event": "save"}
    assert set(errors(api.call("GET", "/hooks/sample", params=wrong, status=422))) == {"/entity"}
