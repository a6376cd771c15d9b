"""The self-check of a broker by its behaviour: a probe goes through a wait queue and comes back. Uses only the port."""

import asyncio
from contextlib import suppress

from shared.broker.port import Broker, Consumer, Message
from shared.broker.topology import PROBE_MS, Topology
from shared.errors import SettingsError, Unavailable
from shared.ids import new_id

DEADLINE_S = 5.0
AGAIN_S = 1.0
"""Processes that start together share the queue, and one may take the other's probe: send another."""


async def probe(broker: Broker, topology: Topology) -> None:
    """Return once a probe of ours came back. Raises as `Broker.self_check`, and Unavailable if the broker went away."""
    consumer = await broker.consume(topology.probe, prefetch=100)
    sent: set[str] = set()
    try:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                sent.add(await _send(broker, topology))
                with suppress(TimeoutError):
                    async with asyncio.timeout(AGAIN_S):
                        return await _came_back(consumer, sent)
    except TimeoutError as error:
        raise _failed(f"it did not come back within {DEADLINE_S:g} s") from error
    finally:
        await consumer.stop()


async def _send(broker: Broker, topology: Topology) -> str:
    message = Message(topology.probe_exchange, "wait", b"", message_id=new_id("probe"))
    (refused,) = await broker.publish([message])
    if refused is not None:
        raise _failed(refused) if refused.startswith(("nacked", "unroutable")) else Unavailable(refused)
    return message.message_id


async def _came_back(consumer: Consumer, sent: set[str]) -> None:
    while batch := await consumer.next_batch(100, 0):
        consumer.ack(batch)
        if any(received.message_id in sent for received in batch):
            return
    raise Unavailable("the broker was closed during its self-check")


def _failed(why: str) -> SettingsError:
    return SettingsError(f"The broker failed its self-check, a message through a {PROBE_MS} ms wait queue: {why}")
