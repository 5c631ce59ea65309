"""Messenger's webhooks: the handshake, the signature over raw bytes, and what each event says."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefs.core import identity
from prefs.core.errors import Forbidden, Unverified
from prefs.core.propagation import Target
from prefs.core.signals import Delivery, Evidence, Found, Recheck, Signal, Statement, Unknown, Work
from prefs.core.words import Basis, Channel, Choice, Purpose, Source
from tests.served import Served, eventually, listening, poll, served
from tests.twins.kit import Travel, running
from tests.twins.messenger import MessengerTwin
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
    with pytest.raises(Forbidden):
        messenger.verify(handshake(**asked), TARGET)


# --- outs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what",
    [
        {"message": {"mid": "m1", "text": "STOP"}},
        {"message": {"mid": "m1", "text": "please take me off your list"}},
        {"message": {"mid": "m1", "text": "Stop marketing", "quick_reply": {"payload": "STOP"}}},
        {"postback": {"mid": "m1", "title": "No more news", "payload": "OPT_OUT"}},
        {"postback": {"mid": "m1", "title": "Unsubscribe", "payload": "MENU_3"}},
        {"postback": {"mid": "m1", "title": "Stop marketing messages"}},
        {"message": {"mid": "m1", "text": "Unsubscribe", "quick_reply": {"payload": "MENU_3"}}},
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


@pytest.mark.parametrize(
    "what",
    [
        {"message": {"mid": "m1", "text": "can you stop sending so many"}},
        {"postback": {"mid": "m1", "title": "Stop reminders", "payload": "MENU_4"}},
    ],
)
def test_words_that_are_not_plain_are_held(what: dict[str, Any]) -> None:
    (signal,) = said(what)
    assert isinstance(signal, Signal)
    assert signal.hold


@pytest.mark.parametrize("text", ["Thanks!", "When do you stop work today?", "START", ""])
def test_words_that_say_nothing_change_nothing(text: str) -> None:
    assert typed(text) == []


def test_our_own_words_are_no_wish() -> None:
    assert typed("STOP", is_echo=True) == []


@pytest.mark.parametrize(
    ("title", "payload"),
    [("Book", "BOOK"), ("Cancel", "CANCEL_BOOKING"), ("Start", "GET_STARTED"), (None, None)],
)
def test_a_button_of_something_else(title: object, payload: object) -> None:
    assert said({"postback": {"mid": "m1", "title": title, "payload": payload}}) == []


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


@pytest.mark.parametrize("sender", [{}, {"sender": {"id": "1001"}}])
def test_a_policys_enforcement_is_for_a_person(sender: dict[str, Any]) -> None:
    """Meta names nobody as its sender."""
    told = {"timestamp": AT, "policy_enforcement": {"action": "block", "reason": "spam"}, **sender}
    body = {"object": "page", "entry": [{"id": "9", "messaging": [told]}]}
    (found,) = messenger.normalise(delivery(json.dumps(body).encode()), TARGET, signed=True)
    assert isinstance(found, Work)
    assert (found.kind, found.about) == ("vendor_warning", None)
    assert "block" in found.text
    assert "spam" in found.text


@pytest.mark.parametrize("what", [{"read": {}}, {"optout": {"type": "news"}}])
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


# --- in the service -------------------------------------------------------------------------------

TARGETS = """
[brands.rt.targets.messenger]
system = "messenger"
mode = "live"
base_url = "{url}"
page = "900100"
token = "env:TOKEN"
app_secret = "env:SECRET"
verify_token = "env:VERIFY"
label = "No marketing"
limit = "1000/1s"
"""
PATH = "/webhooks/messenger/rt/messenger"


@contextmanager
def clinic(folder: Path) -> Iterator[tuple[Served, MessengerTwin]]:
    """The service with its worker, on a port that the twin's webhooks reach."""
    with running(MessengerTwin()) as (twin, url):
        environ = {"TOKEN": twin.token, "SECRET": twin.app_secret, "VERIFY": twin.verify_token}
        with listening(folder, TARGETS.format(url=url), environ=environ) as service:
            twin.configure(webhook_url=f"{service.runtime.settings.public_url}{PATH}")
            yield service, twin


def reason(service: Served, psid: str) -> str:
    return service.reason(f"900100:{psid}", channel="messenger")


