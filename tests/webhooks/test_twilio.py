"""Signatures by the vendor's own examples and its own signer; each fixture to what it means."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from prefs.core.errors import Unverified
from prefs.core.identity import signed_phone
from prefs.core.propagation import Target
from prefs.core.signals import Delivery, DeliveryFact, Found, Signal, Statement, Text, Unknown
from prefs.core.words import Channel, Choice, Purpose, Scope, Source
from tests.twins.kit import Letter
from tests.twins.twilio import TwilioTwin
from webhooks import twilio

FIXTURES = Path(__file__).parent / "fixtures" / "twilio"
ACCOUNT, SERVICE = "AC" + "0" * 31 + "1", "MG" + "0" * 31 + "1"
URL = "https://prefs.example.co.uk/webhooks/twilio/rt/sms"
PERSON = "+447700900123"
FORM = "application/x-www-form-urlencoded"
SETTINGS = "x-twilio-webhooks-signature-settings"


def target(**options: Any) -> Target:
    return Target(
        name="sms",
        brand="rt",
        system="twilio",
        live=True,
        base_url=None,
        options={"account_sid": ACCOUNT, "auth_token": "12345", **options},
        topics=("offers",),
        senders={"marketing": (SERVICE, "+447700900001"), "reminders": ("+447700900002",)},
    )


def delivery(
    body: str | bytes = b"",
    *,
    url: str = URL,
    method: str = "POST",
    content_type: str = FORM,
    **headers: str,
) -> Delivery:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Delivery(
        method=method,
        url=url,
        query=tuple(parse_qsl(urlsplit(url).query, keep_blank_values=True)),
        headers={"content-type": content_type, **named},
        body=body.encode() if isinstance(body, str) else body,
        received_at=datetime(2026, 5, 4, tzinfo=UTC),
    )


class Form(dict[str, list[str]]):
    """What the vendor's own signer takes for a form with repeated names."""

    def getlist(self, name: str) -> list[str]:
        return self[name]


def sign(body: str, url: str = URL, secret: str = "12345", algorithm: str | None = None) -> str:
    form = Form()
    for name, value in parse_qsl(body, keep_blank_values=True):
        form.setdefault(name, []).append(value)
    validator = import_module("twilio.request_validator").RequestValidator(secret)
    return str(validator.compute_signature(url, form, algorithm))


def accepted(request: Delivery, to: Target | None = None) -> bool:
    try:
        return twilio.verify(request, to or target())
    except Unverified:
        return False


# The vendor's examples, Auth Token 12345:
# https://github.com/twilio/twilio-python/blob/main/tests/unit/test_request_validator.py and
# https://www.twilio.com/docs/usage/webhooks/webhooks-security
EXAMPLE_URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
EXAMPLE_FORM = urlencode(
    {
        "CallSid": "CA1234567890ABCDE",
        "Digits": "1234",
        "From": "+14158675309",
        "To": "+18005551212",
        "Caller": "+14158675309",
    }
)
REPEATED_FORM = "Sid=CA123&SidAccount=AC123&Digits=5678&Digits=1234"
HTTP, HTTP_PORT, HTTPS_PORT = (
    EXAMPLE_URL.replace("https", "http"),
    EXAMPLE_URL.replace("https", "http").replace(".com", ".com:1234"),
    EXAMPLE_URL.replace(".com", ".com:1234"),
)
EXAMPLES = [
    (EXAMPLE_URL, EXAMPLE_FORM, "RSOYDt4T1cUTdK1PDd93/VVr8B8="),
    (HTTPS_PORT, EXAMPLE_FORM, "RSOYDt4T1cUTdK1PDd93/VVr8B8="),
    (HTTP_PORT, EXAMPLE_FORM, "Zmvh+3yNM1Phv2jhDCwEM3q5ebU="),
    (EXAMPLE_URL, EXAMPLE_FORM, "kvajT1Ptam85bY51eRf/AJRuM3w="),
    (HTTP, EXAMPLE_FORM, "0ZXoZLH/DfblKGATFgpif+LLRf4="),
    (EXAMPLE_URL, REPEATED_FORM, "IK+Dwps556ElfBT0I3Rgjkr1wJU="),
]
EXAMPLE_JSON = '{"property": "value", "boolean": true}'
EXAMPLE_JSON_URL = (
    f"{EXAMPLE_URL}&bodySHA256=0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620"
)


