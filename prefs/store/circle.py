"""Everybody that some signals may be about, and all who share an identifier with one of them: read
and locked at once, changed in memory, written at once.

What is locked, on PostgreSQL: the identifiers in the order of their hashes, then the people in that
of their ids. Nobody can be linked to a locked identifier, and whoever shares one with a person who
changes is locked too: no other transaction can work out the same permission row from older states.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from prefs.core.fold import State
from prefs.core.keys import Keyring
from prefs.core.signals import Identifier
from prefs.core.words import Kind
from prefs.store import subjects
from prefs.store.subjects import Found, Subject


class Named(NamedTuple):
    """An identifier as a signal brings it. `hashes` are those under each key, the newest first;
    `identifier` is None where only a hash is known."""

    kind: Kind
    hashes: tuple[bytes, ...]
    identifier: Identifier | None


class Circle:
    def __init__(self, conn: Connection, controller: str, keys: Keyring, now: float) -> None:
        self._conn = conn
        self._controller = controller
        self._keys = keys
        self._now = now
        self._rows: dict[bytes, Found] = {}
        self._hash: dict[int, bytes] = {}
        self._sharers: dict[int, set[int]] = {}
        self._own: dict[int, list[int]] = {}
        self._people: dict[int, Subject] = {}
        self._by_ref: dict[str, int] = {}
        self._new: dict[int, None] = {}
        self._changed: dict[int, None] = {}
        self._links: list[tuple[int, int]] = []

    # --- reading and locking -------------------------------------------------------------------

    def gather(
        self, named: Collection[Named], refs: Collection[str] = (), about: Collection[int] = ()
    ) -> None:
        """Bring in who has these identifiers, and whom these name. An identifier that is not known
        yet is kept from now on."""
        self._keep(named)
        named_ids = set(subjects.of_refs(self._conn, self._controller, refs))
        self._meet(named_ids | set(subjects.among(self._conn, self._controller, about)))

    def _keep(self, named: Collection[Named]) -> None:
        """Those that are known are locked first, in the order of their hashes, then new ones are
        added in it."""
        rows = self._lock({hash_ for one in named for hash_ in one.hashes})
        known = {row.hash for row in rows}
        new: dict[bytes, Named] = {}
        for one in named:
            if known.isdisjoint(one.hashes) and (one.identifier or one.hashes[0] not in new):
                new[one.hashes[0]] = one
        rows += self._add(new)
        self._rows = {row.hash: row for row in rows}
        self._hash = {row.id: row.hash for row in rows}
        self._spell(named)

    def _lock(self, hashes: Collection[bytes]) -> list[Found]:
        return subjects.lock_hashes(self._conn, self._controller, hashes)

    def _add(self, new: Mapping[bytes, Named]) -> list[Found]:
        """What another transaction added meanwhile is locked as it is. (Should that one wait for
        us, one of both is begun anew.)"""
        wanted = [(one.kind, hash_, one.identifier) for hash_, one in sorted(new.items())]
        added = subjects.add_identifiers(
            self._conn, self._controller, wanted, self._keys, self._now
        )
        return added + self._lock(new.keys() - {row.hash for row in added})

    def _spell(self, named: Iterable[Named]) -> None:
        """Rows that hold the hash only get their spelling again."""
        for one in named:
            row = self._rows[self._chosen(one)]
            if one.identifier and not row.spelled:
                subjects.spell(self._conn, self._controller, row.hash, one.identifier, self._keys)
                self._rows[row.hash] = row._replace(spelled=True)

    def _chosen(self, one: Named) -> bytes:
        newest = one.hashes[0]
        if newest in self._rows:
            return newest
        return next(hash_ for hash_ in one.hashes if hash_ in self._rows)

    def _meet(self, ids: set[int]) -> None:
        """Lock everybody concerned. Who came to share something while we waited is locked next."""
        while True:
            missing = self._read_links(ids) - self._people.keys()
            if not missing:
                return
            for one in subjects.lock(self._conn, missing):
                self._people[one.id] = one
                if one.ref is not None:
                    self._by_ref[one.ref] = one.id
            if self._conn.dialect.name == "sqlite":  # the whole database is ours
                return

    def _read_links(self, ids: set[int]) -> set[int]:
        """Whom the signals may be about, and all who share an identifier with them."""
        brought = {row.id for row in self._rows.values()}
        known = subjects.around(self._conn, brought)
        known |= {
            id_: dict(found)
            for id_, found in subjects.hashes_of(self._conn, ids - known.keys()).items()
        }
        self._own = {id_: list(found) for id_, found in known.items()}
        self._sharers = {of: set() for of in brought}
        for id_, found in known.items():
            self._hash |= found
            for of in found:
                self._sharers.setdefault(of, set()).add(id_)
        others = self._sharers.keys() - brought
        self._sharers |= subjects.linked_to(self._conn, others)
        return set(known).union(*self._sharers.values())

    # --- asking --------------------------------------------------------------------------------

    def identifiers(self, named: Iterable[Named]) -> dict[int, tuple[Kind, bytes]]:
        """identifier id -> kind and hash, of what a signal brings."""
        rows = [self._rows[self._chosen(one)] for one in named]
        return {row.id: (row.kind, row.hash) for row in rows}

    def sharing(self, identifier_ids: Iterable[int]) -> list[Subject]:
        """Who has one of them, in the order of their ids."""
        found = {s for id_ in identifier_ids for s in self._sharers[id_]}
        return [self._people[id_] for id_ in sorted(found)]

    def by_ref(self, ref: str) -> Subject | None:
        id_ = self._by_ref.get(ref)
        return None if id_ is None else self._people[id_]

    def one(self, id_: int) -> Subject | None:
        return self._people.get(id_)

    def state(self, id_: int) -> State:
        return self._people[id_].state

    def around(self, ids: Iterable[int]) -> set[int]:
        """These people and all who share an identifier with them."""
        ids = set(ids)
        return ids.union(*(self._sharers[of] for id_ in ids for of in self._own.get(id_, ())))

    def shared(self, ids: Iterable[int]) -> list[tuple[bytes, list[State]]]:
        """Each identifier of these people, with the states of all who have it."""
        own = {of for id_ in ids for of in self._own.get(id_, ())}
        return [(self._hash[of], self._states(self._sharers[of])) for of in sorted(own)]

    def _states(self, ids: set[int]) -> list[State]:
        return [self._people[id_].state for id_ in sorted(ids)]

    # --- changing ------------------------------------------------------------------------------

    def add(self, subject: Subject) -> None:
        self._new[subject.id] = None
        self._keep_person(subject)

    def put(self, subject: Subject) -> None:
        """What became of somebody who is here."""
        self._changed[subject.id] = None
        self._keep_person(subject)

    def _keep_person(self, subject: Subject) -> None:
        self._people[subject.id] = subject
        if subject.ref is not None:
            self._by_ref[subject.ref] = subject.id

    def link(self, subject_id: int, identifier_ids: Iterable[int]) -> bool:
        """Link what is not linked yet; True when anything was new."""
        own = self._own.setdefault(subject_id, [])
        new = [id_ for id_ in identifier_ids if id_ not in own]
        own += new
        self._links += [(subject_id, id_) for id_ in new]
        for id_ in new:
            self._sharers[id_].add(subject_id)
        return bool(new)

    def write(self) -> None:
        new = [self._people[id_] for id_ in self._new]
        changed = [self._people[id_] for id_ in self._changed if id_ not in self._new]
        subjects.store_new(self._conn, self._controller, new)
        subjects.store_all(self._conn, changed)
        subjects.add_links(self._conn, self._links, self._now)


def named_of(
    keys: Keyring, identifiers: Sequence[Identifier], hashes: Sequence[tuple[Kind, bytes]]
) -> list[Named]:
    """What a signal brings, as it is looked for."""
    spelled = [Named(one.kind, keys.hashes(one), one) for one in identifiers]
    return spelled + [Named(kind, (hash_,), None) for kind, hash_ in hashes]
