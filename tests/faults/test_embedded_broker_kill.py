"""Kill a process that uses the embedded broker, ten times: what was confirmed and not acked is there, and only once."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from shared.broker.embedded import Embedded
from shared.broker.port import Consumer, Message
from shared.broker.topology import build
from tests.waiting import eventually_async, run

ROOT = Path(__file__).parents[2]
KILLS = 10
TOPOLOGY = build("k.", [0.05])
DELAY = str(TOPOLOGY.waits[1][0])


def test_ten_kills_lose_nothing_and_repeat_only_what_was_not_acked(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    said: dict[str, set[str]] = {"sending": set(), "confirmed": set(), "acking": set(), "acked": set()}
    for round_no in range(KILLS):
        acked_before = set(said["acked"])
        got: list[str] = []
        for verb, name in _lines_until_killed(path, round_no, confirmed_count=120 + 45 * round_no):
            if verb == "got":
                got.append(name)
            else:
                said[verb].add(name)
        assert not acked_before & set(got), "an acked message came again after a kill"
        assert max(Counter(got).values(), default=1) == 1, "one process got a message twice"

    left = run(_drain(path), 60)
    assert max(Counter(left).values()) == 1
    assert said["confirmed"] - said["acking"] <= set(left), "a confirmed message is lost"
    assert not said["acked"] & set(left)
    assert set(left) <= said["sending"]
    assert said["acked"], "the children never got as far as an ack: this run shows nothing"


def _lines_until_killed(path: Path, round_no: int, confirmed_count: int) -> list[tuple[str, str]]:
    """What a child wrote until it had this many confirmations and was killed, in its order."""
    command = [sys.executable, "-m", "tests.faults.test_embedded_broker_kill", str(path), str(round_no)]
    lines: list[tuple[str, str]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                verb, _, names = line.strip().partition(" ")
                lines += [(verb, name) for name in names.split()]
                confirmed_count -= len(names.split()) if verb == "confirmed" else 0
                if confirmed_count <= 0:
                    child.kill()  # and read on: what stands in the pipe was said before
        finally:
            child.kill()
    assert child.returncode == -signal.SIGKILL
    return lines


async def _drain(path: Path) -> list[str]:
    broker = Embedded(path)
    await broker.start()
    await eventually_async(lambda: broker.connected)
    await broker.declare(TOPOLOGY)
    waits = [queue for _, queue in TOPOLOGY.waits]

    async def waited() -> bool:
        return not any((await broker.depths(waits)).values())

    await eventually_async(waited)
    left: list[str] = []
    for queue, depth in (await broker.depths([TOPOLOGY.events, TOPOLOGY.deliver, TOPOLOGY.dead])).items():
        consumer = await broker.consume(queue, 100_000)
        while depth > 0:
            batch = await consumer.next_batch(depth, 0)
            left += [received.message_id for received in batch]
            depth -= len(batch)
    await broker.close()
    return left


async def _child(path: Path, round_no: int) -> None:
    """Publish without end, half of it through a wait queue; consume all, ack every second one. Say each step."""
    broker = Embedded(path)
    await broker.start()
    await eventually_async(lambda: broker.connected)
    await broker.declare(TOPOLOGY)
    for queue in (TOPOLOGY.events, TOPOLOGY.deliver):
        asyncio.create_task(_consume(broker, await broker.consume(queue, 100_000)))  # noqa: RUF006 - the kill ends it
    for batch_no in range(1_000_000):
        names = [f"{round_no}.{batch_no}.{no}" for no in range(10)]
        _say("sending", names)
        direct = [Message(TOPOLOGY.events_exchange, "record.Deal.updated", b"x" * 300, name) for name in names[::2]]
        delayed = [Message(TOPOLOGY.wait_exchange, DELAY, b"x" * 300, name) for name in names[1::2]]
        assert await broker.publish(direct + delayed) == [None] * 10
        _say("confirmed", names)


async def _consume(broker: Embedded, consumer: Consumer) -> None:
    while batch := await consumer.next_batch(50, 0):
        _say("got", [received.message_id for received in batch])
        ended = batch[::2]
        _say("acking", [received.message_id for received in ended])
        consumer.ack(ended)
        await broker.depths([])  # answered after the commit that holds the ack
        _say("acked", [received.message_id for received in ended])


def _say(verb: str, names: list[str]) -> None:
    os.write(1, f"{verb} {' '.join(names)}\n".encode())  # one write: the pipe holds all of it or nothing


if __name__ == "__main__":
    asyncio.run(_child(Path(sys.argv[1]), int(sys.argv[2])))
