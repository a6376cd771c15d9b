"""Private server processes that cannot outlive the test run, however it ends."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path


class CannotHave(Exception):
    """This source cannot give the server; the text says why."""


# Reads until the test process is gone (its end of the pipe closes even on SIGKILL), then kills the group it leads and
# removes the directory. A child does that from a group of its own, so that it does not kill itself first.
_LEASH = """
import os, shutil, signal, sys, time
sys.stdin.buffer.read()
group = os.getpgrp()
if os.fork() == 0:
    os.setpgid(0, 0)
    for _ in range(50):
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    os._exit(0)
os.wait()
"""


class Group:
    """Processes in one process group, and the temporary directory they work in."""

    def __init__(self, name: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"hari-test-{name}-"))
        self.directory.chmod(0o755)  # a server may run as another user than we do
        self._leash = subprocess.Popen(
            [sys.executable, "-c", _LEASH, str(self.directory)], stdin=subprocess.PIPE, process_group=0
        )
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, command: Sequence[str | Path], environ: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start `command` in the group, its output appended to `log`."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                [str(word) for word in command],
                env=dict(environ),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=self._leash.pid,
            )
        self._started.append(process)
        return process

    def kill(self) -> None:
        """SIGKILL everything started here with all its descendants, and wait until it is gone."""
        pids = _descendants([process.pid for process in self._started])
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._started:
            process.wait()
        self._started.clear()
        until = time.monotonic() + 10
        while any(_lives(pid) for pid in pids) and time.monotonic() < until:
            time.sleep(0.01)

    def close(self) -> None:
        """Kill everything and remove the directory; a second time does nothing."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        self._leash.kill()
        self._leash.communicate()


def free_port() -> int:
    """A port nobody listens on, below the range from which outgoing connections take theirs."""
    for _ in range(200):
        port = random.randrange(10_240, 32_768)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise CannotHave("no free port between 10240 and 32767")


def last_lines(log: Path, count: int = 15) -> str:
    """The end of a server's log, for the message that it did not start."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:]) if log.exists() else "(no output)"


def _descendants(pids: list[int]) -> list[int]:
    """`pids` and every process below them. Without /proc (macOS): `pids` alone; servers take their children along."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.parent.name))
    found = list(pids)
    for pid in found:  # grows while we walk it
        found.extend(children.get(pid, ()))
    return found


def _lives(pid: int) -> bool:
    """Whether the process runs; a zombie, which only waits for its parent to look, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
