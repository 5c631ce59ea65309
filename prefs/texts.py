"""Inbound text messages: whose sender got it, what it means, what follows."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, time, timedelta

import structlog
from sqlalchemy import Connection

from prefs.core.propagation import Target
from prefs.core.signals import DeliveryFact, Evidence, Signal, Statement, Text
from prefs.core.sms import Meaning, meaning, statements
from prefs.core.words import Channel, Choice, Purpose, Scope, Source
from prefs.intake import Intake
from prefs.store import events, tasks

log = structlog.get_logger()

STARTS = (Meaning.START_MARKETING, Meaning.START_REMINDERS)
OFFICE_OPENS = time(9, 0)


def take(
    conn: Connection,
    intake: Intake,
    target: Target,
    text: Text,
    raw: bytes,
    *,
    sent_at: datetime | None = None,
) -> None:
    """Take one text in. A START without `sent_at` is kept open until the gateway told its time."""
    purposes = purposes_of(target, text)
    said = meaning(text.body, purposes[0], text.flag)
    if said in STARTS and sent_at is None:
        now = intake.clock().timestamp()
        if events.first_time(conn, target.label, f"start {text.message_id}", now):
            events.keep_raw(conn, intake.keys, target.label, raw, now, message_id=text.message_id)
        return
    signal = _signal(target, text, said, sent_at)
    recorded = intake.record(conn, signal) if signal else None
    if recorded and recorded.duplicate:
        return
    if recorded and said is Meaning.HOLD:
        _task(conn, intake, target, text, "held_text", recorded.subject_id)
    _follow(conn, intake, target, text, said, purposes)


def needs_time(target: Target, text: Text) -> bool:
    """Whether this text is a START, which counts from when it was sent."""
    return meaning(text.body, purposes_of(target, text)[0], text.flag) in STARTS


def purposes_of(target: Target, text: Text) -> list[Purpose]:
    """What the sender that got the text is for. An unknown one counts as marketing."""
    names = {text.sender, text.other_sender} - {None}
    found = [
        purpose
        for purpose in (Purpose.MARKETING, Purpose.REMINDERS)
        if names & set(target.senders.get(purpose.value, ()))
    ]
    if not found:
        log.error("text_to_unknown_sender", target=target.label)
    return found or [Purpose.MARKETING]


def _signal(target: Target, text: Text, said: Meaning, sent_at: datetime | None) -> Signal | None:
    hold = said is Meaning.HOLD
    wanted: Iterable[Statement] = statements(said)
    if hold:
        wanted = [Statement(Scope(Channel.SMS, Purpose.MARKETING), Choice.OUT)]
    wanted = tuple(wanted)
    if not wanted:
        return None
    return Signal(
        brand=target.brand,
        source=Source.SMS,
        statements=wanted,
        identifiers=(text.number,),
        occurred_at=sent_at,
        evidence=Evidence(wording=text.body[:1600]),
        hold=hold,
        origin=target.label,
        event_key=f"text {text.message_id}",
    )


def _follow(
    conn: Connection,
    intake: Intake,
    target: Target,
    text: Text,
    said: Meaning,
    purposes: list[Purpose],
) -> None:
    """Tasks and delivery facts that come with a text."""
    owner = intake.owner(conn, target.brand, text.number)
    if said is Meaning.APPOINTMENT_REPLY:
        _task(conn, intake, target, text, "appointment_reply", owner)
    blocked = _gateway_blocked(text, said)
    reminders_blocked = blocked and (
        said is Meaning.APPOINTMENT_REPLY or (len(purposes) > 1 and said is not Meaning.HOLD)
    )
    if reminders_blocked:
        _fact(conn, intake, target, text, Purpose.REMINDERS, ended=False)
        if said is not Meaning.APPOINTMENT_REPLY:
            _task(conn, intake, target, text, "reminders_blocked_at_gateway", owner)
    if said in STARTS:
        for purpose in purposes:
            _fact(conn, intake, target, text, purpose, ended=True)


def _gateway_blocked(text: Text, said: Meaning) -> bool:
    """Gateways act on their keywords by themselves; other outs are ours alone to honour."""
    return text.flag == "STOP" or said in (
        Meaning.MARKETING_OUT,
        Meaning.ALL_SMS_OUT,
        Meaning.REMINDERS_AND_MARKETING_OUT,
        Meaning.APPOINTMENT_REPLY,
    )


def _fact(
    conn: Connection,
    intake: Intake,
    target: Target,
    text: Text,
    purpose: Purpose,
    *,
    ended: bool,
) -> None:
    fact = DeliveryFact(text.number, purpose, "blocked", ended=ended)
    intake.fact(conn, target.brand, target.label, fact)


def _task(
    conn: Connection,
    intake: Intake,
    target: Target,
    text: Text,
    kind: str,
    subject_id: int | None,
) -> None:
    now = intake.clock()
    if not events.first_time(conn, target.label, f"task {kind} {text.message_id}", now.timestamp()):
        return
    body = {"text": text.body[:1600], "number": text.number.spelling, "sender": text.sender}
    due = next_working_day(now).timestamp()
    tasks.add(conn, intake.keys, target.brand, kind, subject_id, body, now.timestamp(), due)


def hold_task(conn: Connection, intake: Intake, signal: Signal, subject_id: int) -> None:
    """Staff read what was not plain, by the next working day."""
    now = intake.clock()
    body = {"text": signal.evidence.wording or "", "channel": signal.statements[0].scope.channel}
    due = next_working_day(now).timestamp()
    at = now.timestamp()
    tasks.add(conn, intake.keys, signal.brand, "held_text", subject_id, body, at, due)


def next_working_day(now: datetime) -> datetime:
    """Nine in the morning of the next Monday to Friday."""
    day = now + timedelta(days=1)
    while day.weekday() >= 5:
        day += timedelta(days=1)
    return datetime.combine(day.date(), OFFICE_OPENS, tzinfo=now.tzinfo)
