"""Keys: one each for each use, found again after rotation, none of them shown."""

from __future__ import annotations

import hmac
import itertools

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from prefs.core.identity import email, signed_phone
from prefs.core.keys import Keyring, UnknownKey, Unreadable, Use, key_id
from prefs.core.signals import Identifier
from prefs.core.words import Kind

OLD, NEW, OTHER = b"o" * 32, b"n" * 32, b"x" * 40
BEFORE, AFTER = Keyring([OLD]), Keyring([NEW, OLD])
ANNA = email("anna@example.com")


def derived(secret: bytes, label: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=label).derive(secret)


def test_a_hash_is_an_hmac_over_kind_and_key() -> None:
    """Written out once more: a change here loses every stored suppression."""
    key = derived(NEW, b"prefs identifier hash")
    expected = hmac.digest(key, b"email\0anna@example.com", "sha256")[:16]
    assert AFTER.hash(ANNA) == expected


def test_an_id_is_of_the_secret_and_not_of_its_place() -> None:
    assert AFTER.key_ids == (key_id(NEW), key_id(OLD))
    assert Keyring([OLD, NEW]).key_ids == (key_id(OLD), key_id(NEW))
    assert AFTER.newest_id == key_id(NEW) == derived(NEW, b"prefs key id")[:4]


def test_uses_and_secrets_share_no_key() -> None:
    macs = [
        ring.mac(use, b"text") for ring in (BEFORE, AFTER) for use in (Use.TOKEN, Use.CHECKPOINT)
    ]
    assert len(set(macs)) == 4
    assert len({derived(NEW, use.encode()) for use in Use}) == len(Use)


def test_one_hash_a_secret_newest_first() -> None:
    assert AFTER.hashes(ANNA) == (AFTER.hash(ANNA), BEFORE.hash(ANNA))
    assert BEFORE.hash(ANNA) != AFTER.hash(ANNA)


def test_the_spelling_is_not_hashed() -> None:
    assert AFTER.hash(email("Anna@EXAMPLE.com ")) == AFTER.hash(ANNA)


@given(st.lists(st.tuples(st.sampled_from(Kind), st.text(max_size=4)), unique=True, min_size=2))
def test_different_identifiers_differ(pairs: list[tuple[Kind, str]]) -> None:
    hashes = [AFTER.hash(Identifier(kind, key, key)) for kind, key in pairs]
    assert len(set(hashes)) == len(pairs)
    assert {len(hash_) for hash_ in hashes} == {16}


def test_hashing_leaves_no_trace_in_the_prepared_key() -> None:
    first = AFTER.hash(ANNA)
    AFTER.hash(signed_phone("+447911123456"))
    assert AFTER.hash(ANNA) == first


@given(st.binary(max_size=200), st.binary(max_size=20))
def test_what_was_encrypted_is_read_after_rotation(plain: bytes, aad: bytes) -> None:
    blob = BEFORE.encrypt(plain, aad)
    assert AFTER.decrypt(blob, aad) == plain
    assert AFTER.encrypt(plain, aad)[:4] == key_id(NEW)


def test_the_cipher_is_aes_gcm_with_the_derived_key() -> None:
    blob = AFTER.encrypt(b"Anna", b"row 1")
    cipher = AESGCM(derived(NEW, b"prefs encryption"))
    assert cipher.decrypt(blob[4:16], blob[16:], b"row 1") == b"Anna"


def test_equal_texts_are_encrypted_differently() -> None:
    assert AFTER.encrypt(b"Anna", b"") != AFTER.encrypt(b"Anna", b"")


def test_a_text_in_another_place_is_unreadable() -> None:
    with pytest.raises(Unreadable):
        AFTER.decrypt(AFTER.encrypt(b"Anna", b"row 1"), b"row 2")


def test_any_changed_byte_is_unreadable() -> None:
    blob = AFTER.encrypt(b"Anna", b"row 1")
    for place in range(len(blob)):
        changed = blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :]
        with pytest.raises((UnknownKey, Unreadable)):
            AFTER.decrypt(changed, b"row 1")


@pytest.mark.parametrize("length", [0, 3, 4, 15, 16, 31])
def test_a_cut_text_is_unreadable(length: int) -> None:
    with pytest.raises((UnknownKey, Unreadable)):
        AFTER.decrypt(AFTER.encrypt(b"Anna", b"")[:length], b"")


def test_a_lost_secret_is_named_as_such() -> None:
    with pytest.raises(UnknownKey):
        BEFORE.decrypt(AFTER.encrypt(b"Anna", b""), b"")
    with pytest.raises(UnknownKey):
        BEFORE.mac(Use.TOKEN, b"text", key_id(NEW))


def test_a_mac_can_be_asked_of_an_older_secret() -> None:
    assert AFTER.mac(Use.TOKEN, b"text", key_id(OLD)) == BEFORE.mac(Use.TOKEN, b"text")
    expected = hmac.digest(derived(OLD, b"prefs link token"), b"text", "sha256")
    assert BEFORE.mac(Use.TOKEN, b"text") == expected


@pytest.mark.parametrize("secrets", [[], [b"short"], [NEW, b"x" * 31], [NEW, NEW], [NEW, OLD, NEW]])
def test_secrets_that_are_refused(secrets: list[bytes]) -> None:
    with pytest.raises(ValueError, match="secret") as raised:
        Keyring(secrets)
    assert "short" not in str(raised.value)


def test_no_secret_and_no_key_is_shown() -> None:
    ring = Keyring([OTHER])
    keys = [derived(OTHER, use.encode()) for use in Use]
    for shown, secret in itertools.product((repr(ring), str(ring)), (OTHER, *keys)):
        assert secret.hex() not in shown
        assert secret.decode("latin-1") not in shown
    assert key_id(OTHER).hex() in repr(ring)
