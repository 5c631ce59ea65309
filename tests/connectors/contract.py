"""What every connector must do, whatever its vendor: one suite, a few lines for each system.

A subclass says how to build the connector and its twin, how to put somebody there, and what the
twin itself holds. What a system cannot do is an exemption with its reason.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, ClassVar, TypeVar

import pytest

from connectors import http, load
from connectors.budget import TokenBudget
from prefs.core.errors import PropagationError, Refused, Temporary, Unusable
from prefs.core.propagation import (
    URGENT,
    Absent,
    Applied,
    Change,
    Connector,
    Key,
    Observed,
    Ref,
    Slot,
    Target,
    Value,
    Wish,
)
from prefs.core.words import Kind
from tests.twins.kit import Call, Twin, running

T = TypeVar("T")
Answers = Mapping[Change, Any]


def now() -> datetime:
    return datetime.now(UTC)


class Narrow(TokenBudget):
    """Once `full`, there is a place for outs only."""

    full = False

    async def acquire(self) -> None:
        if self.full and not URGENT.get():
            await asyncio.Event().wait()
        await super().acquire()


class ConnectorContract:
    """Subclass per system. Methods named `test_*` run for each."""

    system: ClassVar[str]
    interface: ClassVar[bool] = True
    """False where people carry the changes and nothing can be called."""
    readable: ClassVar[bool] = True
    bulk: ClassVar[bool] = True
    names_done: ClassVar[bool] = True
    """Whether a bulk reply names what was done, or only what was not."""
    has_words: ClassVar[bool] = True
    """Whether a record has a state word that could be an unknown one."""
    done: ClassVar[type] = Applied
    """What the connector answers to a change that the vendor took."""
    gets: ClassVar[Value] = Value.ON
    """What the vendor shows of somebody who may get marketing there."""
    read_path: ClassVar[str]
    """Regular expression of the calls by which one record is read."""
    write_path: ClassVar[str]
    write_method: ClassVar[str | None] = None
    """Where a read has the same path as a write: the write's method."""
    scan_path: ClassVar[str]

    twin: Any
    url: str

    # --- what a subclass gives ------------------------------------------------------------------

    def make_twin(self) -> Twin[Any]:
        raise NotImplementedError

    def options(self) -> Mapping[str, Any]:
        raise NotImplementedError

    def put(self, ref: Ref) -> None:
        """Somebody who gets marketing there."""
        raise NotImplementedError

    def held(self, ref: Ref) -> Value:
        """What the twin itself holds of them."""
        raise NotImplementedError

    def unset(self, ref: Ref) -> None:
        """Somebody there who was never asked; where only refusals are marked, who is marked."""
        raise NotImplementedError

    def break_word(self, ref: Ref) -> None:
        """Give the record a state that no table knows."""
        raise NotImplementedError

    def reminders_untouched(self) -> bool:
        raise NotImplementedError

    def ref(self, number: int) -> Ref:
        return Ref(Kind.EMAIL, f"p{number}@example.com")

    def slot(self, connector: Connector) -> Slot:
        return connector.slots[0]

    def senders(self) -> Mapping[str, tuple[str, ...]]:
        return {}

    # --- plumbing -------------------------------------------------------------------------------

    @pytest.fixture(autouse=True)
    def _callable(self, request: pytest.FixtureRequest) -> None:
        declared = request.node.name in (
            "test_its_keys_are_described",
            "test_every_slot_is_marketing",
        )
        if not self.interface and not declared:
            pytest.skip(f"exempt: {self.system} has no interface to call; staff carry the changes")

    @pytest.fixture(autouse=True)
    def _served(
        self, monkeypatch: pytest.MonkeyPatch, hold_to_specs: object, _callable: None
    ) -> Iterator[None]:
        monkeypatch.setattr(http, "CALL_LIMIT", 2.0)
        with ExitStack() as stack:
            self.twin, self.url = stack.enter_context(running(self.make_twin()))
            self.furnish()
            yield
            assert self.reminders_untouched()
            self._only_declared_writes()

    def furnish(self) -> None:
        """Set the vendor's account up."""

    def _only_declared_writes(self) -> None:
        declared = load(self.system).facts.writes
        for call in self.written():
            path = self.bare(call.path)
            assert any(
                call.method == method and re.fullmatch(pattern, path)
                for method, pattern in declared
            ), f"{call.method} {path} is not declared"

    def written(self) -> list[Call]:
        """Calls that may change something, without reads by POST and requests for a token."""
        reads = self.reads_by_post()
        return [
            call
            for call in self.twin.writes()
            if not any(
                call.method == method and re.fullmatch(pattern, self.bare(call.path))
                for method, pattern in reads
            )
        ]

    def reads_by_post(self) -> Sequence[tuple[str, str]]:
        return ()

    def bare(self, path: str) -> str:
        """The path as the connector declares it."""
        return path

    def target(self) -> Target:
        return Target(
            name=self.system,
            brand="rt",
            system=self.system,
            live=True,
            base_url=self.url,
            options=self.options(),
            topics=("treatments", "products", "offers", "competitions", "news"),
            senders=self.senders(),
        )

    def run(self, job: Callable[[Connector], Awaitable[T]]) -> T:
        async def inside() -> T:
            kind = load(self.system)
            connector: Connector = kind(self.target(), TokenBudget(kind.facts.limit), now)
            try:
                return await job(connector)
            finally:
                await connector.close()

        return asyncio.run(inside())

    def observe(self, *refs: Ref) -> Mapping[Ref, Any]:
        return self.run(lambda connector: connector.observe(refs))

    def apply(self, to: Wish, *refs: Ref) -> dict[Ref, Any]:
        """ref -> the answer; a ref that the connector left out is missing."""

        async def job(connector: Connector) -> Answers:
            slot = self.slot(connector)
            return await connector.apply([Change(ref, slot, to, "consent") for ref in refs])

        return {change.ref: answer for change, answer in self.run(job).items()}

    def value(self, ref: Ref) -> Value | None:
        """As the connector reads it; None where there is no such record."""

        async def job(connector: Connector) -> Value | None:
            found = (await connector.observe([ref]))[ref]
            if isinstance(found, Absent):
                return None
            assert isinstance(found, Observed), found
            return found.values[self.slot(connector)].value

        return self.run(job)

    def pages(self) -> list[Any]:
        async def job(connector: Connector) -> list[Any]:
            return [page async for page in connector.scan(None)]

        return self.run(job)

    def needs_reading(self) -> None:
        if not self.readable:
            pytest.skip(f"exempt: {self.system} cannot be read")

    def needs_bulk(self) -> None:
        if not self.bulk:
            pytest.skip(f"exempt: {self.system} has no bulk write here")

    # --- what is declared -----------------------------------------------------------------------

    def test_its_keys_are_described(self) -> None:
        keys: Mapping[str, Key] = load(self.system).KEYS
        assert keys
        assert all(key.help for key in keys.values())
        assert load(self.system).facts.source_url.startswith("https://")

    def test_every_slot_is_marketing(self) -> None:
        async def job(connector: Connector) -> tuple[Slot, ...]:
            return connector.slots

        assert {slot.purpose for slot in self.run(job)} == {"marketing"}

    # --- reading --------------------------------------------------------------------------------

    def test_it_reads_on_off_and_absent(self) -> None:
        self.needs_reading()
        self.put(self.ref(1))
        assert self.value(self.ref(1)) is self.gets
        self.apply(Wish.OFF, self.ref(1))
        assert self.value(self.ref(1)) is Value.OFF
        assert self.value(self.ref(2)) in (None, Value.UNSET)

    def test_a_read_began_before_its_answer(self) -> None:
        self.needs_reading()
        self.put(self.ref(1))
        before = now()
        found = self.observe(self.ref(1))[self.ref(1)]
        assert before <= found.read_began <= now()

    def test_an_unknown_word_is_refused_and_never_guessed(self) -> None:
        self.needs_reading()
        if not self.has_words:
            pytest.skip(f"exempt: a record of {self.system} is in a group or not, with no word")
        self.put(self.ref(1))
        self.break_word(self.ref(1))
        assert isinstance(self.observe(self.ref(1))[self.ref(1)], Refused)

    @pytest.mark.parametrize(
        ("fault", "fields"),
        [
            ("status", {"status": 500}),
            ("status", {"status": 503, "body": ""}),
            ("html", {}),
            ("cut_json", {}),
            ("down", {}),
        ],
    )
    def test_a_failed_read_is_unknown_not_empty(self, fault: str, fields: dict[str, Any]) -> None:
        self.needs_reading()
        self.put(self.ref(1))
        self.twin.faults.add(fault, path=self.read_path, times=None, **fields)
        assert isinstance(self.observe(self.ref(1))[self.ref(1)], Temporary)

    # --- writing --------------------------------------------------------------------------------

    def test_an_out_waits_behind_no_read_that_finds_no_place(self) -> None:
        """A minute later, when what was read is no longer fresh."""
        self.needs_reading()
        ref, past = self.ref(1), [timedelta()]
        self.put(ref)

        async def inside() -> Any:
            kind = load(self.system)
            budget = Narrow(kind.facts.limit)
            connector: Connector = kind(self.target(), budget, lambda: now() + past[-1])
            await connector.observe([ref])
            budget.full = True
            past.append(timedelta(minutes=1))
            calm = asyncio.create_task(connector.observe([ref]))
            await asyncio.sleep(0.05)
            URGENT.set(True)
            try:
                return (await asyncio.wait_for(connector.observe([ref]), 10.0))[ref]
            finally:
                calm.cancel()
                await connector.close()

        assert isinstance(asyncio.run(inside()), Observed)

    def test_an_off_is_done_and_may_be_repeated(self) -> None:
        self.put(self.ref(1))
        for _ in range(2):
            answers = self.apply(Wish.OFF, self.ref(1))
            assert isinstance(answers[self.ref(1)], self.done)
            assert self.held(self.ref(1)) is Value.OFF

    def test_an_on_is_done(self) -> None:
        self.unset(self.ref(1))
        self.apply(Wish.ON, self.ref(1))
        assert self.held(self.ref(1)) is self.gets

    def test_an_off_is_tried_a_few_times_in_the_call_and_an_on_once(self) -> None:
        self.put(self.ref(1))
        self.unset(self.ref(2))
        for to, ref, most in ((Wish.OFF, self.ref(1), 3), (Wish.ON, self.ref(2), 1)):
            self.twin.faults.clear()
            self.twin.faults.add(
                "status", method=self.write_method, path=self.write_path, status=503, times=None
            )
            before = len(self.written())
            assert isinstance(self.apply(to, ref)[ref], Temporary)
            sent = len(self.written()) - before
            assert sent == most if to is Wish.ON else 1 < sent <= most

    def test_a_passing_fault_is_got_over(self) -> None:
        self.put(self.ref(1))
        self.twin.faults.add(
            "status", method=self.write_method, path=self.write_path, status=503, times=1
        )
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], self.done)

    def test_a_lie_is_only_found_by_reading(self) -> None:
        self.needs_reading()
        self.put(self.ref(1))
        self.twin.faults.add("lie", method=self.write_method, path=self.write_path)
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], self.done)
        assert self.value(self.ref(1)) is self.gets

    def test_a_revoked_key_makes_the_whole_target_unusable(self) -> None:
        self.put(self.ref(1))
        self.twin.faults.add(
            "status", method=self.write_method, path=self.write_path, status=401, times=None
        )
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], Unusable)

    @pytest.mark.parametrize("asked", ["", "soon", "-5", "86400", "date"])
    def test_too_many_calls_with_an_odd_retry_after(self, asked: str) -> None:
        self.put(self.ref(1))
        text = (
            format_datetime(now() + timedelta(hours=9), usegmt=True) if asked == "date" else asked
        )
        headers = {"Retry-After": text} if text else {}
        self.twin.faults.add(
            "status",
            method=self.write_method,
            path=self.write_path,
            status=429,
            headers=headers,
            times=None,
        )
        answer = self.apply(Wish.OFF, self.ref(1))[self.ref(1)]
        assert isinstance(answer, Temporary)
        assert answer.retry_after is None or 0 <= answer.retry_after <= 3600
        assert self.held(self.ref(1)) is self.gets

    @pytest.mark.parametrize("fault", ["html", "cut_json"])
    def test_an_answer_that_is_no_answer(self, fault: str) -> None:
        self.put(self.ref(1))
        self.twin.faults.add(fault, method=self.write_method, path=self.write_path, times=None)
        answers = self.apply(Wish.OFF, self.ref(1))
        assert not isinstance(answers.get(self.ref(1)), self.done)

    def test_a_time_out_after_the_work_is_unclear(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.put(self.ref(1))
        self.twin.faults.add(
            "timeout_after_work",
            method=self.write_method,
            path=self.write_path,
            seconds=20,
            times=None,
        )
        answer = self.apply(Wish.OFF, self.ref(1))[self.ref(1)]
        assert isinstance(answer, Temporary)
        assert answer.unclear
        assert self.held(self.ref(1)) is Value.OFF

    def test_one_bad_item_fails_alone(self) -> None:
        self.needs_bulk()
        refs = [self.ref(number) for number in range(1, 6)]
        for ref in refs:
            self.put(ref)
        self.twin.faults.add("bad_item", key=re.escape(refs[2].value), times=None)
        answers = self.apply(Wish.OFF, *refs)
        assert isinstance(answers[refs[2]], PropagationError)
        assert refs[2].value not in str(answers[refs[2]])
        for ref in (*refs[:2], *refs[3:]):
            assert isinstance(answers[ref], self.done)
            assert self.held(ref) is Value.OFF

    def test_an_item_that_is_not_named_is_unknown(self) -> None:
        self.needs_bulk()
        if not self.names_done:
            pytest.skip(f"exempt: a reply of {self.system} names only what was not done")
        refs = [self.ref(number) for number in range(1, 4)]
        for ref in refs:
            self.put(ref)
        self.twin.faults.add("omit_item", key=re.escape(refs[1].value), times=None)
        assert refs[1] not in self.apply(Wish.OFF, *refs)

    def test_nobody_is_created_to_be_opted_out(self) -> None:
        self.needs_reading()
        assert self.value(self.ref(9)) in (None, Value.UNSET)
        assert self.written() == []

    # --- walking --------------------------------------------------------------------------------

    def test_a_walk_sees_everybody_and_says_so(self) -> None:
        self.needs_reading()
        for number in range(1, 6):
            self.put(self.ref(number))
        pages = self.pages()
        seen = {text for page in pages for _, read in page.records for _, text in read.identifiers}
        assert {self.ref(number).value for number in range(1, 6)} <= seen
        assert [page.complete for page in pages] == [False] * (len(pages) - 1) + [True]

    def test_a_walk_that_breaks_off_concludes_nothing(self) -> None:
        self.put(self.ref(1))
        self.twin.faults.add("status", path=self.scan_path, status=500, times=None)
        seen: list[Any] = []

        async def job(connector: Connector) -> None:
            async for page in connector.scan(None):
                seen.append(page)

        with pytest.raises(Temporary):
            self.run(job)
        assert not any(page.complete for page in seen)
