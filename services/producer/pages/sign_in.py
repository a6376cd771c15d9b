"""Sign-in and sign-out. Failures are few: a name may be tried from one address five times in a quarter of an hour."""

import asyncio
import hmac
import secrets
import time
from collections import deque

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from services.producer.deps import Deps, Given
from services.producer.pages.show import html
from services.producer.pages.visit import COOKIE, Viewer, read_form
from shared.logs import logger
from shared.passwords import hash_password, verify_password
from shared.store import users
from shared.store.users import SESSION_S

FORM_COOKIE = "hari_form"
MOST_FAILURES = 5
MOST_FAILURES_OF_ADDRESS = 50
WITHIN_S = 900.0
MOST_REMEMBERED = 10_000
# scrypt takes 32 MiB and a third of a second: many at once would starve everything else.
AT_ONCE = 2
_log = logger("hari.sign_in")
router = APIRouter()


class Failures:
    """Counts failures by key in a sliding window; forgets the oldest key rather than grow without end."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: dict[str, deque[float]] = {}

    def wait_s(self, key: str, now: float) -> float:
        """How long this key has to wait before another try; 0: not at all."""
        times = self._seen.get(key, deque())
        while times and times[0] <= now - WITHIN_S:
            times.popleft()
        return times[0] + WITHIN_S - now if len(times) >= self._most else 0.0

    def note(self, key: str, now: float) -> None:
        times = self._seen.pop(key, deque(maxlen=self._most))
        times.append(now)
        self._seen[key] = times
        if len(self._seen) > MOST_REMEMBERED:
            del self._seen[next(iter(self._seen))]

    def forget(self, key: str) -> None:
        self._seen.pop(key, None)


class SignIns:
    """What one application remembers of failed tries, and its turns at the slow hash."""

    def __init__(self) -> None:
        self.by_name, self.by_address = Failures(MOST_FAILURES), Failures(MOST_FAILURES_OF_ADDRESS)
        self.turn = asyncio.Semaphore(AT_ONCE)
        self._of_nobody: str | None = None

    async def check(self, password: str, stored: str | None) -> bool:
        """Whether the password fits; for a name that nobody has it takes as long to say no."""
        async with self.turn:
            if stored is None:
                if self._of_nobody is None:
                    self._of_nobody = await asyncio.to_thread(hash_password, secrets.token_urlsafe())
                await asyncio.to_thread(verify_password, password, self._of_nobody)
                return False
            return await asyncio.to_thread(verify_password, password, stored)


@router.get("/sign-in")
async def sign_in_page(request: Request, deps: Given, next: str = "/") -> Response:
    """The form."""
    return _form(request, deps, target=_inside(next))


@router.post("/sign-in")
async def sign_in(request: Request, deps: Given) -> Response:
    """Start a session."""
    form = await read_form(request)
    sent, kept = form.get("csrf", ""), request.cookies.get(FORM_COOKIE, "")
    target, name = _inside(form.get("next", "/")), form.get("name", "").strip()
    if not kept or not hmac.compare_digest(sent.encode(), kept.encode()):
        return _form(request, deps, 403, target, name, "The form was out of date. Please try once more.")
    sign_ins: SignIns = request.app.state.sign_ins
    address = request.client.host if request.client is not None else ""
    key, now = f"{address} {name.lower()[:200]}", time.monotonic()
    wait_s = max(sign_ins.by_name.wait_s(key, now), sign_ins.by_address.wait_s(address, now))
    if wait_s > 0:
        said = f"Too many failed tries. Try again in {int(wait_s // 60) + 1} min."
        answer = _form(request, deps, 429, target, name, said)
        answer.headers["Retry-After"] = str(int(wait_s) + 1)
        return answer
    # Counted before the slow check, so that a burst of tries cannot all slip through while it runs.
    sign_ins.by_name.note(key, now)
    sign_ins.by_address.note(address, now)
    found = None if "\0" in name else await deps.run(users.by_name, name)
    if not await sign_ins.check(form.get("password", ""), found[1] if found is not None else None) or found is None:
        _log.info("sign_in.refused", address=address)
        return _form(request, deps, 422, target, name, "This name and password do not fit together.")
    sign_ins.by_name.forget(key)
    await deps.run(users.end_session, request.cookies.get(COOKIE, ""))
    token = await deps.run(users.start_session, found[0].id)
    _log.info("sign_in.succeeded", user_id=found[0].id)
    answer = RedirectResponse(target, 303)
    answer.set_cookie(COOKIE, token, SESSION_S, httponly=True, samesite="lax", secure=deps.secure_cookies)
    answer.delete_cookie(FORM_COOKIE)
    return answer


@router.post("/sign-out")
async def sign_out(visit: Viewer) -> Response:
    """End the session."""
    await visit.deps.run(users.end_session, visit.token)
    answer = RedirectResponse("/sign-in", 303)
    answer.delete_cookie(COOKIE)
    return answer


def _form(
    request: Request, deps: Deps, status: int = 200, target: str = "/", name: str = "", error: str = ""
) -> Response:
    token = request.cookies.get(FORM_COOKIE) or secrets.token_urlsafe(24)
    answer = html("sign_in.html", status, csrf=token, next=target, name=name, error=error)
    answer.set_cookie(FORM_COOKIE, token, 3600, httponly=True, samesite="lax", secure=deps.secure_cookies)
    return answer


def _inside(path: str) -> str:
    """`path` if it leads to a page of ours, else the first one: a link must not send who signs in elsewhere."""
    outside = not path.startswith("/") or path.startswith(("//", "/\\")) or any(ord(c) < 33 for c in path)
    return "/" if outside else path
