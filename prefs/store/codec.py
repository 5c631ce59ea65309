"""States and permissions as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec
from msgspec.structs import astuple

from prefs.core.decision import Held, Screening, View, Word
from prefs.core.fold import Restriction, Standing, State
from prefs.core.words import Basis, Channel, Purpose, Scope

WORDS = list(Word)
BASES: list[Basis | None] = [None, *Basis]
CHANNELS = list(Channel)
PURPOSES = list(Purpose)
UNSCREENED = Screening()


class StateRow(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """brand -> list of (scope text, what stands)."""

    scopes: dict[str, list[tuple[str, Standing]]] = {}
    restricted: Restriction | None = None
    erased: bool = False


class HeldRow(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """Views as (scope number, topic, word number, basis number, since); of those that only a pause
    makes, (scope number, topic, end). `screening` holds the fields of Screening in their order; it
    is empty where no register was asked."""

    views: list[tuple[int, str, int, int, int]] = []
    restricted: bool = False
    reminders_kept: bool = False
    undeliverable: list[int] = []
    pauses: list[tuple[int, str, int]] = []
    screening: list[int | None] = []

    @property
    def plain(self) -> bool:
        """Views are all that it holds, and none is a pause."""
        more = self.restricted or self.reminders_kept or self.undeliverable
        return not (more or self.pauses or self.screening)


Views = Sequence[tuple[int, str, int, int, int]]

_pack = msgspec.msgpack.Encoder().encode
_state = msgspec.msgpack.Decoder(StateRow)
_held = msgspec.msgpack.Decoder(HeldRow)


def encode_state(state: State) -> bytes:
    """The same bytes for equal states: brands and scopes are sorted, so a rebuilt state can be
    compared with the stored one."""
    scopes = {
        brand: sorted((scope_text(scope), standing) for scope, standing in of_brand.items())
        for brand, of_brand in sorted(state.scopes.items())
    }
    return _pack(StateRow(scopes, state.restricted, state.erased))


def decode_state(raw: bytes) -> State:
    row = _state.decode(raw)
    scopes = {
        brand: {scope_of(text): standing for text, standing in pairs}
        for brand, pairs in row.scopes.items()
    }
    return State(scopes=scopes, restricted=row.restricted, erased=row.erased)


@lru_cache(4096)
def scope_text(scope: Scope) -> str:
    return f"{scope.channel.value}/{scope.purpose.value}/{scope.topic or ''}"


@lru_cache(4096)
def scope_of(text: str) -> Scope:
    channel, purpose, topic = text.split("/", 2)
    return Scope(Channel(channel), Purpose(purpose), topic or None)


def _number(channel: Channel, purpose: Purpose) -> int:
    return CHANNELS.index(channel) * 8 + PURPOSES.index(purpose)


PAIRS = {
    _number(channel, purpose): (channel, purpose) for channel in Channel for purpose in Purpose
}


NUMBERS = {pair: number for number, pair in PAIRS.items()}
WORD_NUMBERS = {word: number for number, word in enumerate(WORDS)}
BASE_NUMBERS = {basis: number for number, basis in enumerate(BASES)}


def encode_held(held: Held) -> bytes:
    views = sorted(
        (
            NUMBERS[scope[:2]],
            scope.topic or "",
            WORD_NUMBERS[view.word],
            BASE_NUMBERS[view.basis],
            int(view.since or 0),
        )
        for scope, view in held.views.items()
    )
    undeliverable = sorted(NUMBERS[pair] for pair in held.undeliverable)
    pauses = sorted(
        (NUMBERS[scope[:2]], scope.topic or "", int(view.until))
        for scope, view in held.views.items()
        if view.until is not None
    )
    screening = _screening_row(held.screening)
    row = HeldRow(views, held.restricted, held.reminders_kept, undeliverable, pauses, screening)
    return _pack(row)


def with_screening(raw: bytes | None, screening: Screening) -> bytes:
    """A permission row in which only what the registers say is another."""
    row = _held.decode(raw) if raw else HeldRow()
    row = msgspec.structs.replace(row, screening=_screening_row(screening))
    return _pack(row)


def _screening_row(screening: Screening) -> list[int | None]:
    """Whole seconds, cut off: a listing binds rather sooner, a screening ages rather earlier."""
    if screening == UNSCREENED:
        return []
    return [None if at is None else int(at) for at in astuple(screening)]


def decode_held(raw: bytes) -> Held:
    row = _held.decode(raw)
    return held_of(row, row.views)


def read_row(raw: bytes) -> HeldRow:
    return _held.decode(raw)


def views_about(row: HeldRow, scope: Scope) -> Views:
    """Those alone that a question about this scope needs."""
    asked, topic = NUMBERS[scope.channel, scope.purpose], scope.topic or ""
    return [one for one in row.views if one[0] == asked and one[1] in ("", topic)]


def held_of(row: HeldRow, chosen: Views) -> Held:
    """With these views of it."""
    views = {
        Scope(*PAIRS[number], topic or None): View(WORDS[word], BASES[basis], float(since))
        for number, topic, word, basis, since in chosen
    }
    if row.plain:
        return Held(views)
    for number, topic, end in row.pauses:
        scope = Scope(*PAIRS[number], topic or None)
        if scope in views:
            views[scope] = views[scope]._replace(until=float(end))
    return Held(
        views=views,
        restricted=row.restricted,
        reminders_kept=row.reminders_kept,
        undeliverable=frozenset(PAIRS[number] for number in row.undeliverable),
        screening=Screening(*row.screening) if row.screening else UNSCREENED,
    )
