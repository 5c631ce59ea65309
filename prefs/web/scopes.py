"""Channel, purpose and topic texts checked against the words and the brand."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import TypeVar

from prefs.core.errors import BadInput
from prefs.core.words import Channel, Purpose, Scope
from prefs.settings import Settings

E = TypeVar("E", bound=StrEnum)


def scope_of(
    settings: Settings, brand: str, channel: str, purpose: str, topic: str | None, at: str = "$"
) -> Scope:
    """Raises BadInput (422) for a word that is none, or a topic that the brand does not have."""
    scope = Scope(
        _word(Channel, channel, f"{at}.channel"), _word(Purpose, purpose, f"{at}.purpose"), topic
    )
    if topic is not None:
        _check_topic(settings, brand, scope, f"{at}.topic")
    return scope


@lru_cache(256)
def _word(words: type[E], text: str, field: str) -> E:
    try:
        return words(text)
    except ValueError:
        known = ", ".join(word.value for word in words)
        raise BadInput(
            f"unknown {words.__name__.lower()}; known are: {known}", field=field
        ) from None


def _check_topic(settings: Settings, brand: str, scope: Scope, field: str) -> None:
    if scope.purpose is not Purpose.MARKETING:
        raise BadInput("only marketing has topics", field=field)
    known = settings.brands[brand].topics
    if scope.topic not in known:
        raise BadInput(f"unknown topic; known are: {', '.join(known)}", field=field)