@pytest.mark.parametrize(("url", "body", "signature"), EXAMPLES)
def test_the_vendors_examples(url: str, body: str, signature: str) -> None:
    assert accepted(delivery(body, url=url, x_twilio_signature=signature))


@pytest.mark.parametrize(("url", "body", "signature"), EXAMPLES)
def test_a_tampered_example_fails(url: str, body: str, signature: str) -> None:
    assert not accepted(delivery(body + "9", url=url, x_twilio_signature=signature))
    assert not accepted(delivery(body + "&New=", url=url, x_twilio_signature=signature))
    assert not accepted(delivery(body, url=url + "3", x_twilio_signature=signature))
    assert not accepted(delivery(body, url=url, x_twilio_signature=signature.swapcase()))
    assert not accepted(
        delivery(body, url=url, x_twilio_signature=signature), target(auth_token="54321")
    )


def test_the_vendors_json_example() -> None:
    signature = "a9nBmqA0ju/hNViExpshrM61xv4="
    headers = {"content_type": "application/json", "x_twilio_signature": signature}
    assert accepted(delivery(EXAMPLE_JSON, url=EXAMPLE_JSON_URL, **headers))
    assert not accepted(delivery(EXAMPLE_JSON + " ", url=EXAMPLE_JSON_URL, **headers))


def test_a_body_that_is_no_form_needs_its_hash_in_the_query() -> None:
    signature = sign("")
    request = delivery(EXAMPLE_JSON, content_type="application/json", x_twilio_signature=signature)
    assert not accepted(request)


def test_the_official_signer_and_ours_agree_on_empty_values_and_blanks() -> None:
    body = "Body=+two++blanks+&FromCity=&FromState=&Emoji=%F0%9F%91%8D&Plus=%2B1&a=1&A=2&a=1"
    assert accepted(delivery(body, x_twilio_signature=sign(body)))
    without_empty = body.replace("&FromCity=&FromState=", "")
    assert not accepted(delivery(without_empty, x_twilio_signature=sign(body)))


@pytest.mark.parametrize(
    "url",
    [
        "https://h.example:443/p?a=1",
        "https://h.example",
        "http://h.example?x=/y:1",
        "http://[::1]:8080/p",
        "https://h.example/p#rc=3",
    ],
)
def test_either_spelling_of_the_port_is_accepted(url: str) -> None:
    plain = url.partition("#")[0]
    body = "a=1"
    for spelling in twilio._spellings(url):
        assert accepted(delivery(body, url=url, x_twilio_signature=sign(body, spelling)))
    assert accepted(delivery(body, url=url, x_twilio_signature=sign(body, plain)))


def test_no_signature_is_refused() -> None:
    assert not accepted(delivery("Body=STOP"))
    assert not accepted(delivery("Body=STOP", x_twilio_signature=""))


def test_a_form_that_cannot_be_read_is_refused() -> None:
    assert not accepted(delivery(b"Body=\xff", x_twilio_signature="x"))
    many = "&".join(f"a{n}=1" for n in range(twilio.MOST_FIELDS + 1))
    assert not accepted(delivery(many, x_twilio_signature=sign(many)))


def test_a_get_signs_its_query() -> None:
    url = f"{URL}?MessageSid=SM1&From=%2B447700900123&To=%2B447700900001&Body=STOP"
    request = delivery(url=url, method="GET", x_twilio_signature=sign("", url))
    assert accepted(request)
    [text] = twilio.normalise(request, target(), signed=True)
    assert isinstance(text, Text)
    assert text.body == "STOP"


