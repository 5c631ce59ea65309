"""Marks of refusal: one label, group or tag for each channel, in systems that hold no preference.

They are for the staff who look there and for tools that mail from there; the system itself acts
on none of them, so that an opt-out there is `recorded` and never more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prefs.core.propagation import Seen, Slot, Target, Value
from prefs.core.words import Channel

NAMES = {channel: f"No marketing - {channel.value}" for channel in Channel}
PLACE = "label:"


def names(
    target: Target, key: str, channels: Iterable[Channel] = tuple(Channel)
) -> dict[Channel, str]:
    """The label of each channel: as the configuration's table `key` names it, else ours."""
    given = target.table(key)
    return {channel: str(given.get(channel.value, NAMES[channel])) for channel in channels}


def slots(labels: Mapping[Channel, str]) -> dict[Slot, str]:
    """Each slot with its label's name."""
    return {
        Slot(f"{PLACE}{channel.value}", channel, enforced=False): name
        for channel, name in labels.items()
    }


def seen(marked: Sequence[bool]) -> Seen:
    """Of all records that one address stands for: off only when every one is marked; where some
    are, neither an out nor an in is met."""
    if not any(marked):
        return Seen(Value.UNMARKED)
    return Seen(Value.OFF if all(marked) else Value.UNSET)
