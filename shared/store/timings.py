"""Where the time of each attempt of a delivery went, as its page shows it."""

from datetime import timedelta

from sqlalchemy import Connection, func, select

from shared.model import Timings
from shared.tables import attempts as a


def of_delivery(conn: Connection, delivery_id: str) -> dict[int, Timings]:
    """Attempt number -> its phases."""
    # As in delivery_log: the key begins with the day, which the id does not tell.
    first, last = conn.execute(select(func.min(a.c.event_day), func.max(a.c.event_day))).one()
    if first is None:
        return {}
    days = [first + timedelta(days=count) for count in range((last - first).days + 1)]
    phases = select(a.c.attempt_no, a.c.dns_ms, a.c.connect_ms, a.c.tls_ms, a.c.first_byte_ms)
    rows = conn.execute(phases.where(a.c.event_day.in_(days), a.c.delivery_id == delivery_id))
    return {row.attempt_no: Timings(row.dns_ms, row.connect_ms, row.tls_ms, row.first_byte_ms) for row in rows}
