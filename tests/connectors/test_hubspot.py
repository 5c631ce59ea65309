"""HubSpot: the contract, who said a status, unsubscribe-all, bulk and fallback, walks, OAuth."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypeVar

import httpx
import pytest
import respx

from connectors.budget import TokenBudget
from connectors.hubspot import HubSpot, Walk
from connectors.hubspot_line import READS_BY_POST
from prefs.core.errors import Refused, SettingsError, Temporary, Unusable
from prefs.core.propagation import (
    Absent,
    Applied,
    Change,
    Connector,
    Container,
    Limit,
    Local,
    Observed,
    Page,
    Ref,
    Seen,
    Slot,
    Target,
    Value,
    Wish,
)
from prefs.core.words import Channel, Kind, Purpose, Source
from tests.connectors.contract import ConnectorContract
from tests.twins.hubspot import HubspotTwin

T = TypeVar("T")
BASE = "http://127.0.0.1:9"
AMY = Ref(Kind.EMAIL, "amy+1@example.com")
AMYS = f"{BASE}/communication-preferences/v4/statuses/amy%2B1%40example.com"
NEWS = Slot("11", Channel.EMAIL, topics=("news",))
OFFERS = Slot("12", Channel.EMAIL, topics=("offers",))
REMINDERS = Slot("90", Channel.EMAIL, Purpose.REMINDERS)


STATUSES = "/communication-preferences/v4/statuses"
CONTACTS = "/crm/v3/objects/contacts"
HELD = {"SUBSCRIBED": Value.ON, "UNSUBSCRIBED": Value.OFF, "NOT_SPECIFIED": Value.UNSET}


class Account(ConnectorContract):
    """A HubSpot account, with or without the batch calls of Marketing Hub Enterprise."""

    system = "hubspot"
    small_pages = ("connectors.hubspot_line.BATCH",)
    enterprise: ClassVar[bool] = True

    def make_twin(self) -> HubspotTwin:
        return HubspotTwin()

    def furnish(self) -> None:
        self.twin.configure(enterprise=self.enterprise)
        self.twin.new_type("101", "Treatments")
        self.twin.new_type("102", "Offers")
        self.twin.new_type("109", "Appointments", purpose="reminders")
        self.twin.new_property("marketing_sms")
        self.twin.new_property("marketing_phone")

    def reminders_untouched(self) -> bool:
        return not self.twin.api_changes_of_reminders()

    def reads_by_post(self) -> Sequence[tuple[str, str]]:
        return READS_BY_POST

    def listen(self, url: str) -> Mapping[str, Any]:
        self.twin.configure(webhook_url=url)
        return {"signing_secret": self.twin.signing_secret}


WALKED = "a walk sees properties, where a subscription has no word"


class TestHubSpot(Account):
    exempt: ClassVar[Mapping[str, str]] = {"walked words": WALKED}
    read_path = STATUSES
    write_path = STATUSES
    write_method = "POST"
    scan_path = f"{CONTACTS}$"

    def options(self) -> Mapping[str, Any]:
        return {
            "token": self.twin.token,
            "types": {"101": "treatments", "102": "offers"},
            "reminder_types": ["109"],
        }

    def put(self, ref: Ref) -> None:
        self.twin.new_contact(ref.value, statuses={"101": "SUBSCRIBED"})

    def unset(self, ref: Ref) -> None:
        self.twin.new_contact(ref.value)

    def held(self, ref: Ref) -> Value:
        return HELD[self.twin.status(ref.value, "101")]

    def break_word(self, ref: Ref) -> None:
        self.twin.set_status(ref.value, "101", "PAUSED")

    def test_a_public_app_gets_in_by_its_refresh_token(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        oauth = {key: getattr(self.twin, key) for key in sorted(OAUTH.keys() - {"token"})}
        options = {**self.options(), **oauth, "token": None}
        monkeypatch.setattr(self, "options", lambda: options)
        self.put(self.ref(1))
        assert self.value(self.ref(1)) is Value.ON
        assert [call.path for call in self.twin.writes()] == ["/oauth/v1/token"]

    # --- proof of an opt-in -----------------------------------------------------------------------

    def proof(self, ref: Ref) -> Mapping[str, str] | None:
        """What a read shows; a scan shows none."""
        scanned = [record for page in self.pages() for record in page.records]
        (listed,) = [found.values for one, found in scanned if one.value == ref.value]
        assert not any(seen.proof for seen in listed.values())
        seen = self.observe(ref)[ref].values[Slot("101", Channel.EMAIL, topics=("treatments",))]
        assert seen.value is Value.ON
        proof: Mapping[str, str] | None = seen.proof
        return proof

    def test_what_the_person_did_proves(self) -> None:
        self.unset(self.ref(1))
        self.twin.person_subscribes(self.ref(1).value, "101")
        at = self.twin.state.statuses[self.ref(1).value]["101"].at
        assert self.proof(self.ref(1)) == {
            "at": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "how": "by the person, on a page or form of HubSpot",
        }

    def test_a_form_with_a_notice_proves_with_its_words(self) -> None:
        self.unset(self.ref(1))
        basis, wording = "CONSENT_WITH_NOTICE", "I agree to get news by email"
        self.twin.person_subscribes(self.ref(1).value, "101", basis, wording)
        proof = self.proof(self.ref(1))
        assert proof
        assert (proof["basis"], proof["wording"]) == (basis, wording)

    def test_another_legal_basis_than_consent_proves_none(self) -> None:
        self.unset(self.ref(1))
        self.twin.person_subscribes(self.ref(1).value, "101", "LEGITIMATE_INTEREST_CLIENT")
        assert self.proof(self.ref(1)) is None

    def test_who_staff_or_a_program_subscribed_proves_nothing(self) -> None:
        for number in (1, 2):
            self.unset(self.ref(number))
        self.twin.admin_sets(self.ref(1).value, "101", "SUBSCRIBED")
        self.apply(Wish.ON, self.ref(2))
        assert self.proof(self.ref(1)) is None
        assert self.proof(self.ref(2)) is None

    # --- bulk -------------------------------------------------------------------------------------

    def test_many_are_read_and_turned_off_by_hundreds(self) -> None:
        refs = [self.ref(number) for number in range(150)]
        for ref in refs:
            self.put(ref)
        found = self.observe(*refs)
        assert all(isinstance(found[ref], Observed) for ref in refs)
        answers = self.apply(Wish.OFF, *refs)
        assert set(answers) == set(refs)
        assert all(self.held(ref) is Value.OFF for ref in refs)
        assert len(self.twin.calls) == 6

    @pytest.mark.parametrize(("reminders", "calls"), [((), 1), (("109",), 2)])
    def test_offs_are_read_back_without_the_unsubscribes_from_all_that_tell_nothing_more(
        self, monkeypatch: pytest.MonkeyPatch, reminders: Sequence[str], calls: int
    ) -> None:
        """Only where a reminder is at stake they would."""
        options = {"token": self.twin.token, "types": {"101": "*"}, "reminder_types": reminders}
        monkeypatch.setattr(self, "options", lambda: options)
        self.twin.enterprise = True
        refs = [self.ref(number) for number in range(20)]
        for ref in refs:
            self.put(ref)
        self.apply(Wish.OFF, *refs)
        self.twin.calls.clear()
        found = self.observe(*refs)
        assert all(isinstance(found[ref], Observed) for ref in refs)
        values = [found[ref].values[Slot("101", Channel.EMAIL)].value for ref in refs]
        assert values == [Value.OFF] * len(refs)
        assert len([c for c in self.twin.calls if "/batch/" in c.path]) == calls

    def test_where_one_is_still_on_an_unsubscribe_from_all_is_seen(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = {"token": self.twin.token, "types": {"101": "treatments", "102": "offers"}}
        monkeypatch.setattr(self, "options", lambda: options)
        one, other = self.ref(1), self.ref(2)
        for ref in (one, other):
            self.twin.new_contact(ref.value, statuses={"101": "UNSUBSCRIBED", "102": "SUBSCRIBED"})
        self.twin.person_unsubscribes(one.value)
        found = self.observe(one, other)
        read = {
            ref: {s.place: seen.value for s, seen in found[ref].values.items()} for ref in found
        }
        assert read[one] == {"101": Value.OFF, "102": Value.OFF}
        assert read[other] == {"101": Value.OFF, "102": Value.ON}

    def test_an_on_asks_for_unsubscribes_from_all_though_each_type_is_off(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = {"token": self.twin.token, "types": {"101": "*"}}
        monkeypatch.setattr(self, "options", lambda: options)
        self.twin.new_contact(self.ref(1).value, statuses={"101": "UNSUBSCRIBED"})
        self.twin.person_unsubscribes(self.ref(1).value)
        assert isinstance(self.apply(Wish.ON, self.ref(1))[self.ref(1)], Refused)
        assert self.twin.writes() == []

    def test_what_a_bulk_read_leaves_out_is_read_alone(self) -> None:
        refs = [self.ref(number) for number in range(3)]
        for ref in refs:
            self.put(ref)
        self.twin.faults.add("omit_item", key=re.escape(refs[1].value), times=None)
        found = self.observe(*refs)
        assert all(isinstance(found[ref], Observed) for ref in refs)

    # --- contacts ---------------------------------------------------------------------------------

    def test_a_contact_is_found_by_its_id(self) -> None:
        number = self.twin.new_contact("Amy@Example.com", statuses={"101": "SUBSCRIBED"})
        ref, gone = Ref(None, "", str(number)), Ref(None, "", "999")
        found = self.observe(ref, gone)
        assert found[ref].identifiers == ((Kind.EMAIL, "amy@example.com"),)
        assert found[ref].vendor_id == str(number)
        assert isinstance(found[gone], Absent)
        assert isinstance(self.apply(Wish.OFF, ref)[ref], Applied)
        assert self.twin.status("amy@example.com", "101") == "UNSUBSCRIBED"

    def test_an_address_without_a_contact_is_known_by_what_it_chose(self) -> None:
        self.twin.set_status("chose@example.com", "102", "UNSUBSCRIBED", by="person")
        chose, never = (Ref(Kind.EMAIL, f"{who}@example.com") for who in ("chose", "never"))
        found = self.observe(chose, never)
        assert isinstance(found[chose], Observed)
        assert isinstance(found[never], Absent)

    def test_a_contact_that_never_chose_is_unset_and_turned_off(self) -> None:
        self.unset(self.ref(1))
        assert self.value(self.ref(1)) is Value.UNSET
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], Applied)
        assert self.held(self.ref(1)) is Value.OFF

    def test_other_kinds_are_refused(self) -> None:
        ref = Ref(Kind.PHONE, "+447700900123")
        assert isinstance(self.observe(ref)[ref], Refused)
        assert self.twin.calls == []

    # --- unsubscribe-all --------------------------------------------------------------------------

    def test_unsubscribe_all_is_read_and_never_lifted(self) -> None:
        self.put(self.ref(1))
        self.twin.person_unsubscribes(self.ref(1).value)
        values = self.observe(self.ref(1))[self.ref(1)].values
        marketing = [seen for slot, seen in values.items() if slot.purpose is Purpose.MARKETING]
        assert {seen.value for seen in marketing} == {Value.OFF}
        reminders = Slot("109", Channel.EMAIL, Purpose.REMINDERS)
        assert values[reminders] == Seen(Value.SILENT, fact="blocked")
        assert isinstance(self.apply(Wish.ON, self.ref(1))[self.ref(1)], Refused)
        assert self.twin.unsubscribed_from_all(self.ref(1).value)
        assert self.twin.writes() == []

    def test_no_off_becomes_an_unsubscribe_all(self) -> None:
        self.put(self.ref(1))
        self.apply(Wish.OFF, self.ref(1))
        assert not self.twin.unsubscribed_from_all(self.ref(1).value)

    def test_a_person_who_left_by_themselves_is_taken_back(self) -> None:
        """v4 allows it (RESUBSCRIBE_OCCURRED): our side alone decides that there is consent."""
        self.put(self.ref(1))
        self.twin.person_unsubscribes(self.ref(1).value, "101")
        assert isinstance(self.apply(Wish.ON, self.ref(1))[self.ref(1)], Applied)
        assert self.held(self.ref(1)) is Value.ON

    def test_the_vendors_refusal_of_an_on_is_told(self) -> None:
        self.unset(self.ref(1))
        self.twin.configure(legal_basis_required=True)

        async def job(connector: Connector) -> Mapping[Change, Any]:
            return await connector.apply([Change(self.ref(1), connector.slots[0], Wish.ON)])

        (refusal,) = self.run(job).values()
        assert isinstance(refusal, Refused)
        assert "legalBasis" in str(refusal)

    # --- containers and walks ---------------------------------------------------------------------

    def test_containers_are_the_subscription_types(self) -> None:
        self.twin.new_type("110", "One to one", internal=True)
        self.twin.new_type("111", "Old letter", active=False)

        async def job(connector: Connector) -> Sequence[Container]:
            return await connector.containers()

        found = {one.id: one for one in self.run(job)}
        assert found["101"] == Container("101", "Treatments", sends=True)
        assert found["110"].inactive
        assert found["111"].inactive

    def walk(self, cursor: str | None) -> list[Page]:
        async def job(connector: Connector) -> list[Page]:
            return [page async for page in connector.scan(cursor)]

        return self.run(job)

    def test_a_walk_tells_who_left_and_when(self) -> None:
        for number in range(1, 4):
            self.put(self.ref(number))
        self.twin.person_unsubscribes(self.ref(2).value, "101")
        (page,) = self.walk(None)
        seen = {ref.value: read.values for ref, read in page.records}
        slots = {slot.place: slot for slot in seen[self.ref(2).value]}
        assert set(slots) == {"101", "102"}
        left = seen[self.ref(2).value][slots["101"]]
        assert (left.value, left.at is None) == (Value.OFF, False)
        assert seen[self.ref(1).value][slots["101"]].value is Value.ON
        assert seen[self.ref(1).value][slots["102"]].value is Value.UNSET

    def test_a_walk_of_changes_sees_only_those(self) -> None:
        self.twin.clock.move(-3600)
        for number in range(1, 4):
            self.put(self.ref(number))
        self.twin.clock.reset()
        (page,) = self.walk(None)
        assert (len(page.records), page.complete) == (3, True)
        self.twin.person_unsubscribes(self.ref(2).value, "101")
        (changes,) = self.walk(page.next_cursor)
        assert [ref.value for ref, _ in changes.records] == [self.ref(2).value]
        assert not changes.complete

    def test_a_walk_goes_on_where_it_broke_off(self) -> None:
        for number in range(250):
            self.put(self.ref(number))
        self.twin.faults.add("status", path=self.scan_path, status=500, skip=1, times=None)
        seen: list[Page] = []

        async def kept(connector: Connector) -> None:
            async for page in connector.scan(None):
                seen.append(page)

        with pytest.raises(Temporary):
            self.run(kept)
        assert [page.complete for page in seen] == [False]
        self.twin.faults.clear()
        rest = self.walk(seen[-1].next_cursor)
        found = {ref.value for page in (*seen, *rest) for ref, _ in page.records}
        assert len(found) == 250
        assert [page.complete for page in rest] == [False, True]

    def test_a_walk_of_changes_misses_nobody_though_they_change_meanwhile(self) -> None:
        """Whoever changes moves to the end of a search, and the others a place ahead."""
        before = self.walk(None)[-1].next_cursor
        refs = [self.ref(number) for number in range(350)]
        for ref in refs:
            self.put(ref)
            self.twin.clock.move(0.01)

        async def job(connector: Connector) -> set[str]:
            seen: set[str] = set()
            async for page in connector.scan(before):
                here = {ref.value for ref, _ in page.records}
                for one in sorted(here - seen)[:50]:
                    self.twin.property_change(one, "lastname", "Example")
                seen |= here
            return seen

        assert self.run(job) == {ref.value for ref in refs}

    def test_a_record_in_unknown_words_makes_a_walk_incomplete(self) -> None:
        self.put(self.ref(1))
        self.put(self.ref(2))
        self.twin.person_unsubscribes(self.ref(2).value, "102")
        self.break_word(self.ref(2))
        (page,) = self.walk(None)
        assert [ref.value for ref, _ in page.records] == [self.ref(1).value]
        assert not page.complete


class TestWithoutBatches(TestHubSpot):
    """Any other account: batches answer 403 and everything goes one by one."""

    enterprise = False
    exempt: ClassVar[Mapping[str, str]] = {
        "bulk": "HubSpot keeps its batch calls for Marketing Hub Enterprise",
        "walked words": WALKED,
    }

    def test_many_are_read_and_turned_off_by_hundreds(self) -> None:
        """One by one here: three calls each, beside the refused batches."""
        refs = [self.ref(number) for number in range(12)]
        for ref in refs:
            self.put(ref)
        self.observe(*refs)
        answers = self.apply(Wish.OFF, *refs)
        assert all(isinstance(answers[ref], Applied) for ref in refs)
        assert len(self.twin.calls) == 12 * 3 + 2

    def test_a_refused_batch_is_tried_once(self) -> None:
        refs = [self.ref(number) for number in range(3)]
        for ref in refs:
            self.put(ref)

        async def job(connector: Connector) -> None:
            for _ in range(2):
                await connector.observe(refs)
                changes = [Change(ref, connector.slots[0], Wish.OFF) for ref in refs]
                await connector.apply(changes)

        self.run(job)
        batches = [call.path for call in self.twin.calls if "/batch/" in call.path]
        assert batches == [f"{STATUSES}/batch/read", f"{STATUSES}/batch/write"]


class TestProperties(Account):
    """Channels that HubSpot does not know, kept in properties of the contact."""

    read_path = CONTACTS
    write_path = f"{CONTACTS}/batch/upsert"
    scan_path = f"{CONTACTS}$"

    def options(self) -> Mapping[str, Any]:
        properties = {"sms": "marketing_sms", "phone": "marketing_phone"}
        return {"token": self.twin.token, "properties": properties}

    def put(self, ref: Ref) -> None:
        self.twin.new_contact(ref.value, properties={"marketing_sms": "opted_in"})

    def unset(self, ref: Ref) -> None:
        self.twin.new_contact(ref.value)

    def property_of(self, ref: Ref, name: str = "marketing_sms") -> str:
        (contact,) = (c for c in self.twin.state.contacts.values() if c.email == ref.value)
        return str(contact.properties.get(name, ""))

    def held(self, ref: Ref) -> Value:
        return {"opted_in": Value.ON, "opted_out": Value.OFF, "": Value.UNSET}[
            self.property_of(ref)
        ]

    def break_word(self, ref: Ref) -> None:
        self.twin.property_change(ref.value, "marketing_sms", "ask Amy first")

    def test_an_unknown_word_is_not_repeated(self) -> None:
        self.put(self.ref(1))
        self.break_word(self.ref(1))
        refusal = str(self.observe(self.ref(1))[self.ref(1)])
        assert "marketing_sms" in refusal
        assert "Amy" not in refusal

    def test_who_has_no_contact_is_left_to_our_own_check(self) -> None:
        answer = self.apply(Wish.OFF, self.ref(1))[self.ref(1)]
        assert isinstance(answer, Local)
        assert self.twin.writes() == []
        assert self.twin.state.contacts == {}

    def test_two_properties_of_one_contact_go_together(self) -> None:
        self.put(self.ref(1))

        async def job(connector: Connector) -> Mapping[Change, Any]:
            offs = [Change(self.ref(1), slot, Wish.OFF) for slot in connector.slots]
            return await connector.apply(offs)

        assert [type(answer) for answer in self.run(job).values()] == [Applied, Applied]
        assert self.property_of(self.ref(1), "marketing_phone") == "opted_out"
        assert len(self.twin.writes()) == 1

    def test_the_slots_are_not_enforced(self) -> None:
        self.put(self.ref(1))
        values = self.observe(self.ref(1))[self.ref(1)].values
        assert {slot.enforced for slot in values} == {False}

    def test_numbers_are_shown_after_the_address(self) -> None:
        self.twin.new_contact("amy@example.com", properties={"mobilephone": "+447700900123"})
        ref = Ref(Kind.EMAIL, "amy@example.com")
        assert self.observe(ref)[ref].identifiers == (
            (Kind.EMAIL, "amy@example.com"),
            (Kind.PHONE, "+447700900123"),
        )


class Clock:
    """Aware UTC time that a test moves."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 24, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def move(self, **by: float) -> None:
        self.at += timedelta(**by)


