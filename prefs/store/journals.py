"""What the folders with checkpoints are told, how far each is, and whether marketing waits for
one of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, insert, select, update

from prefs.core.fold import State
from prefs.core.journal import Known, Line, Said, Who
from prefs.core.keys import Keyring
from prefs.core.words import Choice, Result, Why
from prefs.store import dialect
from prefs.store.codec import decode_state
from prefs.store.counters import next_numbers
from prefs.store.hot import ByKeys
from prefs.store.schema import (
    batches,
    brought_back,
    identifiers,
    journals,
    ledger,
    links,
    relinks,
    subjects,
)

AT_ONCE = 500
"""Rows of the ledger in one block."""
LIFTS = ("resume", "release", "retract", "undo")
"""Kinds of rows that end a denial. A replay knows none of them: what they ended is denied again."""
ALIVE_FOR = 120.0
"""Seconds since its last note for which a folder counts as written to by a living process."""


class News(NamedTuple):
    """What a folder is to be told next."""

    lines: list[Line]
    n: int
    hash: bytes
    relinks: int


# --- telling -----------------------------------------------------------------------------------


def hash_at(conn: Connection, n: int) -> bytes | None:
    """Of the sealed row n; None where there is none."""
    found: bytes | None = conn.execute(select(ledger.c.hash).where(ledger.c.n == n)).scalar()
    return found


_HASHES = ByKeys(select(ledger.c.n, ledger.c.hash), ledger.c.n)


def hashes_at(conn: Connection, ns: Collection[int]) -> dict[int, bytes]:
    found: dict[int, bytes] = dict(_HASHES.run(conn, ns))
    return found


def news(conn: Connection, keys: Keyring, after: int, relinked: int) -> News | None:
    """What was sealed after row `after` and linked after `relinked`; None where nothing was."""
    rows = conn.execute(
        select(ledger).where(ledger.c.n > after).order_by(ledger.c.n).limit(AT_ONCE)
    ).all()
    moved = conn.execute(
        select(relinks).where(relinks.c.n > relinked).order_by(relinks.c.n).limit(AT_ONCE)
    ).all()
    if not rows and not moved:
        return None
    told = [row for row in rows if tells(row)]
    others = {row.subject_id for row in rows if not tells(row) and row.revision > 1}
    others |= {row.subject_id for row in moved}
    people = _People(conn, keys, {row.subject_id for row in told} | others)
    lines: list[Line] = [people.said(row) for row in told]
    lines += [people.who(one) for one in sorted(others) if people.denied(one)]
    n, hash_ = (rows[-1].n, rows[-1].hash) if rows else (after, hash_at(conn, after) or b"")
    return News(lines, n, hash_, moved[-1].n if moved else relinked)


def tells(row: Any) -> bool:
    """Whether a row denies something, as far as it counted."""
    if row.kind in LIFTS or row.choice == Choice.IN or row.why == Why.OLDER:
        return False
    return bool(row.result not in (Result.REFUSED, Result.PENDING))


class _People:
    """What the subjects of some rows are known by, and what stands for them."""

    def __init__(self, conn: Connection, keys: Keyring, ids: Collection[int]) -> None:
        self._keys = keys
        self._rows = {row[0]: row for row in _SUBJECTS.run(conn, ids)}
        self._known: dict[int, list[Known]] = {}
        for subject_id, kind, hash_, key in _KNOWN.run(conn, ids):
            self._known.setdefault(subject_id, []).append(Known(kind, hash_, key))

    def denied(self, subject_id: int) -> bool:
        row = self._rows.get(subject_id)
        return row is not None and denies(decode_state(row[3]))

    def who(self, subject_id: int) -> Who:
        controller = self._rows[subject_id][1]
        return Who(subject_id, controller, self._of(subject_id), self._ref(subject_id))

    def said(self, row: Any) -> Said:
        return Said(
            n=row.n,
            event=row.id,
            payload=row.payload_hash,
            subject=row.subject_id,
            kind=row.kind,
            brand=row.brand,
            channel=row.channel,
            purpose=row.purpose,
            source=row.source,
            received_at=row.received_at,
            at=row.at,
            result=row.result,
            why=row.why,
            topic=row.topic,
            choice=row.choice,
            occurred_at=row.occurred_at,
            identifier=row.identifier,
            token=row.token,
            stop_all=bool(row.stop_all),
            until=row.until,
            origin=row.origin,
            batch=row.batch,
            known=self._of(row.subject_id),
            ref=self._ref(row.subject_id),
        )

    def _of(self, subject_id: int) -> tuple[Known, ...]:
        return tuple(self._known.get(subject_id, ()))

    def _ref(self, subject_id: int) -> bytes | None:
        row = self._rows.get(subject_id)
        return self._keys.encrypt(row[2].encode(), ref_aad(subject_id)) if row and row[2] else None


_SUBJECTS = ByKeys(
    select(subjects.c.id, subjects.c.controller, subjects.c.ref, subjects.c.state),
    subjects.c.id,
)
_KNOWN = ByKeys(
    select(links.c.subject_id, identifiers.c.kind, identifiers.c.hash, identifiers.c.key_id)
    .join(identifiers, identifiers.c.id == links.c.identifier_id)
    .order_by(links.c.subject_id, identifiers.c.id),
    links.c.subject_id,
)


def ref_aad(subject_id: int) -> bytes:
    return b"journal ref" + subject_id.to_bytes(8, "big")


def denies(state: State) -> bool:
    """Whether anything stands that a new identifier of the subject would have to follow."""
    standings = (one for of_brand in state.scopes.values() for one in of_brand.values())
    held = any(one.outs or one.hold for one in standings)
    return held or state.erased or state.restricted is not None


def relink(conn: Connection, subject_ids: Iterable[int]) -> None:
    """Have the journal told of identifiers that came to these subjects without a ledger row."""
    ids = list(subject_ids)
    rows = [
        {"n": n, "subject_id": one}
        for n, one in zip(next_numbers(conn, "relink", len(ids)), ids, strict=True)
    ]
    if rows:
        conn.execute(insert(relinks), rows)


def last_relink(conn: Connection) -> int:
    return int(conn.execute(select(func.max(relinks.c.n))).scalar() or 0)


# --- places ------------------------------------------------------------------------------------


def note(conn: Connection, place: str, name: str, n: int, now: float) -> None:
    """What a folder holds is on disk up to row n."""
    upsert = dialect.insert(journals)
    conn.execute(
        upsert.on_conflict_do_update(
            index_elements=["place"],
            set_={"n": upsert.excluded.n, "noted_at": now, "name": upsert.excluded.name},
        ),
        {"place": place, "name": name, "n": n, "noted_at": now},
    )


def noted(conn: Connection, place: str) -> int:
    found = conn.execute(select(journals.c.n).where(journals.c.place == place)).scalar()
    return int(found or 0)


def places(conn: Connection) -> list[Any]:
    return list(conn.execute(select(journals).order_by(journals.c.place)))


def orphaned(conn: Connection, now: float) -> list[Any]:
    """The folders that this database knows, where no living process writes to any."""
    known = places(conn)
    alive = any(row.noted_at > now - ALIVE_FOR for row in known)
    return [] if alive else known


def pause(conn: Connection, place: str, name: str, reason: str, now: float) -> bool:
    """Deny marketing until the folder's journal was replayed; False where that was so before."""
    row = conn.execute(select(journals).where(journals.c.place == place)).first()
    if row is not None and row.paused_at is not None:
        return False
    if row is None:
        note(conn, place, name, 0, 0.0)
    conn.execute(
        update(journals).where(journals.c.place == place).values(paused_at=now, reason=reason)
    )
    return True


