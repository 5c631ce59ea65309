"""API keys: each route names the scopes of which a key needs one."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

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
    found = await cache.find(served, request.headers.get("authorization", ""))
    if found is None:
        raise Unauthorized
    return found


def _bearer(header: str) -> str | None:
    kind, _, text = header.partition(" ")
    return text.strip() if kind.lower() == "bearer" else None


def needs(*scopes: str) -> Callable[[Handler], Callable[[Request], Awaitable[Response]]]:
    """Let a request in whose key has one of these scopes."""

    def guard(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            served = service(request)
            key = await api_key(request, served)
            if key.scopes.isdisjoint(scopes):
                raise Forbidden(f"this key lacks the scope {' or '.join(scopes)}")
            return await handler(request, served, key)

        guarded.needs = scopes  # type: ignore[attr-defined]  # read by the test that lists routes
        guarded.__name__ = handler.__name__
        guarded.__doc__ = handler.__doc__
        return guarded

    return guard


def same_brand(key: ApiKey, brand: str) -> str:
    if brand != key.brand:
        raise Forbidden("this key belongs to another brand")
    return brand
