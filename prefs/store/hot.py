"""Statements of the hot path: Core statements compiled once and run by the driver itself.

Building and caching a statement anew costs several times what SQLite needs to run it. A
`Statement` keeps the compiled text and the order of its parameters; `IN` lists are padded to a
few fixed lengths, so that few texts exist. On PostgreSQL, where the way there and back costs more
than both, SQLAlchemy runs the same statement.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.expression import Executable

LENGTHS = (1, 2, 4, 16, 64, 256)

Row = Any
"""A tuple; SQLAlchemy's own row where it runs the statement."""


class Statement:
    """A Core statement with named parameters, compiled at its first use."""

    def __init__(self, statement: Executable) -> None:
        self._statement = statement
        self._text: str | None = None
        self._names: Sequence[str] = ()
        self._fixed: Mapping[str, Any] = {}

    def _compile(self) -> str:
        compiled = self._statement.compile(dialect=sqlite.dialect())  # type: ignore[attr-defined]  # every Core statement compiles
        self._names = compiled.positiontup or ()
        self._fixed = {k: v for k, v in compiled.params.items() if v is not None}
        self._text = str(compiled)
        return self._text

    def _params(self, given: Mapping[str, Any]) -> list[Any]:
        fixed = self._fixed
        return [given[name] if name in given else fixed.get(name) for name in self._names]

    def run(self, conn: Connection, params: Mapping[str, Any]) -> Sequence[Row]:
        if conn.dialect.name != "sqlite":
            done = conn.execute(self._statement, dict(params))
            return done.all() if done.returns_rows else []
        text = self._text or self._compile()
        return _raw(conn).execute(text, self._params(params)).fetchall()  # type: ignore[no-any-return]  # the driver is untyped

    def run_many(self, conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        if conn.dialect.name != "sqlite":
            if rows:
                conn.execute(self._statement, [dict(row) for row in rows])
            return
        text = self._text or self._compile()
        _raw(conn).executemany(text, [self._params(row) for row in rows])


def _raw(conn: Connection) -> Any:
    return conn.connection.dbapi_connection


class ByKeys:
    """A select with one `IN`, made for each of a few lengths of its list."""

    def __init__(self, make: Callable[[Sequence[ColumnElement[Any]]], Executable]) -> None:
        self._make = make
        self._statements: dict[int, Statement] = {}

    def run(
        self, conn: Connection, keys: Collection[Any], params: Mapping[str, Any] | None = None
    ) -> list[Row]:
        found: list[Row] = []
        ordered = sorted(keys)
        for start in range(0, len(ordered), LENGTHS[-1]):
            found += self._run_part(conn, ordered[start : start + LENGTHS[-1]], params or {})
        return found

    def _run_part(
        self, conn: Connection, part: Sequence[Any], params: Mapping[str, Any]
    ) -> Sequence[Row]:
        length = next(length for length in LENGTHS if len(part) <= length)
        statement = self._statements.get(length)
        if statement is None:
            names: list[ColumnElement[Any]] = [bindparam(f"key{n}") for n in range(length)]
            statement = self._statements[length] = Statement(self._make(names))
        padded = [*part, *([part[-1]] * (length - len(part)))]
        keyed = {f"key{number}": key for number, key in enumerate(padded)}
        return statement.run(conn, {**params, **keyed})
