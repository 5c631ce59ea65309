"""Messenger: the label for staff, tokens that vanish."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar

import pytest

from connectors.budget import TokenBudget
from connectors.messenger import Messenger
from prefs.core.errors import Refused, Temporary, Unusable
from prefs.core.propagation import (
    Change,
    Connector,
    Limit,
    Local,
    Memory,
    Page,
    Ref,
    Seen,
    Target,
    Value,
    Wish,
)
from prefs.core.words import Kind, Source
from tests.connectors.contract import ConnectorContract, now
from tests.twins.messenger import MessengerTwin


class TestMessenger(ConnectorContract):
    """Exempt from reading: Meta holds no preference. "Off" is the label that staff see."""

    system = "messenger"
    exempt: ClassVar[Mapping[str, str]] = {
        "reading": "Meta holds no preference that could be read",
        "walking": "a walk shows whose tokens vanished, after two lists",
        "bulk": "a label is set for one person at a time",
    }
    echoes = False  # a label set through the interface is not told
    done = Local
    read_path = scan_path = "/v25.0/[0-9]+/notification_message_tokens"
    write_path = "/v25.0/[0-9]+/label"

    def make_twin(self) -> MessengerTwin:
        return MessengerTwin()

    def options(self) -> Mapping[str, Any]:
        return {
            "page": self.twin.page,
            "token": self.twin.token,
            "app_secret": self.twin.app_secret,
            "verify_token": self.twin.verify_token,
            "label": "No marketing",
        }

    def ref(self, number: int) -> Ref:
        return Ref(Kind.MESSENGER, f"{self.twin.page}:{1000 + number}")

    def psid(self, ref: Ref) -> str:
        return ref.value.rpartition(":")[2]

    def put(self, ref: Ref) -> None:
        self.twin.new_person(self.psid(ref), token=True)

    def unset(self, ref: Ref) -> None:
        """Somebody who carries the label."""
        self.twin.new_person(self.psid(ref))
        self.apply(Wish.OFF, ref)

    def held(self, ref: Ref) -> Value:
        return Value.OFF if self.twin.has_label(self.psid(ref)) else Value.ON

    def reminders_untouched(self) -> bool:
        """Neither messages nor their templates are anything that it asks for, to read or write."""
        ends = ("/messages", "/message_templates", "/moderate_conversations")
        return not any(call.path.endswith(ends) for call in self.twin.calls)

    # --- labels -----------------------------------------------------------------------------------

    def test_the_label_is_made_once(self) -> None:
        for number in (1, 2):
            self.put(self.ref(number))
        self.apply(Wish.OFF, self.ref(1))
        self.apply(Wish.OFF, self.ref(2))
        assert list(self.twin.state.labels.values()) == ["No marketing"]

    def test_several_at_once_make_one_label(self) -> None:
        refs = [self.ref(number) for number in range(1, 5)]
        for ref in refs:
            self.put(ref)
        assert {type(answer) for answer in self.apply(Wish.OFF, *refs).values()} == {Local}
        assert list(self.twin.state.labels.values()) == ["No marketing"]
        assert all(self.held(ref) is Value.OFF for ref in refs)

    def test_a_label_on_a_later_page_is_found(self) -> None:
        self.put(self.ref(1))
        for number in range(60):
            self.twin.staff_makes_label(f"Label {number}")
        self.twin.staff_makes_label("No marketing")
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], Local)
        assert self.held(self.ref(1)) is Value.OFF
        assert len(self.twin.state.labels) == 61

    def test_a_label_that_staff_deleted_is_looked_up_again(self) -> None:
        self.put(self.ref(1))

        async def job(connector: Connector) -> list[Any]:
            change = Change(self.ref(1), self.slot(connector), Wish.OFF)
            await connector.apply([change])
            self.twin.staff_deletes_label("No marketing")
            return [(await connector.apply([change]))[change] for _ in range(2)]

        first, second = self.run(job)
        assert isinstance(first, Refused)
        assert isinstance(second, Local)
        assert self.held(self.ref(1)) is Value.OFF

    def test_a_label_without_an_id_is_no_answer(self) -> None:
        self.put(self.ref(1))
        path = "/v25.0/[0-9]+/custom_labels"
        self.twin.faults.add("status", method="POST", path=path, status=200, body="{}")
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], Temporary)

    def test_a_list_that_does_not_go_on_ends_the_walk(self) -> None:
        token = {"notification_messages_token": "t", "recipient_id": "1001"}
        body = json.dumps({"data": [token], "paging": {"cursors": {"after": "MTAx"}}})
        self.twin.faults.add("status", path=self.read_path, status=200, body=body, times=None)
        with pytest.raises(Temporary):
            self.pages()

    def test_an_on_makes_no_label(self) -> None:
        self.put(self.ref(1))
        assert isinstance(self.apply(Wish.ON, self.ref(1))[self.ref(1)], Local)
        assert self.twin.state.labels == {}

    def test_terms_that_were_not_accepted_are_no_fault_of_the_token(self) -> None:
        self.put(self.ref(1))
        self.twin.terms_accepted = False
        answer = self.apply(Wish.OFF, self.ref(1))[self.ref(1)]
        assert isinstance(answer, Refused)
        assert "terms" in str(answer)

    def test_somebody_of_another_page_is_left_to_our_own_check(self) -> None:
        elsewhere = Ref(Kind.MESSENGER, "77:1001")
        assert isinstance(self.apply(Wish.OFF, elsewhere)[elsewhere], Local)
        assert self.twin.writes() == []

    @pytest.mark.parametrize(
        ("code", "subcode", "kind"),
        [
            (1, None, Temporary),
            (2, None, Temporary),
            (2, 2018344, Refused),
            (4, None, Temporary),
            (32, None, Temporary),
            (613, None, Temporary),
            (190, None, Unusable),
            (200, None, Unusable),
            (10, 1893063, Unusable),
            (10, 2018278, Refused),
            (1545041, None, Refused),
            (100, None, Refused),
        ],
    )
    def test_it_decides_by_the_code(
        self, code: int, subcode: int | None, kind: type[Exception]
    ) -> None:
        self.put(self.ref(1))
        error = {"message": "x", "code": code, "error_subcode": subcode}
        body = json.dumps({"error": error})
        self.twin.faults.add("status", path=self.write_path, status=400, body=body, times=None)
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], kind)

    @pytest.mark.parametrize("code", [4, 32, 613])
    def test_a_limit_that_comes_without_429_pauses_the_whole_target(self, code: int) -> None:
        paused: list[float] = []

        class Noting(TokenBudget):
            def pause(self, seconds: float) -> None:
                paused.append(seconds)

        async def job() -> None:
            connector = Messenger(self.target(), Noting(Limit(99)), now)
            try:
                await connector.apply([Change(self.ref(1), connector.slots[0], Wish.OFF)])
            finally:
                await connector.close()

        body = json.dumps({"error": {"message": "x", "code": code}})
        self.twin.faults.add("status", status=400, body=body, times=None)
        asyncio.run(job())
        assert paused
        assert set(paused) == {60.0}

    def test_who_blocked_the_page_needs_no_label(self) -> None:
        """Nothing can be sent to them: their opt-out is no work for staff and never late."""
        self.put(self.ref(1))
        self.twin.blocks_page("1001")
        answer = self.apply(Wish.OFF, self.ref(1))[self.ref(1)]
        assert isinstance(answer, Local)
        assert "blocked" in answer.reason

    # --- tokens -----------------------------------------------------------------------------------

    def walks(self, *acts: Any, live: bool = True) -> list[list[Page]]:
        """One walk after each act, all of one connector."""

        async def job(connector: Connector) -> list[list[Page]]:
            walked = []
            for act in acts:
                act()
                walked.append([page async for page in connector.scan(None)])
            return walked

        return self.run(job)

    def told(self, pages: list[Page]) -> list[str]:
        return [ref.value for page in pages for ref, _ in page.records]

    def seen(self, pages: list[Page]) -> list[Seen]:
        reads = [read for page in pages for _, read in page.records]
        return [seen for read in reads for seen in read.values.values()]

    def test_a_token_that_vanished_is_a_stop_once_a_second_list_lacks_it_too(self) -> None:
        self.put(self.ref(1))
        self.put(self.ref(2))
        before, then = self.walks(lambda: None, lambda: self.twin.stops("1001"))
        assert self.told(before) == []
        assert self.told(then) == [self.ref(1).value]
        (seen,) = self.seen(then)
        assert (seen.value, seen.source) == (Value.OFF, Source.VENDOR_PERSON)
        assert [seen.at] == [datetime.fromisoformat(page.next_cursor or "") for page in then]

    def test_a_stop_is_told_where_times_come_in_seconds(self) -> None:
        """The unit is not described; taken for milliseconds, every token would have ended."""
        self.twin.configure(seconds=True)
        self.put(self.ref(1))
        _, then = self.walks(lambda: None, lambda: self.twin.stops("1001"))
        assert self.told(then) == [self.ref(1).value]

    def test_a_stop_is_told_by_every_later_walk(self) -> None:
        """A walk that came to nothing is made up for by the next one."""
        self.put(self.ref(1))
        _, then, later = self.walks(lambda: None, lambda: self.twin.stops("1001"), lambda: None)
        assert self.told(later) == [self.ref(1).value]
        assert self.seen(later) == self.seen(then)

    def test_who_agreed_again_after_a_stop_is_told_to_be_back(self) -> None:
        """Else their next stop would look like the old one."""
        self.put(self.ref(1))
        _, told, back, still, quiet, then = self.walks(
            lambda: None,
            lambda: self.twin.stops("1001"),
            lambda: self.twin.opts_in("1001"),
            lambda: None,
            lambda: None,
            lambda: self.twin.stops("1001"),
        )
        values = [[seen.value for seen in self.seen(pages)] for pages in (told, back, still)]
        assert values == [[Value.OFF], [Value.ON], [Value.ON]]
        assert self.told(quiet) == []
        (seen,) = self.seen(then)
        assert seen.value is Value.OFF
        assert [seen.at] == [datetime.fromisoformat(page.next_cursor or "") for page in then]

    def test_a_token_that_one_list_left_out_is_none(self) -> None:
        """Lists shift while people come and go."""
        self.put(self.ref(1))

        def lie() -> None:
            path = f"{self.read_path}$"
            self.twin.faults.add("status", path=path, status=200, body='{"data": []}')

        walks = self.walks(lambda: None, lie, lambda: None)
        assert [self.told(pages) for pages in walks] == [[], [], []]

    def test_nor_is_one_that_another_took_the_place_of(self) -> None:
        self.put(self.ref(1))

        def renew() -> None:
            self.twin.tokens_expire("1001")
            self.twin.opts_in("1001")

        walks = self.walks(lambda: None, renew, lambda: None)
        assert [self.told(pages) for pages in walks] == [[], [], []]

    def test_a_quiet_list_is_read_once(self) -> None:
        self.put(self.ref(1))
        self.walks(lambda: None, lambda: None)
        lists = [call for call in self.twin.calls if call.path.endswith("_message_tokens")]
        assert sum("after" not in dict(call.query) for call in lists) == 2

    def test_a_token_that_expired_is_none(self) -> None:
        self.twin.clock.move(-365 * 86400)
        self.put(self.ref(1))
        walks = self.walks(
            lambda: None, lambda: self.twin.tokens_expire("1001"), lambda: None, lambda: None
        )
        assert [self.told(pages) for pages in walks] == [[], [], [], []]

    def test_a_list_that_breaks_off_counts_for_nothing(self) -> None:
        self.twin.page_size = 2
        for number in range(1, 6):
            self.put(self.ref(number))
        memory = Memory()

        async def walk(connector: Connector) -> list[Page]:
            return [page async for page in connector.scan(None)]

        self.walk_with(memory, walk)
        for _ in range(3):
            self.twin.faults.clear()
            self.twin.faults.add("status", path=self.read_path, status=500, skip=1, times=None)
            with pytest.raises(Temporary):
                self.walk_with(memory, walk)
        self.twin.faults.clear()
        assert self.told(self.walk_with(memory, walk)) == []

    def walk_with(self, memory: Memory, job: Any) -> list[Page]:
        async def inside() -> list[Page]:
            target: Target = replace(self.target(), vault=memory)
            connector = Messenger(target, TokenBudget(Messenger.facts.limit), now)
            try:
                found: list[Page] = await job(connector)
                return found
            finally:
                await connector.close()

        return asyncio.run(inside())

    # --- the walk alone ---------------------------------------------------------------------------

    def test_a_walk_does_not_look_at_the_subscription(self) -> None:
        self.twin.loses_subscription()
        self.twin.faults.add("down", path=".*/subscribed_apps", times=None)
        self.pages()
        assert self.twin.writes() == []

    def test_the_token_stands_in_no_url(self) -> None:
        self.put(self.ref(1))
        self.apply(Wish.OFF, self.ref(1))
        assert not any(self.twin.token in call.target for call in self.twin.calls)
