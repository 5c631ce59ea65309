"""prefs screen: what the telephone and mail preference registers say of a brand's numbers.

An import says that every number (for the MPS: every postal address) of the brand that was known at
the time of the screening was looked up; its file lists the ones that are on the register. Listed
ones are taken first, so that none of them counts as clean for a moment. Files are read line by
line, and an import that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.progress import Progress
from sqlalchemy import Connection

from prefs.core import identity
from prefs.core.decision import TPS_FRESH
from prefs.core.errors import BadInput
from prefs.core.screening import Register, Screened, binds_from, later
from prefs.core.signals import Identifier
from prefs.settings import Brand
from prefs.store import permissions, screenings, subjects
from prefs.store.screenings import DONE, Import
from prefs.web.context import Service

CHUNK = 1000
"""Lines, or numbers, a transaction: a chunk holds the writer and so delays every other record."""
FEW, PART = 10, 0.05
"""More listings than both, gone in one import, are rather a file that is not whole."""
SOON = 7 * 86400.0
"""How long before a screening runs out the next one is due."""
HEADINGS = frozenset({"number", "phone", "telephone", "tel", "address"})
BETWEEN = " | "
"""Between the lines of a postal address in one cell."""


class When(NamedTuple):
    """When the numbers were screened, and until when one must have been known to be among them."""

    at: float
    until: float


def when(text: str, brand: Brand, now: datetime) -> When:
    """A day of the brand's zone, or a moment (RFC 3339). A day counts from its beginning, so that
    it ages rather too early, and speaks for what was known until its end. Raises BadInput."""
    zone = ZoneInfo(brand.timezone)
    try:
        day = date.fromisoformat(text)
        began = datetime.combine(day, time(), zone)
        ended = datetime.combine(day + timedelta(days=1), time(), zone)
    except (ValueError, OverflowError):
        began = ended = _moment(text, zone)
    if began > now:
        raise BadInput("a screening cannot lie in the future", field="screened-at")
    return When(began.timestamp(), min(ended, now).timestamp())


def _moment(text: str, zone: ZoneInfo) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(
            "the time of the screening is a day such as 2026-03-02, or a moment such as "
            "2026-03-02T10:15:00+00:00",
            field="screened-at",
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)


# --- import ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One import on its way."""

    served: Service
    brand: Brand
    register: Register
    when: When
    file: Path
    lift: bool
    """A person says that all the listings which the file no longer shows are gone."""
    console: Console | None

    def write(self, job: Any) -> Any:
        return self.served.database.write_now(job)


class Stopped(NamedTuple):
    """Why nobody was declared clean: what must be mended, and how many it is about."""

    why: str
    about: int


def run(job: Job) -> dict[str, Any]:
    """Take a register's answer in. Where a line cannot be read, or too many listings would end at
    once, the listed ones count already and nobody is declared clean: `stopped` says why."""
    wanted = Import(job.brand.id, job.register, _digest(job.file), *job.when)
    now = job.served.clock().timestamp()
    begun = job.write(lambda conn: screenings.begin(conn, wanted, now))
    with Progress(console=job.console, disable=job.console is None) as progress:
        _take_listed(job, begun, progress)
        row = job.served.database.read_now(lambda conn: screenings.one(conn, begun.id))
        stopped = job.served.database.read_now(lambda conn: _stopped(conn, job, row))
        if stopped is None:
            _take_clean(job, row.id, progress)
            job.write(lambda conn: screenings.end(conn, row))
            row = job.served.database.read_now(lambda conn: screenings.one(conn, begun.id))
    return {
        "brand": job.brand.id,
        "register": job.register.value,
        "screened_at": datetime.fromtimestamp(job.when.at, UTC).isoformat(),
        "lines": row.lines,
        "listed": row.hits,
        "rejected": row.unreadable,
        "rejected_file": str(_rejected(job.file)) if row.unreadable else None,
        "screened": row.screened,
        "lifted": row.lifted,
        "done": row.state == DONE,
        "stopped": stopped._asdict() if stopped else None,
    }


def _digest(file: Path) -> bytes:
    with file.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").digest()


