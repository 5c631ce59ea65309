"""The upkeep of a target's webhooks: what was there before is brought back, nothing else is made.

The operator registers webhooks first. A vendor tells parts of them apart by names of its own (an
event, an event of one list, a field); the names once seen there are kept in the target's vault.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

import structlog

from prefs.core.errors import Refused, Unusable
from prefs.core.propagation import Target, Unheard

log = structlog.get_logger()

HOURLY, DAILY = 3600.0, 86400.0
KEPT = "webhooks"
OFTEN = 3
"""So many times in `WINDOW` a webhook may end before a person must ask why."""
WINDOW = timedelta(days=7)
PORTS = {"http": 80, "https": 443}


class Hooks(Protocol):
    """One target's webhooks at one vendor."""

    remedy: str
    """What a person does about those that are not delivered."""

    async def look(self) -> Mapping[str, bool]:
        """The names registered for us, and whether the vendor delivers each."""

    async def mend(self, names: Collection[str], known: Collection[str]) -> None:
        """Bring these names back; `known` are all that ever were there. Raises Refused or Unusable
        with the reason where it cannot."""

    def never(self, known: Collection[str]) -> Collection[str]:
        """What we need and the operator never registered."""


@dataclass(frozen=True, slots=True)
class Book:
    """What a target remembers: the names that ever were there, and when some were brought back
    (seconds since 1970)."""

    known: frozenset[str] = frozenset()
    mended: tuple[float, ...] = ()

    @classmethod
    async def read(cls, target: Target) -> Book:
        held = json.loads(await target.vault.get(KEPT) or "{}")
        return cls(frozenset(held.get("known", ())), tuple(held.get("mended", ())))

    async def keep(self, target: Target) -> None:
        held = {"known": sorted(self.known), "mended": self.mended}
        await target.vault.put(KEPT, json.dumps(held))

    def noted(self, now: datetime) -> Book:
        """Mended now; what is long ago is forgotten."""
        since = (now - WINDOW).timestamp()
        times = (*(one for one in self.mended if one > since), now.timestamp())
        return replace(self, mended=times)

    def often_since(self, now: datetime) -> str | None:
        """From which day on they ended too often; None where they did not."""
        since = (now - WINDOW).timestamp()
        if sum(one > since for one in self.mended) < OFTEN:
            return None
        return datetime.fromtimestamp(min(self.mended), UTC).date().isoformat()


async def tend(target: Target, hooks: Hooks, now: Callable[[], datetime]) -> Unheard | None:
    """One look, and a second one after something was mended: an answer proves nothing."""
    seen, before = await hooks.look(), await Book.read(target)
    book = replace(before, known=before.known | seen.keys())
    if book != before:
        await book.keep(target)
    gone, why = _gone(book, seen), ""
    if gone and target.live:
        why = await _mended(hooks, gone, book.known)
        gone = _gone(book, await hooks.look())
        if not gone:
            book = book.noted(now())
            await book.keep(target)
            log.warning("webhook_mended", target=target.label, times=len(book.mended))
    return _told(target, hooks, book, gone, why, book.often_since(now()))


def _gone(book: Book, seen: Mapping[str, bool]) -> list[str]:
    return sorted(book.known - {name for name, delivered in seen.items() if delivered})


async def _mended(hooks: Hooks, gone: Collection[str], known: Collection[str]) -> str:
    """Why it cannot be mended; empty when it was tried."""
    try:
        await hooks.mend(gone, known)
    except (Refused, Unusable) as fault:
        return f" ({fault})"
    return ""


def _told(
    target: Target, hooks: Hooks, book: Book, gone: Collection[str], why: str, often: str | None
) -> Unheard | None:
    """What a person must hear of: the worst first."""
    url = target.webhook_url_shown
    if gone:
        why = why if target.live else " (nothing is mended in observe mode)"
        return Unheard(f"No longer delivered to {url}: {', '.join(gone)}{why}. {hooks.remedy}")
    if often:
        return Unheard(
            f"The webhooks to {url} ended and were brought back {OFTEN} times or more since "
            f"{often}: find out why deliveries fail there.",
            once=True,
        )
    never = sorted(hooks.never(book.known))
    if never:
        return Unheard(
            f"Never registered for {url}: {', '.join(never)}. Without it the poll alone finds what "
            "people do there; `prefs doctor` lists URL and events.",
            once=True,
        )
    return None


def leads_here(url: object, target: Target, *, keyed: bool = True) -> bool:
    """Whether a URL that the vendor holds is the target's webhook. With `keyed` the key must be the
    configured one: deliveries with another are turned away."""
    try:
        given, ours = _place(str(url)), _place(target.webhook_url)
    except ValueError:
        return False
    if given != ours:
        return False
    keys = [value for name, value in parse_qsl(urlsplit(str(url)).query) if name == "key"]
    return not keyed or keys == [target.text("webhook_key")]


def _place(url: str) -> tuple[str, str, int | None, str]:
    """What two spellings of one address have in common. Raises ValueError for an absurd port."""
    split = urlsplit(url)
    port = split.port or PORTS.get(split.scheme)
    return split.scheme, split.hostname or "", port, split.path
