"""Statements of the hot path: Core statements compiled once and run by the driver itself.

Building and caching a statement anew costs several times what SQLite needs to run it. A
`Statement` keeps the compiled text and the order of its parameters. What PostgreSQL's driver runs,
and how, stands in `direct`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, any_, bindparam
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.expression import Executable

from prefs.store.direct import Direct

PART = 5000
"""How many rows of a long walk are held at once."""
LENGTHS = (1, 2, 4, 16, 64, 256, 1024)
"""On SQLite a list of keys is padded to one of these, so that few texts exist."""

Row = Any
"""Unpacks like a tuple, and has no names."""


class Statement:
    """A Core statement with named parameters, compiled at its first use."""

    def __init__(self, statement: Executable) -> None:
        self._statement = statement
        self._direct = Direct(statement)
        self._text: str | None = None
        self._names: Sequence[str] = ()
        self._unsaid: Mapping[str, Any] = {}
        self._pick: Callable[[Mapping[str, Any]], Sequence[Any]] = _in_order(())

    def on_sqlite(self, given: Mapping[str, Any]) -> tuple[str, Sequence[Any]]:
        """Text and parameters, for SQLite's driver."""
        text = self._text or self._compile()
        return text, self._pick({**self._unsaid, **given})

    def with_keys(self, given: Mapping[str, Any], keys: Sequence[Any]) -> tuple[str, Sequence[Any]]:
        """The same, of a statement whose parameters key0, key1 ... are so many."""
        text = self._text or self._compile()
        start = self._names.index("key0")
        others = [*self._names[:start], *self._names[start + len(keys) :]]
        params = [given.get(name, self._unsaid[name]) for name in others]
        params[start:start] = keys
        return text, params

    def on_postgres(self, given: Mapping[str, Any]) -> tuple[str, list[Any]]:
        """Text and parameters, for PostgreSQL's driver."""
        return self._direct.text_of(given)

    def _compile(self) -> str:
        compiled = self._statement.compile(dialect=sqlite.dialect())  # type: ignore[attr-defined]  # every Core statement compiles
        self._names = compiled.positiontup or ()
        fixed = compiled.params
        self._unsaid = {name: fixed.get(name) for name in self._names}
        self._pick = _in_order(self._names)
        self._text = str(compiled)
        return self._text

    def _whole(self, rows: Sequence[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
        """Every parameter of every row; the first says for all which are given."""
        if self._unsaid.keys() <= rows[0].keys():
            return rows
        return ({**self._unsaid, **row} for row in rows)

    def run(self, conn: Connection, params: Mapping[str, Any]) -> Sequence[Row]:
        if conn.dialect.name != "sqlite":
            return self._direct.run(conn, params)
        return _raw(conn).execute(*self.on_sqlite(params)).fetchall()  # type: ignore[no-any-return]  # the driver is untyped

    def walk(
        self, conn: Connection, params: Mapping[str, Any] = MappingProxyType({})
    ) -> Iterator[tuple[Any, ...]]:
        """The rows of a long walk, few of them held at once."""
        if conn.dialect.name != "sqlite":
            options = {"yield_per": PART}
            return map(
                tuple, conn.execute(self._statement, dict(params), execution_options=options)
            )
        if not conn.in_transaction():
            conn.begin()  # one walk after another sees the same
        walked: Iterator[tuple[Any, ...]] = _raw(conn).execute(*self.on_sqlite(params))
        return walked

    def run_many(self, conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows:
            return
        if conn.dialect.name != "sqlite":
            self._direct.run_many(conn, rows)
            return
        text = self._text or self._compile()
        _raw(conn).executemany(text, map(self._pick, self._whole(rows)))

    def run_each(self, conn: Connection, rows: Sequence[Mapping[str, Any]]) -> list[Row]:
        """The same, with all that they return."""
        if conn.dialect.name != "sqlite":
            return self._direct.run_each(conn, rows)
        return [found for row in rows for found in self.run(conn, row)]


def _in_order(names: Sequence[str]) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    """Picks these out of a row, always as a sequence."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda row: [row[name] for name in names]


def _raw(conn: Connection) -> Any:
    return conn.connection.dbapi_connection


class ByKeys:
    """A select of the rows whose column holds one of many keys."""

    def __init__(self, statement: Select[Any], column: Column[Any]) -> None:
        self._statement = statement
        self._column = column
        self._padded: dict[int, Statement] = {}
        keys = bindparam("keys", type_=ARRAY(column.type))
        self._by_array = Statement(statement.where(column == any_(keys)))

    def run(
        self, conn: Connection, keys: Collection[Any], params: Mapping[str, Any] | None = None
    ) -> list[Row]:
        if not keys:
            return []
        if conn.dialect.name != "sqlite":
            return list(self._by_array.run(conn, {**(params or {}), "keys": sorted(keys)}))
        found: list[Row] = []
        for text, given in self.on_sqlite(keys, params or {}):
            found += _raw(conn).execute(text, given).fetchall()
        return found

    def on_postgres(
        self, keys: Collection[Any], params: Mapping[str, Any]
    ) -> tuple[str, list[Any]]:
        """Text and parameters, for PostgreSQL's driver."""
        return self._by_array.on_postgres({**params, "keys": sorted(keys)})

    def on_sqlite(
        self, keys: Collection[Any], params: Mapping[str, Any]
    ) -> Iterator[tuple[str, Sequence[Any]]]:
        """Texts and parameters, for SQLite's driver; together they find all keys, in their order
        (which is that of the index: it is walked once)."""
        ordered = sorted(keys)
        for start in range(0, len(ordered), LENGTHS[-1]):
            part = ordered[start : start + LENGTHS[-1]]
            length = next(length for length in LENGTHS if len(part) <= length)
            part += [part[-1]] * (length - len(part))
            yield self._of_length(length).with_keys(params, part)

    def _of_length(self, length: int) -> Statement:
        if length not in self._padded:
            names: list[ColumnElement[Any]] = [bindparam(f"key{n}") for n in range(length)]
            self._padded[length] = Statement(self._statement.where(self._column.in_(names)))
        return self._padded[length]
