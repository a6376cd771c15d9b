"""The figures: percentiles, the keys that scripts rely on, the closing line."""

import orjson
import pytest

from benchmarks.report import PARTS, Latency, Measured, Run, as_json, percentile, table
from benchmarks.work import ENTITIES, FAN_OUT, RECORD_BYTES, TRIGGERS, WEBHOOK_COUNT, event
from shared.model import TRIGGERS_OF


def a_run() -> Run:
    run = Run(("two cores",))
    run.measured["ours"].extend([Measured(1_000, 0.5, 0.2), Measured(1_000, 0.25, 0.2), Measured(1_000, 1.0, 0.2)])
    run.measured["reference"].append(Measured(100, 1.0))
    run.measured["tuned"].append(Measured(200, 1.0))
    run.measured["bare"].append(Measured(4_000, 1.0, 0.4))
    run.measured["lean"].append(Measured(8_000, 1.0, 0.4))
    run.latencies.append(Latency([1.0] * 98 + [7.0, 9.0], 500.0))
    return run


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        pytest.param([5.0], 0.99, 5.0, id="one value is every percentile"),
        pytest.param([3.0, 1.0, 2.0, 4.0], 0.5, 2.0, id="the lower one of two middles"),
        pytest.param(list(map(float, range(1, 101))), 0.99, 99.0, id="p99 of 100 is the 99th"),
        pytest.param([1.0, 2.0], 1.0, 2.0, id="p100 is the greatest"),
    ],
)
def test_percentile(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_json_holds_medians_under_fixed_names() -> None:
    found = as_json(a_run())
    assert found["ours_per_s"] == 2_000
    assert found["reference_per_s"] == 100
    assert found["bare_per_s"] == 4_000
    assert found["ratio_to_reference"] == 20
    assert found["ratio_to_tuned"] == 10
    assert found["share_of_bare"] == 0.5
    assert found["lean_per_s"] == 8_000
    assert found["share_of_lean"] == 0.25
    assert found["latency_ms"] == {"p50": 1.0, "p99": 7.0}
    assert found["spread"]["ours"] == [1_000, 4_000]
    assert found["cpu_us"] == {"ours": 200, "reference": None, "tuned": None, "bare": 100, "lean": 50}


def test_table_ends_with_the_closing_line() -> None:
    last = table(a_run()).splitlines()[-1]
    assert last == (
        "2,000 deliveries/s: 20.0 x the reference (10.0 x the tuned one), 50% of the bare loop, 25% of the lean one "
        "(medians of 1)"
    )


def test_table_has_a_line_for_each_part() -> None:
    lines = table(a_run()).splitlines()
    shown = {words: line.split()[-4:] for line in lines for words in PARTS.values() if line.startswith(words)}
    assert shown[PARTS["ours"]] == ["2,000", "1,000", "4,000", "200"]
    assert shown[PARTS["bare"]] == ["4,000", "4,000", "4,000", "100"]
    assert shown[PARTS["lean"]] == ["8,000", "8,000", "8,000", "50"]


def test_every_event_is_a_record_of_1_kb_that_three_of_its_webhooks_want() -> None:
    assert WEBHOOK_COUNT == 64
    for no in (0, 7, 31_999):
        made = event(no)
        assert len(orjson.dumps(made.payload["record"])) == RECORD_BYTES
        assert made.entity in {entity.name for entity in ENTITIES}
        assert sum(trigger in TRIGGERS_OF[made.change] for trigger in TRIGGERS) == FAN_OUT
