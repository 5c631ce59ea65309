"""Google Contacts: the contract, labels, sync tokens, listings that lag, what a 200 left out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import pytest

from connectors import google
from prefs.core.errors import Refused, Temporary, Unusable
from prefs.core.propagation import (
    Absent,
    Applied,
    Change,
    Connector,
    Container,
    Observed,
    Page,
    Ref,
    Slot,
    Value,
    Wish,
)
from prefs.core.words import Channel, Kind
from tests.connectors.contract import ConnectorContract, now
from tests.twins.google import MINE, GoogleTwin

T = TypeVar("T")
LABEL = "No marketing - email"
PEOPLE = "/v1/people/me/connections"
WEEK = 7 * 86400


class TestGoogle(ConnectorContract):
    system = "google"
    exempt: ClassVar[Mapping[str, str]] = {
        "named": "members:modify names only what was not done",
        "words": "a contact has a label or not, with no word",
        "webhooks": "Google Contacts sends none",
    }
    resumes = False  # a sync token comes with the last page, page tokens are not for keeping
    gets = Value.UNMARKED
    read_path = "/v1/people:batchGet"
    write_path = "/v1/contactGroups/.+/members:modify"
    write_method = "POST"
    scan_path = PEOPLE

    def make_twin(self) -> GoogleTwin:
        return GoogleTwin()

    def furnish(self) -> None:
        self.twin.configure(page_cap=2, group_page_cap=3)
        for channel in Channel:
            self.twin.new_label(f"No marketing - {channel.value}")
        self.twin.new_label("Appointments")

    def options(self) -> Mapping[str, Any]:
        keys = ("client_id", "client_secret", "refresh_token")
        return {key: getattr(self.twin, key) for key in keys}

    def reads_by_post(self) -> Sequence[tuple[str, str]]:
        return (("POST", "/token"),)

    def slot(self, connector: Connector) -> Slot:
        return next(slot for slot in connector.slots if slot.channel is Channel.EMAIL)

    def put(self, ref: Ref) -> None:
        self.twin.new_contact(ref.value, labels=["Appointments"])

    def unset(self, ref: Ref) -> None:
        self.twin.new_contact(ref.value, labels=["Appointments", LABEL])

    def held(self, ref: Ref) -> Value:
        return Value.OFF if LABEL in self.twin.labels(ref.value) else Value.UNMARKED

    def reminders_untouched(self) -> bool:
        """No other label was changed, nothing was deleted, and no two writes met."""
        ours = {f"No marketing - {channel.value}" for channel in Channel}
        return not (self.twin.touched() - ours or self.twin.dangers or self.twin.parallel_writes)

    # --- reading ----------------------------------------------------------------------------------

    def test_a_contact_is_found_by_each_address_and_number_it_shows(self) -> None:
        id_ = self.twin.new_contact("amy@example.com Amy@Work.example", "07700 900123")
        amy, work = Ref(Kind.EMAIL, "amy@example.com"), Ref(Kind.EMAIL, "Amy@work.example")
        phone = Ref(Kind.PHONE, "+447700900123")
        found = self.observe(amy, work, phone)
        assert {found[ref].vendor_id for ref in (amy, work, phone)} == {id_}
        assert (Kind.PHONE, "07700 900123") in found[amy].identifiers
        assert isinstance(self.apply(Wish.OFF, phone)[phone], Applied)
        assert self.twin.labels("amy@example.com") == {LABEL}

    def test_a_contact_is_found_by_its_id_alone(self) -> None:
        """As after an erasure: the kind is known, the spelling is gone."""
        id_ = self.twin.new_contact("amy@example.com")
        refs = [Ref(None, "", id_), Ref(Kind.EMAIL, "", id_)]
        for ref in refs:
            assert self.observe(ref)[ref].identifiers == ((Kind.EMAIL, "amy@example.com"),)
        assert isinstance(self.apply(Wish.OFF, refs[1])[refs[1]], Applied)
        assert self.twin.labels("amy@example.com") == {LABEL}

    @pytest.mark.parametrize("id_", [None, "", "people/", "contactGroups/1", "people/c9"])
    def test_what_is_no_contact_is_absent_and_never_written(self, id_: str | None) -> None:
        self.put(self.ref(1))
        ref = Ref(None, "", id_)
        assert isinstance(self.observe(ref)[ref], Absent)
        assert isinstance(self.apply(Wish.OFF, ref)[ref], Temporary)
        assert self.twin.touched() == set()

    def test_two_contacts_of_one_address_are_both_marked(self) -> None:
        for _ in range(2):
            self.put(self.ref(1))
        self.twin.staff_labels(self.ref(1).value, LABEL)
        assert self.value(self.ref(1)) is Value.UNSET, "neither an out nor an in is met"
        self.apply(Wish.OFF, self.ref(1))
        assert self.value(self.ref(1)) is Value.OFF
        assert len(self.twin.state.writes) == 2

    def test_many_are_read_by_two_hundreds(self) -> None:
        self.twin.configure(page_cap=1000)
        refs = [self.ref(number) for number in range(250)]
        for ref in refs:
            self.put(ref)
        found = self.observe(*refs)
        assert all(isinstance(found[ref], Observed) for ref in refs)
        assert [call.path for call in self.twin.calls].count(self.read_path) == 2

    def test_a_contact_with_a_new_name_is_followed(self) -> None:
        self.put(self.ref(1))
        old = self.twin.id_of(self.ref(1).value)

        async def job(connector: Connector) -> list[Any]:
            found = [(await connector.observe([self.ref(1)]))[self.ref(1)]]
            self.twin.new_name(self.ref(1).value)
            found += (await connector.observe([self.ref(1), Ref(None, "", old)])).values()
            change = Change(self.ref(1), self.slot(connector), Wish.OFF)
            return [*found, (await connector.apply([change]))[change]]

        *found, answer = self.run(job)
        new = self.twin.id_of(self.ref(1).value)
        assert [one.vendor_id for one in found] == [old, new, new]
        assert isinstance(answer, Applied)
        assert self.held(self.ref(1)) is Value.OFF

    def test_an_address_that_moved_on_finds_its_contact_no_more(self) -> None:
        self.put(self.ref(1))

        async def job(connector: Connector) -> list[Any]:
            found = [(await connector.observe([self.ref(1)]))[self.ref(1)]]
            self.twin.new_address(self.ref(1).value, "other@example.com")
            return [*found, (await connector.observe([self.ref(1)]))[self.ref(1)]]

        assert [type(one) for one in self.run(job)] == [Observed, Absent]

    def test_staff_see_the_label_that_the_configuration_names(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = {**self.options(), "groups": {"email": "Keine Werbung"}}
        monkeypatch.setattr(self, "options", lambda: options)
        monkeypatch.setattr(self, "reminders_untouched", lambda: not self.twin.dangers)
        self.put(self.ref(1))
        self.apply(Wish.OFF, self.ref(1))
        assert self.twin.labels(self.ref(1).value) == {"Appointments", "Keine Werbung"}

    def test_no_slot_is_enforced(self) -> None:
        async def job(connector: Connector) -> set[bool]:
            return {slot.enforced for slot in connector.slots}

        assert self.run(job) == {False}

    # --- writing ----------------------------------------------------------------------------------

    def test_a_missing_label_is_made_for_an_out_and_never_for_an_in(self) -> None:
        self.twin.delete_label(LABEL)
        self.put(self.ref(1))
        assert isinstance(self.apply(Wish.ON, self.ref(1))[self.ref(1)], Applied)
        assert self.written() == []
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], Applied)
        assert self.held(self.ref(1)) is Value.OFF

    def test_a_label_that_somebody_else_makes_meanwhile_is_used(self) -> None:
        """Names are unique: making it a second time is a 409."""
        self.twin.delete_label(LABEL)
        self.put(self.ref(1))
        self.twin.faults.add(
            "status", method="POST", path="/v1/contactGroups$", status=409, times=1
        )

        async def job(connector: Connector) -> list[Any]:
            change = Change(self.ref(1), self.slot(connector), Wish.OFF)
            first = (await connector.apply([change]))[change]
            self.twin.new_label(LABEL)
            return [first, (await connector.apply([change]))[change]]

        first, second = self.run(job)
        assert isinstance(first, Temporary)
        assert isinstance(second, Applied)
        assert self.held(self.ref(1)) is Value.OFF

    def test_a_label_that_staff_deleted_is_made_again(self) -> None:
        self.put(self.ref(1))

        async def job(connector: Connector) -> list[Any]:
            change = Change(self.ref(1), self.slot(connector), Wish.OFF)
            answers = [(await connector.apply([change]))[change]]
            self.twin.delete_label(LABEL)
            answers += [(await connector.apply([change]))[change] for _ in range(2)]
            return answers

        assert [type(answer) for answer in self.run(job)] == [Applied, Temporary, Applied]
        assert self.held(self.ref(1)) is Value.OFF

    def test_a_contact_that_went_meanwhile_is_named_by_the_200(self) -> None:
        for number in (1, 2):
            self.put(self.ref(number))

        async def job(connector: Connector) -> Mapping[Change, Any]:
            refs = [self.ref(1), self.ref(2)]
            await connector.observe(refs)
            self.twin.delete_contact(self.ref(1).value)
            return await connector.apply(
                [Change(ref, self.slot(connector), Wish.OFF) for ref in refs]
            )

        answers = {change.ref: answer for change, answer in self.run(job).items()}
        assert isinstance(answers[self.ref(1)], Temporary)
        assert isinstance(answers[self.ref(2)], Applied)
        assert self.value(self.ref(1)) is None

    def test_a_contact_stays_in_its_last_label(self) -> None:
        self.put(self.ref(1))
        self.twin.only_in(self.ref(1).value, LABEL)
        assert isinstance(self.apply(Wish.ON, self.ref(1))[self.ref(1)], Refused)
        assert self.held(self.ref(1)) is Value.OFF

    def test_writes_of_one_account_never_meet(self) -> None:
        """Google fails mutations that overlap."""
        for number in range(4):
            self.put(self.ref(number))
        self.twin.configure(latency=0.05)

        async def job(connector: Connector) -> list[Mapping[Change, Any]]:
            await connector.observe([self.ref(1)])
            changes = [
                Change(self.ref(number), slot, Wish.OFF)
                for number, slot in enumerate(connector.slots[:4])
            ]
            return list(await asyncio.gather(*(connector.apply([one]) for one in changes)))

        assert all(isinstance(a, Applied) for found in self.run(job) for a in found.values())
        assert self.twin.parallel_writes == 0
        assert len(self.twin.state.writes) == 4

    # --- tokens -----------------------------------------------------------------------------------

    def test_a_revoked_refresh_token_parks_the_target(self) -> None:
        """`invalid_grant`: somebody must connect the account again."""
        self.put(self.ref(1))
        options = self.options()
        self.twin.configure(refresh_token="another")
        self.options = lambda: options  # type: ignore[method-assign]  # what was configured before
        assert isinstance(self.observe(self.ref(1))[self.ref(1)], Unusable)

    # --- walking ----------------------------------------------------------------------------------

    def walk(self, cursor: str | None) -> list[Page]:
        async def job(connector: Connector) -> list[Page]:
            return [page async for page in connector.scan(cursor)]

        return self.run(job)

    def off(self, pages: Sequence[Page]) -> set[str]:
        """Addresses that these pages show as out by email."""
        return {
            ref.value
            for page in pages
            for ref, read in page.records
            for slot, seen in read.values.items()
            if slot.channel is Channel.EMAIL and seen.value is Value.OFF
        }

    def test_a_walk_of_changes_sees_only_those(self) -> None:
        for number in range(1, 6):
            self.put(self.ref(number))
        self.twin.clock.move(60)
        pages = self.walk(None)
        assert len(pages) == 3
        assert [page.next_cursor is None for page in pages] == [True, True, False]
        self.twin.staff_labels(self.ref(2).value, LABEL)
        self.twin.new_contact("new@example.com")
        changes = self.walk(pages[-1].next_cursor)
        shown = {ref.value for page in changes for ref, _ in page.records}
        assert shown == {self.ref(2).value, "new@example.com"}
        assert self.off(changes) == {self.ref(2).value}
        assert not any(page.complete for page in changes)

    def test_a_label_alone_is_found_where_listings_do_not_show_it(self) -> None:
        self.twin.configure(labels_move=False)
        for number in range(1, 4):
            self.put(self.ref(number))

        async def job(connector: Connector) -> list[list[Page]]:
            whole = [page async for page in connector.scan(None)]
            self.twin.clock.move(60)
            cursor = whole[-1].next_cursor
            self.twin.staff_labels(self.ref(2).value, LABEL)
            put = [page async for page in connector.scan(cursor)]
            self.twin.staff_removes_label(self.ref(2).value, LABEL)
            return [put, [page async for page in connector.scan(cursor)]]

        put, removed = self.run(job)
        assert self.off(put) == {self.ref(2).value}
        assert self.off(removed) == set()
        assert self.ref(2).value in {ref.value for page in removed for ref, _ in page.records}

    def test_a_change_of_labels_is_told_again_where_a_scan_broke_off(self) -> None:
        self.twin.configure(labels_move=False)
        self.put(self.ref(1))

        async def job(connector: Connector) -> list[Page]:
            cursor = [page async for page in connector.scan(None)][-1].next_cursor
            self.twin.clock.move(60)
            self.twin.staff_labels(self.ref(1).value, LABEL)
            self.twin.faults.add("status", path=self.read_path, status=500, times=3)
            with pytest.raises(Temporary):
                [page async for page in connector.scan(cursor)]
            return [page async for page in connector.scan(cursor)]

        assert self.off(self.run(job)) == {self.ref(1).value}

    def test_after_seven_days_a_walk_begins_again(self) -> None:
        for number in range(1, 4):
            self.put(self.ref(number))
        cursor = self.walk(None)[-1].next_cursor
        self.twin.clock.move(WEEK)
        self.twin.state.tokens.clear()
        pages = self.walk(cursor)
        assert len({ref.value for page in pages for ref, _ in page.records}) == 3
        assert pages[-1].next_cursor not in (None, cursor)

    def test_the_index_outlives_its_sync_token(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(google, "FRESH", timedelta())
        self.put(self.ref(1))

        async def job(connector: Connector) -> list[Any]:
            found = [(await connector.observe([self.ref(1)]))[self.ref(1)]]
            self.twin.clock.move(WEEK)
            self.twin.state.tokens.update(
                {token: self.twin.clock() + timedelta(days=1) for token in self.twin.state.tokens}
            )
            self.put(self.ref(2))
            return [*found, (await connector.observe([self.ref(2)]))[self.ref(2)]]

        assert all(isinstance(found, Observed) for found in self.run(job))

    def test_a_scan_from_a_cursor_does_not_stand_for_the_whole_index(self) -> None:
        """After a start the cursor is old and the index is empty: nobody may seem absent."""
        for number in range(1, 4):
            self.put(self.ref(number))
        cursor = self.walk(None)[-1].next_cursor

        async def job(connector: Connector) -> Any:
            [page async for page in connector.scan(cursor)]
            return (await connector.observe([self.ref(2)]))[self.ref(2)]

        assert isinstance(self.run(job), Observed)

    def test_a_deleted_contact_is_absent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(google, "FRESH", timedelta())
        self.put(self.ref(1))

        async def job(connector: Connector) -> list[Any]:
            found = [(await connector.observe([self.ref(1)]))[self.ref(1)]]
            self.twin.delete_contact(self.ref(1).value)
            return [*found, (await connector.observe([self.ref(1)]))[self.ref(1)]]

        assert [type(found) for found in self.run(job)] == [Observed, Absent]

    def test_a_listing_that_lags_is_not_believed(self) -> None:
        """We put the label on and take it off; the listing still shows it."""
        self.unset(self.ref(1))
        self.twin.clock.move(600)
        self.twin.configure(lag=300)
        self.apply(Wish.ON, self.ref(1))
        assert self.twin.labels(self.ref(1).value) == {"Appointments"}
        assert self.off(self.walk(None)) == set()

    def test_a_label_that_the_listing_does_not_show_yet_is_found(self) -> None:
        self.put(self.ref(1))
        self.twin.clock.move(600)
        self.twin.configure(lag=300)
        self.twin.staff_labels(self.ref(1).value, LABEL)
        assert self.off(self.walk(None)) == {self.ref(1).value}

    def test_a_page_was_read_after_its_time(self) -> None:
        self.put(self.ref(1))
        self.twin.configure(latency=0.1)
        (page,) = self.walk(None)
        arrived = max(call.at for call in self.twin.calls if call.path == PEOPLE)
        assert all(read.read_began <= arrived for _, read in page.records)
        assert page.records[0][1].read_began < now()

    def test_containers_are_labels_and_none_sends(self) -> None:
        async def job(connector: Connector) -> Sequence[Container]:
            return await connector.containers()

        found = {one.id: one for one in self.run(job)}
        assert found[MINE] == Container(MINE, "myContacts", sends=False)
        assert {"Appointments", LABEL} <= {one.name for one in found.values()}
        assert not any(one.sends for one in found.values())

    def test_the_quota_of_full_listings_is_waited_for(self) -> None:
        self.put(self.ref(1))
        self.twin.configure(full_quota=0)
        assert isinstance(self.observe(self.ref(1))[self.ref(1)], Temporary)
