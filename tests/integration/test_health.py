"""The health check: what it answers, and that it stays light."""

import subprocess
import sys
from pathlib import Path

import pytest

from services.cli.health import check
from shared.process import Readiness, metrics_port
from tests.servers import free_port

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_it_says_what_is_missing_until_all_is_ready(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    bind = host, free_port()
    readiness = Readiness("relay", "broker")
    assert check(bind) == 1
    with metrics_port(bind, readiness):
        readiness.set("broker", "not connected")
        assert check(bind) == 1
        readiness.set("broker", None)
        readiness.set("relay", None)
        assert check(bind) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == ["not running: ConnectionRefusedError", "relay: starting", "broker: not connected", "OK"]


def test_as_a_module_it_reads_the_bind_and_imports_only_the_standard_library() -> None:
    bind = "127.0.0.1", free_port()
    script = "import runpy, sys\ntry:\n runpy.run_module('services.cli.health', run_name='__main__')\n"
    script += "finally:\n print(*sorted(name for name in sys.modules if name.split('.')[0] in ('pydantic', 'typer')))"
    with metrics_port(bind, Readiness()):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={"HARI_METRICS_BIND": f"{bind[0]}:{bind[1]}"},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "OK\n\n", "")
