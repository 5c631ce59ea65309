"""/p/{token}: the preference centre; /p: asking for a link to it.

A save is a full statement of what the page showed: ticked is in, unticked is out, and a box that
was ticked by default and left so stays unset. Links from footers switch off only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs import links
from prefs.core.decision import NOBODY, STOPPED, Held, hold_together
from prefs.core.errors import BadInput
from prefs.core.fold import without_pauses
from prefs.core.signals import Signal, Statement
from prefs.core.tokens import Token, TokenKind
from prefs.core.words import KIND_OF, Basis, Channel, Choice, Kind, Purpose, Result, Scope, Source
from prefs.intake import Outcome, Recorded
from prefs.settings import Brand
from prefs.store import outbox, permissions, subjects
from prefs.store.subjects import Subject
from prefs.web.bodies import read_body
from prefs.web.boxes import (
    Box,
    Changed,
    Drawn,
    as_shown,
    changed,
    marketing_boxes,
    other_boxes,
    scope_named,
    shown_boxes,
    statements_of,
)
from prefs.web.context import Service, service
from prefs.web.days import offered
from prefs.web.pages import BODY_LIMIT, METHODS, evidence_of, guarded, masked, opened, page, write
from prefs.web.texts import Agreed, Texts, agreed_again, agreed_in_centre, texts_of
from prefs.web.told import following

KINDS = (TokenKind.CENTRE_FRESH, TokenKind.CENTRE_FOOTER)
LONGEST_ADDRESS = 320
MOST_FIELDS = 500
Form = Mapping[str, str]


# --- what stands -------------------------------------------------------------------------------


class Centre(NamedTuple):
    """What one visit of the page works with."""

    token: Token
    brand: Brand
    fresh: bool
    """Only such a link may switch on and see all, and only while the address is that person's."""
    expired: bool
    owner: Subject | None
    """Whose page it is, where that is certain."""
    several: bool
    """More than one person uses the address, and the link names none of them."""
    drawn: Drawn
    restricted: bool
    address: tuple[Channel, str] | None

    @property
    def may_start(self) -> bool:
        """Whether this link may switch on: for whom, where several use the address?"""
        return self.fresh and not self.several

    @property
    def channels(self) -> list[Channel]:
        return list(Channel) if self.fresh else [self.token.channel]

    @property
    def showed_all(self) -> bool:
        """A page of all channels that was opened while the link was fresh may still be sent when
        it is so no more: what it switches off counts."""
        moved = self.token.subject_id is not None and self.owner is None
        return self.token.kind is TokenKind.CENTRE_FRESH and not moved

    def may_stop(self, scope: Scope) -> bool:
        """A link from a footer shows marketing on its own channel, and stops no more than that."""
        footers = scope.purpose is Purpose.MARKETING and scope.channel is self.token.channel
        return self.showed_all or footers

    @property
    def boxes(self) -> list[Box]:
        marketing = marketing_boxes(self.brand, self.drawn, self.channels)
        return [*marketing, *other_boxes(self.drawn)] if self.fresh else marketing


def look(conn: Connection, served: Service, token: Token) -> Centre:
    brand = served.settings.brands[token.brand]
    sharers = subjects.by_ids(conn, subjects.owners(conn, brand.controller, [token.hash]))
    owner = _owner(token, sharers)
    moved = token.subject_id is not None and owner is None
    expired = token.expired(served.clock())
    fresh = token.kind is TokenKind.CENTRE_FRESH and not expired and not moved
    seen = [owner] if owner and fresh else sharers
    held = hold_together([one.state for one in seen], brand.id) if seen else _by_hash(conn, token)
    silenced = _silenced(conn, served, brand, owner) if owner and fresh else set()
    return Centre(
        token,
        brand,
        fresh,
        expired,
        owner,
        len(sharers) > 1 and owner is None,
        _drawn(brand.id, held, seen, silenced),
        held.restricted,
        masked(conn, served, token),
    )


