"""Pipedrive: the contract, the silent refusal, fields, several persons, the cost of searches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypeVar

import httpx
import pytest

from connectors import http, pipedrive
from connectors.budget import TokenBudget
from connectors.pipedrive import Pipedrive, Walk
from prefs.core.errors import Refused, SettingsError, Temporary, Unusable
from prefs.core.propagation import (
    Absent,
    Applied,
    Change,
    Connector,
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
from prefs.core.signals import Delivery, Recheck
from prefs.core.words import Channel, Kind
from tests.connectors.contract import ConnectorContract
from tests.twins.kit import Letter, running
from tests.twins.pipedrive import PipedriveTwin
from webhooks import pipedrive as webhook

T = TypeVar("T")
PERSONS = "/api/v2/persons"
FIELDS = "/api/v2/personFields"
LABELS = ("No objection", "Opted out")
HELD = {
    "subscribed": Value.ON,
    "unsubscribed": Value.OFF,
    "no_consent": Value.UNSET,
    "No objection": Value.ON,
    "Opted out": Value.OFF,
    "": Value.UNSET,
}
STATUS = Slot("marketing_status", Channel.EMAIL)
EMAIL, SMS, PHONE, POST, MESSENGER = (
    Slot(f"field:{name}", Channel(name), enforced=False)
    for name in ("email", "sms", "phone", "post", "messenger")
)
AMY = Ref(Kind.EMAIL, "amy@example.com")
NUMBER = Ref(Kind.PHONE, "+447700900123")


class Account(ConnectorContract):
    """An account in which every field of ours stands already, beside one of reminders."""

    system = "pipedrive"
    exempt: ClassVar[Mapping[str, str]] = {"bulk": "Pipedrive has no bulk call for persons"}
    small_pages = ("connectors.pipedrive.PAGE",)
    read_path = PERSONS
    write_path = rf"{PERSONS}/[0-9]+$"
    write_method = "PATCH"
    scan_path = f"{PERSONS}$"
    campaigns = True

    def make_twin(self) -> PipedriveTwin:
        return PipedriveTwin()

    def furnish(self) -> None:
        self.twin.configure(campaigns=self.campaigns)
        self.twin.new_field("Appointment reminders", ["By email", "None"])
        for channel in Channel:
            self.twin.new_field(f"Marketing - {channel}", LABELS)

    def options(self) -> Mapping[str, Any]:
        return {"token": self.twin.token, "campaigns": self.campaigns}

    def listen(self, url: str) -> Mapping[str, Any]:
        self.twin.configure(webhook_url=url)
        user, password = self.twin.webhook_user, self.twin.webhook_password
        return {"webhook_user": user, "webhook_password": password}

    def reminders_untouched(self) -> bool:
        ours = {"marketing_status", *(f"Marketing - {channel}" for channel in Channel)}
        return {write.key for write in self.twin.state.writes} <= ours

    def person(self, ref: Ref) -> int:
        """The twin's own number of the one person with this address or number."""
        (found,) = (
            one.id
            for one in self.twin.state.persons.values()
            if ref.value in (*one.emails, *one.phones)
        )
        return int(found)


