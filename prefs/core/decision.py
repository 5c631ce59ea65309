"""May we send this? One pure decision for API, pages, import and every push."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from msgspec import Struct

from prefs.core.fold import NOTHING, Standing, State
from prefs.core.propagation import Slot, Wish
from prefs.core.words import Basis, Channel, Choice, Purpose, Scope

DAY = 86400.0
TPS_FRESH = 28 * DAY
"""A TPS or CTPS screening counts for 28 days (PECR regulation 21(4))."""
MPS_FRESH = 30 * DAY


class Reason(StrEnum):
    INVALID_IDENTIFIER = "invalid_identifier"
    PAUSED = "paused"
    RESTRICTED = "restricted"
    SUPPRESSED = "suppressed"
    OBJECTED = "objected"
    OPTED_OUT = "opted_out"
    HELD = "held"
    UNCONFIRMED = "unconfirmed"
    UNDELIVERABLE = "undeliverable"
    TPS = "tps"
    MPS = "mps"
    SCREENING_STALE = "screening_stale"
    NO_BASIS = "no_basis"
    TARGET_UNSAFE = "target_unsafe"
    CONSENT = "consent"
    SOFT_OPT_IN = "soft_opt_in"
    LEGITIMATE_INTEREST = "legitimate_interest"
    SERVICE = "service"


class Word(StrEnum):
    """What stands for one scope, for everybody who shares an identifier taken together."""

    SUPPRESSED = "suppressed"
    OBJECTED = "objected"
    OPTED_OUT = "opted_out"
    HELD = "held"
    IN = "in"
    UNCONFIRMED = "unconfirmed"


STOPPED = frozenset({Word.SUPPRESSED, Word.OBJECTED, Word.OPTED_OUT})


class View(NamedTuple):
    word: Word
    basis: Basis | None
    since: float | None
    until: float | None = None
    """Set where a pause alone denies: when it ends."""


class Screening(Struct, frozen=True):
    """What the registers say of one number or address. Times are seconds since 1970 UTC; `from` is
    when a listing binds, None where there is none."""

    tps_from: float | None = None
    mps_from: float | None = None
    tps_screened_at: float | None = None
    mps_screened_at: float | None = None


class Held(Struct, frozen=True):
    """Everything held about one identifier at one brand that a decision may need."""

    views: Mapping[Scope, View] = {}
    restricted: bool = False
    reminders_kept: bool = False
    undeliverable: frozenset[tuple[Channel, Purpose]] = frozenset()
    screening: Screening = Screening()


NOBODY = Held()


class Ask(NamedTuple):
    scope: Scope
    paused: bool = False
    target_unsafe: bool = False
    mps_applies: bool = True


class Decision(NamedTuple):
    allowed: bool
    reason: Reason
    basis: Basis | None = None
    since: float | None = None


Rule = Callable[[Ask, Held, float], "Decision | None"]


def _marketing(ask: Ask) -> bool:
    return ask.scope.purpose is Purpose.MARKETING


def _paused(ask: Ask, held: Held, now: float) -> Decision | None:
    return Decision(False, Reason.PAUSED) if ask.paused and _marketing(ask) else None


def _restricted(ask: Ask, held: Held, now: float) -> Decision | None:
    if not held.restricted or ask.scope.purpose is Purpose.SERVICE:
        return None
    if ask.scope.purpose is Purpose.REMINDERS and held.reminders_kept:
        return None
    return Decision(False, Reason.RESTRICTED)


def _views(ask: Ask, held: Held) -> list[View]:
    scopes = [ask.scope] if ask.scope.topic is None else [ask.scope.covering, ask.scope]
    return [held.views[scope] for scope in scopes if scope in held.views]


_DENIES = {
    Word.SUPPRESSED: Reason.SUPPRESSED,
    Word.OBJECTED: Reason.OBJECTED,
    Word.OPTED_OUT: Reason.OPTED_OUT,
    Word.HELD: Reason.HELD,
}
"""In the order in which they count."""


def _said_no(ask: Ask, held: Held, now: float) -> Decision | None:
    views = _views(ask, held)
    for word, reason in _DENIES.items() if views else ():
        for view in views:
            if view.word is word:
                return Decision(False, reason, None, view.since)
    return None


def _unconfirmed(ask: Ask, held: Held, now: float) -> Decision | None:
    views = _views(ask, held)
    if any(view.word is Word.IN for view in views):
        return None
    waiting = next((view for view in views if view.word is Word.UNCONFIRMED), None)
    return Decision(False, Reason.UNCONFIRMED, None, waiting.since) if waiting else None


def _undeliverable(ask: Ask, held: Held, now: float) -> Decision | None:
    pair = (ask.scope.channel, ask.scope.purpose)
    return Decision(False, Reason.UNDELIVERABLE) if pair in held.undeliverable else None


def _chosen(ask: Ask, held: Held) -> View | None:
    return next((view for view in _views(ask, held) if view.word is Word.IN), None)


def _consented(ask: Ask, held: Held) -> View | None:
    view = _chosen(ask, held)
    return view if view and view.basis is Basis.CONSENT else None


def _tps(ask: Ask, held: Held, now: float) -> Decision | None:
    if not _screened_call(ask, held):
        return None
    since = held.screening.tps_from
    return Decision(False, Reason.TPS, None, since) if _binds(since, now) else None


def _binds(since: float | None, now: float) -> bool:
    return since is not None and since <= now


def _screened_call(ask: Ask, held: Held) -> bool:
    """A marketing call without the person's own consent: the register decides."""
    live = ask.scope.channel is Channel.PHONE and _marketing(ask)
    return live and _consented(ask, held) is None


