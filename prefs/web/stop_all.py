"""/p/{token}/all: "stop all marketing" on the preference centre, for every brand of the controller.

As /u/{token}/all, but recorded by the centre's own link, which may take it back.
"""

from __future__ import annotations

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs.core.signals import Signal
from prefs.core.tokens import Token
from prefs.core.words import Channel, Source
from prefs.web.boxes import Box, Changed, marketing_boxes
from prefs.web.centre import KINDS, Centre, look, shown
from prefs.web.context import Service, service
from prefs.web.pages import METHODS, evidence_of, guarded, opened, swallow, write
from prefs.web.texts import texts_of
from prefs.web.told import following
from prefs.web.unsubscribe import ALL_MARKETING


@guarded
async def stop_all(request: Request) -> Response:
    served, token = service(request), opened(request, KINDS)
    if request.method != "POST":
        return shown(request, await served.database.read(lambda conn: look(conn, served, token)))
    await swallow(request)
    looked, stopped = await write(served, lambda conn: _stop(conn, served, request, token))
    done = Changed(stopped, [])
    brands = served.settings.brands_of(looked.brand.controller)
    ids = [one.id for one in brands]
    return shown(
        request,
        looked,
        saved=True,
        everything=True,
        brands=[one.name for one in brands],
        changed=done,
        undo=done.undo if looked.may_start else [],
        told=following(served, texts_of(looked.brand), ids, list(Channel)),
    )


def _stop(
    conn: Connection, served: Service, request: Request, token: Token
) -> tuple[Centre, list[Box]]:
    """Returns what stands now, and which channels were on at this brand."""
    centre = look(conn, served, token)
    signal = Signal(
        brand=token.brand,
        source=Source.CENTRE if centre.fresh else Source.LINK,
        statements=ALL_MARKETING,
        hashes=((token.identifier_kind, token.hash),),
        evidence=evidence_of(request, "/p/{token}/all"),
        token=token.use,
        every_brand=True,
    )
    served.intake.record(conn, signal)
    boxes = marketing_boxes(centre.brand, centre.drawn, centre.channels)
    return look(conn, served, token), [box for box in boxes if box.whole and box.ticked]


routes = [Route("/p/{token}/all", stop_all, methods=METHODS)]