def target(**options: Any) -> Target:
    given = {
        "token": "pat",
        "types": {"11": "news", "12": "offers"},
        "reminder_types": ["90"],
        **options,
    }
    return Target("hubspot", "rt", "hubspot", True, BASE, given, ("news", "offers"))


def run(
    job: Callable[[HubSpot], Awaitable[T]], clock: Callable[[], datetime] | None = None, **kw: Any
) -> T:
    async def inside() -> T:
        connector = HubSpot(target(**kw), TokenBudget(Limit(1000, 1.0)), clock or Clock())
        try:
            return await job(connector)
        finally:
            await connector.close()

    return asyncio.run(inside())


def answer(*results: Mapping[str, Any], **more: Any) -> httpx.Response:
    times = {"startedAt": "2026-11-24T12:00:00Z", "completedAt": "2026-11-24T12:00:00Z"}
    return httpx.Response(200, json={"status": "COMPLETE", "results": results, **times, **more})


def status(type_id: int, word: str, source: str = "", **more: Any) -> dict[str, Any]:
    return {
        "channel": "EMAIL",
        "subscriberIdString": AMY.value,
        "subscriptionId": type_id,
        "status": word,
        "source": source,
        "timestamp": "2026-11-20T09:14:00.123Z",
        **more,
    }