def _mps(ask: Ask, held: Held, now: float) -> Decision | None:
    if not _screened_letter(ask, held):
        return None
    since = held.screening.mps_from
    return Decision(False, Reason.MPS, None, since) if _binds(since, now) else None


def _screened_letter(ask: Ask, held: Held) -> bool:
    letter = ask.scope.channel is Channel.POST and _marketing(ask) and ask.mps_applies
    return letter and _consented(ask, held) is None


def _screening_stale(ask: Ask, held: Held, now: float) -> Decision | None:
    screening = held.screening
    if _screened_call(ask, held) and _older(screening.tps_screened_at, TPS_FRESH, now):
        return Decision(False, Reason.SCREENING_STALE)
    if _screened_letter(ask, held) and _older(screening.mps_screened_at, MPS_FRESH, now):
        return Decision(False, Reason.SCREENING_STALE)
    return None


def _older(at: float | None, fresh: float, now: float) -> bool:
    return at is None or now - at > fresh


def _no_basis(ask: Ask, held: Held, now: float) -> Decision | None:
    if not _marketing(ask) or ask.scope.channel in (Channel.PHONE, Channel.POST):
        return None
    view = _chosen(ask, held)
    if view is None or view.basis in (None, Basis.LEGITIMATE_INTEREST):
        return Decision(False, Reason.NO_BASIS)
    return None


def _target_unsafe(ask: Ask, held: Held, now: float) -> Decision | None:
    unsafe = ask.target_unsafe and _marketing(ask)
    return Decision(False, Reason.TARGET_UNSAFE) if unsafe else None


def _allowed(ask: Ask, held: Held, now: float) -> Decision:
    if not _marketing(ask):
        return Decision(True, Reason.SERVICE)
    view = _chosen(ask, held)
    if view is None or view.basis is None:
        return Decision(True, Reason.LEGITIMATE_INTEREST, Basis.LEGITIMATE_INTEREST)
    return Decision(True, Reason(view.basis.value), view.basis, view.since)


RULES: tuple[Rule, ...] = (
    _paused,
    _restricted,
    _said_no,
    _unconfirmed,
    _undeliverable,
    _tps,
    _mps,
    _screening_stale,
    _no_basis,
    _target_unsafe,
)


def decide(ask: Ask, held: Held, now: float) -> Decision:
    """The first rule with a view wins; what no rule denies is allowed on its basis."""
    for rule in RULES:
        if decision := rule(ask, held, now):
            return decision
    return _allowed(ask, held, now)


