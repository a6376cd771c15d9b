"""The producer's web application: mounts the routes, answers every error as a problem."""

from re import Pattern
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy import Connection, text
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, compile_path

from services.producer import (
    answers,
    deliveries_api,
    explain_api,
    hooks_api,
    keys_api,
    pages,
    records_api,
    replays_api,
    webhooks_api,
)
from services.producer.auth import PREFIX, Keys, authenticate
from services.producer.body import refuse_unknown_query
from services.producer.counting import CountRequests
from services.producer.deps import Deps, Given
from services.producer.idempotency import Idempotency
from services.producer.openapi import PROBLEMS, complete, operation_id
from services.producer.pages.errors import for_people
from services.producer.pages.headers import SecurityHeaders
from shared.assembly import VERSION
from shared.errors import Malformed, Refused, SettingsError, Unavailable

PARTS = (records_api, webhooks_api, explain_api, deliveries_api, replays_api, keys_api, hooks_api)
DESCRIPTION = (
    "Webhooks for a CRM. Problems are RFC 9457 `application/problem+json`; lists come newest first, by cursor. "
    "A POST with an `Idempotency-Key` has one effect: the same key and body within 24 hours get the same answer, "
    "another body 422, and 409 while the first is under way. `If-Match` takes an `ETag` of ours."
)


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            complete(super().openapi())
        return super().openapi()


def create_app(deps: Deps) -> FastAPI:
    """The application over these parts. It opens nothing and closes nothing."""
    # FastAPI's documentation pages load scripts from a CDN, so they are off. /openapi.json needs no key: it says the
    # same for every installation, and client generators fetch it without one.
    app = _App(
        title="HARi Webhooks",
        version=VERSION,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
    )
    app.add_middleware(Idempotency)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(CountRequests)
    app.state.deps = deps
    app.state.keys = Keys()
    # Everything under /api asks for a key before it looks at anything else.
    checks = [Depends(authenticate), Depends(refuse_unknown_query)]
    api = APIRouter(prefix=PREFIX, dependencies=checks, responses=PROBLEMS)
    routers = [
        part.router
        for part in (records_api, explain_api, webhooks_api, deliveries_api, replays_api, keys_api, hooks_api)
    ]
    for router in routers:
        api.include_router(router)
    app.include_router(api)
    app.include_router(_health)
    pages.add_to(app)
    app.state.methods = [
        *_methods(_health),
        *(known for router in pages.routers for known in _methods(router)),
        *(known for router in routers for known in _methods(router, api.prefix)),
    ]
    app.add_exception_handler(Malformed, for_people(answers.on_malformed))
    app.add_exception_handler(Refused, for_people(answers.on_refused))
    app.add_exception_handler(Unavailable, for_people(answers.on_unavailable))
    app.add_exception_handler(SettingsError, for_people(answers.on_misconfigured))
    app.add_exception_handler(HTTPException, for_people(answers.on_http))
    app.add_exception_handler(RequestValidationError, for_people(answers.on_invalid))
    app.add_exception_handler(Exception, for_people(answers.on_bug))
    return app


def _methods(router: APIRouter, prefix: str = "") -> list[tuple[Pattern[str], set[str]]]:
    """(path, methods) of each route: what a 405 answer allows."""
    routes = [route for route in router.routes if isinstance(route, Route)]
    return [(compile_path(prefix + route.path)[0], set(route.methods or ())) for route in routes]


_health = APIRouter(include_in_schema=False)


@_health.get("/healthz")
async def healthz() -> Response:
    """The process answers: enough for a liveness probe, which must not restart it for somebody else's outage."""
    return PlainTextResponse("ok\n")


@_health.get("/readyz")
async def readyz(deps: Given) -> Response:
    """Whether requests can be served: the database answers, and every part of the process is ready."""
    troubles = dict(deps.troubles())
    try:
        await deps.run(_ping)
    except Unavailable as error:
        troubles["database"] = str(error)
    if troubles:
        return PlainTextResponse("".join(f"{part}: {why}\n" for part, why in troubles.items()), 503)
    return PlainTextResponse("ok\n")


def _ping(conn: Connection) -> None:
    conn.execute(text("SELECT 1"))
