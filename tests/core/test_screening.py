"""The 28 days of a listing and of a screening, and which of several screenings counts."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from functools import reduce
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from prefs.core.decision import (
    MPS_FRESH,
    TPS_FRESH,
    Ask,
    Held,
    Reason,
    Screening,
    View,
    Word,
    decide,
)
from prefs.core.screening import (
    Register,
    Screened,
    as_of,
    binds_from,
    later,
    screening,
    together,
)
from prefs.core.words import Basis, Channel, Kind, Purpose, Scope

LONDON = ZoneInfo("Europe/London")
PHONE = Scope(Channel.PHONE, Purpose.MARKETING)
POST = Scope(Channel.POST, Purpose.MARKETING)
DAY = 86400.0

days = st.dates(date(2024, 1, 1), date(2027, 12, 31))
times = st.floats(1.6e9, 1.9e9).map(float)
answers = st.builds(Screened, st.sampled_from([1.0e9, 1.1e9, 1.2e9]), st.none() | times)
screenings = st.builds(
    Screening, st.none() | times, st.none() | times, st.none() | times, st.none() | times
)


def noon(day: date) -> float:
    return datetime(day.year, day.month, day.day, 12, tzinfo=LONDON).timestamp()


def reason(held: Screening, at: float, scope: Scope = PHONE, **views: View) -> Reason:
    found = {scope: views["said"]} if views else {}
    return decide(Ask(scope), Held(views=found, screening=held), at).reason


@given(days, st.integers(0, 80))
def test_a_listing_denies_from_the_28th_day_on_and_not_before(listed: date, after: int) -> None:
    """PECR regulation 21(3): a number listed for less than 28 days may still be called."""
    today = listed + timedelta(days=after)
    screened = noon(today)
    held = screening({Register.TPS: Screened(screened, binds_from(listed, screened, LONDON))})
    denied = reason(held, screened) is Reason.TPS
    assert denied is (after >= 28)


@given(days, st.integers(-400, 400))
def test_a_listing_without_its_day_binds_at_once(screened: date, later_by: int) -> None:
    at = noon(screened)
    held = screening({Register.TPS: Screened(at, binds_from(None, at, LONDON))})
    asked = at + later_by * DAY
    assert (reason(held, asked) is Reason.TPS) is (later_by >= 0)


@given(times, st.floats(0, 60 * DAY))
def test_a_screening_counts_for_28_days(at: float, age: float) -> None:
    found = reason(Screening(tps_screened_at=at), at + age)
    assert found is (Reason.LEGITIMATE_INTEREST if age <= TPS_FRESH else Reason.SCREENING_STALE)


@given(times, st.floats(0, 60 * DAY))
def test_a_screening_of_addresses_counts_for_30_days(at: float, age: float) -> None:
    found = reason(Screening(mps_screened_at=at), at + age, POST)
    assert found is (Reason.LEGITIMATE_INTEREST if age <= MPS_FRESH else Reason.SCREENING_STALE)


@given(screenings, times)
def test_consent_to_calls_beats_register_and_staleness(held: Screening, at: float) -> None:
    said = View(Word.IN, Basis.CONSENT, 1.0)
    assert reason(held, at, said=said) is Reason.CONSENT


@given(screenings, times)
def test_no_register_lets_an_objection_pass(held: Screening, at: float) -> None:
    assert reason(held, at, said=View(Word.OBJECTED, None, 1.0)) is Reason.OBJECTED


@given(st.lists(answers, min_size=1, max_size=6), st.randoms())
def test_the_order_in_which_imports_arrive_changes_nothing(
    said: list[Screened], random: object
) -> None:
    other = list(said)
    random.shuffle(other)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    assert reduce(later, other, None) == reduce(later, said, None)


@given(answers, answers)
def test_only_a_later_screening_ends_a_listing(old: Screened, new: Screened) -> None:
    ended = old.listed_from is not None and later(old, new).listed_from is None
    assert ended is (old.listed_from is not None and new.listed_from is None and new.at > old.at)


@given(answers, answers)
def test_either_telephone_register_denies_the_sooner_one_first(a: Screened, b: Screened) -> None:
    held = screening({Register.TPS: a, Register.CTPS: b})
    known = [one.listed_from for one in (a, b) if one.listed_from is not None]
    assert held.tps_from == min(known, default=None)


def test_being_absent_from_the_corporate_register_screens_nobody() -> None:
    held = screening({Register.CTPS: Screened(1.0e9)})
    assert reason(held, 1.0e9) is Reason.SCREENING_STALE


def test_the_mail_register_says_nothing_of_calls() -> None:
    held = screening({Register.MPS: Screened(1.0e9, 1.0e9)})
    assert reason(held, 1.0e9) is Reason.SCREENING_STALE
    assert reason(held, 1.0e9, POST) is Reason.MPS
    assert [register.kind for register in Register] == [Kind.PHONE, Kind.PHONE, Kind.POST]


@given(st.lists(screenings, min_size=1, max_size=4), times)
def test_of_several_numbers_none_is_called_that_one_alone_would_deny(
    every: list[Screening], at: float
) -> None:
    denied = any(not decide(Ask(PHONE), Held(screening=one), at).allowed for one in every)
    whole = decide(Ask(PHONE), Held(screening=together(every)), at)
    assert whole.allowed is not denied


def test_nobody_with_a_number_was_never_screened() -> None:
    assert together([]) == Screening()


@given(screenings, times)
def test_an_earlier_moment_knows_nothing_of_a_later_screening(held: Screening, at: float) -> None:
    known = as_of(held, at)
    assert known.tps_screened_at in (None, held.tps_screened_at)
    if held.tps_screened_at is not None and held.tps_screened_at > at:
        assert reason(known, at) is Reason.SCREENING_STALE


def test_the_day_of_a_listing_is_one_of_the_brands_zone() -> None:
    """28 days after 1 March it is summer time: the day begins an hour earlier in UTC."""
    at = binds_from(date(2026, 3, 1), noon(date(2026, 3, 20)), LONDON)
    assert at == datetime(2026, 3, 29, tzinfo=LONDON).timestamp()
    assert (
        binds_from(date(2026, 3, 2), 0.0, LONDON)
        == datetime(2026, 3, 30, tzinfo=LONDON).timestamp()
    )
