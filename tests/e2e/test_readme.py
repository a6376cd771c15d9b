"""Every command that README.md and CONTRIBUTING.md show is run, as it stands there, on free ports in a fresh directory.

Those of Docker are run by tests/compose.
"""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.servers import free_port
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
DOCKER = ("docker ", "./deploy/make-env", "export HARI_EGRESS_ALLOW")


def commands(text: str) -> list[str]:
    """The commands of the `sh` blocks, in order; what is continued on the next line is one."""
    blocks: list[str] = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    found: list[str] = []
    for line in "".join(blocks).splitlines():
        whole = found and (found[-1].endswith("\\") or found[-1].count("'") % 2)
        found[-1:] = [f"{found[-1]}\n{line}"] if whole else [*found[-1:], line]
    return found


class Shell:
    """Runs commands of the page in a directory of their own; a checkout's paths and the page's ports are replaced."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.api_port, self.endpoint_port, metrics_port = free_port(), free_port(), free_port()
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith("HARI_")} | {
            "HARI_PRODUCER_BIND": f"127.0.0.1:{self.api_port}",
            "HARI_METRICS_BIND": f"127.0.0.1:{metrics_port}",
            "NO_COLOR": "1",
        }

    def _here(self, command: str) -> str:
        python = shlex.quote(sys.executable)
        command = re.sub(r"^\./hari ", f"{python} -m services.cli ", command)
        command = re.sub(r"^python3 ", f"{python} {shlex.quote(str(ROOT))}/", command)
        return command.replace(":8080", f":{self.api_port}").replace(":8090", f":{self.endpoint_port}")

    def run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-euc", self._here(command)],
            cwd=self.directory,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, command: str, output: Path) -> Iterator[None]:
        """The command runs until the end of the block, where SIGTERM must end it."""
        with output.open("w") as log:
            process = subprocess.Popen(
                shlex.split(self._here(command)), cwd=self.directory, env=self._environ, stdout=log, stderr=log
            )
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_no_command_is_left_out() -> None:
    shown = [*commands(TEXT), *commands((ROOT / "CONTRIBUTING.md").read_text())]
    assert [command for command in shown if not command.startswith(("./hari ", "python3 ", "curl ", *DOCKER))] == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README uses curl")
def test_the_readmes_commands_lead_to_deliveries(tmp_path: Path) -> None:
    shell, endpoint = Shell(tmp_path), tmp_path / "endpoint"
    shown = [command for command in commands(TEXT) if not command.startswith((*DOCKER, "./hari demo"))]
    with ExitStack() as until_the_end:
        for command in shown:
            if command == "./hari up":
                until_the_end.enter_context(shell.running(command, tmp_path / "up"))
                eventually(lambda: "hari: ready" in (tmp_path / "up").read_text(), 30, "hari up")
            elif command.startswith("python3 "):
                until_the_end.enter_context(shell.running(command, endpoint))
                eventually(lambda: _listens(shell.endpoint_port), 10, "the endpoint")
            else:
                shell.run(command)
        eventually(lambda: len(endpoint.read_text().splitlines()) == 2, 20, "the record and the event arrive")
        eventually(lambda: shell.run("./hari delivery list").count(" delivered ") == 2, 20)
    assert "Rocket skates" in endpoint.read_text()
    assert "crm-1842-7" in endpoint.read_text()


def test_the_demo_ends_well_and_shows_what_the_readme_shows(tmp_path: Path) -> None:
    output = Shell(tmp_path).run("./hari demo")
    sample = TEXT.partition("```text\n")[2].partition("```")[0]
    steps = re.findall(r"^\d\. [a-z' ]+", sample, re.MULTILINE | re.IGNORECASE)
    assert len(steps) == 6
    assert [step for step in steps if step not in output] == [], output
