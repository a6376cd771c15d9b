"""Outgoing webhooks: their settings, encrypted secrets, and the version that tells dispatchers to look again.

Every change raises the row `webhooks` of `versions` in its own transaction.
"""

import base64
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, lru_cache
from typing import Any

import orjson
from sqlalchemy import Connection, Executable, and_, case, insert, literal, null, select, update

from shared.errors import Refused, SettingsError
from shared.ids import new_id
from shared.model import HARI, Format, Json, Subscription, Trigger, Webhook
from shared.outgoing.filters import Filter, compile_filter
from shared.outgoing.presets import MOST_FORMER, change_format
from shared.secrets import SecretBox
from shared.signing import SECRET_PREFIX
from shared.sql import Rows, Text, later, now
from shared.store import deliveries
from shared.store.formats import format_of, former_formats, former_text
from shared.store.paging import After, AnyRow, Page, newest_first, page_of
from shared.tables import versions
from shared.tables import webhooks as w

DEACTIVATED = "the webhook was deactivated"
DELETED = "the webhook was deleted"
MOST_NAMED = 5
_VERSION_ROW = "webhooks"
_CURRENT = w.c.deleted_at.is_(None)
_COLUMNS = (
    *(w.c.id, w.c.name, w.c.entity, w.c.event, w.c.url, w.c.active, w.c.version, w.c.created_at, w.c.timeout_s),
    *(w.c.concurrency, w.c.headers, w.c.filter, w.c.secret, w.c.deactivated_reason, w.c.deleted_at),
    *(w.c.preset, w.c.template, w.c.former_formats, w.c.redirect),
    case((w.c.old_secret_until > now(), w.c.old_secret), else_=null()).label("old_secret"),
)


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """What an admin fills in, already checked."""

    name: str
    entity: str
    trigger: Trigger
    url: str
    secret: str | None = field(default=None, repr=False)
    active: bool = True
    timeout_s: int = 15
    concurrency: int = 16
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    filter: Json | None = None
    preset: str = HARI.preset
    template: Any = None
    redirect: str | None = None


def new_secret() -> str:
    """A Standard Webhooks secret: `whsec_` and 256 random bits."""
    return SECRET_PREFIX + base64.b64encode(os.urandom(32)).decode()


def create(conn: Connection, box: SecretBox, new: NewWebhook) -> Webhook:
    """Store a webhook and return it. Raises Refused when preset and template do not fit each other."""
    form = _changed_format(HARI, {"preset": new.preset, "template": new.template})
    row = {
        "id": new_id("wh"),
        "name": new.name,
        "entity": new.entity,
        "event": new.trigger.value,
        "url": new.url,
        "active": new.active,
        "secret": _seal(box, new.secret),
        "headers": _seal_headers(box, new.headers),
        "filter": _filter_text(new.filter),
        "preset": form.preset,
        "template": form.template,
        "redirect": new.redirect,
        "timeout_s": new.timeout_s,
        "concurrency": new.concurrency,
        "version": 1,
        "created_at": now(),
        "updated_at": now(),
    }
    webhook = _webhook(box, conn.execute(insert(w).values(row).returning(*_COLUMNS)).one())
    _raise_version(conn)
    return webhook


def get(conn: Connection, box: SecretBox, webhook_id: str) -> Webhook | None:
    """The webhook; None when it is unknown or deleted."""
    found = conn.execute(select(*_COLUMNS).where(w.c.id == webhook_id, _CURRENT)).one_or_none()
    return None if found is None else _webhook(box, found)


def newest(
    conn: Connection,
    box: SecretBox,
    *,
    limit: int,
    after: After | None = None,
    entity: str | None = None,
    trigger: Trigger | None = None,
) -> Page[Webhook]:
    """Webhooks that are not deleted, newest first."""
    statement = select(*_COLUMNS).where(_CURRENT)
    if entity is not None:
        statement = statement.where(w.c.entity == entity)
    if trigger is not None:
        statement = statement.where(w.c.event == trigger.value)
    page = newest_first(statement, w.c.created_at, w.c.id, limit=limit, after=after)
    return page_of(conn.execute(page).all(), limit, lambda row: _webhook(box, row))


