"""The poll: read a target page by page, take in what people did there, mark what differs.

Webhooks are hints; this carries the promise. Unknown is not empty: a page that cannot be read ends
the walk with its cursor kept, and nothing is concluded from what was not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import structlog
from sqlalchemy import Connection

from prefs import texts
from prefs.core.decision import NOBODY, wish
from prefs.core.errors import Refused
from prefs.core.propagation import (
    Connector,
    Listens,
    Observed,
    Outcome,
    Page,
    Readback,
    Ref,
    Seen,
    Slot,
    Target,
    Verdict,
    Wish,
    judge,
    meets,
)
from prefs.core.signals import Identifier
from prefs.intake import Intake
from prefs.push import heard_out, identifiers_shown
from prefs.store import marks, permissions, subjects
from prefs.store.database import Database
from prefs.store.marks import Lease, Proof

log = structlog.get_logger()


@dataclass(slots=True)
class _Row:
    """One record of a page with what we know of it."""

    ref: Ref
    read: Observed
    shown: list[Identifier]
    hashes: list[bytes]


@dataclass
class Scan:
    target: Target
    connector: Connector
    database: Database
    intake: Intake
    clock: Callable[[], datetime]

    async def when_due(self, lease: Lease, every: float) -> None:
        """Scan if the last one is older than `every` seconds."""
        now = self.clock().timestamp()
        row = await self.database.read(lambda conn: marks.lane(conn, self.target.label))
        if row is None or (row.scanned_at is not None and now - row.scanned_at < every):
            return
        await self.run(lease, row.cursor)

    async def run(self, lease: Lease, cursor: str | None) -> None:
        """One walk from the cursor on. Raises what the connector raises; the cursor is kept."""
        began = self.clock().timestamp()
        async for page in self.connector.scan(cursor):
            await self.database.write(partial(self._take, lease=lease, page=page))
        if isinstance(self.connector, Listens):
            await self._listen(self.connector, lease)
        await self.database.write(lambda conn: marks.set_lane(conn, lease, scanned_at=began))

    async def _listen(self, connector: Listens, lease: Lease) -> None:
        """Texts whose webhook never came; one that did come is a duplicate."""
        row = await self.database.read(lambda conn: marks.lane(conn, self.target.label))
        found, cursor = await connector.inbound(row.inbound_cursor if row else None)
        for text in found:
            sent_at = None
            if texts.needs_time(self.target, text):
                try:
                    sent_at = await connector.message_time(text.message_id)
                except Refused:
                    continue  # deleted at the gateway: a START without its time lifts nothing
            await self.database.write(
                partial(
                    texts.take,
                    intake=self.intake,
                    target=self.target,
                    text=text,
                    raw=b"",
                    sent_at=sent_at,
                )
            )
        await self.database.write(partial(marks.set_lane, lease=lease, inbound_cursor=cursor))

    def _take(self, conn: Connection, lease: Lease, page: Page) -> None:
        rows = [self._row(ref, read) for ref, read in page.records]
        now = self.clock().timestamp()
        fresh = self._first_seen(conn, rows)
        marks.keep_records(
            conn,
            self.target.label,
            [(row.read.vendor_id, row.hashes) for row in rows if row.read.vendor_id],
            now,
        )
        for row in rows:
            if row.hashes:
                self._judge(conn, row, first=row.read.vendor_id in fresh)
        if page.next_cursor is not None:
            marks.set_lane(conn, lease, cursor=page.next_cursor)

    def _row(self, ref: Ref, read: Observed) -> _Row:
        shown = identifiers_shown(read, self.target.region)
        return _Row(ref, read, shown, [self.intake.keys.hashes(one)[0] for one in shown])

    def _first_seen(self, conn: Connection, rows: Sequence[_Row]) -> set[str]:
        ids = {row.read.vendor_id for row in rows if row.read.vendor_id}
        return ids - marks.known_records(conn, self.target.label, ids)

    def _judge(self, conn: Connection, row: _Row, *, first: bool) -> None:
        held = permissions.read(conn, self.target.brand, row.hashes)
        receipts = marks.read_receipts(conn, self.target.label, row.hashes)
        last = subjects.last_rows(conn, self.intake.brands[self.target.brand], row.hashes)
        last_row_at = max(last.values(), default=None)
        differs = False
        carried = set(self.connector.slots)
        for slot, seen in row.read.values.items():
            if slot not in carried:
                continue
            wished = wish(slot, [held.get(hash_, NOBODY) for hash_ in row.hashes])
            receipt = receipts.get((row.hashes[0], slot.place))
            verdict, source = judge(seen, row.read.read_began, receipt, wished, last_row_at)
            if verdict is Verdict.OUT and source:
                signal = heard_out(self.target, row.read, slot, seen, source)
                self.intake.record(conn, signal)
                self._remember(conn, row, slot, seen, Wish.OFF)
            elif verdict in (Verdict.PUSH_BACK, Verdict.READ_AGAIN):
                differs = True
            elif meets(seen.value, wished):
                self._remember(conn, row, slot, seen, wished)
            else:
                differs |= first
        if differs:
            self._mark(conn, row)

    def _remember(self, conn: Connection, row: _Row, slot: Slot, seen: Seen, wished: Wish) -> None:
        outcome = Outcome.CONFIRMED if slot.enforced else Outcome.RECORDED
        if self.connector.facts.readback is Readback.NONE:
            outcome = Outcome.ACCEPTED
        proof = Proof(
            row.hashes[0],
            slot,
            wished,
            outcome,
            None,
            seen.value,
            row.read.read_began.timestamp(),
        )
        marks.write_receipts(conn, self.target.label, [proof], self.clock().timestamp())

    def _mark(self, conn: Connection, row: _Row) -> None:
        """The lane reads this record again and brings it to its wish."""
        controller = self.intake.brands[self.target.brand]
        wanted: Iterable[tuple[str, int, str]] = [
            (self.target.label, subject_id, "")
            for subject_id in subjects.owners(conn, controller, row.hashes)
        ]
        marks.set_marks(conn, wanted, self.clock().timestamp(), urgent=True)
