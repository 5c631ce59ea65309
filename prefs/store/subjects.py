"""Subjects, their identifiers, and which of them share one."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, bindparam, func, insert, select, update

from prefs.core.fold import State, next_end
from prefs.core.keys import Keyring
from prefs.core.signals import Identifier
from prefs.core.words import Kind
from prefs.store import dialect, text
from prefs.store.codec import decode_state, encode_state
from prefs.store.hot import ByKeys, Statement
from prefs.store.schema import identifiers, links, subjects


class Subject(NamedTuple):
    id: int
    ref: str | None
    name: str | None
    revision: int
    state: State
    last_row_at: float | None
    created_at: float

    def now(self, clock: float) -> float:
        """The clock's time, or that of the newest row where the clock is behind it: it was set
        back, or is another machine's."""
        return max(clock, self.last_row_at or clock)


class Known(NamedTuple):
    """One identifier row. `spelling` is None where only the hash is left."""

    id: int
    kind: Kind
    hash: bytes
    spelling: str | None


_COLUMNS = (
    subjects.c.id,
    subjects.c.ref,
    subjects.c.name,
    subjects.c.revision,
    subjects.c.state,
    subjects.c.last_row_at,
    subjects.c.created_at,
)
_IDENTIFIER = (
    identifiers.c.id,
    identifiers.c.kind,
    identifiers.c.hash,
    identifiers.c.spelling,
)


def new_id() -> int:
    """A random 63-bit id: tells nothing about order or number of people."""
    return secrets.randbits(63) or 1


def _subject(row: Sequence[object]) -> Subject:
    id_, ref, name, revision, state, last, created = row
    return Subject(id_, ref, name, revision, decode_state(state), last, created)  # type: ignore[arg-type]  # columns are typed by the schema


def create(ref: str | None, name: str | None, now: float) -> Subject:
    """A new subject; `store` writes it."""
    return Subject(new_id(), ref, name, 0, State(), None, now)


_INSERT = Statement(insert(subjects))
_UPDATE = Statement(
    update(subjects)
    .where(subjects.c.id == bindparam("b_id"))
    .values(
        ref=bindparam("b_ref"),
        name=bindparam("b_name"),
        name_folded=bindparam("b_folded"),
        revision=bindparam("b_revision"),
        state=bindparam("b_state"),
        last_row_at=bindparam("b_last"),
        resume_at=bindparam("b_resume"),
    )
)


def store(conn: Connection, subject: Subject) -> None:
    """Write what changed of a subject that is stored already."""
    store_all(conn, [subject])


def store_all(conn: Connection, changed: Iterable[Subject]) -> None:
    _UPDATE.run_many(
        conn,
        [
            {
                "b_id": one.id,
                "b_ref": one.ref,
                "b_name": one.name,
                "b_folded": text.folded(one.name),
                "b_revision": one.revision,
                "b_state": encode_state(one.state),
                "b_last": one.last_row_at,
                "b_resume": next_end(one.state),
            }
            for one in changed
        ],
    )


def store_new(conn: Connection, controller: str, new: Iterable[Subject]) -> None:
    _INSERT.run_many(
        conn,
        [
            {
                "id": one.id,
                "controller": controller,
                "ref": one.ref,
                "name": one.name,
                "name_folded": text.folded(one.name),
                "revision": one.revision,
                "state": encode_state(one.state),
                "created_at": one.created_at,
                "last_row_at": one.last_row_at,
                "resume_at": next_end(one.state),
            }
            for one in new
        ],
    )


_BY_IDS = ByKeys(
    select(*_COLUMNS).order_by(subjects.c.id),
    subjects.c.id,
)


def by_ids(conn: Connection, ids: Collection[int]) -> list[Subject]:
    """The subjects in the order of their ids: the order in which rows are locked."""
    return [_subject(row) for row in _BY_IDS.run(conn, ids)]


_LOCK = ByKeys(
    select(*_COLUMNS).order_by(subjects.c.id).with_for_update(),
    subjects.c.id,
)


def lock(conn: Connection, ids: Collection[int]) -> list[Subject]:
    """The same, kept from every other transaction until the end of this one."""
    return [_subject(row) for row in _LOCK.run(conn, ids)]


def by_ref(conn: Connection, controller: str, ref: str) -> Subject | None:
    row = conn.execute(
        select(*_COLUMNS).where(subjects.c.controller == controller, subjects.c.ref == ref)
    ).first()
    return _subject(row) if row else None


def of_controller(conn: Connection, controller: str, id_: int) -> Subject | None:
    row = conn.execute(
        select(*_COLUMNS).where(subjects.c.controller == controller, subjects.c.id == id_)
    ).first()
    return _subject(row) if row else None


