"""ActiveCampaign: the contract, row statuses, several contacts of one address, numbers, walks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar

import httpx
import pytest
import respx

from connectors import load
from connectors.activecampaign import ActiveCampaign
from connectors.budget import TokenBudget
from prefs.core.errors import Refused, SettingsError, Temporary, Unusable
from prefs.core.propagation import (
    URGENT,
    Absent,
    Applied,
    Change,
    Connector,
    Container,
    Limit,
    Observed,
    Page,
    Ref,
    Slot,
    Target,
    Value,
    Wish,
)
from prefs.core.words import Channel, Kind
from tests.connectors.contract import ConnectorContract, now
from tests.twins.activecampaign import ActiveCampaignTwin
from tests.twins.kit import Limits

T = TypeVar("T")
HELD = {"0": Value.UNSET, "1": Value.ON, "2": Value.OFF, "3": Value.SILENT}
TREATMENTS = Slot("1", Channel.EMAIL, topics=("treatments",))
OFFERS = Slot("2", Channel.EMAIL, topics=("offers", "news"))
TEXTS = Slot("5", Channel.SMS)
REMINDERS = "9"
CONTACTS = "/api/3/contacts"
NUMBER = "+447700900123"
FAST = Limit(1000, 1.0)


class TestActiveCampaign(ConnectorContract):
    system = "activecampaign"
    exempt: ClassVar[Mapping[str, str]] = {
        "bulk": "one call for each contact and list: a bulk import names nobody until it is over"
    }
    small_pages = ("connectors.activecampaign.PAGE",)
    read_path = CONTACTS
    write_path = "/api/3/contactLists"
    scan_path = CONTACTS
    pace: ClassVar[Limit] = FAST

    def make_twin(self) -> ActiveCampaignTwin:
        return ActiveCampaignTwin()

    def furnish(self) -> None:
        self.twin.limits = Limits()
        self.twin.new_list("1", "Treatments")
        self.twin.new_list("2", "Offers and news")
        self.twin.new_list("5", "Texts", channel="sms")
        self.twin.new_list(REMINDERS, "Appointments", purpose="reminders")

    def run(self, job: Callable[[Connector], Awaitable[T]]) -> T:
        """As the contract's, without the vendor's slow pace."""

        async def inside() -> T:
            kind = load(self.system)
            connector: Connector = kind(self.target(), TokenBudget(self.pace), now)
            try:
                return await job(connector)
            finally:
                await connector.close()

        return asyncio.run(inside())

    def options(self) -> Mapping[str, Any]:
        return {
            "api_key": self.twin.token,
            "marketing_lists": {"1": ["treatments"], "2": ["offers", "news"]},
            "service_lists": [REMINDERS],
            "sms_lists": ["5"],
        }

    def put(self, ref: Ref) -> None:
        self.twin.new_contact(ref.value, statuses={"1": "1", REMINDERS: "1"})

    def unset(self, ref: Ref) -> None:
        self.twin.new_contact(ref.value, statuses={"1": "0", REMINDERS: "1"})

    def held(self, ref: Ref) -> Value:
        return HELD[self.twin.status(ref.value, "1") or ""]

    def break_word(self, ref: Ref) -> None:
        self.twin.admin_sets(ref.value, "1", "7")

    def reminders_untouched(self) -> bool:
        return not self.twin.api_changes_of_service()

    def read(self, ref: Ref) -> Observed:
        found = self.observe(ref)[ref]
        assert isinstance(found, Observed), found
        return found

    def values(self, ref: Ref) -> dict[str, Value]:
        return {slot.place: seen.value for slot, seen in self.read(ref).values.items()}

    # --- statuses -------------------------------------------------------------------------------

    def test_what_each_status_says(self) -> None:
        words = {"0": Value.UNSET, "1": Value.ON, "2": Value.OFF, "3": Value.SILENT}
        for number, (status, value) in enumerate(words.items()):
            self.twin.new_contact(self.ref(number).value, statuses={"1": status})
            assert self.values(self.ref(number)) == {"1": value}

    def test_a_bounce_is_a_fact(self) -> None:
        self.put(self.ref(1))
        self.twin.bounces(self.ref(1).value)
        seen = self.read(self.ref(1)).values[TREATMENTS]
        assert (seen.value, seen.fact) == (Value.SILENT, "hard_bounce")

    # --- proof of an opt-in ----------------------------------------------------------------------

    def proof(self, ref: Ref, slot: Slot = TREATMENTS) -> Mapping[str, str] | None:
        """What a read shows; a scan must show the same."""
        read = self.read(ref).values
        scanned = [record for page in self.pages() for record in page.records]
        (listed,) = [found.values for one, found in scanned if one.value == ref.value]
        assert listed == read
        return read[slot].proof

    @pytest.mark.parametrize("slot", [TREATMENTS, TEXTS])
    def test_a_form_proves_with_its_time_and_ip(self, slot: Slot) -> None:
        self.twin.new_contact(self.ref(1).value)
        self.twin.person_subscribes(self.ref(1).value, slot.place, form="5", ip="192.0.2.7")
        (row,) = self.twin.state.rows.values()
        assert self.proof(self.ref(1), slot) == {
            "at": row.subscribed.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "how": "sign-up form",
            "form": "5",
            "ip": "192.0.2.7",
        }

    @pytest.mark.parametrize("ip", ["", "198.51.100.4"])
    def test_who_was_imported_with_a_time_and_an_ip_proves_nothing(self, ip: str) -> None:
        self.twin.imported(self.ref(1).value, "1", ip=ip)
        assert self.proof(self.ref(1)) is None

    def test_who_staff_or_a_program_added_proves_nothing(self) -> None:
        self.put(self.ref(1))
        assert self.proof(self.ref(1)) is None
        self.unset(self.ref(2))
        self.apply(Wish.ON, self.ref(2))
        assert self.held(self.ref(2)) is Value.ON
        assert self.proof(self.ref(2)) is None

    def test_who_was_put_back_proves_nothing(self) -> None:
        for number in (1, 2):
            self.twin.new_contact(self.ref(number).value)
            self.twin.person_subscribes(self.ref(number).value, "1")
            self.twin.person_unsubscribes(self.ref(number).value, "1")
        self.apply(Wish.ON, self.ref(1))
        assert self.proof(self.ref(1)) is None
        self.twin.configure(clock_shift=30 * 86400)
        self.twin.admin_sets(self.ref(2).value, "1", "1")
        assert self.proof(self.ref(2)) is None

    def test_a_removed_membership_is_no_entry_and_no_opt_out(self) -> None:
        self.put(self.ref(1))
        self.twin.admin_sets(self.ref(1).value, "1", "91")
        assert self.values(self.ref(1)) == {}

    def test_somebody_on_no_list_is_there_without_entries(self) -> None:
        self.twin.new_contact(self.ref(1).value)
        assert self.read(self.ref(1)).values == {}
        assert isinstance(self.observe(self.ref(2))[self.ref(2)], Absent)

    def test_service_lists_are_not_read_whatever_they_say(self) -> None:
        self.twin.new_contact(self.ref(1).value, statuses={REMINDERS: "7", "1": "1"})
        assert self.values(self.ref(1)) == {"1": Value.ON}

    def test_it_tells_when_they_left_and_that_they_were_there(self) -> None:
        self.put(self.ref(1))
        before = datetime.now(UTC).replace(microsecond=0)
        self.twin.person_unsubscribes(self.ref(1).value, "1")
        seen = self.read(self.ref(1)).values[TREATMENTS]
        assert (seen.value, seen.source, seen.ever_on) == (Value.OFF, None, True)
        assert seen.at is not None
        assert before <= seen.at <= datetime.now(UTC)

    def test_topics_are_switched_list_by_list(self) -> None:
        self.twin.new_contact(self.ref(1).value, statuses={"1": "1", "2": "1", "5": "1"})
        self.apply(Wish.OFF, self.ref(1))
        off = {"1": Value.OFF, "2": Value.ON, "5": Value.ON}
        assert self.values(self.ref(1)) == off

    # --- who is meant -----------------------------------------------------------------------------

    def test_an_address_is_found_whatever_its_case_and_signs(self) -> None:
        self.twin.new_contact("Amy+news@Example.com", statuses={"1": "1"})
        ref = Ref(Kind.EMAIL, "amy+NEWS@example.com")
        assert self.values(ref) == {"1": Value.ON}

    def test_a_contact_is_found_by_its_id(self) -> None:
        number = self.twin.new_contact("amy@example.com", "07700 900123", {"1": "1"})
        ref, gone = Ref(None, "", number), Ref(None, "", "999")
        found = self.observe(ref, gone)
        assert found[ref].identifiers == (
            (Kind.EMAIL, "amy@example.com"),
            (Kind.PHONE, "07700 900123"),
        )
        assert found[ref].vendor_id == number
        assert isinstance(found[gone], Absent)
        assert isinstance(self.apply(Wish.OFF, ref)[ref], Applied)
        assert self.twin.status("amy@example.com", "1") == "2"

    def test_an_erased_address_is_found_by_its_id_too(self) -> None:
        number = self.twin.new_contact("amy@example.com", statuses={"1": "1"})
        ref = Ref(Kind.EMAIL, "", number)
        assert self.values(ref) == {"1": Value.ON}
        assert isinstance(self.apply(Wish.OFF, ref)[ref], Applied)

    @pytest.mark.parametrize("number", ["", "me", "1/contactLists", "-1"])
    def test_what_is_no_id_is_never_asked_for(self, number: str) -> None:
        ref = Ref(None, "", number)
        assert isinstance(self.observe(ref)[ref], Refused)
        assert self.twin.calls == []

    @pytest.mark.parametrize(
        "text",
        ["+447700900123", "447700900123", "07700900123", "+44 7700 900123", "07700 900123"],
    )
    def test_a_number_is_found_as_it_was_typed_in(self, text: str) -> None:
        self.twin.new_contact("amy@example.com", text, {"5": "1"})
        read = self.read(Ref(Kind.PHONE, NUMBER))
        assert read.values[TEXTS].value is Value.ON
        assert (Kind.PHONE, NUMBER) in read.identifiers

    def test_a_number_that_only_begins_alike_is_somebody_else(self) -> None:
        self.twin.new_contact("bob@example.com", NUMBER + "4", {"5": "1"})
        ref = Ref(Kind.PHONE, NUMBER)
        assert isinstance(self.observe(ref)[ref], Absent)

    def test_other_kinds_are_refused(self) -> None:
        ref = Ref(Kind.MESSENGER, "page:1")
        assert isinstance(self.observe(ref)[ref], Refused)
        assert self.twin.calls == []

    # --- several contacts of one address ----------------------------------------------------------

    def test_an_address_is_off_only_where_all_its_contacts_are(self) -> None:
        for statuses in ({"1": "2", "2": "2"}, {"1": "1", "2": "2"}, {"2": "2"}):
            self.twin.new_contact(self.ref(1).value, statuses=statuses)
        assert self.values(self.ref(1)) == {"1": Value.ON, "2": Value.OFF}

    def test_all_contacts_that_are_on_the_list_are_turned_off_and_no_other_is_put_on(self) -> None:
        ids = [
            self.twin.new_contact(self.ref(1).value, statuses=statuses)
            for statuses in ({"1": "1"}, {"1": "1"}, {}, {"1": "91"}, {"1": "3"})
        ]
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], Applied)
        held = [self.twin.state.rows.get(f"{one}/1") for one in ids]
        assert [row and row.status for row in held] == ["2", "2", None, "91", "3"]

    @pytest.mark.parametrize("numbers", [("+447700900101", "+447700900102"), (NUMBER, "")])
    def test_several_people_of_one_address_are_not_switched_on_together(
        self, numbers: tuple[str, str]
    ) -> None:
        """One of them may be out by a number that the others do not have."""
        ids = [
            self.twin.new_contact(self.ref(1).value, number, {"1": "2", "5": "2"})
            for number in numbers
        ]
        answer = self.apply(Wish.ON, self.ref(1))[self.ref(1)]
        assert isinstance(answer, Refused)
        assert self.ref(1).value not in str(answer)
        assert [self.twin.state.rows[f"{one}/1"].status for one in ids] == ["2", "2"]
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], Applied)

    def test_doubles_of_one_person_are_switched_on_together(self) -> None:
        for number in ("07700 900123", NUMBER):
            self.twin.new_contact(self.ref(1).value, number, {"1": "2"})
        assert isinstance(self.apply(Wish.ON, self.ref(1))[self.ref(1)], Applied)
        assert {row.status for row in self.twin.state.rows.values()} == {"1"}

    def test_one_that_fails_keeps_no_other_from_its_opt_out(self) -> None:
        ids = [self.twin.new_contact(self.ref(1).value, statuses={"1": "1"}) for _ in range(2)]
        self.twin.faults.add("status", path=self.write_path, status=422)
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], Refused)
        assert [self.twin.state.rows[f"{one}/1"].status for one in ids] == ["1", "2"]

    def test_of_several_failures_the_one_that_may_pass_is_told(self) -> None:
        for _ in range(2):
            self.twin.new_contact(self.ref(1).value, statuses={"1": "1"})
        self.twin.faults.add("status", path=self.write_path, status=422)
        self.twin.faults.add("status", path=self.write_path, status=503, times=None)
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], Temporary)

    def test_of_several_failures_the_one_that_may_still_be_at_work_is_told(self) -> None:
        for _ in range(3):
            self.twin.new_contact(self.ref(1).value, NUMBER, statuses={"1": "2"})
        for status in (422, 503, 504):
            self.twin.faults.add("status", path=self.write_path, status=status)
        answer = self.apply(Wish.ON, self.ref(1))[self.ref(1)]
        assert isinstance(answer, Temporary)
        assert answer.unclear

    def test_a_shared_number_shows_only_what_all_share(self) -> None:
        for name in ("amy", "bob"):
            self.twin.new_contact(f"{name}@example.com", NUMBER, {"5": "1"})
        read = self.read(Ref(Kind.PHONE, NUMBER))
        assert read.identifiers == ((Kind.PHONE, NUMBER),)
        assert read.vendor_id is None

    # --- writing ----------------------------------------------------------------------------------

    def test_who_left_by_themselves_is_put_back_silently(self) -> None:
        """The vendor allows it: our side alone decides that there is consent."""
        self.put(self.ref(1))
        self.twin.person_unsubscribes(self.ref(1).value, "1")
        assert isinstance(self.apply(Wish.ON, self.ref(1))[self.ref(1)], Applied)
        assert self.held(self.ref(1)) is Value.ON
        (call,) = self.twin.writes()
        assert call.json()["contactList"]["sourceid"] == 4

    def test_an_unknown_person_is_not_created_by_a_write(self) -> None:
        for to in (Wish.OFF, Wish.ON):
            assert isinstance(self.apply(to, self.ref(1))[self.ref(1)], Refused)
        assert self.twin.writes() == []

    @pytest.mark.parametrize(
        "slot",
        [
            Slot(REMINDERS, Channel.EMAIL),
            Slot("7", Channel.EMAIL),
            Slot("1", Channel.SMS),
        ],
    )
    def test_nothing_but_its_marketing_lists_is_written(self, slot: Slot) -> None:
        self.put(self.ref(1))
        change = Change(self.ref(1), slot, Wish.OFF)
        answers = self.run(lambda connector: connector.apply([change]))
        assert isinstance(answers[change], Refused)
        assert self.twin.writes() == []

    def test_the_slots_of_one_person_are_found_once(self) -> None:
        self.twin.new_contact(self.ref(1).value, statuses={"1": "1", "2": "1", "5": "1"})

        async def job(connector: Connector) -> Mapping[Change, Any]:
            return await connector.apply(
                [Change(self.ref(1), slot, Wish.OFF) for slot in connector.slots]
            )

        assert len(self.run(job)) == 3
        assert [call.method for call in self.twin.calls] == ["GET", "POST", "POST", "POST"]

    def test_a_bad_key_is_403_and_the_target_unusable(self) -> None:
        self.put(self.ref(1))
        self.twin.configure(token="another")
        options = {**self.options(), "api_key": "revoked"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self, "options", lambda: options)
            assert isinstance(self.observe(self.ref(1))[self.ref(1)], Unusable)

    def test_a_refusal_tells_the_vendors_code_and_no_address(self) -> None:
        self.put(self.ref(1))
        body = '{"errors":[{"title":"p1@example.com is bad","code":"field_invalid"}]}'
        self.twin.faults.add("status", path=self.write_path, status=422, body=body)
        refusal = self.apply(Wish.OFF, self.ref(1))[self.ref(1)]
        assert isinstance(refusal, Refused)
        assert str(refusal) == "HTTP 422: field_invalid"

    def test_five_a_second_are_enough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A call may arrive late and be counted with the next second's: it is tried again."""
        refs = [self.ref(number) for number in range(6)]
        for ref in refs:
            self.put(ref)
        self.twin.limits = ActiveCampaignTwin.default_limits()
        monkeypatch.setattr(type(self), "pace", ActiveCampaign.facts.limit)
        token = URGENT.set(True)
        found = self.observe(*refs)
        URGENT.reset(token)
        assert all(isinstance(found[ref], Observed) for ref in refs)
        assert len(self.twin.calls) == 6 + self.twin.limits.refused

    def test_a_pause_that_the_vendor_asks_for_is_kept(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("connectors.http._wait", lambda state: 0.0)
        self.put(self.ref(1))
        self.twin.faults.add("status", path=CONTACTS, status=429, headers={"Retry-After": "1"})
        self.read(self.ref(1))
        first, second = (call.began for call in self.twin.calls[:2])
        assert second - first >= 1.0

    def test_a_person_is_read_in_one_call(self) -> None:
        """The rows come along; where they do not, they are read alone."""
        self.put(self.ref(1))
        assert self.value(self.ref(1)) is Value.ON
        assert len(self.twin.calls) == 1
        self.twin.configure(sideloads=False)
        assert self.value(self.ref(1)) is Value.ON
        assert len(self.twin.calls) == 3

    # --- walks and lists --------------------------------------------------------------------------

    def walk(self, cursor: str | None) -> list[Page]:
        async def job(connector: Connector) -> list[Page]:
            return [page async for page in connector.scan(cursor)]

        return self.run(job)

    def test_a_walk_of_many_goes_by_hundreds(self) -> None:
        for number in range(250):
            self.put(self.ref(number))
        pages = self.walk(None)
        assert [len(page.records) for page in pages] == [100, 100, 50, 0]
        assert len(self.twin.calls) == 4
        assert pages[-1].next_cursor == "0"
        assert self.walk("0")[-1].complete

    def test_a_walk_goes_on_where_it_broke_off(self) -> None:
        for number in range(150):
            self.put(self.ref(number))
        self.twin.faults.add("status", path=self.scan_path, status=500, skip=1, times=None)
        seen: list[Page] = []

        async def kept(connector: Connector) -> None:
            async for page in connector.scan(None):
                seen.append(page)

        with pytest.raises(Temporary):
            self.run(kept)
        self.twin.faults.clear()
        rest = self.walk(seen[-1].next_cursor)
        assert [len(page.records) for page in (*seen, *rest)] == [100, 50, 0]
        assert rest[-1].next_cursor == "0"
        assert not rest[-1].complete

    def test_a_walk_reads_alone_what_does_not_come_along(self) -> None:
        self.twin.configure(sideloads=False)
        for number in range(3):
            self.put(self.ref(number))
        pages = self.walk(None)
        values = [read.values[TREATMENTS].value for _, read in pages[0].records]
        assert values == [Value.ON] * 3
        assert pages[-1].complete

    def test_a_walk_that_cannot_read_one_alone_ends(self) -> None:
        self.twin.configure(sideloads=False)
        self.put(self.ref(1))
        self.twin.faults.add("status", path=".*/contactLists", status=500, times=None)
        with pytest.raises(Temporary):
            self.walk(None)

    def test_those_on_no_list_cost_a_walk_nothing(self) -> None:
        for number in range(5):
            self.twin.new_contact(self.ref(number).value)
        pages = self.walk(None)
        assert [len(page.records) for page in pages] == [5, 0]
        assert len(self.twin.calls) == 2

    def test_a_walk_with_an_unknown_word_is_not_complete(self) -> None:
        for number in (1, 2):
            self.put(self.ref(number))
        self.break_word(self.ref(2))
        pages = self.walk(None)
        assert [ref.value for page in pages for ref, _ in page.records] == [self.ref(1).value]
        assert not any(page.complete for page in pages)

    def test_containers_are_the_lists(self) -> None:
        for number in range(100, 220):
            self.twin.new_list(str(number), f"List {number}")
        found = self.run(lambda connector: connector.containers())
        assert len(found) == 124
        assert Container(REMINDERS, "Appointments", sends=True) in found


# --- odd answers --------------------------------------------------------------------------------

BASE = "http://127.0.0.1:9"
AMY = Ref(Kind.EMAIL, "amy@example.com")
AMYS = {"id": "42", "email": "amy@example.com", "phone": ""}


def target(**options: Any) -> Target:
    given = {"api_key": "k", "marketing_lists": {"1": ["treatments"]}, **options}
    base = given.pop("base_url", BASE)
    return Target("activecampaign", "rt", "activecampaign", True, base, given, ("treatments",))


def run(job: Callable[[ActiveCampaign], Awaitable[T]], **options: Any) -> T:
    async def inside() -> T:
        connector = ActiveCampaign(target(**options), TokenBudget(FAST), now)
        try:
            return await job(connector)
        finally:
            await connector.close()

    return asyncio.run(inside())


def amy_is(*rows: Mapping[str, Any], **found: Any) -> None:
    contacts = found or {"contacts": [AMYS], "meta": {"total": "1"}}
    respx.get(f"{BASE}{CONTACTS}").mock(return_value=httpx.Response(200, json=contacts))
    respx.get(f"{BASE}{CONTACTS}/42/contactLists").mock(
        return_value=httpx.Response(200, json={"contactLists": list(rows)})
    )


def set_answers(reply: object) -> Any:
    amy_is()
    respx.post(f"{BASE}/api/3/contactLists").mock(return_value=httpx.Response(200, json=reply))
    change = Change(AMY, TREATMENTS, Wish.OFF)
    return run(lambda connector: connector.apply([change])).get(change)


@respx.mock
@pytest.mark.parametrize("status", ["2", 2])
def test_statuses_come_as_texts_and_as_numbers(status: object) -> None:
    row = {"contact": "42", "list": 1, "status": status, "sdate": None, "udate": None}
    amy_is(row)
    read = run(lambda connector: connector.observe([AMY]))[AMY]
    assert isinstance(read, Observed)
    (seen,) = read.values.values()
    assert (seen.value, seen.at, seen.ever_on) == (Value.OFF, None, False)
    reply = {"contactList": {"contact": "42", "list": "1", "status": status}}
    assert isinstance(set_answers(reply), Applied)


FORM = {
    "contact": "42",
    "list": "1",
    "status": "1",
    "form": "5",
    "sdate": "2021-04-08T11:17:44-05:00",
    "udate": None,
    "sourceid": "1",
    "ip4Sub": "3221225991",
    "created_timestamp": "2021-04-08 11:17:44",
}


def proof_of_amy(changed: Mapping[str, Any]) -> Mapping[str, str] | None:
    amy_is({**FORM, **changed})
    read = run(lambda connector: connector.observe([AMY]))[AMY]
    assert isinstance(read, Observed)
    (seen,) = read.values.values()
    return seen.proof


@respx.mock
@pytest.mark.parametrize(
    ("changed", "ip"),
    [
        ({}, "192.0.2.7"),
        ({"form": 5, "sourceid": 1, "ip4Sub": "192.0.2.7"}, "192.0.2.7"),
        ({"ip4Sub": "0", "udate": "0000-00-00"}, None),
        ({"ip4Sub": "XXXXXXXXXX"}, None),
        ({"ip4Sub": "99999999999"}, None),
    ],
)
def test_a_row_of_a_form_proves(changed: Mapping[str, Any], ip: str | None) -> None:
    shown = {"at": "2021-04-08T16:17:44Z", "how": "sign-up form", "form": "5"}
    assert proof_of_amy(changed) == (shown | {"ip": ip} if ip else shown)


@respx.mock
@pytest.mark.parametrize(
    "changed",
    [
        {"form": None},
        {"form": "0"},
        {"form": ""},
        {"sdate": None},
        {"sdate": "0000-00-00 00:00:00"},
        {"sdate": "2021-04-08 11:17:44"},
        {"status": "0"},
        {"status": "2"},
        {"sourceid": "4"},
        {"udate": "2021-03-01T00:00:00-05:00"},
        {"created_timestamp": "2021-03-01 11:17:44"},
    ],
)
def test_a_row_that_is_not_complete_or_not_theirs_proves_nothing(
    changed: Mapping[str, Any],
) -> None:
    assert proof_of_amy(changed) is None


@respx.mock
def test_an_answer_with_another_status_is_refused() -> None:
    reply = {"contactList": {"contact": "42", "list": "1", "status": 1}}
    assert isinstance(set_answers(reply), Refused)


@respx.mock
@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"contacts": []},
        {"contactList": {"contact": "43", "list": "1", "status": 2}},
        {"contactList": {"contact": "42", "list": "9", "status": 2}},
    ],
)
def test_an_answer_that_does_not_name_the_row_leaves_it_unknown(reply: object) -> None:
    assert set_answers(reply) is None


