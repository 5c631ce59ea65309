"""What a question needs of a permission row is all that it would read of the whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some

from prefs.core.decision import Ask, Held, Screening, View, Word, decide
from prefs.core.words import Basis, Channel, Purpose, Scope, offered
from prefs.store.codec import decode_about, decode_held, encode_held

TOPICS = (None, "offers", "news")
PAIRS = [(channel, purpose) for channel in Channel for purpose in Purpose]
scopes = some.builds(
    lambda pair, topic: Scope(pair[0], pair[1], topic if pair[1] is Purpose.MARKETING else None),
    some.sampled_from([pair for pair in PAIRS if offered(*pair)]),
    some.sampled_from(TOPICS),
)
times = some.none() | some.integers(0, 2_000_000_000).map(float)
views = some.builds(
    View,
    some.sampled_from(list(Word)),
    some.none() | some.sampled_from(list(Basis)),
    some.integers(0, 2_000_000_000).map(float),
    times,
)
held = some.builds(
    Held,
    views=some.dictionaries(scopes, views, max_size=6),
    restricted=some.booleans(),
    reminders_kept=some.booleans(),
    undeliverable=some.frozensets(some.sampled_from(PAIRS), max_size=2),
    screening=some.builds(Screening, times, times, times, times),
)
asks = some.builds(Ask, scopes, some.booleans(), some.booleans(), some.booleans())


@given(held, asks, some.integers(0, 2_000_000_000))
def test_the_views_that_are_asked_about_decide_alike(held: Held, ask: Ask, now: int) -> None:
    row = encode_held(held)
    whole, about = decode_held(row), decode_about(row, ask.scope)
    assert whole == held
    assert decide(ask, about, float(now)) == decide(ask, whole, float(now))
