"""Work that waits for a person of the clinic."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    String,
    cast,
    delete,
    exists,
    func,
    literal,
    select,
    update,
)

from prefs.core.keys import Keyring
from prefs.core.propagation import UNNAMED
from prefs.core.words import Kind
from prefs.store import marks, subjects
from prefs.store.counters import next_numbers
from prefs.store.events import keep
from prefs.store.schema import OPEN, events, tasks

KEEP = 2 * 365 * 86400.0
"""Seconds that a closed task is kept: it names people, and shows how they were answered."""
WORKING_DAYS = 2
"""Until a change or a question for staff is due."""

TOLD = "task "
"""Among events, before a task's id: that the owner was told of it."""

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


def due_at(now: float) -> float:
    """The end of the second working day after now."""
    day, left = datetime.fromtimestamp(now, UTC), WORKING_DAYS
    while left:
        day += timedelta(days=1)
        left -= day.weekday() < 5
    return day.replace(hour=17, minute=0, second=0, microsecond=0).timestamp()


def person(conn: Connection, keys: Keyring, target: str, subject_id: int) -> dict[str, str]:
    """Whom a task is about, as staff find them at a target."""
    known = subjects.identifiers_of(conn, [subject_id], keys).get(subject_id, [])
    found = {one.kind: one.spelling or "" for one in reversed(known)}
    there = marks.vendor_ids(conn, target, [one.hash for one in known], present=True)
    ids = [id_ for some in there.values() for id_ in some if not id_.startswith(UNNAMED)]
    names = [one.name for one in subjects.by_ids(conn, [subject_id]) if one.name]
    first, _, last = (names[0] if names else "").strip().rpartition(" ")
    return {
        "first_name": first or last,
        "last_name": last if first else "",
        "email": found.get(Kind.EMAIL, ""),
        "mobile": found.get(Kind.PHONE, ""),
        "customer_id": next(iter(ids), ""),
    }


def _aad(id_: int) -> bytes:
    return b"task" + id_.to_bytes(8, "big")


def listed(
    conn: Connection, brand: str, state: str | None, kind: str | None, most: int | None = 500
) -> list[Any]:
    """What is due first stands first."""
    wanted = select(tasks).where(tasks.c.brand == brand)
    if state:
        wanted = wanted.where(tasks.c.state == state)
    if kind:
        wanted = wanted.where(tasks.c.kind == kind)
    return list(conn.execute(wanted.order_by(tasks.c.due_at, tasks.c.id).limit(most)))


def page(
    conn: Connection, brand: str, kinds: Collection[str], *, is_open: bool, first: int, size: int
) -> list[Any]:
    """A part of the open ones, what is due first, or of the settled ones, the latest first."""
    wanted = select(tasks).where(*_of(brand, is_open=is_open), tasks.c.kind.in_(sorted(kinds)))
    order = (tasks.c.due_at, tasks.c.id) if is_open else (tasks.c.closed_at.desc(), tasks.c.id)
    return list(conn.execute(wanted.order_by(*order).offset(first).limit(size)))


def _of(brand: str, *, is_open: bool) -> tuple[ColumnElement[bool], ...]:
    return tasks.c.brand == brand, (tasks.c.state == "open") == is_open


def counts(conn: Connection, brand: str, *, is_open: bool) -> dict[str, int]:
    """How many of each kind."""
    wanted = select(tasks.c.kind, func.count()).where(*_of(brand, is_open=is_open))
    rows = conn.execute(wanted.group_by(tasks.c.kind))
    return {row[0]: row[1] for row in rows}


def count_open(conn: Connection, brand: str) -> int:
    wanted = select(func.count()).where(tasks.c.brand == brand, tasks.c.state == "open")
    return int(conn.execute(wanted).scalar_one())


def one(conn: Connection, brand: str, id_: int) -> Any | None:
    return conn.execute(select(tasks).where(tasks.c.brand == brand, tasks.c.id == id_)).first()


def of_subject(conn: Connection, brand: str, kind: str, subject_id: int) -> list[Any]:
    """The newest first."""
    wanted = select(tasks).where(
        tasks.c.brand == brand, tasks.c.kind == kind, tasks.c.subject_id == subject_id
    )
    return list(conn.execute(wanted.order_by(tasks.c.id.desc())))


def open_of(
    conn: Connection, brand: str, kinds: Collection[str], subject_ids: Collection[int]
) -> list[Any]:
    """Open tasks of these kinds about these people."""
    wanted = select(tasks).where(
        tasks.c.subject_id.in_(sorted(subject_ids)),
        tasks.c.kind.in_(sorted(kinds)),
        tasks.c.brand == brand,
        tasks.c.state == "open",
    )
    return list(conn.execute(wanted))


def open_about(conn: Connection, keys: Keyring, brand: str, kind: str, **said: Any) -> list[Any]:
    """Open tasks of a kind whose body says this; for kinds of which few are open at once."""
    wanted = select(tasks).where(
        tasks.c.brand == brand, tasks.c.kind == kind, tasks.c.state == "open"
    )
    return [row for row in conn.execute(wanted) if said.items() <= body(keys, row).items()]


def open_past(conn: Connection, brand: str, kind: str, now: float) -> list[Any]:
    """Open tasks of a kind that are past their due time."""
    wanted = select(tasks).where(
        tasks.c.brand == brand,
        tasks.c.state == "open",
        tasks.c.due_at < now,
        tasks.c.kind == kind,
    )
    return list(conn.execute(wanted))


def opened_since(conn: Connection, kinds: Collection[str], since: float) -> list[Any]:
    """Open tasks of these kinds, of any brand."""
    return list(conn.execute(_opened_since(kinds, since).order_by(tasks.c.id)))


def _opened_since(kinds: Collection[str], since: float) -> Select[Any]:
    recent = (OPEN, tasks.c.created_at >= since, tasks.c.kind.in_(sorted(kinds)))
    return select(tasks).where(*recent)


def untold(conn: Connection, kinds: Collection[str], since: float) -> list[Any]:
    """Of these, the ones that the owner was not told of."""
    event_key = literal(TOLD) + cast(tasks.c.id, String)
    told = exists().where(events.c.target == tasks.c.brand, events.c.event_key == event_key)
    return list(conn.execute(_opened_since(kinds, since).where(~told).order_by(tasks.c.id)))


def tell(conn: Connection, brand: str, ids: Iterable[int], now: float) -> None:
    """The owner is told of these; at least one."""
    keep(conn, brand, [f"{TOLD}{id_}" for id_ in ids], now)


def body(keys: Keyring, row: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.msgpack.decode(keys.decrypt(row.body, _aad(row.id)))
    return found


def rewrite(conn: Connection, keys: Keyring, id_: int, body: Mapping[str, Any]) -> None:
    """More is known of what an open task is about."""
    packed = keys.encrypt(_pack(body), _aad(id_))
    conn.execute(update(tasks).where(tasks.c.id == id_).values(body=packed))


def settle(
    conn: Connection, keys: Keyring, id_: int, state: str, body: Mapping[str, Any], now: float
) -> None:
    conn.execute(
        update(tasks)
        .where(tasks.c.id == id_)
        .values(state=state, body=keys.encrypt(_pack(body), _aad(id_)), closed_at=now)
    )


def purge(conn: Connection, now: float) -> None:
    conn.execute(delete(tasks).where(tasks.c.state != "open", tasks.c.closed_at < now - KEEP))
