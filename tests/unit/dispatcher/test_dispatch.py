"""Planning, without a database."""

from dataclasses import replace

from services.dispatcher.dispatch import first_of_each, plan
from services.dispatcher.lanes import Lanes
from shared.clock import utcnow
from shared.model import Actor, Change, Event, Subscription, Trigger
from shared.outgoing.match import build_index
from shared.wire import new_event


def an_event(event_id: str = "evt_1", change: Change = Change.CREATED, entity: str = "Deal") -> Event:
    record = {"id": "rec_1", "version": 1}
    return new_event(
        event_id=event_id, change=change, entity=entity, record=record, timestamp=utcnow(), user=Actor("u", "U")
    )


def subscriptions(*wanted: tuple[str, Trigger]) -> list[Subscription]:
    return [Subscription(f"wh_{n}", entity, trigger, 1) for n, (entity, trigger) in enumerate(wanted)]


def test_a_create_fires_save_and_create_an_update_save_and_update_a_delete_only_delete() -> None:
    index = build_index(1, subscriptions(*(("Deal", trigger) for trigger in Trigger)))
    fired = {change: {found.trigger for found in index.match(an_event(change=change))} for change in Change}
    assert fired == {
        Change.CREATED: {Trigger.SAVE, Trigger.CREATE},
        Change.UPDATED: {Trigger.SAVE, Trigger.UPDATE},
        Change.DELETED: {Trigger.DELETE},
    }


def test_another_entity_matches_nothing() -> None:
    index = build_index(1, subscriptions(("Deal", Trigger.SAVE)))
    assert list(index.match(an_event(entity="Contact"))) == []


def test_a_second_match_of_a_webhook_at_its_cap_gets_no_slot() -> None:
    index = build_index(1, subscriptions(("Deal", Trigger.SAVE)))
    planned = plan([an_event("evt_1"), an_event("evt_2")], index, Lanes(8))
    assert [found.claim for found in planned] == [True, False]


def test_a_repeat_in_one_batch_is_dropped_and_a_conflict_named() -> None:
    event = an_event()
    other = replace(event, body=b"{}")
    assert first_of_each([event, event, other]) == ([event], [other])
