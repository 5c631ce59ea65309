"""Connections, the one writer and its group commit.

Every write goes through `Database.write`: a function of a connection, run by the writer inside a
transaction that it shares with whatever else waited meanwhile; the awaited result comes after the
commit is on disk. A function that raises loses its own writes only. What the engines do each their
own way stands in `sqlite.py` and `postgres.py`.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Protocol, Self, TypeVar

import structlog
from sqlalchemy import Connection
from sqlalchemy.engine import make_url

from prefs.core.errors import PrefsError, Unavailable
from prefs.core.spans import span
from prefs.metrics import COMMITS, GROUPS
from prefs.store.postgres import PostgreSQL
from prefs.store.sqlite import SQLite

T = TypeVar("T")
Job = tuple[Callable[[Connection], Any], "Future[Any]"]

GROUP = 256

log = structlog.get_logger()


class Engine(Protocol):
    """One kind of database. All but `open` raise Unavailable when it is away or stays locked."""

    def open(self) -> None:
        """Raises SettingsError where it cannot be relied on."""

    def close(self) -> None: ...

    def transaction(self, work: Callable[[Connection], T]) -> T:
        """Run in the one write transaction; returns once that is on disk."""

    def read(self, work: Callable[[Connection], T]) -> Future[T]: ...

    def read_now(self, work: Callable[[Connection], T]) -> T: ...

    def is_lost(self, fault: Exception) -> bool:
        """Whether the whole transaction is lost, not one statement alone."""


def make_engine(url: str) -> Engine:
    parsed = make_url(url)
    return SQLite(parsed) if parsed.get_backend_name() == "sqlite" else PostgreSQL(parsed)


class Database:
    """One database, its writer thread and its readers."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = make_engine(url)
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._after_commit: list[Callable[[], None]] = []

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
        return await asyncio.wrap_future(self.engine.read(job))

    def read_now(self, job: Callable[[Connection], T]) -> T:
        return self.engine.read_now(job)

    def _write_loop(self) -> None:
        while batch := self._next_batch():
            try:
                self._run_measured(batch)
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

    def _run_measured(self, batch: list[Job]) -> None:
        GROUPS.observe(len(batch))
        with COMMITS.time(), span("store.commit", jobs=len(batch)):
            self._run_batch(batch)

    def _run_batch(self, batch: list[Job]) -> None:
        def work(conn: Connection) -> list[tuple[Future[Any], Any]]:
            done: list[tuple[Future[Any], Any]] = []
            for job, future in batch:
                if future.set_running_or_notify_cancel():
                    self._run_job(conn, job, future, done)
            return done

        for future, result in self.engine.transaction(work):
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
            if self.engine.is_lost(fault):
                raise
            conn.exec_driver_sql("ROLLBACK TO SAVEPOINT job")
            conn.exec_driver_sql("RELEASE SAVEPOINT job")
            future.set_exception(fault)
        else:
            conn.exec_driver_sql("RELEASE SAVEPOINT job")
            done.append((future, result))


def _fail(batch: list[Job], fault: Exception) -> None:
    error = fault if isinstance(fault, PrefsError) else Unavailable("the store did not answer")
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
