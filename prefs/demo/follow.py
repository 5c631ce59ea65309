"""One person's opt-out on its way through the systems: each outcome, held against the vendor."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from typing import NamedTuple

from prefs.demo.people import Person
from prefs.demo.stage import FOLLOWS_WITHIN, Stage, StepFailed, expect
from prefs.demo.system import State, System
from prefs.demo.systems import SYSTEMS


class Line(NamedTuple):
    """How it ended at one system. `seconds` count from when the opt-out was acknowledged."""

    system: str
    channels: Sequence[str]
    outcome: str
    seconds: float

    def __str__(self) -> str:
        channels = " ".join(self.channels)
        return f"   {self.system:<14} {channels:<31} {self.outcome:<17} {self.seconds:5.1f} s"


Tell = Callable[[Line], None]


def quietly(line: Line) -> None:
    """Tell nobody."""


def follow(
    stage: Stage,
    person: Person,
    channels: Collection[str],
    began: float,
    tell: Tell = quietly,
    *,
    only: Collection[str] = SYSTEMS.keys(),
    seconds: float = FOLLOWS_WITHIN,
) -> list[Line]:
    """Wait until every system ends as it should; tells each as it does. `began` is on the
    monotonic clock. Raises StepFailed."""
    waiting = {name: _ends(SYSTEMS[name], person, channels) for name in only}
    waiting = {name: ends for name, ends in waiting.items() if ends}
    told: list[Line] = []
    while waiting:
        stands = _stands(stage, person)
        for name, ends in list(waiting.items()):
            if ends.items() <= stands.get(name, {}).items():
                lines = _lines(name, ends, time.monotonic() - began)
                _look_at_the_vendor(stage, SYSTEMS[name], person, ends)
                for line in lines:
                    tell(line)
                told += lines
                del waiting[name]
        if time.monotonic() - began > seconds:
            _give_up(waiting, stands, seconds)
        time.sleep(0.05)
    return told


def _ends(system: System, person: Person, channels: Collection[str]) -> dict[str, str]:
    """Channel -> the outcome to come."""
    ends = {channel: end for channel, end in system.ends.items() if channel in channels}
    return dict.fromkeys(ends, "absent") if system.name in person.away else ends


def _stands(stage: Stage, person: Person) -> dict[str, dict[str, str]]:
    """System -> channel -> the outcome of an off; one that nobody keys on is absent."""
    found: dict[str, dict[str, str]] = {}
    for (name, channel), (wish, outcome) in stage.outcomes(person).items():
        if wish == "off" or outcome == "absent":
            found.setdefault(name, {})[channel] = outcome
    return found


def _lines(name: str, ends: dict[str, str], seconds: float) -> list[Line]:
    ordered = sorted(ends, key=lambda channel: ends[channel])
    return [
        Line(name, list(part), outcome, seconds)
        for outcome, part in groupby(ordered, key=lambda channel: ends[channel])
    ]


def _look_at_the_vendor(stage: Stage, system: System, person: Person, ends: dict[str, str]) -> None:
    """What our API says must be so at the vendor, at that moment."""
    state = stage.vendors[system.name].state()
    for channel, outcome in ends.items():
        shown = _shown(system, state, person, channel, outcome)
        expect(f"{system.name} shows {person.first}'s {channel} as {outcome}", shown)


def _shown(system: System, state: State, person: Person, channel: str, outcome: str) -> bool:
    if outcome == "absent":
        text = json.dumps(state)
        return person.email not in text and person.phone not in text
    if outcome == "waiting_for_staff":
        return not system.off(state, person, channel)
    return system.off(state, person, channel)


def _give_up(
    waiting: dict[str, dict[str, str]], stands: dict[str, dict[str, str]], seconds: float
) -> None:
    found = "; ".join(f"{name}: {stands.get(name) or 'nothing'}" for name in waiting)
    raise StepFailed(f"not all ended within {seconds:.0f} s: {found}")


def kept_everywhere(stage: Stage, people: Collection[Person]) -> None:
    """Whatever is no marketing is as it was, at every vendor. Raises StepFailed."""
    for name, system in SYSTEMS.items():
        state = stage.vendors[name].state()
        for person in people:
            if name not in person.away:
                expect(f"{name} keeps {person.first}'s reminders on", system.kept(state, person))
