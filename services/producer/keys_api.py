"""/keys: API keys and what each may do."""

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection
from starlette.responses import Response

from services.producer import shapes
from services.producer.answers import Json, page
from services.producer.body import Body
from services.producer.deps import Given
from services.producer.forms import Name, check_name, read_form
from services.producer.openapi import body_of
from services.producer.records_api import Cursor, Limit
from shared.errors import Refused
from shared.model import Role
from shared.store import api_keys
from shared.store.paging import read_cursor

router = APIRouter(prefix="/keys", tags=["keys"])


class KeyForm(BaseModel):
    """What POST takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Name
    role: Annotated[
        Literal["viewer", "operator", "admin"],
        Field(description="viewer looks, operator also sends again and changes records, admin also changes settings."),
    ]


@router.post("", status_code=201, response_model=shapes.ApiKey, openapi_extra=body_of(KeyForm))
async def create_key(deps: Given, given: Body) -> Response:
    """Make an API key; the answer shows it for the only time."""
    read = read_form(KeyForm, given)
    errors = check_name(read["name"])
    if errors:
        raise Refused("some fields cannot be used", errors=errors)
    text = api_keys.new_key()
    key = await deps.run(api_keys.create, read["name"], text, Role(read["role"]))
    return Json({"id": key.id, "name": key.name, "role": key.role, "prefix": key.prefix, "key": text}, 201)


@router.get("", response_model=shapes.Page[shapes.ApiKey])
async def list_keys(deps: Given, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """Keys, revoked ones too, newest first."""
    after = read_cursor(cursor) if cursor is not None else None
    return page(await deps.run(api_keys.newest, limit=limit, after=after))


@router.delete("/{key_id}", status_code=204)
async def revoke_key(key_id: str, deps: Given) -> Response:
    """Revoke a key; it works two seconds more at most. The last admin's key is refused with 409."""
    if not await deps.run(_revoke, key_id):
        raise Refused(f"there is no live key with the id {key_id}", status=404)
    return Response(status_code=204)


def _revoke(conn: Connection, key_id: str) -> bool:
    if api_keys.lock_admins(conn) == [key_id]:
        raise Refused("this is the last key of an admin; make another one first", status=409)
    return api_keys.revoke(conn, key_id)
