"""/staff/me: one's own password and second factor."""

from __future__ import annotations

import asyncio
import hashlib
import io

import pyotp
import segno
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs.core.errors import BadInput, NotFound
from prefs.store import staff
from prefs.web.console import codes
from prefs.web.console.session import COOKIE, PATH, Visit, go, headers, signed_in

HERE = "/staff/me"
TOTP = f"{HERE}#totp"


async def page(visit: Visit, request: Request, wrong: str = "", status: int = 200) -> Response:
    """`wrong` is the key of what is wrong with the form that was sent."""
    pending = await _pending(visit, request)
    spelled = " ".join(pending[at : at + 4] for at in range(0, len(pending), 4)) if pending else ""
    return visit.page("me.html", status, pending=spelled, wrong=wrong, least=staff.LEAST_PASSWORD)


async def _pending(visit: Visit, request: Request) -> str | None:
    served, token = visit.served, request.cookies[COOKIE]
    return await served.database.read(lambda conn: staff.pending_of(conn, served.keys, token))


@signed_in()
async def me(request: Request, visit: Visit) -> Response:
    return await page(visit, request)


# --- password ----------------------------------------------------------------------------------


async def _proved(visit: Visit) -> str | None:
    """None where the posted password is the member's own, else the key of what is wrong. Tries are
    counted: a session left open is no place to guess."""
    served, member = visit.served, visit.member
    who, now = hashlib.sha256(f"own {member.id}".encode()).digest(), served.clock().timestamp()
    if not await served.database.write(lambda conn: staff.may_try(conn, who, staff.TRIES, now)):
        return "staff.login.too_many"
    given = visit.form.get("password", "")[:1000]
    right = await served.database.read(
        lambda conn: staff.knows_password(conn, member.brand, member.id, given)
    )
    if not right:
        return "staff.me.wrong_password"
    await served.database.write(lambda conn: staff.forgive(conn, who))
    return None


@signed_in()
async def change_password(request: Request, visit: Visit) -> Response:
    """Every session ends, this one too."""
    new = visit.form.get("new", "")[:1000]
    if new != visit.form.get("again", ""):
        return await page(visit, request, "staff.me.not_the_same", 422)
    try:
        hashed = await asyncio.to_thread(staff.hashed, new)
    except BadInput:
        return await page(visit, request, "staff.me.too_short", 422)
    if wrong := await _proved(visit):
        return await page(visit, request, wrong, 422)
    member = visit.member
    await visit.served.database.write(
        lambda conn: staff.set_password(conn, member.brand, member.id, hashed)
    )
    answer = visit.page("password_changed.html")
    answer.delete_cookie(COOKIE, path=PATH)
    return answer


# --- second factor -----------------------------------------------------------------------------


@signed_in()
async def start_totp(request: Request, visit: Visit) -> Response:
    """A new secret for this session alone; it counts once its first code was right. One that
    counts already is removed first, by the password."""
    if visit.member.has_totp:
        return go(TOTP)
    served, token, secret = visit.served, request.cookies[COOKIE], pyotp.random_base32()
    await served.database.write(lambda conn: staff.set_pending(conn, served.keys, token, secret))
    return go(TOTP)


@signed_in()
async def picture(request: Request, visit: Visit) -> Response:
    """The pending secret as a QR code."""
    secret = await _pending(visit, request)
    if secret is None:
        raise NotFound("no second factor is being set up")
    uri = pyotp.TOTP(secret).provisioning_uri(name=visit.member.email, issuer_name=visit.brand.name)
    drawn = io.BytesIO()
    segno.make(uri).save(drawn, kind="svg", scale=5, light="#fff")
    return Response(drawn.getvalue(), headers=headers(), media_type="image/svg+xml")


@signed_in()
async def confirm_totp(request: Request, visit: Visit) -> Response:
    served, member, token = visit.served, visit.member, request.cookies[COOKIE]
    secret = await _pending(visit, request)
    if secret is None:
        return go(TOTP)
    step = codes.step_of(secret, visit.form.get("code", "")[:10], served.clock())
    if step is None:
        return await page(visit, request, "staff.me.wrong_code", 422)

    def job(conn: Connection) -> None:
        staff.set_totp(conn, served.keys, member.brand, member.id, secret)
        staff.use_step(conn, member.id, step)
        staff.set_pending(conn, served.keys, token, None)

    await served.database.write(job)
    return go(TOTP)


@signed_in()
async def stop_totp(request: Request, visit: Visit) -> Response:
    """Give up setting it up."""
    served, token = visit.served, request.cookies[COOKIE]
    await served.database.write(lambda conn: staff.set_pending(conn, served.keys, token, None))
    return go(TOTP)


@signed_in()
async def remove_totp(request: Request, visit: Visit) -> Response:
    if wrong := await _proved(visit):
        return await page(visit, request, wrong, 422)
    served, member = visit.served, visit.member
    await served.database.write(
        lambda conn: staff.set_totp(conn, served.keys, member.brand, member.id, None)
    )
    return go(TOTP)


routes = [
    Route(HERE, me, methods=["GET"]),
    Route(f"{HERE}/password", change_password, methods=["POST"]),
    Route(f"{HERE}/totp", start_totp, methods=["POST"]),
    Route(f"{HERE}/totp.svg", picture, methods=["GET"]),
    Route(f"{HERE}/totp/confirm", confirm_totp, methods=["POST"]),
    Route(f"{HERE}/totp/stop", stop_totp, methods=["POST"]),
    Route(f"{HERE}/totp/remove", remove_totp, methods=["POST"]),
]
