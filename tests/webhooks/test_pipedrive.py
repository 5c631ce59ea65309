"""Pipedrive's webhooks: credentials, which person to read again, what is not ours."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from prefs.core.errors import Unverified
from prefs.core.propagation import Target
from prefs.core.signals import Delivery, Found, Recheck, Unknown
from webhooks import pipedrive

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
URL = "https://prefs.example.com/webhooks/pipedrive/rt/pipedrive"
CREDENTIALS = {"webhook_user": "hook", "webhook_password": "s3cret: ö"}


def target(**options: Any) -> Target:
    return Target("pipedrive", "rt", "pipedrive", True, None, options, ("news",))


def basic(text: str = "hook:s3cret: ö") -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


def delivery(
    body: bytes = b"{}", headers: dict[str, str] | None = None, key: str | None = None
) -> Delivery:
    query = (("key", key),) if key else ()
    return Delivery("POST", URL, query, headers or {}, body, NOW)


def event(action: str = "change", entity: str = "person", **meta: Any) -> dict[str, Any]:
    """The envelope of version 2.0 (https://pipedrive.readme.io/docs/guide-for-webhooks-v2)."""
    about = {
        "action": action,
        "entity": entity,
        "entity_id": "17",
        "id": "5a7c2e4e-0b1d-4c62-9a53-0f7de7a0c0f1",
        "attempt": 1,
        "timestamp": "2026-11-24T11:59:58.123Z",
        "change_source": "app",
        "user_id": 5,
        "company_id": 9,
        "webhook_id": 44,
        "correlation_id": "c-1",
        "is_bulk_edit": False,
        "version": "2.0",
        **meta,
    }
    data = {"id": 17, "emails": [{"value": "amy@example.com"}], "marketing_status": "unsubscribed"}
    return {"meta": about, "data": data, "previous": {"marketing_status": "subscribed"}}


def found(body: Any) -> Found:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    (one,) = pipedrive.normalise(delivery(content), target(), signed=False)
    return one


# --- who may come in ------------------------------------------------------------------------------


def test_credentials_let_in_but_sign_nothing() -> None:
    assert pipedrive.verify(delivery(headers=basic()), target(**CREDENTIALS)) is False


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("hook:other"),
        basic("other:s3cret: ö"),
        basic("hook:"),
        basic(":"),
        {"authorization": basic()["authorization"].replace("Basic", "Bearer")},
        {"authorization": "Basic"},
        {"authorization": "Basic é"},
        {"authorization": "Basic ////"},
        {"authorization": "Basic hook:s3cret"},
    ],
)
def test_other_credentials_do_not(headers: dict[str, str]) -> None:
    with pytest.raises(Unverified):
        pipedrive.verify(delivery(headers=headers), target(**CREDENTIALS))


def test_the_key_does_not_replace_configured_credentials() -> None:
    both = target(**CREDENTIALS, webhook_key="k")
    with pytest.raises(Unverified):
        pipedrive.verify(delivery(key="k"), both)


def test_without_credentials_the_key_counts() -> None:
    assert pipedrive.verify(delivery(key="k"), target(webhook_key="k")) is False
    for request in (delivery(key="x"), delivery(), delivery(headers=basic())):
        with pytest.raises(Unverified):
            pipedrive.verify(request, target(webhook_key="k"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"webhook_user": "hook"},
        {"webhook_password": "s3cret: ö"},
        {"webhook_user": "", "webhook_password": ""},
    ],
)
def test_nothing_configured_lets_nobody_in(options: dict[str, str]) -> None:
    for request in (delivery(headers=basic()), delivery(headers=basic(":")), delivery()):
        with pytest.raises(Unverified):
            pipedrive.verify(request, target(**options))


# --- what an event says ---------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["create", "change", "delete"])
def test_which_person_to_read_again(action: str) -> None:
    one = found(event(action))
    assert isinstance(one, Recheck)
    assert one.vendor_id == "17"
    assert one.identifier is None


def test_a_payload_is_never_a_wish() -> None:
    for status in ("unsubscribed", "subscribed"):
        body = event()
        body["data"]["marketing_status"] = status
        assert isinstance(found(body), Recheck)


def test_the_id_of_a_person_is_looked_for_where_it_may_stand() -> None:
    without = event("delete")
    del without["meta"]["entity_id"]
    assert found(without) == found(event("delete"))
    gone = {**without, "data": None, "previous": {"id": 17}}
    assert found(gone) == found(event("delete"))
    assert isinstance(found({**without, "data": None, "previous": None}), Unknown)


@pytest.mark.parametrize("number", ["../../users", "17/merge", "", "٣", "-1", {"a": 1}])
def test_what_is_no_number_names_nobody(number: Any) -> None:
    body = {**event(entity_id=number), "data": None, "previous": None}
    assert isinstance(found(body), Unknown)


@pytest.mark.parametrize(
    ("action", "entity"),
    [("change", "deal"), ("create", "organization"), ("merge", "person"), ("change", "lead")],
)
def test_what_is_not_ours_is_unknown(action: str, entity: str) -> None:
    one = found(event(action, entity))
    assert isinstance(one, Unknown)
    assert one.event == f"{action}.{entity}"
    assert one.event_key


def test_a_retried_delivery_has_the_same_key() -> None:
    assert found(event(attempt=1)) == found(event(attempt=4))
    other = found(event(id="another"))
    assert isinstance(other, Recheck)
    assert other != found(event())


def test_events_without_an_id_are_told_apart_all_the_same() -> None:
    first, again = found(event(id=None)), found(event(id=None, attempt=2))
    later = found(event(id=None, timestamp="2026-11-24T12:10:00.000Z"))
    assert first == again
    assert first != later


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b'"text"', b"[]", b"{}", b"\xff", b'{"meta":[]}', b'{"meta":{}}', b"null"],
)
def test_a_body_that_is_no_event_is_unknown(body: bytes) -> None:
    assert isinstance(found(body), Unknown)


def test_nothing_found_holds_personal_data() -> None:
    for action in ("create", "change", "delete", "merge"):
        assert "example.com" not in str(found(event(action)))


def test_the_reply_is_a_plain_ok() -> None:
    assert pipedrive.reply(delivery(), target()).status == 200