def wide(word: str = "UNSUBSCRIBED", **more: Any) -> dict[str, Any]:
    return {
        "channel": "EMAIL",
        "subscriberIdString": AMY.value,
        "status": word,
        "wideStatusType": "PORTAL_WIDE",
        "timestamp": "2026-11-21T08:00:00Z",
        **more,
    }


def amy_holds(
    *statuses: Mapping[str, Any], wide: tuple[Mapping[str, Any], ...] = ()
) -> respx.Route:
    """Her statuses and unsubscribes from all; the route of the statuses."""
    route = respx.get(AMYS, params={"channel": "EMAIL"})
    route.mock(return_value=answer(*statuses))
    respx.get(f"{AMYS}/unsubscribe-all", params={"channel": "EMAIL"}).mock(
        return_value=answer(*wide)
    )
    return route


def read() -> Any:
    return run(lambda connector: connector.observe([AMY]))[AMY]


def values() -> Mapping[Slot, Seen]:
    found = read()
    assert isinstance(found, Observed)
    return found.values


# --- what a status says --------------------------------------------------------------------------


@respx.mock
@pytest.mark.parametrize(
    ("said", "source"),
    [
        ("SOURCE_RECIPIENT", Source.VENDOR_PERSON),
        ("SOURCE_HUBSPOT_CUSTOMER", Source.VENDOR_ADMIN),
        ("Public status API, App ID:5848098", Source.VENDOR_API),
        ("Something new", None),
        ("", None),
    ],
)
def test_who_said_it_and_when(said: str, source: Source | None) -> None:
    amy_holds(status(11, "UNSUBSCRIBED", said), status(12, "SUBSCRIBED", said))
    at = datetime(2026, 11, 20, 9, 14, 0, 123000, tzinfo=UTC)
    seen = values()
    assert seen[NEWS] == Seen(Value.OFF, source, at)
    assert (seen[OFFERS].value, seen[OFFERS].source, seen[OFFERS].at) == (Value.ON, source, at)
    assert (seen[OFFERS].proof is not None) == (source is Source.VENDOR_PERSON)


