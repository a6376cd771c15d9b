"""Entities and their typed fields: the built-in ones, more from one TOML file, and what may be put into a field. Pure
but for reading that file.

The file names entities and fields, never needed for the built-in ones:

    [Deal.fields]
    probability = "number"
"""

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from shared.clock import rfc3339
from shared.errors import FieldError, SettingsError
from shared.model import Json

MAX_RECORD_BYTES = 1024 * 1024
MAX_TEXT_LENGTH = 262_144
MAX_EMAIL_LENGTH = 254  # RFC 5321 section 4.5.3.1.3, without the angle brackets
MAX_REFERENCE_LENGTH = 200
MAX_FIELDS = 200
RESERVED = frozenset({"id", "version", "created_at", "updated_at"})
_ENTITY_NAME = re.compile(r"[A-Z][A-Za-z0-9]{0,62}")
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_REFERENCE = re.compile(r"[A-Za-z0-9_:-]+")


class Kind(StrEnum):
    """The type of a field."""

    TEXT = "text"
    EMAIL = "email"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"
    DATETIME = "datetime"
    REFERENCE = "reference"


@dataclass(frozen=True, slots=True)
class Entity:
    """A record type: its name and the types of its own fields, in the order in which records show them."""

    name: str
    fields: Mapping[str, Kind]


Entities = Mapping[str, Entity]

_TEXT, _EMAIL_KIND, _DATE, _REF = Kind.TEXT, Kind.EMAIL, Kind.DATE, Kind.REFERENCE
BUILT_IN: Mapping[str, Mapping[str, Kind]] = {
    "Contact": {
        "first_name": _TEXT,
        "last_name": _TEXT,
        "email": _EMAIL_KIND,
        "phone": _TEXT,
        "company_id": _REF,
    },
    "Company": {"name": _TEXT, "domain": _TEXT},
    "Lead": {"name": _TEXT, "email": _EMAIL_KIND, "source": _TEXT, "status": _TEXT},
    "Deal": {"name": _TEXT, "stage": _TEXT, "amount": Kind.NUMBER, "close_date": _DATE, "contact_id": _REF},
    "Task": {"title": _TEXT, "status": _TEXT, "due_date": _DATE},
}

_SAMPLES: Mapping[str, Any] = {
    "Contact.first_name": "Ada",
    "Contact.last_name": "Lovelace",
    "Contact.phone": "+44 20 7946 0958",
    "Company.name": "Analytical Engines Ltd",
    "Company.domain": "example.com",
    "Lead.name": "Grace Hopper",
    "Lead.source": "website",
    "Lead.status": "new",
    "Deal.name": "Analytical Engine, 12 months",
    "Deal.stage": "Won",
    "Deal.amount": 12500,
    "Task.title": "Call back about the offer",
    "Task.status": "open",
}
_SAMPLES_BY_KIND: Mapping[Kind, Any] = {
    Kind.TEXT: "sample text",
    Kind.EMAIL: "ada@example.com",
    Kind.NUMBER: 42,
    Kind.BOOLEAN: True,
    Kind.DATE: "2026-12-31",
    Kind.DATETIME: "2026-11-23T10:15:30.123Z",
    Kind.REFERENCE: "rec_sample",
}


def read_entities(path: Path | None = None) -> Entities:
    """The built-in entities with what the file at `path` adds. Raises SettingsError naming every fault in it."""
    if path is None:
        return _entities(BUILT_IN)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"HARI_ENTITIES_FILE: cannot read {path}: {error}") from None
    return parse_entities(text, str(path))


def parse_entities(text: str, source: str) -> Entities:
    """`read_entities` of a file's text; `source` is its name, for the error."""
    try:
        declared = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"HARI_ENTITIES_FILE: {source} is not valid TOML: {error}") from None
    faults: list[str] = []
    entities = {name: dict(fields) for name, fields in BUILT_IN.items()}
    for name, body in declared.items():
        if not _ENTITY_NAME.fullmatch(name):
            faults.append(f"{name}: an entity is named by a capital and up to 62 letters and digits more, like Invoice")
            continue
        fields = body.get("fields") if isinstance(body, dict) and set(body) == {"fields"} else None
        if not isinstance(fields, dict):
            faults.append(f'{name}: write its fields as a table [{name}.fields] with lines like title = "text"')
            continue
        own = entities.setdefault(name, {})
        for field, kind in fields.items():
            fault = _declaration_fault(field, kind, BUILT_IN.get(name, {}))
            if fault is None:
                own[field] = Kind(kind)
            else:
                faults.append(f"{name}.{field}: {fault}")
        if not own or len(own) > MAX_FIELDS:
            faults.append(f"{name}: must have 1 to {MAX_FIELDS} fields")
    if faults:
        raise SettingsError("\n".join([f"HARI_ENTITIES_FILE: {source} cannot be used:", *(f"  {f}" for f in faults)]))
    return _entities(entities)


