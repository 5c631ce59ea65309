"""Connections, the one writer and its group commit.

Every write is a function of a connection, run by the writer inside a transaction that it shares
with what else waited meanwhile; the awaited result comes after the commit is on disk. A function
that raises loses its own writes only.

SQLite has one writer. On PostgreSQL, where processes write at once, a write says in what company it
may be:

- `write` runs alone: nobody else writes meanwhile, what it reads stays so until its commit;
- `write` of a lane (`database.of(label)`) runs beside other lanes and beside what is recorded;
- `write_with` runs beside everything but the first: it locks the rows that it goes by.

What the engines do each their own way stands in `sqlite.py` and `postgres.py`.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar, cast

import structlog
from sqlalchemy import Connection
from sqlalchemy.engine import URL, make_url

from prefs.core.errors import Busy, PrefsError, Unavailable
from prefs.core.spans import span
from prefs.metrics import COMMITS, GROUPS
from prefs.store import sqlite
from prefs.store.hot import ByKeys, Row
from prefs.store.postgres import Conflict, PostgreSQL
from prefs.store.sqlite import SQLite

T = TypeVar("T")
A = TypeVar("A")

GROUP = 256
WAITING = 2000
"""Writes that may wait before programs are told to come back later."""
RETRY_AFTER = 2
TRIES = 3

log = structlog.get_logger()


class Engine(Protocol):
    """One kind of database. All but `open` raise Unavailable when it is away or stays locked."""

    def open(self) -> None:
        """Raises SettingsError where it cannot be relied on."""

    def close(self) -> None: ...

    def transaction(
        self, work: Callable[[Connection], T], *, alone: bool = True, lane: str | None = None
    ) -> T:
        """Run in a write transaction; returns once that is on disk. Raises Conflict where another
        one was in the way: everything was rolled back then."""

    def read(self, work: Callable[[Connection], T]) -> Future[T]: ...

    def read_now(self, work: Callable[[Connection], T]) -> T: ...

    async def hot(
        self, look_up: ByKeys, keys: Collection[Any], params: Mapping[str, Any]
    ) -> list[Row]:
        """Rows of a few keys, in the caller's event loop; one question at a time."""

    def is_lost(self, fault: Exception) -> bool:
        """Whether the whole transaction is lost, not one statement alone."""

    def was_second(self, fault: Exception) -> bool:
        """Whether another transaction was the first to write what may be there once only: done
        anew, what it wrote is found."""


class Store(Protocol):
    """What reads and writes: the database, or a lane's side of it."""

    async def read(self, job: Callable[[Connection], T]) -> T: ...

    async def write(self, job: Callable[[Connection], T]) -> T:
        """Run `job` in the writer's next transaction; returns once that is on disk."""


class Together(Generic[A, T]):
    """Work that is done at once for all who ask for it: an answer for each, in their order."""

    def __init__(self, run: Callable[[Connection, Sequence[A]], Sequence[T]]) -> None:
        self.run = run


class _Answer(Generic[T]):
    """What becomes of a write, for somebody in an event loop. A Future that threads may wait for
    costs several times as much."""

    __slots__ = ("_given", "_loop", "future")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._given = False
        self.future: asyncio.Future[T] = self._loop.create_future()

    def set_running_or_notify_cancel(self) -> bool:
        return not self.future.cancelled()

    def done(self) -> bool:
        return self._given

    def set_result(self, result: T) -> None:
        self._tell(self.future.set_result, result)

    def set_exception(self, fault: Exception) -> None:
        self._tell(self.future.set_exception, fault)

    def _tell(self, end: Callable[[Any], None], what: Any) -> None:
        self._given = True
        with suppress(RuntimeError):  # the loop has ended: nobody waits any more
            self._loop.call_soon_threadsafe(self._end, end, what)

    def _end(self, end: Callable[[Any], None], what: Any) -> None:
        if not self.future.done():
            end(what)


@dataclass(slots=True, eq=False)
class _Write:
    """A write that waits: a job, or something given to work that is done together."""

    answer: Future[Any] | _Answer[Any]
    job: Callable[[Connection], Any] | None = None
    lane: str | None = None
    together: Together[Any, Any] | None = None
    given: Any = None

    def run(self, conn: Connection) -> Any:
        if self.job:
            return self.job(conn)
        assert self.together  # noqa: S101  # a write is one or the other
        return self.together.run(conn, [self.given])[0]


