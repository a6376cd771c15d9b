"""Idempotency-Key on POST: the same key and request within a day get the same answer, and one effect."""

import hashlib
import re

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.producer import answers
from services.producer.auth import PREFIX, find_key
from services.producer.body import read_body
from services.producer.deps import Deps
from shared.errors import Malformed, Refused, Unavailable
from shared.store import idempotency
from shared.store.idempotency import Answer

_KEY = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?")


class Idempotency:
    """An ASGI middleware around the routes. Only answers of 2xx are kept: what was refused has changed nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith(f"{PREFIX}/")
        if not wanted or "idempotency-key" not in (request := Request(scope, receive)).headers:
            await self._app(scope, receive, send)
            return
        try:
            await self._once(request, send)
        except Refused as error:
            await (await answers.on_refused(request, error))(scope, receive, send)
        except Malformed as error:
            await (await answers.on_malformed(request, error))(scope, receive, send)
        except Unavailable as error:
            await (await answers.on_unavailable(request, error))(scope, receive, send)

    async def _once(self, request: Request, send: Send) -> None:
        deps: Deps = request.app.state.deps
        caller = (await find_key(request, deps)).id
        key = request.headers["idempotency-key"]
        if _KEY.fullmatch(key) is None:
            raise Malformed("Idempotency-Key must be 1 to 255 printable ASCII characters")
        body = await read_body(request)
        asked = f"{request.url.path}?{request.url.query}\n".encode() + body
        known = await deps.run(idempotency.reserve, deps.box, caller, key, hashlib.sha256(asked).digest())
        if known is not None:
            await _again(known)(request.scope, request.receive, send)
            return
        messages: list[Message] = []
        try:
            await self._app(request.scope, _given(body), _noted(messages))
        except BaseException:
            await deps.run(idempotency.give_back, caller, key)
            raise
        answer = _answer(messages)
        if 200 <= answer.status < 300:
            await deps.run(idempotency.keep, deps.box, caller, key, answer)
        else:
            await deps.run(idempotency.give_back, caller, key)
        for message in messages:
            await send(message)


def _given(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _noted(messages: list[Message]) -> Send:
    async def note(message: Message) -> None:
        messages.append(message)

    return note


def _answer(messages: list[Message]) -> Answer:
    start, *rest = messages
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
    return Answer(start["status"], headers, b"".join(message.get("body", b"") for message in rest))


def _again(known: Answer) -> Response:
    response = Response(known.body, known.status)
    headers = MutableHeaders(raw=response.raw_headers)
    for name, value in known.headers:
        headers[name] = value
    headers["Idempotent-Replayed"] = "true"
    return response
