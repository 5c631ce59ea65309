"""The schema's version: an empty database is brought up, an older one is refused until migrated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from prefs.core.errors import SettingsError, Unavailable
from prefs.store.database import TRIES, Engine, make_engine
from prefs.store.postgres import Conflict

T = TypeVar("T")

MOVING, MOVED = "moving", "moved"
"""In the place of a version: a database that is not yet whole, and one that is left behind."""
LEFT = ("ledger", "permissions")
"""What whoever records needs, and whoever answers."""
FOLDER = Path(__file__).parent / "migrations"


def _config(conn: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.attributes["connection"] = conn
    return config


@cache
def head() -> str:
    found = ScriptDirectory.from_config(_config()).get_current_head()
    if found is None:
        raise RuntimeError("no migrations are installed")
    return found


def current(conn: Connection) -> str | None:
    return MigrationContext.configure(conn).get_current_revision()


def is_current(conn: Connection) -> bool:
    return current(conn) == head()


def begin_move(conn: Connection) -> None:
    """Bring up an empty database that nothing may start on until `stamp` says that all is there."""
    command.upgrade(_config(conn), "head")
    stamp(conn, MOVING)


def stamp(conn: Connection, version: str) -> None:
    conn.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})


def mark_moved(conn: Connection, to: str) -> None:
    """Nothing starts on this database any more, and whoever tries is told where it went. What was
    started before, and was cut off meanwhile, can neither record here nor answer."""
    for name in LEFT:
        conn.exec_driver_sql(f"ALTER TABLE {name} RENAME TO {name}_left")
    conn.exec_driver_sql("CREATE TABLE moved_to (url TEXT NOT NULL)")
    conn.execute(text("INSERT INTO moved_to VALUES (:url)"), {"url": to})
    stamp(conn, MOVED)


def _refuse_other(conn: Connection) -> None:
    """Raises SettingsError for what is none of this program's databases, or is none any more."""
    tables = inspect(conn).get_table_names()
    version = current(conn) if "alembic_version" in tables else None
    if tables and version is None:
        raise SettingsError(["database: holds tables of something else; name an empty one"])
    if version == MOVING:
        raise SettingsError(
            ["database: a move into it was broken off; run prefs move again, on the old one"]
        )
    if version == MOVED:
        to = conn.execute(text("SELECT url FROM moved_to")).scalar()
        raise SettingsError(
            [f"database: it was moved to {to}, and what came in since is only there; name that one"]
        )
    if version is not None and version not in _known():
        later = (
            f"database: its version is {version}, of a later release; this program knows {head()}"
        )
        raise SettingsError([f"{later} at most: install that release, or restore the backup"])


def is_served(conn: Connection) -> bool:
    """Whether this program works on it: its own version, or one that it does not know, which the
    next release brought while this one still serves. Migrations only add for that reason."""
    version = current(conn)
    return version == head() or version not in {None, MOVING, MOVED, *_known()}


@cache
def _known() -> frozenset[str]:
    scripts = ScriptDirectory.from_config(_config())
    return frozenset(script.revision for script in scripts.walk_revisions())


def migrate(url: str) -> tuple[str | None, str]:
    """Bring the database to this version; returns the version before and after."""
    with _engine(url) as engine:
        return _done(engine, _upgrade), head()


def ensure(url: str) -> None:
    """Bring up an empty database. Raises SettingsError for one of another version."""
    with _engine(url) as engine:
        version, empty = _done(engine, _bring_up)
    if not empty and version != head():
        raise SettingsError(
            [f"database: its version is {version}, this program needs {head()}; run prefs migrate"]
        )


def _done(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Again where another transaction was in the way: of a process that froze, which is cut off by
    whoever waited for it."""
    for _ in range(TRIES):
        with suppress(Conflict):
            return engine.transaction(work)
    raise Unavailable("others are in the way")


@contextmanager
def _engine(url: str) -> Iterator[Engine]:
    engine = make_engine(url, patient=True)
    try:
        yield engine
    finally:
        engine.close()


def _upgrade(conn: Connection) -> str | None:
    """Returns the version before."""
    _refuse_other(conn)
    before = current(conn)
    command.upgrade(_config(conn), "head")
    return before


def _bring_up(conn: Connection) -> tuple[str | None, bool]:
    """Returns the version, and whether the database was empty and is brought up now."""
    _refuse_other(conn)
    version = current(conn)
    empty = version is None and not inspect(conn).get_table_names()
    if empty:
        command.upgrade(_config(conn), "head")
    return version, empty
