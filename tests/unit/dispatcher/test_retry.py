"""What follows an attempt, as tables."""

import pytest

from services.dispatcher.retry import decide, decide_unknown
from shared.model import Dead, Decision, Delivered, Outcome, Postpone, Problem, Retry

WAITS_S = (5.0, 30.0, 3600.0, 10_800.0)
MIDDLE = 0.5
DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("outcome", "failures", "chance", "expected"),
    [
        pytest.param(Outcome(status=200), 0, MIDDLE, Delivered(), id="200 is delivered"),
        pytest.param(Outcome(status=299), 0, MIDDLE, Delivered(), id="every 2xx is delivered"),
        pytest.param(Outcome(status=500), 1, MIDDLE, Retry(5.0, 5000), id="a first failure waits the first wait"),
        pytest.param(Outcome(status=500), 1, 0.0, Retry(4.0, 4000), id="the early lane is a fifth shorter"),
        pytest.param(Outcome(status=500), 1, 0.999, Retry(6.0, 6000), id="the late lane is a fifth longer"),
        pytest.param(
            Outcome(status=404), 2, MIDDLE, Retry(30.0, 30_000), id="other 4xx are retried: endpoints get fixed"
        ),
        pytest.param(
            Outcome(status=302, problem=Problem.REDIRECT), 1, MIDDLE, Retry(5.0, 5000), id="a redirect is a failure"
        ),
        pytest.param(Outcome(status=500), 3, MIDDLE, Retry(3600.0, 3_600_000), id="an hour still has a wait queue"),
        pytest.param(Outcome(status=500), 4, 0.25, Retry(9720.0), id="beyond an hour a row waits, jitter continuous"),
        pytest.param(Outcome(status=500), 5, MIDDLE, Dead("no success in 5 attempts"), id="n waits are n + 1 attempts"),
        pytest.param(Outcome(problem=Problem.TIMEOUT), 1, MIDDLE, Retry(5.0, 5000), id="network problems are retried"),
        pytest.param(
            Outcome(problem=Problem.BLOCKED_TARGET),
            1,
            MIDDLE,
            Dead("blocked_target"),
            id="a forbidden address is final",
        ),
        pytest.param(
            Outcome(problem=Problem.PAYLOAD_TOO_LARGE), 1, MIDDLE, Dead("payload_too_large"), id="too large is final"
        ),
        pytest.param(
            Outcome(status=429, retry_after_s=60), 1, MIDDLE, Retry(60.0), id="Retry-After is a floor under the wait"
        ),
        pytest.param(
            Outcome(status=503, retry_after_s=1),
            1,
            MIDDLE,
            Retry(5.0, 5000),
            id="a shorter Retry-After changes nothing",
        ),
        pytest.param(
            Outcome(status=503, retry_after_s=10 * DAY_S), 1, MIDDLE, Retry(DAY_S), id="Retry-After counts up to a day"
        ),
        pytest.param(
            Outcome(problem=Problem.UNKNOWN, own_trouble=True),
            5,
            MIDDLE,
            Postpone(5.0),
            id="our own trouble counts not",
        ),
        pytest.param(
            Outcome(status=503, retry_after_s=60), 5, MIDDLE, Dead("no success in 5 attempts"), id="it adds no attempt"
        ),
    ],
)
def test_decide(outcome: Outcome, failures: int, chance: float, expected: Decision) -> None:
    assert decide(outcome, failures, WAITS_S, chance) == expected


def test_an_empty_schedule_is_one_attempt() -> None:
    assert decide(Outcome(status=500), 1, (), MIDDLE) == Dead("no success in 1 attempt")


def test_failures_count_from_zero() -> None:
    with pytest.raises(ValueError, match="failures counts from 0"):
        decide(Outcome(status=500), -1, WAITS_S, MIDDLE)


@pytest.mark.parametrize("chance", [n / 100 for n in range(100)])
@pytest.mark.parametrize("failures", [1, 2, 3, 4])
def test_every_wait_lies_within_a_fifth_of_the_schedule(failures: int, chance: float) -> None:
    decision = decide(Outcome(status=500), failures, WAITS_S, chance)
    assert isinstance(decision, Retry)
    assert 0.8 * WAITS_S[failures - 1] <= decision.wait_s <= 1.2 * WAITS_S[failures - 1]


@pytest.mark.parametrize(
    ("unknowns", "failures", "waits_s", "expected"),
    [
        pytest.param(1, 0, WAITS_S, (Retry(0.0), 0, 1), id="the next attempt follows at once and uses up no wait"),
        pytest.param(2, 3, WAITS_S, (Retry(0.0), 3, 2), id="so does the second"),
        pytest.param(3, 0, WAITS_S, (Retry(5.0, 5000), 1, 0), id="three in a row are one failure"),
        pytest.param(3, 4, WAITS_S, (Dead("no success in 5 attempts"), 5, 0), id="which may be the last"),
        pytest.param(
            1, 0, (), (Dead("the outcome of its only attempt is unknown"), 0, 1), id="a test is not sent a second time"
        ),
    ],
)
def test_decide_unknown(
    unknowns: int, failures: int, waits_s: tuple[float, ...], expected: tuple[Decision, int, int]
) -> None:
    assert decide_unknown(unknowns, failures, waits_s, MIDDLE) == expected


def test_a_test_without_means_to_send_it_ends() -> None:
    assert isinstance(decide(Outcome(problem=Problem.UNKNOWN, own_trouble=True), 1, (), MIDDLE), Dead)
