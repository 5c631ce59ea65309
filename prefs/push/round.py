"""The steps of a round, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from prefs.core.propagation import URGENT, Change, Ref
from prefs.core.spans import span
from prefs.push.admission import Admission
from prefs.push.case import Case, Record, pieces, records_of, share
from prefs.push.fights import Fights
from prefs.push.judging import Judging
from prefs.push.planning import Planning
from prefs.push.proving import Proving
from prefs.push.reading import Reading
from prefs.push.step import Step
from prefs.push.writing import Writing
from prefs.store.marks import Lease, Mark


@dataclass
class Push(Step):
    """The work of one lane on claimed marks."""

    wrote: set[Mark | None] = field(default_factory=set)
    """Marks for which the last round may have written."""

    def __post_init__(self) -> None:
        parts = (
            self.target,
            self.connector,
            self.database,
            self.intake,
            self.clock,
            self.backoff,
        )
        self.reading = Reading(*parts)
        self.judging = Judging(*parts)
        self.planning = Planning(*parts)
        self.writing = Writing(
            *parts, self.reading, Fights(*parts), Admission(*parts, self.judging)
        )
        self.proving = Proving(*parts)

    async def run(self, lease: Lease, claimed: Sequence[Mark]) -> None:
        """Carry claimed marks as far as they go now. Raises Unusable when the target refuses us
        as a whole; every mark is kept then."""
        self.wrote = set()
        urgent = any(mark.urgent for mark in claimed)
        token = URGENT.set(urgent)
        with span("lane.round", target=self.target.label, marks=len(claimed), urgent=urgent):
            try:
                cases = await self.reading.cases(claimed)
                with span("lane.observe"):
                    await self.reading.read_all(cases)
                planned: dict[Ref, Sequence[Change]] = {}
                for part in pieces(cases):
                    planned |= await self._learn_and_plan(part)
                await self._write(lease, records_of(cases), planned)
            finally:
                URGENT.reset(token)
            share(records_of(cases))
            for part in pieces(cases):
                await self.database.write(partial(self.proving.prove, lease=lease, cases=part))

    async def look(self, lease: Lease, claimed: Sequence[Mark]) -> None:
        """The same for a target that is only observed: what is read there is taken in, nothing is
        written, and the marks wait for go-live. Raises Unusable."""
        cases = await self.reading.cases(claimed)
        if any(mark.urgent for mark in claimed):
            await self.reading.read_all(cases)
            for part in pieces(cases):
                await self.judging.learn(records_of(part))
        for part in pieces(cases):
            await self.proving.keep_for_later(lease, part)

    async def _learn_and_plan(self, cases: Sequence[Case]) -> dict[Ref, Sequence[Change]]:
        records = records_of(cases)
        await self.judging.learn(records)
        return {record.ref: self.planning.plan(record) for record in records}

    async def _write(
        self, lease: Lease, records: Sequence[Record], planned: Mapping[Ref, Sequence[Change]]
    ) -> None:
        self.wrote = {record.mark for record in records if planned.get(record.ref)}
        await self.writing.apply(lease, records, planned)
