"""/staff/systems: how far behind each system is, how safe, what it sends from, and what differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs import sync
from prefs.core.errors import NotFound
from prefs.core.propagation import Facts, Readback, Target
from prefs.scan import Direction
from prefs.store import containers, marks
from prefs.store.staff import Role
from prefs.web import status
from prefs.web.console import batches, jobs, takeover
from prefs.web.console.jobs import Tell
from prefs.web.console.session import Visit, go, signed_in
from prefs.web.context import Service, Vendors, vendors

DRIFT = "drift"
FIRST = 50
"""Differences that a result names one by one."""


EXAMPLE = '''\
[brands.{brand}.targets.mailchimp]
system = "mailchimp"
mode = "observe"
api_key = "env:MAILCHIMP_KEY"'''
"""How a target stands in the configuration, for a brand that has none yet."""


class System(NamedTuple):
    """One target of the brand. Times are seconds since 1970 UTC."""

    told: Mapping[str, Any]
    """As `GET /v1/targets` tells it."""
    parked: str | None
    """Why its lane rests, where it does."""
    unsafe_since: float | None
    late: int
    """Opt-outs that it has not confirmed for too long."""
    new_list: bool
    """A list that can send appeared after it went live and stands nowhere."""
    scanned_at: float | None
    walked_at: float | None

    @property
    def name(self) -> str:
        return str(self.told["target"])

    @property
    def live(self) -> bool:
        return bool(self.told["mode"] == "live")


def look(conn: Connection, served: Service, brand: str) -> list[System]:
    """Every target of the brand, as the configuration orders them."""
    told = status.target_rows(conn, served, brand)
    targets = served.settings.brands[brand].targets
    return [_system(conn, served, targets[one["target"]], one) for one in told]


def _system(conn: Connection, served: Service, target: Target, told: Mapping[str, Any]) -> System:
    now, lane = served.clock().timestamp(), marks.lane(conn, target.label)
    late = marks.overdue(conn, now - target.unsafe_after, target=target.label)
    resting = lane and lane.parked_until and lane.parked_until > now
    return System(
        told,
        lane.parked_reason or "" if lane and resting else None,
        lane.unsafe_since if lane else None,
        late.get(target.label, 0),
        bool(containers.since_live(conn, target.label)),
        lane.scanned_at if lane else None,
        lane.walked_at if lane else None,
    )


@signed_in(Role.OWNER)
async def all_systems(request: Request, visit: Visit) -> Response:
    served, brand = visit.served, visit.member.brand
    found = await served.database.read(lambda conn: look(conn, served, brand))
    return visit.page(
        "systems.html",
        systems=found,
        batches=await batches.of_brand(visit),
        report=await jobs.latest(visit, takeover.KIND),
        section=EXAMPLE.format(brand=brand),
    )


# --- one of them -------------------------------------------------------------------------------


@signed_in(Role.OWNER)
async def one_system(request: Request, visit: Visit) -> Response:
    served, target = visit.served, _target(request, visit)
    found = await served.database.read(lambda conn: look(conn, served, visit.member.brand))
    listed = await served.database.read(lambda conn: containers.listed(conn, target.label))
    facts = vendors(request).facts[target.system]
    return visit.page(
        "system.html",
        system=next(one for one in found if one.name == target.name),
        containers=listed,
        drift=await jobs.latest(visit, DRIFT, target.name),
        readable=_readable(facts),
        assisted=facts.assisted,
        writes=facts.writes,
        source=facts.source_url,
        section=f"[brands.{target.brand}.targets.{target.name}]",
    )


def _target(request: Request, visit: Visit) -> Target:
    """Raises NotFound."""
    found = visit.brand.targets.get(request.path_params["name"])
    if found is None:
        raise NotFound("there is no such system")
    return found


def _readable(facts: Facts) -> bool:
    return facts.readback is not Readback.NONE and not facts.assisted


@signed_in(Role.OWNER)
async def check_drift(request: Request, visit: Visit) -> Response:
    """Read the system from end to end, in the background; nothing is written, there or here."""
    target, doors = _target(request, visit), vendors(request)
    if not _readable(doors.facts[target.system]):
        raise NotFound("this system cannot be read")

    async def work(tell: Tell) -> Mapping[str, Any]:
        return await drift(doors, target, tell)

    await jobs.of(request).start(visit.served, target.brand, DRIFT, target.name, work)
    return go(f"/staff/systems/{target.name}#drift")


async def drift(doors: Vendors, target: Target, tell: Tell) -> Mapping[str, Any]:
    """What differs, counted by what we would do about it, and the first ones by themselves."""
    scan = doors.scan(target)
    try:
        report = await sync.walk(scan, tell, apply=False)
    finally:
        await scan.connector.close()
    counts = Counter(_what(one) for one in report.differences)
    return {
        "records": report.records,
        "complete": report.complete,
        "error": report.error,
        "counts": {name: counts[name] for name in ("take", "off", "on", "unknown")},
        "first": [{**one, "what": _what(one)} for one in report.differences[:FIRST]],
    }


def _what(one: Mapping[str, Any]) -> str:
    """What we would do: take an out in, switch off or on there, or leave somebody unknown alone."""
    direction = str(one["direction"])
    return str(one["ours"]) if direction == Direction.PUSH else direction


routes = [
    Route("/staff/systems", all_systems, methods=["GET"]),
    Route("/staff/systems/{name}", one_system, methods=["GET"]),
    Route("/staff/systems/{name}/drift", check_drift, methods=["POST"]),
]
