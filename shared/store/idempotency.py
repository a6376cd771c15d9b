"""What POSTs with an Idempotency-Key were answered. Source: draft-ietf-httpapi-idempotency-key-header."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy import Connection, and_, delete, literal, null, or_, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from shared.errors import Refused
from shared.secrets import SecretBox
from shared.sql import later, now
from shared.tables import idempotency_keys as i

KEPT_S = 86400
LOST_S = 300  # by then a request under way has been answered, or its process is gone
DELETE_MOST = 5000


@dataclass(frozen=True, slots=True)
class Answer:
    """A stored answer."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes


def reserve(conn: Connection, box: SecretBox, caller: str, key: str, request_hash: bytes) -> Answer | None:
    """Take `key` for this request: None when it is ours to make, else what it was answered.

    Raises Refused: 422 when the key came with another request, 409 while the first one is under way.
    """
    into = sqlite_insert if conn.dialect.name == "sqlite" else postgresql_insert
    fresh = {"request_hash": request_hash, "created_at": now(), "status": None, "answer": None}
    lost = and_(i.c.status.is_(None), i.c.created_at < later(literal(-LOST_S)))
    statement = into(i).values(caller=caller, key=key, **fresh)
    statement = statement.on_conflict_do_update(
        index_elements=["caller", "key"],
        set_=fresh | {"status": null(), "answer": null()},
        where=or_(i.c.created_at < later(literal(-KEPT_S)), lost),
    )
    if conn.execute(statement.returning(i.c.key)).one_or_none() is not None:
        return None
    found = conn.execute(select(i).where(i.c.caller == caller, i.c.key == key)).one()
    if bytes(found.request_hash) != request_hash:
        raise Refused("this Idempotency-Key came with another request; take a new one", status=422)
    if found.status is None:
        raise Refused("the first request with this Idempotency-Key is under way; try again in a moment", status=409)
    kept = orjson.loads(box.open(found.answer))
    return Answer(found.status, [(name, value) for name, value in kept["headers"]], kept["body"].encode())


def keep(conn: Connection, box: SecretBox, caller: str, key: str, answer: Answer) -> None:
    """Store what the request was answered."""
    sealed = box.seal(orjson.dumps({"headers": answer.headers, "body": answer.body.decode()}).decode())
    mine = update(i).where(i.c.caller == caller, i.c.key == key, i.c.status.is_(None))
    conn.execute(mine.values(status=answer.status, answer=sealed))


def give_back(conn: Connection, caller: str, key: str) -> None:
    """The request changed nothing: the next one with this key is made afresh."""
    conn.execute(delete(i).where(i.c.caller == caller, i.c.key == key, i.c.status.is_(None)))


def forget_old(conn: Connection) -> None:
    """Delete what is older than a day, a bounded number of rows."""
    old = select(i.c.caller, i.c.key).where(i.c.created_at < later(literal(-KEPT_S))).limit(DELETE_MOST).subquery()
    exact = select(literal(1)).where(old.c.caller == i.c.caller, old.c.key == i.c.key)
    conn.execute(delete(i).where(exact.exists()))
