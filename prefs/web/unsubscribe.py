"""/u/{token}: GET shows, POST stops (RFC 8058); /u/{token}/all stops all marketing.

Nothing but a POST changes anything: mail scanners and prefetching visit every link.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs import links
from prefs.core.errors import Unavailable
from prefs.core.fold import said_out
from prefs.core.signals import Evidence, Signal, Statement
from prefs.core.tokens import Token, TokenKind
from prefs.core.words import Channel, Choice, Kind, Purpose, Scope, Source
from prefs.intake import Recorded
from prefs.settings import Brand
from prefs.store import subjects
from prefs.web.boxes import name_of
from prefs.web.context import Service, service
from prefs.web.pages import METHODS, evidence_of, guarded, masked, opened, page, swallow, take
from prefs.web.texts import texts_of
from prefs.web.told import following

ONLY = (TokenKind.FOOTER_UNSUBSCRIBE,)
ALL_MARKETING = tuple(Statement(Scope(one, Purpose.MARKETING), Choice.OUT) for one in Channel)


class Shown(NamedTuple):
    """What the page tells: the scope, whose address, whether it is off already."""

    scope: Scope
    address: tuple[Channel, str] | None
    off: bool


Stopping = Generator[Signal, Recorded, Shown]


@guarded
async def one(request: Request) -> Response:
    """The scope that the link was made for; source `one_click`, whoever posts."""
    served, token = service(request), opened(request, ONLY)
    if request.method != "POST":
        return await _ask(served, token)
    await swallow(request)
    seen = evidence_of(request, "/u/{token}")
    return _page(served, token, await take(served, lambda conn: _stop(conn, served, token, seen)))


@guarded
async def everything(request: Request) -> Response:
    """All five channels, for every brand of the controller."""
    served, token = service(request), opened(request, ONLY)
    if request.method != "POST":
        return await _ask(served, token)
    await swallow(request)
    seen = evidence_of(request, "/u/{token}/all")
    shown = await take(served, lambda conn: _stop_all(conn, served, token, seen))
    return _page(served, token, shown, everything=True)


async def _ask(served: Service, token: Token) -> Response:
    try:
        shown = await served.database.read(lambda conn: _look(conn, served, token))
    except Unavailable:
        scope = Scope(token.channel, token.purpose)
        shown = Shown(scope, None, off=False)
    return _page(served, token, shown, asks=True)


def _look(conn: Connection, served: Service, token: Token) -> Shown:
    scope = links.scope_of(conn, token)
    return Shown(scope, masked(conn, served, token), _said_so(conn, served, token, scope))


def _said_so(conn: Connection, served: Service, token: Token, scope: Scope) -> bool:
    """Whether everybody at this address has stopped it in person. What stands from anybody else
    may be lifted again: the press still counts."""
    controller = served.settings.brands[token.brand].controller
    owners = subjects.by_ids(conn, subjects.owners(conn, controller, [token.hash]))
    return bool(owners) and all(said_out(one.state, token.brand, scope) for one in owners)


def _stop(conn: Connection, served: Service, token: Token, seen: Evidence) -> Stopping:
    scope = links.scope_of(conn, token)
    yield Signal(
        brand=token.brand,
        source=Source.ONE_CLICK,
        statements=(Statement(scope, Choice.OUT),),
        hashes=((token.identifier_kind, token.hash),),
        evidence=seen,
        token=token.use,
    )
    return Shown(scope, masked(conn, served, token), off=True)


def _stop_all(conn: Connection, served: Service, token: Token, seen: Evidence) -> Stopping:
    yield Signal(
        brand=token.brand,
        source=Source.LINK,
        statements=ALL_MARKETING,
        hashes=((token.identifier_kind, token.hash),),
        evidence=seen,
        token=token.use,
        every_brand=True,
    )
    scope = Scope(token.channel, Purpose.MARKETING)
    return Shown(scope, masked(conn, served, token), off=True)


def _page(
    served: Service, token: Token, shown: Shown, *, asks: bool = False, everything: bool = False
) -> Response:
    holder, brand = links.holder_of(token), served.settings.brands[token.brand]
    brands = served.settings.brands_of(brand.controller) if everything else [brand]
    text = links.seal(
        served,
        TokenKind.FOOTER_UNSUBSCRIBE,
        holder,
        purpose=token.purpose,
        topic=token.topic,
    )
    return page(
        served.settings,
        token.brand,
        "unsubscribe.html",
        asks=asks,
        everything=everything,
        scope=shown.scope,
        address=shown.address,
        off=shown.off,
        action=f"/u/{text}",
        brands=[one.name for one in brands],
        told=[] if asks else _told(served, brand, brands, shown.scope, everything=everything),
        box=name_of(shown.scope),
        mailable=token.identifier_kind is Kind.EMAIL,
        preferences=links.path(served, TokenKind.CENTRE_FOOTER, holder),
        complain=links.path(served, TokenKind.COMPLAIN, holder),
    )


def _told(
    served: Service, brand: Brand, brands: list[Brand], scope: Scope, *, everything: bool
) -> list[str]:
    """The systems that follow. None does about reminders: those are ours to keep back."""
    marketing = [scope.channel] if scope.purpose is Purpose.MARKETING else []
    channels = list(Channel) if everything else marketing
    return following(served, texts_of(brand), [one.id for one in brands], channels)


routes = [
    Route("/u/{token}", one, methods=METHODS),
    Route("/u/{token}/all", everything, methods=METHODS),
]