@respx.mock
def test_an_opt_in_without_a_time_proves_nothing() -> None:
    amy_holds(status(12, "SUBSCRIBED", "SOURCE_RECIPIENT") | {"timestamp": None})
    seen = values()[OFFERS]
    assert (seen.value, seen.proof) == (Value.ON, None)


@respx.mock
def test_an_address_may_hold_statuses_without_a_contact() -> None:
    amy_holds(status(11, "UNSUBSCRIBED"))
    found = read()
    assert found.identifiers == ((Kind.EMAIL, AMY.value),)
    assert found.vendor_id is None
    assert found.values[OFFERS] == Seen(Value.UNSET)


@respx.mock
@pytest.mark.parametrize("broken", ["PAUSED", None, 7, "unsubscribed"])
def test_an_unknown_status_is_refused(broken: Any) -> None:
    amy_holds(status(11, broken), status(12, "SUBSCRIBED"))
    found = read()
    assert isinstance(found, Refused)
    assert "unknown state" in str(found)


@respx.mock
def test_an_unknown_word_of_a_type_that_is_not_ours_is_nothing_to_us() -> None:
    amy_holds(status(11, "SUBSCRIBED"), status(77, "PAUSED"), status(90, "PAUSED"))
    assert values()[NEWS].value is Value.ON


