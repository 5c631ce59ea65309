"""PostgreSQL, and what speaks its protocol: any number of processes.

The driver is asynchronous and a job is a plain function of a connection, so that two threads with
an event loop each carry them: one for the writer, one for the readers, which then never wait for
each other. A read sees one moment (REPEATABLE READ), as on SQLite.

Every write transaction takes an advisory lock, which ends with it: one that runs alone takes it for
itself, so that what it judges is still so at its commit; lanes and what is recorded together share
it, and lock the rows that they go by. A process that freezes inside one is cut off by the server
(`idle_in_transaction_session_timeout`), and the others go on.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import asyncpg
import structlog
import uvloop
from asyncpg import InterfaceError as Refused
from asyncpg import InternalClientError, PostgresError
from sqlalchemy import Connection, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as AllTaken
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from prefs.core.errors import SettingsError, Unavailable
from prefs.metrics import POOL
from prefs.store import dialect
from prefs.store.direct import WORDS
from prefs.store.hot import ByKeys, Row

T = TypeVar("T")

WRITERS = 0x7072656673
"""The advisory lock of whoever writes ("prefs")."""
LANES = 0x6C616E65
"""The kind of lock of a lane's name ("lane")."""
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_ALONE = f"{_BEGIN}; SELECT pg_advisory_xact_lock({WRITERS})"
_SHARED = f"{_BEGIN}; SELECT pg_advisory_xact_lock_shared({WRITERS})"
"""Begin and lock in one way there and back."""
LOCKED = "55P03"
LOCK_MS = 5000
IDLE_MS = 2000
"""Less than LOCK_MS: who waits for somebody frozen gets the lock."""
_CUT_OFF = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND application_name = 'prefs'
AND pid <> pg_backend_pid() AND state = 'active' AND wait_event = 'ClientRead'
AND xact_start < clock_timestamp() - $1::interval
AND state_change < clock_timestamp() - $1::interval"""
ANSWER_SECONDS, READ_SECONDS = 15.0, 60.0
"""Until a statement that writes, or reads, is no longer waited for: the way to the server is cut.
By hand (`patient`) a whole database may be carried over, get another index, or be read, in one."""
READ_IDLE_MS = 60_000
"""A reader keeps nobody waiting; one that streams may wait for whoever takes its rows."""
CONNECT_SECONDS = 5.0
READERS = 4
CONFLICTS = ("40001", "40P01")
TAKEN = "23505"
AWAY = ("08", "25P", "42P01", "53", LOCKED, "57", "58")
"""How the codes of faults begin that lose a transaction: connection, resources, locks, shutdown; no
such table, as in a database that was moved."""
FAULTS = (DBAPIError, AllTaken, PostgresError, Refused, InternalClientError)
"""SQLAlchemy's (the second where no connection of the pool became free), and those of the driver
where it runs a statement itself: the last is what it says of a server that ended a connection at
rest."""
VANISHED = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "25000",
}
"""Of a host that is gone without a word the server forgets the sessions after these 25 s: by itself
it keeps them, and their places among its connections, for two hours."""
DURABLE = ("fsync", "synchronous_commit", "full_page_writes")

log = structlog.get_logger()


def _settings(*, read_only: bool) -> dict[str, str]:
    return {
        "application_name": "prefs",
        "timezone": "UTC",
        "jit": "off",
        # What writes looks up by keys alone: to plan that anew each time costs more than to do it.
        # A plan that is kept must be none that was made for a table of one page.
        "plan_cache_mode": "auto" if read_only else "force_generic_plan",
        "enable_seqscan": "on" if read_only else "off",
        "lock_timeout": str(LOCK_MS),
        "idle_in_transaction_session_timeout": str(READ_IDLE_MS if read_only else IDLE_MS),
        "default_transaction_read_only": "on" if read_only else "off",
        **VANISHED,
    }


def make_engine(url: URL, *, read_only: bool = False, patient: bool = False) -> AsyncEngine:
    settings = _settings(read_only=read_only)
    answer = READ_SECONDS if read_only else ANSWER_SECONDS
    engine = create_async_engine(
        url.set(drivername="postgresql+asyncpg"),
        pool_size=READERS if read_only else 1,
        max_overflow=0,
        pool_timeout=LOCK_MS / 1000,
        isolation_level="REPEATABLE READ" if read_only else "AUTOCOMMIT",
        connect_args={
            "server_settings": settings,
            "timeout": CONNECT_SECONDS,
            "command_timeout": None if patient else answer,
        },
    )
    event.listen(engine.sync_engine, "checkout", _still_open)
    return engine


def _still_open(conn: Any, *_: object) -> None:
    """SQLAlchemy takes another one then."""
    if conn.driver_connection.is_closed():
        raise DisconnectionError


class Conflict(Exception):
    """Another transaction was in the way (a deadlock, or one that is cut off), or the server ended
    this one before its COMMIT (as we froze in it): to be done again."""


class Loop:
    """A thread with an event loop of its own."""

    def __init__(self, name: str) -> None:
        self._loop = uvloop.new_event_loop()
        self._ending = False
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """A job that waited for another one on its own loop would wait for ever. Raises
        RuntimeError then, and once it is closed: else the job would never begin."""
        with self._turn:
            if not self._ending and threading.current_thread() is not self._thread:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        if self._ending:
            raise RuntimeError("the database is closed")
        raise RuntimeError("a job uses the connection that it got, and asks for no other")

    def close(self) -> None:
        with self._turn:
            self._ending = True
            self._loop.call_soon_threadsafe(self._end)
        if threading.current_thread() is not self._thread:
            self._thread.join(10)
            self._loop.close()

    def _end(self) -> None:
        """What is still under way ends by itself: a job that is swept up later, elsewhere, breaks
        off in the midst of its connection."""
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            ended = self._loop.create_task(_wait_for(left))
            ended.add_done_callback(lambda _: self._loop.stop())
        else:
            self._loop.stop()


async def _wait_for(tasks: Collection[asyncio.Task[Any]]) -> None:
    await asyncio.wait(tasks, timeout=LOCK_MS / 1000)


class Side:
    """The writer's or the readers' connections, on a loop of their own."""

    def __init__(self, url: URL, name: str, *, read_only: bool, patient: bool = False) -> None:
        self._loop = Loop(name)
        self._engine = make_engine(url, read_only=read_only, patient=patient)
        self._wait = POOL.labels("read" if read_only else "write")
        # Also when nobody closes us: connections that are swept up while their loop runs crash it.
        self._end_loop = weakref.finalize(self, self._loop.close)

    def submit(self, work: Callable[[Connection], T]) -> Future[T]:
        return self._loop.submit(self._run(work))

    async def _run(self, work: Callable[[Connection], T]) -> T:
        asked = time.monotonic()
        with translated():
            async with self._engine.begin() as conn:
                self._wait.observe(time.monotonic() - asked)
                return await conn.run_sync(work)

    def close(self) -> None:
        self._loop.submit(self._engine.dispose()).result(10)
        self._end_loop()


class Writer(Side):
    """Begins and ends its transactions itself; to SQLAlchemy it is as if there were none."""

    def __init__(self, url: URL, name: str, *, patient: bool) -> None:
        super().__init__(url, name, read_only=False, patient=patient)

    def transaction(self, begin: str, work: Callable[[Connection], T]) -> Future[T]:
        return self._loop.submit(self._transaction(begin, work))

    async def _transaction(self, begin: str, work: Callable[[Connection], T]) -> T:
        asked = time.monotonic()
        with translated():
            async with self._engine.connect() as conn:
                self._wait.observe(time.monotonic() - asked)
                driver, inside = await _driver(conn), False
                try:
                    driver, inside = await _begun(conn, driver, begin), True
                    done = await conn.run_sync(work)
                    inside = False  # what becomes of a COMMIT that was sent nobody knows
                    await _commit(driver)
                except BaseException as fault:
                    was_ended = inside and driver.is_closed()
                    await _undo(conn, driver)
                    if was_ended or (_state(fault) == LOCKED and await _cut_off_frozen(driver)):
                        raise Conflict from fault
                    raise
                return done


async def _driver(conn: AsyncConnection) -> Any:
    return (await conn.get_raw_connection()).driver_connection


async def _begun(conn: AsyncConnection, driver: Any, begin: str) -> Any:
    """The driver's connection: another one where this one turns out to be gone, as nothing has been
    done on it."""
    try:
        await driver.execute(begin)
    except (*FAULTS, OSError):
        if not driver.is_closed():
            raise
        await conn.invalidate()
        driver = await _driver(conn)
        await driver.execute(begin)
    return driver


async def _commit(driver: Any) -> None:
    """Raises Conflict where a fault that somebody overlooked had ended the transaction: the server
    takes such a COMMIT for a ROLLBACK, and says so without a fault."""
    if await driver.execute("COMMIT") != "COMMIT":
        raise Conflict


async def _undo(conn: AsyncConnection, driver: Any) -> None:
    """A connection that cannot even do that is used no more."""
    with suppress(*FAULTS, OSError, TimeoutError):
        await driver.execute("ROLLBACK")
        return
    await conn.invalidate()


class Line:
    """A connection on the event loop of whoever asks, for look-ups of one statement: no thread is
    woken for a question, and no transaction begun, as one statement sees one moment. Opened at its
    first question, and anew after a fault."""

    def __init__(self, url: URL) -> None:
        self._where = WORDS.create_connect_args(url)[1]
        self._driver: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def ask(
        self, text: str, values: Sequence[object], *, once_more: bool = True
    ) -> list[Any]:
        """The rows; one question at a time. Where the connection turns out to be gone, another one
        is asked."""
        with translated():
            driver = await self._opened()
            try:
                found: list[Any] = await driver.fetch(text, *values, timeout=LOCK_MS / 1000)
                return found
            except BaseException as fault:  # also who is cut off in the midst of an answer
                was_gone = isinstance(fault, Exception) and driver.is_closed()
                self.close()
                if not (was_gone and once_more):
                    raise
        return await self.ask(text, values, once_more=False)

    async def _opened(self) -> Any:
        loop = asyncio.get_running_loop()
        if self._driver is None or self._loop is not loop or self._driver.is_closed():
            self.close()
            settings = _settings(read_only=True)
            self._driver = await asyncpg.connect(
                **self._where, server_settings=settings, timeout=CONNECT_SECONDS
            )
            self._loop = loop
        return self._driver

    def close(self) -> None:
        """From whatever thread, and when its loop has ended."""
        driver, self._driver = self._driver, None
        if driver is not None:
            with suppress(RuntimeError):
                driver.terminate()


async def _cut_off_frozen(driver: Any) -> bool:
    """By who waited for a lock in vain: a session of ours that has been in the midst of sending a
    statement for a while belongs to a process that froze there. To the server it is not idle, so
    that no limit of its own ends it."""
    cut: list[Any] = []
    with suppress(*FAULTS, OSError):
        cut = await driver.fetch(_CUT_OFF, timedelta(milliseconds=IDLE_MS))
    if cut:
        log.warning("cut_off_frozen", sessions=len(cut))
    return bool(cut)


class PostgreSQL:
    """Implements prefs.store.database.Engine."""

    def __init__(self, url: URL, *, patient: bool = False, patient_reads: bool = False) -> None:
        reads = patient or patient_reads
        self._writer = Writer(url, "prefs-write-io", patient=patient)
        self._readers = Side(url, "prefs-read-io", read_only=True, patient=reads)
        self._line = Line(url)
        self._closed = False

    def open(self) -> None:
        self._readers.submit(check_durable).result()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._line.close()
            self._readers.close()
            self._writer.close()

    def transaction(
        self, work: Callable[[Connection], T], *, alone: bool = True, lane: str | None = None
    ) -> T:
        def carried(conn: Connection) -> T:
            if lane is not None:
                dialect.lock(conn, LANES, lane)
            return work(conn)

        return self._writer.transaction(_ALONE if alone else _SHARED, carried).result()

    def read(self, work: Callable[[Connection], T]) -> Future[T]:
        return self._readers.submit(work)

    def read_now(self, work: Callable[[Connection], T]) -> T:
        return self.read(work).result()

    async def hot(
        self, look_up: ByKeys, keys: Collection[Any], params: Mapping[str, Any]
    ) -> list[Row]:
        return await self._line.ask(*look_up.on_postgres(keys, params))

    @staticmethod
    def is_lost(fault: Exception) -> bool:
        """Whether the whole transaction is lost, not one statement alone."""
        state = _state(fault) or ""
        if state in CONFLICTS or state.startswith(AWAY) or isinstance(fault, OSError):
            return True  # TimeoutError is an OSError
        if isinstance(fault, DBAPIError):
            return fault.connection_invalidated or isinstance(
                fault, (OperationalError, InterfaceError)
            )
        # A value that the driver cannot send is a ValueError too, and loses nothing.
        away = isinstance(fault, (Refused, InternalClientError))
        return away and not isinstance(fault, ValueError)

    @staticmethod
    def was_second(fault: Exception) -> bool:
        """The server waits for the first one's end before it says so."""
        return _state(fault) == TAKEN


def _state(fault: BaseException) -> str | None:
    """https://www.postgresql.org/docs/current/errcodes-appendix.html"""
    told = fault.orig if isinstance(fault, DBAPIError) else fault
    return getattr(told, "sqlstate", None)


def check_durable(conn: Connection) -> None:
    """What is acknowledged must be on disk. Raises SettingsError."""
    off = [name for name in DURABLE if conn.exec_driver_sql(f"SHOW {name}").scalar_one() == "off"]
    if off:
        raise SettingsError(
            [
                f"database: the server runs with {name} = off, so that an acknowledged opt-out "
                f"can be lost; set {name} = on in postgresql.conf"
                for name in off
            ]
        )


@contextmanager
def translated() -> Iterator[None]:
    """A server that is away, or a lock that is not given, is `Unavailable`; the driver's text
    stays inside."""
    try:
        yield
    except (*FAULTS, OSError, TimeoutError) as fault:
        if _state(fault) in CONFLICTS:
            raise Conflict from fault
        what = fault.orig if isinstance(fault, DBAPIError) else fault
        log.error("store_unavailable", fault=type(what).__name__, code=_state(fault))
        raise Unavailable("the store is away or locked") from fault
