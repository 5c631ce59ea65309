"""Outs that no person said, gathered by run, so that a fault of a machine can be held and taken
back.

A batch lasts while its origin goes on without a pause. It counts at once in `check`, and goes out
to other systems GATHER after the last of it, or after the end of the walk that finds it. Above its
limit it waits for a person, or for HELD_FOR.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, exists, func, insert, or_, select, update

from prefs.core.errors import NotFound
from prefs.core.words import PERSONAL, Channel, Choice, Source
from prefs.store import dialect
from prefs.store.counters import next_numbers
from prefs.store.hot import Statement
from prefs.store.marks import count_records
from prefs.store.schema import batches, ledger, marks, subjects

BATCHES = 0x62617463
"""The kind of lock of a batch's name ("batc")."""
PAUSE = 600.0
"""Seconds without an out of its origin that end a batch."""
GATHER = 10.0
"""Seconds after an out until it goes out, if no more come: were it the first of a flood, nobody
could tell yet."""
HELD_FOR = 4 * 3600.0
FEW = 50
SHARE = 0.05
OPEN, WAITING, RELEASED, RETRACTED = "open", "waiting", "released", "retracted"


class Batch(NamedTuple):
    id: int
    brand: str
    origin: str
    state: str
    opened_at: float
    last_at: float
    outs: int
    most: int | None
    due_at: float | None

    @property
    def label(self) -> str:
        return f"b_{self.id}"


_NEWEST = Statement(
    select(batches)
    .where(
        batches.c.brand == bindparam("brand"),
        batches.c.origin == bindparam("origin"),
        batches.c.last_at >= bindparam("since"),
        batches.c.state != RETRACTED,
    )
    .order_by(batches.c.last_at.desc())
    .limit(1)
)
_GROW = Statement(
    update(batches)
    .where(batches.c.id == bindparam("of"))
    .values(
        outs=bindparam("new_outs"), last_at=bindparam("now"), opened_at=bindparam("new_opened_at")
    )
)


def join(conn: Connection, brand: str, origin: str, now: float) -> Batch:
    """The batch that an out of this origin belongs to."""
    found = _going_on(conn, brand, origin, now)
    if found:
        return found
    (id_,) = next_numbers(conn, "batch", 1)
    made = Batch(id_, brand, origin, OPEN, now, now, 0, None, None)
    conn.execute(insert(batches), made._asdict())
    return made


def _going_on(conn: Connection, brand: str, origin: str, now: float) -> Batch | None:
    """Whoever else counts into it waits: who knew the old count too would write it again."""
    dialect.lock(conn, BATCHES, f"{brand} {origin}")
    found = _NEWEST.run(conn, {"brand": brand, "origin": origin, "since": now - PAUSE})
    return Batch(*found[0]) if found else None


def grow(
    conn: Connection, batch: Batch, by: int, now: float, *, holds: bool, walking: bool
) -> Batch:
    """Count outs into it; one that `holds` waits: for more, and past its limit for a person. Who
    came in here by another clock, or waited to, may be older than it was: it holds them too."""
    count, opened_at = batch.outs + by, min(batch.opened_at, now)
    row = {"of": batch.id, "new_outs": count, "now": now, "new_opened_at": opened_at}
    _GROW.run_many(conn, [row])
    batch = batch._replace(outs=count, opened_at=opened_at)
    if not holds or batch.state != OPEN:
        return batch
    if count > FEW and batch.most is None:
        batch = _set(conn, batch, most=_limit(conn, batch))
    if batch.most is not None and count > batch.most:
        return _set(conn, batch, state=WAITING, due_at=now + HELD_FOR)
    wait = PAUSE if walking else GATHER
    late_enough = batch.due_at is not None and batch.due_at >= now + wait / 2
    return batch if late_enough else _put_off(conn, batch, now + wait)


def walked(conn: Connection, brand: str, origin: str, due_at: float) -> None:
    """A walk is over: what it found goes out then, if it was no flood."""
    batch = _going_on(conn, brand, origin, due_at)
    if batch and batch.state == OPEN and batch.due_at is not None and batch.due_at > due_at:
        _put_off(conn, batch, due_at)


def _put_off(conn: Connection, batch: Batch, due_at: float) -> Batch:
    """Its marks wait together."""
    if batch.due_at is not None:
        waiting = (marks.c.subject_id.in_(_people(batch)), marks.c.due_at == batch.due_at)
        conn.execute(update(marks).where(*waiting).values(due_at=due_at))
    return _set(conn, batch, due_at=due_at)


