"""docker-compose.yml for real: the README's own Docker commands lead to a delivered webhook, with three dispatchers.

Needs a Docker engine and takes minutes: `./hari test compose` runs it. The stack has names, secrets and a port of its
own; the image `hari-webhooks` is built from this checkout.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.servers import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
BLOCKS: list[str] = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


class Compose:
    """One stack: runs commands where its variables are set."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("HARI_")} | environ

    def sh(self, script: str, within_s: float = 600) -> str:
        """The output of this script in the checkout; what the webhooks may call stays set for the next one."""
        done = subprocess.run(
            ["bash", "-euc", script], cwd=ROOT, env=self.environ, capture_output=True, text=True, timeout=within_s
        )
        assert done.returncode == 0, f"{script}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        if exported := re.search(r"export (HARI_EGRESS_ALLOW)=(\S+)", script):
            self.environ[exported[1]] = exported[2]
        return done.stdout

    def hari(self, command: str) -> Any:
        """The JSON that this `hari` command prints in the producer's container."""
        return json.loads(self.sh(f"docker compose exec producer hari {command} --json"))

    def received(self) -> list[Any]:
        """The payloads that the receiver has printed so far."""
        lines = self.sh("docker compose logs --no-log-prefix receiver").splitlines()
        return [json.loads(json.loads(line[line.index("{") :])["body"]) for line in lines if "{" in line]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """Nothing runs yet; what the tests start is removed at the end, volumes included."""
    trouble = _no_docker()
    if trouble:
        pytest.skip(f"needs a Docker engine with compose: {trouble}")
    directory = tmp_path_factory.mktemp("compose")
    (directory / "deploy").mkdir()
    # The script writes .env beside itself: a copy leaves the checkout's own alone.
    script = shutil.copy(ROOT / "deploy" / "make-env", directory / "deploy" / "make-env")
    subprocess.run([script], check=True)
    lines = [line for line in (directory / ".env").read_text().splitlines() if not line.startswith("#")]
    names = {"COMPOSE_PROJECT_NAME": f"hari-test-{secrets.token_hex(3)}", "STACK_API": f"127.0.0.1:{free_port()}"}
    compose = Compose(dict(line.split("=", 1) for line in lines) | names)
    compose.sh("docker compose build --quiet migrate", within_s=1200)
    try:
        yield compose
    finally:
        compose.sh("docker compose --profile demo down -v --timeout 50")


def _no_docker() -> str | None:
    """Why compose cannot run here, or None."""
    for command in (["docker", "version"], ["docker", "compose", "version"]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except OSError as error:
            return f"{' '.join(command)}: {error.strerror}"
        if done.returncode != 0:
            return f"{' '.join(command)}: {(done.stderr or done.stdout).strip().splitlines()[-1]}"
    return None


@pytest.fixture(scope="module")
def running(stack: Compose) -> Compose:
    """The stack after the README's commands, the demo's receiver among them."""
    scripts = [block for block in BLOCKS if "docker " in block]
    assert len(scripts) == 2
    for script in scripts:
        stack.sh(script.replace("./deploy/make-env\n", ""))
    return stack


def test_without_secrets_it_says_how_to_make_them(stack: Compose) -> None:
    environ = {name: value for name, value in stack.environ.items() if not name.startswith("STACK_")}
    done = subprocess.run(
        ["docker", "compose", "--env-file", os.devnull, "config", "-q"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "./deploy/make-env" in done.stderr


def test_the_readmes_commands_deliver(running: Compose) -> None:
    eventually(lambda: [p["record"]["name"] for p in running.received()] == ["Rocket skates"], 30)
    [listed] = eventually(lambda: running.hari("delivery list --state delivered")["data"], 30)
    running.hari(f"record change Deal {listed['record_id']} stage=Won")
    changed = eventually(lambda: running.received()[1:], 30)
    assert [(p["event"], p["changed"], p["previous"]) for p in changed] == [("updated", ["stage"], {"stage": "Offer"})]


def test_three_dispatchers_and_all_else_are_healthy(running: Compose) -> None:
    lines = running.sh("docker compose ps --format json").splitlines()
    states = sorted((row["Service"], row["Health"]) for row in map(json.loads, lines))
    others = ["postgres", "producer", "rabbitmq", "receiver", "relay"]
    assert states == sorted((name, "healthy") for name in ["dispatcher"] * 3 + others)


def test_nothing_of_ours_runs_as_root(running: Compose) -> None:
    users = {name: running.sh(f"docker compose exec {name} id -u").strip() for name in ("producer", "dispatcher")}
    assert users == {"producer": "10001", "dispatcher": "10001"}


def test_a_dispatcher_stops_in_good_order(running: Compose) -> None:
    running.sh("docker compose stop --timeout 50 dispatcher")
    lines = running.sh("docker compose ps --all --format json dispatcher").splitlines()
    assert [row["ExitCode"] for row in map(json.loads, lines)] == [0, 0, 0]
