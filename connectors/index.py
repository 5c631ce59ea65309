"""Which of a vendor's records show an address or a number, where the vendor cannot be asked.

Filled from listings and kept in the process. It finds ids only: what a record holds is always
read at the vendor.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from prefs.core import identity
from prefs.core.errors import BadIdentifier
from prefs.core.propagation import Ref
from prefs.core.words import Kind

Shown = tuple[tuple[Kind, str], ...]
Key = tuple[Kind, str]


class Index:
    """`region` is what a national number belongs to (ISO 3166)."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._shown: dict[str, Shown] = {}
        self._ids: dict[Key, set[str]] = {}

    def __len__(self) -> int:
        return len(self._shown)

    def put(self, id_: str, shown: Shown) -> None:
        """What a listing shows of one record, instead of what an earlier one did."""
        self.drop(id_)
        self._shown[id_] = shown
        for key in self._keys(shown):
            self._ids.setdefault(key, set()).add(id_)

    def drop(self, id_: str) -> None:
        for key in self._keys(self._shown.pop(id_, ())):
            self._ids[key].discard(id_)

    def keep(self, ids: Iterable[str]) -> None:
        """After a complete walk: what it did not see is no longer there."""
        for gone in self._shown.keys() - set(ids):
            self.drop(gone)

    def shown(self, id_: str) -> Shown:
        return self._shown.get(id_, ())

    def find(self, ref: Ref) -> list[str]:
        """Every record that shows the ref's address or number; where that was erased, the one it
        names by id."""
        if ref.kind is None or not ref.value:
            return [ref.vendor_id] if ref.vendor_id in self._shown else []
        found = {id_ for key in self._keys(((ref.kind, ref.value),)) for id_ in self._ids_of(key)}
        return sorted(found)

    def _ids_of(self, key: Key) -> set[str]:
        return self._ids.get(key, set())

    def _keys(self, shown: Shown) -> Iterable[Key]:
        for kind, text in shown:
            with suppress(BadIdentifier):
                yield kind, self._key(kind, text)

    def _key(self, kind: Kind, text: str) -> str:
        """Raises BadIdentifier."""
        if kind is Kind.EMAIL:
            return identity.email(text).key
        return identity.phone(text, self._region).key
