"""Messenger's webhooks: the handshake, the signature over raw bytes, and what each event says."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefs.core.errors import Unverified
from prefs.core.propagation import Target
from prefs.core.signals import Delivery, Found, Recheck, Signal, Unknown
from prefs.core.words import Basis, Channel, Choice, Purpose, Source
from webhooks import messenger

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
AT = 1_764_000_000_000
SECRET = "an app secret"
OPTIONS = {"page": "9", "app_secret": SECRET, "verify_token": "hello"}
TARGET = Target("messenger", "rt", "messenger", True, None, OPTIONS, ("news",))


def delivery(body: bytes, headers: dict[str, str] | None = None) -> Delivery:
    return Delivery("POST", "https://prefs.example/x", (), headers or {}, body, NOW)


def handshake(**asked: str) -> Delivery:
    query = tuple((f"hub.{name}", value) for name, value in asked.items())
    return Delivery("GET", "https://prefs.example/x", query, {}, b"", NOW)


def signed(body: bytes, secret: str = SECRET) -> dict[str, str]:
    return {
        "x-hub-signature-256": "sha256="
        + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    }


def said(what: dict[str, Any], *, where: str = "messaging", page: str = "9") -> list[Found]:
    event = {"sender": {"id": "1001"}, "recipient": {"id": page}, "timestamp": AT, **what}
    body = {"object": "page", "entry": [{"id": page, "time": AT, where: [event]}]}
    return messenger.normalise(delivery(json.dumps(body).encode()), TARGET, signed=True)


def typed(text: str, **more: Any) -> list[Found]:
    return said({"message": {"mid": "m1", "text": text, **more}})


# --- verify ---------------------------------------------------------------------------------------


def test_a_signature_over_the_raw_bytes() -> None:
    body = b'{"object":"page","entry":[],"x":"caf\\u00e9"}'
    assert messenger.verify(delivery(body, signed(body)), TARGET) is True


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-hub-signature-256": "sha256="},
        {"x-hub-signature": "sha1=00"},
        signed(b"{}", "other"),
    ],
)
def test_anything_else_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Unverified):
        messenger.verify(delivery(b"{}", headers), TARGET)


def test_a_body_changed_by_one_byte_is_refused() -> None:
    with pytest.raises(Unverified):
        messenger.verify(delivery(b'{"a":2}', signed(b'{"a":1}')), TARGET)


def test_without_a_secret_nothing_is_taken() -> None:
    target = Target("messenger", "rt", "messenger", True, None, {"page": "9"}, ())
    with pytest.raises(Unverified):
        messenger.verify(delivery(b"{}", signed(b"{}", "")), target)


def test_the_handshake_is_answered_with_its_challenge_alone() -> None:
    request = handshake(mode="subscribe", verify_token="hello", challenge="12345")
    assert messenger.verify(request, TARGET) is False
    assert messenger.reply(request, TARGET).body == b"12345"
    assert messenger.normalise(request, TARGET, signed=False) == []


@pytest.mark.parametrize(
    "asked", [{}, {"mode": "subscribe"}, {"mode": "subscribe", "verify_token": "other"}]
)
def test_a_handshake_without_our_token_is_refused(asked: dict[str, str]) -> None:
    with pytest.raises(Unverified):
        messenger.verify(handshake(**asked), TARGET)


# --- outs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what",
    [
        {"message": {"mid": "m1", "text": "STOP"}},
        {"message": {"mid": "m1", "text": "please take me off your list"}},
        {"message": {"mid": "m1", "text": "Stop marketing", "quick_reply": {"payload": "STOP"}}},
        {"postback": {"mid": "m1", "title": "No more news", "payload": "OPT_OUT"}},
        {"optin": {"type": "notification_messages", "notification_messages_token": "t",
                   "notification_messages_status": "STOP NOTIFICATIONS"}},
        {"optin": {"type": "notification_messages", "notification_messages_token": "t",
                   "notification_messages_status": "STOP_NOTIFICATIONS"}},
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["messaging", "standby"])
def test_an_out(what: dict[str, Any], where: str) -> None:
    (signal,) = said(what, where=where)
    assert isinstance(signal, Signal)
    (statement,) = signal.statements
    assert statement.choice is Choice.OUT
    assert statement.scope == (Channel.MESSENGER, Purpose.MARKETING, None)
    assert signal.source in (Source.MESSENGER, Source.VENDOR_PERSON)
    assert signal.identifiers[0].key == "9:1001"
    assert signal.occurred_at == datetime.fromtimestamp(AT / 1000, UTC)
    assert not signal.hold


def test_words_that_are_not_plain_are_held() -> None:
    (signal,) = typed("can you stop sending so many")
    assert isinstance(signal, Signal)
    assert signal.hold


@pytest.mark.parametrize("text", ["Thanks!", "When do you stop work today?", "START", ""])
def test_words_that_say_nothing_change_nothing(text: str) -> None:
    assert typed(text) == []


def test_our_own_words_are_no_wish() -> None:
    assert typed("STOP", is_echo=True) == []


def test_a_button_of_something_else() -> None:
    assert said({"postback": {"mid": "m1", "title": "Book", "payload": "BOOK"}}) == []


# --- the rest -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [{}, {"notification_messages_status": "RESUME NOTIFICATIONS"}])
def test_an_opt_in_is_consent_with_metas_record(status: dict[str, str]) -> None:
    optin = {
        "type": "notification_messages",
        "notification_messages_token": "t",
        "title": "News and offers",
    }
    (signal,) = said({"optin": optin | status})
    assert isinstance(signal, Signal)
    assert signal.statements[0].choice is Choice.IN
    assert (signal.source, signal.basis) == (Source.VENDOR_PERSON, Basis.CONSENT)
    assert signal.evidence.proof == {
        "at": datetime.fromtimestamp(AT / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "how": "opt-in to marketing messages",
        "form": "News and offers",
    }


def test_an_optin_of_another_kind_is_no_consent() -> None:
    (found,) = said({"optin": {"type": "one_time_notif_req", "payload": "x"}})
    assert isinstance(found, Unknown)


def test_a_label_asks_for_a_look() -> None:
    (found,) = said({"inbox_labels": {"action": "remove"}})
    assert isinstance(found, Recheck)


@pytest.mark.parametrize("what", [{"policy_enforcement": {"action": "block"}}, {"read": {}}])
def test_what_nobody_knows_is_counted(what: dict[str, Any]) -> None:
    (found,) = said(what)
    assert isinstance(found, Unknown)


def test_another_page_is_not_ours() -> None:
    (found,) = said({"message": {"mid": "m1", "text": "STOP"}}, page="8")
    assert isinstance(found, Unknown)


def test_one_event_has_one_key() -> None:
    def key(found: list[Found]) -> Any:
        (one,) = found
        assert isinstance(one, Signal)
        return one.event_key

    assert key(typed("STOP")) == key(typed("STOP"))
    assert key(typed("STOP")) != key(said({"message": {"mid": "m2", "text": "STOP"}}))


@given(st.binary() | st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["object", "entry", "messaging", "sender", "id", "message", "text"]), inner
    ),
).map(lambda body: json.dumps(body).encode()))  # fmt: skip
def test_no_body_breaks_it_or_opts_anybody_in(body: bytes) -> None:
    for found in messenger.normalise(delivery(body), TARGET, signed=True):
        if isinstance(found, Signal):
            assert all(one.choice is Choice.OUT for one in found.statements)
