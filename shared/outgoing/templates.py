"""Body templates: a JSON tree whose strings hold `{{ record.name | default: 'nobody' }}`. Pure, linear, no I/O.

Compiled once, rendered for each attempt; what comes out is a JSON tree again, so it is always valid JSON. A string that
is one placeholder and nothing else keeps the JSON type of its value. `docs/recipes/custom-application.md` tells people
about it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

import orjson

from shared.errors import FieldError
from shared.model import Json
from shared.outgoing import filters
from shared.outgoing.filters import ABSENT

MOST_BYTES = 16 * 1024
MOST_VALUES = 1_000
MOST_PLACEHOLDERS = 200
MOST_FILTERS = 5
DEEPEST = 16
LONGEST_PATH = 500
MOST_WORK = 4 * 1024 * 1024
"""Characters of the payload that one rendering may read: 200 placeholders times 1 MiB would hold up everyone else."""
ROOTS = ("record", "changed", "previous", "user", "event", "entity", "id", "timestamp", "test", "secret")
DATE_WORDS = "YmdHMSyBbAajpI%"

_LITERAL = re.compile(
    r"'([^']*)'|\"([^\"]*)\"|(?:(-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?)|(true|false|null))(?![^\s|,}])"
)
_PATH = re.compile(r"[^\s.|:,{}'\"]+(?:\.[^\s.|:,{}'\"]+)*")
_SPACE = re.compile(r"\s*")


class TemplateError(Exception):
    """This event cannot be rendered; a later attempt would meet the same. The text is for people."""


class _Fault(Exception):
    """A string of the template cannot be read."""


class _Work:
    """What one rendering has read so far."""

    def __init__(self) -> None:
        self._left = MOST_WORK

    def spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise TemplateError(f"the template reads more than {MOST_WORK:,} characters of this event")


Step = Callable[[Any, _Work], Any]


@dataclass(frozen=True, slots=True)
class _Placeholder:
    """`path` into the payload, or a literal when it is None; then the filters in their order."""

    path: tuple[str, ...] | None
    literal: Any
    steps: tuple[Step, ...]

    def value(self, payload: Json, work: _Work) -> Any:
        found = self.literal if self.path is None else _look_up(payload, self.path)
        for step in self.steps:
            found = step(found, work)
        return found


@dataclass(frozen=True, slots=True)
class _Text:
    """A string with placeholders in it."""

    parts: tuple[str | _Placeholder, ...]


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled template. `tree`: plain JSON with `_Placeholder` and `_Text` where strings held placeholders."""

    tree: Any

    def render(self, payload: Json) -> Any:
        """The JSON tree for this payload; what is absent is null, and nothing inside a longer text.

        Raises TemplateError when a filter cannot take its value, or for too much work.
        """
        return _render(self.tree, payload, _Work())


def compile_template(given: Any, pointer: str = "/template") -> tuple[Template | None, list[FieldError]]:
    """(the template, []), or (None, what is wrong and where)."""
    compiler = _Compiler()
    tree = compiler.tree(given, pointer, 1)
    return (None, compiler.errors) if compiler.errors else (Template(tree), [])


@lru_cache(maxsize=256)
def template_of(text: str) -> Template:
    """The compiled form of a stored template (JSON text). Raises TemplateError when it cannot be read."""
    template, errors = compile_template(orjson.loads(text))
    if template is None:  # it was checked when it was saved: only another version's dialect comes here
        raise TemplateError(f"the template cannot be read by this version: {errors[0].pointer} {errors[0].detail}")
    return template


