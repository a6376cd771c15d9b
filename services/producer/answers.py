"""What the API answers: JSON, pages of it, and problems (RFC 9457) for everything that goes wrong."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from shared.errors import FieldError, Malformed, Refused, SettingsError, Unavailable
from shared.logs import logger
from shared.store.paging import Page

RETRY_AFTER_S = "1"
_log = logger("hari.api")


class Json(Response):
    """An answer in JSON; every one of them may hold what only the key's owner should see."""

    media_type = "application/json"

    def __init__(self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(orjson.dumps(content), status_code, {"Cache-Control": "no-store", **(headers or {})})


class ProblemJson(Json):
    media_type = "application/problem+json"


def page(found: Page[Any]) -> Json:
    """`{data, next_cursor}`."""
    return Json({"data": found.rows, "next_cursor": found.next_cursor})


def etag(version: int) -> dict[str, str]:
    """The header by which a client can say later which version it has seen."""
    return {"ETag": f'"{version}"'}


def problem(
    status: int, detail: str, errors: Sequence[FieldError] = (), headers: Mapping[str, str] | None = None
) -> ProblemJson:
    """A problem of the common type; `detail` says what was wrong and what to do."""
    body: dict[str, Any] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    body["detail"] = detail
    if errors:
        body["errors"] = [{"pointer": error.pointer, "detail": error.detail} for error in errors]
    return ProblemJson(body, status, headers)


async def on_malformed(_request: Request, error: Malformed) -> Response:
    return problem(400, str(error))


async def on_refused(_request: Request, error: Refused) -> Response:
    # After 413 the rest of the body is still on its way: nobody will read it.
    headers = {401: {"WWW-Authenticate": "Bearer"}, 413: {"Connection": "close"}}.get(error.status)
    return problem(error.status, str(error), error.errors, headers)


async def on_unavailable(_request: Request, error: Unavailable) -> Response:
    _log.warning("request.unavailable", reason=str(error))
    return problem(503, str(error), headers={"Retry-After": RETRY_AFTER_S})


async def on_misconfigured(_request: Request, error: SettingsError) -> Response:
    _log.error("request.misconfigured", reason=str(error))
    return problem(500, str(error))


async def on_http(request: Request, error: HTTPException) -> Response:
    """Starlette's own errors: no such path, no such method on it."""
    if error.status_code == 404:
        return problem(404, f"there is nothing at {request.url.path}; /openapi.json lists what there is")
    if error.status_code == 405:
        allowed = ", ".join(sorted(_methods(request)))
        return problem(405, f"{request.method} does not work here; use {allowed}", headers={"Allow": allowed})
    return problem(error.status_code, str(error.detail), headers=error.headers)


async def on_invalid(_request: Request, error: Exception) -> Response:
    """FastAPI's validation, which here sees only the query."""
    faults = error.errors() if hasattr(error, "errors") else []
    errors = [FieldError("/" + "/".join(str(part) for part in fault["loc"][1:]), _in_words(fault)) for fault in faults]
    return problem(422, "some query parameters cannot be used", errors)


async def on_bug(_request: Request, _error: Exception) -> Response:
    return problem(500, "HARi made a mistake; its log says more")


def _in_words(fault: Mapping[str, Any]) -> str:
    words = str(fault["msg"]).removeprefix("Value error, ")
    return words.replace("Input should be", "must be", 1)


def _methods(request: Request) -> set[str]:
    """Every method that some route has at this path; Starlette's own list stops at the first route."""
    here = request.scope["path"]
    return {method for path, methods in request.app.state.methods if path.match(here) for method in methods}
