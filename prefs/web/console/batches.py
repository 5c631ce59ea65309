"""Outs that a machine made in one run: let other systems follow, or take them back."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs import retract
from prefs.core.errors import BadInput, NotFound
from prefs.core.signals import Evidence
from prefs.store import batches, jobs, tasks
from prefs.store.batches import Batch
from prefs.store.jobs import Job
from prefs.store.staff import Role
from prefs.tasks import Settled, settle
from prefs.web.console import jobs as console_jobs
from prefs.web.console.jobs import Tell
from prefs.web.console.quick import note_of
from prefs.web.console.session import Visit, go, signed_in
from prefs.web.context import Service

KIND = "retract"
BACK = "/staff/systems#batches"


class Shown(NamedTuple):
    batch: Batch
    job: Job | None
    """The newest taking back."""

    @property
    def may_go(self) -> bool:
        return self.batch.state == batches.WAITING

    @property
    def running(self) -> bool:
        return self.job is not None and self.job.running

    @property
    def may_be_taken_back(self) -> bool:
        """Also where an earlier taking back broke off."""
        broke_off = self.job is not None and self.job.state in (jobs.FAILED, jobs.LOST)
        return self.batch.state != batches.RETRACTED or broke_off


async def of_brand(visit: Visit) -> list[Shown]:
    served, brand, now = visit.served, visit.member.brand, visit.served.clock().timestamp()

    def look(conn: Connection) -> list[Shown]:
        return [
            Shown(one, jobs.latest(conn, served.keys, brand, KIND, one.label, now).newest)
            for one in batches.listed(conn, brand)
        ]

    return await served.database.read(look)


def _batch(conn: Connection, visit: Visit, label: str) -> Batch:
    """Raises NotFound, also for another brand's."""
    found = batches.by_label(conn, label)
    if found.brand != visit.member.brand:
        raise NotFound("there is no such batch")
    return found


@signed_in(Role.OWNER)
async def let_go(request: Request, visit: Visit) -> Response:
    """Other systems may follow now."""
    label = request.path_params["label"]

    def job(conn: Connection) -> None:
        batch = _batch(conn, visit, label)
        if batch.state == batches.WAITING:
            _settle(conn, visit, batch)

    await visit.served.database.write(job)
    return go(BACK)


def _settle(conn: Connection, visit: Visit, batch: Batch) -> None:
    """By the question that staff were asked, so that it is answered too."""
    served = visit.served
    open_ = tasks.open_about(conn, served.keys, batch.brand, "batch", batch=batch.label)
    settled = Settled("done", visit.t("staff.batch.went"), visit.member.email)
    for row in open_:
        settle(conn, served, batch.brand, row.id, settled)
    if not open_:
        batches.release(conn, batch, served.clock().timestamp())


@signed_in(Role.OWNER)
async def take_back(request: Request, visit: Visit) -> Response:
    """In the background: a person's own out stays."""
    label, note = request.path_params["label"], note_of(visit.form)
    batch = await visit.served.database.read(lambda conn: _batch(conn, visit, label))
    if not note:
        raise BadInput("staff.batch.needs_note")
    evidence = Evidence(actor=visit.member.email, note=note, page="/staff/systems")

    async def work(tell: Tell) -> Mapping[str, Any]:
        return await _take_back(visit.served, batch, evidence, tell)

    await console_jobs.of(request).start(visit.served, batch.brand, KIND, label, work)
    return go(BACK)


async def _take_back(
    served: Service, batch: Batch, evidence: Evidence, tell: Tell
) -> Mapping[str, Any]:
    last = people = 0
    while True:
        part = partial(
            retract.retract,
            intake=served.intake,
            label=batch.label,
            evidence=evidence,
            after=last,
        )
        last = await served.database.write(part)
        if not last:
            return {"outs": batch.outs}
        people += retract.CHUNK
        tell("", min(people, batch.outs))


routes = [
    Route("/staff/batches/{label}/go", let_go, methods=["POST"]),
    Route("/staff/batches/{label}/back", take_back, methods=["POST"]),
]
