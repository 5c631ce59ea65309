"""Secrets become keys: one each for hashes, tokens, encryption and checkpoints.

New work is done under the newest secret; what older ones made can still be found and read.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from prefs.core.errors import PrefsError
from prefs.core.signals import Identifier
from prefs.core.words import Kind

LEAST_SECRET = 32
"""Bytes of a secret."""
ID_SIZE = 4
HASH_SIZE = 16
"""Bytes; among 14 million identifiers two collide with odds of 3e-25."""
NONCE_SIZE = 12
"""Bytes, random: safe for 2**32 texts under one key (NIST SP 800-38D section 8.3)."""


class Use(StrEnum):
    """What a key may be used for. The values are HKDF labels: changing one loses all it made."""

    ID = "prefs key id"
    HASH = "prefs identifier hash"
    TOKEN = "prefs link token"  # noqa: S105  # a label, no secret
    ENCRYPTION = "prefs encryption"
    CHECKPOINT = "prefs ledger checkpoint"
    SIGNATURE = "prefs checkpoint signature"


class UnknownKey(PrefsError):
    """Made under a secret that is not in `secret_keys`, or not by us at all."""


class Unreadable(PrefsError):
    """The encrypted text was changed, or belongs elsewhere."""


class _Keys(NamedTuple):
    """All keys of one secret. The HMACs are prepared once and copied: half the time of new ones."""

    id: bytes
    hashing: dict[Kind, hmac.HMAC]
    macs: dict[Use, hmac.HMAC]
    cipher: AESGCM
    signing: Ed25519PrivateKey


def _derive(secret: bytes, use: Use) -> bytes:
    """HKDF-SHA256 (RFC 5869) without salt, the label as info."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=use.encode()).derive(secret)


def key_id(secret: bytes) -> bytes:
    """4 bytes that name a secret wherever it stands in the list."""
    return _derive(secret, Use.ID)[:ID_SIZE]


def _keys(secret: bytes) -> _Keys:
    hashing = hmac.new(_derive(secret, Use.HASH), digestmod="sha256")
    return _Keys(
        id=key_id(secret),
        hashing={kind: _after(hashing, kind.encode() + b"\0") for kind in Kind},
        macs={
            use: hmac.new(_derive(secret, use), digestmod="sha256")
            for use in (Use.TOKEN, Use.CHECKPOINT)
        },
        cipher=AESGCM(_derive(secret, Use.ENCRYPTION)),
        signing=Ed25519PrivateKey.from_private_bytes(_derive(secret, Use.SIGNATURE)),
    )


def _after(prepared: hmac.HMAC, data: bytes) -> hmac.HMAC:
    copy = prepared.copy()
    copy.update(data)
    return copy


class Keyring:
    """Every secret in use, newest first, each at least 32 bytes and none twice (ValueError)."""

    __slots__ = ("_all", "_by_id", "_newest", "key_ids", "newest_id")

    def __init__(self, secrets: Sequence[bytes]) -> None:
        if not secrets or any(len(secret) < LEAST_SECRET for secret in secrets):
            raise ValueError(f"at least one secret, each of at least {LEAST_SECRET} bytes")
        self._all = tuple(_keys(secret) for secret in secrets)
        self._by_id = {keys.id: keys for keys in self._all}
        if len(self._by_id) < len(self._all):
            raise ValueError("the same secret stands twice")
        self._newest = self._all[0]
        self.key_ids = tuple(keys.id for keys in self._all)
        self.newest_id = self._newest.id

    def __repr__(self) -> str:
        return f"Keyring({', '.join(id_.hex() for id_ in self.key_ids)})"

    def hash(self, identifier: Identifier) -> bytes:
        """16 bytes of HMAC-SHA256 over kind and key, under the newest secret."""
        return _hash(self._newest, identifier)

    def hashes(self, identifier: Identifier) -> tuple[bytes, ...]:
        """One hash a secret, in the order of `key_ids`: whatever it was stored under is among
        them."""
        if len(self._all) == 1:
            return (_hash(self._newest, identifier),)
        return tuple(_hash(keys, identifier) for keys in self._all)

    def mac(self, use: Use, data: bytes, id_: bytes | None = None) -> bytes:
        """32 bytes under the newest secret, or under the one of that id.

        Raises UnknownKey. Compare with `hmac.compare_digest` only.
        """
        return _after(self._find(id_ or self.newest_id).macs[use], data).digest()

    def sign(self, text: bytes) -> bytes:
        """64 bytes of Ed25519 (RFC 8032) under the newest secret. Whoever checks it needs the
        public key alone: with an HMAC an auditor could forge what they are to check."""
        return self._newest.signing.sign(text)

    def signed(self, text: bytes, signature: bytes, id_: bytes) -> bool:
        """Whether the key of this id signed it. Raises UnknownKey."""
        try:
            self.public_key(id_).verify(signature, text)
        except InvalidSignature:
            return False
        return True

    def public_key(self, id_: bytes) -> Ed25519PublicKey:
        """Raises UnknownKey."""
        return self._find(id_).signing.public_key()

    def public_pem(self, id_: bytes) -> str:
        """Raises UnknownKey."""
        pem = self.public_key(id_).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem.decode()

    def encrypt(self, plain: bytes, aad: bytes) -> bytes:
        """key id | nonce | AES-256-GCM text and tag. `aad` ties it to its place."""
        return self.encrypt_all([(plain, aad)])[0]

    def encrypt_all(self, texts: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """The same of many texts, each with its `aad`. Every call for random bytes gives the
        interpreter to another thread; one is enough for all nonces."""
        nonces, cipher = os.urandom(NONCE_SIZE * len(texts)), self._newest.cipher
        made = []
        for at, (plain, aad) in enumerate(texts):
            nonce = nonces[at * NONCE_SIZE : (at + 1) * NONCE_SIZE]
            made.append(self.newest_id + nonce + cipher.encrypt(nonce, plain, aad))
        return made

    def decrypt(self, blob: bytes, aad: bytes) -> bytes:
        """Raises UnknownKey or Unreadable."""
        id_, nonce, text = blob[:ID_SIZE], blob[ID_SIZE:_TEXT_AT], blob[_TEXT_AT:]
        try:
            return self._find(id_).cipher.decrypt(nonce, text, aad)
        except (InvalidTag, ValueError) as error:
            raise Unreadable("the encrypted text does not match its key and place") from error

    def _find(self, id_: bytes) -> _Keys:
        keys = self._by_id.get(id_)
        if keys is None:
            raise UnknownKey("the secret with this key id is not among secret_keys")
        return keys


_TEXT_AT = ID_SIZE + NONCE_SIZE


def _hash(keys: _Keys, identifier: Identifier) -> bytes:
    mac = keys.hashing[identifier.kind].copy()
    mac.update(identifier.key.encode())
    return mac.digest()[:HASH_SIZE]
