"""Statements that PostgreSQL's driver runs itself.

A statement that goes through SQLAlchemy costs it a tenth of a millisecond, however often it ran
before: several times what the driver takes. Here SQLAlchemy says a statement in PostgreSQL's words
once, and both speak in the same transaction; what goes wrong is the driver's own fault then
(`asyncpg.PostgresError`). The first statement of a read is SQLAlchemy's, which begins there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.expression import Executable
from sqlalchemy.util import await_only

WORDS: Dialect = asyncpg.dialect()  # type: ignore[no-untyped-call]  # it is so at SQLAlchemy's


class Direct:
    """A Core statement with named parameters, compiled at its first use."""

    def __init__(self, statement: Executable) -> None:
        self._statement = statement
        self._text = ""
        self._names: Sequence[str] = ()
        self._fixed: Mapping[str, Any] = {}

    def _compile(self) -> str:
        compiled = self._statement.compile(dialect=WORDS)  # type: ignore[attr-defined]  # every Core statement compiles
        self._names = compiled.positiontup or ()
        said = (name for name in self._names if not compiled.binds[name].required)
        self._fixed = {name: compiled.params[name] for name in said}  # None is a value too
        self._text = str(compiled)
        return self._text

    def text_of(self, given: Mapping[str, Any]) -> tuple[str, list[Any]]:
        """Text and parameters, for the driver."""
        return self._text or self._compile(), self._values(given)

    def run(self, conn: Connection, given: Mapping[str, Any]) -> Sequence[Any]:
        """Rows, as the driver's records: they unpack like tuples."""
        driver = begun(conn)
        if driver is None:
            done = conn.execute(self._statement, dict(given))
            return done.all() if done.returns_rows else []
        text = self._text or self._compile()
        found: list[Any] = await_only(driver.fetch(text, *self._values(given)))
        return found

    def run_many(self, conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """All in one way there and back."""
        driver = begun(conn)
        if driver is None:
            conn.execute(self._statement, [dict(row) for row in rows])
        elif len(rows) == 1:
            self.run(conn, rows[0])
        else:
            text = self._text or self._compile()
            await_only(driver.executemany(text, [self._values(row) for row in rows]))

    def run_each(self, conn: Connection, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
        """The same, with all that they return."""
        driver = begun(conn)
        if driver is None or len(rows) == 1:
            return [found for row in rows for found in self.run(conn, row)]
        text = self._text or self._compile()
        every: list[Any] = await_only(driver.fetchmany(text, [self._values(row) for row in rows]))
        return every

    def _values(self, given: Mapping[str, Any]) -> list[Any]:
        whole = {**self._fixed, **given} if self._fixed else given
        return [whole[name] for name in self._names]


def begun(conn: Connection) -> Any:
    """The driver's connection; None before the transaction's first statement."""
    driver: Any = conn.connection.driver_connection
    return driver if driver.is_in_transaction() else None
