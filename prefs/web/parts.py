"""How long most took."""

from __future__ import annotations

from collections.abc import Iterable

PARTS = (("p50", 50), ("p95", 95), ("p99", 99))


def parts_of(lags: Iterable[float]) -> dict[str, float | None]:
    """The least that so many in a hundred did not exceed (nearest rank); None of nothing."""
    ordered = sorted(lags)
    return {
        name: ordered[-(-len(ordered) * part // 100) - 1] if ordered else None
        for name, part in PARTS
    }
