"""The first schema."""

import sqlalchemy as sa
from alembic import op

from shared.sql import UtcTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "api_keys",
    "users",
    "sessions",
    "attempts",
    "deliveries",
    "idempotency_keys",
    "leases",
    "outbox",
    "parked_messages",
    "processes",
    "records",
    "replays",
    "versions",
    "webhooks",
)


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("prefix", sa.Text, nullable=False),
        sa.Column("key_hash", sa.LargeBinary, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("revoked_at", UtcTime),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key_hash"),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("password", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "sessions",
        sa.Column("token_hash", sa.LargeBinary, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("expires_at", UtcTime, nullable=False),
        sa.Column("notice", sa.LargeBinary),
        sa.PrimaryKeyConstraint("token_hash"),
    )
    op.create_table(
        "attempts",
        sa.Column("event_day", sa.Date, nullable=False),
        sa.Column("delivery_id", sa.Text, nullable=False),
        sa.Column("attempt_no", sa.Integer, nullable=False),
        sa.Column("started_at", UtcTime, nullable=False),
        sa.Column("status", sa.SmallInteger),
        sa.Column("error", sa.Text),
        sa.Column("detail", sa.Text),
        sa.Column("duration_ms", sa.Float, nullable=False),
        sa.Column("dns_ms", sa.Float),
        sa.Column("connect_ms", sa.Float),
        sa.Column("tls_ms", sa.Float),
        sa.Column("first_byte_ms", sa.Float),
        sa.Column("request_url", sa.Text),
        sa.Column("request_headers", sa.LargeBinary),
        sa.Column("response_headers", sa.LargeBinary),
        sa.Column("response_body", sa.LargeBinary),
        sa.Column("response_truncated", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("event_day", "delivery_id", "attempt_no"),
    )
    op.create_table(
        "deliveries",
        sa.Column("event_day", sa.Date, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("webhook_id", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("test", sa.Boolean, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("attempt_no", sa.Integer, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("unknowns", sa.Integer, nullable=False),
        sa.Column("claimed_at", UtcTime),
        sa.Column("lease_until", UtcTime),
        sa.Column("next_attempt_at", UtcTime),
        sa.Column("check_at", UtcTime),
        sa.Column("checks", sa.SmallInteger, nullable=False),
        sa.Column("last_status", sa.SmallInteger),
        sa.Column("last_error", sa.Text),
        sa.Column("resent_at", UtcTime),
        sa.PrimaryKeyConstraint("event_day", "id"),
    )
    op.create_index(
        "deliveries_dead",
        "deliveries",
        ["created_at", "id"],
        sqlite_where=sa.text("state = 'dead'"),
        postgresql_where=sa.text("state = 'dead'"),
    )
    op.create_index(
        "deliveries_in_turn",
        "deliveries",
        ["webhook_id", "created_at"],
        sqlite_where=sa.text("state = 'waiting' AND next_attempt_at IS NULL"),
        postgresql_where=sa.text("state = 'waiting' AND next_attempt_at IS NULL"),
    )
    op.create_index("deliveries_newest", "deliveries", ["created_at", "id"])
    op.create_index("deliveries_of_webhook", "deliveries", ["webhook_id", "created_at", "id"])
    op.create_index(
        "deliveries_to_check",
        "deliveries",
        ["check_at"],
        sqlite_where=sa.text("check_at IS NOT NULL"),
        postgresql_where=sa.text("check_at IS NOT NULL"),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("until", UtcTime, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "outbox",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), autoincrement=True, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("event_day", sa.Date, nullable=False),
        sa.Column("entity", sa.Text, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("record_id", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("body_hash", sa.LargeBinary, nullable=False),
        sa.Column("hop", sa.SmallInteger, server_default="0", nullable=False),
        sa.Column("traceparent", sa.Text),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("published_at", UtcTime),
        sa.Column("publish_count", sa.SmallInteger, server_default="0", nullable=False),
        sa.Column("check_at", UtcTime),
        sa.Column("dispatched_at", UtcTime),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("event_id"),
    )
    op.create_index(
        "outbox_undispatched",
        "outbox",
        ["check_at"],
        sqlite_where=sa.text("dispatched_at IS NULL"),
        postgresql_where=sa.text("dispatched_at IS NULL"),
    )
    op.create_index(
        "outbox_unpublished",
        "outbox",
        ["seq"],
        sqlite_where=sa.text("published_at IS NULL"),
        postgresql_where=sa.text("published_at IS NULL"),
    )
    op.create_table(
        "parked_messages",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("parked_at", UtcTime, nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("parked_newest", "parked_messages", ["parked_at", "id"])
    op.create_table(
        "processes",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("seen_at", UtcTime, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "records",
        sa.Column("entity", sa.Text, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("updated_at", UtcTime, nullable=False),
        sa.Column("fields", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("entity", "id"),
    )
    op.create_index("records_newest", "records", ["entity", "created_at", "id"])
    op.create_table(
        "versions",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("entity", sa.Text, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("deactivated_reason", sa.Text),
        sa.Column("secret", sa.LargeBinary),
        sa.Column("old_secret", sa.LargeBinary),
        sa.Column("old_secret_until", UtcTime),
        sa.Column("headers", sa.LargeBinary),
        sa.Column("filter", sa.Text),
        sa.Column("preset", sa.Text, server_default="hari", nullable=False),
        sa.Column("template", sa.Text),
        sa.Column("former_formats", sa.Text),
        sa.Column("redirect", sa.Text),
        sa.Column("timeout_s", sa.Integer, nullable=False),
        sa.Column("concurrency", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("updated_at", UtcTime, nullable=False),
        sa.Column("deleted_at", UtcTime),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("webhooks_newest", "webhooks", ["created_at", "id"])
    op.create_table(
        "idempotency_keys",
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("request_hash", sa.LargeBinary, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("status", sa.SmallInteger),
        sa.Column("answer", sa.LargeBinary),
        sa.PrimaryKeyConstraint("caller", "key"),
    )
    op.create_index("idempotency_keys_oldest", "idempotency_keys", ["created_at"])
    op.create_table(
        "replays",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("webhook_id", sa.Text),
        sa.Column("since", UtcTime),
        sa.Column("until", UtcTime, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("include_delivered", sa.Boolean, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("stepped_at", UtcTime, nullable=False),
        sa.Column("after_seq", sa.BigInteger),
        sa.Column("after_at", UtcTime),
        sa.Column("after_id", sa.Text),
        sa.Column("sent_count", sa.BigInteger, nullable=False),
        sa.Column("finished_at", UtcTime),
        sa.Column("ended_because", sa.Text),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "replays_unfinished",
        "replays",
        ["stepped_at"],
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.execute("INSERT INTO versions (name, value) VALUES ('webhooks', 1)")


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)
