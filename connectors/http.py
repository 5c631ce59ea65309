"""The one way out: every call of an adapter, by SDK or httpx, takes this road.

It spends the target's budget, keeps a hard time limit, refuses what the connector did not declare
as a write, and turns statuses and broken answers into errors typed by who must act. Nothing of a
request (address, key, path) ever stands in an error's text.
"""

from __future__ import annotations

import asyncio
import contextvars
import ipaddress
import json as jsonlib
import logging
import math
import re
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from prefs.core.errors import PropagationError, Refused, Temporary, Unusable
from prefs.core.propagation import Budget, Target
from prefs.core.spans import Span, span

T = TypeVar("T")

CALL_LIMIT = 8.0
"""Seconds for one call, below a third of a lease."""
CONNECT_LIMIT = 3.0
UNCONFIRMED_LIMIT = 4.0
"""Seconds until our kernel gives up what the vendor's has not confirmed. By itself it sends that
again for some two minutes, although the call was given up and its process has ended: an `on` that
hung in a broken way would come after the `off` that followed it, and after `facts.call_alive`."""
READS = frozenset({"GET", "HEAD", "OPTIONS"})
ATTEMPTS = 3
BACKOFF = 0.2
"""Seconds, at most, between the first two; twice as much before the next."""
LONGEST_WAIT = 2.0
"""A Retry-After beyond this is not waited for inside a call."""
MOST_PAUSE = 3600.0
UNTOLD_PAUSE = 1.0
"""After a 429 that names no time."""
THREADS = 16
"""Of one target, for calls of a synchronous SDK: a slow vendor takes up nobody else's. Python's own
default is four more than the machine has cores, for all targets together."""
HOST_FINE_FOR = 60.0
"""Seconds until a vendor's host name is looked up again."""

for _name in ("httpx", "httpcore", "urllib3", "requests"):
    logging.getLogger(_name).setLevel(logging.WARNING)


@cache
def _trusted() -> ssl.SSLContext:
    """One for all: to read the certificates takes longer than many a call."""
    return httpx.create_ssl_context(trust_env=False)


def socket_options() -> list[tuple[int, int, int]]:
    """Of every connection to a vendor. TCP_USER_TIMEOUT of tcp(7), in milliseconds: Linux has it,
    and how long others send again is not ours to say."""
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    if sys.platform == "linux":
        limit = int(UNCONFIRMED_LIMIT * 1000)
        options.append((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit))
    return options


def held(session: Any) -> Any:
    """A session of `requests`, through which some SDKs speak, with these options."""
    from requests.adapters import HTTPAdapter

    class Held(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **more: Any) -> None:
            super().init_poolmanager(*args, socket_options=socket_options(), **more)

    for scheme in ("http://", "https://"):
        session.mount(scheme, Held())
    session.trust_env = False
    return session


class Reply(NamedTuple):
    """An answer as it came. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Raises Temporary for a page, a cut answer, or anything else that is no JSON: what was
        asked for may have been done."""
        try:
            return jsonlib.loads(self.body)
        except ValueError:
            reason = f"HTTP {self.status} with an answer that is not JSON"
            raise Temporary(reason, unclear=True) from None


class Undeclared(PropagationError):
    """A write that the connector's facts do not name: a fault of ours, never sent."""