@respx.mock
def test_a_partial_answer_is_no_read() -> None:
    partial = answer(status(11, "SUBSCRIBED"), errors=[{"message": "x"}])
    amy_holds().mock(return_value=partial)
    assert isinstance(read(), Temporary)


# --- unsubscribe-all -----------------------------------------------------------------------------


@respx.mock
def test_unsubscribe_all_is_off_everywhere_and_keeps_reminders_away() -> None:
    amy_holds(status(11, "SUBSCRIBED"), status(12, "NOT_SPECIFIED"), wide=(wide(),))
    seen = values()
    at = datetime(2026, 11, 21, 8, tzinfo=UTC)
    assert seen[NEWS] == Seen(Value.OFF, at=at, ever_on=True)
    assert seen[OFFERS] == Seen(Value.OFF, at=at)
    assert seen[REMINDERS] == Seen(Value.SILENT, fact="blocked")


@respx.mock
def test_who_left_a_type_is_told_beside_an_unsubscribe_all() -> None:
    amy_holds(status(11, "UNSUBSCRIBED", "SOURCE_RECIPIENT"), wide=(wide(),))
    assert values()[NEWS].source is Source.VENDOR_PERSON


@respx.mock
def test_without_unsubscribe_all_reminders_are_reachable_whatever_their_type_says() -> None:
    amy_holds(status(11, "SUBSCRIBED"), status(90, "UNSUBSCRIBED"), wide=(wide("SUBSCRIBED"),))
    assert values()[REMINDERS] == Seen(Value.SILENT)


