"""Vendor events seen, and webhooks kept as they arrived."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, delete, select, update

from prefs.core.keys import Keyring
from prefs.store import dialect
from prefs.store.counters import next_numbers
from prefs.store.schema import events, inbox

KEEP = 30 * 86400.0
"""Raw payloads are purged after 30 days."""


def first_time(conn: Connection, target: str, event_key: str, now: float) -> bool:
    """True for the first delivery of a vendor event, False for its duplicates."""
    return conn.execute(_KEEP, _row(target, event_key, now)).rowcount == 1


def keep(conn: Connection, target: str, event_keys: Iterable[str], now: float) -> None:
    """All of these were seen."""
    conn.execute(_KEEP, [_row(target, event_key, now) for event_key in event_keys])


_KEEP = dialect.insert(events).on_conflict_do_nothing()


def _row(target: str, event_key: str, now: float) -> dict[str, Any]:
    return {"target": target, "event_key": event_key, "received_at": now}


def known(conn: Connection, target: str, event_key: str) -> bool:
    """Whether this event was seen."""
    wanted = select(events.c.event_key).where(
        events.c.target == target, events.c.event_key == event_key
    )
    return conn.execute(wanted).first() is not None


def keep_raw(
    conn: Connection,
    keys: Keyring,
    target: str,
    raw: bytes,
    now: float,
    *,
    message_id: str | None = None,
) -> int:
    """Keep a webhook's bytes; with `message_id` it stays open until the vendor told its time."""
    (id_,) = next_numbers(conn, "inbox", 1)
    conn.execute(
        inbox.insert(),
        {
            "id": id_,
            "target": target,
            "received_at": now,
            "body": keys.encrypt(raw, _aad(id_)),
            "state": "open" if message_id else "kept",
            "attempts": 0,
            "due_at": now,
            "message_id": message_id,
        },
    )
    return id_


def _aad(id_: int) -> bytes:
    return b"inbox" + id_.to_bytes(8, "big")


def open_raw(conn: Connection, target: str, now: float, limit: int = 50) -> list[Any]:
    return list(
        conn.execute(
            select(inbox)
            .where(inbox.c.target == target, inbox.c.state == "open", inbox.c.due_at <= now)
            .order_by(inbox.c.id)
            .limit(limit)
        )
    )


def read_raw(keys: Keyring, row: Any) -> bytes:
    return keys.decrypt(row.body, _aad(row.id))


def close_raw(conn: Connection, id_: int) -> None:
    conn.execute(update(inbox).where(inbox.c.id == id_).values(state="kept"))


def retry_raw(conn: Connection, id_: int, due_at: float) -> None:
    conn.execute(
        update(inbox).where(inbox.c.id == id_).values(due_at=due_at, attempts=inbox.c.attempts + 1)
    )


def purge(conn: Connection, now: float) -> int:
    """Forget raw payloads and event keys that are past their time."""
    gone = conn.execute(
        delete(inbox).where(inbox.c.state == "kept", inbox.c.received_at < now - KEEP)
    )
    conn.execute(delete(events).where(events.c.received_at < now - KEEP))
    return gone.rowcount
