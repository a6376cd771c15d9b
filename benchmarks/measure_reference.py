"""Measures the reference: tasks into the queue, a Celery worker, the time from the first POST to the last log row."""

import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Engine, func, select

from benchmarks.children import python, running, used_s, wait_for
from benchmarks.places import Place, Servers, fresh_place
from benchmarks.receiver import Receiver
from benchmarks.reference import TASK, engine_of, log, make_app, metadata
from benchmarks.report import Measured
from benchmarks.work import event

Pool = tuple[str, int]
QUICK_POOLS: tuple[Pool, ...] = (("threads", 16), ("prefork", 4))
POOLS: tuple[Pool, ...] = (("threads", 8), ("threads", 32), ("prefork", 4), ("prefork", 8))
WITHIN_S = 180


def best_pool(
    servers: Servers, receiver: Receiver, directory: Path, pools: Sequence[Pool], count: int, style: str
) -> tuple[Pool, dict[str, float]]:
    """The pool with which this style did most in a short warm-up, and what each did."""
    found: dict[Pool, float] = {}
    for pool in pools:
        with fresh_place(servers) as place:
            found[pool] = measure(place, receiver, directory, count, pool, style).per_s
    return max(found, key=lambda pool: found[pool]), {f"{name} {size}": per_s for (name, size), per_s in found.items()}


def measure(place: Place, receiver: Receiver, directory: Path, count: int, pool: Pool, style: str) -> Measured:
    """Tasks per second of one Celery worker that finds `count` of them waiting in its queue."""
    engine = engine_of(place.database_url)
    metadata.create_all(engine)
    queue = f"{place.prefix}celery"
    _publish(place, receiver.url, queue, count)
    words = python("benchmarks.reference", place.broker_url, place.database_url, queue, pool[0], str(pool[1]), style)
    try:
        with running(f"celery {pool[0]}", words, directory) as worker:
            wait_for(lambda: _logged(engine) > 0, 60, "the Celery worker begins", worker)
            cpu_before_s = worker.cpu_s()
            wait_for(lambda: _logged(engine) >= count, WITHIN_S, "the Celery worker ends", worker, poll_s=0.02)
            ended_at, cpu_s = time.time(), used_s(cpu_before_s, worker.cpu_s())
            worker.kill()  # its work is done, and its warm shutdown takes seconds
        with engine.connect() as conn:
            first_at = conn.execute(select(func.min(log.c.started_at))).scalar_one().timestamp()
        return Measured(count, ended_at - first_at, cpu_s)
    finally:
        engine.dispose()


def _publish(place: Place, url: str, queue: str, count: int) -> None:
    app = make_app(place.broker_url, queue)
    with app.producer_or_acquire() as producer:
        for no in range(count):
            one = event(no)
            app.send_task(TASK, args=(one.id, f"{url}{one.entity}", one.body.decode()), producer=producer)
    app.close()


def _logged(engine: Engine) -> int:
    with engine.connect() as conn:
        return int(conn.execute(select(func.count()).select_from(log)).scalar_one())
