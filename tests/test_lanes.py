"""The lane: what goes first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from sqlalchemy import func, select

from connectors.budget import TokenBudget
from prefs import lanes
from prefs.app import utc_now
from prefs.chores import every
from prefs.core.errors import PropagationError, Temporary
from prefs.core.propagation import Absent, Limit, Observed, Ref, Value
from prefs.core.words import Source
from prefs.lanes import Lane, Pace, Share, Worker
from prefs.store import marks
from prefs.store.schema import lanes as lane_rows
from tests.kit import TARGET, Clinic, MailingList, clinic

ADA = "ada@example.com"
OTHERS = [f"p{number}@example.com" for number in range(60)]


@dataclass
class OneByOne(MailingList):
    """A vendor that takes its time for each person."""

    reads: int = 0
    takes: float = 0.02

    async def observe(
        self, refs: Sequence[Ref]
    ) -> Mapping[Ref, Observed | Absent | PropagationError]:
        self.reads += len(refs)
        await asyncio.sleep(self.takes * len(refs))
        return await super().observe(refs)


@dataclass
class Rationed(MailingList):
    """A vendor with few calls a day: half of them are kept for outs."""

    budget: TokenBudget = field(default_factory=lambda: TokenBudget(Limit(8, 86400.0)))
    asked: int = 0

    async def observe(
        self, refs: Sequence[Ref]
    ) -> Mapping[Ref, Observed | Absent | PropagationError]:
        self.asked += 1
        try:
            for _ in refs:
                await self.budget.acquire()
                self.budget.release()
        except Temporary as fault:
            return dict.fromkeys(refs, fault)
        return await super().observe(refs)


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Clinic]:
    made = clinic(tmp_path)
    yield made
    made.database.close()


def test_an_out_waits_for_no_long_round_of_others(
    rt: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "CALM_SECONDS", 0.1)
    there = OneByOne(rt.clock, held=dict.fromkeys((ADA, *OTHERS), Value.ON))
    for one in OTHERS:
        rt.consent(one)
    lane = Lane(TARGET, there, rt.database, rt.intake, rt.clock, Pace(), "one")

    async def an_out_comes_in() -> None:
        work = asyncio.create_task(lane.run())
        while not there.reads:
            await asyncio.sleep(0.005)
        await asyncio.to_thread(rt.say, ADA, Source.ONE_CLICK)
        while not there.written:
            await asyncio.sleep(0.005)
        work.cancel()

    asyncio.run(asyncio.wait_for(an_out_comes_in(), 60))
    assert [change.ref.value for change in there.written] == [ADA]
    assert there.reads < len(OTHERS) / 2


def test_a_round_of_others_that_waits_for_a_place_gives_way_to_an_out(rt: Clinic) -> None:
    there = Rationed(rt.clock, held=dict.fromkeys((ADA, *OTHERS), Value.ON))
    for one in OTHERS:
        rt.consent(one)
    lane = Lane(TARGET, there, rt.database, rt.intake, rt.clock, Pace(), "one")

    async def an_out_comes_in() -> None:
        work = asyncio.create_task(lane.run())
        while there.budget._wait() is None or not there.asked:
            await asyncio.sleep(0.005)
        await asyncio.to_thread(rt.say, ADA, Source.ONE_CLICK)
        while not there.written:
            await asyncio.sleep(0.005)
        work.cancel()

    asyncio.run(asyncio.wait_for(an_out_comes_in(), 60))
    assert [change.ref.value for change in there.written] == [ADA]


TICKS = range(8)
"""Turns of the event loop between the last news and the end: a wait that has just been answered
must not swallow its cancelling (as `asyncio.wait_for` did before Python 3.12)."""


@pytest.mark.parametrize("ticks", TICKS)
def test_a_lane_ends_however_close_its_last_news_was(rt: Clinic, ticks: int) -> None:
    there = MailingList(rt.clock, held={})
    lane = Lane(TARGET, there, rt.database, rt.intake, rt.clock, Pace(), "one")

    async def news_and_the_end() -> None:
        work = asyncio.create_task(lane.run())
        await asyncio.sleep(0.1)
        for _ in range(20):
            lane.wake.set()
            for _ in range(ticks):
                await asyncio.sleep(0)
            work.cancel()
            done, _ = await asyncio.wait([work], timeout=60)
            assert done
            work = asyncio.create_task(lane.run())
            await asyncio.sleep(0.02)
        work.cancel()

    asyncio.run(news_and_the_end())


@pytest.mark.parametrize("ticks", TICKS)
def test_who_waits_for_a_place_in_the_budget_can_be_ended(ticks: int) -> None:
    async def a_place_and_the_end() -> None:
        budget = TokenBudget(Limit(1, 0.0))
        await budget.acquire()
        waits = asyncio.create_task(budget.acquire())
        await asyncio.sleep(0.01)
        budget.release()
        for _ in range(ticks):
            await asyncio.sleep(0)
        ended = waits.cancel()
        await asyncio.wait([waits], timeout=60)
        assert waits.cancelled() or not ended

    asyncio.run(a_place_and_the_end())


def test_workers_divide_the_lanes_between_them(rt: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first takes all; the second that comes gets its part, and all when the first ends."""
    monkeypatch.setattr(lanes, "PATIENCE", 0.3)
    monkeypatch.setattr(lanes, "POLL", 0.05)
    targets = [replace(TARGET, name=f"list{number}") for number in range(4)]

    def worker(holder: str) -> Worker:
        seen = rt.database.of(marks.presence(holder))
        share = Share(seen, holder, utc_now, 0.6, len(targets))
        made = [
            Lane(
                one,
                MailingList(rt.clock, held={}),
                rt.database.of(one.label),
                rt.intake,
                utc_now,
                Pace(lease=0.6),
                holder,
                share=share,
            )
            for one in targets
        ]
        return Worker(made, [lambda: every(0.05, share.look)], share)

    async def until(held: dict[str, int]) -> None:
        async with asyncio.timeout(60):
            while holding(rt) != held:
                await asyncio.sleep(0.02)

    async def come_and_go() -> None:
        first, second = worker("one"), worker("two")
        first.start()
        await until({"one": 4})
        second.start()
        await until({"one": 2, "two": 2})
        await first.stop()
        await until({"two": 4})
        await second.stop()

    asyncio.run(come_and_go())


def holding(rt: Clinic) -> dict[str, int]:
    """Who holds how many lanes."""
    wanted = select(lane_rows.c.holder, func.count()).where(
        lane_rows.c.holder.is_not(None), lane_rows.c.target.startswith("rt/")
    )
    rows = rt.database.read_now(
        lambda conn: conn.execute(wanted.group_by(lane_rows.c.holder)).all()
    )
    return {str(holder): int(count) for holder, count in rows}
