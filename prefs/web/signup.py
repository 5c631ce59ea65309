"""/signup: asking to receive marketing, on our own page or by a plain HTML form on a clinic's site.

What is posted is kept and answered the same whoever it names; it is recorded a moment later, beside
the outbox. No marketing is mailed before a mailed link was used, none is texted before staff have
asked. No cookie, no script: the form works from any site.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs.core import identity
from prefs.core.errors import BadIdentifier, NotFound
from prefs.core.signals import Evidence, Identifier, Signal, Statement
from prefs.core.words import KIND_OF, Basis, Channel, Choice, Kind, Purpose, Result, Scope, Source
from prefs.settings import Brand
from prefs.store import events, notices, outbox, subjects, tasks
from prefs.texts import next_working_day
from prefs.web.centre import form_of
from prefs.web.context import Service, service
from prefs.web.pages import HEADERS, METHODS, environment, guarded, page, write
from prefs.web.texts import Texts, agreed, texts_of

KIND = "signup"
"""Of a row of the outbox: no mail itself."""
CHANNELS = (Channel.EMAIL, Channel.SMS, Channel.PHONE, Channel.POST)
"""Those that an address or a number on the form can serve."""
TASKS = {Kind.PHONE: "signup_number", Kind.POST: "signup_address"}
"""What staff are asked where no link can be mailed."""
MOST_A_DAY = 3
"""Sign-ups of one address or number that are recorded: each may lead to a mail."""
TRAP = "website"
"""A field that no person sees. Programs that fill in every field fill in this one."""
LONGEST = {"name": 200, "postcode": 20, "page": 300, "agent": 300}
VERSION = re.compile(r"[0-9a-f]{12}")
LANGUAGE = re.compile(r"[A-Za-z-]{2,12}")

Faults = dict[str, str]


class Notice(NamedTuple):
    """The words beside the boxes, their version, and their language (BCP 47)."""

    said: str
    version: str
    language: str

    @property
    def name(self) -> str:
        return f"{KIND} {self.language} {self.version}"


class Asked(NamedTuple):
    """A form that can be recorded."""

    email: Identifier | None
    phone: Identifier | None
    post: Identifier | None
    name: str | None
    scopes: list[Scope]


# --- the form ----------------------------------------------------------------------------------


def _brand(request: Request, form: Mapping[str, str]) -> Brand:
    """Raises NotFound where the form does not say whose it is, and there are several."""
    brands = service(request).settings.brands
    name = form.get("brand") or request.query_params.get("brand", "")
    if not name and len(brands) == 1:
        name = next(iter(brands))
    if name not in brands:
        raise NotFound("no such sign-up form")
    request.state.brand = name
    return brands[name]


def _lines(brand: Brand, controller: str) -> list[str]:
    """The notice, as the form shows it."""
    texts = texts_of(brand)
    said = [texts("signup.notice", brand=brand.name, controller=controller)]
    return [*said, texts("signup.topics")] if brand.topics else said


def _today(served: Service, brand: Brand) -> Notice:
    lines = _lines(brand, served.settings.controllers[brand.controller].name)
    return Notice(*agreed(texts_of(brand), lines, []))


def _read(form: Mapping[str, str], brand: Brand) -> tuple[Asked, Faults]:
    """What was filled in, and what is wrong with it: field -> key of the texts."""
    faults: Faults = {}
    scopes = list(_scopes(form, brand))
    email = _identifier(form, "email", identity.email, faults)
    phone = _identifier(form, "phone", lambda text: identity.phone(text, brand.region), faults)
    post = _identifier(form, "address", lambda _: identity.post(*_letter(form, brand)), faults)
    if not scopes:
        faults["choices"] = "signup.fault.choices"
    for kind, field, found in (
        (Kind.EMAIL, "email", email),
        (Kind.PHONE, "phone", phone),
        (Kind.POST, "address", post),
    ):
        if not found and any(KIND_OF[scope.channel] is kind for scope in scopes):
            faults[field] = f"signup.fault.{field}"
    if _of_another_time(form, brand):
        faults["notice"] = "signup.fault.notice"
    return Asked(email, phone, post, _name(form) or None, scopes), faults


def _name(form: Mapping[str, str]) -> str:
    return form.get("name", "").strip()[: LONGEST["name"]]


def _letter(form: Mapping[str, str], brand: Brand) -> tuple[str, list[str], str, str]:
    """Name, lines, postcode and country of the postal address."""
    postcode = form.get("postcode", "").strip()[: LONGEST["postcode"]]
    return _name(form), form.get("address", "").splitlines(), postcode, brand.region


def _of_another_time(form: Mapping[str, str], brand: Brand) -> bool:
    """Whether a topic is ticked that there is no more: without it, a sign-up for that topic alone
    would be one for all."""
    topics = {name.removeprefix("topic:") for name in form if name.startswith("topic:")}
    return any(form[f"topic:{topic}"] == "in" for topic in topics - set(brand.topics))


def _scopes(form: Mapping[str, str], brand: Brand) -> Iterator[Scope]:
    """Each ticked channel, or each ticked topic of it."""
    topics = [topic for topic in brand.topics if form.get(f"topic:{topic}") == "in"]
    for channel in CHANNELS:
        if form.get(f"choice:{channel}:*") == "in":
            whole = Scope(channel, Purpose.MARKETING)
            yield from [whole._replace(topic=topic) for topic in topics] or [whole]


def _identifier(
    form: Mapping[str, str], field: str, make: Callable[[str], Identifier], faults: Faults
) -> Identifier | None:
    text = form.get(field, "").strip()
    try:
        return make(text) if text else None
    except BadIdentifier:
        faults[field] = f"signup.fault.{field}"
        return None


# --- routes ------------------------------------------------------------------------------------


@guarded
async def signup(request: Request) -> Response:
    """GET shows the form, POST keeps what it says."""
    served = service(request)
    if request.method != "POST":
        return _page(served, _brand(request, {}))
    form = await form_of(request)
    brand = _brand(request, form)
    asked, faults = _read(form, brand)
    if faults:
        return _page(served, brand, 422, form=form, faults=faults)
    notice = await served.database.read(lambda conn: _notice(conn, served, brand, form))
    if notice is None:
        return _page(served, brand, 422, form=form, faults={"notice": "signup.fault.notice"})
    if not form.get(TRAP):
        content = _content(request, form, brand, asked, notice, served.clock())
        await write(served, lambda conn: _keep(conn, served, brand, content))
    return _page(served, brand, done=True)


def _notice(
    conn: Connection, served: Service, brand: Brand, form: Mapping[str, str]
) -> Notice | None:
    """What the person had before them: our words of today, or earlier ones that we know. None for
    a form whose words nobody can name: they would be no proof."""
    today = _today(served, brand)
    version, language = form.get("version", ""), form.get("language", "")
    if version == today.version:
        return today
    if not VERSION.fullmatch(version) or not LANGUAGE.fullmatch(language):
        return None
    earlier = Notice("", version, language)
    said = notices.wording(conn, brand.id, earlier.name)
    return earlier._replace(said=said) if said else None


def _content(
    request: Request,
    form: Mapping[str, str],
    brand: Brand,
    asked: Asked,
    notice: Notice,
    now: datetime,
) -> dict[str, Any]:
    client, texts = request.client, texts_of(brand)
    return {
        "email": asked.email.spelling if asked.email else None,
        "phone": asked.phone.spelling if asked.phone else None,
        "post": _letter(form, brand) if asked.post else None,
        "name": asked.name,
        "scopes": [[*scope, _label(texts, brand, scope)] for scope in asked.scopes],
        "notice": list(notice),
        "page": _where(request, form),
        "ip": client.host if client else None,
        "user_agent": request.headers.get("user-agent", "")[: LONGEST["agent"]] or None,
        "at": now.timestamp(),
    }


def _label(texts: Texts, brand: Brand, scope: Scope) -> str:
    """The words beside the boxes that were ticked for it."""
    channel = texts(f"channel.{scope.channel}")
    return f"{channel}, {brand.topics[scope.topic]}" if scope.topic else channel


def _where(request: Request, form: Mapping[str, str]) -> str:
    """The page that the form stood on, without what may name a person there."""
    said = form.get("page") or request.headers.get("referer") or "/signup"
    try:
        split = urlsplit(said)
    except ValueError:
        return "/signup"
    return split._replace(query="", fragment="", netloc=split.netloc.rpartition("@")[2]).geturl()[
        : LONGEST["page"]
    ]


def _keep(conn: Connection, served: Service, brand: Brand, content: Mapping[str, Any]) -> None:
    now = served.clock().timestamp()
    outbox.add(conn, served.keys, KIND, brand.id, None, content, now)


def _page(
    served: Service,
    brand: Brand,
    status: int = 200,
    *,
    done: bool = False,
    form: Mapping[str, str] | None = None,
    faults: Faults | None = None,
) -> Response:
    return page(
        served.settings,
        brand.id,
        "signup.html",
        status,
        done=done,
        **_shown(served, brand, f"/signup?brand={brand.id}", form or {}, faults or {}),
    )


def _shown(
    served: Service, brand: Brand, action: str, form: Mapping[str, str], faults: Faults
) -> dict[str, Any]:
    controller = served.settings.controllers[brand.controller]
    return {
        "action": action,
        "form": form,
        "faults": faults,
        "channels": CHANNELS,
        "said": _lines(brand, controller.name),
        "notice": _today(served, brand),
        "trap": TRAP,
    }


@guarded
async def snippet(request: Request) -> Response:
    """The form alone, to be copied into another site's page."""
    served, brand = service(request), _brand(request, {})
    action = f"{served.settings.public_url}/signup?brand={brand.id}"
    body = environment.get_template("signup_form.html").render(
        t=texts_of(brand), brand=brand, **_shown(served, brand, action, {}, {})
    )
    return Response(body, headers=HEADERS, media_type="text/plain")


