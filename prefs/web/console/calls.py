"""/staff/calls: today's list of people to call, each with whether we may and why not."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs import assisted
from prefs.core.decision import DAY, TPS_FRESH
from prefs.core.errors import BadInput
from prefs.core.screening import Register
from prefs.core.signals import Evidence, Identifier, Signal, Statement
from prefs.core.words import Channel, Choice, Kind, Source
from prefs.store import papers, screenings, staff
from prefs.store.papers import Paper
from prefs.web.console import call_list, quick, uploads
from prefs.web.console.call_list import CALLS, Judged, Line
from prefs.web.console.session import Visit, go, sheet, signed_in
from prefs.web.console.sheets import Sheet, whole

KIND = "calls"
A_PAGE = 100
SHOWN: dict[str, Callable[[Judged], bool]] = {
    "all": lambda one: True,
    "yes": lambda one: one.allowed,
    "no": lambda one: not one.allowed,
}


class Checked(NamedTuple):
    """When the numbers were last held against the register, and the last whole day for which that
    counts."""

    at: float | None
    last_day: float | None
    stale: bool


def _screened(conn: Connection, visit: Visit) -> Checked:
    at = screenings.last(conn, visit.member.brand, Register.TPS)
    until = at + TPS_FRESH if at else None
    stale = until is None or until < visit.served.clock().timestamp()
    return Checked(at, until - DAY if until else None, stale)


# --- today's lists -----------------------------------------------------------------------------


@signed_in()
async def calls(request: Request, visit: Visit) -> Response:
    """The form, and today's lists of the brand."""
    now, brand = visit.served.clock().timestamp(), visit.member.brand

    def read(conn: Connection) -> tuple[list[Paper], dict[str, str], Checked]:
        colleagues = staff.listed(conn, visit.served.keys, brand)
        lists = papers.listed(conn, brand, KIND, now)
        return lists, {one.id: one.email for one in colleagues}, _screened(conn, visit)

    lists, people, screened = await visit.served.database.read(read)
    return visit.page("calls.html", lists=lists, people=people, screened=screened)


@signed_in(brings_file=True)
async def check(request: Request, visit: Visit) -> Response:
    """Numbers, names or refs that were pasted or brought as a file."""
    brought = await uploads.read(request, visit)
    text = uploads.text_of(brought.file) if brought.file else brought.fields.get("rows", "")
    rows = uploads.rows_of(text)
    return await _keep(visit, lambda conn: call_list.lines_of(conn, visit, rows))


@signed_in()
async def check_all(request: Request, visit: Visit) -> Response:
    """Everybody with a number."""
    return await _keep(visit, lambda conn: call_list.everybody(conn, visit))


async def _keep(visit: Visit, read: Callable[[Connection], list[Line]]) -> Response:
    served, member = visit.served, visit.member
    lines = await served.database.read(read)
    now = served.clock().timestamp()

    def keep(conn: Connection) -> str:
        return papers.add(conn, served.keys, member.brand, KIND, member.id, lines, len(lines), now)

    return go(f"/staff/calls/{await served.database.write(keep)}")


# --- one list ----------------------------------------------------------------------------------


def _lines(conn: Connection, visit: Visit, id_: str) -> list[Line]:
    """Raises NotFound."""
    now = visit.served.clock().timestamp()
    paper = papers.one(conn, visit.member.brand, KIND, id_, now)
    return papers.content(visit.served.keys, paper, list[Line])


class Page(NamedTuple):
    rows: Sequence[Judged]
    stopped: bool
    """The line that was asked to be stopped is."""
    names: Any
    sheet: Sheet
    counts: dict[str, int]
    reasons: list[tuple[str, int]]
    screened: Checked


