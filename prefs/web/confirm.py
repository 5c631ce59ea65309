"""/c/{token}: double opt-in. GET shows, POST confirms; a link lives seven days."""

from __future__ import annotations

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs import links
from prefs.core.signals import Signal, Statement
from prefs.core.tokens import Token, TokenKind
from prefs.core.words import Basis, Channel, Choice, Result, Scope, Source
from prefs.intake import Outcome
from prefs.web.context import Service, service
from prefs.web.pages import METHODS, evidence_of, guarded, masked, opened, page, swallow, write
from prefs.web.texts import texts_of

ONLY = (TokenKind.CONFIRM,)
Address = tuple[Channel, str] | None


@guarded
async def confirm(request: Request) -> Response:
    served, token = service(request), opened(request, ONLY)
    scope, address = await served.database.read(lambda conn: _look(conn, served, token))
    if token.expired(served.clock()):
        return _page(served, token, scope, address, "expired")
    if request.method != "POST":
        return _page(served, token, scope, address, "asks")
    await swallow(request)
    signal = _signal(request, served, token, scope)
    recorded = await write(served, lambda conn: served.intake.record(conn, signal))
    return _told(served, token, scope, address, recorded.outcomes[0])


def _look(conn: Connection, served: Service, token: Token) -> tuple[Scope, Address]:
    return links.scope_of(conn, token), masked(conn, served, token)


def _signal(request: Request, served: Service, token: Token, scope: Scope) -> Signal:
    brand = served.settings.brands[token.brand]
    texts = texts_of(brand)
    said = [texts("confirm.intro", brand=brand.name), texts.what(brand, scope)]
    said.append(texts("confirm.agree"))
    return Signal(
        brand=token.brand,
        source=Source.DOUBLE_OPT_IN,
        statements=(Statement(scope, Choice.IN),),
        hashes=((token.identifier_kind, token.hash),),
        basis=Basis.CONSENT,
        evidence=evidence_of(request, "/c/{token}", "\n".join(said)),
        token=token.use,
    )


def _told(
    served: Service, token: Token, scope: Scope, address: Address, outcome: Outcome
) -> Response:
    done = outcome.result in (Result.APPLIED, Result.UNCHANGED)
    return _page(served, token, scope, address, "done" if done else "refused", outcome)


def _page(
    served: Service,
    token: Token,
    scope: Scope,
    address: Address,
    state: str,
    outcome: Outcome | None = None,
) -> Response:
    why = outcome.why if outcome else None
    return page(
        served.settings,
        token.brand,
        "confirm.html",
        state=state,
        scope=scope,
        address=address,
        why=why,
    )


routes = [Route("/c/{token}", confirm, methods=METHODS)]
