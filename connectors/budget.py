"""One budget a target: so many calls a period, or so many at once. Half is kept for outs."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from prefs.core.propagation import URGENT, Limit


class TokenBudget:
    """Implements prefs.core.propagation.Budget. Calls without URGENT see half of the limit.

    A limit per period is kept as a sliding window: at no moment lie more calls than allowed
    within the period behind it, which is how vendors count.
    """

    def __init__(self, limit: Limit, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._sent: deque[float] = deque()
        self._open = 0
        self._not_before = 0.0
        self._freed = asyncio.Event()

    async def acquire(self) -> None:
        while True:
            wait = self._wait()
            if wait is None:
                self._open += 1
                self._sent.append(self._clock())
                return
            self._freed.clear()
            try:
                await asyncio.wait_for(self._freed.wait(), wait)
            except TimeoutError:
                continue

    def release(self) -> None:
        self._open -= 1
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
        if not self._limit.seconds:
            return 1.0 if self._open >= self._share() else None
        while self._sent and self._sent[0] <= now - self._limit.seconds:
            self._sent.popleft()
        if len(self._sent) < self._share():
            return None
        return max(0.001, self._sent[len(self._sent) - self._share()] + self._limit.seconds - now)
