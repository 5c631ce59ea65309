"""The ledger: append, fold, seal, verify, feed.

Appending is a plain insert in the intake's transaction. One sealer at a time gives committed rows
the gapless number `n` and `hash = SHA-256(previous hash || canonical row)`. A row names its
payload by SHA-256 over a random salt and the canonical payload, so that erasing payload and salt
leaves the chain whole.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, bindparam, func, insert, select, update

from prefs.core.errors import PrefsError
from prefs.core.fold import Entry, Folded, Judgement, State, fold
from prefs.core.ids import subject_text
from prefs.core.keys import Keyring
from prefs.core.words import Basis, Channel, Choice, Purpose, Result, Scope, Source, Why
from prefs.store import tally
from prefs.store.codec import encode_state
from prefs.store.counters import next_numbers
from prefs.store.hot import PART, Statement
from prefs.store.schema import ledger, payloads, subjects

SALT = 32
GENESIS = b"\0" * 32


class Kept(NamedTuple):
    """A row as it is read. All but `until` is sealed, in this order, as one msgpack array; a column
    that is added is sealed in the rows of a new kind, after these, as `until` is in a pause."""

    id: int
    subject_id: int
    revision: int
    kind: str
    brand: str
    channel: str
    purpose: str
    topic: str | None
    choice: str | None
    source: str
    occurred_at: float | None
    received_at: float
    at: float
    identifier: bytes | None
    basis: str | None
    token: bytes | None
    stop_all: int
    result: str
    why: str
    origin: str | None
    batch: str | None
    payload_id: int
    payload_hash: bytes
    until: float | None


CANONICAL = Kept._fields[:-1]
_KIND, _UNTIL = CANONICAL.index("kind"), len(CANONICAL)
_pack = msgspec.msgpack.Encoder().encode
_canonical_columns = tuple(ledger.c[name] for name in Kept._fields)


_PAYLOAD = Statement(
    insert(payloads).values({name: bindparam(name) for name in ("id", "salt", "body")})
)
_SEAL = Statement(
    update(ledger)
    .where(ledger.c.id == bindparam("b_id"), ledger.c.subject_id == bindparam("b_subject"))
    .values(n=bindparam("b_n"), hash=bindparam("b_hash"))
)
_APPEND = Statement(insert(ledger).values({name: bindparam(name) for name in Kept._fields}))
_UNSEALED = Statement(
    select(*_canonical_columns)
    .where(ledger.c.n.is_(None))
    .order_by(ledger.c.id)
    .limit(bindparam("most"))
)
_HEAD = Statement(
    select(ledger.c.n, ledger.c.hash)
    .where(ledger.c.n.is_not(None))
    .order_by(ledger.c.n.desc())
    .limit(bindparam("most"))
)


class Payload(NamedTuple):
    id: int
    hash: bytes


def add_payload(conn: Connection, keys: Keyring, content: Mapping[str, Any]) -> Payload:
    """Keep what proves a signal: salted, hashed, encrypted."""
    (payload,) = add_payloads(conn, keys, [content])
    return payload


def add_payloads(
    conn: Connection, keys: Keyring, contents: Sequence[Mapping[str, Any]]
) -> list[Payload]:
    ids = next_numbers(conn, "payload", len(contents))
    bodies = [_pack(content) for content in contents]
    salts = _salts(len(contents))
    sealed = keys.encrypt_all([(body, aad(id_)) for id_, body in zip(ids, bodies, strict=True)])
    rows = [
        {"id": id_, "salt": salt, "body": text}
        for id_, salt, text in zip(ids, salts, sealed, strict=True)
    ]
    _PAYLOAD.run_many(conn, rows)
    return [
        Payload(id_, hashlib.sha256(salt + body).digest())
        for id_, salt, body in zip(ids, salts, bodies, strict=True)
    ]


def _salts(count: int) -> list[bytes]:
    """Drawn at once: see Keyring.encrypt_all."""
    drawn = secrets.token_bytes(SALT * count)
    return [drawn[at : at + SALT] for at in range(0, len(drawn), SALT)]


def aad(payload_id: int) -> bytes:
    """Ties the text of a payload to its place."""
    return b"payload" + payload_id.to_bytes(8, "big")


def read_payload(conn: Connection, keys: Keyring, payload_id: int) -> dict[str, Any]:
    row = conn.execute(select(payloads.c.body).where(payloads.c.id == payload_id)).first()
    if row is None:
        return {}
    found: dict[str, Any] = msgspec.msgpack.decode(keys.decrypt(row.body, aad(payload_id)))
    return found


class Row(NamedTuple):
    """One row to append."""

    subject_id: int
    revision: int
    kind: str
    entry: Entry
    judgement: Judgement
    occurred_at: float | None
    received_at: float
    origin: str | None
    batch: str | None


def append(conn: Connection, rows: Iterable[Row], payload: Payload) -> None:
    append_all(conn, ((row, payload) for row in rows))


def append_all(conn: Connection, rows: Iterable[tuple[Row, Payload]]) -> None:
    _APPEND.run_many(conn, [values_of(row, payload) for row, payload in rows])


def values_of(row: Row, payload: Payload) -> dict[str, Any]:
    """The columns of a row that is not sealed yet."""
    entry, (result, why) = row.entry, row.judgement
    return {
        "id": entry.event_id,
        "subject_id": row.subject_id,
        "revision": row.revision,
        "kind": row.kind,
        "brand": entry.brand,
        "channel": entry.scope.channel.value,
        "purpose": entry.scope.purpose.value,
        "topic": entry.scope.topic,
        "choice": entry.choice.value if entry.choice else None,
        "source": entry.source.value,
        "occurred_at": row.occurred_at,
        "received_at": row.received_at,
        "at": entry.at,
        "identifier": entry.identifier or None,
        "basis": entry.basis.value if entry.basis else None,
        "token": entry.token or None,
        "stop_all": int(entry.stop_all),
        "result": result.value,
        "why": why.value,
        "origin": row.origin,
        "batch": row.batch,
        "payload_id": payload.id,
        "payload_hash": payload.hash,
        "until": entry.until,
    }


def folded(row: Any) -> Folded:
    """What the fold needs of a ledger row."""
    entry = Entry(
        event_id=row.id,
        brand=row.brand,
        scope=_scope(row.channel, row.purpose, row.topic),
        choice=_CHOICES[row.choice] if row.choice else None,
        source=_SOURCES[row.source],
        at=row.at,
        identifier=row.identifier or b"",
        basis=_BASES[row.basis] if row.basis else None,
        token=row.token or b"",
        stop_all=bool(row.stop_all),
        until=row.until,
    )
    return Folded(row.kind, entry, _judgement(row.result, row.why), row.batch)


# A word is looked up several times for each row of a ledger of millions.
_CHOICES = {word.value: word for word in Choice}
_SOURCES = {word.value: word for word in Source}
_BASES = {word.value: word for word in Basis}


@lru_cache(4096)
def _scope(channel: str, purpose: str, topic: str | None) -> Scope:
    return Scope(Channel(channel), Purpose(purpose), topic)


@lru_cache(256)
def _judgement(result: str, why: str) -> Judgement:
    return Judgement(Result(result), Why(why))


def state_of(conn: Connection, subject_id: int, until: float | None = None) -> State:
    """The fold of one subject's rows, of those received up to `until` where it is given."""
    wanted = select(*_canonical_columns).where(ledger.c.subject_id == subject_id)
    if until is not None:
        wanted = wanted.where(ledger.c.received_at <= until)
    rows = conn.execute(wanted.order_by(ledger.c.revision))
    return fold(folded(row) for row in rows)


