"""How far an import came: kept in the transaction of each chunk, as a job of its brand."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, select, update

from prefs.store import dialect
from prefs.store.jobs import DONE, RUNNING
from prefs.store.schema import jobs

KIND = "import"


class Position(NamedTuple):
    """Of one file at one brand. `offset` is in bytes of the file; `rejected` rows of those done
    take `kept` bytes of the file that they are written to."""

    rows: int = 0
    offset: int = 0
    rejected: int = 0
    kept: int = 0


def position(conn: Connection, brand: str, digest: str) -> Position | None:
    """None for a file that was never begun."""
    step = conn.execute(select(jobs.c.step).where(jobs.c.id == _id(brand, digest))).scalar()
    return None if step is None else msgspec.json.decode(step, type=Position)


def begin(conn: Connection, brand: str, digest: str, at: Position, now: float) -> None:
    """Of two that begin at once one goes on: `move` says which."""
    row: dict[str, Any] = {"id": _id(brand, digest), "brand": brand, "kind": KIND, "about": digest}
    row |= {"state": RUNNING, "done": at.rows, "step": _text(at), "started_at": now, "beat_at": now}
    conn.execute(dialect.insert(jobs).on_conflict_do_nothing(), row)


def move(
    conn: Connection, brand: str, digest: str, old: Position, new: Position, now: float
) -> bool:
    """False, and nothing done, where it is not at `old`: another one imports the same file."""
    same = (jobs.c.id == _id(brand, digest), jobs.c.step == _text(old))
    values = {"done": new.rows, "step": _text(new), "beat_at": now}
    return conn.execute(update(jobs).where(*same).values(**values)).rowcount == 1


def end(conn: Connection, brand: str, digest: str, now: float) -> None:
    own = jobs.c.id == _id(brand, digest)
    conn.execute(update(jobs).where(own).values(state=DONE, ended_at=now))


def _id(brand: str, digest: str) -> str:
    return f"{KIND} {brand} {digest}"


def _text(at: Position) -> str:
    return msgspec.json.encode(at).decode()
