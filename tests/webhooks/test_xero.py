"""Xero's webhooks: signatures over raw bytes, the intent to receive, whom to read again."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from prefs.core.errors import Unverified
from prefs.core.propagation import Target
from prefs.core.signals import Delivery, Found, Recheck, Unknown
from tests.served import Served, eventually, listening, served
from tests.twins.kit import running
from tests.twins.xero import XeroTwin
from webhooks import xero

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
SECRET = "signing-key"
TENANT = "c2cc9b6e-9458-4c7d-93cc-f02b81b0594f"
CONTACT = "717f2bfc-c6d4-41fd-b238-3f2f0c0cf777"
URL = "https://prefs.example.co.uk/webhooks/xero/rt/xero"
AMY, GROUP = "amy@example.com", "No marketing - email"


def target(**options: Any) -> Target:
    options = {"tenant": TENANT, "webhook_secret": SECRET, **options}
    return Target("xero", "rt", "xero", True, None, options, ("news",))


def signature(body: bytes, secret: str = SECRET) -> str:
    return base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()


def delivery(body: bytes = b"{}", signed: str | None = None) -> Delivery:
    headers = {"x-xero-signature": signature(body) if signed is None else signed}
    return Delivery("POST", URL, (), headers, body, NOW)


def event(**more: Any) -> dict[str, Any]:
    """The vendor's own example."""
    return {
        "resourceUrl": f"https://api.xero.com/api.xro/2.0/Contacts/{CONTACT}",
        "resourceId": CONTACT,
        "eventDateUtc": "2024-06-21T01:15:39.902",
        "eventType": "UPDATE",
        "eventCategory": "CONTACT",
        "tenantId": TENANT,
        "tenantType": "ORGANISATION",
        **more,
    }


def payload(*events: Any) -> bytes:
    sequence = {"firstEventSequence": 1, "lastEventSequence": max(1, len(events))}
    return json.dumps({"events": events, **sequence, "entropy": "S0m3r4Nd0mt3xt"}).encode()


def heard(body: bytes) -> list[Found]:
    return xero.normalise(delivery(body), target(), signed=True)


# --- who may come in ------------------------------------------------------------------------------


def test_a_signature_verifies() -> None:
    assert xero.verify(delivery(payload(event())), target()) is True


def test_a_signature_reckoned_by_another_program_verifies() -> None:
    """`printf '{"events":[]}' | openssl dgst -sha256 -hmac signing-key -binary | base64`"""
    known = "GAFyr0t+019unSMkI6FVomm3ZONqeGR1Hx9r4j6qp48="
    assert xero.verify(delivery(b'{"events":[]}', known), target()) is True


@pytest.mark.parametrize(
    "signed",
    [
        "",
        "é",
        "AAAA",
        signature(payload(), "another"),
        signature(payload() + b" "),
        signature(payload()).rstrip("="),
        signature(payload()).swapcase(),
        hmac.new(SECRET.encode(), payload(), hashlib.sha256).hexdigest(),
        base64.b64encode(hmac.new(SECRET.encode(), payload(), "sha1").digest()).decode(),
        SECRET,
    ],
)
def test_any_other_signature_does_not(signed: str) -> None:
    with pytest.raises(Unverified):
        xero.verify(delivery(payload(), signed), target())


def test_without_a_signature_nothing_is_taken() -> None:
    with pytest.raises(Unverified):
        xero.verify(Delivery("POST", URL, (("key", SECRET),), {}, payload(), NOW), target())


@pytest.mark.parametrize("secret", [None, "", {}, []])
def test_a_target_without_a_signing_key_takes_nothing(secret: Any) -> None:
    for signed in ("", signature(payload(), ""), signature(payload(), "None")):
        with pytest.raises(Unverified):
            xero.verify(delivery(payload(), signed), target(webhook_secret=secret))


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe\x00", b'{"events" :\r\n [ ]}', '{"events":[],"é":"✓"}'.encode(), b"["]
)
def test_the_bytes_are_verified_as_they_came(body: bytes) -> None:
    """Whatever they are: nothing is parsed before."""
    assert xero.verify(delivery(body), target()) is True
    with pytest.raises(Unverified):
        xero.verify(delivery(body, signature(body + b"\n")), target())


# --- what an event says ---------------------------------------------------------------------------


