"""Counts requests by method and status class."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared import metrics

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class CountRequests:
    """An ASGI middleware; what ends in an exception counts as 5xx."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            # Clients may send any word as a method: a label must not grow with them.
            method = scope["method"] if scope["method"] in METHODS else "other"
            metrics.http_requests.labels(method, metrics.status_class(status)).inc()
