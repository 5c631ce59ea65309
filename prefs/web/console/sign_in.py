"""/staff/login, /staff/logout: who are you?

What is wrong with a try is never told: an unknown address, a wrong password and a wrong code look
and take the same. Tries are counted by address and by network address, in the database.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import NamedTuple
from urllib.parse import urlsplit

import pyotp
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs.core import identity
from prefs.core.errors import BadIdentifier, Unavailable
from prefs.core.signals import Identifier
from prefs.store import staff
from prefs.store.staff import Member
from prefs.web import pages
from prefs.web.bodies import read_body
from prefs.web.console.session import (
    COOKIE,
    CSRF,
    FORM_LIMIT,
    PATH,
    SIGN_IN,
    Visit,
    fields,
    go,
    headers,
    signed_in,
)
from prefs.web.context import Service, service
from prefs.web.texts import texts_of

BEFORE = "prefs_login"
"""Cookie of the sign-in form, equal to its hidden field."""


class Try(NamedTuple):
    address: Identifier | None
    password: str
    code: str
    come_from: bytes


async def sign_in(request: Request) -> Response:
    served = service(request)
    if request.method != "POST":
        return _page(request, served)
    form = fields(await read_body(request, FORM_LIMIT))
    if not _ours(request, served, form.get(CSRF)):
        return _page(request, served, "staff.login.again", 403)
    attempt = _attempt(request, form)
    try:
        if not await served.database.write(lambda conn: _may_try(conn, served, attempt)):
            return _page(request, served, "staff.login.too_many", 429)
        members = await served.database.read(lambda conn: _known(conn, served, attempt))
        if not members:
            return _page(request, served, "staff.login.wrong", 401)
        token = await served.database.write(lambda conn: _let_in(conn, served, attempt, members[0]))
    except Unavailable:
        return _page(request, served, "staff.away", 503)
    answer = go(PATH)
    _keep(answer, served, COOKIE, token, int(staff.SESSION_LASTS))
    answer.delete_cookie(BEFORE, path=SIGN_IN)
    return answer


def _ours(request: Request, served: Service, given: str | None) -> bool:
    """Whether the form is our own. A browser says where it comes from and brings the form's cookie;
    a program that does neither carries nobody's session into another's."""
    kept, origin = request.cookies.get(BEFORE), request.headers.get("origin")
    if kept or given:
        return bool(kept and given and hmac.compare_digest(kept.encode(), given.encode()))
    return origin is None or urlsplit(origin).netloc == urlsplit(served.settings.public_url).netloc


def _attempt(request: Request, form: dict[str, str]) -> Try:
    try:
        address = identity.email(form.get("email", "")[:320])
    except BadIdentifier:
        address = None
    client = request.client.host if request.client else ""
    come_from = hashlib.sha256(f"from {client}".encode()).digest()
    return Try(address, form.get("password", "")[:1000], form.get("code", "")[:10], come_from)


def _may_try(conn: Connection, served: Service, attempt: Try) -> bool:
    now = served.clock().timestamp()
    from_here = staff.may_try(conn, attempt.come_from, staff.TRIES_FROM, now)
    if attempt.address is None:
        return from_here
    return staff.may_try(conn, served.keys.hash(attempt.address), staff.TRIES, now) and from_here


def _known(conn: Connection, served: Service, attempt: Try) -> list[Member]:
    address = attempt.address or identity.email("nobody@example.invalid")
    brands = list(served.settings.brands)
    found = staff.known_by(conn, served.keys, brands, address, attempt.password)
    return [one for one in found if _right_code(conn, served, one, attempt.code)]


def _right_code(conn: Connection, served: Service, member: Member, code: str) -> bool:
    secret = staff.totp_of(conn, served.keys, member.brand, member.id)
    if secret is None:
        return True
    now = served.clock()
    return pyotp.TOTP(secret).verify(code.replace(" ", ""), for_time=now, valid_window=1)


def _let_in(conn: Connection, served: Service, attempt: Try, member: Member) -> str:
    if attempt.address:
        staff.forgive(conn, served.keys.hash(attempt.address))
    return staff.open_session(conn, member, served.clock().timestamp())


def _page(
    request: Request, served: Service, wrong: str | None = None, status: int = 200
) -> Response:
    token = request.cookies.get(BEFORE) or secrets.token_urlsafe(24)
    body = pages.environment.get_template("staff/login.html").render(
        t=texts_of(None), brand=None, wrong=wrong, csrf=token
    )
    answer = Response(body, status, headers=headers(), media_type="text/html")
    _keep(answer, served, BEFORE, token, 3600, path=SIGN_IN)
    return answer


def _keep(
    answer: Response, served: Service, name: str, value: str, seconds: int, path: str = PATH
) -> None:
    secure = served.settings.public_url.startswith("https://")
    answer.set_cookie(
        name, value, max_age=seconds, path=path, secure=secure, httponly=True, samesite="strict"
    )


@signed_in()
async def sign_out(request: Request, visit: Visit) -> Response:
    token = request.cookies[COOKIE]
    await visit.served.database.write(lambda conn: staff.close_session(conn, token))
    answer = go(SIGN_IN)
    answer.delete_cookie(COOKIE, path=PATH)
    return answer


routes = [
    Route("/staff/login", sign_in, methods=["GET", "POST"]),
    Route("/staff/logout", sign_out, methods=["POST"]),
]
