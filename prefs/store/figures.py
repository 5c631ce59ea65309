"""What an operator watches, read in a few statements over indexes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import Connection, case, func, select

from prefs.core.propagation import Outcome
from prefs.store import ledger, marks
from prefs.store.schema import inbox, lanes, outbox, tasks
from prefs.store.schema import ledger as rows
from prefs.store.schema import marks as waiting

LAG_WINDOW = 86400.0


class Backlog(NamedTuple):
    marks: int
    oldest: float
    refused: int


class Figures(NamedTuple):
    backlogs: dict[str, Backlog]
    overdue: dict[str, int]
    lags: dict[str, list[float]]
    lanes: dict[str, Any]
    workers: int
    sealed: int
    unsealed_since: float | None
    outbox: tuple[int, float | None]
    """How many wait, and when the first of them was due."""
    inbox: int
    tasks: list[tuple[str, str, int, int]]
    """brand, kind, open, past their time."""


def read(
    conn: Connection, targets: Collection[str], brands: Collection[str], now: float, overdue: float
) -> Figures:
    """`overdue` is when an out that is not confirmed yet counts as that, as a moment."""
    last = ledger.last_sealed(conn)
    return Figures(
        backlogs=_backlogs(conn),
        overdue=marks.overdue(conn, overdue, staff=False),
        lags={one: marks.lags(conn, one, now - LAG_WINDOW) for one in targets},
        lanes={row.target: row for row in conn.execute(select(lanes))},
        workers=marks.holders(conn, now),
        sealed=last.n if last else 0,
        unsealed_since=_unsealed_since(conn),
        outbox=_outbox(conn),
        inbox=_inbox(conn),
        tasks=[one for brand in brands for one in _tasks(conn, brand, now)],
    )


def _backlogs(conn: Connection) -> dict[str, Backlog]:
    refused = case((waiting.c.outcome == Outcome.REFUSED.value, 1), else_=0)
    found = conn.execute(
        select(
            waiting.c.target, func.count(), func.min(waiting.c.since), func.sum(refused)
        ).group_by(waiting.c.target)
    )
    return {target: Backlog(count, oldest, refused) for target, count, oldest, refused in found}


def _unsealed_since(conn: Connection) -> float | None:
    first = select(rows.c.at).where(rows.c.n.is_(None)).order_by(rows.c.id).limit(1)
    found: float | None = conn.execute(first).scalar_one_or_none()
    return found


def _outbox(conn: Connection) -> tuple[int, float | None]:
    wanted = select(func.count(), func.min(outbox.c.due_at)).where(outbox.c.state == "waiting")
    count, first = conn.execute(wanted).one()
    return count, first


def _inbox(conn: Connection) -> int:
    wanted = select(func.count()).select_from(inbox).where(inbox.c.state == "open")
    return int(conn.execute(wanted).scalar_one())


def _tasks(conn: Connection, brand: str, now: float) -> list[tuple[str, str, int, int]]:
    late = func.sum(case((tasks.c.due_at < now, 1), else_=0))
    found = conn.execute(
        select(tasks.c.kind, func.count(), late)
        .where(tasks.c.brand == brand, tasks.c.state == "open")
        .group_by(tasks.c.kind)
    )
    return [(brand, kind, count, past) for kind, count, past in found]