def count_applied(conn: Connection, batch: str, brand: str | None = None) -> int:
    """Applied rows whose batch begins with this word."""
    rows = (ledger.c.batch.startswith(f"{batch} ", autoescape=True), ledger.c.result == "applied")
    wanted = select(func.count()).where(*rows)
    if brand is not None:
        wanted = wanted.where(ledger.c.brand == brand)
    return int(conn.execute(wanted).scalar_one())


def retracted_until(conn: Connection, subject_id: int, batch: str) -> int:
    """The revision up to which a batch was taken back for a subject; 0 where it was not."""
    wanted = select(func.max(ledger.c.revision)).where(
        ledger.c.subject_id == subject_id, ledger.c.batch == batch, ledger.c.kind == "retract"
    )
    return int(conn.execute(wanted).scalar() or 0)


def history(conn: Connection, subject_id: int) -> list[Any]:
    rows = conn.execute(
        select(*_canonical_columns, ledger.c.n)
        .where(ledger.c.subject_id == subject_id)
        .order_by(ledger.c.revision)
    )
    return list(rows)


def payload_of(conn: Connection, event_id: int) -> int | None:
    """The payload of an event: the same for everything that one act said."""
    found: int | None = conn.execute(
        select(ledger.c.payload_id).where(ledger.c.id == event_id)
    ).scalar()
    return found


def feed(conn: Connection, after: int, limit: int, brand: str) -> list[Any]:
    """Sealed rows that changed something, in the order of `n`."""
    rows = conn.execute(
        select(*_canonical_columns, ledger.c.n)
        .where(ledger.c.n > after, ledger.c.brand == brand, ledger.c.result == Result.APPLIED.value)
        .order_by(ledger.c.n)
        .limit(limit)
    )
    return list(rows)


