"""What the routes need, handed in by whoever starts the application: tests hand in other things."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Concatenate, ParamSpec, Protocol, TypeVar

from fastapi import Depends, Request
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from services.producer.send_test import TestResult
from shared.clock import utcnow
from shared.db import DEADLOCK, SERIALIZATION_FAILURE, Database
from shared.dns import lookup
from shared.egress import EgressRules
from shared.entities import Entities
from shared.errors import Unavailable
from shared.model import Actor, DeliveryTask, Webhook
from shared.secrets import SecretBox

T = TypeVar("T")
P = ParamSpec("P")
TRIES = 3


class Notify(Protocol):
    """The sending half of `shared.wakeups.Wakeups`."""

    def notify(self, channel: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Deps:
    """`resolve` gives a name's addresses or raises OSError; `troubles` names the parts that are not ready, and why.

    `ask_urgently` publishes a task whose row is committed; it never fails, because housekeeping publishes what is due.
    """

    database: Database
    wakeups: Notify
    box: SecretBox
    rules: EgressRules
    entities: Entities
    send_test: Callable[[Webhook, Actor], Awaitable[TestResult]]
    ask_urgently: Callable[[DeliveryTask], Awaitable[None]]
    timeout_s: int = 15
    secure_cookies: bool = False
    resolve: Callable[[str], Sequence[str]] = lookup
    now: Callable[[], datetime] = utcnow
    troubles: Callable[[], Mapping[str, str]] = dict

    async def run(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`Database.run`; a deadlock's victim, which has written nothing, is tried again."""
        for tries_left in reversed(range(TRIES)):
            try:
                return await self.database.run(work, *args, **kwargs)
            except Unavailable as error:
                if not tries_left or not _was_victim(error.__cause__):
                    raise
        raise AssertionError("the last try returns or raises")


def _was_victim(cause: Any) -> bool:
    orig = cause.orig if isinstance(cause, DBAPIError) else None
    return getattr(orig, "sqlstate", None) in (DEADLOCK, SERIALIZATION_FAILURE)


async def _deps(request: Request) -> Deps:
    found: Deps = request.app.state.deps
    return found


Given = Annotated[Deps, Depends(_deps)]
