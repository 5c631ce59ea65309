"""Mailchimp's webhooks: what verifies, what must not, and what each event says."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from prefs.core.errors import Unverified
from prefs.core.propagation import Target
from prefs.core.signals import Delivery, DeliveryFact, Found, Recheck, Renamed, Signal, Unknown
from prefs.core.words import Source
from webhooks import mailchimp

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
TOPICS = ("treatments", "products", "offers", "competitions", "news")
SECRET, KEY = "signing-secret", "long-random-part"
URL = "https://prefs.example.co.uk/webhooks/mailchimp/rt/mailchimp"


def target(**options: Any) -> Target:
    audiences = {"a1": list(TOPICS), "a2": ["offers"]}
    return Target(
        name="mailchimp",
        brand="rt",
        system="mailchimp",
        live=True,
        base_url=None,
        options={"audiences": audiences, **options},
        topics=TOPICS,
    )


SIGNED = target(webhook_secret=SECRET)
UNSIGNED = target(webhook_key=KEY)


def body(kind: str, **data: str) -> bytes:
    fields = {"type": kind, "fired_at": "2026-03-02 09:59:58"}
    return urlencode({**fields, **{f"data[{k}]": v for k, v in data.items()}}).encode()


LEFT = body(
    "unsubscribe", action="unsub", reason="manual", id="x1", list_id="a1", email="A@b.example"
)


def signature(content: bytes, secret: str = SECRET, at: datetime = NOW) -> str:
    moment = str(int(at.timestamp()))
    digest = hmac.new(secret.encode(), moment.encode() + b"." + content, hashlib.sha256)
    return f"t={moment},v1={digest.hexdigest()}"


def delivery(
    content: bytes = LEFT,
    headers: Mapping[str, str] | None = None,
    query: tuple[tuple[str, str], ...] = (),
    method: str = "POST",
) -> Delivery:
    return Delivery(method, URL, query, headers or {}, content, NOW)


def signed(content: bytes = LEFT, **more: Any) -> Delivery:
    return delivery(content, {"x-mailchimp-signature": signature(content, **more)})


def heard(content: bytes, *, verified: bool = True) -> list[Found]:
    return mailchimp.normalise(delivery(content), SIGNED, signed=verified)


# --- what verifies -------------------------------------------------------------------------------


def test_a_signature_verifies() -> None:
    assert mailchimp.verify(signed(), SIGNED) is True


def test_a_signature_reckoned_by_another_program_verifies() -> None:
    """`printf 1772445600.type=ping | openssl dgst -sha256 -hmac signing-secret`; the vendor's pages
    show the rule and no worked example."""
    digest = "b16438518f9e2464e3243cde53651eebbddad16bfa4b1164c2093efe21825a03"
    header = {"x-mailchimp-signature": f"t=1772445600,v1={digest}"}
    assert mailchimp.verify(delivery(b"type=ping", header), SIGNED)


def test_one_right_signature_among_several_is_enough() -> None:
    right = signature(LEFT)
    moment, _, digest = right.partition(",")
    header = {"x-mailchimp-signature": f"{moment},v1={'0' * 64},{digest}"}
    assert mailchimp.verify(delivery(headers=header), SIGNED)


@pytest.mark.parametrize(
    "request_",
    [
        delivery(),
        delivery(headers={"x-mailchimp-signature": ""}),
        delivery(headers={"x-mailchimp-signature": "v1=abc"}),
        delivery(headers={"x-mailchimp-signature": "t=now,v1=abc"}),
        delivery(headers={"x-mailchimp-signature": signature(LEFT + b"&x=1")}),
        signed(secret="another"),
        signed(at=NOW - timedelta(seconds=301)),
        signed(at=NOW + timedelta(seconds=301)),
        delivery(query=(("key", KEY),)),
    ],
)
def test_what_is_not_rightly_signed_is_refused(request_: Delivery) -> None:
    with pytest.raises(Unverified):
        mailchimp.verify(request_, SIGNED)


def test_an_unsigned_webhook_needs_its_key() -> None:
    assert mailchimp.verify(delivery(query=(("key", KEY),)), UNSIGNED) is False
    for query in ((), (("key", "wrong"),), (("key", KEY), ("key", KEY))):
        with pytest.raises(Unverified):
            mailchimp.verify(delivery(query=query), UNSIGNED)


def test_nothing_is_open_by_default() -> None:
    for query in ((), (("key", ""),)):
        with pytest.raises(Unverified):
            mailchimp.verify(delivery(query=query), target())


def test_each_audience_may_have_a_secret_of_its_own() -> None:
    both = target(webhook_secret={"a1": "one", "a2": "two"})
    assert mailchimp.verify(signed(secret="one"), both)
    with pytest.raises(Unverified):
        mailchimp.verify(signed(secret="two"), both)


def test_mailchimps_own_question_is_answered_and_changes_nothing() -> None:
    asked = delivery(b"", method="GET")
    assert mailchimp.verify(asked, SIGNED) is False
    assert mailchimp.normalise(asked, SIGNED, signed=False) == []
    assert mailchimp.reply(asked, SIGNED).status == 200


# --- what it says --------------------------------------------------------------------------------


def test_an_unsubscribe_is_the_persons() -> None:
    (found,) = heard(LEFT)
    assert isinstance(found, Signal)
    assert found.source is Source.VENDOR_PERSON
    assert [s.scope.topic for s in found.statements] == [None]
    assert found.identifiers[0].key == "a@b.example"
    assert found.occurred_at == datetime(2026, 3, 2, 9, 59, 58, tzinfo=UTC)


def test_an_unsigned_one_counts_less_until_it_is_read() -> None:
    out, recheck = heard(LEFT, verified=False)
    assert isinstance(out, Signal)
    assert out.source is Source.VENDOR_ADMIN
    assert isinstance(recheck, Recheck)


def test_a_delete_is_an_administrators() -> None:
    (found,) = heard(LEFT.replace(b"unsub&", b"delete&"))
    assert isinstance(found, Signal)
    assert found.source is Source.VENDOR_ADMIN


def test_an_audience_of_some_topics_is_left_for_those() -> None:
    (found,) = heard(LEFT.replace(b"=a1", b"=a2"))
    assert isinstance(found, Signal)
    assert [s.scope.topic for s in found.statements] == ["offers"]


def test_a_complaint_is_an_out_and_a_bounce_is_a_fact() -> None:
    (abuse,) = heard(body("cleaned", reason="abuse", list_id="a1", email="a@b.example"))
    assert isinstance(abuse, Signal)
    assert abuse.source is Source.VENDOR_PERSON
    (hard,) = heard(body("cleaned", reason="hard", list_id="a1", email="a@b.example"))
    assert isinstance(hard, DeliveryFact)
    assert hard.fact == "hard_bounce"


def test_a_moved_address_takes_its_wish_along() -> None:
    moved, recheck = heard(
        body("upemail", list_id="a1", old_email="a@b.example", new_email="c@d.example")
    )
    assert isinstance(moved, Renamed)
    assert (moved.old.key, moved.new.key) == ("a@b.example", "c@d.example")
    assert isinstance(recheck, Recheck)


@pytest.mark.parametrize("kind", ["subscribe", "profile", "sms_subscribe", "sms_unsubscribe"])
def test_the_rest_only_asks_for_a_read(kind: str) -> None:
    (found,) = heard(body(kind, list_id="a1", email="a@b.example"))
    assert isinstance(found, Recheck)


@pytest.mark.parametrize("content", [b"", b"type=campaign", b"\xff\xfe", LEFT.replace(b"%40", b"")])
def test_what_no_table_knows_is_unknown(content: bytes) -> None:
    (found,) = heard(content)
    assert isinstance(found, Unknown)


def test_one_event_has_one_key_and_nothing_can_be_read_from_it() -> None:
    (first,), (again,) = heard(LEFT), heard(LEFT)
    assert isinstance(first, Signal)
    assert isinstance(again, Signal)
    assert first.event_key == again.event_key
    (later,) = heard(LEFT.replace(b"58", b"59"))
    assert isinstance(later, Signal)
    assert later.event_key != first.event_key
    assert "a@b" not in str(first.event_key)
