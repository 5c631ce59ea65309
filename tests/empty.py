"""An empty database for a test, of the engine that it runs on (tests/conftest.py). One is migrated
once a process and copied: to bring one up takes longer than many a test. That the migrations make
the schema is shown by tests/store/test_database.py."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from sqlalchemy import Connection

from prefs.store import migrate
from prefs.store.database import make_engine
from tests import postgres

SQLITE, POSTGRESQL = "sqlite", "postgresql"
ENGINES = (SQLITE, POSTGRESQL)
engine = SQLITE
"""Of the test that runs now."""
_urls: dict[Path, str] = {}


def database(folder: Path) -> str:
    """The URL of the database that belongs to this folder. One that is there stays as it is."""
    if engine == POSTGRESQL:
        if folder not in _urls:
            _urls[folder] = postgres.database()
        return _urls[folder]
    path = folder / "prefs.db"
    if not path.exists():
        path.write_bytes(_empty())
    return f"sqlite:///{path}"


def known() -> set[Path]:
    return set(_urls)


def give_back(before: set[Path]) -> None:
    """Databases that came since: what a test opened it has closed."""
    for folder in _urls.keys() - before:
        postgres.give_back(_urls.pop(folder))


@cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "prefs.db"
        migrate.ensure(f"sqlite:///{made}")
        return made.read_bytes()


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Somebody else writes, and does not come to an end."""
    other, inside, leave = make_engine(url), threading.Event(), threading.Event()

    def stay(_: Connection) -> None:
        inside.set()
        leave.wait(30)

    thread = threading.Thread(target=other.transaction, args=(stay,))
    thread.start()
    assert inside.wait(5)
    try:
        yield
    finally:
        leave.set()
        thread.join()
        other.close()
