"""Where a dry run is recorded: a database of its own, thrown away.

What a row becomes depends on what stands already, also by the rows before it. So everybody whom a
row is about is copied over first, with all that judging looks at, and everything is recorded there
by the same intake. The real database is only read: nobody waits for a dry run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, select

from prefs.core.signals import Signal
from prefs.intake import Intake
from prefs.store import dialect, migrate
from prefs.store.database import Database
from prefs.store.schema import identifiers, links, notices, subjects
from prefs.web.context import Service

FAR = 1 << 62
"""Identifier ids of the copy begin here, so that they meet none of the real ones."""
AT_ONCE = 250
"""Keys a statement."""

Rows = list[tuple[Table, list[dict[str, Any]]]]


@dataclass(frozen=True)
class Trial:
    """Implements what an import needs of a database."""

    served: Service
    database: Database
    intake: Intake

    def prepare(self, brand: str, signals: Sequence[Signal]) -> None:
        """Copy everybody over whom these signals may be about."""
        controller = self.intake.brands[brand]
        keys = self.intake.keys
        hashes = {h for signal in signals for one in signal.identifiers for h in keys.hashes(one)}
        refs = {signal.ref for signal in signals if signal.ref}
        found = self.served.database.read_now(lambda conn: _known(conn, controller, hashes, refs))
        self.database.write_now(lambda conn: _copy(conn, found))


@contextmanager
def opened(served: Service, brand: str) -> Iterator[Trial]:
    """In a private temporary folder, without targets: nothing is marked, nobody is told."""
    with tempfile.TemporaryDirectory(prefix="prefs-trial-") as folder:
        url = f"sqlite:///{Path(folder) / 'trial.db'}"
        migrate.ensure(url)
        with Database(url) as database:
            found = served.database.read_now(lambda conn: _notices(conn, brand))
            database.write_now(lambda conn: _copy(conn, [*found, *_far()]))
            yield Trial(served, database, replace(served.intake, targets=()))


def _far() -> Rows:
    row = {"id": FAR, "controller": "", "kind": "", "hash": b"", "key_id": b"", "created_at": 0.0}
    return [(identifiers, [row])]


def _notices(conn: Connection, brand: str) -> Rows:
    wanted = select(notices).where(notices.c.brand == brand)
    return [(notices, [dict(row) for row in conn.execute(wanted).mappings()])]


def _known(
    conn: Connection, controller: str, hashes: Collection[bytes], refs: Collection[str]
) -> Rows:
    """The people of these identifiers and references, and all that hangs on them."""
    own = identifiers.c.controller == controller
    named = _ids(conn, subjects.c.id, subjects.c.ref, refs, subjects.c.controller == controller)
    found = _ids(conn, identifiers.c.id, identifiers.c.hash, hashes, own)
    people = named | _ids(conn, links.c.subject_id, links.c.identifier_id, found)
    found |= _ids(conn, links.c.identifier_id, links.c.subject_id, people)
    people |= _ids(conn, links.c.subject_id, links.c.identifier_id, found)
    return [
        (subjects, _rows(conn, subjects, subjects.c.id, people)),
        (identifiers, _rows(conn, identifiers, identifiers.c.id, found)),
        (links, _rows(conn, links, links.c.identifier_id, found)),
    ]


def _ids(conn: Connection, wanted: Any, by: Any, keys: Collection[Any], *more: Any) -> set[int]:
    return {
        row[0]
        for part in _parts(keys)
        for row in conn.execute(select(wanted).where(by.in_(part), *more))
    }


def _rows(conn: Connection, table: Table, by: Any, keys: Collection[Any]) -> list[dict[str, Any]]:
    return [
        dict(row)
        for part in _parts(keys)
        for row in conn.execute(select(table).where(by.in_(part))).mappings()
    ]


def _parts(keys: Collection[Any]) -> Iterable[list[Any]]:
    ordered = sorted(keys)
    return (ordered[at : at + AT_ONCE] for at in range(0, len(ordered), AT_ONCE))


def _copy(conn: Connection, found: Rows) -> None:
    """What is there already stays: the rows before have changed it."""
    for table, rows in found:
        if rows:
            conn.execute(dialect.insert(table).on_conflict_do_nothing(), rows)
