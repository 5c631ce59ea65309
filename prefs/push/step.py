"""What every step of a round works with."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, TypeVar

from prefs.core.errors import PropagationError, Unusable
from prefs.core.propagation import Connector, Observed, Seen, Slot, Target
from prefs.intake import Intake
from prefs.store.database import Store

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K")
V = TypeVar("V")


class Backoff(NamedTuple):
    """Seconds: full jitter over a doubling span."""

    first: float
    longest: float

    def after(self, attempts: int) -> float:
        span = min(self.longest, self.first * 2.0 ** min(attempts, 30))
        return random.uniform(0, span)  # noqa: S311  # spreads retries; nothing secret


class Lost(Exception):
    """The lease is no longer ours: nothing may be written under it."""


@dataclass
class Step:
    """A step on the way of claimed marks to one target."""

    target: Target
    connector: Connector
    database: Store
    intake: Intake
    clock: Callable[[], datetime]
    backoff: Backoff

    @property
    def controller(self) -> str:
        return self.intake.brands[self.target.brand]

    @property
    def call_alive(self) -> float:
        """Seconds that a call without a clear answer may still be at work at the vendor."""
        return self.target.call_alive or self.connector.facts.call_alive

    def ours(self, read: Observed) -> dict[Slot, Seen]:
        """The slots that this target carries; a read may show others (reminders), for their
        delivery facts only."""
        carried = set(self.connector.slots)
        return {slot: seen for slot, seen in read.values.items() if slot in carried}

    async def ask(
        self, call: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]], asked: Sequence[K]
    ) -> Mapping[K, V | PropagationError]:
        """What the connector answers for each; a fault of the whole call is that of each. Raises
        Unusable."""
        answers: Mapping[K, V | PropagationError]
        try:
            answers = await call(asked)
        except PropagationError as fault:
            answers = dict.fromkeys(asked, fault)
        for answer in answers.values():
            if isinstance(answer, Unusable):
                raise answer
        return answers

    async def beside(self, parts: Iterable[T], job: Callable[[T], Awaitable[R]]) -> list[R]:
        """Run for every part, as many at once as the target takes; in any order. After a fault none
        begins any more: it is raised when those under way have ended."""
        left, done = iter(parts), list[R]()

        async def carry() -> None:
            try:
                for part in left:
                    done.append(await job(part))
            finally:
                deque(left, maxlen=0)

        lines = (carry() for _ in range(self.connector.facts.beside))
        for fault in await asyncio.gather(*lines, return_exceptions=True):
            if fault:
                raise fault
        return done