def change(
    conn: Connection, box: SecretBox, webhook_id: str, changes: Mapping[str, Any], *, if_version: int | None = None
) -> Webhook | None:
    """Set these attributes (names of NewWebhook); None when there is no such webhook.

    A new secret replaces the old one at once, None removes it: `rotate_secret` is the one that overlaps. Deactivating
    cancels what waits; another preset or template counts for deliveries made from now on. Raises Refused with status
    412 when the webhook is not at `if_version`, and when preset and template do not fit each other.
    """
    before = _lock(conn, box, webhook_id, if_version)
    if before is None:
        return None
    row: dict[str, Any] = {
        key: changes[key]
        for key in changes
        if key not in ("trigger", "secret", "headers", "filter", "preset", "template")
    }
    form = _changed_format(before.format, changes)
    if form != before.format:
        at: datetime = conn.execute(select(now())).scalar_one()
        former = (*before.former_formats, (at, before.format))[-MOST_FORMER:]
        row |= {"preset": form.preset, "template": form.template, "former_formats": former_text(former)}
    if "trigger" in changes:
        row["event"] = changes["trigger"].value
    if "headers" in changes:
        row["headers"] = _seal_headers(box, changes["headers"])
    if "filter" in changes:
        row["filter"] = _filter_text(changes["filter"])
    if "secret" in changes:
        row |= {"secret": _seal(box, changes["secret"]), "old_secret": None, "old_secret_until": None}
    if "active" in changes:
        row["deactivated_reason"] = None  # the reasons of this column are the system's
    changed = _write(conn, box, webhook_id, row)
    if before.active and not changed.active:
        deliveries.cancel_waiting(conn, webhook_id, DEACTIVATED)
    _raise_version(conn)
    return changed


def delete(conn: Connection, box: SecretBox, webhook_id: str, *, if_version: int | None = None) -> bool:
    """Delete a webhook and cancel what waits; its deliveries stay readable. False when there is no such webhook."""
    if _lock(conn, box, webhook_id, if_version) is None:
        return False
    # Nobody needs these secrets again: POSTs in flight have theirs, and nothing more will be sent.
    nothing = {"secret": None, "old_secret": None, "old_secret_until": None, "headers": None}
    _write(conn, box, webhook_id, nothing | {"deleted_at": now(), "active": False})
    deliveries.cancel_waiting(conn, webhook_id, DELETED)
    _raise_version(conn)
    return True


def rotate_secret(conn: Connection, box: SecretBox, webhook_id: str, secret: str, overlap_s: int) -> Webhook | None:
    """Make `secret` the one that is sent and signs first; None when there is no such webhook.

    The one before it signs too for `overlap_s` seconds more. At most two are live: a still older one ends now.
    """
    if _lock(conn, box, webhook_id, None) is None:
        return None
    kept = {"old_secret": w.c.secret, "old_secret_until": later(literal(overlap_s))}
    gone = {"old_secret": None, "old_secret_until": None}
    rotated = _write(conn, box, webhook_id, {"secret": _seal(box, secret)} | (kept if overlap_s > 0 else gone))
    _raise_version(conn)
    return rotated


def deactivate_gone(conn: Connection, webhook_id: str, url: str, reason: str) -> bool:
    """Deactivate a webhook whose endpoint at `url` wants nothing any more; False if it has another URL by now."""
    same = and_(w.c.id == webhook_id, w.c.url == url, w.c.active, _CURRENT)
    row = {"active": False, "deactivated_reason": reason, "version": w.c.version + 1, "updated_at": now()}
    if conn.execute(update(w).where(same).values(row)).rowcount == 0:
        return False
    deliveries.cancel_waiting(conn, webhook_id, f"{DEACTIVATED}: {reason}")
    _raise_version(conn)
    return True


_IDS = Rows("ids", id=Text)


@cache
def _load(dialect: str) -> Executable:
    ids = _IDS.table(dialect)
    return select(*_COLUMNS).join(ids, ids.c.id == w.c.id)


def load(conn: Connection, box: SecretBox, ids: Collection[str]) -> dict[str, Webhook]:
    """These webhooks with their secrets in clear, deleted ones included; one statement.

    Unknown ids are left out, and webhooks with a secret that no key opens.
    """
    dialect = conn.dialect.name
    rows = conn.execute(_load(dialect), _IDS.params(dialect, [(webhook_id,) for webhook_id in sorted(set(ids))]))
    found = {}
    for row in rows:
        with suppress(SettingsError):
            found[row.id] = _webhook(box, row)
    return found


