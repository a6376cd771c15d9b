"""Standard Webhooks 1.0.0: sign and verify over `id.timestamp.body`. Pure.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import hmac
from collections.abc import Iterable
from functools import lru_cache

from shared.errors import Refused

SECRET_PREFIX = "whsec_"  # noqa: S105 - a prefix, no secret
SIGNATURE_PREFIX = "v1,"
TOLERANCE_S = 300


@lru_cache(maxsize=4096)
def key_of(secret: str) -> bytes:
    """The HMAC key: what a `whsec_` secret encodes, the UTF-8 bytes of any other.

    Raises ValueError when the rest of a `whsec_` secret is not base64.
    """
    if secret.startswith(SECRET_PREFIX):
        return base64.b64decode(secret[len(SECRET_PREFIX) :], validate=True)
    return secret.encode()


def sign(key: bytes, message_id: str, timestamp_s: int, body: bytes) -> str:
    """One entry of `webhook-signature`: "v1," and the base64 of the HMAC-SHA256."""
    digest = hmac.digest(key, b"%s.%d.%s" % (message_id.encode(), timestamp_s, body), "sha256")
    return SIGNATURE_PREFIX + base64.b64encode(digest).decode()


def verify(
    keys: Iterable[bytes],
    message_id: str,
    timestamp: str,
    body: bytes,
    signatures: str,
    *,
    now_s: float,
    tolerance_s: float = TOLERANCE_S,
) -> None:
    """Return if one of `signatures` (a whole header value) was made with one of `keys` at a time close to `now_s`.

    Raises Refused (401) otherwise. Every key meets every signature, whichever fits: the time taken says nothing.
    """
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 15):
        raise Refused("webhook-timestamp must be whole Unix seconds", status=401)
    if abs(now_s - int(timestamp)) > tolerance_s:
        raise Refused(f"webhook-timestamp is more than {tolerance_s:g} s away from now", status=401)
    given = [entry.encode() for entry in signatures.split(" ") if entry.startswith(SIGNATURE_PREFIX)]
    expected = [sign(key, message_id, int(timestamp), body).encode() for key in keys]
    hits = [hmac.compare_digest(one, other) for one in expected for other in given]
    if not any(hits):
        raise Refused("no signature in webhook-signature fits this body and secret", status=401)
