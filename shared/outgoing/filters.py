"""Filters on an event's payload: JSON in the dialect of the peers, compiled once, matched in linear time. Pure.

`{"record.stage": "Won", "record.amount": {"$gte": 1000}}`: every clause must hold. A path goes into the payload;
`changed.<field>` is the new value if that field changed, else absent, so a create has none.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.errors import FieldError
from shared.model import Json

MOST_CLAUSES = 100
DEEPEST = 8
LONGEST_TEXT = 1_000
ROOTS = ("record", "changed", "previous", "user", "event", "entity", "id", "timestamp")

Test = Callable[[Json], bool]


class _Absent:
    """What a path that leads nowhere finds; equal to nothing, not even null."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()


@dataclass(frozen=True, slots=True)
class Clause:
    """One condition: its words for people, and its test."""

    words: str
    holds: Test = field(repr=False)


@dataclass(frozen=True, slots=True)
class Filter:
    """All clauses must hold."""

    clauses: tuple[Clause, ...]

    def failing(self, payload: Json) -> str | None:
        """The first clause that does not hold, in words; None when the event passes."""
        for clause in self.clauses:
            if not clause.holds(payload):
                return clause.words
        return None


def compile_filter(given: Any, pointer: str = "/filter") -> tuple[Filter | None, list[FieldError]]:
    """(the filter, []), or (None, what is wrong and where). An empty object lets everything pass."""
    compiler = _Compiler()
    clauses = compiler.clauses(given, pointer, 1)
    return (None, compiler.errors) if compiler.errors else (Filter(tuple(clauses)), [])


def look_up(payload: Json, path: Sequence[str]) -> Any:
    """The value at this path, or ABSENT. A number walks into a list."""
    if path[0] == "changed":
        return _changed(payload, path[1:])
    found: Any = payload
    for step in path:
        if isinstance(found, Mapping):
            found = found.get(step, ABSENT)
        elif isinstance(found, list) and step.isascii() and step.isdigit():  # "²" is a digit to Python, and no number
            found = found[int(step)] if int(step) < len(found) else ABSENT
        else:
            return ABSENT
    return found


def _changed(payload: Json, path: Sequence[str]) -> Any:
    if not path or path[0] not in payload.get("changed", ()):
        return ABSENT
    return look_up(payload["record"], path)


def _same(left: Any, right: Any) -> bool:
    # JSON's true is not 1, although Python's is.
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return bool(left == right)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def holds(value: Any, wanted: Any) -> bool:
        numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (value, wanted))
        texts = isinstance(value, str) and isinstance(wanted, str)
        return (numbers or texts) and compare(value, wanted)

    return holds


def _contains(value: Any, wanted: Any) -> bool:
    if isinstance(value, str):
        return isinstance(wanted, str) and wanted in value
    return isinstance(value, list) and any(_same(item, wanted) for item in value)


_OPERATORS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "$eq": ("is", _same),
    "$ne": ("is not", lambda value, wanted: not _same(value, wanted)),
    "$gt": ("is more than", _ordered(lambda a, b: a > b)),
    "$gte": ("is at least", _ordered(lambda a, b: a >= b)),
    "$lt": ("is less than", _ordered(lambda a, b: a < b)),
    "$lte": ("is at most", _ordered(lambda a, b: a <= b)),
    "$in": ("is one of", lambda value, wanted: any(_same(value, one) for one in wanted)),
    "$nin": ("is none of", lambda value, wanted: not any(_same(value, one) for one in wanted)),
    "$exists": ("exists:", lambda value, wanted: (value is not ABSENT) is wanted),
    "$startsWith": ("starts with", lambda value, wanted: isinstance(value, str) and value.startswith(wanted)),
    "$endsWith": ("ends with", lambda value, wanted: isinstance(value, str) and value.endswith(wanted)),
    "$contains": ("contains", _contains),
}
_TEXT_ONLY = ("$startsWith", "$endsWith")
_ORDERED = ("$gt", "$gte", "$lt", "$lte")


