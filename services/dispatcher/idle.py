"""Kept connections that the other side has closed, found before they are used. Asks the kernel, changes nothing."""

import select
import time

IDLE_S = 60
"""A connection that was kept for longer is not used again."""
MOST_CHECKED = 64


class IdleConnections:
    """Which descriptors libcurl keeps for later, so that they can be looked at before they are used.

    libcurl looks only once a second whether the other side has closed, and a POST on a dead connection has failed:
    nobody can say whether it was read. Servers that close after 5 s are common.
    """

    def __init__(self) -> None:
        self._since: dict[str, dict[int, float]] = {}
        self._place_of: dict[int, str] = {}

    def note(self, fd: int, place: str) -> None:
        """`fd`, unless it is -1, is kept for `place` from now on."""
        if fd >= 0:
            self.forget(fd)
            self._since.setdefault(place, {})[fd] = time.monotonic()
            self._place_of[fd] = place

    def forget(self, fd: int) -> None:
        """`fd` is in use again."""
        place = self._place_of.pop(fd, None)
        if place is not None:
            del self._since[place][fd]
            if not self._since[place]:
                del self._since[place]

    def has_dead(self, place: str) -> bool:
        """Has the other side closed one of those kept for `place`?

        libcurl closes without telling, so a descriptor may stand for something else by now: the worst that follows is
        a connection too many.
        """
        since = self._since.get(place)
        if not since or len(since) > MOST_CHECKED:
            return False
        poll = select.poll()
        for fd in since:
            poll.register(fd, select.POLLIN)
        found = poll.poll(0)
        oldest = time.monotonic() - IDLE_S
        for fd, event in found:
            if event & select.POLLNVAL or since[fd] < oldest:
                self.forget(fd)
        return bool(found)
