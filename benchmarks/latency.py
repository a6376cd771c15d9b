"""Commit to POST received, at a steady rate: events are committed on a fixed timetable, whatever became of the last."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop

from benchmarks.children import BenchError, wait_for
from benchmarks.ours import Product
from benchmarks.places import Place
from benchmarks.receiver import raw_receiver
from benchmarks.report import Latency
from benchmarks.work import FAN_OUT, USER, entity_of, fields
from shared.changes import save_record
from shared.clock import utcnow
from shared.db import Database
from shared.wakeups import Wakeups

DELIVERIES_PER_S = 500
WARM_UP_S = 1.0
WRITERS = 4


def measure(place: Place, directory: Path, seconds: float) -> Latency:
    """Latencies of every delivery of `seconds` seconds, after one second of warm-up at the same rate."""
    with raw_receiver(directory) as receiver:
        product = Product(place, directory, receiver.url)
        try:
            with product.process("dispatcher") as dispatcher, product.process("relay") as relay:
                receiver.forget()
                committed = uvloop.run(_commit(product.database, WARM_UP_S + seconds))
                count = len(committed) * FAN_OUT
                wait_for(lambda: receiver.posts() >= count, 60, "all POSTs arrive", dispatcher, relay)
            counted = {event_id: at_ns for event_id, due_s, at_ns in committed if due_s >= WARM_UP_S}
            values = [(at_ns - counted[found]) / 1e6 for found, at_ns in receiver.journal() if found in counted]
        finally:
            product.database.close()
    if len(values) != len(counted) * FAN_OUT:
        raise BenchError(f"{len(values)} POSTs arrived for {len(counted) * FAN_OUT} deliveries")
    took_s = (max(counted.values()) - min(counted.values())) / 1e9
    return Latency(values, len(values) / took_s)


async def _commit(database: Database, seconds: float) -> list[tuple[str, float, int]]:
    """(event id, its place in the timetable in s, its commit on the monotonic clock in ns) of each event."""
    loop = asyncio.get_running_loop()
    wakeups = Wakeups(database)
    wakeups.start()
    gap_s = FAN_OUT / DELIVERIES_PER_S
    writers = ThreadPoolExecutor(WRITERS)
    tasks = []

    async def save(no: int) -> tuple[str, float, int]:
        event_id, at_ns = await loop.run_in_executor(writers, _save, database, no)
        wakeups.notify("outbox")
        return event_id, no * gap_s, at_ns

    started = loop.time()
    for no in range(int(seconds / gap_s)):
        await asyncio.sleep(max(0.0, started + no * gap_s - loop.time()))
        tasks.append(asyncio.create_task(save(no)))
    committed = await asyncio.gather(*tasks)
    await wakeups.close()
    writers.shutdown()
    return committed


def _save(database: Database, no: int) -> tuple[str, int]:
    with database.transaction() as conn:
        saved = save_record(conn, entity=entity_of(no), record_id=None, fields=fields(no), user=USER, now=utcnow())
        assert saved is not None
        assert saved.event is not None
    return saved.event.id, time.monotonic_ns()
