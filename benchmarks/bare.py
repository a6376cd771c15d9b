"""The bare loop: the product's own broker adapter and sender, which only consume, POST and ack. Ours less its protocol.

No matching, database, claim, signature or log. Run and measured by `benchmarks.loops`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from ipaddress import ip_network

from benchmarks.children import BenchError
from benchmarks.loops import HEADERS, main
from services.dispatcher.resolve import Resolver
from services.dispatcher.send import Sender
from shared.broker.port import Consumer, Received
from shared.broker.rabbitmq import RabbitMQ
from shared.egress import EgressRules
from shared.model import Outcome, Request

TIMEOUT_S = 15.0
LOOPBACK = EgressRules(allow=(ip_network("127.0.0.0/8"),))


async def drive(broker_url: str, queue: str, url: str, count: int, connections: int) -> tuple[float, float]:
    """(seconds, processor seconds) of `count` messages."""
    broker = RabbitMQ(broker_url, name="bare loop")
    sender = Sender(resolve=Resolver(), rules=LOOPBACK)
    before_s = time.process_time()
    await broker.start()
    try:
        consumer = await broker.consume(queue, 2 * connections)
        seconds = await post_all(consumer, sender.send, url, count, connections)
        return seconds, time.process_time() - before_s
    finally:
        await sender.close()
        await broker.close()


async def post_all(
    consumer: Consumer, send: Callable[[Request], Awaitable[Outcome]], url: str, count: int, connections: int
) -> float:
    """POST `count` messages, `connections` at once, and ack each when it is answered.

    Returns the seconds from the first message on. Raises BenchError, in a group, when an answer is not 200.
    """
    free, left, started = connections, count, 0.0
    freed = asyncio.Event()

    async def post(message: Received) -> None:
        nonlocal free
        outcome = await send(Request(url, HEADERS, message.body, TIMEOUT_S))
        if outcome.status != 200:
            raise BenchError(f"a POST of the bare loop met {outcome.status or outcome.problem} {outcome.detail or ''}")
        consumer.ack([message])
        free += 1
        freed.set()

    async with asyncio.TaskGroup() as posts:
        while left:
            while not free:
                freed.clear()
                await freed.wait()
            batch = await consumer.next_batch(min(free, left), 0)
            started = started or time.perf_counter()
            free -= len(batch)
            left -= len(batch)
            for message in batch:
                posts.create_task(post(message))
    return time.perf_counter() - started


if __name__ == "__main__":
    main(drive)
