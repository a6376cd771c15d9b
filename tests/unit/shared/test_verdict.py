"""What explain and dry run say of a webhook and an event."""

from typing import Any

import pytest

from shared.model import Trigger
from shared.outgoing.verdict import verdict_on
from tests.builders import an_event

CASES: dict[str, tuple[dict[str, Any], tuple[str, str | None]]] = {
    "it wants the event": ({}, ("sent", None)),
    "another entity": ({"entity": "Task"}, ("wrong_event", None)),
    "another change": ({"trigger": Trigger.DELETE}, ("wrong_event", None)),
    "another change says so although it is inactive": (
        {"trigger": Trigger.DELETE, "active": False},
        ("wrong_event", None),
    ),
    "inactive": ({"active": False}, ("inactive", None)),
    "inactive says so although it filters": (
        {"active": False, "filter": {"record.stage": "Lost"}},
        ("inactive", None),
    ),
    "the filter passes": ({"filter": {"record.stage": "Won"}}, ("sent", None)),
    "the filter names its clause": (
        {"filter": {"record.name": "Engine", "record.stage": "Lost"}},
        ("filtered", 'record.stage is "Lost"'),
    ),
    "a filter of another version stops it": (
        {"filter": {"record.stage": {"$like": "W"}}},
        ("filtered", "$like is unknown; there are"),
    ),
}


@pytest.mark.parametrize(("values", "expected"), CASES.values(), ids=CASES)
def test_a_webhook_gets_the_first_verdict_that_holds(values: dict[str, Any], expected: tuple[str, str | None]) -> None:
    plain: dict[str, Any] = {"entity": "Deal", "trigger": Trigger.SAVE, "active": True}
    verdict, clause = verdict_on(an_event(), **(plain | values))
    assert verdict == expected[0]
    assert (clause or "").startswith(expected[1] or "")
    assert (clause is None) is (expected[1] is None)
