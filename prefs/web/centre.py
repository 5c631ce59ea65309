"""/p/{token}: the preference centre; /p: asking for a link to it.

A save is a full statement of what the page showed: ticked is in, unticked is out, and a box that
was ticked by default and left so stays unset. Links from footers switch off only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs import links
from prefs.core.decision import NOBODY, Held, Word, hold_together
from prefs.core.errors import BadInput
from prefs.core.signals import Signal, Statement
from prefs.core.tokens import Token, TokenKind
from prefs.core.words import CHANNELS_OF, Basis, Channel, Choice, Purpose, Result, Scope, Source
from prefs.intake import Recorded
from prefs.settings import Brand
from prefs.store import outbox, permissions, subjects
from prefs.web.bodies import read_body
from prefs.web.context import Service, service
from prefs.web.pages import BODY_LIMIT, METHODS, evidence_of, guarded, masked, opened, page, write
from prefs.web.texts import texts_of, wording

KINDS = (TokenKind.CENTRE_FRESH, TokenKind.CENTRE_FOOTER)
BY_DEFAULT = frozenset({Channel.PHONE, Channel.POST})
"""Channels that may be used unless the person says no."""
STATES = ("on", "off", "default")
LONGEST_ADDRESS = 320
NAME = re.compile(r"(choice:[a-z]+:[\w*-]+|(?:reminders|service):[a-z]+)")


class Box(NamedTuple):
    """One tick box. `state` is on, off, or default: ticked without anybody having chosen it."""

    name: str
    scope: Scope
    state: str
    held: bool = False

    @property
    def ticked(self) -> bool:
        return self.state != "off"


# --- what the page shows -----------------------------------------------------------------------


def name_of(scope: Scope) -> str:
    if scope.purpose is not Purpose.MARKETING:
        return f"{scope.purpose.value}:{scope.channel.value}"
    return f"choice:{scope.channel.value}:{scope.topic or '*'}"


def scope_named(name: str, brand: Brand) -> Scope:
    """Raises BadInput for a box that this brand's page cannot have."""
    parts = name.split(":")
    try:
        channel = Channel(parts[1])
        if parts[0] != "choice":
            scope = Scope(channel, Purpose(parts[0]))
        else:
            scope = Scope(channel, Purpose.MARKETING, None if parts[2] == "*" else parts[2])
    except (ValueError, IndexError):
        raise BadInput("no such box") from None
    known = scope.topic is None or scope.topic in brand.topics
    if not known or channel not in CHANNELS_OF[scope.purpose] or name_of(scope) != name:
        raise BadInput("no such box")
    return scope


def boxes_of(brand: Brand, held: Held, channels: Sequence[Channel]) -> list[Box]:
    """Every box of these channels' marketing."""
    found = []
    for channel in channels:
        whole = _box(held, Scope(channel, Purpose.MARKETING))
        found.append(whole)
        for topic in brand.topics:
            found.append(_topic_box(held, whole, topic))  # noqa: PERF401  # the order is the page's
    return found


def _box(held: Held, scope: Scope) -> Box:
    view = held.views.get(scope)
    if view is None or view.word is Word.UNCONFIRMED:
        ticked = scope.purpose is not Purpose.MARKETING or scope.channel in BY_DEFAULT
        return Box(name_of(scope), scope, "default" if ticked else "off")
    if view.word is Word.IN:
        return Box(name_of(scope), scope, "on")
    return Box(name_of(scope), scope, "off", held=view.word is Word.HELD)


def _topic_box(held: Held, whole: Box, topic: str) -> Box:
    scope = whole.scope._replace(topic=topic)
    view = held.views.get(scope)
    if view is not None and view.word is not Word.UNCONFIRMED:
        return _box(held, scope)
    return Box(name_of(scope), scope, "default" if whole.ticked else "off")


def other_boxes(held: Held) -> list[Box]:
    """Reminders and service messages, which have switches of their own."""
    scopes = [Scope(channel, Purpose.REMINDERS) for channel in CHANNELS_OF[Purpose.REMINDERS]]
    scopes += [Scope(c, Purpose.SERVICE) for c in (Channel.EMAIL, Channel.SMS, Channel.PHONE)]
    return [_box(held, scope) for scope in scopes]


class Centre(NamedTuple):
    """What one visit of the page works with."""

    token: Token
    brand: Brand
    fresh: bool
    held: Held

    @property
    def boxes(self) -> list[Box]:
        channels = list(Channel) if self.fresh else [self.token.channel]
        marketing = boxes_of(self.brand, self.held, channels)
        return [*marketing, *other_boxes(self.held)] if self.fresh else marketing


def _look(conn: Connection, served: Service, token: Token) -> Centre:
    brand = served.settings.brands[token.brand]
    fresh = token.kind is TokenKind.CENTRE_FRESH and not token.expired(served.clock())
    held = permissions.read(conn, token.brand, [token.hash]).get(token.hash, NOBODY)
    if token.subject_id and fresh:
        own = subjects.of_controller(conn, brand.controller, token.subject_id)
        held = hold_together([own.state], token.brand) if own else held
    return Centre(token, brand, fresh, held)


# --- what the person posts ---------------------------------------------------------------------


