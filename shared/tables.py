"""Every table, its indexes, and the unique keys that make repeats harmless. Pure declarations.

Migrations in deploy/migrations create them; a test compares the two.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    text,
)

from shared.sql import UtcTime

metadata = MetaData()

# SQLite numbers a row by itself only for INTEGER PRIMARY KEY.
_Sequence = BigInteger().with_variant(Integer(), "sqlite")


def _partial(name: str, *columns: str, where: str) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


records = Table(
    "records",
    metadata,
    Column("entity", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("fields", LargeBinary, nullable=False),  # JSON bytes: jsonb refuses \u0000, and nothing queries inside yet
    PrimaryKeyConstraint("entity", "id"),
    Index("records_newest", "entity", "created_at", "id"),
)

# Every event, from its commit on. `event_day` is the day we first stored it, a constant that deliveries and attempts
# carry, so that days can be dropped whole.
outbox = Table(
    "outbox",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("event_id", Text, nullable=False, unique=True),
    Column("event_day", Date, nullable=False),
    Column("entity", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("record_id", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("body_hash", LargeBinary, nullable=False),  # SHA-256: tells a repeat from the same id with another body
    Column("hop", SmallInteger, nullable=False, server_default="0"),
    Column("traceparent", Text),
    Column("created_at", UtcTime, nullable=False),
    Column("published_at", UtcTime),
    Column("publish_count", SmallInteger, nullable=False, server_default="0"),
    Column("check_at", UtcTime),  # when the reconciler may doubt that the broker still has it
    Column("dispatched_at", UtcTime),
    _partial("outbox_unpublished", "seq", where="published_at IS NULL"),
    _partial("outbox_undispatched", "check_at", where="dispatched_at IS NULL"),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("entity", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("deactivated_reason", Text),
    Column("secret", LargeBinary),  # encrypted, as the two below
    Column("old_secret", LargeBinary),
    Column("old_secret_until", UtcTime),
    Column("headers", LargeBinary),
    Column("filter", Text),
    Column("preset", Text, nullable=False, server_default="hari"),
    Column("template", Text),
    Column("former_formats", Text),  # what waiting deliveries and the log still need
    Column("redirect", Text),
    Column("timeout_s", Integer, nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("deleted_at", UtcTime),
    Index("webhooks_newest", "created_at", "id"),
)

# One delivery of one event to one webhook. An attempt is in flight while `lease_until` is set: that is the claim.
deliveries = Table(
    "deliveries",
    metadata,
    Column("event_day", Date, nullable=False),
    Column("id", Text, nullable=False),
    Column("webhook_id", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("test", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("attempt_no", Integer, nullable=False),  # of the last claim, 0 before the first
    Column("failures", Integer, nullable=False),  # known ones, in this round
    Column("unknowns", Integer, nullable=False),  # in a row: three count as one failure
    Column("claimed_at", UtcTime),
    Column("lease_until", UtcTime),
    Column("next_attempt_at", UtcTime),  # NULL while waiting: for a turn, not for a time
    Column("check_at", UtcTime),  # when housekeeping looks at a live row
    Column("checks", SmallInteger, nullable=False),  # how often it has published it again
    Column("last_status", SmallInteger),
    Column("last_error", Text),
    Column("resent_at", UtcTime),  # when a person last asked for a new round
    PrimaryKeyConstraint("event_day", "id"),
    Index("deliveries_of_webhook", "webhook_id", "created_at", "id"),
    Index("deliveries_newest", "created_at", "id"),
    _partial("deliveries_dead", "created_at", "id", where="state = 'dead'"),
    _partial("deliveries_to_check", "check_at", where="check_at IS NOT NULL"),
    _partial("deliveries_in_turn", "webhook_id", "created_at", where="state = 'waiting' AND next_attempt_at IS NULL"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("event_day", Date, nullable=False),
    Column("delivery_id", Text, nullable=False),
    Column("attempt_no", Integer, nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("status", SmallInteger),
    Column("error", Text),
    Column("detail", Text),
    Column("duration_ms", Float, nullable=False),
    Column("dns_ms", Float),
    Column("connect_ms", Float),
    Column("tls_ms", Float),
    Column("first_byte_ms", Float),
    Column("request_url", Text),
    Column("request_headers", LargeBinary),  # JSON bytes, secrets already replaced
    Column("response_headers", LargeBinary),
    Column("response_body", LargeBinary),
    Column("response_truncated", Boolean, nullable=False),
    # The day leads the key, so that the table can be partitioned by it without a new key.
    PrimaryKeyConstraint("event_day", "delivery_id", "attempt_no"),
)

parked_messages = Table(
    "parked_messages",
    metadata,
    Column("id", Text, primary_key=True),
    Column("parked_at", UtcTime, nullable=False),
    Column("queue", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("parked_newest", "parked_at", "id"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("key_hash", LargeBinary, nullable=False, unique=True),
    Column("role", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("revoked_at", UtcTime),
)

users = Table(
    "users",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("password", Text, nullable=False),  # scrypt, with its parameters and salt
    Column("role", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
)

# Who is signed in. The notice, encrypted, is what the next page shows once: it may hold a new secret.
sessions = Table(
    "sessions",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    Column("notice", LargeBinary),
)

# Counters that say "something here changed": every change to a webhook raises `webhooks` in its own transaction.
versions = Table(
    "versions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

# A named right that one process at a time holds, on the database's clock.
leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("until", UtcTime, nullable=False),
)

# Which processes are alive; a dispatcher refreshes its row every two seconds.
processes = Table(
    "processes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("seen_at", UtcTime, nullable=False),
)

# What a person asked to be sent again, in ranges too long for one request: housekeeping works them off step by step.
# The cursor moves in the transaction of its step, so that a crash repeats nothing and loses nothing.
replays = Table(
    "replays",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),  # "replay" of events, or "redrive" of dead deliveries
    Column("webhook_id", Text),
    Column("since", UtcTime),
    Column("until", UtcTime, nullable=False),
    Column("reason", Text),
    Column("include_delivered", Boolean, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("stepped_at", UtcTime, nullable=False),
    Column("after_seq", BigInteger),  # of a replay: the last event looked at
    Column("after_at", UtcTime),  # of a redrive: the last delivery
    Column("after_id", Text),
    Column("sent_count", BigInteger, nullable=False),
    Column("finished_at", UtcTime),
    Column("ended_because", Text),  # why it ended before its range did
    _partial("replays_unfinished", "stepped_at", where="finished_at IS NULL"),
)

# What a POST with an Idempotency-Key was answered, for a day. No answer yet: it is under way, or was lost with its
# process.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("caller", Text, nullable=False),  # the API key's id: two callers may choose the same words
    Column("key", Text, nullable=False),
    Column("request_hash", LargeBinary, nullable=False),  # of method, path and body
    Column("created_at", UtcTime, nullable=False),
    Column("status", SmallInteger),
    Column("answer", LargeBinary),  # headers and body, encrypted: it may show a new secret
    PrimaryKeyConstraint("caller", "key"),
    Index("idempotency_keys_oldest", "created_at"),
)
