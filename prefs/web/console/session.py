"""Who is signed in, what they may do, and that a form came from our own page.

The session's cookie never leaves `/staff`; every changing request brings the session's token in a
hidden field (CSRF). Nothing redirects to where a request asks. A `BadInput` raised by a page may
say what is wrong by the key of a text.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import structlog
from sqlalchemy import Connection
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from prefs.core.errors import BadInput, NotFound, Unavailable
from prefs.settings import Brand
from prefs.store import staff, tasks
from prefs.store.staff import Member, Role, Session
from prefs.web import pages
from prefs.web.bodies import read_body
from prefs.web.context import Service, service
from prefs.web.problems import RETRY_AFTER
from prefs.web.texts import Texts, texts_of

COOKIE = "prefs_staff"
PATH = "/staff"
SIGN_IN = "/staff/login"
CSRF = "csrf"
FORM_LIMIT = 64 * 1024
MOST_FIELDS = 500
CSP = f"{pages.CSP}; script-src 'self'; connect-src 'self'"


class Visit(NamedTuple):
    """One request of somebody signed in."""

    served: Service
    session: Session
    form: Mapping[str, str]
    open_tasks: int = 0

    @property
    def member(self) -> Member:
        return self.session.member

    @property
    def brand(self) -> Brand:
        return self.served.settings.brands[self.member.brand]

    @property
    def t(self) -> Texts:
        return texts_of(self.brand)

    def named(self, target: str) -> str:
        """A target as people know it: its system, and its own name where that says more."""
        found = self.brand.targets.get(target)
        system = self.t.system(found.system) if found else target
        return system if found is None or target == found.system else f"{system} ({target})"

    def page(self, template: str, status: int = 200, **context: Any) -> Response:
        """A page of the console. `context` is shown as text, whatever it holds; `typed` is what was
        posted, so that a form that fails keeps it."""
        body = pages.environment.get_template(f"staff/{template}").render(
            t=self.t,
            brand=self.brand,
            controller=self.served.settings.controllers[self.brand.controller],
            member=self.member,
            csrf=self.session.csrf,
            may=self._may,
            open_tasks=self.open_tasks,
            typed=self.form,
            named=self.named,
            now=self.served.clock().timestamp(),
            marketing_paused=self.served.watch.paused,
            **context,
        )
        return Response(body, status, headers=headers(), media_type="text/html")

    def said(self, fault: BadInput) -> str:
        """What is wrong, as a page says it."""
        key = str(fault)
        return self.t(key) if self.t.has(key) else key

    def _may(self, role: str) -> bool:
        return self.member.role.covers(Role(role))


log = structlog.get_logger()

Handler = Callable[[Request, Visit], Awaitable[Response]]


def headers() -> dict[str, str]:
    return {**pages.HEADERS, "Content-Security-Policy": CSP}


def go(path: str) -> Response:
    """On to a page of ours after a change, so that a reload repeats nothing."""
    return RedirectResponse(path, 303, headers=headers())


def sheet(name: str, text: str) -> Response:
    """A file to take along. Its name tells of nobody."""
    attached = {"Content-Disposition": f'attachment; filename="{name}"'}
    # Spreadsheet programs read UTF-8 as such only after a byte-order mark.
    return Response(
        f"\ufeff{text}", headers=headers() | attached, media_type="text/csv; charset=utf-8"
    )


def signed_in(
    least: Role = Role.RECEPTION, *, brings_file: bool = False
) -> Callable[[Handler], Callable[[Request], Awaitable[Response]]]:
    """Let in who is signed in with this role or more; check the form's token on a POST. A handler
    that `brings_file` reads its multipart body itself and checks the token with `check_token`
    before anything else; no other gets to see one."""

    def guard(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            served = service(request)
            try:
                found = await _visit(request, served)
            except Unavailable:
                return _away(served)
            if found is None:
                return _sign_in_first(request)
            visit = found
            try:
                if not (brings_file and is_multipart(request)):
                    visit = visit._replace(form=await _form(request, visit.session))
                _check_role(visit.member, least)
                return await handler(request, visit)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody is there to read it
            except BadInput as fault:
                return visit.page("problem.html", fault.status, says=visit.said(fault))
            except NotFound:
                return visit.page("problem.html", 404, says=visit.t("staff.gone"))
            except Unavailable:
                return visit.page("problem.html", 503, says=visit.t("staff.away"))
            except Exception as fault:
                log.exception("request_failed", fault=type(fault).__name__)
                return visit.page("problem.html", 500, says=visit.t("staff.fault"))

        guarded.least = least  # type: ignore[attr-defined]  # read by the test that lists routes
        guarded.__name__ = handler.__name__
        guarded.__doc__ = handler.__doc__
        return guarded

    return guard


async def _visit(request: Request, served: Service) -> Visit | None:
    """Who it is, and how much waits for them; None for nobody."""
    token = request.cookies.get(COOKIE)
    if not token:
        return None
    now = served.clock().timestamp()

    def look(conn: Connection) -> Visit | None:
        found = staff.session(conn, served.keys, token, now)
        if found is None or found.member.brand not in served.settings.brands:
            return None
        return Visit(served, found, {}, tasks.count_open(conn, found.member.brand))

    return await served.database.read(look)


def _away(served: Service) -> Response:
    """The store does not answer, so nobody is known to be signed in."""
    body = pages.environment.get_template("staff/away.html").render(t=texts_of(None))
    retry = {"Retry-After": RETRY_AFTER}
    return Response(body, 503, headers=headers() | retry, media_type="text/html")


def _sign_in_first(request: Request) -> Response:
    """A script that fetches a part of a page is told so; a person is shown the form."""
    if request.headers.get("sec-fetch-dest") == "empty":
        return Response("", 401, headers=headers())
    return go(SIGN_IN)


def is_multipart(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0]
    return kind.strip().lower() == "multipart/form-data"


async def _form(request: Request, session: Session) -> Mapping[str, str]:
    """The posted fields, once their token is right. Raises BadInput."""
    if request.method != "POST":
        return {}
    try:
        form = fields(await read_body(request, FORM_LIMIT))
    except BadInput as fault:
        raise BadInput("staff.form.damaged", status=fault.status) from None
    check_token(form.get(CSRF, ""), session)
    return form


def fields(raw: bytes) -> dict[str, str]:
    """Raises BadInput for more of them than any page of ours has."""
    text = raw.decode("utf-8", "replace")
    try:
        found = parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise BadInput("staff.form.damaged") from None
    return {name: value.replace("\0", "") for name, value in found}


def check_token(given: str, session: Session) -> None:
    """Raises BadInput 403."""
    if not hmac.compare_digest(given.encode("utf-8", "replace"), session.csrf.encode()):
        raise BadInput("staff.form.old", status=403)


def _check_role(member: Member, least: Role) -> None:
    if not member.role.covers(least):
        raise BadInput(f"staff.least.{least.value}", status=403)
