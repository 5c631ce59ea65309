"""POST /webhooks/{system}/{brand}/{target}: verify the raw bytes, keep, take in, answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs import hooks
from prefs.core.errors import NotFound
from prefs.core.propagation import Target
from prefs.core.signals import Delivery, Found, Reply
from prefs.metrics import WEBHOOKS
from prefs.web.bodies import read_body
from prefs.web.context import Service, service

HOOK_LIMIT = 4 * 1024 * 1024
"""Meta alone puts a thousand messages into one call; what is refused is lost."""


class Webhook(Protocol):
    """What a module in `webhooks/` offers."""

    def verify(self, request: Delivery, target: Target) -> bool: ...

    def normalise(self, request: Delivery, target: Target, *, signed: bool) -> Sequence[Found]: ...

    def reply(self, request: Delivery, target: Target) -> Reply: ...


async def receive(request: Request) -> Response:
    """One delivery of a vendor; the 2xx comes after what it says is on disk."""
    served = service(request)
    params = request.path_params
    target, system = _addressed(request, served)
    delivery = Delivery(
        method=request.method,
        url=_public_url(request, served),
        query=tuple(request.query_params.multi_items()),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=await read_body(request, HOOK_LIMIT),
        received_at=served.clock(),
    )
    signed = system.verify(delivery, target)
    found = system.normalise(delivery, target, signed=signed)

    def job(conn: Connection) -> None:
        hooks.take(conn, served.intake, target, delivery, found)

    await served.database.write(job)
    reply = system.reply(delivery, target)
    WEBHOOKS.labels(params["system"], str(reply.status)).inc()
    return Response(reply.body, reply.status, dict(reply.headers), media_type=reply.media_type)


def _addressed(request: Request, served: Service) -> tuple[Target, Webhook]:
    params = request.path_params
    systems: dict[str, Webhook] = request.app.state.webhooks
    brand = served.settings.brands.get(params["brand"])
    target = brand.targets.get(params["target"]) if brand else None
    system = systems.get(params["system"])
    if target is None or system is None or target.system != params["system"]:
        raise NotFound("no such webhook")
    return target, system


def _public_url(request: Request, served: Service) -> str:
    """The URL as the vendor was given it, never from Host or forwarded headers."""
    raw: bytes = request.scope["raw_path"]
    query: bytes = request.scope["query_string"]
    path = raw.split(b"?", 1)[0].decode("latin-1")
    return served.settings.public_url + path + (f"?{query.decode('latin-1')}" if query else "")


routes = [
    Route("/webhooks/{system}/{brand}/{target}", receive, methods=["GET", "POST"]),
]
