"""Step 2: a batch of tasks -> the attempts that are ours to make, in one statement."""

from collections.abc import Collection, Sequence

from sqlalchemy import Connection

from shared.model import Claimed, DeliveryTask
from shared.outgoing.presets import form_at
from shared.secrets import SecretBox
from shared.store import deliveries, outbox, webhooks
from shared.store.deliveries import ClaimRow


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
    claimed = []
    for row in rows:
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
