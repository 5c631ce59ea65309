"""/p/{token}/pause: no marketing until a day; /p/{token}/resume: the end of that before its day.

A pause is the person's own out with an end: it counts as any other, here and in every system. A
link from a footer may begin one or make it longer; to end it takes a fresh link.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs.core.fold import OLDER, Judgement
from prefs.core.signals import Signal, Statement
from prefs.core.tokens import Token
from prefs.core.words import Channel, Choice, Purpose, Result, Scope, Source
from prefs.web.centre import KINDS, Centre, Form, form_of, look, shown, told
from prefs.web.context import Service, service
from prefs.web.days import beginning
from prefs.web.pages import METHODS, evidence_of, guarded, opened, swallow, write
from prefs.web.texts import texts_of


@guarded
async def pause(request: Request) -> Response:
    served, token = service(request), opened(request, KINDS)
    brand = served.settings.brands[token.brand]
    if request.method != "POST":
        return await _as_it_stands(request, token)
    form = await form_of(request)
    until = beginning(served.clock(), brand, form.get("until", ""))
    if until is None:
        return await _as_it_stands(request, token, 422, "pause.bad")
    looked, rested = await write(
        served, lambda conn: _pause(conn, served, request, token, form, until)
    )
    systems = told(served, texts_of(brand), brand.id, rested)
    return shown(request, looked, paused="pause.done", rested=rested, told=systems)


async def _as_it_stands(
    request: Request, token: Token, status: int = 200, fault: str = ""
) -> Response:
    served = service(request)
    looked = await served.database.read(lambda conn: look(conn, served, token))
    return shown(request, looked, status, fault=fault)


def _pause(
    conn: Connection, served: Service, request: Request, token: Token, form: Form, until: datetime
) -> tuple[Centre, list[Scope]]:
    """Returns what stands now, and what takes the break."""
    centre = look(conn, served, token)
    scopes = _asked(centre, form)
    signal = Signal(
        brand=token.brand,
        source=Source.CENTRE if centre.fresh else Source.LINK,
        statements=tuple(Statement(scope, Choice.OUT) for scope in scopes),
        hashes=((token.identifier_kind, token.hash),),
        evidence=evidence_of(request, "/p/{token}/pause"),
        token=token.use,
        until=until,
    )
    served.intake.record(conn, signal)
    return look(conn, served, token), scopes


def _asked(centre: Centre, form: Form) -> list[Scope]:
    """The channels that the page spoke of: those it has now, unless it says that it had more when
    it was opened."""
    listed = form.get("channels", "").split()
    scopes = [Scope(channel, Purpose.MARKETING) for channel in Channel if channel in listed]
    now = [Scope(channel, Purpose.MARKETING) for channel in centre.channels]
    return [one for one in scopes if centre.may_stop(one)] or now


@guarded
async def resume(request: Request) -> Response:
    served, token = service(request), opened(request, KINDS)
    if request.method != "POST":
        return await _as_it_stands(request, token)
    await swallow(request)
    looked, said = await write(served, lambda conn: _resume(conn, served, request, token))
    return shown(request, looked, paused=said)


def _resume(
    conn: Connection, served: Service, request: Request, token: Token
) -> tuple[Centre, str]:
    """Returns what stands now, and the key of what to say."""
    centre = look(conn, served, token)
    if not centre.fresh or centre.owner is None:
        return centre, "pause.kept"
    seen = evidence_of(request, "/p/{token}/resume")
    judged = served.intake.resume(conn, token.brand, centre.owner.id, token.use, seen)
    return look(conn, served, token), _said(judged)


def _said(judged: list[Judgement]) -> str:
    if OLDER in judged:
        return "pause.newer"
    refused = any(one.result is not Result.APPLIED for one in judged)
    return "pause.kept" if refused else "pause.ended"


routes = [
    Route("/p/{token}/pause", pause, methods=METHODS),
    Route("/p/{token}/resume", resume, methods=METHODS),
]
