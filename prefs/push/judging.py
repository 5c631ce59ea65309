"""What stands here, held against what was read: what a vendor's person said is taken in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection

from prefs.core.decision import NOBODY, wish
from prefs.core.propagation import Observed, Receipt, Seen, Value, Verdict, Wish, judge
from prefs.core.signals import DeliveryFact, Signal
from prefs.core.words import KIND_OF, Source
from prefs.push.case import Record
from prefs.push.shown import heard_out, identifiers_shown
from prefs.push.step import Step
from prefs.store import marks, permissions, subjects


class Judging(Step):
    async def learn(self, records: Sequence[Record]) -> None:
        """Load what stands, judge what was read, take in what a vendor's person said."""
        await self.database.read(lambda conn: self.load(conn, records))
        heard = [signal for record in records for signal in self._judge(record)]
        facts = [fact for record in records for fact in self._facts(record)]
        if heard or facts:
            await self.database.write(lambda conn: self._take(conn, heard, facts))
            await self.database.read(lambda conn: self.load(conn, records))

    def load(self, conn: Connection, records: Sequence[Record]) -> None:
        hashes = {hash_ for record in records for hash_ in record.hashes}
        held = permissions.read(conn, self.target.brand, hashes)
        kept = marks.read_receipts(conn, self.target.label, hashes)
        last = subjects.last_rows(conn, self.controller, hashes)
        for record in records:
            record.held = [held.get(hash_, NOBODY) for hash_ in sorted(record.hashes)]
            record.receipts = _kept_of(record, kept)
            times = [last[hash_] for hash_ in record.hashes if hash_ in last]
            record.last_row_at = max(times, default=None)
        if self.connector.facts.assisted:
            self._load_listed(conn, records)

    def _load_listed(self, conn: Connection, records: Sequence[Record]) -> None:
        """Once everybody there was uploaded, whom no record shows is not there."""
        row = marks.lane(conn, self.target.label)
        if row is None or row.walked_at is None:
            return
        hashes = {record.hash for record in records if record.hash}
        known = marks.vendor_ids(conn, self.target.label, hashes, present=True)
        for record in records:
            record.listed = record.hash in known

    def _judge(self, record: Record) -> Iterable[Signal]:
        if not isinstance(record.read, Observed):
            return
        for slot, seen in self.ours(record.read).items():
            wished = wish(slot, record.held)
            judged = judge(
                seen,
                record.read.read_began,
                record.receipts.get(slot.place),
                wished,
                record.last_row_at,
                self.clock(),
            )
            if judged.verdict is Verdict.READ_AGAIN:
                record.stale = True
            if judged.verdict is not Verdict.OUT or judged.source is None:
                continue
            if source := _whose(record, seen, wished, judged.source):
                yield heard_out(self.target, record.read, slot, seen, source)

    def _facts(self, record: Record) -> Iterable[DeliveryFact]:
        if not isinstance(record.read, Observed):
            return
        shown = [
            identifier
            for identifier in identifiers_shown(record.read, self.target.region)
            if identifier.kind in self.connector.facts.keys_on
        ]
        carried = set(self.connector.slots)
        for slot, seen in record.read.values.items():
            pair = (slot.channel, slot.purpose)
            known = any(pair in held.undeliverable for held in record.held)
            for identifier in (one for one in shown if one.kind is KIND_OF[slot.channel]):
                if seen.fact and not known:
                    yield DeliveryFact(identifier, slot.purpose, seen.fact)
                if known and not seen.fact and (seen.value is Value.ON or slot not in carried):
                    yield DeliveryFact(identifier, slot.purpose, "delivers", ended=True)

    def _take(
        self, conn: Connection, heard: Sequence[Signal], facts: Iterable[DeliveryFact]
    ) -> None:
        self.intake.record_many(conn, heard)
        for fact in facts:
            self.intake.fact(conn, self.target.brand, self.target.label, fact)


def _kept_of(record: Record, kept: Mapping[tuple[bytes, str], Receipt]) -> dict[str, Receipt]:
    """By place: what is kept under the record's own identifier, where that says nothing under
    another one that it shows. Else our own write would be news when it is met by another name."""
    found: dict[str, Receipt] = {}
    for (hash_, place), receipt in kept.items():
        tells = hash_ in record.hashes and (
            receipt.seen or receipt.written or receipt.refused is not None
        )
        if tells and (hash_ == record.hash or place not in found):
            found[place] = receipt
    return found


def _whose(record: Record, seen: Seen, wished: Wish, source: Source) -> Source | None:
    """Who said an `off` that a call of ours may have written, in words of the vendor's none: with
    an `off` wished it may be our own, and says nothing new. Else it counts, for what we know no end
    of may have been an `on`; of a worker that died nothing is known, and it is no person's own."""
    if not record.maybe_ours or seen.source is not None:
        return source
    if wished is Wish.OFF:
        return None
    died = record.mark is not None and record.mark.claimed_before
    return Source.VENDOR_API if died else source