class _Compiler:
    """Turns JSON into a tree with placeholders and gathers what is wrong on the way."""

    def __init__(self) -> None:
        self.errors: list[FieldError] = []
        self._bytes = self._values = self._placeholders = 0
        self._too_large_said = False

    def tree(self, given: Any, pointer: str, depth: int) -> Any:
        self._values += 1
        self._bytes += len(given.encode()) if isinstance(given, str) else 1
        if depth > DEEPEST:
            return self._fault(pointer, f"is nested more than {DEEPEST} deep")
        if self._values > MOST_VALUES or self._bytes > MOST_BYTES:
            return self._too_large(pointer)
        if isinstance(given, dict):
            return {key: self._member(key, value, pointer, depth) for key, value in given.items()}
        if isinstance(given, list):
            return [self.tree(value, f"{pointer}/{at}", depth + 1) for at, value in enumerate(given)]
        if isinstance(given, int) and not -(2**63) <= given < 2**64:
            return self._fault(pointer, "is a number of more than 64 bits")
        return self._string(given, pointer) if isinstance(given, str) else given

    def _member(self, key: str, value: Any, pointer: str, depth: int) -> Any:
        self._bytes += len(key.encode())
        at = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
        if "{{" in key:
            return self._fault(at, "a placeholder stands in a value, not in a name")
        return self.tree(value, at, depth + 1)

    def _too_large(self, pointer: str) -> None:
        if not self._too_large_said:
            self._fault(pointer, f"a template holds at most {MOST_BYTES:,} bytes and {MOST_VALUES:,} values")
        self._too_large_said = True

    def _fault(self, pointer: str, detail: str) -> None:
        self.errors.append(FieldError(pointer, detail))

    def _string(self, text: str, pointer: str) -> Any:
        try:
            parts = _parts(text)
        except _Fault as fault:
            return self._fault(pointer, str(fault))
        self._placeholders += sum(isinstance(part, _Placeholder) for part in parts)
        if self._placeholders > MOST_PLACEHOLDERS:
            return self._fault(pointer, f"at most {MOST_PLACEHOLDERS} placeholders in a template")
        if len(parts) == 1:
            return parts[0]
        return _Text(parts) if parts else ""


def _parts(text: str) -> tuple[str | _Placeholder, ...]:
    parts: list[str | _Placeholder] = []
    at = 0
    while (opening := text.find("{{", at)) >= 0:
        if opening > at:
            parts.append(text[at:opening])
        placeholder, at = _placeholder(text, opening + 2)
        parts.append(placeholder)
    if at < len(text):
        parts.append(text[at:])
    return tuple(parts)


def _placeholder(text: str, at: int) -> tuple[_Placeholder, int]:
    """The placeholder whose inside begins at `at`, and where the text goes on after its braces."""
    path: tuple[str, ...] | None = None
    literal, at = _literal(text, _skip(text, at))
    if literal is ABSENT:
        found = _PATH.match(text, at)
        if found is None:
            raise _Fault("after {{ there must be a path, like {{ record.name }}")
        path, at = tuple(found[0].split(".")), found.end()
        if path[0] not in ROOTS or len(found[0]) > LONGEST_PATH:
            raise _Fault(f"{found[0][:80]}: a path begins with one of {', '.join(ROOTS)}")
    steps: list[Step] = []
    while text.startswith("|", at := _skip(text, at)):
        step, at = _filter(text, _skip(text, at + 1))
        steps.append(step)
        if len(steps) > MOST_FILTERS:
            raise _Fault(f"at most {MOST_FILTERS} filters for one placeholder")
    if not text.startswith("}}", at):
        rest = text[at : at + 20]
        raise _Fault("the closing }} is missing" if not rest else f"there must be | or }}}} before {rest!r}")
    return _Placeholder(path, literal, tuple(steps)), at + 2


def _filter(text: str, at: int) -> tuple[Step, int]:
    found = _PATH.match(text, at)
    name = found[0] if found is not None else ""
    if found is None or name not in _FILTERS:
        raise _Fault(f"there is no filter {name[:80]!r}; there are {', '.join(sorted(_FILTERS))}")
    at = _skip(text, found.end())
    arguments: list[Any] = []
    mark = ":"
    while text.startswith(mark, at):
        literal, at = _literal(text, _skip(text, at + 1))
        if literal is ABSENT:
            raise _Fault(f"{name}: what follows {mark} must be 'text', a number, true, false or null")
        arguments.append(literal)
        mark, at = ",", _skip(text, at)
    return _FILTERS[name](arguments), at


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space is not None else at


def _literal(text: str, at: int) -> tuple[Any, int]:
    """The literal here and where it ends; ABSENT and `at` when there is none."""
    found = _LITERAL.match(text, at)
    if found is None:
        return ABSENT, at
    single, double, number, word = found.groups()
    if number is not None or word is not None:
        return orjson.loads(found[0]), found.end()
    return single if single is not None else double, found.end()


def _look_up(payload: Json, path: tuple[str, ...]) -> Any:
    if path == ("changed",):
        return payload.get("changed", ABSENT)
    return filters.look_up(payload, path)


