"""Numbers that are used once: rows of `counters` on SQLite; sequences on PostgreSQL, where nobody
waits for the other's transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from sqlalchemy import Connection, bindparam, delete, func, insert, select, text, update

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


_SEQUENCES = (
    "SELECT sequencename, last_value FROM pg_sequences "
    "WHERE schemaname = current_schema() AND sequencename LIKE '%\\_numbers'"
)


def used(conn: Connection) -> dict[str, int]:
    """The last number handed out of each sequence."""
    if conn.dialect.name == "sqlite":
        rows = conn.execute(select(counters.c.name, counters.c.value)).all()
    else:
        rows = conn.execute(text(_SEQUENCES)).all()
    return {name.removesuffix("_numbers"): last or 0 for name, last in rows}


def go_on(conn: Connection, behind: Mapping[str, int]) -> None:
    """Nothing up to these numbers is handed out again."""
    for name, value in behind.items():
        if conn.dialect.name == "sqlite":
            conn.execute(delete(counters).where(counters.c.name == name))
            conn.execute(insert(counters), {"name": name, "value": value})
        elif value:
            conn.execute(select(func.setval(f"{name}_numbers", value)))


def skip(conn: Connection, by: int) -> None:
    """No number that a lost history gave out is given out again."""
    go_on(conn, {name: value + by for name, value in used(conn).items()})


def drop(conn: Connection) -> None:
    """Sequences are no tables: who drops those drops them too."""
    for name in used(conn) if conn.dialect.name != "sqlite" else ():
        conn.execute(text(f"DROP SEQUENCE {name}_numbers"))


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
