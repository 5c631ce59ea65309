"""What permission rows come to for one question, however many they are."""

from __future__ import annotations

from functools import lru_cache

from prefs.core.decision import Ask, Decision, decide
from prefs.store.codec import HeldRow, Views, held_of, read_row, views_about

PLAIN = HeldRow()
NO_TIME = 0.0
"""No rule asks for the time where no pause, no register and no restriction is in the row."""


class Answers(dict[bytes | None, Decision]):
    """By row as it is stored; None for whom nothing is held. No rule asks when a view began: rows
    that differ in that alone are decided once, and each is answered with the time of its own."""

    def __init__(self, ask: Ask, now: float) -> None:
        self._ask = ask
        self._now = now
        self._alike = _alike(ask)

    def __missing__(self, raw: bytes | None) -> Decision:
        self[raw] = decided = self._decided(raw)
        return decided

    def _decided(self, raw: bytes | None) -> Decision:
        row = PLAIN if raw is None else read_row(raw)
        views = views_about(row, self._ask.scope)
        if not row.plain:
            return decide(self._ask, held_of(row, views), self._now)
        allowed, reason, basis, place = self._of_all_alike(views)
        since = None if place is None else float(views[int(place)][-1])
        return Decision(allowed, reason, basis, since)

    def _of_all_alike(self, views: Views) -> Decision:
        """Its `since` is the place of the view that decides."""
        alike = tuple([view[:-1] for view in views])
        found = self._alike.get(alike)
        if found is None:
            placed = [(*view[:-1], place) for place, view in enumerate(views)]
            found = decide(self._ask, held_of(PLAIN, placed), NO_TIME)
            self._alike[alike] = found
        return found


@lru_cache(maxsize=512)
def _alike(ask: Ask) -> dict[tuple[object, ...], Decision]:
    """What was decided for this question before: there are few kinds of plain rows."""
    return {}