def test_the_intent_to_receive_says_nothing() -> None:
    assert heard(payload()) == []


@pytest.mark.parametrize("kind", ["CREATE", "UPDATE"])
def test_which_contact_to_read_again(kind: str) -> None:
    (one,) = heard(payload(event(eventType=kind)))
    assert isinstance(one, Recheck)
    assert (one.vendor_id, one.identifier) == (CONTACT, None)


def test_several_events_of_one_delivery() -> None:
    ids = [f"{number:08d}-c6d4-41fd-b238-3f2f0c0cf777" for number in range(50)]
    found = heard(payload(*(event(resourceId=id_) for id_ in ids)))
    assert [one.vendor_id for one in found if isinstance(one, Recheck)] == ids
    assert len({one.event_key for one in found if isinstance(one, Recheck)}) == 50


@pytest.mark.parametrize("tenant", ["aef86862-2015-4b6b-88bc-d89032cecc50", None, ""])
def test_an_event_of_another_organisation_is_not_ours(tenant: str | None) -> None:
    """One app has one signing key for all the organisations that it is connected to."""
    other, ours = heard(payload(event(tenantId=tenant), event()))
    assert isinstance(other, Unknown)
    assert "another organisation" in other.event
    assert isinstance(ours, Recheck)


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"eventCategory": "INVOICE"}, "INVOICE.UPDATE"),
        ({"eventCategory": "CREDITNOTE", "eventType": "CREATE"}, "CREDITNOTE.CREATE"),
        ({"eventType": "DELETE"}, "CONTACT.DELETE"),
        ({"resourceId": None}, "CONTACT.UPDATE"),
        ({"resourceId": 7}, "CONTACT.UPDATE"),
    ],
)
def test_what_is_not_ours_is_unknown(more: dict[str, Any], name: str) -> None:
    (one,) = heard(payload(event(**more)))
    assert isinstance(one, Unknown)
    assert one.event == name


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'"text"',
        b"[]",
        b"null",
        b"{}",
        b"\xff",
        b'{"events":{}}',
        b'{"events":null}',
        b'{"events":[7]}',
        b'{"events":[null]}',
        b"[" * 200_000,
    ],
)
def test_a_signed_body_that_is_no_event_is_unknown(body: bytes) -> None:
    (one,) = heard(body)
    assert isinstance(one, Unknown)


def test_a_retried_delivery_has_the_same_key_and_another_event_has_another() -> None:
    assert heard(payload(event())) == heard(payload(event()))
    (first,) = heard(payload(event()))
    (later,) = heard(payload(event(eventDateUtc="2024-06-21T01:15:39.903")))
    assert isinstance(first, Recheck)
    assert isinstance(later, Recheck)
    assert first.event_key
    assert first.event_key != later.event_key


def test_the_reply_is_an_empty_ok() -> None:
    reply = xero.reply(delivery(), target())
    assert (reply.status, reply.body, dict(reply.headers)) == (200, b"", {})


# --- through the whole service --------------------------------------------------------------------

TARGETS = """
[brands.rt.targets.xero]
system = "xero"
mode = "live"
base_url = "{url}"
client_id = "twin-client"
client_secret = "env:XERO"
tenant = "{tenant}"
webhook_secret = "env:HOOK"
"""
PATH = "/webhooks/xero/rt/xero"


@pytest.mark.parametrize("right", [True, False])
def test_every_answer_is_empty_and_without_a_cookie(tmp_path: Path, right: bool) -> None:
    extra = TARGETS.format(url="http://127.0.0.1:9", tenant=TENANT)
    with served(tmp_path, extra, environ={"XERO": "x", "HOOK": SECRET}) as service:
        for body in (payload(), payload(event()), b"", b"no JSON"):
            signed = signature(body, SECRET if right else "another")
            headers = {"x-xero-signature": signed}
            answer = service.client.post(PATH, content=body, headers=headers)
            assert (answer.status_code, answer.content) == (200 if right else 401, b"")
            assert "set-cookie" not in answer.headers


@pytest.fixture
def twin(hold_to_specs: object) -> Iterator[XeroTwin]:
    with running(XeroTwin()) as (made, _):
        made.configure(groups_move=True)
        yield made
        assert made.dangers == []
        assert made.touched() <= {GROUP}


