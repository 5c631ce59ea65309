"""Which opt-ins may set out: none while marketing is paused, no wave that nobody let through, none
whose wish changed meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection

from prefs.core.decision import wish
from prefs.core.propagation import Change, Outcome, Ref, Wish
from prefs.push.case import Record
from prefs.push.judging import Judging
from prefs.push.step import Lost, Step
from prefs.store import journals, marks, tasks, waves
from prefs.store.marks import Lease
from prefs.store.waves import Wave
from prefs.texts import next_working_day

log = structlog.get_logger()

TASK = "opt_in_wave"
WAVE_LOOK_AGAIN = 3600.0
PAUSED_LOOK_AGAIN = 60.0
PAUSED = "marketing is paused until the checkpoints are replayed"


@dataclass
class Admission(Step):
    judging: Judging

    async def paused(self, records: Mapping[Ref, Record], ins: Sequence[Change]) -> bool:
        """A database that may lack opt-outs switches nobody on."""
        if await self.database.read(journals.paused) is None:
            return False
        for change in ins:
            record = records[change.ref]
            record.waits[change.slot] = PAUSED_LOOK_AGAIN
            record.note(change.slot, change.to, Outcome.PENDING, PAUSED)
        return True

    async def admitted(self, records: Mapping[Ref, Record], ins: Sequence[Change]) -> list[Change]:
        """A wave of opt-ins waits for a person; one that was stopped never sets out."""
        now = self.clock().timestamp()
        said = {
            record.hash or b"": record.last_row_at.timestamp() if record.last_row_at else now
            for record in (records[change.ref] for change in ins)
        }

        def ask(conn: Connection) -> dict[bytes, str]:
            admitted = waves.admit(conn, self.target.label, said, now)
            if admitted.turned:
                self._tell(conn, admitted.turned, now)
            return admitted.states

        states = await self.database.write(ask)
        return [c for c in ins if self._passes(records[c.ref], c, states)]

    def _tell(self, conn: Connection, wave: Wave, now: float) -> None:
        log.error("opt_in_wave", target=self.target.label, limit=wave.most)
        body = {"target": self.target.label, "wave": wave.id, "most": wave.most}
        due = next_working_day(self.clock()).timestamp()
        tasks.add(conn, self.intake.keys, self.target.brand, TASK, None, body, now, due)

    def _passes(self, record: Record, change: Change, states: Mapping[bytes, str]) -> bool:
        state = states[record.hash or b""]
        if state == waves.WAITING:
            record.waits[change.slot] = WAVE_LOOK_AGAIN
            reason = "many people are to be switched on in one run: a person decides whether"
            record.note(change.slot, change.to, Outcome.PENDING, reason)
        elif state == waves.STOPPED:
            reason = "a person stopped this wave of opt-ins"
            record.note(change.slot, change.to, Outcome.REFUSED, reason)
        return state in (waves.OPEN, waves.RELEASED)

    async def still_wished(
        self, lease: Lease, records: Mapping[Ref, Record], ins: Sequence[Change]
    ) -> tuple[list[Change], float]:
        """An `on` goes out only if the wish, read again under a live lease, still says so; and
        until that lease ends."""
        fresh = [records[change.ref] for change in ins]

        def read_again(conn: Connection) -> float | None:
            self.judging.load(conn, fresh)
            return marks.held_until(conn, lease, self.clock().timestamp())

        until = await self.database.read(read_again)
        if until is None:
            raise Lost
        return [c for c in ins if wish(c.slot, records[c.ref].held) is Wish.ON], until
