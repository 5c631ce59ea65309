"""API keys: each route names the scopes of which a key needs one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import update_wrapper

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from prefs.core.errors import Forbidden, Unavailable
from prefs.store import access
from prefs.store.access import ApiKey
from prefs.web.context import Service, service
from prefs.web.problems import Unauthorized

REMEMBERED = 2.0
"""Seconds a key's look-up is reused: so long may a revoked key still work."""
LOOK_UP_WITHIN = 5.0
"""Seconds; a store that hangs is away."""

Handler = Callable[[Request, Service, ApiKey], Awaitable[Response]]


class KeyCache:
    """Keys looked up a moment ago, and whose each one was when it was looked up last."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, ApiKey]] = {}
        self._last: dict[str, ApiKey] = {}

    async def find(self, served: Service, header: str) -> ApiKey | None:
        """Whose key an Authorization header carries."""
        now = time.monotonic()
        remembered = self._known.get(header)
        if remembered and remembered[0] > now:
            return remembered[1]
        key = _bearer(header)
        if not key:
            return None
        found = await _look_up(served, key)
        self._known = {k: v for k, v in self._known.items() if v[0] > now}
        self._last.pop(header, None)
        if found:
            self._known[header] = (now + REMEMBERED, found)
            self._last[header] = found
        return found

    def last(self, header: str) -> ApiKey | None:
        """For what the store is not needed for: the key may have been revoked since."""
        return self._last.get(header)


async def _look_up(served: Service, key: str) -> ApiKey | None:
    """Raises Unavailable."""
    try:
        async with asyncio.timeout(LOOK_UP_WITHIN):
            return await served.database.read(lambda conn: access.find_key(conn, key))
    except TimeoutError:
        raise Unavailable("the store does not answer in time") from None


async def api_key(request: Request, served: Service) -> ApiKey:
    """The key that the request carries. Raises Unauthorized, Unavailable."""
    found = await _cache(request).find(served, _authorization(request.scope["headers"]))
    if found is None:
        raise Unauthorized
    return found


def _cache(request: Request) -> KeyCache:
    cache: KeyCache = request.app.state.key_cache
    return cache


def _authorization(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """A walk through a few headers is quicker than a `Headers` made for one of them."""
    for name, value in headers:
        if name == b"authorization":
            return value.decode("latin-1")
    return ""


def _bearer(header: str) -> str | None:
    kind, _, text = header.partition(" ")
    return text.strip() if kind.lower() == "bearer" else None


class Guarded:
    """Lets a request in whose key has one of the scopes it needs. An ASGI application, which costs
    less than a function that Starlette makes one of. `away` answers, without the store, whose key
    cannot be looked up any more."""

    def __init__(self, handler: Handler, scopes: tuple[str, ...], away: Handler | None) -> None:
        self._handler = handler
        self._away = away
        self.needs = scopes
        update_wrapper(self, handler)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        served, handler = service(request), self._handler
        try:
            key = await api_key(request, served)
        except Unavailable:
            last = _cache(request).last(_authorization(scope["headers"]))
            if last is None or self._away is None:
                raise
            key, handler = last, self._away
        if key.scopes.isdisjoint(self.needs):
            raise Forbidden(f"this key lacks the scope {' or '.join(self.needs)}")
        answer = await handler(request, served, key)
        await answer(scope, receive, send)


def needs(*scopes: str, away: Handler | None = None) -> Callable[[Handler], Guarded]:
    return lambda handler: Guarded(handler, scopes, away)


def same_brand(key: ApiKey, brand: str) -> str:
    if brand != key.brand:
        raise Forbidden("this key belongs to another brand")
    return brand
