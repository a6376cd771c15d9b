"""What can be said of docker-compose.yml without Docker; tests/compose runs it."""

import os
import re
import runpy
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.secrets import SecretBox
from shared.settings import Settings, read_settings

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, Any] = yaml.safe_load(TEXT)["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "hari-webhooks"}
CLIENT_VARIABLES = {"HARI_API_KEY"}


def test_every_setting_in_the_file_exists() -> None:
    known = {f"HARI_{name.upper()}" for name in Settings.model_fields} | CLIENT_VARIABLES
    used = {name for service in OURS.values() for name in service.get("environment", {})}
    assert used
    assert used - known == set()


def test_every_long_running_service_has_a_health_check() -> None:
    unchecked = {name for name, service in SERVICES.items() if "test" not in service.get("healthcheck", {})}
    assert unchecked == {"migrate"}


def test_nothing_waits_on_time_or_on_a_mere_start() -> None:
    assert "sleep" not in TEXT
    conditions = {
        condition["condition"] for service in SERVICES.values() for condition in service.get("depends_on", {}).values()
    }
    assert conditions == {"service_healthy", "service_completed_successfully"}


def test_dispatchers_can_be_many() -> None:
    assert "container_name" not in TEXT
    assert "ports" not in SERVICES["dispatcher"]


def test_published_ports_are_open_to_this_host_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert [port for port in ports if "127.0.0.1:" not in port] == []


def test_the_image_runs_as_nobody_in_particular() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert re.search(r"^USER 10001:10001$", dockerfile, re.MULTILINE)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    ignore = (ROOT / ".dockerignore").read_text().split()
    assert {f"!{package}" for package in packages["packages"]} <= set(ignore)


def test_no_secret_has_a_default() -> None:
    secrets = re.findall(r"\$\{(STACK_\w+(?:PASSWORD|KEYS?))(.*?)\}", TEXT)
    required = {name for name, rest in secrets if rest.startswith(":?") and "./deploy/make-env" in rest}
    assert {name for name, _ in secrets} == required
    assert [rest for _, rest in secrets if rest.startswith(":-")] == []


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Path, Any]:
    """(exit code of make-env, the .env it made, its main to run again)."""
    script = runpy.run_path(str(ROOT / "deploy" / "make-env"))
    path = tmp_path / ".env"
    monkeypatch.setitem(script["main"].__globals__, "ENV", path)
    return script["main"](), path, script["main"]


def test_make_env_fills_what_the_file_asks_for(made: tuple[int, Path, Any]) -> None:
    code, path, _ = made
    values = dict(line.split("=", 1) for line in path.read_text().splitlines() if not line.startswith("#"))
    assert code == 0
    assert set(values) == set(re.findall(r"\$\{(STACK_\w+):\?", TEXT))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    filled = {
        name: re.sub(r"\$\{(\w+)[^}]*\}", lambda found: values.get(found[1], ""), value)
        for name, value in SERVICES["producer"]["environment"].items()
        if value is not None and name not in CLIENT_VARIABLES
    }
    settings = read_settings(filled)
    assert settings.producer_bind == ("0.0.0.0", 8080)
    assert settings.secret_keys is not None
    SecretBox((settings.secret_keys.get_secret_value(),))  # raises when it is no key


def test_make_env_leaves_an_existing_file_alone(made: tuple[int, Path, Any]) -> None:
    _, path, again = made
    before = path.read_text()
    assert again() == 1
    assert path.read_text() == before


def test_make_env_names_nothing_that_hari_up_would_read(made: tuple[int, Path, Any]) -> None:
    _, path, _ = made
    assert "\nHARI_" not in path.read_text()
