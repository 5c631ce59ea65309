"""SQLite: one host, one writing connection a process.

WAL with `synchronous=FULL` (NORMAL loses acknowledged commits on power loss,
https://www.sqlite.org/pragma.html#pragma_synchronous). A library older than 3.51.3 can corrupt a
WAL file that two connections of different processes reset at once
(https://www.sqlite.org/wal.html#walresetbug), so there a lock file keeps other processes out.
"""

from __future__ import annotations

import fcntl
import importlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO, Any, TypeVar

import structlog
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, OperationalError

from prefs.core.errors import SettingsError, Unavailable
from prefs.store.hot import ByKeys, Row

T = TypeVar("T")

SAFE_SQLITE = (3, 51, 3)
BUSY_MS = 5000
CACHE_KIB, READ_CACHE_KIB = 48 * 1024, 12 * 1024
"""Of the connection that writes, and of each that reads: what those lack the system keeps."""
CHECKPOINT_PAGES = 8000
"""Of the log, before they are copied to the database: the more, the more often one of them is the
same page again; and the longer the commit that copies them."""
READERS = 2

log = structlog.get_logger()


@cache
def library() -> ModuleType:
    """The newest SQLite at hand: the bundled one of pysqlite3, else the standard library's."""
    with suppress(ImportError):
        return importlib.import_module("pysqlite3.dbapi2")
    return importlib.import_module("sqlite3")


def make_engine(url: URL, *, read_only: bool = False) -> Engine:
    engine = create_engine(
        url,
        module=library(),
        connect_args={"timeout": BUSY_MS / 1000, "check_same_thread": False},
    )
    event.listen(engine, "connect", lambda raw, _: _prepare(raw, read_only=read_only))
    if read_only:
        event.listen(engine, "begin", lambda conn: conn.exec_driver_sql("BEGIN"))
    return engine


def _prepare(raw: Any, *, read_only: bool) -> None:
    raw.isolation_level = None
    for pragma in (
        f"busy_timeout={BUSY_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"cache_size=-{READ_CACHE_KIB if read_only else CACHE_KIB}",
        f"wal_autocheckpoint={CHECKPOINT_PAGES}",
        f"query_only={'ON' if read_only else 'OFF'}",
    ):
        raw.execute(f"PRAGMA {pragma}")


def in_use(url: URL) -> bool:
    """Whether another connection has the file open. A connection in exclusive locking mode gets
    into a WAL file only when it is alone there (https://www.sqlite.org/wal.html#noshm)."""
    alone = library().connect(url.database, timeout=0.1)
    alone.isolation_level = None
    try:
        alone.execute("PRAGMA locking_mode=EXCLUSIVE")
        alone.execute("BEGIN EXCLUSIVE")
        alone.execute("ROLLBACK")
    except library().OperationalError:
        return True
    finally:
        alone.close()
    return False


def many_may_open() -> bool:
    """Whether several processes may have a file open at once."""
    return bool(library().sqlite_version_info >= SAFE_SQLITE)


class ProcessLock:
    """Keeps a second process off the file where the SQLite library is too old to share it."""

    def __init__(self, url: URL) -> None:
        self._file: IO[str] | None = None
        self._path = Path(f"{url.database}.lock")

    def take(self) -> None:
        if many_may_open():
            return
        version = ".".join(map(str, library().sqlite_version_info))
        self._file = self._path.open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            self._file = None
            fault = (
                "database: another process has this SQLite file open and the SQLite library "
                f"here ({version}) is older than 3.51.3, with which two "
                "processes can corrupt it; stop the other one, or install pysqlite3"
            )
            raise SettingsError([fault]) from None

    def free(self) -> None:
        if self._file:
            self._file.close()
            self._file = None


class Writer:
    """The one connection that writes, kept from one transaction to the next: SQLAlchemy's way to
    take one, begin, commit and give it back costs a fifth of what a record does. Its driver begins
    and ends each transaction; to SQLAlchemy it is as if there were none."""

    def __init__(self, url: URL) -> None:
        self._engine = make_engine(url)
        self._kept: Connection | None = None
        self._busy = threading.Lock()

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        with self._busy:
            conn = self._kept = self._kept or self._engine.connect()
            driver: Any = conn.connection.dbapi_connection
            driver.execute("BEGIN IMMEDIATE")
            try:
                yield conn
                driver.commit()
            except BaseException:
                self._undo(driver)
                raise
            finally:
                conn.rollback()  # of nothing: SQLAlchemy's own view of it ends

    def _undo(self, driver: Any) -> None:
        """A connection that cannot even do that is used no more."""
        try:
            driver.rollback()
        except library().Error:
            self.close()

    def close(self) -> None:
        if self._kept:
            self._kept.close()
            self._kept = None
        self._engine.dispose()


class SQLite:
    """Implements prefs.store.database.Engine."""

    def __init__(self, url: URL) -> None:
        self._lock = ProcessLock(url)
        self._writer = Writer(url)
        self._readers = make_engine(url, read_only=True)
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="prefs-read")
        self._hot: Connection | None = None
        self._driver: Any = None

    def open(self) -> None:
        self._lock.take()

    def close(self) -> None:
        self._threads.shutdown()
        if self._hot:
            self._hot.close()
            self._hot = self._driver = None
        self._readers.dispose()
        self._writer.close()
        self._lock.free()

    def transaction(
        self, work: Callable[[Connection], T], *, alone: bool = True, lane: str | None = None
    ) -> T:
        """Whoever writes is alone here."""
        with translated(), self._writer.begin() as conn:
            return work(conn)

    def read(self, work: Callable[[Connection], T]) -> Future[T]:
        return self._threads.submit(self.read_now, work)

    def read_now(self, work: Callable[[Connection], T]) -> T:
        with translated(), self._readers.connect() as conn:
            return work(conn)

    async def hot(
        self, look_up: ByKeys, keys: Collection[Any], params: Mapping[str, Any]
    ) -> list[Row]:
        """On the event loop's own driver connection."""
        try:
            driver, found = self._driver or self._connect(), []
            for text, values in look_up.on_sqlite(keys, params):
                found += driver.execute(text, values).fetchall()
        except (DBAPIError, library().Error) as fault:
            raise _away(fault) from fault
        return found

    def _connect(self) -> Any:
        self._hot = self._readers.connect()
        self._hot.rollback()
        self._driver = self._hot.connection.dbapi_connection
        return self._driver

    @staticmethod
    def is_lost(fault: Exception) -> bool:
        """Whether the whole transaction is lost, not one statement alone."""
        return isinstance(fault, (OperationalError, library().OperationalError))

    @staticmethod
    def was_second(fault: Exception) -> bool:
        """Nobody else writes meanwhile."""
        return False


@contextmanager
def translated() -> Iterator[None]:
    """A locked, full or missing database is `Unavailable`; the driver's text stays inside."""
    try:
        yield
    except (DBAPIError, library().Error) as fault:
        raise _away(fault) from fault


def _away(fault: Exception) -> Unavailable:
    what = fault.orig if isinstance(fault, DBAPIError) else fault
    log.error("store_unavailable", fault=type(what).__name__)
    return Unavailable("the store is away or locked")
