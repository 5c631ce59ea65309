"""API keys, and answers kept for a repeated request."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from prefs.store.schema import api_keys, idempotency

SCOPES = ("check", "write", "staff", "rights", "admin")
ANSWERS_KEPT = 7 * 86400.0


class ApiKey(NamedTuple):
    id: str
    brand: str
    scopes: frozenset[str]


def add_key(conn: Connection, brand: str, scopes: list[str], now: float) -> tuple[str, str]:
    """Make a key; returns its id and the key itself, which is kept as a hash only."""
    id_ = secrets.token_hex(8)
    key = f"prefs_{id_}_{secrets.token_urlsafe(32)}"
    conn.execute(
        insert(api_keys),
        {
            "id": id_,
            "hash": _hash(key),
            "brand": brand,
            "scopes": ",".join(scopes),
            "created_at": now,
        },
    )
    return id_, key


def _hash(key: str) -> bytes:
    """The key holds 256 random bits, so a plain hash cannot be guessed back."""
    return hashlib.sha256(key.encode()).digest()


def find_key(conn: Connection, key: str) -> ApiKey | None:
    parts = key.split("_", 2)
    if len(parts) != 3 or parts[0] != "prefs":
        return None
    row = conn.execute(
        select(api_keys).where(api_keys.c.id == parts[1], api_keys.c.revoked_at.is_(None))
    ).first()
    if row is None or not hmac.compare_digest(row.hash, _hash(key)):
        return None
    return ApiKey(row.id, row.brand, frozenset(row.scopes.split(",")))


def list_keys(conn: Connection, brand: str | None = None) -> list[Any]:
    wanted = select(api_keys).order_by(api_keys.c.created_at)
    return list(conn.execute(wanted if brand is None else wanted.where(api_keys.c.brand == brand)))


def revoke_key(conn: Connection, id_: str, now: float, brand: str | None = None) -> bool:
    """False for one that is unknown, revoked before, or another brand's."""
    wanted = update(api_keys).where(api_keys.c.id == id_, api_keys.c.revoked_at.is_(None))
    if brand is not None:
        wanted = wanted.where(api_keys.c.brand == brand)
    return conn.execute(wanted.values(revoked_at=now)).rowcount == 1


class Kept(NamedTuple):
    body_hash: bytes
    answer: bytes


def kept_answer(conn: Connection, api_key: str, key: str, now: float) -> Kept | None:
    row = conn.execute(
        select(idempotency.c.body_hash, idempotency.c.answer).where(
            idempotency.c.api_key == api_key,
            idempotency.c.key == key,
            idempotency.c.created_at > now - ANSWERS_KEPT,
        )
    ).first()
    return Kept(row.body_hash, row.answer) if row else None


def keep_answer(
    conn: Connection, api_key: str, key: str, body_hash: bytes, answer: bytes, now: float
) -> None:
    """A parallel twin that was first makes this fail: its answer is the one."""
    old = idempotency.c.created_at <= now - ANSWERS_KEPT
    conn.execute(
        delete(idempotency).where(idempotency.c.api_key == api_key, idempotency.c.key == key, old)
    )
    conn.execute(
        insert(idempotency),
        {
            "api_key": api_key,
            "key": key,
            "body_hash": body_hash,
            "answer": answer,
            "created_at": now,
        },
    )


def purge_answers(conn: Connection, now: float) -> None:
    conn.execute(delete(idempotency).where(idempotency.c.created_at < now - ANSWERS_KEPT))
