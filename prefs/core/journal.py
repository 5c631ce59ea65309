"""The lines of a journal of the ledger: what a restored database must be told again.

A line is `MAC JSON`. The MAC (16 bytes, hexadecimal) is of the MAC before it and the JSON, so that
a line that was changed, left out or put in shows; it is also what names the line. A `seal` is
signed besides (Ed25519), for whoever must not hold the secret. Nothing in a line is personal data
in plain: identifiers are keyed hashes, a `ref` is encrypted, the payload stays out.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import NamedTuple

import msgspec
from msgspec import Struct

from prefs.core.errors import PrefsError
from prefs.core.keys import Keyring, Use

MAC_SIZE = 16
BEGIN = b"\0" * MAC_SIZE
"""What the very first line follows."""


class Damaged(PrefsError):
    """A line is not as it was written."""


class Torn(Damaged):
    """A line was not written to its end."""


class Known(Struct, frozen=True, array_like=True):
    """An identifier of a subject: what it is, its keyed hash, and the key's id."""

    kind: str
    hash: bytes
    key: bytes


class Head(Struct, frozen=True, tag_field="line", tag="file"):
    """Begins a file."""

    place: str
    """Names the folder."""
    number: int
    follows: bytes
    """MAC of the last whole line of the file before."""
    key: bytes
    """Id of the key of every MAC in the file."""


class Said(Struct, frozen=True, tag_field="line", tag="said", omit_defaults=True):
    """A row of the ledger that denies something, with everything that the fold needs of it, and
    what its subject was known by. Times are seconds since 1970 UTC."""

    n: int
    event: int
    payload: bytes
    """The row's `payload_hash`: with `event` it names the row in whatever history."""
    subject: int
    kind: str
    brand: str | None
    channel: str | None
    purpose: str | None
    source: str | None
    received_at: float
    at: float
    result: str
    why: str
    topic: str | None = None
    choice: str | None = None
    occurred_at: float | None = None
    identifier: bytes | None = None
    token: bytes | None = None
    stop_all: bool = False
    until: float | None = None
    origin: str | None = None
    batch: str | None = None
    known: tuple[Known, ...] = ()
    ref: bytes | None = None

    @property
    def digest(self) -> bytes:
        return sha256(self.event.to_bytes(8, "big") + self.payload).digest()[:16]


class Who(Struct, frozen=True, tag_field="line", tag="who", omit_defaults=True):
    """What a subject is known by, of whom something is denied."""

    subject: int
    controller: str
    known: tuple[Known, ...]
    ref: bytes | None = None


class Seal(Struct, frozen=True, tag_field="line", tag="seal", omit_defaults=True):
    """The ledger's row `n` has this hash: everything up to it that denies stands before this
    line. `signature` is of `signed_text`."""

    n: int
    hash: str
    """Hexadecimal."""
    at: str
    """RFC 3339."""
    key: str
    signature: str
    relinks: int = 0
    settled: bool = True
    """False from the moment a database with another history was found until all was replayed."""
    why: str = ""
    """`daily`, `shutdown`, `restored` (the ledger goes on from here, whatever seals of a greater
    n stand before), `replayed`."""


Line = Head | Said | Who | Seal

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


class Read(NamedTuple):
    line: Line
    mac: bytes


def write(keys: Keyring, previous: bytes, line: Line, key: bytes) -> tuple[bytes, bytes]:
    """The line as bytes, and its MAC. Raises UnknownKey."""
    body = _encode(line)
    mac = _mac(keys, previous, body, key)
    return mac.hex().encode() + b" " + body + b"\n", mac


def read(keys: Keyring, previous: bytes | None, raw: bytes, key: bytes | None) -> Read:
    """The line, where it follows the one with the MAC `previous` (None: whatever that was); a head
    names its key itself. Raises Torn, Damaged or UnknownKey."""
    if not raw.endswith(b"\n"):
        raise Torn("the line was not written to its end")
    text, _, body = raw[:-1].partition(b" ")
    try:
        stated, line = bytes.fromhex(text.decode()), _decode(body)
    except (ValueError, msgspec.MsgspecError) as fault:
        raise Damaged("the line cannot be read") from fault
    key = line.key if isinstance(line, Head) else key
    if key is None:
        raise Damaged("the file does not begin with its head")
    if isinstance(line, Head):
        previous = line.follows
    if previous is not None and not hmac.compare_digest(stated, _mac(keys, previous, body, key)):
        raise Damaged("the line was changed, or one before it was")
    return Read(line, stated)


def stated(raw: bytes) -> bytes:
    """The MAC that a damaged line claims, so that the next one can still be checked."""
    try:
        return bytes.fromhex(raw[: 2 * MAC_SIZE].decode())
    except ValueError:
        return BEGIN


def _mac(keys: Keyring, previous: bytes, body: bytes, key: bytes) -> bytes:
    return keys.mac(Use.CHECKPOINT, previous + body, key)[:MAC_SIZE]


def seal(
    keys: Keyring,
    n: int,
    hash_: bytes,
    at: str,
    *,
    relinks: int = 0,
    settled: bool = True,
    why: str = "",
) -> Seal:
    signature = keys.sign(signed_text(n, hash_.hex(), at))
    key = keys.newest_id.hex()
    return Seal(n, hash_.hex(), at, key, signature.hex(), relinks, settled, why)


def signed_text(n: int, hash_: str, at: str) -> bytes:
    return f"prefs checkpoint 1 {n} {hash_} {at}".encode()


def is_signed(keys: Keyring, one: Seal) -> bool:
    """Raises UnknownKey."""
    text = signed_text(one.n, one.hash, one.at)
    try:
        signature, key = bytes.fromhex(one.signature), bytes.fromhex(one.key)
    except ValueError:
        return False
    return keys.signed(text, signature, key)


def read_seal(raw: bytes) -> Seal:
    """A line of the short file of checkpoints. Raises Damaged."""
    try:
        return msgspec.json.decode(raw, type=Seal)
    except (msgspec.MsgspecError, UnicodeDecodeError) as fault:
        raise Damaged("the line cannot be read") from fault


def write_seal(one: Seal) -> bytes:
    return _encode(one) + b"\n"
