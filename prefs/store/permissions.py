"""The one-read row behind `check`: what everybody who shares an identifier adds up to.

The row is keyed by keyed hash only, so that a suppression outlives the person's record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from msgspec.structs import replace
from sqlalchemy import Connection, and_, bindparam, delete, exists, or_, select

from prefs.core.decision import NOBODY, Held, Screening, hold_together
from prefs.core.errors import Busy
from prefs.core.fold import State
from prefs.core.screening import screening
from prefs.core.words import Channel, Purpose
from prefs.store import dialect, schema, screenings
from prefs.store.codec import decode_held, decode_state, encode_held, with_screening
from prefs.store.database import Database
from prefs.store.hot import ByKeys, Statement
from prefs.store.schema import delivery_facts, identifiers, links, permissions, subjects

MOST_WAITING = 5000
"""Questions that may wait before programs are told to come back later."""

REMEMBERED = 16
"""Rows that a walk through all identifiers has worked out last."""

Facts = dict[tuple[str, bytes], set[tuple[Channel, Purpose]]]

_VALUES = ByKeys(
    select(permissions.c.hash, permissions.c.value).where(
        permissions.c.brand == bindparam("brand")
    ),
    permissions.c.hash,
)


class LookUp:
    """Answers for programs that ask at the same time: those that come while one question is under
    way are the next one, together. The way to the rows and back costs more than the rows."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[_Asked] = []
        self._asking: asyncio.Task[None] | None = None
        self.alone = asyncio.Lock()
        """For long lists: two threads that compute only take turns."""

    async def of(self, brand: str, hashes: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """hash -> permission row; who has none holds nothing. Raises Unavailable; Busy when too
        many wait."""
        if len(self._waiting) > MOST_WAITING:
            raise Busy("too many ask at once", retry_after=1)
        asked = _Asked(brand, hashes, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return await asked.answer

    async def _ask(self) -> None:
        try:
            while self._waiting:
                together, self._waiting = self._waiting, []
                await self._answer(together)
        finally:
            self._asking = None

    async def _answer(self, together: Sequence[_Asked]) -> None:
        wanted: dict[str, set[bytes]] = {}
        for one in together:
            wanted.setdefault(one.brand, set()).update(one.hashes)
        try:
            found = {brand: await self._read(brand, hashes) for brand, hashes in wanted.items()}
        except Exception as fault:  # noqa: BLE001  # whose question it was is told, or waits for ever
            for one in together:
                one.fail(fault)
            return
        for one in together:
            one.end(found[one.brand])

    async def _read(self, brand: str, hashes: Collection[bytes]) -> Mapping[bytes, bytes]:
        return dict(await self._database.engine.hot(_VALUES, hashes, {"brand": brand}))


class _Asked(NamedTuple):
    """Who hung up meanwhile is told nothing."""

    brand: str
    hashes: Sequence[bytes]
    answer: asyncio.Future[Mapping[bytes, bytes]]

    def end(self, found: Mapping[bytes, bytes]) -> None:
        if not self.answer.done():
            self.answer.set_result(found)

    def fail(self, fault: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(fault)


def rows(conn: Connection, brand: str, hashes: Collection[bytes]) -> dict[bytes, bytes]:
    """hash -> permission row, as it is stored."""
    return dict(map(tuple, _VALUES.run(conn, hashes, {"brand": brand})))


def read(conn: Connection, brand: str, hashes: Collection[bytes]) -> dict[bytes, Held]:
    """hash -> all that is held."""
    return {hash_: decode_held(row) for hash_, row in rows(conn, brand, hashes).items()}


_insert = dialect.insert(permissions)
_UPSERT = Statement(
    _insert.values(
        brand=bindparam("brand"), hash=bindparam("hash"), value=bindparam("value")
    ).on_conflict_do_update(
        index_elements=["brand", "hash"], set_={"value": _insert.excluded.value}
    )
)
_DELETE = Statement(
    delete(permissions).where(
        permissions.c.brand == bindparam("brand"), permissions.c.hash == bindparam("hash")
    )
)


def write(
    conn: Connection,
    brands: Collection[str],
    sharers: Iterable[tuple[bytes, Sequence[State]]],
) -> None:
    """Recompute the rows of these hashes, at each of these brands, from the states of all who
    share each."""
    made = _rows(conn, brands, list(sharers))
    _DELETE.run_many(conn, [row for row in made if row["value"] is None])
    _UPSERT.run_many(conn, [row for row in made if row["value"] is not None])


_more = (delivery_facts, schema.screenings)
_WALK = Statement(
    select(identifiers.c.id, identifiers.c.hash, permissions.c.value)
    .add_columns(or_(*(exists().where(one.c.hash == identifiers.c.hash) for one in _more)))
    .add_columns(subjects.c.state)
    .join(links, links.c.identifier_id == identifiers.c.id)
    .join(subjects, subjects.c.id == links.c.subject_id)
    .outerjoin(
        permissions,
        and_(permissions.c.hash == identifiers.c.hash, permissions.c.brand == bindparam("brand")),
    )
    .where(identifiers.c.controller.concat("") == bindparam("controller"))
    .order_by(links.c.identifier_id, links.c.subject_id)
)
"""The controller is compared as an expression: by its index SQLite would sort all identifiers."""


def doubtful(
    conn: Connection, controller: str, brand: str
) -> Iterator[tuple[bytes, Sequence[State]]]:
    """Identifiers that somebody has, with the states of all who have it, whose row is not what the
    states alone make it, or of which more is known than they say: `differing` tells. One walk."""
    made = lru_cache(REMEMBERED)(partial(_made, brand))  # who has several has them side by side
    rows = _WALK.walk(conn, {"controller": controller, "brand": brand})
    for (_, hash_, value, more), group in groupby(rows, key=itemgetter(0, 1, 2, 3)):
        states = tuple(state for *_, state in group)
        if more or made(states) != value:
            yield hash_, [decode_state(state) for state in states]


def _made(brand: str, states: Sequence[bytes]) -> bytes | None:
    held = hold_together(map(decode_state, states), brand)
    return None if held == NOBODY else encode_held(held)


def differing(
    conn: Connection,
    brands: Collection[str],
    sharers: Iterable[tuple[bytes, Sequence[State]]],
) -> list[tuple[str, bytes]]:
    """(brand, hash) of the rows that are not what `write` would make them."""
    wanted = _rows(conn, brands, list(sharers))
    stored = {
        (brand, hash_): value
        for brand in brands
        for hash_, value in _VALUES.run(conn, {row["hash"] for row in wanted}, {"brand": brand})
    }
    return [
        (row["brand"], row["hash"])
        for row in wanted
        if row["value"] != stored.get((row["brand"], row["hash"]))
    ]


def _rows(
    conn: Connection, brands: Collection[str], sharers: Sequence[tuple[bytes, Sequence[State]]]
) -> list[dict[str, Any]]:
    hashes = [hash_ for hash_, _ in sharers]
    facts, screened = _facts(conn, hashes), screenings.read(conn, hashes)
    rows = []
    for hash_, states in sharers:
        for brand in brands:
            held = hold_together(states, brand)
            if (brand, hash_) in facts:
                held = replace(held, undeliverable=frozenset(facts[brand, hash_]))
            if answers := screened.get(brand, {}).get(hash_):
                held = replace(held, screening=screening(answers))
            value = None if held == NOBODY else encode_held(held)
            rows.append({"brand": brand, "hash": hash_, "value": value})
    return rows


def rescreen(conn: Connection, brand: str, changed: Mapping[bytes, Screening]) -> None:
    """Write what the registers say now into the rows of these hashes; all else in them stays."""
    stored: dict[bytes, bytes] = dict(_VALUES.run(conn, changed, {"brand": brand}))
    rows = [
        {"brand": brand, "hash": hash_, "value": with_screening(stored.get(hash_), said)}
        for hash_, said in changed.items()
    ]
    _UPSERT.run_many(conn, rows)


_FACTS = ByKeys(
    select(
        delivery_facts.c.brand,
        delivery_facts.c.hash,
        delivery_facts.c.channel,
        delivery_facts.c.purpose,
    ),
    delivery_facts.c.hash,
)


def _facts(conn: Connection, hashes: Collection[bytes]) -> Facts:
    found: Facts = {}
    for brand, hash_, channel, purpose in _FACTS.run(conn, hashes):
        found.setdefault((brand, hash_), set()).add((Channel(channel), Purpose(purpose)))
    return found


def set_fact(
    conn: Connection,
    brand: str,
    hash_: bytes,
    pair: tuple[Channel, Purpose],
    origin: str,
    fact: str,
    now: float,
) -> None:
    upsert = dialect.insert(delivery_facts)
    conn.execute(
        upsert.on_conflict_do_nothing(),
        {
            "brand": brand,
            "hash": hash_,
            "channel": pair[0].value,
            "purpose": pair[1].value,
            "origin": origin,
            "fact": fact,
            "since": now,
        },
    )


def end_fact(
    conn: Connection, brand: str, hash_: bytes, pair: tuple[Channel, Purpose], origin: str
) -> bool:
    """True when there was one."""
    ended = conn.execute(
        delete(delivery_facts).where(
            delivery_facts.c.brand == brand,
            delivery_facts.c.hash == hash_,
            delivery_facts.c.channel == pair[0].value,
            delivery_facts.c.purpose == pair[1].value,
            delivery_facts.c.origin == origin,
        )
    )
    return ended.rowcount > 0
