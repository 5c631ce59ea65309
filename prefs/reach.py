"""Whom we could reach: what `decide` says of the addresses and numbers that belong to people.

Counted one by one up to SAMPLE of a kind. Above that the SAMPLE of them whose keyed hashes are
smallest stands for all: a hash is as good as random, so a share is right within one percentage
point (95 in 100 times), and the same whenever it is asked.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import NamedTuple

from sqlalchemy import Connection, and_, exists, select

from prefs.core.decision import NOBODY, Ask, Held, Reason, decide
from prefs.core.words import KIND_OF, Channel, Kind, Purpose, Scope
from prefs.store.codec import decode_held
from prefs.store.schema import identifiers, links, permissions

SAMPLE = 10_000


class Standing(StrEnum):
    MAY = "may"
    SAID_NO = "said_no"
    NEVER_AGREED = "never_agreed"
    OTHER = "other"
    """On hold, undeliverable, on a register, or not checked against it lately."""


SAID_NO = frozenset({Reason.OBJECTED, Reason.OPTED_OUT, Reason.SUPPRESSED, Reason.RESTRICTED})
NEVER_AGREED = frozenset({Reason.NO_BASIS, Reason.UNCONFIRMED})


class Reach(NamedTuple):
    channel: Channel
    looked_at: int
    whole: bool
    """False where a sample stands for all."""
    counts: Counter[Standing]

    def share(self, standing: Standing) -> float:
        return self.counts[standing] / self.looked_at if self.looked_at else 0.0


def of_brand(
    conn: Connection, controller: str, brand: str, now: float, *, mps: bool
) -> list[Reach]:
    """Marketing on each channel; `mps` as in the brand's configuration."""
    held = {kind: _sample(conn, controller, brand, kind) for kind in Kind}
    return [_reach(channel, held[KIND_OF[channel]], now, mps=mps) for channel in Channel]


def _sample(conn: Connection, controller: str, brand: str, kind: Kind) -> list[Held]:
    """What is held of each, and of one more than SAMPLE where there are more."""
    theirs = and_(permissions.c.brand == brand, permissions.c.hash == identifiers.c.hash)
    wanted = (
        select(permissions.c.value)
        .select_from(identifiers.outerjoin(permissions, theirs))
        .where(
            identifiers.c.controller == controller,
            identifiers.c.kind == kind.value,
            exists().where(links.c.identifier_id == identifiers.c.id),
        )
        .order_by(identifiers.c.hash)
        .limit(SAMPLE + 1)
    )
    return [decode_held(value) if value else NOBODY for value in conn.execute(wanted).scalars()]


def _reach(channel: Channel, held: list[Held], now: float, *, mps: bool) -> Reach:
    ask = Ask(Scope(channel, Purpose.MARKETING), mps_applies=mps)
    counts = Counter(_standing(ask, one, now) for one in held[:SAMPLE])
    return Reach(channel, counts.total(), len(held) <= SAMPLE, counts)


def _standing(ask: Ask, held: Held, now: float) -> Standing:
    decision = decide(ask, held, now)
    if decision.allowed:
        return Standing.MAY
    if decision.reason in SAID_NO:
        return Standing.SAID_NO
    return Standing.NEVER_AGREED if decision.reason in NEVER_AGREED else Standing.OTHER
