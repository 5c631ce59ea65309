"""/staff/people/{id}: one person: what stands and why, the quick form, each system's outcome."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs.core.decision import NOBODY, Ask, Decision, Held, decide, hold_together
from prefs.core.errors import BadInput
from prefs.core.ids import subject_number, subject_text
from prefs.core.signals import Evidence, Signal, Statement
from prefs.core.words import CHANNELS_OF, KIND_OF, Basis, Channel, Choice, Purpose, Scope, Source
from prefs.intake import Recorded
from prefs.store import marks, permissions, subjects
from prefs.store.subjects import Known, Subject
from prefs.web import people
from prefs.web.console.search import identifiers_in
from prefs.web.console.session import Visit, go, signed_in
from prefs.web.context import Service
from prefs.web.unsubscribe import ALL_MARKETING

TOLD = ("phone", "person", "letter")
EVERYTHING = "all"
CHOICES = ("out", "in", "hold")
SAVED = "saved"


class Answer(NamedTuple):
    """What may be sent on one channel, and who said so."""

    scope: Scope
    decision: Decision
    source: str | None
    reachable: bool
    """Whether an address or number for it is known."""


class Shown(NamedTuple):
    subject: Mapping[str, Any]
    answers: list[Answer]
    topics: list[Answer]
    sharers: list[tuple[str, str]]
    targets: list[dict[str, Any]]
    history: list[dict[str, Any]]


# --- what stands -------------------------------------------------------------------------------


def look(conn: Connection, served: Service, brand: str, text: str) -> Shown:
    """Raises NotFound."""
    one = people.person(conn, served, brand, text)
    known = subjects.identifiers_of(conn, [one.id], served.keys)[one.id]
    return Shown(
        people.subject_of(conn, served, brand, text),
        _answers(conn, served, brand, one, known),
        _topics(served, brand, one),
        _sharers(conn, served, brand, one, known),
        people.targets_of(conn, served, brand, text),
        list(reversed(people.history_of(conn, served, brand, text))),
    )


def _answers(
    conn: Connection, served: Service, brand: str, one: Subject, known: Iterable[Known]
) -> list[Answer]:
    """For each purpose and channel what `check` says of this person's own address or number."""
    own = hold_together([one.state], brand)
    hashes = {k.kind: k.hash for k in known}
    held = permissions.read(conn, brand, list(hashes.values()))
    found = []
    for purpose in Purpose:
        for channel in CHANNELS_OF[purpose]:
            hash_ = hashes.get(KIND_OF[channel])
            scope = Scope(channel, purpose)
            reached = hash_ is not None
            said = held.get(hash_, NOBODY) if hash_ is not None else own
            found.append(_answer(served, brand, one, scope, said, reachable=reached))
    return found


def _answer(
    served: Service, brand: str, one: Subject, scope: Scope, held: Held, *, reachable: bool
) -> Answer:
    ask = Ask(scope, mps_applies=served.settings.brands[brand].mps)
    decision = decide(ask, held, served.clock().timestamp())
    standing = one.state.at(brand, scope)
    said = standing.strongest or standing.consent
    return Answer(scope, decision, said.source.value if said else None, reachable)


def _topics(served: Service, brand: str, one: Subject) -> list[Answer]:
    """Topics that were chosen by themselves."""
    held = hold_together([one.state], brand)
    scopes = [scope for scope in one.state.scopes.get(brand, {}) if scope.topic is not None]
    return [_answer(served, brand, one, scope, held, reachable=True) for scope in sorted(scopes)]


def _sharers(
    conn: Connection, served: Service, brand: str, one: Subject, known: Iterable[Known]
) -> list[tuple[str, str]]:
    """Ids and names of others known by the same address or number."""
    controller = served.intake.brands[brand]
    ids = subjects.owners(conn, controller, [k.hash for k in known])
    others = [other for other in subjects.by_ids(conn, ids) if other.id != one.id]
    return [(subject_text(other.id), other.name or "") for other in others]


@signed_in()
async def person(request: Request, visit: Visit) -> Response:
    text = request.path_params["id"]
    shown = await visit.served.database.read(
        lambda conn: look(conn, visit.served, visit.member.brand, text)
    )
    return _page(visit, shown, saved=request.query_params.get(SAVED))


def _page(visit: Visit, shown: Shown, **more: Any) -> Response:
    here = visit.served.clock().astimezone(ZoneInfo(visit.brand.timezone))
    return visit.page(
        "person.html",
        shown=shown,
        who=shown.subject,
        channels=list(Channel),
        told=TOLD,
        choices=CHOICES,
        at=here.strftime("%Y-%m-%dT%H:%M"),
        **more,
    )


