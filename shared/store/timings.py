"""Where the time of each attempt of a delivery went, as its page shows it."""

from sqlalchemy import Connection, select

from shared.model import Timings
from shared.store import delivery_log
from shared.tables import attempts as a


def of_delivery(conn: Connection, delivery_id: str) -> dict[int, Timings]:
    """Attempt number -> its phases."""
    phases = select(a.c.attempt_no, a.c.dns_ms, a.c.connect_ms, a.c.tls_ms, a.c.first_byte_ms)
    rows = conn.execute(phases.where(a.c.event_day.in_(delivery_log.days(conn)), a.c.delivery_id == delivery_id))
    return {row.attempt_no: Timings(row.dns_ms, row.connect_ms, row.tls_ms, row.first_byte_ms) for row in rows}
