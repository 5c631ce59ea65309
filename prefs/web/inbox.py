"""POST /webhooks/mail/{brand}/inbox: a mail as a receiving service forwards it, raw MIME."""

from __future__ import annotations

import asyncio
import hmac

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs import inbound
from prefs.core import mail
from prefs.core.errors import BadInput, NotFound, Unverified
from prefs.inbound import Became
from prefs.mailbox import LONGEST
from prefs.metrics import WEBHOOKS
from prefs.web.bodies import read_body
from prefs.web.context import Service, service


async def receive(request: Request) -> Response:
    """One mail; the 2xx comes after what it says is on disk. The answer never tells what became
    of it: receiving services pass answers on to the sender."""
    served = service(request)
    brand = _verified(request, served)
    raw = await read_body(request, LONGEST)
    if not raw:
        raise BadInput("send the mail as raw MIME in the body")
    read = await asyncio.to_thread(mail.read, raw)

    def job(conn: Connection) -> Became:
        return inbound.take(conn, served, brand, raw, read)

    await served.database.write(job)
    WEBHOOKS.labels("mail", "200").inc()
    return Response("", 200, media_type="text/plain; charset=utf-8")


def _verified(request: Request, served: Service) -> str:
    """The brand in the path, once the key is that brand's. Raises NotFound and Unverified."""
    brand = served.settings.brands.get(request.path_params["brand"])
    if brand is None or brand.mail is None:
        raise NotFound("no such webhook")
    given = request.query_params.getlist("key")
    wanted = brand.mail.key
    if not wanted or len(given) != 1 or not _same(given[0], wanted):
        raise Unverified("wrong key")
    return brand.id


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


routes = [
    Route("/webhooks/mail/{brand}/inbox", receive, methods=["POST"]),
]
"""Before the routes of vendors' webhooks, whose pattern this one also matches."""
