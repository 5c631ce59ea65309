"""prefs sync: read the vendors from end to end and say what differs, with the direction.

Reading writes nothing. Applying takes outs in, marks the rest, and waits for the lanes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

from rich.table import Table
from sqlalchemy import Connection

from prefs import assisted
from prefs.core import identity
from prefs.core.errors import BadInput, PropagationError
from prefs.core.ids import subject_text
from prefs.core.propagation import Listens, Page, Readback, Verdict
from prefs.mailbox import PLACE, Away, Mailbox
from prefs.scan import Direction, Finding, Row, Scan
from prefs.store import subjects

Progress = Callable[[str, int], None]
AT_ONCE = 500
LATER = frozenset({Verdict.OUT, Verdict.PUSH_BACK, Verdict.READ_AGAIN})


@dataclass
class Report:
    """What the walk through one target found."""

    target: str
    system: str
    live: bool
    records: int = 0
    complete: bool = False
    error: str | None = None
    differences: list[dict[str, Any]] = field(default_factory=list)
    open: list[Row] = field(default_factory=list)
    """Records that differ, until `settle`."""

    def count(self, direction: Direction) -> int:
        return sum(one["direction"] == direction for one in self.differences)

    def summary(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "system": self.system,
            "mode": "live" if self.live else "observe",
            "records": self.records,
            "complete": self.complete,
            "error": self.error,
            **{direction.value: self.count(direction) for direction in Direction},
        }


async def walk(scan: Scan, tell: Progress, *, apply: bool) -> Report:
    """Read one target from end to end. A page that cannot be read ends the walk: what was found
    until then is told, and that it is not all."""
    report = Report(scan.target.label, scan.target.system, scan.target.live)
    try:
        async for page in scan.connector.scan(None):
            await _page(scan, page, report, apply=apply)
            tell(scan.target.label, report.records)
    except PropagationError as fault:
        report.error = str(fault)
    return report


async def _page(scan: Scan, page: Page, report: Report, *, apply: bool) -> None:
    """Compare one page. What agrees is remembered at once; what differs is kept for `settle`, so
    that no target's difference hides in another one's repair."""

    def look(conn: Connection) -> None:
        found = scan.compare(conn, page)
        report.differences += [_told(conn, scan, one) for one in found if one.direction]
        open_ = {id(one.row) for one in found if one.direction or one.verdict in LATER}
        if apply:
            report.open += {id(r): r for one in found if id(r := one.row) in open_}.values()
            scan.act(conn, [one for one in found if id(one.row) not in open_])

    await (scan.database.write(look) if apply else scan.database.read(look))
    report.records += len(page.records)
    report.complete = page.complete


async def settle(scan: Scan, report: Report) -> None:
    """Take outs in and mark the rest, each judged again by what stands now."""

    def act(conn: Connection, rows: Sequence[Row]) -> None:
        page = Page(tuple((row.ref, row.read) for row in rows))
        scan.act(conn, scan.compare(conn, page), ons=True)

    for start in range(0, len(report.open), AT_ONCE):
        rows = report.open[start : start + AT_ONCE]
        await scan.database.write(partial(act, rows=rows))
    if report.open:
        await scan.database.write(scan.over)


def _told(conn: Connection, scan: Scan, one: Finding) -> dict[str, Any]:
    """A difference without the address itself."""
    controller = scan.intake.brands[scan.target.brand]
    owners = subjects.owners(conn, controller, one.row.hashes)
    return {
        "target": scan.target.label,
        "channel": one.slot.channel.value,
        "place": one.slot.place,
        "topics": list(one.slot.topics),
        "who": identity.masked(one.row.shown[0]),
        "subject_ids": [subject_text(owner) for owner in owners],
        "ours": one.wished.value,
        "theirs": one.seen.value.value,
        "source": one.source.value if one.source else None,
        "direction": one.direction.value if one.direction else None,
    }


async def inbox(scan: Scan, tell: Progress) -> Report | None:
    """Read the messages that people sent to a gateway; None where it keeps none."""
    if not isinstance(scan.connector, Listens):
        return None
    report = Report(scan.target.label, scan.target.system, scan.target.live)
    try:
        report.records = await scan.listen_once()
        report.complete = True
    except PropagationError as fault:
        report.error = str(fault)
    tell(scan.target.label, report.records)
    return report


@runtime_checkable
class Uploaded(Protocol):
    """A connector of a system that only its own export shows."""

    def read_export(self, data: bytes) -> Export:
        """Raises BadInput."""


class Export(Protocol):
    @property
    def page(self) -> Page: ...

    @property
    def bad(self) -> int: ...


def export_of(scan: Scan, data: bytes) -> Export:
    """What a system's own export shows. Raises BadInput."""
    if not isinstance(scan.connector, Uploaded):
        raise BadInput(f"{scan.target.label} is read by its interface, not from a file")
    return scan.connector.read_export(data)


