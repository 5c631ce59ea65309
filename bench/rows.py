"""The floor of records on PostgreSQL: rows that records wrote, with one transaction each.

    python -m bench.rows SOURCE TARGET AFTER

Reads all that records after the payload numbered AFTER wrote into the source, and writes it into
the target through asyncpg. Prints {"rate": records a second, "records": how many}.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import uvloop

POOL, TASKS = 16, 64
KEYS = {
    "subjects": ("id",),
    "permissions": ("brand", "hash"),
    "marks": ("target", "subject_id", "vendor_id"),
}
"""Of the tables in which a record may change a row; into the others it only adds."""
Record = Sequence[tuple[str, Sequence[Sequence[Any]]]]
"""Of each table its rows."""

_TOLD = "(SELECT DISTINCT payload_id AS of, subject_id FROM ledger WHERE payload_id > $1) told"
_LINKED = f"{_TOLD} JOIN links USING (subject_id)"
_KNOWN = f"{_LINKED} JOIN identifiers ON identifiers.id = links.identifier_id"
WRITTEN = {
    "payloads": "SELECT id AS of, payloads.* FROM payloads WHERE id > $1",
    "subjects": f"SELECT of, subjects.* FROM {_TOLD} JOIN subjects ON subjects.id = subject_id",
    "identifiers": f"SELECT of, identifiers.* FROM {_KNOWN} WHERE identifiers.created_at >= $2",
    "links": f"SELECT of, links.* FROM {_LINKED} WHERE links.since >= $2",
    "ledger": "SELECT payload_id AS of, ledger.* FROM ledger WHERE payload_id > $1",
    "permissions": f"SELECT of, permissions.* FROM {_KNOWN} JOIN permissions USING (hash)",
    "marks": f"SELECT of, marks.* FROM {_TOLD} JOIN marks USING (subject_id)",
}
"""`of` is the payload, one a record."""


def last_payload(url: str) -> int:
    return int(asyncio.run(_value(url, "SELECT coalesce(max(id), 0) FROM payloads")))


async def _value(url: str, text: str, *given: Any) -> Any:
    conn = await asyncpg.connect(url)
    try:
        return await conn.fetchval(text, *given)
    finally:
        await conn.close()


async def read(url: str, after: int) -> tuple[list[Record], Mapping[str, str]]:
    """The records, and the statement that writes a row of each table."""
    conn = await asyncpg.connect(url)
    since = await conn.fetchval("SELECT min(received_at) FROM ledger WHERE payload_id > $1", after)
    records: dict[int, list[Any]] = defaultdict(list)
    statements = {}
    for table, text in WRITTEN.items():
        given = [after, since] if "$2" in text else [after]
        found: dict[int, list[Any]] = defaultdict(list)
        for row in await conn.fetch(text, *given):
            found[row[0]].append(row[1:])
            statements[table] = _statement(table, list(row.keys())[1:])
        for of, rows in found.items():
            records[of].append((table, rows))
    await conn.close()
    return list(records.values()), statements


def _statement(table: str, columns: Sequence[str]) -> str:
    places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    added = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"
    if table not in KEYS:
        return added
    changed = ", ".join(f"{one} = excluded.{one}" for one in columns if one not in KEYS[table])
    return f"{added} ON CONFLICT ({', '.join(KEYS[table])}) DO UPDATE SET {changed}"


async def write(url: str, records: Sequence[Record], statements: Mapping[str, str]) -> float:
    """Records a second."""
    pool = await asyncpg.create_pool(url, min_size=POOL, max_size=POOL)
    waiting = iter(records)

    async def task() -> None:
        for record in waiting:
            async with pool.acquire() as conn, conn.transaction():
                for table, rows in record:
                    await _put(conn, statements[table], rows)

    began = time.perf_counter()
    await asyncio.gather(*(task() for _ in range(TASKS)))
    took = time.perf_counter() - began
    await pool.close()
    return len(records) / took


async def _put(conn: Any, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    """The driver prepares a statement once a connection and keeps it."""
    if len(rows) == 1:
        await conn.execute(statement, *rows[0])
    else:
        await conn.executemany(statement, rows)


async def main(source: str, target: str, after: int) -> None:
    records, statements = await read(source, after)
    found = await write(target, records, statements)
    json.dump({"rate": found, "records": len(records)}, sys.stdout)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
