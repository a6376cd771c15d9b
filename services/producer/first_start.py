"""What a new installation needs before anybody can use it: an API key and an admin, printed once when made here."""

import asyncio
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from shared.assembly import Parts
from shared.errors import Unavailable
from shared.logs import logger
from shared.model import Role
from shared.passwords import hash_password, verify_password
from shared.settings import KEY_FILE
from shared.store import api_keys, users
from shared.store.users import FIRST_USER

AGAIN_S = 1.0
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  not bound to here: no browser can open them
_log = logger("hari.producer")


async def first_start(parts: Parts) -> None:
    """See to it that there are an API key and an admin. Waits while the database is away."""
    await _first_key(parts)
    await _first_admin(parts)


async def _first_key(parts: Parts) -> None:
    given = parts.settings.bootstrap_api_key
    made = await _patiently(parts, api_keys.ensure_first, given.get_secret_value() if given is not None else None)
    if made is None:
        return
    note = ""
    if parts.settings.embedded:
        path = parts.settings.data_dir / KEY_FILE
        _write_private(path, made + "\n")
        note = f" (the hari command finds it in {path})"
    _say(f"your first API key, shown only now: {made}{note}")


async def _first_admin(parts: Parts) -> None:
    given = parts.settings.admin_password
    made = await _patiently(parts, ensure_admin, given.get_secret_value() if given is not None else None)
    if made is not None:
        host, port = parts.settings.producer_bind
        host = "127.0.0.1" if host in EVERYWHERE else host
        where = parts.settings.public_url or f"http://{host}:{port}"
        _say(f"sign in at {where} as {FIRST_USER} with this password, shown only now: {made}")


def ensure_admin(conn: Connection, given: str | None) -> str | None:
    """See to it that there is a user, `admin`, with the `given` password, or a new one when there was no user at all.

    Returns a password that was made here. A given one that differs from the stored one takes its place: the way back
    in for who lost it.
    """
    if given is None:
        if users.count(conn) > 0:
            return None
        password = secrets.token_urlsafe(18)
        return password if users.create(conn, FIRST_USER, hash_password(password), Role.ADMIN) is not None else None
    found = users.by_name(conn, FIRST_USER)
    if found is None:
        users.create(conn, FIRST_USER, hash_password(given), Role.ADMIN)
    elif not verify_password(given, found[1]):
        users.set_password(conn, found[0].id, hash_password(given))
    return None


async def _patiently(parts: Parts, work: Callable[[Connection, str | None], str | None], given: str | None) -> Any:
    while True:
        try:
            return await parts.database.run(work, given)
        except Unavailable as error:
            _log.warning("producer.waiting", reason=str(error))
            await asyncio.sleep(AGAIN_S)


def _say(text: str) -> None:
    print(f"hari: {text}", file=sys.stderr, flush=True)  # noqa: T201 - its output is for a person


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
