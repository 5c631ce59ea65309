"""The writer: durable before it answers, one bad job alone, a locked store said plainly."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, insert, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError

from prefs.core.errors import SettingsError, Unavailable
from prefs.core.keys import Keyring
from prefs.store import migrate, postgres, sqlite
from prefs.store.database import Database, Together
from prefs.store.keys import check_keys
from prefs.store.schema import PARTITIONED, counters, metadata
from tests import empty
from tests.empty import locked
from tests.kit import SECRET
from tests.served import eventually
from tests.way import Way


@pytest.fixture
def url(tmp_path: Path) -> str:
    return empty.database(tmp_path)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with Database(url) as opened:
        yield opened


def names(conn: Connection) -> set[str]:
    return set(conn.execute(select(counters.c.name)).scalars())


def add(name: str) -> Callable[[Connection], str]:
    def job(conn: Connection) -> str:
        conn.execute(insert(counters), {"name": name, "value": 1})
        return name

    return job


def whole(name: str | None, kind: str, _: Any) -> bool:
    return kind != "table" or not re.fullmatch(r"(ledger|payloads|receipts)_\d", name or "")


def partitioned(difference: Any) -> bool:
    """On PostgreSQL `n` has a plain index: no constraint of a partitioned table is without its
    key."""
    named = {"add_constraint": ["n"], "remove_index": ["n"]}.get(difference[0])
    return bool(named) and [column.name for column in difference[1].columns] == named


def test_the_migrations_make_the_schema(url: str) -> None:
    def look(conn: Connection) -> None:
        context = MigrationContext.configure(conn, opts={"include_name": whole})
        assert [one for one in compare_metadata(context, metadata) if not partitioned(one)] == []
        assert migrate.is_current(conn)

    with Database(url) as database:
        database.read_now(look)


def test_a_database_of_another_version_is_refused(url: str) -> None:
    with Database(url) as database:
        other = "UPDATE alembic_version SET version_num = '0001'"
        database.write_now(lambda conn: conn.exec_driver_sql(other))
    with pytest.raises(SettingsError, match="run prefs migrate"):
        migrate.ensure(url)


@pytest.mark.sqlite
def test_commits_are_synced_in_full_to_a_write_ahead_log(database: Database) -> None:
    def pragmas(conn: Connection) -> tuple[str, int]:
        mode = conn.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        return mode, conn.exec_driver_sql("PRAGMA synchronous").scalar_one()

    assert database.write_now(pragmas) == ("wal", 2)


def test_concurrent_writes_share_commits(database: Database) -> None:
    commits: list[None] = []
    database.on_commit(lambda: commits.append(None))

    async def many() -> list[str]:
        return list(await asyncio.gather(*(database.write(add(f"n{n}")) for n in range(200))))

    assert len(asyncio.run(many())) == 200
    eventually(lambda: commits)
    assert len(commits) < 100
    assert len(database.read_now(names)) == 200


def test_a_result_comes_after_the_commit(database: Database, url: str) -> None:
    database.write_now(add("seen"))
    with Database(url) as other:
        assert other.read_now(names) == {"seen"}


@pytest.mark.postgresql
def test_who_comes_second_finds_what_the_first_one_wrote(database: Database, url: str) -> None:
    """Both looked before either had written: two requests with one key, two first ones that name
    one person."""
    looked, tries = threading.Barrier(2), list[None]()

    def find_or_add(conn: Connection, given: Sequence[str]) -> list[bool]:
        found = set(given) <= names(conn)
        tries.append(None)
        if len(tries) <= 2:
            looked.wait(10)
        if not found:
            add(given[0])(conn)
        return [found]

    async def both(other: Database) -> list[bool]:
        writes = (one.write_with(Together(find_or_add), "once") for one in (database, other))
        return list(await asyncio.gather(*writes))

    with Database(url) as other:
        assert sorted(asyncio.run(both(other))) == [False, True]
    assert len(tries) == 3


def test_a_job_that_fails_loses_its_own_writes_only(database: Database) -> None:
    def half(conn: Connection) -> None:
        add("half")(conn)
        raise ValueError("no")

    async def mixed() -> list[object]:
        jobs = [database.write(add("one")), database.write(half), database.write(add("two"))]
        return list(await asyncio.gather(*jobs, return_exceptions=True))

    first, second, third = asyncio.run(mixed())
    assert (first, third) == ("one", "two")
    assert isinstance(second, ValueError)
    assert database.read_now(names) == {"one", "two"}


def test_one_that_fails_among_many_together_takes_nobody_along(database: Database) -> None:
    def run(conn: Connection, given: Sequence[str]) -> list[str]:
        written = [add(name)(conn) for name in given]
        if "bad" in given:
            raise ValueError("no")
        return written

    together = Together(run)

    async def many() -> list[object]:
        first = database.write(lambda _: time.sleep(0.1))  # meanwhile the others gather
        given = (database.write_with(together, name) for name in ("one", "bad", "two"))
        _, *found = await asyncio.gather(first, *given, return_exceptions=True)
        return list(found)

    one, bad, two = asyncio.run(many())
    assert (one, two) == ("one", "two")
    assert isinstance(bad, ValueError)
    assert database.read_now(names) == {"one", "two"}


def test_who_gives_up_before_the_writer_begins_is_not_written(database: Database) -> None:
    async def main() -> str:
        first = asyncio.create_task(database.write(lambda _: time.sleep(0.1)))
        await asyncio.sleep(0.02)
        second = asyncio.create_task(database.write(add("given up")))
        await asyncio.sleep(0.02)
        second.cancel()
        await first
        return await database.write(add("after"))

    assert asyncio.run(main()) == "after"
    assert database.read_now(names) == {"after"}


@pytest.mark.postgresql
def test_a_write_whose_fault_was_overlooked_is_not_acknowledged(database: Database) -> None:
    """PostgreSQL ends the transaction at a fault, and takes its COMMIT without one."""

    def careless(conn: Connection) -> str:
        add("first")(conn)
        with suppress(DBAPIError):
            conn.exec_driver_sql("SELECT nothing FROM nowhere")
        return "done"

    with pytest.raises(Unavailable):
        database.write_now(careless)
    assert database.read_now(names) == set()


@pytest.mark.postgresql
def test_a_connection_that_was_cut_off_is_replaced(database: Database) -> None:
    def cut(conn: Connection) -> None:
        conn.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(Unavailable):
        database.write_now(cut)
    assert database.write_now(add("after")) == "after"


@pytest.mark.postgresql
def test_what_was_cut_off_because_we_froze_is_done_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server cannot wait for us, others would: but whoever wrote through us need not know."""
    monkeypatch.setattr(postgres, "IDLE_MS", 100)
    tries = list[None]()

    def freezes(conn: Connection) -> str:
        tries.append(None)
        add("first")(conn)
        if len(tries) == 1:
            time.sleep(0.5)
        return add("second")(conn)

    with Database(url) as database:
        assert database.write_now(freezes) == "second"
        assert database.read_now(names) == {"first", "second"}
    assert len(tries) == 2