@respx.mock
def test_leaving_one_brand_leaves_its_types_only() -> None:
    amy_holds(
        status(11, "SUBSCRIBED", businessUnitId=1),
        status(12, "SUBSCRIBED", businessUnitId=2),
        wide=(wide(wideStatusType="BUSINESS_UNIT_WIDE", businessUnitId=1),),
    )
    seen = values()
    assert (seen[NEWS].value, seen[OFFERS].value) == (Value.OFF, Value.ON)


@respx.mock
def test_no_on_goes_past_an_unsubscribe_all() -> None:
    amy_holds(status(11, "UNSUBSCRIBED"), wide=(wide(),))
    sent = respx.post(AMYS).mock(return_value=answer(status(11, "SUBSCRIBED")))
    change = Change(AMY, NEWS, Wish.ON, "consent")
    answers = run(lambda connector: connector.apply([change]))
    assert isinstance(answers[change], Refused)
    assert not sent.called


# --- writing -------------------------------------------------------------------------------------


@respx.mock
@pytest.mark.parametrize(
    ("basis", "legal"),
    [
        ("consent", "CONSENT_WITH_NOTICE"),
        ("soft_opt_in", "LEGITIMATE_INTEREST_CLIENT"),
        ("legitimate_interest", "LEGITIMATE_INTEREST_OTHER"),
    ],
)
def test_an_on_names_its_legal_basis(basis: str, legal: str) -> None:
    amy_holds(status(11, "NOT_SPECIFIED"))
    sent = respx.post(AMYS).mock(return_value=answer(status(11, "SUBSCRIBED")))
    change = Change(AMY, NEWS, Wish.ON, basis, "ticked on the sign-up form")
    run(lambda connector: connector.apply([change]))
    assert json.loads(sent.calls.last.request.content) == {
        "channel": "EMAIL",
        "statusState": "SUBSCRIBED",
        "subscriptionId": 11,
        "legalBasis": legal,
        "legalBasisExplanation": "ticked on the sign-up form",
    }


