"""What the bare and the lean loop share: the full queue they find, their headers, and how they run and report.

Each is a process: `python -m benchmarks.bare BROKER_URL QUEUE ENDPOINT_URL COUNT CONNECTIONS` consumes, POSTs and acks
COUNT messages, and prints one line of JSON: `seconds` from the first message to the last ack, and the `cpu_s` it took.
"""

import gc
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from benchmarks.children import BenchError, python, running
from benchmarks.places import Place
from benchmarks.receiver import Receiver
from benchmarks.report import Measured
from benchmarks.work import SLOTS, event
from shared.broker.port import Message
from shared.broker.rabbitmq import RabbitMQ
from shared.wire import routing_key

WITHIN_S = 180
HEADERS = (
    ("Content-Type", "application/json"),
    ("X-Webhook-Secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="),
    ("webhook-id", "dlv_abcdefghijklmnopqrstuvwxyz"),
    ("webhook-timestamp", "1795428930"),
    ("webhook-signature", "v1,MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="),
    ("User-Agent", "HARi-Webhooks/bench"),
    ("X-HARi-Hop", "1"),
)
"""As many and as long as those of a signed delivery."""

Drive = Callable[[str, str, str, int, int], Awaitable[tuple[float, float]]]
"""(broker URL, queue, endpoint URL, count, connections) -> (seconds, processor seconds)."""


def measure(name: str, place: Place, receiver: Receiver, directory: Path, count: int) -> Measured:
    """POSTs per second of `benchmarks.<name>` on `count` messages waiting in a quorum queue of the product's kind."""
    uvloop.run(_fill(place, count))
    words = python(f"benchmarks.{name}", place.broker_url, place.topology.events, receiver.url, str(count), str(SLOTS))
    receiver.forget()
    with running(f"{name} loop", words, directory) as loop:
        loop.wait(WITHIN_S)
    if (posts := receiver.posts()) != count:
        raise BenchError(f"the {name} loop made {posts:,} POSTs of {count:,} messages")
    return Measured(count, *printed(name, loop.tail()))


def printed(name: str, text: str) -> tuple[float, float]:
    """(seconds, processor seconds) as the loop's last line says. Raises BenchError with the text when it does not."""
    try:
        found = json.loads(text.strip().splitlines()[-1])
        return float(found["seconds"]), float(found["cpu_s"])
    except (IndexError, KeyError, TypeError, ValueError):
        raise BenchError(f"the {name} loop printed no result:\n{text}") from None


def main(drive: Drive) -> None:
    """The loop's process: drive as the command line says, then print what it took."""
    broker_url, queue, url, count, connections = sys.argv[1:]
    # As services.cli.processes does for the dispatcher.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)

    async def run() -> tuple[float, float]:
        return await drive(broker_url, queue, url, int(count), int(connections))

    seconds, cpu_s = uvloop.run(run())
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s}), flush=True)


async def _fill(place: Place, count: int) -> None:
    broker, topology = RabbitMQ(place.broker_url), place.topology
    await broker.start()
    try:
        await broker.declare(topology)
        for start in range(0, count, 1000):
            events = [event(no) for no in range(start, min(start + 1000, count))]
            messages = [Message(topology.events_exchange, routing_key(one), one.body, one.id) for one in events]
            refused = [why for why in await broker.publish(messages) if why is not None]
            if refused:
                raise BenchError(f"the broker refused a message: {refused[0]}")
    finally:
        await broker.close()