@respx.mock
@pytest.mark.parametrize(
    "found",
    [
        {"contacts": None},
        {"contacts": ["42"]},
        {"contacts": [{"email": "amy@example.com"}]},
        {"contacts": [{**AMYS, "email": "bob@example.com"}]},
        {"error": "x"},
    ],
)
def test_a_strange_answer_is_never_absence(found: dict[str, Any]) -> None:
    amy_is(**found)
    assert isinstance(run(lambda connector: connector.observe([AMY]))[AMY], Temporary)


@respx.mock
def test_two_contacts_with_one_address_show_it_whatever_its_case() -> None:
    amy_is(contacts=[AMYS, {**AMYS, "id": "43", "email": "Amy@Example.com"}])
    respx.get(f"{BASE}{CONTACTS}/43/contactLists").respond(200, json={"contactLists": []})
    read = run(lambda connector: connector.observe([AMY]))[AMY]
    assert isinstance(read, Observed)
    assert read.identifiers == ((Kind.EMAIL, "amy@example.com"),)


@respx.mock
def test_another_contacts_rows_are_not_taken() -> None:
    amy_is({"contact": "43", "list": "1", "status": "1"})
    assert isinstance(run(lambda connector: connector.observe([AMY]))[AMY], Temporary)


@respx.mock
def test_a_404_that_is_no_json_is_no_absence() -> None:
    ref = Ref(None, "", "42")
    route = respx.get(f"{BASE}{CONTACTS}/42")
    route.mock(return_value=httpx.Response(404, text="<html>no such host</html>"))
    assert isinstance(run(lambda connector: connector.observe([ref]))[ref], Refused)
    missing = {"message": "No Result found for Subscriber with id 42"}
    route.mock(return_value=httpx.Response(404, json=missing))
    assert isinstance(run(lambda connector: connector.observe([ref]))[ref], Absent)


