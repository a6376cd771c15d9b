"""Secrets at rest: encrypted with a list of keys, newest first; any of them decrypts. Pure but for the random IV."""

import os
from functools import lru_cache
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from shared.errors import SettingsError


class SecretBox:
    """Encrypts with the first key, decrypts with every one (MultiFernet: AES-128-CBC and HMAC-SHA256)."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except ValueError as error:
            raise SettingsError(f"HARI_SECRET_KEYS: {error}. Make one with: hari new-secret-key") from None
        # Every attempt needs its webhook's secret; the same ciphertext always opens to the same text.
        self.open = lru_cache(maxsize=10_000)(self._open)

    def seal(self, text: str) -> bytes:
        """The ciphertext of `text`."""
        return self._fernet.encrypt(text.encode())

    def _open(self, sealed: bytes) -> str:
        try:
            return self._fernet.decrypt(sealed).decode()
        except InvalidToken:
            raise SettingsError(
                "a stored secret cannot be decrypted: HARI_SECRET_KEYS lacks the key it was written with"
            ) from None


def new_key() -> str:
    """A fresh key for HARI_SECRET_KEYS."""
    return Fernet.generate_key().decode()


def local_keys(data_dir: Path) -> tuple[str, ...]:
    """The key kept in the embedded data directory, made on the first call and readable by its owner only."""
    path = data_dir / "secret.key"
    if not path.exists():
        unfinished = data_dir / "secret.key.new"  # renamed when whole: a crash must not leave an empty key behind
        unfinished.touch(mode=0o600)
        with unfinished.open("w") as file:
            file.write(new_key())
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    return tuple(path.read_text().split())
