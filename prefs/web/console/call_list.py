"""A list of people to call: what its lines mean, and for each whether we may."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection

from prefs.core import identity
from prefs.core.decision import NOBODY, Ask, Decision, Held, Reason, decide
from prefs.core.errors import BadIdentifier, BadInput
from prefs.core.ids import subject_text
from prefs.core.signals import Identifier
from prefs.core.words import Channel, Kind, Purpose, Scope
from prefs.store import permissions, subjects
from prefs.store.subjects import Subject
from prefs.web.console.session import Visit

CALLS = Scope(Channel.PHONE, Purpose.MARKETING)
MOST = 20_000
"""Lines of a list; `prefs scrub` and the page for campaigns take longer ones."""
AT_ONCE = 500
LONGEST = 200
PHONES = frozenset({"number", "phone", "telephone", "tel", "mobile", "phone_number"})
HEADINGS = PHONES | {"name", "surname", "first_name", "last_name", "ref", "reference", "email"}
"""How a first line begins its columns, if it names them."""


class Line(msgspec.Struct, array_like=True, frozen=True):
    """One line. `hash` is empty where it leads to no number: `lacks` then says what it lacks."""

    typed: str
    hash: bytes = b""
    number: str = ""
    lacks: str = ""


class Judged(NamedTuple):
    place: int
    """Within the list."""
    line: Line
    decision: Decision | None
    """None where there is no number to ask about."""

    @property
    def allowed(self) -> bool:
        return self.decision is not None and self.decision.allowed


class Person(NamedTuple):
    id: str
    name: str | None


# --- what the lines mean -----------------------------------------------------------------------


def lines_of(conn: Connection, visit: Visit, rows: Iterable[list[str]]) -> list[Line]:
    """Each line by its number, else by its ref, else by a name that one person has; a number that
    comes again is left out. Raises BadInput for none, or for too many."""
    rows = list(islice(rows, MOST + 2))
    heading = [cell.lower().replace(" ", "_") for cell in rows[0]] if rows else []
    columns: list[int] = []
    if HEADINGS & set(heading):
        rows = rows[1:]
        columns = [at for at, name in enumerate(heading) if name in PHONES]
    if not rows:
        raise BadInput("staff.calls.empty")
    if len(rows) > MOST:
        raise BadInput("staff.calls.too_many")
    found = [line for cells in rows for line in _line(conn, visit, cells, columns)]
    return _unique(_under_known_hash(conn, visit, found))


def everybody(conn: Connection, visit: Visit) -> list[Line]:
    """All people with a number. Raises BadInput."""
    served, controller = visit.served, visit.brand.controller
    found = subjects.reachable(conn, controller, Kind.PHONE, served.keys, MOST + 1)
    if len(found) > MOST:
        raise BadInput("staff.calls.too_many")
    if not found:
        raise BadInput("staff.calls.nobody_has")
    return [Line("", hash_, number) for hash_, number in found]


def _line(conn: Connection, visit: Visit, row: list[str], columns: list[int]) -> list[Line]:
    """`columns` are those of numbers, where the file names them."""
    phones = [row[at] for at in columns if at < len(row)] if columns else row
    cells = [cell for cell in row if cell]
    typed = " ".join(cells)[:LONGEST]
    number = next(_numbers(phones, visit.brand.region), None)
    if number:
        return [Line(typed, visit.served.keys.hash(number), number.spelling)]
    people = _people(conn, visit, cells)
    if len(people) != 1:
        named = any(character.isalpha() for character in typed)
        return [Line(typed, lacks="several" if people else "nobody" if named else "invalid")]
    known = subjects.identifiers_of(conn, [people[0].id], visit.served.keys)[people[0].id]
    own = [one for one in known if one.kind is Kind.PHONE and one.spelling]
    lines = [Line(typed, one.hash, one.spelling or "") for one in own]
    return lines or [Line(typed, lacks="no_number")]


def _numbers(cells: Sequence[str], region: str) -> Iterator[Identifier]:
    for cell in cells:
        with suppress(BadIdentifier):
            yield identity.phone(cell, region)


def _people(conn: Connection, visit: Visit, cells: Sequence[str]) -> list[Subject]:
    """By the first cell that is a ref, else by the whole line as a name."""
    controller = visit.brand.controller
    for cell in cells:
        if one := subjects.by_ref(conn, controller, cell):
            return [one]
    return subjects.named(conn, controller, " ".join(cells), 2)


def _under_known_hash(conn: Connection, visit: Visit, lines: Sequence[Line]) -> list[Line]:
    """A number may be kept under an older key than the newest."""
    keys, controller = visit.served.keys, visit.brand.controller
    hashes = {
        one.number: keys.hashes(Identifier(Kind.PHONE, one.number, one.number))
        for one in lines
        if one.number
    }
    wanted = {hash_ for every in hashes.values() for hash_ in every}
    known = {hash_ for _, _, hash_, _ in subjects.find_hashes(conn, controller, wanted)}
    found = {
        number: next((one for one in every if one in known), every[0])
        for number, every in hashes.items()
    }
    return [
        msgspec.structs.replace(one, hash=found[one.number]) if one.number else one for one in lines
    ]


def _unique(lines: Iterable[Line]) -> list[Line]:
    seen: set[bytes] = set()
    kept = []
    for one in lines:
        if not one.hash or one.hash not in seen:
            kept.append(one)
        seen.add(one.hash)
    return kept


# --- may we? -----------------------------------------------------------------------------------


def judge(conn: Connection, visit: Visit, lines: Sequence[Line]) -> list[Judged]:
    """What `check` says of each now."""
    held = _held(conn, visit, [one.hash for one in lines if one.hash])
    ask, now = Ask(CALLS, visit.served.watch.paused is not None), visit.served.clock().timestamp()
    return [
        Judged(place, one, decide(ask, held.get(one.hash, NOBODY), now) if one.hash else None)
        for place, one in enumerate(lines)
    ]


def _held(conn: Connection, visit: Visit, hashes: Sequence[bytes]) -> dict[bytes, Held]:
    found: dict[bytes, Held] = {}
    for start in range(0, len(hashes), AT_ONCE):
        part = hashes[start : start + AT_ONCE]
        found |= permissions.read(conn, visit.member.brand, part)
    return found


def reasons(judged: Iterable[Judged]) -> list[tuple[str, int]]:
    """How often each reason for a no stands, the most frequent first: keys of texts."""
    return Counter(reason(one) for one in judged if not one.allowed).most_common()


def reason(one: Judged) -> str:
    if one.decision:
        return f"reason.{one.decision.reason}"
    if one.line.lacks == "invalid":
        return f"reason.{Reason.INVALID_IDENTIFIER}"
    return f"staff.calls.{one.line.lacks}"


def names(conn: Connection, visit: Visit, judged: Iterable[Judged]) -> Mapping[bytes, list[Person]]:
    """Who is known by each number."""
    hashes = {one.line.hash for one in judged if one.line.hash}
    found = subjects.names_by_hash(conn, visit.brand.controller, hashes)
    return {
        hash_: [Person(subject_text(id_), name) for id_, name in people]
        for hash_, people in found.items()
    }
