"""Access tokens: a fixed one, or OAuth's (RFC 6749), refreshed before they end.

A vendor may give a new refresh token with every access token and take the old one no more (RFC
6749 section 6). Such a pair goes to the target's vault before it is used, and one process at a time
asks for it: a token spent twice may end the connection (RFC 6819 section 5.2.2.3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Protocol

from connectors import http
from prefs.core.errors import Temporary, Unusable
from prefs.core.propagation import URGENT, Vault

Now = Callable[[], datetime]

EARLY = timedelta(minutes=2)
"""A token is refreshed that much before its end."""
FRESH = timedelta(minutes=1)
REFRESH = "refresh_token"


class Tokens(Protocol):
    async def get(self) -> str:
        """Raises Unusable where the vendor refuses our credentials, Temporary where it is away."""

    def check(self, reply: http.Reply, used: str) -> None:
        """Raises when an answer refuses the token that was used."""


class Fixed:
    """A token that does not expire: a private app's, a personal one."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def get(self) -> str:
        return self._token

    def check(self, reply: http.Reply, used: str) -> None:
        if reply.status == 401:
            raise Unusable("the vendor refuses our token (401)")


class OAuth:
    """`form` is what the token endpoint takes: grant_type and credentials. With `vault`, a
    refresh token that the vendor replaces is kept there and comes before the configured one."""

    def __init__(
        self,
        way: http.Way,
        path: str,
        form: Mapping[str, str],
        now: Now,
        *,
        vault: Vault | None = None,
        basic: tuple[str, str] | None = None,
    ) -> None:
        self._way, self._path, self._form, self._now = way, path, dict(form), now
        self._vault, self._basic = vault, basic
        self._lock = asyncio.Lock()
        self._held = self._unsaved = ""
        self._since = self._until = now()

    async def get(self) -> str:
        async with self._lock:
            if not self._held or self._now() >= self._until:
                await self._renew_at_once()
            return self._held

    async def _renew_at_once(self) -> None:
        """Whoever asks: an out may wait for the token, too."""
        held = URGENT.set(True)
        try:
            await self._renew()
        finally:
            URGENT.reset(held)

    def check(self, reply: http.Reply, used: str) -> None:
        """A token may have been revoked before its time, which a new one mends; a token that was
        hardly used is refused for good."""
        if reply.status != 401:
            return
        if used == self._held and self._now() - self._since < FRESH:
            raise Unusable("the vendor refuses our token (401)")
        self._held = "" if used == self._held else self._held
        raise Temporary("the vendor no longer takes our access token; a new one is asked for")

    async def _renew(self) -> None:
        """A refresh token that is replaced is spent by one process at a time."""
        if self._vault is None:
            await http.retried(lambda: self._ask(None))
            return
        async with self._vault.alone(REFRESH):
            await self._save(self._vault)
            await self._spend(await self._vault.get(REFRESH))

    async def _spend(self, kept: str | None) -> None:
        try:
            await http.retried(lambda: self._ask(kept))
        except Unusable:
            if kept is None:
                raise
            await http.retried(lambda: self._ask(None))  # the configured one may be newer

    async def _save(self, vault: Vault) -> None:
        """The vendor's last refresh token, which a store that was away may not have taken."""
        if self._unsaved:
            await vault.put(REFRESH, self._unsaved)
            self._unsaved = ""

    async def _ask(self, kept: str | None) -> None:
        began = self._now()
        form = {**self._form, **({REFRESH: kept} if kept else {})}
        reply = await self._way.send("POST", self._path, data=form, auth=self._basic)
        if reply.status in (400, 401, 403):
            raise Unusable("the vendor refuses our refresh token or client secret")
        answer = http.checked(reply)
        try:
            lasting = timedelta(seconds=float(answer["expires_in"]))
            token = str(answer["access_token"])
        except (KeyError, TypeError, ValueError):
            raise Temporary("the vendor's answer holds no token") from None
        follower = answer.get(REFRESH)
        if self._vault and isinstance(follower, str) and follower != form.get(REFRESH):
            self._unsaved = follower
            await self._save(self._vault)
        self._held, self._since = token, began
        self._until = began + max(lasting - EARLY, lasting / 2)
