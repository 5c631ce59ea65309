"""Work that waits for a person of the clinic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, select, update

from prefs.core.keys import Keyring
from prefs.store.counters import next_numbers
from prefs.store.schema import tasks

_pack = msgspec.msgpack.Encoder().encode


def add(
    conn: Connection,
    keys: Keyring,
    brand: str,
    kind: str,
    subject_id: int | None,
    body: Mapping[str, Any],
    now: float,
    due_at: float,
) -> int:
    (id_,) = next_numbers(conn, "task", 1)
    conn.execute(
        tasks.insert(),
        {
            "id": id_,
            "brand": brand,
            "kind": kind,
            "subject_id": subject_id,
            "state": "open",
            "body": keys.encrypt(_pack(body), _aad(id_)),
            "created_at": now,
            "due_at": due_at,
        },
    )
    return id_


def _aad(id_: int) -> bytes:
    return b"task" + id_.to_bytes(8, "big")


def listed(conn: Connection, brand: str, state: str | None, kind: str | None) -> list[Any]:
    wanted = select(tasks).where(tasks.c.brand == brand)
    if state:
        wanted = wanted.where(tasks.c.state == state)
    if kind:
        wanted = wanted.where(tasks.c.kind == kind)
    return list(conn.execute(wanted.order_by(tasks.c.due_at, tasks.c.id).limit(500)))


def one(conn: Connection, brand: str, id_: int) -> Any | None:
    return conn.execute(select(tasks).where(tasks.c.brand == brand, tasks.c.id == id_)).first()


def of_subject(conn: Connection, brand: str, kind: str, subject_id: int) -> list[Any]:
    """The newest first."""
    wanted = select(tasks).where(
        tasks.c.brand == brand, tasks.c.kind == kind, tasks.c.subject_id == subject_id
    )
    return list(conn.execute(wanted.order_by(tasks.c.id.desc())))


def body(keys: Keyring, row: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.msgpack.decode(keys.decrypt(row.body, _aad(row.id)))
    return found


def settle(
    conn: Connection, keys: Keyring, id_: int, state: str, body: Mapping[str, Any], now: float
) -> None:
    conn.execute(
        update(tasks)
        .where(tasks.c.id == id_)
        .values(state=state, body=keys.encrypt(_pack(body), _aad(id_)), closed_at=now)
    )
