"""Numbers that are used once."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, insert, update

from prefs.store.hot import Statement
from prefs.store.schema import counters

_STEP = Statement(
    update(counters)
    .where(counters.c.name == bindparam("b_name"))
    .values(value=counters.c.value + bindparam("b_count"))
    .returning(counters.c.value)
)


def next_numbers(conn: Connection, name: str, count: int) -> range:
    """`count` numbers of this sequence, never handed out before or again."""
    stepped = _STEP.run(conn, {"b_name": name, "b_count": count})
    if not stepped:
        conn.execute(insert(counters), {"name": name, "value": count})
    last = int(stepped[0][0]) if stepped else count
    return range(last - count + 1, last + 1)
