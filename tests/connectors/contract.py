"""What every connector must do, whatever its vendor: one suite, a few lines for each system.

A subclass says how to build the connector and its twin, how to put somebody there, and what the
twin itself holds. What a system cannot do is an exemption with its reason; how many cases ran for
each system, and the exemptions, are told at the end of a run (summary.py).
"""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlsplit

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
    Page,
    Receipt,
    Ref,
    Seen,
    Slot,
    Target,
    Value,
    Verdict,
    Wish,
    judge,
)
from prefs.core.signals import Delivery, Found, Recheck, Unknown
from prefs.core.words import Kind
from tests.connectors import specs
from tests.twins.kit import Call, Letter, Twin, running

T = TypeVar("T")
Answers = Mapping[Change, Any]
EXEMPT = "exempt: "
"""How the reason of a case that a system is exempt from begins."""
UNCONFIRMED = (socket.IPPROTO_TCP, getattr(socket, "TCP_USER_TIMEOUT", 0))
NOWHERE = "http://127.0.0.1:9/webhooks?key=hook-key"
NEEDS = {
    "calls": "there is an interface to call",
    "reading": "a record can be read",
    "walking": "a walk shows whom the twin was given",
    "bulk": "several changes go in one call",
    "named": "the reply of such a call names what was done",
    "words": "a record's state is a word, which could be an unknown one",
    "walked words": "a walk sees that word",
    "webhooks": "the vendor sends some",
    "closed": "a request takes no fields but those that the vendor names",
}
"""What cases may need of a system."""
DECLARED = ("test_its_keys_are_described", "test_every_slot_is_marketing")
"""Cases that call nobody."""


class Rewritten(NamedTuple):
    """What is read of one person after an off of ours: by the record, and by a walk."""

    slot: Slot
    before: Observed
    ended: datetime
    reads: list[Observed]

    def receipt(self, slot: Slot) -> Receipt:
        """What is kept for a slot, once the write had ended."""
        value = self.before.values[slot].value if slot in self.before.values else None
        began = self.before.read_began
        if slot != self.slot:
            return Receipt(value, began)
        return Receipt(value, began, Wish.OFF, self.ended)

    def seen(self) -> list[tuple[Slot, Seen, datetime]]:
        return [
            (slot, seen, read.read_began)
            for read in self.reads
            for slot, seen in read.values.items()
        ]


def now() -> datetime:
    return datetime.now(UTC)


