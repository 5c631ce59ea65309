"""Consent notices known to a brand: first given with their wording, later named alone."""

from __future__ import annotations

from sqlalchemy import Connection, select

from prefs.store import dialect
from prefs.store.schema import notices


def known(conn: Connection, brand: str, name: str | None) -> bool:
    if not name:
        return False
    wanted = select(notices.c.name).where(notices.c.brand == brand, notices.c.name == name)
    return conn.execute(wanted).first() is not None


def wording(conn: Connection, brand: str, name: str) -> str | None:
    wanted = select(notices.c.wording).where(notices.c.brand == brand, notices.c.name == name)
    found: str | None = conn.execute(wanted).scalar()
    return found


def keep(conn: Connection, brand: str, name: str, wording: str, now: float) -> None:
    """The first wording of a notice stands; a changed wording needs a name of its own."""
    conn.execute(
        dialect.insert(notices).on_conflict_do_nothing(),
        {"brand": brand, "name": name, "wording": wording, "created_at": now},
    )