class _Compiler:
    """Turns JSON into clauses and gathers what is wrong on the way."""

    def __init__(self) -> None:
        self.errors: list[FieldError] = []
        self._count = 0

    def _fault(self, pointer: str, detail: str) -> list[Clause]:
        self.errors.append(FieldError(pointer, detail))
        return []

    def clauses(self, given: Any, pointer: str, depth: int) -> list[Clause]:
        if not isinstance(given, dict):
            return self._fault(pointer, 'must be an object of paths and conditions, like {"record.stage": "Won"}')
        if depth > DEEPEST:
            return self._fault(pointer, f"is nested more than {DEEPEST} deep")
        found: list[Clause] = []
        for key, condition in given.items():
            self._count += 1
            if self._count > MOST_CLAUSES:
                return self._fault(pointer, f"holds more than {MOST_CLAUSES} conditions")
            at = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
            found += self._logic(key, condition, at, depth) if key.startswith("$") else self._path(key, condition, at)
        return found

    def _logic(self, key: str, given: Any, pointer: str, depth: int) -> list[Clause]:
        if key == "$not":
            inner = self.clauses(given, pointer, depth + 1)
            words = "not (" + " and ".join(clause.words for clause in inner) + ")"
            return [Clause(words, lambda payload: not all(clause.holds(payload) for clause in inner))]
        if key not in ("$and", "$or"):
            return self._fault(pointer, f"{key} is unknown here; there are $and, $or, $not")
        if not isinstance(given, list) or not given:
            return self._fault(pointer, "must be a list of conditions, not empty")
        branches = [self.clauses(one, f"{pointer}/{at}", depth + 1) for at, one in enumerate(given)]
        if key == "$and":
            return [clause for branch in branches for clause in branch]
        words = " or ".join(" and ".join(clause.words for clause in branch) or "anything" for branch in branches)
        return [Clause(f"({words})", lambda p: any(all(clause.holds(p) for clause in branch) for branch in branches))]

    def _path(self, text: str, condition: Any, pointer: str) -> list[Clause]:
        path = text.split(".")
        if path[0] not in ROOTS or not all(path) or len(text) > LONGEST_TEXT:
            return self._fault(pointer, f"must be a path that begins with one of {', '.join(ROOTS)}")
        if path[0] == "changed" and len(path) == 1:
            return self._fault(pointer, 'must name a field, like {"changed.stage": "Won"}')
        if not isinstance(condition, dict):
            return self._condition(text, path, "$eq", condition, pointer)
        if not condition:
            return self._fault(pointer, "must hold an operator, like $gte")
        found: list[Clause] = []
        for operator, wanted in condition.items():
            found += self._condition(text, path, operator, wanted, f"{pointer}/{operator}")
        return found

    def _condition(self, text: str, path: list[str], operator: str, wanted: Any, pointer: str) -> list[Clause]:
        if operator == "$not":
            inner = self._path(text, wanted, pointer)
            words = "not (" + " and ".join(clause.words for clause in inner) + ")"
            return [Clause(words, lambda payload: not all(clause.holds(payload) for clause in inner))]
        if operator not in _OPERATORS:
            return self._fault(pointer, f"{operator} is unknown; there are {', '.join(_OPERATORS)}, $not")
        fault = _operand_fault(operator, wanted)
        if fault:
            return self._fault(pointer, fault)
        words, holds = _OPERATORS[operator]
        return [Clause(f"{text} {words} {_shown(wanted)}", lambda payload: holds(look_up(payload, path), wanted))]


def _operand_fault(operator: str, wanted: Any) -> str | None:
    if operator == "$exists":
        return None if isinstance(wanted, bool) else "must be true or false"
    if operator in ("$in", "$nin"):
        fits = isinstance(wanted, list) and 0 < len(wanted) <= MOST_CLAUSES and all(_is_plain(one) for one in wanted)
        return None if fits else f"must be a list of 1 to {MOST_CLAUSES} values"
    if operator in _TEXT_ONLY:
        return None if isinstance(wanted, str) and len(wanted) <= LONGEST_TEXT else "must be text"
    if operator in _ORDERED:
        fits = isinstance(wanted, str | int | float) and not isinstance(wanted, bool)
        return None if fits else "must be a number or text"
    return None if _is_plain(wanted) else "must be text, a number, true, false or null"


def _is_plain(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= LONGEST_TEXT) or isinstance(value, int | float)


def _shown(value: Any) -> str:
    return ", ".join(map(_shown, value)) if isinstance(value, list) else json.dumps(value, ensure_ascii=False)
