"""Chores of the worker beside its lanes: sealing, mail, safety of targets, forgetting."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import Connection

from prefs.core.errors import PrefsError
from prefs.core.keys import Keyring
from prefs.core.propagation import Target
from prefs.metrics import BACKLOG, OLDEST, OVERDUE, SEALED, UNSAFE
from prefs.store import access, batches, events, ledger, marks, outbox
from prefs.store.batches import Batch
from prefs.store.database import Database

log = structlog.get_logger()

SEAL_EVERY = 0.25
SWEEP_EVERY = 5.0
FORGET_EVERY = 3600.0
OVERDUE_AFTER = 3600.0


async def every(seconds: float, chore: Callable[[], Awaitable[None]]) -> None:
    """Run a chore for ever; a fault is logged and the chore comes again."""
    while True:
        try:
            await chore()
        except PrefsError as fault:
            log.warning("chore_failed", reason=str(fault))
        except Exception as fault:
            log.exception("chore_failed", fault=type(fault).__name__)
        await asyncio.sleep(seconds)


@dataclass
class Sealer:
    """Gives committed ledger rows their number and hash, at least once a second."""

    database: Database

    async def run(self) -> None:
        if not await self.database.read(ledger.any_unsealed):
            return
        while await self.database.write(ledger.seal):
            pass
        number, _ = await self.database.read(ledger.head)
        SEALED.set(number)


@dataclass
class Sweep:
    """Finds outs that a target has not confirmed: overdue after an hour, unsafe after a day."""

    database: Database
    targets: Sequence[Target]
    keys: Keyring
    clock: Callable[[], datetime]
    alert_to: Sequence[str] = ()

    async def run(self) -> None:
        now = self.clock().timestamp()
        backlog = await self.database.read(marks.backlog)
        overdue = await self.database.read(lambda conn: marks.overdue(conn, now - OVERDUE_AFTER))
        self._show(backlog, overdue, now)
        for batch in await self.database.read(lambda conn: batches.waiting(conn, now)):
            await self._tell_of(batch, now)
        for target in self.targets:
            await self._judge(target, overdue.get(target.label, 0), now)

    def _show(
        self, backlog: Mapping[str, tuple[int, float]], overdue: Mapping[str, int], now: float
    ) -> None:
        for target in self.targets:
            count, oldest = backlog.get(target.label, (0, now))
            BACKLOG.labels(target.label).set(count)
            OLDEST.labels(target.label).set(max(0.0, now - oldest))
            OVERDUE.labels(target.label).set(overdue.get(target.label, 0))

    async def _judge(self, target: Target, overdue: int, now: float) -> None:
        def look(conn: Connection) -> tuple[bool, bool]:
            late = marks.overdue(conn, now - target.unsafe_after).get(target.label, 0)
            row = marks.lane(conn, target.label)
            return late > 0, bool(row and row.unsafe_since)

        unsafe, was = await self.database.read(look)
        UNSAFE.labels(target.label).set(int(unsafe))
        if unsafe != was:
            await self.database.write(lambda conn: self._turn(conn, target, unsafe, now))
        if overdue:
            await self._warn(target, overdue, now)

    def _turn(self, conn: Connection, target: Target, unsafe: bool, now: float) -> None:
        marks.set_unsafe(conn, target.label, now if unsafe else None)
        if unsafe:
            log.error("target_unsafe", target=target.label)
            text = f"{target.label} has not confirmed an opt-out for too long and counts as unsafe"
            self._tell(conn, text, now)

    async def _warn(self, target: Target, overdue: int, now: float) -> None:
        """One alert an hour for each target that is overdue."""
        label = f"overdue {target.label} {int(now // OVERDUE_AFTER)}"

        def once(conn: Connection) -> None:
            if events.first_time(conn, target.label, label, now):
                log.error("outs_overdue", target=target.label, count=overdue)
                self._tell(conn, f"{target.label}: {overdue} opt-outs unconfirmed for an hour", now)

        await self.database.write(once)

    async def _tell_of(self, batch: Batch, now: float) -> None:
        """One alert for each batch that waits for a person."""
        text = (
            f"{batch.origin} turned {batch.outs} people or more off in one run. They are denied "
            f"here; other systems are told in four hours, or when the task is settled. "
            f"Was it a fault? prefs retract {batch.label}"
        )

        def once(conn: Connection) -> None:
            if events.first_time(conn, batch.brand, f"batch {batch.label}", now):
                self._tell(conn, text, now)

        await self.database.write(once)

    def _tell(self, conn: Connection, text: str, now: float) -> None:
        for to in self.alert_to:
            address = to.removeprefix("mail:")
            outbox.add(conn, self.keys, "alert", None, None, {"to": address, "text": text}, now)


@dataclass
class Forgetting:
    """Purges raw payloads after 30 days, kept answers after 7."""

    database: Database
    clock: Callable[[], datetime]

    async def run(self) -> None:
        now = self.clock().timestamp()

        def purge(conn: Connection) -> None:
            events.purge(conn, now)
            outbox.purge(conn, now)
            access.purge_answers(conn, now)

        await self.database.write(purge)
