"""The days until which a person may pause, where the brand is."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from prefs.settings import Brand

LONGEST = 366
"""Days. Who wants to hear nothing for longer unsubscribes."""
USUAL = 30


def offered(now: datetime, brand: Brand) -> dict[str, str]:
    """First, usual and last day, as ISO 8601."""
    today = _today(now, brand)
    days = {"first": 1, "usual": USUAL, "last": LONGEST}
    return {name: (today + timedelta(days=ahead)).isoformat() for name, ahead in days.items()}


def beginning(now: datetime, brand: Brand, text: str) -> datetime | None:
    """When that day begins there; None for what is no day on offer."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    if not 1 <= (day - _today(now, brand)).days <= LONGEST:
        return None
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(brand.timezone))


def _today(now: datetime, brand: Brand) -> date:
    return now.astimezone(ZoneInfo(brand.timezone)).date()