def _owner(token: Token, sharers: list[Subject]) -> Subject | None:
    """The one whom the link names, as long as the address is theirs; else the only one."""
    if token.subject_id is not None:
        return next((one for one in sharers if one.id == token.subject_id), None)
    return sharers[0] if len(sharers) == 1 else None


def _by_hash(conn: Connection, token: Token) -> Held:
    return permissions.read(conn, token.brand, [token.hash]).get(token.hash, NOBODY)


def _drawn(brand: str, held: Held, seen: list[Subject], silenced: Collection[Scope]) -> Drawn:
    paused = {scope: view.until for scope, view in held.views.items() if view.until}
    if paused:
        held = hold_together([without_pauses(one.state) for one in seen], brand)
    return Drawn(held, paused, silenced)


def _silenced(conn: Connection, served: Service, brand: Brand, owner: Subject) -> set[Scope]:
    """What somebody else at the same address or number said no to."""
    known = subjects.identifiers_of(conn, [owner.id], served.keys)[owner.id]
    return {
        scope
        for one in known
        for scope, view in _others(conn, brand, owner, one.hash).views.items()
        if view.word in STOPPED and KIND_OF[scope.channel] is one.kind
    }


def _others(conn: Connection, brand: Brand, owner: Subject, hash_: bytes) -> Held:
    ids = set(subjects.owners(conn, brand.controller, [hash_])) - {owner.id}
    return hold_together([one.state for one in subjects.by_ids(conn, ids)], brand.id)


# --- what the person posts ---------------------------------------------------------------------


class Saved(NamedTuple):
    """What became of a save. `mails`: a box was raised that only a fresh link may raise."""

    centre: Centre
    changed: Changed
    refused: list[Outcome]
    mails: bool


def _save(conn: Connection, served: Service, request: Request, token: Token, form: Form) -> Saved:
    centre = look(conn, served, token)
    boxes = _posted(centre, form)
    ticked = {name for name, value in form.items() if value == "in"}
    for name in ticked:
        scope_named(name, centre.brand)
    said = list(statements_of(boxes, ticked))
    raised = [box for box in boxes if box.name in ticked and not box.ticked]
    if not centre.fresh:
        said = [one for one in said if one.choice is Choice.OUT]
        ticked -= {box.name for box in raised}
    recorded = _record(conn, served, request, centre, said, form) if said else None
    mails = bool(raised) and not centre.fresh
    if mails and token.identifier_kind is Kind.EMAIL:
        now = served.clock().timestamp()
        outbox.add(conn, served.keys, "centre_link", token.brand, token.hash, {}, now)
    refused = _refused(recorded)
    done = changed(boxes, ticked, {one.statement.scope for one in refused})
    return Saved(look(conn, served, token), done, refused, mails)


def _posted(centre: Centre, form: Form) -> list[Box]:
    """The boxes that a save is about: what this link may switch off, what it asks to have on."""
    shown = form.get("shown")
    if shown is None:
        return [box for box in centre.boxes if box.scope.purpose is Purpose.MARKETING]
    raised = {name for name, value in form.items() if value == "in"}
    return [
        box
        for box in shown_boxes(shown, centre.brand)
        if centre.may_stop(box.scope) or (box.name in raised and not box.ticked)
    ]


def _refused(recorded: Recorded | None) -> list[Outcome]:
    outcomes = recorded.outcomes if recorded else ()
    return [one for one in outcomes if one.result in (Result.REFUSED, Result.HELD)]


def _record(
    conn: Connection,
    served: Service,
    request: Request,
    centre: Centre,
    said: list[Statement],
    form: Form,
) -> Recorded:
    token = centre.token
    signal = Signal(
        brand=token.brand,
        source=Source.CENTRE if centre.fresh else Source.LINK,
        statements=tuple(said),
        hashes=((token.identifier_kind, token.hash),),
        basis=Basis.CONSENT,
        evidence=evidence_of(request, "/p/{token}", _agreed(centre, said, form)),
        token=token.use,
    )
    return served.intake.record(conn, signal)


