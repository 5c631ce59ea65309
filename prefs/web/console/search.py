"""/staff: find a person by name, whole number, whole address or ref, while typing.

What is sought stands in the body of a POST, never in an address.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs.core import identity
from prefs.core.errors import BadIdentifier
from prefs.core.ids import subject_text
from prefs.core.signals import Identifier
from prefs.store import subjects
from prefs.store.subjects import Subject
from prefs.web.console.session import Visit, go, signed_in
from prefs.web.context import Service

MOST = 20
LEAST = 2
"""Letters of a name that are sought."""
PART = "x-part"
"""Header by which our script asks for the list alone."""


class Found(NamedTuple):
    id: str
    name: str | None
    ref: str | None
    identifiers: tuple[str, ...]


class Sought(NamedTuple):
    """`nobody` is the address or number that was sought where nobody is known by it."""

    people: list[Found]
    nobody: Identifier | None


def identifiers_in(text: str, region: str) -> Iterator[Identifier]:
    """What the text may be besides a name: an address, a number."""
    with suppress(BadIdentifier):
        yield identity.email(text)
    with suppress(BadIdentifier):
        yield identity.phone(text, region)


def seek(conn: Connection, served: Service, brand: str, text: str) -> Sought:
    controller, region = served.intake.brands[brand], served.settings.brands[brand].region
    text = text.strip()
    shown = list(identifiers_in(text, region))
    hashes = [hash_ for one in shown for hash_ in served.keys.hashes(one)]
    found = subjects.by_ids(conn, subjects.owners(conn, controller, hashes)) if hashes else []
    by_ref = subjects.by_ref(conn, controller, text) if text else None
    found += [by_ref] if by_ref else []
    if len(text) >= LEAST and not shown:
        found += subjects.by_name(conn, controller, text, MOST)
    unique = list({one.id: one for one in found}.values())[:MOST]
    return Sought(_told(conn, served, unique), None if unique or not shown else shown[0])


def _told(conn: Connection, served: Service, people: list[Subject]) -> list[Found]:
    known = subjects.identifiers_of(conn, [one.id for one in people], served.keys)
    return [
        Found(
            subject_text(one.id),
            one.name,
            one.ref,
            tuple(k.spelling for k in known[one.id] if k.spelling),
        )
        for one in people
    ]


@signed_in()
async def home(request: Request, visit: Visit) -> Response:
    return visit.page("home.html", sought=None, text="", wrong="")


@signed_in()
async def search(request: Request, visit: Visit) -> Response:
    """The list alone for our script; for a person who pressed Enter, the one person found."""
    text = visit.form.get("q", "")[:320]
    served, brand = visit.served, visit.member.brand
    sought = await served.database.read(lambda conn: seek(conn, served, brand, text))
    if request.headers.get(PART):
        return visit.page("results.html", sought=sought, wrong="")
    if len(sought.people) == 1:
        return go(f"/staff/people/{sought.people[0].id}")
    return visit.page("home.html", sought=sought, text=text, wrong="")


routes = [
    Route("/staff", home, methods=["GET"]),
    Route("/staff/search", home, methods=["GET"]),
    Route("/staff/search", search, methods=["POST"]),
]
