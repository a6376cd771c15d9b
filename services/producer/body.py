"""The request as the routes take it: strict JSON counted while it is read, preconditions, and who caused it."""

import asyncio
import re
from typing import Annotated, Any

import orjson
from fastapi import Depends, Request
from starlette.requests import ClientDisconnect

from shared.errors import FieldError, Malformed, Refused

MAX_BODY_BYTES = 2 * 1024 * 1024
MAX_DEPTH = 64
READ_S = 15.0
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context
_HOP = re.compile(r"[0-9]{1,4}")
_ETAG = re.compile(r'"([0-9]{1,9})"')


async def _json(request: Request) -> Any:
    """The body, parsed. Raises Malformed, or Refused with status 408 or 413."""
    body = await read_bytes(request)
    if not body.strip():
        raise Malformed("the body is empty; send JSON")
    return _parse(body)


async def _json_or_nothing(request: Request) -> Any:
    """The body, parsed; {} when there is none."""
    body = await read_bytes(request)
    return _parse(body) if body.strip() else {}


Body = Annotated[Any, Depends(_json)]
OptionalBody = Annotated[Any, Depends(_json_or_nothing)]


async def read_bytes(request: Request) -> bytes:
    too_large = Refused(f"the body is larger than {MAX_BODY_BYTES:,} bytes", status=413)
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        # uvicorn has no deadline of its own: a client could send a byte a minute for ever.
        async with asyncio.timeout(READ_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise too_large
    except TimeoutError:
        raise Refused(f"the body did not arrive within {READ_S:g} s", status=408) from None
    except ClientDisconnect:
        raise Malformed("the connection ended before the body did") from None
    return bytes(body)


def _parse(body: bytes) -> Any:
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"the body is not valid JSON: {error}") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth_exceeds(given, MAX_DEPTH):
        raise Malformed(f"the body nests deeper than {MAX_DEPTH} levels")
    return given


def _depth_exceeds(given: Any, limit: int) -> bool:
    level = [given]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return any(isinstance(inner, dict | list) for inner in level)


async def _if_match(request: Request) -> int | None:
    """The version that If-Match asks for; None when it asks for none. Raises Refused with status 412."""
    given = request.headers.get("if-match")
    if given is None or given.strip() == "*":
        return None
    found = _ETAG.fullmatch(given.strip())
    if found is None:
        raise Refused('If-Match fits no version; it takes one ETag of ours, like "7"', status=412)
    return int(found[1])


IfVersion = Annotated[int | None, Depends(_if_match)]


def origin(request: Request) -> dict[str, Any]:
    """What a change passes on to its event: `hop` and `traceparent`, when a caller that we notified sends them."""
    hop, traceparent = request.headers.get("x-hari-hop", ""), request.headers.get("traceparent", "")
    return {
        "hop": min(int(hop), 1000) if _HOP.fullmatch(hop) else 0,
        "traceparent": traceparent if _TRACEPARENT.fullmatch(traceparent) else None,
    }


async def refuse_unknown_query(request: Request) -> None:
    """A misspelt filter must not list everything. Raises Refused naming it."""
    if any("\x00" in str(value) for value in request.path_params.values()):
        raise Refused("no such id: ids have no NUL character", status=404)
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    errors = [FieldError("/" + name, _known(known)) for name in request.query_params if name not in known]
    nul = [FieldError("/" + name, "must not hold NUL") for name, given in request.query_params.items() if "\0" in given]
    if errors or nul:
        raise Refused("some query parameters cannot be used", errors=errors + nul)


def _known(known: set[str]) -> str:
    return f"unknown parameter; known are: {', '.join(sorted(known))}" if known else "this call takes no parameters"
