"""The folder outside the database that the ledger's checkpoints and its denying rows go to.

`journal-2026-03-000001.jsonl` and so on hold the lines of prefs/core/journal.py; a new file begins
with a month, at a size, under a new key, and after a line that was not written to its end: nothing
that was written is ever changed. `checkpoints.jsonl` holds one signed seal a day and one at each
shutdown: that file names nobody and may be given to an auditor.

Several processes may share a folder: whoever appends holds its lock for that moment.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

from prefs.core import journal as lines
from prefs.core.journal import Damaged, Head, Line, Seal, Torn
from prefs.core.keys import Keyring, UnknownKey

LARGEST = 64 * 1024 * 1024
"""Bytes of a file, and not many more."""
WINDOW = 64 * 1024
NAME = re.compile(r"journal-\d{4}-\d\d-(\d{6,})\.jsonl")
CHECKPOINTS = "checkpoints.jsonl"


class Tail(NamedTuple):
    """Where a folder ends: its last whole seal, and whether anything stands behind that."""

    file: str = ""
    size: int = 0
    number: int = 0
    key: bytes = b""
    mac: bytes = lines.BEGIN
    place: str = ""
    seal: Seal | None = None
    clean: bool = False
    """The newest file ends with a whole line and may be gone on with."""
    broken: bool = False
    """Nothing can be read of what is there: it is begun anew behind it."""

    @property
    def n(self) -> int:
        return self.seal.n if self.seal else 0


class Damage(NamedTuple):
    """What is wrong in a file, in words that name the place."""

    what: str
    harmless: bool = False
    """A line torn by a crash, and written again since: nothing is lost."""


class Found(NamedTuple):
    file: str
    number: int
    """Of the line in its file, from 1."""
    line: Line


@dataclass
class Journal:
    folder: Path
    keys: Keyring
    largest: int = LARGEST
    _tail: Tail | None = field(default=None, init=False)

    # --- reading ---------------------------------------------------------------------------

    def files(self) -> list[Path]:
        """In the order of their numbers."""
        if not self.folder.is_dir():
            return []
        named = [(NAME.fullmatch(path.name), path) for path in self.folder.iterdir()]
        return [path for _, path in sorted((int(m[1]), path) for m, path in named if m)]

    def tail(self) -> Tail:
        """Raises UnknownKey, or Damaged where no seal is left that can be read."""
        files = self.files()
        if not files:
            return Tail()
        number, newest = _number(files[-1]), files[-1]
        if self._tail and (self._tail.file, self._tail.size) == (newest.name, _size(newest)):
            return self._tail
        for path in reversed(files):
            found = _Ending(path, self.keys).look()
            if found.seal:
                clean = found.clean and path == newest
                return found._replace(number=number, clean=clean, file=newest.name)
        if number == len(files) == 1 and not (self.folder / CHECKPOINTS).exists():
            return found._replace(number=number, file=newest.name)  # a kill before the first seal
        raise Damaged(f"no seal can be read in {self.folder}")

    def scan(self, first: int = 0) -> Iterator[Found | Damage]:
        """Every line of every file from this number on, and what is wrong."""
        last: bytes | None = None
        number = 0
        for path in self.files():
            if _number(path) < first:
                continue
            if number and _number(path) != number + 1:
                yield Damage(f"{path.name}: the file before it is missing")
                last = None  # what it follows cannot be told
            number = _number(path)
            reading = _Reading(path, self.keys, last)
            yield from reading.run()
            last = reading.last

    def checkpoints(self) -> Iterator[Seal | Damage]:
        """The signed seals of the short file."""
        path = self.folder / CHECKPOINTS
        if not path.exists():
            return
        with path.open("rb") as file:
            for at, raw in enumerate(file, 1):
                try:
                    yield lines.read_seal(raw)
                except Damaged:
                    yield Damage(
                        f"{CHECKPOINTS} line {at}: cannot be read", not raw.endswith(b"\n")
                    )

    # --- writing ---------------------------------------------------------------------------

    @contextmanager
    def writing(self, *, wait: bool = False) -> Iterator[Writer | None]:
        """The one who appends now; None where another process does (and `wait` was not said).
        Raises OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _opened(self.folder / "lock") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield None
                return
            writer = Writer(self, self._tail_or_broken())
            self._tail = None  # whatever breaks off in here is looked at again
            yield writer
            self._tail = writer.tail

    def _tail_or_broken(self) -> Tail:
        """What cannot be read keeps nobody from writing behind it."""
        try:
            return self.tail()
        except (Damaged, UnknownKey):
            return Tail(number=_number(self.files()[-1]), broken=True)


