"""When a statement counts from, and what a consent must bring along."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from prefs.core.signals import Evidence, SoftOptIn
from prefs.core.words import OUR_PAGES, Basis, Channel, Choice, Purpose, Scope, Source, Why

ABSURD_BEFORE = datetime(2000, 1, 1, tzinfo=UTC)
"""An older time is a default or a fault, never the moment of a wish."""


class Moment(NamedTuple):
    """`at` is what the order goes by; not `sane` means that an `in` with it lifts nothing."""

    at: datetime
    sane: bool


def moment(
    source: Source, choice: Choice | None, occurred_at: datetime | None, received_at: datetime
) -> Moment:
    """Which time counts: our clock for acts on our pages and for a texted STOP, else the
    caller's or the vendor's, clamped to receipt when it lies in the future."""
    if source in OUR_PAGES or (source is Source.SMS and choice is not Choice.IN):
        return Moment(received_at, True)
    if occurred_at is None or occurred_at < ABSURD_BEFORE:
        return Moment(received_at, False)
    return Moment(min(occurred_at, received_at), True)


def lacking(
    scope: Scope,
    basis: Basis | None,
    soft_opt_in: SoftOptIn | None,
    evidence: Evidence,
    notice_known: bool,
) -> Why | None:
    """What a marketing `in` lacks: its basis, its evidence, or nothing (None).

    Consent needs the wording, a notice known to the brand, or a vendor's own record of this
    person's opt-in (UK GDPR article 7(1)); the soft opt-in needs all its conditions and covers
    electronic mail only (PECR regulation 22(3)); legitimate interest carries phone and post only.
    """
    if scope.purpose is not Purpose.MARKETING:
        return None
    live_or_post = scope.channel in (Channel.PHONE, Channel.POST)
    if basis is Basis.CONSENT:
        proved = evidence.wording or notice_known or evidence.proof
        return None if proved else Why.NO_EVIDENCE
    if basis is Basis.SOFT_OPT_IN and not live_or_post:
        complete = soft_opt_in is not None and soft_opt_in.complete
        return None if complete else Why.NO_BASIS
    if basis is Basis.LEGITIMATE_INTEREST and live_or_post:
        return None
    return Why.NO_BASIS