@pytest.fixture
def clinic(twin: XeroTwin, tmp_path: Path) -> Iterator[Served]:
    """A service whose webhook passed the intent to receive, after its first walk."""
    twin.new_contact(AMY)
    environ = {"XERO": twin.client_secret, "HOOK": SECRET}
    extra = TARGETS.format(url=twin.url, tenant=twin.tenant)
    with listening(tmp_path, extra, environ=environ) as made:
        eventually(lambda: any(call.path.endswith("/Contacts") for call in twin.calls))
        twin.configure(webhook_url=f"{made.client.base_url}{PATH}", webhook_secret=SECRET)
        twin.intent_to_receive()
        twin.courier.settle()
        assert twin.state.hook.status == "OK", twin.state.hook
        yield made
        assert twin.state.hook.faults == []


def outcome(clinic: Served, address: str) -> tuple[str, str]:
    """What is told of the target for email, and the source of the newest out."""
    found = clinic.post("/v1/subjects/search", {"brand": "rt", "email": address}).json()
    id_ = found["items"][0]["subject_id"]
    targets = clinic.get(f"/v1/subjects/{id_}/targets").json()["items"]
    outs = [
        one
        for one in clinic.get(f"/v1/subjects/{id_}/history").json()["items"]
        if one["choice"] == "out"
    ]
    (told,) = (one["outcome"] for one in targets if one["channel"] == "email")
    return told, " ".join(one["source"] for one in outs)


def settle(clinic: Served, twin: XeroTwin) -> None:
    """Every event was delivered, and whatever it asked to be read was read."""
    twin.courier.settle()
    eventually(lambda: not clinic.get("/v1/targets").json()["items"][0]["backlog"])


def test_an_out_is_recorded_there_and_its_echo_is_no_signal(clinic: Served, twin: XeroTwin) -> None:
    clinic.say(AMY, source="staff", evidence={"actor": "reception", "note": "asked by phone"})
    eventually(lambda: twin.groups_of(AMY) == {GROUP})
    sent = len(twin.courier.sent)
    settle(clinic, twin)
    assert outcome(clinic, AMY) == ("recorded", "staff")
    twin.edit(AMY)
    settle(clinic, twin)
    assert len(twin.courier.sent) > sent
    assert outcome(clinic, AMY) == ("recorded", "staff")


def test_who_is_put_into_the_group_is_out_here(clinic: Served, twin: XeroTwin) -> None:
    clinic.consent(AMY)
    eventually(lambda: clinic.reason(AMY) == "consent")
    twin.staff_adds(AMY, GROUP)
    eventually(lambda: clinic.reason(AMY) == "opted_out")
    assert clinic.reason(AMY, purpose="reminders") == "service"


def test_who_is_taken_out_of_the_group_is_put_back(clinic: Served, twin: XeroTwin) -> None:
    clinic.say(AMY)
    eventually(lambda: twin.groups_of(AMY) == {GROUP})
    settle(clinic, twin)
    twin.staff_removes(AMY, GROUP)
    eventually(lambda: twin.groups_of(AMY) == {GROUP})
    assert clinic.reason(AMY) == "opted_out"


def test_a_contact_that_gets_an_opted_out_address_is_marked(clinic: Served, twin: XeroTwin) -> None:
    clinic.say("new@example.com")
    twin.new_address(AMY, "new@example.com")
    eventually(lambda: twin.groups_of("new@example.com") == {GROUP})


def test_a_forged_or_foreign_event_reads_nothing(clinic: Served, twin: XeroTwin) -> None:
    settle(clinic, twin)
    ours = payload(event(tenantId=twin.tenant, resourceId=twin.id_of(AMY)))
    foreign = payload(event(tenantId=TENANT, resourceId=twin.id_of(AMY)))
    reads = len(twin.calls)
    answers = [
        clinic.client.post(PATH, content=body, headers={"x-xero-signature": signed}).status_code
        for body, signed in ((ours, signature(ours, "another")), (foreign, signature(foreign)))
    ]
    settle(clinic, twin)
    assert answers == [401, 200]
    assert len(twin.calls) == reads
    clinic.client.post(PATH, content=ours, headers={"x-xero-signature": signature(ours)})
    eventually(lambda: len(twin.calls) > reads)
