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


Rule = Callable[[Ask, Held, "Views", float], "Decision | None"]
"""A rule is asked with the views that the question is about, the channel's first."""
Views = Sequence[View]


def _marketing(ask: Ask) -> bool:
    return ask.scope.purpose is Purpose.MARKETING


def _views(ask: Ask, held: Held) -> Views:
    scope, views = ask.scope, held.views
    if scope.topic is None:
        return (views[scope],) if scope in views else ()
    return [views[one] for one in (scope.covering, scope) if one in views]


def _paused(ask: Ask, held: Held, views: Views, now: float) -> Decision | None:
    return Decision(False, Reason.PAUSED)


def _restricted(ask: Ask, held: Held, views: Views, now: float) -> Decision | None:
    kept = ask.scope.purpose is Purpose.REMINDERS and held.reminders_kept
    return Decision(False, Reason.RESTRICTED) if held.restricted and not kept else None


def _said(ask: Ask, held: Held, views: Views, now: float) -> Decision | None:
    """The first of the words that deny."""
    for word, reason in DENYING.items():
        for view in views:
            if view.word is word:
                return Decision(False, reason, None, view.since)
    return None


def _unconfirmed(ask: Ask, held: Held, views: Views, now: float) -> Decision | None:
    if _chosen(views):
        return None
    waiting = next((view for view in views if view.word is Word.UNCONFIRMED), None)
    return Decision(False, Reason.UNCONFIRMED, None, waiting.since) if waiting else None


def _undeliverable(ask: Ask, held: Held, views: Views, now: float) -> Decision | None:
    pair = (ask.scope.channel, ask.scope.purpose)
    return Decision(False, Reason.UNDELIVERABLE) if pair in held.undeliverable else None


def _chosen(views: Views) -> View | None:
    for view in views:
        if view.word is Word.IN:
            return view
    return None


def _consented(views: Views) -> bool:
    view = _chosen(views)
    return view is not None and view.basis is Basis.CONSENT


def _tps(ask: Ask, held: Held, views: Views, now: float) -> Decision | None:
    since = held.screening.tps_from
    binds = _binds(since, now) and not _consented(views)
    return Decision(False, Reason.TPS, None, since) if binds else None


def _binds(since: float | None, now: float) -> bool:
    return since is not None and since <= now


def _mps(ask: Ask, held: Held, views: Views, now: float) -> Decision | None:
    since = held.screening.mps_from
    binds = _binds(since, now) and not _consented(views)
    return Decision(False, Reason.MPS, None, since) if binds else None


def _tps_stale(ask: Ask, held: Held, views: Views, now: float) -> Decision | None:
    return _stale(held.screening.tps_screened_at, TPS_FRESH, views, now)


def _mps_stale(ask: Ask, held: Held, views: Views, now: float) -> Decision | None:
    return _stale(held.screening.mps_screened_at, MPS_FRESH, views, now)


def _stale(at: float | None, fresh: float, views: Views, now: float) -> Decision | None:
    """Without the person's own consent the register decides, and it was not asked lately."""
    old = at is None or now - at > fresh
    return Decision(False, Reason.SCREENING_STALE) if old and not _consented(views) else None


def _no_basis(ask: Ask, held: Held, views: Views, now: float) -> Decision | None:
    view = _chosen(views)
    if view is None or view.basis in (None, Basis.LEGITIMATE_INTEREST):
        return Decision(False, Reason.NO_BASIS)
    return None


def _target_unsafe(ask: Ask, held: Held, views: Views, now: float) -> Decision | None:
    return Decision(False, Reason.TARGET_UNSAFE)


def _allowed(ask: Ask, views: Views) -> Decision:
    if not _marketing(ask):
        return Decision(True, Reason.SERVICE)
    view = _chosen(views)
    if view is None or view.basis is None:
        return Decision(True, Reason.LEGITIMATE_INTEREST, Basis.LEGITIMATE_INTEREST)
    return Decision(True, Reason(view.basis.value), view.basis, view.since)


DENYING = {
    Word.SUPPRESSED: Reason.SUPPRESSED,
    Word.OBJECTED: Reason.OBJECTED,
    Word.OPTED_OUT: Reason.OPTED_OUT,
    Word.HELD: Reason.HELD,
}
"""In the order in which they are named where several hold."""


@lru_cache(maxsize=512)
def _rules(ask: Ask) -> tuple[Rule, ...]:
    """Those that a question of this kind can meet, in their order."""
    marketing, channel = _marketing(ask), ask.scope.channel
    called = marketing and channel is Channel.PHONE
    posted = marketing and channel is Channel.POST and ask.mps_applies
    by_voice = channel in (Channel.PHONE, Channel.POST)
    asked: tuple[tuple[Rule, bool], ...] = (
        (_paused, marketing and ask.paused),
        (_restricted, ask.scope.purpose is not Purpose.SERVICE),
        (_said, True),
        (_unconfirmed, True),
        (_undeliverable, True),
        (_tps, called),
        (_mps, posted),
        (_tps_stale, called),
        (_mps_stale, posted),
        (_no_basis, marketing and not by_voice),
        (_target_unsafe, marketing and ask.target_unsafe),
    )
    return tuple(rule for rule, meets in asked if meets)


def decide(ask: Ask, held: Held, now: float) -> Decision:
    """The first rule with a view wins; what no rule denies is allowed on its basis."""
    views = _views(ask, held)
    for rule in _rules(ask):
        if decision := rule(ask, held, views, now):
            return decision
    return _allowed(ask, views)


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
    if len(found) < 2:
        return found[0] if found else None
    live_outs = [view for view in found if view.word in (Word.OBJECTED, Word.OPTED_OUT)]
    if live_outs:
        found = [view for view in found if view.word is not Word.SUPPRESSED]
    return min(found, key=_precedence)


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


def _scope_wish(ask: Ask, held: Sequence[Held]) -> Wish:
    if any(_denied(ask, one) for one in held):
        return Wish.OFF
    return Wish.ON if any(_chosen(_views(ask, one)) for one in held) else Wish.LEAVE


def said_at(slot: Slot, to: Wish, held: Iterable[Held]) -> float:
    """When the newest word for this wish was said, in whole seconds; 0 where nothing says when."""
    words = [*DENYING] if to is Wish.OFF else [Word.IN]
    topics: tuple[str | None, ...] = slot.topics or (None,)
    asks = [Ask(Scope(slot.channel, slot.purpose, topic)) for topic in topics]
    views = [view for one in held for ask in asks for view in _views(ask, one)]
    return max((view.since or 0.0 for view in views if view.word in words), default=0.0)


def _denied(ask: Ask, held: Held) -> bool:
    views = _views(ask, held)
    return bool(_restricted(ask, held, views, 0.0)) or any(one.word in DENYING for one in views)
