"""What stands around every request: who sent it, what it is called in logs and traces, how long it
took, and whether this process is about to leave.
"""

from __future__ import annotations

import random
import re
import time
from asyncio import Event
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

import structlog
from prometheus_client import Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefs.core.spans import NOTHING, span
from prefs.logs import REQUEST
from prefs.metrics import REQUESTS
from prefs.settings import Network, Settings
from prefs.web import problems

log = structlog.get_logger()

Address = IPv4Address | IPv6Address
_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
ID, FORWARDED = b"x-request-id", b"x-forwarded-for"
Headers = Sequence[tuple[bytes, bytes]]


MOST_SPELLINGS = 100


class Hosts:
    """Answers 421 to a Host that is not ours, 400 to an address that cannot be one of ours."""

    LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        ours = settings.public_url.split("//", 1)[1].split("/", 1)[0]
        self._allowed = {_bare(host) for host in (ours, *settings.allowed_hosts, *self.LOOPBACK)}
        self._known: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._ours(scope):
            await problems.problem(421, "this host is not served here")(scope, receive, send)
        elif scope["type"] == "http" and _holds_nul(scope):
            await problems.problem(400, "the address holds a NUL")(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _ours(self, scope: Scope) -> bool:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        return len(hosts) == 1 and (hosts[0] in self._known or self._look(hosts[0]))

    def _look(self, host: bytes) -> bool:
        """Ours are few, and kept as they are spelled."""
        ours = _bare(host.decode("latin-1")) in self._allowed
        if ours and len(self._known) < MOST_SPELLINGS:
            self._known.add(host)
        return ours


def _holds_nul(scope: Scope) -> bool:
    """PostgreSQL keeps no text with one, and no text of ours has any."""
    return "\0" in scope["path"] or b"%00" in scope["query_string"]


def _bare(host: str) -> str:
    """The host without its port, in lower case."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def values_of(headers: Headers, wanted: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in headers if name == wanted]


class Arrivals:
    """Behind a proxy of ours the sender is whom the proxy names, and the request is called what the
    proxy calls it. From anybody else such headers say nothing: whoever sends them writes them."""

    def __init__(self, app: ASGIApp, trusted: Sequence[Network]) -> None:
        self._app = app
        self._trusted = trusted
        self._told = False
        self._ours = lru_cache(1024)(self._is_ours)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # a task of its own carries each request, so that nobody has to take this back
            REQUEST.set(self._arrive(scope))
        await self._app(scope, receive, send)

    def _arrive(self, scope: Scope) -> str:
        """What the request is called. Puts the sender in the proxy's place."""
        peer, headers = scope.get("client"), scope["headers"]
        if not (self._trusted and peer and self._ours(peer[0])):
            self._warn(headers)
            return _new_name()
        scope["client"] = (self._sender(peer[0], headers), 0)
        given = values_of(headers, ID)
        scope["named"] = len(given) == 1 and bool(_ID.fullmatch(given[0]))
        return given[0] if scope["named"] else _new_name()

    def _is_ours(self, text: str) -> bool:
        address = _address(text)
        return address is not None and any(address in network for network in self._trusted)

    def _sender(self, peer: str, headers: Headers) -> str:
        """Read from the end, where our own proxies write: the first that is none of ours. What
        stands before it is hearsay."""
        hops = ",".join(values_of(headers, FORWARDED)).split(",")
        for hop in reversed(hops):
            named = _address(hop.strip()) if self._ours(peer) else None
            if named is None:
                break
            peer = str(named)
        return peer

    def _warn(self, headers: Headers) -> None:
        """Once a process: a proxy that nobody named makes all the world one address."""
        if not self._told and values_of(headers, FORWARDED):
            self._told = True
            log.warning("forwarded_for_ignored", fix="name the proxy in trusted_proxies")


def _new_name() -> str:
    return f"{random.getrandbits(64):016x}"  # a name, and no secret


def _address(text: str) -> Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


class Measured:
    """Times every request by route; a path is never a label, it may hold a token. A process that
    leaves asks that no connection is used again: its proxy then turns to another by itself."""

    def __init__(self, app: ASGIApp, leaving: Event) -> None:
        self._app = app
        self._leaving = leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *self._more(scope, status)]
            await send(message)

        with span("request") as traced:
            try:
                await self._app(scope, receive, noted)
            finally:
                route = getattr(scope.get("route"), "path", "none")
                took = time.perf_counter() - began
                _timing(route, status).observe(took)
                if traced is not NOTHING:
                    traced.call(f"{scope['method']} {route}")
                    traced.note("status", status)
                if status >= 500:
                    _tell(scope["method"], route, status, took)

    def _more(self, scope: Scope, status: int) -> list[tuple[bytes, bytes]]:
        """Pages for strangers are the same to the byte, whoever they ask about: a name of ours
        stands on answers to programs and on failures."""
        told = scope.get("named") or status >= 500 or scope["path"].startswith("/v1/")
        more = [(ID, REQUEST.get().encode())] if told else []
        return [*more, (b"connection", b"close")] if self._leaving.is_set() else more


@lru_cache(4096)
def _timing(route: str, status: int) -> Histogram:
    return REQUESTS.labels(route, str(status))


def _tell(method: str, route: str, status: int, took: float) -> None:
    log.warning("request", method=method, route=route, status=status, seconds=round(took, 3))
