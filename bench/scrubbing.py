"""The floor of a scrub: csv read + normalise + hash + raw SQL join of the same rows.

    python -m bench.scrubbing DATABASE LIST

Rows go into a temporary table by parts, and each part is joined in the order of the list. Prints
{"seconds", "rows"}.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Iterator
from itertools import islice

from bench import raw
from bench.kit import KEYS
from prefs.core import identity

PART = 10_000
JOIN = """SELECT asked.n, permissions.value FROM asked LEFT JOIN permissions
ON permissions.brand = 'rt' AND permissions.hash = asked.hash ORDER BY asked.n"""


def hashes(path: str) -> Iterator[tuple[bytes]]:
    with open(path, newline="") as file:  # noqa: PTH123  # as short as it can be
        lines = csv.reader(file)
        next(lines)
        for row in lines:
            yield (KEYS.hash(identity.email(row[0])),)


def main(database: str, path: str) -> None:
    conn = raw.connect(database)
    conn.execute("PRAGMA temp_store=MEMORY")
    began, rows = time.perf_counter(), 0
    conn.execute("CREATE TEMP TABLE asked (n INTEGER PRIMARY KEY, hash BLOB NOT NULL)")
    found = hashes(path)
    while part := list(islice(found, PART)):
        conn.execute("BEGIN")
        conn.executemany("INSERT INTO asked (hash) VALUES (?)", part)
        rows += len(conn.execute(JOIN).fetchall())
        conn.execute("DELETE FROM asked")
        conn.execute("COMMIT")
    json.dump({"seconds": time.perf_counter() - began, "rows": rows}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
