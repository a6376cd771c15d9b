"""The nouns of the product as frozen dataclasses. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.outgoing.filters import Filter

Json = dict[str, Any]


class Change(StrEnum):
    """What happened to a record; the `event` of the wire."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"


class Trigger(StrEnum):
    """Which changes a webhook wants; the Event of the page. `SAVE` means created or updated."""

    SAVE = "save"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class Role(StrEnum):
    """What a caller may do: look; send again and change records; change settings. Each includes those before it."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def may(self, needed: "Role") -> bool:
        """Whether this role includes `needed`."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


TRIGGERS_OF = {
    Change.CREATED: (Trigger.SAVE, Trigger.CREATE),
    Change.UPDATED: (Trigger.SAVE, Trigger.UPDATE),
    Change.DELETED: (Trigger.DELETE,),
}


class State(StrEnum):
    """Where a delivery stands. `PENDING`: an attempt was asked for or is in flight. `WAITING`: for a time or a turn."""

    PENDING = "pending"
    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"
    CANCELLED = "cancelled"


class Problem(StrEnum):
    """What an attempt met when no status decided. The same word in log lines, metrics, API and pages."""

    DNS_ERROR = "dns_error"
    CONNECT_REFUSED = "connect_refused"
    CONNECTION_RESET = "connection_reset"
    TLS_ERROR = "tls_error"
    TIMEOUT = "timeout"
    PROTOCOL_ERROR = "protocol_error"
    REDIRECT = "redirect"
    BLOCKED_TARGET = "blocked_target"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    TEMPLATE_ERROR = "template_error"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who caused a change: a person, an API key, an incoming webhook."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Event:
    """An immutable fact about one record. `body` is its canonical JSON: what is stored, published and POSTed."""

    id: str
    entity: str
    change: Change
    record_id: str
    body: bytes
    payload: Json = field(repr=False, compare=False)
    hop: int = 0
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class DeliveryTask:
    """A message that asks for attempt `attempt_no` of a delivery.

    `event_day` finds the delivery's partition, `webhook_id` its place in line, both without asking the database.
    """

    delivery_id: str
    event_day: date
    attempt_no: int
    webhook_id: str


@dataclass(frozen=True, slots=True)
class Format:
    """What a webhook's bodies look like: a preset's name, and for `custom` its template as JSON text."""

    preset: str = "hari"
    template: str | None = None


HARI = Format()
"""The default: the event's own bytes."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """An outgoing subscription. Secrets are in clear here and nowhere else; `repr` never shows them."""

    id: str
    name: str
    entity: str
    trigger: Trigger
    url: str
    active: bool
    version: int
    created_at: datetime
    timeout_s: int = 15
    concurrency: int = 16
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    filter: Json | None = None
    format: Format = HARI
    former_formats: tuple[tuple[datetime, Format], ...] = ()
    """(until when, what held until then), oldest first: deliveries of that time keep it."""
    redirect: str | None = None
    secret: str | None = field(default=None, repr=False)
    old_secret: str | None = field(default=None, repr=False)
    """Signs too while a rotation overlaps; None once the overlap is over."""
    deactivated_reason: str | None = None
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Subscription:
    """What matching needs of an active webhook: kept in memory by every dispatcher."""

    webhook_id: str
    entity: str
    trigger: Trigger
    concurrency: int
    filter: "Filter | None" = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """The right to make one attempt, granted by a committed claim. `body` is the delivery's, byte for byte."""

    delivery_id: str
    event_day: date
    attempt_no: int
    event_id: str
    body: bytes = field(repr=False)
    webhook: Webhook
    failures: int = 0
    """Known failures of this round, before this attempt."""
    format: Format = HARI
    test: bool = False
    hop: int = 0
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One POST, ready to send: exact URL, headers in order, exact bytes."""

    url: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    timeout_s: float = 15.0
    redirect: str | None = None
    """The kind of redirect that counts as delivered; it is not followed either."""
    fault: str | None = None
    """Why there is no body to send: `template_error`, in words."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Where an attempt's time went, in milliseconds from its start; None for a phase that was not reached."""

    dns_ms: float | None = None
    connect_ms: float | None = None
    tls_ms: float | None = None
    first_byte_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attempt met: a status, or a problem, and what came back."""

    status: int | None = None
    problem: Problem | None = None
    detail: str = ""
    """For people: the library's words or ours, without secrets."""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)
    truncated: bool = False
    duration_ms: float = 0.0
    timings: Timings = Timings()
    retry_after_s: float | None = None
    own_trouble: bool = False
    """Nothing was sent for want of something of ours: the endpoint had no part in it."""
    ran: bool = False
    """This redirect is how the endpoint says that it did its work."""

    @property
    def succeeded(self) -> bool:
        """2xx, and nothing else (Standard Webhooks, "Delivery success and failure"), but for Apps Script's redirect."""
        return self.problem is None and self.status is not None and (200 <= self.status < 300 or self.ran)

    @property
    def word(self) -> str | None:
        """The `error` of the API and the log: the problem's word, None when a status decided."""
        return None if self.problem is None else self.problem.value

    @property
    def gone(self) -> bool:
        """410: the endpoint wants nothing any more."""
        return self.status == 410

    @property
    def final(self) -> str | None:
        """Why no later attempt can succeed, or None."""
        if self.problem in (Problem.BLOCKED_TARGET, Problem.PAYLOAD_TOO_LARGE, Problem.TEMPLATE_ERROR):
            return str(self.problem)
        return None


@dataclass(frozen=True, slots=True)
class Delivered:
    """The decision after a success."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The decision to try again after `wait_s`; `queue_ms` names the wait queue that carries it, None: a row waits."""

    wait_s: float
    queue_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Dead:
    """The decision to stop, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Postpone:
    """The decision to make the same attempt after `wait_s`: this one did not count."""

    wait_s: float


Decision = Delivered | Retry | Dead | Postpone


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt as it will be logged."""

    claimed: Claimed
    request: Request
    outcome: Outcome
    decision: Decision
    started_at: datetime
