"""/p/{token}/data: what we hold about a person, for that person alone, by a fresh link.

Addresses are masked even here: the link may have been passed on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs import links
from prefs.core import identity
from prefs.core.ids import subject_text
from prefs.core.propagation import Outcome
from prefs.core.signals import Identifier
from prefs.core.tokens import Token, TokenKind
from prefs.core.words import CHANNEL_OF_LINK, Channel, Kind, Purpose, Result, Scope
from prefs.settings import Brand
from prefs.store.subjects import Known, Subject, identifiers_of
from prefs.web import people
from prefs.web.centre import KINDS, Centre, look
from prefs.web.context import Service, service
from prefs.web.pages import METHODS, guarded, opened, page
from prefs.web.texts import Texts, texts_of

STATES: Mapping[str | None, str] = {
    Outcome.CONFIRMED: "held",
    Outcome.ACCEPTED: "held",
    Outcome.RECORDED: "held",
    Outcome.LOCAL: "held",
    Outcome.PENDING: "told",
    Outcome.REFUSED: "staff",
    Outcome.WAITING_FOR_STAFF: "staff",
}
"""What an outcome means to the person; any other is that the system holds nothing of them."""


class Row(NamedTuple):
    """What was said at once. `at` is RFC 3339, `result` empty where it was applied."""

    whats: list[str]
    choice: str
    brand: str
    at: str
    source: str
    result: str
    wording: str


class System(NamedTuple):
    """Where a connected system stands on one channel: a key of the texts."""

    name: str
    channel: Channel
    state: str


class Holding(NamedTuple):
    addresses: list[tuple[Channel, str]]
    initials: str
    rows: list[Row]
    systems: list[System]


@guarded
async def data(request: Request) -> Response:
    """Looking changes nothing, and there is nothing to post."""
    served, token = service(request), opened(request, KINDS)
    looked, holding = await served.database.read(lambda conn: _read(conn, served, token))
    return page(
        served.settings,
        token.brand,
        "data.html",
        looked=looked,
        holding=holding,
        here=f"/p/{request.path_params['token']}",
        mailable=token.identifier_kind is Kind.EMAIL,
        complain=links.path(served, TokenKind.COMPLAIN, links.holder_of(token)),
    )


def _read(conn: Connection, served: Service, token: Token) -> tuple[Centre, Holding | None]:
    """None where the link may not show all, or does not say whose page this is."""
    looked = look(conn, served, token)
    if not looked.fresh or looked.several:
        return looked, None
    if looked.owner is None:
        return looked, Holding([looked.address] if looked.address else [], "", [], [])
    return looked, _holding(conn, served, looked.brand, looked.owner)


def _holding(conn: Connection, served: Service, brand: Brand, owner: Subject) -> Holding:
    known = identifiers_of(conn, [owner.id], served.keys)[owner.id]
    text, texts = subject_text(owner.id), texts_of(brand)
    rows, systems = [], []
    for one in served.settings.brands_of(brand.controller):
        rows += _rows(texts, one, people.history_of(conn, served, one.id, text))
        targets = people.targets_of(conn, served, one.id, text)
        systems += [_system(texts, found) for found in targets if one.targets[found["target"]].live]
    rows.sort(key=lambda row: row.at, reverse=True)
    return Holding(_masked(known), _initials(owner.name), rows, list(dict.fromkeys(systems)))


def _masked(known: Iterable[Known]) -> list[tuple[Channel, str]]:
    return [
        (CHANNEL_OF_LINK[one.kind], identity.masked(Identifier(one.kind, spelling, spelling)))
        for one in known
        if (spelling := one.spelling)
    ]


def _initials(name: str | None) -> str:
    return " ".join(f"{word[0]}." for word in (name or "").split())


def _rows(texts: Texts, brand: Brand, rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """What came by one act is one entry."""
    found: dict[tuple[str, ...], Row] = {}
    for row in rows:
        result = "" if row["result"] == Result.APPLIED else row["result"]
        wording = row["evidence"].get("wording") if row["choice"] == "in" else None
        key = (row["choice"], brand.name, row["received_at"], row["source"], result, wording or "")
        scope = Scope(Channel(row["channel"]), Purpose(row["purpose"]), row["topic"])
        found.setdefault(key, Row([], *key)).whats.append(texts.what(brand, scope))
    return list(found.values())


def _system(texts: Texts, found: Mapping[str, Any]) -> System:
    state = STATES.get(found["outcome"], "none")
    return System(texts.system(found["system"]), Channel(found["channel"]), state)


routes = [Route("/p/{token}/data", data, methods=METHODS)]
