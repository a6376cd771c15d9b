"""The producer's API on a port of its own, over a migrated database; what it would tell others is noted instead."""

import asyncio
import socket
import threading
from collections.abc import Sequence
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
from shared.model import Actor, DeliveryTask, Webhook
from shared.secrets import SecretBox
from shared.store import api_keys
from tests.builders import SECRET_KEY

KEY = "hari_0123456789abcdefghijklmnop"
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

    def close(self) -> None:
        self._session.close()
        self.slow_name_answers.set()
        self.test_may_end.set()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        self.database.close()


def errors(problem: Any) -> dict[str, str]:
    """Pointer -> what is wrong there, of a problem."""
    found: dict[str, str] = {}
    for error in problem["errors"]:
        pointer = error["pointer"]
        found[pointer] = f"{found[pointer]}; {error['detail']}" if pointer in found else error["detail"]
    return found
