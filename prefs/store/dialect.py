"""What SQLite and PostgreSQL say differently, in one place: everything else is one SQL.

SQLAlchemy's own `insert` of PostgreSQL compiles for both, `ON CONFLICT` included.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Integer, bindparam, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import ReturnTypeFromArgs

from prefs.store.direct import Direct

__all__ = ["greatest", "insert", "least", "lock"]

_LOCK = Direct(
    select(
        func.pg_advisory_xact_lock(
            bindparam("kind", type_=Integer), func.hashtext(bindparam("name"))
        )
    )
)


def lock(conn: Connection, kind: int, name: str) -> None:
    """Nobody else goes on who locks this name of this kind, until the end of this transaction: for
    what no row stands for yet. On SQLite whoever writes is alone."""
    if conn.dialect.name != "sqlite":
        _LOCK.run(conn, {"kind": kind, "name": name})


class least(ReturnTypeFromArgs[Any]):  # noqa: N801  # a function of SQL is named as in SQL
    """The smallest of several values of one row. PostgreSQL leaves NULL out, SQLite does not:
    for columns that are never NULL only."""

    inherit_cache = True


class greatest(ReturnTypeFromArgs[Any]):  # noqa: N801  # as above
    """The largest of several values of one row. For columns that are never NULL only."""

    inherit_cache = True


@compiles(least, "sqlite")
def _least(element: ColumnElement[Any], compiler: SQLCompiler, **more: Any) -> str:
    return f"min({compiler.process(element.clauses, **more)})"


@compiles(greatest, "sqlite")
def _greatest(element: ColumnElement[Any], compiler: SQLCompiler, **more: Any) -> str:
    return f"max({compiler.process(element.clauses, **more)})"
