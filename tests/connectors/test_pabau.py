"""Pabau: the contract, all five flags on every write, families, pages that move, and the key in
the path."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypeVar

import pytest

from connectors.budget import TokenBudget
from connectors.pabau import FLAGS, OPTED_OUT, Pabau, _listed
from prefs.core.errors import Refused, SettingsError, Temporary, Unusable
from prefs.core.propagation import (
    Absent,
    Applied,
    Change,
    Limit,
    Observed,
    Page,
    Ref,
    Slot,
    Target,
    Value,
    Wish,
    plan,
)
from prefs.core.words import Channel, Kind, Purpose
from tests.connectors import specs
from tests.connectors.contract import ConnectorContract, now
from tests.twins.pabau import PabauTwin

T = TypeVar("T")
LISTING = r"/[^/]+/clients$"
UPDATE = r"/[^/]+/clients/[0-9]+/update"
AMY = Ref(Kind.EMAIL, "amy@example.com")
EMAIL = [Slot(flag, Channel.EMAIL) for flag in ("opt_in_email", "opt_in_newsletter")]
SMS = Slot("opt_in_sms", Channel.SMS)
MESSENGER = Slot("field:Marketing_messenger", Channel.MESSENGER, enforced=False)
FAMILY = Ref(Kind.PHONE, "+447700900101")
ON = dict.fromkeys(FLAGS, 1)
OFF = dict.fromkeys(FLAGS, 0)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def forward(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


def run(
    url: str,
    job: Callable[[Pabau], Awaitable[T]],
    clock: Callable[[], datetime] = now,
    **options: Any,
) -> T:
    async def inside() -> T:
        target = Target("pabau", "rt", "pabau", True, url, options, ("news",))
        connector = Pabau(target, TokenBudget(Limit(100)), clock)
        try:
            return await job(connector)
        finally:
            await connector.close()

    return asyncio.run(inside())


class Account(ConnectorContract):
    """A Pabau account whose own limits, and ours, stay out of the way."""

    system = "pabau"
    exempt: ClassVar[Mapping[str, str]] = {
        "closed": "an update may hold custom fields, which have any name"
    }
    small_pages = ("connectors.pabau.PAGE",)
    resumes = False  # pages are counted, and shift by who comes in between
    read_path = LISTING
    write_path = UPDATE
    scan_path = LISTING

    @pytest.fixture(autouse=True)
    def _fast(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Pabau, "facts", dataclasses.replace(Pabau.facts, limit=Limit(100)))

    def make_twin(self) -> PabauTwin:
        return PabauTwin()

    def furnish(self) -> None:
        self.twin.configure(windows=[])

    def options(self) -> Mapping[str, Any]:
        return {"api_key": self.twin.api_key}

    def put(self, ref: Ref) -> None:
        self.twin.new_client(ref.value)

    def unset(self, ref: Ref) -> None:
        self.twin.new_client(ref.value, flags=OFF)

    def held(self, ref: Ref) -> Value:
        (id_,) = self.twin.with_email(ref.value)
        return Value.ON if self.twin.flags(id_)["opt_in_email"] else Value.OFF

    def break_word(self, ref: Ref) -> None:
        (id_,) = self.twin.with_email(ref.value)
        self.twin.staff_set(id_, "opt_in_email", "2")

    def listen(self, url: str) -> Mapping[str, Any]:
        """Told of updates, too, which Pabau may do or not."""
        self.twin.configure(tells_updates=True)
        return super().listen(url)

    def reminders_untouched(self) -> bool:
        return not self.twin.reminders_touched()


class TestPabau(Account):
    """The email flag is the slot under test; updates are JSON."""

    def connected(self, job: Callable[[Pabau], Awaitable[T]], **options: Any) -> T:
        """One connector for a whole story, so that its index lives on."""
        return run(self.url, job, **{**self.options(), **options})

    def clients(self, count: int) -> list[int]:
        """So many clients, p1 to pN; returns their ids."""
        return [self.twin.new_client(self.ref(number).value) for number in range(1, count + 1)]

    def listings(self) -> int:
        return len([call for call in self.twin.calls if call.method == "GET"])

    def sent(self) -> list[dict[str, str]]:
        """The fields of every update, as the twin understood them."""
        return [write.fields for write in self.twin.state.writes]

    # --- the trap ---------------------------------------------------------------------------------

    @pytest.mark.parametrize("slot", [Slot(flag, channel) for flag, channel in FLAGS.items()])
    def test_all_five_flags_go_along_as_they_stand(self, slot: Slot) -> None:
        flags = {**ON, "opt_in_sms": 0, "opt_in_post": 0}
        id_ = self.twin.new_client("amy@example.com", flags=flags)
        self.connected(lambda connector: connector.apply([Change(AMY, slot, Wish.OFF)]))
        assert self.twin.flags(id_) == {**flags, slot.place: 0}
        (fields,) = self.sent()
        assert set(fields) == {*FLAGS, "is_active"}

    def test_a_client_that_is_not_active_stays_so(self) -> None:
        id_ = self.twin.new_client(self.ref(1).value, active=0)
        self.apply(Wish.OFF, self.ref(1))
        assert self.twin.client(id_).is_active == 0

    def test_flags_that_pabau_sets_itself_prove_nothing_and_are_declared(self) -> None:
        self.twin.new_client(self.ref(1).value)
        read = self.observe(self.ref(1))[self.ref(1)]
        on = {slot.channel for slot, seen in read.values.items() if seen.value is Value.ON}
        assert on == Pabau.facts.on_by_default
        assert not any(seen.proof for seen in read.values.values())

    def test_both_flags_of_email_in_one_update(self) -> None:
        id_ = self.twin.new_client("amy@example.com")
        both = [Change(AMY, slot, Wish.OFF) for slot in EMAIL]
        answers = self.connected(lambda connector: connector.apply(both))
        assert all(isinstance(answers[change], Applied) for change in both)
        assert self.twin.flags(id_) == {**ON, "opt_in_email": 0, "opt_in_newsletter": 0}
        assert len(self.sent()) == 1

    @pytest.mark.parametrize("slot", EMAIL)
    def test_an_out_of_either_email_flag_is_seen(self, slot: Slot) -> None:
        self.twin.staff_set(self.twin.new_client("amy@example.com"), slot.place)
        values = self.observe(AMY)[AMY].values
        assert {one for one, seen in values.items() if seen.value is Value.OFF} == {slot}

    def test_updates_of_one_client_come_one_after_another(self) -> None:
        """Two at once, each with the flags as it read them, would undo each other."""
        self.twin.new_client("amy@example.com")
        self.twin.configure(latency=0.05)

        async def job(connector: Pabau) -> None:
            await connector.observe([AMY])
            slots = connector.slots
            await asyncio.gather(*(connector.apply([Change(AMY, s, Wish.OFF)]) for s in slots))

        self.connected(job)
        (id_,) = self.twin.with_email("amy@example.com")
        assert self.twin.flags(id_) == OFF

    def test_a_flag_turned_off_between_two_tries_stays_off(self) -> None:
        id_ = self.twin.new_client("amy@example.com")
        self.twin.faults.add("status", path=UPDATE, status=503, times=1)

        async def job(connector: Pabau) -> None:
            await connector.observe([AMY])
            trying = asyncio.create_task(connector.apply([Change(AMY, SMS, Wish.OFF)]))
            while not self.twin.writes():
                await asyncio.sleep(0)
            self.twin.client_unsubscribes(id_, "post")
            await trying

        self.connected(job)
        assert self.twin.flags(id_) == {**ON, "opt_in_sms": 0, "opt_in_post": 0}

    def test_an_update_in_the_wrong_encoding_is_found_by_reading(self) -> None:
        """The vendor's worst case: it takes nothing of the update, and every flag becomes 1."""
        self.twin.configure(encodings=["form"])
        self.twin.new_client(self.ref(1).value, flags={"opt_in_sms": 0})
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], Applied)
        assert self.value(self.ref(1)) is Value.ON

    @pytest.mark.parametrize("value", ["2", "", "yes"])
    @pytest.mark.parametrize("flag", FLAGS)
    def test_a_flag_in_unknown_words_is_never_sent_on(self, flag: str, value: str) -> None:
        id_ = self.twin.new_client("amy@example.com")
        self.twin.staff_set(id_, flag, value)
        assert isinstance(self.observe(AMY)[AMY], Refused)
        change = Change(AMY, SMS, Wish.OFF)
        answers = self.connected(lambda connector: connector.apply([change]))
        assert isinstance(answers[change], Refused)
        assert "amy" not in str(answers[change])
        assert self.twin.writes() == []

    def test_one_client_in_unknown_words_hides_no_other(self) -> None:
        broken, _ = self.clients(2)
        self.twin.staff_set(broken, "opt_in_sms", "2")
        assert self.value(self.ref(2)) is Value.ON
        (page,) = self.pages()
        assert [ref.value for ref, _ in page.records] == [self.ref(2).value]
        assert not page.complete

    @pytest.mark.parametrize(
        ("reply", "kind"),
        [
            ({"status": 0, "message": "no"}, Refused),
            ({"success": False}, Refused),
            ({"status": "1"}, Applied),
            ({"success": True}, Applied),
            ({"message": "Client updated"}, None),
            ([], None),
        ],
    )
    def test_what_the_answer_to_an_update_says(self, reply: Any, kind: type[Any] | None) -> None:
        self.put(self.ref(1))
        body = json.dumps(reply)
        self.twin.faults.add("status", path=UPDATE, status=200, body=body, times=None)
        answer = self.apply(Wish.OFF, self.ref(1)).get(self.ref(1))
        assert type(answer) is (kind or type(None))

    def test_reminders_are_neither_shown_nor_touched(self) -> None:
        id_ = self.twin.new_client("amy@example.com")

        async def job(connector: Pabau) -> None:
            found = await connector.observe([AMY])
            await connector.apply([Change(AMY, slot, Wish.OFF) for slot in connector.slots])
            assert {slot.purpose for slot in found[AMY].values} == {Purpose.MARKETING}  # type: ignore[union-attr]  # it was read

        self.connected(job)
        assert self.twin.flags(id_) == OFF
        assert self.twin.client(id_).need_to_knows == 1
        assert not any("need_to_knows" in fields for fields in self.sent())

    # --- families ---------------------------------------------------------------------------------

    def test_clients_that_share_a_number_are_all_turned_off(self) -> None:
        """However it is spelt, as mobile or as phone."""
        mother = self.twin.new_client("m@example.com", mobile="07700 900101")
        child = self.twin.new_client("c@example.com", phone="+44 7700 900101")
        other = self.twin.new_client("o@example.com", mobile="07700 900102")

        async def job(connector: Pabau) -> Any:
            answers = await connector.apply([Change(FAMILY, SMS, Wish.OFF)])
            assert list(answers.values()) == [Applied()]
            return (await connector.observe([FAMILY]))[FAMILY]

        read = self.connected(job)
        assert read.values[SMS].value is Value.OFF
        assert (Kind.EMAIL, "c@example.com") in read.identifiers
        bits = [self.twin.flags(id_)["opt_in_sms"] for id_ in (mother, child, other)]
        assert bits == [0, 0, 1]

    def test_a_refusal_of_one_hides_no_write_to_another_that_may_still_be_at_work(self) -> None:
        for name, status in (("m", 400), ("c", 504)):
            id_ = self.twin.new_client(f"{name}@example.com", mobile="07700 900101", flags=OFF)
            path = f".*/clients/{id_}/update"
            self.twin.faults.add("status", path=path, status=status, times=None)

        async def job(connector: Pabau) -> Any:
            change = Change(FAMILY, SMS, Wish.ON)
            return (await connector.apply([change]))[change]

        answer = self.connected(job)
        assert isinstance(answer, Temporary)
        assert answer.unclear

    def test_one_of_a_family_still_on_is_not_off(self) -> None:
        mother = self.twin.new_client("m@example.com", mobile="07700 900101")
        self.twin.new_client("c@example.com", mobile="07700 900101")
        self.twin.client_unsubscribes(mother, "sms")
        assert self.observe(FAMILY)[FAMILY].values[SMS].value is Value.UNSET

    @pytest.mark.parametrize("to", [Wish.ON, Wish.OFF])
    def test_what_reached_one_of_a_family_is_not_done(self, to: Wish) -> None:
        """Else the other's flag would be heard as a wish at the next walk."""
        flags = OFF if to is Wish.ON else ON
        self.twin.new_client("m@example.com", mobile="07700 900101", flags=flags)
        child = self.twin.new_client("c@example.com", mobile="07700 900101", flags=flags)
        path = UPDATE.replace("[0-9]+", str(child))
        self.twin.faults.add("status", path=path, status=503, times=3)

        async def job(connector: Pabau) -> list[Any]:
            change = Change(FAMILY, SMS, to)
            answers = [(await connector.apply([change])).get(change)]
            read = (await connector.observe([FAMILY]))[FAMILY]
            assert isinstance(read, Observed)
            planned = plan(FAMILY, {SMS: read.values[SMS]}, {SMS: to})
            return [*answers, planned]

        answer, planned = self.connected(job)
        assert isinstance(answer, Temporary)
        assert len(planned) == 1

    def test_one_of_a_family_refused_is_not_done(self) -> None:
        self.twin.new_client("m@example.com", mobile="07700 900101")
        self.twin.new_client("c@example.com", mobile="07700 900101")
        self.twin.faults.add("bad_item", key="c@example.com", times=None)
        change = Change(FAMILY, SMS, Wish.OFF)
        answers = self.connected(lambda connector: connector.apply([change]))
        assert isinstance(answers[change], Refused)

    def test_a_sharer_that_joined_is_not_taken_for_off(self) -> None:
        self.twin.new_client("m@example.com", mobile="07700 900101", flags=OFF)

        async def job(connector: Pabau) -> Value:
            await connector.observe([FAMILY])
            self.twin.new_client("c@example.com", mobile="07700 900101")
            return (await connector.observe([FAMILY]))[FAMILY].values[SMS].value  # type: ignore[union-attr]  # it was read

        assert self.connected(job) is Value.UNSET

    # --- pages ------------------------------------------------------------------------------------

    def test_a_client_is_read_on_its_own_page(self) -> None:
        self.clients(120)

        async def job(connector: Pabau) -> None:
            await connector.observe([self.ref(1)])
            before = self.listings()
            found = (await connector.observe([self.ref(110)]))[self.ref(110)]
            assert isinstance(found, Observed)
            assert self.listings() - before == 1

        self.connected(job)
        assert self.twin.calls[-1].query == (("per_page", "50"), ("page", "3"))

    @pytest.mark.parametrize(("added", "most"), [(1, 2), (60, 7)])
    def test_a_client_that_moved_to_another_page_is_found(self, added: int, most: int) -> None:
        """On the page beside, or by a walk when it moved further."""
        self.twin.configure(newest_first=True)
        self.clients(60)

        async def job(connector: Pabau) -> None:
            await connector.observe([self.ref(11)])
            for number in range(added):
                self.twin.new_client(f"new{number}@example.com")
            before = self.listings()
            assert isinstance((await connector.observe([self.ref(11)]))[self.ref(11)], Observed)
            assert 1 < self.listings() - before <= most
            answers = await connector.apply([Change(self.ref(11), SMS, Wish.OFF)])
            assert list(answers.values()) == [Applied()]

        self.connected(job)
        (id_,) = self.twin.with_email(self.ref(11).value)
        assert self.twin.flags(id_)["opt_in_sms"] == 0

    def test_a_client_that_was_deleted_is_absent(self) -> None:
        ids = self.clients(3)

        async def job(connector: Pabau) -> None:
            assert isinstance((await connector.observe([self.ref(2)]))[self.ref(2)], Observed)
            self.twin.delete_client(ids[1])
            change = Change(self.ref(2), SMS, Wish.OFF)
            assert isinstance((await connector.apply([change]))[change], Temporary)
            assert isinstance((await connector.observe([self.ref(2)]))[self.ref(2)], Absent)

        self.connected(job)
        assert self.twin.writes() == []

    def test_a_new_client_is_found_when_the_number_of_clients_moves(self) -> None:
        self.clients(60)
        new, stranger = self.ref(61), self.ref(99)

        async def job(connector: Pabau) -> None:
            assert isinstance((await connector.observe([new]))[new], Absent)
            before = self.listings()
            assert isinstance((await connector.observe([stranger]))[stranger], Absent)
            assert self.listings() - before == 1
            self.twin.new_client(new.value)
            assert isinstance((await connector.observe([new]))[new], Observed)

        self.connected(job)

    def test_a_client_with_a_new_address_is_no_longer_found_by_the_old(self) -> None:
        (id_,) = self.clients(1)

        async def job(connector: Pabau) -> None:
            await connector.observe([self.ref(1)])
            self.twin.staff_edit(id_, "email", self.ref(2).value)
            found = await connector.observe([self.ref(1)])
            assert isinstance(found[self.ref(1)], Absent)
            assert isinstance((await connector.observe([self.ref(2)]))[self.ref(2)], Observed)

        self.connected(job)

    def test_a_client_is_found_by_its_id(self) -> None:
        """Also where the address was erased and only its kind is left."""
        (id_,) = self.clients(1)
        refs = [Ref(None, "", str(id_)), Ref(Kind.EMAIL, "", str(id_)), Ref(None, "", "999")]
        found = self.observe(*refs)
        assert found[refs[0]].identifiers == ((Kind.EMAIL, self.ref(1).value),)
        assert found[refs[1]].vendor_id == str(id_)
        assert isinstance(found[refs[2]], Absent)

    def test_nothing_is_absent_while_clients_are_added(self) -> None:
        """Whom a listing did not show may have slipped from one page to the next."""
        self.clients(60)
        adding = self.adds_between_pages()

        async def job(connector: Pabau) -> None:
            adding(connector)
            stranger = self.ref(99)
            assert isinstance((await connector.observe([stranger]))[stranger], Temporary)
            assert isinstance((await connector.observe([self.ref(2)]))[self.ref(2)], Observed)

        self.connected(job)

    # --- walks ------------------------------------------------------------------------------------

    def adds_between_pages(self) -> Callable[[Pabau], None]:
        """Makes a connector that finds one client more after every page it reads."""

        def arm(connector: Pabau) -> None:
            page = connector._page

            async def then_add(number: int, attempts: int = 3) -> Any:
                answer = await page(number, attempts)
                self.twin.new_client(f"more{len(self.twin.calls)}@example.com")
                return answer

            connector._page = then_add  # type: ignore[method-assign]  # the real one, and an act

        return arm

    def test_a_walk_of_many_pages(self) -> None:
        self.clients(120)
        pages = self.pages()
        assert [len(page.records) for page in pages] == [50, 50, 20]
        assert [page.complete for page in pages] == [False, False, True]

    def test_a_walk_over_pages_that_are_just_full(self) -> None:
        self.clients(100)
        assert [page.complete for page in self.pages()] == [False, True]

    def test_an_empty_account_is_seen_whole(self) -> None:
        (page,) = self.pages()
        assert (page.records, page.complete) == ((), True)

    @pytest.mark.parametrize("newest_first", [True, False])
    def test_a_walk_with_clients_added_meanwhile_is_not_complete(self, newest_first: bool) -> None:
        self.twin.configure(newest_first=newest_first)
        self.clients(120)
        adding = self.adds_between_pages()

        async def job(connector: Pabau) -> list[Page]:
            adding(connector)
            return [page async for page in connector.scan(None)]

        pages = self.connected(job)
        assert len(pages) >= 3
        assert not any(page.complete for page in pages)

    def test_a_walk_with_clients_deleted_meanwhile_is_not_complete(self) -> None:
        ids = self.clients(120)

        async def job(connector: Pabau) -> list[Page]:
            pages = []
            async for page in connector.scan(None):
                pages.append(page)
                if len(pages) == 1:
                    self.twin.delete_client(ids[0])
            return pages

        pages = self.connected(job)
        seen = {ref.value for page in pages for ref, _ in page.records}
        assert self.ref(51).value not in seen
        assert not any(page.complete for page in pages)

    def test_smaller_pages_than_asked_for_are_walked_to_the_end(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tests.twins.pabau.MOST_SHOWN", 20)
        self.clients(50)
        pages = self.pages()
        assert [len(page.records) for page in pages] == [20, 20, 10]
        assert pages[-1].complete

    def test_a_read_of_a_walk_began_with_its_page(self) -> None:
        """Not with the walk, which may take minutes: what we wrote meanwhile is not read again."""
        self.clients(60)
        started = now()
        first, second = self.pages()
        times = [first.records[0][1].read_began, second.records[0][1].read_began]
        assert started < times[0] < times[1] < now()

    def test_polls_rest_in_proportion_to_pages(self) -> None:
        self.clients(120)
        clock = Clock()

        async def job(connector: Pabau) -> None:
            async def walk() -> int:
                return len([page async for page in connector.scan(None) if page.records])

            assert await walk() == 3
            clock.forward(3 * 12 - 1)
            before = len(self.twin.calls)
            assert await walk() == 0
            assert len(self.twin.calls) == before
            clock.forward(2)
            assert await walk() == 3

        run(self.url, job, clock, **self.options())

    def test_a_walk_that_broke_off_is_not_rested_upon(self) -> None:
        self.clients(60)
        self.twin.faults.add("status", path=LISTING, status=500, skip=1, times=3)

        async def job(connector: Pabau) -> list[Page]:
            with pytest.raises(Temporary):
                [page async for page in connector.scan(None)]
            return [page async for page in connector.scan(None)]

        assert self.connected(job)[-1].complete

    def test_a_resting_poll_says_nothing(self) -> None:
        self.clients(1)

        async def job(connector: Pabau) -> list[Page]:
            [page async for page in connector.scan(None)]
            return [page async for page in connector.scan(None)]

        assert self.connected(job) == [Page(())]

    # --- Messenger --------------------------------------------------------------------------------

    def test_a_custom_field_holds_messenger_where_the_listing_shows_it(self) -> None:
        self.twin.new_field("Marketing messenger")
        self.twin.configure(shows_custom=True)
        id_ = self.twin.new_client("amy@example.com")

        async def job(connector: Pabau) -> list[Value]:
            assert connector.slots[-1] == MESSENGER
            seen = []
            for to in (Wish.OFF, Wish.ON):
                seen.append((await connector.observe([AMY]))[AMY].values[MESSENGER].value)  # type: ignore[union-attr]  # it was read
                await connector.apply([Change(AMY, MESSENGER, to)])
                seen.append((await connector.observe([AMY]))[AMY].values[MESSENGER].value)  # type: ignore[union-attr]  # it was read
            return seen

        seen = self.connected(job, fields={"messenger": "Marketing messenger"})
        assert seen == [Value.UNMARKED, Value.OFF, Value.OFF, Value.UNMARKED]
        assert [one["Marketing_messenger"] for one in self.sent()] == [OPTED_OUT, ""]
        assert self.twin.flags(id_) == ON

    def test_a_custom_field_that_is_not_shown_is_hidden_and_not_absent(self) -> None:
        self.twin.new_client("amy@example.com")
        fields = {"messenger": "Marketing messenger"}
        found = self.connected(lambda connector: connector.observe([AMY]), fields=fields)[AMY]
        assert isinstance(found, Observed)
        assert MESSENGER not in found.values
        assert found.hidden == {MESSENGER}

    # --- who may come in --------------------------------------------------------------------------

    @pytest.mark.parametrize("setting", [{"closed": True}, {"api_key": "another"}])
    def test_a_closed_account_or_a_wrong_key_parks_the_target(
        self, setting: dict[str, Any]
    ) -> None:
        options = self.options()
        self.twin.configure(**setting)
        found = run(self.url, lambda connector: connector.observe([AMY]), **options)[AMY]
        assert isinstance(found, Unusable)

    def test_a_key_is_one_segment_of_the_path(self) -> None:
        key = "a/b?c#d e%2F"
        self.connected(lambda connector: connector.observe([AMY]), api_key=key)
        assert self.twin.calls[0].target.startswith("/a%2Fb%3Fc%23d%20e%252F/clients?")

    @pytest.mark.parametrize("fault", ["down", "html", "cut_json", "timeout_before_work", "status"])
    def test_the_key_is_in_no_error_and_no_log(
        self, fault: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("connectors.http.CALL_LIMIT", 0.3)
        caplog.set_level(logging.DEBUG)
        self.put(self.ref(1))
        self.twin.faults.add(fault, times=None)
        change = Change(self.ref(1), SMS, Wish.OFF)

        async def job(connector: Pabau) -> list[Any]:
            read = await connector.observe([self.ref(1)])
            written = await connector.apply([change])
            return [read[self.ref(1)], written[change]]

        for failure in self.connected(job):
            assert isinstance(failure, Temporary)
            for cause in (failure, failure.__cause__, failure.__context__):
                assert self.twin.api_key not in f"{cause!r} {cause}"
        ours = [one for one in caplog.records if one.name != "uvicorn.access"]  # the twin's own
        assert not [one for one in ours if self.twin.api_key in one.getMessage()]

    # --- the interface's description --------------------------------------------------------------

    @pytest.mark.parametrize("left_out", FLAGS)
    def test_an_update_without_a_flag_would_be_a_finding(self, left_out: str) -> None:
        self.put(self.ref(1))
        self.apply(Wish.OFF, self.ref(1))
        (sent,) = self.twin.writes()
        assert specs.findings("pabau", [sent]) == []
        body = {name: bit for name, bit in sent.json().items() if name != left_out}
        for call in (
            dataclasses.replace(sent, body=json.dumps(body).encode()),
            dataclasses.replace(sent, body=b"", query=tuple((k, str(v)) for k, v in body.items())),
        ):
            (finding,) = specs.findings("pabau", [call])
            assert left_out in finding


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"encoding": "xml"}, "encoding: one of json, form, query"),
        ({"fields": {"sms": "No SMS"}}, "fields can hold messenger only"),
    ],
)
def test_contradictions_are_named(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        run("http://127.0.0.1:9", lambda connector: connector.containers(), **options)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        {"success": False, "clients": [], "total": 0},
        {"success": True, "clients": []},
        {"success": True, "clients": {}, "total": "many"},
        {"success": True, "clients": [[]], "total": 1},
        {"success": True, "clients": [{"details": {"id": 1}}], "total": 1},
        {"success": True, "clients": [{"details": {"id": 1}, "communications": []}], "total": 1},
    ],
)
def test_an_answer_that_is_no_list_of_clients_is_temporary(answer: Any) -> None:
    with pytest.raises(Temporary, match="list of clients"):
        _listed(answer)


class TestForms(Account):
    """The same where updates are forms."""

    def furnish(self) -> None:
        super().furnish()
        self.twin.configure(encodings=["form"])

    def options(self) -> Mapping[str, Any]:
        return {**super().options(), "encoding": "form"}


class TestQueries(Account):
    """The same where the fields of updates stand in the query."""

    def furnish(self) -> None:
        super().furnish()
        self.twin.configure(encodings=["query"], says="success")

    def options(self) -> Mapping[str, Any]:
        return {**super().options(), "encoding": "query"}