def shown_boxes(text: str, brand: Brand) -> list[Box]:
    """The boxes that the page showed, as its hidden field says. Raises BadInput."""
    found = []
    for part in text.split():
        name, separator, state = part.rpartition("=")
        if not separator or state not in STATES or not NAME.fullmatch(name):
            raise BadInput("the form is damaged")
        found.append(Box(name, scope_named(name, brand), state))
    return found


def statements_of(boxes: Iterable[Box], ticked: set[str]) -> Iterator[Statement]:
    """What a save says. An unticked channel covers its topics."""
    boxes = list(boxes)
    closed = {b.scope.channel for b in boxes if _whole(b.scope) and b.name not in ticked}
    for box in boxes:
        said = box.name in ticked
        if box.scope.purpose is not Purpose.MARKETING:
            if said != box.ticked:
                yield Statement(box.scope, Choice.IN if said else Choice.OUT)
        elif box.scope.topic is not None and box.scope.channel in closed:
            continue
        elif not (said and box.state == "default"):
            yield Statement(box.scope, Choice.IN if said else Choice.OUT)


def _whole(scope: Scope) -> bool:
    return scope.purpose is Purpose.MARKETING and scope.topic is None


def _save(
    conn: Connection, served: Service, request: Request, token: Token, form: Mapping[str, str]
) -> tuple[Centre, Recorded | None, bool]:
    """Record what was posted; returns what stands now, what became of it, whether a link goes
    out."""
    centre = _look(conn, served, token)
    shown = form.get("shown")
    boxes = shown_boxes(shown, centre.brand) if shown is not None else _marketing(centre)
    if not centre.fresh:
        boxes = [box for box in boxes if box.scope.channel is token.channel]
    ticked = {name for name, value in form.items() if value == "in"}
    for name in ticked:
        scope_named(name, centre.brand)
    said = list(statements_of(boxes, ticked))
    raised = any(box.name in ticked and not box.ticked for box in boxes)
    if not centre.fresh:
        said = [one for one in said if one.choice is Choice.OUT]
    recorded = _record(conn, served, request, centre, said) if said else None
    mails = raised and not centre.fresh
    if mails:
        now = served.clock().timestamp()
        outbox.add(conn, served.keys, "centre_link", token.brand, token.hash, {}, now)
    return _look(conn, served, token), recorded, mails


def _marketing(centre: Centre) -> list[Box]:
    return [box for box in centre.boxes if box.scope.purpose is Purpose.MARKETING]


def _record(
    conn: Connection, served: Service, request: Request, centre: Centre, said: list[Statement]
) -> Recorded:
    texts = texts_of(centre.brand)
    agreed = [one.scope for one in said if one.choice is Choice.IN]
    words = wording(texts, centre.brand, agreed) if agreed else None
    token = centre.token
    signal = Signal(
        brand=token.brand,
        source=Source.CENTRE if centre.fresh else Source.LINK,
        statements=tuple(said),
        hashes=((token.identifier_kind, token.hash),),
        basis=Basis.CONSENT,
        evidence=evidence_of(request, "/p/{token}", words),
        token=token.use,
    )
    return served.intake.record(conn, signal)


# --- routes ------------------------------------------------------------------------------------


@guarded
async def centre(request: Request) -> Response:
    """GET shows, POST saves."""
    served, token = service(request), opened(request, KINDS)
    if request.method != "POST":
        looked = await served.database.read(lambda conn: _look(conn, served, token))
        address = await served.database.read(lambda conn: masked(conn, served, token))
        return _shown(served, looked, address)
    form = dict(await _form(request))
    saved, recorded, mails = await write(
        served, lambda conn: _save(conn, served, request, token, form)
    )
    address = await served.database.read(lambda conn: masked(conn, served, token))
    return _shown(served, saved, address, recorded=recorded, mails=mails, saved=True)


async def _form(request: Request) -> list[tuple[str, str]]:
    raw = await read_body(request, BODY_LIMIT)
    return parse_qsl(raw.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=500)


def _shown(
    served: Service,
    looked: Centre,
    address: tuple[Channel, str] | None,
    *,
    recorded: Recorded | None = None,
    mails: bool = False,
    saved: bool = False,
) -> Response:
    boxes = looked.boxes
    token = looked.token
    outcomes = recorded.outcomes if recorded else ()
    unsubscribe = links.seal(
        served, TokenKind.FOOTER_UNSUBSCRIBE, links.holder_of(token), purpose=Purpose.MARKETING
    )
    return page(
        served.settings,
        token.brand,
        "centre.html",
        fresh=looked.fresh,
        expired=token.kind is TokenKind.CENTRE_FRESH and not looked.fresh,
        restricted=looked.held.restricted,
        address=address,
        channels=[box for box in boxes if _whole(box.scope)],
        topics=[box for box in boxes if box.scope.topic is not None],
        reminders=[box for box in boxes if box.scope.purpose is Purpose.REMINDERS],
        services=[box for box in boxes if box.scope.purpose is Purpose.SERVICE],
        shown=" ".join(f"{box.name}={box.state}" for box in boxes),
        action=links.path(served, token.kind, links.holder_of(token))
        if token.kind is TokenKind.CENTRE_FOOTER
        else "",
        stop_all=f"/u/{unsubscribe}/all",
        by_default=BY_DEFAULT,
        saved=saved,
        mails=mails,
        refused=[o for o in outcomes if o.result in (Result.REFUSED, Result.HELD)],
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
    address = dict(await _form(request)).get("email", "")[:LONGEST_ADDRESS]

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
