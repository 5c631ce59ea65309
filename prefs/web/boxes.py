"""The tick boxes of the preference centre: what they show, and what a save of them says."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from prefs.core.decision import Held, Word
from prefs.core.errors import BadInput
from prefs.core.signals import Statement
from prefs.core.words import CHANNELS_OF, Channel, Choice, Purpose, Scope
from prefs.settings import Brand

BY_DEFAULT = frozenset({Channel.PHONE, Channel.POST})
"""Channels that may be used unless the person says no."""
STATES = ("on", "off", "default", "paused")
NAME = re.compile(r"(choice:[a-z]+:[\w*-]+|(?:reminders|service):[a-z]+)")
NOTES = (Channel.EMAIL, Channel.SMS, Channel.PHONE)
"""Channels whose service messages have a switch on the page."""


class Box(NamedTuple):
    """One tick box. `state` is on, off, default (ticked without anybody having chosen it), or
    paused: ticked again once the pause is over."""

    name: str
    scope: Scope
    state: str
    held: bool = False
    silenced: bool = False
    """Somebody else who shares the address or number said no."""
    until: float | None = None

    @property
    def ticked(self) -> bool:
        return self.state != "off"

    @property
    def goes_on(self) -> bool:
        """Whether messages come of it now. A topic goes with its channel."""
        return self.ticked and not self.until and not self.silenced and self.scope.topic is None

    @property
    def whole(self) -> bool:
        """A channel's marketing, not a topic of it."""
        return self.scope.purpose is Purpose.MARKETING and self.scope.topic is None


# --- names -------------------------------------------------------------------------------------


def name_of(scope: Scope) -> str:
    if scope.purpose is not Purpose.MARKETING:
        return f"{scope.purpose.value}:{scope.channel.value}"
    return f"choice:{scope.channel.value}:{scope.topic or '*'}"


def scope_named(name: str, brand: Brand) -> Scope:
    """Raises BadInput for a box that this brand's page cannot have."""
    parts = name.split(":")
    try:
        channel = Channel(parts[1])
        if parts[0] != "choice":
            scope = Scope(channel, Purpose(parts[0]))
        else:
            scope = Scope(channel, Purpose.MARKETING, None if parts[2] == "*" else parts[2])
    except (ValueError, IndexError):
        raise BadInput("no such box") from None
    known = scope.topic is None or scope.topic in brand.topics
    if not known or channel not in CHANNELS_OF[scope.purpose] or name_of(scope) != name:
        raise BadInput("no such box")
    return scope


# --- what the page shows -----------------------------------------------------------------------


class Drawn(NamedTuple):
    """What boxes are drawn from: what stands (without pauses), until when each scope is paused,
    which scopes somebody else keeps silent."""

    held: Held
    paused: dict[Scope, float]
    silenced: Collection[Scope]


def marketing_boxes(brand: Brand, drawn: Drawn, channels: Sequence[Channel]) -> list[Box]:
    """Each channel's box, followed by those of its topics."""
    found = []
    for channel in channels:
        whole = _box(drawn, Scope(channel, Purpose.MARKETING))
        topics = [_topic_box(drawn, whole, topic) for topic in brand.topics]
        found += [whole, *topics]
    return found


def other_boxes(drawn: Drawn) -> list[Box]:
    """Reminders and service messages, which have switches of their own."""
    scopes = [Scope(channel, Purpose.REMINDERS) for channel in CHANNELS_OF[Purpose.REMINDERS]]
    scopes += [Scope(channel, Purpose.SERVICE) for channel in NOTES]
    return [_box(drawn, scope) for scope in scopes]


def _box(drawn: Drawn, scope: Scope) -> Box:
    view = drawn.held.views.get(scope)
    name, silenced, until = name_of(scope), scope in drawn.silenced, drawn.paused.get(scope)
    if view is not None and view.word not in (Word.UNCONFIRMED, Word.IN):
        return Box(name, scope, "off", view.word is Word.HELD, silenced)
    chosen = view is not None and view.word is Word.IN
    usual = scope.purpose is not Purpose.MARKETING or scope.channel in BY_DEFAULT
    return Box(
        name, scope, _state(until, chosen=chosen, usual=usual), silenced=silenced, until=until
    )


def _state(until: float | None, *, chosen: bool, usual: bool) -> str:
    if not (chosen or usual):
        return "off"
    if until:
        return "paused"
    return "on" if chosen else "default"


def _topic_box(drawn: Drawn, whole: Box, topic: str) -> Box:
    scope = whole.scope._replace(topic=topic)
    view = drawn.held.views.get(scope)
    until = drawn.paused.get(scope) or whole.until
    if view is not None and view.word is not Word.UNCONFIRMED:
        return _box(drawn._replace(paused={scope: until} if until else {}), scope)
    if not whole.ticked:
        return Box(name_of(scope), scope, "off")
    return Box(name_of(scope), scope, "paused" if until else "default", until=until)


# --- what the person posts ---------------------------------------------------------------------


def shown_boxes(text: str, brand: Brand) -> list[Box]:
    """The boxes that the page showed, as its hidden field says. Raises BadInput."""
    found = []
    for part in text.split():
        name, separator, state = part.rpartition("=")
        if not separator or state not in STATES or not NAME.fullmatch(name):
            raise BadInput("the form is damaged")
        found.append(Box(name, scope_named(name, brand), state))
    return found


def as_shown(boxes: Iterable[Box]) -> str:
    """The hidden field of a page with these boxes."""
    return " ".join(f"{box.name}={box.state}" for box in boxes)


def statements_of(boxes: Iterable[Box], ticked: Collection[str]) -> Iterator[Statement]:
    """What a save says. An unticked channel covers its topics; what is paused and left ticked, and
    what is ticked by default and left so, stays as it is."""
    boxes = list(boxes)
    closed = {box.scope.channel for box in boxes if box.whole and box.name not in ticked}
    for box in boxes:
        said = box.name in ticked
        if box.scope.purpose is not Purpose.MARKETING:
            if said != box.ticked:
                yield Statement(box.scope, Choice.IN if said else Choice.OUT)
        elif box.scope.topic is not None and box.scope.channel in closed:
            continue
        elif not (said and box.state in ("default", "paused")):
            yield Statement(box.scope, Choice.IN if said else Choice.OUT)


class Changed(NamedTuple):
    """What a save changed of what the page showed, as a person sees it."""

    stopped: list[Box]
    started: list[Box]

    @property
    def undo(self) -> list[Box]:
        """The same boxes as they stand now."""
        off = [box._replace(state="off") for box in self.stopped]
        return [*off, *(box._replace(state="on") for box in self.started)]


def changed(boxes: Iterable[Box], ticked: Collection[str], refused: Collection[Scope]) -> Changed:
    """A channel that was stopped stands for its topics."""
    boxes = [box for box in boxes if box.scope not in refused]
    stopped = [box for box in boxes if box.ticked and box.name not in ticked]
    closed = {box.scope.channel for box in stopped if box.whole}
    return Changed(
        [box for box in stopped if box.scope.topic is None or box.scope.channel not in closed],
        [box for box in boxes if not box.ticked and box.name in ticked],
    )
