"""What must be changed there; what need not be is proved."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from prefs.core.decision import Ask, Held, decide, wish
from prefs.core.errors import PropagationError
from prefs.core.propagation import (
    Absent,
    Change,
    Observed,
    Outcome,
    Readback,
    Seen,
    Slot,
    Value,
    Wish,
    meets,
    plan,
)
from prefs.core.words import Scope
from prefs.push.case import Record, settled
from prefs.push.step import Step

HIDDEN = "the system does not show what is configured here; only our check guards"


class Planning(Step):
    def plan(self, record: Record) -> list[Change]:
        """Prove what needs no write; the rest are changes."""
        if record.stale or record.hash is None:
            return []
        if self.connector.facts.assisted:
            values = self._uploaded(record)
        elif self.connector.facts.readback is Readback.NONE:
            values = {slot: _remembered(record, slot) for slot in self.connector.slots}
        elif isinstance(record.read, Observed):
            values = self.ours(record.read)
        else:
            self._prove_unread(record)
            return []
        wishes = {slot: wish(slot, record.held) for slot in values}
        bases = {slot: _basis(slot, record.held) for slot in values}
        changes = plan(record.ref, values, wishes, bases)
        self._prove_met(record, values, wishes, {change.slot for change in changes})
        return changes

    def _uploaded(self, record: Record) -> dict[Slot, Seen]:
        """What the last upload showed; before the first one nobody knows."""
        if not record.listed:
            return {}
        seen = {slot: record.receipts.get(slot.place) for slot in self.connector.slots}
        return {slot: Seen((r and r.seen) or Value.UNMARKED) for slot, r in seen.items()}

    def _prove_unread(self, record: Record) -> None:
        for slot in self.connector.slots:
            wished = wish(slot, record.held)
            if isinstance(record.read, Absent):
                began = record.read.read_began.timestamp()
                record.note(slot, wished, Outcome.ABSENT, None, seen_began=began)
            elif isinstance(record.read, PropagationError):
                record.fail(slot, wished, record.read)

    def _prove_met(
        self,
        record: Record,
        values: Mapping[Slot, Seen],
        wishes: Mapping[Slot, Wish],
        changing: Collection[Slot],
    ) -> None:
        read = record.read if isinstance(record.read, Observed) else None
        for slot in self.connector.slots:
            if slot in changing:
                continue
            wished = wishes.get(slot) or wish(slot, record.held)
            if read and slot in read.hidden:
                record.note(slot, wished, Outcome.UNSUPPORTED, HIDDEN)
            elif slot not in values:
                record.note(slot, wished, Outcome.ABSENT, None)
            elif read:
                value = values[slot].value
                record.note(slot, wished, settled(slot), None, value, read.read_began.timestamp())
            else:
                record.note(slot, wished, *_unread_outcome(record, slot, wished))


def _remembered(record: Record, slot: Slot) -> Seen:
    """What a target that cannot be read was last told. An `off` is told again where a call of ours
    that we know no end of may have come after it."""
    receipt = record.receipts.get(slot.place)
    told_off = receipt is not None and receipt.written is Wish.OFF
    if wish(slot, record.held) is Wish.OFF:
        return Seen(Value.OFF if told_off and not record.maybe_ours else Value.UNSET)
    return Seen(Value.OFF if told_off else Value.SILENT)


def _unread_outcome(record: Record, slot: Slot, wished: Wish) -> tuple[Outcome, str | None]:
    receipt = record.receipts.get(slot.place)
    if receipt and receipt.written:
        return Outcome.ACCEPTED, None
    if receipt and receipt.seen and meets(receipt.seen, wished):
        return Outcome.CONFIRMED, None
    return Outcome.LOCAL, "nothing to tell there"


def _basis(slot: Slot, held: Sequence[Held]) -> str:
    topic = slot.topics[0] if slot.topics else None
    ask = Ask(Scope(slot.channel, slot.purpose, topic))
    bases = [decide(ask, one, 0.0).basis for one in held]
    return next((basis.value for basis in bases if basis), "")
