"""/staff/accounts: who signs in, keys of programs, the ledger's seals."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs.core import identity
from prefs.core.errors import BadIdentifier, BadInput
from prefs.store import access, ledger, staff
from prefs.store.staff import Member, Role
from prefs.verify import verify
from prefs.web.console import jobs
from prefs.web.console.jobs import Tell
from prefs.web.console.session import Visit, go, signed_in
from prefs.web.context import Service

PATH = "/staff/accounts"
VERIFY = "verify"
FIRST = 50
"""Findings that a result names one by one."""


class Secret(NamedTuple):
    """Shown once, on the answer to the form that made it."""

    key: str
    """Of the text that says what it is."""
    whose: str
    value: str


class Held(NamedTuple):
    members: list[Member]
    keys: list[Any]
    sealed: Any | None
    unsealed: int


def _look(conn: Connection, served: Service, brand: str) -> Held:
    return Held(
        staff.listed(conn, served.keys, brand),
        access.list_keys(conn, brand),
        ledger.last_sealed(conn),
        ledger.count_unsealed(conn),
    )


async def page(
    visit: Visit, *, secret: Secret | None = None, wrong: str = "", status: int = 200
) -> Response:
    """`wrong` is the key of what is wrong with the form that was sent."""
    served, brand = visit.served, visit.member.brand
    held = await served.database.read(lambda conn: _look(conn, served, brand))
    return visit.page(
        "accounts.html",
        status,
        held=held,
        roles=list(Role),
        scopes=access.SCOPES,
        verified=await jobs.latest(visit, VERIFY),
        secret=secret,
        wrong=wrong,
    )


@signed_in(Role.OWNER)
async def accounts(request: Request, visit: Visit) -> Response:
    return await page(visit)


# --- staff -------------------------------------------------------------------------------------


def new_password() -> str:
    """96 random bits, handed over once; its owner sets another one."""
    return secrets.token_urlsafe(12)


@signed_in(Role.OWNER)
async def add(request: Request, visit: Visit) -> Response:
    served, brand, role = visit.served, visit.member.brand, _role(visit)
    try:
        address = identity.email(visit.form.get("email", "")[:320])
    except BadIdentifier:
        return await page(visit, wrong="staff.accounts.no_address", status=422)
    password = new_password()
    hashed = await asyncio.to_thread(staff.hashed, password)
    now = served.clock().timestamp()
    try:
        await served.database.write(
            lambda conn: staff.add(conn, served.keys, brand, address, role, hashed, now)
        )
    except BadInput:
        return await page(visit, wrong="staff.accounts.known", status=422)
    secret = Secret("staff.accounts.password_is", address.spelling, password)
    return await page(visit, secret=secret)


def _role(visit: Visit) -> Role:
    try:
        return Role(visit.form.get("role", ""))
    except ValueError:
        raise BadInput("staff.form.damaged") from None


@signed_in(Role.OWNER)
async def change_role(request: Request, visit: Visit) -> Response:
    brand, id_, role = visit.member.brand, request.path_params["id"], _role(visit)

    def job(conn: Connection) -> None:
        if role is not Role.OWNER:
            _keep_an_owner(conn, visit, id_)
        staff.set_role(conn, brand, id_, role)

    return await _changed(visit, job)


@signed_in(Role.OWNER)
async def end(request: Request, visit: Visit) -> Response:
    brand, id_ = visit.member.brand, request.path_params["id"]
    now = visit.served.clock().timestamp()

    def job(conn: Connection) -> None:
        _keep_an_owner(conn, visit, id_)
        staff.end(conn, brand, id_, now)

    return await _changed(visit, job)


class LastOwner(BadInput):
    """Somebody must be able to let others in."""


def _keep_an_owner(conn: Connection, visit: Visit, id_: str) -> None:
    """Within the transaction that takes one away. Raises LastOwner, NotFound."""
    brand = visit.member.brand
    one = staff.one(conn, visit.served.keys, brand, id_)
    if one.role is Role.OWNER and staff.count_owners(conn, brand) == 1:
        raise LastOwner("staff.accounts.last_owner")


async def _changed(visit: Visit, job: Callable[[Connection], None]) -> Response:
    try:
        await visit.served.database.write(job)
    except LastOwner as fault:
        return await page(visit, wrong=str(fault), status=409)
    return go(PATH)


@signed_in(Role.OWNER)
async def reset_password(request: Request, visit: Visit) -> Response:
    """A new one, shown once; every session of that person ends."""
    served, brand, id_ = visit.served, visit.member.brand, request.path_params["id"]
    if id_ == visit.member.id:
        raise BadInput("staff.accounts.own")
    one = await served.database.read(lambda conn: staff.one(conn, served.keys, brand, id_))
    password = new_password()
    hashed = await asyncio.to_thread(staff.hashed, password)
    await served.database.write(lambda conn: staff.set_password(conn, brand, id_, hashed))
    return await page(visit, secret=Secret("staff.accounts.password_is", one.email, password))


@signed_in(Role.OWNER)
async def remove_totp(request: Request, visit: Visit) -> Response:
    """For somebody whose authenticator app is lost."""
    served, brand, id_ = visit.served, visit.member.brand, request.path_params["id"]
    await served.database.write(lambda conn: staff.set_totp(conn, served.keys, brand, id_, None))
    return go(PATH)


# --- ledger ------------------------------------------------------------------------------------


@signed_in(Role.OWNER)
async def verify_ledger(request: Request, visit: Visit) -> Response:
    """Walk the whole ledger in the background."""
    served = visit.served

    async def work(tell: Tell) -> Mapping[str, Any]:
        return await jobs.apart(lambda: _verify(served, tell))

    await jobs.of(request).start(served, visit.member.brand, VERIFY, "", work)
    return go(f"{PATH}#ledger")


def _verify(served: Service, tell: Tell) -> Mapping[str, Any]:
    found = served.database.read_now(
        lambda conn: verify(conn, served.intake, lambda rows: tell("", rows), served.checkpoints)
    )
    return {
        "rows": found.rows,
        "count": len(found.findings),
        "first": [one.what for one in found.findings[:FIRST]],
    }


routes = [
    Route(PATH, accounts, methods=["GET"]),
    Route(f"{PATH}/add", add, methods=["POST"]),
    Route(f"{PATH}/verify", verify_ledger, methods=["POST"]),
    Route(f"{PATH}/{{id}}/role", change_role, methods=["POST"]),
    Route(f"{PATH}/{{id}}/password", reset_password, methods=["POST"]),
    Route(f"{PATH}/{{id}}/totp", remove_totp, methods=["POST"]),
    Route(f"{PATH}/{{id}}/end", end, methods=["POST"]),
]
