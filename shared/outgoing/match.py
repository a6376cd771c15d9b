"""Which webhooks want an event. Pure: an index in memory, built from the subscriptions of one version."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from shared.model import TRIGGERS_OF, Event, Subscription, Trigger


@dataclass(frozen=True, slots=True)
class MatchIndex:
    """Active webhooks by (entity, trigger): the cost of a match does not grow with webhooks that do not match."""

    version: int
    wanted: dict[tuple[str, Trigger], list[Subscription]] = field(repr=False)
    caps: dict[str, int] = field(repr=False)
    """Webhook id -> how many of its requests may be in flight in one process."""

    def match(self, event: Event) -> Sequence[Subscription]:
        """The subscriptions that want this event, each once."""
        found: list[Subscription] = []
        for trigger in TRIGGERS_OF[event.change]:
            for subscription in self.wanted.get((event.entity, trigger), ()):
                if subscription.filter is None or subscription.filter.failing(event.payload) is None:
                    found.append(subscription)
        return found


def build_index(version: int, subscriptions: Iterable[Subscription]) -> MatchIndex:
    """The index of these active subscriptions."""
    wanted: dict[tuple[str, Trigger], list[Subscription]] = defaultdict(list)
    caps: dict[str, int] = {}
    for subscription in subscriptions:
        wanted[subscription.entity, subscription.trigger].append(subscription)
        caps[subscription.webhook_id] = subscription.concurrency
    return MatchIndex(version, dict(wanted), caps)
