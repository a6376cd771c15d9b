"""Entities: what may be put into a field, and what the entities file may say."""

from pathlib import Path
from typing import Any

import pytest

from shared.entities import BUILT_IN, Entity, Kind, check_fields, parse_entities, read_entities, sample
from shared.errors import FieldError, SettingsError
from tests.builders import NOON

ALL = Entity("Thing", {kind.value: kind for kind in Kind})

GOOD: dict[str, tuple[str, Any, Any]] = {
    "text may be empty": ("text", "", ""),
    "text may hold any character": ("text", "a\x00\U0001f680\r\n", "a\x00\U0001f680\r\n"),
    "text may have 262,144 characters": ("text", "x" * 262_144, "x" * 262_144),
    "an email address": ("email", "ada@example.com", "ada@example.com"),
    "an email address at a local name": ("email", "root@localhost", "root@localhost"),
    "a whole number": ("number", -3, -3),
    "a fraction": ("number", 0.5, 0.5),
    "the largest number of 64 bits": ("number", 2**64 - 1, 2**64 - 1),
    "false": ("boolean", False, False),
    "a leap day": ("date", "2028-02-29", "2028-02-29"),
    "a time in UTC": ("datetime", "2026-11-23T10:15:30Z", "2026-11-23T10:15:30.000Z"),
    "a time with an offset comes out in UTC": ("datetime", "2026-11-23T01:15:30.5+02:00", "2026-11-22T23:15:30.500Z"),
    "a reference": ("reference", "rec_0:a-B", "rec_0:a-B"),
    "null clears text": ("text", None, None),
    "null clears a number": ("number", None, None),
}

BAD: dict[str, tuple[str, Any, str]] = {
    "a number as text": ("text", 1, "must be text"),
    "a list as text": ("text", [], "must be text"),
    "text of 262,145 characters": ("text", "x" * 262_145, "at most 262,144 characters"),
    "an email address without @": ("email", "ada", "must be an email address, like ada@example.com"),
    "an email address with two @": ("email", "a@b@c", "must be an email address"),
    "an email address with a space": ("email", "a b@c", "must be an email address"),
    "an email address with a line break": ("email", "a@c\n", "must be an email address"),
    "an email address of 255 characters": ("email", "a" * 253 + "@c", "at most 254 characters"),
    "text as a number": ("number", "1", "must be a number"),
    "true as a number": ("number", True, "must be a number"),
    "infinity": ("number", float("inf"), "must be a number"),
    "a number over 64 bits": ("number", 2**64, "with at most 64 bits"),
    "1 as true": ("boolean", 1, "must be true or false"),
    "the word true": ("boolean", "true", "must be true or false"),
    "a day that does not exist": ("date", "2026-02-30", "must be a date like 2026-11-23"),
    "a date without hyphens": ("date", "20261123", "must be a date"),
    "a date by week": ("date", "2026-W48-1", "must be a date"),
    "a date with a time": ("date", "2026-11-23T00:00:00Z", "must be a date"),
    "a date in other digits": ("date", "２０２６-11-23", "must be a date"),
    "a time without an offset": ("datetime", "2026-11-23T10:15:30", "must be a time with an offset"),
    "a date as a time": ("datetime", "2026-11-23", "must be a time with an offset"),
    "an hour that does not exist": ("datetime", "2026-11-23T25:15:30Z", "must be a time with an offset"),
    "a time before the year 1": ("datetime", "0001-01-01T00:00:00+14:00", "must be a time with an offset"),
    "Unix seconds as a time": ("datetime", 1795428930, "must be a time with an offset"),
    "an empty reference": ("reference", "", "must be the id of a record"),
    "a reference with a slash": ("reference", "a/b", "must be the id of a record"),
    "a reference of 201 characters": ("reference", "a" * 201, "1 to 200 characters"),
    "a field that is not declared": ("colour", "red", "unknown field; Thing has text, email, number"),
    "the record's own id": ("id", "rec_1", "is set by HARI and cannot be given"),
    "the record's version": ("version", 3, "is set by HARI and cannot be given"),
    "the record's created_at": ("created_at", None, "is set by HARI and cannot be given"),
}


@pytest.mark.parametrize(("name", "given", "stored"), GOOD.values(), ids=GOOD)
def test_a_value_that_fits_is_stored(name: str, given: Any, stored: Any) -> None:
    clean, errors = check_fields(ALL, {name: given})
    assert (clean, errors) == ({name: stored}, [])
    assert type(clean[name]) is type(stored)


