"""Objects for tests: each says only what matters to it, the rest is likely and valid."""

from datetime import UTC, datetime
from typing import Any

from shared.ids import new_id
from shared.model import Actor, Change, Event, Json, Trigger, Webhook
from shared.store.webhooks import NewWebhook
from shared.wire import new_event

NOON = datetime(2026, 11, 23, 12, 0, 0, 123000, tzinfo=UTC)
ADA = Actor("usr_ada", "Ada Lovelace")
SECRET_KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


def an_event(
    entity: str = "Deal",
    event: str = "updated",
    *,
    event_id: str | None = None,
    record: Json | None = None,
    previous: Json | None = None,
    **more: Any,
) -> Event:
    """An event as our own records make it."""
    change = Change(event)
    return new_event(
        event_id=event_id or new_id("evt"),
        change=change,
        entity=entity,
        record={"id": "rec_1", "version": 2, "name": "Engine", "stage": "Won"} | (record or {}),
        timestamp=NOON,
        user=ADA,
        previous=(previous or {"stage": "Offer"}) if change is Change.UPDATED else None,
        **more,
    )


def a_new_webhook(**values: Any) -> NewWebhook:
    """A webhook that an admin has filled in."""
    plain: dict[str, Any] = {"name": "Deals to Zapier", "entity": "Deal", "trigger": Trigger.SAVE}
    return NewWebhook(**(plain | {"url": "https://example.com/hook"} | values))


def a_webhook(**values: Any) -> Webhook:
    """A webhook as it was loaded."""
    plain: dict[str, Any] = {"id": "wh_1", "name": "Deals to Zapier", "entity": "Deal", "trigger": Trigger.SAVE}
    plain |= {"url": "https://example.com/hook", "active": True, "version": 1, "created_at": NOON}
    return Webhook(**(plain | values))


def an_envelope(**values: Any) -> Json:
    """An event as a foreign CRM publishes it, before encoding."""
    plain = {"id": new_id("evt"), "event": "created", "entity": "Deal", "timestamp": "2026-11-23T10:15:30.123Z"}
    return plain | {"record": {"id": "42", "version": 1, "name": "Engine"}} | values
