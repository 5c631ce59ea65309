"""API keys: each route names the scopes of which a key needs one."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from functools import update_wrapper

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from prefs.core.errors import Forbidden
from prefs.store import access
from prefs.store.access import ApiKey
from prefs.web.context import Service, service
from prefs.web.problems import Unauthorized

REMEMBERED = 2.0
"""Seconds a key's look-up is reused: so long may a revoked key still work."""

Handler = Callable[[Request, Service, ApiKey], Awaitable[Response]]


class KeyCache:
    """Keys looked up a moment ago."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, ApiKey]] = {}

    async def find(self, served: Service, header: str) -> ApiKey | None:
        """Whose key an Authorization header carries."""
        now = time.monotonic()
        remembered = self._known.get(header)
        if remembered and remembered[0] > now:
            return remembered[1]
        key = _bearer(header)
        if not key:
            return None
        found = await served.database.read(lambda conn: access.find_key(conn, key))
        self._known = {k: v for k, v in self._known.items() if v[0] > now}
        if found:
            self._known[header] = (now + REMEMBERED, found)
        return found


async def api_key(request: Request, served: Service) -> ApiKey:
    """The key that the request carries. Raises Unauthorized."""
    cache: KeyCache = request.app.state.key_cache
    found = await cache.find(served, _authorization(request.scope["headers"]))
    if found is None:
        raise Unauthorized
    return found


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
    less than a function that Starlette makes one of."""

    def __init__(self, handler: Handler, scopes: tuple[str, ...]) -> None:
        self._handler = handler
        self.needs = scopes
        update_wrapper(self, handler)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        served = service(request)
        key = await api_key(request, served)
        if key.scopes.isdisjoint(self.needs):
            raise Forbidden(f"this key lacks the scope {' or '.join(self.needs)}")
        answer = await self._handler(request, served, key)
        await answer(scope, receive, send)


def needs(*scopes: str) -> Callable[[Handler], Guarded]:
    return lambda handler: Guarded(handler, scopes)


def same_brand(key: ApiKey, brand: str) -> str:
    if brand != key.brand:
        raise Forbidden("this key belongs to another brand")
    return brand
