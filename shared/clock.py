"""The host's clock, behind functions so that callers can be given another one."""

from datetime import UTC, datetime


def utcnow() -> datetime:
    """Now, aware, in UTC. Leases and due times use the database's clock instead (`shared.db.now`)."""
    return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """`moment` in UTC to the millisecond, as the wire wants it: 2026-11-23T10:15:30.123Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
