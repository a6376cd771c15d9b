"""How often Send test looks for its answer."""

from itertools import accumulate, islice, pairwise, takewhile

from services.producer.send_test import pauses_s


def test_the_first_looks_come_quickly_and_later_ones_ever_more_rarely() -> None:
    pauses = list(islice(pauses_s(), 200))
    assert pauses[0] <= 0.02
    assert all(before <= after <= 0.25 for before, after in pairwise(pauses))
    assert len(list(takewhile(lambda passed_s: passed_s < 15, accumulate(pauses)))) < 100
