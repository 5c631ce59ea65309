"""Signatures: constant time, several live secrets, a window against replays."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from datetime import datetime

from prefs.core.errors import Unverified
from prefs.core.propagation import Target
from prefs.core.signals import Delivery


def same(given: str, expected: str) -> bool:
    """Constant-time comparison of two texts."""
    return hmac.compare_digest(given.encode(), expected.encode())


def hmac_hex(secret: str, message: bytes, algorithm: str = "sha256") -> str:
    return hmac.new(secret.encode(), message, algorithm).hexdigest()


def any_matches(given: Iterable[str], expected: Iterable[str]) -> bool:
    """Whether one of the given signatures is one of the expected; every pair is compared."""
    pairs = [same(one, other) for one in given for other in expected]
    return any(pairs)


def within(moment: float, now: datetime, seconds: float) -> bool:
    return abs(now.timestamp() - moment) <= seconds


def check_key(request: Delivery, target: Target) -> None:
    """A vendor that does not sign must bring `?key=`. Raises Unverified."""
    expected = target.text("webhook_key")
    given = [value for name, value in request.query if name == "key"]
    if not expected or len(given) != 1 or not same(given[0], expected):
        raise Unverified("the key in the webhook's URL is missing or wrong")


def event_key(*parts: object) -> str:
    """The same text for every delivery of one event; nothing can be read back from it."""
    joined = "\x1f".join("" if part is None else str(part) for part in parts)
    return hashlib.sha256(joined.encode()).hexdigest()


def secrets_of(target: Target, key: str, place: str | None = None) -> list[str]:
    """The live secrets under a configuration key: one text, or one for each place."""
    value = target.options.get(key)
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        chosen = value.get(place) if place else None
        return [str(chosen)] if chosen else [] if place else [str(one) for one in value.values()]
    return []
