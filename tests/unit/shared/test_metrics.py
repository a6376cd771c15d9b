"""A histogram fed in batches shows what one fed value by value shows."""

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from shared.metrics import BatchHistogram

BUCKETS = (0.005, 0.01, 1, 30)
VALUES = (0.0, 0.005, 0.0051, 0.01, 0.5, 1, 29.9, 31, 1000)


def test_many_values_at_once_count_as_each_alone() -> None:
    alone, together = CollectorRegistry(), CollectorRegistry()
    one = Histogram("hari_test_seconds", "A test.", buckets=BUCKETS, registry=alone)
    many = BatchHistogram("hari_test_seconds", "A test.", buckets=BUCKETS, registry=together)
    for value in VALUES:
        one.observe(value)
    many.observe_many(VALUES)
    assert generate_latest(together) == generate_latest(alone)
