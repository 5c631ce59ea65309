"""Whom marks are about, and what the vendor shows of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial

from sqlalchemy import Connection

from prefs.core.errors import PropagationError, Temporary
from prefs.core.propagation import Absent, Observed, Readback, Ref
from prefs.push.case import Case, Record, pieces, records_of
from prefs.push.shown import identifiers_shown
from prefs.push.step import Step
from prefs.store import marks, subjects
from prefs.store.marks import Mark

UNANSWERED = "the read says nothing of this record"


class Reading(Step):
    async def cases(self, claimed: Sequence[Mark]) -> list[Case]:
        found: list[Case] = []
        for part in pieces(claimed):
            found += await self.database.read(partial(self._cases_of, claimed=part))
        return found

    def _cases_of(self, conn: Connection, claimed: Sequence[Mark]) -> list[Case]:
        known = subjects.identifiers_of(
            conn, [mark.subject_id for mark in claimed if mark.subject_id], self.intake.keys
        )
        return [
            Case(mark, list(self._records(conn, mark, known.get(mark.subject_id, []))))
            for mark in claimed
        ]

    def _records(
        self, conn: Connection, mark: Mark, known: Sequence[subjects.Known]
    ) -> Iterable[Record]:
        """A subject's records: one for each identifier that the target keys on. Where only the
        hash is left, the record is found by the vendor's id."""
        maybe_ours = mark.claimed_before or mark.unsettled_until is not None
        if mark.vendor_id:
            yield Record(Ref(None, "", mark.vendor_id), None, mark=mark, maybe_ours=maybe_ours)
        for one in known:
            if one.kind in self.connector.facts.keys_on:
                for ref in self._refs(conn, one):
                    yield Record(ref, one.hash, {one.hash}, mark, maybe_ours=maybe_ours)

    def _refs(self, conn: Connection, one: subjects.Known) -> list[Ref]:
        if one.spelling:
            return [Ref(one.kind, one.spelling)]
        found = marks.vendor_ids(conn, self.target.label, [one.hash])
        return [Ref(one.kind, "", vendor_id) for vendor_id in found.get(one.hash, [])]

    # --- the vendor ----------------------------------------------------------------------------

    async def read_all(self, cases: Sequence[Case]) -> None:
        await self._observe(records_of(cases))
        for part in pieces(cases):
            await self._look_by_id(part)

    async def _observe(self, records: Collection[Record]) -> None:
        if self.connector.facts.readback is Readback.NONE:
            return
        found = await self.read([record.ref for record in records])
        for record in records:
            record.read = found.get(record.ref)
        await self._name(records)

    async def _look_by_id(self, cases: Sequence[Case]) -> None:
        """Whom no search finds a walk may have shown: numbers are typed in many ways. Such a record
        is read by its id, and counts if it still shows what was searched for."""
        lost = [one for case in cases for one in case.records if _unfound(one)]
        hashes = {one.hash for one in lost if one.hash}
        if not hashes:
            return
        ids = await self.database.read(
            lambda conn: marks.vendor_ids(conn, self.target.label, hashes)
        )
        known = {
            id(one): [_by_id(one, id_) for id_ in ids.get(one.hash or b"", ())] for one in lost
        }
        await self._observe([one for found in known.values() for one in found])
        for case in cases:
            case.records = [r for one in case.records for r in self._found(one, known)]

    def _found(self, record: Record, known: Mapping[int, Sequence[Record]]) -> Sequence[Record]:
        return [one for one in known.get(id(record), ()) if self._still_shows(one)] or [record]

    def _still_shows(self, record: Record) -> bool:
        """Also true of what could not be read: that is unknown, not absent."""
        if not isinstance(record.read, Observed):
            return not isinstance(record.read, Absent)
        shown = identifiers_shown(record.read, self.target.region)
        return any(record.hash in self.intake.keys.hashes(one) for one in shown)

    async def read(self, refs: Sequence[Ref]) -> Mapping[Ref, Observed | Absent | PropagationError]:
        size = self.connector.facts.read_batch
        unique = list(dict.fromkeys(refs))
        parts = (unique[start : start + size] for start in range(0, len(unique), size))
        ask = partial(self.ask, self.connector.observe)
        found = dict(item for part in await self.beside(parts, ask) for item in part.items())
        return {ref: found.get(ref) or Temporary(UNANSWERED) for ref in unique}

    async def _name(self, records: Iterable[Record]) -> None:
        """A record that was read by the vendor's id alone is known by the addresses it shows."""
        shown = [
            (record, identifiers_shown(record.read, self.target.region))
            for record in records
            if isinstance(record.read, Observed)
        ]
        every = [one for _, of_record in shown for one in of_record]
        keys, controller = self.intake.keys, self.controller
        hashes = await self.database.read(
            lambda conn: subjects.hashes_of_known(conn, controller, keys, every)
        )
        for record, of_record in shown:
            for identifier in of_record:
                hash_ = hashes[identifier]
                record.hashes.add(hash_)
                if record.hash is None and identifier.kind in self.connector.facts.keys_on:
                    record.hash = hash_


def _unfound(record: Record) -> bool:
    return isinstance(record.read, Absent) and bool(record.ref.value and record.hash)


def _by_id(record: Record, vendor_id: str) -> Record:
    """The same identifier's record, to be read by the vendor's own id."""
    ref = Ref(record.ref.kind, "", vendor_id)
    hashes = set(record.hashes)
    return Record(ref, record.hash, hashes, record.mark, maybe_ours=record.maybe_ours)
