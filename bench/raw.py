"""SQLite by its driver alone: what floors are made of."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from prefs.store import sqlite


def connect(path: Path | str) -> Any:
    """As the service opens it: the same library, WAL, synced in full, a cache of 64 MiB."""
    library: Any = sqlite.library()
    conn = library.connect(str(path), isolation_level=None)
    conn.execute("PRAGMA journal_mode=WAL")
    conn.execute("PRAGMA synchronous=FULL")
    conn.execute(f"PRAGMA cache_size=-{sqlite.CACHE_KIB}")
    conn.execute(f"PRAGMA wal_autocheckpoint={sqlite.CHECKPOINT_PAGES}")
    return conn


def commits(path: Path, seconds: float) -> list[float]:
    """Seconds that each one-row commit took."""
    conn = connect(path)
    conn.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, body BLOB)")
    took, until = [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        conn.execute("BEGIN IMMEDIATE")
        conn.execute("INSERT INTO t (body) VALUES (?)", (b"x" * 200,))
        conn.execute("COMMIT")
        took.append(time.perf_counter() - began)
    conn.close()
    return took
