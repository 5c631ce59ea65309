"""prefs scrub: a list from a file or from standard input, answered as `POST /v1/scrub` answers.

With --out the answered rows are gathered in OUT.part, which becomes OUT once it is whole. Started
again after an interruption, every row that is in OUT.part is held against the list, and what is
missing is added.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console

from prefs import progress
from prefs.core.errors import BadInput
from prefs.web.scrub.asking import List, answered_now, slices
from prefs.web.scrub.lines import Lines
from prefs.web.scrub.rows import PIECE
from prefs.web.scrub.table import Table

GOES_STALE = 3600.0
"""Seconds after its first answer until a part is begun anew: who was allowed may be out by now."""
JSON_NAMES = (".ndjson", ".jsonl")
FORMATS: Mapping[str, type[Table | Lines]] = {"csv": Table, "ndjson": Lines}


def format_of(name: str) -> str:
    return "ndjson" if name.lower().endswith(JSON_NAMES) else "csv"


@dataclass
class Job:
    """One list on its way."""

    list_: List[Any]
    source: BinaryIO
    total: int | None
    """Bytes, where they are known."""
    question: Mapping[str, Any]
    """What a part was begun with, and must be gone on with."""
    console: Console | None
    came: int = 0

    def pieces(self) -> Iterator[list[Any]]:
        """The list in slices of whole rows."""
        while piece := self.source.read(PIECE):
            self.came += len(piece)
            yield from slices(self.list_.take(piece))
        yield from slices(self.list_.end())

    @property
    def report(self) -> dict[str, Any]:
        asking = self.list_.asking
        reasons = {str(reason): count for reason, count in asking.reasons.most_common()}
        return {"rows": asking.count, "allowed": asking.allowed, "reasons": reasons}


def to_stream(job: Job, out: BinaryIO) -> dict[str, Any]:
    """Raises BadInput; what was written until then is not whole."""
    with progress.shown(job.console, "checking", job.total) as tell:
        for rows in job.pieces():
            out.write(answered_now(job.list_, rows))
            tell(job.came, job.list_.asking.count)
    out.write(job.list_.last())
    out.flush()
    return job.report


def to_file(job: Job, out: Path, now: float) -> dict[str, Any]:
    """Raises BadInput, for a part that is not of this list and question too."""
    with _part(out, job.question, now) as part:
        with progress.shown(job.console, "checking", job.total) as tell:
            for rows in job.pieces():
                part.add(job.list_, rows)
                tell(job.came, job.list_.asking.count)
        part.close_with(job.list_.last())
        part.path.replace(out)
    _note(out).unlink(missing_ok=True)
    return {**job.report, "out": str(out), "resumed": part.rows, "begun_anew": part.anew}


# --- the part ----------------------------------------------------------------------------------


@dataclass
class Part:
    """What of an answered list is on disk. The first rows are only compared, until its end."""

    path: Path
    file: BinaryIO
    anew: bool
    """An older part was thrown away."""
    rows: int = 0
    """How many were in it."""
    _at: int = 0
    _compared: bool = field(default=False)

    def add(self, list_: List[Any], rows: Sequence[Any]) -> None:
        missing = rows if self._compared else rows[self._count_known(list_, rows) :]
        if missing:
            self.file.write(answered_now(list_, missing))

    def _count_known(self, list_: List[Any], rows: Sequence[Any]) -> int:
        for number, row in enumerate(rows):
            if not self._has(list_, row):
                self._cut()
                return number
            self.rows += 1
        return len(rows)

    def _has(self, list_: List[Any], row: Any) -> bool:
        """Whether the next row of the part is this one, answered. Raises BadInput where it is
        another. A row that was cut off is not there."""
        lead, end = list_.lead(row)
        body, rest = self.file.read(len(lead)), self.file.readline()
        added = rest[: len(rest) - len(end)]
        if body == lead and end and rest.endswith(end) and list_.reread(added):
            self._at += len(body) + len(rest)
            return True
        torn = lead.startswith(body) and not self.file.read(1)
        if not torn:
            raise self._other()
        return False

    def _other(self) -> BadInput:
        return BadInput(
            f"{self.path} is not the beginning of this list, from its row {self.rows + 1} on: the "
            "list was changed meanwhile; delete that file to begin anew"
        )

    def _cut(self) -> None:
        """From here on rows are added."""
        self.file.seek(self._at)
        self.file.truncate()
        self._compared = True

    def close_with(self, last: bytes) -> None:
        """The list is at its end, and so must be the part."""
        if not self._compared:
            if not last.startswith(self.file.read(len(last) + 1)):
                raise self._other()
            self._cut()
        self.file.write(last)
        self.file.flush()
        os.fsync(self.file.fileno())


@contextmanager
def _part(out: Path, question: Mapping[str, Any], now: float) -> Iterator[Part]:
    """The part of an earlier run, or a new one, held for this process alone."""
    path = out.with_name(f"{out.name}.part")
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", 256 * 1024) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BadInput(f"{path} is being written by another prefs scrub") from None
        yield Part(path, file, _begin(path, out, question, now))


def _begin(path: Path, out: Path, question: Mapping[str, Any], now: float) -> bool:
    """Note what is asked and since when; True where what there is is too old. Raises BadInput."""
    begun, old = _begun(out), path.stat().st_size > 0
    if old and begun.get("question") != question:
        raise BadInput(
            f"{path} was begun with another question (brand, channel, purpose, topic, column "
            "or format); ask the same, or delete that file to begin anew"
        )
    if old and now - begun["at"] < GOES_STALE:
        return False
    os.truncate(path, 0)
    with os.fdopen(os.open(_note(out), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as text:
        json.dump({"question": question, "at": now}, text)
    return old


def _begun(out: Path) -> dict[str, Any]:
    """What the part that lies there was begun with."""
    try:
        found: dict[str, Any] = json.loads(_note(out).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _note(out: Path) -> Path:
    return out.with_name(f"{out.name}.part.json")


def shown(report: Mapping[str, Any]) -> str:
    found = ", ".join(f"{count} {reason}" for reason, count in report["reasons"].items())
    lines = [f"{report['allowed']} of {report['rows']} rows allowed: {found or 'no rows'}"]
    if report.get("resumed"):
        lines.append(f"{report['resumed']} rows were there from an earlier run")
    if report.get("begun_anew"):
        lines.append("begun anew: the answers of the earlier run were more than an hour old")
    return "\n".join(lines)
