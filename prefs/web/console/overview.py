"""/staff/overview: what came in and by which door, how soon it was honoured, whom we may reach.

Tables; where scripts run, a picture above each is drawn from the table itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs import reach
from prefs.core.words import Channel, Choice
from prefs.reach import Reach, Standing
from prefs.store import marks, tally
from prefs.store.staff import Role
from prefs.store.tally import Tally
from prefs.web.console.session import Visit, signed_in
from prefs.web.context import Service
from prefs.web.parts import PARTS, parts_of

SPANS = (4, 12, 26, 52)
"""Weeks that can be looked at."""
NEWEST = 10_000
"""Honoured outs of one system from which its percentiles are taken."""


class Door(NamedTuple):
    """How a wish came in; `system` is the target that told us, else empty."""

    source: str
    system: str


class Honoured(NamedTuple):
    """Seconds from a wish to the system's proof; None where nothing was honoured."""

    system: str
    outs: int
    within: Mapping[str, float | None]
    worst: float | None


class Weeks(NamedTuple):
    """Counts of one choice: week -> channel -> how many."""

    began: list[float]
    counts: list[Counter[str]]

    @property
    def channels(self) -> list[str]:
        """Those on which anything came in, in their usual order."""
        return [one for one in Channel if any(counts[one] for counts in self.counts)]

    @property
    def total(self) -> int:
        return sum(counts.total() for counts in self.counts)


class Overview(NamedTuple):
    outs: Weeks
    ins: Weeks
    doors: list[tuple[Door, Counter[str]]]
    honoured: list[Honoured]
    reach: list[Reach]


def look(conn: Connection, served: Service, brand: str, span: int) -> Overview:
    now = served.clock().timestamp()
    first = tally.week_of(now) - span + 1
    found = tally.since(conn, brand, first)
    settings = served.settings.brands[brand]
    labels = [target.label for target in settings.targets.values()]
    return Overview(
        _weeks(found, Choice.OUT, first, span),
        _weeks(found, Choice.IN, first, span),
        _doors(found),
        [_honoured(conn, label, tally.week_began(first)) for label in labels],
        reach.of_brand(conn, settings.controller, brand, now, mps=settings.mps),
    )


def _weeks(found: Iterable[Tally], choice: Choice, first: int, span: int) -> Weeks:
    counts: list[Counter[str]] = [Counter() for _ in range(span)]
    for one in found:
        if one.choice == choice and one.week - first < span:
            counts[one.week - first][one.channel] += one.number
    return Weeks([tally.week_began(week) for week in range(first, first + span)], counts)


def _doors(found: Iterable[Tally]) -> list[tuple[Door, Counter[str]]]:
    """The one with the most opt-outs first."""
    doors: dict[Door, Counter[str]] = {}
    for one in found:
        door = Door(one.source, one.origin.partition("/")[2])
        doors.setdefault(door, Counter())[one.choice] += one.number
    return sorted(doors.items(), key=lambda pair: (-pair[1][Choice.OUT], pair[0]))


def _honoured(conn: Connection, label: str, since: float) -> Honoured:
    count, worst = marks.worst_lag(conn, label, since)
    within = parts_of(marks.lags(conn, label, since, NEWEST))
    return Honoured(label.partition("/")[2], count, within, worst)


@signed_in(Role.MANAGER)
async def overview(request: Request, visit: Visit) -> Response:
    served, brand = visit.served, visit.member.brand
    asked = request.query_params.get("weeks", "")
    span = next((one for one in SPANS if str(one) == asked), SPANS[1])
    found = await served.database.read(lambda conn: look(conn, served, brand, span))
    return visit.page(
        "overview.html",
        found=found,
        span=span,
        spans=SPANS,
        parts=[name for name, _ in PARTS],
        standings=list(Standing),
        sample=reach.SAMPLE,
    )


routes = [Route("/staff/overview", overview, methods=["GET"])]