def _rejected(file: Path) -> Path:
    return file.with_name(f"{file.name}.rejected.csv")


def _take_listed(job: Job, begun: Any, progress: Progress) -> None:
    """The lines of the file, from where an earlier run stopped."""
    shown, done = progress.add_task("listed", total=None), begun.lines
    with job.file.open(newline="", encoding="utf-8-sig", errors="replace") as text:
        rows = islice(csv.reader(text), done, None)
        while chunk := list(islice(rows, CHUNK)):
            said, bad = _read(job, chunk[_headed(chunk) :] if not done else chunk)
            _write_rejected(job, bad, anew=not done)
            done += len(chunk)
            job.write(
                partial(_keep_listed, job=job, id_=begun.id, said=said, bad=len(bad), to=done)
            )
            progress.update(shown, completed=done)


def _headed(chunk: list[list[str]]) -> bool:
    """Whether the first line of a file only names its columns."""
    return bool(chunk[0]) and chunk[0][0].strip().lower() in HEADINGS


def _write_rejected(job: Job, rows: list[list[str]], *, anew: bool) -> None:
    if anew:
        _rejected(job.file).unlink(missing_ok=True)
    if rows:
        with _rejected(job.file).open("a", newline="", encoding="utf-8") as text:
            csv.writer(text).writerows(rows)


Said = dict[Identifier, Screened]


def _read(job: Job, rows: list[list[str]]) -> tuple[Said, list[list[str]]]:
    """What a chunk of lines says, and the lines that say nothing readable, with the reason."""
    said: Said = {}
    bad = []
    for row in rows:
        cells = [cell.strip() for cell in row if cell.strip()]
        if not cells:
            continue
        try:
            who, screened = line(cells, job.brand, job.register, job.when.at)
            said[who] = later(said.get(who), screened)
        except BadInput as fault:
            bad.append([*row, str(fault)])
    return said, bad


def line(
    cells: list[str], brand: Brand, register: Register, at: float
) -> tuple[Identifier, Screened]:
    """One line of a register's answer. Raises BadInput that repeats nothing of it."""
    zone = ZoneInfo(brand.timezone)
    listed_on = _day(cells[-1]) if len(cells) > 1 else None
    who = cells[:-1] if listed_on else cells
    if listed_on and listed_on > datetime.fromtimestamp(at, zone).date():
        raise BadInput("listed after it was screened: one of the two days is wrong")
    screened = Screened(at, binds_from(listed_on, at, zone))
    if register is Register.MPS:
        return address([part for cell in who for part in _parts(cell)]), screened
    if len(who) > 1:
        raise BadInput("a line is number[,listed_on] with a day such as 2026-03-02")
    return identity.phone(who[0], brand.region), screened


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _parts(cell: str) -> list[str]:
    """A postal address in one cell, as `export` writes it, or its lines as they are."""
    for between in (BETWEEN.strip(), "\n", ", "):
        if between in cell:
            return [part.strip() for part in cell.split(between) if part.strip()]
    return [cell]


def address(parts: list[str]) -> Identifier:
    """Name, lines, postcode, and the country where it was told."""
    country = parts[-1] if len(parts) > 3 and _is_country(parts[-1]) else None
    rest = parts[:-1] if country else parts
    if len(rest) < 3:
        raise BadInput("a postal address has a name, a line and a postcode")
    return identity.post(rest[0], rest[1:-1], rest[-1], country)


def _is_country(text: str) -> bool:
    """Two capital letters (ISO 3166-1): no British postcode is so short."""
    return len(text) == 2 and text.isalpha() and text.isupper()


def _keep_listed(conn: Connection, job: Job, id_: int, said: Said, bad: int, to: int) -> None:
    """One chunk, and how far it came, in one transaction."""
    found = _hashed(conn, job, said)
    taken = screenings.take(conn, job.brand.id, job.register, found)
    permissions.rescreen(conn, job.brand.id, taken.screenings)
    row = screenings.one(conn, id_)
    hits, unreadable = row.hits + len(said), row.unreadable + bad
    screenings.note(conn, id_, lines=to, hits=hits, unreadable=unreadable)