END_ALL = text(
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    " AND datname = current_database() AND application_name = 'prefs'"
)


@pytest.mark.postgresql
def test_connections_that_the_server_ended_at_rest_are_replaced_unnoticed(
    database: Database, url: str
) -> None:
    """As when it was restarted."""

    def read() -> list[set[str]]:
        together = [database.engine.read(names) for _ in range(postgres.READERS)]
        return [one.result() for one in together]

    with Database(url) as other:
        for number in range(10):
            database.write_now(add(f"before {number}"))
            read()
            ended = other.read_now(lambda conn: conn.execute(END_ALL).scalars().all())
            assert len(ended) > postgres.READERS
            assert all(ended)
            database.write_now(add(f"after {number}"))
            assert {len(one) for one in read()} == {2 * number + 2}


@pytest.mark.postgresql
def test_a_write_that_is_the_first_to_find_its_connection_gone_takes_another(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_still_open", lambda *_: None)
    with Database(url) as database, Database(url) as other:
        for name in ("first", "second", "third"):
            assert database.write_now(add(name)) == name
            other.read_now(lambda conn: conn.execute(END_ALL).all())
        assert other.read_now(names) == {"first", "second", "third"}


def test_the_same_key_twice_fails_the_second_alone(database: Database) -> None:
    database.write_now(add("same"))
    with pytest.raises(Exception, match=r"(?i)unique"):
        database.write_now(add("same"))
    assert database.write_now(add("other")) == "other"


def test_a_locked_store_is_unavailable_and_the_writer_lives_on(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_MS", 50)
    monkeypatch.setattr(postgres, "LOCK_MS", 50)
    with Database(url) as database:
        with locked(url), pytest.raises(Unavailable):
            database.write_now(add("late"))
        assert database.write_now(add("after")) == "after"
        assert database.read_now(names) == {"after"}


def test_readers_cannot_write(database: Database) -> None:
    with pytest.raises(Unavailable):
        database.read_now(add("sneaky"))


def test_reads_go_on_while_a_write_is_under_way(database: Database) -> None:
    inside, leave = threading.Event(), threading.Event()

    def slow(conn: Connection) -> None:
        add("slow")(conn)
        inside.set()
        leave.wait(5)

    writing = threading.Thread(target=database.write_now, args=(slow,))
    writing.start()
    assert inside.wait(5)
    assert database.read_now(names) == set()
    leave.set()
    writing.join(5)
    assert database.read_now(names) == {"slow"}


@pytest.mark.sqlite
def test_an_old_library_keeps_a_second_process_off_the_file(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sqlite.library()
    old = SimpleNamespace(sqlite_version_info=(3, 40, 1), Error=real.Error)
    with Database(url):
        monkeypatch.setattr(sqlite, "library", lambda: old)
        first, second = sqlite.ProcessLock(_parsed(url)), sqlite.ProcessLock(_parsed(url))
        first.take()
        with pytest.raises(SettingsError, match=r"older than 3\.51\.3"):
            second.take()
        first.free()
        second.take()
        second.free()


def _parsed(url: str) -> URL:
    return make_url(url)


def test_a_missing_key_stops_the_start(database: Database) -> None:
    old, new = Keyring([SECRET]), Keyring([b"another secret of thirty-two bytes"])
    database.write_now(lambda conn: check_keys(conn, old, 1.0))
    with pytest.raises(SettingsError, match="add the old secret"):
        database.write_now(lambda conn: check_keys(conn, new, 2.0))
    both = Keyring([b"another secret of thirty-two bytes", SECRET])
    database.write_now(lambda conn: check_keys(conn, both, 3.0))


@pytest.mark.postgresql
def test_what_grows_is_partitioned_as_the_schema_says(database: Database) -> None:
    wanted = text(
        "SELECT c.relname, a.attname FROM pg_partitioned_table p "
        "JOIN pg_class c ON c.oid = p.partrelid "
        "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]"
    )
    found = database.read_now(lambda conn: conn.execute(wanted).all())
    assert {str(name): str(column) for name, column in found} == PARTITIONED


def test_the_writer_outlives_whoever_is_told_of_a_commit(database: Database) -> None:
    def broken() -> None:
        raise RuntimeError("nobody listens")

    database.on_commit(broken)
    assert database.write_now(add("first")) == "first"
    assert database.write_now(add("second")) == "second"


@pytest.mark.postgresql
def test_who_freezes_in_the_midst_of_a_statement_is_cut_off(
    database: Database, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "ANSWER_SECONDS", 1.0)
    said: list[Exception] = []

    def half() -> None:
        with Way(url, halts=b"half_sent") as way, Database(way.url) as frozen:
            try:
                frozen.write_now(lambda conn: conn.execute(text("SELECT 1 AS half_sent")))
            except Unavailable as fault:
                said.append(fault)

    writing = threading.Thread(target=half)
    writing.start()
    eventually(lambda: _waits_for(database, "%half_sent%"))
    assert database.write_now(add("second")) == "second"
    writing.join(10)
    assert said


@pytest.mark.postgresql
def test_a_process_starts_though_another_froze_in_the_midst_of_a_statement(
    database: Database, url: str
) -> None:
    """The worker that was to follow the frozen one ended at its own start."""

    def half() -> None:
        way = Way(url, halts=b"half_sent")
        with way, Database(way.url) as frozen, suppress(Unavailable):
            frozen.write_now(lambda conn: conn.execute(text("SELECT 1 AS half_sent")))

    writing = threading.Thread(target=half)
    writing.start()
    eventually(lambda: _waits_for(database, "%half_sent%"))
    migrate.ensure(url)
    writing.join(30)


@pytest.mark.postgresql
def test_a_read_that_gets_no_answer_is_given_up_and_the_next_one_reads(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a lane that looks whether anything is due would wait for ever, and hold its lease."""
    monkeypatch.setattr(postgres, "READ_SECONDS", 0.5)
    with Way(url, halts=b"half_sent") as way, Database(way.url) as database:
        for _ in range(postgres.READERS + 1):
            with pytest.raises(Unavailable):
                database.read_now(lambda conn: conn.execute(text("SELECT 1 AS half_sent")))
            assert database.read_now(lambda conn: conn.execute(text("SELECT 2")).scalar_one()) == 2


@pytest.mark.postgresql
def test_a_read_for_which_no_connection_becomes_free_finds_the_store_away(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while a server hangs that all of them wait for."""
    monkeypatch.setattr(postgres, "LOCK_MS", 100)
    with Database(url) as database:
        slowly = [
            database.engine.read(lambda conn: conn.execute(text("SELECT pg_sleep(1)")).all())
            for _ in range(postgres.READERS)
        ]
        with pytest.raises(Unavailable):
            database.read_now(names)
        assert [len(one.result()) for one in slowly] == [1] * postgres.READERS


@pytest.mark.postgresql
def test_a_read_that_is_under_way_ends_when_its_database_is_closed(
    database: Database, url: str
) -> None:
    """Else whoever waits for it would wait for ever."""
    closing = Database(url).open()
    read = closing.engine.read(lambda conn: conn.execute(text("SELECT pg_sleep(50)")))
    eventually(lambda: _waits_for(database, "%pg_sleep(50)%", "PgSleep"))
    closing.close()
    with pytest.raises((Unavailable, CancelledError)):
        read.result(10)


@pytest.mark.postgresql
def test_by_hand_a_read_may_take_long(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "READ_SECONDS", 0.2)
    slowly = text("SELECT pg_sleep(0.5)")
    monkeypatch.setattr(postgres, "ANSWER_SECONDS", 0.2)
    with Database(url, patient_reads=True) as database:
        database.read_now(lambda conn: conn.execute(slowly))
        with pytest.raises(Unavailable):
            database.write_now(lambda conn: conn.execute(slowly))
    with Database(url) as database, pytest.raises(Unavailable):
        database.read_now(lambda conn: conn.execute(slowly))


def _waits_for(database: Database, statement: str, event: str = "ClientRead") -> bool:
    """Whether a session waits so in it; by itself for the rest of the statement."""
    asked = text(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE :one AND state = 'active' "
        "AND wait_event = :event AND pid <> pg_backend_pid()"
    )
    values = {"one": statement, "event": event}
    found = database.read_now(lambda conn: conn.execute(asked, values).scalar_one())
    return bool(found)
