"""docs/openapi.json is what the application says of itself. To write it anew: python -m tests.unit.docs.test_openapi"""

import json
from pathlib import Path
from typing import Any

from services.producer.app import create_app

DOCUMENT = Path(__file__).parents[3] / "docs" / "openapi.json"
METHODS = {"get", "post", "put", "patch", "delete"}


def current() -> str:
    """The document as the application makes it."""
    nothing: Any = None
    return json.dumps(create_app(nothing).openapi(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def test_the_committed_document_is_the_current_one() -> None:
    assert DOCUMENT.read_text() == current(), "run: python -m tests.unit.docs.test_openapi"


def test_every_call_of_the_contract_is_there() -> None:
    paths = json.loads(current())["paths"]
    calls = {(method, path) for path, methods in paths.items() for method in methods if method in METHODS}
    expected = {
        *(("post", f"/api/v1/{path}") for path in ("replays", "dead/redrive", "webhooks/dry-run", "hooks", "keys")),
        *(("get", f"/api/v1/{path}") for path in ("dead", "hooks/sample", "events/{event_id}/explain", "keys")),
        ("post", "/api/v1/deliveries/{delivery_id}/resend"),
        ("delete", "/api/v1/hooks/{hook_id}"),
    }
    assert expected <= calls


def test_every_reference_leads_somewhere() -> None:
    document = json.loads(current())
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert names <= set(document["components"]["schemas"])
    assert "#/$defs/" not in text


if __name__ == "__main__":
    DOCUMENT.write_text(current())
