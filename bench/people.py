"""A database of many people, written in bulk: the same rows that the intake writes for one
consent each, without the ledger that `check` never reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from sqlalchemy import Connection, insert

from prefs.core import identity
from prefs.core.decision import hold_together
from prefs.core.fold import Entry, State, apply, judge
from prefs.core.keys import Keyring
from prefs.core.words import Basis, Channel, Choice, Purpose, Scope, Source
from prefs.store import migrate
from prefs.store.codec import encode_held
from prefs.store.database import Database
from prefs.store.schema import permissions

EMAIL = Scope(Channel.EMAIL, Purpose.MARKETING)
CHUNK = 20_000


def address(number: int) -> str:
    return f"person{number}@example.co.uk"


def _held(choice: Choice) -> bytes:
    entry = Entry(1, "rt", EMAIL, choice, Source.API, 1_790_000_000.0, basis=Basis.CONSENT)
    state = apply(State(), entry, judge(State(), entry))
    return encode_held(hold_together([state], "rt"))


def fill(folder: Path, keys: Keyring, count: int) -> None:
    """`count` permission rows, every third one out."""
    url = f"sqlite:///{folder}/prefs.db"
    migrate.ensure(url)
    database = Database(url).open()
    values = [_held(Choice.OUT), _held(Choice.IN), _held(Choice.IN)]
    for start in range(0, count, CHUNK):
        rows = [
            {
                "brand": "rt",
                "hash": keys.hash(identity.email(address(number))),
                "value": values[number % 3],
            }
            for number in range(start, min(start + CHUNK, count))
        ]
        rows.sort(key=lambda row: bytes(row["hash"]))  # type: ignore[arg-type]  # hashes are bytes
        database.write_now(partial(_insert, rows=rows))
    database.close()


def _insert(conn: Connection, rows: Sequence[Mapping[str, object]]) -> None:
    conn.execute(insert(permissions), rows)