class TestSharedKey:
    body = "Body=STOP&From="
    keys = target(shared_keys={"webhooks_sharedkey_1": "secret one", "two": "secret two"})

    def request(self, settings: str, secret: str, algorithm: str = "HMAC_SHA256") -> Delivery:
        signature = sign(self.body, secret=secret, algorithm=algorithm)
        request = delivery(self.body, x_twilio_signature=signature)
        return replace(request, headers={**request.headers, SETTINGS: settings})

    @pytest.mark.parametrize(
        ("settings", "secret"),
        [
            ("key=webhooks_sharedkey_1,algorithm=HMAC_SHA256", "secret one"),
            ("algorithm=hmac_sha256, key=two", "secret two"),
        ],
    )
    def test_the_configured_secret_of_the_named_key(self, settings: str, secret: str) -> None:
        assert accepted(self.request(settings, secret), self.keys)

    @pytest.mark.parametrize(
        ("settings", "secret", "algorithm"),
        [
            ("key=two,algorithm=HMAC_SHA256", "secret one", "HMAC_SHA256"),
            ("key=three,algorithm=HMAC_SHA256", "", "HMAC_SHA256"),
            ("key=,algorithm=HMAC_SHA256", "12345", "HMAC_SHA256"),
            ("algorithm=HMAC_SHA256", "12345", "HMAC_SHA256"),
            ("key=two,algorithm=HMAC_SHA1", "secret two", "HMAC_SHA1"),
            ("key=two", "12345", "HMAC_SHA1"),
            ("key=two,algorithm=HMAC_SHA512", "secret two", "HMAC_SHA256"),
            ("algorithm=none", "12345", "HMAC_SHA1"),
        ],
    )
    def test_anything_else_is_refused(self, settings: str, secret: str, algorithm: str) -> None:
        assert not accepted(self.request(settings, secret, algorithm), self.keys)

    def test_no_shared_key_configured(self) -> None:
        settings = "key=two,algorithm=HMAC_SHA256"
        assert not accepted(self.request(settings, "secret two"), target())

    def test_a_sha256_signature_without_the_header_is_refused(self) -> None:
        assert not accepted(self.request("", "secret two"), self.keys)
        assert not accepted(self.request("", "12345"), self.keys)


def found(name: str, **more: Any) -> list[Found]:
    body = (FIXTURES / f"{name}.txt").read_text()
    request = delivery(body, x_twilio_signature=sign(body))
    assert twilio.verify(request, target(**more))
    return twilio.normalise(request, target(**more), signed=True)


def text(**changes: Any) -> Text:
    values: dict[str, Any] = {
        "message_id": "SM" + "1" * 32,
        "number": signed_phone(PERSON),
        "sender": "+447700900001",
        "other_sender": None,
        "body": "STOP",
        "flag": None,
    }
    return Text(**{**values, **changes})


THROUGH_SERVICE = {"sender": SERVICE, "other_sender": "+447700900001"}
INBOUND = {
    "inbound__stop": text(),
    "inbound__service": text(
        **THROUGH_SERVICE, body="Please take me off your list, thanks & bye + ok"
    ),
    "inbound__advanced_opt_out": text(**THROUGH_SERVICE, body="ARRÊT", flag="STOP"),
    "inbound__empty": text(body=""),
    "inbound__short_code": text(number=signed_phone("60777")),
    "inbound__rcs": text(sender=SERVICE, other_sender="clinic_agent"),
}


@pytest.mark.parametrize("name", INBOUND)
def test_an_inbound_message_is_one_text(name: str) -> None:
    assert found(name) == [INBOUND[name]]


def test_a_json_body_says_the_same_as_a_form() -> None:
    body = json.dumps(dict(parse_qsl((FIXTURES / "inbound__stop.txt").read_text())) | {"n": 1})
    url = f"{URL}?bodySHA256={hashlib.sha256(body.encode()).hexdigest()}"
    request = delivery(
        body, url=url, content_type="application/json", x_twilio_signature=sign("", url)
    )
    assert twilio.verify(request, target())
    assert twilio.normalise(request, target(), signed=True) == [INBOUND["inbound__stop"]]


@pytest.mark.parametrize("body", ["[]", "nonsense", "1"])
def test_a_json_body_that_is_no_object_is_unknown(body: str) -> None:
    request = delivery(body, content_type="application/json")
    [unknown] = twilio.normalise(request, target(), signed=True)
    assert isinstance(unknown, Unknown)


