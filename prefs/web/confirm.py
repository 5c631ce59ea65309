"""/c/{token}: double opt-in. GET shows, POST confirms; a link lives seven days.

One link confirms all that was asked for in the same sign-up; the page names it first.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs import links
from prefs.core.fold import State
from prefs.core.signals import Signal, Statement
from prefs.core.tokens import Token, TokenKind
from prefs.core.words import Basis, Channel, Choice, Result, Scope, Source
from prefs.intake import Outcome
from prefs.settings import Brand
from prefs.store import subjects
from prefs.web.context import Service, service
from prefs.web.pages import METHODS, evidence_of, guarded, masked, opened, page, swallow, write
from prefs.web.texts import Agreed, agreed, texts_of
from prefs.web.told import following

ONLY = (TokenKind.CONFIRM,)
DONE = (Result.APPLIED, Result.UNCHANGED)


class Asked(NamedTuple):
    """What a link asks about, and at which address."""

    scopes: list[Scope]
    address: tuple[Channel, str] | None


@guarded
async def confirm(request: Request) -> Response:
    served, token = service(request), opened(request, ONLY)
    if request.method != "POST" or token.expired(served.clock()):
        asked = await served.database.read(lambda conn: _look(conn, served, token))
        return _page(served, token, asked, expired=token.expired(served.clock()))
    await swallow(request)
    asked, outcomes = await write(served, lambda conn: _confirm(conn, served, request, token))
    return _page(served, token, asked, outcomes)


def _look(conn: Connection, served: Service, token: Token) -> Asked:
    scope = links.scope_of(conn, token)
    controller = served.settings.brands[token.brand].controller
    owners = subjects.by_ids(conn, subjects.owners(conn, controller, [token.hash]))
    signed_up = [one for one in owners if token.subject_id in (None, one.id)]
    together = {other for one in signed_up for other in _together(one.state, token.brand, scope)}
    return Asked(sorted({scope, *together}, key=_order), masked(conn, served, token))


def _together(state: State, brand: str, scope: Scope) -> list[Scope]:
    """What waits since the same moment: the same sign-up."""
    waits = state.at(brand, scope).pending
    return [
        other
        for other, standing in state.scopes.get(brand, {}).items()
        if waits and standing.pending and standing.pending.at == waits.at
    ]


def _order(scope: Scope) -> tuple[int, str]:
    return list(Channel).index(scope.channel), scope.topic or ""


def _confirm(
    conn: Connection, served: Service, request: Request, token: Token
) -> tuple[Asked, list[Outcome]]:
    asked = _look(conn, served, token)
    brand = served.settings.brands[token.brand]
    signal = Signal(
        brand=token.brand,
        source=Source.DOUBLE_OPT_IN,
        statements=tuple(Statement(scope, Choice.IN) for scope in asked.scopes),
        hashes=((token.identifier_kind, token.hash),),
        basis=Basis.CONSENT,
        evidence=evidence_of(request, "/c/{token}", _agreed(brand, asked)),
        token=token.use,
    )
    return asked, list(served.intake.record(conn, signal).outcomes)


def _agreed(brand: Brand, asked: Asked) -> Agreed:
    texts = texts_of(brand)
    said = [texts("confirm.intro", brand=brand.name), texts("confirm.agree")]
    return agreed(texts, said, (texts.what(brand, scope) for scope in asked.scopes))


def _page(
    served: Service,
    token: Token,
    asked: Asked,
    outcomes: list[Outcome] | None = None,
    *,
    expired: bool = False,
) -> Response:
    brand = served.settings.brands[token.brand]
    done = [one.statement.scope for one in outcomes or () if one.result in DONE]
    holder = links.holder_of(token)
    return page(
        served.settings,
        token.brand,
        "confirm.html",
        state="expired" if expired else _state(outcomes, done),
        scopes=done or asked.scopes,
        refused=[one for one in outcomes or () if one.result not in DONE],
        address=asked.address,
        told=following(served, texts_of(brand), [brand.id], {scope.channel for scope in done}),
        preferences=links.path(served, TokenKind.CENTRE_FOOTER, holder),
        complain=links.path(served, TokenKind.COMPLAIN, holder),
    )


def _state(outcomes: list[Outcome] | None, done: list[Scope]) -> str:
    if outcomes is None:
        return "asks"
    return "done" if done else "refused"


routes = [Route("/c/{token}", confirm, methods=METHODS)]