def connections_to(url: str) -> Iterator[socket.socket]:
    """Those of this process that are open."""
    for one in gc.get_objects():
        if issubclass(type(one), socket.socket) and one.family == socket.AF_INET:
            with suppress(OSError):
                if one.getpeername()[1] == urlsplit(url).port:
                    yield one


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
    exempt: ClassVar[Mapping[str, str]] = {}
    """What of NEEDS the system does not have, with the reason."""
    resumes: ClassVar[bool] = True
    """Whether a walk tells within it where to go on; else it begins again."""
    echoes: ClassVar[bool] = True
    """Whether webhooks, set as documented, tell of what we write ourselves."""
    small_pages: ClassVar[Sequence[str]] = ()
    """Names of what to set so that a page holds two records, where the twin does not."""
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

    def __init_subclass__(cls) -> None:
        assert set(cls.exempt) <= set(NEEDS)

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

    def put_walked(self, ref: Ref) -> None:
        """Somebody whom a walk shows."""
        self.put(ref)

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

    def listen(self, url: str) -> Mapping[str, Any]:
        """Have the vendor send its webhooks there; what the configuration needs to take them."""
        self.twin.configure(webhook_url=url)
        return {"webhook_key": "hook-key"}

    # --- plumbing -------------------------------------------------------------------------------

    def needs(self, *what: str) -> None:
        """Skip a case that the system is exempt from, with the reason."""
        for one in what:
            if one in self.exempt:
                pytest.skip(f"{EXEMPT}{self.exempt[one]}")

    @pytest.fixture(autouse=True)
    def _callable(self, request: pytest.FixtureRequest) -> None:
        if request.node.name not in DECLARED:
            self.needs("calls")

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

    def pages(self, cursor: str | None = None) -> list[Page]:
        async def job(connector: Connector) -> list[Page]:
            return [page async for page in connector.scan(cursor)]

        return self.run(job)

    def broken_walk(self) -> list[Page]:
        """The pages of a walk that breaks off."""
        seen: list[Page] = []

        async def job(connector: Connector) -> None:
            async for page in connector.scan(None):
                seen.append(page)

        with pytest.raises(Temporary):
            self.run(job)
        return seen

    def shown(self, pages: Sequence[Page]) -> set[str]:
        """Addresses and numbers of the records of these pages."""
        return {text for page in pages for _, read in page.records for _, text in read.identifiers}

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
        self.needs("reading")
        self.put(self.ref(1))
        assert self.value(self.ref(1)) is self.gets
        self.apply(Wish.OFF, self.ref(1))
        assert self.value(self.ref(1)) is Value.OFF
        assert self.value(self.ref(2)) in (None, Value.UNSET)

    def test_a_read_began_before_its_answer(self) -> None:
        self.needs("reading")
        self.put(self.ref(1))
        before = now()
        found = self.observe(self.ref(1))[self.ref(1)]
        assert before <= found.read_began <= now()

    def test_an_unknown_word_is_refused_and_never_guessed(self) -> None:
        self.needs("reading", "words")
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
            ("status", {"status": 429, "headers": {"Retry-After": "7"}}),
        ],
    )
    def test_a_failed_read_is_unknown_not_empty(self, fault: str, fields: dict[str, Any]) -> None:
        self.needs("reading")
        self.put(self.ref(1))
        self.twin.faults.add(fault, path=self.read_path, times=None, **fields)
        assert isinstance(self.observe(self.ref(1))[self.ref(1)], Temporary)

    # --- writing --------------------------------------------------------------------------------

    def test_an_out_waits_behind_no_read_that_finds_no_place(self) -> None:
        """A minute later, when what was read is no longer fresh."""
        self.needs("reading")
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
                return (await asyncio.wait_for(connector.observe([ref]), 60.0))[ref]
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
        self.needs("reading")
        self.put(self.ref(1))
        self.twin.faults.add("lie", method=self.write_method, path=self.write_path)
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], self.done)
        assert self.value(self.ref(1)) is self.gets

    def test_a_revoked_key_is_noticed_by_reads_too(self) -> None:
        self.put(self.ref(1))
        for path in dict.fromkeys((self.read_path, self.scan_path)):
            self.twin.faults.add("status", path=path, status=401, times=None)
        if "reading" not in self.exempt:
            assert isinstance(self.observe(self.ref(1))[self.ref(1)], Unusable)
        with pytest.raises(Unusable):
            self.pages()

    def test_a_revoked_key_makes_the_whole_target_unusable(self) -> None:
        self.put(self.ref(1))
        self.twin.faults.add(
            "status", method=self.write_method, path=self.write_path, status=401, times=None
        )
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], Unusable)

    @pytest.mark.parametrize("asked", ["", "soon", "-5", "86400", "date"])
    def test_too_many_calls_with_an_odd_retry_after(
        self, asked: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http, "UNTOLD_PAUSE", 0.05)
        monkeypatch.setattr(http, "LONGEST_WAIT", 0.5)  # what it answers counts, not its patience
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
        """What was asked for may have been done."""
        self.put(self.ref(1))
        self.twin.faults.add(fault, method=self.write_method, path=self.write_path, times=None)
        answer = self.apply(Wish.OFF, self.ref(1)).get(self.ref(1))
        assert answer is None or (isinstance(answer, Temporary) and answer.unclear)

    def test_a_time_out_after_the_work_is_unclear(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run(lambda connector: connector.containers())  # a vendor's SDK is imported
        monkeypatch.setattr(http, "CALL_LIMIT", 0.6)
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

    @pytest.mark.skipif(sys.platform != "linux", reason="the option is Linux's")
    def test_what_hangs_in_a_broken_way_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By every connection on which a call comes, long before the call can no longer be alive
        (what else may happen: tests/faults/test_hosts.py)."""
        limits: set[int] = set()
        note = self.twin._note

        def noting(*of: Any) -> Call:
            limits.update(one.getsockopt(*UNCONFIRMED) for one in connections_to(self.twin.url))
            noted: Call = note(*of)
            return noted

        monkeypatch.setattr(self.twin, "_note", noting)
        self.put(self.ref(1))
        self.apply(Wish.OFF, self.ref(1))
        assert limits == {http.UNCONFIRMED_LIMIT * 1000}
        assert load(self.system).facts.call_alive / 2 > http.CALL_LIMIT + http.UNCONFIRMED_LIMIT

    @pytest.mark.parametrize("status", [500, 504])
    def test_a_write_that_a_server_gave_up_on_is_unclear(self, status: int) -> None:
        """A proxy answers so while the vendor goes on."""
        self.put(self.ref(1))
        self.unset(self.ref(2))
        self.twin.faults.add(
            "status", method=self.write_method, path=self.write_path, status=status, times=None
        )
        for to, ref in ((Wish.OFF, self.ref(1)), (Wish.ON, self.ref(2))):
            answer = self.apply(to, ref)[ref]
            assert isinstance(answer, Temporary)
            assert answer.unclear

    def test_one_bad_item_fails_alone(self) -> None:
        self.needs("bulk")
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
        self.needs("bulk", "named")
        refs = [self.ref(number) for number in range(1, 4)]
        for ref in refs:
            self.put(ref)
        self.twin.faults.add("omit_item", key=re.escape(refs[1].value), times=None)
        assert refs[1] not in self.apply(Wish.OFF, *refs)

    def test_nobody_is_created_to_be_opted_out(self) -> None:
        self.needs("reading")
        assert self.value(self.ref(9)) in (None, Value.UNSET)
        assert self.written() == []

    # --- walking --------------------------------------------------------------------------------

    def test_a_walk_sees_everybody_and_says_so(self) -> None:
        self.needs("walking")
        for number in range(1, 6):
            self.put_walked(self.ref(number))
        pages = self.pages()
        assert {self.ref(number).value for number in range(1, 6)} <= self.shown(pages)
        assert [page.complete for page in pages] == [False] * (len(pages) - 1) + [True]

    def test_a_walk_that_breaks_off_concludes_nothing(self) -> None:
        self.put(self.ref(1))
        self.twin.faults.add("status", path=self.scan_path, status=500, times=None)
        assert not any(page.complete for page in self.broken_walk())

    def test_a_walk_that_breaks_half_way_goes_on_from_its_cursor(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Or from the beginning, where the vendor's pages cannot be gone on with later."""
        self.needs("walking")
        for name in self.small_pages:
            monkeypatch.setattr(name, 2)
        everybody = {self.ref(number).value for number in range(1, 6)}
        for number in range(1, 6):
            self.put_walked(self.ref(number))
        self.pages()
        calls = sum(bool(re.match(self.scan_path, call.path)) for call in self.twin.calls)
        self.twin.faults.add("status", path=self.scan_path, status=500, skip=calls // 2, times=None)
        first = self.broken_walk()
        self.twin.faults.clear()
        assert self.shown(first)
        assert not any(page.complete for page in first)
        cursor = next((page.next_cursor for page in reversed(first) if page.next_cursor), None)
        assert (cursor is not None) is self.resumes
        rest = self.pages(cursor)
        assert everybody <= self.shown(first) | self.shown(rest)
        before, after = (
            {ref for page in part for ref, _ in page.records} for part in (first, rest)
        )
        assert before.isdisjoint(after) is self.resumes

    def test_a_walk_that_leaves_a_record_out_is_not_complete(self) -> None:
        self.needs("reading", "words", "walked words")
        for number in (1, 2):
            self.put(self.ref(number))
        self.break_word(self.ref(1))
        pages = self.pages()
        assert self.ref(2).value in self.shown(pages)
        assert not any(page.complete for page in pages)

    # --- our own writes, seen again -------------------------------------------------------------

    def rewritten(self) -> Rewritten:
        ref = self.ref(1)

        async def job(connector: Connector) -> Rewritten:
            before = (await connector.observe([ref]))[ref]
            assert isinstance(before, Observed)
            slot = self.slot(connector)
            await connector.apply([Change(ref, slot, Wish.OFF)])
            ended = now()
            walked = [
                read
                async for page in connector.scan(None)
                for _, read in page.records
                if ref.value in {text for _, text in read.identifiers}
            ]
            after = (await connector.observe([ref]))[ref]
            assert isinstance(after, Observed)
            return Rewritten(slot, before, ended, [after, *walked])

        return self.run(job)

    def test_our_own_off_is_no_signal_when_it_is_read_again(self) -> None:
        """Neither in its slot, nor in any other one of the record; without the receipt that the
        write leaves it would be somebody's out."""
        self.needs("reading")
        self.put(self.ref(1))
        story = self.rewritten()
        ours = [found for found in story.seen() if found[0] == story.slot]
        assert len(ours) >= 2
        for slot, seen, began in story.seen():
            wish = Wish.OFF if slot == story.slot else Wish.LEAVE
            judged = judge(seen, began, story.receipt(slot), wish, None, began)
            assert judged.verdict is Verdict.NOTHING or slot != story.slot
            assert judged.verdict is not Verdict.OUT
        for _, seen, began in ours:
            assert judge(seen, began, None, Wish.OFF, None, began).verdict is Verdict.OUT

    def test_our_own_writes_are_no_signal_when_a_webhook_tells_them(self) -> None:
        self.needs("webhooks")
        self.put(self.ref(1))
        self.unset(self.ref(2))
        options = {**self.options(), **self.listen(NOWHERE)}
        self.twin.configure(gaps=[])
        self.apply(Wish.OFF, self.ref(1))
        self.apply(Wish.ON, self.ref(2))
        self.twin.courier.settle()
        letters = [sent.letter for sent in self.twin.courier.sent]
        assert bool(letters) is self.echoes
        for letter in letters:
            found = self.heard(letter, options)
            assert all(isinstance(one, Recheck | Unknown) for one in found), found

    def heard(self, letter: Letter, options: Mapping[str, Any]) -> list[Found]:
        """What our side makes of a webhook."""
        module = import_module(f"webhooks.{self.system}")
        target = Target(
            self.system, "rt", self.system, True, self.url, options, self.target().topics
        )
        query = tuple(parse_qsl(urlsplit(letter.url).query))
        headers = {name.lower(): value for name, value in letter.headers.items()}
        delivery = Delivery(letter.method, letter.url, query, headers, letter.content, now())
        signed = module.verify(delivery, target)
        found: list[Found] = module.normalise(delivery, target, signed=signed)
        return found

    # --- what it asks -------------------------------------------------------------------------

    def story(self) -> list[Call]:
        """The calls of an out, an in, and a look at everybody."""
        self.put(self.ref(1))
        self.unset(self.ref(2))
        self.observe(self.ref(1))
        self.apply(Wish.OFF, self.ref(1))
        self.apply(Wish.ON, self.ref(2))
        self.pages()
        self.run(lambda connector: connector.containers())
        calls: list[Call] = list(self.twin.calls)
        return calls

    def test_its_requests_are_those_of_the_vendors_interface(self) -> None:
        """So are those of every other case: each ends with the same look."""
        specs.require()
        calls = self.story()
        assert calls
        assert specs.findings(self.system, calls) == []

    def test_a_field_or_a_parameter_too_many_would_be_found(self) -> None:
        self.needs("closed")
        specs.require()
        for call in self.story():
            assert specs.findings(self.system, [specs.with_parameter(call)]), call.target
            if call.body:
                assert specs.findings(self.system, [specs.with_field(call)]), call.body

    # --- what it may write ----------------------------------------------------------------------

    def test_a_whole_story_makes_no_other_writes_than_declared(self) -> None:
        """And touches no reminder. Every case ends with the same look."""
        self.story()
        assert self.written()
        self._only_declared_writes()
        assert self.reminders_untouched()