def seal(conn: Connection, limit: int = 2000) -> int:
    """Number and chain rows committed since the last seal; returns how many."""
    rows = [Kept._make(row) for row in _UNSEALED.run(conn, {"most": limit})]
    if not rows:
        return 0
    n, previous = head(conn)
    sealed = []
    for row in rows:
        n += 1
        previous = chain(previous, row)
        sealed.append({"b_id": row.id, "b_subject": row.subject_id, "b_n": n, "b_hash": previous})
    _SEAL.run_many(conn, sealed)
    tally.count(conn, rows)
    return len(sealed)


def any_unsealed(conn: Connection) -> bool:
    return (
        conn.execute(select(ledger.c.id).where(ledger.c.n.is_(None)).limit(1)).first() is not None
    )


def count_unsealed(conn: Connection) -> int:
    return int(conn.execute(select(func.count()).where(ledger.c.n.is_(None))).scalar_one())


def head(conn: Connection) -> tuple[int, bytes]:
    for n, hash_ in _HEAD.run(conn, {"most": 1}):
        return n, hash_
    return 0, GENESIS


def last_sealed(conn: Connection) -> Any | None:
    """`n`, `hash` and `received_at` of the newest row with a seal."""
    wanted = select(ledger.c.n, ledger.c.hash, ledger.c.received_at)
    return conn.execute(
        wanted.where(ledger.c.n.is_not(None)).order_by(ledger.c.n.desc()).limit(1)
    ).first()


def chain(previous: bytes, row: tuple[Any, ...]) -> bytes:
    """Of the fields of Kept, and whatever comes after them."""
    sealed = row[:_UNTIL]
    if row[_KIND] == "pause":
        sealed += (row[_UNTIL],)
    return hashlib.sha256(previous + _pack(sealed)).digest()


class Finding(NamedTuple):
    n: int | None
    event_id: int | None
    what: str


def verify(conn: Connection, keys: Keyring) -> Iterator[Finding | int]:
    """Walk the whole ledger. Yields findings, and now and then (as a plain number) how many rows
    were read, so that a caller can show progress."""
    yield from verify_chain(conn)
    yield from verify_payloads(conn, keys)
    yield from verify_subjects(conn)


_CHAIN = Statement(
    select(*_canonical_columns, ledger.c.n, ledger.c.hash)
    .where(ledger.c.n.is_not(None))
    .order_by(ledger.c.n)
)


def verify_chain(conn: Connection) -> Iterator[Finding | int]:
    """Every sealed row in its place, as it was sealed."""
    previous, expected = GENESIS, 0
    for row in _CHAIN.walk(conn):
        n, hash_ = row[-2:]
        expected += 1
        if n != expected:
            yield Finding(expected, None, f"row {expected} is missing: the next one is {n}")
            expected = n
        if chain(previous, row) != hash_:
            yield Finding(n, row[0], f"row {n} (event {row[0]}) was changed after sealing")
        previous = hash_
        if expected % PART == 0:
            yield expected


_PAYLOADS = Statement(
    select(ledger.c.n, ledger.c.id, ledger.c.payload_hash)
    .add_columns(ledger.c.payload_id, payloads.c.salt, payloads.c.body)
    .outerjoin(payloads, payloads.c.id == ledger.c.payload_id)
    .order_by(ledger.c.id)
)


def verify_payloads(conn: Connection, keys: Keyring) -> Iterator[Finding]:
    """The payload of every row, as the row names it."""
    for n, id_, hash_, *payload in _PAYLOADS.walk(conn):
        if payload[-1] is None:
            yield Finding(n, id_, f"the payload of event {id_} is gone, and no erasure explains it")
        elif _payload_hash(keys, *payload) != hash_:
            yield Finding(n, id_, f"the payload of event {id_} was changed")


def _payload_hash(keys: Keyring, id_: int, salt: bytes, body: bytes) -> bytes:
    try:
        plain = keys.decrypt(body, aad(id_))
    except PrefsError:
        return b""
    return hashlib.sha256(salt + plain).digest()


_STATES = Statement(
    select(subjects.c.id, subjects.c.revision, subjects.c.state, *_canonical_columns)
    .outerjoin(ledger, ledger.c.subject_id == subjects.c.id)
    .order_by(subjects.c.id, ledger.c.revision)
)


def verify_subjects(conn: Connection) -> Iterator[Finding]:
    """Revisions without a hole, and the stored state equal to the fold. One walk: asked for each
    subject alone, a million of them would take as many queries."""
    for (subject, last, state), group in groupby(_STATES.walk(conn), key=itemgetter(0, 1, 2)):
        rows = [Kept._make(row[3:]) for row in group]
        found = [row for row in rows if row.id is not None]
        if [row.revision for row in found] != list(range(1, last + 1)):
            yield Finding(
                None, None, f"subject {subject_text(subject)} has a hole in its revisions"
            )
        elif encode_state(fold(folded(row) for row in found)) != state:
            what = f"the state of subject {subject_text(subject)} is not the fold of its rows"
            yield Finding(None, None, what)
