"""The worker: one lane a target, each held by one worker at a time through a lease with an epoch.

A lane knows the connector protocol and no vendor. It carries marks (`push`), reads the vendor by
itself now and then (`scan`), and answers what waits for a vendor's word (`texts`).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import structlog
from sqlalchemy import Connection

from prefs.containers import EVERY as CENSUS_EVERY
from prefs.containers import Census
from prefs.core.errors import PrefsError, Unavailable, Unusable
from prefs.core.propagation import OUT_DUE, Connector, Outcome, Target, Tended
from prefs.intake import Intake
from prefs.push.round import Push
from prefs.push.step import Backoff, Lost
from prefs.scan import Scan
from prefs.store import marks
from prefs.store.database import Store
from prefs.store.marks import Delay, Lease, Mark
from prefs.tending import Tending

log = structlog.get_logger()

POLL = 0.5
"""Seconds between looks at the database for marks that another process set."""
CLAIM = 500
"""Marks of a round; of outs more, where the target is read in larger batches."""
LOOK_EVERY = 1.0
"""Seconds between looks at who else works."""
PATIENCE = 1.0
"""Seconds for which a lane is left to those who hold fewer."""
CALM_SECONDS = 1.0
"""So long a round that carries no out may take, as far as the last one tells: the next out waits
for its end."""
PARKED_FIRST = 30.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds, from `[worker]`."""

    first_retry: float = 1.0
    max_retry: float = 3600.0
    poll_every: float = 900.0
    lease: float = 30.0

    @property
    def backoff(self) -> Backoff:
        return Backoff(self.first_retry, self.max_retry)


