"""API keys: only their SHA-256 is stored, with a few first characters to recognise one by. Keys have 256 random bits,
so a fast hash gives nothing away."""

import hashlib
import secrets
from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from shared.clock import rfc3339
from shared.ids import new_id
from shared.model import Json, Role
from shared.sql import now
from shared.store.paging import After, AnyRow, Page, newest_first, page_of
from shared.tables import api_keys as k
from shared.tables import versions

PREFIX_LENGTH = 9  # "hari_" and four characters


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as others may see it. Over it, `id` and `name` are the user of a change."""

    id: str
    name: str
    prefix: str
    role: Role = Role.ADMIN


def new_key() -> str:
    """`hari_` and 256 random bits."""
    return "hari_" + secrets.token_urlsafe(32)


def hash_of(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def create(conn: Connection, name: str, key: str, role: Role = Role.ADMIN) -> ApiKey:
    """Store `key`, which nobody can read back from here."""
    row = {"id": new_id("key"), "name": name, "prefix": key[:PREFIX_LENGTH]}
    conn.execute(insert(k).values(key_hash=hash_of(key), role=role.value, created_at=now(), **row))
    return ApiKey(**row, role=role)


def newest(conn: Connection, *, limit: int, after: After | None = None) -> Page[Json]:
    """Keys as the API lists them, revoked ones included, newest first."""
    columns = (k.c.id, k.c.name, k.c.prefix, k.c.role, k.c.created_at, k.c.revoked_at)
    statement = newest_first(select(*columns), k.c.created_at, k.c.id, limit=limit, after=after)
    return page_of(conn.execute(statement).all(), limit, _listed)


def _listed(row: AnyRow) -> Json:
    shown: Json = {"id": row.id, "name": row.name, "role": row.role, "prefix": row.prefix}
    shown["created_at"] = rfc3339(row.created_at)
    return shown if row.revoked_at is None else shown | {"revoked_at": rfc3339(row.revoked_at)}


def find(conn: Connection, key_hash: bytes) -> ApiKey | None:
    """The key with this hash, unless it is unknown or revoked."""
    columns = (k.c.id, k.c.name, k.c.prefix, k.c.role)
    found = conn.execute(select(*columns).where(k.c.key_hash == key_hash, k.c.revoked_at.is_(None))).one_or_none()
    return None if found is None else ApiKey(found.id, found.name, found.prefix, Role(found.role))


def lock_admins(conn: Connection) -> list[str]:
    """The ids of the live keys of admins, locked until the transaction ends, so that two cannot revoke each other."""
    living = select(k.c.id).where(k.c.role == Role.ADMIN.value, k.c.revoked_at.is_(None)).order_by(k.c.id)
    return list(conn.execute(living.with_for_update() if conn.dialect.name == "postgresql" else living).scalars())


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
        row = {"id": new_id("key"), "name": "bootstrap", "prefix": given[:PREFIX_LENGTH], "role": Role.ADMIN.value}
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
