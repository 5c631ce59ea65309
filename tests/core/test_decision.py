"""One reason, the first that holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from prefs.core.decision import (
    DAY,
    NOBODY,
    Ask,
    Held,
    Reason,
    Screening,
    View,
    Word,
    decide,
    hold_together,
    wish,
)
from prefs.core.fold import Entry, State, apply, judge
from prefs.core.propagation import Slot, Wish
from prefs.core.words import Basis, Channel, Choice, Purpose, Scope, Source

NOW = 1_800_000_000.0
EMAIL = Scope(Channel.EMAIL, Purpose.MARKETING)
OFFERS = EMAIL._replace(topic="offers")
PHONE = Scope(Channel.PHONE, Purpose.MARKETING)
POST = Scope(Channel.POST, Purpose.MARKETING)
REMINDERS = Scope(Channel.EMAIL, Purpose.REMINDERS)
SERVICE = Scope(Channel.EMAIL, Purpose.SERVICE)
FRESH = Screening(tps_screened_at=NOW - DAY, mps_screened_at=NOW - DAY)


def viewed(scope: Scope, word: Word, basis: Basis | None = None) -> Held:
    return Held(views={scope: View(word, basis, 1.0)}, screening=FRESH)


CONSENTED = viewed(EMAIL, Word.IN, Basis.CONSENT)


@pytest.mark.parametrize(
    ("scope", "held", "reason"),
    [
        (EMAIL, NOBODY, Reason.NO_BASIS),
        (EMAIL, CONSENTED, Reason.CONSENT),
        (EMAIL, viewed(EMAIL, Word.IN, Basis.SOFT_OPT_IN), Reason.SOFT_OPT_IN),
        (EMAIL, viewed(EMAIL, Word.IN, Basis.LEGITIMATE_INTEREST), Reason.NO_BASIS),
        (EMAIL, viewed(EMAIL, Word.OPTED_OUT), Reason.OPTED_OUT),
        (EMAIL, viewed(EMAIL, Word.OBJECTED), Reason.OBJECTED),
        (EMAIL, viewed(EMAIL, Word.SUPPRESSED), Reason.SUPPRESSED),
        (EMAIL, viewed(EMAIL, Word.HELD), Reason.HELD),
        (EMAIL, viewed(EMAIL, Word.UNCONFIRMED), Reason.UNCONFIRMED),
        (OFFERS, viewed(EMAIL, Word.OPTED_OUT), Reason.OPTED_OUT),
        (OFFERS, CONSENTED, Reason.CONSENT),
        (EMAIL, viewed(OFFERS, Word.IN, Basis.CONSENT), Reason.NO_BASIS),
        (OFFERS, viewed(OFFERS, Word.IN, Basis.CONSENT), Reason.CONSENT),
        (EMAIL, replace(CONSENTED, restricted=True), Reason.RESTRICTED),
        (REMINDERS, Held(restricted=True), Reason.RESTRICTED),
        (REMINDERS, Held(restricted=True, reminders_kept=True), Reason.SERVICE),
        (REMINDERS, NOBODY, Reason.SERVICE),
        (REMINDERS, viewed(EMAIL, Word.OBJECTED), Reason.SERVICE),
        (REMINDERS, viewed(REMINDERS, Word.OPTED_OUT), Reason.OPTED_OUT),
        (SERVICE, NOBODY, Reason.SERVICE),
        (
            EMAIL,
            replace(CONSENTED, undeliverable=frozenset({(Channel.EMAIL, Purpose.MARKETING)})),
            Reason.UNDELIVERABLE,
        ),
        (PHONE, NOBODY, Reason.SCREENING_STALE),
        (PHONE, Held(screening=FRESH), Reason.LEGITIMATE_INTEREST),
        (PHONE, Held(screening=replace(FRESH, tps_from=NOW)), Reason.TPS),
        (PHONE, Held(screening=Screening(tps_screened_at=NOW - 29 * DAY)), Reason.SCREENING_STALE),
        (PHONE, viewed(PHONE, Word.OBJECTED), Reason.OBJECTED),
        (POST, Held(screening=FRESH), Reason.LEGITIMATE_INTEREST),
        (POST, Held(screening=replace(FRESH, mps_from=NOW)), Reason.MPS),
        (POST, Held(screening=Screening(mps_screened_at=NOW - 31 * DAY)), Reason.SCREENING_STALE),
    ],
)
def test_the_reason(scope: Scope, held: Held, reason: Reason) -> None:
    decision = decide(Ask(scope), held, NOW)
    assert decision.reason is reason
    allowed = {Reason.CONSENT, Reason.SOFT_OPT_IN, Reason.LEGITIMATE_INTEREST, Reason.SERVICE}
    assert decision.allowed is (reason in allowed)


def test_own_consent_to_calls_beats_register_and_staleness() -> None:
    consented = viewed(PHONE, Word.IN, Basis.CONSENT)
    listed = replace(consented, screening=Screening(tps_from=NOW))
    assert decide(Ask(PHONE), listed, NOW).reason is Reason.CONSENT


def test_a_brand_may_leave_the_mailing_register_aside() -> None:
    assert decide(Ask(POST, mps_applies=False), NOBODY, NOW).allowed


def test_paused_and_unsafe_deny_marketing_only() -> None:
    assert decide(Ask(EMAIL, paused=True), CONSENTED, NOW).reason is Reason.PAUSED
    assert decide(Ask(EMAIL, target_unsafe=True), CONSENTED, NOW).reason is Reason.TARGET_UNSAFE
    assert decide(Ask(REMINDERS, paused=True, target_unsafe=True), NOBODY, NOW).allowed


def told(*rows: tuple[Source, Choice, Scope], stop_all: bool = False) -> State:
    state = State()
    for at, (source, choice, scope) in enumerate(rows):
        entry = Entry(
            at + 1, "rt", scope, choice, source, float(at), basis=Basis.CONSENT, stop_all=stop_all
        )
        state = apply(state, entry, judge(state, entry))
    return state


IN = told((Source.API, Choice.IN, EMAIL))
OUT = told((Source.LINK, Choice.OUT, EMAIL))


def reason_of(*states: State, scope: Scope = EMAIL) -> Reason:
    return decide(Ask(scope), hold_together(states, "rt"), NOW).reason


def test_an_out_of_one_sharer_denies_the_address_to_all() -> None:
    assert reason_of(IN, OUT) is Reason.OPTED_OUT
    assert reason_of(OUT, IN) is Reason.OPTED_OUT


def test_stop_all_is_an_objection_on_every_channel() -> None:
    objected = told((Source.LINK, Choice.OUT, EMAIL), stop_all=True)
    assert reason_of(objected) is Reason.OBJECTED


def test_an_out_of_somebody_erased_is_suppression_unless_a_live_one_explains_it() -> None:
    assert reason_of(replace(OUT, erased=True)) is Reason.SUPPRESSED
    assert reason_of(replace(OUT, erased=True), OUT) is Reason.OPTED_OUT


def test_another_brand_is_another_matter() -> None:
    assert decide(Ask(EMAIL), hold_together([OUT], "second"), NOW).reason is Reason.NO_BASIS


words = st.sampled_from(list(Word))
held_values = st.builds(
    lambda email, offers, basis: Held(
        views={EMAIL: View(email, basis, 1.0), OFFERS: View(offers, basis, 1.0)}
    ),
    words,
    words,
    st.sampled_from(list(Basis)),
)


@given(held_values, held_values)
def test_the_wish_is_never_on_where_the_decision_denies(one: Held, other: Held) -> None:
    for slot in (Slot("a", Channel.EMAIL), Slot("b", Channel.EMAIL, topics=("offers", "news"))):
        wished = wish(slot, [one, other])
        for topic in slot.topics or (None,):
            ask = Ask(EMAIL._replace(topic=topic))
            denied = {Reason.OPTED_OUT, Reason.OBJECTED, Reason.SUPPRESSED, Reason.HELD}
            if {decide(ask, held, NOW).reason for held in (one, other)} & denied:
                assert wished is Wish.OFF


def test_never_asked_changes_no_vendor() -> None:
    assert wish(Slot("a", Channel.EMAIL), [NOBODY]) is Wish.LEAVE


def test_a_list_of_several_topics_is_on_only_when_all_are_allowed() -> None:
    slot = Slot("a", Channel.EMAIL, topics=("offers", "news"))
    assert wish(slot, [viewed(OFFERS, Word.IN, Basis.CONSENT)]) is Wish.LEAVE
    assert wish(slot, [CONSENTED]) is Wish.ON
    assert wish(slot, [viewed(OFFERS, Word.OPTED_OUT)]) is Wish.OFF
