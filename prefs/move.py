"""Carrying a whole installation from one database to another.

Table by table, in batches, through SQLAlchemy Core (COPY where the target is PostgreSQL), with a
digest of every table on its way out and again on the other side. The source is locked for as long:
whoever would write there is told to try later, so that nothing acknowledged stays behind. A target
counts as empty until all of it is there and verified; one that a broken-off move left is begun
anew. The old database is left as it is, but for the names of two tables, and marked: a service that
starts on it is refused, and one that was cut off from it as it moved can do nothing there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import Connection, Integer, Table, func, insert, inspect, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.util import await_only

from prefs.core.errors import PrefsError
from prefs.intake import Intake
from prefs.store import counters, marks, migrate
from prefs.store.database import Engine, make_engine
from prefs.store.keys import check_keys
from prefs.store.schema import metadata
from prefs.store.sqlite import in_use
from prefs.verify import Verified, verify

AT_ONCE = 5000
"""Rows in one batch."""
CLOSING = 2.0
"""Seconds in which connections that were closed just now are gone from the server's list."""
MOST = 1 << 256
CARRIED = [table for table in metadata.sorted_tables if table.name != "counters"]
"""Numbers that are used once go on behind the last one, each engine in its own way."""

Tell = Callable[[str, int], object]

_pack = msgspec.msgpack.Encoder().encode


class Refused(PrefsError):
    """The move was not begun, or what arrived is not what set out."""


@dataclass
class Digest:
    """Of a table, whatever the order of its rows: their SHA-256 added up."""

    rows: int = 0
    total: int = 0

    def take(self, rows: Sequence[Sequence[Any]]) -> None:
        self.rows += len(rows)
        for row in rows:
            found = hashlib.sha256(_pack(tuple(row))).digest()
            self.total += int.from_bytes(found, "big")

    @property
    def text(self) -> str:
        return f"{self.total % MOST:064x}"


@dataclass
class Report:
    rows: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Of each step."""
    verified: Verified | None = None


@dataclass
class Move:
    source: str
    target: str
    intake: Intake
    tell: Tell = lambda table, rows: None

    def run(self) -> Report:
        """Raises Refused, SettingsError or Unavailable; the source is untouched then."""
        if make_url(self.source) == make_url(self.target):
            raise Refused("that is the database that it is in already")
        migrate.ensure(self.source)
        old, new = make_engine(self.source), make_engine(self.target, patient=True)
        try:
            new.open()
            self._alone()
            old.open()
            old.transaction(partial(check_keys, keys=self.intake.keys, now=self._now()))
            new.transaction(_empty)
            report = Report()
            old.transaction(lambda conn: self._from(conn, new, report))
            return report
        finally:
            old.close()
            new.close()

    def _now(self) -> float:
        return self.intake.clock().timestamp()

    def _from(self, conn: Connection, new: Engine, report: Report) -> None:
        """All in the source's one write transaction: nobody else writes there meanwhile."""
        _hold(conn)
        new.transaction(migrate.begin_move)
        digests = {}
        began = time.monotonic()
        for table in CARRIED:
            digests[table.name] = self._copy(conn, new, table)
            report.rows[table.name] = digests[table.name].rows
        numbers = counters.used(conn)
        new.transaction(lambda target: counters.go_on(target, numbers))
        new.transaction(go_on_counting)
        report.seconds["copy"] = time.monotonic() - began
        self._check(new, digests, report)
        new.transaction(lambda target: migrate.stamp(target, migrate.head()))
        migrate.mark_moved(conn, bare(self.target))

    def _alone(self) -> None:
        """Raises Refused while another process has the source open."""
        parsed = make_url(self.source)
        if parsed.get_backend_name() == "sqlite" and in_use(parsed):
            raise Refused(_IN_USE)
        looking = make_engine(self.source)
        try:
            until = time.monotonic() + CLOSING
            while why := looking.transaction(self._company):
                if time.monotonic() > until:
                    raise Refused(f"{why}; {_IN_USE}")
                time.sleep(0.1)
        finally:
            looking.close()

    def _company(self, conn: Connection) -> str:
        if held := marks.holders(conn, self._now()):
            return f"{held} worker(s) hold lanes of this database"
        if conn.dialect.name != "postgresql":
            return ""
        others = conn.exec_driver_sql(_OTHERS).scalar_one()
        return f"{others} connection(s) of prefs are open here" if others else ""

    def _copy(self, conn: Connection, new: Engine, table: Table) -> Digest:
        digest = Digest()
        for batch in _batches(conn, table):
            digest.take(batch)
            new.transaction(partial(write, table=table, rows=batch))
            self.tell(table.name, digest.rows)
        return digest

    def _check(self, new: Engine, digests: dict[str, Digest], report: Report) -> None:
        began = time.monotonic()
        for table in CARRIED:
            arrived = new.read_now(partial(_digest, table=table, tell=self.tell))
            if (arrived.rows, arrived.text) != (digests[table.name].rows, digests[table.name].text):
                raise Refused(f"{table.name}: what arrived is not what set out")
        report.seconds["compare"] = time.monotonic() - began
        began = time.monotonic()
        report.verified = new.read_now(
            lambda conn: verify(conn, self.intake, lambda rows: self.tell("ledger verified", rows))
        )
        report.seconds["verify"] = time.monotonic() - began
        if report.verified.findings:
            first = report.verified.findings[0].what
            raise Refused(f"the ledger does not verify (prefs ledger verify tells more): {first}")


