"""The poll: read a target page by page, take in what people did there, mark what differs.

Webhooks are hints; this carries the promise. Unknown is not empty: a page that cannot be read ends
the walk with its cursor kept, and nothing is concluded from what was not read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import NamedTuple

import structlog
from sqlalchemy import Connection

from prefs import merges, texts
from prefs.core.decision import NOBODY, Held, wholly_out, wish
from prefs.core.errors import Refused
from prefs.core.propagation import (
    Connector,
    Listens,
    Observed,
    Outcome,
    Page,
    Readback,
    Receipt,
    Ref,
    Seen,
    Slot,
    Target,
    Value,
    Verdict,
    Wish,
    judge,
    meets,
)
from prefs.core.signals import Identifier, Signal
from prefs.core.words import Source
from prefs.intake import Intake
from prefs.push.shown import heard_out, identifiers_shown
from prefs.store import batches, marks, permissions, subjects
from prefs.store.database import Store
from prefs.store.marks import Lease, Proof

log = structlog.get_logger()

UPLOAD = 500
"""Records of an upload in one transaction."""
WHOLE_EVERY = 86400.0
"""Seconds between walks from the beginning: only these show what is gone."""


class Direction(StrEnum):
    """What a difference between a vendor and us asks for."""

    TAKE = "take"
    """Off there, not known here: somebody's out."""
    PUSH = "push"
    """Not as wished: told again."""
    UNKNOWN = "unknown"
    """On there, nobody known here: never consent."""


@dataclass(slots=True)
class Row:
    """One record of a page with its identifiers. `keyed` are the hashes that receipts hang on."""

    ref: Ref
    read: Observed
    shown: list[Identifier]
    hashes: list[bytes]
    keyed: list[bytes]


class Finding(NamedTuple):
    """One slot of one record, compared with what stands here."""

    row: Row
    slot: Slot
    seen: Seen
    wished: Wish
    verdict: Verdict
    source: Source | None
    direction: Direction | None
    first: bool
    """The record was never seen before."""
    refused: bool
    """The vendor did not take what we last wished."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What stands here for the records of one page."""

    held: Mapping[bytes, Held]
    receipts: Mapping[tuple[bytes, str], Receipt]
    last: Mapping[bytes, datetime]
    records: set[str]


