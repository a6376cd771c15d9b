"""Exchanges and queues as data; both adapters declare from it. Pure.

Names carry a version (`wh.v1`) and a wait queue carries its delay, so arguments never change under a name. Why each
argument is there: docs/decisions.md, "Broker topology".
"""

from collections.abc import Sequence
from dataclasses import dataclass

JITTER_LANES = (0.8, 1.0, 1.2)
LONGEST_QUEUED_WAIT_S = 3600
PROBE_MS = 100


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange. What it cannot route goes to `alternate`."""

    name: str
    kind: str
    alternate: str | None = None


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable quorum queue, bound to (exchange, routing key) pairs.

    `ttl_ms`: how long a message stays before it is dead-lettered, for the whole queue (RabbitMQ expires from the head
    only). `dead_letter`: (exchange, routing key), at-least-once. `drop_oldest`: a window for people to look at, which
    forgets; every other queue refuses publishes when it is full.
    """

    name: str
    bindings: tuple[tuple[str, str], ...]
    ttl_ms: int | None = None
    dead_letter: tuple[str, str] | None = None
    delivery_limit: int | None = 20
    max_length: int | None = 500_000
    drop_oldest: bool = False


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything the product has on the broker, and the names the code publishes to and consumes from."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    events_exchange: str
    events: str
    deliver_exchange: str
    deliver: str
    urgent: str
    wait_exchange: str
    terminal_exchange: str
    dead: str
    parked: str
    unrouted: str
    probe_exchange: str
    probe: str
    waits: tuple[tuple[int, str], ...]
    """(delay in ms, queue name), shortest first; routing key on `wait_exchange`: the delay."""


def wait_lanes_ms(waits_s: Sequence[float]) -> tuple[int, ...]:
    """The delays that get a wait queue: each scheduled wait up to an hour, in every jitter lane. Sorted, in ms."""
    lanes = {
        round(wait_s * lane * 1000)
        for wait_s in waits_s
        if 0 < wait_s <= LONGEST_QUEUED_WAIT_S
        for lane in JITTER_LANES
    }
    return tuple(sorted(lanes))


def build(prefix: str, waits_s: Sequence[float]) -> Topology:
    """The topology for this retry schedule (seconds), with `prefix` before every exchange and queue name."""
    events_exchange, unrouted = f"{prefix}hari.events", f"{prefix}hari.unrouted"
    name = f"{prefix}hari.wh.v1"
    deliver_exchange, terminal_exchange, probe_exchange = f"{name}.deliver", f"{name}.dlx", f"{name}.probe"
    wait_exchange = f"{name}.wait"
    to_dead, to_deliver = (terminal_exchange, "dead"), (deliver_exchange, "deliver")
    waits = tuple((ms, f"{name}.wait.{ms}") for ms in wait_lanes_ms(waits_s))
    work = (
        # The second binding is for the undertaker: an event that it publishes afresh must reach this queue alone.
        Queue(f"{name}.events", ((events_exchange, "record.#"), (deliver_exchange, "events")), dead_letter=to_dead),
        Queue(f"{name}.deliver", (to_deliver,), dead_letter=to_dead),
        Queue(f"{name}.urgent", ((deliver_exchange, "urgent"),), dead_letter=to_dead),
    )
    waiting = tuple(
        Queue(queue, ((wait_exchange, str(ms)),), ttl_ms=ms, dead_letter=to_deliver, delivery_limit=None)
        for ms, queue in waits
    )
    ends = (
        Queue(f"{name}.dead", (to_dead,), dead_letter=(terminal_exchange, "parked")),
        Queue(f"{name}.parked", ((terminal_exchange, "parked"),), delivery_limit=None, max_length=None),
        Queue(unrouted, ((unrouted, ""),), delivery_limit=None, max_length=10_000, drop_oldest=True),
    )
    probes = (
        Queue(f"{name}.probe.{PROBE_MS}", ((probe_exchange, "wait"),), PROBE_MS, (probe_exchange, "back"), None, 1_000),
        Queue(
            f"{name}.probe.back",
            ((probe_exchange, "back"),),
            dead_letter=(terminal_exchange, "parked"),
            max_length=1_000,
        ),
    )
    return Topology(
        exchanges=(
            Exchange(unrouted, "fanout"),
            Exchange(events_exchange, "topic", alternate=unrouted),
            Exchange(deliver_exchange, "direct"),
            Exchange(wait_exchange, "direct"),
            Exchange(terminal_exchange, "direct"),
            Exchange(probe_exchange, "direct"),
        ),
        queues=work + waiting + ends + probes,
        events_exchange=events_exchange,
        events=f"{name}.events",
        deliver_exchange=deliver_exchange,
        deliver=f"{name}.deliver",
        urgent=f"{name}.urgent",
        wait_exchange=wait_exchange,
        terminal_exchange=terminal_exchange,
        dead=f"{name}.dead",
        parked=f"{name}.parked",
        unrouted=unrouted,
        probe_exchange=probe_exchange,
        probe=f"{name}.probe.back",
        waits=waits,
    )
