"""Chores of the worker beside its lanes: sealing, mail, safety of targets, forgetting."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Any

import structlog
from sqlalchemy import Connection

from prefs import assisted
from prefs.containers import TASK as CONTAINER_TASK
from prefs.core.errors import PrefsError
from prefs.core.keys import Keyring
from prefs.core.propagation import Target
from prefs.intake import Intake
from prefs.store import (
    access,
    containers,
    events,
    jobs,
    ledger,
    marks,
    outbox,
    papers,
    subjects,
    tasks,
    waves,
)
from prefs.store.database import Database, Store
from prefs.tasks import KINDS

log = structlog.get_logger()

SEAL_EVERY = 0.25
SEALER = "the sealer"
"""The name of its lane: a target's has no blank."""
FORGETTER = "the forgetter"
"""As the sealer's."""
AFTER_FAULT = 1.0
"""Seconds until a chore that failed comes again, or a store that is away fills the log."""
SWEEP_EVERY = 5.0
RESUME_EVERY = 5.0
FORGET_EVERY = 3600.0
OVERDUE_AFTER = 3600.0
OVERDUE_TASK = "overdue"
HOUR, DAY = 3600.0, 86400.0
ALARM_WINDOW = 7 * DAY
"""Seconds that an alert about a task may come late: nobody is woken for old ones."""


async def every(seconds: float, chore: Callable[[], Awaitable[None]]) -> None:
    """Run a chore for ever; a fault is logged and the chore comes again."""
    while True:
        wait = seconds
        try:
            await chore()
        except PrefsError as fault:
            log.warning("chore_failed", reason=str(fault))
            wait = max(seconds, AFTER_FAULT)
        except Exception as fault:
            log.exception("chore_failed", fault=type(fault).__name__)
            wait = max(seconds, AFTER_FAULT)
        await asyncio.sleep(wait)


@dataclass
class Sealer:
    """Gives committed ledger rows their number and hash, at least once a second. A lane of its own:
    one process at a time."""

    database: Store

    async def run(self) -> None:
        if not await self.database.read(ledger.any_unsealed):
            return
        while await self.database.write(ledger.seal):
            pass


