"""Keap's hooks: the key, the handshake, and which contacts each event asks us to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefs.core.errors import Unverified
from prefs.core.propagation import Target
from prefs.core.signals import Delivery, Found, Recheck, Unknown
from tests.served import Served, eventually, listening, poll, served, walked
from tests.twins.keap import KeapTwin
from tests.twins.kit import running
from webhooks import keap

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
KEY = "hook-key"
TARGET = Target("keap", "rt", "keap", True, None, {"webhook_key": KEY}, ())


def delivery(
    body: object = b"", headers: Mapping[str, str] | None = None, *keys: str, method: str = "POST"
) -> Delivery:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    query = tuple(("key", key) for key in keys)
    url = "https://prefs.example.com/webhooks/keap/rt/keap"
    return Delivery(method, url, query, headers or {}, content, NOW)


def found(body: object, headers: Mapping[str, str] | None = None) -> list[Found]:
    return keap.normalise(delivery(body, headers, KEY), TARGET, signed=False)


def event(kind: str, *objects: object) -> dict[str, Any]:
    name = kind.partition(".")[0]
    return {"event_key": kind, "object_type": name, "object_keys": list(objects)}


def changed(vendor_id: object, stamp: str = "2026-11-24T11:59:00Z") -> dict[str, Any]:
    url = f"https://api.infusionsoft.com/crm/rest/v1/contacts/{vendor_id}"
    return {"id": vendor_id, "apiUrl": url, "timestamp": stamp}


def ids(body: object) -> list[str | None]:
    rechecks = found(body)
    assert all(isinstance(one, Recheck) for one in rechecks)
    return [one.vendor_id for one in rechecks if isinstance(one, Recheck)]


# --- getting in ----------------------------------------------------------------------------------


def test_the_right_key_lets_in_but_signs_nothing() -> None:
    assert keap.verify(delivery(b"{}", None, KEY), TARGET) is False


@pytest.mark.parametrize("keys", [(), ("",), ("wrong",), (KEY, KEY), (KEY, "wrong")])
def test_a_wrong_key_is_refused(keys: tuple[str, ...]) -> None:
    with pytest.raises(Unverified):
        keap.verify(delivery(b"{}", {"x-hook-secret": "s"}, *keys), TARGET)


def test_without_a_key_of_ours_nobody_comes_in() -> None:
    bare = Target("keap", "rt", "keap", True, None, {}, ())
    with pytest.raises(Unverified):
        keap.verify(delivery(b"{}", None, ""), bare)


# --- the handshake -------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b'{"hookUrl":"x"}'])
def test_the_handshake_is_echoed_and_says_nothing(body: bytes) -> None:
    request = delivery(body, {"x-hook-secret": "d2f8-secret"}, KEY)
    assert keap.normalise(request, TARGET, signed=False) == []
    reply = keap.reply(request, TARGET)
    assert (reply.status, reply.headers) == (200, {"X-Hook-Secret": "d2f8-secret"})


@pytest.mark.parametrize("secret", ["", "a b", "a\r\nSet-Cookie: b", "é", "x" * 600])
def test_a_header_that_is_no_secret_is_not_echoed(secret: str) -> None:
    assert keap.reply(delivery(b"", {"x-hook-secret": secret}, KEY), TARGET).headers == {}


def test_an_event_with_a_secret_beside_it_is_still_an_event_and_gets_no_echo() -> None:
    body, headers = event("contact.edit", changed(12)), {"x-hook-secret": "s"}
    (recheck,) = found(body, headers)
    assert isinstance(recheck, Recheck)
    assert keap.reply(delivery(body, headers, KEY), TARGET).headers == {}


def test_a_get_is_no_handshake() -> None:
    request = delivery(b"", {"x-hook-secret": "s"}, KEY, method="GET")
    assert keap.reply(request, TARGET).headers == {}


def test_an_event_is_answered_by_a_plain_ok() -> None:
    reply = keap.reply(delivery(event("contact.edit", changed(12)), None, KEY), TARGET)
    assert (reply.status, reply.headers) == (200, {})


# --- events --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["contact.add", "contact.edit", "contact.delete", "contact.redact"]
)
def test_contacts_are_read_again(kind: str) -> None:
    assert ids(event(kind, changed(12), changed("13"))) == ["12", "13"]


@pytest.mark.parametrize("kind", ["contactGroup.applied", "contactGroup.removed"])
@pytest.mark.parametrize(
    "inner",
    [
        {"id": 91, "contact_details": [{"id": 12, "timestamp": "t"}, {"id": 13}]},
        {"tagId": 91, "applied": [12, 13]},
        {"tagId": 91, "contactIds": ["12", "13"]},
        {"tagId": 91, "contact_id": 12, "others": [{"id": "13"}]},
    ],
)
def test_tag_events_of_any_shape(kind: str, inner: dict[str, Any]) -> None:
    assert ids(event(kind, inner)) == ["12", "13"]


def test_a_tag_event_without_a_list_names_the_contact() -> None:
    assert ids(event("contactGroup.applied", changed(12))) == ["12"]
    assert ids(event("contactGroup.applied", 12)) == ["12"]


@pytest.mark.parametrize("kind", ["order.add", "contact.merge", "contactGroup.edit", ""])
def test_what_is_not_ours_is_unknown(kind: str) -> None:
    (unknown,) = found(event(kind, changed(12)))
    assert isinstance(unknown, Unknown)
    assert unknown.event == kind


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'"contact.edit"',
        b"\xff",
        b"{}",
        b'{"event_key": 7}',
        b'{"event_key": ["contact.edit"]}',
    ],
)
def test_a_body_that_is_no_event_is_unknown(body: bytes) -> None:
    (unknown,) = found(body)
    assert isinstance(unknown, Unknown)


@pytest.mark.parametrize(
    "objects",
    [None, [], {}, "12a", [None], [{}], [{"id": None}], [{"id": "../1"}], [{"id": True}], [[12]]],
)
def test_an_event_without_an_id_is_unknown(objects: Any) -> None:
    (unknown,) = found({"event_key": "contact.edit", "object_keys": objects})
    assert isinstance(unknown, Unknown)
    assert unknown.event == "contact.edit"


def test_a_thousand_contacts_in_one_delivery() -> None:
    rechecks = found(event("contact.edit", *(changed(number) for number in range(1000))))
    assert len({one.event_key for one in rechecks if isinstance(one, Recheck)}) == 1000


def test_a_repeated_delivery_has_the_same_keys_and_a_later_edit_others() -> None:
    first = found(event("contact.edit", changed(12)))
    assert found(event("contact.edit", changed(12), changed(12))) == first
    assert found(event("contact.edit", changed(12, "2026-11-24T12:30:00Z"))) != first
    bare = event("contactGroup.applied", {"tagId": 91, "applied": [12]})
    assert found(bare) == found(bare)


def test_every_event_of_the_twin_leads_to_its_contact() -> None:
    """Both shapes of its tag events."""
    with running(KeapTwin()) as (twin, url):
        twin.configure(webhook_url=f"{url}/nowhere?key={KEY}", gaps=[], tells_opt_out=True)
        number = twin.new_contact("amy@example.com", status="CONFIRMED")
        twin.person_unsubscribes("amy@example.com")
        twin.admin_tags(number, "No marketing - sms")
        twin.configure(odd_tag_events=True)
        twin.admin_untags(number, "No marketing - sms")
        twin.redact(number)
        twin.courier.settle()
        bodies = [sent.letter.content for sent in twin.courier.sent]
    kinds = ["contact.add", "contact.edit", "contactGroup.applied", "contactGroup.removed"]
    assert [json.loads(body)["event_key"] for body in bodies] == [*kinds, "contact.redact"]
    assert [ids(body) for body in bodies] == [[str(number)]] * 5


# --- in the service ------------------------------------------------------------------------------

TARGETS = """
[brands.rt.targets.keap]
system = "keap"
mode = "live"
base_url = "{url}"
token = "env:KEAP"
webhook_key = "env:KEAP_HOOK"
limit = "1000/1s"
"""
PATH = "/webhooks/keap/rt/keap"
ADA, ADAS_PHONE, BOB = "ada@example.com", "+447700900101", "bob@example.com"


def test_the_services_answer_carries_the_secret(tmp_path: Path) -> None:
    environ = {"KEAP": "token", "KEAP_HOOK": KEY}
    with served(tmp_path, TARGETS.format(url="http://127.0.0.1:9"), environ=environ) as service:
        headers = {"X-Hook-Secret": "d2f8-secret"}
        answer = service.client.post(f"{PATH}?key={KEY}", content=b"{}", headers=headers)
        assert (answer.status_code, answer.headers["x-hook-secret"]) == (200, "d2f8-secret")
        forged = service.client.post(f"{PATH}?key=wrong", content=b"{}", headers=headers)
        assert forged.status_code == 401
        assert "x-hook-secret" not in forged.headers


def test_outs_travel_both_ways_and_reminders_stay(tmp_path: Path, hold_to_specs: object) -> None:
    with running(KeapTwin()) as (twin, url):
        twin.configure(windows=[])
        number = twin.new_contact(ADA, ADAS_PHONE, "CONFIRMED", tags=["Appointments"])
        twin.new_contact(BOB, status="LIST_UNSUBSCRIBE")
        environ = {"KEAP": twin.token, "KEAP_HOOK": KEY}
        with listening(tmp_path, TARGETS.format(url=url), environ=environ) as service:
            twin.configure(webhook_url=f"{service.runtime.settings.public_url}{PATH}?key={KEY}")
            ada = {"email": ADA, "phone": ADAS_PHONE, "name": "Ada"}
            eventually(lambda: service.reason(BOB) == "opted_out")
            service.consent(ADA, subject=ada)
            sms = [{"channel": "sms", "purpose": "marketing", "choice": "out"}]
            service.say(ADA, subject=ada, changes=sms)
            service.say(ADA, subject=ada)
            eventually(lambda: twin.status(ADA) == "MANUAL")
            eventually(lambda: "No marketing - sms" in twin.tags_of(number))
            twin.admin_tags(number, "No marketing - phone")
            eventually(lambda: service.reason(ADAS_PHONE, channel="phone") == "objected")
            page = httpx.get(url).text
    assert ADA in page
    assert "list unsubscribe" in page
    assert twin.changed_by_api() == {"status", "No marketing - sms"}


def test_an_out_meets_a_new_contact_without_any_hook(tmp_path: Path, hold_to_specs: object) -> None:
    """Staff add somebody whom Keap takes for opted in: the next poll sees it, not the next day."""
    with running(KeapTwin()) as (twin, url):
        twin.configure(windows=[])
        environ = {"KEAP": twin.token, "KEAP_HOOK": KEY}
        with listening(tmp_path, TARGETS.format(url=url), environ=environ) as service:
            cursor = walked(service, "rt/keap").cursor
            ada = service.say(ADA)["subject_id"]
            eventually(lambda: outcome(service, ada) == "absent")
            twin.new_contact(ADA, status="SINGLE_OPT_IN")
            poll(service, "rt/keap", cursor)
            eventually(lambda: twin.status(ADA) == "MANUAL")
            eventually(lambda: outcome(service, ada) == "confirmed")


def outcome(service: Served, subject: str) -> str | None:
    items = service.get(f"/v1/subjects/{subject}/targets").json()["items"]
    return next((one["outcome"] for one in items if one["channel"] == "email"), None)
