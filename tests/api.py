"""The producer's API on a port of its own, over a migrated database; what it would tell others is noted instead."""

import asyncio
import re
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import requests

from services.producer.app import create_app
from services.producer.deps import Deps
from services.producer.send_test import TestResult as Met
from services.producer.service import run_server
from shared.db import Database
from shared.egress import EgressRules
from shared.entities import read_entities
from shared.migrate import migrate
from shared.model import Actor, DeliveryTask, Role, Webhook
from shared.passwords import hash_password
from shared.secrets import SecretBox
from shared.store import api_keys, users
from tests.builders import SECRET_KEY

KEY = "hari_0123456789abcdefghijklmnop"
PASSWORDS = {Role.ADMIN: "admin's password", Role.OPERATOR: "operator's password", Role.VIEWER: "viewer's password"}
NAMES = {"example.com": ("93.184.215.14",), "inside.example.com": ("10.0.0.5",), "crm": ("10.0.0.6",)}


class Api:
    """`call` for the API's own paths; `notified` lists the wake-ups, `tested` the webhooks whose test was asked for,
    `asked` the tasks that went to the urgent queue."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        migrate(self.database)
        self.box = SecretBox((SECRET_KEY,))
        self.notified: list[str] = []
        self.asked: list[DeliveryTask] = []
        self.tested: list[tuple[Webhook, Actor]] = []
        self.test_answer: Met | Exception = Met("dlv_test", 200, None, 12.5, b"ok")
        self._browsers: list[Browser] = []
        self.troubles: dict[str, str] = {}
        self.slow_name_answers = threading.Event()
        self.test_may_end = threading.Event()
        self.test_may_end.set()
        with self.database.transaction() as conn:
            api_keys.ensure_first(conn, KEY)
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {KEY}"
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._started.wait(10), "the API did not start"

    def notify(self, channel: str) -> None:
        self.notified.append(channel)

    async def _test(self, webhook: Webhook, user: Actor) -> Met:
        self.tested.append((webhook, user))
        await asyncio.to_thread(self.test_may_end.wait, 20)
        if isinstance(self.test_answer, Exception):
            raise self.test_answer
        return self.test_answer

    async def _ask(self, task: DeliveryTask) -> None:
        self.asked.append(task)

    def _resolve(self, host: str) -> Sequence[str]:
        if host == "slow.example.com":
            self.slow_name_answers.wait(20)
        if host not in NAMES:
            raise OSError("Name or service not known")
        return NAMES[host]

    async def _serve(self) -> None:
        deps = Deps(
            database=self.database,
            wakeups=self,
            box=self.box,
            rules=EgressRules(),
            entities=read_entities(),
            send_test=self._test,
            ask_urgently=self._ask,
            resolve=self._resolve,
            troubles=lambda: self.troubles,
        )
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            await run_server(create_app(deps), listener, self._stop, self._started.set)

    def request(self, method: str, path: str, body: Any = None, **more: Any) -> requests.Response:
        """Any path, with the key; `body` is sent as JSON."""
        return self._session.request(method, self.url + path, json=body, timeout=20, **more)

    def call(self, method: str, path: str, body: Any = None, *, status: int = 200, **more: Any) -> Any:
        """The parsed answer of a path under /api/v1, which must have this status."""
        answer = self.request(method, f"/api/v1{path}", body, **more)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    def browser(self, role: Role) -> "Browser":
        """Somebody of this role, signed in; the user is made on the first call."""
        with self.database.transaction() as conn:
            users.create(conn, role.value, hash_password(PASSWORDS[role]), role)
        browser = Browser(self.url)
        self._browsers.append(browser)
        answer = browser.sign_in(role.value, PASSWORDS[role])
        assert answer.status_code == 303, answer.text
        return browser

    def stranger(self) -> "Browser":
        """Somebody who is not signed in."""
        self._browsers.append(Browser(self.url))
        return self._browsers[-1]

    def close(self) -> None:
        for browser in self._browsers:
            browser.close()
        self._session.close()
        self.slow_name_answers.set()
        self.test_may_end.set()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        self.database.close()


class Browser:
    """As much of a browser as forms without JavaScript need. Redirects are not followed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = requests.Session()
        self._session.headers["Accept"] = "text/html"
        self.csrf = ""

    def get(self, path: str, **headers: str) -> requests.Response:
        answer = self._session.get(self._url + path, allow_redirects=False, timeout=20, headers=headers)
        token = re.search(r'name="csrf" value="([^"]+)"', answer.text)
        self.csrf = token[1] if token else self.csrf
        return answer

    def post(self, path: str, form: Mapping[str, str] | None = None, **headers: str) -> requests.Response:
        """Send a form with the token of the page seen last."""
        fields = {"csrf": self.csrf} | dict(form or {})
        return self._session.post(self._url + path, fields, allow_redirects=False, timeout=20, headers=headers)

    def sign_in(self, name: str, password: str, **more: str) -> requests.Response:
        self.get("/sign-in")
        answer = self.post("/sign-in", {"name": name, "password": password} | more)
        self.get("/settings/webhooks/incoming")
        return answer

    @property
    def cookies(self) -> requests.cookies.RequestsCookieJar:
        return self._session.cookies

    def close(self) -> None:
        self._session.close()


def errors(problem: Any) -> dict[str, str]:
    """Pointer -> what is wrong there, of a problem."""
    found: dict[str, str] = {}
    for error in problem["errors"]:
        pointer = error["pointer"]
        found[pointer] = f"{found[pointer]}; {error['detail']}" if pointer in found else error["detail"]
    return found