def _entities(fields: Mapping[str, Mapping[str, Kind]]) -> Entities:
    return {name: Entity(name, dict(own)) for name, own in fields.items()}


def _declaration_fault(field: str, kind: object, built_in: Mapping[str, Kind]) -> str | None:
    if field in RESERVED:
        return "this name belongs to every record already"
    if not _FIELD_NAME.fullmatch(field):
        return "a field is named by a small letter and up to 62 small letters, digits and _ more"
    if not isinstance(kind, str) or kind not in set(Kind):
        return f"its type must be one of {', '.join(Kind)}"
    if field in built_in and kind != built_in[field]:
        return f"is built in as {built_in[field]}; a built-in field keeps its type"
    return None


def check_fields(entity: Entity, given: Mapping[str, Any]) -> tuple[Json, list[FieldError]]:
    """(the fields that are right, in the form in which they are stored; what is wrong with the others).

    Types are strict: no "1" for 1. None clears a field. A datetime comes out in UTC to the millisecond.
    """
    clean: Json = {}
    errors: list[FieldError] = []
    for name, value in given.items():
        kind = entity.fields.get(name)
        if kind is None:
            errors.append(FieldError(_pointer(name), _unknown(entity, name)))
            continue
        if value is None:
            clean[name] = None
            continue
        right, found = _read(kind, value)
        if right:
            clean[name] = found
        else:
            errors.append(FieldError(_pointer(name), found))
    return clean, errors


def sample(entity: Entity, *, record_id: str = "rec_sample", at: datetime) -> Json:
    """A record of this entity as a test shows it: every field, with values of a likely form."""
    fields = {
        name: _SAMPLES.get(f"{entity.name}.{name}", _SAMPLES_BY_KIND[kind]) for name, kind in entity.fields.items()
    }
    return {"id": record_id, "version": 1, "created_at": rfc3339(at), "updated_at": rfc3339(at), **fields}


def _unknown(entity: Entity, name: str) -> str:
    if name in RESERVED:
        return "is set by HARI and cannot be given"
    return f"unknown field; {entity.name} has {', '.join(entity.fields)}"


def _pointer(name: str) -> str:
    return "/" + name.replace("~", "~0").replace("/", "~1")


def _read(kind: Kind, value: Any) -> tuple[bool, Any]:
    """(True, the value as stored) or (False, what is wrong)."""
    match kind:
        case Kind.BOOLEAN:
            return isinstance(value, bool), value if isinstance(value, bool) else "must be true or false"
        case Kind.NUMBER:
            number = _is_number(value)
            return number, value if number else "must be a number, with at most 64 bits"
    if not isinstance(value, str):
        return False, f"{_FORMS[kind]}, not {_KIND_OF_JSON.get(type(value), 'this')}"
    match kind:
        case Kind.TEXT:
            return (True, value) if len(value) <= MAX_TEXT_LENGTH else (False, _FORMS[kind])
        case Kind.EMAIL:
            fits = len(value) <= MAX_EMAIL_LENGTH and _EMAIL.fullmatch(value)
            return (True, value) if fits else (False, _FORMS[kind])
        case Kind.REFERENCE:
            fits = len(value) <= MAX_REFERENCE_LENGTH and _REFERENCE.fullmatch(value)
            return (True, value) if fits else (False, _FORMS[kind])
        case Kind.DATE:
            found = _date(value)
        case Kind.DATETIME:
            found = _datetime(value)
    return (found is not None), _FORMS[kind] if found is None else found


_KIND_OF_JSON = {int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "an object"}
_FORMS: Mapping[Kind, str] = {
    Kind.TEXT: f"must be text of at most {MAX_TEXT_LENGTH:,} characters",
    Kind.EMAIL: f"must be an email address, like ada@example.com, of at most {MAX_EMAIL_LENGTH} characters",
    Kind.REFERENCE: f"must be the id of a record: 1 to {MAX_REFERENCE_LENGTH} characters of A-Z a-z 0-9 _ : -",
    Kind.DATE: "must be a date like 2026-11-23",
    Kind.DATETIME: "must be a time with an offset, like 2026-11-23T10:15:30Z",
}


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**64


def _date(text: str) -> str | None:
    try:
        # fromisoformat alone also reads 20261123 and 2026-W48-1.
        return date.fromisoformat(text).isoformat() if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else None
    except ValueError:
        return None


def _datetime(text: str) -> str | None:
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9:.]+(?:[Zz]|[+-][0-9]{2}:[0-9]{2})", text):
        return None
    try:
        return rfc3339(datetime.fromisoformat(text.upper()))
    except (ValueError, OverflowError):
        return None
