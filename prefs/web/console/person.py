"""/staff/people/{id}: one person: what stands and why, the quick form, each system's outcome."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs import retract
from prefs.core.errors import BadInput, NotFound
from prefs.core.ids import subject_number, subject_text
from prefs.core.propagation import Outcome
from prefs.core.signals import Evidence
from prefs.core.words import Channel
from prefs.intake import Recorded
from prefs.store import marks, outbox
from prefs.store.staff import Role
from prefs.tasks import release as release_hold
from prefs.web import people
from prefs.web.console import quick
from prefs.web.console.quick import EVERYTHING, needed_note
from prefs.web.console.search import Sought, identifiers_in
from prefs.web.console.session import Visit, go, signed_in
from prefs.web.console.standing import Shown, look

SAVED, ABOUT = "saved", "about"
STAYS_AWAY = frozenset({None, Outcome.ABSENT.value, Outcome.UNSUPPORTED.value})
"""Outcomes of systems in which a wish changes nothing."""


@signed_in()
async def person(request: Request, visit: Visit) -> Response:
    saved, about = (request.query_params.get(name, "") for name in (SAVED, ABOUT))
    saved = saved if visit.t.has(f"staff.saved.{saved}") else ""
    return await _page(visit, request.path_params["id"], saved=saved, about=about)


async def _page(
    visit: Visit, text: str, *, saved: str = "", about: str = "", wrong: BadInput | None = None
) -> Response:
    """`wrong` is what the quick form lacks."""
    shown = await visit.served.database.read(
        lambda conn: look(conn, visit.served, visit.member.brand, text)
    )
    return visit.page(
        "person.html",
        wrong.status if wrong else 200,
        shown=shown,
        who=shown.subject,
        saved=saved,
        following=_following(shown, about),
        mails=visit.served.settings.mail is not None,
        wrong=visit.said(wrong) if wrong else "",
    )


def _following(shown: Shown, about: str) -> list[dict[str, Any]]:
    """The systems that the wish just saved goes to, with how far each is."""
    wanted = set(Channel) if about == EVERYTHING else {about}
    return [
        one
        for one in shown.targets
        if one["channel"] in wanted and one["outcome"] not in STAYS_AWAY
    ]


def _back(text: str, saved: str, about: str = "") -> Response:
    known = f"&{ABOUT}={about}" if about in {EVERYTHING, *Channel} else ""
    return go(f"/staff/people/{text}?{SAVED}={saved}{known}")


# --- the quick form ----------------------------------------------------------------------------


@signed_in()
async def record(request: Request, visit: Visit) -> Response:
    """One wish as staff were told it."""
    text = request.path_params["id"]
    id_ = subject_number(text)

    def job(conn: Connection) -> Recorded:
        people.person(conn, visit.served, visit.member.brand, text)
        hashes = quick.own_hashes(conn, visit, id_, quick.channels_said(visit.form))
        return quick.record(conn, visit, quick.signal_of(visit, about=id_, hashes=hashes))

    try:
        return _recorded(visit, await visit.served.database.write(job))
    except BadInput as fault:
        return await _page(visit, text, wrong=fault)


@signed_in()
async def record_new(request: Request, visit: Visit) -> Response:
    """A wish of somebody who is not known yet: by address or number."""
    text = visit.form.get("who", "").strip()
    who = next(identifiers_in(text, visit.brand.region), None)
    if who is None:
        raise BadInput("staff.new.bad")
    try:
        signal = quick.signal_of(visit, identifiers=(who,), name=quick.name_of(visit.form))
    except BadInput as fault:
        sought, says = Sought([], who), visit.said(fault)
        return visit.page("home.html", fault.status, sought=sought, text=text, wrong=says)
    done = await visit.served.database.write(lambda conn: quick.record(conn, visit, signal))
    return _recorded(visit, done)


def _recorded(visit: Visit, done: Recorded) -> Response:
    saved = quick.became_of(done, visit.form.get("choice", ""))
    return _back(subject_text(done.subject_id), saved, visit.form.get("channel", ""))


@signed_in()
async def undo(request: Request, visit: Visit) -> Response:
    """A slip of the last minutes: by who made it, or a manager."""
    text, act, note = request.path_params["id"], visit.form.get("act", ""), needed_note(visit.form)

    def job(conn: Connection) -> None:
        brand = visit.member.brand
        slips = look(conn, visit.served, brand, text).slips
        slip = next((one for one in slips if str(one.act) == act), None)
        if slip is None:
            raise BadInput("staff.slip.late")
        if slip.actor != visit.member.email and not visit.member.role.covers(Role.MANAGER):
            raise BadInput("staff.slip.others", status=403)
        evidence = Evidence(actor=visit.member.email, note=note)
        retract.undo(conn, visit.served.intake, subject_number(text), slip.act, evidence)

    await visit.served.database.write(job)
    return _back(text, "undone")


@signed_in()
async def release(request: Request, visit: Visit) -> Response:
    """An unclear wish was no stop: the hold ends, and what was asked about it is answered."""
    text, note = request.path_params["id"], needed_note(visit.form)
    channels = quick.channels_said(visit.form)

    def job(conn: Connection) -> None:
        one = people.person(conn, visit.served, visit.member.brand, text)
        evidence = Evidence(actor=visit.member.email, note=note)
        brand, intake = visit.member.brand, visit.served.intake
        for channel in channels:
            release_hold(conn, intake, brand, one.id, channel, evidence)
        quick.settle_questions(conn, visit, one.id, channels, "release")

    await visit.served.database.write(job)
    return _back(text, "released")


@signed_in()
async def mail_link(request: Request, visit: Visit) -> Response:
    """Mail the person a link to choose by themselves; the mailer keeps to its daily limits."""
    text, row = request.path_params["id"], visit.form.get("address", "")
    if visit.served.settings.mail is None:
        raise BadInput("staff.link.no_mail")

    def job(conn: Connection) -> None:
        brand, keys = visit.member.brand, visit.served.keys
        one = people.person(conn, visit.served, brand, text)
        hash_ = quick.address_of(conn, visit, one.id, row)
        outbox.add(conn, keys, "centre_link", brand, hash_, {}, visit.served.clock().timestamp())

    await visit.served.database.write(job)
    return _back(text, "mailed")


# --- systems -----------------------------------------------------------------------------------


@signed_in()
async def retry(request: Request, visit: Visit) -> Response:
    """Let a system's lane look at this person again at once."""
    text, name = request.path_params["id"], visit.form.get("target", "")
    targets = visit.brand.targets
    if name not in targets:
        raise NotFound("there is no such system")

    def job(conn: Connection) -> None:
        one = people.person(conn, visit.served, visit.member.brand, text)
        now = visit.served.clock().timestamp()
        marks.set_marks(conn, [(targets[name].label, one.id, "")], now, urgent=True)

    await visit.served.database.write(job)
    return _back(text, "retry")


routes = [
    Route("/staff/people/{id}", person, methods=["GET"]),
    Route("/staff/people/{id}/record", record, methods=["POST"]),
    Route("/staff/people/{id}/undo", undo, methods=["POST"]),
    Route("/staff/people/{id}/release", release, methods=["POST"]),
    Route("/staff/people/{id}/link", mail_link, methods=["POST"]),
    Route("/staff/people/{id}/retry", retry, methods=["POST"]),
    Route("/staff/new", record_new, methods=["POST"]),
]
