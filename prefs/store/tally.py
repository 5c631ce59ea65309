"""How many marketing choices came in, by week, channel and door.

Counted when the ledger's rows are sealed, once each, in the sealer's transaction: an overview needs
no walk through the ledger. A choice of one topic is not counted. A batch that was taken back stays
counted: it did come in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, select

from prefs.core.words import Purpose, Result
from prefs.store import dialect
from prefs.store.schema import ledger, tallies

DAY = 86400
WEEK = 7 * DAY
MONDAY = 3
"""1970 began on a Thursday, three days into its week."""

_FIELDS = ("brand", "week", "channel", "choice", "source", "origin")
_COLUMNS = (*_FIELDS[1:], "count")


class Tally(NamedTuple):
    week: int
    channel: str
    choice: str
    source: str
    origin: str
    """The target's label where a system told us, else empty."""
    number: int


def week_of(at: float) -> int:
    """Number of the week (Monday to Sunday, UTC) that holds a time."""
    return (int(at // DAY) + MONDAY) // 7


def week_began(week: int) -> float:
    return float(week * WEEK - MONDAY * DAY)


def count(conn: Connection, rows: Iterable[Any]) -> None:
    """Add ledger rows that were sealed just now."""
    found: Counter[tuple[Any, ...]] = Counter()
    for told, number in Counter(map(_told, rows)).items():
        if _counts(told):
            found[_key(told)] += number
    if not found:
        return
    upsert = dialect.insert(tallies)
    conn.execute(
        upsert.on_conflict_do_update(
            index_elements=list(_FIELDS),
            set_={"count": tallies.c.count + upsert.excluded.count},
        ),
        [dict(zip(_FIELDS, key, strict=True)) | {"count": number} for key, number in found.items()],
    )


class _Told(NamedTuple):
    """What of a ledger row counts. Many rows of one run say the same: they are told apart first."""

    kind: str
    brand: str
    channel: str
    purpose: str
    topic: str | None
    choice: str | None
    source: str
    received_at: float
    result: str
    origin: str | None


_pick = attrgetter(*_Told._fields)


def _told(row: Any) -> _Told:
    return _Told._make(_pick(row))


def _counts(told: _Told) -> bool:
    return (
        told.kind == "choice"
        and told.result == Result.APPLIED.value
        and told.purpose == Purpose.MARKETING.value
        and told.topic is None
        and told.choice is not None
    )


def _key(told: _Told) -> tuple[Any, ...]:
    week = week_of(told.received_at)
    return (told.brand, week, told.channel, told.choice, told.source, told.origin or "")


def since(conn: Connection, brand: str, week: int) -> list[Tally]:
    """Everything from a week on, oldest first."""
    wanted = select(*(tallies.c[name] for name in _COLUMNS)).where(
        tallies.c.brand == brand, tallies.c.week >= week
    )
    in_order = wanted.order_by(*(tallies.c[name] for name in _FIELDS))
    return [Tally(*row) for row in conn.execute(in_order)]


def rebuild(conn: Connection) -> None:
    """Count every sealed row anew."""
    conn.execute(delete(tallies))
    sealed = select(ledger).where(ledger.c.n.is_not(None))
    for part in conn.execute(sealed, execution_options={"yield_per": 5000}).partitions():
        count(conn, part)
