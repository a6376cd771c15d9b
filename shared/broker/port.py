"""The port every broker adapter fills, and the messages that cross it. Pure types.

All calls are made on the process's event loop and none of them blocks it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from shared.broker.topology import Topology

HeaderValue = str | int | bool | bytes | None  # no float: pika cannot send one


@dataclass(frozen=True, slots=True)
class Message:
    """A message to publish; always persistent, always `mandatory`."""

    exchange: str
    routing_key: str
    body: bytes = field(repr=False)
    message_id: str = ""
    headers: Mapping[str, HeaderValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Received:
    """A message handed to us. Exactly one `ack` ends it; none, and the broker hands it out again."""

    queue: str
    body: bytes = field(repr=False)
    message_id: str
    headers: Mapping[str, object]
    redelivered: bool
    channel_no: int
    """Which opening of the channel delivered it: an ack for an older one is dropped, the broker redelivers anyway."""
    delivery_tag: int


class Consumer(Protocol):
    """One consumer of one queue. Lives through reconnects; messages of a lost channel come again from the broker."""

    async def next_batch(self, most: int, wait_s: float) -> list[Received]:
        """Wait for one message, then at most `wait_s` for more, up to `most`. [] once stopped (and only then)."""
        ...

    def ack(self, batch: Iterable[Received]) -> None:
        """End these messages. May be called in any order; the adapter combines what is contiguous."""
        ...

    async def pause(self) -> None:
        """Take nothing more from the broker until `resume`; what was handed out stays ours, unacked."""
        ...

    async def resume(self) -> None: ...

    async def stop(self) -> None:
        """Stop taking, hand back what `next_batch` has not returned yet; `ack` of what it returned still works."""
        ...


class Broker(Protocol):
    """A connection to the broker that reconnects for ever; open from `start` to `close`."""

    @property
    def connected(self) -> bool:
        """Whether publishing can work right now (False too while the broker blocks us: `connection.blocked`)."""
        ...

    async def start(self) -> None:
        """Begin connecting in the background and return at once; the broker need not be there yet."""
        ...

    async def declare(self, topology: Topology) -> None:
        """Create what `topology` names. Raises SettingsError when something exists with other arguments (names it),
        Unavailable when the broker is away. After a reconnect it is declared again by itself."""
        ...

    async def self_check(self, topology: Topology) -> None:
        """Send a probe through the topology's 100 ms wait queue and see it come back.

        Raises SettingsError when it does not within 5 s: such a broker would lose retries silently.
        """
        ...

    async def publish(self, messages: Sequence[Message]) -> list[str | None]:
        """Publish, and wait for every confirmation: None for a confirmed message, else why not, in the order given.

        Reasons start with one word: `nacked` (queue full), `unroutable` (no queue), `unconfirmed` (no answer in
        10 s or the connection was lost: it may have arrived), `unavailable` (broker away or blocking: not sent).
        Never raises for the broker's trouble.
        """
        ...

    async def consume(self, queue: str, prefetch: int) -> Consumer: ...

    async def depths(self, queues: Sequence[str]) -> dict[str, int]:
        """Ready messages of each queue. Raises Unavailable."""
        ...

    async def close(self) -> None:
        """Stop consumers, send pending acks, close; unacked messages go back to their queues."""
        ...
