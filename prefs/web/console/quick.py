"""The quick form: one wish as staff were told it, what becomes of it, and what it settles."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from prefs.core.errors import BadInput
from prefs.core.signals import Evidence, Signal, Statement
from prefs.core.words import Basis, Channel, Choice, Kind, Purpose, Result, Scope, Source, Why
from prefs.intake import Recorded
from prefs.store import subjects, tasks
from prefs.tasks import UNCLEAR, channels_of
from prefs.texts import next_working_day
from prefs.web.console.session import Visit
from prefs.web.unsubscribe import ALL_MARKETING

EVERYTHING = "all"
_REMINDERS = "reminders:"
REMINDERS = tuple(_REMINDERS + one for one in (Channel.EMAIL, Channel.SMS))
CHOICES = ("out", "in", "hold")
TOLD = ("phone", "person", "letter")
LONGEST_NOTE, LONGEST_NAME = 500, 200


def scopes_said(form: Mapping[str, str]) -> list[Scope]:
    """What the wish is about: marketing on a channel or on all, or the reminders of one channel.
    Raises BadInput."""
    text = form.get("channel", "")
    if text == EVERYTHING:
        return [Scope(one, Purpose.MARKETING) for one in Channel]
    if text in REMINDERS:
        return [Scope(Channel(text.removeprefix(_REMINDERS)), Purpose.REMINDERS)]
    try:
        return [Scope(Channel(text), Purpose.MARKETING)]
    except ValueError:
        raise BadInput("staff.quick.no_channel") from None


def channels_said(form: Mapping[str, str]) -> list[Channel]:
    """Raises BadInput."""
    return [scope.channel for scope in scopes_said(form)]


def signal_of(visit: Visit, **who: Any) -> Signal:
    """Raises BadInput with what to mend."""
    form = visit.form
    choice, told, note = form.get("choice", ""), form.get("told", ""), note_of(form)
    if choice not in CHOICES or told not in TOLD:
        raise BadInput("staff.form.damaged")
    scopes = scopes_said(form)
    reminders = scopes[0].purpose is Purpose.REMINDERS
    if reminders and choice == "hold":
        raise BadInput("staff.quick.no_hold")
    if not note and (choice == "in" or reminders):
        raise BadInput("staff.quick.reminders_note" if reminders else "staff.quick.in_needs_note")
    said = Choice.IN if choice == "in" else Choice.OUT
    everything = choice == "out" and form.get("channel") == EVERYTHING
    statements = tuple(Statement(scope, said) for scope in scopes)
    way = visit.t(f"staff.told.{told}")
    return Signal(
        brand=visit.member.brand,
        source=Source.STAFF,
        statements=ALL_MARKETING if everything else statements,
        occurred_at=_moment(visit),
        basis=Basis.CONSENT if said is Choice.IN else None,
        evidence=Evidence(
            actor=visit.member.email,
            note=f"{way}: {note}" if note else way,
            wording=note if said is Choice.IN else None,
            page="/staff/people/{id}",
        ),
        hold=choice == "hold",
        every_brand=everything,
        **who,
    )


def note_of(form: Mapping[str, str]) -> str:
    return form.get("note", "").strip()[:LONGEST_NOTE]


def needed_note(form: Mapping[str, str]) -> str:
    """Raises BadInput."""
    note = note_of(form)
    if not note:
        raise BadInput("staff.note.missing")
    return note


def _moment(visit: Visit) -> datetime:
    """When the person said it, in the brand's zone; now where nothing else is told."""
    text, now = visit.form.get("at", ""), visit.served.clock()
    if not text:
        return now
    try:
        here = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(visit.brand.timezone))
        return min(now, here.astimezone(UTC))
    except (ValueError, OverflowError):
        raise BadInput("staff.quick.no_time") from None


def own_hashes(
    conn: Connection, visit: Visit, id_: int, channels: list[Channel]
) -> tuple[tuple[Kind, bytes], ...]:
    """The person's own addresses and numbers that these channels use."""
    own = visit.served.intake.hashes_of_subject
    return tuple({one for channel in channels for one in own(conn, id_, channel)})


def record(conn: Connection, visit: Visit, signal: Signal) -> Recorded:
    """Record it; what was asked about the same wish is answered, and a hold is asked about."""
    done = visit.served.intake.record(conn, signal)
    if signal.hold:
        _ask(conn, visit, done)
    elif visit.form.get("choice") == "out":
        scopes = scopes_said(visit.form)
        marketing = [one.channel for one in scopes if one.purpose is Purpose.MARKETING]
        settle_questions(conn, visit, done.subject_id, marketing, "out")
    return done


def _ask(conn: Connection, visit: Visit, done: Recorded) -> None:
    """Nobody forgets a hold: the question stands in the list until it is decided."""
    held = [o.statement.scope.channel for o in done.outcomes if o.result is Result.HELD]
    if not held:
        return
    now = visit.served.clock()
    body = {"channels": [one.value for one in held], "text": note_of(visit.form)}
    body["heard_by"] = visit.member.email
    due = next_working_day(now).timestamp()
    brand, keys, at = visit.member.brand, visit.served.keys, now.timestamp()
    tasks.add(conn, keys, brand, "held_wish", done.subject_id, body, at, due)


def settle_questions(
    conn: Connection, visit: Visit, subject_id: int, channels: list[Channel], state: str
) -> None:
    """Open questions about an unclear wish of this person: answered for these channels."""
    keys, brand = visit.served.keys, visit.member.brand
    for row in tasks.open_of(conn, brand, UNCLEAR, [subject_id]):
        body = tasks.body(keys, row)
        left = [one for one in channels_of(row, body) if one not in channels]
        if left == channels_of(row, body):
            continue
        if left:
            tasks.rewrite(conn, keys, row.id, body | {"channels": [one.value for one in left]})
            continue
        said = {"settled_with": note_of(visit.form), "settled_by": visit.member.email}
        tasks.settle(conn, keys, row.id, state, body | said, visit.served.clock().timestamp())


def became_of(done: Recorded, choice: str) -> str:
    """One word for the page that follows: its text is `staff.saved.<word>`."""
    results = {one.result for one in done.outcomes}
    if Result.REFUSED in results:
        whys = {one.why for one in done.outcomes if one.result is Result.REFUSED}
        if len(results) > 1:
            return "partly"
        return "older" if whys == {Why.OLDER} else "refused"
    if len(results) != 1:
        return "mixed"
    (result,) = results
    return "aside" if result is Result.HELD and choice == "in" else result.value


def name_of(form: Mapping[str, str]) -> str | None:
    return form.get("name", "").strip()[:LONGEST_NAME] or None


def address_of(conn: Connection, visit: Visit, id_: int, row: str) -> bytes:
    """The hash of the email address with this row number, if it is this person's. Raises
    BadInput."""
    known = subjects.identifiers_of(conn, [id_], visit.served.keys)[id_]
    for one in known:
        if str(one.id) == row and one.kind is Kind.EMAIL and one.spelling:
            return one.hash
    raise BadInput("staff.link.gone")
