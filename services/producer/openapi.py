"""Bodies for the OpenAPI document: routes read them themselves, strictly, so FastAPI cannot see them. Pure."""

from typing import Any

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
