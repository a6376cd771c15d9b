"""Who looks at a page: the session of the cookie, the role that the page asks for, and a form that is really theirs."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote

import orjson
from fastapi import Depends, Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from services.producer.body import read_body
from services.producer.deps import Deps, Given
from services.producer.pages.show import html
from shared.errors import Malformed, Refused
from shared.model import Actor, Json, Role
from shared.store import users
from shared.store.users import User

COOKIE = "hari_session"
MOST_FIELDS = 500
FORM_TYPE = "application/x-www-form-urlencoded"

NOTICE: Json = {"text": None, "warnings": [], "secret": None, "event_id": None, "test": None, "webhook_id": None}


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of a user whose role is enough for it. `form` is empty for a GET."""

    request: Request
    deps: Deps
    user: User
    token: str
    form: Mapping[str, str]
    notice: bytes | None

    @property
    def actor(self) -> Actor:
        return Actor(self.user.id, self.user.name)

    @property
    def csrf(self) -> str:
        """What each form of this session carries. Other sites cannot read it, nor make it without the cookie."""
        return hmac.digest(self.token.encode(), b"hari form", hashlib.sha256).hex()

    @property
    def by_htmx(self) -> bool:
        return "hx-request" in self.request.headers

    def may(self, role: str) -> bool:
        return self.user.role.may(Role(role))

    async def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """A page with this visit as `visit`, and the notice that waited for it as `notice`."""
        notice: Json | None = None
        if self.notice is not None:
            await self.deps.run(users.leave_notice, self.token, None)
            notice = NOTICE | orjson.loads(self.deps.box.open(self.notice))
        return html(template, status, visit=self, notice=notice, path=self.request.url.path, **values)

    async def go(self, path: str, **notice: Any) -> Response:
        """To another page after a change; it shows `notice`, some of NOTICE, once."""
        if notice:
            sealed = self.deps.box.seal(orjson.dumps(notice).decode())
            await self.deps.run(users.leave_notice, self.token, sealed)
        return RedirectResponse(path, 303)


def needs(role: Role) -> Callable[[Request, Deps], Awaitable[Visit]]:
    """A dependency: the visit of a user who has at least this role.

    Everybody else is sent to sign in, or refused (403); so is a form without the session's own token.
    """

    async def visit(request: Request, deps: Given) -> Visit:
        token = request.cookies.get(COOKIE, "")
        session = await deps.run(users.session, token) if token else None
        if session is None:
            raise _sign_in_first(request)
        if not session.user.role.may(role):
            raise Refused(f"this needs the role {role}; you are signed in as {session.user.role}", status=403)
        form = await read_form(request) if request.method == "POST" else {}
        found = Visit(request, deps, session.user, token, form, session.notice)
        if request.method == "POST" and not hmac.compare_digest(form.get("csrf", "").encode(), found.csrf.encode()):
            raise Refused("this form is not of your session any more; load the page again", status=403)
        return found

    return visit


Viewer = Annotated[Visit, Depends(needs(Role.VIEWER))]
Operator = Annotated[Visit, Depends(needs(Role.OPERATOR))]
Admin = Annotated[Visit, Depends(needs(Role.ADMIN))]


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form; of two with one name the last. Raises Malformed or Refused."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM_TYPE:
        raise Refused(f"send a form as {FORM_TYPE}", status=415)
    body = await read_body(request)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict"))
    except ValueError:
        raise Malformed("the form cannot be read") from None


def _sign_in_first(request: Request) -> HTTPException:
    if "hx-request" in request.headers:
        return HTTPException(401, "sign in first", {"HX-Redirect": "/sign-in"})
    back = request.url.path if request.method == "GET" else "/"
    query = f"?{request.url.query}" if request.method == "GET" and request.url.query else ""
    return HTTPException(303, "sign in first", {"Location": f"/sign-in?next={quote(back + query, safe='/')}"})
