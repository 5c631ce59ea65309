"""What becomes of the marks: receipts, tasks for staff, and when the rest is looked at again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from sqlalchemy import Connection

from prefs import assisted
from prefs.core.decision import said_at
from prefs.core.errors import Temporary
from prefs.core.propagation import SETTLED, Absent, Observed, Outcome, Slot, Wish
from prefs.metrics import PROVED
from prefs.push.case import Case, Record, records_of, unread
from prefs.push.step import Step
from prefs.store import marks
from prefs.store.marks import Delay, Lease, Mark, Proof

OBSERVED_AGAIN = 86400.0
LOOK_AGAIN = 3600.0
"""Seconds until a task of staff that is past its due time is looked at again."""
SAID_MISSING = "staff found nobody like that there; whoever appears is looked at again"
SAID_DONE = "staff say it is done; the next read proves it"
REFUSED_AGAIN_AFTER = 3600.0
"""A refused `off` is tried again this often: staff may have mended it at the vendor."""


class Proving(Step):
    def prove(self, conn: Connection, lease: Lease, cases: Sequence[Case]) -> None:
        """Receipts and cleared marks, under our epoch only; if it is lost, mark again."""
        now = self.clock().timestamp()
        if not marks.set_lane(conn, lease, holder=lease.holder):
            again = [
                (self.target.label, case.mark.subject_id, case.mark.vendor_id) for case in cases
            ]
            marks.set_marks(conn, again, now, urgent=True)
            return
        self._ask_staff(conn, cases, now)
        cleared: list[Mark] = []
        delayed: list[Delay] = []
        proofs: list[Proof] = []
        for case in cases:
            delay = self._delay(case, now)
            (delayed.append(delay) if delay else cleared.append(case.mark))
            proofs += _proofs(case, delay)
        self._keep(conn, proofs, records_of(cases), now)
        marks.settle(conn, lease, cleared, delayed)

    def _ask_staff(self, conn: Connection, cases: Sequence[Case], now: float) -> None:
        """A task for what waits for staff and for each refused out; what they said is done counts
        until a read shows otherwise."""
        wanted: set[assisted.Asked] = set()
        known: set[int] = set()
        for case in cases:
            found = list(self._work(case))
            for record, slot, asked in found:
                record.proofs[slot] = self._asked(conn, record, record.proofs[slot], asked, now)
            wanted |= {asked for _, _, asked in found}
            if case.mark.subject_id and not _unknown(case):
                known.add(case.mark.subject_id)
        assisted.settle_rest(conn, self.intake.keys, self.target, known, wanted, now)

    def _work(self, case: Case) -> Iterable[tuple[Record, Slot, assisted.Asked]]:
        if not case.mark.subject_id:
            return
        kinds = {Outcome.WAITING_FOR_STAFF: assisted.change_of(self.target)}
        for record in case.records:
            for slot, proof in record.proofs.items():
                kind = kinds.get(proof.outcome)
                if proof.outcome is Outcome.REFUSED and proof.wish is Wish.OFF:
                    kind = assisted.REFUSED
                if kind:
                    subject_id = case.mark.subject_id
                    yield record, slot, assisted.Asked(kind, subject_id, slot.channel, proof.wish)

    def _asked(
        self, conn: Connection, record: Record, proof: Proof, asked: assisted.Asked, now: float
    ) -> Proof:
        receipt = record.receipts.get(proof.slot.place)
        read = record.read if isinstance(record.read, Observed) else None
        began = read.read_began if read else receipt and receipt.seen_began
        said = said_at(proof.slot, asked.to, record.held)
        found = assisted.ask(
            conn,
            self.intake.keys,
            self.target,
            asked,
            max(said, began.timestamp() if began else 0.0),
            proof.reason or "",
            now,
        )
        if found.missing:
            return proof._replace(outcome=Outcome.ABSENT, reason=SAID_MISSING)
        if found.done_at:
            return proof._replace(outcome=Outcome.ACCEPTED, reason=SAID_DONE)
        if proof.outcome is Outcome.WAITING_FOR_STAFF:
            record.waits[proof.slot] = max(found.due_at - now, LOOK_AGAIN)
        return proof

    def _keep(
        self, conn: Connection, proofs: Sequence[Proof], records: Sequence[Record], now: float
    ) -> None:
        label = self.target.label
        marks.write_receipts(conn, label, proofs, now)
        for outcome, count in Counter(proof.outcome for proof in proofs).items():
            PROVED.labels(label, outcome.value).inc(count)
        kept = [
            (record.read.vendor_id, sorted(record.hashes))
            for record in records
            if record.hash and isinstance(record.read, Observed) and record.read.vendor_id
        ]
        marks.keep_records(conn, label, kept, now)

    def _delay(self, case: Case, now: float) -> Delay | None:
        """Why this mark must stay, or None when all of it is settled."""
        unsettled = case.mark.unsettled_until
        if case.mark.claimed_before or any(record.unclear for record in case.records):
            unsettled = now + self.call_alive
        if any(record.stale for record in case.records):
            return Delay(
                case.mark, now, Outcome.PENDING, "read again: it changed meanwhile", unsettled
            )
        open_ = [
            (record, proof)
            for record in case.records
            for proof in record.proofs.values()
            if proof.outcome not in SETTLED and not _final(proof)
        ]
        if open_:
            return self._later(case, open_, now, unsettled)
        if fault := unread(case):
            wait = max(self.backoff.after(case.mark.attempts), fault.retry_after or 0.0)
            return Delay(case.mark, now + wait, Outcome.PENDING, str(fault), unsettled)
        if unsettled and unsettled > _known_since(case, now):
            due = max(unsettled, now)
            reason = "an earlier call may still be at work there; it is read again afterwards"
            return Delay(case.mark, due, Outcome.PENDING, reason, unsettled)
        return None

    def _later(
        self,
        case: Case,
        open_: Sequence[tuple[Record, Proof]],
        now: float,
        unsettled: float | None,
    ) -> Delay:
        wait = self.backoff.after(case.mark.attempts)
        wait = max([wait, *(record.retry_after or 0.0 for record, _ in open_)])
        wait = max(wait, min(record.waits.get(proof.slot, 0.0) for record, proof in open_))
        refused = next((p for _, p in open_ if p.outcome is Outcome.REFUSED), None)
        proof = refused or open_[0][1]
        if all(p.outcome is Outcome.REFUSED for _, p in open_):
            wait = REFUSED_AGAIN_AFTER
        if unsettled and unsettled <= now:
            unsettled = None
        urgent = unsettled is not None or any(p.wish is not Wish.ON for _, p in open_)
        reason = proof.reason or ""
        return Delay(case.mark, now + wait, proof.outcome, reason, unsettled, urgent=urgent)

    # --- where nothing is written ---------------------------------------------------------------

    async def keep_for_later(self, lease: Lease, cases: Sequence[Case]) -> None:
        now = self.clock().timestamp()
        hints = [case.mark for case in cases if not case.mark.subject_id and not unread(case)]
        later = [
            Delay(case.mark, now + self._looks_again(case), Outcome.PENDING, marks.OBSERVED)
            for case in cases
            if case.mark not in hints
        ]

        def keep(conn: Connection) -> None:
            marks.settle(conn, lease, hints, later)

        await self.database.write(keep)

    def _looks_again(self, case: Case) -> float:
        """Seconds; soon where something could not be read, or was read too early to tell."""
        failed = [r.read for r in case.records if isinstance(r.read, Temporary)]
        if not failed and not any(record.stale for record in case.records):
            return OBSERVED_AGAIN
        asked = max((one.retry_after or 0.0 for one in failed), default=0.0)
        return max(self.backoff.after(case.mark.attempts), asked)


def _proofs(case: Case, delay: Delay | None) -> Iterable[Proof]:
    """Of the records that are known by an identifier."""
    for record in case.records:
        for proof in record.proofs.values() if record.hash is not None else ():
            due_at = None if proof.outcome in SETTLED or not delay else delay.due_at
            yield proof._replace(opened_at=case.mark.since, due_at=due_at)


def _known_since(case: Case, now: float) -> float:
    """When the oldest of what this round read of its records was read; what cannot be read was told
    just now. A call that could still land after that is not over."""
    reads = (record.read for record in case.records)
    times = [r.read_began.timestamp() for r in reads if isinstance(r, Observed | Absent)]
    return min([now, *times])


def _unknown(case: Case) -> bool:
    """Whether this round learnt nothing of one of its records."""
    proofs = [proof for record in case.records for proof in record.proofs.values()]
    stale = any(record.stale for record in case.records)
    return stale or any(proof.outcome is Outcome.PENDING for proof in proofs)


def _final(proof: Proof) -> bool:
    """A refused `on` is news for staff, never tried again by itself."""
    return proof.outcome is Outcome.REFUSED and proof.wish is not Wish.OFF
