"""The product's processes as subprocesses, to start, stop, kill and look at."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import requests

from shared.secrets import new_key
from tests.servers import free_port
from tests.waiting import eventually


class Process:
    """One `hari` process with its settings, its log and its port for metrics and health."""

    def __init__(self, role: str, environ: Mapping[str, str], directory: Path) -> None:
        self.role = role
        self.metrics_port = free_port()
        self.log = directory / f"{role}-{secrets.token_hex(3)}.log"
        self._environ = {key: value for key, value in os.environ.items() if not key.startswith("HARI_")}
        self._environ |= environ | {"HARI_METRICS_BIND": f"127.0.0.1:{self.metrics_port}", "HARI_LOG_FORMAT": "json"}
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.cli", role],
                env=self._environ,
                stdout=output,
                stderr=output,
                cwd=directory,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self) -> bool:
        return self._process.poll() is not None

    def ready(self) -> bool:
        """Whether its own health port says so. Raises AssertionError once it has ended by itself."""
        if self._process.poll() is not None:
            raise RuntimeError(f"hari {self.role} ended with {self._process.returncode}: {self.tail()}")
        try:
            return requests.get(f"http://127.0.0.1:{self.metrics_port}/readyz", timeout=2).ok
        except requests.RequestException:
            return False

    def wait_ready(self, within_s: float = 30) -> "Process":
        eventually(self.ready, within_s, f"hari {self.role} ready")
        return self

    def metric(self, name: str) -> float:
        """The sum of this metric's samples."""
        text = requests.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5).text
        rows = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in rows)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    def stop(self, within_s: float = 30) -> int:
        """SIGTERM; returns the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(within_s)

    def tail(self, size: int = 2000) -> str:
        return self.log.read_text()[-size:] if self.log.exists() else ""


class Stack:
    """Several processes with the same settings; everything still running is killed at the end of the block."""

    def __init__(self, environ: Mapping[str, str], directory: Path) -> None:
        self.environ = dict(environ)
        self.directory = directory
        self.processes: list[Process] = []

    def __enter__(self) -> "Stack":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if not process.ended():
                process.kill()

    def start(self, role: str, **settings: str) -> Process:
        """Start one more process of this role; returns at once."""
        process = Process(role, self.environ | settings, self.directory)
        self.processes.append(process)
        return process


def settings_for(database_url: str, broker_url: str, queue_prefix: str, **settings: str) -> dict[str, str]:
    """Settings for real servers, with the test suite's short times."""
    return {
        "HARI_DATABASE_URL": database_url,
        "HARI_BROKER_URL": broker_url,
        "HARI_QUEUE_PREFIX": queue_prefix,
        "HARI_SECRET_KEYS": new_key(),
        "HARI_EGRESS_ALLOW": "127.0.0.0/8",
    } | settings