def confirm(service: Served, psid: str) -> None:
    """The person consents on a page of ours."""
    signal = Signal(
        brand="rt",
        source=Source.DOUBLE_OPT_IN,
        statements=(Statement(messenger.MARKETING, Choice.IN),),
        identifiers=(identity.messenger(psid, "900100"),),
        basis=Basis.CONSENT,
        evidence=Evidence(wording="Yes please"),
    )
    runtime = service.runtime
    runtime.database.write_now(lambda conn: runtime.intake.record(conn, signal))


def test_a_second_stop_whose_event_was_lost_counts_like_the_first(
    tmp_path: Path, hold_to_specs: object
) -> None:
    lost = Travel(drop=True)
    with clinic(tmp_path) as (service, twin):
        twin.new_person("1001", "Amy", token=True)
        poll(service, "rt/messenger")
        twin.stops("1001", travel=lost)
        poll(service, "rt/messenger", times=2)
        assert reason(service, "1001") == "opted_out"
        confirm(service, "1001")
        twin.opts_in("1001", travel=lost)
        poll(service, "rt/messenger", times=2)
        assert reason(service, "1001") == "consent"
        twin.stops("1001", travel=lost)

        def heard() -> bool:
            poll(service, "rt/messenger")
            return reason(service, "1001") == "opted_out"

        eventually(heard)


def test_what_people_do_in_the_chat_counts_and_reaches_the_inbox(
    tmp_path: Path, hold_to_specs: object
) -> None:
    twice = Travel(duplicate=1)
    with clinic(tmp_path) as (service, twin):
        for psid in ("1001", "1002", "1003", "1004", "1005"):
            twin.new_person(psid, token=True)
        twin.opts_in("1001", travel=twice)
        eventually(lambda: reason(service, "1001") == "consent")
        twin.types("1001", "STOP", travel=twice)
        twin.presses("1002", "UNSUBSCRIBE")
        twin.configure(standby=True)
        twin.types("1003", "please take me off your list \u2013 Zo\u00eb")
        twin.configure(standby=False, underscores=True)
        twin.stops("1004")
        twin.types("1005", "could you stop sending quite so many?")
        outs = ("1001", "1002", "1003", "1004")
        eventually(lambda: {reason(service, psid) for psid in outs} == {"opted_out"})
        eventually(lambda: all(map(twin.has_label, outs)))
        eventually(lambda: reason(service, "1005") == "held")
        for psid in ("1001", "1005"):
            asked = {"channel": "messenger", "purpose": "service"}
            assert service.reason(f"900100:{psid}", **asked) == "service"
        twin.opts_in("1001")
        twin.courier.settle()
        assert reason(service, "1001") == "opted_out"


def test_the_callback_is_verified_by_its_token_alone(tmp_path: Path) -> None:
    with clinic(tmp_path) as (service, twin):
        assert twin.verifies_callback()
        assert not twin.verifies_callback(token="another")
        asked = {"hub.mode": "subscribe", "hub.verify_token": "another", "hub.challenge": "1"}
        assert service.client.get(PATH, params=asked).status_code == 403


def test_a_block_of_the_page_is_told_to_a_person_once(tmp_path: Path) -> None:
    with clinic(tmp_path) as (service, twin):
        twin.enforces_policy("block", travel=Travel(duplicate=1))
        twin.courier.settle()
        (task,) = service.get("/v1/tasks?kind=vendor_warning").json()["items"]
        assert task["body"]["target"] == "rt/messenger"
        assert "block" in task["body"]["text"]


def test_a_thousand_updates_in_one_call_are_taken(tmp_path: Path) -> None:
    """What Meta puts into one call at most; people write at length, in any script."""
    talk = "Wann haben Sie wieder Termine f\u00fcr eine Behandlung? " * 30
    with running(MessengerTwin()) as (twin, url):
        environ = {"TOKEN": twin.token, "SECRET": SECRET, "VERIFY": twin.verify_token}
        with served(tmp_path, TARGETS.format(url=url), environ=environ) as service:
            events = [
                {
                    "sender": {"id": str(number)},
                    "timestamp": AT,
                    "message": {"mid": f"m{number}", "text": "STOP" if number == 999 else talk},
                }
                for number in range(1000)
            ]
            entry = {"id": "900100", "time": AT, "messaging": events}
            body = json.dumps({"object": "page", "entry": [entry]}).encode()
            assert len(body) > 1024 * 1024
            answer = service.client.post(PATH, content=body, headers=signed(body))
            assert answer.status_code == 200
            assert reason(service, "999") == "opted_out"
