"""Request input -> a webhook's settings, or a list of field errors; JSON today, pages tomorrow. Pure."""

from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import FieldError, Refused
from shared.model import HARI, Trigger
from shared.outgoing.checks import check_headers, check_secret
from shared.outgoing.filters import compile_filter
from shared.outgoing.presets import change_format, check_template

LONGEST_OVERLAP_S = 7 * 86400
DEFAULT_OVERLAP_S = 86400
_CONTROL = {chr(code) for code in (*range(32), 127)}

Name = Annotated[str, Field(min_length=1, max_length=200, description="For people.")]
EventWord = Annotated[
    Literal["save", "create", "update", "delete"], Field(description="Which changes; save is create or update.")
]
Url = Annotated[str, Field(description="Where to POST: https:// to a public address, unless the operator allows more.")]
Secret = Annotated[
    str | None,
    Field(
        description="1 to 256 printable ASCII characters; sent as X-Webhook-Secret and the key of the signature. "
        "A whsec_ one is base64 of 24 to 64 bytes. null removes it.",
    ),
]


class WebhookChange(BaseModel):
    """What PATCH takes: any of these. Only fields that are given count, so the defaults here are never used."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Name = ""
    entity: Annotated[str, Field(description="Record type, like Deal.")] = ""
    event: EventWord = "save"
    url: Url = ""
    secret: Secret = None
    active: bool = True
    timeout_s: Annotated[int, Field(ge=1, le=30, description="Deadline of one attempt.")] = 15
    concurrency: Annotated[int, Field(ge=1, le=256, description="Requests at once, per dispatcher process.")] = 16
    headers: Annotated[dict[str, str], Field(description="Static headers to send.")] = Field(default_factory=dict)
    filter: Annotated[
        dict[str, Any] | None,
        Field(
            description="Only events for which all of this holds are sent: paths into the payload and conditions, like "
            '{"changed.stage": "Won", "record.amount": {"$gte": 1000}}. null removes it.',
        ),
    ] = None
    preset: Annotated[
        Literal["hari", "standard", "cloudevents", "slack", "zapier", "google-apps-script", "custom"],
        Field(description="The form of the body; custom takes a template."),
    ] = "hari"
    template: Annotated[
        Any,
        Field(
            description="With preset custom: any JSON whose strings may hold placeholders, like "
            '{"text": "{{ record.name }} is {{ record.stage | upper }}"}.'
        ),
    ] = None
    redirect: Annotated[
        Literal["google-apps-script"] | None,
        Field(
            description="The redirect that counts as delivered; it is never followed. The preset of that name implies "
            "it. null: none does."
        ),
    ] = None


class WebhookForm(WebhookChange):
    """What POST takes."""

    name: Name
    entity: Annotated[str, Field(description="Record type, like Deal.")]
    event: EventWord
    url: Url


class Rotation(BaseModel):
    """What rotate-secret takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    secret: Annotated[str | None, Field(description="The new one; generated without.")] = None
    overlap_s: Annotated[
        int, Field(ge=0, le=LONGEST_OVERLAP_S, description="How long the old one signs too; 0 after a leak.")
    ] = DEFAULT_OVERLAP_S


UrlCheck = Callable[[str], tuple[list[FieldError], list[FieldError]]]


def read_webhook(
    form: type[WebhookChange], given: Any, entities: Collection[str], check_url: UrlCheck
) -> tuple[dict[str, Any], list[FieldError]]:
    """(attributes of NewWebhook that were given, warnings). Raises Refused naming every field at fault.

    `check_url` gives (errors, warnings) for a URL.
    """
    read, errors = _read(form, given)
    errors += check_name(read.get("name", "-"))
    if "entity" in read and read["entity"] not in entities:
        errors.append(FieldError("/entity", f"must be one of {', '.join(sorted(entities))}"))
    if read.get("secret") is not None:
        errors += check_secret(read["secret"])
    errors += check_headers(read.get("headers", {}))
    if read.get("filter") is not None:
        errors += compile_filter(read["filter"])[1]
    if read.get("template") is not None:
        errors += check_template(read["template"])
    if form is WebhookForm and "/preset" not in {error.pointer for error in errors}:
        errors += change_format(HARI, read.get("preset"), read.get("template"))[1]
    warnings: list[FieldError] = []
    if "url" in read:
        url_errors, warnings = check_url(read["url"])
        errors += url_errors
    if errors:
        raise Refused("some fields cannot be used", errors=errors)
    values = {name: value for name, value in read.items() if name != "event"}
    if "event" in read:
        values["trigger"] = Trigger(read["event"])
    return values, warnings


def read_rotation(given: Any) -> tuple[str | None, int]:
    """(the secret that was given, overlap_s). Raises Refused."""
    read, errors = _read(Rotation, given)
    secret = read.get("secret")
    if secret is not None:
        errors += check_secret(secret)
    if errors:
        raise Refused("some fields cannot be used", errors=errors)
    return secret, read.get("overlap_s", DEFAULT_OVERLAP_S)


def check_name(name: str) -> list[FieldError]:
    """What is wrong with a name for people."""
    if name.strip() and not _CONTROL & set(name):
        return []
    return [FieldError("/name", "must not be blank and must not hold control characters")]


def read_form(form: type[BaseModel], given: Any) -> dict[str, Any]:
    """The given fields of a form whose fields need no further look. Raises Refused naming every fault."""
    read, errors = _read(form, given)
    if errors:
        raise Refused("some fields cannot be used", errors=errors)
    return read


def _read(form: type[BaseModel], given: Any) -> tuple[dict[str, Any], list[FieldError]]:
    """(the given fields that have the right form, what is wrong with the others)."""
    try:
        model = form.model_validate(given)
    except ValidationError as error:
        if not isinstance(given, dict):
            raise Refused("the body must be a JSON object", errors=[FieldError("", "must be a JSON object")]) from None
        faults = error.errors(include_url=False, include_input=False)
        bad = {str(fault["loc"][0]) for fault in faults}
        wrong = [FieldError(_pointer(fault["loc"]), _in_words(fault, form)) for fault in faults]
        return {name: value for name, value in given.items() if name in form.model_fields and name not in bad}, wrong
    return {name: getattr(model, name) for name in model.model_fields_set}, []


def _pointer(path: tuple[int | str, ...]) -> str:
    """RFC 6901."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _in_words(fault: Mapping[str, Any], form: type[BaseModel]) -> str:
    limits: Mapping[str, Any] = fault.get("ctx", {})
    match fault["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return f"unknown field; known are {', '.join(form.model_fields)}"
        case "string_type":
            return "must be text"
        case "bool_type":
            return "must be true or false"
        case "int_type" | "int_from_float":
            return "must be a whole number"
        case "dict_type":
            if fault["loc"][0] == "filter":
                return 'must be an object of paths and conditions, like {"changed.stage": "Won"}'
            return "must be a JSON object of header names and values"
        case "greater_than_equal":
            return f"must be at least {limits['ge']}"
        case "less_than_equal":
            return f"must be at most {limits['le']}"
        case "string_too_short":
            return "must not be empty"
        case "string_too_long":
            return f"must have at most {limits['max_length']} characters"
        case "literal_error":
            return f"must be one of {limits['expected']}"
    return str(fault["msg"])
