"""Connections, the one writer and its group commit.

Every write goes through `Database.write`: a function of a connection, run in the writer thread
inside a transaction that it shares with whatever else waited meanwhile; the awaited result comes
after the commit is on disk. A function that raises loses its own writes only. Reads of the hot
path run in the event loop on a connection of their own, others in a thread.

SQLite: WAL with `synchronous=FULL` (NORMAL loses acknowledged commits on power loss,
https://www.sqlite.org/pragma.html#pragma_synchronous). A library older than 3.51.3 can corrupt a
WAL file that two connections of different processes reset at once
(https://www.sqlite.org/wal.html#walresetbug), so there a lock file keeps other processes out.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import IO, Any, Self, TypeVar

import structlog
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, OperationalError

from prefs.core.errors import PrefsError, SettingsError, Unavailable

T = TypeVar("T")
Job = tuple[Callable[[Connection], Any], "Future[Any]"]

SAFE_SQLITE = (3, 51, 3)
BUSY_MS = 5000
GROUP = 256
CACHE_KIB = 65536
CHECKPOINT_PAGES = 4000

log = structlog.get_logger()


def sqlite_library() -> ModuleType:
    """The newest SQLite at hand: the bundled one of pysqlite3, else the standard library's."""
    with suppress(ImportError):
        return importlib.import_module("pysqlite3.dbapi2")
    return importlib.import_module("sqlite3")


def make_engine(url: str, *, read_only: bool = False) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        raise SettingsError(
            [
                (
                    "database: only SQLite is supported by this version; set database = "
                    '"sqlite:///prefs.db" (PostgreSQL comes with a later version)'
                )
            ]
        )
    library = sqlite_library()
    engine = create_engine(
        parsed, module=library, connect_args={"timeout": BUSY_MS / 1000, "check_same_thread": False}
    )
    event.listen(engine, "connect", lambda raw, _: _prepare(raw, read_only=read_only))
    event.listen(engine, "begin", lambda conn: conn.exec_driver_sql(_begin(read_only)))
    return engine


def _begin(read_only: bool) -> str:
    return "BEGIN" if read_only else "BEGIN IMMEDIATE"


def _prepare(raw: Any, *, read_only: bool) -> None:
    raw.isolation_level = None
    for pragma in (
        f"busy_timeout={BUSY_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"cache_size=-{CACHE_KIB}",
        f"wal_autocheckpoint={CHECKPOINT_PAGES}",
        f"query_only={'ON' if read_only else 'OFF'}",
    ):
        raw.execute(f"PRAGMA {pragma}")


class ProcessLock:
    """Keeps a second process off the file where the SQLite library is too old to share it."""

    def __init__(self, url: URL) -> None:
        self._file: IO[str] | None = None
        self._path = Path(f"{url.database}.lock")

    def take(self) -> None:
        version = sqlite_library().sqlite_version_info
        if version >= SAFE_SQLITE:
            return
        self._file = self._path.open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            self._file = None
            fault = (
                "database: another process has this SQLite file open and the SQLite library "
                f"here ({'.'.join(map(str, version))}) is older than 3.51.3, with which two "
                "processes can corrupt it; stop the other one, or install pysqlite3"
            )
            raise SettingsError([fault]) from None

    def free(self) -> None:
        if self._file:
            self._file.close()
            self._file = None


