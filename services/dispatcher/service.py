"""The dispatcher as a service: wires the steps, runs them until told to stop, and stops in good order."""

import asyncio
from collections.abc import Awaitable, Callable

from services.dispatcher.housekeeping import Housekeeper, close_claims
from services.dispatcher.lanes import Lanes
from services.dispatcher.parking import Parking
from services.dispatcher.pipeline import Pipeline
from services.dispatcher.record import Recorder
from services.dispatcher.resolve import Resolver
from services.dispatcher.send import Sender
from services.dispatcher.subscriptions import Subscriptions
from services.dispatcher.undertaker import Undertaker
from shared import metrics
from shared.assembly import VERSION, Parts
from shared.broker.port import Consumer
from shared.errors import Unavailable
from shared.ids import new_id
from shared.logs import logger
from shared.patience import Patience
from shared.store import deliveries, webhooks

EVENTS_PREFETCH, TASKS_PREFETCH, URGENT_PREFETCH, DEAD_PREFETCH = 500, 500, 32, 50
STALE_CHECK_S = 1.0
_log = logger("hari.dispatcher")


async def serve(parts: Parts, stop: asyncio.Event, ready: Callable[[], None] = lambda: None) -> None:
    """Run one dispatcher until `stop` is set: take no new work, finish what is in flight, record it, return."""
    settings = parts.settings
    consumers: list[Consumer] = []
    patience = Patience(lambda trouble: _hold(consumers, trouble))
    lanes = Lanes(settings.slots)
    metrics.in_flight.set_function(lambda: settings.slots - lanes.room)
    recorder = Recorder(parts.database, parts.broker, parts.topology, patience, settings.reconcile_after_s)
    parking = Parking(parts.database, parts.broker, parts.topology, Patience())
    subscriptions = Subscriptions(parts.database, parts.wakeups)
    ca_file = str(settings.ca_file) if settings.ca_file else None
    sender = Sender(resolve=Resolver(), rules=parts.rules, ca_file=ca_file)
    names = frozenset(parts.entities)
    pipeline = Pipeline(
        database=parts.database,
        box=parts.box,
        lanes=lanes,
        recorder=recorder,
        parking=parking,
        patience=patience,
        send=sender.send,
        index=subscriptions.index,
        refresh=subscriptions.refresh,
        entities=names,
        waits_s=settings.retry_schedule,
        lease_s=settings.claim_lease_s,
        version=VERSION,
    )
    housekeeper = Housekeeper(
        parts.database,
        parts.broker,
        parts.topology,
        process_id=new_id("prc"),
        waits_s=settings.retry_schedule,
        lease_s=settings.claim_lease_s,
        reconcile_after_s=settings.reconcile_after_s,
    )
    undertaker = Undertaker(parts.database, parts.broker, parts.topology, parking, names)

    await Patience()(parts.broker.declare, parts.topology)
    await Patience()(parts.broker.self_check, parts.topology)
    await Patience()(subscriptions.load)
    await Patience()(parts.database.run, webhooks.check_secrets, parts.box)
    if settings.embedded:
        # The data directory's lock proves that every owner of a claim is dead.
        while (closed := await parts.database.run(close_claims, settings.retry_schedule, every=True)).closed:
            await housekeeper.announce(closed)
    # What an earlier process left waiting goes on now, not when housekeeping gets to it.
    for webhook_id in await Patience()(parts.database.run, deliveries.webhooks_in_turn):
        lanes.wait_in_turn(webhook_id)
    topology = parts.topology
    events = await parts.broker.consume(topology.events, EVENTS_PREFETCH)
    tasks = await parts.broker.consume(topology.deliver, TASKS_PREFETCH)
    urgent = await parts.broker.consume(topology.urgent, URGENT_PREFETCH)
    dead = await parts.broker.consume(topology.dead, DEAD_PREFETCH)
    consumers += [events, tasks, urgent, dead]
    steps = [
        asyncio.create_task(step, name=name)
        for name, step in (
            ("dispatch", pipeline.dispatch_events(events)),
            ("claim", pipeline.claim_tasks(tasks)),
            ("claim-urgent", pipeline.claim_tasks(urgent, urgent=True)),
            ("turns", pipeline.take_turns()),
            ("undertaker", undertaker.run(dead)),
        )
    ]
    background = [
        asyncio.create_task(work, name=name)
        for name, work in (
            ("subscriptions", subscriptions.run()),
            ("housekeeping", housekeeper.run()),
            ("freshness", _watch(subscriptions, events)),
        )
    ]
    recording = asyncio.create_task(recorder.run(), name="record")
    _log.info("dispatcher.started", slots=settings.slots)
    ready()
    try:
        await _until(stop, [*steps, *background, recording])
    finally:
        await asyncio.gather(*(consumer.stop() for consumer in consumers), return_exceptions=True)
        lanes.close()
        await asyncio.gather(*steps, return_exceptions=True)  # a claim that has committed is also started
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await pipeline.finish_attempts()
        recorder.close()
        await recording
        await sender.close()
        try:
            await housekeeper.resign()
        except Unavailable:
            _log.info("dispatcher.lease_kept", reason="the database is away; the lease runs out by itself")
        _log.info("dispatcher.stopped")


async def _until(stop: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Until `stop`, or until one of the tasks ends, which none should: its error is raised then."""
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    for task in done - {stopping}:
        task.result()
        raise RuntimeError(f"the step {task.get_name()} ended by itself")


async def _hold(consumers: list[Consumer], trouble: bool) -> None:
    """Database away: take nothing more, hold what is here. Back: go on."""
    calls: list[Awaitable[None]] = [consumer.pause() if trouble else consumer.resume() for consumer in consumers]
    await asyncio.gather(*calls)


async def _watch(subscriptions: Subscriptions, events: Consumer) -> None:
    """Stop consuming events while the match index is too old to trust."""
    paused = False
    while True:
        await asyncio.sleep(STALE_CHECK_S)
        if subscriptions.stale != paused:
            paused = subscriptions.stale
            await (events.pause() if paused else events.resume())
            _log.warning("dispatcher.match_index", stale=paused)