@signed_in()
async def one_list(request: Request, visit: Visit) -> Response:
    id_ = request.path_params["id"]
    show = request.query_params.get("show", "")
    show = show if show in SHOWN else "all"
    number, done = (whole(request.query_params.get(name)) for name in ("page", "done"))

    def look(conn: Connection) -> Page:
        judged = call_list.judge(conn, visit, _lines(conn, visit, id_))
        wanted = [one for one in judged if SHOWN[show](one)]
        part = Sheet.of(number, len(wanted), A_PAGE)
        rows = wanted[part.first : part.first + A_PAGE]
        counts = {name: sum(map(test, judged)) for name, test in SHOWN.items()}
        named, why = call_list.names(conn, visit, rows), call_list.reasons(judged)
        stopped = any(one.place == done and not one.allowed for one in judged)
        return Page(rows, stopped, named, part, counts, why, _screened(conn, visit))

    page = await visit.served.database.read(look)
    following = (one.place for one in page.rows if done is not None and one.place > done)
    return visit.page(
        "call_list.html",
        id=id_,
        show=show,
        page=page,
        done=done,
        next=next(following, None),
        reason=call_list.reason,
    )


@signed_in()
async def stop(request: Request, visit: Visit) -> Response:
    """No more calls to the number of one line."""
    id_, place = request.path_params["id"], whole(visit.form.get("row"))

    def job(conn: Connection) -> None:
        lines = _lines(conn, visit, id_)
        if place is None or place >= len(lines) or not lines[place].hash:
            raise BadInput("staff.form.damaged")
        done = visit.served.intake.record(conn, _no_more(visit, lines[place]))
        quick.settle_questions(conn, visit, done.subject_id, [Channel.PHONE], "out")

    await visit.served.database.write(job)
    show = visit.form.get("show", "")
    kept = f"&show={show}" if show in SHOWN else ""
    page = whole(visit.form.get("page")) or 1
    return go(f"/staff/calls/{id_}?page={page}{kept}&done={place}")


def _no_more(visit: Visit, line: Line) -> Signal:
    told = f"{visit.t('staff.told.phone')}: {visit.t('staff.calls.note')}"
    return Signal(
        brand=visit.member.brand,
        source=Source.STAFF,
        statements=(Statement(CALLS, Choice.OUT),),
        identifiers=(Identifier(Kind.PHONE, line.number, line.number),),
        occurred_at=visit.served.clock(),
        evidence=Evidence(actor=visit.member.email, note=told, page="/staff/calls/{id}"),
    )


@signed_in()
async def callable_(request: Request, visit: Visit) -> Response:
    """Those who may be called as of now, to take along."""
    id_ = request.path_params["id"]

    def look(conn: Connection) -> str:
        judged = call_list.judge(conn, visit, _lines(conn, visit, id_))
        return _written(conn, visit, [one for one in judged if one.allowed])

    text = await visit.served.database.read(look)
    return sheet(f"calls-{visit.served.clock():%Y-%m-%d}.csv", text)


def _written(conn: Connection, visit: Visit, judged: Sequence[Judged]) -> str:
    names, out = call_list.names(conn, visit, judged), io.StringIO()
    now = visit.served.clock().strftime("%Y-%m-%dT%H:%M:%SZ")
    writer = csv.writer(out)
    writer.writerow(["number", "name", "why", "checked_at"])
    for one in judged:
        called = ", ".join(who.name for who in names.get(one.line.hash, []) if who.name)
        why = visit.t(call_list.reason(one))
        writer.writerow([assisted.safe_cell(cell) for cell in (one.line.number, called, why, now)])
    return out.getvalue()


routes = [
    Route("/staff/calls", calls, methods=["GET"]),
    Route("/staff/calls", check, methods=["POST"]),
    Route("/staff/calls/all", check_all, methods=["POST"]),
    Route("/staff/calls/{id}", one_list, methods=["GET"]),
    Route("/staff/calls/{id}/stop", stop, methods=["POST"]),
    Route("/staff/calls/{id}/callable.csv", callable_, methods=["GET"]),
]