@pytest.mark.parametrize(("name", "given", "detail"), BAD.values(), ids=BAD)
def test_a_value_that_does_not_fit_says_why(name: str, given: Any, detail: str) -> None:
    clean, [error] = check_fields(ALL, {name: given})
    assert clean == {}
    assert error.pointer == f"/{name}"
    assert detail in error.detail


def test_every_fault_is_named_and_the_rest_is_kept() -> None:
    clean, errors = check_fields(ALL, {"text": "a", "number": "x", "a/b~": 1})
    assert clean == {"text": "a"}
    assert [error.pointer for error in errors] == ["/number", "/a~1b~0"]
    assert isinstance(errors[0], FieldError)


def test_the_file_adds_entities_and_fields() -> None:
    entities = parse_entities('[Deal.fields]\nprobability = "number"\n[Invoice.fields]\npaid = "boolean"\n', "f.toml")
    assert list(entities["Deal"].fields) == [*BUILT_IN["Deal"], "probability"]
    assert entities["Invoice"].fields == {"paid": Kind.BOOLEAN}
    assert set(entities) == {*BUILT_IN, "Invoice"}
    assert "probability" not in BUILT_IN["Deal"]


FILES: dict[str, tuple[str, str]] = {
    "not TOML": ("[Deal", "f.toml is not valid TOML"),
    "a type that does not exist": ('[Deal.fields]\nx = "money"', "Deal.x: its type must be one of text, email, number"),
    "a type that is no text": ("[Deal.fields]\nx = 3", "Deal.x: its type must be one of"),
    "a field that is every record's own": ('[Deal.fields]\nid = "text"', "Deal.id: this name belongs to every record"),
    "a field with a capital": ('[Deal.fields]\nName = "text"', "Deal.Name: a field is named by a small letter"),
    "a field with a hyphen": ('[Deal.fields]\nx-y = "text"', "Deal.x-y: a field is named by a small letter"),
    "a built-in field of another type": ('[Deal.fields]\namount = "text"', "Deal.amount: is built in as number"),
    "an entity with a small letter": ('[invoice.fields]\nx = "text"', "invoice: an entity is named by a capital"),
    "an entity of 64 characters": (f'[{"A" * 64}.fields]\nx = "text"', "an entity is named by a capital and up to 62"),
    "an entity without fields": ("[Invoice.fields]\n", "Invoice: must have 1 to 200 fields"),
    "fields in the wrong place": ('[Invoice]\nx = "text"', "Invoice: write its fields as a table [Invoice.fields]"),
    "something beside the fields": (
        '[Invoice]\nlabel = "x"\n[Invoice.fields]\nx = "text"',
        "Invoice: write its fields",
    ),
    "an entity that is no table": ("Invoice = 3", "Invoice: write its fields as a table"),
}


@pytest.mark.parametrize(("text", "fault"), FILES.values(), ids=FILES)
def test_a_fault_in_the_file_stops_the_start(text: str, fault: str) -> None:
    with pytest.raises(SettingsError) as error:
        parse_entities(text, "f.toml")
    assert fault in str(error.value)
    assert str(error.value).startswith("HARI_ENTITIES_FILE: f.toml")


def test_one_error_names_every_fault_in_the_file() -> None:
    with pytest.raises(SettingsError) as error:
        parse_entities('[Deal.fields]\nid = "text"\nx = "money"\n[invoice.fields]\ny = "text"', "f.toml")
    assert [line.split(":")[0].strip() for line in str(error.value).splitlines()[1:]] == [
        "Deal.id",
        "Deal.x",
        "invoice",
    ]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"HARI_ENTITIES_FILE: cannot read .*none\.toml"):
        read_entities(tmp_path / "none.toml")
    assert set(read_entities()) == set(BUILT_IN)


@pytest.mark.parametrize("entity", [*read_entities().values(), ALL], ids=lambda entity: entity.name)
def test_a_sample_has_every_field_and_could_be_saved(entity: Entity) -> None:
    shown = sample(entity, at=NOON)
    own = {name: value for name, value in shown.items() if name not in ("id", "version", "created_at", "updated_at")}
    assert set(own) == set(entity.fields)
    assert all(value is not None for value in own.values())
    assert check_fields(entity, own) == (own, [])
    assert shown["created_at"] == "2026-11-23T12:00:00.123Z"