def _render(node: Any, payload: Json, work: _Work) -> Any:
    if isinstance(node, dict):
        return {key: _render(value, payload, work) for key, value in node.items()}
    if isinstance(node, list):
        return [_render(value, payload, work) for value in node]
    if isinstance(node, _Placeholder):
        value = node.value(payload, work)
        work.spend(_size(value))
        return None if value is ABSENT else value
    if isinstance(node, _Text):
        return "".join(_in_text(part, payload, work) for part in node.parts)
    return node


def _in_text(part: str | _Placeholder, payload: Json, work: _Work) -> str:
    if isinstance(part, str):
        return part
    text = as_text(part.value(payload, work))
    work.spend(len(text))
    return text


def as_text(value: Any) -> str:
    """A value inside a text: text as it is, nothing for null and absent, everything else as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None or value is ABSENT else orjson.dumps(value).decode()


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    return len(orjson.dumps(value)) if isinstance(value, dict | list) else 1


# Filters: checked with their arguments at save, applied at send. Null and absent pass all but `default` and `json`.


def _text_step(change: Callable[[str], str], value: Any, work: _Work) -> Any:
    if value is None or value is ABSENT:
        return value
    if isinstance(value, dict | list):
        raise TemplateError("a filter for text met an object or a list; put json before it")
    text = as_text(value)
    work.spend(len(text))
    return change(text)


def _plain(change: Callable[[str], str], name: str) -> Callable[[Sequence[Any]], Step]:
    def build(arguments: Sequence[Any]) -> Step:
        if arguments:
            raise _Fault(f"{name} takes no value")
        return partial(_text_step, change)

    return build


def _build_default(arguments: Sequence[Any]) -> Step:
    if len(arguments) != 1:
        raise _Fault("default takes one value, like default: 'none'")
    return lambda value, _work: arguments[0] if value is None or value is ABSENT else value


def _build_truncate(arguments: Sequence[Any]) -> Step:
    most, ending, *more = (*arguments, "…") if len(arguments) == 1 else (*arguments, None, None)
    fits = isinstance(most, int) and not isinstance(most, bool) and isinstance(ending, str) and not any(more)
    if not fits or not len(ending) <= most <= MOST_WORK:
        raise _Fault("truncate takes the most characters, ending included, and may take the ending: truncate: 80, '…'")
    return partial(_text_step, partial(shortened, most=most, ending=ending))


def shortened(text: str, most: int, ending: str = "…") -> str:
    """At most `most` characters; what was cut ends with `ending`."""
    return text if len(text) <= most else text[: most - len(ending)] + ending


def _build_date(arguments: Sequence[Any]) -> Step:
    form = arguments[0] if arguments else "%Y-%m-%d"
    known = isinstance(form, str) and len(form) <= 100
    if len(arguments) > 1 or not known or re.sub(f"%[{DATE_WORDS}]", "", form).count("%"):
        raise _Fault(f"date takes a form of %{', %'.join(DATE_WORDS)}, like date: '%d.%m.%Y'")
    return partial(_text_step, partial(_date, form=form))


def _date(text: str, form: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo is None else moment.astimezone(UTC)).strftime(form)
    except (ValueError, OverflowError):
        raise TemplateError(f"date cannot read {shortened(text, 40)!r}: it must be like 2026-11-23 or a time") from None


def _json(value: Any, work: _Work) -> str:
    text = orjson.dumps(None if value is ABSENT else value).decode()
    work.spend(len(text))
    return text


def _build_json(arguments: Sequence[Any]) -> Step:
    if arguments:
        raise _Fault("json takes no value")
    return _json


def escape_mrkdwn(text: str) -> str:
    """Text that Slack shows as it is: no mention, link or formatting of a sender's making.

    Source: Slack, "Formatting text for app surfaces", Escaping text: & < > and nothing else.
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_FILTERS: dict[str, Callable[[Sequence[Any]], Step]] = {
    "default": _build_default,
    "upper": _plain(str.upper, "upper"),
    "lower": _plain(str.lower, "lower"),
    "trim": _plain(str.strip, "trim"),
    "truncate": _build_truncate,
    "date": _build_date,
    "json": _build_json,
    "mrkdwn": _plain(escape_mrkdwn, "mrkdwn"),
}