_IDS_OF_REFS = ByKeys(
    select(subjects.c.id).where(subjects.c.controller == bindparam("controller")),
    subjects.c.ref,
)
_IDS_OF = ByKeys(
    select(subjects.c.id).where(subjects.c.controller == bindparam("controller")),
    subjects.c.id,
)


def of_refs(conn: Connection, controller: str, refs: Collection[str]) -> list[int]:
    """The ids of those with these references."""
    return [id_ for (id_,) in _IDS_OF_REFS.run(conn, refs, {"controller": controller})]


def among(conn: Connection, controller: str, ids: Collection[int]) -> list[int]:
    """Those of these ids that are subjects of this controller."""
    return [id_ for (id_,) in _IDS_OF.run(conn, ids, {"controller": controller})]


def to_resume(conn: Connection, now: float, limit: int = 200) -> list[int]:
    """Subjects of whom a pause has come to its end."""
    wanted = select(subjects.c.id).where(subjects.c.resume_at <= now)
    return list(conn.execute(wanted.limit(limit)).scalars())


def by_name(conn: Connection, controller: str, name: str, limit: int = 50) -> list[Subject]:
    """Subjects whose name starts with, or has a word that starts with, the text."""
    folded = text.folded(name) or ""
    like = text.escaped_like(folded)
    rows = conn.execute(
        select(*_COLUMNS)
        .where(
            subjects.c.controller == controller,
            subjects.c.name_folded.like(f"{like}%", escape="\\")
            | subjects.c.name_folded.like(f"% {like}%", escape="\\"),
        )
        .order_by(subjects.c.name_folded)
        .limit(limit)
    )
    return [_subject(row) for row in rows]


def named(conn: Connection, controller: str, name: str, limit: int) -> list[Subject]:
    """Subjects who are called so, but for case and accents."""
    rows = conn.execute(
        select(*_COLUMNS)
        .where(subjects.c.controller == controller, subjects.c.name_folded == text.folded(name))
        .limit(limit)
    )
    return [_subject(row) for row in rows]


class Found(NamedTuple):
    """An identifier row; `spelled` is False where only the hash is left."""

    id: int
    kind: Kind
    hash: bytes
    spelled: bool


_FOUND_COLUMNS = (
    identifiers.c.id,
    identifiers.c.kind,
    identifiers.c.hash,
    identifiers.c.spelling.is_not(None),
)
_FOUND = (
    select(*_FOUND_COLUMNS)
    .where(identifiers.c.controller == bindparam("controller"))
    .order_by(identifiers.c.hash)
)
_FIND = ByKeys(_FOUND, identifiers.c.hash)
_LOCK_HASHES = ByKeys(_FOUND.with_for_update(), identifiers.c.hash)


def find_hashes(conn: Connection, controller: str, hashes: Collection[bytes]) -> list[Found]:
    """The identifier rows among these, in hash order."""
    return _found(_FIND.run(conn, hashes, {"controller": controller}))


def hashes_of_known(
    conn: Connection, controller: str, keys: Keyring, identifiers: Iterable[Identifier]
) -> dict[Identifier, bytes]:
    """The hash under which each is known, else that of the newest key."""
    if len(keys.key_ids) == 1:
        return {one: keys.hash(one) for one in identifiers}
    hashes = {one: keys.hashes(one) for one in identifiers}
    rows = find_hashes(conn, controller, {hash_ for every in hashes.values() for hash_ in every})
    known = {row.hash for row in rows}
    return {
        one: next((hash_ for hash_ in every if hash_ in known), every[0])
        for one, every in hashes.items()
    }


def lock_hashes(conn: Connection, controller: str, hashes: Collection[bytes]) -> list[Found]:
    """The same, kept from every other transaction until the end of this one."""
    return _found(_LOCK_HASHES.run(conn, hashes, {"controller": controller}))


def _found(rows: Iterable[Sequence[Any]]) -> list[Found]:
    return [Found(id_, Kind(kind), hash_, bool(spelled)) for id_, kind, hash_, spelled in rows]


_ADDED = ("controller", "kind", "hash", "key_id", "spelling", "created_at")
_ADD = Statement(
    dialect.insert(identifiers)
    .values({name: bindparam(name) for name in _ADDED})
    .on_conflict_do_nothing()
    .returning(*_FOUND_COLUMNS)
)