# --- beside the outbox -------------------------------------------------------------------------


def take(conn: Connection, served: Service, brand: str, content: Mapping[str, Any]) -> None:
    """Record a sign-up that was kept: the addresses and the number each by itself. Who fills in a
    form has proved none, and one person with all could lift by mail what another said by text."""
    shown = served.settings.brands[brand]
    ticked = {Scope(Channel(c), Purpose(p), t): label for c, p, t, label in content["scopes"]}
    known = [identity.email(content["email"])] if content["email"] else []
    known += [identity.phone(content["phone"], shown.region)] if content["phone"] else []
    known += [identity.post(*content["post"])] if content["post"] else []
    notice = Notice(*content["notice"])
    notices.keep(conn, brand, notice.name, notice.said, served.clock().timestamp())
    for one in known:
        asked = {
            scope: label for scope, label in ticked.items() if KIND_OF[scope.channel] is one.kind
        }
        if asked and _counted(conn, served, brand, one):
            _record(conn, served, shown, one, asked, content)


def _counted(conn: Connection, served: Service, brand: str, one: Identifier) -> bool:
    """False for more than a few a day of the same address."""
    now = served.clock()
    who = served.keys.hashes(one)[0].hex()
    keys = (f"{who} {now.date()} {number}" for number in range(MOST_A_DAY))
    return any(events.first_time(conn, f"{brand} {KIND}", key, now.timestamp()) for key in keys)


