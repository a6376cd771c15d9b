"""What follows an attempt. Pure."""

from collections.abc import Sequence

from shared.broker.topology import JITTER_LANES, LONGEST_QUEUED_WAIT_S
from shared.model import Dead, Decision, Delivered, Outcome, Postpone, Retry

DAY_S = 86400
OWN_TROUBLE_WAIT_S = 5.0
UNKNOWNS_A_FAILURE = 3


def decide(outcome: Outcome, failures: int, waits_s: Sequence[float], chance: float) -> Decision:
    """Choose what follows a known outcome: Delivered, Retry or Dead; Postpone when we had no means to make the attempt.

    `failures`: known failures of this round, this one included. `waits_s`: the schedule in seconds; n waits are n + 1
    attempts. `chance`: uniform in 0..1, spreads the wait over ±20 %. A wait up to an hour takes one of three lanes, as
    its wait queue does; Retry-After is a floor under the wait, at most 24 h, and then a row waits instead.
    Raises ValueError if failures < 0. Source: Standard Webhooks, "Delivery success and failure".
    """
    if failures < 0:
        raise ValueError(f"failures counts from 0, got {failures}")
    if outcome.succeeded:
        return Delivered()
    if outcome.final is not None:
        return Dead(outcome.final)
    if outcome.own_trouble and waits_s:
        return Postpone(OWN_TROUBLE_WAIT_S * (0.8 + 0.4 * chance))
    return _retry_or_dead(failures, waits_s, chance, min(outcome.retry_after_s or 0, DAY_S))


def decide_unknown(unknowns: int, failures: int, waits_s: Sequence[float], chance: float) -> tuple[Decision, int, int]:
    """Choose what follows an attempt whose end nobody knows; returns (decision, failures, unknowns) to store.

    `unknowns`: in a row, this one included. The next attempt follows at once and uses up no wait; the third in a row
    counts as one failure, so that a worker that dies of one delivery cannot send it for ever.
    """
    if not waits_s:
        return Dead("the outcome of its only attempt is unknown"), failures, unknowns
    if unknowns < UNKNOWNS_A_FAILURE:
        return Retry(0.0), failures, unknowns
    return _retry_or_dead(failures + 1, waits_s, chance, 0), failures + 1, 0


def _retry_or_dead(failures: int, waits_s: Sequence[float], chance: float, floor_s: float) -> Decision:
    if failures > len(waits_s):
        return Dead(f"no success in {failures} attempt{'s' if failures > 1 else ''}")
    wait_s = waits_s[failures - 1]
    if wait_s > LONGEST_QUEUED_WAIT_S:
        return Retry(max(wait_s * (0.8 + 0.4 * chance), floor_s))
    wait_s *= JITTER_LANES[min(int(chance * len(JITTER_LANES)), len(JITTER_LANES) - 1)]
    return Retry(floor_s) if floor_s > wait_s else Retry(wait_s, queue_ms=round(wait_s * 1000))
