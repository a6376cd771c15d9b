"""The ledger: what was committed, what the database says, what the receiver wrote down; do the three agree?

Lost, invented, unlogged, repeated beyond its bound, changed, unsigned: nothing here samples, every row and line counts.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from shared.errors import Refused
from shared.ids import delivery_id
from shared.signing import key_of, verify
from shared.tables import attempts, deliveries, outbox
from tests.journal import Line


@dataclass(frozen=True, slots=True)
class Ledger:
    """What was found. A list that is not empty names the culprits."""

    sent: int
    delivered: int
    lost: list[str]
    """Committed event x matching webhook without a 2xx at the receiver."""
    phantom: list[str]
    """POSTs of deliveries that no committed event asked for."""
    unfinished: list[str]
    unlogged: list[str]
    """Deliveries with more POSTs received than attempt rows."""
    disagreeing: list[str]
    """Delivered without a 2xx received, or a 2xx received and neither delivered nor logged as unknown."""
    changed_bodies: list[str]
    unsigned: list[str]
    duplicates: int
    """2xx answers beyond the first of each delivery."""
    bound: int
    """Claims that ended without a result: each may be one duplicate."""

    def assert_holds(self) -> None:
        """Nothing lost, nothing invented, nothing unlogged, duplicates within the bound."""
        culprits = {
            name: getattr(self, name)[:5]
            for name in ("lost", "phantom", "unfinished", "unlogged", "disagreeing", "changed_bodies", "unsigned")
            if getattr(self, name)
        }
        assert not culprits, f"{self.summary()}; {culprits}"
        assert self.duplicates <= self.bound, self.summary()

    def summary(self) -> str:
        return (
            f"sent {self.sent}, delivered {self.delivered}, lost {len(self.lost)}, phantom {len(self.phantom)}, "
            f"duplicates {self.duplicates} (bound {self.bound})"
        )


def settle(
    conn: Connection, committed: Collection[str], webhook_ids: Collection[str], lines: Sequence[Line], secret: str
) -> Ledger:
    """Compare, once everything is at rest: `committed` event ids, each wanted by every one of `webhook_ids`."""
    wanted = {delivery_id(event_id, webhook_id) for event_id in committed for webhook_id in webhook_ids}
    states = {row.id: row.state for row in conn.execute(select(deliveries.c.id, deliveries.c.state))}
    rows: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for found, error in conn.execute(select(attempts.c.delivery_id, attempts.c.error)):
        rows[found] += 1
        unknown[found] += error == "unknown"
    stored = {
        row.id: row.body
        for row in conn.execute(
            select(deliveries.c.id, outbox.c.body).join(outbox, outbox.c.event_id == deliveries.c.event_id)
        )
    }
    received, good = (
        Counter(line.delivery_id for line in lines),
        Counter(line.delivery_id for line in lines if line.status == 200),
    )
    bodies = defaultdict(set)
    for line in lines:
        bodies[line.delivery_id].add(line.body_sha256)
    key = key_of(secret)
    return Ledger(
        sent=len(lines),
        delivered=sum(state == "delivered" for state in states.values()),
        lost=sorted(wanted - set(good)),
        phantom=sorted((set(received) | set(states)) - wanted),
        unfinished=sorted(found for found, state in states.items() if state in ("pending", "waiting")),
        unlogged=sorted(found for found, count in received.items() if count > rows[found]),
        disagreeing=sorted(
            found
            for found, state in states.items()
            if (state == "delivered" and not good[found])
            or (state != "delivered" and good[found] and not unknown[found])
        ),
        changed_bodies=sorted(found for found, seen in bodies.items() if len(seen) > 1),
        unsigned=sorted({line.delivery_id for line in lines if not _verifies(line, stored.get(line.delivery_id), key)}),
        duplicates=sum(count - 1 for count in good.values()),
        bound=sum(unknown.values()),
    )


def _verifies(line: Line, body: bytes | None, key: bytes) -> bool:
    if body is None:
        return False
    try:
        verify([key], line.delivery_id, line.timestamp, body, line.signature, now_s=float(line.timestamp))
    except Refused:
        return False
    return True