class Way:
    """The road to one vendor host. `base` is scheme and host: the configured `base_url` or the
    vendor's own."""

    def __init__(
        self,
        target: Target,
        budget: Budget,
        host: str,
        writes: Collection[tuple[str, str]],
        reads_by_post: Collection[tuple[str, str]] = (),
    ) -> None:
        self.base = (target.base_url or host).rstrip("/")
        self._budget = budget
        self._label = target.label
        self._words = words_of(path for _, path in (*writes, *reads_by_post))
        self._allowed = [(method, re.compile(path)) for method, path in (*writes, *reads_by_post)]
        self._host_fine_until = math.inf if target.base_url else 0.0
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=target.label)
        self._client = httpx.AsyncClient(
            base_url=self.base,
            timeout=httpx.Timeout(CALL_LIMIT, connect=CONNECT_LIMIT),
            follow_redirects=False,
            trust_env=False,
            transport=httpx.AsyncHTTPTransport(
                verify=_trusted(), trust_env=False, socket_options=socket_options()
            ),
        )

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._client.aclose()

    async def send(
        self,
        method: str,
        path: str,
        *,
        params: Any = None,
        json: Any = None,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
    ) -> Reply:
        """One call by httpx. Raises Temporary for transport faults, never for a status."""
        await self._check(method, path)

        async def call() -> Reply:
            answer = await self._client.request(
                method,
                path,
                params=params,
                json=json,
                data=data,
                headers=dict(headers or {}),
                auth=auth or httpx.USE_CLIENT_DEFAULT,
            )
            found = {name.lower(): value for name, value in answer.headers.items()}
            return Reply(answer.status_code, found, answer.content)

        with self._span(method, path) as traced:
            reply = await self._in_budget(call)
            traced.note("status", reply.status)
        return reply

    async def in_thread(self, method: str, path: str, call: Callable[[], T]) -> T:
        """One call of a vendor's synchronous SDK, which keeps a time-out of its own as well."""
        await self._check(method, path)

        async def threaded() -> T:
            loop, context = asyncio.get_running_loop(), contextvars.copy_context()
            return await loop.run_in_executor(self._threads, context.run, call)

        with self._span(method, path):
            return await self._in_budget(threaded)

    def _span(self, method: str, path: str) -> AbstractContextManager[Span]:
        template = template_of(path, self._words)
        return span("vendor.call", target=self._label, method=method.upper(), template=template)

    async def _check(self, method: str, path: str) -> None:
        if method.upper() not in READS and not any(
            method.upper() == allowed and pattern.fullmatch(path)
            for allowed, pattern in self._allowed
        ):
            raise Undeclared(f"{method.upper()} is not among the declared writes")
        if time.monotonic() > self._host_fine_until:
            await self._look_up()
            self._host_fine_until = time.monotonic() + HOST_FINE_FOR

    async def _look_up(self) -> None:
        """Where no name server answers this takes half a minute, in threads of our own: in those
        that all share, mail and checkpoints would wait for it."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_LIMIT):
                await loop.run_in_executor(self._threads, refuse_private, self.base)
        except TimeoutError as fault:
            raise Temporary("the vendor's host name was not found in time") from fault

    async def _in_budget(self, call: Callable[[], Awaitable[T]]) -> T:
        await self._budget.acquire()
        try:
            async with asyncio.timeout(CALL_LIMIT):
                return await call()
        except (httpx.ConnectError, httpx.ConnectTimeout) as fault:
            raise Temporary("no connection to the vendor") from fault
        except TimeoutError as fault:
            raise Temporary("the vendor did not answer in time", unclear=True) from fault
        except httpx.TransportError as fault:
            raise Temporary("the connection to the vendor broke", unclear=True) from fault
        finally:
            self._budget.release()

    def pause(self, reply: Reply) -> None:
        """After a 429: no call of this target before the vendor's Retry-After."""
        self._budget.pause(retry_after(reply.headers) or UNTOLD_PAUSE)


def words_of(patterns: Iterable[str]) -> frozenset[str]:
    """The vendor's own words in the paths that a connector declares."""
    literal = (re.sub(r"\[.*?\]|\{.*?\}|\\", "", pattern) for pattern in patterns)
    return frozenset(word for text in literal for word in re.findall(r"[A-Za-z][\w.:-]+", text))


def template_of(path: str, words: Collection[str]) -> str:
    """A path for traces: all but the vendor's own words (ids, hashes, addresses, keys) is `*`."""
    parts = path.partition("?")[0].split("/")
    return "/".join(part if not part or part in words else "*" for part in parts)


