"""The shapes of answers, for the OpenAPI document; a test holds real answers against them. Pure.

A field with a default may be missing from an answer.
"""

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")
State = Literal["pending", "waiting", "delivered", "dead", "cancelled"]


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Page(Shape, Generic[T]):
    """Newest first; `next_cursor` null on the last page."""

    data: list[T]
    next_cursor: str | None


class Record(BaseModel):
    """These and the entity's own fields."""

    model_config = ConfigDict(extra="allow", strict=True)

    id: str
    version: int
    created_at: str
    updated_at: str


class Accepted(Shape):
    accepted: int
    duplicates: int


class Warning(Shape):
    pointer: str
    detail: str


class Webhook(Shape):
    """`secret`, and header values in clear, only in the answer to the request that set them."""

    id: str
    name: str
    entity: str
    event: Literal["save", "create", "update", "delete"]
    url: str
    has_secret: bool
    secret: str | None = None
    active: bool
    deactivated_reason: str | None = None
    version: int
    created_at: str
    headers: dict[str, str] = {}
    filter: dict[str, Any] | None = None
    preset: Literal["hari", "standard", "cloudevents", "slack", "zapier", "google-apps-script", "custom"]
    template: Any = None
    redirect: Literal["google-apps-script"] | None = None
    timeout_s: int
    concurrency: int
    warnings: list[Warning] = []


class Base64(Shape):
    """A body that is not UTF-8."""

    base64: str


class Tested(Shape):
    delivery_id: str
    status: int | None
    error: str | None
    duration_ms: float | None
    response_body: str | Base64


class Request(Shape):
    url: str
    headers: dict[str, str]
    body: str | Base64 | None


class Response(Shape):
    headers: dict[str, str]
    body: str | Base64
    truncated: bool


class Attempt(Shape):
    """`request` and `response` are null when none was made or came; all but number and time while in flight."""

    attempt_no: int
    started_at: str
    status: int | None
    error: str | None
    duration_ms: float | None
    detail: str = ""
    request: Request | None
    response: Response | None


class _Delivery(Shape):
    id: str
    webhook_id: str
    event_id: str
    entity: str
    event: Literal["created", "updated", "deleted"]
    record_id: str
    created_at: str
    test: bool
    state: State
    reason: str = ""
    next_attempt_at: str = ""
    body_bytes: int


class Delivery(_Delivery):
    attempts: list[Attempt]


class Resent(Shape):
    """The attempt that was asked for."""

    id: str
    attempt_no: int


class Counted(Shape):
    """How many deliveries are made or sent again; `id` of the replay that works them off, when there is one."""

    id: str = ""
    count: int


class ListedDelivery(_Delivery):
    attempt_count: int
    last_status: int | None
    last_error: str | None


class ExplainedEvent(Shape):
    id: str
    entity: str
    event: Literal["created", "updated", "deleted"]
    record_id: str
    created_at: str
    dispatched: bool


class Verdict(Shape):
    """`clause`: the condition of the filter that does not hold. `delivery_id` once there is a delivery."""

    webhook_id: str
    name: str
    verdict: Literal["sent", "filtered", "inactive", "wrong_event", "loop"]
    clause: str = ""
    delivery_id: str = ""
    changed_since: bool


class Explained(Shape):
    event: ExplainedEvent
    webhooks: list[Verdict]


class DryMatch(Shape):
    """`request` for what would be sent (the first hundred), and for the one webhook that was named; `error` instead
    when its template cannot be rendered with this record."""

    webhook_id: str
    verdict: Literal["sent", "filtered", "inactive", "wrong_event"]
    clause: str = ""
    request: Request | None = None
    error: str | None = None


class DryRunAnswer(Shape):
    matches: list[DryMatch]


class ApiKey(Shape):
    """`key` in the answer that made it, and never again."""

    id: str
    name: str
    role: Literal["viewer", "operator", "admin"]
    prefix: str
    created_at: str = ""
    revoked_at: str = ""
    key: str = ""


class Hook(Shape):
    id: str
