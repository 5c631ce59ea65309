"""What webhooks and reads of a vendor bring in, through the same door as everything else."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlencode

import structlog
from sqlalchemy import Connection

from prefs import texts
from prefs.core.propagation import Target
from prefs.core.signals import (
    Delivery,
    DeliveryFact,
    Found,
    Recheck,
    Renamed,
    Signal,
    Text,
    Unknown,
    Work,
)
from prefs.intake import Intake
from prefs.metrics import UNKNOWN_EVENTS
from prefs.store import events, marks, subjects, tasks
from prefs.texts import next_working_day

log = structlog.get_logger()


def take(
    conn: Connection, intake: Intake, target: Target, delivery: Delivery, found: Iterable[Found]
) -> None:
    """Keep a verified delivery and take in all it says, in one transaction."""
    now = intake.clock().timestamp()
    if raw := raw_of(delivery):
        events.keep_raw(conn, intake.keys, target.label, raw, now)
    for one in found:
        take_one(conn, intake, target, delivery, one)


def raw_of(delivery: Delivery) -> bytes:
    """What a delivery says: its body, or the query of one that came by GET."""
    return delivery.body or urlencode(delivery.query).encode()


def take_one(
    conn: Connection, intake: Intake, target: Target, delivery: Delivery, one: Found
) -> None:
    match one:
        case Signal():
            done = intake.record(conn, one)
            if one.hold and not done.duplicate:
                texts.hold_task(conn, intake, one, done.subject_id)
        case Text():
            texts.take(conn, intake, target, one, raw_of(delivery))
        case Unknown():
            UNKNOWN_EVENTS.labels(target.system).inc()
        case Recheck():
            _recheck(conn, intake, target, one)
        case Renamed():
            if _first(conn, intake, target, one.event_key):
                intake.rename(conn, target.brand, target.label, one)
        case DeliveryFact():
            if _first(conn, intake, target, one.event_key):
                intake.fact(conn, target.brand, target.label, one)
        case Work():
            if _first(conn, intake, target, one.event_key):
                _work(conn, intake, target, one)


def _first(conn: Connection, intake: Intake, target: Target, event_key: str | None) -> bool:
    now = intake.clock().timestamp()
    return event_key is None or events.first_time(conn, target.label, event_key, now)


def _work(conn: Connection, intake: Intake, target: Target, work: Work) -> None:
    """A task for staff, due by the next working day."""
    now = intake.clock()
    log.error(work.kind, target=target.label)
    subject = intake.owner(conn, target.brand, work.about) if work.about else None
    body = {"target": target.label, "text": work.text}
    body |= {work.about.kind.value: work.about.spelling} if work.about else {}
    due = next_working_day(now).timestamp()
    tasks.add(conn, intake.keys, target.brand, work.kind, subject, body, now.timestamp(), due)


def _recheck(conn: Connection, intake: Intake, target: Target, recheck: Recheck) -> None:
    """Mark whoever the record belongs to; a record of nobody known is marked by its vendor id."""
    controller = intake.brands[target.brand]
    hashes: list[bytes] = []
    if recheck.identifier:
        hashes += intake.keys.hashes(recheck.identifier)
    if recheck.vendor_id:
        hashes += marks.record_hashes(conn, target.label, recheck.vendor_id)
    owners = subjects.owners(conn, controller, hashes) if hashes else []
    wanted = [(target.label, subject_id, "") for subject_id in owners]
    if not owners and recheck.vendor_id:
        wanted = [(target.label, 0, recheck.vendor_id)]
    marks.set_marks(conn, wanted, intake.clock().timestamp(), urgent=True)
