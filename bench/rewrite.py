"""The floor of an import: raw executemany of the very rows that it wrote.

    python -m bench.rewrite SOURCE TARGET ROWS AT_ONCE

SOURCE is the database that an import of ROWS rows filled; what it wrote for AT_ONCE of them is
written into the empty TARGET in one transaction, all tables, in the order in which it came. Only
the writing is timed. Prints {"seconds"}.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from bench import raw

ORDERED = {
    "subjects": "SELECT s.* FROM ledger l JOIN subjects s ON s.id = l.subject_id "
    "WHERE l.revision = 1 ORDER BY l.id",
    "identifiers": "SELECT * FROM identifiers ORDER BY id",
    "links": "SELECT * FROM links ORDER BY identifier_id",
    "payloads": "SELECT * FROM payloads ORDER BY id",
    "ledger": "SELECT * FROM ledger ORDER BY id",
    "permissions": "SELECT p.* FROM identifiers i JOIN permissions p ON p.hash = i.hash "
    "ORDER BY i.id",
    "marks": "SELECT * FROM marks ORDER BY number",
}


class Source:
    """The rows of one table, a part at a time."""

    def __init__(self, path: str, table: str, parts: int) -> None:
        conn = raw.connect(path)
        total = conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        self._rows = conn.execute(ORDERED[table])
        self._size = -(-total // parts)
        places = ", ".join("?" * len(self._rows.description))
        self.statement = f"INSERT INTO {table} VALUES ({places})"

    def part(self) -> list[Any]:
        return list(self._rows.fetchmany(self._size)) if self._size else []


def parts(sources: list[Source], count: int) -> Iterator[list[tuple[str, list[Any]]]]:
    for _ in range(count):
        yield [(one.statement, one.part()) for one in sources]


def main(source: str, target: str, rows: int, at_once: int) -> None:
    count = -(-rows // at_once)
    conn = raw.connect(target)
    sources = [Source(source, table, count) for table in ORDERED]
    took = 0.0
    for part in parts(sources, count):
        began = time.perf_counter()
        conn.execute("BEGIN IMMEDIATE")
        for statement, found in part:
            conn.executemany(statement, found)
        conn.execute("COMMIT")
        took += time.perf_counter() - began
    json.dump({"seconds": took}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