_IN_USE = "another process has it open: stop prefs serve and prefs work first"
_OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND application_name = 'prefs' AND pid <> pg_backend_pid()"
)


def _hold(conn: Connection) -> None:
    """Nobody writes from here on. The server would cut off whoever idles in a transaction; this one
    waits for the other database."""
    if conn.dialect.name == "postgresql":
        conn.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        names = ", ".join(f'"{table.name}"' for table in metadata.sorted_tables)
        conn.exec_driver_sql(f"LOCK TABLE {names} IN SHARE MODE")
        conn.exec_driver_sql(f"LOCK TABLE {', '.join(migrate.LEFT)} IN ACCESS EXCLUSIVE MODE")


def bare(url: str) -> str:
    """Without the password."""
    return make_url(url).render_as_string(hide_password=True)


# --- the target --------------------------------------------------------------------------------


def _empty(conn: Connection) -> None:
    """Raises Refused for a database that holds anything but a move that was broken off."""
    names = set(inspect(conn).get_table_names())
    if not names:
        return
    if migrate.current(conn) != migrate.MOVING:
        raise Refused("the target is not empty: give a new database")
    counters.drop(conn)
    metadata.drop_all(conn)
    conn.exec_driver_sql("DROP TABLE alembic_version")


def write(conn: Connection, table: Table, rows: Sequence[Sequence[Any]]) -> None:
    if conn.dialect.name == "postgresql":
        _copy_in(conn, table, rows)
        return
    names = [column.name for column in table.columns]
    conn.execute(insert(table), [dict(zip(names, row, strict=True)) for row in rows])


def _copy_in(conn: Connection, table: Table, rows: Sequence[Sequence[Any]]) -> None:
    raw: Any = conn.connection.driver_connection
    columns = [column.name for column in table.columns]
    await_only(raw.copy_records_to_table(table.name, records=rows, columns=columns))


def go_on_counting(conn: Connection) -> None:
    """Sequences of PostgreSQL begin behind the highest number that was brought along."""
    if conn.dialect.name != "postgresql":
        return
    for table in metadata.sorted_tables:
        keys = list(table.primary_key.columns)
        if len(keys) == 1 and isinstance(keys[0].type, Integer):
            _set_sequence(conn, table, keys[0].name)
    conn.exec_driver_sql("ANALYZE")


def _set_sequence(conn: Connection, table: Table, column: str) -> None:
    wanted = text("SELECT pg_get_serial_sequence(:name, :column)")
    sequence = conn.execute(wanted, {"name": table.name, "column": column}).scalar()
    highest = conn.execute(select(func.max(table.c[column]))).scalar()
    if sequence and highest:
        conn.execute(text("SELECT setval(:name, :value)"), {"name": sequence, "value": highest})


# --- reading -----------------------------------------------------------------------------------


def _batches(conn: Connection, table: Table) -> Iterator[list[Any]]:
    """Every row, a batch at a time; memory is flat."""
    found = conn.execute(select(table), execution_options={"yield_per": AT_ONCE})
    for part in found.partitions():
        yield [tuple(row) for row in part]


def _digest(conn: Connection, table: Table, tell: Tell) -> Digest:
    digest = Digest()
    for batch in _batches(conn, table):
        digest.take(batch)
        tell(f"{table.name} compared", digest.rows)
    return digest


def content(report: Report, written: str) -> dict[str, Any]:
    """`written`: how the configuration names the new database."""
    seconds = {name: round(value, 1) for name, value in report.seconds.items()}
    return {"rows": report.rows, "seconds": seconds, "database": written}


def shown(report: Report, written: str) -> str:
    total = sum(report.rows.values())
    return (
        f"{total} rows of {len(report.rows)} tables carried over; digests, ledger, states and "
        f"answers agree.\nNow change this line of the configuration, on every machine:\n"
        f'database = "{written}"'
    )
