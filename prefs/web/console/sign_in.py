"""/staff/login, /staff/logout: who are you?

What is wrong with a try is never told: an unknown address, a wrong password and a wrong code look
and take the same. Who has an account at several brands by the same password is asked which. Failed
tries are counted by address and by network address, in the database. A
code of the second factor lets in once (RFC 6238 section 5.2).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs.core import identity
from prefs.core.errors import BadIdentifier, BadInput, Unavailable
from prefs.core.signals import Identifier
from prefs.settings import Brand
from prefs.store import staff
from prefs.store.staff import Known, Member
from prefs.web import pages
from prefs.web.bodies import read_body
from prefs.web.console import codes
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
    brand: str
    """Empty where none is named."""
    come_from: bytes


class Opened(NamedTuple):
    """An account that the password opens, and the step of the code where it has a second factor."""

    member: Member
    kept: str
    """The hash of the password that opened it."""
    step: int | None


async def sign_in(request: Request) -> Response:
    served = service(request)
    if request.method != "POST":
        return _page(request, served)
    try:
        form = fields(await read_body(request, FORM_LIMIT))
    except BadInput as fault:
        return _page(request, served, "staff.form.damaged", fault.status)
    if not _ours(request, served, form.get(CSRF)):
        return _page(request, served, "staff.login.again", 403)
    attempt = _attempt(request, form)
    page = partial(_page, request, served, email=form.get("email", "")[:320])
    try:
        if not await served.database.write(lambda conn: _may_try(conn, served, attempt)):
            return page("staff.login.too_many", 429)
        found = await served.database.read(lambda conn: _opened(conn, served, attempt))
        if len(found) > 1:
            return page("staff.login.which", brands=_brands(served, found))
        token = await served.database.write(lambda conn: _let_in(conn, served, attempt, found))
    except Unavailable:
        return page("staff.away", 503)
    if token is None:
        return page("staff.login.wrong", 401)
    answer = go(PATH)
    _keep(answer, served, COOKIE, token, int(staff.SESSION_LASTS))
    answer.delete_cookie(BEFORE, path=SIGN_IN)
    return answer


def _ours(request: Request, served: Service, given: str | None) -> bool:
    """Whether the form is our own. A browser says where it comes from and brings the form's cookie;
    a program that does neither carries nobody's session into another's."""
    kept, origin = request.cookies.get(BEFORE), request.headers.get("origin")
    if kept or given:
        return bool(kept and given and _same(kept, given))
    return origin is None or urlsplit(origin).netloc == urlsplit(served.settings.public_url).netloc


def _attempt(request: Request, form: dict[str, str]) -> Try:
    try:
        address = identity.email(form.get("email", "")[:320])
    except BadIdentifier:
        address = None
    come_from = hashlib.sha256(f"from {_network(request)}".encode()).digest()
    password, code = form.get("password", "")[:1000], form.get("code", "")[:10]
    return Try(address, password, code, form.get("brand", ""), come_from)


def _brands(served: Service, found: list[Opened]) -> list[Brand]:
    return [served.settings.brands[one.member.brand] for one in found]


def _network(request: Request) -> str:
    """Where a try comes from."""
    client = request.client.host if request.client else ""
    try:
        come_from = ip_address(client)
    except ValueError:
        return client
    return str(_shared(come_from) if isinstance(come_from, IPv6Address) else come_from)


def _shared(address: IPv6Address) -> IPv4Address | IPv6Network:
    """One host has a whole /64 to itself (RFC 6177)."""
    return address.ipv4_mapped or IPv6Network((address, 64), strict=False)


def _may_try(conn: Connection, served: Service, attempt: Try) -> bool:
    now = served.clock().timestamp()
    from_here = staff.may_try(conn, attempt.come_from, staff.TRIES_FROM, now)
    if attempt.address is None:
        return from_here
    return staff.may_try(conn, served.keys.hash(attempt.address), staff.TRIES, now) and from_here


def _opened(conn: Connection, served: Service, attempt: Try) -> list[Opened]:
    address = attempt.address or identity.email("nobody@example.invalid")
    brands = [one for one in served.settings.brands if attempt.brand in ("", one)]
    found = staff.known_by(conn, served.keys, brands, address, attempt.password)
    opened = [_with_code(conn, served, one, attempt.code) for one in found]
    return [one for one in opened if one]


def _with_code(conn: Connection, served: Service, one: Known, code: str) -> Opened | None:
    secret = staff.totp_of(conn, served.keys, one.member.brand, one.member.id)
    if secret is None:
        return Opened(*one, None)
    step = codes.step_of(secret, code, served.clock())
    return None if step is None else Opened(*one, step)


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _let_in(conn: Connection, served: Service, attempt: Try, found: list[Opened]) -> str | None:
    """The token of a new session; None where nothing opens, the code let in before, or the
    password was changed meanwhile."""
    for member, kept, step in found:
        still = staff.has_password(conn, member.id, kept)
        if still and (step is None or staff.use_step(conn, member.id, step)):
            if attempt.address:
                staff.forgive(conn, served.keys.hash(attempt.address))
            staff.forgive_one(conn, attempt.come_from)
            return staff.open_session(conn, member, served.clock().timestamp())
    return None


def _page(
    request: Request,
    served: Service,
    wrong: str | None = None,
    status: int = 200,
    *,
    email: str = "",
    brands: Sequence[Brand] = (),
) -> Response:
    """`brands` are those to choose from."""
    token = request.cookies.get(BEFORE) or secrets.token_urlsafe(24)
    body = pages.environment.get_template("staff/login.html").render(
        t=texts_of(None), brand=None, wrong=wrong, csrf=token, email=email, brands=brands
    )
    wait = {"Retry-After": str(int(staff.WINDOW))} if status == 429 else {}
    answer = Response(body, status, headers=headers() | wait, media_type="text/html")
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
