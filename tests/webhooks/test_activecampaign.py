"""ActiveCampaign's webhooks: the key in the URL, both shapes of lists, and what each event says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from prefs.core.errors import Unverified
from prefs.core.propagation import Target
from prefs.core.signals import Delivery, Found, Recheck, Signal, Statement, Unknown, Work
from prefs.core.words import Channel, Choice, Kind, Purpose, Scope, Source
from tests.served import Served, eventually, listening, poll, walked
from tests.twins.activecampaign import ActiveCampaignTwin
from tests.twins.kit import Travel, running
from webhooks import activecampaign

NOW = datetime(2026, 3, 2, 16, 0, tzinfo=UTC)
LEFT_AT = datetime(2026, 3, 2, 15, 59, 58, tzinfo=UTC)
TOPICS = ("treatments", "products", "offers", "competitions", "news")
KEY = "long-random-part"
URL = "https://prefs.example.co.uk/webhooks/activecampaign/rt/activecampaign"
EMAIL = Scope(Channel.EMAIL, Purpose.MARKETING)
SMS = Scope(Channel.SMS, Purpose.MARKETING)
Pairs = Sequence[tuple[str, str]]


def target(**options: Any) -> Target:
    lists = {"1": ["offers", "news"], "2": list(TOPICS), "3": "*"}
    given = {
        "marketing_lists": lists,
        "service_lists": ["9"],
        "sms_lists": ["5"],
        "webhook_key": KEY,
        **options,
    }
    return Target("activecampaign", "rt", "activecampaign", True, URL, given, TOPICS)


def delivery(content: bytes, query: tuple[tuple[str, str], ...] = (("key", KEY),)) -> Delivery:
    return Delivery("POST", URL, query, {}, content, NOW)


def body(kind: str, *more: tuple[str, str], by: str = "public", **contact: str) -> bytes:
    held = {"id": "42", "email": "Amy@example.com", "phone": "07700 900123", **contact}
    pairs = [
        ("type", kind),
        ("date_time", "2026-03-02T09:59:58-06:00"),
        ("initiated_from", by),
        *more,
        *((f"contact[{name}]", value) for name, value in held.items()),
    ]
    return urlencode(pairs).encode()


def heard(content: bytes, **options: Any) -> list[Found]:
    return activecampaign.normalise(delivery(content), target(**options), signed=False)


def signals(found: Sequence[Found]) -> Iterator[Signal]:
    return (one for one in found if isinstance(one, Signal))


def said(content: bytes) -> list[Scope]:
    statements = [one for signal in signals(heard(content)) for one in signal.statements]
    assert all(isinstance(one, Statement) and one.choice is Choice.OUT for one in statements)
    return [one.scope for one in statements]


def keys(found: Sequence[Found]) -> list[str | None]:
    return [getattr(one, "event_key", None) for one in found]


# --- what verifies ------------------------------------------------------------------------------


def test_the_key_opens_and_signs_nothing() -> None:
    assert activecampaign.verify(delivery(b""), target()) is False


@pytest.mark.parametrize(
    "query", [(), (("key", ""),), (("key", "wrong"),), (("key", KEY), ("key", KEY))]
)
def test_without_the_key_nothing_is_taken(query: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(Unverified):
        activecampaign.verify(delivery(b"", query), target())


def test_nothing_is_open_by_default() -> None:
    for query in ((), (("key", ""),)):
        with pytest.raises(Unverified):
            activecampaign.verify(delivery(b"", query), target(webhook_key=None))


def test_the_answer_never_switches_the_webhook_off() -> None:
    assert activecampaign.reply(delivery(b"rubbish"), target()).status == 200


# --- unsubscribes -------------------------------------------------------------------------------


def test_an_unsubscribe_counts_at_once_and_is_read() -> None:
    out, recheck = heard(body("unsubscribe", ("list[][id]", "1"), ("unsubscribe[reason]", "x")))
    assert isinstance(out, Signal)
    assert (out.source, out.occurred_at, out.origin) == (
        Source.VENDOR_ADMIN,
        LEFT_AT,
        "rt/activecampaign",
    )
    assert [(one.kind, one.key) for one in out.identifiers] == [(Kind.EMAIL, "amy@example.com")]
    assert [one.scope.topic for one in out.statements] == ["offers", "news"]
    assert recheck == Recheck(vendor_id="42", event_key=keys([recheck])[0])


@pytest.mark.parametrize(
    ("lists", "scopes"),
    [
        ([("list", "2")], [EMAIL]),
        ([("list", "3")], [EMAIL]),
        ([("list[0][id]", "1")], [EMAIL._replace(topic="offers"), EMAIL._replace(topic="news")]),
        ([("list[][id]", "2"), ("list[][id]", "5")], [SMS, EMAIL]),
        ([("list", "5")], [SMS]),
        ([("list", "9")], []),
        ([("list", "77")], []),
        ([("list", "0")], []),
        ([("list[name]", "2"), ("contact[list]", "2")], []),
        ([], []),
    ],
)
def test_what_each_list_says(lists: Pairs, scopes: list[Scope]) -> None:
    assert said(body("unsubscribe", *lists)) == scopes
    assert isinstance(heard(body("unsubscribe", *lists))[-1], Recheck)


def test_what_a_program_did_may_be_our_own_echo() -> None:
    for kind in ("unsubscribe", "sms_unsub"):
        (found,) = heard(body(kind, ("list", "1"), by="api"))
        assert isinstance(found, Recheck)


@pytest.mark.parametrize("by", ["public", "admin", "system", ""])
def test_who_did_it_gives_it_no_more_weight(by: str) -> None:
    (out,) = signals(heard(body("unsubscribe", ("list", "1"), by=by)))
    assert out.source is Source.VENDOR_ADMIN


@pytest.mark.parametrize(
    ("stamp", "at"),
    [("2026-03-02T09:59:58-06:00", LEFT_AT), ("2026-03-02 09:59:58", None), ("soon", None)],
)
def test_a_time_without_a_zone_is_none(stamp: str, at: datetime | None) -> None:
    content = body("unsubscribe", ("list", "1")).replace(
        b"2026-03-02T09%3A59%3A58-06%3A00", urlencode({"": stamp})[1:].encode()
    )
    (out,) = signals(heard(content))
    assert out.occurred_at == at


# --- texts ----------------------------------------------------------------------------------------


def test_a_stop_by_text_is_out_of_texts() -> None:
    out, work, recheck = heard(body("sms_unsub", ("sms[id]", "7"), ("sms[phone]", "+447700900123")))
    assert isinstance(out, Signal)
    assert [one.scope for one in out.statements] == [SMS]
    assert [(one.kind, one.key) for one in out.identifiers] == [(Kind.PHONE, "+447700900123")]
    assert isinstance(work, Work)
    assert (work.kind, work.about) == ("reminders_blocked_at_gateway", out.identifiers[0])
    assert isinstance(recheck, Recheck)


def test_where_no_reminders_are_sent_from_nobody_must_remind_another_way() -> None:
    content = body("sms_unsub", ("sms[phone]", "+447700900123"))
    assert not [one for one in heard(content, service_lists=None) if isinstance(one, Work)]
    named = heard(content, service_lists=None, service_containers=["9"])
    assert [one for one in named if isinstance(one, Work)]


@pytest.mark.parametrize(
    ("phones", "key"),
    [
        (("", "07700 900123"), "+447700900123"),
        (("STOPPER", "none"), "amy@example.com"),
    ],
)
def test_a_stop_by_text_whose_number_cannot_be_read(phones: tuple[str, str], key: str) -> None:
    texted, held = phones
    (out,) = signals(heard(body("sms_unsub", ("sms[phone]", texted), phone=held)))
    assert [one.key for one in out.identifiers] == [key]


# --- the rest -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["subscribe", "sms_reply", "bounce", "update"])
def test_the_rest_only_asks_for_a_read(kind: str) -> None:
    (found,) = heard(body(kind, ("list", "1"), ("sms[reply]", "STOP")))
    assert isinstance(found, Recheck)
    assert found.vendor_id == "42"


@pytest.mark.parametrize("contact", [{"id": ""}, {"id": "0"}, {"id": "x"}])
def test_a_contact_without_an_id_is_read_by_its_address(contact: dict[str, str]) -> None:
    (found,) = heard(body("update", **contact))
    assert isinstance(found, Recheck)
    assert found.identifier is not None
    assert found.identifier.key == "amy@example.com"


def test_an_unreadable_address_is_no_signal_but_a_read() -> None:
    (found,) = heard(body("unsubscribe", ("list", "1"), email="nobody"))
    assert isinstance(found, Recheck)


def test_a_new_list_is_about_nobody() -> None:
    assert heard(b"type=list_add&date_time=x&list[id]=12&list[name]=New") == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"type=deal_add&contact[id]=42",
        b"type=",
        b"\xff\xfe",
        b'{"type": "unsubscribe"}',
        b"type=unsubscribe",
        b"type=unsubscribe&list=1&contact[id]=&contact[email]=",
        b"&&&===",
    ],
)
def test_what_no_table_knows_is_unknown(content: bytes) -> None:
    (found,) = heard(content)
    assert isinstance(found, Unknown)


# --- one event, one key -----------------------------------------------------------------------


def test_a_second_delivery_has_the_same_keys_and_each_found_its_own() -> None:
    content = body("unsubscribe", ("list[][id]", "2"), ("list[][id]", "5"))
    assert keys(heard(content)) == keys(heard(content))
    assert len(set(keys(heard(content)))) == 3
    assert all("amy" not in str(key) for key in keys(heard(content)))


@pytest.mark.parametrize(
    "other",
    [
        body("unsubscribe", ("list", "2")),
        body("subscribe", ("list", "1")),
        body("unsubscribe", ("list", "1"), id="43"),
        body("unsubscribe", ("list", "1")).replace(b"58-06", b"59-06"),
    ],
)
def test_another_event_has_another_key(other: bytes) -> None:
    first = heard(body("unsubscribe", ("list", "1")))
    assert not set(keys(first)) & set(keys(heard(other)))


# --- as the twin sends them -----------------------------------------------------------------------


def test_what_the_vendor_sends_is_understood() -> None:
    with running(ActiveCampaignTwin()) as (twin, url):
        twin.new_list("1", "Offers")
        twin.new_list("5", "Texts", channel="sms")
        twin.new_contact("amy@example.com", "+447700900123", {"1": "1", "5": "1"})
        twin.configure(webhook_url=f"{url}/hook")
        twin.person_unsubscribes("amy@example.com", "1")
        twin.admin_sets("amy@example.com", "1", "1")
        twin.admin_sets("amy@example.com", "1", "2")
        twin.texts_stop("+447700900123")
        twin.bounces("amy@example.com")
        twin.courier.settle()
        letters = [sent.letter.content for sent in twin.courier.sent]
        (row,) = twin.people()
        assert row.person == "amy@example.com"
        assert [mark.text for mark in row.marketing] == ["Offers: bounced", "Texts: bounced"]
        assert "Staff: put on Offers" in httpx.get(url).text
    found = [heard(content) for content in letters]
    kinds = [[type(one).__name__ for one in each] for each in found]
    assert kinds == [
        ["Signal", "Recheck"],
        ["Recheck"],
        ["Signal", "Recheck"],
        ["Signal", "Work", "Recheck"],
        ["Recheck"],
    ]
    scopes = [[one.scope.channel for one in s.statements] for each in found for s in signals(each)]
    assert scopes == [[Channel.EMAIL] * 2, [Channel.EMAIL] * 2, [Channel.SMS]]


def test_a_registered_webhook_hears_its_sources_until_it_is_gone() -> None:
    with running(ActiveCampaignTwin()) as (twin, url):
        twin.new_list("1", "Offers")
        twin.new_contact("amy@example.com", statuses={"1": "1"})
        hook = {"name": "prefs", "url": f"{url}/gone", "events": ["unsubscribe", "subscribe"]}
        headers = {"Api-Token": twin.token}
        made = httpx.post(
            f"{url}/api/3/webhooks",
            json={"webhook": {**hook, "sources": ["public", "admin"]}},
            headers=headers,
        )
        assert made.status_code == 201
        row = {"contactList": {"list": "1", "contact": "41", "status": "2"}}
        assert httpx.post(f"{url}/api/3/contactLists", json=row, headers=headers).status_code == 200
        assert twin.courier.sent == []
        twin.faults.add("status", path="/gone", status=410, times=None)
        for status in ("1", "2", "1"):
            twin.admin_sets("amy@example.com", "1", status)
            twin.courier.settle()
        assert [sent.status for sent in twin.courier.sent] == [410]


def test_numbers_are_read_as_the_brands_region_writes_them() -> None:
    content = body("sms_unsub", ("sms[phone]", "0664 1234567"))
    abroad = replace(target(), region="AT")
    (out,) = signals(activecampaign.normalise(delivery(content), abroad, signed=False))
    assert out.identifiers[0].key == "+436641234567"


# --- in the service ---------------------------------------------------------------------------

TARGETS = """
[brands.rt.targets.activecampaign]
system = "activecampaign"
mode = "live"
base_url = "{url}"
api_key = "env:AC"
webhook_key = "env:AC_HOOK"
marketing_lists = {{ 1 = "*" }}
service_lists = ["9"]
sms_lists = ["5"]
limit = "1000/1s"
"""
PATH = "/webhooks/activecampaign/rt/activecampaign"
AMY, BOB = "amy@example.com", "bob@example.com"


@contextmanager
def clinic(folder: Path) -> Iterator[tuple[Served, ActiveCampaignTwin]]:
    with running(ActiveCampaignTwin()) as (twin, url):
        twin.configure(windows=[])
        for id_, name, channel in (("1", "News", "email"), ("5", "Texts", "sms")):
            twin.new_list(id_, name, channel=channel)
        twin.new_list("9", "Appointments", purpose="reminders")
        environ = {"AC": twin.token, "AC_HOOK": KEY}
        with listening(folder, TARGETS.format(url=url), environ=environ) as service:
            twin.configure(webhook_url=f"{service.runtime.settings.public_url}{PATH}?key={KEY}")
            walked(service, "rt/activecampaign")
            yield service, twin
            assert twin.api_changes_of_service() == set()


def test_an_out_of_a_number_reaches_the_contact_however_it_was_typed(
    tmp_path: Path, hold_to_specs: object
) -> None:
    """No search finds it; the walk shows whose it is, and the lane reads that contact."""
    with clinic(tmp_path) as (service, twin):
        twin.new_contact(AMY, "(07700) 900-123", {"1": "1", "5": "1", "9": "1"})
        poll(service, "rt/activecampaign")
        out = {"channel": "sms", "purpose": "marketing", "choice": "out"}
        service.say("", subject={"phone": "+447700900123"}, changes=[out])
        eventually(lambda: twin.status(AMY, "5") == "2")
        assert twin.status(AMY, "9") == "1"


def test_an_opt_in_of_one_switches_nobody_on_who_shares_the_address(
    tmp_path: Path, hold_to_specs: object
) -> None:
    """Two contacts of one address, each with a number of its own; Bob is known by his alone."""
    anns, bobs = "+447700900101", "+447700900102"
    with clinic(tmp_path) as (service, twin):
        ids = [
            twin.new_contact("home@example.com", number, {"5": "0", "9": "1"})
            for number in (anns, bobs)
        ]
        sms = {"channel": "sms", "purpose": "marketing"}
        service.say("", subject={"phone": bobs}, changes=[{**sms, "choice": "out"}])
        eventually(lambda: twin.state.rows[f"{ids[1]}/5"].status == "2")
        ann = {"email": "home@example.com", "phone": anns, "ref": "ann"}
        now = service.runtime.clock().isoformat()
        evidence = {"actor": "Clara", "note": "asked for texts", "wording": "Yes please"}
        service.say(
            "",
            "in",
            "staff",
            subject=ann,
            changes=[{**sms, "choice": "in"}],
            basis="consent",
            evidence=evidence,
            occurred_at=now,
        )
        eventually(lambda: twin.state.rows[f"{ids[0]}/5"].status == "1")
        poll(service, "rt/activecampaign")
        twin.courier.settle()
        assert service.reason(bobs, channel="sms") == "opted_out"
        rows = [call.json()["contactList"] for call in twin.writes()]
        assert all(row["contact"] != ids[1] or row["status"] == "2" for row in rows)
        assert twin.state.rows[f"{ids[1]}/5"].status == "2"


def test_a_texted_stop_is_an_opt_out_and_work_about_reminders(
    tmp_path: Path, hold_to_specs: object
) -> None:
    """The number is blocked there for every text; whether reminders go another way, staff know."""
    number = "+447700900123"
    with clinic(tmp_path) as (service, twin):
        twin.new_contact(AMY, number, {"1": "1", "5": "1", "9": "1"})
        twin.texts_stop(number, travel=Travel(duplicate=1))
        eventually(lambda: service.reason(number, channel="sms") == "opted_out")
        twin.courier.settle()
        path = "/v1/tasks?kind=reminders_blocked_at_gateway"
        (task,) = service.get(path).json()["items"]
        assert task["body"]["phone"] == number
        assert service.reason(number, channel="sms", purpose="reminders") == "service"
        assert service.reason(AMY) == "no_basis"


def test_an_unsubscribe_counts_at_once_and_as_the_persons_when_the_read_agrees(
    tmp_path: Path, hold_to_specs: object
) -> None:
    """The event alone, which nobody signed, is never more than a program's word."""
    forged = "forged@example.com"
    with clinic(tmp_path) as (service, twin):
        for address in (AMY, forged):
            twin.new_contact(address, statuses={"1": "1", "9": "1"})
        poll(service, "rt/activecampaign")
        twin.person_unsubscribes(AMY, "1")
        event = body("unsubscribe", ("list", "1"), id="42", email=forged)
        path = f"{PATH}?key={KEY}"
        form = {"content-type": "application/x-www-form-urlencoded"}
        assert service.client.post(path, content=event, headers=form).status_code == 200
        eventually(lambda: sources(service, AMY) == ["vendor_admin", "vendor_person"])
        eventually(lambda: twin.status(forged, "1") == "2")
        assert sources(service, forged) == ["vendor_admin"]
        assert twin.status(forged, "9") == "1"


def sources(service: Served, address: str) -> list[str]:
    found = service.post("/v1/subjects/search", {"brand": "rt", "email": address}).json()["items"]
    paths = [f"/v1/subjects/{one['subject_id']}/history" for one in found]
    rows = [row for path in paths for row in service.get(path).json()["items"]]
    return sorted(row["source"] for row in rows if row["result"] == "applied")
