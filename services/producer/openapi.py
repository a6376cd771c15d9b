"""Bodies for the OpenAPI document: routes read them themselves, strictly, so FastAPI cannot see them. Pure."""

from typing import Any

from fastapi.routing import APIRoute
from pydantic import BaseModel


def body_of(form: type[BaseModel], *, change: bool = False, required: bool = True) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads `form`; in a `change`, what is left out stays as it is."""
    schema = form.model_json_schema()
    for field in schema["properties"].values():
        field.pop("title", None)
        if change:
            field.pop("default", None)
    return json_body(schema, required=required)


def json_body(schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    """The `openapi_extra` of a route whose JSON body has this schema."""
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


_TEXT = {"type": "string"}
_FAULT = {"type": "object", "required": ["pointer", "detail"], "properties": {"pointer": _TEXT, "detail": _TEXT}}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer"},
        "detail": _TEXT,
        "errors": {"type": "array", "items": _FAULT},
    },
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": why, "content": {"application/problem+json": {"schema": _PROBLEM}}}
    for status, why in {
        400: "Not JSON.",
        401: "No key, or a wrong one.",
        403: "The key's role does not reach.",
        404: "No such thing.",
        409: "Not in the state it is in now.",
        422: "A field or parameter cannot be used; `errors` names each.",
        503: "The database, the broker or a dispatcher is away; try again.",
    }.items()
}


def operation_id(route: APIRoute) -> str:
    """The function's own name: what generated clients call their methods."""
    return route.name
