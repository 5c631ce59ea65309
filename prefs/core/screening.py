"""What the preference registers say of a number or an address, and from when it counts.

A listing binds 28 days after the person signed up to the register (PECR regulation 21(3)), and at
once where the file does not tell that day. Times are seconds since 1970 UTC.
https://www.legislation.gov.uk/uksi/2003/2426/regulation/21
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from typing import NamedTuple
from zoneinfo import ZoneInfo

from prefs.core.decision import Screening
from prefs.core.words import Kind

BINDS_AFTER = timedelta(days=28)


class Register(StrEnum):
    TPS = "tps"
    CTPS = "ctps"
    MPS = "mps"

    @property
    def kind(self) -> Kind:
        """What it lists."""
        return Kind.POST if self is Register.MPS else Kind.PHONE


class Screened(NamedTuple):
    """One register's answer for one number or address. `listed_from` is when a listing binds; None
    is not listed."""

    at: float
    listed_from: float | None = None


def binds_from(listed_on: date | None, screened_at: float, zone: ZoneInfo) -> float:
    """The moment from which a listing denies: the beginning of a day where the day is told."""
    if listed_on is None:
        return screened_at
    return datetime.combine(listed_on + BINDS_AFTER, time(), zone).timestamp()


def later(old: Screened | None, new: Screened) -> Screened:
    """The later screening counts; of two of the same time the one that denies sooner. The order in
    which they arrive changes nothing."""
    if old is None or new.at > old.at:
        return new
    if new.at < old.at:
        return old
    return Screened(old.at, _sooner([old.listed_from, new.listed_from]))


def _sooner(times: Iterable[float | None]) -> float | None:
    return min((at for at in times if at is not None), default=None)


def screening(found: Mapping[Register, Screened]) -> Screening:
    """All registers taken together. Only the TPS says of a number that it may be called: a number
    that is on the CTPS alone is denied, one that is absent there is not screened by that."""
    tps, ctps, mps = (found.get(register) for register in Register)
    return Screening(
        tps_from=_sooner(one.listed_from for one in (tps, ctps) if one),
        mps_from=mps.listed_from if mps else None,
        tps_screened_at=tps.at if tps else None,
        mps_screened_at=mps.at if mps else None,
    )


def together(screenings: Iterable[Screening]) -> Screening:
    """Several numbers of one person: the sooner listing and the older screening; one that was
    never screened makes it none."""
    every = list(screenings) or [Screening()]
    return Screening(
        tps_from=_sooner(one.tps_from for one in every),
        mps_from=_sooner(one.mps_from for one in every),
        tps_screened_at=_oldest([one.tps_screened_at for one in every]),
        mps_screened_at=_oldest([one.mps_screened_at for one in every]),
    )


def _oldest(times: list[float | None]) -> float | None:
    known = [at for at in times if at is not None]
    return min(known) if known and len(known) == len(times) else None


def as_of(held: Screening, at: float) -> Screening:
    """What was known of it at an earlier moment."""
    tps = held.tps_screened_at is None or held.tps_screened_at <= at
    mps = held.mps_screened_at is None or held.mps_screened_at <= at
    return Screening(
        tps_from=held.tps_from if tps else None,
        mps_from=held.mps_from if mps else None,
        tps_screened_at=held.tps_screened_at if tps else None,
        mps_screened_at=held.mps_screened_at if mps else None,
    )