@dataclass
class Share:
    """How many lanes are ours to hold: as many as fall to each of the workers that live. Who holds
    that many leaves a free lane to the others for a moment; who holds more gives way."""

    database: Store
    holder: str
    clock: Callable[[], datetime]
    lease: float
    lanes: int
    held: set[str] = field(default_factory=set)
    workers: int = 1
    _seen_until: float = 0.0

    @property
    def most(self) -> int:
        return -(-self.lanes // max(1, self.workers))

    async def look(self) -> None:
        """Be seen, and see the others."""
        now = self.clock().timestamp()
        if now > self._seen_until - self.lease * 2 / 3:
            await self.database.write(partial(self._appear, now=now))
            self._seen_until = now + self.lease
        self.workers = await self.database.read(partial(marks.holders, now=now))

    def _appear(self, conn: Connection, now: float) -> None:
        marks.take_lease(conn, marks.presence(self.holder), self.holder, now, self.lease)

    async def leave(self) -> None:
        with suppress(Unavailable):
            await self.database.write(partial(marks.leave, holder=self.holder))

    async def patience(self) -> None:
        if len(self.held) >= self.most:
            await asyncio.sleep(PATIENCE)

    def gives_way(self, label: str) -> bool:
        if len(self.held) <= self.most:
            return False
        self.held.discard(label)
        return True


@dataclass
class Lane:
    """The work of one target in this process."""

    target: Target
    connector: Connector
    database: Store
    intake: Intake
    clock: Callable[[], datetime]
    pace: Pace
    holder: str
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    answer_open: Callable[[Lane], Awaitable[None]] | None = None
    lease: Lease | None = None
    polls: bool = True
    """False where somebody else reads the vendor: this lane only carries."""
    share: Share | None = None
    """Where several workers divide the lanes between them."""

    def __post_init__(self) -> None:
        self.push = Push(
            self.target,
            self.connector,
            self.database,
            self.intake,
            self.clock,
            self.pace.backoff,
        )
        self.scan = Scan(self.target, self.connector, self.database, self.intake, self.clock)
        self.census = Census(self.target, self.connector, self.database, self.intake, self.clock)
        # Seconds; stays until a good round, for the next park is twice as long.
        self._parked_for = 0.0
        self._parked_until = 0.0
        self._parked_reason = ""
        self._calm = 1
        self._leaving = False

    async def run(self) -> None:
        """Work until cancelled. Every fault is logged and outlived."""
        while True:
            try:
                await self._let_go()
                if self.share:
                    await self.share.patience()
                if await self._hold():
                    await self._work_under_lease()
                else:
                    await asyncio.sleep(POLL)
            except Unavailable:
                await asyncio.sleep(1.0)
            except Exception as fault:
                log.exception("lane_failed", target=self.target.label, fault=type(fault).__name__)
                await asyncio.sleep(1.0)

    async def _let_go(self) -> None:
        """What an earlier try of ours broke off may still be on its way to the vendor: we go on
        under another epoch, as another worker would."""
        if self.lease:
            await self.database.write(partial(marks.give_lease_up, lease=self.lease))
            self.lease = None

    async def _hold(self) -> bool:
        now = self.clock().timestamp()
        self.lease = await self.database.write(
            lambda conn: marks.take_lease(
                conn, self.target.label, self.holder, now, self.pace.lease
            )
        )
        return self.lease is not None

    async def _work_under_lease(self) -> None:
        """Push, scan, the reading of containers and the upkeep of webhooks side by side while the
        lease is renewed; all end when it is lost, or between two rounds where this worker gives way
        to another."""
        self._leaving = False
        if self.share:
            self.share.held.add(self.target.label)
        jobs = [self._keep_lease(), self._push_loop(), self._census_loop(), *self._tending()]
        jobs += [self._scan_loop()] if self.polls else []
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            if self.share:
                self.share.held.discard(self.target.label)
        for fault in ended:
            if isinstance(fault, Exception) and not isinstance(fault, Lost):
                raise fault

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(self.pace.lease / 3)
            mine, held = self.lease, await self._hold()
            if not held or self.lease != mine:
                log.warning("lease_lost", target=self.target.label)
                return
            if self.share and self.share.gives_way(self.target.label):
                self._leaving = True
                self.wake.set()

    async def _push_loop(self) -> None:
        while not self._leaving:
            self.wake.clear()
            if not await self._push_once():
                if self.answer_open:
                    await self.answer_open(self)
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await self.wake.wait()

    async def _push_once(self) -> bool:
        """Carry one batch, or look at it where nothing may be written; True when there may be more
        at once."""
        lease = self.lease
        if lease is None:
            raise Lost
        if not await self._anything_due():
            return False
        claimed = await self.database.write(
            lambda conn: marks.claim(conn, lease, self.clock().timestamp(), self._most, self._calm)
        )
        if not claimed:
            return False
        began = time.monotonic()
        await self._try(lease, claimed)
        self._measure(claimed, time.monotonic() - began)
        return True

    @property
    def _parked(self) -> bool:
        return self.clock().timestamp() < self._parked_until

    @property
    def _most(self) -> int:
        return max(CLAIM, self.connector.facts.read_batch)

    async def _try(self, lease: Lease, claimed: Sequence[Mark]) -> None:
        try:
            await self._carry(lease, claimed)
        except (Lost, Unavailable):
            raise
        except Exception as fault:  # noqa: BLE001  # the one it is about tells its trace
            log.warning("push_failed", target=self.target.label, fault=type(fault).__name__)
            await self._by_halves(lease, self._in_doubt(claimed), fault)

    async def _by_halves(self, lease: Lease, claimed: Sequence[Mark], fault: Exception) -> None:
        """No other waits for the one that brings up a fault of ours."""
        if len(claimed) == 1:
            log.error("push_failed", target=self.target.label, exc_info=fault)
            await self._put_off(lease, claimed[0], fault)
            return
        middle = len(claimed) // 2
        for half in (claimed[:middle], claimed[middle:]):
            await (self._keep if self._parked else self._try)(lease, half)

    def _in_doubt(self, claimed: Sequence[Mark]) -> list[Mark]:
        """Marks of a round that broke, with what is known of calls still under way: those of a
        worker that died, and the round's own."""
        ends = self.clock().timestamp() + self.push.call_alive
        return [
            mark._replace(unsettled_until=max(ends, mark.unsettled_until or 0.0))
            if mark.claimed_before or mark in self.push.wrote
            else mark
            for mark in claimed
        ]

    async def _carry(self, lease: Lease, claimed: Sequence[Mark]) -> None:
        try:
            await self._round(lease, claimed)
            self._parked_for = 0.0
        except Unusable as fault:
            await self._park(lease, self._in_doubt(claimed), str(fault))

    async def _put_off(self, lease: Lease, mark: Mark, fault: Exception) -> None:
        due = self.clock().timestamp() + self.pace.backoff.after(mark.attempts)
        reason = f"a fault of ours ({type(fault).__name__}): see the log"
        later = [Delay(mark, due, Outcome.PENDING, reason, mark.unsettled_until)]
        await self.database.write(partial(marks.delay, lease=lease, delayed=later))

    async def _round(self, lease: Lease, claimed: Sequence[Mark]) -> None:
        """A round without an out takes no place in the budget that an out waits for; in a round of
        outs an `on` waits for no place at all, but for a round without them. Where nothing may be
        written, it is only looked."""
        carry = self.push.run if self.target.live else self.push.look
        waits, watch = asyncio.Event(), None
        if claimed[0].urgent:
            waits.set()
        else:
            watch = asyncio.create_task(self._watch_for_outs(waits))
        token = OUT_DUE.set(waits.is_set)
        try:
            await carry(lease, claimed)
        finally:
            if watch:
                watch.cancel()
            OUT_DUE.reset(token)

    async def _watch_for_outs(self, waits: asyncio.Event) -> None:
        while not waits.is_set():
            with suppress(Unavailable):
                if await self._anything_due(urgent=True):
                    waits.set()
            await asyncio.sleep(POLL)

    def _measure(self, claimed: Sequence[Mark], took: float) -> None:
        """How many marks the next round without an out claims."""
        if not claimed[0].urgent:
            fitting = int(len(claimed) * CALM_SECONDS / max(took, 0.001))
            self._calm = max(1, min(CLAIM, fitting))

    async def _anything_due(self, *, urgent: bool = False) -> bool:
        if self._parked:
            return False
        now = self.clock().timestamp()
        return await self.database.read(
            lambda conn: marks.any_due(conn, self.target.label, now, urgent=urgent)
        )

    async def _park(self, lease: Lease, claimed: Sequence[Mark], reason: str) -> None:
        """The target refuses us as a whole: keep its marks, try again later, tell a person."""
        self._parked_for = min(max(PARKED_FIRST, self._parked_for * 2), self.pace.max_retry)
        self._parked_until = self.clock().timestamp() + self._parked_for
        self._parked_reason = reason
        log.error("target_unusable", target=self.target.label, reason=reason)
        await self._keep(lease, claimed)

    async def _keep(self, lease: Lease, claimed: Sequence[Mark]) -> None:
        until, reason = self._parked_until, self._parked_reason
        await self.database.write(lambda conn: marks.park(conn, lease, claimed, until, reason))

    async def _note_refusal(self, lease: Lease, reason: str) -> None:
        """It cannot be read either: nothing that people do there is heard."""
        log.error("target_unusable", target=self.target.label, reason=reason)
        until = self.clock().timestamp() + 2 * PARKED_FIRST
        await self.database.write(
            lambda conn: marks.set_lane(conn, lease, parked_until=until, parked_reason=reason)
        )

    async def _scan_loop(self) -> None:
        while True:
            lease = self.lease
            if lease is None:
                return
            try:
                await self.scan.when_due(lease, self.pace.poll_every)
            except Unusable as fault:
                await self._note_refusal(lease, str(fault))
                await asyncio.sleep(min(self.pace.poll_every, PARKED_FIRST))
            except PrefsError as fault:
                log.warning("scan_failed", target=self.target.label, reason=str(fault))
                await asyncio.sleep(min(self.pace.poll_every, 30.0))
            except Exception as fault:
                log.exception("scan_failed", target=self.target.label, fault=type(fault).__name__)
                await asyncio.sleep(min(self.pace.poll_every, 30.0))
            await asyncio.sleep(min(1.0, self.pace.poll_every))

    async def _census_loop(self) -> None:
        """What the target sends from: marked and read at start, read again daily."""
        while True:
            lease = self.lease
            if lease is None:
                return
            try:
                await self.census.mark_new_places(lease)
                await self.census.read(lease)
            except PrefsError as fault:
                log.warning("census_failed", target=self.target.label, reason=str(fault))
                await asyncio.sleep(min(CENSUS_EVERY, self.pace.poll_every))
            except Exception as fault:
                log.exception("census_failed", target=self.target.label, fault=type(fault).__name__)
                await asyncio.sleep(min(CENSUS_EVERY, self.pace.poll_every))
            else:
                await asyncio.sleep(CENSUS_EVERY)

    def _tending(self) -> list[Coroutine[None, None, None]]:
        if not isinstance(self.connector, Tended):
            return []
        keys = self.intake.keys
        return [Tending(self.target, self.connector, self.database, keys, self.clock).run()]


@dataclass
class Worker:
    """All lanes of this process."""

    lanes: Sequence[Lane]
    chores: Sequence[Callable[[], Coroutine[None, None, None]]] = ()
    share: Share | None = None
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        self._tasks = [asyncio.create_task(lane.run()) for lane in self.lanes]
        self._tasks += [asyncio.create_task(chore()) for chore in self.chores]

    def wake(self) -> None:
        for lane in self.lanes:
            lane.wake.set()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._free(lane) for lane in self.lanes))
        if self.share:
            await self.share.leave()
        for lane in self.lanes:
            await lane.connector.close()

    async def _free(self, lane: Lane) -> None:
        """Others may take it at once, before we have hung up at the vendor."""
        lease, lane.lease = lane.lease, None
        if lease:
            with suppress(Unavailable):
                await lane.database.write(partial(marks.give_lease_up, lease=lease))


def new_holder() -> str:
    return secrets.token_hex(8)
