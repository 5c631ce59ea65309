"""Xero: the contract, groups, archived contacts, keys of writes, tokens, limits, pages, dates."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest

from connectors import xero, xero_line
from connectors.budget import TokenBudget
from connectors.xero import Xero
from prefs.core.errors import Refused, Temporary, Unusable
from prefs.core.propagation import (
    URGENT,
    Absent,
    Applied,
    Change,
    Connector,
    Container,
    Local,
    Observed,
    Page,
    Ref,
    Slot,
    Value,
    Wish,
)
from prefs.core.words import Channel, Kind
from tests.connectors.contract import ConnectorContract, now
from tests.twins.kit import Call
from tests.twins.xero import CONTACTS, GROUPS, XeroTwin

GROUP = "No marketing - email"
OURS = {f"No marketing - {channel.value}" for channel in Channel}
MEMBERS = f"{GROUPS}/[^/]+/Contacts"
NOBODY = "00000000-0000-0000-0000-000000000000"
SUPPLIERS = "Suppliers"


class TestXero(ConnectorContract):
    system = "xero"
    exempt: ClassVar[Mapping[str, str]] = {
        "words": "a contact is in a group or not, with no word",
    }
    resumes = False  # pages are counted, and shift by what comes in between
    gets = Value.UNMARKED
    read_path = f"{CONTACTS}/"
    write_path = MEMBERS
    scan_path = f"{CONTACTS}$"

    def make_twin(self) -> XeroTwin:
        return XeroTwin()

    def furnish(self) -> None:
        self.twin.configure(page_cap=2)
        for name in sorted(OURS):
            self.twin.new_group(name)
        self.twin.new_group(SUPPLIERS)

    def options(self) -> Mapping[str, Any]:
        return {key: getattr(self.twin, key) for key in ("client_id", "client_secret", "tenant")}

    def reads_by_post(self) -> Sequence[tuple[str, str]]:
        return (("POST", "/connect/token"),)

    def slot(self, connector: Connector) -> Slot:
        return next(slot for slot in connector.slots if slot.channel is Channel.EMAIL)

    def put(self, ref: Ref) -> None:
        self.twin.new_contact(ref.value)
        self.twin.staff_adds(ref.value, SUPPLIERS)

    def unset(self, ref: Ref) -> None:
        self.put(ref)
        self.twin.staff_adds(ref.value, GROUP)

    def held(self, ref: Ref) -> Value:
        return Value.OFF if GROUP in self.twin.groups_of(ref.value) else Value.UNMARKED

    def listen(self, url: str) -> Mapping[str, Any]:
        """Told of groups, too, which Xero may do or not."""
        self.twin.configure(webhook_url=url, webhook_secret="signing-key", groups_move=True)
        self.twin.state.hook.status = "OK"
        return {"webhook_secret": "signing-key"}

    def reminders_untouched(self) -> bool:
        """No other group was changed, and none was emptied or deleted."""
        return not (self.twin.touched() - OURS or self.twin.dangers)

    def test_a_time_out_after_the_work_is_unclear(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The calls that hang take their places among the five."""
        self.twin.configure(at_once=None)
        super().test_a_time_out_after_the_work_is_unclear(monkeypatch)
        assert len(self.twin.state.writes) == 1

    def refs(self, count: int) -> list[Ref]:
        """So many people, put there."""
        refs = [self.ref(number) for number in range(1, count + 1)]
        for ref in refs:
            self.put(ref)
        return refs

    def calls(self, method: str = "GET", path: str = "") -> list[Call]:
        return [c for c in self.twin.calls if c.method == method and c.path.startswith(path)]

    def answered(self, method: str, path: str, body: Any, times: int | None = None) -> None:
        """Xero answers 200 with this, and does nothing."""
        text = json.dumps(body)
        self.twin.faults.add("status", method=method, path=path, status=200, body=text, times=times)

    # --- who is meant -----------------------------------------------------------------------------

    def test_a_contact_is_found_by_each_address_and_number_it_shows(self) -> None:
        id_ = self.twin.new_contact(
            "amy@example.com",
            phone="900123",
            country="44",
            area="7700",
            persons=["Amy@Work.example"],
        )
        amy, work = Ref(Kind.EMAIL, "amy@example.com"), Ref(Kind.EMAIL, "Amy@work.example")
        phone = Ref(Kind.PHONE, "+447700900123")
        found = self.observe(amy, work, phone)
        assert {found[ref].vendor_id for ref in (amy, work, phone)} == {id_}
        assert (Kind.PHONE, "+44 7700 900123") in found[amy].identifiers
        assert isinstance(self.apply(Wish.OFF, phone)[phone], Applied)
        assert self.twin.groups_of("amy@example.com") == {GROUP}

    @pytest.mark.parametrize(
        ("country", "area", "number"),
        [
            ("", "", "07700 900123"),
            ("", "07700", "900123"),
            ("44", "7700", "900123"),
            ("+44", "07700", "900123"),
            ("0044", "7700", "900123"),
            ("44", "", "+44 7700 900123"),
            ("1", "", "00447700900123"),
        ],
    )
    def test_a_number_in_parts(self, country: str, area: str, number: str) -> None:
        self.twin.new_contact("amy@example.com", phone=number, country=country, area=area)
        ref = Ref(Kind.PHONE, "+447700900123")
        assert isinstance(self.observe(ref)[ref], Observed)

    def test_a_fax_number_is_nobodys(self) -> None:
        self.twin.new_contact("amy@example.com", phone="07700 900123", kind="FAX")
        ref, amy = Ref(Kind.PHONE, "+447700900123"), Ref(Kind.EMAIL, "amy@example.com")
        found = self.observe(ref, amy)
        assert isinstance(found[ref], Absent)
        assert found[amy].identifiers == ((Kind.EMAIL, "amy@example.com"),)

    def test_a_contact_is_found_by_its_id_alone(self) -> None:
        """As after an erasure: the kind is known, the spelling is gone."""
        id_ = self.twin.new_contact("amy@example.com")
        refs = [Ref(None, "", id_), Ref(Kind.EMAIL, "", id_)]
        for ref in refs:
            assert self.observe(ref)[ref].identifiers == ((Kind.EMAIL, "amy@example.com"),)
        assert isinstance(self.apply(Wish.OFF, refs[1])[refs[1]], Applied)
        assert self.twin.groups_of("amy@example.com") == {GROUP}

    @pytest.mark.parametrize(
        "id_", [None, "", "Contacts", "../ContactGroups", f"{NOBODY}/", NOBODY]
    )
    @pytest.mark.parametrize("to", [Wish.OFF, Wish.ON])
    def test_what_is_no_contact_is_absent_and_never_written(
        self, id_: str | None, to: Wish
    ) -> None:
        self.unset(self.ref(1))
        ref = Ref(None, "", id_)
        assert isinstance(self.observe(ref)[ref], Absent)
        if id_ != NOBODY:
            assert isinstance(self.apply(to, ref)[ref], Temporary)
        assert self.twin.touched() == set()
        assert self.held(self.ref(1)) is Value.OFF

    def test_a_contact_that_went_is_told_from_one_that_is_refused(self) -> None:
        ref = Ref(None, "", NOBODY)
        answer = self.apply(Wish.OFF, ref)[ref]
        assert isinstance(answer, Temporary)
        assert "no longer there" in str(answer)

    def test_two_contacts_of_one_address_are_both_marked(self) -> None:
        for _ in range(2):
            self.put(self.ref(1))
        self.twin.staff_adds(self.ref(1).value, GROUP)
        assert self.value(self.ref(1)) is not Value.OFF
        self.apply(Wish.OFF, self.ref(1))
        assert self.value(self.ref(1)) is Value.OFF
        self.apply(Wish.ON, self.ref(1))
        assert self.held(self.ref(1)) is Value.UNMARKED

    def test_an_address_that_moved_on_finds_its_contact_no_more(self) -> None:
        self.put(self.ref(1))

        async def job(connector: Connector) -> list[Any]:
            found = [(await connector.observe([self.ref(1)]))[self.ref(1)]]
            self.twin.new_address(self.ref(1).value, "other@example.com")
            return [*found, (await connector.observe([self.ref(1)]))[self.ref(1)]]

        assert [type(one) for one in self.run(job)] == [Observed, Absent]

    # --- reading ----------------------------------------------------------------------------------

    def test_many_are_read_by_their_groups(self) -> None:
        self.twin.configure(page_cap=1000)
        refs = self.refs(20)
        self.twin.staff_adds(refs[3].value, GROUP)
        found = self.observe(*refs)
        off = [ref for ref in refs if self.email(found[ref]) is Value.OFF]
        assert off == [refs[3]]
        assert self.calls(path=f"{CONTACTS}/") == []
        assert len(self.calls(path=f"{GROUPS}/")) == len(OURS)

    def email(self, read: Observed) -> Value:
        return next(v.value for slot, v in read.values.items() if slot.channel is Channel.EMAIL)

    def test_one_that_cannot_be_read_keeps_no_other_from_it(self) -> None:
        refs = self.refs(3)
        path = f"{CONTACTS}/{self.twin.id_of(refs[1].value)}"
        self.twin.faults.add("status", path=path, status=500, times=None)
        found = self.observe(*refs)
        assert [type(found[ref]) for ref in refs] == [Observed, Temporary, Observed]

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            (f"{CONTACTS}$", {}),
            (f"{CONTACTS}$", {"Status": "ERROR"}),
            (f"{CONTACTS}$", {"Contacts": None}),
            (f"{CONTACTS}$", {"Contacts": [7]}),
            (f"{CONTACTS}$", {"Contacts": [{"EmailAddress": "p1@example.com"}]}),
            (f"{CONTACTS}$", {"Contacts": [{"ContactID": "1"}]}),
            (f"{CONTACTS}$", []),
            (f"{CONTACTS}/", {}),
            (f"{CONTACTS}/", {"Contacts": []}),
            (f"{CONTACTS}/", {"Contacts": [{"ContactID": NOBODY}]}),
        ],
    )
    def test_an_answer_of_another_shape_is_no_absence(self, path: str, body: Any) -> None:
        self.put(self.ref(1))
        self.answered("GET", path, body)
        assert isinstance(self.observe(self.ref(1))[self.ref(1)], Temporary)

    @pytest.mark.parametrize(
        "body",
        [{}, {"ContactGroups": None}, {"ContactGroups": []}, {"ContactGroups": [{"Name": "x"}]}],
    )
    def test_a_group_of_another_shape_is_not_an_empty_one(self, body: Any) -> None:
        refs = self.refs(5)
        self.answered("GET", f"{GROUPS}/", body)
        assert all(isinstance(one, Temporary) for one in self.observe(*refs).values())
        with pytest.raises(Temporary):
            self.pages()

    @pytest.mark.parametrize("body", [{}, {"ContactGroups": [{"Name": GROUP}]}])
    def test_a_list_of_groups_of_another_shape_is_not_none_at_all(self, body: Any) -> None:
        self.unset(self.ref(1))
        self.answered("GET", f"{GROUPS}$", body)
        for to in (Wish.OFF, Wish.ON):
            assert isinstance(self.apply(to, self.ref(1))[self.ref(1)], Temporary)
        assert self.written() == []

    def test_a_deleted_group_marks_nobody(self) -> None:
        self.put(self.ref(1))
        id_ = self.twin.id_of(self.ref(1).value)
        groups = [{"ContactGroupID": NOBODY, "Name": GROUP, "Status": "DELETED"}]
        contact = {"ContactID": id_, "EmailAddress": self.ref(1).value, "ContactGroups": groups}
        self.answered("GET", f"{CONTACTS}/", {"Contacts": [contact]})
        assert self.value(self.ref(1)) is Value.UNMARKED

    def test_no_slot_is_enforced(self) -> None:
        async def job(connector: Connector) -> set[bool]:
            return {slot.enforced for slot in connector.slots}

        assert self.run(job) == {False}

    # --- writing ----------------------------------------------------------------------------------

    def test_many_are_marked_in_one_call(self) -> None:
        refs = self.refs(20)
        answers = self.apply(Wish.OFF, *refs)
        assert all(isinstance(answers[ref], Applied) for ref in refs)
        (call,) = self.written()
        assert len(call.json()["Contacts"]) == 20

    def test_staff_see_the_group_that_the_configuration_names(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = {**self.options(), "groups": {"email": "Keine Werbung"}}
        monkeypatch.setattr(self, "options", lambda: options)
        monkeypatch.setattr(self, "reminders_untouched", lambda: not self.twin.dangers)
        self.put(self.ref(1))
        self.apply(Wish.OFF, self.ref(1))
        assert self.twin.groups_of(self.ref(1).value) == {SUPPLIERS, "Keine Werbung"}

    def test_a_missing_group_is_made_for_an_out_and_never_for_an_in(self) -> None:
        self.twin.delete_group(GROUP)
        self.put(self.ref(1))
        assert isinstance(self.apply(Wish.ON, self.ref(1))[self.ref(1)], Applied)
        assert self.written() == []
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], Applied)
        assert self.held(self.ref(1)) is Value.OFF

    def test_a_group_that_staff_deleted_is_made_again(self) -> None:
        self.put(self.ref(1))

        async def job(connector: Connector) -> list[Any]:
            change = Change(self.ref(1), self.slot(connector), Wish.OFF)
            answers = [(await connector.apply([change]))[change]]
            self.twin.delete_group(GROUP)
            answers += [(await connector.apply([change]))[change] for _ in range(2)]
            return answers

        assert [type(answer) for answer in self.run(job)] == [Applied, Temporary, Applied]
        assert self.held(self.ref(1)) is Value.OFF

    def test_a_group_that_staff_renamed_is_no_longer_ours(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(xero, "FRESH", timedelta())
        refs = self.refs(2)

        async def job(connector: Connector) -> None:
            for ref in refs:
                await connector.apply([Change(ref, self.slot(connector), Wish.OFF)])
                if ref == refs[0]:
                    self.twin.rename_group(GROUP, "VIPs")

        self.run(job)
        assert [self.twin.groups_of(ref.value) for ref in refs] == [
            {SUPPLIERS, "VIPs"},
            {SUPPLIERS, GROUP},
        ]

    def test_a_group_that_somebody_else_makes_meanwhile_is_used(self) -> None:
        """Names are unique: making it a second time is a 400."""
        self.put(self.ref(1))
        listed = {"ContactGroups": [{"ContactGroupID": NOBODY, "Name": SUPPLIERS}]}
        self.answered("GET", f"{GROUPS}$", listed, times=2)
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], Applied)
        assert [call.status for call in self.written()] == [400, 200]

    @pytest.mark.parametrize("why", ["capitals", "full"])
    def test_a_group_that_cannot_be_made_is_told(self, why: str) -> None:
        self.twin.delete_group(GROUP)
        if why == "capitals":
            self.twin.new_group(GROUP.upper())
        for number in range(200 if why == "full" else 0):
            self.twin.new_group(f"Group {number}")
        self.put(self.ref(1))
        answer = self.apply(Wish.OFF, self.ref(1))[self.ref(1)]
        assert isinstance(answer, Refused)
        assert "our group" in str(answer)

    def test_a_new_group_without_an_id_is_not_written_to(self) -> None:
        self.twin.delete_group(GROUP)
        self.put(self.ref(1))
        self.answered("PUT", f"{GROUPS}$", {"ContactGroups": [{"Name": GROUP}]}, times=1)

        async def job(connector: Connector) -> list[Any]:
            change = Change(self.ref(1), self.slot(connector), Wish.OFF)
            return [(await connector.apply([change]))[change] for _ in range(2)]

        assert [type(answer) for answer in self.run(job)] == [Temporary, Applied]
        assert self.held(self.ref(1)) is Value.OFF

    def test_a_contact_that_is_refused_costs_nobody_else(self) -> None:
        refs = self.refs(7)
        self.twin.faults.add("bad_item", key=refs[4].value, times=None)
        answers = self.apply(Wish.OFF, *refs)
        assert [ref for ref in refs if isinstance(answers[ref], Refused)] == [refs[4]]
        assert all(self.held(ref) is Value.OFF for ref in refs if ref != refs[4])

    def test_a_refusal_of_who_is_in_the_group_already_is_none(self) -> None:
        """Whether Xero minds being told twice, it does not say."""
        self.unset(self.ref(1))
        self.twin.faults.add("bad_item", key=self.ref(1).value, times=None)
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], Applied)

    def test_an_error_within_a_200_is_a_refusal(self) -> None:
        self.put(self.ref(1))
        one = {"ContactID": self.twin.id_of(self.ref(1).value), "HasValidationErrors": True}
        self.answered("PUT", MEMBERS, {"Contacts": [one]})
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], Refused)

    def test_a_refusal_tells_its_kind_and_no_name(self) -> None:
        self.put(self.ref(1))
        body = {"Type": "ValidationException", "Message": "Amy Pond is archived"}
        self.twin.faults.add(
            "status", method="PUT", path=MEMBERS, status=400, body=json.dumps(body), times=None
        )
        text = str(self.apply(Wish.OFF, self.ref(1))[self.ref(1)])
        assert "ValidationException" in text
        assert "Amy" not in text

    def test_a_group_is_never_emptied(self) -> None:
        """The path without a contact's id: neither by an empty id, nor by an odd one."""
        self.unset(self.ref(1))

        group = self.twin.new_group(GROUP)
        odd = [(group, ""), (group, "/"), (group, "."), ("", NOBODY), (group, f"{NOBODY}/..")]

        async def job(connector: Any) -> None:
            for pair in odd:
                with pytest.raises(Refused):
                    await connector._delete(*pair)

        self.run(job)
        assert self.twin.writes() == []
        assert self.held(self.ref(1)) is Value.OFF

    def test_an_on_of_who_is_in_no_group_is_done(self) -> None:
        self.put(self.ref(1))
        assert isinstance(self.apply(Wish.ON, self.ref(1))[self.ref(1)], Applied)
        assert self.written()[0].status == 404

    # --- keys of writes ---------------------------------------------------------------------------

    def keys(self) -> list[str]:
        return [call.headers["idempotency-key"] for call in self.calls("PUT")]

    def test_a_repeat_in_the_call_has_the_same_key_and_is_done_once(self) -> None:
        self.put(self.ref(1))
        self.twin.faults.add("cut_json", method="PUT", path=MEMBERS, times=2)
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], Applied)
        assert len(self.keys()) == 3
        assert len(set(self.keys())) == 1
        assert len(self.twin.state.writes) == 1

    def test_a_later_write_has_another_key(self) -> None:
        """Xero would answer it from memory and do nothing."""
        self.put(self.ref(1))
        self.apply(Wish.OFF, self.ref(1))
        self.apply(Wish.ON, self.ref(1))
        self.apply(Wish.OFF, self.ref(1))
        assert self.held(self.ref(1)) is Value.OFF
        assert len(set(self.keys())) == 2
        assert all(0 < len(key) <= 128 for key in self.keys())

    # --- archived contacts ------------------------------------------------------------------------

    def test_an_archived_contact_ends_as_local(self) -> None:
        refs = self.refs(3)
        for ref in refs[:2]:
            self.twin.archive(ref.value)
        answers = self.apply(Wish.OFF, *refs)
        assert [type(answers[ref]) for ref in refs] == [Local, Local, Applied]
        assert self.held(refs[2]) is Value.OFF
        assert [call.status for call in self.written()] == [200, 400]

    def test_one_that_is_archived_meanwhile_ends_as_local_too(self) -> None:
        refs = self.refs(3)

        async def job(connector: Connector) -> Mapping[Change, Any]:
            await connector.observe(refs)
            self.twin.archive(refs[1].value)
            return await connector.apply(
                [Change(ref, self.slot(connector), Wish.OFF) for ref in refs]
            )

        answers = {change.ref: answer for change, answer in self.run(job).items()}
        assert [type(answers[ref]) for ref in refs] == [Applied, Local, Applied]

    def test_an_archived_contact_counts_only_where_there_is_no_other(self) -> None:
        self.put(self.ref(1))
        self.twin.archive(self.ref(1).value)
        self.put(self.ref(1))
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], Applied)
        assert self.value(self.ref(1)) is Value.OFF
        assert len(self.twin.state.writes) == 1

    def test_of_archived_contacts_alone_all_count(self) -> None:
        for _ in range(2):
            self.put(self.ref(1))
        self.twin.staff_adds(self.ref(1).value, GROUP)
        for contact in self.twin.state.contacts.values():
            contact.archived = True
        assert self.value(self.ref(1)) is Value.UNSET, "one is marked, one is not"

    def test_archived_contacts_are_marked_where_xero_lets_us(self) -> None:
        self.twin.configure(takes_archived=True)
        self.put(self.ref(1))
        self.twin.archive(self.ref(1).value)
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], Applied)
        assert self.value(self.ref(1)) is Value.OFF

    def test_who_is_restored_is_marked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(xero, "FRESH", timedelta())
        self.put(self.ref(1))
        self.twin.archive(self.ref(1).value)

        async def job(connector: Connector) -> list[Any]:
            change = Change(self.ref(1), self.slot(connector), Wish.OFF)
            answers = [(await connector.apply([change]))[change]]
            self.twin.restore(self.ref(1).value)
            return [*answers, (await connector.apply([change]))[change]]

        assert [type(answer) for answer in self.run(job)] == [Local, Applied]
        assert self.held(self.ref(1)) is Value.OFF

    # --- tokens -----------------------------------------------------------------------------------

    def at(self, *hours: float, then: Any = lambda: None) -> list[Any]:
        """One connector reads the first contact at these hours; `then` comes in between."""
        clock = [now()]

        async def inside() -> list[Any]:
            connector = Xero(self.target(), TokenBudget(Xero.facts.limit), lambda: clock[0])
            found = []
            began = clock[0]
            for at in hours:
                clock[0] = began + timedelta(hours=at)
                found.append((await connector.observe([self.ref(1)]))[self.ref(1)])
                then()
            await connector.close()
            return found

        return asyncio.run(inside())

    def tokens(self) -> int:
        return len(self.calls("POST", "/connect/token"))

    def test_a_token_is_asked_for_once_and_again_before_its_half_hour_ends(self) -> None:
        self.put(self.ref(1))
        assert all(isinstance(one, Observed) for one in self.at(0, 0.1, 0.4))
        assert self.tokens() == 1
        self.twin.calls.clear()
        assert all(isinstance(one, Observed) for one in self.at(0, 0.48))
        assert self.tokens() == 2

    def test_a_token_that_xero_no_longer_takes_is_replaced_once(self) -> None:
        self.put(self.ref(1))
        revoke = self.twin.state.tokens.clear
        found = self.at(0, 0.2, then=revoke)
        assert all(isinstance(one, Observed) for one in found)
        assert self.tokens() == 2
        assert [call.status for call in self.twin.calls].count(401) == 1

    def test_an_on_waits_for_its_next_time_where_the_token_was_refused(self) -> None:
        """It is sent once a claim: not even the 401 is repeated."""
        self.unset(self.ref(1))
        clock = [now()]

        async def inside() -> Any:
            connector = Xero(self.target(), TokenBudget(Xero.facts.limit), lambda: clock[0])
            await connector.observe([self.ref(1)])
            clock[0] += timedelta(minutes=5)
            self.twin.faults.add("status", method="DELETE", status=401)
            slot = next(slot for slot in connector.slots if slot.channel is Channel.EMAIL)
            change = Change(self.ref(1), slot, Wish.ON)
            answers = [(await connector.apply([change]))[change] for _ in range(2)]
            await connector.close()
            return answers

        assert [type(one) for one in asyncio.run(inside())] == [Temporary, Applied]
        assert [call.status for call in self.calls("DELETE")] == [401, 204]

    @pytest.mark.parametrize("key", ["client_id", "client_secret", "tenant"])
    def test_wrong_credentials_park_the_target(self, key: str) -> None:
        self.put(self.ref(1))
        options = {**self.options(), key: "another"}
        self.options = lambda: options  # type: ignore[method-assign]  # what was configured
        assert isinstance(self.observe(self.ref(1))[self.ref(1)], Unusable)
        assert len(self.twin.calls) == (2 if key == "tenant" else 1)

    # --- limits -----------------------------------------------------------------------------------

    def test_never_more_than_five_calls_at_once(self) -> None:
        self.twin.configure(latency=0.03, page_cap=1)
        refs = self.refs(4)

        async def job(connector: Connector) -> Any:
            URGENT.set(True)
            await connector.observe(refs)

            async def scan() -> None:
                [page async for page in connector.scan(None)]

            return await asyncio.gather(
                connector.observe(refs), connector.observe(refs), scan(), connector.containers()
            )

        found, *_ = self.run(job)
        assert all(isinstance(found[ref], Observed) for ref in refs)
        assert self.twin.limits.refused == 0
        assert self.twin.limits.most_open == 5

    def test_the_limit_of_a_minute_is_waited_for_outside_the_call(self) -> None:
        self.put(self.ref(1))
        self.twin.configure(windows=[[1, 60.0]])
        found = self.observe(self.ref(1))[self.ref(1)]
        assert isinstance(found, Temporary)
        assert found.retry_after == 60
        assert len(self.twin.calls) == 3

    def test_a_spent_day_stops_all_calls_for_an_hour(self) -> None:
        self.put(self.ref(1))
        self.twin.configure(windows=[[0, 86400.0]])
        first, second, third = self.at(0, 0.9, 1.1)
        for found in (first, second, third):
            assert isinstance(found, Temporary)
        assert first.retry_after == 3600
        assert second.retry_after == pytest.approx(360, abs=1)
        assert [call.status for call in self.calls(path=CONTACTS)] == [429, 429]

    def test_the_last_calls_of_a_day_are_kept_for_outs(self) -> None:
        self.put(self.ref(1))
        self.twin.configure(windows=[[xero_line.RESERVE + 2, 86400.0]])

        async def job(connector: Connector) -> list[Any]:
            URGENT.set(False)
            with pytest.raises(Temporary):
                [page async for page in connector.scan(None)]
            URGENT.set(True)
            change = Change(self.ref(1), self.slot(connector), Wish.OFF)
            return [(await connector.apply([change]))[change]]

        (answer,) = self.run(job)
        assert isinstance(answer, Applied)
        assert self.held(self.ref(1)) is Value.OFF

    # --- walking ----------------------------------------------------------------------------------

    def walk(self, cursor: str | None) -> list[Page]:
        async def job(connector: Connector) -> list[Page]:
            return [page async for page in connector.scan(cursor)]

        return self.run(job)

    def shown(self, pages: Sequence[Page]) -> set[str]:
        return {ref.value for page in pages for ref, _ in page.records}

    def off(self, pages: Sequence[Page]) -> set[str]:
        """Addresses that these pages show as out by email."""
        return {
            ref.value
            for page in pages
            for ref, read in page.records
            if self.email(read) is Value.OFF
        }

    @pytest.mark.parametrize("told", [True, False])
    def test_pages_are_followed_to_the_end(self, told: bool) -> None:
        """With or without a word of how many there are."""
        self.twin.configure(tell_pages=told)
        self.refs(5)
        pages = self.walk(None)
        assert len(self.shown(pages)) == 5
        assert [page.complete for page in pages] == [False] * (len(pages) - 1) + [True]

    def test_an_empty_organisation_is_a_complete_walk(self) -> None:
        (page,) = self.walk(None)
        assert (page.records, page.complete) == ((), True)

    def test_pages_that_do_not_go_on_end_the_walk(self) -> None:
        self.refs(1)
        same = {"ContactID": self.twin.id_of(self.ref(1).value), "EmailAddress": "p1@example.com"}
        self.answered("GET", f"{CONTACTS}$", {"Contacts": [same]})
        with pytest.raises(Temporary):
            self.walk(None)

    def test_a_contact_that_changes_meanwhile_pushes_nobody_off_a_page(self) -> None:
        self.twin.configure(page_cap=1)
        refs = self.refs(4)
        seen: set[str] = set()

        async def job(connector: Connector) -> None:
            async for page in connector.scan(None):
                seen.update(ref.value for ref, _ in page.records)
                self.twin.clock.move(1)
                for ref in refs[:2]:
                    self.twin.edit(ref.value)

        self.run(job)
        assert seen == {ref.value for ref in refs}

    def test_archived_contacts_are_walked_too(self) -> None:
        self.unset(self.ref(1))
        self.twin.archive(self.ref(1).value)
        assert self.off(self.walk(None)) == {self.ref(1).value}

    def test_a_walk_of_changes_sees_only_those_and_who_is_marked(self) -> None:
        self.refs(5)
        self.twin.clock.move(3600)
        pages = self.walk(None)
        assert [page.next_cursor is None for page in pages] == [True, True, False]
        cursor = (datetime.now(UTC) + timedelta(minutes=30)).isoformat()
        self.twin.new_contact("new@example.com")
        self.twin.staff_adds(self.ref(2).value, GROUP)
        changes = self.walk(cursor)
        assert self.shown(changes) == {self.ref(2).value, "new@example.com"}
        assert self.off(changes) == {self.ref(2).value}
        assert not any(page.complete for page in changes)

    def test_the_cursor_overlaps_so_that_clocks_may_differ(self) -> None:
        self.twin.clock.move(-120)
        cursor = self.walk(None)[-1].next_cursor
        self.put(self.ref(1))
        assert self.shown(self.walk(cursor)) == {self.ref(1).value}

    def test_a_group_alone_is_found_where_dates_do_not_show_it(self) -> None:
        self.refs(3)
        self.twin.clock.move(-3600)
        later = (now() + timedelta(hours=1)).isoformat()

        async def job(connector: Connector) -> list[list[Page]]:
            [page async for page in connector.scan(None)]
            self.twin.staff_adds(self.ref(2).value, GROUP)
            put = [page async for page in connector.scan(later)]
            quiet = [page async for page in connector.scan(later)]
            self.twin.staff_removes(self.ref(2).value, GROUP)
            return [put, quiet, [page async for page in connector.scan(later)]]

        put, quiet, removed = self.run(job)
        assert self.off(put) == {self.ref(2).value}
        assert self.shown(quiet) == set()
        assert (self.off(removed), self.shown(removed)) == (set(), {self.ref(2).value})

    def test_a_change_of_groups_is_told_again_where_a_scan_broke_off(self) -> None:
        self.refs(1)
        later = (now() + timedelta(hours=1)).isoformat()

        async def job(connector: Connector) -> list[Page]:
            [page async for page in connector.scan(None)]
            self.twin.staff_adds(self.ref(1).value, GROUP)
            self.twin.faults.add("status", path=self.scan_path, status=500, times=3)
            with pytest.raises(Temporary):
                [page async for page in connector.scan(later)]
            return [page async for page in connector.scan(later)]

        assert self.off(self.run(job)) == {self.ref(1).value}

    def test_a_scan_from_a_cursor_does_not_stand_for_the_whole_index(self) -> None:
        """After a start the cursor is old and the index is empty: nobody may seem absent."""
        self.refs(3)
        later = (now() + timedelta(hours=1)).isoformat()

        async def job(connector: Connector) -> Any:
            [page async for page in connector.scan(later)]
            return (await connector.observe([self.ref(2)]))[self.ref(2)]

        assert isinstance(self.run(job), Observed)

    def test_a_whole_scan_stands_for_the_index(self) -> None:
        self.refs(3)

        async def job(connector: Connector) -> Any:
            [page async for page in connector.scan(None)]
            return (await connector.observe([self.ref(2)]))[self.ref(2)]

        assert isinstance(self.run(job), Observed)
        assert len(self.calls(path=CONTACTS)) == 3

    def test_who_came_since_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(xero, "FRESH", timedelta())
        self.put(self.ref(1))

        async def job(connector: Connector) -> list[Any]:
            found = [(await connector.observe([self.ref(2)]))[self.ref(2)]]
            self.put(self.ref(2))
            return [*found, (await connector.observe([self.ref(2)]))[self.ref(2)]]

        assert [type(found) for found in self.run(job)] == [Absent, Observed]

    def test_a_page_was_read_after_its_time(self) -> None:
        self.put(self.ref(1))
        self.twin.configure(latency=0.1)
        (page,) = self.walk(None)
        arrived = min(call.at for call in self.calls(path=f"{GROUPS}/"))
        assert all(read.read_began <= arrived for _, read in page.records)

    def test_containers_are_groups_and_none_sends(self) -> None:
        async def job(connector: Connector) -> Sequence[Container]:
            return await connector.containers()

        found = self.run(job)
        assert {one.name for one in found} == OURS | {SUPPLIERS}
        assert not any(one.sends for one in found)
