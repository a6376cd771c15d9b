"""Named places where a test can make the process die, as a power cut would. They do nothing unless one is armed.

`HARI_FAILPOINT=dispatch.committed:3` ends the process by SIGKILL the third time it gets there.
"""

import os
import signal

from shared.errors import SettingsError

POINTS = (
    "relay.taken",
    "relay.confirmed",
    "relay.marked",
    "dispatch.received",
    "dispatch.committed",
    "dispatch.acked",
    "claim.received",
    "claim.committed",
    "turn.committed",
    "attempt.claimed",
    "attempt.sent",
    "record.committed",
    "record.followed",
    "due.committed",
    "park.published",
    "park.mirrored",
    "undertaker.received",
    "undertaker.revived",
)

_armed: dict[str, int] = {}


def arm(setting: str | None) -> None:
    """Arm the one point that `name:n` names; None arms nothing. Raises SettingsError for an unknown one."""
    if not setting:
        return
    name, _, nth = setting.partition(":")
    if name not in POINTS or not (nth or "1").isdigit():
        raise SettingsError(f"HARI_FAILPOINT: {setting!r} is not name:n with a name of {', '.join(POINTS)}")
    _armed[name] = int(nth or 1)


def reach(name: str) -> None:
    """The process is at this place now; returns at once unless the place is armed."""
    if _armed and name in _armed:
        _armed[name] -= 1
        if _armed[name] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
