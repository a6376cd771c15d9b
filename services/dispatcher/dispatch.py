"""Step 1: a batch of events -> a delivery row for every match, first attempts claimed, in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from services.dispatcher.claim import hold_unreadable
from services.dispatcher.lanes import Lanes
from shared.ids import delivery_id
from shared.model import Event, Subscription, Webhook
from shared.outgoing.match import MatchIndex
from shared.secrets import SecretBox
from shared.store import deliveries, outbox, webhooks
from shared.store.deliveries import Match
from shared.wire import body_hash

CONFLICT = "an event with this id is known with another body"


@dataclass(frozen=True, slots=True)
class Planned:
    """A delivery that the index wants: `claim` when a slot was taken for it."""

    delivery_id: str
    event: Event
    subscription: Subscription
    claim: bool


@dataclass(frozen=True, slots=True)
class Dispatched:
    """What the transaction wrote: ids created, webhooks of the claimed ones; events refused for `CONFLICT`."""

    created: Mapping[str, Match]
    webhooks: Mapping[str, Webhook]
    refused: Sequence[Event]
    matched: int
    unmatched: int


def first_of_each(events: Sequence[Event]) -> tuple[list[Event], list[Event]]:
    """(events with each id once, those that repeat an id of the batch with another body). A plain repeat is dropped."""
    first: dict[str, Event] = {}
    conflicting = []
    for event in events:
        if first.setdefault(event.id, event).body != event.body:
            conflicting.append(event)
    return list(first.values()), conflicting


def plan(events: Sequence[Event], index: MatchIndex, lanes: Lanes) -> list[Planned]:
    """The deliveries of these events, with a slot taken for as many as may go now."""
    return [
        Planned(
            delivery_id(event.id, wanted.webhook_id), event, wanted, lanes.take(wanted.webhook_id, wanted.concurrency)
        )
        for event in events
        for wanted in index.match(event)
    ]


def dispatch(
    conn: Connection, box: SecretBox, events: Sequence[Event], planned: Sequence[Planned], lease_s: float | None
) -> Dispatched:
    """Write the planned deliveries of every event that is new, and mark those events dispatched.

    An event dispatched before is not matched again. The same id with another body is refused. What came over the
    broker without a row in the outbox gets one here: from this commit on the promise holds for it too.
    """
    by_id = {event.id: event for event in events}
    if len(by_id) < len(events):
        raise ValueError("each event once: planning takes a slot for every match of every event given")
    known = outbox.lock_known(conn, by_id)
    if len(known) < len(by_id):
        outbox.append(conn, [event for event in by_id.values() if event.id not in known], published=True)
        known = outbox.lock_known(conn, by_id)
    foul = {event.id for event in events if known[event.id].body_hash != body_hash(event.body)}
    fresh = {event_id for event_id in by_id if not known[event_id].dispatched and event_id not in foul}
    wanted = {
        p.delivery_id: Match(known[p.event.id].event_day, p.delivery_id, p.subscription.webhook_id, p.event.id, p.claim)
        for p in planned
        if p.event.id in fresh
    }
    created = deliveries.insert_matches(conn, list(wanted.values()), lease_s) if wanted else set()
    if fresh:
        outbox.mark_dispatched(conn, [known[event_id].seq for event_id in fresh])
    claimed = {wanted[found].webhook_id for found in created if wanted[found].claim}
    hooks = webhooks.load(conn, box, claimed) if claimed else {}
    if len(hooks) < len(claimed):
        firsts = [
            (m.event_day, m.delivery_id, 1, m.webhook_id)
            for m in wanted.values()
            if m.delivery_id in created and m.claim
        ]
        for held in hold_unreadable(conn, firsts, hooks):
            wanted[held] = wanted[held]._replace(claim=False)
    matched = len({match.event_id for match in wanted.values()})
    return Dispatched(
        created={found: wanted[found] for found in created},
        webhooks=hooks,
        refused=[by_id[event_id] for event_id in sorted(foul)],
        matched=matched,
        unmatched=len(fresh) - matched,
    )
