"""Mail that waits to be sent: written with what caused it, sent by the worker."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, delete, func, or_, select, update

from prefs.core.keys import Keyring
from prefs.store.counters import next_numbers
from prefs.store.schema import outbox

_pack = msgspec.msgpack.Encoder().encode
KEEP = 7 * 86400.0


def add(
    conn: Connection,
    keys: Keyring,
    kind: str,
    brand: str | None,
    hash_: bytes | None,
    content: Mapping[str, Any],
    now: float,
) -> int:
    """Queue one mail of this kind to the identifier with this hash."""
    (id_,) = next_numbers(conn, "outbox", 1)
    conn.execute(
        outbox.insert(),
        {
            "id": id_,
            "kind": kind,
            "brand": brand,
            "hash": hash_,
            "body": keys.encrypt(_pack(content), _aad(id_)),
            "state": "waiting",
            "attempts": 0,
            "due_at": now,
            "created_at": now,
        },
    )
    return id_


def _aad(id_: int) -> bytes:
    return b"outbox" + id_.to_bytes(8, "big")


def due(
    conn: Connection, now: float, limit: int = 20, kinds: Collection[str] | None = None
) -> list[Any]:
    """What is to be sent now, of these kinds or of all."""
    wanted = select(outbox).where(outbox.c.state == "waiting", outbox.c.due_at <= now)
    if kinds is not None:
        wanted = wanted.where(outbox.c.kind.in_(sorted(kinds)))
    return list(conn.execute(wanted.order_by(outbox.c.due_at).limit(limit)))


def claim(conn: Connection, row: Any, until: float) -> bool:
    """Take one that is due: no other worker does until then, and then it is due again, should
    nobody settle it. False where another was faster."""
    done = conn.execute(
        update(outbox)
        .where(outbox.c.id == row.id, outbox.c.state == "waiting", outbox.c.due_at == row.due_at)
        .values(due_at=until)
    )
    return done.rowcount == 1


def content(keys: Keyring, row: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.msgpack.decode(keys.decrypt(row.body, _aad(row.id)))
    return found


def settle(conn: Connection, id_: int, state: str, reason: str | None = None) -> None:
    conn.execute(update(outbox).where(outbox.c.id == id_).values(state=state, reason=reason))


def retry(conn: Connection, id_: int, due_at: float, reason: str) -> None:
    conn.execute(
        update(outbox)
        .where(outbox.c.id == id_)
        .values(due_at=due_at, attempts=outbox.c.attempts + 1, reason=reason)
    )


def others_since(conn: Connection, row: Any, since: float, now: float) -> int:
    """Mails of this one's kind that went to its identifier, or are on their way: the daily limits
    count these, by when they were claimed last, for one may have waited long for the server."""
    on_its_way = and_(outbox.c.state == "waiting", outbox.c.due_at > now)
    return int(
        conn.execute(
            select(func.count()).where(
                outbox.c.kind == row.kind,
                outbox.c.brand == row.brand,
                outbox.c.hash == row.hash,
                outbox.c.id != row.id,
                outbox.c.due_at >= since,
                or_(outbox.c.state == "sent", on_its_way),
            )
        ).scalar_one()
    )


def purge(conn: Connection, now: float) -> None:
    conn.execute(
        delete(outbox).where(outbox.c.state != "waiting", outbox.c.created_at < now - KEEP)
    )
