"""The README's table of settings is complete, its links lead somewhere, its snippet verifies a real request."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import WebhookVerificationError

from shared.model import Claimed
from shared.outgoing.request import build_request
from shared.settings import DEFAULT_SCHEDULE, Settings
from tests.builders import NOON, a_webhook, an_event

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "README.md").read_text()
SETTINGS = dict(re.findall(r"^\| `(HARI_[A-Z_]+)` \|(.*?)\|", TEXT, re.MULTILINE))


def _shown(value: Any) -> str:
    if value is None or value == () or value == "":
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value[0]}:{value[1]}`" if isinstance(value, tuple) else f"`{value}`"


def test_the_table_holds_every_setting_with_its_default() -> None:
    defaults = {f"HARI_{name.upper()}": _shown(field.default) for name, field in Settings.model_fields.items()}
    assert defaults["HARI_RETRY_SCHEDULE"] == f"`{DEFAULT_SCHEDULE}`"
    assert {name: cell.strip() for name, cell in SETTINGS.items()} == defaults


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/decisions.md"])
def test_every_link_inside_the_project_leads_somewhere(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_receivers_snippet_takes_our_request_and_no_other() -> None:
    [snippet] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, Any] = {}
    exec(snippet, names)
    event = an_event()
    claimed = Claimed("dlv_1", NOON.date(), 1, event.id, event.body, a_webhook(secret="s3cret"))
    request = build_request(claimed, datetime.now(UTC), version="0")
    headers = dict(request.headers)
    assert names["verified"](request.body, headers)["record"]["stage"] == "Won"
    with pytest.raises(WebhookVerificationError):
        names["verified"](request.body.replace(b"Won", b"Lost"), headers)
