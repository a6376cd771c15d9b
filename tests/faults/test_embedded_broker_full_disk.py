"""A disk that is full: publishing says unavailable, and works again once there is room."""

import asyncio
import resource
import subprocess
import sys
from pathlib import Path

from shared.broker.embedded import Embedded
from shared.broker.port import Message
from shared.broker.topology import build
from tests.waiting import eventually_async

ROOT = Path(__file__).parents[2]
TOPOLOGY = build("k.", [])


def test_a_full_disk_is_unavailable_and_loses_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.faults.test_embedded_broker_full_disk", str(tmp_path / "broker.db")]
    child = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert child.returncode == 0, child.stderr


async def _child(path: Path) -> None:
    """In a process of its own, because the limit on file sizes holds for the whole process."""
    broker = Embedded(path)
    await broker.start()
    await eventually_async(lambda: broker.connected)
    await broker.declare(TOPOLOGY)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
    confirmed: list[str] = []
    while (answers := await broker.publish(_batch(len(confirmed)))) == [None] * 10:
        confirmed += [message.message_id for message in _batch(len(confirmed))]
        assert len(confirmed) < 10_000, "the limit was never met"
    assert all(str(answer).startswith("unavailable: ") for answer in answers), answers
    assert not broker.connected

    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert await broker.publish(_batch(len(confirmed))) == [None] * 10
    confirmed += [message.message_id for message in _batch(len(confirmed))]
    consumer = await broker.consume(TOPOLOGY.events, 20_000)
    received: list[str] = []
    while len(received) < len(confirmed):
        received += [message.message_id for message in await consumer.next_batch(1000, 0)]
    assert received == confirmed
    assert await broker.depths([TOPOLOGY.events]) == {TOPOLOGY.events: 0}
    await broker.close()


def _batch(first: int) -> list[Message]:
    return [Message(TOPOLOGY.events_exchange, "record.A.b", b"x" * 2000, f"m{first + no}") for no in range(10)]


if __name__ == "__main__":
    asyncio.run(_child(Path(sys.argv[1])))
