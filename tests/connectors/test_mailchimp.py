"""Mailchimp: the contract, its refusals, and the three traps of its SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from connectors import mailchimp
from connectors.mailchimp import Sdk
from prefs.core.errors import Refused, Temporary, Unusable
from prefs.core.propagation import (
    Applied,
    Change,
    Connector,
    Observed,
    Ref,
    Seen,
    Slot,
    Value,
    Wish,
)
from prefs.core.words import Kind, Source
from tests.connectors.contract import ConnectorContract
from tests.twins.mailchimp import MailchimpTwin

VALUES = {"subscribed": Value.ON, "unsubscribed": Value.OFF, "pending": Value.UNSET}


class TestMailchimp(ConnectorContract):
    system = "mailchimp"
    small_pages = ("connectors.mailchimp.PAGE",)
    resumes = False  # pages are counted, and shift by what changes in between
    echoes = False  # its webhooks are set to what people and admins do
    read_path = "/3.0/lists/[^/]+/members"
    write_path = "/3.0/lists/a1(/members/.*)?$"
    write_method = "PATCH"
    scan_path = "/3.0/lists/[^/]+/members"

    def make_twin(self) -> MailchimpTwin:
        return MailchimpTwin()

    def furnish(self) -> None:
        self.twin.new_audience("a1", interests={"i1": "Offers"})
        self.twin.new_member("a1", "receipts@example.com", status="transactional")

    def options(self) -> Mapping[str, Any]:
        return {
            "api_key": self.twin.api_key,
            "audiences": {"a1": ["treatments", "products", "offers", "competitions", "news"]},
        }

    def put(self, ref: Ref) -> None:
        self.twin.new_member("a1", ref.value)

    def unset(self, ref: Ref) -> None:
        self.twin.new_member("a1", ref.value, status="pending")

    def held(self, ref: Ref) -> Value:
        return VALUES[self.twin.member("a1", ref.value).status]

    def break_word(self, ref: Ref) -> None:
        self.twin.member("a1", ref.value).status = "resting"

    def listen(self, url: str) -> Mapping[str, Any]:
        self.twin.old_webhook("a1", url, sources=["user", "admin"])
        return {"webhook_key": "hook-key"}

    def reminders_untouched(self) -> bool:
        return all(not member.changed_by("api") for member in self.twin.service_members())

    def bare(self, path: str) -> str:
        return path.removeprefix("/3.0")

    # --- its refusals -----------------------------------------------------------------------

    def test_who_left_by_themselves_is_asked_once(self) -> None:
        self.put(self.ref(1))
        self.twin.person_unsubscribes("a1", self.ref(1).value)
        answer = self.apply(Wish.ON, self.ref(1))[self.ref(1)]
        assert isinstance(answer, Applied)
        assert answer.asked_person
        assert self.twin.member("a1", self.ref(1).value).status == "pending"

    def test_who_may_not_even_be_asked_is_refused(self) -> None:
        self.twin.pending_allowed = False
        self.put(self.ref(1))
        self.twin.person_unsubscribes("a1", self.ref(1).value)
        answer = self.apply(Wish.ON, self.ref(1))[self.ref(1)]
        assert isinstance(answer, Refused)
        assert "only the person" in str(answer)

    def test_an_audience_that_confirms_is_never_skipped(self) -> None:
        self.twin.new_audience("a1", double_optin=True)
        self.unset(self.ref(1))
        assert self.apply(Wish.ON, self.ref(1))[self.ref(1)].asked_person
        assert self.twin.member("a1", self.ref(1).value).status == "pending"

    def test_a_bounced_address_is_silent_and_a_fact(self) -> None:
        self.put(self.ref(1))
        self.twin.cleaned("a1", self.ref(1).value)
        found = self.observe(self.ref(1))[self.ref(1)]
        (seen,) = found.values.values()
        assert (seen.value, seen.fact) == (Value.SILENT, "hard_bounce")

    def test_receipts_only_is_silent_and_left_alone(self) -> None:
        receipts = Ref(Kind.EMAIL, "receipts@example.com")
        assert self.value(receipts) is Value.SILENT

    def test_it_says_who_left(self) -> None:
        for number, act in ((1, self.twin.person_unsubscribes), (2, self.twin.admin_unsubscribes)):
            self.put(self.ref(number))
            act("a1", self.ref(number).value)
        found = self.observe(self.ref(1), self.ref(2))
        sources = [next(iter(read.values.values())).source for read in found.values()]
        assert sources == [Source.VENDOR_PERSON, Source.VENDOR_API]

    # --- proof of an opt-in ------------------------------------------------------------------

    def proof(self, ref: Ref) -> Mapping[str, str] | None:
        """What a read shows; a scan must show the same."""
        (seen,) = {slot.place: seen for slot, seen in self.statuses(ref).items()}.values()
        return seen.proof

    def statuses(self, ref: Ref) -> Mapping[Slot, Seen]:
        def of_audience(read: Observed) -> dict[Slot, Seen]:
            return {slot: seen for slot, seen in read.values.items() if ":" not in slot.place}

        read = of_audience(self.observe(ref)[ref])
        pages = [record for page in self.pages() for record in page.records]
        (listed,) = [of_audience(found) for one, found in pages if one.value == ref.value]
        assert listed == read
        return read

    @pytest.mark.parametrize("form", ["Hosted Signup Form", "Embed Form", "Landing Page"])
    def test_a_form_of_mailchimps_proves_with_time_and_ip(self, form: str) -> None:
        self.twin.subscribe_by_form("a1", self.ref(1).value, form=form)
        at = self.twin.member("a1", self.ref(1).value).timestamp_opt.isoformat()
        assert self.proof(self.ref(1)) == {
            "at": at.replace("+00:00", "Z"),
            "how": "sign-up form",
            "form": form,
            "ip": "192.0.2.7",
        }

    def test_a_confirmation_counts_from_its_click(self) -> None:
        self.twin.new_audience("a1", double_optin=True)
        self.twin.subscribe_by_form("a1", self.ref(1).value)
        assert self.proof(self.ref(1)) is None
        self.twin.configure(clock_shift=86400)
        self.twin.person_confirms("a1", self.ref(1).value, ip="192.0.2.77")
        member, proof = self.twin.member("a1", self.ref(1).value), self.proof(self.ref(1))
        assert proof
        assert proof["ip"] == "192.0.2.77"
        assert proof["at"] == member.timestamp_opt.isoformat().replace("+00:00", "Z")
        assert member.timestamp_opt > member.timestamp_signup

    def test_a_time_alone_proves_nothing(self) -> None:
        self.twin.new_member("a1", self.ref(1).value, source="")
        assert self.twin.member("a1", self.ref(1).value).timestamp_opt
        assert self.proof(self.ref(1)) is None

    @pytest.mark.parametrize("how", ["admin_adds", "admin_imports", "a program"])
    def test_who_others_added_with_time_and_ip_proves_nothing(self, how: str) -> None:
        if how == "a program":
            body = {"email_address": self.ref(1).value, "status": "subscribed"}
            path, key = f"{self.url}/3.0/lists/a1/members", ("any", self.twin.api_key)
            assert httpx.post(path, json=body, auth=key).status_code == 200
            self.twin.calls.clear()
        else:
            getattr(self.twin, how)("a1", self.ref(1).value)
        member = self.twin.member("a1", self.ref(1).value)
        assert member.timestamp_opt
        assert member.ip_opt
        assert self.proof(self.ref(1)) is None

    def test_a_form_proves_nothing_for_who_was_put_back_later(self) -> None:
        self.twin.subscribe_by_form("a1", self.ref(1).value)
        self.twin.admin_unsubscribes("a1", self.ref(1).value)
        self.twin.configure(clock_shift=30 * 86400)
        self.twin.admin_resubscribes("a1", self.ref(1).value)
        assert self.proof(self.ref(1)) is None

    def test_who_left_proves_nothing(self) -> None:
        self.twin.subscribe_by_form("a1", self.ref(1).value)
        self.twin.person_unsubscribes("a1", self.ref(1).value)
        assert self.proof(self.ref(1)) is None

    @pytest.mark.parametrize(("boxes", "proves"), [((), False), (("b2",), False), (("b1",), True)])
    def test_where_boxes_are_asked_that_of_email_must_be_ticked(
        self, boxes: tuple[str, ...], proves: bool
    ) -> None:
        self.twin.new_audience("a1", permissions={"b1": "E-mail", "b2": "Direct mail"})
        self.twin.subscribe_by_form("a1", self.ref(1).value, boxes=boxes)
        assert bool(self.proof(self.ref(1))) == proves

    def test_many_are_read_by_pages(self) -> None:
        refs = [self.ref(number) for number in range(200)]
        for ref in refs[:-1]:
            self.put(ref)
        found = self.observe(*refs)
        assert sum(type(read).__name__ == "Observed" for read in found.values()) == 199
        assert len(self.twin.calls) <= 3

    def many(self, count: int) -> list[Ref]:
        refs = [self.ref(number) for number in range(count)]
        for ref in refs:
            self.put(ref)
        return refs

    def test_what_was_just_written_is_read_back_by_the_first_pages(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And not by the whole audience anew."""
        monkeypatch.setattr(mailchimp, "PAGE", 20)
        self.twin.clock.move(-3600)
        refs = self.many(300)[100:140]
        self.twin.clock.reset()
        self.apply(Wish.OFF, *refs)
        self.twin.calls.clear()
        found = self.observe(*refs)
        assert {self.read_value(found[ref]) for ref in refs} == {Value.OFF}
        assert len(self.twin.calls) <= 3

    def test_pages_are_listed_beside_each_other_within_the_limit(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mailchimp, "PAGE", 20)
        refs = self.many(300)
        self.twin.latency = 0.05
        found = self.observe(*refs)
        assert all(isinstance(found[ref], Observed) for ref in refs)
        assert len({call.target for call in self.twin.calls}) <= 300 / 20 + 1
        assert 4 <= self.twin.limits.most_open <= 8
        assert self.twin.limits.refused == 0

    def test_one_member_whom_a_bulk_call_is_refused_for_costs_nobody_else(self) -> None:
        refs = self.many(4)
        self.twin.faults.add("status", method="POST", path="/3.0/lists/a1", status=400, times=3)
        answers = self.apply(Wish.OFF, *refs)
        assert [type(answers[ref]) for ref in refs] == [Refused, Applied, Applied, Applied]
        assert [self.held(ref) for ref in refs] == [Value.ON] + 3 * [Value.OFF]

    def test_of_an_audience_that_is_gone_nobody_is_asked_for_one_by_one(self) -> None:
        refs = self.many(4)
        self.twin.faults.add("status", method="POST", path="/3.0/lists/a1", status=404, times=None)
        assert all(isinstance(one, Refused) for one in self.apply(Wish.OFF, *refs).values())
        assert len(self.twin.writes()) == 1

    def test_a_few_of_a_large_audience_are_read_by_name(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A page is worth it where it holds more of them than it costs."""
        monkeypatch.setattr(mailchimp, "PAGE", 2)
        refs = self.many(200)[::4]
        found = self.observe(*refs)
        assert all(isinstance(found[ref], Observed) for ref in refs)
        assert len(self.twin.calls) <= 1 + len(refs)

    @pytest.mark.parametrize("act", ["changed", "archived"])
    def test_nobody_is_passed_by_though_members_change_and_go_between_two_pages(
        self, monkeypatch: pytest.MonkeyPatch, act: str
    ) -> None:
        monkeypatch.setattr(mailchimp, "PAGE", 20)
        self.twin.clock.move(-3600)
        refs = []
        for number in range(120):
            refs.append(self.ref(number))
            self.put(refs[-1])
            self.twin.clock.move(10)
        self.twin.clock.reset()
        page, left = mailchimp.Mailchimp._page, list(refs[40:60])

        async def shifted(connector: Any, *args: Any) -> Any:
            answer = await page(connector, *args)
            if left:
                self.meanwhile(act, left.pop().value)
            return answer

        monkeypatch.setattr(mailchimp.Mailchimp, "_page", shifted)
        found = self.observe(*refs)
        assert len(left) < 20
        gone = refs[40:60][len(left) :] if act == "archived" else []
        assert all(isinstance(found[ref], Observed) for ref in refs if ref not in gone)

    def test_one_in_unknown_words_fails_alone_among_many(self) -> None:
        refs = self.many(60)
        self.break_word(refs[7])
        found = self.observe(*refs)
        assert isinstance(found[refs[7]], Refused)
        assert sum(isinstance(read, Observed) for read in found.values()) == 59

    @staticmethod
    def read_value(read: Any) -> Value:
        """Of the audience itself."""
        values: Mapping[Slot, Seen] = read.values
        return next(seen.value for slot, seen in values.items() if slot.place == "a1")

    def test_many_are_turned_off_in_one_call(self) -> None:
        refs = [self.ref(number) for number in range(120)]
        for ref in refs:
            self.put(ref)
        answers = self.apply(Wish.OFF, *refs)
        assert set(answers) == set(refs)
        assert len(self.twin.writes()) == 1

    def test_a_fault_of_ours_leaves_no_read_of_another_audience_running(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.twin.new_audience("a2")
        refs, ended = [self.ref(number) for number in range(3)], []

        async def read(connector: Any, audience: str, hash_: str) -> None:
            if audience == "a1":
                raise RuntimeError("a fault of ours")
            await asyncio.sleep(0.01)
            ended.append(hash_)

        monkeypatch.setattr(mailchimp.Mailchimp, "_read_member", read)
        topics = self.options()["audiences"]["a1"]
        both = {**self.options(), "audiences": {"a1": topics, "a2": topics}, "interests": {}}
        monkeypatch.setattr(self, "options", lambda: both)

        async def job(connector: Connector) -> int:
            with pytest.raises(RuntimeError, match="of ours"):
                await connector.observe(refs)
            return len(ended)

        assert self.run(job) == len(refs)

    def test_whose_spelling_was_erased_is_turned_off_by_the_vendors_id(self) -> None:
        """A bulk call names people by their address."""
        refs = self.many(8)
        erased = [
            Ref(Kind.EMAIL, "", self.twin.member("a1", ref.value).id) for ref in (refs[1], refs[4])
        ]
        for outs in ([*refs[5:], *erased], erased):
            answers = self.apply(Wish.OFF, *outs)
            assert answers == dict.fromkeys(outs, Applied())
        assert [self.held(refs[place]) for place in (1, 4, 5, 6, 7)] == [Value.OFF] * 5

    def test_overload_without_a_body_is_no_lost_account(self) -> None:
        self.put(self.ref(1))
        self.twin.faults.add("status", path=self.write_path, status=403, body="", times=None)
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], Temporary)

    def test_a_403_with_a_body_is(self) -> None:
        self.put(self.ref(1))
        self.twin.faults.add("status", path=self.write_path, status=403, times=None)
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], Unusable)

    @pytest.mark.parametrize("body", ["", "{}"])
    def test_a_retry_after_is_kept_and_holds_every_call(self, body: str) -> None:
        """The SDK's error drops the headers."""
        self.put(self.ref(1))
        asked = {"Retry-After": "7", "Content-Type": "application/problem+json"}
        self.twin.faults.add("status", path=self.write_path, status=429, body=body, headers=asked)

        async def job(connector: Any) -> tuple[Any, float | None]:
            change = Change(self.ref(1), self.slot(connector), Wish.OFF)
            answers = await connector.apply([change])
            return answers[change], connector._way._budget._wait()

        answer, wait = self.run(job)
        assert answer.retry_after == 7
        assert wait
        assert wait > 5

    def test_it_stays_well_below_ten_connections(self) -> None:
        refs = [self.ref(number) for number in range(40)]
        for ref in refs:
            self.put(ref)
        self.twin.latency = 0.05
        self.observe(*refs)
        assert self.twin.limits.most_open <= 8
        assert self.twin.limits.refused == 0

    @pytest.mark.parametrize("act", ["changed", "archived"])
    def test_a_walk_misses_nobody_though_members_change_and_go_meanwhile(
        self, monkeypatch: pytest.MonkeyPatch, act: str
    ) -> None:
        """Pages go by offset: whoever moves or leaves shifts the others."""
        monkeypatch.setattr(mailchimp, "PAGE", 5)
        self.twin.clock.move(-3600)
        refs = [self.ref(number) for number in range(30)]
        for ref in refs:
            self.put(ref)
            self.twin.clock.move(10)
        self.twin.clock.reset()

        async def job(connector: Connector) -> set[str]:
            seen: set[str] = set()
            async for page in connector.scan(None):
                here = {ref.value for ref, _ in page.records}
                for one in sorted(here - seen)[:3]:
                    self.meanwhile(act, one)
                seen |= here
            return seen

        assert self.run(job) >= {ref.value for ref in refs}

    def meanwhile(self, act: str, address: str) -> None:
        if act == "changed":
            self.twin.profile_change("a1", address, merge_fields={"FNAME": "Amy"})
        else:
            self.twin.admin_deletes("a1", address)


class TestInterests(TestMailchimp):
    """Topics that have an interest of their own are switched there."""

    def options(self) -> Mapping[str, Any]:
        return {**super().options(), "interests": {"i1": "offers"}}

    def test_a_topic_is_switched_by_its_interest(self) -> None:
        self.twin.new_member("a1", self.ref(1).value, interests={"i1": True})

        async def job(connector: Connector) -> None:
            (slot,) = [slot for slot in connector.slots if slot.place == "a1:i1"]
            await connector.apply([Change(self.ref(1), slot, Wish.OFF)])

        self.run(job)
        member = self.twin.member("a1", self.ref(1).value)
        assert member.interests == {"i1": False}
        assert member.status == "subscribed"

    def test_a_bounced_address_is_silent_and_a_fact(self) -> None:
        self.put(self.ref(1))
        self.twin.cleaned("a1", self.ref(1).value)
        found = self.observe(self.ref(1))[self.ref(1)]
        assert {seen.fact for seen in found.values.values()} == {"hard_bounce"}


# --- the SDK's traps, at its edge -------------------------------------------------------------


class TestSdk:
    HOST = "http://127.0.0.1:9/server/3.0"

    @pytest.fixture
    def sdk(self) -> Sdk:
        return Sdk(self.HOST, "key-us6")

    def test_the_word_server_in_a_url_is_left_alone(self, sdk: Sdk) -> None:
        client = sdk._client()
        url = (client.api_client.host + "/x").replace("server", client.api_client.server)
        assert url == self.HOST + "/x"

    @pytest.mark.parametrize("status", [403, 429, 500])
    def test_an_empty_answer_is_no_success(
        self, sdk: Sdk, status: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import requests

        answer = requests.Response()
        answer.status_code = status
        answer._content = b""
        answer.headers["content-type"] = "text/plain"
        monkeypatch.setattr(requests, "get", lambda *_, **__: answer)
        with pytest.raises(Temporary):
            sdk.call("get_list", "a1")

    def test_a_refused_connection_is_clear_and_a_broken_one_is_not(self, sdk: Sdk) -> None:
        with pytest.raises(Temporary) as fault:
            sdk.call("get_list", "a1")
        assert not fault.value.unclear
