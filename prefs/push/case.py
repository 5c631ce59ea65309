"""What a round is about: claimed marks, the vendor's records of each, what it learns of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from prefs.core.decision import Held
from prefs.core.errors import PropagationError, Temporary
from prefs.core.propagation import Absent, Observed, Outcome, Receipt, Ref, Slot, Value, Wish
from prefs.store.marks import Mark, Proof

T = TypeVar("T")

PIECE = 500
"""Marks that one transaction is about, however many a round carries: nobody waits longer for the
database."""


@dataclass(slots=True)
class Record:
    """One vendor record of one claimed mark, and what this round learns about it."""

    ref: Ref
    hash: bytes | None
    hashes: set[bytes] = field(default_factory=set)
    mark: Mark | None = None
    read: Observed | Absent | PropagationError | None = None
    held: list[Held] = field(default_factory=list)
    receipts: dict[str, Receipt] = field(default_factory=dict)
    last_row_at: datetime | None = None
    proofs: dict[Slot, Proof] = field(default_factory=dict)
    maybe_ours: bool = False
    """A call of ours that we know no end of may have written what is read."""
    unclear: bool = False
    retry_after: float | None = None
    waits: dict[Slot, float] = field(default_factory=dict)
    """Seconds until a slot that waits for a person is looked at again."""
    stale: bool = False
    listed: bool = True
    """False where a complete upload shows no such record at an assisted target."""

    def note(
        self,
        slot: Slot,
        wished: Wish,
        outcome: Outcome,
        reason: str | None,
        seen: Value | None = None,
        seen_began: float | None = None,
        written: Wish | None = None,
        ended: float | None = None,
    ) -> None:
        self.proofs[slot] = Proof(
            self.hash or b"", slot, wished, outcome, reason, seen, seen_began, written, ended
        )

    def fail(
        self,
        slot: Slot,
        wished: Wish,
        fault: PropagationError,
        written: Wish | None = None,
        ended: float | None = None,
    ) -> None:
        """What a read or a write that failed leaves to try again; `written` is what may be there
        all the same."""
        if not isinstance(fault, Temporary):
            self.note(slot, wished, Outcome.REFUSED, str(fault))
            return
        self.retry_after = max(self.retry_after or 0.0, fault.retry_after or 0.0)
        self.note(slot, wished, Outcome.PENDING, str(fault), written=written, ended=ended)

    def refused(self, slot: Slot) -> str | None:
        """Why the vendor did not take it the last time, where it did not."""
        receipt = self.receipts.get(slot.place)
        return receipt.refused if receipt else None


@dataclass(slots=True)
class Case:
    """One claimed mark with the records it is about."""

    mark: Mark
    records: list[Record]


def pieces(items: Sequence[T]) -> Iterable[Sequence[T]]:
    return (items[start : start + PIECE] for start in range(0, len(items), PIECE))


def records_of(cases: Iterable[Case]) -> list[Record]:
    return [record for case in cases for record in case.records]


def share(records: Sequence[Record]) -> None:
    """People who share an address have one record there, each with a mark: what was sent for one of
    them is known of all."""
    carried = {record.ref: record for record in records}
    for record in records:
        other = carried[record.ref]
        record.proofs = {**other.proofs, **record.proofs}
        record.waits = {**other.waits, **record.waits}
        record.unclear |= other.unclear
        record.retry_after = record.retry_after or other.retry_after


def unread(case: Case) -> Temporary | None:
    """Why a record that is known by the vendor's id alone could not be read."""
    reads = (record.read for record in case.records if record.hash is None)
    return next((read for read in reads if isinstance(read, Temporary)), None)


def settled(slot: Slot) -> Outcome:
    return Outcome.CONFIRMED if slot.enforced else Outcome.RECORDED
