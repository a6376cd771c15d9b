"""Passwords as they are stored: scrypt (RFC 7914), its parameters and salt beside the hash. Pure but for the salt."""

import base64
import binascii
import hashlib
import hmac
import os

LOG2_N, R, P = 15, 8, 3  # OWASP's Password Storage Cheat Sheet: 32 MiB, three passes
SALT_BYTES = 16
MOST_MEMORY_BYTES = 128 * 1024 * 1024


def hash_password(password: str) -> str:
    """`scrypt$log2(n)$r$p$salt$hash`; takes about a third of a second of CPU."""
    salt = os.urandom(SALT_BYTES)
    return "$".join(["scrypt", str(LOG2_N), str(R), str(P), _text(salt), _text(_scrypt(password, salt, LOG2_N, R, P))])


def verify_password(password: str, stored: str) -> bool:
    """Whether `stored` was made of this password; as slow as making it."""
    try:
        _, log2_n, r, p, salt, wanted = stored.split("$")
        found = _scrypt(password, base64.b64decode(salt), int(log2_n), int(r), int(p))
        return hmac.compare_digest(found, base64.b64decode(wanted))
    except (ValueError, binascii.Error):
        return False


def _scrypt(password: str, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    given = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(given, salt=salt, n=2**log2_n, r=r, p=p, maxmem=MOST_MEMORY_BYTES, dklen=32)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
