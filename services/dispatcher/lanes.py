"""Who may go now: a process has so many slots, a webhook so many of them at once. In memory, one loop, no locks."""

import asyncio
from collections import Counter


class Lanes:
    """Slots in use, in all and by webhook, and the webhooks that have deliveries waiting for their turn."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._in_use = 0
        self._by_webhook: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self._freed = asyncio.Event()
        self._closed = False
        self.in_turn: set[str] = set()
        """The webhooks whose rows should be pulled as slots come free."""

    @property
    def room(self) -> int:
        return self._slots - self._in_use

    def free(self, webhook_id: str, cap: int) -> int:
        """How many slots this webhook may take now."""
        return max(0, min(self.room, cap - self._by_webhook[webhook_id]))

    def take(self, webhook_id: str, cap: int) -> bool:
        """Take a slot for one attempt of this webhook, if it is below its cap and one is free."""
        if self._in_use >= self._slots or self._by_webhook[webhook_id] >= cap:
            return False
        self._in_use += 1
        self._by_webhook[webhook_id] += 1
        return True

    def give_back(self, webhook_id: str) -> None:
        """A slot taken before is free again."""
        self._in_use -= 1
        left = self._by_webhook[webhook_id] - 1
        if left:
            self._by_webhook[webhook_id] = left
        else:
            del self._by_webhook[webhook_id]
        self._freed.set()
        if self.in_turn:
            self._changed.set()

    def wait_in_turn(self, webhook_id: str) -> None:
        """This webhook has deliveries that wait as rows: pull them when it has a free slot."""
        self.in_turn.add(webhook_id)
        self._changed.set()

    async def changed(self) -> bool:
        """Wait until a slot came free or a webhook began to wait, since the last call; False once closed."""
        await self._changed.wait()
        self._changed.clear()
        return not self._closed

    def close(self) -> None:
        """Whoever waits for a turn stops waiting: no further turns are taken."""
        self._closed = True
        self._changed.set()

    async def wait_for_room(self, worthwhile: int = 1, patience_s: float = 0.0) -> int:
        """Wait until a slot is free, and a little longer for `worthwhile` of them; returns how many are."""
        while self.room <= 0:
            self._freed.clear()
            await self._freed.wait()
        if self.room < worthwhile:
            await asyncio.sleep(patience_s)
        return self.room
