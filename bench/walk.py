"""The floor of a verification: reading the rows and SHA-256 of the same bytes.

    python -m bench.walk DATABASE

Every ledger row in the order of its number, with its payload: the row's sealed columns packed and
hashed after the hash before it, the payload hashed with its salt. Prints {"seconds", "rows"}.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time

import msgspec

from bench import raw
from prefs.store.ledger import CANONICAL, GENESIS

COLUMNS = ", ".join(f"ledger.{name}" for name in CANONICAL)
ROWS = f"SELECT {COLUMNS} FROM ledger ORDER BY n"
PAYLOADS = (
    "SELECT salt, body FROM ledger JOIN payloads ON payloads.id = payload_id ORDER BY ledger.id"
)


def main(database: str) -> None:
    conn, pack, rows = raw.connect(database), msgspec.msgpack.Encoder().encode, 0
    began, before = time.perf_counter(), GENESIS
    for row in conn.execute(ROWS):
        before = hashlib.sha256(before + pack(row)).digest()
        rows += 1
    for salt, body in conn.execute(PAYLOADS):
        hashlib.sha256(salt + body).digest()
    json.dump({"seconds": time.perf_counter() - began, "rows": rows}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
