"""Templates: what they render, what is refused when they are saved, and that they end in time and in valid JSON."""

from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.outgoing import templates
from shared.outgoing.templates import TemplateError, compile_template, template_of

WON = {
    "id": "evt_1",
    "event": "updated",
    "entity": "Deal",
    "record": {
        "id": "rec_1",
        "name": "Skates & <Söhne>",
        "stage": "Won",
        "amount": 1200,
        "rate": 0.5,
        "open": True,
        "tags": ["vip", 3],
        "note": None,
        "close_date": "2026-11-23",
        "address": {"city": "Köln"},
    },
    "changed": ["stage"],
    "previous": {"stage": "Offer"},
    "user": {"id": "usr_1", "name": "Ada"},
    "timestamp": "2026-11-23T23:15:30.123Z",
}


def rendered(template: Any, payload: dict[str, Any] = WON) -> Any:
    compiled, errors = compile_template(template)
    assert errors == []
    assert compiled is not None
    return compiled.render(payload)


@pytest.mark.parametrize(
    ("template", "result"),
    [
        pytest.param({"a": [1, True, None, "x"]}, {"a": [1, True, None, "x"]}, id="plain JSON stays as it is"),
        pytest.param("{{ record.amount }}", 1200, id="a lone placeholder keeps the type of a number"),
        pytest.param("{{record.open}}", True, id="spaces inside the braces are free"),
        pytest.param("{{ record.tags }}", ["vip", 3], id="a lone placeholder may be a list"),
        pytest.param("{{ record.address }}", {"city": "Köln"}, id="and an object"),
        pytest.param("{{ record.nothing }}", None, id="what is absent is null"),
        pytest.param(" {{ record.amount }}", " 1200", id="one space more makes it text"),
        pytest.param("{{ record.name }}!", "Skates & <Söhne>!", id="text is not escaped, JSON does that"),
        pytest.param("<{{ record.note }}{{ record.nothing }}>", "<>", id="null and absent are nothing in a text"),
        pytest.param("{{ record.tags }}/{{ record.open }}", '["vip",3]/true', id="in a text, JSON is JSON"),
        pytest.param("{{ record.tags.0 }}", "vip", id="a number walks into a list"),
        pytest.param("{{ record.tags.² }}", None, id="a digit that is no number walks nowhere"),
        pytest.param("{{ record.address.city }}", "Köln", id="a path goes deeper"),
        pytest.param("{{ changed }}", ["stage"], id="changed is the list"),
        pytest.param("{{ changed.stage }}", "Won", id="changed.field is the new value"),
        pytest.param("{{ changed.amount }}", None, id="changed.field is absent if it did not change"),
        pytest.param("{{ previous.stage }} -> {{ record.stage }}", "Offer -> Won", id="before and after"),
        pytest.param("a }} b { c } {d}", "a }} b { c } {d}", id="other braces are text"),
        pytest.param("{{ '{{' }} {{ \"}}\" }}", "{{ }}", id="literals say braces"),
        pytest.param("{{ 12.5 }}", 12.5, id="a literal number"),
        pytest.param("", "", id="an empty text"),
        pytest.param("{{ record.nothing | default: 'none' }}", "none", id="default for what is absent"),
        pytest.param("{{ record.note | default: 0 }}", 0, id="default for null keeps its type"),
        pytest.param("{{ record.stage | default: 'x' }}", "Won", id="default leaves a value alone"),
        pytest.param("{{ record.note | upper | default: 'x' }}", "x", id="null passes the filters before default"),
        pytest.param("{{ record.stage|upper }}{{ record.stage | lower }}", "WONwon", id="upper and lower"),
        pytest.param("{{ record.amount | upper }}", "1200", id="a text filter makes text of a number"),
        pytest.param("{{ '  a ' | trim }}", "a", id="trim"),
        pytest.param("{{ record.name | truncate: 7 }}", "Skates…", id="truncate counts the ending"),
        pytest.param("{{ record.name | truncate: 8, '...' }}", "Skate...", id="truncate with an ending"),
        pytest.param("{{ record.stage | truncate: 3 }}", "Won", id="truncate leaves what fits"),
        pytest.param("{{ record.name | truncate: 6, '' }}", "Skates", id="truncate without an ending"),
        pytest.param("{{ record.close_date | date: '%d.%m.%Y' }}", "23.11.2026", id="date"),
        pytest.param("{{ timestamp | date }}", "2026-11-23", id="date without a form"),
        pytest.param("{{ '2026-01-01T01:00:00+02:00' | date: '%Y-%m-%d %H:%M' }}", "2025-12-31 23:00", id="to UTC"),
        pytest.param("{{ '2026-01-01' | date: '100 %%' }}", "100 %", id="a percent sign"),
        pytest.param("{{ record.address | json }}", '{"city":"Köln"}', id="json is text"),
        pytest.param("{{ record.nothing | json }}", "null", id="json of nothing"),
        pytest.param("{{ record.name | mrkdwn }}", "Skates &amp; &lt;Söhne&gt;", id="mrkdwn escapes for Slack"),
        pytest.param({"a/b": {"~": "{{ entity }}"}}, {"a/b": {"~": "Deal"}}, id="names are free"),
    ],
)
def test_it_renders(template: Any, result: Any) -> None:
    found = rendered(template)
    assert (found, type(found)) == (result, type(result))


