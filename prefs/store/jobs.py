"""Long work that a person of a brand started: how far it is, and what came of it.

A running job says every second that it lives; one that fell silent was lost with its process.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from prefs.core.errors import NotFound
from prefs.core.keys import Keyring
from prefs.store.schema import jobs

RUNNING, DONE, FAILED, LOST = "running", "done", "failed", "lost"
SILENT = 60.0
"""Seconds without a sign of life after which a job counts as lost."""
KEPT = 30 * 86400.0

_pack = msgspec.msgpack.Encoder().encode


class Job(NamedTuple):
    id: str
    kind: str
    about: str
    state: str
    done: int
    step: str
    result: Mapping[str, Any] | None
    reason: str | None
    """Why it failed, in words that are safe to show; None for a fault of ours."""
    started_at: float
    ended_at: float | None

    @property
    def running(self) -> bool:
        return self.state == RUNNING


def start(conn: Connection, brand: str, kind: str, about: str, now: float) -> str | None:
    """Returns the id; None while another one of this kind about the same thing runs."""
    if conn.execute(select(jobs.c.id).where(*_same(brand, kind, about), *_alive(now))).first():
        return None
    id_ = secrets.token_hex(8)
    conn.execute(
        insert(jobs),
        {
            "id": id_,
            "brand": brand,
            "kind": kind,
            "about": about,
            "state": RUNNING,
            "done": 0,
            "step": "",
            "started_at": now,
            "beat_at": now,
        },
    )
    return id_


def _same(brand: str, kind: str, about: str) -> tuple[ColumnElement[bool], ...]:
    return jobs.c.brand == brand, jobs.c.kind == kind, jobs.c.about == about


def _alive(now: float) -> tuple[ColumnElement[bool], ...]:
    return jobs.c.state == RUNNING, jobs.c.beat_at > now - SILENT


def beat(conn: Connection, id_: str, done: int, step: str, now: float) -> None:
    conn.execute(update(jobs).where(jobs.c.id == id_).values(done=done, step=step, beat_at=now))


def end(
    conn: Connection,
    keys: Keyring,
    id_: str,
    now: float,
    *,
    result: Mapping[str, Any] | None = None,
    reason: str | None = None,
) -> None:
    """With a result it is done, without one it failed."""
    body = None if result is None else keys.encrypt(_pack(result), _aad(id_))
    state = FAILED if result is None else DONE
    values = {"state": state, "result": body, "reason": reason, "ended_at": now}
    conn.execute(update(jobs).where(jobs.c.id == id_).values(**values))


def _aad(id_: str) -> bytes:
    return b"job" + id_.encode()


def _job(keys: Keyring, row: Any, now: float) -> Job:
    result = msgspec.msgpack.decode(keys.decrypt(row.result, _aad(row.id))) if row.result else None
    lost = row.state == RUNNING and row.beat_at <= now - SILENT
    return Job(
        row.id,
        row.kind,
        row.about,
        LOST if lost else row.state,
        row.done,
        row.step,
        result,
        row.reason,
        row.started_at,
        row.ended_at,
    )


def one(conn: Connection, keys: Keyring, brand: str, id_: str, now: float) -> Job:
    """Raises NotFound, also for another brand's."""
    row = conn.execute(select(jobs).where(jobs.c.id == id_, jobs.c.brand == brand)).first()
    if row is None:
        raise NotFound("there is no such job")
    return _job(keys, row, now)


class Pair(NamedTuple):
    """The newest job, and the newest that has a result; often the same."""

    newest: Job | None
    done: Job | None

    @property
    def running(self) -> Job | None:
        return self.newest if self.newest and self.newest.running else None


def latest(conn: Connection, keys: Keyring, brand: str, kind: str, about: str, now: float) -> Pair:
    wanted = select(jobs).where(*_same(brand, kind, about))
    wanted = wanted.order_by(jobs.c.started_at.desc()).limit(1)
    newest = conn.execute(wanted).first()
    done = conn.execute(wanted.where(jobs.c.state == DONE)).first()
    return Pair(*(_job(keys, row, now) if row else None for row in (newest, done)))


def forget(conn: Connection, brand: str, id_: str) -> None:
    conn.execute(delete(jobs).where(jobs.c.id == id_, jobs.c.brand == brand))


def purge(conn: Connection, now: float) -> None:
    conn.execute(delete(jobs).where(jobs.c.started_at < now - KEPT))
