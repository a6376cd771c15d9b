"""Every dependency stands in docs/decisions.md with its reason, and nothing stands there that is gone."""

import re
import tomllib
from pathlib import Path

from shared.broker.topology import wait_lanes_ms
from shared.settings import read_settings

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "decisions.md").read_text()
SECTION = TEXT.partition("\n## Dependencies\n")[2].partition("\n## ")[0]
ROWS = re.findall(r"^\| ([a-z0-9-]+) \| (.+) \| (.+) \|$", SECTION, re.MULTILINE)


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[\[>=<~! ]", requirement)[0] for requirement in project["dependencies"]}
    assert {name for name, _, _ in ROWS if re.search("[a-z]", name) and name != "library"} == declared


def test_the_place_of_a_dependency_exists() -> None:
    places = [place for _, _, cell in ROWS for place in re.findall(r"`([a-z_]+/[a-z_/.]*)`", cell)]
    assert places
    assert [place for place in places if not (ROOT / place).exists()] == []


def test_the_default_schedule_has_so_many_wait_queues() -> None:
    assert f"{len(wait_lanes_ms(read_settings({}).retry_schedule))} queues for the default schedule" in TEXT
