"""Step 2: a batch of tasks -> the attempts that are ours to make, in one statement."""

from collections.abc import Collection, Sequence
from datetime import date

from sqlalchemy import Connection

from shared.logs import logger
from shared.model import Claimed, DeliveryTask
from shared.outgoing.presets import form_at
from shared.secrets import SecretBox
from shared.store import deliveries, outbox, webhooks
from shared.store.deliveries import ClaimRow

UNREADABLE = "no key in HARI_SECRET_KEYS opens the webhook's secret"
UNREADABLE_WAIT_S = 60.0
_log = logger("hari.dispatcher")


def claim(conn: Connection, box: SecretBox, tasks: Collection[DeliveryTask], lease_s: float | None) -> list[Claimed]:
    """Claim what these tasks ask for and load what the attempts need; the others belong to someone or are over."""
    return _load(conn, box, deliveries.claim(conn, tasks, lease_s))


def claim_in_turn(
    conn: Connection, box: SecretBox, free: Sequence[tuple[str, int]], lease_s: float | None
) -> list[Claimed]:
    """Claim, for each (webhook id, free slots), that many of the deliveries that wait for their turn."""
    rows = [row for webhook_id, most in free for row in deliveries.claim_in_turn(conn, webhook_id, most, lease_s)]
    return _load(conn, box, rows)


def _load(conn: Connection, box: SecretBox, rows: Sequence[ClaimRow]) -> list[Claimed]:
    if not rows:
        return []
    # URL, headers, timeout and secret as they stand now: an edit or a rotation counts for the next attempt.
    hooks = webhooks.load(conn, box, {row.webhook_id for row in rows})
    bodies = outbox.bodies(conn, {row.event_id for row in rows})
    held = hold_unreadable(conn, [(row.event_day, row.id, row.attempt_no, row.webhook_id) for row in rows], hooks)
    claimed = []
    for row in rows:
        if row.id in held:
            continue
        body, hop, traceparent = bodies[row.event_id]
        webhook = hooks[row.webhook_id]
        claimed.append(
            Claimed(
                delivery_id=row.id,
                event_day=row.event_day,
                attempt_no=row.attempt_no,
                event_id=row.event_id,
                body=body,
                webhook=webhook,
                format=(webhook.former_formats and form_at(webhook.former_formats, row.created_at)) or webhook.format,
                failures=row.failures,
                test=row.test,
                hop=hop,
                traceparent=traceparent,
            )
        )
    return claimed


def hold_unreadable(
    conn: Connection, claims: Sequence[tuple[date, str, int, str]], readable: Collection[str]
) -> set[str]:
    """Give back the claims (event day, delivery id, attempt number, webhook id) of webhooks that are not `readable`.

    Returns the ids of those deliveries. Our own trouble: no attempt is spent, and they wait until the key is back.
    """
    held = [(day, found, attempt_no) for day, found, attempt_no, webhook_id in claims if webhook_id not in readable]
    if held:
        deliveries.release(conn, held, UNREADABLE_WAIT_S, UNREADABLE)
        for webhook_id in sorted({webhook_id for *_, webhook_id in claims}.difference(readable)):
            _log.error("webhook.unreadable", webhook_id=webhook_id, reason=UNREADABLE)
    return {found for _, found, _ in held}