def add_identifiers(
    conn: Connection,
    controller: str,
    new: Iterable[tuple[Kind, bytes, Identifier | None]],
    keys: Keyring,
    now: float,
    *,
    key_id: bytes | None = None,
) -> list[Found]:
    """Keep identifier rows: kind, hash under the newest key (or the one of this id), and what was
    spelled out. One that is kept already stays as it is. Returns those that were added."""
    new = list(new)
    spelled = iter(keys.encrypt_all([(o.spelling.encode(), hash_) for _, hash_, o in new if o]))
    rows = _ADD.run_each(
        conn,
        [
            {
                "controller": controller,
                "kind": kind.value,
                "hash": hash_,
                "key_id": key_id or keys.newest_id,
                "spelling": next(spelled) if one else None,
                "created_at": now,
            }
            for kind, hash_, one in new
        ],
    )
    return _found(rows)


def spell(
    conn: Connection, controller: str, hash_: bytes, identifier: Identifier, keys: Keyring
) -> None:
    """Give a row that holds the hash only its spelling again."""
    conn.execute(
        update(identifiers)
        .where(
            identifiers.c.controller == controller,
            identifiers.c.hash == hash_,
            identifiers.c.spelling.is_(None),
        )
        .values(spelling=keys.encrypt(identifier.spelling.encode(), hash_))
    )


_LINKED = Statement(select(links.c.identifier_id).where(links.c.subject_id == bindparam("id")))
_LINK = Statement(insert(links))


def link(conn: Connection, subject_id: int, identifier_ids: Iterable[int], now: float) -> bool:
    """Link what is not linked yet; True when anything was new."""
    have = {id_ for (id_,) in _LINKED.run(conn, {"id": subject_id})}
    new = [(subject_id, id_) for id_ in identifier_ids if id_ not in have]
    add_links(conn, new, now)
    return bool(new)


def add_links(conn: Connection, new: Iterable[tuple[int, int]], now: float) -> None:
    """(subject id, identifier id) each, linked for the first time."""
    _LINK.run_many(
        conn,
        [{"subject_id": subject_id, "identifier_id": id_, "since": now} for subject_id, id_ in new],
    )


_SHARERS = ByKeys(
    select(links.c.identifier_id, links.c.subject_id),
    links.c.identifier_id,
)


def linked_to(conn: Connection, identifier_ids: Collection[int]) -> dict[int, set[int]]:
    """identifier id -> ids of the subjects that have it."""
    found: dict[int, set[int]] = {id_: set() for id_ in identifier_ids}
    for identifier_id, subject_id in _SHARERS.run(conn, found):
        found[identifier_id].add(subject_id)
    return found


def identifiers_of(
    conn: Connection, subject_ids: Collection[int], keys: Keyring
) -> dict[int, list[Known]]:
    found: dict[int, list[Known]] = {id_: [] for id_ in subject_ids}
    if found:
        rows = conn.execute(
            select(links.c.subject_id, *_IDENTIFIER)
            .join(identifiers, identifiers.c.id == links.c.identifier_id)
            .where(links.c.subject_id.in_(sorted(found)))
            .order_by(identifiers.c.id)
        )
        for subject_id, id_, kind, hash_, spelling in rows:
            found[subject_id].append(Known(id_, Kind(kind), hash_, _spelled(keys, spelling, hash_)))
    return found


_HASHES = ByKeys(
    select(links.c.subject_id, identifiers.c.id, identifiers.c.hash).join(
        identifiers, identifiers.c.id == links.c.identifier_id
    ),
    links.c.subject_id,
)


def hashes_of(conn: Connection, subject_ids: Collection[int]) -> dict[int, list[tuple[int, bytes]]]:
    """subject id -> (identifier id, hash) of each of its identifiers."""
    found: dict[int, list[tuple[int, bytes]]] = {id_: [] for id_ in subject_ids}
    for subject_id, id_, hash_ in _HASHES.run(conn, found):
        found[subject_id].append((id_, hash_))
    return found


_have, _own = links.alias("have"), links.alias("own")
_AROUND = ByKeys(
    select(_own.c.subject_id, identifiers.c.id, identifiers.c.hash)
    .select_from(_have)
    .join(_own, _own.c.subject_id == _have.c.subject_id)
    .join(identifiers, identifiers.c.id == _own.c.identifier_id),
    _have.c.identifier_id,
)


def around(conn: Connection, identifier_ids: Collection[int]) -> dict[int, dict[int, bytes]]:
    """Of everybody who has one of these identifiers: subject id -> identifier id -> hash."""
    found: dict[int, dict[int, bytes]] = {}
    for subject_id, id_, hash_ in _AROUND.run(conn, identifier_ids):
        found.setdefault(subject_id, {})[id_] = hash_
    return found


