"""Errors for people: the API's problem as a page, when a browser asks."""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from services.producer.pages.show import html

KEPT = ("location", "retry-after", "allow", "hx-redirect", "connection")


def for_people(answer: Callable[[Request, Any], Awaitable[Response]]) -> Callable[[Request, Any], Awaitable[Response]]:
    """An exception handler that answers as `answer` does, but in HTML to a browser outside /api."""

    async def handle(request: Request, error: Exception) -> Response:
        problem = await answer(request, error)
        if "text/html" not in request.headers.get("accept", "") or request.url.path.startswith("/api/"):
            return problem
        said = orjson.loads(bytes(problem.body))
        errors = [f"{fault['pointer'].lstrip('/')}: {fault['detail']}" for fault in said.get("errors", ())]
        page = html("error.html", problem.status_code, title=said["title"], detail=said["detail"], errors=errors)
        page.headers.update({name: problem.headers[name] for name in KEPT if name in problem.headers})
        return page

    return handle
