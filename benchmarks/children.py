"""Child processes of the benchmark: started with their output in a file, measured, and gone at the end."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

STOP_S = 20
POLL_S = 0.01


class BenchError(Exception):
    """The benchmark cannot go on; the text says why and what to do."""


class Child:
    """A started process; `log` takes its standard error, and its output unless that is read."""

    def __init__(self, name: str, command: Sequence[str | Path], environ: Mapping[str, str], log: Path) -> None:
        self.name, self.log = name, log
        own = {key: value for key, value in os.environ.items() if not key.startswith("HARI_")}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                env=own | dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=log.parent,  # away from any .env
                start_new_session=True,  # Ctrl-C reaches us alone, and we stop the children in order
            )
        self.pid = self._process.pid

    def check(self) -> None:
        """Raises BenchError with the end of its log once it has ended."""
        if self._process.poll() is not None:
            raise BenchError(f"{self.name} ended with code {self._process.returncode}:\n{self.tail()}")

    def wait(self, within_s: float) -> None:
        """Until it ends by itself. Raises BenchError when it does not, or fails."""
        try:
            code = self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{self.name} did not end within {within_s:.0f} s:\n{self.tail()}") from None
        if code != 0:
            raise BenchError(f"{self.name} ended with code {code}:\n{self.tail()}")

    def stop(self) -> None:
        """SIGTERM, and `kill` after 20 s."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL to all of its session."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def cpu_s(self) -> float | None:
        """Processor time used so far by it and its children; None where there is no /proc."""
        if not Path("/proc/self/stat").exists():
            return None
        return sum(_ticks(pid) for pid in _descendants(self.pid)) / os.sysconf("SC_CLK_TCK")

    def tail(self, size: int = 3000) -> str:
        return self.log.read_text(errors="replace")[-size:] if self.log.exists() else ""


@contextmanager
def running(
    name: str, command: Sequence[str | Path], directory: Path, environ: Mapping[str, str] | None = None
) -> Iterator[Child]:
    """The process while the block runs; `directory` takes its log."""
    child = Child(name, command, environ or {}, directory / f"{name.replace(' ', '-')}-{time.monotonic_ns()}.log")
    try:
        yield child
    finally:
        child.stop()


def python(module: str, *words: str) -> list[str]:
    """The command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *words]


def wait_for(condition: Callable[[], bool], within_s: float, what: str, *alive: Child, poll_s: float = POLL_S) -> None:
    """Poll until `condition`. Raises BenchError at the deadline, or when one of `alive` ends."""
    until = time.monotonic() + within_s
    while not condition():
        for child in alive:
            child.check()
        if time.monotonic() > until:
            logs = "\n".join(f"--- {child.name}\n{child.tail(1500)}" for child in alive)
            raise BenchError(f"not within {within_s:.0f} s: {what}\n{logs}")
        time.sleep(poll_s)


def used_s(before_s: float | None, after_s: float | None) -> float | None:
    """Processor time between two looks; None where it is not known."""
    return None if before_s is None or after_s is None else after_s - before_s


def free_port() -> int:
    """A port nobody listens on, below the range from which outgoing connections take theirs."""
    for _ in range(200):
        port = random.randrange(10_240, 32_768)
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise BenchError("no free port between 10240 and 32767")


def _ticks(pid: int) -> int:
    with suppress(OSError):
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(words[11]) + int(words[12])
    return 0


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.parent.name))
    found = [pid]
    for known in found:  # grows while we walk it
        found.extend(children.get(known, ()))
    return found
