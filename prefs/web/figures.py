"""What the database holds, put into the gauges when somebody asks.

Each process that is asked reads for itself, so that a reading is good for some seconds and reading
takes at most a twentieth of the time, however much waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from prometheus_client import Gauge

from prefs import metrics
from prefs.core.errors import Unavailable
from prefs.store import figures as stored
from prefs.web.context import Service
from prefs.web.parts import parts_of

GOOD_FOR = 5.0
SHARE = 20
"""A reading that took a second is good for twenty."""
WITHIN = 5.0
"""Seconds that whoever asks is kept: less than Prometheus waits (10 s), who would take this process
for the one that does not answer."""
OVERDUE_AFTER = 3600.0


class Figures:
    def __init__(self, served: Service) -> None:
        self._served = served
        self._good_until = 0.0
        self._reading: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """Read anew unless a reading is still good. Where the store is away, the gauges keep what
        they said, and one of them says so."""
        if self._reading is None or self._reading.done():
            if time.monotonic() < self._good_until:
                return
            self._reading = asyncio.create_task(self._read_anew())
        done, _ = await asyncio.wait([self._reading], timeout=WITHIN)
        if done:
            self._reading.result()
        else:
            metrics.STORE_UP.set(False)

    async def _read_anew(self) -> None:
        began = time.monotonic()
        up = await self._read()
        metrics.STORE_UP.set(up)
        ended = time.monotonic()
        self._good_until = ended + max(GOOD_FOR, SHARE * (ended - began) if up else 0.0)

    async def _read(self) -> bool:
        settings, now = self._served.settings, self._served.clock().timestamp()
        targets = list(settings.targets)
        try:
            found = await self._served.database.read(
                lambda conn: stored.read(conn, targets, settings.brands, now, now - OVERDUE_AFTER)
            )
        except Unavailable:
            return False
        _show(found, targets, now)
        return True


def _show(found: stored.Figures, targets: Iterable[str], now: float) -> None:
    for target in targets:
        _show_marks(found, target, now)
        _show_lane(found, target, now)
    metrics.FIGURES_AT.set(now)
    metrics.WORKERS.set(found.workers)
    metrics.SEALED.set(found.sealed)
    metrics.UNSEALED.set(_since(found.unsealed_since, now))
    metrics.OUTBOX.set(found.outbox[0])
    metrics.OUTBOX_LATE.set(_since(found.outbox[1], now))
    metrics.INBOX.set(found.inbox)
    _show_tasks(found)


def _show_marks(found: stored.Figures, target: str, now: float) -> None:
    backlog = found.backlogs.get(target, stored.Backlog(0, now, 0))
    metrics.BACKLOG.labels(target).set(backlog.marks)
    metrics.OLDEST.labels(target).set(_since(backlog.oldest, now))
    metrics.REFUSED.labels(target).set(backlog.refused)
    metrics.OVERDUE.labels(target).set(found.overdue.get(target, 0))
    for part, seconds in parts_of(found.lags[target]).items():
        _set(metrics.LAG, (target, part), seconds)


def _show_lane(found: stored.Figures, target: str, now: float) -> None:
    lane = found.lanes.get(target)
    metrics.UNSAFE.labels(target).set(bool(lane and lane.unsafe_since))
    metrics.PARKED.labels(target).set(bool(lane and (lane.parked_until or 0.0) > now))
    metrics.HELD.labels(target).set(bool(lane and lane.lease_until > now))
    scanned = lane.scanned_at if lane else None
    _set(metrics.SCANNED, (target,), None if scanned is None else _since(scanned, now))


def _show_tasks(found: stored.Figures) -> None:
    """A kind of which none is open any more says nothing."""
    for gauge, at in ((metrics.TASKS, 2), (metrics.TASKS_LATE, 3)):
        gauge.clear()
        for row in found.tasks:
            gauge.labels(row[0], row[1]).set(float(row[at]))


def _since(at: float | None, now: float) -> float:
    return 0.0 if at is None else max(0.0, now - at)


def _set(gauge: Gauge, labels: tuple[str, ...], value: float | None) -> None:
    """What is not known is not said."""
    if value is None:
        gauge.remove(*labels)
    else:
        gauge.labels(*labels).set(value)
