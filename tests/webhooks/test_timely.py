"""Timely by way of an automation tool: the key, what counts, and how its fields are found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefs.core.errors import Unverified
from prefs.core.propagation import Target
from prefs.core.signals import Delivery, Found, Signal, Unknown
from prefs.core.words import Channel, Choice, Kind, Purpose, Source
from tests.twins.timely import COLUMNS
from webhooks import timely

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
KEY = "a key of the hook"
AMY = {"id": "7", "email": "amy@example.com", "mobile": "7700900101"}


def target(region: str = "GB", **options: Any) -> Target:
    given = {"webhook_key": KEY, **options}
    return Target("timely", "rt", "timely", True, None, given, ("news",), region=region)


def delivery(body: bytes, *keys: str) -> Delivery:
    query = tuple(("key", key) for key in keys)
    return Delivery("POST", "https://prefs.example.com/x", query, {}, body, NOW)


def heard(body: object, **options: Any) -> list[Found]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return timely.normalise(delivery(content), target(**options), signed=False)


def out(body: object, **options: Any) -> Signal:
    (signal,) = heard(body, **options)
    assert isinstance(signal, Signal)
    assert {one.choice for one in signal.statements} == {Choice.OUT}
    assert {one.scope.purpose for one in signal.statements} == {Purpose.MARKETING}
    assert signal.source is Source.VENDOR_ADMIN
    return signal


def channels(signal: Signal) -> list[Channel]:
    return [one.scope.channel for one in signal.statements]


# --- getting in ----------------------------------------------------------------------------------


def test_the_right_key_lets_in_but_signs_nothing() -> None:
    assert timely.verify(delivery(b"{}", KEY), target()) is False


@pytest.mark.parametrize("keys", [(), ("",), ("wrong",), (KEY, KEY)])
def test_a_wrong_key_is_refused(keys: tuple[str, ...]) -> None:
    with pytest.raises(Unverified):
        timely.verify(delivery(b"{}", *keys), target())


# --- what counts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["No", "no ", "FALSE", False, 0, "0", "Off"])
@pytest.mark.parametrize("form", [False, True])
def test_a_flag_that_is_off_counts_at_once(word: object, form: bool) -> None:
    told: Mapping[str, Any] = {**AMY, "email_marketing": word, "sms_marketing": "Yes"}
    signal = out(urlencode(told).encode() if form else told)
    assert channels(signal) == [Channel.EMAIL]
    assert [(one.kind, one.key) for one in signal.identifiers] == [
        (Kind.EMAIL, "amy@example.com"),
        (Kind.PHONE, "+447700900101"),
    ]


@pytest.mark.parametrize("word", ["Yes", "true", True, "", None, "unsubscribed?", 1])
def test_nothing_else_is_a_wish_and_never_an_opt_in(word: object) -> None:
    (found,) = heard({**AMY, "email_marketing": word, "sms_marketing": word})
    assert isinstance(found, Unknown)


def test_notifications_and_reminders_are_not_looked_at() -> None:
    told = {**AMY, "email_notifications": "No", "sms_reminders": "No", "reminders": "Never"}
    (found,) = heard(told)
    assert isinstance(found, Unknown)


def test_an_off_counts_each_time_that_it_is_told() -> None:
    """It is a state and no event: between two of them the customer may have come back."""
    told = {**AMY, "email_marketing": "No"}
    assert out(told).event_key is None
    assert out(told) == out(told)


def test_fields_are_found_as_the_configuration_calls_them() -> None:
    told = {"Customer ID": "7", " EMAIL ": "amy@example.com", "Receive SMS marketing": "No"}
    assert channels(out(told, columns=COLUMNS)) == [Channel.SMS]


def test_several_customers_in_one_call() -> None:
    bob = {"email": "bob@example.com", "sms_marketing": "no"}
    found = heard([{**AMY, "email_marketing": "No"}, bob, "odd", {}])
    assert [type(one) for one in found] == [Signal, Signal, Unknown, Unknown]


@pytest.mark.parametrize(
    ("shown", "number"),
    [
        ("7700900101", "+447700900101"),
        ("07700 900101", "+447700900101"),
        ("+44 7700 900101", "+447700900101"),
        ("447700900101", "+447700900101"),
        ("7700-900-101", "+447700900101"),
        (7700900101, "+447700900101"),
    ],
)
def test_mobiles_without_their_zero_or_plus(shown: object, number: str) -> None:
    signal = out({"mobile": shown, "sms_marketing": "No"})
    assert [one.key for one in signal.identifiers] == [number]


def test_numbers_are_read_as_the_brands_region_writes_them() -> None:
    signal = out({"mobile": "20123456", "sms_marketing": "No"}, region="DK")
    assert [one.key for one in signal.identifiers] == ["+4520123456"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff\xfe", b"[1, null]", b'"No"'])
def test_what_is_no_customer_is_unknown(body: bytes) -> None:
    assert all(isinstance(one, Unknown) for one in heard(body))


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["email", "mobile", "sms_marketing", "email_marketing", "id"]), inner
    ),
))  # fmt: skip
def test_no_body_breaks_it_or_opts_anybody_in(body: object) -> None:
    for found in heard(body):
        if isinstance(found, Signal):
            assert all(one.choice is Choice.OUT for one in found.statements)
