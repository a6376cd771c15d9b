"""API keys: only their SHA-256 is stored, with a few first characters to recognise one by. Keys have 256 random bits,
so a fast hash gives nothing away."""

import hashlib
import secrets
from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from shared.ids import new_id
from shared.sql import now
from shared.tables import api_keys as k
from shared.tables import versions

PREFIX_LENGTH = 9  # "hari_" and four characters


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as others may see it. Over it, `id` and `name` are the user of a change."""

    id: str
    name: str
    prefix: str


def new_key() -> str:
    """`hari_` and 256 random bits."""
    return "hari_" + secrets.token_urlsafe(32)


def hash_of(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def create(conn: Connection, name: str, key: str) -> ApiKey:
    """Store `key`, which nobody can read back from here."""
    row = {"id": new_id("key"), "name": name, "prefix": key[:PREFIX_LENGTH]}
    conn.execute(insert(k).values(key_hash=hash_of(key), created_at=now(), **row))
    return ApiKey(**row)


def find(conn: Connection, key_hash: bytes) -> ApiKey | None:
    """The key with this hash, unless it is unknown or revoked."""
    statement = select(k.c.id, k.c.name, k.c.prefix).where(k.c.key_hash == key_hash, k.c.revoked_at.is_(None))
    found = conn.execute(statement).one_or_none()
    return None if found is None else ApiKey(*found)


def revoke(conn: Connection, key_id: str) -> bool:
    """End a key; False when there is no such live one."""
    live = update(k).where(k.c.id == key_id, k.c.revoked_at.is_(None))
    return conn.execute(live.values(revoked_at=now())).rowcount > 0


def ensure_first(conn: Connection, given: str | None) -> str | None:
    """See to it that there is a key: the `given` one, or a new one when none was ever made.

    Returns a key that was made here, to be shown once; never one that was given. Any number of processes may call it.
    """
    if given is not None:
        insert_new = sqlite_insert if conn.dialect.name == "sqlite" else postgresql_insert
        row = {"id": new_id("key"), "name": "bootstrap", "prefix": given[:PREFIX_LENGTH]}
        statement = insert_new(k).values(key_hash=hash_of(given), created_at=now(), **row)
        conn.execute(statement.on_conflict_do_nothing(index_elements=["key_hash"]))
        return None
    if conn.dialect.name == "postgresql":
        conn.execute(select(versions.c.value).with_for_update())  # two first starts take turns here
    if conn.execute(select(func.count()).select_from(k)).scalar_one() > 0:
        return None
    key = new_key()
    create(conn, "first key", key)
    return key
