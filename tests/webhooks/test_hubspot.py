"""HubSpot's webhooks: the vendor's own signature vectors, and what each event asks us to read."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prefs.core.errors import Unverified
from prefs.core.propagation import Target
from prefs.core.signals import Delivery, Found, Recheck, Unknown
from webhooks import hubspot

FIXTURES = Path(__file__).parent / "fixtures" / "hubspot"
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
SECRET = "yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy"
URL = "https://www.example.com/webhook_uri"


def target(**options: Any) -> Target:
    options = {"signing_secret": SECRET, "properties": {"sms": "marketing_sms"}, **options}
    return Target("hubspot", "rt", "hubspot", True, None, options, ("news",))


def delivery(
    body: bytes = b"[]",
    headers: dict[str, str] | None = None,
    *,
    method: str = "POST",
    url: str = URL,
    at: datetime = NOW,
) -> Delivery:
    return Delivery(method, url, (), headers or {}, body, at)


def v3(body: bytes, *, at: datetime = NOW, url: str = URL, secret: str = SECRET) -> dict[str, str]:
    """Signs as HubSpot does; `url` is the text that HubSpot put under the signature."""
    stamp = str(int(at.timestamp() * 1000))
    text = b"POST" + url.encode() + body + stamp.encode()
    digest = hmac.new(secret.encode(), text, hashlib.sha256).digest()
    return {
        "x-hubspot-signature-v3": base64.b64encode(digest).decode(),
        "x-hubspot-request-timestamp": stamp,
    }


def plain(version: str, signature: str) -> dict[str, str]:
    return {"x-hubspot-signature": signature, "x-hubspot-signature-version": version}


def found(name: str) -> list[Found]:
    body = (FIXTURES / f"{name}.json").read_bytes()
    return hubspot.normalise(delivery(body), target(), signed=True)


# --- the vendor's examples ------------------------------------------------------------------------

# https://github.com/HubSpot/hubspot-api-python/blob/master/tests/spec/utils/test_signature.py
SDK_BODY = b"{'example_field':'example_value'}"
SDK_STAMP = "15000000"
SDK_V3 = "HPW73RUtKmcYoEDADG0s6MmGFWUzWJKAW07r8RDgcQw="
SDK_AT = datetime.fromtimestamp(15_000, UTC)

# https://developers.hubspot.com/docs/faq/v1-request-validation
V1_BODY = (
    b'[{"eventId":1,"subscriptionId":12345,"portalId":62515,"occurredAt":1564113600000,'
    b'"subscriptionType":"contact.creation","attemptNumber":0,"objectId":123,'
    b'"changeSource":"CRM","changeFlag":"NEW","appId":54321}]'
)
V1 = "232db2615f3d666fe21a8ec971ac7b5402d33b9a925784df3ca654d05f4817de"

# https://developers.hubspot.com/docs/faq/v2-request-validation
V2_BODY = b'{"example_field":"example_value"}'
V2 = "9569219f8ba981ffa6f6f16aa0f48637d35d728c7e4d93d0d52efaa512af7900"
V2_GET = "eee2dddcc73c94d699f5e395f4b9d454a069a6855fbfa152e91e88823087200e"


def sdk_example(body: bytes = SDK_BODY, stamp: str = SDK_STAMP, at: datetime = SDK_AT) -> Delivery:
    headers = {"x-hubspot-signature-v3": SDK_V3, "x-hubspot-request-timestamp": stamp}
    return delivery(body, headers, at=at)


def test_v3_of_the_vendors_sdk() -> None:
    assert hubspot.verify(sdk_example(), target()) is True


@pytest.mark.parametrize(
    "tampered",
    [
        sdk_example(body=SDK_BODY + b" "),
        sdk_example(stamp="15000001"),
        delivery(SDK_BODY, dict(sdk_example().headers), url=URL + "/", at=SDK_AT),
        delivery(SDK_BODY, dict(sdk_example().headers), method="PUT", at=SDK_AT),
    ],
)
def test_v3_tampered(tampered: Delivery) -> None:
    with pytest.raises(Unverified):
        hubspot.verify(tampered, target())


def test_v1_of_the_vendors_page_counts_where_configured() -> None:
    request = delivery(V1_BODY, plain("v1", V1))
    assert hubspot.verify(request, target(signatures=["v1"])) is True
    with pytest.raises(Unverified):
        hubspot.verify(request, target())
    with pytest.raises(Unverified):
        hubspot.verify(delivery(V1_BODY + b" ", plain("v1", V1)), target(signatures=["v1"]))


@pytest.mark.parametrize(
    ("method", "body", "signature"), [("POST", V2_BODY, V2), ("GET", b"", V2_GET)]
)
def test_v2_of_the_vendors_page_counts_where_configured(
    method: str, body: bytes, signature: str
) -> None:
    request = delivery(body, plain("v2", signature), method=method)
    assert hubspot.verify(request, target(signatures=["v3", "v2"])) is True
    with pytest.raises(Unverified):
        hubspot.verify(request, target(signatures=["v3", "v1"]))
    moved = delivery(body, plain("v2", signature), method=method, url=URL + "?a=1")
    with pytest.raises(Unverified):
        hubspot.verify(moved, target(signatures=["v3", "v2"]))


# --- what a signature must bear -------------------------------------------------------------------


@pytest.mark.parametrize("minutes", [-4.9, 0, 4.9])
def test_v3_within_five_minutes(minutes: float) -> None:
    headers = v3(b"[]", at=NOW + timedelta(minutes=minutes))
    assert hubspot.verify(delivery(headers=headers), target()) is True


@pytest.mark.parametrize("minutes", [-5.1, 5.1, -60_000, 60_000])
def test_v3_outside_five_minutes_either_way(minutes: float) -> None:
    headers = v3(b"[]", at=NOW + timedelta(minutes=minutes))
    with pytest.raises(Unverified):
        hubspot.verify(delivery(headers=headers), target())


@pytest.mark.parametrize("stamp", ["", "now", "1e12", "-1", "٣", "9" * 40, "9" * 5000])
def test_v3_odd_timestamps(stamp: str) -> None:
    digest = hmac.new(SECRET.encode(), f"POST{URL}[]{stamp}".encode(), hashlib.sha256).digest()
    headers = {
        "x-hubspot-signature-v3": base64.b64encode(digest).decode(),
        "x-hubspot-request-timestamp": stamp,
    }
    with pytest.raises(Unverified):
        hubspot.verify(delivery(headers=headers), target())


def test_v3_decodes_only_the_documented_escapes() -> None:
    url = f"{URL}?a=%3A%2F%3f%40%21%24%27%28%29%2a%2C%3B&b=%20%25%26%3D%253A"
    signed = f"{URL}?a=:/?@!$'()*,;&b=%20%25%26%3D%253A"
    assert hubspot.verify(delivery(url=url, headers=v3(b"[]", url=signed)), target()) is True
    with pytest.raises(Unverified):
        hubspot.verify(delivery(url=url, headers=v3(b"[]", url=url)), target())


def test_v3_covers_bytes_that_are_not_ascii() -> None:
    body = '[{"propertyValue":"Zoë ✓"}]'.encode()
    assert hubspot.verify(delivery(body, v3(body)), target()) is True


@pytest.mark.parametrize("signature", ["", "é", "AAAA", "=" * 44])
def test_v3_odd_signatures(signature: str) -> None:
    headers = {**v3(b"[]"), "x-hubspot-signature-v3": signature}
    with pytest.raises(Unverified):
        hubspot.verify(delivery(headers=headers), target())


def test_a_bad_v3_does_not_fall_back_to_v1() -> None:
    headers = {**v3(V1_BODY, secret="other"), **plain("v1", V1)}
    with pytest.raises(Unverified):
        hubspot.verify(delivery(V1_BODY, headers), target(signatures=["v3", "v1"]))


def test_unsigned_or_without_a_secret_is_refused() -> None:
    with pytest.raises(Unverified):
        hubspot.verify(delivery(), target())
    empty = v3(b"[]", secret="")
    with pytest.raises(Unverified):
        hubspot.verify(delivery(headers=empty), target(signing_secret=""))
    with pytest.raises(Unverified):
        hubspot.verify(delivery(headers=empty), target(signing_secret=None))


# --- what an event says ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("contact.propertyChange__optout", ["512"]),
        ("contact.propertyChange__optout_of_a_type", ["512"]),
        ("contact.propertyChange__email", ["512"]),
        ("contact.propertyChange__mapped_property", ["512"]),
        ("contact.propertyChange__first_name", []),
        ("contact.merge__new_id", ["512", "900", "513", "514"]),
        ("contact.deletion__plain", ["512"]),
        ("contact.privacyDeletion__plain", ["512"]),
        ("contact.restore__plain", ["512"]),
        ("contact.creation__event_type", ["512"]),
        ("object.propertyChange__contact", ["512"]),
        ("object.merge__contact", ["512", "900", "513"]),
    ],
)
def test_which_contacts_to_read_again(name: str, ids: list[str]) -> None:
    rechecks = [one for one in found(name) if isinstance(one, Recheck)]
    assert [one.vendor_id for one in rechecks] == ids
    assert len(found(name)) == len(ids)
    keys = [one.event_key for one in rechecks]
    assert all(keys)
    assert len(set(keys)) == len(ids)


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("contact.associationChange__unknown", "contact.associationChange"),
        ("object.propertyChange__deal", "object.propertyChange"),
        ("contact.deletion__without_id", "contact.deletion"),
    ],
)
def test_what_is_not_ours_is_unknown(name: str, event: str) -> None:
    (unknown,) = found(name)
    assert isinstance(unknown, Unknown)
    assert unknown.event == event


@pytest.mark.parametrize("body", [b"", b"<html>", b'"text"', b"[1]", b"[[]]", b"{}", b"\xff"])
def test_a_signed_body_that_is_no_event_is_unknown(body: bytes) -> None:
    (unknown,) = hubspot.normalise(delivery(body), target(), signed=True)
    assert isinstance(unknown, Unknown)


def test_one_event_id_names_three_events() -> None:
    keys = [one.event_key for one in found("batch__repeated_event_id") if isinstance(one, Recheck)]
    assert len(keys) == len(set(keys)) == 3


def test_a_retried_delivery_has_the_same_key() -> None:
    body = json.loads((FIXTURES / "contact.propertyChange__optout.json").read_text())
    first = hubspot.normalise(delivery(json.dumps(body).encode()), target(), signed=True)
    body[0]["attemptNumber"] = 3
    again = hubspot.normalise(delivery(json.dumps(body).encode()), target(), signed=True)
    assert first == again


def test_a_hundred_events_in_one_delivery() -> None:
    (event,) = json.loads((FIXTURES / "contact.deletion__plain.json").read_text())
    body = json.dumps([{**event, "objectId": number} for number in range(1, 101)]).encode()
    rechecks = hubspot.normalise(delivery(body), target(), signed=True)
    assert len({one.event_key for one in rechecks if isinstance(one, Recheck)}) == 100


def test_nothing_found_holds_personal_data() -> None:
    for path in FIXTURES.glob("*.json"):
        assert "example.com" not in str(found(path.stem))


def test_the_reply_is_a_plain_ok() -> None:
    assert hubspot.reply(delivery(), target()).status == 200
