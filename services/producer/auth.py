"""Who calls: the API key of `Authorization: Bearer hari_...`."""

import time
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from services.producer.deps import Deps, Given
from shared.errors import Refused
from shared.model import Actor, Role
from shared.store import api_keys
from shared.store.api_keys import ApiKey

REMEMBERED_S = 2.0
PREFIX = "/api/v1"
MISSING = "send an API key: Authorization: Bearer hari_..."
# One text for every key that fails, whatever is wrong with it: nobody learns how close a guess was.
WRONG = "this API key is unknown or revoked; check it, or have another one made"
_scheme = HTTPBearer(bearerFormat="hari_...", auto_error=False, description="An API key.")


class Keys:
    """Keys seen a moment ago, so that not every call asks the database; a revoked one works at most 2 s longer."""

    def __init__(self) -> None:
        self._seen: dict[bytes, tuple[ApiKey, float]] = {}

    def get(self, key_hash: bytes) -> ApiKey | None:
        key, until = self._seen.get(key_hash, (None, 0.0))
        return key if until > time.monotonic() else None

    def remember(self, key_hash: bytes, key: ApiKey) -> None:
        self._seen[key_hash] = key, time.monotonic() + REMEMBERED_S


# What an operator may do besides looking; every other change takes an admin, so that a new route begins closed.
_ACTS = {
    *("/records/{entity}", "/records/{entity}/{record_id}", "/events", "/webhooks/{webhook_id}/test"),
    *("/deliveries/{delivery_id}/resend", "/dead/redrive", "/replays"),
}
_LOOKS = {"/webhooks/dry-run"}


def needed_role(method: str, path: str) -> Role:
    """The least role that may make this call; `path` is the route's, under /api/v1."""
    if path == "/keys" or path.startswith("/keys/"):
        return Role.ADMIN
    if method in ("GET", "HEAD") or path in _LOOKS:
        return Role.VIEWER
    return Role.OPERATOR if path in _ACTS else Role.ADMIN


async def authenticate(request: Request, deps: Given, _documented: Annotated[object, Depends(_scheme)]) -> Actor:
    """The key as the user of a change. Raises Refused: 401, and 403 when its role does not reach."""
    key = await find_key(request, deps)
    needed = needed_role(request.method, request.scope["route"].path.removeprefix(PREFIX))
    if not key.role.may(needed):
        raise Refused(f"this takes a key with the role {needed}; this one is {key.role}", status=403)
    return Actor(key.id, key.name)


async def find_key(request: Request, deps: Deps) -> ApiKey:
    """The key that the request shows. Raises Refused (401)."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        raise Refused(MISSING, status=401)
    keys: Keys = request.app.state.keys
    key_hash = api_keys.hash_of(given.strip())
    key = keys.get(key_hash)
    if key is None:
        key = await deps.run(api_keys.find, key_hash)
        if key is None:
            raise Refused(WRONG, status=401)
        keys.remember(key_hash, key)
    return key


User = Annotated[Actor, Depends(authenticate)]