class Database:
    """One database, its writer thread and its readers."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._lock = ProcessLock(make_url(url))
        self._engine = make_engine(url)
        self._readers = make_engine(url, read_only=True)
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="prefs-read")
        self._thread: threading.Thread | None = None
        self._hot: Connection | None = None
        self._after_commit: list[Callable[[], None]] = []

    def open(self) -> Self:
        self._lock.take()
        self._thread = threading.Thread(target=self._write_loop, name="prefs-write", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        if self._thread:
            self._queue.put(None)
            self._thread.join(30)
            self._thread = None
        self._threads.shutdown()
        if self._hot:
            self._hot.close()
            self._hot = None
        self._readers.dispose()
        self._engine.dispose()
        self._lock.free()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def on_commit(self, call: Callable[[], None]) -> None:
        """Call this (from the writer thread) once after every group commit."""
        self._after_commit.append(call)

    async def write(self, job: Callable[[Connection], T]) -> T:
        """Run `job` in the writer's next transaction; returns once that is on disk.

        Raises Unavailable when the store is away or stays locked.
        """
        return await asyncio.wrap_future(self.submit(job))

    def submit(self, job: Callable[[Connection], T]) -> Future[T]:
        future: Future[T] = Future()
        self._queue.put((job, future))
        return future

    def write_now(self, job: Callable[[Connection], T]) -> T:
        """The same for callers without an event loop."""
        return self.submit(job).result()

    async def read(self, job: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.read_now, job)

    def read_now(self, job: Callable[[Connection], T]) -> T:
        with translated(), self._readers.connect() as conn:
            return job(conn)

    def hot(self, sql: str, params: Sequence[object]) -> list[Any]:
        """Rows of a compiled statement on the event loop's own driver connection: for look-ups of
        a few microseconds only."""
        with translated():
            if self._hot is None:
                self._hot = self._readers.connect()
                self._hot.rollback()
            raw = self._hot.connection.dbapi_connection
            assert raw is not None  # noqa: S101  # a live pooled connection always has one
            return list(raw.execute(sql, params))

    def _write_loop(self) -> None:
        while batch := self._next_batch():
            try:
                self._run_batch(batch)
            except Exception as fault:  # noqa: BLE001  # the writer outlives every fault
                log.error("write_failed", fault=type(fault).__name__)
                _fail(batch, fault)

    def _next_batch(self) -> list[Job]:
        first = self._queue.get()
        if first is None:
            return []
        batch = [first]
        with suppress(queue.Empty):
            while len(batch) < GROUP:
                job = self._queue.get_nowait()
                if job is None:
                    self._queue.put(None)
                    break
                batch.append(job)
        return batch

    def _run_batch(self, batch: list[Job]) -> None:
        done: list[tuple[Future[Any], Any]] = []
        with translated(), self._engine.begin() as conn:
            for job, future in batch:
                if future.set_running_or_notify_cancel():
                    self._run_job(conn, job, future, done)
        for future, result in done:
            future.set_result(result)
        for call in self._after_commit:
            call()

    def _run_job(
        self,
        conn: Connection,
        job: Callable[[Connection], Any],
        future: Future[Any],
        done: list[tuple[Future[Any], Any]],
    ) -> None:
        conn.exec_driver_sql("SAVEPOINT job")
        try:
            result = job(conn)
        except Exception as fault:
            conn.exec_driver_sql("ROLLBACK TO job")
            conn.exec_driver_sql("RELEASE job")
            if _disk_fault(fault):
                raise
            future.set_exception(fault)
        else:
            conn.exec_driver_sql("RELEASE job")
            done.append((future, result))


def _disk_fault(fault: Exception) -> bool:
    """The whole transaction is lost, not this job alone."""
    return isinstance(fault, (OperationalError, sqlite_library().OperationalError))


def _fail(batch: list[Job], fault: Exception) -> None:
    error = fault if isinstance(fault, PrefsError) else Unavailable("the store did not answer")
    for _, future in batch:
        if not future.done():
            future.set_exception(error)


@contextmanager
def translated() -> Iterator[None]:
    """A locked, full or missing database is `Unavailable`; the driver's text stays inside."""
    try:
        yield
    except DBAPIError as fault:
        log.error("store_unavailable", fault=type(fault.orig).__name__)
        raise Unavailable("the store is away or locked") from fault
    except sqlite_library().Error as fault:
        log.error("store_unavailable", fault=type(fault).__name__)
        raise Unavailable("the store is away or locked") from fault
