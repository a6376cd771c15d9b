"""Filters: what passes, why not, and what is refused when it is saved."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.outgoing.filters import compile_filter

WON = {
    "id": "evt_1",
    "event": "updated",
    "entity": "Deal",
    "record": {"id": "rec_1", "stage": "Won", "amount": 1200, "open": True, "tags": ["vip", 3], "note": None},
    "changed": ["stage"],
    "previous": {"stage": "Offer"},
    "user": {"id": "usr_1", "name": "Ada"},
}


@pytest.mark.parametrize(
    ("given", "why_not"),
    [
        pytest.param({}, None, id="an empty filter passes everything"),
        pytest.param({"record.stage": "Won"}, None, id="a plain value is equality"),
        pytest.param({"record.stage": "Lost"}, 'record.stage is "Lost"', id="the clause that fails is named"),
        pytest.param({"changed.stage": "Won"}, None, id="changed to"),
        pytest.param({"changed.amount": 1200}, "changed.amount is 1200", id="a field that did not change is absent"),
        pytest.param({"changed.stage": {"$exists": True}}, None, id="changed at all"),
        pytest.param({"previous.stage": "Offer", "record.stage": "Won"}, None, id="clauses are joined by and"),
        pytest.param({"record.amount": {"$gte": 1000, "$lt": 2000}}, None, id="operators are joined by and"),
        pytest.param({"record.amount": {"$gt": 1200}}, "record.amount is more than 1200", id="gt excludes the value"),
        pytest.param(
            {"record.amount": {"$gt": "a"}}, 'record.amount is more than "a"', id="text and number do not compare"
        ),
        pytest.param({"record.open": 1}, "record.open is 1", id="true is not 1"),
        pytest.param({"record.note": None}, None, id="null is null"),
        pytest.param({"record.nothing": None}, "record.nothing is null", id="absent is not null"),
        pytest.param({"record.nothing": {"$ne": 1}}, None, id="absent is not 1"),
        pytest.param({"record.nothing": {"$exists": False}}, None, id="absent does not exist"),
        pytest.param({"record.stage": {"$in": ["Won", "Lost"]}}, None, id="one of"),
        pytest.param({"record.stage": {"$nin": ["Won"]}}, 'record.stage is none of "Won"', id="none of"),
        pytest.param({"record.stage": {"$startsWith": "W"}}, None, id="starts with"),
        pytest.param({"record.stage": {"$endsWith": "x"}}, 'record.stage ends with "x"', id="ends with"),
        pytest.param({"record.tags": {"$contains": "vip"}}, None, id="a list contains an item"),
        pytest.param({"record.stage": {"$contains": "o"}}, None, id="a text contains a text"),
        pytest.param({"record.tags.1": 3}, None, id="a number walks into a list"),
        pytest.param({"$or": [{"record.stage": "Lost"}, {"record.amount": 1200}]}, None, id="or"),
        pytest.param(
            {"$or": [{"record.stage": "Lost"}, {"record.amount": 1}]},
            '(record.stage is "Lost" or record.amount is 1)',
            id="or says all it tried",
        ),
        pytest.param({"$not": {"record.stage": "Lost"}}, None, id="not"),
        pytest.param(
            {"record.stage": {"$not": {"$in": ["Won"]}}}, 'not (record.stage is one of "Won")', id="not inside"
        ),
        pytest.param({"$and": [{"record.stage": "Won"}, {"record.amount": 1}]}, "record.amount is 1", id="and"),
    ],
)
def test_matching(given: Any, why_not: str | None) -> None:
    compiled, errors = compile_filter(given)
    assert errors == []
    assert compiled is not None
    assert compiled.failing(WON) == why_not


def test_a_create_has_no_changed() -> None:
    compiled, _ = compile_filter({"changed.stage": "Won"})
    assert compiled is not None
    assert compiled.failing({"event": "created", "record": {"stage": "Won"}}) is not None


@pytest.mark.parametrize(
    ("given", "pointer", "detail"),
    [
        pytest.param([], "/filter", "must be an object", id="a list"),
        pytest.param(
            {"stage": "Won"}, "/filter/stage", "must be a path that begins with", id="a path without its root"
        ),
        pytest.param({"record..stage": 1}, "/filter/record..stage", "must be a path", id="an empty step"),
        pytest.param({"changed": "stage"}, "/filter/changed", "must name a field", id="changed alone"),
        pytest.param({"record.a": {"$regex": "x"}}, "/filter/record.a/$regex", "is unknown", id="an unknown operator"),
        pytest.param({"$nor": []}, "/filter/$nor", "is unknown here", id="an unknown joiner"),
        pytest.param({"$or": []}, "/filter/$or", "must be a list", id="an empty or"),
        pytest.param({"record.a": {}}, "/filter/record.a", "must hold an operator", id="no operator"),
        pytest.param({"record.a": {"$in": "x"}}, "/filter/record.a/$in", "must be a list", id="in without a list"),
        pytest.param({"record.a": {"$gt": None}}, "/filter/record.a/$gt", "a number or text", id="more than null"),
        pytest.param({"record.a": {"$exists": 1}}, "/filter/record.a/$exists", "true or false", id="exists 1"),
        pytest.param({"record.a": [1]}, "/filter/record.a", "must be text, a number", id="equal to a list"),
        pytest.param({"$or": [{"record.a": {"$x": 1}}]}, "/filter/$or/0/record.a/$x", "is unknown", id="deep inside"),
    ],
)
def test_refused(given: Any, pointer: str, detail: str) -> None:
    compiled, errors = compile_filter(given)
    assert compiled is None
    assert errors[0].pointer == pointer
    assert detail in errors[0].detail


def test_size_and_depth_are_bounded() -> None:
    many = {f"record.f{n}": 1 for n in range(101)}
    assert "more than 100" in compile_filter(many)[1][0].detail
    deep: Any = {"record.a": 1}
    for _ in range(9):
        deep = {"$not": deep}
    assert "nested" in compile_filter(deep)[1][0].detail


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["$or", "$not", "record.a", "$in", "x"]), inner)
    ),
    max_leaves=10,
)


@given(_JSON, _JSON)
def test_whatever_is_given_is_refused_or_answers(given: Any, value: Any) -> None:
    compiled, errors = compile_filter(given)
    assert (compiled is None) == bool(errors)
    if compiled is not None:
        verdict = compiled.failing(WON | {"record": {"a": value}})
        assert verdict is None or verdict
