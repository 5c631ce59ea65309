"""Pabau's webhooks: unsigned, of no documented shape, never a preference."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from prefs.core.errors import Unverified
from prefs.core.propagation import Target
from prefs.core.signals import Delivery, Found, Recheck, Unknown
from tests.served import Served, eventually, listening
from tests.twins.kit import running
from tests.twins.pabau import PabauTwin
from webhooks import pabau

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
KEY = "long-random-part"
URL = "https://prefs.example.co.uk/webhooks/pabau/rt/pabau"
AMY = "amy@example.com"


def target(**options: Any) -> Target:
    options = {"api_key": "k", "webhook_key": KEY, **options}
    return Target("pabau", "rt", "pabau", True, None, options, ("news",))


def delivery(
    body: bytes = b"{}", query: tuple[tuple[str, str], ...] = (("key", KEY),), method: str = "POST"
) -> Delivery:
    return Delivery(method, URL, query, {}, body, NOW)


def heard(payload: Any) -> list[Found]:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return pabau.normalise(delivery(body), target(), signed=False)


def read_again(payload: Any) -> set[str]:
    """Ids and addresses of the rechecks; whatever else was found fails."""
    found = set()
    for one in heard(payload):
        assert isinstance(one, Recheck), one
        assert one.event_key
        found.add(one.vendor_id or (one.identifier.key if one.identifier else ""))
    return found


# --- who may come in ------------------------------------------------------------------------------


def test_the_key_lets_in_and_proves_nothing() -> None:
    assert pabau.verify(delivery(), target()) is False


@pytest.mark.parametrize("query", [(), (("key", ""),), (("key", "no"),), (("key", KEY),) * 2])
def test_without_the_key_nothing_is_taken(query: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(Unverified):
        pabau.verify(delivery(query=query), target())


@pytest.mark.parametrize("key", [None, ""])
def test_a_target_without_a_key_takes_nothing(key: str | None) -> None:
    for query in ((), (("key", ""),), (("key", "None"),)):
        with pytest.raises(Unverified):
            pabau.verify(delivery(query=query), target(webhook_key=key))


# --- what a payload says --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "clients"),
    [
        ({"object": "client", "action": "change", "data": {"id": 7}}, {"7"}),
        ({"event": "client.change", "id": "7"}, {"7"}),
        ({"client": {"id": 7, "email": AMY}}, {"7", AMY}),
        ({"clients": [{"id": 7}, {"id": 8, "email": AMY}]}, {"7", "8", AMY}),
        ([{"client_id": 7}, {"clientId": "8"}, {"Contact-ID": 9}], {"7", "8", "9"}),
        ({"details": {"id": 7}, "communications": {"email": f" {AMY} "}}, {"7", AMY}),
        ({"id": 7, "opt_in_email": 0}, {"7"}),
        ({"appointment": {"id": 99, "client_id": 7}}, {"7"}),
        ({"client": {"Email Address": "AMY@example.com", "email": AMY}}, {AMY}),
        (b"client_id=7&email=amy%40example.com", {"7", AMY}),
        (b"event=client.change&client%5Bid%5D=7&client%5Bemail%5D=amy%40example.com", {"7", AMY}),
        (b"client=x&client%5Bid%5D=8&client_id=7", {"7"}),
    ],
)  # fmt: skip
def test_which_clients_to_read_again(payload: Any, clients: set[str]) -> None:
    assert read_again(payload) == clients


@pytest.mark.parametrize(
    "payload",
    [
        {},
        [],
        None,
        7,
        "client",
        [[["client_id"]]],
        {"invoice": {"id": 99, "total": "10.00"}},
        {"object": "lead", "data": {"id": 99}},
        {"client_id": None},
        {"client_id": "../../7"},
        {"client_id": 7.5},
        {"client_id": True},
        {"client": {"id": {"id": "x"}}},
        {"email": "no address"},
        {"email": ["amy"]},
        b"",
        b"\xff\xfe\x00",
        b"<html>",
        b"hello",
        b"[" * 200_000,
    ],
)
def test_what_names_no_client_is_unknown(payload: Any) -> None:
    (unknown,) = heard(payload)
    assert isinstance(unknown, Unknown)
    assert unknown.event == "no client in it"


@pytest.mark.parametrize("bit", [0, 1])
def test_a_payload_is_never_a_preference(bit: int) -> None:
    flags = dict.fromkeys(("opt_in_email", "opt_in_sms", "opt_in_newsletter"), bit)
    data = {"id": 7, "email": AMY, **flags, "unsubscribed": True}
    found = heard({"object": "client", "action": "unsubscribe", "data": data})
    assert {type(one) for one in found} == {Recheck}


def test_a_retried_delivery_has_the_same_keys_and_another_has_others() -> None:
    payload = {"client": {"id": 7, "email": AMY}}
    assert heard(payload) == heard(payload)
    both = [*heard(payload), *heard({**payload, "at": "later"})]
    keys = [one.event_key for one in both if isinstance(one, Recheck)]
    assert len(set(keys)) == 4


def test_a_get_says_nothing() -> None:
    assert pabau.normalise(delivery(b"", method="GET"), target(), signed=False) == []


def test_the_reply_is_a_plain_ok() -> None:
    assert pabau.reply(delivery(), target()).status == 200


# --- through the whole service --------------------------------------------------------------------

TARGETS = """
[brands.rt.targets.pabau]
system = "pabau"
mode = "live"
base_url = "{url}"
api_key = "env:PABAU"
webhook_key = "env:HOOK"
"""


@pytest.fixture
def twin() -> Iterator[PabauTwin]:
    with running(PabauTwin()) as (made, _):
        yield made


@pytest.fixture
def clinic(twin: PabauTwin, tmp_path: Path) -> Iterator[Served]:
    environ = {"PABAU": twin.api_key, "HOOK": KEY}
    twin.new_client(AMY, mobile="07700 900101")
    with listening(tmp_path, TARGETS.format(url=twin.url), environ=environ) as made:
        eventually(lambda: [call for call in twin.calls if call.status == 200])
        twin.webhook_url = (
            f"{made.client.base_url}/webhooks/pabau/rt/pabau?{urlencode({'key': KEY})}"
        )
        yield made


def test_a_client_who_unsubscribes_is_out_here(clinic: Served, twin: PabauTwin) -> None:
    clinic.consent(AMY)
    eventually(lambda: clinic.reason(AMY) == "consent")
    twin.client_unsubscribes(1001, "email")
    eventually(lambda: clinic.reason(AMY) == "opted_out")


def test_a_booking_that_resets_flags_is_turned_off_again(clinic: Served, twin: PabauTwin) -> None:
    clinic.say(AMY, source="staff", evidence={"actor": "reception", "note": "asked by phone"})
    email = ("opt_in_email", "opt_in_newsletter")
    eventually(lambda: not any(twin.flags(1001)[flag] for flag in email))
    assert twin.flags(1001)["opt_in_sms"] == 1
    twin.booking(1001)
    eventually(lambda: not any(twin.flags(1001)[flag] for flag in email))
    assert clinic.reason(AMY) == "opted_out"
    assert not twin.reminders_touched()


def test_a_forged_payload_changes_nothing(clinic: Served, twin: PabauTwin) -> None:
    clinic.consent(AMY)
    forged = {"object": "client", "data": {"id": 1001, "email": AMY, "opt_in_email": 0}}
    before = len(twin.calls)
    twin.webhook(forged)
    eventually(lambda: len(twin.calls) > before)
    assert clinic.reason(AMY) == "consent"
    assert set(twin.flags(1001).values()) == {1}