@dataclass
class Scan:
    target: Target
    connector: Connector
    database: Store
    intake: Intake
    clock: Callable[[], datetime]

    async def when_due(self, lease: Lease, every: float) -> None:
        """Scan if the last one is older than `every` seconds; once a day from the beginning."""
        now = self.clock().timestamp()
        row = await self.database.read(lambda conn: marks.lane(conn, self.target.label))
        if row is None or (row.scanned_at is not None and now - row.scanned_at < every):
            return
        whole = row.walked_at is not None and now - row.walked_at >= WHOLE_EVERY
        await self.run(lease, None if whole else row.cursor)

    async def run(self, lease: Lease, cursor: str | None) -> None:
        """One walk from the cursor on. Raises what the connector raises; the cursor is kept."""
        began = self.clock().timestamp()
        complete = False
        async for page in self.connector.scan(cursor):
            await self.database.write(partial(self._take, lease=lease, page=page))
            complete = page.complete
        if isinstance(self.connector, Listens):
            await self._listen(self.connector, lease)
        await self.database.write(partial(self._polled, lease=lease, began=began))
        if complete and cursor is None:
            await self.database.write(lambda conn: self._walked(conn, lease, began))

    def _polled(self, conn: Connection, lease: Lease, began: float) -> None:
        marks.set_lane(conn, lease, scanned_at=began)
        self.over(conn, batches.GATHER)

    def over(self, conn: Connection, wait: float = 0.0) -> None:
        """Nothing more comes of a walk: the outs in it that no person said go out after `wait`
        seconds, unless they are many."""
        due = self.clock().timestamp() + wait
        batches.walked(conn, self.target.brand, self.target.label, due)

    def _walked(self, conn: Connection, lease: Lease, began: float) -> None:
        """What neither of the last two complete walks saw is gone: its people are looked at
        again."""
        row = marks.lane(conn, self.target.label)
        if row and row.walked_at is not None:
            hashes = marks.gone(conn, self.target.label, row.walked_at, began)
            self._mark_owners(conn, hashes)
        marks.set_lane(conn, lease, walked_at=began)

    async def _listen(self, connector: Listens, lease: Lease) -> None:
        _, cursor = await self._hear(connector)
        await self.database.write(partial(marks.set_lane, lease=lease, inbound_cursor=cursor))

    async def listen_once(self) -> int:
        """Read what people sent since the last poll; returns how many messages."""
        if not isinstance(self.connector, Listens):
            return 0
        count, _ = await self._hear(self.connector)
        return count

    async def _hear(self, connector: Listens) -> tuple[int, str]:
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
        return len(found), cursor

    async def upload(self, page: Page) -> None:
        """An export that staff brought: a complete one is taken as a walk of everybody."""
        now = self.clock().timestamp()

        def walked(conn: Connection) -> None:
            row = marks.lane(conn, self.target.label)
            before = row.walked_at if row else None
            if before is not None:
                self._mark_owners(conn, marks.gone(conn, self.target.label, before, now))
            marks.uploaded(conn, self.target.label, now)
            self.over(conn)
            merges.exported(conn, self.intake.keys, self.target.brand, self.target.label)

        for start in range(0, len(page.records), UPLOAD):
            part = Page(page.records[start : start + UPLOAD])
            await self.database.write(partial(self._act_on, page=part))
        if page.complete:
            await self.database.write(walked)

    def _act_on(self, conn: Connection, page: Page) -> None:
        self.act(conn, self.compare(conn, page))

    # --- compare -------------------------------------------------------------------------------

    def compare(self, conn: Connection, page: Page) -> list[Finding]:
        """Every slot of a page's records against what stands here; writes nothing."""
        rows = self._rows(conn, page)
        known, slots = self._known(conn, rows), self.connector.slots
        found = [one for row in rows for one in self._compare(row, known, slots)]
        return self._doubted(conn, found)

    def _rows(self, conn: Connection, page: Page) -> list[Row]:
        """Of the records that show somebody."""
        shown = [identifiers_shown(read, self.target.region) for _, read in page.records]
        controller, keys = self.intake.brands[self.target.brand], self.intake.keys
        every = [one for of_record in shown for one in of_record]
        hashes = subjects.hashes_of_known(conn, controller, keys, every)
        return [
            self._row(ref, read, of_record, hashes)
            for (ref, read), of_record in zip(page.records, shown, strict=True)
            if of_record
        ]

    def _row(
        self,
        ref: Ref,
        read: Observed,
        shown: list[Identifier],
        hashes: Mapping[Identifier, bytes],
    ) -> Row:
        kinds = self.connector.facts.keys_on
        own = [hashes[one] for one in shown]
        keyed = [hashes[one] for one in shown if one.kind in kinds]
        return Row(ref, read, shown, own, keyed or own[:1])

    def _known(self, conn: Connection, rows: Sequence[Row]) -> _Known:
        hashes = {hash_ for row in rows for hash_ in row.hashes}
        ids = {row.read.vendor_id for row in rows if row.read.vendor_id}
        return _Known(
            permissions.read(conn, self.target.brand, hashes),
            marks.read_receipts(conn, self.target.label, hashes),
            subjects.last_rows(conn, self.intake.brands[self.target.brand], hashes),
            marks.known_records(conn, self.target.label, ids),
        )

    def _compare(self, row: Row, known: _Known, slots: Sequence[Slot]) -> Iterator[Finding]:
        held = [known.held.get(hash_, NOBODY) for hash_ in row.hashes]
        times = [known.last[hash_] for hash_ in row.hashes if hash_ in known.last]
        for slot in slots:
            if slot not in row.read.values:
                continue
            seen, wished = row.read.values[slot], wish(slot, held)
            kept = [known.receipts.get((hash_, slot.place)) for hash_ in row.keyed]
            receipt = next(filter(None, kept), None)
            began = row.read.read_began
            last, now = max(times, default=None), self.clock()
            verdict, source = judge(seen, began, receipt, wished, last, now)
            if self.connector.facts.assisted and wished is Wish.OFF and verdict is Verdict.OUT:
                verdict = Verdict.NOTHING  # staff did what we asked for
            id_ = row.read.vendor_id
            first = id_ not in known.records if id_ else receipt is None
            direction = _direction(verdict, seen.value, wished, receipt, nobody=first and not times)
            if direction is Direction.TAKE and wholly_out(slot, held):
                direction = None
            refused = receipt is not None and receipt.refused is not None
            yield Finding(row, slot, seen, wished, verdict, source, direction, first, refused)

    def _doubted(self, conn: Connection, found: list[Finding]) -> list[Finding]:
        """An `off` of somebody whom a push is about just now may be that push's own: until it is
        proved, nobody can tell, and the lane reads again."""
        outs = [one.row for one in found if one.verdict is Verdict.OUT]
        hashes = {hash_ for row in outs for hash_ in row.hashes}
        ids = {row.read.vendor_id for row in outs if row.read.vendor_id}
        busy = marks.pushed_now(conn, self.target.label, hashes, ids)
        return [_doubt(one, busy) for one in found] if busy else found

    # --- take in -------------------------------------------------------------------------------

    def _take(self, conn: Connection, lease: Lease, page: Page) -> None:
        found = self.compare(conn, page)
        self.act(conn, found)
        if page.next_cursor is not None:
            marks.set_lane(conn, lease, cursor=page.next_cursor)

    def act(self, conn: Connection, found: Sequence[Finding], *, ons: bool = False) -> None:
        """Take outs in, mark what differs, remember what is as it should be. What the vendor
        refused is tried again only with `ons`: an `on` may mail the person, and an `off` has a
        mark of its own, which tries again hourly."""
        rows = {id(one.row): one.row for one in found}.values()
        now = self.clock().timestamp()
        ids = [(row.read.vendor_id, row.hashes) for row in rows if row.read.vendor_id]
        marks.keep_records(conn, self.target.label, ids, now)
        again: set[bytes] = set()
        proofs: list[Proof] = []
        signals: list[Signal] = []
        for one in found:
            if one.verdict is Verdict.OUT and one.source:
                signals.append(self._heard(one, one.source))
                proofs += self._seen(one, Wish.OFF)
            elif one.verdict is Verdict.READ_AGAIN or _pushes(one, ons=ons):
                again |= set(one.row.hashes)
                if self.connector.facts.assisted:
                    # Nothing else will read it.
                    proofs += self._seen(one, one.wished, Outcome.PENDING)
            elif meets(one.seen.value, one.wished):
                proofs += self._seen(one, one.wished)
                if one.refused or self.connector.facts.assisted:
                    again |= set(one.row.hashes)
        self.intake.record_many(conn, signals, walking=True)
        marks.write_receipts(conn, self.target.label, proofs, now)
        self._mark_owners(conn, again)

    def _heard(self, one: Finding, source: Source) -> Signal:
        return heard_out(self.target, one.row.read, one.slot, one.seen, source)

    def _seen(self, one: Finding, wished: Wish, outcome: Outcome | None = None) -> Iterator[Proof]:
        outcome = outcome or self._met(one.slot)
        began = one.row.read.read_began.timestamp()
        for hash_ in one.row.keyed:
            yield Proof(hash_, one.slot, wished, outcome, None, one.seen.value, began)

    def _met(self, slot: Slot) -> Outcome:
        facts = self.connector.facts
        if facts.readback is Readback.NONE and not facts.assisted:
            return Outcome.ACCEPTED
        return Outcome.CONFIRMED if slot.enforced else Outcome.RECORDED

    def _mark_owners(self, conn: Connection, hashes: Collection[bytes]) -> None:
        """The lane reads these people's records again and brings them to their wish."""
        if not hashes:
            return
        controller = self.intake.brands[self.target.brand]
        wanted = [
            (self.target.label, subject_id, "")
            for subject_id in subjects.owners(conn, controller, hashes)
        ]
        marks.set_marks(conn, wanted, self.clock().timestamp(), urgent=True)


def _doubt(one: Finding, busy: Collection[bytes | str | None]) -> Finding:
    names = (*one.row.hashes, one.row.read.vendor_id)
    if one.verdict is not Verdict.OUT or not any(name in busy for name in names):
        return one
    return one._replace(verdict=Verdict.READ_AGAIN, direction=None)


def _pushes(one: Finding, *, ons: bool) -> bool:
    asked = (one.wished is Wish.OFF and not one.refused) or one.first or ons
    return one.direction is Direction.PUSH and asked


def _direction(
    verdict: Verdict, value: Value, wished: Wish, receipt: Receipt | None, *, nobody: bool
) -> Direction | None:
    if verdict is Verdict.OUT:
        return Direction.TAKE
    if verdict is Verdict.SEEN_ON and nobody:
        return Direction.UNKNOWN
    if verdict is Verdict.READ_AGAIN or meets(value, wished):
        return None
    refused = receipt is not None and receipt.refused is not None
    return None if refused and wished is Wish.ON else Direction.PUSH