_LAST_ROWS = ByKeys(
    select(identifiers.c.hash, func.max(subjects.c.last_row_at))
    .join(links, links.c.identifier_id == identifiers.c.id)
    .join(subjects, subjects.c.id == links.c.subject_id)
    .where(
        identifiers.c.controller == bindparam("controller"),
    )
    .group_by(identifiers.c.hash),
    identifiers.c.hash,
)


def last_rows(
    conn: Connection, controller: str, hashes: Collection[bytes]
) -> dict[bytes, datetime]:
    """hash -> when the newest ledger row of anybody who has it was received."""
    rows = _LAST_ROWS.run(conn, hashes, {"controller": controller})
    return {hash_: datetime.fromtimestamp(at, UTC) for hash_, at in rows if at is not None}


def known(conn: Connection, controller: str, hash_: bytes, keys: Keyring) -> Known | None:
    row = conn.execute(
        select(*_IDENTIFIER).where(
            identifiers.c.controller == controller, identifiers.c.hash == hash_
        )
    ).first()
    if row is None:
        return None
    return Known(row.id, Kind(row.kind), row.hash, _spelled(keys, row.spelling, row.hash))


def _spelled(keys: Keyring, spelling: bytes | None, hash_: bytes) -> str | None:
    return keys.decrypt(spelling, hash_).decode() if spelling else None


_OWNERS = ByKeys(
    select(links.c.subject_id)
    .join(identifiers, identifiers.c.id == links.c.identifier_id)
    .where(
        identifiers.c.controller == bindparam("controller"),
    )
    .distinct(),
    identifiers.c.hash,
)


def owners(conn: Connection, controller: str, hashes: Collection[bytes]) -> list[int]:
    """Ids of everybody who has one of these identifiers, however many these are."""
    rows = _OWNERS.run(conn, hashes, {"controller": controller})
    return sorted({subject_id for (subject_id,) in rows})


def _after(controller: str, last: int, size: int) -> Select[int]:
    """The next ids past one. The controller is compared as an expression, so that no index on it is
    taken: SQLite would sort all of its subjects for each page."""
    own = subjects.c.controller.concat("") == controller
    return (
        select(subjects.c.id).where(own, subjects.c.id > last).order_by(subjects.c.id).limit(size)
    )


def sharers(conn: Connection, subject_id: int) -> list[Subject]:
    """The subject and everybody who shares an identifier with it, in the order of their ids."""
    own = [id_ for id_, _ in hashes_of(conn, [subject_id])[subject_id]]
    return by_ids(conn, {subject_id}.union(*linked_to(conn, own).values()))


_NAMES = ByKeys(
    select(identifiers.c.hash, subjects.c.id, subjects.c.name)
    .join(links, links.c.identifier_id == identifiers.c.id)
    .join(subjects, subjects.c.id == links.c.subject_id)
    .where(identifiers.c.controller == bindparam("controller"))
    .order_by(subjects.c.created_at, subjects.c.id),
    identifiers.c.hash,
)


def names_by_hash(
    conn: Connection, controller: str, hashes: Collection[bytes]
) -> dict[bytes, list[tuple[int, str | None]]]:
    """hash -> (id, name) of everybody who has it, the oldest first."""
    found: dict[bytes, list[tuple[int, str | None]]] = {}
    for hash_, id_, name in _NAMES.run(conn, hashes, {"controller": controller}):
        found.setdefault(hash_, []).append((id_, name))
    return found


def reachable(
    conn: Connection, controller: str, kind: Kind, keys: Keyring, limit: int
) -> list[tuple[bytes, str]]:
    """(hash, spelling) of the identifiers of a kind that somebody has, by their names."""
    rows = conn.execute(
        select(identifiers.c.hash, identifiers.c.spelling)
        .join(links, links.c.identifier_id == identifiers.c.id)
        .join(subjects, subjects.c.id == links.c.subject_id)
        .where(
            identifiers.c.controller == controller,
            identifiers.c.kind == kind.value,
            identifiers.c.spelling.is_not(None),
        )
        .group_by(identifiers.c.id)
        .order_by(func.min(subjects.c.name_folded), identifiers.c.id)
        .limit(limit)
    )
    return [(hash_, _spelled(keys, spelling, hash_) or "") for hash_, spelling in rows]


def page(conn: Connection, controller: str, after: int, size: int) -> list[Subject]:
    """The subjects of a controller past an id, in order."""
    return by_ids(conn, list(conn.execute(_after(controller, after, size)).scalars()))


def all_ids(conn: Connection, controller: str, size: int = 500) -> Iterable[list[int]]:
    """The ids of all subjects of a controller, in pages."""
    last = -1
    while page := list(conn.execute(_after(controller, last, size)).scalars()):
        yield page
        last = page[-1]
