"""Messages that can never be used: published to the parked queue with their reason, and mirrored for people to read."""

from shared import failpoint, metrics
from shared.broker.port import Broker, Message
from shared.broker.topology import Topology
from shared.db import Database
from shared.errors import Unavailable
from shared.logs import logger
from shared.patience import Patience
from shared.store import roles

_log = logger("hari.dispatcher")


class Parking:
    """Parks a message so that the next ones can go on. The caller acks it afterwards."""

    def __init__(self, database: Database, broker: Broker, topology: Topology, patience: Patience) -> None:
        self._database = database
        self._broker = broker
        self._topology = topology
        self._patience = patience

    async def park(self, queue: str, message_id: str, body: bytes, reason: str, *, event_id: str = "") -> None:
        """Return once the message stands in the parked queue (confirmed) and in its mirror.

        `event_id`: an event that this process cannot use; should the outbox have it, it is not published again.
        """
        headers = {"x-hari-reason": reason[:500], "x-hari-queue": queue}
        message = Message(self._topology.terminal_exchange, "parked", body, message_id, headers)
        await self._patience(self._publish, message)
        failpoint.reach("park.published")
        await self._patience(
            self._database.run,
            roles.add_parked,
            queue=queue,
            message_id=message_id,
            reason=reason,
            body=body,
            event_id=event_id,
        )
        failpoint.reach("park.mirrored")
        name = queue.rpartition(".")[2]
        metrics.messages_parked.labels(name).inc()
        _log.warning("message.parked", queue=name, message_id=message_id, reason=reason)

    async def _publish(self, message: Message) -> None:
        [answer] = await self._broker.publish([message])
        if answer is not None:
            raise Unavailable(f"parking a message: {answer}")
