"""/staff/changes/{target}: changes that staff carry to a system without an interface: the list to
take along, and what they bring back: that list with ticks, or the system's own export."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import msgspec
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs import assisted, sync
from prefs.core.errors import BadInput, NotFound
from prefs.core.propagation import Target
from prefs.scan import Direction, Scan
from prefs.store import papers, tasks
from prefs.sync import Report
from prefs.web.console import uploads
from prefs.web.console.session import Visit, go, sheet, signed_in
from prefs.web.console.task_list import changed_by_hand

KIND = "export"
SHOWN = 100
"""Differences that a page lists."""

MakeScan = Callable[[Target], Scan]


class Export(msgspec.Struct, array_like=True, frozen=True):
    """A file that waits for a yes."""

    target: str
    data: bytes


def _target(visit: Visit, name: str) -> Target:
    """Raises NotFound."""
    found = next((one for one in changed_by_hand(visit) if one.name == name), None)
    if found is None:
        raise NotFound("there is no such system")
    return found


@signed_in()
async def take_along(request: Request, visit: Visit) -> Response:
    """Open changes as CSV."""
    target = _target(visit, request.path_params["target"])
    keys, brand = visit.served.keys, visit.member.brand

    def look(conn: Connection) -> str:
        rows = tasks.listed(conn, brand, "open", assisted.change_of(target), most=None)
        own = [row for row in rows if tasks.body(keys, row)["target"] == target.label]
        return assisted.listed(keys, own)

    text = await visit.served.database.read(look)
    return sheet(f"{target.name}-{visit.served.clock():%Y-%m-%d}.csv", text)


# --- what staff bring --------------------------------------------------------------------------


@signed_in(brings_file=True)
async def bring(request: Request, visit: Visit) -> Response:
    """A ticked list counts at once; an export is compared first, and waits for a yes."""
    brought = await uploads.read(request, visit)
    target = _target(visit, request.path_params["target"])
    if not brought.file:
        raise BadInput("staff.upload.missing")
    with _told(visit, target):
        is_list = sync.is_list(brought.file)
        report = await _read(request, target, brought.file, apply=is_list)
    paper = None if is_list else await _keep(visit, Export(target.name, brought.file))
    return _page(visit, target, report, paper=paper, is_list=is_list)


@contextmanager
def _told(visit: Visit, target: Target) -> Iterator[None]:
    """What is wrong with a file, in the words of the page."""
    try:
        yield
    except BadInput as fault:
        says = visit.t("staff.upload.wrong", system=target.name, fault=str(fault))
        raise BadInput(says) from None


async def _read(request: Request, target: Target, data: bytes, *, apply: bool) -> Report:
    """Raises BadInput for a file that is neither."""
    make_scan: MakeScan = request.app.state.make_scan
    scan = make_scan(target)
    try:
        return await sync.upload(scan, data, apply=apply)
    finally:
        await scan.connector.close()


async def _keep(visit: Visit, export: Export) -> str:
    served, member = visit.served, visit.member
    add: Callable[[Connection], str] = partial(
        papers.add,
        keys=served.keys,
        brand=member.brand,
        kind=KIND,
        by=member.id,
        content=export,
        rows=0,
        now=served.clock().timestamp(),
    )
    return await served.database.write(add)


@signed_in()
async def take_in(request: Request, visit: Visit) -> Response:
    """Yes: outs there count here, and what differs becomes work."""
    target = _target(visit, request.path_params["target"])
    served, brand, id_ = visit.served, visit.member.brand, visit.form.get("paper", "")
    now = served.clock().timestamp()

    def find(conn: Connection) -> Export:
        paper = papers.one(conn, brand, KIND, id_, now)
        return papers.content(served.keys, paper, Export)

    export = await served.database.read(find)
    if export.target != target.name:
        raise NotFound("there is no such file any more")
    with _told(visit, target):
        report = await _read(request, target, export.data, apply=True)
    await served.database.write(partial(papers.drop, brand=brand, id_=id_))
    return _page(visit, target, report, paper=None, is_list=False)


def _page(
    visit: Visit, target: Target, report: Report, *, paper: str | None, is_list: bool
) -> Response:
    counts: dict[str, int] = {one.value: report.count(one) for one in Direction}
    return visit.page(
        "brought.html",
        target=target,
        report=report,
        counts=counts,
        paper=paper,
        is_list=is_list,
        shown=report.differences[:SHOWN],
        more=max(0, len(report.differences) - SHOWN),
    )


@signed_in()
async def back(request: Request, visit: Visit) -> Response:
    """What was brought is shown once: a look at its address leads to the list."""
    return go("/staff/tasks")


routes = [
    Route("/staff/changes/{target}/list.csv", take_along, methods=["GET"]),
    Route("/staff/changes/{target}", back, methods=["GET"]),
    Route("/staff/changes/{target}", bring, methods=["POST"]),
    Route("/staff/changes/{target}/take", take_in, methods=["POST"]),
]
