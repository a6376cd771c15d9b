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


def _problem(why: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": why, "content": {"application/problem+json": {"schema": schema}}}


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: _problem(why)
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


_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "The same key and request within 24 hours have one effect and get the same answer.",
}
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "schema": _TEXT,
    "description": "An ETag of ours; 412 when there is another version by now.",
}
_VERSIONED = ("/records/{entity}/{record_id}", "/webhooks/{webhook_id}")


def complete(document: dict[str, Any]) -> None:
    """Add what FastAPI cannot see: the shape of problems, and the headers that are read elsewhere."""
    document["components"]["schemas"]["Problem"] = _PROBLEM
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            if method == "post":
                call.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
            if method in ("patch", "delete") and path.endswith(_VERSIONED):
                call.setdefault("parameters", []).append(_IF_MATCH)
                call["responses"]["412"] = _problem("Another version by now.")


def operation_id(route: APIRoute) -> str:
    """The function's own name: what generated clients call their methods."""
    return route.name
