"""What a CSV for `prefs import` holds: its columns, its rows, and what a row says."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

from prefs.core import identity
from prefs.core.errors import BadInput
from prefs.core.signals import Evidence, Identifier, Signal, Statement
from prefs.core.words import Basis, Choice, Scope, Source
from prefs.rejects import REASON
from prefs.settings import Settings
from prefs.web.scopes import scope_of

COLUMNS = (
    "email",
    "phone",
    "name",
    "ref",
    "channel",
    "purpose",
    "topic",
    "choice",
    "occurred_at",
    "basis",
    "notice",
    "wording",
    "note",
)
NEEDED = ("channel", "purpose", "choice")
BOM = b"\xef\xbb\xbf"
OTHER_DELIMITERS = ";\t|"
REMEMBERED = 4096
"""Of texts that come again and again in one file: wordings, times."""


# --- the file ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sheet:
    """A file whose first row names its columns."""

    path: Path
    size: int
    digest: str
    columns: tuple[str, ...]
    begins: int
    """Bytes before its second row."""

    @staticmethod
    def of(path: Path) -> Sheet:
        """Raises BadInput for a file that names no columns."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            start = file.read(3)
            _check_start(start)
            reading = Reading(file, len(BOM) if start == BOM else 0)
            columns = _columns(next(reading.checked(), []))
        return Sheet(path, path.stat().st_size, digest, columns, reading.offset)

    def check(self) -> None:
        """Read it through. Raises BadInput that names the first row which cannot be read."""
        with self.path.open("rb") as file:
            for _ in Reading(file, self.begins, row=1).checked():
                continue


def _check_start(start: bytes) -> None:
    if start.startswith(b"PK"):
        raise BadInput("this is an Excel workbook: save it as CSV UTF-8")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise BadInput("the file is UTF-16: save it as CSV UTF-8")


def _columns(header: Sequence[str]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in header)
    unknown = sorted({name or "(empty)" for name in names} - {*COLUMNS, REASON})
    missing = [name for name in NEEDED if name not in names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if missing:
        _check_delimiter(names)
    if len(missing) == len(NEEDED):  # it may be a person: nothing of it is repeated
        raise BadInput(f"the first row names no columns; known are: {','.join(COLUMNS)}")
    if unknown or missing or twice:
        raise BadInput(
            f"the first row names the columns; unknown: {', '.join(unknown) or 'none'}; "
            f"missing: {', '.join(missing) or 'none'}; twice: {', '.join(twice) or 'none'}; "
            f"known are: {','.join(COLUMNS)}"
        )
    return names


def _check_delimiter(names: Sequence[str]) -> None:
    line = ",".join(names)
    for mark in OTHER_DELIMITERS:
        if set(NEEDED) <= {name.strip() for name in line.split(mark)}:
            shown = "tab" if mark == "\t" else mark
            raise BadInput(f"the columns are separated by {shown}: save the file with commas")


class Reading:
    """The rows of a file from an offset on. `offset` is where the next row begins: a resumed
    import seeks to it. Blank rows are left out."""

    def __init__(self, file: BinaryIO, offset: int, row: int = 0) -> None:
        file.seek(offset)
        self.offset = offset
        self._file = file
        self._row = row
        self._ended = False

    def __iter__(self) -> Iterator[list[str]]:
        return (cells for cells in csv.reader(self._texts()) if cells)

    def _texts(self) -> Iterator[str]:
        for line in self._file:
            self.offset += len(line)
            yield line.decode()

    def checked(self) -> Iterator[list[str]]:
        """The same; raises BadInput that names the row and how to mend it."""
        try:
            for cells in csv.reader(self._checked_texts()):
                self._row += 1
                if self._ended:  # it looked for more
                    raise self._bad("opens a quotation mark that is never closed", 0)
                yield cells
        except csv.Error:
            raise self._bad("cannot be read; is a quotation mark never closed? Mend it") from None
        except UnicodeDecodeError:
            raise self._bad("is not UTF-8: save the file as CSV UTF-8") from None

    def _checked_texts(self) -> Iterator[str]:
        for line in self._file:
            self.offset += len(line)
            if b"\0" in line:
                raise self._bad("holds a NUL character, which cannot be stored: take it out")
            yield line.decode()
        self._ended = True

    def _bad(self, what: str, ahead: int = 1) -> BadInput:
        return BadInput(f"row {self._row + ahead} {what}")


# --- a row -------------------------------------------------------------------------------------


class Judge:
    """Makes signals of the rows of one file: what is the same for all of them is done once."""

    def __init__(self, settings: Settings, brand: str, columns: Sequence[str], batch: str) -> None:
        self._settings = settings
        self._brand = brand
        self._region = settings.brands[brand].region
        self._batch = batch
        self._width = len(columns)
        places = [columns.index(name) if name in columns else self._width for name in COLUMNS]
        self._pick = itemgetter(*places)
        self._scopes: dict[tuple[str, str, str], Scope] = {}

    def signal(self, row: list[str]) -> Signal:
        """Raises BadInput with what is wrong with the row; the value itself is never repeated."""
        if len(row) > self._width and any(row[self._width :]):
            raise BadInput("more cells than columns")
        filled = [*row[: self._width], *[""] * (self._width + 1 - len(row)), ""]
        email, phone, name, ref, channel, purpose, topic, choice, at, basis, *evidence = map(
            str.strip, self._pick(filled)
        )
        scope = self._scope(channel, purpose, topic)
        identifiers = self._identifiers(email, phone)
        if not identifiers and not ref:
            raise BadInput("no email, phone or ref")
        return Signal(
            brand=self._brand,
            source=Source.IMPORT,
            statements=(Statement(scope, _choice(choice)),),
            identifiers=identifiers,
            ref=ref or None,
            name=name or None,
            occurred_at=_moment(at),
            basis=_basis(basis),
            evidence=_evidence(*evidence),
            batch=self._batch,
        )

    def _scope(self, channel: str, purpose: str, topic: str) -> Scope:
        words = (channel, purpose, topic)
        if words not in self._scopes:
            found = scope_of(self._settings, self._brand, channel, purpose, topic or None)
            self._scopes[words] = found
        return self._scopes[words]

    def _identifiers(self, email: str, phone: str) -> tuple[Identifier, ...]:
        found = (identity.email(email),) if email else ()
        return (*found, identity.phone(phone, self._region)) if phone else found


_CHOICES = {word.value: word for word in Choice}
_BASES = {word.value: word for word in Basis} | {"": None, "soft_opt_in": None}


def _choice(text: str) -> Choice:
    if text not in _CHOICES:
        raise BadInput("choice is in or out")
    return _CHOICES[text]


def _basis(text: str) -> Basis | None:
    if text not in _BASES:
        raise BadInput("basis is consent or legitimate_interest")
    return _BASES[text]


@lru_cache(REMEMBERED)
def _evidence(notice: str, wording: str, note: str) -> Evidence:
    return Evidence(notice=notice or None, wording=wording or None, note=note or None)


@lru_cache(REMEMBERED)
def _moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput("occurred_at is no RFC 3339 time") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