# --- the quick form ----------------------------------------------------------------------------


@signed_in()
async def record(request: Request, visit: Visit) -> Response:
    """One wish as staff were told it."""
    id_ = subject_number(request.path_params["id"])

    def job(conn: Connection) -> Recorded:
        people.person(conn, visit.served, visit.member.brand, request.path_params["id"])
        hashes = tuple(_hashes(conn, visit, id_))
        return visit.served.intake.record(conn, signal_of(visit, about=id_, hashes=hashes))

    return _recorded(await visit.served.database.write(job))


@signed_in()
async def record_new(request: Request, visit: Visit) -> Response:
    """A wish of somebody who is not known yet: by address or number."""
    text = visit.form.get("who", "").strip()
    who = next(identifiers_in(text, visit.brand.region), None)
    if who is None:
        raise BadInput(visit.t("staff.new.bad"))
    signal = signal_of(visit, identifiers=(who,), name=visit.form.get("name", "").strip() or None)
    return _recorded(
        await visit.served.database.write(lambda conn: visit.served.intake.record(conn, signal))
    )


def _recorded(done: Recorded) -> Response:
    results = {outcome.result.value for outcome in done.outcomes}
    told = "-".join(sorted(results)) or "unchanged"
    return go(f"/staff/people/{subject_text(done.subject_id)}?{SAVED}={told}")


def _hashes(conn: Connection, visit: Visit, id_: int) -> list[tuple[Any, bytes]]:
    known = subjects.identifiers_of(conn, [id_], visit.served.keys)[id_]
    kinds = {KIND_OF[channel] for channel in _channels(visit.form)}
    return [(one.kind, one.hash) for one in known if one.kind in kinds]


def _channels(form: Mapping[str, str]) -> list[Channel]:
    """Raises BadInput."""
    text = form.get("channel", "")
    if text == EVERYTHING:
        return list(Channel)
    try:
        return [Channel(text)]
    except ValueError:
        raise BadInput("no such channel", field="channel") from None


def signal_of(visit: Visit, **who: Any) -> Signal:
    """Raises BadInput for a form that our page cannot have sent."""
    form = visit.form
    choice, told = form.get("choice", ""), form.get("told", "")
    if choice not in CHOICES or told not in TOLD:
        raise BadInput("the form is damaged: open the page again")
    note = form.get("note", "").strip()[:500]
    if choice == "in" and not note:
        raise BadInput(visit.t("staff.quick.in_needs_note"))
    said = Choice.IN if choice == "in" else Choice.OUT
    statements = tuple(Statement(Scope(c, Purpose.MARKETING), said) for c in _channels(form))
    if said is Choice.OUT and form.get("channel") == EVERYTHING:
        statements = ALL_MARKETING
    way = visit.t(f"staff.told.{told}")
    return Signal(
        brand=visit.member.brand,
        source=Source.STAFF,
        statements=statements,
        occurred_at=_moment(visit),
        basis=Basis.CONSENT if said is Choice.IN else None,
        evidence=Evidence(
            actor=visit.member.email,
            note=f"{way}: {note}" if note else way,
            wording=note if said is Choice.IN else None,
            page="/staff/people/{id}",
        ),
        hold=choice == "hold",
        every_brand=said is Choice.OUT and form.get("channel") == EVERYTHING,
        **who,
    )


def _moment(visit: Visit) -> datetime:
    """When the person said it, in the brand's zone; now where the field is empty."""
    text = visit.form.get("at", "")
    if not text:
        return visit.served.clock()
    try:
        here = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(visit.brand.timezone))
    except ValueError:
        raise BadInput("this is no time", field="at") from None
    now = visit.served.clock()
    return now if (now - here).total_seconds() < 60 else here.astimezone(UTC)


# --- systems -----------------------------------------------------------------------------------


@signed_in()
async def retry(request: Request, visit: Visit) -> Response:
    """Let a system's lane look at this person again at once."""
    text, name = request.path_params["id"], visit.form.get("target", "")
    targets = visit.brand.targets
    if name not in targets:
        raise BadInput("no such system", field="target")

    def job(conn: Connection) -> None:
        one = people.person(conn, visit.served, visit.member.brand, text)
        now = visit.served.clock().timestamp()
        marks.set_marks(conn, [(targets[name].label, one.id, "")], now, urgent=True)

    await visit.served.database.write(job)
    return go(f"/staff/people/{text}?{SAVED}=retry")


routes = [
    Route("/staff/people/{id}", person, methods=["GET"]),
    Route("/staff/people/{id}/record", record, methods=["POST"]),
    Route("/staff/people/{id}/retry", retry, methods=["POST"]),
    Route("/staff/new", record_new, methods=["POST"]),
]