@pytest.mark.parametrize(
    ("template", "pointer", "says"),
    [
        pytest.param("{{ recrod.name }}", "", "recrod.name: a path begins with one of record", id="an unknown root"),
        pytest.param({"a/b": ["x", "{{"]}, "/a~1b/1", "there must be a path", id="the pointer is escaped"),
        pytest.param("{{ }}", "", "there must be a path", id="nothing inside"),
        pytest.param("{{ record.name", "", "closing }} is missing", id="no end"),
        pytest.param("{{ record.name }", "", "there must be | or }}", id="half an end"),
        pytest.param("{{ record..name }}", "", "there must be | or }}", id="two dots"),
        pytest.param("{{ record.a + 1 }}", "", "there must be | or }}", id="no arithmetic"),
        pytest.param("{{ record.__class__ }}{{ x }}", "", "x: a path begins", id="the second is at fault"),
        pytest.param(
            "{{ record.a | shout }}", "", "no filter 'shout'; there are date, default", id="an unknown filter"
        ),
        pytest.param("{{ record.a | }}", "", "no filter ''", id="a bar too many"),
        pytest.param("{{ record.a | default }}", "", "default takes one value", id="default without a value"),
        pytest.param("{{ record.a | default: x }}", "", "must be 'text', a number", id="a value that is a path"),
        pytest.param("{{ record.a | default: 007 }}", "", "must be 'text', a number", id="a number that is none"),
        pytest.param("{{ record.a | upper: 1 }}", "", "upper takes no value", id="upper with a value"),
        pytest.param("{{ record.a | json: 1 }}", "", "json takes no value", id="json with a value"),
        pytest.param("{{ record.a | truncate }}", "", "truncate takes", id="truncate without a number"),
        pytest.param("{{ record.a | truncate: 2, '...' }}", "", "truncate takes", id="truncate below its ending"),
        pytest.param("{{ record.a | truncate: 5, '.', 1 }}", "", "truncate takes", id="truncate with three"),
        pytest.param("{{ record.a | truncate: true }}", "", "truncate takes", id="truncate with true"),
        pytest.param("{{ record.a | date: '%s' }}", "", "date takes a form of %Y", id="a date word not allowed"),
        pytest.param("{{ record.a | date: '%99999999d' }}", "", "date takes a form", id="a date word with a width"),
        pytest.param("{{ record.a | date: '%' }}", "", "date takes a form", id="a lone percent sign"),
        pytest.param("{{ id" + " | trim" * 6 + " }}", "", "at most 5 filters", id="six filters"),
        pytest.param("{{ record." + "a" * 500 + " }}", "", "a path begins", id="a path too long"),
        pytest.param({"{{ id }}": 1}, "/{{ id }}", "not in a name", id="a placeholder in a name"),
        pytest.param("{{ id }}" * 201, "", "at most 200 placeholders", id="201 placeholders"),
        pytest.param(["x" * 16_385], "/0", "at most 16,384 bytes", id="too many bytes"),
        pytest.param({"k" * 16_385: 1}, "/" + "k" * 16_385, "at most 16,384 bytes", id="too many bytes in a name"),
        pytest.param([2**64], "/0", "more than 64 bits", id="a number that JSON readers differ on"),
        pytest.param([0] * 1_000, "/999", "1,000 values", id="too many values, said once"),
    ],
)
def test_it_is_refused_when_it_is_saved(template: Any, pointer: str, says: str) -> None:
    compiled, [error] = compile_template(template)
    assert compiled is None
    assert error.pointer == "/template" + pointer
    assert says in error.detail


