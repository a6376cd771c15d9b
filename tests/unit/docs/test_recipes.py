"""The recipes do what they say: their snippets run, their examples are what is sent, their links lead somewhere."""

import json
import re
import shutil
import subprocess
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.model import Claimed, Format
from shared.outgoing.presets import PRESETS, body_of
from shared.outgoing.request import build_request
from shared.outgoing.templates import _FILTERS, ROOTS
from tests.builders import a_webhook, an_event

RECIPES = Path(__file__).parents[3] / "docs" / "recipes"
TEXTS = {path.stem: path.read_text() for path in RECIPES.glob("*.md")}
EVENT = an_event(event_id="evt_1")
SECRETS = ["a long random value", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXTS[name], re.MULTILINE | re.DOTALL)


def node(script: str, *, given: Any) -> Any:
    """What the script prints as JSON; it finds `given` in that name."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed: the JavaScript of the recipes is not run")
    text = f"const given = {json.dumps(given)};\n{script}"
    done = subprocess.run([found, "-"], input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def signed(secret: str, old_secret: str | None = None, *, age_s: int = 0) -> tuple[dict[str, str], bytes]:
    """(headers with lower-case names, body) of a POST made `age_s` ago."""
    webhook = a_webhook(secret=secret, old_secret=old_secret)
    claimed = Claimed("dlv_a", date(2026, 1, 1), 1, "evt_1", EVENT.body, webhook)
    request = build_request(claimed, datetime.now(UTC) - timedelta(seconds=age_s), version="1")
    return {name.lower(): value for name, value in request.headers}, request.body


def cases() -> list[tuple[dict[str, str], bytes, str, bool]]:
    """(headers, body, the receiver's secret, whether it is ours)."""
    found: list[tuple[dict[str, str], bytes, str, bool]] = []
    for secret in SECRETS:
        headers, body = signed(secret)
        found += [(headers, body, secret, True), (headers, body + b" ", secret, False), (headers, body, "other", False)]
        found.append((headers | {"webhook-id": "dlv_b"}, body, secret, False))
        found += [(*signed(secret, age_s=3600), secret, False), (*signed(secret, age_s=-3600), secret, False)]
        found.append((headers | {"webhook-timestamp": "soon"}, body, secret, False))
        for gone in ("webhook-id", "webhook-timestamp", "webhook-signature"):
            found.append(({name: value for name, value in headers.items() if name != gone}, body, secret, False))
    headers, body = signed("new", "old")
    return [*found, (headers, body, "new", True), (headers, body, "old", True), ({}, b"", "new", False)]


def test_the_python_snippet_knows_ours_from_others() -> None:
    [snippet] = blocks("custom-application", "python")
    names: dict[str, Any] = {}
    exec(snippet, names)
    for headers, body, secret, ours in cases():
        assert names["is_ours"](headers, body, secret) is ours, (headers, secret)


def test_the_node_snippet_knows_ours_from_others() -> None:
    [snippet] = blocks("custom-application", "js")
    given = [[headers, body.decode(), secret] for headers, body, secret, _ in cases()]
    ask = "given.map(([headers, body, secret]) => isOurs(headers, Buffer.from(body), secret))"
    found = node(f"{snippet}\nconsole.log(JSON.stringify({ask}));", given=given)
    assert found == [ours for *_, ours in cases()]


SHEETS = """
const rows = [], log = [];
let locked = 0;
const sheet = {
  getLastRow: () => rows.length,
  appendRow: (row) => { if (locked !== 1) throw new Error("not locked"); rows.push(row); },
  getRange: (range) => {
    if (range !== "A:A") throw new Error(range);
    return { createTextFinder: (text) => ({ matchEntireCell: (entire) => ({
      findNext: () => rows.find((row) => (entire ? row[0] === text : row[0].includes(text))) || null }) }) };
  },
};
const SpreadsheetApp = { getActiveSpreadsheet: () => ({ getSheets: () => [sheet] }) };
const lock = { waitLock: () => { locked += 1; }, releaseLock: () => { locked -= 1; } };
const LockService = { getScriptLock: () => lock };
const properties = { getProperty: (name) => (name === "SECRET" ? given.secret : null) };
const PropertiesService = { getScriptProperties: () => properties };
const ContentService = { createTextOutput: (text) => text };
"""


def sheet_after(bodies: list[bytes], secret: str | None = "s3cret") -> tuple[list[str], list[list[Any]]]:
    """(what the script answered each, the sheet's rows)."""
    posts = "given.bodies.map((contents) => doPost({ postData: { contents } }))"
    script = (RECIPES / "google-sheets.gs").read_text()
    given = {"bodies": [body.decode() for body in bodies], "secret": secret}
    found = node(f"{SHEETS}{script}\nconst a = {posts};\nconsole.log(JSON.stringify([a, rows, locked]));", given=given)
    assert found[2] == 0
    return found[0], found[1]


def google(event: Any = EVENT, secret: str | None = "s3cret") -> bytes:
    return body_of(Format("google-apps-script"), event.body, secret)


def test_the_apps_script_adds_one_row_for_an_event_however_often_it_comes() -> None:
    other = an_event(event_id="evt_12", record={"name": '=IMPORTXML("https://evil.test")', "amount": -5})
    answers, rows = sheet_after([google(), google(), google(other)])
    assert answers == ["ok"] * 3
    assert [row[0] for row in rows] == ["id", "evt_1", "evt_12"]
    assert rows[1][2:] == ["updated", "rec_1", "Engine", "Won", "", "Ada Lovelace"]
    assert rows[2][4:7] == ['\'=IMPORTXML("https://evil.test")', "Won", -5]


@pytest.mark.parametrize(("sent", "kept"), [("wrong", "s3cret"), (None, "s3cret"), (None, None), ("x", None)])
def test_the_apps_script_refuses_another_secret(sent: str | None, kept: str | None) -> None:
    assert sheet_after([google(secret=sent)], kept) == (["wrong secret"], [])


@pytest.mark.parametrize("preset", ["slack", "zapier"])
def test_the_example_is_what_is_sent(preset: str) -> None:
    [example] = blocks(preset, "json")
    assert json.loads(example) == json.loads(body_of(Format(preset), EVENT.body, None))


def test_every_preset_root_and_filter_is_explained() -> None:
    text = TEXTS["custom-application"]
    assert [name for name in (*PRESETS, *ROOTS, *_FILTERS) if not re.search(rf"`{name}[`:]", text)] == []


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_every_link_leads_somewhere(name: str) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", TEXTS[name])
    assert [link for link in links if not (RECIPES / link).exists()] == []
