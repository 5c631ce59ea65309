"""Who may lift what, in which order: the table of rules, row by row, then as properties."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefs.core.fold import (
    RELEASED,
    Entry,
    Folded,
    Judgement,
    Restriction,
    Standing,
    State,
    apply,
    fold,
    judge,
    judge_resume,
    merge,
    next_end,
    resume,
    slip,
)
from prefs.core.words import (
    PERSONAL,
    Basis,
    Channel,
    Choice,
    Purpose,
    Result,
    Scope,
    Source,
    Strength,
    Why,
    strength,
)

NUMBER, OTHER_NUMBER = b"number", b"other number"
EMAIL = Scope(Channel.EMAIL, Purpose.MARKETING)
SMS = Scope(Channel.SMS, Purpose.MARKETING)
PHONE = Scope(Channel.PHONE, Purpose.MARKETING)
POST = Scope(Channel.POST, Purpose.MARKETING)
REMINDERS = Scope(Channel.SMS, Purpose.REMINDERS)
OFFERS = EMAIL._replace(topic="offers")
ids = itertools.count(1)


def entry(
    source: Source,
    choice: Choice | None = Choice.OUT,
    scope: Scope = EMAIL,
    at: float = 100.0,
    **more: object,
) -> Entry:
    return Entry(next(ids), "rt", scope, choice, source, at, **more)  # type: ignore[arg-type]  # fields by name


def consent(source: Source, scope: Scope = EMAIL, at: float = 200.0, **more: object) -> Entry:
    full = {"basis": Basis.CONSENT, "noted": True, "proof": True, **more}
    return entry(source, Choice.IN, scope, at, **full)


def told(*entries: Entry) -> tuple[State, Judgement]:
    """The state after these entries, and what became of the last."""
    state, judgement = State(), Judgement(Result.UNCHANGED, Why.SAME)
    for one in entries:
        judgement = judge(state, one)
        state = apply(state, one, judgement)
    return state, judgement


def is_out(state: State, scope: Scope = EMAIL) -> bool:
    return bool(state.at("rt", scope).outs)


MACHINES = [s for s in Source if strength(s) is Strength.MACHINE]
OVER_WEAK = [Source.STAFF, Source.IMPORT, Source.API, Source.VENDOR_ADMIN, Source.VENDOR_API]


@pytest.mark.parametrize("source", list(Source))
def test_an_out_from_any_source_counts_at_once(source: Source) -> None:
    state, judgement = told(consent(Source.API, at=50.0), entry(source))
    assert judgement.result is Result.APPLIED
    assert is_out(state)


@pytest.mark.parametrize(
    ("source", "result"),
    [
        (Source.CENTRE, Result.APPLIED),
        (Source.DOUBLE_OPT_IN, Result.APPLIED),
        (Source.SMS, Result.UNCHANGED),
        (Source.STAFF, Result.APPLIED),
        (Source.FORM, Result.PENDING),
        (Source.VENDOR_PERSON, Result.APPLIED),
        (Source.SOFT_OPT_IN, Result.APPLIED),
        (Source.IMPORT, Result.APPLIED),
        (Source.API, Result.APPLIED),
        (Source.VENDOR_ADMIN, Result.REFUSED),
        (Source.VENDOR_API, Result.REFUSED),
        (Source.ONE_CLICK, Result.REFUSED),
        (Source.LINK, Result.REFUSED),
        (Source.MAIL, Result.REFUSED),
    ],
)
def test_an_in_over_unset(source: Source, result: Result) -> None:
    assert told(consent(source))[1].result is result


@pytest.mark.parametrize("out", OVER_WEAK)
@pytest.mark.parametrize(
    ("source", "result"),
    [
        (Source.CENTRE, Result.APPLIED),
        (Source.DOUBLE_OPT_IN, Result.APPLIED),
        (Source.SMS, Result.REFUSED),
        (Source.STAFF, Result.APPLIED),
        (Source.FORM, Result.PENDING),
        (Source.VENDOR_PERSON, Result.REFUSED),
        (Source.SOFT_OPT_IN, Result.REFUSED),
        (Source.IMPORT, Result.REFUSED),
        (Source.API, Result.REFUSED),
        (Source.VENDOR_ADMIN, Result.REFUSED),
        (Source.VENDOR_API, Result.REFUSED),
    ],
)
def test_an_in_over_a_weak_out(out: Source, source: Source, result: Result) -> None:
    state, judgement = told(entry(out), consent(source))
    assert judgement.result is result
    assert is_out(state) is (result is not Result.APPLIED)


@pytest.mark.parametrize("out", sorted(PERSONAL))
@pytest.mark.parametrize("source", list(Source))
def test_only_the_person_lifts_their_own_out(out: Source, source: Source) -> None:
    state, _ = told(entry(out), consent(source))
    assert is_out(state) is (source not in (Source.CENTRE, Source.DOUBLE_OPT_IN))


@pytest.mark.parametrize("scope", [PHONE, POST])
def test_staff_may_lift_an_own_out_by_voice_or_letter_with_note_and_time(scope: Scope) -> None:
    out = entry(Source.LINK, scope=scope)
    assert not is_out(told(out, consent(Source.STAFF, scope))[0], scope)
    assert is_out(told(out, consent(Source.STAFF, scope, noted=False))[0], scope)
    assert is_out(told(out, consent(Source.STAFF, scope, sane_time=False))[0], scope)


class TestStart:
    STOP = entry(Source.SMS, scope=SMS, identifier=NUMBER)

    def start(self, number: bytes = NUMBER) -> Entry:
        return entry(Source.SMS, Choice.IN, SMS, 300.0, identifier=number)

    def test_lifts_a_stop_of_the_same_number_over_earlier_consent(self) -> None:
        state, judgement = told(consent(Source.API, SMS, 50.0), self.STOP, self.start())
        assert judgement.result is Result.APPLIED
        assert state.at("rt", SMS).consent is not None

    def test_lifts_nothing_without_earlier_consent(self) -> None:
        assert told(self.STOP, self.start())[1].result is Result.REFUSED

    def test_lifts_nothing_of_another_number(self) -> None:
        entries = consent(Source.API, SMS, 50.0), self.STOP, self.start(OTHER_NUMBER)
        assert is_out(told(*entries)[0], SMS)

    def test_lifts_no_out_of_another_kind_that_stands_beside_it(self) -> None:
        staff = entry(Source.STAFF, scope=SMS, at=90.0)
        state, _ = told(consent(Source.API, SMS, 50.0), staff, self.STOP, self.start())
        assert is_out(state, SMS)

    def test_lifts_nothing_without_the_gateways_time(self) -> None:
        blind = entry(Source.SMS, Choice.IN, SMS, 300.0, identifier=NUMBER, sane_time=False)
        assert is_out(told(consent(Source.API, SMS, 50.0), self.STOP, blind)[0], SMS)


class TestOrder:
    def test_a_tie_is_out(self) -> None:
        out, back = entry(Source.LINK, at=100.0), consent(Source.CENTRE, at=100.0)
        assert is_out(told(out, back)[0])
        assert is_out(told(back, out)[0])

    def test_an_out_older_than_a_later_own_act_is_kept_as_seen(self) -> None:
        state, judgement = told(consent(Source.CENTRE, at=200.0), entry(Source.VENDOR_PERSON))
        assert judgement == (Result.UNCHANGED, Why.OLDER)
        assert not is_out(state)

    def test_an_out_older_than_an_in_by_a_program_counts(self) -> None:
        assert is_out(told(consent(Source.API, at=200.0), entry(Source.IMPORT))[0])

    def test_a_token_issued_before_the_newest_out_lifts_nothing(self) -> None:
        out = entry(Source.ONE_CLICK, at=100.0)
        late = consent(Source.DOUBLE_OPT_IN, at=300.0, token=b"t", token_issued=90.0)
        assert told(out, late)[1] == (Result.REFUSED, Why.OLDER)

    def test_a_repeated_out_moves_the_newest_time(self) -> None:
        outs = entry(Source.ONE_CLICK, at=100.0), entry(Source.ONE_CLICK, at=200.0)
        between = consent(Source.DOUBLE_OPT_IN, at=300.0, token=b"t", token_issued=150.0)
        assert is_out(told(*outs, between)[0])

    def test_a_fresh_token_takes_back_the_out_made_with_it(self) -> None:
        out = entry(Source.CENTRE, at=100.0, token=b"t", token_issued=90.0)
        back = consent(Source.CENTRE, at=110.0, token=b"t", token_issued=90.0)
        assert not is_out(told(out, back)[0])

    def test_but_no_other_out_that_came_after_the_token(self) -> None:
        other = entry(Source.ONE_CLICK, at=95.0)
        out = entry(Source.CENTRE, at=100.0, token=b"t", token_issued=90.0)
        back = consent(Source.CENTRE, at=110.0, token=b"t", token_issued=90.0)
        assert is_out(told(other, out, back)[0])


class TestTopics:
    def test_a_channel_out_is_over_a_topic_in_that_may_not_lift_it(self) -> None:
        judgement = told(entry(Source.LINK), consent(Source.STAFF, OFFERS))[1]
        assert judgement == (Result.REFUSED, Why.SOURCE_TOO_WEAK)

    def test_a_topic_out_leaves_the_channel(self) -> None:
        state, _ = told(consent(Source.API, at=50.0), entry(Source.LINK, scope=OFFERS))
        assert not is_out(state)
        assert is_out(state, OFFERS)


class TestHold:
    HOLD = entry(Source.SMS, None, SMS)

    @pytest.mark.parametrize("source", [Source.STAFF, Source.API, Source.IMPORT])
    def test_answers_held_to_all_but_the_person(self, source: Source) -> None:
        assert told(self.HOLD, consent(source, SMS))[1].result is Result.HELD

    @pytest.mark.parametrize("source", [Source.CENTRE, Source.DOUBLE_OPT_IN])
    def test_is_cleared_by_the_person(self, source: Source) -> None:
        state, judgement = told(self.HOLD, consent(source, SMS))
        assert judgement.result is Result.APPLIED
        assert state.at("rt", SMS).hold is None

    def test_stays_under_a_machines_out(self) -> None:
        state, _ = told(self.HOLD, entry(Source.IMPORT, scope=SMS))
        assert state.at("rt", SMS).hold is not None


class TestPause:
    """An out of the person that ends by itself."""

    IN = consent(Source.API, at=50.0)
    PAUSE = entry(Source.CENTRE, at=100.0, until=500.0, token=b"t", token_issued=90.0)
    END = entry(Source.CENTRE, None, at=500.0)

    def ended(self, *entries: Entry) -> State:
        return resume(told(*entries)[0], self.END)

    def test_denies_until_it_ends_and_then_the_earlier_in_stands_again(self) -> None:
        state, judgement = told(self.IN, self.PAUSE)
        assert judgement.result is Result.APPLIED
        assert is_out(state)
        assert state.at("rt", EMAIL).until == 500.0
        assert next_end(state) == 500.0
        after = resume(state, self.END)
        assert not is_out(after)
        assert after == told(self.IN)[0]

    @pytest.mark.parametrize("source", list(Source))
    @pytest.mark.parametrize("first", [True, False])
    def test_an_out_beside_it_stands_after_its_end(self, source: Source, *, first: bool) -> None:
        out = entry(source, at=110.0)
        entries = (out, self.PAUSE) if first else (self.PAUSE, out)
        assert is_out(self.ended(self.IN, *entries))

    @pytest.mark.parametrize("source", [Source.IMPORT, Source.STAFF, Source.ONE_CLICK])
    def test_stands_beside_what_lasts(self, source: Source) -> None:
        state, _ = told(entry(source), self.PAUSE)
        assert state.at("rt", EMAIL).until is None
        assert state.at("rt", EMAIL).pause is not None

    def test_is_still_there_when_staff_lift_what_lasts(self) -> None:
        state, judgement = told(entry(Source.IMPORT), self.PAUSE, consent(Source.STAFF))
        assert judgement == (Result.REFUSED, Why.SOURCE_TOO_WEAK)
        assert is_out(state)

    def test_is_still_there_when_the_batch_that_lasts_is_taken_back(self) -> None:
        rows = [
            Folded("choice", out := entry(Source.IMPORT), judge(State(), out), "wrong"),
            Folded("pause", self.PAUSE, judge(told(out)[0], self.PAUSE)),
            Folded("retract", out, RELEASED, "wrong"),
        ]
        assert fold(rows).at("rt", EMAIL).until == 500.0

    def test_an_unsubscribe_over_it_is_a_change(self) -> None:
        assert told(self.PAUSE, entry(Source.ONE_CLICK, at=110.0))[1].result is Result.APPLIED

    @pytest.mark.parametrize("source", [*MACHINES, Source.STAFF])
    def test_no_weaker_in_ends_it(self, source: Source) -> None:
        assert is_out(told(self.PAUSE, consent(source))[0])

    def test_a_new_sign_up_of_the_person_ends_it(self) -> None:
        state, _ = told(self.PAUSE, consent(Source.DOUBLE_OPT_IN, token=b"u", token_issued=150.0))
        assert not is_out(state)

    @pytest.mark.parametrize("token", [b"t", b"u"])
    @pytest.mark.parametrize("out", [Source.ONE_CLICK, Source.IMPORT, None])
    def test_what_is_ticked_in_the_centre_goes_on_after_it(
        self, token: bytes, out: Source | None
    ) -> None:
        first = [entry(out, at=50.0)] if out else []
        ticked = consent(Source.CENTRE, token=token, token_issued=90.0)
        state, judgement = told(*first, self.PAUSE, ticked)
        assert judgement.result is Result.APPLIED
        assert state.at("rt", EMAIL).until == 500.0
        assert not is_out(resume(state, self.END))

    def test_a_link_of_a_footer_moves_its_end_further_away_only(self) -> None:
        further = entry(Source.LINK, at=110.0, until=600.0)
        sooner = entry(Source.LINK, at=120.0, until=550.0)
        assert told(self.PAUSE, further)[0].at("rt", EMAIL).until == 600.0
        assert told(self.PAUSE, further, sooner)[0].at("rt", EMAIL).until == 600.0

    def test_the_person_moves_its_end_either_way(self) -> None:
        sooner = entry(Source.CENTRE, at=110.0, until=300.0, token=b"t", token_issued=90.0)
        assert told(self.PAUSE, sooner)[0].at("rt", EMAIL).until == 300.0
        older = entry(Source.CENTRE, at=110.0, until=300.0, token=b"o", token_issued=80.0)
        assert told(self.PAUSE, older)[0].at("rt", EMAIL).until == 500.0

    def test_leaves_a_hold_for_staff(self) -> None:
        held = entry(Source.SMS, None, at=60.0)
        state = self.ended(held, self.PAUSE)
        assert state.at("rt", EMAIL).hold is not None

    def test_covers_its_topics(self) -> None:
        judgement = told(self.PAUSE, consent(Source.STAFF, OFFERS))[1]
        assert judgement == (Result.REFUSED, Why.SOURCE_TOO_WEAK)

    @pytest.mark.parametrize(
        ("again", "result"),
        [
            ({"token": b"t", "token_issued": 90.0}, Result.APPLIED),
            ({"token": b"n", "token_issued": 150.0}, Result.APPLIED),
            ({"token": b"o", "token_issued": 80.0}, Result.REFUSED),
        ],
    )
    def test_the_person_ends_it_by_a_link_that_is_newer_or_made_it(
        self, again: dict[str, object], result: Result
    ) -> None:
        state, _ = told(self.PAUSE)
        early = entry(Source.CENTRE, None, EMAIL, 200.0, **again)
        assert judge_resume(state, early).result is result

    def test_merging_keeps_the_longer_one(self) -> None:
        longer = entry(Source.CENTRE, at=120.0, until=900.0)
        one, other = told(self.PAUSE)[0], told(longer)[0]
        assert merge(one, other).at("rt", EMAIL).until == 900.0
        assert merge(other, one).at("rt", EMAIL).until == 900.0


class TestReminders:
    @pytest.mark.parametrize("source", MACHINES)
    def test_no_machine_switches_them_off(self, source: Source) -> None:
        state, judgement = told(entry(source, scope=REMINDERS))
        assert judgement.result is Result.REFUSED
        assert not is_out(state, REMINDERS)

    @pytest.mark.parametrize("source", [Source.SMS, Source.CENTRE, Source.STAFF])
    def test_person_and_staff_do(self, source: Source) -> None:
        assert is_out(told(entry(source, scope=REMINDERS, noted=True))[0], REMINDERS)

    def test_staff_switch_them_on_with_a_note(self) -> None:
        off = entry(Source.SMS, scope=REMINDERS)
        assert not is_out(told(off, consent(Source.STAFF, REMINDERS))[0], REMINDERS)
        assert is_out(told(off, consent(Source.STAFF, REMINDERS, noted=False))[0], REMINDERS)

    def test_are_not_offered_by_post(self) -> None:
        by_post = Scope(Channel.POST, Purpose.REMINDERS)
        assert told(entry(Source.CENTRE, scope=by_post))[1].why is Why.NOT_OFFERED


@pytest.mark.parametrize("why", [Why.NO_BASIS, Why.NO_EVIDENCE])
def test_what_a_consent_lacks_is_its_refusal(why: Why) -> None:
    assert told(consent(Source.API, lacks=why))[1] == (Result.REFUSED, why)


def test_a_repeat_is_unchanged() -> None:
    assert told(entry(Source.LINK), entry(Source.LINK, at=101.0))[1].result is Result.UNCHANGED


def test_a_restricted_persons_in_is_kept_aside() -> None:
    state = State(restricted=Restriction(10.0, 1))
    assert judge(state, consent(Source.CENTRE)).result is Result.HELD


# --- properties --------------------------------------------------------------------------------


def pauses_by(source: Source, choice: Choice | None, scope: Scope) -> bool:
    marketing = scope.purpose is Purpose.MARKETING
    return source in (Source.CENTRE, Source.LINK) and choice is Choice.OUT and marketing


scopes = st.sampled_from([EMAIL, OFFERS, SMS, PHONE, REMINDERS])
entries = st.builds(
    lambda source, choice, scope, at, token, issued, identifier, noted, until: entry(
        source,
        choice,
        scope,
        at,
        token=token,
        token_issued=issued if token else None,
        identifier=identifier,
        noted=noted,
        basis=Basis.CONSENT,
        until=until if pauses_by(source, choice, scope) else None,
    ),
    st.sampled_from(list(Source)),
    st.sampled_from([Choice.IN, Choice.OUT, Choice.OUT, None]),
    scopes,
    st.integers(0, 20).map(float),
    st.sampled_from([b"", b"one", b"two"]),
    st.integers(0, 20).map(float),
    st.sampled_from([NUMBER, OTHER_NUMBER]),
    st.booleans(),
    st.none() | st.integers(0, 40).map(float),
)
ledgers = st.lists(entries, max_size=12)


def states_of(rows: list[Entry]) -> tuple[State, list[Folded]]:
    state, kept = State(), []
    for one in rows:
        judgement = judge(state, one)
        state = apply(state, one, judgement)
        kept.append(Folded("choice", one, judgement))
    return state, kept


@given(ledgers)
def test_the_fold_of_the_ledger_is_the_state(rows: list[Entry]) -> None:
    state, kept = states_of(rows)
    assert fold(kept) == state


@given(ledgers, entries)
def test_an_end_of_a_pause_takes_the_pause_alone(rows: list[Entry], last: Entry) -> None:
    state, kept = states_of(rows)
    before = state.at("rt", last.scope)
    after = resume(state, last)
    assert after.at("rt", last.scope).outs == before.lasting
    assert after.at("rt", last.scope).consent == before.consent
    assert fold([*kept, Folded("resume", last, RELEASED)]) == after


@given(ledgers, entries)
def test_a_pause_takes_no_out_away(rows: list[Entry], last: Entry) -> None:
    state, _ = states_of(rows)
    if last.until is not None:
        after = apply(state, last, judge(state, last))
        assert after.at("rt", last.scope).lasting == state.at("rt", last.scope).lasting


@given(ledgers, entries)
def test_no_weaker_signal_lifts_a_persons_own_out(rows: list[Entry], last: Entry) -> None:
    state, _ = states_of(rows)
    before = state.at("rt", last.scope)
    own = [out for out in before.outs if strength(out.source) is Strength.PERSON]
    after = apply(state, last, judge(state, last)).at("rt", last.scope)
    if own and not after.outs:
        by_voice = last.scope.channel is Channel.PHONE and last.source is Source.STAFF
        start = last.source is Source.SMS
        reminders = last.scope.purpose is Purpose.REMINDERS and last.source is Source.STAFF
        personal = last.source in (Source.CENTRE, Source.DOUBLE_OPT_IN)
        assert personal or by_voice or start or reminders


@given(ledgers, entries)
def test_a_lift_is_later_than_every_out_it_lifts(rows: list[Entry], last: Entry) -> None:
    state, _ = states_of(rows)
    before = state.at("rt", last.scope)
    after = apply(state, last, judge(state, last)).at("rt", last.scope)
    if before.outs and not after.outs:
        assert all(last.at > out.at for out in before.outs)


@given(ledgers, entries)
def test_an_out_stands_afterwards_or_is_older_than_an_own_in(
    rows: list[Entry], last: Entry
) -> None:
    state, _ = states_of(rows)
    if last.choice is not Choice.OUT:
        return
    judgement = judge(state, last)
    after = apply(state, last, judgement).at("rt", last.scope)
    machine_reminder = last.scope is REMINDERS and strength(last.source) is Strength.MACHINE
    assert after.outs or judgement.why is Why.OLDER or machine_reminder


@given(ledgers, entries)
def test_marketing_never_touches_reminders(rows: list[Entry], last: Entry) -> None:
    state, _ = states_of(rows)
    if last.scope.purpose is Purpose.MARKETING:
        after = apply(state, last, judge(state, last))
        assert after.at("rt", REMINDERS) == state.at("rt", REMINDERS)


@given(ledgers, ledgers)
def test_merge_loses_no_out_and_does_not_care_who_is_first(
    one: list[Entry], other: list[Entry]
) -> None:
    left, right = states_of(one)[0], states_of(other)[0]
    merged, swapped = merge(left, right), merge(right, left)
    for scope in (EMAIL, OFFERS, SMS, PHONE, REMINDERS):
        outs = left.at("rt", scope).outs or right.at("rt", scope).outs
        hold = left.at("rt", scope).hold or right.at("rt", scope).hold
        found: Standing = merged.at("rt", scope)
        assert bool(found.outs) is bool(outs)
        assert bool(found.hold) is bool(hold)
        assert bool(found.outs) is bool(swapped.at("rt", scope).outs)
        assert found.newest_out == swapped.at("rt", scope).newest_out


def test_merge_keeps_restriction_and_erasure() -> None:
    restricted = State(restricted=Restriction(1.0, 1, reminders=True))
    stricter = State(restricted=Restriction(2.0, 2), erased=True)
    merged = merge(restricted, stricter)
    assert merged.erased
    assert merged.restricted == Restriction(2.0, 2)


@given(ledgers)
def test_taking_a_slip_back_takes_nothing_else_back(rows: list[Entry]) -> None:
    """Every out of staff is undone: what a person or a machine said stands as if they had kept
    silent."""
    _, kept = states_of(rows)
    by_staff = [k for k in kept if k.entry.source is Source.STAFF and k.entry.choice is Choice.OUT]
    undone = [
        Folded("undo", entry(Source.STAFF, None), k.judgement, slip(k.entry.event_id))
        for k in by_staff
    ]
    assert fold([*kept, *undone]) == fold([k for k in kept if k not in by_staff])


@given(ledgers)
def test_no_undo_takes_anothers_out_back(rows: list[Entry]) -> None:
    _, kept = states_of(rows)
    undone = [
        Folded("undo", entry(Source.STAFF, None), k.judgement, slip(k.entry.event_id))
        for k in kept
        if k.entry.source is not Source.STAFF
    ]
    assert fold([*kept, *undone]) == fold(kept)
