"""What a vendor's record shows, in our words."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from prefs.core import identity
from prefs.core.errors import BadIdentifier
from prefs.core.propagation import Observed, Seen, Slot, Target
from prefs.core.signals import Identifier, Signal, Statement
from prefs.core.words import Choice, Kind, Purpose, Scope, Source


def identifiers_shown(read: Observed, region: str) -> list[Identifier]:
    """The addresses and numbers that a vendor record shows, as far as they are any."""
    shown = []
    for kind, text in read.identifiers:
        with suppress(BadIdentifier):
            shown.append(_identifier(kind, text, region))
    return shown


def _identifier(kind: Kind, text: str, region: str) -> Identifier:
    if kind is Kind.EMAIL:
        return identity.email(text)
    return (
        identity.messenger(text, None) if kind is Kind.MESSENGER else identity.phone(text, region)
    )


def scopes_of(slot: Slot, brand_topics: Collection[str]) -> list[Scope]:
    """What an off in this slot is about: its topics, or the channel when it holds them all."""
    if not slot.topics or set(slot.topics) >= set(brand_topics):
        return [Scope(slot.channel, slot.purpose)]
    return [Scope(slot.channel, slot.purpose, topic) for topic in slot.topics]


def heard_out(target: Target, read: Observed, slot: Slot, seen: Seen, source: Source) -> Signal:
    """An out found at a vendor, as the signal that it is."""
    purpose_ok = slot.purpose is Purpose.MARKETING
    assert purpose_ok, "connectors carry marketing slots only"  # noqa: S101  # a programming error
    return Signal(
        brand=target.brand,
        source=source,
        statements=tuple(Statement(scope, Choice.OUT) for scope in scopes_of(slot, target.topics)),
        identifiers=tuple(identifiers_shown(read, target.region)),
        occurred_at=seen.at,
        origin=target.label,
    )
