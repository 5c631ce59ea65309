"""A list answered row by row: rows unchanged and in order, `allowed` and `reason` added.

A row's bytes are never rewritten, whatever its encoding and quoting: the two answers are put before
its line end. Memory is flat: one row at a time is held, and a row has a limit.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import BinaryIO, NamedTuple

from sqlalchemy import Connection

from prefs.core import identity
from prefs.core.decision import Ask, Decision, Reason
from prefs.core.errors import BadIdentifier, BadInput
from prefs.core.words import Channel
from prefs.web.check import decide_all
from prefs.web.context import Service

DELIMITERS = ",;\t|"
ADDED = ("allowed", "reason")
AT_ONCE = 500
"""Rows answered in one read."""
LONGEST_ROW = 256 * 1024
SAMPLE = 20
"""Rows looked at to guess what stands where."""
GUESSED = (Channel.EMAIL, Channel.SMS)
"""Channels whose addresses can be told from other text, the likelier first."""
BOM = "\ufeff"


class Unreadable(BadInput):
    """The file is no list that we can read: `key` names the text that says how to mend it."""

    def __init__(self, key: str, row: int = 0) -> None:
        super().__init__("the file is not a list of rows with separators (CSV)")
        self.key = key
        self.row = row


class Row(NamedTuple):
    raw: bytes
    """With its line end."""
    cells: list[str]


class Shape(NamedTuple):
    """How a list is to be read."""

    delimiter: str
    column: int
    """Of the address or number, from 0."""
    headed: bool
    """The first row holds headings and no person."""


# --- reading -----------------------------------------------------------------------------------


def lines(file: BinaryIO) -> Iterator[bytes]:
    """Raises Unreadable for a line that never ends."""
    while line := file.readline(LONGEST_ROW):
        if len(line) == LONGEST_ROW:
            raise Unreadable("staff.campaign.bad.long")
        yield line


def rows(source: Iterable[bytes], delimiter: str) -> Iterator[Row]:
    """Raises Unreadable. A quoted cell may hold line ends."""
    taken: list[bytes] = []
    ended = False

    def texts() -> Iterator[str]:
        nonlocal ended
        for line in source:
            taken.append(line)
            yield line.decode("latin-1")  # a byte is a character: nothing can be lost
        ended = True

    reader = csv.reader(texts(), delimiter=delimiter)
    count = 0
    try:
        for cells in reader:
            count += 1
            if ended:  # it looked for more: a quotation mark was never closed
                raise Unreadable("staff.campaign.bad.quote", count)
            yield Row(b"".join(taken), cells)
            taken.clear()
    except csv.Error:
        raise Unreadable("staff.campaign.bad.row", count + 1) from None


def text_of(cell: str) -> str:
    """What a cell says: UTF-8, else the encoding of older spreadsheets."""
    raw = cell.encode("latin-1")
    try:
        return raw.decode("utf-8").removeprefix(BOM)
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")


# --- answering ---------------------------------------------------------------------------------


def address_in(row: Row, column: int) -> str:
    return text_of(row.cells[column]).strip() if column < len(row.cells) else ""


@dataclass
class Answering:
    """A list on its way through, answered as `POST /v1/check` would."""

    served: Service
    brand: str
    ask: Ask
    shape: Shape
    rows: Iterator[Row]
    width: int = 0
    """Cells of the first row, which is the heading where there is one."""
    allowed: int = 0
    reasons: Counter[Reason] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        return self.reasons.total()

    def some(self, conn: Connection) -> bytes:
        """The next rows with their answers; empty at the end. Raises Unreadable."""
        part = list(islice(self.rows, AT_ONCE))
        people = [row for row in part if row.cells and not self._heads(row)]
        to = [address_in(row, self.shape.column) for row in people]
        decisions = decide_all(conn, self.served, self.brand, self.ask, to)
        found = dict(zip(map(id, people), decisions, strict=True))
        return b"".join(self._out(row, found.get(id(row))) for row in part)

    def _heads(self, row: Row) -> bool:
        first, self.width = not self.width, self.width or len(row.cells)
        return first and self.shape.headed

    def _out(self, row: Row, decision: Decision | None) -> bytes:
        if decision is None:
            return self._with(row, *ADDED) if row.cells else row.raw
        self.allowed += decision.allowed
        self.reasons[decision.reason] += 1
        return self._with(row, str(decision.allowed).lower(), decision.reason.value)

    def _with(self, row: Row, *cells: str) -> bytes:
        """The row with cells of ours behind it, a short row filled up so that they stand in their
        own columns. They are words of ours: no spreadsheet takes them for a formula."""
        body = row.raw.rstrip(b"\r\n")
        missing = self.shape.delimiter * max(0, self.width - len(row.cells))
        added = missing + "".join(self.shape.delimiter + cell for cell in cells)
        return body + added.encode() + row.raw[len(body) :]


# --- guessing ----------------------------------------------------------------------------------


class Guess(NamedTuple):
    shape: Shape
    channel: Channel
    headings: list[str]
    sample: list[list[str]]
    """The first rows under the headings, as text."""


def guess(file: BinaryIO, region: str) -> Guess:
    """What a list looks like. Raises Unreadable for what is none."""
    start = file.read(4096)
    file.seek(0)
    _check(start)
    delimiter = _delimiter(start)
    first = [row for row in islice(rows(lines(file), delimiter), SAMPLE + 1) if row.cells]
    if not first:
        raise Unreadable("staff.campaign.bad.empty")
    texts = [[text_of(cell) for cell in row.cells] for row in first]
    channel, column = _column(texts, region)
    named = not _is_address(texts[0][column : column + 1], channel, region)
    plain = [""] * len(texts[0])
    return Guess(
        Shape(delimiter, column, named),
        channel,
        texts[0] if named else plain,
        texts[1:] if named else texts,
    )


def _check(start: bytes) -> None:
    if start.startswith(b"PK"):
        raise Unreadable("staff.campaign.bad.workbook")
    if b"\0" in start:
        raise Unreadable("staff.campaign.bad.encoding")


def _delimiter(start: bytes) -> str:
    """The one that makes the most cells of the first row."""
    head = re.split(rb"[\r\n]", start, maxsplit=1)[0].decode("latin-1")
    return max(DELIMITERS, key=lambda one: len(next(csv.reader([head], delimiter=one), [])))


def _column(texts: Sequence[Sequence[str]], region: str) -> tuple[Channel, int]:
    """Where the most addresses or numbers stand."""
    width = max(len(row) for row in texts)
    places = [(channel, column) for channel in GUESSED for column in range(width)]
    return max(places, key=lambda place: _count_in(place, texts, region))


def _count_in(place: tuple[Channel, int], texts: Sequence[Sequence[str]], region: str) -> int:
    channel, column = place
    return sum(_is_address(row[column : column + 1], channel, region) for row in texts)


def _is_address(cells: Sequence[str], channel: Channel, region: str) -> bool:
    try:
        return bool([identity.guess(cell, channel, region) for cell in cells])
    except BadIdentifier:
        return False
