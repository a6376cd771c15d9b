"""How webhooks fared lately, for lists: counted over their newest deliveries, so that a list costs the same however
many there are."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select

from shared.model import State
from shared.sql import later
from shared.tables import deliveries as d

DAY_S = 86400
SLICES = 12
MOST_COUNTED = 500
MOST_LOGGED = 10_000


@dataclass(frozen=True, slots=True)
class Health:
    """`slices`: (delivered, failed) of the last 24 h, oldest first, without tests. `last_*`: of the newest answer."""

    delivered: int = 0
    failed: int = 0
    slices: tuple[tuple[int, int], ...] = ((0, 0),) * SLICES
    last_at: datetime | None = None
    last_status: int | None = None
    last_error: str | None = None
    capped: bool = False
    """Whether there were more than MOST_COUNTED, and only those count."""


def of_webhooks(conn: Connection, webhook_ids: Collection[str], now: datetime) -> dict[str, Health]:
    """The health of each of these webhooks."""
    return {webhook_id: _of(conn, webhook_id, now) for webhook_id in webhook_ids}


def _of(conn: Connection, webhook_id: str, now: datetime) -> Health:
    mine = select(d.c.created_at, d.c.state, d.c.test, d.c.last_status, d.c.last_error, d.c.claimed_at)
    mine = mine.where(d.c.webhook_id == webhook_id).order_by(d.c.created_at.desc(), d.c.id.desc())
    met = (d.c.last_status.is_not(None)) | (d.c.last_error.is_not(None))
    last = conn.execute(mine.where(met).limit(1)).one_or_none()
    rows = conn.execute(mine.where(d.c.created_at >= later(-DAY_S)).limit(MOST_COUNTED)).all()
    counts = [[0, 0] for _ in range(SLICES)]
    for row in rows:
        failed = row.state == State.DEAD or (row.state != State.DELIVERED and (row.last_status or row.last_error))
        if row.test or not (failed or row.state == State.DELIVERED):
            continue
        age_s = (now - row.created_at).total_seconds()
        at = SLICES - 1 - min(max(int(age_s * SLICES / DAY_S), 0), SLICES - 1)
        counts[at][1 if failed else 0] += 1
    return Health(
        delivered=sum(good for good, _ in counts),
        failed=sum(bad for _, bad in counts),
        slices=tuple((good, bad) for good, bad in counts),
        last_at=None if last is None else last.claimed_at or last.created_at,
        last_status=None if last is None else last.last_status,
        last_error=None if last is None else last.last_error,
        capped=len(rows) == MOST_COUNTED,
    )


def logged(conn: Connection, webhook_id: str) -> int:
    """How many deliveries of this webhook the log holds, counted up to MOST_LOGGED."""
    some = select(d.c.id).where(d.c.webhook_id == webhook_id).limit(MOST_LOGGED).subquery()
    found: int = conn.execute(select(func.count()).select_from(some)).scalar_one()
    return found
