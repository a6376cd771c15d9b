"""Reads the dead queue: the inbox on the broker of what the database already holds as dead.

A message whose row is not over is a victim of a delivery limit (a worker died with it in hand, again and again): it is
published afresh once, and parked the second time.
"""

from services.dispatcher.parking import Parking
from shared import failpoint
from shared.broker.port import Broker, Consumer, Message, Received
from shared.broker.topology import Topology
from shared.db import Database
from shared.errors import Malformed, Unavailable
from shared.logs import logger
from shared.model import DeliveryTask, State
from shared.patience import Patience
from shared.store import deliveries
from shared.wire import decode_event, decode_task

REVIVED = "x-hari-revived"
_log = logger("hari.dispatcher")


class Undertaker:
    """Gives every message of the dead queue one end."""

    def __init__(
        self, database: Database, broker: Broker, topology: Topology, parking: Parking, entities: frozenset[str]
    ) -> None:
        self._database = database
        self._broker = broker
        self._topology = topology
        self._parking = parking
        self._entities = entities
        self._patience = Patience()

    async def run(self, consumer: Consumer) -> None:
        """Until the consumer is stopped."""
        while batch := await consumer.next_batch(50, 0.01):
            failpoint.reach("undertaker.received")
            for message in batch:
                await self._bury(message)
            consumer.ack(batch)

    async def _bury(self, message: Received) -> None:
        try:
            task = decode_task(message.body)
        except Malformed:
            await self._bury_event(message)
            return
        key = (task.event_day, task.delivery_id)
        states = await self._patience(self._database.run, deliveries.states, [key])
        state = states.get(task.delivery_id)
        if state in (State.PENDING, State.WAITING):
            await self._revive(message, "deliver", f"the delivery is still {state}", task)

    async def _bury_event(self, message: Received) -> None:
        try:
            event = decode_event(message.body, message.headers, self._entities)
        except Malformed as error:
            await self._parking.park(message.queue, message.message_id, message.body, str(error))
            return
        if not await self._patience(self._database.run, deliveries.event_is_dispatched, event.id):
            await self._revive(message, "events", "the event has no deliveries yet", None)

    async def _revive(self, message: Received, key: str, why: str, task: DeliveryTask | None) -> None:
        if message.headers.get(REVIVED):
            reason = f"came back to the dead queue although {why}: its handling kills the worker"
            await self._parking.park(message.queue, message.message_id, message.body, reason)
            return
        kept = {name: str(value) for name, value in message.headers.items() if name == "traceparent"}
        fresh = Message(self._topology.deliver_exchange, key, message.body, message.message_id, kept | {REVIVED: 1})
        await self._patience(self._publish, fresh)
        failpoint.reach("undertaker.revived")
        _log.warning("message.revived", queue=key, message_id=message.message_id, reason=why)

    async def _publish(self, message: Message) -> None:
        [answer] = await self._broker.publish([message])
        if answer is not None:
            raise Unavailable(f"reviving a message: {answer}")
