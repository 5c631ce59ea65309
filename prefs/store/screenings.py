"""What the preference registers said, number by number, and the imports that told it.

A number stands here by its keyed hash, so that one on a register is refused before anybody is
known by it. Every import keeps how far it came, so that an interrupted one goes on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, select, update

from prefs.core.decision import Screening
from prefs.core.screening import Register, Screened, later, screening
from prefs.store import dialect
from prefs.store.counters import next_numbers
from prefs.store.hot import ByKeys, Statement
from prefs.store.schema import identifiers, screening_runs, screenings

Answers = dict[bytes, dict[Register, Screened]]

_OF_HASHES = ByKeys(
    select(
        screenings.c.brand,
        screenings.c.hash,
        screenings.c.register,
        screenings.c.screened_at,
        screenings.c.listed_from,
    ),
    screenings.c.hash,
)


def read(conn: Connection, hashes: Collection[bytes]) -> dict[str, Answers]:
    """brand -> hash -> what each register said."""
    found: dict[str, Answers] = {}
    for brand, hash_, register, at, listed_from in _OF_HASHES.run(conn, hashes):
        of_brand = found.setdefault(brand, {})
        of_brand.setdefault(hash_, {})[Register(register)] = Screened(at, listed_from)
    return found


_insert = dialect.insert(screenings)
_FIELDS = ("hash", "brand", "register", "screened_at", "listed_from")
_KEEP = Statement(
    _insert.values({name: bindparam(name) for name in _FIELDS}).on_conflict_do_update(
        index_elements=["hash", "brand", "register"],
        set_={
            "screened_at": _insert.excluded.screened_at,
            "listed_from": _insert.excluded.listed_from,
        },
    )
)


class Taken(NamedTuple):
    """What an import changed: the screening that now stands, and how many listings it ended."""

    screenings: dict[bytes, Screening]
    lifted: int


def take(conn: Connection, brand: str, register: Register, said: Mapping[bytes, Screened]) -> Taken:
    """Keep a register's answers; what a later screening said stays."""
    stood = read(conn, list(said)).get(brand, {})
    changed: dict[bytes, Screening] = {}
    rows, lifted = [], 0
    for hash_, new in said.items():
        every = stood.get(hash_, {})
        old = every.get(register)
        now = later(old, new)
        if now == old:
            continue
        lifted += bool(old and old.listed_from is not None and now.listed_from is None)
        changed[hash_] = screening({**every, register: now})
        rows.append(
            {
                "hash": hash_,
                "brand": brand,
                "register": register.value,
                "screened_at": now.at,
                "listed_from": now.listed_from,
            }
        )
    _KEEP.run_many(conn, rows)
    return Taken(changed, lifted)


def count_listed(conn: Connection, brand: str, register: Register) -> int:
    wanted = select(func.count()).where(
        screenings.c.brand == brand,
        screenings.c.register == register.value,
        screenings.c.listed_from.is_not(None),
    )
    return int(conn.execute(wanted).scalar_one())


def count_to_lift(conn: Connection, controller: str, run: Any) -> int:
    """Listings of numbers known at an import's time that its file does not show any more."""
    wanted = (
        select(func.count())
        .select_from(screenings)
        .join(identifiers, identifiers.c.hash == screenings.c.hash)
        .where(
            screenings.c.brand == run.brand,
            screenings.c.register == run.register,
            screenings.c.listed_from.is_not(None),
            screenings.c.screened_at < run.screened_at,
            *_known(controller, Register(run.register), run.known_until),
        )
    )
    return int(conn.execute(wanted).scalar_one())


def _known(controller: str, register: Register, until: float) -> tuple[Any, ...]:
    """Whose spelling we hold: no register can be asked about a hash."""
    return (
        identifiers.c.controller == controller,
        identifiers.c.kind == register.kind.value,
        identifiers.c.spelling.is_not(None),
        identifiers.c.created_at <= until,
    )


def known(
    conn: Connection, controller: str, register: Register, until: float, after: bytes, size: int
) -> list[Any]:
    """(hash, spelling) of numbers known at a time, in the order of their hashes: that of the
    tables that they are compared with and written to."""
    wanted = (
        select(identifiers.c.hash, identifiers.c.spelling)
        .where(identifiers.c.hash > after, *_known(controller, register, until))
        .order_by(identifiers.c.hash)
        .limit(size)
    )
    return list(conn.execute(wanted))


def any_due(
    conn: Connection, controller: str, brand: str, register: Register, now: float, since: float
) -> bool:
    """Whether a number known now was not screened since then."""
    fresh = (
        select(screenings.c.hash)
        .where(
            screenings.c.hash == identifiers.c.hash,
            screenings.c.brand == brand,
            screenings.c.register == register.value,
            screenings.c.screened_at >= since,
        )
        .exists()
    )
    wanted = select(identifiers.c.id).where(*_known(controller, register, now), ~fresh).limit(1)
    return conn.execute(wanted).first() is not None


# --- imports -----------------------------------------------------------------------------------

OPEN, DONE = "open", "done"


class Import(NamedTuple):
    """What is imported; `known_until` is until when a number must have been known to count as
    screened."""

    brand: str
    register: Register
    file: bytes
    """SHA-256 of the file."""
    screened_at: float
    known_until: float


def begin(conn: Connection, wanted: Import, now: float) -> Any:
    """The row of this import: the one that was interrupted, else a new one."""
    same = select(screening_runs).where(
        screening_runs.c.brand == wanted.brand,
        screening_runs.c.register == wanted.register.value,
        screening_runs.c.file == wanted.file,
        screening_runs.c.screened_at == wanted.screened_at,
        screening_runs.c.state == OPEN,
    )
    row = conn.execute(same).first()
    if row is not None:
        return row
    (id_,) = next_numbers(conn, "screening", 1)
    conn.execute(
        screening_runs.insert(),
        {
            "id": id_,
            **wanted._asdict(),
            "register": wanted.register.value,
            "state": OPEN,
            "lines": 0,
            "hits": 0,
            "unreadable": 0,
            "walked_to": b"",
            "screened": 0,
            "lifted": 0,
            "started_at": now,
        },
    )
    return one(conn, id_)


def one(conn: Connection, id_: int) -> Any:
    return conn.execute(select(screening_runs).where(screening_runs.c.id == id_)).one()


def note(conn: Connection, id_: int, **more: Any) -> None:
    conn.execute(update(screening_runs).where(screening_runs.c.id == id_).values(**more))


def end(conn: Connection, run: Any) -> None:
    """It is done, and so are those of the same register that never came to their end."""
    note(conn, run.id, state=DONE)
    conn.execute(
        delete(screening_runs).where(
            screening_runs.c.brand == run.brand,
            screening_runs.c.register == run.register,
            screening_runs.c.state == OPEN,
            screening_runs.c.screened_at <= run.screened_at,
        )
    )


def last(conn: Connection, brand: str, register: Register) -> float | None:
    """When the numbers of a brand were last screened."""
    wanted = select(func.max(screening_runs.c.screened_at)).where(
        screening_runs.c.brand == brand,
        screening_runs.c.register == register.value,
        screening_runs.c.state == DONE,
    )
    found: float | None = conn.execute(wanted).scalar()
    return found