@respx.mock
@pytest.mark.parametrize("slot", [REMINDERS, Slot("90", Channel.EMAIL), Slot("5", Channel.EMAIL)])
def test_nothing_but_its_marketing_types_is_written(slot: Slot) -> None:
    change = Change(AMY, slot, Wish.OFF)
    answers = run(lambda connector: connector.apply([change]))
    assert isinstance(answers[change], Refused)
    assert not respx.calls


@respx.mock
def test_a_refusal_is_told_without_the_address() -> None:
    error = {
        "status": "error",
        "category": "VALIDATION_ERROR",
        "message": f"Contact <{AMY.value}> has opted out and cannot be resubscribed",
    }
    respx.post(AMYS).mock(return_value=httpx.Response(400, json=error))
    change = Change(AMY, NEWS, Wish.OFF)
    refusal = run(lambda connector: connector.apply([change]))[change]
    assert isinstance(refusal, Refused)
    assert "has opted out" in str(refusal)
    assert "amy" not in str(refusal)


@respx.mock
@pytest.mark.parametrize(
    ("reply", "wait"),
    [
        (httpx.Response(423), 2.0),
        (httpx.Response(477, headers={"Retry-After": "300"}), 300.0),
        (httpx.Response(429, json={"policyName": "DAILY"}), 600.0),
        (httpx.Response(429, json={"policyName": "TEN_SECONDLY_ROLLING"}), 10.0),
        (httpx.Response(429, json={"policyName": "NEW"}), 10.0),
        (httpx.Response(429, headers={"Retry-After": "7"}, json={"policyName": "DAILY"}), 7.0),
        (httpx.Response(521, text="<html>"), None),
    ],
)
def test_how_long_to_wait(
    reply: httpx.Response, wait: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.http._wait", lambda state: 0.0)
    route = respx.post(AMYS).mock(return_value=reply)
    change = Change(AMY, NEWS, Wish.OFF)
    failure = run(lambda connector: connector.apply([change]))[change]
    assert isinstance(failure, Temporary)
    assert failure.retry_after == wait
    assert route.call_count == (1 if wait and wait > 2 else 3)


# --- OAuth ---------------------------------------------------------------------------------------

OAUTH: dict[str, Any] = {
    "token": None,
    "client_id": "id",
    "client_secret": "s",
    "refresh_token": "r",
}


def tokens(*names: str, lasting: int = 1800) -> respx.Route:
    replies = [
        httpx.Response(200, json={"access_token": name, "expires_in": lasting}) for name in names
    ]
    return respx.post(f"{BASE}/oauth/v1/token").mock(side_effect=replies)


@respx.mock
def test_one_token_is_asked_for_and_renewed_ahead_of_its_end() -> None:
    route, clock = tokens("one", "two"), Clock()
    amy_holds(status(11, "SUBSCRIBED"))

    async def job(connector: HubSpot) -> None:
        await asyncio.gather(*(connector.observe([AMY]) for _ in range(5)))
        assert route.call_count == 1
        clock.move(minutes=27)
        await connector.observe([AMY])
        assert route.call_count == 1
        clock.move(minutes=1)
        await asyncio.gather(*(connector.observe([AMY]) for _ in range(5)))
        assert route.call_count == 2

    run(job, clock, **OAUTH)
    form = httpx.QueryParams(route.calls[0].request.content.decode())
    assert form == httpx.QueryParams(
        {"client_id": "id", "client_secret": "s", "refresh_token": "r"}
        | {"grant_type": "refresh_token"}
    )
    sent = [call.request.headers.get("authorization") for call in respx.calls]
    assert {one for one in sent if one} == {"Bearer one", "Bearer two"}


@respx.mock
def test_a_token_revoked_before_its_time_is_replaced() -> None:
    route, clock = tokens("one", "two"), Clock()
    amys = amy_holds(status(11, "SUBSCRIBED"))

    async def job(connector: HubSpot) -> None:
        assert isinstance((await connector.observe([AMY]))[AMY], Observed)
        clock.move(minutes=5)
        ok = answer(status(11, "SUBSCRIBED"))
        amys.mock(side_effect=[httpx.Response(401), ok])
        assert isinstance((await connector.observe([AMY]))[AMY], Observed)

    run(job, clock, **OAUTH)
    assert route.call_count == 2


@respx.mock
def test_a_fresh_token_that_is_refused_parks_the_target() -> None:
    tokens("one")
    respx.get(AMYS).mock(return_value=httpx.Response(401))
    found = run(lambda connector: connector.observe([AMY]), **OAUTH)[AMY]
    assert isinstance(found, Unusable)


@respx.mock
@pytest.mark.parametrize("code", [400, 401, 403])
def test_a_revoked_refresh_token_parks_the_target(code: int) -> None:
    respx.post(f"{BASE}/oauth/v1/token").mock(return_value=httpx.Response(code, json={}))
    found = run(lambda connector: connector.observe([AMY]), **OAUTH)[AMY]
    assert isinstance(found, Unusable)


@respx.mock
@pytest.mark.parametrize("body", ["<html>", "{}", '{"access_token":"x","expires_in":"soon"}', "[]"])
def test_a_token_answer_that_is_none_is_temporary(body: str) -> None:
    respx.post(f"{BASE}/oauth/v1/token").mock(return_value=httpx.Response(200, text=body))
    found = run(lambda connector: connector.observe([AMY]), **OAUTH)[AMY]
    assert isinstance(found, Temporary)


# --- configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"token": None}, "set token"),
        ({"token": None, "client_id": "i", "client_secret": "s"}, "set token"),
        ({"reminder_types": ["11"]}, "cannot be marketing and a reminder type"),
        ({"types": {"newsletter": "news"}}, "is no number"),
        ({"properties": {"email": "x"}}, "properties can hold"),
    ],
)
def test_contradictions_are_named(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        run(lambda connector: connector.containers(), **options)


def test_slots_of_types_and_properties() -> None:
    async def job(connector: HubSpot) -> tuple[Slot, ...]:
        return connector.slots

    slots = run(job, types={"11": "news", "13": "*"}, properties={"sms": "marketing_sms"})
    assert slots == (
        NEWS,
        Slot("13", Channel.EMAIL),
        Slot("property:marketing_sms", Channel.SMS, enforced=False),
    )


# --- walks ---------------------------------------------------------------------------------------


def test_a_walk_goes_on_with_changes_and_again_with_all_after_a_day() -> None:
    clock = Clock()
    first = Walk.start(None, clock())
    assert first.since is None
    page = first.following("100", [])
    assert page is not None
    assert Walk.start(page.text, clock()) == page
    clock.move(hours=1)
    changes = Walk.start(page.rest().text, clock())
    assert changes.since == "2026-11-24T11:55:00+00:00"
    clock.move(hours=22)
    assert Walk.start(changes.rest().text, clock()).since == "2026-11-24T12:55:00+00:00"
    clock.move(hours=1)
    assert Walk.start(changes.rest().text, clock()).since is None


def test_a_search_goes_on_by_time() -> None:
    walk = Walk("2026-11-24T00:00:00+00:00", "2026-11-24T12:00:00+00:00", "2026-11-24T06:00:00Z")
    last = [{"updatedAt": "2026-11-24T07:00:00Z"}]
    onward = walk.following("100", last)
    assert onward is not None
    assert (onward.since, onward.after) == ("2026-11-24T07:00:00Z", None)
    alike = walk.following("100", [{"updatedAt": walk.since}])
    assert alike == replace(walk, after="100")
    stuck = walk.following("10000", [{"updatedAt": walk.since}])
    assert stuck is not None
    assert stuck.since is None
    assert walk.following(None, last) is None
