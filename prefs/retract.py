"""Taking back what nobody meant: a batch of outs that a machine made, or a slip of staff; never a
person's own out.

Each subject's ledger gets a row that says so; its state is the fold without those outs.
"""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from typing import Any

from sqlalchemy import Connection

from prefs import merges
from prefs.core.errors import NotFound
from prefs.core.fold import RELEASED, Entry, slip
from prefs.core.signals import Evidence
from prefs.core.words import Channel, Choice, Purpose, Result, Scope, Source
from prefs.intake import Intake
from prefs.store import batches, ledger, subjects, tasks, waves
from prefs.store.batches import Batch
from prefs.store.counters import next_numbers
from prefs.store.ledger import Row
from prefs.store.subjects import Subject

CHUNK = 200
UNDO = "undo"


def retract(conn: Connection, intake: Intake, label: str, evidence: Evidence, after: int) -> int:
    """Take back the outs of up to CHUNK subjects past `after`; returns the last one's id, or 0
    when none was left, and only then are questions about the batch closed. Safe to repeat. Raises
    NotFound."""
    batch = batches.by_label(conn, label)
    if batch.state != batches.RETRACTED:
        batch = batches.retracted(conn, batch)
    rows = batches.rows_of(conn, batch, after, CHUNK)
    last = 0
    moved = []
    for last, group in groupby(rows, key=lambda row: row.subject_id):
        if _take_back(conn, intake, batch, last, list(group), evidence):
            moved.append(last)
    if moved:
        _restore(conn, intake, batch.brand, moved)
    if not last:
        _close_questions(conn, intake, batch)
    return last


def _close_questions(conn: Connection, intake: Intake, batch: Batch) -> None:
    now = intake.clock().timestamp()
    for row in tasks.open_about(conn, intake.keys, batch.brand, "batch", batch=batch.label):
        body = tasks.body(intake.keys, row) | {"settled_with": "taken back"}
        tasks.settle(conn, intake.keys, row.id, "closed", body, now)
    merges.taken_back(conn, intake.keys, batch.brand, batch.label, now)


def of_one(
    conn: Connection, intake: Intake, label: str, subject_id: int, evidence: Evidence
) -> None:
    """Take back what a batch said of one subject; what it said of the others stands. Raises
    NotFound."""
    batch = batches.by_label(conn, label)
    rows = batches.rows_of_one(conn, batch, subject_id)
    if _take_back(conn, intake, batch, subject_id, rows, evidence):
        _restore(conn, intake, batch.brand, [subject_id])


SLIP_WITHIN = 900.0
"""Seconds after which an out that staff recorded is no slip any more."""


def slips(conn: Connection, subject_id: int, now: float) -> list[Any]:
    """Outs by staff of the last minutes that changed something and were not taken back; the newest
    first."""
    rows = ledger.history(conn, subject_id)
    undone = {row.batch for row in rows if row.kind == UNDO}
    return [row for row in reversed(rows) if _is_slip(row, now) and slip(row.id) not in undone]


def _is_slip(row: Any, now: float) -> bool:
    by_staff = row.kind == "choice" and row.source == Source.STAFF and row.choice == Choice.OUT
    recent = now - row.received_at <= SLIP_WITHIN
    return bool(by_staff and recent and row.result == Result.APPLIED)


def undo(
    conn: Connection, intake: Intake, subject_id: int, payload_id: int, evidence: Evidence
) -> None:
    """Take back everything that one act of staff said, of this subject and of all who share an
    identifier. Raises NotFound where it is too late, or was done."""
    now = intake.clock().timestamp()
    moved: dict[str, list[int]] = {}
    for one in subjects.sharers(conn, subject_id):
        rows = [row for row in slips(conn, one.id, now) if row.payload_id == payload_id]
        if rows:
            _undo_one(conn, intake, one, rows, evidence)
        for brand in {row.brand for row in rows}:
            moved.setdefault(brand, []).append(one.id)
    if not moved:
        raise NotFound("there is nothing to take back any more")
    for brand, ids in moved.items():
        _restore(conn, intake, brand, ids)


def _undo_one(
    conn: Connection, intake: Intake, subject: Subject, rows: list[Any], evidence: Evidence
) -> None:
    now = intake.clock().timestamp()
    payload = ledger.add_payload(conn, intake.keys, {"evidence": asdict(evidence)})
    ids = next_numbers(conn, "event", len(rows))
    added = []
    for revision, (row, id_) in enumerate(zip(rows, ids, strict=True), subject.revision + 1):
        scope = Scope(Channel(row.channel), Purpose(row.purpose), row.topic)
        entry = Entry(id_, row.brand, scope, None, Source.STAFF, now)
        taken = Row(subject.id, revision, UNDO, entry, RELEASED, None, now, None, slip(row.id))
        added.append(taken)
    ledger.append(conn, added, payload)
    _refold(conn, subject, len(added), now)


def _refold(conn: Connection, subject: Subject, added: int, now: float) -> None:
    state = ledger.state_of(conn, subject.id)
    revision = subject.revision + added
    subjects.store(
        conn, subject._replace(state=state, revision=revision, last_row_at=subject.now(now))
    )


def _restore(conn: Connection, intake: Intake, brand: str, moved: list[int]) -> None:
    intake.restored(conn, brand, moved)
    _allow_back(conn, intake, brand, moved)


def _allow_back(conn: Connection, intake: Intake, brand: str, moved: list[int]) -> None:
    """Who takes a fault back means that people are switched on again: no wave of opt-ins."""
    hashes = {hash_ for found in subjects.hashes_of(conn, moved).values() for _, hash_ in found}
    now = intake.clock().timestamp()
    for target in intake.targets:
        if target.brand == brand:
            waves.allow(conn, target.label, hashes, now)


def _take_back(
    conn: Connection,
    intake: Intake,
    batch: Batch,
    subject_id: int,
    rows: list[Any],
    evidence: Evidence,
) -> bool:
    """False where it was done already, and nothing came after."""
    (subject,) = subjects.by_ids(conn, [subject_id])
    done = ledger.retracted_until(conn, subject_id, batch.label)
    rows = [row for row in rows if row.revision > done]
    if not rows:
        return False
    now = intake.clock().timestamp()
    payload = ledger.add_payload(conn, intake.keys, {"evidence": asdict(evidence)})
    scopes = dict.fromkeys((row.brand, row.channel, row.purpose, row.topic) for row in rows)
    ids = next_numbers(conn, "event", len(scopes))
    added = [
        _row(subject, revision, batch, scope, id_, now)
        for revision, (scope, id_) in enumerate(zip(scopes, ids, strict=True), subject.revision + 1)
    ]
    ledger.append(conn, added, payload)
    _refold(conn, subject, len(added), now)
    return True


def _row(
    subject: Subject,
    revision: int,
    batch: Batch,
    scope: tuple[str, str, str, str | None],
    id_: int,
    now: float,
) -> Row:
    brand, channel, purpose, topic = scope
    of = Scope(Channel(channel), Purpose(purpose), topic)
    entry = Entry(id_, brand, of, None, Source.STAFF, now)
    return Row(subject.id, revision, "retract", entry, RELEASED, None, now, None, batch.label)
