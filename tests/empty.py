"""An empty database, migrated once a process and copied: to bring one up takes longer than many a
test. That the migrations make the schema is shown by tests/store/test_database.py."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from prefs.store import migrate


def database(folder: Path) -> str:
    """The URL of `prefs.db` in this folder. One that is there already stays as it is."""
    path = folder / "prefs.db"
    if not path.exists():
        path.write_bytes(_empty())
    return f"sqlite:///{path}"


@cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "prefs.db"
        migrate.ensure(f"sqlite:///{made}")
        return made.read_bytes()