def make_engine(url: str, *, patient: bool = False, patient_reads: bool = False) -> Engine:
    """`patient` for work by hand of which one statement may take minutes, `patient_reads` where
    only one that reads may."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return SQLite(parsed)
    return PostgreSQL(_spelled(parsed), patient=patient, patient_reads=patient_reads)


def _spelled(url: URL) -> URL:
    """`sslmode` as everybody knows it is the driver's `ssl`."""
    mode = url.query.get("sslmode")
    return (
        url.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode}) if mode else url
    )


class Database:
    """One database, its writer thread and its readers."""

    def __init__(self, url: str, *, patient_reads: bool = False) -> None:
        self.url = url
        self.engine = make_engine(url, patient_reads=patient_reads)
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._after_commit: list[Callable[[], None]] = []

    @property
    def many_write(self) -> bool:
        """Whether processes write at once, on one machine or several."""
        return isinstance(self.engine, PostgreSQL)

    @property
    def many_read(self) -> bool:
        """Whether another process may read beside this one."""
        return self.many_write or sqlite.many_may_open()

    def open(self) -> Self:
        """Raises SettingsError or Unavailable."""
        self.engine.open()
        self._thread = threading.Thread(target=self._write_loop, name="prefs-write", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        if self._thread:
            self._queue.put(None)
            self._thread.join(30)
            self._thread = None
        self.engine.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def waiting(self) -> int:
        """Writes that no transaction has taken up yet."""
        return self._queue.qsize()

    def on_commit(self, call: Callable[[], None]) -> None:
        """Call this (from the writer thread) once after every group of commits."""
        self._after_commit.append(call)

    async def write(self, job: Callable[[Connection], T]) -> T:
        """Run `job`, alone, in the writer's next transaction; returns once that is on disk.

        Raises Unavailable when the store is away or stays locked.
        """
        return await self._answered(_Answer(), job)

    async def write_with(self, together: Together[A, T], given: A, *, patient: bool = True) -> T:
        """Have this done with what others give at the same time. Raises Busy for who is not patient
        when too much waits."""
        if not patient and self.waiting > WAITING:
            raise Busy("too much waits to be written", retry_after=RETRY_AFTER)
        return await self._answered(_Answer(), together=together, given=given)

    def of(self, lane: str) -> Store:
        """A lane's side: only what writes for the same lane, or alone, waits for it."""
        return _Side(self, lane)

    async def write_of(self, lane: str, job: Callable[[Connection], T]) -> T:
        return await self._answered(_Answer(), job, lane)

    async def _answered(self, answer: _Answer[T], *what: Any, **more: Any) -> T:
        self._queue.put(_Write(answer, *what, **more))
        return await answer.future

    def write_now(self, job: Callable[[Connection], T]) -> T:
        """The same as `write` for callers without an event loop."""
        future: Future[T] = Future()
        self._queue.put(_Write(future, job))
        return future.result()

    async def read(self, job: Callable[[Connection], T]) -> T:
        return await asyncio.wrap_future(self.engine.read(job))

    def read_now(self, job: Callable[[Connection], T]) -> T:
        return self.engine.read_now(job)

    def _write_loop(self) -> None:
        while batch := self._next_batch():
            GROUPS.observe(len(batch))
            for unit in self._units(batch):
                self._run(unit)
            self._tell()

    def _tell(self) -> None:
        """What was written is on disk, whatever becomes of telling."""
        for call in self._after_commit:
            try:
                call()
            except Exception as fault:  # noqa: BLE001  # the writer outlives every fault
                log.error("not_told_of_commit", fault=type(fault).__name__)

    def _run(self, unit: list[_Write]) -> None:
        """The writer outlives every fault. Where others are in the way time and again, each write
        is tried by itself."""
        try:
            if not self._committed(unit) and len(unit) > 1:
                for write in unit:
                    self._run([write])
        except Exception as fault:  # noqa: BLE001  # as the docstring says
            log.error("write_failed", fault=type(fault).__name__)
            _fail(unit, fault)

    def _committed(self, unit: list[_Write]) -> bool:
        """False where another transaction was in the way each time; raises for a single write."""
        for _ in range(TRIES):
            with suppress(Conflict), COMMITS.time(), span("store.commit", jobs=len(unit)):
                self._commit(unit)
                return True
        if len(unit) == 1:
            raise Unavailable("others are in the way")
        return False

    def _next_batch(self) -> list[_Write]:
        first = self._queue.get()
        if first is None:
            return []
        batch = [first]
        with suppress(queue.Empty):
            while len(batch) < GROUP:
                write = self._queue.get_nowait()
                if write is None:
                    self._queue.put(None)
                    break
                batch.append(write)
        return batch

    def _units(self, batch: Iterable[_Write]) -> Iterable[list[_Write]]:
        """What shares a transaction: everything on SQLite, on PostgreSQL what keeps the same
        company."""
        units: dict[Any, list[_Write]] = {}
        for write in batch:
            if write.answer.set_running_or_notify_cancel():
                company = write.together or write.lane if self.many_write else None
                units.setdefault(company, []).append(write)
        return units.values()

    def _commit(self, unit: list[_Write]) -> None:
        try:
            finished = self._transaction(unit, self._run_whole if _is_one(unit) else self._run_all)
        except _Undone as undone:
            if len(unit) > 1 or self.engine.was_second(undone.fault):
                finished = self._transaction(unit, self._run_each)
            else:
                finished = [_Done(unit[0], None, undone.fault)]
        for write, result, fault in finished:
            if fault:
                write.answer.set_exception(fault)
            else:
                write.answer.set_result(result)

    def _transaction(
        self, unit: list[_Write], run: Callable[[Connection, list[_Write]], list[_Done]]
    ) -> list[_Done]:
        first = unit[0]
        alone = first.together is None and first.lane is None
        return self.engine.transaction(lambda conn: run(conn, unit), alone=alone, lane=first.lane)

    def _run_whole(self, conn: Connection, unit: list[_Write]) -> list[_Done]:
        """What nobody else shares the transaction with needs no savepoint: where it fails, all of
        it is rolled back."""
        try:
            return _run_at_once(conn, unit)
        except Exception as fault:
            if self.engine.is_lost(fault):
                raise
            raise _Undone(fault) from fault

    def _run_all(self, conn: Connection, unit: list[_Write]) -> list[_Done]:
        return [done for part in _parts(unit) for done in self._run_part(conn, part)]

    def _run_part(self, conn: Connection, part: list[_Write]) -> list[_Done]:
        """Writes that are done at once; each by itself where that fails."""
        finished, fault = self._saved(conn, lambda: _run_at_once(conn, part))
        if fault is None:
            return cast(list[_Done], finished)
        return [_Done(part[0], None, fault)] if len(part) == 1 else self._run_each(conn, part)

    def _run_each(self, conn: Connection, unit: list[_Write]) -> list[_Done]:
        return [self._run_one(conn, write) for write in unit]

    def _run_one(self, conn: Connection, write: _Write) -> _Done:
        return _Done(write, *self._saved(conn, lambda: write.run(conn)))

    def _saved(self, conn: Connection, run: Callable[[], Any]) -> tuple[Any, Exception | None]:
        """The result, or the fault that lost no more than what was run."""
        conn.exec_driver_sql("SAVEPOINT job")
        try:
            result = run()
        except Exception as fault:
            if self.engine.is_lost(fault):
                raise
            conn.exec_driver_sql("ROLLBACK TO SAVEPOINT job")
            conn.exec_driver_sql("RELEASE SAVEPOINT job")
            return None, fault
        conn.exec_driver_sql("RELEASE SAVEPOINT job")
        return result, None


@dataclass(frozen=True, slots=True)
class _Side:
    """Implements Store for one lane."""

    database: Database
    lane: str

    async def read(self, job: Callable[[Connection], T]) -> T:
        return await self.database.read(job)

    async def write(self, job: Callable[[Connection], T]) -> T:
        return await self.database.write_of(self.lane, job)


class _Undone(Exception):
    """Takes the fault of a write out of its transaction, which is rolled back by it."""

    def __init__(self, fault: Exception) -> None:
        super().__init__()
        self.fault = fault


class _Done(NamedTuple):
    write: _Write
    result: Any
    fault: Exception | None


def _parts(unit: Iterable[_Write]) -> Iterable[list[_Write]]:
    """Jobs one by one, what is done together at once, in the order in which the first came."""
    parts: dict[Any, list[_Write]] = {}
    for write in unit:
        parts.setdefault(write.together or write, []).append(write)
    return parts.values()


def _is_one(unit: list[_Write]) -> bool:
    """Whether it is a single job, or one work that is done together."""
    first = unit[0]
    return len(unit) == 1 or (first.together is not None and len(list(_parts(unit))) == 1)


def _run_at_once(conn: Connection, part: list[_Write]) -> list[_Done]:
    together = part[0].together
    if together is None:
        return [_Done(write, write.run(conn), None) for write in part]
    results = together.run(conn, [write.given for write in part])
    return [_Done(write, one, None) for write, one in zip(part, results, strict=True)]


def _fail(unit: Iterable[_Write], fault: Exception) -> None:
    error = fault if isinstance(fault, PrefsError) else Unavailable("the store did not answer")
    for write in unit:
        if not write.answer.done():
            write.answer.set_exception(error)