def _record(
    conn: Connection,
    served: Service,
    brand: Brand,
    one: Identifier,
    ticked: Mapping[Scope, str],
    content: Mapping[str, Any],
) -> None:
    new = not subjects.owners(conn, brand.controller, served.keys.hashes(one))
    signal = Signal(
        brand=brand.id,
        source=Source.FORM,
        statements=tuple(Statement(scope, Choice.IN) for scope in ticked),
        identifiers=(one,),
        name=content["name"] if new else None,
        occurred_at=datetime.fromtimestamp(content["at"], UTC),
        basis=Basis.CONSENT,
        evidence=_evidence(ticked.values(), content),
    )
    recorded = served.intake.record(conn, signal)
    waits = any(outcome.result is Result.PENDING for outcome in recorded.outcomes)
    if waits and one.kind in TASKS:
        _ask_staff(conn, served, brand, recorded.subject_id, one)


def _evidence(labels: Iterable[str], content: Mapping[str, Any]) -> Evidence:
    notice = Notice(*content["notice"])
    return Evidence(
        notice=notice.name,
        wording="\n".join([notice.said, *labels]),
        version=notice.version,
        language=notice.language,
        page=content["page"],
        ip=content["ip"],
        user_agent=content["user_agent"],
    )


def _ask_staff(
    conn: Connection, served: Service, brand: Brand, subject_id: int, one: Identifier
) -> None:
    """No link can be mailed to a number or to a door: a person asks, once for each person."""
    kind, now = TASKS[one.kind], served.clock()
    if tasks.open_of(conn, brand.id, [kind], [subject_id]):
        return
    body = {"number" if one.kind is Kind.PHONE else "text": one.spelling}
    due = next_working_day(now).timestamp()
    tasks.add(conn, served.keys, brand.id, kind, subject_id, body, now.timestamp(), due)


routes = [
    Route("/signup", signup, methods=METHODS),
    Route("/signup/form", snippet, methods=["GET"]),
]
