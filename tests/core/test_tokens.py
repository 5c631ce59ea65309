"""Link tokens: what goes in comes out, and nothing else is ever believed."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefs.core.errors import NotFound
from prefs.core.identity import email
from prefs.core.keys import Keyring
from prefs.core.tokens import LIFE, Forged, Token, TokenKind, mint, read
from prefs.core.words import Channel, Kind, Purpose

OLD, NEW = Keyring([b"o" * 32]), Keyring([b"n" * 32, b"o" * 32])
NOW = datetime(2026, 11, 24, 15, 30, 12, tzinfo=UTC)
ANNA = email("anna@example.com")
FOOTER = Token(
    kind=TokenKind.FOOTER_UNSUBSCRIBE,
    brand="rt",
    identifier_kind=Kind.EMAIL,
    hash=NEW.hash(ANNA),
    channel=Channel.EMAIL,
    purpose=Purpose.MARKETING,
    issued_at=NOW,
)
FRESH = replace(FOOTER, kind=TokenKind.CENTRE_FRESH, subject_id=2**63 - 1)

TOKENS = st.builds(
    Token,
    kind=st.sampled_from(TokenKind),
    brand=st.from_regex(r"\A[a-z0-9_-]{1,32}\Z"),
    identifier_kind=st.sampled_from(Kind),
    hash=st.binary(min_size=16, max_size=16),
    channel=st.sampled_from(Channel),
    purpose=st.sampled_from(Purpose),
    issued_at=st.integers(1_577_836_800, 4_102_444_800).map(
        lambda at: datetime.fromtimestamp(at, UTC)
    ),
    topic=st.integers(0, 65535),
    subject_id=st.none() | st.integers(1, 2**64 - 1),
)


def kept(token: Token) -> Token:
    """What a token that never expires keeps of its time."""
    if token.kind in LIFE:
        return token
    return replace(token, issued_at=token.issued_at.replace(hour=0, minute=0, second=0))


@given(TOKENS)
def test_what_goes_in_comes_out(token: Token) -> None:
    text = mint(NEW, token)
    found = read(NEW, text)
    assert found == kept(token)
    assert found.fingerprint == token.fingerprint
    assert mint(NEW, found) == text


@given(TOKENS)
def test_a_token_outlives_the_rotation_of_its_secret(token: Token) -> None:
    assert read(NEW, mint(OLD, token)) == kept(token)


@given(TOKENS)
def test_another_secret_s_token_is_forged(token: Token) -> None:
    with pytest.raises(Forged):
        read(OLD, mint(NEW, token))


@given(TOKENS)
def test_any_changed_byte_is_forged(token: Token) -> None:
    raw = _raw(mint(NEW, token))
    for place in range(len(raw)):
        changed = raw[:place] + bytes([raw[place] ^ 0x01]) + raw[place + 1 :]
        _forged(_text(changed))


def _raw(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _forged(text: str) -> None:
    with pytest.raises(Forged):
        read(NEW, text)


@given(TOKENS, st.integers(0, 200), st.characters())
def test_any_changed_character_is_forged(token: Token, place: int, other: str) -> None:
    text = mint(NEW, token)
    place %= len(text)
    changed = text[:place] + other + text[place + 1 :]
    if changed != text:
        _forged(changed)


@pytest.mark.parametrize("brand", ["r", "rt", "rta"])
def test_one_spelling_a_token(brand: str) -> None:
    """Base64 spells the same bytes in several ways: the last digit's idle bits, padding, what a
    lenient decoder drops."""
    text = mint(NEW, replace(FOOTER, brand=brand))
    for other in [
        *(text[:-1] + last for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghij"),
        text + "=",
    ]:
        if other != text:
            _forged(other)
    for added in ("!", "\n", " ", ".", "é", "="):
        _forged(text[:20] + added + text[20:])
        _forged(text + added)
        _forged(added + text)


@pytest.mark.parametrize(
    "text", ["", "A", "AA", "/u/", "x" * 54, "A" * 100, "A" * 100_000, "é", "\0"]
)
def test_what_is_no_token_at_all(text: str) -> None:
    _forged(text)


@given(st.text() | st.binary(max_size=120).map(_text))
def test_nothing_that_is_made_up_is_read(text: str) -> None:
    _forged(text)


def test_another_version_is_forged_even_under_our_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefs.core.tokens.VERSION", b"\x02")
    later = mint(NEW, FOOTER)
    monkeypatch.undo()
    _forged(later)


def test_a_forged_link_is_not_found() -> None:
    assert issubclass(Forged, NotFound)


@pytest.mark.parametrize("kind", TokenKind)
def test_a_door_opens_to_its_own_kind_only(kind: TokenKind) -> None:
    text = mint(NEW, replace(FOOTER, kind=kind))
    for door in TokenKind:
        if door is kind:
            assert read(NEW, text, {door}).kind is kind
        else:
            with pytest.raises(Forged):
                read(NEW, text, {door})


def test_a_footer_says_the_day_and_not_the_hour() -> None:
    assert read(NEW, mint(NEW, FOOTER)).issued_at == datetime(2026, 11, 24, tzinfo=UTC)
    assert read(NEW, mint(NEW, FRESH)).issued_at == NOW


@pytest.mark.parametrize(
    ("kind", "life"),
    [(TokenKind.CENTRE_FRESH, timedelta(hours=72)), (TokenKind.CONFIRM, timedelta(days=7))],
)
def test_a_token_that_switches_on_ends(kind: TokenKind, life: timedelta) -> None:
    token = replace(FRESH, kind=kind)
    assert not token.expired(NOW + life)
    assert token.expired(NOW + life + timedelta(seconds=1))
    assert read(NEW, mint(NEW, token)).expired(NOW + life + timedelta(seconds=1))


@pytest.mark.parametrize(
    "kind", [TokenKind.FOOTER_UNSUBSCRIBE, TokenKind.CENTRE_FOOTER, TokenKind.COMPLAIN]
)
def test_a_token_that_switches_off_never_ends(kind: TokenKind) -> None:
    assert not replace(FOOTER, kind=kind).expired(NOW + timedelta(days=36500))


def test_a_link_holds_no_address() -> None:
    raw = _raw(mint(NEW, FRESH))
    assert b"anna" not in raw
    assert b"example" not in raw
    assert NEW.hash(ANNA) in raw


def test_fingerprints_tell_tokens_apart() -> None:
    tokens = [
        FOOTER,
        FRESH,
        replace(FRESH, issued_at=NOW + timedelta(seconds=1)),
        replace(FRESH, brand="rta"),
        replace(FRESH, hash=bytes(16)),
        replace(FRESH, topic=3),
        replace(FRESH, subject_id=None),
    ]
    fingerprints = {token.fingerprint for token in tokens}
    assert len(fingerprints) == len(tokens)
    assert {len(fingerprint) for fingerprint in fingerprints} == {8}


def test_the_use_of_a_token_for_the_ledger() -> None:
    use = FRESH.use
    assert (use.fingerprint, use.issued_at) == (FRESH.fingerprint, NOW)
    assert (use.identifier, use.subject_id) == (FRESH.hash, FRESH.subject_id)


def test_a_link_of_last_year_still_reads() -> None:
    """A token as it was mailed, byte for byte: layout and labels may never change."""
    text = "ASWG0JV1AQEAAwFoaGhoaGhoaGhoaGhoaGhoAAAAAAAAAAcAAAGdPApIAHJ0c9gHOlLYBXmTi00fjlQleg"
    issued = datetime(2026, 3, 30, tzinfo=UTC)
    token = replace(FOOTER, hash=b"h" * 16, subject_id=7, topic=3, issued_at=issued)
    assert read(NEW, text) == token


def test_a_hash_of_another_length_is_no_hash() -> None:
    with pytest.raises(ValueError, match="16"):
        replace(FOOTER, hash=b"h" * 15)
