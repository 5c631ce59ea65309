"""Every text that people read: key -> text, one catalogue a language in `prefs/locales`.

`{name}` is filled in; values are escaped where the page or mail is HTML. A translation is one more
file with the same keys; a brand may word any text its own way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import NamedTuple
from zoneinfo import ZoneInfo

from babel.core import Locale, UnknownLocaleError
from babel.dates import format_date, format_datetime, format_skeleton, format_timedelta
from babel.lists import format_list
from babel.numbers import format_decimal, format_percent
from babel.units import format_unit

from prefs.core.words import Channel, Purpose, Scope, Why
from prefs.locales import FALLBACK, Table, language_of, table_of
from prefs.settings import Brand

SPANS = (
    ("second", 1.0, 120.0),
    ("minute", 60.0, 7200.0),
    ("hour", 3600.0, 172800.0),
    ("day", 86400.0, float("inf")),
)
"""Unit, its seconds, and up to which span it is used."""


class Texts:
    """The texts of one language. What a translation lacks is read in English; `own` are a brand's
    own wordings."""

    def __init__(
        self, locale: str, own: Table | None = None, timezone: str = "Europe/London"
    ) -> None:
        found = language_of(locale)
        self.language = found.replace("_", "-")
        self._table = {**table_of(found), **(own or {})}
        self._locale = _locale(locale, found)
        self._zone = ZoneInfo(timezone)

    def __call__(self, key: str, **values: object) -> str:
        return self._table[key].format(**values)

    def has(self, key: str) -> bool:
        return key in self._table

    def when(self, text: str) -> str:
        """The same for an RFC 3339 time."""
        return self.moment(datetime.fromisoformat(text).timestamp())

    def ago(self, text: str, now: float) -> str:
        """How long ago an RFC 3339 time was, roughly."""
        passed = int(datetime.fromisoformat(text).timestamp() - now)
        return format_timedelta(passed, add_direction=True, locale=self._locale)

    def day(self, at: float) -> str:
        """A day as people write it; `at` in seconds since 1970 UTC."""
        return format_date(self._here(at).date(), "long", locale=self._locale)

    def date(self, text: str) -> str:
        """The same for an ISO 8601 date."""
        return format_date(date.fromisoformat(text), "long", locale=self._locale)

    def short_day(self, at: float) -> str:
        """A day within a table: the year is plain from where it stands. Days of weeks are UTC's."""
        day = datetime.fromtimestamp(at, UTC).date()
        return format_skeleton("MMMd", day, locale=self._locale)

    def moment(self, at: float) -> str:
        """A day with the time of day, in the brand's zone."""
        return format_datetime(self._here(at), "medium", locale=self._locale)

    def _here(self, at: float) -> datetime:
        return datetime.fromtimestamp(at, UTC).astimezone(self._zone)

    def number(self, value: float) -> str:
        return format_decimal(value, locale=self._locale)

    def share(self, part: float) -> str:
        """A part of one as a whole percentage."""
        return format_percent(part, locale=self._locale)

    def lasting(self, seconds: float) -> str:
        """A span of time in the unit that suits it."""
        unit, size = next((name, size) for name, size, most in SPANS if seconds < most)
        length = seconds / size
        rounded = round(length, 2 if length < 1 else 1 if length < 10 else None)
        return format_unit(rounded, f"duration-{unit}", "short", locale=self._locale)

    def what(self, brand: Brand, scope: Scope) -> str:
        """The scope as it is called within a sentence."""
        if scope.topic is not None:
            return self(f"topic.{scope.channel}", topic=brand.topics.get(scope.topic, scope.topic))
        return self(f"{scope.purpose}.{scope.channel}")

    def system(self, name: str) -> str:
        """A connected system by its own name."""
        key = f"system.{name}"
        return self(key) if key in self._table else name

    def several(self, names: Sequence[str]) -> str:
        """Names in one sentence."""
        return format_list(list(names), locale=self._locale)

    def why(self, why: Why) -> str:
        key = f"why.{why}"
        return self(key if key in self._table else "why.other")


def texts_of(brand: Brand | None) -> Texts:
    """A brand's texts; without a brand, nobody's."""
    return Texts(brand.locale, brand.texts, brand.timezone) if brand else Texts(FALLBACK)


def _locale(wanted: str, language: str) -> Locale:
    try:
        return Locale.parse(wanted, sep="-")
    except (UnknownLocaleError, ValueError):
        return Locale.parse(language)


class Agreed(NamedTuple):
    """What stood beside a choice, as the evidence of a consent keeps it. `version` names the words
    that are the same for everybody."""

    text: str
    version: str
    language: str


def agreed(texts: Texts, said: Sequence[str], chosen: Iterable[str]) -> Agreed:
    """`said` is the notice, `chosen` are the words beside what was ticked."""
    version = sha256("\n".join(said).encode()).hexdigest()[:12]
    return Agreed("\n".join([*said, *chosen]), version, texts.language)


def agreed_in_centre(texts: Texts, brand: Brand, scopes: Iterable[Scope]) -> Agreed:
    """What the preference centre said beside these boxes."""
    said = [texts("centre.intro"), texts("centre.marketing.hint", brand=brand.name)]
    return agreed(texts, said, (label(texts, brand, scope) for scope in scopes))


def agreed_again(texts: Texts, brand: Brand, scopes: Iterable[Scope]) -> Agreed:
    """What stood beside the button that takes a change back."""
    said = [texts("undo.hint", brand=brand.name)]
    return agreed(texts, said, (texts.what(brand, scope) for scope in scopes))


def label(texts: Texts, brand: Brand, scope: Scope) -> str:
    """The words beside a tick box, with the heading it stands under."""
    channel = texts(f"channel.{scope.channel}")
    if scope.purpose is Purpose.REMINDERS:
        return f"{texts('centre.appointments')}: {channel}"
    if scope.purpose is Purpose.SERVICE:
        return f"{texts('centre.service')}: {channel}"
    if scope.topic is None:
        return channel
    return f"{channel}, {texts('centre.topics')}: {brand.topics.get(scope.topic, scope.topic)}"


def address_key(channel: Channel) -> str:
    """Which kind of identifier a masked text on that channel is."""
    return {Channel.SMS: "address.phone"}.get(channel, f"address.{channel}")
