"""What the fault tests share: a CRM that changes records, webhooks that want them, and how rest looks."""

from sqlalchemy import func, select

from shared.changes import save_record
from shared.clock import utcnow
from shared.db import Database
from shared.entities import read_entities
from shared.model import Actor, Trigger
from shared.secrets import SecretBox
from shared.store import webhooks
from shared.store.webhooks import NewWebhook
from shared.tables import deliveries, outbox
from tests.servers import OwnRabbitMQ

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
USER = Actor("usr_1", "Ada")
DEAL = read_entities()["Deal"]
EVERY_NTH_ROLLED_BACK = 50


class _RollBack(Exception):
    """Ends a transaction the way a CRM's own failure would."""


def change(database: Database, number: int) -> str | None:
    """One record created in a transaction of its own; its event id, None when the transaction was rolled back."""
    try:
        with database.transaction() as conn:
            fields = {"name": f"Deal {number}", "stage": "Won", "amount": number}
            saved = save_record(conn, entity=DEAL, record_id=None, fields=fields, user=USER, now=utcnow())
            assert saved is not None
            assert saved.event is not None
            if number % EVERY_NTH_ROLLED_BACK == 0:
                raise _RollBack
            return saved.event.id
    except _RollBack:
        return None


def add_webhooks(database: Database, box: SecretBox, url: str, count: int, **values: int) -> list[str]:
    with database.transaction() as conn:
        return [
            webhooks.create(
                conn,
                box,
                NewWebhook(name=f"n{n}", entity="Deal", trigger=Trigger.SAVE, url=f"{url}{n}", secret=SECRET, **values),
            ).id
            for n in range(count)
        ]


def at_rest(database: Database) -> bool:
    with database.transaction() as conn:
        open_events = select(func.count()).select_from(outbox).where(outbox.c.dispatched_at.is_(None))
        live = select(func.count()).select_from(deliveries).where(deliveries.c.state.in_(("pending", "waiting")))
        return conn.execute(open_events).scalar_one() == 0 and conn.execute(live).scalar_one() == 0


def queued(server: OwnRabbitMQ, prefix: str) -> dict[str, int]:
    """Messages, ready and unacked, of every queue that should be empty at rest."""
    table = server.ctl("list_queues", "name", "messages", "--silent", "--no-table-headers")
    rows = (line.split() for line in table.splitlines() if line.strip())
    counts = {name: int(count) for name, count in rows if name.startswith(prefix)}
    return {name: count for name, count in counts.items() if count and not name.endswith((".parked", "unrouted"))}