async def upload(scan: Scan, data: bytes, *, apply: bool) -> Report:
    """What staff brought: the system's own export, or our list of tasks with what is done.
    Raises BadInput."""
    report = Report(scan.target.label, scan.target.system, scan.target.live)
    rows = _table(data)
    if rows and assisted.is_list(list(rows[0])):
        await _ticked(scan, rows, report, apply=apply)
        return report
    export = export_of(scan, data)

    def look(conn: Connection) -> None:
        found = scan.compare(conn, export.page)
        report.differences += [_told(conn, scan, one) for one in found if one.direction]

    await scan.database.read(look)
    report.records, report.complete = len(export.page.records), export.bad == 0
    if export.bad:
        report.error = f"{export.bad} rows could not be read: a word or an address that is none"
    if apply:
        await scan.upload(export.page)
    return report


def _table(data: bytes) -> list[dict[str, str]]:
    """Raises BadInput."""
    text = io.StringIO(data.decode("utf-8-sig", "replace"), newline="")
    try:
        return list(csv.DictReader(text))
    except csv.Error:
        raise BadInput("the file is no CSV: bring it as it was downloaded") from None


async def _ticked(
    scan: Scan, rows: Sequence[Mapping[str, str]], report: Report, *, apply: bool
) -> None:
    def tick(conn: Connection) -> None:
        now = scan.clock().timestamp()
        done = assisted.take_list(conn, scan.intake.keys, scan.target, rows, now)
        report.records = done.done

    if apply:
        await scan.database.write(tick)
    report.complete = True


async def letters(box: Mailbox, tell: Progress) -> Report:
    """Read the mailbox that people unsubscribe by."""
    report = Report(PLACE, "imap", live=True)
    try:
        report.records = await box.read()
        report.complete = True
    except Away as fault:
        report.error = str(fault)
    tell(PLACE, report.records)
    return report


def readable(scans: Sequence[Scan]) -> Iterator[Scan]:
    """The targets that can say what they hold."""
    return (s for s in scans if s.connector.facts.readback is not Readback.NONE)


def shown(reports: Sequence[Report], most: int = 40) -> Table:
    """The drift table: one line a difference, the first ones, and the sums."""
    table = Table("target", "channel", "who", "ours", "theirs", "direction")
    rows = [one for report in reports for one in report.differences]
    for one in rows[:most]:
        cells = ("target", "channel", "who", "ours", "theirs", "direction")
        table.add_row(*(str(one[name]) for name in cells))
    if len(rows) > most:
        table.add_row(f"... and {len(rows) - most} more (--json lists all)", *[""] * 5)
    for report in reports:
        said = report.error or ("" if report.complete else "incomplete")
        sums = ", ".join(f"{report.count(one)} {one.value}" for one in Direction)
        table.add_row(f"{report.target}: {report.records} records", "", said, "", "", sums)
    return table
