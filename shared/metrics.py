"""Every metric, declared once: prefix `hari_`, base units, bounded labels (never a URL or a webhook)."""

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]


class BatchHistogram(Histogram):
    """A histogram that takes many values at once: `observe` for every attempt was a twentieth of its cost."""

    def observe_many(self, values: Iterable[float]) -> None:
        """As `observe` of each; only without labels."""
        counts: Counts[int] = Counts()
        total = 0.0
        for value in values:
            counts[bisect_left(self._upper_bounds, value)] += 1
            total += value
        for at, count in counts.items():
            self._buckets[at].inc(count)
        self._sum.inc(total)


_DELIVERY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30)

events_published = Counter("hari_events_published_total", "Events handed to the broker and confirmed.")
outbox_pending = Gauge("hari_outbox_pending", "Events committed and not yet published.")
outbox_oldest_age = Gauge("hari_outbox_oldest_age_seconds", "Age of the oldest event not yet published.")
events_dispatched = Counter("hari_events_dispatched_total", "Events matched and written as deliveries.", ["matched"])
messages_parked = Counter(
    "hari_messages_parked_total", "Messages that could not be used, by the queue they came from.", ["queue"]
)
attempts = Counter("hari_delivery_attempts_total", "HTTP requests made, by what they met.", ["outcome", "status_class"])
attempt_duration = BatchHistogram(
    "hari_delivery_duration_seconds", "Time of one HTTP request.", buckets=_DELIVERY_BUCKETS
)
first_attempt_lag = BatchHistogram(
    "hari_event_to_first_attempt_seconds",
    "From the change to the start of its first attempt.",
    buckets=_DELIVERY_BUCKETS,
)
in_flight = Gauge("hari_deliveries_in_flight", "HTTP requests under way in this process.")
retries_scheduled = Counter("hari_retry_scheduled_total", "Retries scheduled, by where they wait.", ["via"])
deliveries_dead = Counter("hari_dead_lettered_total", "Deliveries given up, by reason.", ["reason"])
claims_expired = Counter("hari_claims_expired_total", "Claims closed as unknown because their lease was over.")
tasks_republished = Counter("hari_tasks_republished_total", "Due rows whose task was published by housekeeping.")
events_republished = Counter("hari_events_republished_total", "Overdue events given back to the relay.")
webhooks_deactivated = Counter(
    "hari_webhooks_deactivated_total", "Webhooks deactivated by the system, by reason.", ["reason"]
)
queue_messages = Gauge("hari_queue_messages", "Ready messages by queue (seen by the housekeeping leader).", ["queue"])
housekeeping_leader = Gauge("hari_housekeeping_leader", "1 while this dispatcher runs housekeeping.")
relay_active = Gauge("hari_relay_active", "1 while this relay holds the lock and publishes.")
broker_connected = Gauge("hari_broker_connected", "1 while this process can publish.")
http_requests = Counter(
    "hari_http_requests_total", "API requests, by method and status class.", ["method", "status_class"]
)


def status_class(status: int | None) -> str:
    """`2xx` .. `5xx`, or `none`."""
    return "none" if status is None else f"{status // 100}xx"