@pytest.mark.parametrize(
    "name", ["inbound__whatsapp", "inbound__no_sender", "status__new_word", "other__no_body"]
)
def test_what_is_not_in_our_tables_is_unknown_with_a_key(name: str) -> None:
    [unknown] = found(name)
    assert isinstance(unknown, Unknown)
    assert unknown.event_key
    assert "447700900" not in unknown.event


def test_a_request_about_no_message_is_unknown() -> None:
    assert found("other__voice") == [Unknown("request without MessageSid")]


def test_a_request_that_was_not_signed_says_nothing() -> None:
    body = (FIXTURES / "inbound__stop.txt").read_text()
    assert twilio.normalise(delivery(body), target(), signed=False) == [
        Unknown("request without MessageSid")
    ]


@pytest.mark.parametrize(
    "name", ["status__blocked", "status__blocked_service", "status__blocked_stranger"]
)
def test_21610_on_a_marketing_sender_is_an_out(name: str) -> None:
    [signal] = found(name)
    assert isinstance(signal, Signal)
    assert signal.statements == (Statement(Scope(Channel.SMS, Purpose.MARKETING), Choice.OUT),)
    assert signal.identifiers == (signed_phone(PERSON),)
    assert (signal.brand, signal.origin, signal.source) == ("rt", "rt/sms", Source.VENDOR_PERSON)
    assert len(signal.event_key or "") == hashlib.sha256().digest_size * 2


def test_21610_on_a_reminder_sender_is_a_delivery_fact() -> None:
    [fact] = found("status__blocked_reminder")
    assert isinstance(fact, DeliveryFact)
    assert (fact.identifier, fact.purpose) == (signed_phone(PERSON), Purpose.REMINDERS)
    assert (fact.fact, fact.ended) == ("blocked", False)


@pytest.mark.parametrize("name", ["status__delivered", "status__unreachable"])
def test_other_statuses_say_nothing(name: str) -> None:
    assert found(name) == []


def test_an_event_key_is_the_same_for_each_delivery_and_differs_between_events() -> None:
    assert found("status__blocked") == found("status__blocked")
    events = ("status__blocked", "status__new_word", "inbound__whatsapp", "other__no_body")
    keys = {getattr(found(name)[0], "event_key", None) for name in events}
    assert len(keys - {None}) == len(events)


def test_every_fixture_is_used() -> None:
    source = Path(__file__).read_text()
    assert all(path.stem in source for path in FIXTURES.iterdir())


def test_the_reply_asks_twilio_to_say_nothing() -> None:
    reply = twilio.reply(delivery("Body=STOP"), target())
    assert (reply.status, reply.body, reply.media_type) == (200, b"<Response/>", "text/xml")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"advanced_opt_out": True},
        {"signing": "shared_key"},
        {"as_json": True},
        {"signing": "shared_key", "as_json": True},
        {"sign_as": URL.replace(".uk/", ".uk:443/")},
    ],
)
def test_what_the_twin_sends_is_verified_and_read(settings: dict[str, Any]) -> None:
    twin = TwilioTwin()
    twin.configure(webhook_url=URL, **settings)
    twin.new_service(sid=SERVICE, numbers=["+447700900001"])
    letters: list[Letter] = []
    twin.post = lambda compose, *_: letters.append(compose(0))  # type: ignore[method-assign]  # no network
    message_id = twin.text(sender=PERSON, to="+447700900001", body="stop")
    [letter] = letters
    headers = {name.lower(): value for name, value in letter.headers.items()}
    request = replace(delivery(letter.content, url=letter.url), headers=headers)
    keys = target(auth_token=twin.auth_token, shared_keys={"key1": twin.shared_key_secret})
    assert accepted(request, keys)
    assert not accepted(replace(request, body=letter.content.replace(b"stop", b"star")), keys)
    flag = "STOP" if settings.get("advanced_opt_out") else None
    expected = text(message_id=message_id, **THROUGH_SERVICE, body="stop", flag=flag)
    assert twilio.normalise(request, keys, signed=True) == [expected]