def _hashed(conn: Connection, job: Job, said: Said) -> dict[bytes, Screened]:
    keys, controller = job.served.keys, job.brand.controller
    hashes = subjects.hashes_of_known(conn, controller, keys, said)
    return {hashes[who]: what for who, what in said.items()}


def _stopped(conn: Connection, job: Job, row: Any) -> Stopped | None:
    if row.unreadable:
        return Stopped("unreadable", row.unreadable)
    lifts = screenings.count_to_lift(conn, job.brand.controller, row)
    listed = screenings.count_listed(conn, job.brand.id, job.register)
    many = lifts > max(FEW, PART * listed)
    return Stopped("many_lifted", lifts) if many and not job.lift else None


def _take_clean(job: Job, id_: int, progress: Progress) -> None:
    """Everybody known at the time who is not listed in the file: not on the register."""
    shown = progress.add_task("known", total=None)
    while walked := job.write(partial(_keep_clean, job=job, id_=id_)):
        progress.update(shown, advance=walked)


def _keep_clean(conn: Connection, job: Job, id_: int) -> int:
    """One chunk, and how far it came; returns how many it held."""
    row = screenings.one(conn, id_)
    controller, until = job.brand.controller, row.known_until
    found = screenings.known(conn, controller, job.register, until, row.walked_to, CHUNK)
    if found:
        clean = {one.hash: Screened(row.screened_at) for one in found}
        taken = screenings.take(conn, job.brand.id, job.register, clean)
        permissions.rescreen(conn, job.brand.id, taken.screenings)
        screened, lifted = row.screened + len(found), row.lifted + taken.lifted
        walked = {"walked_to": found[-1].hash, "screened": screened, "lifted": lifted}
        screenings.note(conn, id_, **walked)
    return len(found)


REMEDIES = {
    "unreadable": (
        "{count} lines could not be read, see {file}. The listed numbers count; nobody was "
        "declared free of the register: mend the lines and import the file again."
    ),
    "many_lifted": (
        "{count} that were listed are no longer in this file: more than 10 and more than one in "
        "twenty. The listed numbers count; nobody was declared free of the register. Is the file "
        "whole? If it is, import it again with --lift."
    ),
}


def shown(report: dict[str, Any]) -> str:
    lines = [f"{report['listed']} on the {report['register'].upper()}"]
    if report["done"]:
        lines.append(f"{report['screened']} known ones screened, {report['lifted']} listings ended")
    if stopped := report["stopped"]:
        text = REMEDIES[stopped["why"]]
        lines.append(text.format(count=stopped["about"], file=report["rejected_file"]))
    return "\n".join(lines)


# --- export ------------------------------------------------------------------------------------


def is_due(served: Service, brand: Brand, register: Register, now: float) -> bool:
    """Whether some number of the brand must be screened within the next days, or never was."""
    since = now - (TPS_FRESH - SOON)
    return served.database.read_now(
        lambda conn: screenings.any_due(conn, brand.controller, brand.id, register, now, since)
    )


def export(served: Service, brand: Brand, register: Register, to: IO[str], now: float) -> int:
    """Write every number (address) of the brand, one a line; returns how many.

    All of them, also those whose own screening lasts a while: the import that follows speaks for
    every number that is known, and would end the listing of one that was never asked about.
    """
    writer, count = csv.writer(to, lineterminator="\n"), 0
    for page in _pages(served, brand, register, now):
        writer.writerows([BETWEEN.join(spelling.split("\n"))] for spelling in page)
        count += len(page)
    return count


def _pages(served: Service, brand: Brand, register: Register, now: float) -> Iterator[list[str]]:
    after = b""
    while rows := served.database.read_now(
        partial(
            screenings.known,
            controller=brand.controller,
            register=register,
            until=now,
            after=after,
            size=CHUNK,
        )
    ):
        yield list(_spellings(served, rows))
        after = rows[-1].hash


def _spellings(served: Service, rows: Iterable[Any]) -> Iterator[str]:
    for row in rows:
        yield served.keys.decrypt(row.spelling, row.hash).decode()
