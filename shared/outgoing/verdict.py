"""Whether a webhook wants an event, and if not, why: what explain and dry run say. Pure."""

from enum import StrEnum

from shared.model import TRIGGERS_OF, Event, Trigger
from shared.outgoing.filters import compile_filter


class Verdict(StrEnum):
    """The words of explain and dry run; a webhook gets the first that holds, in the order `verdict_on` asks."""

    SENT = "sent"
    FILTERED = "filtered"
    INACTIVE = "inactive"
    WRONG_EVENT = "wrong_event"
    LOOP = "loop"


def verdict_on(
    event: Event, *, entity: str, trigger: Trigger, active: bool, filter: object = None
) -> tuple[Verdict, str | None]:
    """(the verdict, the clause of the filter that does not hold). `filter` is the JSON of the settings."""
    if entity != event.entity or trigger not in TRIGGERS_OF[event.change]:
        return Verdict.WRONG_EVENT, None
    if not active:
        return Verdict.INACTIVE, None
    if filter is None:
        return Verdict.SENT, None
    compiled, errors = compile_filter(filter)
    clause = errors[0].detail if compiled is None else compiled.failing(event.payload)
    return (Verdict.SENT, None) if clause is None else (Verdict.FILTERED, clause)
