"""One budget a target: so many calls a period, or so many at once. Half is kept for outs."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from prefs.core.errors import Temporary
from prefs.core.propagation import IN_TIME, OUT_DUE, URGENT, Limit

UNTIL_ONE_ENDS = 1.0
"""Seconds at most: whoever waits is woken when a call ends."""
LOOK = 0.25
"""Seconds between looks whether an out is due."""
GIVES_WAY_FOR = 3.0
"""Seconds until a call that gave way is tried again: more than is waited for inside a call."""


class TokenBudget:
    """Implements prefs.core.propagation.Budget. Calls without URGENT see half of the limit.

    A limit per period is kept as a sliding window: at no moment lie more calls than allowed
    within the period behind it, which is how vendors count. They count when a call arrives, of
    which we know only that it was before its answer: a call under way takes a place, and its
    period begins when it ends.
    """

    def __init__(self, limit: Limit, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._ended: deque[float] = deque()
        self._open = 0
        self._not_before = 0.0
        self._freed = asyncio.Event()

    async def acquire(self) -> None:
        while True:
            wait = self._wait()
            if not IN_TIME.get()():
                raise Temporary("it was too late to set out", retry_after=GIVES_WAY_FOR)
            if wait is None:
                self._open += 1
                return
            if OUT_DUE.get()() and not URGENT.get():
                raise Temporary("gave way to an opt-out", retry_after=GIVES_WAY_FOR)
            self._freed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(wait, LOOK)):
                    await self._freed.wait()

    def release(self) -> None:
        self._open -= 1
        if self._limit.seconds:
            self._ended.append(self._clock())
        self._freed.set()

    def pause(self, seconds: float) -> None:
        self._not_before = max(self._not_before, self._clock() + seconds)

    def _share(self) -> int:
        return self._limit.calls if URGENT.get() else max(1, self._limit.calls // 2)

    def _wait(self) -> float | None:
        """Seconds until it is worth asking again; None when there is room now."""
        now = self._clock()
        if now < self._not_before:
            return self._not_before - now
        while self._ended and self._ended[0] <= now - self._limit.seconds:
            self._ended.popleft()
        too_many = self._open + len(self._ended) - self._share() + 1
        if too_many <= 0:
            return None
        if too_many > len(self._ended):
            return UNTIL_ONE_ENDS
        return max(0.001, self._ended[too_many - 1] + self._limit.seconds - now)
