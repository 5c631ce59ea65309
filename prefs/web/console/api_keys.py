"""/staff/keys: keys of a brand's programs. A key is shown once and kept as a hash."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs.store import access
from prefs.store.staff import Role
from prefs.web.console.accounts import PATH, Secret, page
from prefs.web.console.session import Visit, go, signed_in


@signed_in(Role.OWNER)
async def add(request: Request, visit: Visit) -> Response:
    scopes = [scope for scope in access.SCOPES if visit.form.get(f"scope_{scope}") == "yes"]
    if not scopes:
        return await page(visit, wrong="staff.keys.no_scope", status=422)
    brand, now = visit.member.brand, visit.served.clock().timestamp()
    id_, key = await visit.served.database.write(
        lambda conn: access.add_key(conn, brand, scopes, now)
    )
    return await page(visit, secret=Secret("staff.keys.key_is", id_, key))


@signed_in(Role.OWNER)
async def revoke(request: Request, visit: Visit) -> Response:
    """It stops working within two seconds."""
    id_, brand = request.path_params["id"], visit.member.brand
    now = visit.served.clock().timestamp()
    await visit.served.database.write(lambda conn: access.revoke_key(conn, id_, now, brand))
    return go(f"{PATH}#keys")


routes = [
    Route("/staff/keys/add", add, methods=["POST"]),
    Route("/staff/keys/{id}/revoke", revoke, methods=["POST"]),
]
