"""The shapes in which every door says what happened.

A `Signal` is a wish; everything else that a vendor may tell us is a `Recheck` (go and read),
a `Text` (an inbound message whose meaning the SMS rules give), a `Renamed` address, a
`DeliveryFact` or `Work` for a person. Webhook modules return these and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from prefs.core.words import Basis, Choice, Kind, Purpose, Scope, Source


class Identifier(NamedTuple):
    """One normalised identifier. `key` is what is hashed, `spelling` what may be written to."""

    kind: Kind
    key: str
    spelling: str


class Statement(NamedTuple):
    scope: Scope
    choice: Choice


@dataclass(frozen=True, slots=True)
class TokenUse:
    """The link token by which a person acted: its fingerprint and when it was issued."""

    fingerprint: bytes
    issued_at: datetime
    identifier: bytes
    """Keyed hash of the identifier the token was minted for."""
    subject_id: int | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What proves a statement. Goes, salted and encrypted, to the ledger's payload."""

    kind: str | None = None
    """`vendor_record` or `attested`, where a running clinic is taken over."""
    notice: str | None = None
    wording: str | None = None
    page: str | None = None
    ip: str | None = None
    user_agent: str | None = None
    actor: str | None = None
    note: str | None = None
    proof: Mapping[str, str] | None = None
    """A vendor's own per-person record of an opt-in: time, form, IP, double opt-in."""


@dataclass(frozen=True, slots=True)
class SoftOptIn:
    """The five conditions of PECR regulation 22(3); complete only when all hold."""

    sale: bool = False
    own_similar: bool = False
    refusal_offered: bool = False
    refusal_in_each: bool = False
    not_refused: bool = False

    @property
    def complete(self) -> bool:
        return all(
            (
                self.sale,
                self.own_similar,
                self.refusal_offered,
                self.refusal_in_each,
                self.not_refused,
            )
        )


@dataclass(frozen=True, slots=True)
class Signal:
    """One act of one person (or of a system on their behalf), at one brand."""

    brand: str
    source: Source
    statements: tuple[Statement, ...]
    identifiers: tuple[Identifier, ...] = ()
    hashes: tuple[tuple[Kind, bytes], ...] = ()
    """Identifiers known by keyed hash only (a token, an erased person)."""
    ref: str | None = None
    about: int | None = None
    """The subject that staff have before them, whoever shares its identifiers."""
    name: str | None = None
    occurred_at: datetime | None = None
    basis: Basis | None = None
    soft_opt_in: SoftOptIn | None = None
    evidence: Evidence = field(default_factory=Evidence)
    token: TokenUse | None = None
    every_brand: bool = False
    """Stop all marketing: counts for each brand of the controller."""
    hold: bool = False
    """An unclear wish: the statements' channels are held for staff instead of chosen."""
    origin: str | None = None
    """Name of the target that said it; None for our own doors."""
    event_key: str | None = None
    """The same text for every delivery of one vendor event; a second one is a duplicate."""
    raw: bytes | None = None
    batch: str | None = None


@dataclass(frozen=True, slots=True)
class Recheck:
    """Read this record at its vendor and judge what is found."""

    vendor_id: str | None = None
    identifier: Identifier | None = None
    event_key: str | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """An inbound text message; the words decide what it means."""

    message_id: str
    number: Identifier
    sender: str
    """Our number or service that received it, as it stands in `[brands.*.sms]`."""
    other_sender: str | None
    """The number when `sender` is a service (either may be what the configuration names)."""
    body: str
    flag: str | None
    """The gateway's own opt-out flag (`STOP`, `START`, `HELP`): it blocked or unblocked."""


@dataclass(frozen=True, slots=True)
class Renamed:
    """A vendor moved a record to another address; standing outs go along."""

    old: Identifier
    new: Identifier
    event_key: str | None = None


@dataclass(frozen=True, slots=True)
class DeliveryFact:
    """Not a wish: this sender cannot reach this identifier (or can again, with `ended`)."""

    identifier: Identifier
    purpose: Purpose
    fact: str
    """hard_bounce, invalid, blocked or page_blocked."""
    occurred_at: datetime | None = None
    ended: bool = False
    event_key: str | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """What only a person can see to: a task of this kind (prefs/tasks.py). `text` names nobody."""

    kind: str
    text: str
    about: Identifier | None = None
    event_key: str | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """An event whose type or words are not in the vendor's table: kept and counted."""

    event: str
    event_key: str | None = None


Found = Signal | Recheck | Text | Renamed | DeliveryFact | Work | Unknown


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook request as it arrived, before anything is parsed."""

    method: str
    url: str
    """The configured public URL with path and query: never built from Host or forwarded headers."""
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Reply:
    status: int = 200
    body: bytes = b""
    media_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)
    """What a vendor's handshake wants to see again."""


__all__ = [
    "Choice",
    "Delivery",
    "DeliveryFact",
    "Evidence",
    "Found",
    "Identifier",
    "Purpose",
    "Recheck",
    "Renamed",
    "Reply",
    "Scope",
    "Signal",
    "SoftOptIn",
    "Statement",
    "Text",
    "TokenUse",
    "Unknown",
    "Work",
]
