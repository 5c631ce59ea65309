"""Whose tool turns somebody on again and again is pushed back so often, and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog
from sqlalchemy import Connection

from prefs.core.propagation import Change, Observed, Outcome, Ref, Value
from prefs.push.case import Record
from prefs.push.step import Step
from prefs.store import marks, tasks
from prefs.texts import next_working_day

log = structlog.get_logger()

PUSH_BACKS_AN_HOUR = 4
ALARM_AT = 3
TASK = "push_back_fight"
FOUGHT = "turned on again more than 4 times within an hour: somebody's tool is fighting us"
LOOK_AGAIN = 3600.0
"""Seconds that a record waits for which we have given up."""


class Fights(Step):
    async def not_fought(
        self, records: Mapping[Ref, Record], outs: Sequence[Change]
    ) -> list[Change]:
        """At most four times an hour is one record turned off again after it was off, or after the
        vendor refused that: our own write may bring the webhook that has us look again."""
        fought = [change for change in outs if _again(records[change.ref], change)]
        if not fought:
            return list(outs)
        now = self.clock().timestamp()
        hashes = {records[change.ref].hash or b"" for change in fought}

        def count(conn: Connection) -> dict[bytes, int]:
            label, most = self.target.label, PUSH_BACKS_AN_HOUR
            found = {h: marks.note_pushback(conn, label, h, now, most) for h in hashes}
            for change in fought:
                record = records[change.ref]
                if found[record.hash or b""] >= ALARM_AT and record.refused(change.slot) is None:
                    self._tell(conn, record, change, now)
            return found

        counts = await self.database.write(count)
        given_up = {
            change
            for change in fought
            if self._gives_up(records[change.ref], change, counts[records[change.ref].hash or b""])
        }
        return [change for change in outs if change not in given_up]

    def _tell(self, conn: Connection, record: Record, change: Change, now: float) -> None:
        """One open task for each person and target."""
        log.error("push_back_fight", target=self.target.label)
        keys, brand = self.intake.keys, self.target.brand
        subject_id = record.mark.subject_id if record.mark else 0
        body = {"target": self.target.label, "channel": change.slot.channel.value}
        known = tasks.open_of(conn, brand, [TASK], [subject_id])
        if subject_id and all(
            tasks.body(keys, row)["target"] != self.target.label for row in known
        ):
            due = next_working_day(self.clock()).timestamp()
            tasks.add(conn, keys, brand, TASK, subject_id, body, now, due)

    def _gives_up(self, record: Record, change: Change, count: int) -> bool:
        if count <= PUSH_BACKS_AN_HOUR:
            return False
        outcome, reason = Outcome.REFUSED, record.refused(change.slot)
        if reason is None:
            outcome, reason = Outcome.PENDING, FOUGHT
        record.note(change.slot, change.to, outcome, reason)
        record.waits[change.slot] = LOOK_AGAIN
        return True


def _again(record: Record, change: Change) -> bool:
    """Somebody turned this on again, or cleared it, after it was seen off; or the vendor refused
    it before."""
    receipt = record.receipts.get(change.slot.place)
    was_off = receipt is not None and (receipt.seen is Value.OFF or receipt.refused is not None)
    return was_off and isinstance(record.read, Observed)