@respx.mock
def test_a_contact_that_goes_away_in_between_is_read_again_later() -> None:
    amy_is()
    missing = {"message": "No Result found for Subscriber with id 42"}
    respx.get(f"{BASE}{CONTACTS}/42/contactLists").respond(404, json=missing)
    assert isinstance(run(lambda connector: connector.observe([AMY]))[AMY], Temporary)


@respx.mock
def test_a_row_that_a_page_names_but_does_not_show_is_read_alone() -> None:
    shown = {"id": "7", "contact": "42", "list": "9", "status": "1"}
    beside = {
        "contacts": [{**AMYS, "contactLists": ["7", "8"]}],
        "contactLists": [shown],
        "meta": {"total": "1"},
    }
    amy_is(shown, {"id": "8", "contact": "42", "list": "1", "status": "2"})
    pages = [httpx.Response(200, json=beside), httpx.Response(200, json={"contacts": []})]
    respx.get(f"{BASE}{CONTACTS}").mock(side_effect=pages)

    async def job(connector: ActiveCampaign) -> list[Page]:
        return [page async for page in connector.scan(None)]

    ((_, read),) = run(job)[0].records
    assert [seen.value for seen in read.values.values()] == [Value.OFF]


@respx.mock
def test_pages_that_do_not_go_on_end_the_walk() -> None:
    amy_is({"contact": "42", "list": "1", "status": "1"})

    async def job(connector: ActiveCampaign) -> list[Page]:
        return [page async for page in connector.scan(None)]

    with pytest.raises(Temporary):
        run(job)


# --- configuration ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"base_url": None}, "set the URL"),
        ({"marketing_lists": {}}, "set marketing_lists"),
        ({"service_lists": ["1"]}, "list 1 stands twice"),
        ({"sms_lists": [1]}, "list 1 stands twice"),
        ({"marketing_lists": {"news": ["news"]}}, "is no number"),
    ],
)
def test_contradictions_are_named(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        run(lambda connector: connector.containers(), **options)


def test_slots_of_lists_are_known_without_a_call() -> None:
    async def job(connector: ActiveCampaign) -> Sequence[Slot]:
        return connector.slots

    lists = {"1": ["treatments"], "2": "*", "3": []}
    assert run(job, marketing_lists=lists, sms_lists=[5]) == (
        TREATMENTS,
        Slot("2", Channel.EMAIL),
        Slot("3", Channel.EMAIL),
        TEXTS,
    )