def _agreed(centre: Centre, said: list[Statement], form: Form) -> Agreed | None:
    """The words that stood beside what was switched on: those of the form, or of its undoing."""
    on = [one.scope for one in said if one.choice is Choice.IN]
    wording = agreed_again if "undo" in form else agreed_in_centre
    return wording(texts_of(centre.brand), centre.brand, on) if on else None


# --- routes ------------------------------------------------------------------------------------


@guarded
async def centre(request: Request) -> Response:
    """GET shows, POST saves."""
    served, token = service(request), opened(request, KINDS)
    if request.method != "POST":
        return shown(request, await served.database.read(lambda conn: look(conn, served, token)))
    form = await form_of(request)
    saved = await write(served, lambda conn: _save(conn, served, request, token, form))
    return shown(request, saved.centre, **_told(served, saved))


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a posted form. Raises BadInput."""
    raw = await read_body(request, BODY_LIMIT)
    text = raw.decode("utf-8", "replace")
    try:
        fields = parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise BadInput("the form has too many fields") from None
    return {name: value.replace("\0", "") for name, value in fields}


def _told(served: Service, saved: Saved) -> dict[str, Any]:
    done = saved.changed
    scopes = [box.scope for box in (*done.stopped, *done.started)]
    texts = texts_of(saved.centre.brand)
    return {
        "saved": True,
        "changed": done,
        "undo": done.undo if saved.centre.may_start else [],
        "mails": saved.mails,
        "refused": saved.refused,
        "told": told(served, texts, saved.centre.brand.id, scopes),
    }


def told(served: Service, texts: Texts, brand: str, scopes: Collection[Scope]) -> list[str]:
    """The systems that follow a change of these scopes."""
    marketing = {one.channel for one in scopes if one.purpose is Purpose.MARKETING}
    return following(served, texts, [brand], marketing)


NOTHING_DONE: dict[str, Any] = {
    "saved": False,
    "changed": Changed([], []),
    "undo": [],
    "mails": False,
    "refused": [],
    "told": [],
    "paused": "",
    "rested": [],
    "everything": False,
    "brands": [],
    "fault": "",
}


def shown(request: Request, looked: Centre, status: int = 200, **done: Any) -> Response:
    """The page as it stands, under what was just done."""
    served, boxes, holder = service(request), looked.boxes, links.holder_of(looked.token)
    here = f"/p/{request.path_params['token']}"
    return page(
        served.settings,
        looked.brand.id,
        "centre.html",
        status,
        **NOTHING_DONE
        | {
            "looked": looked,
            "boxes": boxes,
            "shown": as_shown(boxes),
            "undo_shown": as_shown(done.get("undo", [])),
            "here": here,
            "complain": links.path(served, TokenKind.COMPLAIN, holder),
            "mailable": looked.token.identifier_kind is Kind.EMAIL,
            "days": offered(served.clock(), looked.brand),
        }
        | done,
    )


@guarded
async def ask(request: Request) -> Response:
    """The same bytes, time and effect whoever is asked about: whether we know the address is
    decided when the mail is due."""
    served = service(request)
    name = request.query_params.get("brand")
    brand = name if name in served.settings.brands else None
    if request.method != "POST":
        return page(served.settings, brand, "request.html", done=False, action=_action(brand))
    address = (await form_of(request)).get("email", "")[:LONGEST_ADDRESS]

    def job(conn: Connection) -> None:
        now = served.clock().timestamp()
        outbox.add(conn, served.keys, "centre_link", brand, None, {"email": address}, now)

    await write(served, job)
    return page(served.settings, brand, "request.html", done=True, action=_action(brand))


def _action(brand: str | None) -> str:
    return f"/p?brand={brand}" if brand else "/p"


routes = [
    Route("/p", ask, methods=METHODS),
    Route("/p/{token}", centre, methods=METHODS),
]
