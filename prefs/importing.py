"""prefs import: a CSV of people and choices through the one door, in chunks, resumable.

Columns: email,phone,name,ref,channel,purpose,topic,choice,occurred_at,basis,notice,wording,note.
Rows that fail go, with the reason, to FILE.rejected.csv as they are met. How far an import came, in
the file and in that one, is kept in the transaction of each chunk: started again, it goes on there,
and whatever was rejected after it is cut off first.
"""

from __future__ import annotations

import fcntl
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from sqlalchemy import Connection

from prefs import progress, trial
from prefs.core.errors import BadInput
from prefs.core.signals import Signal
from prefs.import_rows import Judge, Reading, Sheet
from prefs.intake import Recorded
from prefs.rejects import Rejects
from prefs.store import imports, ledger
from prefs.store.imports import Position
from prefs.web.context import Service

CHUNK = 500
"""Rows a transaction: a chunk holds the writer and so delays every other record."""


class Chunk(NamedTuple):
    """Some rows, judged. `at` is where the import is after them."""

    signals: Sequence[Signal]
    at: Position


@dataclass
class Job:
    """One import on its way. `at` is how far it came."""

    served: Service
    brand: str
    sheet: Sheet
    judge: Judge
    rejects: Rejects
    at: Position
    tell: progress.Tell
    results: Counter[str] = field(default_factory=Counter)

    def done(self, chunk: Chunk, recorded: Sequence[Recorded]) -> None:
        self.results.update(outcome.result.value for one in recorded for outcome in one.outcomes)
        self.at = chunk.at
        self.tell(self.at.offset, self.at.rows)


def run(
    served: Service, brand: str, file: Path, *, write: bool, console: Console | None
) -> dict[str, Any]:
    """Import the file; a dry run judges every row as if it were written, and writes nothing.
    Raises BadInput for a file that is none, before anything of it is written."""
    if not file.is_file():
        raise BadInput(
            f"{file} is no file but a pipe or a device: an import reads it twice; bring a file"
        )
    with _alone(file):
        sheet = Sheet.of(file)
        begun = _begun(served, brand, sheet) if write else None
        if begun is None:
            sheet.check()
        start = begun or Position(offset=sheet.begins)
        judge = Judge(served.settings, brand, sheet.columns, f"import {sheet.digest}")
        rejects = Rejects(file, sheet.columns)
        if start.offset < sheet.size and not rejects.go_on(start.kept):
            _reject_again(sheet, judge, rejects, start)
        what = "importing" if write else "trying"
        with progress.shown(console, what, sheet.size, start.rows) as tell:
            tell(start.offset, start.rows)
            job = Job(served, brand, sheet, judge, rejects, start, tell)
            _apply(job, new=begun is None) if write else _try(job)
    return {
        "rows": job.at.rows,
        "applied": write,
        "results": dict(job.results),
        "done_before": start.rows,
        "rejected": job.at.rejected,
        "rejected_file": str(rejects.path) if job.at.rejected else None,
    }


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Two imports of one file would write one file of rejected rows."""
    with file.open("rb") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BadInput(f"{file} is being imported by another prefs import") from None
        yield


def _begun(served: Service, brand: str, sheet: Sheet) -> Position | None:
    return served.database.read_now(lambda conn: imports.position(conn, brand, sheet.digest))


# --- in earnest, and as a trial ----------------------------------------------------------------


def _apply(job: Job, *, new: bool) -> None:
    database, brand, digest = job.served.database, job.brand, job.sheet.digest
    if new:
        now = job.served.clock().timestamp()
        database.write_now(lambda conn: imports.begin(conn, brand, digest, job.at, now))
    for chunk in _chunks(job):
        job.done(chunk, database.write_now(partial(_write, job=job, chunk=chunk)))
    now = job.served.clock().timestamp()
    database.write_now(lambda conn: imports.end(conn, brand, digest, now))


def _write(conn: Connection, job: Job, chunk: Chunk) -> list[Recorded]:
    """One chunk, its seal, and how far it came, in one transaction: sealed later, every row of the
    ledger would be read and written twice."""
    now = job.served.clock().timestamp()
    if not imports.move(conn, job.brand, job.sheet.digest, job.at, chunk.at, now):
        raise BadInput("a copy of this file is being imported by another prefs import")
    recorded = job.served.intake.record_many(conn, chunk.signals)
    while ledger.seal(conn):
        continue
    return recorded


def _try(job: Job) -> None:
    with trial.opened(job.served, job.brand) as place:
        for chunk in _chunks(job):
            place.prepare(job.brand, chunk.signals)
            record = partial(place.intake.record_many, signals=chunk.signals)
            job.done(chunk, place.database.write_now(record))


# --- reading -----------------------------------------------------------------------------------


def _chunks(job: Job) -> Iterator[Chunk]:
    """From where the job is on. Rejected rows are on disk before the chunk that they belong to."""
    with job.sheet.path.open("rb") as file:
        reading = Reading(file, job.at.offset)
        rows = iter(reading)
        while part := list(islice(rows, CHUNK)):
            signals = list(_judged(job.judge, job.rejects, part))
            kept, count = job.rejects.keep()
            at = job.at
            at = Position(at.rows + len(part), reading.offset, at.rejected + count, kept)
            yield Chunk(signals, at)


def _judged(judge: Judge, rejects: Rejects, rows: Sequence[list[str]]) -> Iterator[Signal]:
    for row in rows:
        try:
            yield judge.signal(row)
        except BadInput as fault:
            rejects.add(row, str(fault))


def _reject_again(sheet: Sheet, judge: Judge, rejects: Rejects, until: Position) -> None:
    """The file of rejected rows was taken away: write again what an earlier run put there."""
    with sheet.path.open("rb") as file:
        rows = islice(Reading(file, sheet.begins), until.rows)
        while part := list(islice(rows, CHUNK)):
            for _ in _judged(judge, rejects, part):
                continue
            rejects.keep()


def shown(report: dict[str, Any]) -> str:
    results = ", ".join(f"{count} {name}" for name, count in sorted(report["results"].items()))
    lines = [f"{report['rows']} rows: {results or 'nothing new'}"]
    if report["done_before"]:
        lines.append(f"{report['done_before']} rows were done by an earlier run")
    if report["rejected"]:
        lines.append(f"{report['rejected']} rejected, see {report['rejected_file']}")
    if not report["applied"]:
        lines.append("Nothing written; --apply writes it.")
    return "\n".join(lines)