def check_secrets(conn: Connection, box: SecretBox) -> None:
    """Open every stored secret once. Raises SettingsError that names the webhooks whose secrets no key opens."""
    unreadable = []
    for row in conn.execute(select(*_COLUMNS).where(_CURRENT).order_by(w.c.created_at)):
        try:
            _webhook(box, row)
        except SettingsError:
            unreadable.append(f"{row.name} ({row.id})")
    if unreadable:
        more = f" and {len(unreadable) - MOST_NAMED} more" if len(unreadable) > MOST_NAMED else ""
        raise SettingsError(
            f"HARI_SECRET_KEYS: no key in it opens the stored secrets of webhook {', '.join(unreadable[:MOST_NAMED])}"
            f"{more}; add the key that they were written with to the end of the list"
        )


def subscriptions(conn: Connection) -> tuple[int, list[Subscription]]:
    """(version, what every active webhook subscribes to).

    The version is read first: a change between the two reads makes the list newer than its number, and the next look
    at the number reloads it.
    """
    at = version(conn)
    columns = (w.c.id, w.c.entity, w.c.event, w.c.concurrency, w.c.filter)
    rows = conn.execute(select(*columns).where(w.c.active, _CURRENT))
    return at, [
        Subscription(row.id, row.entity, Trigger(row.event), row.concurrency, _compiled(row.id, row.filter))
        for row in rows
    ]


def version(conn: Connection) -> int:
    """How often webhooks have changed."""
    found: int = conn.execute(select(versions.c.value).where(versions.c.name == _VERSION_ROW)).scalar_one()
    return found


def _raise_version(conn: Connection) -> None:
    # Last in its transaction: every change to webhooks takes turns on this row.
    conn.execute(update(versions).where(versions.c.name == _VERSION_ROW).values(value=versions.c.value + 1))


def _lock(conn: Connection, box: SecretBox, webhook_id: str, if_version: int | None) -> Webhook | None:
    statement = select(*_COLUMNS).where(w.c.id == webhook_id, _CURRENT)
    if conn.dialect.name == "postgresql":
        statement = statement.with_for_update()
    found = conn.execute(statement).one_or_none()
    if found is not None and if_version is not None and found.version != if_version:
        raise Refused(f"the webhook is at version {found.version}, not {if_version}", status=412)
    return None if found is None else _webhook(box, found)


def _write(conn: Connection, box: SecretBox, webhook_id: str, row: Mapping[str, Any]) -> Webhook:
    values = dict(row) | {"version": w.c.version + 1, "updated_at": now()}
    return _webhook(box, conn.execute(update(w).where(w.c.id == webhook_id).values(values).returning(*_COLUMNS)).one())


# Every batch loads its webhooks, and a row that has not changed gives the same one.
@lru_cache(maxsize=10_000)
def _webhook(box: SecretBox, row: AnyRow) -> Webhook:
    return Webhook(
        id=row.id,
        name=row.name,
        entity=row.entity,
        trigger=Trigger(row.event),
        url=row.url,
        active=row.active,
        version=row.version,
        created_at=row.created_at,
        timeout_s=row.timeout_s,
        concurrency=row.concurrency,
        headers=orjson.loads(box.open(row.headers)) if row.headers is not None else {},
        filter=orjson.loads(row.filter) if row.filter is not None else None,
        format=format_of(row.preset, row.template),
        former_formats=former_formats(row.former_formats),
        redirect=row.redirect,
        secret=box.open(row.secret) if row.secret is not None else None,
        old_secret=box.open(row.old_secret) if row.old_secret is not None else None,
        deactivated_reason=row.deactivated_reason,
        deleted=row.deleted_at is not None,
    )


def _filter_text(given: Json | None) -> str | None:
    return None if given is None else orjson.dumps(given).decode()


def _changed_format(before: Format, changes: Mapping[str, Any]) -> Format:
    if "preset" not in changes and "template" not in changes:
        return before
    form, errors = change_format(before, changes.get("preset"), changes.get("template", ...))
    if errors:
        raise Refused("preset and template do not fit each other", errors=errors)
    return form


def _compiled(webhook_id: str, text: str | None) -> Filter | None:
    if text is None:
        return None
    compiled, errors = compile_filter(orjson.loads(text))
    if compiled is None:  # it was checked when it was saved: only another version's dialect comes here
        raise SettingsError(f"the filter of {webhook_id} cannot be read by this version: {errors[0].detail}")
    return compiled


def _seal(box: SecretBox, secret: str | None) -> bytes | None:
    return None if secret is None else box.seal(secret)


def _seal_headers(box: SecretBox, headers: Mapping[str, str]) -> bytes | None:
    return box.seal(orjson.dumps(dict(headers)).decode()) if headers else None