class Writer:
    """Appends under the folder's lock. `tail` is where it ends now."""

    def __init__(self, journal: Journal, tail: Tail) -> None:
        self._journal, self._keys = journal, journal.keys
        self.tail = tail

    def append(self, said: Sequence[Line], seal: Seal, now: datetime) -> None:
        """These lines and the seal behind them; on disk when it returns. Raises OSError."""
        if not self._goes_on(now):
            self._begin(now)
        written, mac = self._lines([*said, seal], self.tail.mac)
        path = self._journal.folder / self.tail.file
        with path.open("ab") as file:
            file.write(written)
            file.flush()
            os.fsync(file.fileno())
        size = self.tail.size + len(written)
        self.tail = self.tail._replace(mac=mac, seal=seal, size=size, broken=False)

    def checkpoint(self, seal: Seal) -> None:
        """Into the short file too. Raises OSError."""
        with _opened(self._journal.folder / CHECKPOINTS, "ab") as file:
            if file.tell() and not _ends_whole(self._journal.folder / CHECKPOINTS):
                file.write(b"\n")
            file.write(lines.write_seal(seal))
            file.flush()
            os.fsync(file.fileno())

    def _goes_on(self, now: datetime) -> bool:
        tail = self.tail
        same_month = tail.file.startswith(f"journal-{now:%Y-%m}-")
        fits = tail.size < self._journal.largest
        return tail.clean and same_month and fits and tail.key == self._keys.newest_id

    def _begin(self, now: datetime) -> None:
        tail, key = self.tail, self._keys.newest_id
        number = tail.number + 1
        place = tail.place or secrets.token_hex(8)
        name = f"journal-{now:%Y-%m}-{number:06}.jsonl"
        self.tail = tail._replace(
            file=name, size=0, number=number, key=key, place=place, clean=True
        )
        written, mac = self._lines([Head(place, number, tail.mac, key)], tail.mac)
        with _opened(self._journal.folder / name, "xb") as file:
            file.write(written)
        _sync_folder(self._journal.folder)
        self.tail = self.tail._replace(mac=mac, size=len(written))

    def _lines(self, some: Sequence[Line], mac: bytes) -> tuple[bytes, bytes]:
        written = []
        for line in some:
            raw, mac = lines.write(self._keys, mac, line, self.tail.key)
            written.append(raw)
        return b"".join(written), mac


# --- one file ----------------------------------------------------------------------------------


@dataclass
class _Reading:
    """One file from its head to its end. `last` is the MAC of its last whole line."""

    path: Path
    keys: Keyring
    last: bytes | None

    def run(self) -> Iterator[Found | Damage]:
        key: bytes | None = None
        follows, previous = self.last, None
        with self.path.open("rb") as file:
            for at, raw in enumerate(file, 1):
                where = f"{self.path.name} line {at}"
                try:
                    found = lines.read(self.keys, previous, raw, key)
                except Torn:
                    yield Damage(f"{where}: torn, as by a crash in the middle of it", harmless=True)
                    return
                except Damaged as fault:
                    yield Damage(f"{where}: {fault}")
                    previous = self.last = lines.stated(raw)
                    continue
                except UnknownKey:
                    yield Damage(_unknown(self.path))
                    self.last = None
                    return
                if isinstance(found.line, Head):
                    key = found.line.key
                    if follows not in (None, found.line.follows):
                        yield Damage(f"{where}: lines of the file before it are missing")
                yield Found(self.path.name, at, found.line)
                yield from self._forged(found.line, where)
                previous = self.last = found.mac

    def _forged(self, line: Line, where: str) -> Iterator[Damage]:
        if isinstance(line, Seal) and not lines.is_signed(self.keys, line):
            yield Damage(f"{where}: the signature is not ours")


@dataclass
class _Ending:
    """The last seal of one file, found from its end."""

    path: Path
    keys: Keyring

    def look(self) -> Tail:
        with self.path.open("rb") as file:
            head_raw = file.readline()
            try:
                head = lines.read(self.keys, None, head_raw, None).line
            except Torn:
                return Tail()
            except UnknownKey:
                raise UnknownKey(_unknown(self.path)) from None
            if not isinstance(head, Head):
                raise Damaged(f"{self.path.name} does not begin with its head")
            size = _size(self.path)
            for window in (WINDOW, 16 * WINDOW, size):
                file.seek(max(0, size - window))
                found = self._in(file.read(), head)
                if found.seal or window >= size:
                    return found
        return Tail()

    def _in(self, part: bytes, head: Head) -> Tail:
        """The lines of a part of the file, of which the first may be the end of one."""
        raws = part.splitlines(keepends=True)
        seal, whole, previous = None, None, None
        for raw in raws:
            try:
                found = lines.read(self.keys, previous, raw, head.key)
            except Damaged:
                previous = None
                continue
            previous = whole = found.mac
            if isinstance(found.line, Seal) and lines.is_signed(self.keys, found.line):
                seal = found.line
        clean = bool(raws) and raws[-1].endswith(b"\n") and previous is not None
        size = _size(self.path)
        mac = whole or lines.BEGIN
        return Tail(self.path.name, size, head.number, head.key, mac, head.place, seal, clean)


def _number(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    return int(match[1]) if match else 0


def _size(path: Path) -> int:
    return path.stat().st_size


def _unknown(path: Path) -> str:
    return (
        f"{path.name} was written under a key that is not among secret_keys; add the old secret "
        "after the newest one"
    )


def _opened(path: Path, mode: str = "ab") -> BinaryIO:
    """Made for nobody else to read. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | (os.O_EXCL if mode == "xb" else os.O_APPEND)
    return os.fdopen(os.open(path, flags, 0o600), "wb" if mode == "xb" else "ab")


def _ends_whole(path: Path) -> bool:
    return path.read_bytes()[-1:] == b"\n"


def _sync_folder(folder: Path) -> None:
    """A new file's name is on disk only then."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def now_text(now: datetime) -> str:
    return now.astimezone(UTC).isoformat().replace("+00:00", "Z")
