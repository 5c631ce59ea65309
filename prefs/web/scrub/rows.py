"""The rows of a CSV that comes in pieces, byte for byte as they came."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from prefs.core.errors import BadInput

DELIMITERS = ",;\t|"
LONGEST_ROW = 256 * 1024
PIECE = 32 * 1024
"""Bytes read at once: some hundred rows."""
BOM = "\ufeff"

_FAULTS = {
    "empty": "the list is empty",
    "workbook": "this is an Excel workbook; save it as CSV UTF-8",
    "encoding": "this is no list of text, or an unusual one; save it as CSV UTF-8",
    "long": "row {row} is longer than 256 KiB, so this is probably no list; save it as CSV UTF-8",
    "quote": "in row {row} a quotation mark is opened and never closed; mend that row",
    "row": "row {row} cannot be read; mend it, or save the list as CSV UTF-8",
    "json": "row {row} is no JSON; every line is one JSON object, or one text",
}


class Unreadable(BadInput):
    """The list is none that we can read. `key` names the text of the console that says how to mend
    it; the message says it to programs."""

    def __init__(self, name: str, row: int = 0) -> None:
        super().__init__(_FAULTS[name].format(row=row))
        self.key = f"staff.campaign.bad.{name}"
        self.row = row


class Row(NamedTuple):
    raw: bytes
    """With its line end."""
    cells: list[str]
    """A character a byte (Latin-1): nothing can be lost. `text_of` says what a cell means."""


class Reading:
    """A row counts once it is whole: a quoted cell may hold line ends, and pieces end anywhere."""

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        self._waiting = b""
        self._count = 0

    def take(self, piece: bytes) -> list[Row]:
        """The rows that this piece completes. Raises Unreadable."""
        block = self._waiting + piece
        end = block.rfind(b"\n") + 1
        rows, open_ = self._parse(io.BytesIO(block[:end]).readlines())
        self._waiting = open_ + block[end:]
        if len(self._waiting) > LONGEST_ROW:
            raise Unreadable("long", self._count + 1)
        return rows

    def end(self) -> list[Row]:
        """The last row, where no line end follows it. Raises Unreadable."""
        rows, open_ = self._parse(io.BytesIO(self._waiting).readlines())
        if open_:
            raise Unreadable("quote", self._count + 1)
        return rows

    def _parse(self, lines: list[bytes]) -> tuple[list[Row], bytes]:
        """The whole rows of these lines, and the start of one whose quotation is still open."""
        found: list[Row] = []
        begun = asked = 0

        def texts() -> Iterator[str]:
            nonlocal asked
            for asked, line in enumerate(lines, 1):  # noqa: B007  # tells how far the reader came
                yield line.decode("latin-1")
            asked += 1

        try:
            for cells in csv.reader(texts(), delimiter=self._delimiter):
                if asked > len(lines):  # it looked for more
                    break
                raw = lines[begun] if asked == begun + 1 else b"".join(lines[begun:asked])
                found.append(Row(raw, cells))
                begun = asked
        except csv.Error:
            raise Unreadable("row", self._count + len(found) + 1) from None
        self._count += len(found)
        return found, b"".join(lines[begun:])


def rows(file: BinaryIO, delimiter: str) -> Iterator[Row]:
    """All rows of a file. Raises Unreadable."""
    reading = Reading(delimiter)
    while piece := file.read(PIECE):
        yield from reading.take(piece)
    yield from reading.end()


def text_of(cell: str) -> str:
    """What a cell says: UTF-8, else the encoding of older spreadsheets."""
    if cell.isascii():
        return cell
    raw = cell.encode("latin-1")
    try:
        return raw.decode("utf-8").removeprefix(BOM)
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")


def texts_of(found: Sequence[Row]) -> list[list[str]]:
    return [[text_of(cell) for cell in row.cells] for row in found]


def check_start(start: bytes) -> None:
    """Raises Unreadable for what is plainly no list of text."""
    if start.startswith(b"PK"):
        raise Unreadable("workbook")
    if b"\0" in start:
        raise Unreadable("encoding")


def delimiter_of(start: bytes) -> str:
    """The one that makes the most cells of the first row."""
    head = re.split(rb"[\r\n]", start.lstrip(b"\r\n"), maxsplit=1)[0].decode("latin-1")
    return max(DELIMITERS, key=lambda one: len(next(csv.reader([head], delimiter=one), [])))
