"""A database of many people with all that the intake would have written of them: subjects,
identifiers, links, a sealed ledger with its payloads, states and permission rows.

    python -m bench.population sqlite:////tmp/many.db 1000000      (BENCH_SECRET is the secret)

Everybody consented by e-mail, each at another second; two in five have a mobile number; every
seventh left one topic; every third opted out by one click since, every ninth on all channels by
staff. `prefs ledger verify` finds nothing in it. Quick, not by way of the intake: a million people
would take it an hour.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Table

from prefs.core import identity
from prefs.core.decision import hold_together
from prefs.core.fold import Entry, State, apply, judge
from prefs.core.keys import Keyring
from prefs.core.signals import Identifier
from prefs.core.words import KIND_OF, Basis, Channel, Choice, Kind, Purpose, Scope, Source
from prefs.move import go_on_counting, write
from prefs.store import counters, ledger, migrate, schema, tally, text
from prefs.store.codec import encode_held, encode_state
from prefs.store.database import make_engine
from prefs.store.keys import check_keys

BRAND = CONTROLLER = "rt"
FIRST = 1_760_000_000.0
"""Of the first consent; each person comes a second after the one before."""
CHUNK = 10_000
SPREAD = 1 << 62
"""Ids are spread over their whole range, in the order of the people: rows go in in order."""
EVERY = [Scope(channel, Purpose.MARKETING) for channel in Channel]

_pack = msgspec.msgpack.Encoder().encode


Rows = dict[str, list[tuple[Any, ...]]]


class Said(NamedTuple):
    source: Source
    choice: Choice
    scopes: Sequence[Scope]
    after: float
    """Seconds after the first word of this person."""


CONSENT = Said(Source.API, Choice.IN, EVERY[:1], 0.0)
TOPIC = Said(Source.LINK, Choice.OUT, [EVERY[0]._replace(topic="offers")], 1800.0)
CLICK = Said(Source.ONE_CLICK, Choice.OUT, EVERY[:1], 3600.0)
ALL = Said(Source.STAFF, Choice.OUT, EVERY, 7200.0)


def address(number: int) -> str:
    return f"person{number}@example.co.uk"


def mobile(number: int) -> str:
    return f"+447{number:09}"


def name(number: int) -> str:
    return f"Person {number}"


def identifiers(number: int) -> list[Identifier]:
    found = [Identifier(Kind.EMAIL, address(number), address(number))]
    if number % 5 < 2:
        found.append(Identifier(Kind.PHONE, mobile(number), mobile(number)))
    return found


def is_out(number: int) -> bool:
    return number % 3 == 0


def acts(number: int) -> Iterator[Said]:
    yield CONSENT
    if number % 7 == 5:
        yield TOPIC
    if is_out(number):
        yield CLICK
    if number % 9 == 0:
        yield ALL


class Population:
    """Makes rows; its numbers and its chain go on from chunk to chunk."""

    def __init__(self, keys: Keyring, count: int) -> None:
        self.keys, self.count = keys, count
        self.events = self.payloads = self.identifiers = 0
        self.chained = ledger.GENESIS
        self.tallied: list[Any] = []

    def chunk(self, numbers: range) -> Rows:
        rows: Rows = {table.name: [] for table in TABLES}
        self.tallied = []
        for number in numbers:
            self._person(rows, number)
        rows["permissions"].sort(key=lambda row: row[1])
        return rows

    def subject_id(self, number: int) -> int:
        return 1 + number * (SPREAD // self.count)

    def _person(self, rows: Rows, number: int) -> None:
        id_, since = self.subject_id(number), FIRST + number
        hashed = self._known(rows, number, id_, since)
        state, revision, last = State(), 0, since
        for said in acts(number):
            last = since + said.after
            state, revision = self._say(rows, said, id_, state, revision, hashed, last)
        folded = text.folded(name(number))
        rows["subjects"].append(
            (
                id_,
                CONTROLLER,
                f"crm-{number}",
                name(number),
                folded,
                revision,
                encode_state(state),
                since,
                last,
                None,
            )
        )
        held = encode_held(hold_together([state], BRAND))
        rows["permissions"] += [(BRAND, hash_, held) for hash_ in hashed.values()]

    def _known(self, rows: Rows, number: int, id_: int, since: float) -> dict[Kind, bytes]:
        found = {}
        for one in identifiers(number):
            self.identifiers += 1
            hash_ = found[one.kind] = self.keys.hash(one)
            spelling = self.keys.encrypt(one.spelling.encode(), hash_)
            rows["identifiers"].append(
                (
                    self.identifiers,
                    CONTROLLER,
                    one.kind.value,
                    hash_,
                    self.keys.newest_id,
                    spelling,
                    since,
                )
            )
            rows["links"].append((id_, self.identifiers, since))
        return found

    def _say(
        self,
        rows: Rows,
        said: Said,
        id_: int,
        state: State,
        revision: int,
        hashed: dict[Kind, bytes],
        at: float,
    ) -> tuple[State, int]:
        payload = self._payload(rows, said)
        for scope in said.scopes:
            revision += 1
            self.events += 1
            entry = Entry(
                self.events,
                BRAND,
                scope,
                said.choice,
                said.source,
                at,
                identifier=hashed.get(KIND_OF[scope.channel], b""),
                basis=Basis.CONSENT if said.choice is Choice.IN else None,
                stop_all=len(said.scopes) > 1,
            )
            judgement = judge(state, entry)
            state = apply(state, entry, judgement)
            row = ledger.Row(id_, revision, "choice", entry, judgement, at, at, None, None)
            self._seal(rows, ledger.values_of(row, payload))
        return state, revision

    def _payload(self, rows: Rows, said: Said) -> ledger.Payload:
        self.payloads += 1
        salt = hashlib.sha256(b"salt %d" % self.payloads).digest()
        body = _pack({"evidence": {"wording": "Yes please, send me news", "actor": said.source}})
        sealed = self.keys.encrypt(body, ledger.aad(self.payloads))
        rows["payloads"].append((self.payloads, salt, sealed))
        return ledger.Payload(self.payloads, hashlib.sha256(salt + body).digest())

    def _seal(self, rows: Rows, values: dict[str, Any]) -> None:
        sealed = ledger.Kept(**values)
        self.chained = ledger.chain(self.chained, sealed)
        self.tallied.append(sealed)
        values = {**values, "n": self.events, "hash": self.chained}
        rows["ledger"].append(tuple(values[column.name] for column in schema.ledger.columns))

    @property
    def numbers(self) -> dict[str, int]:
        return {"event": self.events, "payload": self.payloads}


TABLES: list[Table] = [
    schema.subjects,
    schema.identifiers,
    schema.links,
    schema.payloads,
    schema.ledger,
    schema.permissions,
]


def fill(
    url: str, keys: Keyring, count: int, tell: Callable[[int], object] = lambda done: None
) -> None:
    """Into an empty database."""
    fill_all([url], keys, count, tell)


def fill_all(urls: Sequence[str], keys: Keyring, count: int, tell: Callable[[int], object]) -> None:
    """The same people into several empty databases: made once, for that takes longest."""
    made, engines = Population(keys, count), [make_engine(url) for url in urls]
    for url in urls:
        migrate.ensure(url)
    try:
        for engine in engines:
            engine.open()
            engine.transaction(lambda conn: _make_room(conn, keys))
        for start in range(0, count, CHUNK):
            rows = made.chunk(range(start, min(start + CHUNK, count)))
            for engine in engines:
                engine.transaction(partial(_put, rows=rows, sealed=made.tallied))
            tell(min(start + CHUNK, count))
        for engine in engines:
            engine.transaction(lambda conn: _end(conn, made))
    finally:
        for engine in engines:
            engine.close()


def _make_room(conn: Connection, keys: Keyring) -> None:
    """Hashes are random: with the cache of a service most pages of their indexes are read anew for
    every chunk."""
    check_keys(conn, keys, FIRST)
    if conn.dialect.name == "sqlite":
        conn.exec_driver_sql("PRAGMA cache_size = -1000000")
        conn.exec_driver_sql("PRAGMA wal_autocheckpoint = 100000")


def _put(conn: Connection, rows: Rows, sealed: Sequence[Any]) -> None:
    for table in TABLES:
        if conn.dialect.name == "sqlite":
            _put_raw(conn, table, rows[table.name])
        else:
            write(conn, table, rows[table.name])
    tally.count(conn, sealed)


def _put_raw(conn: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Eight rows a person: by the driver itself they take a fifth of the time."""
    raw: Any = conn.connection.dbapi_connection
    names = [column.name for column in table.columns]
    places = ", ".join("?" * len(names))
    raw.executemany(f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({places})", rows)


def _end(conn: Connection, made: Population) -> None:
    counters.go_on(conn, made.numbers)
    go_on_counting(conn)


def keyring() -> Keyring:
    return Keyring([os.environ["BENCH_SECRET"].encode()])


def main() -> None:
    url, count = sys.argv[1], int(sys.argv[2])
    assert identity.email(address(1)).key == address(1)
    began = time.monotonic()
    fill(url, keyring(), count, lambda done: print(f"\r{done}", end="", flush=True))
    print(f"\n{count} people in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
