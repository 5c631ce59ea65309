"""prefs export: who must not be contacted for marketing on a channel, for whoever else sends there.

What stands in it and what does not is told in docs/bulk.md. A list is written beside its place and
moved there once it is whole: there is never half of one.
"""

from __future__ import annotations

import csv
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import msgspec
from rich.console import Console
from rich.status import Status
from sqlalchemy import Connection

from prefs.core import identity
from prefs.core.decision import Ask, Reason, decide
from prefs.core.errors import BadIdentifier
from prefs.core.signals import Identifier
from prefs.core.words import KIND_OF, Channel, Kind, Purpose, Scope
from prefs.store import stopped
from prefs.web.context import Service

LISTED = frozenset(
    {
        Reason.RESTRICTED,
        Reason.SUPPRESSED,
        Reason.OBJECTED,
        Reason.OPTED_OUT,
        Reason.HELD,
    }
)
"""What we know ourselves of a person. Registers, bounces and a missing consent are no wish."""
LINES = 4
"""Columns for the lines of a postal address; further lines join the last one."""
COLUMNS: Mapping[Kind, tuple[str, ...]] = {
    Kind.EMAIL: ("email",),
    Kind.PHONE: ("phone",),
    Kind.MESSENGER: ("messenger",),
    Kind.POST: ("name", *(f"line_{n}" for n in range(1, LINES + 1)), "postcode", "country"),
}
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""First characters of what a spreadsheet takes for a formula:
https://owasp.org/www-community/attacks/CSV_Injection"""
TOLD_EVERY = 5000


@dataclass
class Job:
    """One list on its way."""

    served: Service
    brand: str
    channel: Channel
    sort: str
    """csv or ndjson."""
    hashed: bool
    formula_safe: bool
    console: Console | None
    listed: int = 0
    hash_only: int = 0

    @property
    def kind(self) -> Kind:
        return KIND_OF[self.channel]

    @property
    def columns(self) -> tuple[str, ...]:
        return ("sha256",) if self.hashed else COLUMNS[self.kind]


def run(job: Job, out: Path | IO[bytes]) -> dict[str, Any]:
    """Write the list to a path, or, once it is whole, to a stream. Raises Unavailable."""
    folder = out.parent if isinstance(out, Path) else None
    with _unfinished(folder) as (file, path):
        at = job.served.clock()
        _tell(job, lambda conn, status: _write(conn, job, at, file, status))
        file.flush()
        if isinstance(out, Path):
            os.fsync(file.fileno())
            path.replace(out)
        else:
            file.seek(0)
            while piece := file.read(64 * 1024):
                out.write(piece)
            out.flush()
    return {
        "brand": job.brand,
        "channel": job.channel.value,
        "at": at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "listed": job.listed,
        "hash_only": job.hash_only,
        "out": str(out) if isinstance(out, Path) else None,
    }


@contextmanager
def _unfinished(folder: Path | None) -> Iterator[tuple[IO[bytes], Path]]:
    """A file for our eyes alone (0600), gone at the end unless it was moved away."""
    handle, name = tempfile.mkstemp(prefix=".prefs-export-", dir=folder)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file, Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _tell(job: Job, work: Callable[[Connection, Status | None], None]) -> None:
    if job.console is None:
        job.served.database.read_now(lambda conn: work(conn, None))
        return
    with job.console.status("reading", spinner="dots") as status:
        job.served.database.read_now(lambda conn: work(conn, status))


# --- the list ----------------------------------------------------------------------------------


def _write(
    conn: Connection, job: Job, at: datetime, file: IO[bytes], status: Status | None
) -> None:
    add = _adder(job, file)
    for who in _denied(conn, job, at.timestamp()):
        add(cells_of(job, who))
        job.listed += 1
        if status and job.listed % TOLD_EVERY == 0:
            status.update(f"{job.listed:,} listed")


def _denied(conn: Connection, job: Job, now: float) -> Iterator[str]:
    """Their spellings. Who is left by hash alone is counted."""
    ask = Ask(Scope(job.channel, Purpose.MARKETING))
    keys, controller = job.served.keys, job.served.intake.brands[job.brand]
    for known in stopped.held_of(conn, controller, job.brand, job.kind, keys):
        if decide(ask, known.held, now).reason not in LISTED:
            continue
        if known.spelling is None:
            job.hash_only += 1
        else:
            yield known.spelling


def cells_of(job: Job, spelling: str) -> Sequence[str]:
    if job.hashed:
        return [hashlib.sha256(normalised(job.kind, spelling).encode()).hexdigest()]
    return postal(spelling) if job.kind is Kind.POST else [spelling]


def normalised(kind: Kind, spelling: str) -> str:
    """What is hashed here too: the key of prefs/core/identity.py. A sender's name that a gateway
    gave stands as it is."""
    try:
        return _identifier(kind, spelling).key
    except BadIdentifier:
        return spelling


def _identifier(kind: Kind, spelling: str) -> Identifier:
    if kind is Kind.EMAIL:
        return identity.email(spelling)
    if kind is not Kind.POST:
        return Identifier(kind, spelling, spelling)
    name, *lines, postcode, country = postal(spelling)
    return identity.post(name, lines, postcode, country or None)


def postal(spelling: str) -> list[str]:
    """Name, lines, postcode, country: their lines as `identity.post` put them together."""
    name, *rest = spelling.split("\n")
    country = rest.pop() if len(rest) > 2 and _is_country(rest[-1]) else ""
    postcode = rest.pop() if rest else ""
    lines = [*rest[: LINES - 1], ", ".join(rest[LINES - 1 :])]
    return [name, *lines, *[""] * (LINES - len(lines)), postcode, country]


def _is_country(text: str) -> bool:
    """Two capital letters (ISO 3166-1): no postcode is so short."""
    return len(text) == 2 and text.isalpha() and text.isupper()


def _adder(job: Job, file: IO[bytes]) -> Callable[[Sequence[str]], None]:
    if job.sort == "ndjson":
        return lambda cells: _add_line(job, file, cells)
    text = _Encoded(file)
    writer = csv.writer(text)
    writer.writerow(job.columns)
    safe = _safe if job.formula_safe else list
    return lambda cells: writer.writerow(safe(cells))


def _add_line(job: Job, file: IO[bytes], cells: Sequence[str]) -> None:
    file.write(msgspec.json.encode(dict(zip(job.columns, cells, strict=True))) + b"\n")


def _safe(cells: Sequence[str]) -> list[str]:
    return [f"'{cell}" if cell.startswith(FORMULA) else cell for cell in cells]


class _Encoded:
    """What csv writes to."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, text: str) -> None:
        self._file.write(text.encode())


def shown(report: Mapping[str, Any]) -> str:
    lines = [f"{report['listed']} on the list of {report['channel']}, as of {report['at']}"]
    if report["hash_only"]:
        lines.append(
            f"{report['hash_only']} more are known by their hash only (erased) and cannot be "
            "written: check (or scrub) every list against this service before you send"
        )
    return "\n".join(lines)