def test_every_fault_is_named() -> None:
    _, errors = compile_template({"a": "{{ x }}", "b": ["{{ y }}"], "c": "{{ id }}"})
    assert [error.pointer for error in errors] == ["/template/a", "/template/b/0"]


def test_nesting_ends_at_sixteen() -> None:
    deep: Any = "{{ id }}"
    for _ in range(15):
        deep = [deep]
    assert compile_template(deep)[1] == []
    [error] = compile_template([deep])[1]
    assert "nested more than 16 deep" in error.detail
    for _ in range(900):
        deep = [deep]
    assert len(compile_template(deep)[1]) == 1


@pytest.mark.parametrize(
    ("template", "says"),
    [
        pytest.param("{{ record.name | date }}", "date cannot read 'Skates & <Söhne>'", id="a date that is none"),
        pytest.param("{{ record.tags | upper }}", "object or a list", id="upper of a list"),
        pytest.param("{{ record.open | date }}", "date cannot read 'true'", id="a date that is true"),
    ],
)
def test_it_fails_at_send(template: Any, says: str) -> None:
    with pytest.raises(TemplateError, match=says):
        rendered(template)


@pytest.mark.parametrize(
    "placeholder",
    ["{{ record.text }}", "<{{ record.text }}>", "{{ record.text | upper | truncate: 3 }}", "{{ record | json }}"],
)
def test_a_huge_record_cannot_make_it_work_for_long(placeholder: str) -> None:
    huge = WON | {"record": {"id": "1", "text": "x" * 1_000_000}}
    with pytest.raises(TemplateError, match="more than 4,194,304 characters"):
        rendered([placeholder] * 200, huge)
    rendered([placeholder] * 2, huge)


def test_a_stored_template_of_another_dialect_says_so() -> None:
    with pytest.raises(TemplateError, match="cannot be read by this version: /template there is no filter 'new'"):
        template_of('"{{ id | new }}"')


slowly = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # time decides nothing
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
PATHS = st.sampled_from(
    ["record", "record.a", "record.a.0", "changed", "changed.a", "previous.a", "user.name", "x", "id"]
)
STEPS = [
    "upper",
    "lower",
    "trim",
    "json",
    "mrkdwn",
    "default: 'x'",
    "default: null",
    "truncate: 3",
    "date",
    "date: '%Y'",
]
PIECES = st.one_of(
    st.text(max_size=5),
    st.builds(
        lambda path, steps: "{{ " + " | ".join([path, *steps]) + " }}",
        PATHS,
        st.lists(st.sampled_from(STEPS), max_size=3),
    ),
    st.sampled_from(["{{", "}}", "|", "{{ '", ":"]),
)
TEMPLATES = st.recursive(
    st.lists(PIECES, max_size=4).map("".join) | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@slowly
@given(TEMPLATES, JSON, JSON)
def test_whatever_is_accepted_renders_to_valid_json_or_a_template_error(template: Any, value: Any, other: Any) -> None:
    compiled, errors = compile_template(template)
    assert (compiled is None) == bool(errors)
    assert all(error.pointer.startswith("/template") and error.detail for error in errors)
    if compiled is None:
        return
    payload = {"id": "1", "record": {"id": "1", "a": value}, "changed": ["a"], "previous": {"a": other}}
    try:
        found = compiled.render(payload)
    except TemplateError:
        return
    assert orjson.loads(orjson.dumps(found)) == orjson.loads(orjson.dumps(compiled.render(payload)))


@slowly
@given(JSON)
def test_json_without_braces_renders_to_itself(value: Any) -> None:
    text = orjson.dumps(value).decode()
    compiled, errors = compile_template(value)
    if "{{" not in text:
        assert errors == []
        assert compiled is not None
        assert compiled.render(WON) == value


@slowly
@given(JSON)
def test_a_lone_placeholder_gives_the_value_itself(value: Any) -> None:
    assert rendered("{{ record.a }}", {"record": {"a": value}}) == value


@pytest.mark.parametrize(
    "noise", ["{{ ", "{{ id ", "{{ id |", "{{ 'a", "{{" + " " * 50, "}} ", "{{ a.", "{{ id | default: "]
)
def test_noise_is_refused_or_read_in_one_pass(noise: str) -> None:
    text = (noise * templates.MOST_BYTES)[: templates.MOST_BYTES - 1]
    _, errors = compile_template(text)
    assert len(errors) <= 1