def hold_together(states: Iterable[State], brand: str) -> Held:
    """What everybody who shares an identifier adds up to: an out of one is an out of all, and an
    `in` of one never lifts another's out."""
    states = list(states)
    scopes = {scope for state in states for scope in state.scopes.get(brand, {})}
    views = {scope: view for scope in scopes if (view := _together(states, brand, scope))}
    restricted = [state.restricted for state in states if state.restricted]
    return Held(
        views=views,
        restricted=bool(restricted),
        reminders_kept=bool(restricted) and all(one.reminders for one in restricted),
    )


ORDER = list(Word)


def _together(states: list[State], brand: str, scope: Scope) -> View | None:
    views = [_view(state, state.at(brand, scope), scope) for state in states]
    found = [view for view in views if view]
    live_outs = [view for view in found if view.word in (Word.OBJECTED, Word.OPTED_OUT)]
    if live_outs:
        found = [view for view in found if view.word is not Word.SUPPRESSED]
    return min(found, key=_precedence, default=None)


def _precedence(view: View) -> tuple[int, float, float]:
    """What lasts comes before a pause, the longer pause before the shorter."""
    return ORDER.index(view.word), -(view.until or math.inf), view.since or 0


def _view(state: State, standing: Standing, scope: Scope) -> View | None:
    if standing is NOTHING:
        return None
    out = standing.strongest
    if out:
        return View(_out_word(state, standing, scope), None, out.since, standing.until)
    if standing.hold:
        return View(Word.HELD, None, standing.hold.at)
    if standing.consent:
        return View(Word.IN, standing.consent.basis, standing.consent.since)
    return View(Word.UNCONFIRMED, None, standing.pending.at) if standing.pending else None


def _out_word(state: State, standing: Standing, scope: Scope) -> Word:
    if state.erased:
        return Word.SUPPRESSED
    by_voice = scope.channel in (Channel.PHONE, Channel.POST) and scope.topic is None
    marketing = scope.purpose is Purpose.MARKETING
    if marketing and (by_voice or any(out.stop_all for out in standing.outs)):
        return Word.OBJECTED
    return Word.OPTED_OUT


def choice_of(standing: Standing) -> Choice | None:
    if standing.outs:
        return Choice.OUT
    return Choice.IN if standing.consent and not standing.hold else None


def wish(slot: Slot, held: Iterable[Held]) -> Wish:
    """What a vendor record's switch should say, from everything held on its identifiers.

    A slot of several topics is off when the channel or any of its topics is out, and on only when
    all are allowed; a channel slot is on only when the channel itself was chosen.
    """
    held = list(held)
    answers = [_scope_wish(ask, held) for ask in _asks(slot)]
    if Wish.OFF in answers:
        return Wish.OFF
    return Wish.ON if all(answer is Wish.ON for answer in answers) else Wish.LEAVE


def wholly_out(slot: Slot, held: Sequence[Held]) -> bool:
    """Whether all that the switch is about is out: an `off` there says nothing new."""
    return all(_scope_wish(ask, held) is Wish.OFF for ask in _asks(slot))


@lru_cache(maxsize=512)
def _asks(slot: Slot) -> tuple[Ask, ...]:
    topics: tuple[str | None, ...] = slot.topics or (None,)
    return tuple(Ask(Scope(slot.channel, slot.purpose, topic)) for topic in topics)


DENYING = (Word.SUPPRESSED, Word.OBJECTED, Word.OPTED_OUT, Word.HELD)


def _scope_wish(ask: Ask, held: Sequence[Held]) -> Wish:
    if any(_denied(ask, one) for one in held):
        return Wish.OFF
    return Wish.ON if any(_chosen(ask, one) for one in held) else Wish.LEAVE


def said_at(slot: Slot, to: Wish, held: Iterable[Held]) -> float:
    """When the newest word for this wish was said, in whole seconds; 0 where nothing says when."""
    words = DENYING if to is Wish.OFF else (Word.IN,)
    topics: tuple[str | None, ...] = slot.topics or (None,)
    asks = [Ask(Scope(slot.channel, slot.purpose, topic)) for topic in topics]
    views = [view for one in held for ask in asks for view in _views(ask, one)]
    return max((view.since or 0.0 for view in views if view.word in words), default=0.0)


def _denied(ask: Ask, held: Held) -> bool:
    if _restricted(ask, held, 0.0):
        return True
    return any(view.word in DENYING for view in _views(ask, held))
