"""Figures from measurements: medians, spread, the table and the JSON. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

PARTS = {
    "ours": "HARi: one dispatcher",
    "reference": "reference: Celery, requests, SQLAlchemy",
    "tuned": "the same with kept connections",
    "bare": "bare loop: HARi without the protocol",
    "lean": "lean loop: pika and libcurl, no more",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """`count` deliveries took `seconds` from the first to the last; `cpu_s` of the process that made them."""

    count: int
    seconds: float
    cpu_s: float | None = None

    @property
    def per_s(self) -> float:
        return self.count / self.seconds


@dataclass(frozen=True, slots=True)
class Latency:
    """Commit to POST received, in ms, one value a delivery, and the rate that was really reached."""

    values_ms: Sequence[float]
    per_s: float

    def at(self, share: float) -> float:
        return percentile(self.values_ms, share)


@dataclass(frozen=True)
class Run:
    """Everything one `hari bench` measured: a list a part, one entry a round."""

    setup: Sequence[str]
    measured: Mapping[str, list[Measured]] = field(default_factory=lambda: {part: [] for part in PARTS})
    latencies: list[Latency] = field(default_factory=list)

    def per_s(self, part: str) -> list[float]:
        return [one.per_s for one in self.measured[part]]

    def cpu_us(self, part: str) -> float | None:
        """Processor time of the sending process a delivery, in microseconds."""
        used = [one.cpu_s / one.count * 1e6 for one in self.measured[part] if one.cpu_s is not None]
        return median(used) if used else None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed. Raises ValueError if there are none."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    rank = -(-len(ordered) * share // 1)
    return ordered[max(0, int(rank) - 1)]


def as_json(run: Run) -> dict[str, Any]:
    """The figures under the names that scripts rely on: rates are medians of the rounds, ratios are between medians."""
    ours, reference, tuned, bare, lean = (median(run.per_s(part)) for part in PARTS)
    found: dict[str, Any] = {
        "ours_per_s": round(ours, 1),
        "reference_per_s": round(reference, 1),
        "tuned_per_s": round(tuned, 1),
        "bare_per_s": round(bare, 1),
        "lean_per_s": round(lean, 1),
        "ratio_to_reference": round(ours / reference, 2),
        "ratio_to_tuned": round(ours / tuned, 2),
        "share_of_bare": round(ours / bare, 3),
        "share_of_lean": round(ours / lean, 3),
        "latency_ms": {
            "p50": round(median(one.at(0.5) for one in run.latencies), 2),
            "p99": round(median(one.at(0.99) for one in run.latencies), 2),
        },
        "latency_at_per_s": round(median(one.per_s for one in run.latencies), 1),
        "rounds": len(run.latencies),
        "spread": {part: [round(min(run.per_s(part)), 1), round(max(run.per_s(part)), 1)] for part in PARTS},
        "cpu_us": {part: None if (cpu := run.cpu_us(part)) is None else round(cpu, 1) for part in PARTS},
        "setup": list(run.setup),
    }
    return found


def table(run: Run) -> str:
    """What the terminal shows."""
    found = as_json(run)
    lines = [*run.setup, "", f"{'':42}{'deliveries/s':>13}{'lowest':>9}{'highest':>9}{'CPU µs each':>13}"]
    for part, words in PARTS.items():
        low, high = found["spread"][part]
        cpu = "" if found["cpu_us"][part] is None else f"{found['cpu_us'][part]:,.0f}"
        lines.append(f"{words:42}{found[f'{part}_per_s']:13,.0f}{low:9,.0f}{high:9,.0f}{cpu:>13}")
    latency = found["latency_ms"]
    at = found["latency_at_per_s"]
    lines += [
        "",
        f"commit to POST received at {at:,.0f} deliveries/s: p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms",
        closing_line(found),
    ]
    return "\n".join(lines)


def closing_line(found: Mapping[str, Any]) -> str:
    return (
        f"{found['ours_per_s']:,.0f} deliveries/s: {found['ratio_to_reference']:.1f} x the reference "
        f"({found['ratio_to_tuned']:.1f} x the tuned one), "
        f"{found['share_of_bare']:.0%} of the bare loop, {found['share_of_lean']:.0%} of the lean one "
        f"(medians of {found['rounds']})"
    )