@dataclass
class Sweep:
    """Finds outs that a target has not confirmed: overdue after an hour, unsafe after a day. Tells
    the owner of that, and of each task that cannot wait to be found."""

    database: Database
    targets: Sequence[Target]
    keys: Keyring
    clock: Callable[[], datetime]
    alert_to: Sequence[str] = ()

    async def run(self) -> None:
        now = self.clock().timestamp()
        late = await self.database.read(
            lambda conn: marks.overdue(conn, now - OVERDUE_AFTER, staff=False)
        )
        for target in self.targets:
            await self._judge(target, late.get(target.label, 0), now)
        await self._retire(now)
        await self._tell_of_refusals(now)
        await self._tell_of_tasks(now)

    async def _judge(self, target: Target, late: int, now: float) -> None:
        """A target that is only observed gets no writes: what stands there is the report's."""

        def look(conn: Connection) -> tuple[bool, bool, int, bool]:
            row = marks.lane(conn, target.label)
            was = bool(row and row.unsafe_since)
            unsafe = target.live and self._is_unsafe(conn, target, now)
            past = assisted.past_due(conn, self.keys, target, now)
            asked = bool(self._overdue_tasks(conn, target))
            return unsafe, was, past, asked

        unsafe, was, past, asked = await self.database.read(look)
        if unsafe != was:
            await self.database.write(lambda conn: self._turn(conn, target, unsafe, now))
        late = late + past if target.live else 0
        if late or asked:
            await self.database.write(lambda conn: self._ask_staff(conn, target, late, now))

    def _is_unsafe(self, conn: Connection, target: Target, now: float) -> bool:
        late = marks.overdue(conn, now - target.unsafe_after, target=target.label)
        return bool(late) or bool(containers.since_live(conn, target.label))

    def _turn(self, conn: Connection, target: Target, unsafe: bool, now: float) -> None:
        """Once, whichever of several processes finds it first."""
        row = marks.lane(conn, target.label)
        if bool(row and row.unsafe_since) == unsafe:
            return
        marks.set_unsafe(conn, target.label, now if unsafe else None)
        if unsafe:
            log.error("target_unsafe", target=target.label)
            text = (
                f"{target.label} counts as unsafe: an opt-out is unconfirmed for too long, or a "
                "list that can send appeared and is not classified"
            )
            self._tell(conn, text, now)

    def _overdue_tasks(self, conn: Connection, target: Target) -> list[Any]:
        return tasks.open_about(conn, self.keys, target.brand, OVERDUE_TASK, target=target.label)

    def _ask_staff(self, conn: Connection, target: Target, late: int, now: float) -> None:
        """One open task for each target that is overdue, and one alert an hour."""
        known = self._overdue_tasks(conn, target)
        body = {"target": target.label, "count": late}
        why = "all confirmed" if target.live else "only observed now: nothing is written there"
        for row in known if not late else ():
            tasks.settle(conn, self.keys, row.id, "closed", {**body, "settled_with": why}, now)
        if not late:
            return
        if not known:
            due = now - OVERDUE_AFTER + target.unsafe_after
            tasks.add(conn, self.keys, target.brand, OVERDUE_TASK, None, body, now, max(now, due))
        label = f"overdue {target.label} {int(now // OVERDUE_AFTER)}"
        if events.first_time(conn, target.label, label, now):
            log.error("outs_overdue", target=target.label, count=late)
            self._tell(conn, f"{target.label}: {late} opt-outs are overdue there", now)

    async def _retire(self, now: float) -> None:
        """A target that left the configuration is a new one when it comes back: who opts out
        meanwhile is not marked for it. What was asked about its lists needs no answer any more."""
        labels = {target.label for target in self.targets}
        gone = await self.database.read(lambda conn: marks.left(conn, labels))
        if gone:
            await self.database.write(partial(self._forget_places, gone=gone, now=now))

    def _forget_places(self, conn: Connection, gone: Sequence[str], now: float) -> None:
        marks.forget_places(conn, gone)
        for row in tasks.opened_since(conn, [CONTAINER_TASK], 0.0):
            body = tasks.body(self.keys, row)
            if body["target"] in gone:
                body["settled_with"] = "the target is no longer configured"
                tasks.settle(conn, self.keys, row.id, "closed", body, now)

    async def _tell_of_refusals(self, now: float) -> None:
        """A target that refuses us as a whole, by its own words; once a day."""
        told = f"refused {int(now // DAY)}"

        def untold(conn: Connection) -> list[tuple[str, str]]:
            rows = [marks.lane(conn, target.label) for target in self.targets]
            parked = [row for row in rows if row and (row.parked_until or 0.0) > now]
            new = [row for row in parked if not events.known(conn, row.target, told)]
            return [(row.target, row.parked_reason) for row in new]

        def tell(conn: Connection, label: str, reason: str) -> None:
            if events.first_time(conn, label, told, now):
                text = f"{label} refuses us ({reason}): nothing can be read or written there"
                self._tell(conn, text, now)

        for label, reason in await self.database.read(untold):
            await self.database.write(partial(tell, label=label, reason=reason))

    async def _tell_of_tasks(self, now: float) -> None:
        """One alert for each task of a kind that has one; those alike are one mail, once an hour:
        what comes meanwhile is told in the next."""
        if await self.database.read(partial(self._alarms, now=now)):
            await self.database.write(partial(self._tell_of_alarms, now=now))

    def _alarms(self, conn: Connection, now: float) -> dict[tuple[str, str], list[int]]:
        """Ids of the tasks that the owner was not told of, by brand and text."""
        kinds = {name: kind.alarm for name, kind in KINDS.items() if kind.alarm}
        found = defaultdict(list)
        for row in tasks.untold(conn, kinds, now - ALARM_WINDOW):
            found[row.brand, kinds[row.kind](tasks.body(self.keys, row))].append(row.id)
        return {
            (brand, text): ids
            for (brand, text), ids in found.items()
            if not events.known(conn, brand, _alike(text, now))
        }

    def _tell_of_alarms(self, conn: Connection, now: float) -> None:
        for (brand, text), ids in self._alarms(conn, now).items():
            if events.first_time(conn, brand, _alike(text, now), now):
                tasks.tell(conn, brand, ids, now)
                self._tell(conn, text if len(ids) == 1 else f"{text} ({len(ids)} tasks)", now)

    def _tell(self, conn: Connection, text: str, now: float) -> None:
        for to in self.alert_to:
            address = to.removeprefix("mail:")
            outbox.add(conn, self.keys, "alert", None, None, {"to": address, "text": text}, now)


def _alike(text: str, now: float) -> str:
    """Among events: that this was told in this hour."""
    return f"alarm {sha256(text.encode()).hexdigest()[:32]} {int(now // HOUR)}"


@dataclass
class Resuming:
    """Ends pauses whose day has come."""

    database: Database
    intake: Intake

    async def run(self) -> None:
        now = self.intake.clock().timestamp()
        due = await self.database.read(lambda conn: subjects.to_resume(conn, now))
        for subject_id in due:
            await self.database.write(partial(self.intake.end_pauses, subject_id=subject_id))


@dataclass
class Forgetting:
    """Purges raw payloads and results of jobs after 30 days, kept answers after 7, papers of the
    console after one, closed tasks after two years. A large table takes seconds: each goes by
    itself, and beside what is recorded, which never needs what is purged."""

    database: Database
    clock: Callable[[], datetime]

    async def run(self) -> None:
        now = self.clock().timestamp()
        beside = self.database.of(FORGETTER)
        for purge in (
            events.purge,
            outbox.purge,
            access.purge_answers,
            papers.purge,
            tasks.purge,
            jobs.purge,
        ):
            await beside.write(partial(purge, now=now))
        await self.database.write(partial(waves.purge, now=now))
        await beside.write(partial(marks.forget_workers, before=now - DAY))
