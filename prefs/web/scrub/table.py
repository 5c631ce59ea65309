"""A CSV answered: the two answers are put before each row's line end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from prefs.core.decision import Decision, Reason
from prefs.web.scrub.asking import Answered, Asking
from prefs.web.scrub.guess import SAMPLE, Shape, shape_of
from prefs.web.scrub.rows import (
    LONGEST_ROW,
    Reading,
    Row,
    Unreadable,
    check_start,
    delimiter_of,
    text_of,
    texts_of,
)

ADDED = ("allowed", "reason")
_CELLS = {
    (allowed, reason): (str(allowed).lower(), reason.value)
    for allowed in (True, False)
    for reason in Reason
}
SAMPLE_BYTES = 64 * 1024
"""Of a list with few long rows, this much is enough to guess from."""


@dataclass
class Table:
    """Implements prefs.web.scrub.asking.List. Without a shape the first rows are waited for: one
    where the column is named, SAMPLE where it is guessed."""

    asking: Asking
    column: str | None = None
    shape: Shape | None = None
    media_type: str = "text/csv"
    tells_faults: bool = False
    _start: bytes = b""
    _reading: Reading = field(default_factory=lambda: Reading(","))
    _width: int = 0
    """Cells of the first row, which is the heading where there is one."""
    _heading: Row | None = None

    def __post_init__(self) -> None:
        if self.shape:
            self._reading = Reading(self.shape.delimiter)

    def take(self, piece: bytes) -> list[Row]:
        if self.shape:
            return self._noted(self._reading.take(piece))
        self._start += piece
        return self._open(whole=False)

    def end(self) -> list[Row]:
        return self._noted(self._reading.end()) if self.shape else self._open(whole=True)

    def _noted(self, found: list[Row]) -> list[Row]:
        """What the first row tells of the others."""
        if not self._width and (first := next((row for row in found if row.cells), None)):
            self._width = len(first.cells)
            self._heading = first if self._shape.headed else None
        return found

    def _open(self, *, whole: bool) -> list[Row]:
        """The first rows, as soon as they tell how the list is to be read."""
        check_start(self._start[:4096])
        if not whole and b"\n" not in self._start.lstrip(b"\r\n"):
            return self._wait()
        reading = Reading(delimiter_of(self._start))
        found = reading.take(self._start) + (reading.end() if whole else [])
        first = [row for row in found if row.cells][: SAMPLE + 1]
        if whole and not first:
            raise Unreadable("empty")
        if not first or not (whole or self._enough(len(first))):
            return self._wait()
        self._settle(reading, delimiter_of(self._start), first)
        return self._noted(found)

    def _wait(self) -> list[Row]:
        if len(self._start) > LONGEST_ROW:
            raise Unreadable("long", 1)
        return []

    def _enough(self, count: int) -> bool:
        return self.column is not None or count > SAMPLE or len(self._start) > SAMPLE_BYTES

    def _settle(self, reading: Reading, delimiter: str, first: Sequence[Row]) -> None:
        asking, texts = self.asking, texts_of(first)
        self.shape = shape_of(texts, delimiter, self.column, asking.channel, asking.region)
        self._reading, self._start = reading, b""

    # --- answering -----------------------------------------------------------------------------

    def answer(self, conn: Connection, rows: Sequence[Row]) -> list[Answered]:
        people = [bool(row.cells) and row is not self._heading for row in rows]
        asked = [self._address(row) for row, person in zip(rows, people, strict=True) if person]
        decisions = iter(self.asking.decide(conn, asked))
        return [
            self._out(row, next(decisions) if person else None)
            for row, person in zip(rows, people, strict=True)
        ]

    @property
    def _shape(self) -> Shape:
        if self.shape is None:
            raise RuntimeError("rows are answered after the shape is known")
        return self.shape

    def _address(self, row: Row) -> str:
        column = self._shape.column
        return text_of(row.cells[column]).strip() if column < len(row.cells) else ""

    def _out(self, row: Row, decision: Decision | None) -> Answered:
        lead, end = self.lead(row)
        if decision is None:
            return Answered(lead, self._added(ADDED) if row.cells else b"", end)
        return Answered(lead, self._added(_CELLS[decision.allowed, decision.reason]), end)

    def _added(self, cells: tuple[str, str]) -> bytes:
        mark = self._shape.delimiter
        return f"{mark}{cells[0]}{mark}{cells[1]}".encode()

    def lead(self, row: Row) -> tuple[bytes, bytes]:
        """A short row is filled up so that the answers stand in their own columns. They are words
        of ours: no spreadsheet takes them for a formula."""
        body = row.raw.rstrip(b"\r\n")
        end = row.raw[len(body) :]
        missing = self._width - len(row.cells)
        if row.cells and missing > 0:
            body += self._shape.delimiter.encode() * missing
        return body, end

    def reread(self, added: bytes) -> bool:
        if added in (b"", self._added(ADDED)):
            return True
        found = re.fullmatch(rb"(.)(true|false)\1([a-z_]+)", added)
        if not found or found[3].decode() not in set(Reason):
            return False
        self.asking.note(Reason(found[3].decode()), allowed=found[2] == b"true")
        return True

    def last(self) -> bytes:
        return b""

    def fault(self, status: int, detail: str) -> bytes:
        return b""
