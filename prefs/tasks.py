"""Work that waits for a person of the clinic: its kinds, and what follows when one is settled.

Every kind stands here once: what it asks, how it may be settled, whether the owner is told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Connection

from prefs import assisted, merges, retract
from prefs.core import identity
from prefs.core.errors import BadIdentifier, BadInput, NotFound
from prefs.core.keys import Keyring
from prefs.core.signals import Evidence, Identifier, Signal, Statement
from prefs.core.words import Channel, Choice, Purpose, Scope, Source
from prefs.intake import Clock, Intake
from prefs.settings import Settings
from prefs.store import batches, ledger, marks, subjects, tasks, waves


class Parts(Protocol):
    @property
    def settings(self) -> Settings: ...

    @property
    def intake(self) -> Intake: ...

    @property
    def keys(self) -> Keyring: ...

    @property
    def clock(self) -> Clock: ...


class Settled(NamedTuple):
    """How a person settled a task. `actor` is who, as far as we can name them."""

    state: str
    note: str
    actor: str


class Case(NamedTuple):
    """A task on its way to being settled."""

    row: Any
    body: Mapping[str, Any]
    settled: Settled

    @property
    def evidence(self) -> Evidence:
        return Evidence(actor=self.settled.actor, note=self.settled.note)


Follow = Callable[[Connection, Parts, Case], None]
Body = Mapping[str, Any]

"""Kinds of questions whose channel is held until they are settled."""


def _nothing(conn: Connection, parts: Parts, case: Case) -> None:
    """The task was all there was to do."""


# --- what follows ------------------------------------------------------------------------------


def _read_by_staff(conn: Connection, parts: Parts, case: Case) -> None:
    """An unclear wish was read by staff: they meant stop, or they did not."""
    if case.settled.state == "out":
        _record_out(conn, parts, case)
    elif case.settled.state == "release":
        people = _held_people(conn, parts, case)
        for channel in channels_of(case.row, case.body):
            if not _asked_elsewhere(conn, parts, case, people, channel):
                for subject_id in people:
                    release(conn, parts.intake, case.row.brand, subject_id, channel, case.evidence)


def _asked_elsewhere(
    conn: Connection, parts: Parts, case: Case, people: list[int], channel: Channel
) -> bool:
    """Whether another question about the same hold is open: it ends with the last one."""
    asked = tasks.open_of(conn, case.row.brand, UNCLEAR, people)
    others = (row for row in asked if row.id != case.row.id)
    return any(channel in channels_of(row, tasks.body(parts.keys, row)) for row in others)


def _held_people(conn: Connection, parts: Parts, case: Case) -> list[int]:
    if case.row.subject_id is not None:
        return [int(case.row.subject_id)]
    hashes = parts.keys.hashes(_sender(parts, case))
    return subjects.owners(conn, parts.intake.brands[case.row.brand], hashes)


def release(
    conn: Connection,
    intake: Intake,
    brand: str,
    subject_id: int,
    channel: Channel,
    evidence: Evidence,
) -> None:
    """The hold ends, also for those who share an identifier and were held by the same act."""
    scope = Scope(channel, Purpose.MARKETING)
    acts = {
        one.id: ledger.payload_of(conn, hold.event_id)
        for one in subjects.sharers(conn, subject_id)
        if (hold := one.state.at(brand, scope).hold)
    }
    for one, act in acts.items():
        if one == subject_id or act == acts.get(subject_id):
            intake.release(conn, brand, one, channel, evidence)


def _record_out(conn: Connection, parts: Parts, case: Case) -> None:
    """Of the person it is about, else of everybody who has the number or address it came from."""
    channels, who = channels_of(case.row, case.body), case.row.subject_id
    about: dict[str, Any] = {"about": who}
    if who is None:
        about = {"identifiers": (_sender(parts, case),)}
    else:
        own = parts.intake.hashes_of_subject
        about["hashes"] = tuple({h for channel in channels for h in own(conn, who, channel)})
    outs = tuple(Statement(Scope(one, Purpose.MARKETING), Choice.OUT) for one in channels)
    signal = Signal(case.row.brand, Source.STAFF, outs, evidence=case.evidence, **about)
    parts.intake.record(conn, signal)


def _sender(parts: Parts, case: Case) -> Identifier:
    """Whom a message came from. Raises BadInput where it does not tell."""
    said = str(case.body.get("number") or case.body.get("from") or "")
    region = parts.settings.brands[case.row.brand].region
    for read in (identity.email, partial(identity.phone, region=region)):
        with suppress(BadIdentifier):
            return read(said)
    raise BadInput(
        "nobody here is known by this task: record the wish by hand and settle it as done",
        field="$.state",
    )


def channels_of(row: Any, body: Body) -> list[Channel]:
    """What an unclear wish may be about."""
    default = Channel.SMS if row.kind == "held_text" else Channel.EMAIL
    return [Channel(one) for one in body.get("channels") or [body.get("channel") or default]]


def _look_again(conn: Connection, parts: Parts, case: Case) -> None:
    """The lane notes what staff say is done, and reads whether it is."""
    target = parts.settings.targets.get(case.body["target"])
    if target:
        assisted.look_again(conn, target, case.row.subject_id, parts.clock().timestamp())


def _by_hand(conn: Connection, parts: Parts, case: Case) -> None:
    marks.removed_by_hand(conn, case.body["target"], parts.clock().timestamp())


def _batch_goes(conn: Connection, parts: Parts, case: Case) -> None:
    batch = batches.by_label(conn, case.body["batch"])
    batches.release(conn, batch, parts.clock().timestamp())


def _merged(conn: Connection, parts: Parts, case: Case) -> None:
    """It was housekeeping and no wish: this person's out is taken back, nobody else's."""
    if case.settled.state == "release":
        for batch in case.body["batches"]:
            retract.of_one(conn, parts.intake, batch, case.row.subject_id, case.evidence)


def _wave(conn: Connection, parts: Parts, case: Case) -> None:
    state = waves.STOPPED if case.settled.state == "stop" else waves.RELEASED
    wave = waves.by_id(conn, case.body["wave"])
    waves.decide(conn, wave, state, parts.clock().timestamp())


# --- the kinds ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """`alarm` makes the text that is mailed at once; it holds no personal data."""

    what: str
    states: tuple[str, ...] = ("done",)
    follow: Follow = _nothing
    alarm: Callable[[Body], str] | None = None


def _batch_alarm(body: Body) -> str:
    return (
        f"{body['origin']} turned more than {body['limit']} people off in one run. They are denied "
        f"here; other systems are told in four hours, or when the task is settled. "
        f"Was it a fault? prefs retract {body['batch']}"
    )


def _wave_alarm(body: Body) -> str:
    return (
        f"more than {body['most']} people are to be switched on at {body['target']} in one run. "
        "Nothing is switched on there until the task is settled: done lets them through, "
        "stop keeps them back."
    )


def _container_alarm(body: Body) -> str:
    name = f"{body['name']} ({body['container']})"
    says = f"{body['target']}: {name} can send and stands nowhere in the configuration."
    unsafe = " It appeared after go-live: marketing through this target is denied."
    return f"{says}{unsafe if body['after_go_live'] else ''} Say whether it is marketing or not."


def _fight_alarm(body: Body) -> str:
    return (
        f"something at {body['target']} turns a person on again and again after an opt-out; it is "
        "pushed back four times an hour at most. Find the tool and stop it."
    )


def _warning_alarm(body: Body) -> str:
    return f"{body['target']}: {body['text']}. See to it there: opt-outs are heard all the same."


OUT_OR_RELEASE = ("out", "release")
UNCLEAR = ("held_text", "held_mail", "held_wish")
"""Kinds that ask what a held wish meant."""
KINDS: Mapping[str, Kind] = {
    "held_text": Kind("Does this text mean stop?", OUT_OR_RELEASE, _read_by_staff),
    "held_wish": Kind(
        "A wish that was not clear when staff heard it: ask the person.",
        OUT_OR_RELEASE,
        _read_by_staff,
    ),
    "held_mail": Kind("Does this mail mean stop?", OUT_OR_RELEASE, _read_by_staff),
    "unproved_mail": Kind(
        "Nobody vouches for the sender of this mail: did this person ask to stop?",
        ("done", "out"),
        _read_by_staff,
    ),
    "unproved_complaint": Kind(
        "A report of spam that nobody vouches for: did this person ask to stop?",
        ("done", "out"),
        _read_by_staff,
    ),
    "complaint": Kind(
        "A complaint about how data is used: acknowledge it by the due time unless the mailed "
        "receipt went out, look into it, and tell the person the outcome."
    ),
    "signup_number": Kind(
        "Somebody signed up with this number for text messages: ask whether it was them, and "
        "record what they say."
    ),
    "signup_address": Kind(
        "Somebody who had said no to post signed up again with this postal address: ask whether "
        "it was them, and record what they say."
    ),
    "mail_failed": Kind("A mail that could not be sent: reach the person another way."),
    "rights_request": Kind("A request about one's own data: answer it within the month."),
    "reminder_request": Kind("A wish about reminders: ask the person, then change it by hand."),
    "appointment_reply": Kind(
        "An answer to a reminder whose word also blocks the number at the gateway: "
        "call about the appointment, and ask for START by text."
    ),
    "reminders_blocked_at_gateway": Kind(
        "The gateway sends this number no reminders by SMS any more: remind another way."
    ),
    "timely_change": Kind(
        "Change this customer's marketing at Timely; not_found where there is none like that.",
        (assisted.DONE, assisted.NOT_FOUND),
        _look_again,
    ),
    "refused": Kind(
        "The system refuses this opt-out: switch it off there by hand.", follow=_look_again
    ),
    "overdue": Kind(
        "Opt-outs that a system has not confirmed for an hour: see to it, or switch them off there "
        "by hand.",
        follow=_by_hand,
    ),
    "push_back_fight": Kind(
        "Something turns this person on again after an opt-out: find it.", alarm=_fight_alarm
    ),
    "batch": Kind(
        "Many opt-outs that no person said: shall other systems follow?",
        follow=_batch_goes,
        alarm=_batch_alarm,
    ),
    merges.KIND: Kind(
        "An opt-out that no person said: was this customer merged or deleted in Timely? release "
        "takes it back, done leaves it.",
        ("done", "release"),
        _merged,
    ),
    "opt_in_wave": Kind(
        "Many people are to be switched on in one run: is that meant?",
        ("done", "stop"),
        _wave,
        _wave_alarm,
    ),
    "webhook_gone": Kind(
        "A system no longer tells us what happens there; the poll still does: register the webhook "
        "again.",
    ),
    "vendor_warning": Kind(
        "A system warns us, or keeps us from sending: see to it there.", alarm=_warning_alarm
    ),
    "container": Kind(
        "A list that can send stands nowhere in the configuration: write it there as marketing, "
        "service or ignored; then this closes by itself.",
        (),
        alarm=_container_alarm,
    ),
}


# --- settling ----------------------------------------------------------------------------------


def settle(conn: Connection, parts: Parts, brand: str, id_: int, settled: Settled) -> Any:
    """Settle an open task of this brand and do what follows; returns its row.

    Raises NotFound for another's, BadInput for a state that its kind does not take.
    """
    row = tasks.one(conn, brand, id_)
    if row is None:
        raise NotFound("there is no such task")
    if row.state != "open":
        raise BadInput("this task is closed already", field="$.state", status=409)
    kind = KINDS[row.kind]
    if settled.state not in kind.states:
        known = " or ".join(kind.states)
        says = f"this task is settled as {known}" if known else kind.what
        raise BadInput(says, field="$.state")
    body = tasks.body(parts.keys, row)
    kind.follow(conn, parts, Case(row, body, settled))
    noted = {**body, "settled_with": settled.note, "settled_by": settled.actor}
    tasks.settle(conn, parts.keys, id_, settled.state, noted, parts.clock().timestamp())
    return tasks.one(conn, brand, id_)
