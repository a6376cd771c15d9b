"""Users and their sessions. Of a session only the SHA-256 of its token is stored, of a password its scrypt hash."""

import hashlib
import secrets
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, literal, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from shared.ids import new_id
from shared.model import Role
from shared.sql import later, now
from shared.tables import sessions as s
from shared.tables import users as u

FIRST_USER = "admin"
SESSION_S = 12 * 3600


@dataclass(frozen=True, slots=True)
class User:
    """A person. `id` and `name` are the user of a change."""

    id: str
    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class Session:
    """A live session, its user, and the sealed notice that waits for the next page."""

    user: User
    notice: bytes | None


def create(conn: Connection, name: str, password_hash: str, role: Role) -> User | None:
    """Store a user; None when the name is taken."""
    insert_new = sqlite_insert if conn.dialect.name == "sqlite" else postgresql_insert
    user = User(new_id("usr"), name, role)
    row = {"id": user.id, "name": name, "password": password_hash, "role": role.value}
    statement = insert_new(u).values(created_at=now(), **row).on_conflict_do_nothing(index_elements=["name"])
    return user if conn.execute(statement.returning(u.c.id)).one_or_none() is not None else None


def count(conn: Connection) -> int:
    found: int = conn.execute(select(func.count()).select_from(u)).scalar_one()
    return found


def by_name(conn: Connection, name: str) -> tuple[User, str] | None:
    """(the user of this name, the password's hash)."""
    found = conn.execute(select(u.c.id, u.c.name, u.c.role, u.c.password).where(u.c.name == name)).one_or_none()
    return None if found is None else (User(found.id, found.name, Role(found.role)), found.password)


def set_password(conn: Connection, user_id: str, password_hash: str) -> None:
    """Another password; every session of this user ends."""
    conn.execute(update(u).where(u.c.id == user_id).values(password=password_hash))
    conn.execute(delete(s).where(s.c.user_id == user_id))


def hash_of(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def start_session(conn: Connection, user_id: str) -> str:
    """The token of a new session, which nobody can read back from here. Sweeps out expired ones."""
    conn.execute(delete(s).where(s.c.expires_at <= now()))
    token = secrets.token_urlsafe(32)
    row = {"token_hash": hash_of(token), "user_id": user_id, "expires_at": later(literal(SESSION_S))}
    conn.execute(insert(s).values(row))
    return token


def session(conn: Connection, token: str) -> Session | None:
    """The session of this token, unless it is unknown or has expired."""
    live = select(u.c.id, u.c.name, u.c.role, s.c.notice).join_from(s, u, u.c.id == s.c.user_id)
    found = conn.execute(live.where(s.c.token_hash == hash_of(token), s.c.expires_at > now())).one_or_none()
    return None if found is None else Session(User(found.id, found.name, Role(found.role)), found.notice)


def end_session(conn: Connection, token: str) -> None:
    conn.execute(delete(s).where(s.c.token_hash == hash_of(token)))


def leave_notice(conn: Connection, token: str, notice: bytes | None) -> None:
    """What the next page of this session shows once; None takes it away."""
    conn.execute(update(s).where(s.c.token_hash == hash_of(token)).values(notice=notice))
