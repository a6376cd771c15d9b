"""Identifiers. New ones are time-ordered (UUIDv7 layout), so that fresh rows stand together in their index.

No id contains a dot: Standard Webhooks signs `id.timestamp.body`.
"""

import hashlib
import os
import time

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
_SHIFTS = range(120, -1, -10)


def new_id(prefix: str) -> str:
    """`prefix_` and 32 hexadecimal digits: 48 bits of milliseconds, then 80 random bits."""
    return f"{prefix}_{int(time.time() * 1000):012x}{os.urandom(10).hex()}"


def delivery_id(event_id: str, webhook_id: str) -> str:
    """The id of the one delivery of this event to this webhook; the same for ever, on every machine.

    `dlv_` + the first 26 characters of lower-case base32(SHA-256(event id, newline, webhook id)).
    """
    # 26 characters are 130 bits. Ten bits a step: base64.b32encode takes three times as long, for every match made.
    bits = int.from_bytes(hashlib.sha256(f"{event_id}\n{webhook_id}".encode()).digest()[:17]) >> 6
    return "dlv_" + "".join([_PAIRS[(bits >> shift) & 1023] for shift in _SHIFTS])
