"""The database's time, by which processes on several machines agree on whose lease is over."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from operator import attrgetter
from typing import NamedTuple

import structlog
from sqlalchemy import Connection, func, select

from prefs.store.database import Database

log = structlog.get_logger()

SYNC_EVERY = 30.0
_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux counts the time of a suspend in it, others know only the second."""
SKEWED = 2.0
"""Seconds by which this machine's clock may differ before somebody should know."""
LATE = 1.0
"""Seconds after which an answer tells no time: half of them it may be wrong by."""
TRIES = 5
"""At the start, when nothing is known yet."""


class Said(NamedTuple):
    """What to add to this machine's running time, by an answer that took so many seconds."""

    ahead: float
    took: float


class DatabaseClock:
    """Goes by the machine's time since its start, which no setting of its clock moves and which
    counts through a suspend, from what the database said last."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ahead = self._measure()

    def __call__(self) -> datetime:
        return datetime.fromtimestamp(_running() + self._ahead, UTC)

    async def sync(self) -> None:
        said = await self._database.read(_ask)
        if said.took > LATE:
            log.warning("clock_answered_late", seconds=round(said.took, 1))
            return
        self._ahead = said.ahead
        skew = abs(time.time() - self().timestamp())
        if skew > SKEWED:
            log.warning("clock_skewed", seconds=round(skew, 1))

    def _measure(self) -> float:
        """By the first quick answer, else by the quickest."""
        answers = list[Said]()
        while len(answers) < TRIES and (not answers or answers[-1].took > LATE):
            answers.append(self._database.read_now(_ask))
        return min(answers, key=attrgetter("took")).ahead


def _ask(conn: Connection) -> Said:
    """The answer is taken to be from the middle of the question's way there and back."""
    began = _running()
    said = conn.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one()
    ended = _running()
    return Said(float(said) - (began + ended) / 2, ended - began)


def _running() -> float:
    return time.clock_gettime(_BOOTTIME)