def open_again(conn: Connection, place: str) -> None:
    conn.execute(
        update(journals).where(journals.c.place == place).values(paused_at=None, reason=None)
    )


def forget(conn: Connection, lost: Collection[str]) -> None:
    """Folders that are gone for good."""
    conn.execute(delete(journals).where(journals.c.place.in_(lost)))


def waiting(conn: Connection) -> list[Any]:
    """The folders whose journal is still to be replayed."""
    return list(
        conn.execute(
            select(journals).where(journals.c.paused_at.is_not(None)).order_by(journals.c.place)
        )
    )


class Paused(NamedTuple):
    since: float
    reason: str


def paused(conn: Connection) -> Paused | None:
    """Why marketing is denied to all, if it is."""
    row = conn.execute(
        select(journals.c.paused_at, journals.c.reason)
        .where(journals.c.paused_at.is_not(None))
        .order_by(journals.c.paused_at)
        .limit(1)
    ).first()
    return Paused(row.paused_at, row.reason or "") if row else None


# --- bringing back -----------------------------------------------------------------------------


def missing(conn: Connection, told: Sequence[Said]) -> list[Said]:
    """Those of the rows that neither stand in the ledger nor were brought back."""
    events = {one.event for one in told}
    have = {(row.id, row.payload_hash) for row in conn.execute(_having(events))}
    left = [one for one in told if (one.event, one.payload) not in have]
    digests = [one.digest for one in left]
    done = set(
        conn.execute(
            select(brought_back.c.digest).where(brought_back.c.digest.in_(digests))
        ).scalars()
    )
    return [one for one in left if one.digest not in done]


def _having(events: Collection[int]) -> Any:
    return select(ledger.c.id, ledger.c.payload_hash).where(ledger.c.id.in_(events))


def mark_brought(conn: Connection, one: Said, now: float) -> None:
    conn.execute(insert(brought_back), {"digest": one.digest, "at": now})


def count_brought(conn: Connection) -> int:
    return int(conn.execute(select(func.count()).select_from(brought_back)).scalar_one())


def keep_batch(conn: Connection, one: Said) -> None:
    """The run that a machine's out belonged to can still be taken back as a whole."""
    word, _, number = (one.batch or "").partition("_")
    if word != "b" or not number.isdigit():
        return
    upsert = dialect.insert(batches)
    conn.execute(
        upsert.on_conflict_do_update(
            index_elements=["id"], set_={"outs": batches.c.outs + upsert.excluded.outs}
        ),
        {
            "id": int(number),
            "brand": one.brand,
            "origin": one.origin or one.source,
            "state": "released",
            "opened_at": one.received_at,
            "last_at": one.received_at,
            "outs": 1,
        },
    )


def has_links(conn: Connection, one: Who) -> bool:
    """Whether the subject is there and known by all of this."""
    wanted = {(known.kind, known.hash) for known in one.known}
    rows = conn.execute(
        select(identifiers.c.kind, identifiers.c.hash)
        .join(links, links.c.identifier_id == identifiers.c.id)
        .where(links.c.subject_id == one.subject)
    )
    return wanted <= {(kind, hash_) for kind, hash_ in rows}
