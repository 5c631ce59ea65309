"""Every identifier of a kind that may be denied, in one reading of one moment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Connection, select

from prefs.core.decision import Held
from prefs.core.keys import Keyring
from prefs.core.words import Kind
from prefs.store.codec import decode_held
from prefs.store.schema import identifiers, permissions

AT_ONCE = 1000
"""Rows fetched at once."""


class Known(NamedTuple):
    """`spelling` is None where only the hash is left."""

    held: Held
    spelling: str | None


def held_of(
    conn: Connection, controller: str, brand: str, kind: Kind, keys: Keyring
) -> Iterator[Known]:
    """What is held of every known identifier of this kind, in the order of their hashes."""
    wanted = (
        select(permissions.c.value, identifiers.c.hash, identifiers.c.spelling)
        .join(identifiers, identifiers.c.hash == permissions.c.hash)
        .where(
            permissions.c.brand == brand,
            identifiers.c.controller == controller,
            identifiers.c.kind == kind.value,
        )
        .order_by(permissions.c.hash)
    )
    for value, hash_, spelling in conn.execution_options(yield_per=AT_ONCE).execute(wanted):
        spelled = keys.decrypt(spelling, hash_).decode() if spelling else None
        yield Known(decode_held(value), spelled)
