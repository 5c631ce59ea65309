"""Numbers that are used once: rows of `counters` on SQLite; sequences on PostgreSQL, where nobody
waits for the other's transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from sqlalchemy import Connection, bindparam, func, insert, select, update

from prefs.store.hot import Statement
from prefs.store.schema import counters

_STEP = Statement(
    update(counters)
    .where(counters.c.name == bindparam("b_name"))
    .values(value=counters.c.value + bindparam("b_count"))
    .returning(counters.c.value)
)
_NEXT = Statement(
    select(func.nextval(bindparam("sequence"))).select_from(
        func.generate_series(1, bindparam("count"))
    )
)


def next_numbers(conn: Connection, name: str, count: int) -> Sequence[int]:
    """`count` numbers of this sequence, rising, never handed out before or again."""
    if conn.dialect.name == "sqlite":
        return _step(conn, name, count)
    return [
        number for (number,) in _NEXT.run(conn, {"sequence": f"{name}_numbers", "count": count})
    ]


def _step(conn: Connection, name: str, count: int) -> range:
    stepped = _STEP.run(conn, {"b_name": name, "b_count": count})
    if not stepped:
        conn.execute(insert(counters), {"name": name, "value": count})
    last = int(stepped[0][0]) if stepped else count
    return range(last - count + 1, last + 1)


class Numbers:
    """Numbers of one sequence, fetched together; those left over are never used."""

    def __init__(self, conn: Connection, name: str, expected: int) -> None:
        self._conn = conn
        self._name = name
        self._expected = expected
        self._left: Iterator[int] = iter(())

    def take(self, count: int) -> list[int]:
        taken = list(islice(self._left, count))
        while len(taken) < count:
            self._left = iter(next_numbers(self._conn, self._name, max(self._expected, count)))
            taken += islice(self._left, count - len(taken))
        return taken
