"""How a twin's webhooks get to the service under test: on time, late, twice, in disorder or not."""

from __future__ import annotations

import dataclasses
import heapq
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import httpx


@dataclass(frozen=True)
class Letter:
    """One webhook request, ready to be sent."""

    url: str
    content: bytes
    headers: Mapping[str, str]
    method: str = "POST"


Compose = Callable[[int], Letter]
"""Makes the letter of an attempt (from 0) at the moment of sending, so that time and
signature are fresh."""


@dataclass(frozen=True)
class Travel:
    """How a webhook travels: sent `1 + duplicate` times, `delay` seconds late, after the next
    one (`reorder`), or lost (`drop`)."""

    duplicate: int = 0
    delay: float = 0.0
    reorder: bool = False
    drop: bool = False


PLAIN = Travel()


@dataclass(frozen=True)
class Sent:
    """One attempt: `status` and `answer` None when no answer came. `at` is unix time."""

    at: float
    letter: Letter
    attempt: int
    status: int | None
    answer: httpx.Response | None = None


def not_2xx(status: int | None) -> bool:
    return status is None or not 200 <= status < 300


@dataclass(order=True)
class _Queued:
    due: float
    n: int
    compose: Compose = field(compare=False)
    answered: Callable[[Sent], None] = field(compare=False)
    attempt: int = field(compare=False, default=0)


class Courier:
    """Sends webhooks from a thread of its own, one after the other.

    gaps     seconds between attempts, the vendor's; tests shorten them
    again    which answers are tried again
    timeout  seconds the vendor waits for the answer
    """

    def __init__(
        self,
        gaps: Sequence[float] = (),
        again: Callable[[int | None], bool] = not_2xx,
        timeout: float = 10.0,
    ) -> None:
        self.gaps = tuple(gaps)
        self.again = again
        self.timeout = timeout
        self.sent: list[Sent] = []
        self._queue: list[_Queued] = []
        self._held: list[_Queued] = []
        self._n = 0
        self._in_air = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def post(
        self,
        compose: Compose,
        travel: Travel = PLAIN,
        answered: Callable[[Sent], None] = lambda sent: None,
    ) -> None:
        """Queue a webhook; `answered` is told of each attempt."""
        if travel.drop:
            return
        with self._changed:
            for _ in range(1 + travel.duplicate):
                self._n += 1
                due = time.monotonic() + travel.delay
                queued = _Queued(due, self._n, compose, answered)
                if travel.reorder:
                    self._held.append(queued)
                else:
                    heapq.heappush(self._queue, queued)
            if not travel.reorder:
                self._release()
            self._start()
            self._changed.notify_all()

    def settle(self, timeout: float = 5.0) -> None:
        """Return when all that is due within `timeout` seconds was sent and answered.

        Letters held back for reordering are sent now. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._release()
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._quiet(deadline), timeout):
                raise TimeoutError("webhooks are still under way")

    def forget(self) -> None:
        """Drop everything queued and the record of what was sent."""
        with self._changed:
            self._queue.clear()
            self._held.clear()
            self.sent.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """Stop sending; a later `post` starts again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(1.0)

    def _release(self) -> None:
        for held in self._held:
            self._n += 1
            now = time.monotonic()
            heapq.heappush(self._queue, dataclasses.replace(held, n=self._n, due=now))
        self._held.clear()

    def _quiet(self, deadline: float) -> bool:
        return not self._in_air and not any(q.due <= deadline for q in self._queue)

    def _start(self) -> None:
        if self._thread is None:
            self._closed = False
            self._thread = threading.Thread(target=self._run, name="courier", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        with httpx.Client(trust_env=False, follow_redirects=False, verify=False) as client:
            while (queued := self._next()) is not None:
                try:
                    self._deliver(client, queued)
                finally:
                    with self._changed:
                        self._in_air -= 1
                        self._changed.notify_all()

    def _next(self) -> _Queued | None:
        with self._changed:
            while not self._closed:
                wait = self._queue[0].due - time.monotonic() if self._queue else None
                if wait is not None and wait <= 0:
                    self._in_air += 1
                    return heapq.heappop(self._queue)
                self._changed.wait(wait)
            return None

    def _deliver(self, client: httpx.Client, queued: _Queued) -> None:
        letter = queued.compose(queued.attempt)
        answer = self._try(client, letter)
        status = answer.status_code if answer is not None else None
        sent = Sent(time.time(), letter, queued.attempt, status, answer)
        queued.answered(sent)
        with self._changed:
            self.sent.append(sent)
            if self.again(sent.status) and queued.attempt < len(self.gaps):
                due = time.monotonic() + self.gaps[queued.attempt]
                again = dataclasses.replace(queued, due=due, attempt=queued.attempt + 1)
                heapq.heappush(self._queue, again)

    def _try(self, client: httpx.Client, letter: Letter) -> httpx.Response | None:
        try:
            return client.request(
                letter.method,
                letter.url,
                content=letter.content,
                headers=dict(letter.headers),
                timeout=self.timeout,
            )
        except httpx.HTTPError:
            return None
