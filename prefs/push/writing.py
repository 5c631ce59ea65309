"""Outs first, then opt-ins; what was written is read back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter

from prefs.core.errors import PropagationError, Temporary
from prefs.core.propagation import (
    IN_TIME,
    URGENT,
    Absent,
    Answer,
    Applied,
    Assisted,
    Change,
    Local,
    Observed,
    Outcome,
    Readback,
    Ref,
    Wish,
    meets,
)
from prefs.core.spans import span
from prefs.push.admission import Admission
from prefs.push.case import Record, pieces, settled
from prefs.push.fights import Fights
from prefs.push.reading import Reading
from prefs.push.step import Step
from prefs.store.marks import Lease

TOGETHER = 8
"""Opt-ins that one reading of wish and lease is good for: about as many as a connector has under
way at once, whatever its vendor takes in a call."""
UNNAMED_THERE = "the reply named this record neither as done nor as failed"


@dataclass
class Writing(Step):
    reading: Reading
    fights: Fights
    admission: Admission

    async def apply(
        self, lease: Lease, records: Sequence[Record], planned: Mapping[Ref, Sequence[Change]]
    ) -> None:
        by_ref = {record.ref: record for record in records}
        outs = [c for changes in planned.values() for c in changes if c.to is Wish.OFF]
        ins = [c for changes in planned.values() for c in changes if c.to is Wish.ON]
        sent = [c for part in pieces(outs) for c in await self.fights.not_fought(by_ref, part)]
        await self._send(by_ref, sent)
        if ins and not await self.admission.paused(by_ref, ins):
            URGENT.set(False)
            admitted = await self.admission.admitted(by_ref, ins)
            size = min(TOGETHER, self.connector.facts.write_batch)
            for part in _parts(admitted, size):
                wished, until = await self.admission.still_wished(lease, by_ref, part)
                await self._send(by_ref, wished, until)

    async def _send(
        self, records: Mapping[Ref, Record], changes: Sequence[Change], until: float = math.inf
    ) -> None:
        parts = _parts(changes, self.connector.facts.write_batch)
        found = await self.beside(parts, partial(self._send_part, records, until))
        answers = dict(item for part in found for item in part.items())
        await self._read_back(records, changes, answers)

    async def _send_part(
        self, records: Mapping[Ref, Record], until: float, part: Sequence[Change]
    ) -> Mapping[Change, Answer]:
        token = IN_TIME.set(lambda: self.clock().timestamp() < until)
        try:
            with span("lane.apply", changes=len(part)):
                answers = await self.ask(self.connector.apply, part)
        finally:
            IN_TIME.reset(token)
        ended = self.clock().timestamp()
        for change in part:
            self._settle(records[change.ref], change, answers.get(change), ended)
        return answers

    def _settle(
        self,
        record: Record,
        change: Change,
        answer: Answer | None,
        ended: float,
    ) -> None:
        """What the vendor's answer to a write amounts to before any read-back."""
        slot, to = change.slot, change.to
        if answer is None:
            reason, written = UNNAMED_THERE, self._perhaps(to)
            record.note(slot, to, Outcome.PENDING, reason, written=written, ended=ended)
        elif isinstance(answer, Local):
            record.note(slot, to, Outcome.LOCAL, answer.reason)
        elif isinstance(answer, Assisted):
            record.note(slot, to, Outcome.WAITING_FOR_STAFF, answer.instruction)
        elif isinstance(answer, PropagationError):
            self._fail(record, change, answer, ended)
        elif self.connector.facts.readback is Readback.NONE:
            record.note(slot, to, Outcome.ACCEPTED, None, written=to, ended=ended)
        else:
            reason = "written; not read back yet"
            record.note(slot, to, Outcome.PENDING, reason, written=to, ended=ended)

    def _fail(self, record: Record, change: Change, fault: PropagationError, ended: float) -> None:
        unclear = isinstance(fault, Temporary) and fault.unclear
        record.unclear |= unclear
        written = self._perhaps(change.to) if unclear else None
        record.fail(change.slot, change.to, fault, written, ended)

    def _perhaps(self, to: Wish) -> Wish | None:
        """What a write without a clear answer leaves to remember. Where nothing can be read back,
        an `off` is one only once the vendor said so: it is sent again until then."""
        unproved = to is Wish.OFF and self.connector.facts.readback is Readback.NONE
        return None if unproved or to is Wish.LEAVE else to

    async def _read_back(
        self,
        records: Mapping[Ref, Record],
        part: Sequence[Change],
        answers: Mapping[Change, Answer],
    ) -> None:
        if self.connector.facts.readback is Readback.NONE:
            return
        done = [c for c in part if isinstance(answers.get(c), Applied) or c not in answers]
        with span("lane.read_back", changes=len(done)):
            found = await self.reading.read([change.ref for change in done])
        for change in done:
            self._compare(records[change.ref], change, answers.get(change), found.get(change.ref))

    def _compare(
        self,
        record: Record,
        change: Change,
        answer: Answer | None,
        read: Observed | Absent | PropagationError | None,
    ) -> None:
        proof = record.proofs[change.slot]
        if isinstance(read, Absent):
            record.proofs[change.slot] = proof._replace(outcome=Outcome.ABSENT, reason=None)
        if not isinstance(read, Observed) or change.slot not in read.values:
            return
        value = read.values[change.slot].value
        waits = isinstance(answer, Applied) and answer.asked_person
        if meets(value, change.to):
            outcome, reason = settled(change.slot), None
        elif waits:
            outcome, reason = Outcome.REFUSED, "the vendor asked the person to confirm"
        else:
            outcome, reason = Outcome.PENDING, f"accepted the write but still shows {value}"
        record.proofs[change.slot] = proof._replace(
            outcome=outcome,
            reason=reason,
            seen=value,
            seen_began=read.read_began.timestamp(),
        )


def _parts(changes: Sequence[Change], size: int) -> Iterable[Sequence[Change]]:
    """What goes in one call each; all of one record in the same."""
    part = list[Change]()
    for _, group in groupby(changes, key=attrgetter("ref")):
        of_record = list(group)
        if part and len(part) + len(of_record) > size:
            yield part
            part = []
        part += of_record
    if part:
        yield part
