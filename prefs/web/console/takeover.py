"""/staff/onboarding: what everybody's "subscribed" at a brand's systems is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs import onboarding
from prefs.onboarding import ORDER
from prefs.store.staff import Role
from prefs.web.console import jobs
from prefs.web.console.jobs import Tell
from prefs.web.console.session import Visit, go, signed_in
from prefs.web.context import Service, Vendors, vendors

KIND = "onboarding"
PATH = "/staff/onboarding"
ATTEST = (
    "prefs onboard TARGET --attest LIST --owner NAME --basis consent --wording TEXT "
    "--since DATE --until DATE --apply"
)
ASK = "prefs onboard --list FILE"
"""Commands for what no page does."""


@signed_in(Role.OWNER)
async def report(request: Request, visit: Visit) -> Response:
    found = await jobs.latest(visit, KIND)
    return visit.page(
        "onboarding.html",
        report=found,
        groups=ORDER,
        targets=visit.brand.targets,
        attest=ATTEST,
        ask=ASK,
    )


@signed_in(Role.OWNER)
async def make_report(request: Request, visit: Visit) -> Response:
    """Read every system of the brand in the background. `apply` takes outs and proved consents in
    here; no system is written to."""
    apply = visit.form.get("apply") == "yes"
    brand, doors = visit.member.brand, vendors(request)

    async def work(tell: Tell) -> Mapping[str, Any]:
        return await _survey(visit.served, doors, brand, tell, apply=apply)

    await jobs.of(request).start(visit.served, brand, KIND, "", work)
    return go(PATH)


async def _survey(
    served: Service, doors: Vendors, brand: str, tell: Tell, *, apply: bool
) -> Mapping[str, Any]:
    scans = [doors.scan(target) for target in served.settings.brands[brand].targets.values()]
    try:
        found = await onboarding.survey(scans, [], tell, exports={}, apply=apply)
    finally:
        for scan in scans:
            await scan.connector.close()
    attested = await served.database.read(lambda conn: onboarding.attested_for_ever(conn, brand))
    return {"applied": apply, **onboarding.summary(found), "attested_for_ever": attested}


routes = [
    Route(PATH, report, methods=["GET"]),
    Route(PATH, make_report, methods=["POST"]),
]
