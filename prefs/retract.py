"""Taking a batch back: outs that a machine made, never a person's own.

Each subject's ledger gets a row that says so; its state is the fold without those outs.
"""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from typing import Any

from sqlalchemy import Connection

from prefs import merges
from prefs.core.fold import RELEASED, Entry
from prefs.core.signals import Evidence
from prefs.core.words import Channel, Purpose, Scope, Source
from prefs.intake import Intake
from prefs.store import batches, ledger, subjects, tasks, waves
from prefs.store.batches import Batch
from prefs.store.counters import next_numbers
from prefs.store.ledger import Row
from prefs.store.subjects import Subject

CHUNK = 200


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
    state = ledger.state_of(conn, subject_id)
    revision = subject.revision + len(added)
    subjects.store(conn, subject._replace(state=state, revision=revision, last_row_at=now))
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
