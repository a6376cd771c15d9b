"""The pages: routes, templates and static files of Settings > Webhooks and what belongs to it."""

from pathlib import Path

from fastapi import APIRouter, FastAPI
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from services.producer.pages import deliveries, records, sign_in, webhooks
from services.producer.pages.sign_in import SignIns

_start = APIRouter()


@_start.get("/")
async def start() -> Response:
    """Where most people want to go."""
    return RedirectResponse("/settings/webhooks", 303)


routers = [_start, *(part.router for part in (sign_in, webhooks, deliveries, records))]


def add_to(app: FastAPI) -> None:
    """Add the pages to this application, which has its `deps` already."""
    app.state.sign_ins = SignIns()
    for router in routers:
        app.include_router(router, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=Path(__file__).with_name("static")), name="static")
