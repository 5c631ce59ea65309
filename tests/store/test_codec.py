"""What permission rows come to is what would come of each by itself, read whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some
from msgspec.structs import replace

from prefs.core.decision import NOBODY, Ask, Held, Screening, View, Word, decide
from prefs.core.words import Basis, Channel, Purpose, Scope, offered
from prefs.store.answers import Answers
from prefs.store.codec import decode_held, encode_held

TOPICS = (None, "offers", "news")
PAIRS = [(channel, purpose) for channel in Channel for purpose in Purpose]
EMAIL = Scope(Channel.EMAIL, Purpose.MARKETING)
few = some.sampled_from([EMAIL, EMAIL._replace(topic="offers"), EMAIL._replace(topic="news")])
"""So that questions and views meet."""
scopes = few | some.builds(
    lambda pair, topic: Scope(pair[0], pair[1], topic if pair[1] is Purpose.MARKETING else None),
    some.sampled_from([pair for pair in PAIRS if offered(*pair)]),
    some.sampled_from(TOPICS),
)
times = some.none() | some.integers(0, 2_000_000_000).map(float)
said = (
    some.sampled_from(list(Word)),
    some.none() | some.sampled_from(list(Basis)),
    some.integers(0, 2_000_000_000).map(float),
)
lasting, views = some.builds(View, *said, some.none()), some.builds(View, *said, times)
plain = some.builds(Held, views=some.dictionaries(few, lasting, max_size=3))
held = plain | some.builds(
    Held,
    views=some.dictionaries(scopes, views, max_size=6),
    restricted=some.booleans(),
    reminders_kept=some.booleans(),
    undeliverable=some.frozensets(some.sampled_from(PAIRS), max_size=2),
    screening=some.builds(Screening, times, times, times, times),
)
asks = some.builds(Ask, scopes, some.booleans(), some.booleans(), some.booleans())


@given(some.lists(held, max_size=3), asks, some.integers(0, 2_000_000_000))
def test_rows_together_are_answered_as_each_by_itself(
    some_held: list[Held], ask: Ask, now: int
) -> None:
    answers = Answers(ask, float(now))
    for one in [later for each in some_held for later in (each, _later(each))]:
        row = encode_held(one)
        assert decode_held(row) == one
        assert answers[row] == decide(ask, one, float(now))
    assert answers[None] == decide(ask, NOBODY, float(now))


def _later(held: Held) -> Held:
    """The same, each view by another while."""
    views = {
        scope: view._replace(since=(view.since or 0.0) + 10 * number)
        for number, (scope, view) in enumerate(held.views.items(), 1)
    }
    return replace(held, views=views)