class TestCampaigns(Account):
    """Email by the marketing status, which Pipedrive enforces."""

    def put(self, ref: Ref) -> None:
        self.twin.new_person(emails=[ref.value], status="subscribed")

    def unset(self, ref: Ref) -> None:
        self.twin.new_person(emails=[ref.value])

    def held(self, ref: Ref) -> Value:
        return HELD[self.twin.status(ref.value)]

    def break_word(self, ref: Ref) -> None:
        self.twin.staff_sets_status(ref.value, "pending_double_opt_in")

    def test_an_off_sets_status_and_field_in_one_call(self) -> None:
        self.put(AMY)
        self.apply(Wish.OFF, AMY)
        (call,) = self.twin.writes()
        assert call.json()["marketing_status"] == "unsubscribed"
        assert len(call.json()["custom_fields"]) == 1
        assert self.twin.option(self.person(AMY), "Marketing - email") == "Opted out"

    def test_a_field_that_cannot_be_made_does_not_keep_the_status_from_being_set(self) -> None:
        self.twin.configure(admin=False)
        self.put(AMY)
        self.options_are(fields={"email": "Newsletter"})
        assert isinstance(self.apply(Wish.OFF, AMY)[AMY], Applied)
        assert self.held(AMY) is Value.OFF

    def options_are(self, **more: Any) -> None:
        given = {**self.options(), **more}
        self.options = lambda: given  # type: ignore[method-assign]  # this instance only

    def test_a_confirmed_double_opt_in_without_its_time_proves_nothing(self) -> None:
        self.put(AMY)
        self.twin.person_subscribes(AMY.value)
        path, key = f"{self.url}{PERSONS}/{self.person(AMY)}", {"x-api-token": self.twin.token}
        shown = httpx.get(path, params={"include_fields": "doi_status"}, headers=key).json()
        assert shown["data"]["doi_status"] == "confirmed"
        seen = self.observe(AMY)[AMY].values[STATUS]
        assert (seen.value, seen.proof) == (Value.ON, None)

    # --- the silent refusal -----------------------------------------------------------------------

    def test_the_way_back_is_refused_in_silence_and_told(self) -> None:
        self.put(AMY)
        self.twin.person_unsubscribes(AMY.value)
        answer = self.apply(Wish.ON, AMY)[AMY]
        assert isinstance(answer, Refused)
        assert "kept the old status" in str(answer)
        assert self.twin.calls[-1].status == 200
        assert len(self.twin.writes()) == 1
        assert self.value(AMY) is Value.OFF

    def test_an_off_that_pipedrive_does_not_take_is_told(self) -> None:
        self.put(AMY)
        self.apply(Wish.OFF, AMY)
        self.twin.person_subscribes(AMY.value)
        answer = self.apply(Wish.OFF, AMY)[AMY]
        assert isinstance(answer, Refused)
        assert self.value(AMY) is Value.ON
        assert self.twin.option(self.person(AMY), "Marketing - email") == "Opted out"

    def test_the_other_slots_of_a_kept_status_are_done(self) -> None:
        self.put(AMY)
        self.twin.person_unsubscribes(AMY.value)
        answers = self.change(Wish.ON, AMY, STATUS, SMS)
        assert isinstance(answers[STATUS], Refused)
        assert isinstance(answers[SMS], Applied)
        assert len(self.twin.writes()) == 1

    def change(self, to: Wish, ref: Ref, *slots: Slot) -> dict[Slot, Any]:
        async def job(connector: Connector) -> Mapping[Change, Any]:
            return await connector.apply([Change(ref, slot, to) for slot in slots])

        return {change.slot: answer for change, answer in self.run(job).items()}

    # --- what a status says -----------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("word", "seen"),
        [
            ("subscribed", Seen(Value.ON)),
            ("unsubscribed", Seen(Value.OFF)),
            ("no_consent", Seen(Value.UNSET)),
            ("archived", Seen(Value.SILENT)),
            ("bounced", Seen(Value.SILENT, fact="hard_bounce")),
        ],
    )
    def test_words(self, word: str, seen: Seen) -> None:
        self.twin.new_person(emails=[AMY.value], status=word)
        assert self.observe(AMY)[AMY].values[STATUS] == seen

    def test_a_person_without_a_valid_address_has_no_status(self) -> None:
        self.twin.new_person(emails=["amy at home"], phones=[NUMBER.value])
        found = self.observe(NUMBER)[NUMBER]
        assert set(found.values) == {SMS, PHONE, POST, MESSENGER}
        answers = self.change(Wish.OFF, NUMBER, STATUS, SMS)
        assert isinstance(answers[STATUS], Local)
        assert isinstance(answers[SMS], Applied)
        assert "marketing_status" not in self.twin.writes()[0].json()

    def test_without_the_add_on_a_missing_status_is_never_guessed(self) -> None:
        self.put(AMY)
        self.twin.configure(campaigns=False)
        refusal = self.observe(AMY)[AMY]
        assert isinstance(refusal, Refused)
        assert "Campaigns" in str(refusal)
        with pytest.raises(Refused, match="Campaigns"):
            self.pages()

    def test_a_reply_without_a_status_is_left_to_the_read_back(self) -> None:
        self.put(AMY)
        self.twin.configure(campaigns=False)
        assert isinstance(self.apply(Wish.OFF, AMY)[AMY], Applied)
        assert self.held(AMY) is Value.ON

    def test_the_slots(self) -> None:
        async def job(connector: Connector) -> tuple[Slot, ...]:
            return connector.slots

        assert set(self.run(job)) == {STATUS, SMS, PHONE, POST, MESSENGER}
        assert self.twin.calls == []

    # --- several persons --------------------------------------------------------------------------

    def test_every_person_with_the_address_is_turned_off(self) -> None:
        first = self.twin.new_person(emails=["Amy@Example.com"], status="subscribed")
        second = self.twin.new_person(emails=["other@example.com", AMY.value], status="subscribed")
        assert self.value(AMY) is Value.ON
        self.twin.person_unsubscribes("other@example.com")
        assert self.value(AMY) is Value.UNSET, "neither an out nor an in is met"
        assert isinstance(self.apply(Wish.OFF, AMY)[AMY], Applied)
        assert {write.person for write in self.twin.state.writes} == {first, second}
        assert self.value(AMY) is Value.OFF

    def test_one_person_that_fails_does_not_stop_the_others(self) -> None:
        first = self.twin.new_person(emails=[AMY.value], status="subscribed")
        second = self.twin.new_person(emails=["b@example.com", AMY.value], status="subscribed")
        for number, other in ((first, second), (second, first)):
            self.twin.faults.clear()
            path = f"{PERSONS}/{number}$"
            self.twin.faults.add("status", method="PATCH", path=path, status=403, times=None)
            answer = self.apply(Wish.OFF, AMY)[AMY]
            assert isinstance(answer, Refused)
            assert "may not edit" in str(answer)
            assert self.twin.option(other, "Marketing - email") == "Opted out"

    def test_a_refusal_of_one_hides_no_write_to_another_that_may_still_be_at_work(self) -> None:
        first = self.twin.new_person(emails=[AMY.value], status="unsubscribed")
        second = self.twin.new_person(emails=["b@example.com", AMY.value], status="unsubscribed")
        for number, status in ((first, 403), (second, 504)):
            path = f"{PERSONS}/{number}$"
            self.twin.faults.add("status", method="PATCH", path=path, status=status, times=None)
        answer = self.apply(Wish.ON, AMY)[AMY]
        assert isinstance(answer, Temporary)
        assert answer.unclear

    def test_identifiers_of_all_of_them_are_shown(self) -> None:
        self.twin.new_person(emails=[AMY.value], phones=["07700 900123"])
        self.twin.new_person(emails=[AMY.value], phones=["+44 7700 900124"])
        found = self.observe(AMY)[AMY]
        assert found.vendor_id is None
        assert found.identifiers == (
            (Kind.EMAIL, AMY.value),
            (Kind.PHONE, "07700 900123"),
            (Kind.PHONE, "+44 7700 900124"),
        )

    # --- by id ------------------------------------------------------------------------------------

    def test_a_person_is_found_by_its_id(self) -> None:
        number = self.twin.new_person(
            emails=["Amy@Example.com"], phones=["07700900123"], status="subscribed"
        )
        ref = Ref(None, "", str(number))
        found = self.observe(ref)[ref]
        assert found.values[STATUS].value is Value.ON
        assert found.vendor_id == str(number)
        assert found.identifiers == (
            (Kind.EMAIL, "Amy@Example.com"),
            (Kind.PHONE, "07700900123"),
        )
        assert isinstance(self.apply(Wish.OFF, ref)[ref], Applied)
        assert self.twin.status("amy@example.com") == "unsubscribed"

    def test_who_is_deleted_or_purged_is_absent(self) -> None:
        deleted, purged = (self.twin.new_person(emails=[f"d{n}@example.com"]) for n in range(2))
        self.twin.delete_person(deleted)
        self.twin.delete_person(purged, purge=True)
        refs = [Ref(None, "", str(deleted)), Ref(None, "", str(purged))]
        refs.append(Ref(Kind.EMAIL, "d0@example.com"))
        assert all(isinstance(found, Absent) for found in self.observe(*refs).values())
        answers = self.apply(Wish.OFF, *refs)
        assert all(isinstance(answer, Local) for answer in answers.values())
        assert self.twin.writes() == []

    @pytest.mark.parametrize("number", ["", "../users/1", "12/merge", "x", "١"])
    def test_what_is_no_id_is_never_asked_for(self, number: str) -> None:
        ref = Ref(None, "", number)
        assert isinstance(self.observe(ref)[ref], Refused)
        assert all(call.path == FIELDS for call in self.twin.calls)

    def test_other_kinds_are_refused_and_odd_senders_are_nobody(self) -> None:
        page, name = Ref(Kind.MESSENGER, "1:2"), Ref(Kind.PHONE, "CLINIC")
        found = self.observe(page, name)
        assert isinstance(found[page], Refused)
        assert isinstance(found[name], Absent)

    # --- limits and errors ------------------------------------------------------------------------

    def test_a_spent_day_stops_all_calls(self) -> None:
        self.put(AMY)
        self.twin.configure(tokens_left=15)

        async def job(connector: Connector) -> list[Any]:
            return [(await connector.observe([AMY]))[AMY] for _ in range(3)]

        answers = self.run(job)
        assert all(isinstance(answer, Temporary) for answer in answers)
        assert all(0 < answer.retry_after <= 3600 for answer in answers)
        assert [call.status for call in self.twin.calls] == [200, 429]

    def test_a_burst_is_waited_for(self) -> None:
        self.put(AMY)
        self.twin.faults.add("status", path=f"{PERSONS}/search", status=429)
        assert self.value(AMY) is Value.ON

    def test_a_person_whom_our_user_may_not_see_is_refused_alone(self) -> None:
        hidden, shown = (self.twin.new_person(emails=[f"h{n}@example.com"]) for n in range(2))
        self.twin.faults.add("status", path=f"{PERSONS}/{hidden}$", status=403, times=None)
        refs = [Ref(None, "", str(number)) for number in (hidden, shown)]
        found = self.observe(*refs)
        assert isinstance(found[refs[0]], Refused)
        assert isinstance(found[refs[1]], Observed)

    def test_a_penalty_is_not_waited_for_inside_a_call(self) -> None:
        """Pipedrive answers ten seconds where the limit was reached."""
        self.put(AMY)
        self.twin.configure(windows=[[2, 2.0]])
        answer = self.observe(AMY)[AMY]
        assert isinstance(answer, Temporary)
        assert answer.retry_after == 10.0
        assert [call.status for call in self.twin.calls] == [200, 200, 429]

    def test_a_closed_account_parks_the_target(self) -> None:
        self.put(AMY)
        self.twin.faults.add("status", path=PERSONS, status=402, times=None)
        assert isinstance(self.observe(AMY)[AMY], Unusable)

    def test_a_revoked_token_parks_the_target(self) -> None:
        self.put(AMY)
        given = {**self.options(), "token": "old"}
        self.options = lambda: given  # type: ignore[method-assign]  # this instance only
        assert isinstance(self.observe(AMY)[AMY], Unusable)

    def test_the_vendors_words_are_told_without_personal_data(self) -> None:
        self.put(AMY)
        body = '{"success":false,"error":"amy@example.com (+44 7700 900123) is locked"}'
        self.twin.faults.add("status", method="PATCH", path=PERSONS, status=400, body=body)
        reason = str(self.apply(Wish.OFF, AMY)[AMY])
        assert "is locked" in reason
        assert "amy" not in reason
        assert "7700" not in reason

    @pytest.mark.parametrize(
        "body",
        [
            '{"success":true,"data":[]}',
            '{"success":true}',
            '{"success":false,"data":{}}',
            '{"success":true,"data":{"id":"x"}}',
            '{"success":true,"data":{"id":1,"custom_fields":[1]}}',
            "[]",
            "null",
        ],
    )
    def test_an_answer_of_another_shape_is_no_answer(self, body: str) -> None:
        number = self.twin.new_person(emails=[AMY.value])
        ref = Ref(None, "", str(number))
        for path in (f"{PERSONS}/[0-9]+$", f"{PERSONS}/search"):
            self.twin.faults.clear()
            self.twin.faults.add("status", path=path, status=200, body=body, times=None)
            assert isinstance(self.observe(ref)[ref], Temporary | Observed)
            assert isinstance(self.observe(AMY)[AMY], Temporary)

    # --- searches ---------------------------------------------------------------------------------

    def searches(self) -> int:
        return sum(call.path.endswith("/search") for call in self.twin.calls)

    def test_a_person_once_found_is_read_without_a_search(self) -> None:
        self.put(AMY)

        async def job(connector: Connector) -> None:
            for _ in range(3):
                assert isinstance((await connector.observe([AMY]))[AMY], Observed)
            await connector.apply([Change(AMY, STATUS, Wish.OFF)])

        self.run(job)
        assert self.searches() == 1

    def test_a_walk_teaches_where_people_are(self) -> None:
        self.put(AMY)
        self.twin.new_person(phones=["0 7700 900 123"])

        async def job(connector: Connector) -> None:
            assert isinstance((await connector.observe([NUMBER]))[NUMBER], Absent)
            before = self.searches()
            async for _ in connector.scan(None):
                pass
            found = await connector.observe([AMY, NUMBER])
            assert all(isinstance(one, Observed) for one in found.values())
            assert self.searches() == before

        self.run(job)

    def test_after_a_walk_a_stranger_costs_no_search(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One page of who is new, for any number of them; somebody added meanwhile is on it."""
        monkeypatch.setattr(pipedrive, "FRESH", timedelta())
        self.put(AMY)
        strangers = [Ref(Kind.EMAIL, f"s{number}@example.com") for number in range(30)]

        async def job(connector: Connector) -> None:
            async for _ in connector.scan(None):
                pass
            self.twin.new_person(emails=["s7@example.com"])
            before = len(self.twin.calls)
            found = await connector.observe([*strangers, NUMBER])
            assert [ref for ref, one in found.items() if isinstance(one, Observed)] == [
                strangers[7]
            ]
            assert len(self.twin.calls) == before + 2

        self.run(job)
        assert self.searches() == 0

    def test_many_strangers_are_looked_up_in_a_walk(self) -> None:
        self.put(AMY)
        refs = [AMY, *(Ref(Kind.EMAIL, f"s{number}@example.com") for number in range(40))]

        async def job(connector: Connector) -> None:
            found = await connector.observe(refs)
            assert [ref for ref, one in found.items() if isinstance(one, Observed)] == [AMY]

        self.run(job)
        assert self.searches() == 0

    def test_who_is_gone_or_moved_is_searched_for_again(self) -> None:
        first = self.twin.new_person(emails=[AMY.value], status="subscribed")

        async def job(connector: Connector) -> None:
            assert (await connector.observe([AMY]))[AMY].vendor_id == str(first)  # type: ignore[union-attr]  # it is there
            self.twin.staff_edits(first, ["amy@new.example.com"], [])
            second = self.twin.new_person(emails=[AMY.value])
            assert (await connector.observe([AMY]))[AMY].vendor_id == str(second)  # type: ignore[union-attr]  # it is there
            self.twin.delete_person(second)
            assert isinstance((await connector.observe([AMY]))[AMY], Absent)

        self.run(job)
        assert self.searches() == 3

    def test_merged_people_are_one(self) -> None:
        kept = self.twin.new_person(emails=["kept@example.com"], status="subscribed")
        gone = self.twin.new_person(emails=[AMY.value])

        async def job(connector: Connector) -> None:
            await connector.observe([AMY])
            self.twin.merge(kept, gone)
            found = (await connector.observe([AMY]))[AMY]
            assert isinstance(found, Observed)
            assert found.vendor_id == str(kept)

        self.run(job)

    def test_hits_of_other_addresses_are_left_out(self) -> None:
        """Should a search ever find more than it was asked for."""
        self.put(AMY)
        other = '{"success":true,"data":{"items":[{"item":{"id":%d,"emails":["x@example.com"]}}]}}'
        number = self.twin.new_person(emails=["x@example.com"])
        body = other % number
        self.twin.faults.add("status", path=f"{PERSONS}/search", status=200, body=body)
        assert isinstance(self.observe(AMY)[AMY], Absent)

    # --- walks ------------------------------------------------------------------------------------

    def walk(self, cursor: str | None) -> list[Page]:
        async def job(connector: Connector) -> list[Page]:
            return [page async for page in connector.scan(cursor)]

        return self.run(job)

    def test_a_walk_by_pages_goes_on_where_it_broke_off(self) -> None:
        self.twin.configure(page_size=2)
        for number in range(1, 6):
            self.put(self.ref(number))
        self.twin.faults.add("status", path=self.scan_path, status=500, skip=2, times=None)
        seen: list[Page] = []

        async def kept(connector: Connector) -> None:
            async for page in connector.scan(None):
                seen.append(page)

        with pytest.raises(Temporary):
            self.run(kept)
        assert [page.complete for page in seen] == [False, False]
        self.twin.faults.clear()
        (rest,) = self.walk(seen[-1].next_cursor)
        found = {read.identifiers for page in (*seen, rest) for _, read in page.records}
        assert len(found) == 5
        assert rest.complete

    def test_a_walk_of_changes_sees_only_those(self) -> None:
        self.twin.clock.move(-3600)
        for number in range(1, 4):
            self.put(self.ref(number))
        self.twin.clock.reset()

        async def job(connector: Connector) -> list[Page]:
            (first,) = [page async for page in connector.scan(None)]
            self.twin.person_unsubscribes(self.ref(2).value)
            (changes,) = [page async for page in connector.scan(first.next_cursor)]
            return [first, changes]

        first, changes = self.run(job)
        assert (len(first.records), first.complete) == (3, True)
        assert [read.identifiers[0][1] for _, read in changes.records] == [self.ref(2).value]
        assert not changes.complete
        assert changes.next_cursor
        (whole,) = self.walk(changes.next_cursor)
        assert (len(whole.records), whole.complete) == (3, True)

    def test_a_record_in_unknown_words_makes_a_walk_incomplete(self) -> None:
        self.put(self.ref(1))
        self.put(self.ref(2))
        self.break_word(self.ref(2))
        (page,) = self.walk(None)
        assert [read.identifiers[0][1] for _, read in page.records] == [self.ref(1).value]
        assert not page.complete

    def test_an_empty_account_is_a_complete_walk(self) -> None:
        (page,) = self.walk(None)
        assert (page.records, page.complete) == ((), True)


class TestFields(Account):
    """Without Campaigns: email, like every other channel, is a field that nobody enforces."""

    campaigns = False

    def put(self, ref: Ref) -> None:
        self.twin.new_person(emails=[ref.value], marks={"Marketing - email": "No objection"})

    def unset(self, ref: Ref) -> None:
        self.twin.new_person(emails=[ref.value])

    def held(self, ref: Ref) -> Value:
        return HELD[self.twin.option(self.person(ref), "Marketing - email")]

    def break_word(self, ref: Ref) -> None:
        self.twin.staff_marks(self.person(ref), "Marketing - email", "ask Amy first")

    def test_an_unknown_option_is_not_repeated(self) -> None:
        self.put(AMY)
        self.break_word(AMY)
        refusal = str(self.observe(AMY)[AMY])
        assert "Marketing - email" in refusal
        assert "Amy" not in refusal

    def test_the_status_is_neither_asked_for_nor_written(self) -> None:
        self.twin.configure(campaigns=True)
        self.put(AMY)
        self.observe(AMY)
        self.apply(Wish.OFF, AMY)
        assert not any("marketing_status" in call.target for call in self.twin.calls)
        assert not any(b"marketing_status" in call.body for call in self.twin.writes())

    def test_the_slots_are_not_enforced(self) -> None:
        self.put(AMY)
        values = self.observe(AMY)[AMY].values
        assert set(values) == {EMAIL, SMS, PHONE, POST, MESSENGER}
        assert {slot.enforced for slot in values} == {False}

    def test_several_slots_of_one_person_go_together(self) -> None:
        self.put(AMY)

        async def job(connector: Connector) -> Mapping[Change, Any]:
            return await connector.apply([Change(AMY, s, Wish.OFF) for s in connector.slots])

        assert {type(answer) for answer in self.run(job).values()} == {Applied}
        assert len(self.twin.writes()) == 1
        for channel in Channel:
            assert self.twin.option(self.person(AMY), f"Marketing - {channel}") == "Opted out"

    def test_a_slot_of_another_place_is_refused(self) -> None:
        self.put(AMY)

        async def job(connector: Connector) -> Mapping[Change, Any]:
            return await connector.apply([Change(AMY, STATUS, Wish.OFF)])

        assert [type(answer) for answer in self.run(job).values()] == [Refused]
        assert self.twin.calls == []


class TestPhones(Account):
    """People who are known by number: SMS is a field."""

    def ref(self, number: int) -> Ref:
        return Ref(Kind.PHONE, f"+44770090012{number}")

    def slot(self, connector: Connector) -> Slot:
        return SMS

    def put(self, ref: Ref) -> None:
        self.twin.new_person(phones=[ref.value], marks={"Marketing - sms": "No objection"})

    def unset(self, ref: Ref) -> None:
        self.twin.new_person(phones=[ref.value])

    def held(self, ref: Ref) -> Value:
        return HELD[self.twin.option(self.person(ref), "Marketing - sms")]

    def break_word(self, ref: Ref) -> None:
        self.twin.staff_marks(self.person(ref), "Marketing - sms", "perhaps")

    @pytest.mark.parametrize("typed", ["+447700900123", "07700900123"])
    def test_a_number_as_staff_may_have_typed_it(self, typed: str) -> None:
        self.twin.new_person(phones=[typed])
        assert self.observe(NUMBER)[NUMBER].identifiers == ((Kind.PHONE, typed),)

    def test_an_address_of_a_domain_that_is_not_ascii(self) -> None:
        self.twin.new_person(emails=["amy@bücher.example"])
        for spelling in ("amy@bücher.example", "Amy@BÜCHER.example"):
            ref = Ref(Kind.EMAIL, spelling)
            assert isinstance(self.observe(ref)[ref], Observed)

    def test_both_spellings_are_two_people(self) -> None:
        for typed in ("+447700900123", "07700900123"):
            self.twin.new_person(phones=[typed])
        self.apply(Wish.OFF, NUMBER)
        assert len(self.twin.state.writes) == 2


# --- making fields --------------------------------------------------------------------------------


@pytest.fixture
def twin(hold_to_specs: object) -> Iterator[PipedriveTwin]:
    """An account that has none of our fields yet, small pages and no limit in the way: several
    connectors, each with its own budget, call it at once."""
    with running(PipedriveTwin()) as (twin, _):
        twin.configure(page_size=2, windows=[[1000, 2.0]])
        twin.new_field("Appointment reminders", ["By email", "None"])
        yield twin


def target(url: str | None = None, **options: Any) -> Target:
    return Target("pipedrive", "rt", "pipedrive", True, url, options, ("news",))


def run(twin: PipedriveTwin, job: Callable[[Pipedrive], Awaitable[T]], **options: Any) -> T:
    async def inside() -> T:
        held = target(twin.url, **{"token": twin.token, **options})
        connector = Pipedrive(held, TokenBudget(Limit(1000, 1.0)), lambda: datetime.now(UTC))
        try:
            return await job(connector)
        finally:
            await connector.close()

    return asyncio.run(inside())


def off(twin: PipedriveTwin, slot: Slot = SMS, to: Wish = Wish.OFF, **options: Any) -> Any:
    async def job(connector: Pipedrive) -> Any:
        (answer,) = (await connector.apply([Change(AMY, slot, to)])).values()
        return answer

    return run(twin, job, **options)


def read(twin: PipedriveTwin, **options: Any) -> Any:
    async def job(connector: Pipedrive) -> Any:
        return (await connector.observe([AMY]))[AMY]

    return run(twin, job, **options)


def test_a_missing_field_is_made_at_the_first_write_only(twin: PipedriveTwin) -> None:
    number = twin.new_person(emails=[AMY.value])
    assert {seen.value for seen in read(twin).values.values()} == {Value.UNSET}
    assert twin.writes() == []
    assert isinstance(off(twin), Applied)
    assert isinstance(off(twin), Applied)
    made, *marks = twin.writes()
    assert made.json() == {
        "field_name": "Marketing - sms",
        "field_type": "enum",
        "options": [{"label": label} for label in LABELS],
    }
    assert [mark.method for mark in marks] == ["PATCH", "PATCH"]
    assert twin.option(number, "Marketing - sms") == "Opted out"
    values = read(twin).values
    assert values[SMS].value is Value.OFF
    assert values[PHONE].value is Value.UNSET


def test_nothing_is_made_for_people_who_are_not_there(twin: PipedriveTwin) -> None:
    assert isinstance(off(twin), Local)
    assert twin.writes() == []


def test_many_changes_make_a_field_once(twin: PipedriveTwin) -> None:
    refs = [Ref(Kind.EMAIL, f"p{number}@example.com") for number in range(4)]
    for ref in refs:
        twin.new_person(emails=[ref.value])

    async def job(connector: Pipedrive) -> Mapping[Change, Any]:
        return await connector.apply([Change(ref, SMS, Wish.OFF) for ref in refs])

    assert {type(answer) for answer in run(twin, job).values()} == {Applied}
    assert [call.method for call in twin.writes()].count("POST") == 1


def test_a_configured_name_is_taken_and_the_others_keep_theirs(twin: PipedriveTwin) -> None:
    number = twin.new_person(emails=[AMY.value])
    assert isinstance(off(twin, fields={"sms": "No texts"}), Applied)
    assert isinstance(off(twin, PHONE, fields={"sms": "No texts"}), Applied)
    assert twin.option(number, "No texts") == "Opted out"
    assert twin.option(number, "Marketing - phone") == "Opted out"


def test_where_we_may_not_make_a_field_staff_are_told_what_to_make(twin: PipedriveTwin) -> None:
    twin.new_person(emails=[AMY.value])
    twin.configure(admin=False)
    answer = off(twin)
    assert isinstance(answer, Refused)
    assert all(text in str(answer) for text in ("Marketing - sms", *LABELS))


def test_an_unclear_making_is_looked_at_before_another(
    twin: PipedriveTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "CALL_LIMIT", 0.5)
    twin.new_person(emails=[AMY.value])
    twin.faults.add("timeout_after_work", method="POST", path=FIELDS, seconds=3)

    async def job(connector: Pipedrive) -> list[Any]:
        change = Change(AMY, SMS, Wish.OFF)
        return [(await connector.apply([change]))[change] for _ in range(2)]

    first, second = run(twin, job)
    assert isinstance(first, Temporary)
    assert isinstance(second, Applied)
    assert [call.method for call in twin.writes()] == ["POST", "PATCH"]


def test_a_field_of_another_type_is_not_read_and_not_written(twin: PipedriveTwin) -> None:
    twin.new_person(emails=[AMY.value])
    twin.new_field("Marketing - sms", type="varchar")
    assert read(twin).values[SMS].value is Value.UNSET
    answer = off(twin)
    assert isinstance(answer, Refused)
    assert "single option" in str(answer)
    assert isinstance(off(twin, PHONE), Applied)


def test_two_fields_of_one_name_are_refused(twin: PipedriveTwin) -> None:
    twin.new_person(emails=[AMY.value])
    for _ in range(2):
        twin.new_field("Marketing - sms", LABELS)
    assert isinstance(read(twin), Refused)
    assert isinstance(off(twin), Refused)
    assert twin.writes() == []


def test_a_field_without_our_option_is_told(twin: PipedriveTwin) -> None:
    twin.new_person(emails=[AMY.value])
    twin.new_field("marketing - SMS ", ["no objection", "Never"])
    answer = off(twin)
    assert isinstance(answer, Refused)
    assert "Opted out" in str(answer)
    assert isinstance(off(twin, to=Wish.ON), Applied)


def test_a_field_that_staff_made_anew_is_found_again(twin: PipedriveTwin) -> None:
    number = twin.new_person(emails=[AMY.value])
    code = twin.new_field("Marketing - sms", LABELS)

    async def job(connector: Pipedrive) -> list[Any]:
        change = Change(AMY, SMS, Wish.OFF)
        first = (await connector.apply([change]))[change]
        del twin.state.fields[code]
        twin.new_field("Marketing - sms", LABELS)
        return [first, *[(await connector.apply([change]))[change] for _ in range(2)]]

    first, refused, again = run(twin, job)
    assert isinstance(first, Applied)
    assert isinstance(refused, Refused)
    assert isinstance(again, Applied)
    assert twin.option(number, "Marketing - sms") == "Opted out"


def test_a_cleared_field_is_unset_and_no_objection_is_written_as_such(twin: PipedriveTwin) -> None:
    number = twin.new_person(emails=[AMY.value])
    assert isinstance(off(twin, to=Wish.ON), Applied)
    assert twin.option(number, "Marketing - sms") == "No objection"
    assert read(twin).values[SMS] == Seen(Value.ON)
    twin.staff_marks(number, "Marketing - sms")
    assert read(twin).values[SMS] == Seen(Value.UNSET)


# --- searches, webhooks, configuration ------------------------------------------------------------


def test_searches_keep_to_their_own_limit(
    twin: PipedriveTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten in two seconds, half of it for what is not urgent."""
    refs = [Ref(Kind.EMAIL, f"p{number}@example.com") for number in range(6)]

    async def job(connector: Pipedrive) -> Mapping[Ref, Any]:
        return await connector.observe(refs)

    began = time.monotonic()
    assert all(isinstance(found, Absent) for found in run(twin, job).values())
    assert time.monotonic() - began >= 2.0


def test_what_the_twin_sends_is_verified_and_read_again(twin: PipedriveTwin) -> None:
    number = twin.new_person(emails=[AMY.value], status="subscribed")
    letters: list[Letter] = []
    twin.configure(webhook_url="https://prefs.example.com/webhooks/pipedrive/rt/pipedrive")
    twin.courier.post = lambda compose, *_: letters.append(compose(0))  # type: ignore[method-assign]  # nothing leaves
    twin.person_unsubscribes(AMY.value)
    twin.delete_person(number)
    held = target(webhook_user=twin.webhook_user, webhook_password=twin.webhook_password)
    assert len(letters) == 2
    for letter in letters:
        headers = {name.lower(): value for name, value in letter.headers.items()}
        request = Delivery("POST", letter.url, (), headers, letter.content, datetime.now(UTC))
        assert webhook.verify(request, held) is False
        (found,) = webhook.normalise(request, held, signed=False)
        assert isinstance(found, Recheck)
        assert found.vendor_id == str(number)


def test_a_hook_that_never_answers_is_given_up(twin: PipedriveTwin) -> None:
    number = twin.new_person(emails=[AMY.value])
    twin.configure(webhook_url="http://127.0.0.1:9/", gaps=[])
    twin.staff_edits(number, [AMY.value], [])
    twin.courier.settle()
    twin.clock.move(3 * 86400)
    twin.staff_edits(number, [AMY.value], [])
    twin.courier.settle()
    assert not twin.state.hook.alive
    sent = len(twin.courier.sent)
    twin.staff_edits(number, [AMY.value], [])
    twin.courier.settle()
    assert len(twin.courier.sent) == sent


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("GET", "/api/v1/persons", None, 404),
        ("DELETE", f"{PERSONS}/101", None, 405),
        ("GET", f"{PERSONS}/999", None, 404),
        ("GET", f"{PERSONS}?limit=501", None, 400),
        ("GET", f"{PERSONS}?cursor=!", None, 400),
        ("GET", f"{PERSONS}?updated_since=yesterday", None, 400),
        ("GET", f"{PERSONS}/search?term=x&fields=notes", None, 400),
        ("PATCH", f"{PERSONS}/101", {"marketing_status": "out"}, 400),
        ("PATCH", f"{PERSONS}/101", {"custom_fields": {"x": 1}}, 400),
        ("PATCH", f"{PERSONS}/101", {"email": "x"}, 400),
        ("PATCH", f"{PERSONS}/101", [], 400),
        ("POST", FIELDS, {"field_name": "x", "field_type": "enum"}, 400),
    ],
)
def test_the_twin_refuses(
    twin: PipedriveTwin, method: str, path: str, body: Any, code: int
) -> None:
    twin.new_person(emails=[AMY.value])
    headers = {"x-api-token": twin.token, "x-test": "1"}
    answer = httpx.request(method, f"{twin.url}{path}", json=body, headers=headers)
    assert answer.status_code == code
    assert answer.json()["success"] is False


def test_a_token_is_needed() -> None:
    with pytest.raises(SettingsError, match="set token"):
        Pipedrive(target(), TokenBudget(Limit(1)), lambda: datetime.now(UTC))


def test_a_walk_goes_on_with_changes_and_again_with_all_after_a_day() -> None:
    at = datetime(2026, 11, 24, 12, tzinfo=UTC)
    first = Walk.start(None, at)
    assert first.since is None
    page = replace(first, after="abc")
    assert Walk.start(page.text, at) == page
    changes = Walk.start(page.rest().text, at + timedelta(hours=1))
    assert changes.since == "2026-11-24T11:55:00Z"
    assert Walk.start(changes.rest().text, at + timedelta(hours=23)).since == "2026-11-24T12:55:00Z"
    assert Walk.start(changes.rest().text, at + timedelta(hours=24)).since is None
