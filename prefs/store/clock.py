"""The database's time, by which processes on several machines agree on whose lease is over."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import structlog
from sqlalchemy import Connection, func, select

from prefs.store.database import Database

log = structlog.get_logger()

SYNC_EVERY = 30.0
_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux counts the time of a suspend in it, others know only the second."""
SKEWED = 2.0
"""Seconds by which this machine's clock may differ before somebody should know."""


class DatabaseClock:
    """Goes by the machine's time since its start, which no setting of its clock moves and which
    counts through a suspend, from what the database said last."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ahead = self._measure()

    def __call__(self) -> datetime:
        return datetime.fromtimestamp(_running() + self._ahead, UTC)

    async def sync(self) -> None:
        self._ahead = await self._database.read(_ahead)
        skew = abs(time.time() - self().timestamp())
        if skew > SKEWED:
            log.warning("clock_skewed", seconds=round(skew, 1))

    def _measure(self) -> float:
        return self._database.read_now(_ahead)


def _ahead(conn: Connection) -> float:
    """What to add to this machine's running time. The answer is taken to be from the middle of the
    question's way there and back."""
    began = _running()
    said = conn.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one()
    return float(said) - (began + _running()) / 2


def _running() -> float:
    return time.clock_gettime(_BOOTTIME)
