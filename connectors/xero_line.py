"""How Xero is reached: a custom connection, the limits of an organisation, what a status means.

https://developer.xero.com/documentation/guides/oauth2/custom-connections/
https://developer.xero.com/documentation/guides/oauth2/limits/
https://developer.xero.com/documentation/guides/idempotent-requests/idempotency/
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

from connectors import http
from connectors.budget import TokenBudget
from connectors.line import Line
from connectors.oauth import OAuth
from prefs.core.errors import PropagationError, Refused, Temporary, Unusable
from prefs.core.propagation import URGENT, Budget, Limit, Target

Now = Callable[[], datetime]

HOST = "https://api.xero.com"
IDENTITY = "https://identity.xero.com"
TOKENS = "/connect/token"
AT_ONCE = 5
"""Calls of one organisation, beside those of a minute and of a day."""
RESERVE = 250
"""So many of the day's calls (5,000; some plans have fewer) are kept for opt-outs."""
LOOK_AGAIN = timedelta(minutes=10)
"""Until it is tried whether there are more: a day is the 24 hours behind, not the date."""
UNTOLD_WAIT = 3600.0
SPENT = "the calls that Xero allows in a day are spent, or the last are kept for opt-outs"


class Invalid(Refused):
    """400: Xero's validation refuses something in the call."""


class Missing(Refused):
    """404."""


class Day:
    """What is left of the day's calls, as every answer tells."""

    def __init__(self, now: Now) -> None:
        self._now = now
        self._spent_until = self._scarce_until = now()

    def check(self) -> None:
        """Raises Temporary for a call that must wait: a refused one would count, too."""
        until = self._spent_until if URGENT.get() else max(self._spent_until, self._scarce_until)
        wait = (until - self._now()).total_seconds()
        if wait > 0:
            raise Temporary(SPENT, retry_after=wait)

    def note(self, reply: http.Reply) -> None:
        if is_spent(reply):
            wait = http.retry_after(reply.headers) or UNTOLD_WAIT
            self._spent_until = self._now() + timedelta(seconds=wait)
        left = reply.headers.get("x-daylimit-remaining", "")
        if re.fullmatch(r"[0-9]{1,9}", left) and int(left) < RESERVE:
            self._scarce_until = self._now() + LOOK_AGAIN


class Way(http.Way):
    """The road to one organisation, within its limits."""

    def __init__(
        self, target: Target, budget: Budget, writes: Collection[tuple[str, str]], now: Now
    ) -> None:
        super().__init__(target, budget, HOST, writes)
        self._places, self._day = TokenBudget(Limit(AT_ONCE)), Day(now)

    async def send(self, method: str, path: str, **more: Any) -> http.Reply:
        self._day.check()
        await self._places.acquire()
        try:
            reply = await super().send(method, path, **more)
        finally:
            self._places.release()
        self._day.note(reply)
        return reply

    def pause(self, reply: http.Reply) -> None:
        """A spent day is told to each call instead: nobody waits for hours inside one."""
        if not is_spent(reply):
            super().pause(reply)


def is_spent(reply: http.Reply) -> bool:
    return reply.status == 429 and reply.headers.get("x-rate-limit-problem", "").lower() == "day"


def once() -> Mapping[str, str]:
    """The key of one write, the same in its repeats: Xero does it once. It is never used again,
    since a later write would be answered from memory and not be done."""
    return {"Idempotency-Key": str(uuid.uuid4())}


def connect(
    target: Target, budget: Budget, writes: Collection[tuple[str, str]], now: Now
) -> tuple[Line, http.Way]:
    """The line to the organisation, and the way to the tokens, to be closed as well."""
    identity = http.Way(target, budget, IDENTITY, (), (("POST", TOKENS),))
    form = {"grant_type": "client_credentials", "scope": "accounting.contacts"}
    basic = (target.text("client_id") or "", target.text("client_secret") or "")
    tokens = OAuth(identity, TOKENS, form, now, basic=basic)
    headers = {"xero-tenant-id": target.text("tenant") or "", "Accept": "application/json"}
    return Line(Way(target, budget, writes, now), tokens, headers, fault_of), identity


def fault_of(reply: http.Reply) -> PropagationError:
    """https://developer.xero.com/documentation/api/accounting/responsecodes"""
    if reply.status == 404:
        return Missing("Xero has no such contact or group")
    if reply.status == 400:
        return Invalid(f"Xero refuses it: {_kind(reply)}")
    if reply.status == 403:
        return Unusable("HTTP 403: this app is not connected to the organisation")
    return http.fault_of(reply)


def _kind(reply: http.Reply) -> str:
    """The kind of refusal; its free text may hold a name and stays out."""
    try:
        kind = json.loads(reply.body).get("Type")
    except (ValueError, AttributeError):
        kind = None
    return kind if isinstance(kind, str) and kind.isalnum() else "HTTP 400"