def _limit(conn: Connection, batch: Batch) -> int:
    """Fifty, or one in twenty of what the origin holds."""
    known = count_records(conn, batch.origin)
    if not known:
        known = conn.execute(select(func.count()).select_from(subjects)).scalar_one()
    return max(FEW, int(known * SHARE))


def _set(conn: Connection, batch: Batch, **values: Any) -> Batch:
    conn.execute(update(batches).where(batches.c.id == batch.id).values(**values))
    return batch._replace(**values)


def by_label(conn: Connection, label: str) -> Batch:
    """Raises NotFound."""
    digits = label.removeprefix("b_")
    row = None
    if label.startswith("b_") and digits.isascii() and digits.isdigit() and len(digits) < 19:
        row = conn.execute(select(batches).where(batches.c.id == int(digits))).first()
    if row is None:
        raise NotFound("there is no such batch")
    return Batch(*row)


def listed(conn: Connection, brand: str | None = None, limit: int = 50) -> list[Batch]:
    """The newest first, those that took nothing in left out."""
    wanted = select(batches).where(batches.c.outs > 0)
    if brand is not None:
        wanted = wanted.where(batches.c.brand == brand)
    rows = conn.execute(wanted.order_by(batches.c.id.desc()).limit(limit))
    return [Batch(*row) for row in rows]


def rows_of(conn: Connection, batch: Batch, after: int, limit: int) -> list[Any]:
    """Ledger rows of its outs, by subject: those of up to `limit` subjects past `after`."""
    of_batch = (ledger.c.batch == batch.label, ledger.c.kind == "choice")
    out = ledger.c.choice == Choice.OUT.value
    ids = (
        select(ledger.c.subject_id)
        .where(*of_batch, out, ledger.c.subject_id > after)
        .distinct()
        .order_by(ledger.c.subject_id)
        .limit(limit)
    )
    wanted = select(ledger).where(*of_batch, out, ledger.c.subject_id.in_(ids))
    return list(conn.execute(wanted.order_by(ledger.c.subject_id, ledger.c.revision)))


def rows_of_one(conn: Connection, batch: Batch, subject_id: int) -> list[Any]:
    """Ledger rows of the outs that it brought one subject."""
    wanted = select(ledger).where(
        ledger.c.batch == batch.label,
        ledger.c.kind == "choice",
        ledger.c.choice == Choice.OUT.value,
        ledger.c.subject_id == subject_id,
    )
    return list(conn.execute(wanted.order_by(ledger.c.revision)))


# --- what it holds back ------------------------------------------------------------------------


def hold(conn: Connection, batch: Batch, target: str, channels: Iterable[Channel]) -> None:
    """A target's marks of its people wait until it is due, but not of those who ever said out
    themselves or through staff on one of the target's channels, or said anything there since it
    began."""
    spoke = and_(
        ledger.c.source.in_(_strings([*PERSONAL, Source.STAFF])),
        ledger.c.channel.in_(_strings(channels)),
    )
    since = or_(ledger.c.choice == Choice.OUT.value, ledger.c.received_at >= batch.opened_at)
    conn.execute(
        update(marks)
        .where(
            marks.c.subject_id.in_(_people(batch)),
            marks.c.target == target,
            ~exists().where(ledger.c.subject_id == marks.c.subject_id, spoke, since),
            marks.c.since >= batch.opened_at,
            marks.c.due_at < batch.due_at,
        )
        .values(due_at=batch.due_at, attempts=0)
    )


def release(conn: Connection, batch: Batch, now: float) -> Batch:
    """A person says go; nothing goes that was taken back."""
    if batch.state == RETRACTED:
        return batch
    conn.execute(
        update(marks)
        .where(marks.c.subject_id.in_(_people(batch)), marks.c.due_at == batch.due_at)
        .values(due_at=now)
    )
    return _set(conn, batch, state=RELEASED, due_at=None)


def retracted(conn: Connection, batch: Batch) -> Batch:
    return _set(conn, batch, state=RETRACTED, due_at=None)


def _people(batch: Batch) -> Any:
    return select(ledger.c.subject_id).where(ledger.c.batch == batch.label)


def _strings(words: Iterable[StrEnum]) -> list[str]:
    return sorted(word.value for word in words)