def refuse_private(base: str) -> None:
    """Raises Unusable when a vendor's name leads to an address inside our network."""
    host = urlsplit(base).hostname or ""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return
    if any(not ipaddress.ip_address(str(one)).is_global for one in found):
        raise Unusable("the vendor's host name leads to a private address")


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds to wait as RFC 9110 section 10.2.3 says them, at most an hour; None when absent,
    negative or unreadable."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return min(float(text), MOST_PAUSE)
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    wait = (at - (now or datetime.now(UTC))).total_seconds()
    return min(wait, MOST_PAUSE) if wait > 0 else None


PASSING = frozenset({408, 423, 425, 429, 477})
"""Not begun. Another try may help, as after any 5xx."""
NOT_BEGUN = frozenset({501, 503})
"""After any other 5xx the vendor may still be at work: a proxy gives up before it does (RFC 9110
section 15.6.5), and what failed half-way may have done its half."""


def fault_of(reply: Reply, what: str = "") -> PropagationError:
    """The error that an answer's status amounts to; `what` is the vendor's reason in safe words."""
    reason = f"HTTP {reply.status}" + (f": {what}" if what else "")
    if reply.status in PASSING or reply.status >= 500:
        unclear = reply.status >= 500 and reply.status not in NOT_BEGUN
        return Temporary(reason, retry_after=retry_after(reply.headers), unclear=unclear)
    if reply.status in (401, 403):
        return Unusable(reason)
    return Refused(reason)


def gravest(faults: Iterable[PropagationError]) -> PropagationError | None:
    """Of what failed in several calls for one change: what may still be at work says more than what
    may be tried again, and that more than a refusal."""

    def gravity(fault: PropagationError) -> tuple[bool, bool]:
        return isinstance(fault, Temporary) and fault.unclear, not isinstance(fault, Refused)

    return max(faults, key=gravity, default=None)


def checked(reply: Reply) -> Any:
    """The JSON of a good answer. Raises what `fault_of` says otherwise."""
    if not 200 <= reply.status < 300:
        raise fault_of(reply)
    return reply.json()


def _worth_it(fault: BaseException) -> bool:
    """A short wait may help: never where the vendor asked for a long one."""
    return isinstance(fault, Temporary) and (fault.retry_after or 0.0) <= LONGEST_WAIT


def _wait(state: RetryCallState) -> float:
    fault = state.outcome.exception() if state.outcome else None
    asked = fault.retry_after if isinstance(fault, Temporary) else None
    return max(asked or 0.0, wait_random_exponential(multiplier=BACKOFF, max=1.0)(state))


async def retried(call: Callable[[], Awaitable[T]], attempts: int = ATTEMPTS) -> T:
    """For reads, and writes of `off`: a few short tries. An `on` is never sent through here. Where
    one try has no clear end, a clear failure of a later one does not make it clear."""
    unclear = False
    async for attempt in AsyncRetrying(
        stop=stop_after_attempt(attempts),
        wait=_wait,
        retry=retry_if_exception(_worth_it),
        reraise=True,
    ):
        with attempt:
            try:
                return await call()
            except Temporary as fault:
                unclear = fault.unclear = fault.unclear or unclear
                raise
    raise AssertionError("unreachable")


async def spread(items: Sequence[T], job: Callable[[T], Awaitable[Any]], at_once: int) -> list[Any]:
    """Run a job for every item, so many at once; a PropagationError is an answer, not raised. After
    any other fault no item is begun any more: it is raised when those under way have ended."""
    answers: list[Any] = [None] * len(items)
    left = iter(enumerate(items))

    async def carry() -> None:
        try:
            for place, item in left:
                try:
                    answers[place] = await job(item)
                except PropagationError as fault:
                    answers[place] = fault
        finally:
            deque(left, maxlen=0)

    lines = (carry() for _ in range(min(at_once, len(items))))
    for fault in await asyncio.gather(*lines, return_exceptions=True):
        if fault:
            raise fault
    return answers
