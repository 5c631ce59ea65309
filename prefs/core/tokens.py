"""The token of a link: who, what and which brand, sealed, without an address in it.

Text: base64url without padding (RFC 4648 section 5) of
version 1 | key id 4 | kind 1 | channel 1 | purpose 1 | topic 2 | identifier kind 1 |
keyed hash 16 | subject id 8 (0 none) | issued 4 (seconds since 1970 UTC) | brand | MAC 16,
numbers big-endian; 76 characters for a brand of two letters.
"""

from __future__ import annotations

import hmac
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256

from prefs.core.errors import NotFound
from prefs.core.keys import HASH_SIZE, ID_SIZE, Keyring, UnknownKey, Use
from prefs.core.signals import TokenUse
from prefs.core.words import Channel, Kind, Purpose

VERSION = b"\x01"
MAC_SIZE = 16
EVERY_TOPIC = 0
"""In the place of a topic's permanent number: the whole channel."""
_LONGEST = 512
_DAY = 86_400_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Forged(NotFound):
    """No token of ours, or not one for this door. Which of these is never told."""

    def __init__(self) -> None:
        super().__init__("this link is not valid")


class TokenKind(StrEnum):
    """Which door a token opens. The letters are permanent: old links must go on working."""

    FOOTER_UNSUBSCRIBE = "u"
    CENTRE_FOOTER = "f"
    CENTRE_FRESH = "p"
    CONFIRM = "c"
    COMPLAIN = "x"


LIFE = {TokenKind.CENTRE_FRESH: timedelta(hours=72), TokenKind.CONFIRM: timedelta(days=7)}
"""The others stand in mails that are years old, and never expire."""

# Permanent bytes, as the letters above.
_CHANNEL = {
    Channel.EMAIL: 1,
    Channel.SMS: 2,
    Channel.PHONE: 3,
    Channel.POST: 4,
    Channel.MESSENGER: 5,
}
_PURPOSE = {Purpose.MARKETING: 1, Purpose.REMINDERS: 2, Purpose.SERVICE: 3}
_KIND = {Kind.EMAIL: 1, Kind.PHONE: 2, Kind.MESSENGER: 3, Kind.POST: 4}
_CHANNEL_OF = {number: channel for channel, number in _CHANNEL.items()}
_PURPOSE_OF = {number: purpose for purpose, number in _PURPOSE.items()}
_KIND_OF = {number: kind for kind, number in _KIND.items()}
_FIELDS = struct.Struct(f">cBBHB{HASH_SIZE}sQQ")


@dataclass(frozen=True, slots=True)
class Token:
    kind: TokenKind
    brand: str
    identifier_kind: Kind
    hash: bytes
    """The identifier's keyed hash, 16 bytes, under whichever secret was newest then."""
    channel: Channel
    purpose: Purpose
    issued_at: datetime
    """Aware. A token that never expires keeps the day only (midnight UTC)."""
    topic: int = EVERY_TOPIC
    """The topic's permanent number."""
    subject_id: int | None = None

    def __post_init__(self) -> None:
        if len(self.hash) != HASH_SIZE:
            raise ValueError(f"a keyed hash has {HASH_SIZE} bytes")

    @property
    def fingerprint(self) -> bytes:
        """8 bytes that name the token in the ledger and open nothing."""
        return sha256(_packed(self)).digest()[:8]

    @property
    def use(self) -> TokenUse:
        return TokenUse(self.fingerprint, self.issued_at, self.hash, self.subject_id)

    def expired(self, now: datetime) -> bool:
        life = LIFE.get(self.kind)
        return life is not None and now - self.issued_at > life


def mint(keyring: Keyring, token: Token) -> str:
    """Text for a URL or for the plus part of an address."""
    sealed = VERSION + keyring.newest_id + _packed(token)
    mac = keyring.mac(Use.TOKEN, sealed)[:MAC_SIZE]
    return _text(sealed + mac)


def read(keyring: Keyring, text: str, kinds: Collection[TokenKind] = tuple(TokenKind)) -> Token:
    """The token, if it is ours, unchanged and of one of `kinds`; else raises Forged.

    An expired token is read as well: the page that it opened says so.
    """
    raw = _raw(text)
    sealed, mac = raw[:-MAC_SIZE], raw[-MAC_SIZE:]
    id_ = sealed[1 : 1 + ID_SIZE]
    try:
        expected = keyring.mac(Use.TOKEN, sealed, id_)[:MAC_SIZE]
    except UnknownKey:
        raise Forged from None
    if not hmac.compare_digest(mac, expected) or sealed[:1] != VERSION:
        raise Forged
    token = _unpacked(sealed[1 + ID_SIZE :])
    if token.kind not in kinds:
        raise Forged
    return token


def _packed(token: Token) -> bytes:
    fields = _FIELDS.pack(
        token.kind.encode(),
        _CHANNEL[token.channel],
        _PURPOSE[token.purpose],
        token.topic,
        _KIND[token.identifier_kind],
        token.hash,
        token.subject_id or 0,
        _milliseconds(token),
    )
    return fields + token.brand.encode()


def _unpacked(packed: bytes) -> Token:
    kind, channel, purpose, topic, identifier_kind, hash_, subject_id, issued = _FIELDS.unpack(
        packed[: _FIELDS.size]
    )
    return Token(
        kind=TokenKind(kind.decode()),
        brand=packed[_FIELDS.size :].decode(),
        identifier_kind=_KIND_OF[identifier_kind],
        hash=hash_,
        channel=_CHANNEL_OF[channel],
        purpose=_PURPOSE_OF[purpose],
        issued_at=_EPOCH + timedelta(milliseconds=issued),
        topic=topic,
        subject_id=subject_id or None,
    )


def _milliseconds(token: Token) -> int:
    """Fine enough to tell a link from an out of the same second; footers keep the day only."""
    issued = (token.issued_at - _EPOCH) // timedelta(milliseconds=1)
    return issued if token.kind in LIFE else issued - issued % _DAY


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


_LEAST = len(VERSION) + ID_SIZE + _FIELDS.size + MAC_SIZE


def _raw(text: str) -> bytes:
    """Only the one spelling that we write: base64 has others for the same bytes."""
    if len(text) > _LONGEST or not text.isascii():
        raise Forged
    try:
        raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise Forged from None
    if len(raw) < _LEAST or _text(raw) != text:
        raise Forged
    return raw
