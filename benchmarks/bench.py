"""`hari bench`: ours, the reference and the two loops in alternating rounds on real servers, then the latency."""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import latency, loops, measure_reference, ours
from benchmarks.children import BenchError
from benchmarks.measure_reference import POOLS, QUICK_POOLS, Pool
from benchmarks.places import Place, Servers, fresh_place, servers
from benchmarks.receiver import Receiver, receiver
from benchmarks.report import Measured, Run, as_json, table
from benchmarks.work import MIX, SLOTS


@dataclass(frozen=True)
class Size:
    """How much a run does; counts are deliveries a round."""

    rounds: int
    ours: int
    reference: int
    bare: int
    lean: int
    latency_s: float
    warm_up: int
    pools: tuple[Pool, ...]


STYLES = ("plain", "tuned")
FULL = Size(5, 30_000, 1_500, 30_000, 30_000, 15.0, 400, POOLS)
QUICK = Size(1, 15_000, 600, 15_000, 15_000, 4.0, 150, QUICK_POOLS)


def main(args: list[str]) -> int:
    """Run, print the table, write the JSON; 0, or 2 with the reason on standard error."""
    options = _options(args)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything started is stopped
    try:
        run = _run(QUICK if options.quick else FULL)
    except BenchError as reason:
        print(f"hari bench: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hari bench: stopped; everything it started is gone", file=sys.stderr)
        return 130
    print(table(run))
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(run), indent=2) + "\n")
    return 0


def _options(args: list[str]) -> Any:
    parser = argparse.ArgumentParser(prog="hari bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of each, under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    return parser.parse_args(args)


def _run(size: Size) -> Run:
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {text}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="hari-bench-") as directory_name:
        directory = Path(directory_name)
        say("starting PostgreSQL, RabbitMQ and the receiver")
        with servers(os.environ) as where, receiver(directory) as endpoint:
            say(where.words)
            pools: dict[str, Pool] = {}
            for style in STYLES:
                pools[style], tried = measure_reference.best_pool(
                    where, endpoint, directory, size.pools, size.warm_up, style
                )
                found = ", ".join(f"{name} {per_s:,.0f}/s" for name, per_s in tried.items())
                say(f"reference warm-up, {style}: {found}")
            plain, tuned = (f"{name} ({processes})" for name, processes in (pools[style] for style in STYLES))
            run = Run(
                (
                    f"{MIX}; {SLOTS} POSTs in flight; {os.cpu_count()} cores for everything",
                    f"{where.words}; {endpoint.name}; reference with {plain}, tuned with {tuned}",
                )
            )
            for round_no in range(1, size.rounds + 1):
                for figure in _round(run, size, where, endpoint, pools, directory):
                    say(f"round {round_no} of {size.rounds}: {figure}")
            say("stopping and removing everything")
    return run


def _round(
    run: Run, size: Size, where: Servers, endpoint: Receiver, pools: Mapping[str, Pool], directory: Path
) -> Iterator[str]:
    """Measure each part once; yields what each found, in words."""

    def reference(place: Place, style: str) -> Measured:
        return measure_reference.measure(place, endpoint, directory, size.reference, pools[style], style)

    parts: dict[str, Callable[[Place], Measured]] = {
        "lean": lambda place: loops.measure("lean", place, endpoint, directory, size.lean),
        "bare": lambda place: loops.measure("bare", place, endpoint, directory, size.bare),
        "ours": lambda place: ours.measure(place, endpoint, directory, size.ours),
        "reference": lambda place: reference(place, "plain"),
        "tuned": lambda place: reference(place, "tuned"),
    }
    for part, measure in parts.items():
        with fresh_place(where) as place:
            found = measure(place)
        run.measured[part].append(found)
        yield f"{part} {found.per_s:,.0f}/s"
    with fresh_place(where) as place:
        last = latency.measure(place, directory, size.latency_s)
    run.latencies.append(last)
    yield f"latency p50 {last.at(0.5):.1f} ms, p99 {last.at(0.99):.1f} ms at {last.per_s:,.0f}/s"
