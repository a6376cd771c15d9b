"""`hari test`: the whole suite in phases; each prints its time, and the first lines of trouble stand last."""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(os.environ.get("HARI_CHECKOUT", Path(__file__).resolve().parents[2]))
PYTEST = (sys.executable, "-m", "pytest", "-q")

# Phase -> its commands. They run in this order; the servers are found or made by tests/servers.
PHASES: dict[str, list[tuple[str, ...]]] = {
    "lint": [
        (sys.executable, "-m", "ruff", "check", "."),
        (sys.executable, "-m", "ruff", "format", "--check", "."),
        (sys.executable, "-m", "mypy"),
        (str(Path(sys.executable).with_name("lint-imports")),),
    ],
    "unit": [(*PYTEST, "tests/unit")],
    "integration": [(*PYTEST, "tests/integration")],
    "e2e": [(*PYTEST, "tests/e2e")],
    "browser": [(*PYTEST, "tests/browser")],
    "faults": [(*PYTEST, "tests/faults")],
    "compose": [(*PYTEST, "tests/compose")],
}
ON_REQUEST = ("compose",)  # needs a Docker engine, and minutes


def run(only: list[str]) -> int:
    """Run these phases (without: all that need no request); returns 0 when every command did."""
    unknown = set(only) - set(PHASES)
    if unknown:
        print(f"hari: no phase {', '.join(sorted(unknown))}; there are {', '.join(PHASES)}", file=sys.stderr)
        return 2
    failed, times = [], []
    for phase in only or [phase for phase in PHASES if phase not in ON_REQUEST]:
        started = time.monotonic()
        print(f"== {phase}", flush=True)
        statuses = [subprocess.run(command, cwd=ROOT).returncode for command in PHASES[phase]]
        if any(statuses):
            failed.append(phase)
        times.append(f"{phase} {time.monotonic() - started:.0f} s")
        print(f"== {phase}: {'FAILED' if phase in failed else 'ok'}, {times[-1]}", flush=True)
    print(f"hari test: {', '.join(times)}" + (f"; FAILED: {', '.join(failed)}" if failed else "; all passed"))
    return 1 if failed else 0
