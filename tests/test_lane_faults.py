"""The lane as it runs: one fault keeps nobody else waiting, and after one nothing is taken for
settled that may still be on its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, select

from prefs.app import _answer_open
from prefs.chores import Sweep
from prefs.core.errors import PropagationError, Temporary, Unusable
from prefs.core.propagation import (
    OUT_DUE,
    URGENT,
    Absent,
    Applied,
    Change,
    Container,
    Local,
    Observed,
    Outcome,
    Page,
    Ref,
    Slot,
    Target,
    Value,
    Wish,
)
from prefs.core.words import Channel, Source
from prefs.lanes import Lane, Pace
from prefs.scan import Scan
from prefs.store import events, marks, outbox, schema, subjects
from tests.kit import EMAIL, FACTS, TARGET, Clinic, MailingList, clinic

ADA, BOB = "ada@example.co.uk", "bob@example.co.uk"
SLOW = replace(FACTS, call_alive=120.0)
"""A call may be at work there for longer than the first park."""
REFUSES = Unusable("the vendor refuses our token (401)")


@dataclass
class Faulty(MailingList):
    """Where a fault of ours, which no connector should have, comes up."""

    bad: str = ""
    reads: int = 0
    walks: bool = True
    lists: bool = True
    answers: Mapping[str, PropagationError] = field(default_factory=dict)
    """To writes, by address."""

    async def observe(
        self, refs: Sequence[Ref]
    ) -> Mapping[Ref, Observed | Absent | PropagationError]:
        await asyncio.sleep(0.005)
        self.reads += 1
        if self.bad and self.bad in {ref.value for ref in refs}:
            raise KeyError("a field that was always there")
        return await super().observe(refs)

    async def apply(
        self, changes: Sequence[Change]
    ) -> Mapping[Change, Applied | Local | PropagationError]:
        found = await super().apply([c for c in changes if c.ref.value not in self.answers])
        failed = [c for c in changes if c.ref.value in self.answers]
        return {**found, **{c: self.answers[c.ref.value] for c in failed}}

    async def scan(self, cursor: str | None) -> AsyncIterator[Page]:
        if not self.walks:
            raise KeyError("a field that was always there")
        yield Page((), complete=True)

    async def containers(self) -> Sequence[Container]:
        if not self.lists:
            raise KeyError("a field that was always there")
        return []


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Clinic]:
    made = clinic(tmp_path)
    yield made
    made.database.close()


def run(rt: Clinic, there: MailingList, until: Callable[[], object], **more: Any) -> None:
    """Let the lane work until something holds, for a minute at most."""
    target = more.pop("target", TARGET)
    lane = Lane(target, there, rt.database, rt.intake, rt.clock, Pace(), "one", **more)

    async def work() -> None:
        job = asyncio.create_task(lane.run())
        for _ in range(3000):
            if until():
                break
            await asyncio.sleep(0.02)
        job.cancel()
        with suppress(asyncio.CancelledError):
            await job

    asyncio.run(work())
    assert until()


def lane_of(rt: Clinic, there: MailingList, target: Target = TARGET) -> Lane:
    """One whose lease outlives what a test waits."""
    pace = Pace(lease=3600.0)
    return Lane(target, there, rt.database, rt.intake, rt.clock, pace, "one")


def carry(lane: Lane, rounds: int = 1) -> None:
    async def work() -> None:
        assert await lane._hold()
        for _ in range(rounds):
            await lane._push_once()

    asyncio.run(work())


def waiting(rt: Clinic, address: str) -> list[Any]:
    (owner,) = rt.database.read_now(lambda conn: subjects.owners(conn, "rt", [rt.hash(address)]))
    return rt.database.read_now(lambda conn: marks.of_subject(conn, owner))


def epoch(rt: Clinic) -> int:
    row = rt.database.read_now(lambda conn: marks.lane(conn, TARGET.label))
    return int(row.epoch) if row else 0


def test_a_record_that_we_cannot_handle_keeps_nobody_else_waiting(rt: Clinic) -> None:
    there = Faulty(rt.clock, held=dict.fromkeys((ADA, BOB), Value.ON), bad=ADA)
    for one in (ADA, BOB):
        rt.say(one, Source.ONE_CLICK)
    run(rt, there, lambda: there.held[BOB] is Value.OFF and not waiting(rt, BOB))
    (mark,) = waiting(rt, ADA)
    assert mark.outcome == Outcome.PENDING
    assert "KeyError" in mark.reason
    assert ADA not in mark.reason
    there.bad = ""
    rt.clock.forward(60)
    run(rt, there, lambda: there.held[ADA] is Value.OFF)


def test_the_one_that_we_cannot_handle_is_found_by_halves(rt: Clinic) -> None:
    """Of a round of hundreds everybody would wait for as many rounds."""
    everybody = [f"p{number}@example.com" for number in range(16)]
    there = Faulty(rt.clock, held=dict.fromkeys(everybody, Value.ON), bad=everybody[9])
    for one in everybody:
        rt.say(one, Source.ONE_CLICK)
    others = {one for one in everybody if one != there.bad}

    def done() -> bool:
        (mark,) = waiting(rt, there.bad)
        return all(there.held[one] is Value.OFF for one in others) and bool(mark.outcome)

    run(rt, there, done)
    (mark,) = waiting(rt, there.bad)
    assert mark.outcome == Outcome.PENDING
    assert there.reads < 14


def test_a_fault_of_ours_after_a_park_keeps_nobody_else_waiting(rt: Clinic) -> None:
    there = Faulty(rt.clock, held=dict.fromkeys((ADA, BOB), Value.ON), read_fault=REFUSES)
    for one in (ADA, BOB):
        rt.say(one, Source.ONE_CLICK)
    lane = lane_of(rt, there)
    carry(lane)
    there.read_fault, there.bad = None, ADA
    rt.clock.forward(31)
    carry(lane)
    assert there.held == {ADA: Value.ON, BOB: Value.OFF}
    assert waiting(rt, BOB) == []
    (mark,) = waiting(rt, ADA)
    assert mark.claimed_epoch is None
    assert "KeyError" in mark.reason


@pytest.mark.parametrize("walks", [True, False])
def test_a_fault_of_a_walk_or_of_the_lists_stops_no_push(rt: Clinic, walks: bool) -> None:
    there = Faulty(rt.clock, held={ADA: Value.ON}, walks=walks, lists=not walks)
    rt.say(ADA, Source.ONE_CLICK)
    run(rt, there, lambda: there.held[ADA] is Value.OFF and not waiting(rt, ADA))
    assert epoch(rt) == 1


@dataclass
class Locked(MailingList):
    """Its token was revoked: it can be neither read nor written."""

    async def observe(
        self, refs: Sequence[Ref]
    ) -> Mapping[Ref, Observed | Absent | PropagationError]:
        return dict.fromkeys(refs, Unusable("the vendor refuses our token (401)"))

    async def scan(self, cursor: str | None) -> AsyncIterator[Page]:
        if self.held:
            raise Unusable("the vendor refuses our token (401)")
        yield Page(())


@pytest.mark.parametrize(("live", "outs"), [(True, True), (True, False), (False, False)])
def test_a_target_that_refuses_us_is_told_once_a_day(rt: Clinic, live: bool, outs: bool) -> None:
    """Also where nothing is to be written: what people do there is not heard."""
    there, target = Locked(rt.clock, held={ADA: Value.ON}), replace(TARGET, live=live)
    if outs:
        rt.say(ADA, Source.ONE_CLICK)
    for day in (1, 2):
        run(rt, there, lambda: parked(rt), target=target)
        for _ in range(2):
            asyncio.run(Sweep(rt.database, [target], rt.keys, rt.clock, ["mail:o@x.example"]).run())
            rt.clock.forward(5)
        told = [text for text in alerts(rt) if "refuses us" in text]
        assert len(told) == day
        assert "401" in told[0]
        rt.clock.forward(86400)


def parked(rt: Clinic) -> bool:
    row = rt.database.read_now(lambda conn: marks.lane(conn, TARGET.label))
    return bool(row and row.parked_until and row.parked_until > rt.clock().timestamp())


def alerts(rt: Clinic) -> list[str]:
    rows = rt.database.read_now(lambda conn: outbox.due(conn, rt.clock().timestamp(), 100))
    return [outbox.content(rt.keys, row)["text"] for row in rows]


def test_a_lane_that_failed_goes_on_under_another_epoch(rt: Clinic) -> None:
    """A call that it broke off may still be on its way."""

    async def fails(_: object) -> None:
        raise KeyError("a field that was always there")

    there = MailingList(rt.clock, held={ADA: Value.ON})
    run(rt, there, lambda: epoch(rt) > 1, answer_open=fails)


@dataclass
class Gateway(MailingList):
    """That brings up a fault of ours when it is asked for the time of one message."""

    async def message_time(self, message_id: str) -> datetime:
        if message_id == "SM1":
            raise KeyError("a field that was always there")
        return self.clock()


def test_a_start_that_we_cannot_judge_holds_up_neither_another_nor_a_walk(rt: Clinic) -> None:
    target, there = replace(TARGET, system="twilio"), Gateway(rt.clock)

    def keep(conn: Connection) -> None:
        for sid in ("SM1", "SM2"):
            raw = b"From=%2B447700900101&To=MG1&Body=START&MessageSid=" + sid.encode()
            now = rt.clock().timestamp()
            events.keep_raw(conn, rt.keys, target.label, raw, now, message_id=sid)

    def seen(conn: Connection) -> tuple[dict[str, str], bool]:
        kept = schema.inbox.c
        states = dict(map(tuple, conn.execute(select(kept.message_id, kept.state))))
        row = marks.lane(conn, target.label)
        return states, bool(row and row.walked_at)

    rt.database.write_now(keep)
    wanted = ({"SM1": "open", "SM2": "kept"}, True)
    run(
        rt,
        there,
        lambda: rt.database.read_now(seen) == wanted,
        target=target,
        answer_open=_answer_open,
    )
    assert epoch(rt) == 1


def test_a_call_of_unknown_end_is_waited_for_after_a_park(rt: Clinic) -> None:
    """It lands after the first equal read."""
    there = Faulty(rt.clock, held=dict.fromkeys((ADA, BOB), Value.UNSET), facts=SLOW)
    there.answers = {ADA: Temporary("timed out", unclear=True), BOB: REFUSES}
    for one in (ADA, BOB):
        rt.consent(one)
    lane = lane_of(rt, there)
    lane._calm = 2
    carry(lane)
    there.answers = {}
    rt.say(ADA, Source.ONE_CLICK)
    there.held[ADA] = Value.OFF
    rt.clock.forward(31)
    carry(lane)
    there.held[ADA] = Value.ON
    rt.clock.forward(120)
    carry(lane)
    assert there.held[ADA] is Value.OFF
    assert waiting(rt, ADA) == []


@pytest.mark.parametrize(("bad", "fault"), [(ADA, None), ("", REFUSES)])
def test_the_call_of_a_worker_that_died_is_waited_for_whatever_our_round_met(
    rt: Clinic, bad: str, fault: PropagationError | None
) -> None:
    there = Faulty(rt.clock, held={ADA: Value.OFF}, facts=SLOW, bad=bad, read_fault=fault)
    rt.say(ADA, Source.ONE_CLICK)
    claimed_by_another(rt)
    lane = lane_of(rt, there)
    carry(lane)
    there.bad, there.read_fault = "", None
    rt.clock.forward(31)
    carry(lane)
    assert len(waiting(rt, ADA)) == 1
    rt.clock.forward(120)
    carry(lane)
    assert waiting(rt, ADA) == []


def claimed_by_another(rt: Clinic) -> None:
    """A worker that died has claimed what is due."""
    now = rt.clock().timestamp()

    def die(conn: Connection) -> None:
        lease = marks.take_lease(conn, TARGET.label, "dead", now, 1.0)
        assert lease
        assert marks.claim(conn, lease, now, 10)

    rt.database.write_now(die)
    rt.clock.forward(2)


@pytest.mark.parametrize("wrote", [True, False])
def test_what_is_known_of_a_call_is_never_shortened(rt: Clinic, wrote: bool) -> None:
    """By a park, or by a round that broke after it wrote, at a target whose calls end sooner."""
    unclear = Temporary("timed out", unclear=True)
    there = Faulty(rt.clock, held={ADA: Value.ON}, facts=SLOW, write_fault=unclear)
    rt.say(ADA, Source.ONE_CLICK)
    carry(lane_of(rt, there))
    (before,) = waiting(rt, ADA)
    if wrote:
        there.write_fault, there.before_write = None, broken
    else:
        there.read_fault = REFUSES
    rt.clock.forward(5)
    carry(lane_of(rt, there, replace(TARGET, call_alive=5.0)))
    (after,) = waiting(rt, ADA)
    assert after.reason != before.reason
    assert after.unsettled_until == before.unsettled_until


def broken(_: Sequence[Change]) -> None:
    raise KeyError("a field that was always there")


def test_a_half_that_a_park_leaves_untried_is_parked_too(rt: Clinic) -> None:
    everybody = [f"p{number}@example.com" for number in range(4)]
    facts = replace(FACTS, write_batch=1)
    there = Faulty(rt.clock, held=dict.fromkeys(everybody, Value.ON), facts=facts)

    def last_of_all(changes: Sequence[Change]) -> None:
        if changes[0].ref.value == everybody[-1]:
            there.read_fault = REFUSES
            broken(changes)

    there.before_write = last_of_all
    for one in everybody:
        rt.say(one, Source.ONE_CLICK)
    carry(lane_of(rt, there))
    kept = [mark for one in everybody for mark in waiting(rt, one)]
    assert [mark.claimed_epoch for mark in kept] == [None] * 4
    assert all("401" in mark.reason and mark.unsettled_until for mark in kept)


OFFERS, TREATMENTS = (EMAIL._replace(topic=topic) for topic in ("offers", "treatments"))
SHARED = Slot("list", Channel.EMAIL, topics=("treatments", "offers"))
"""One switch there for both."""


def half_out(rt: Clinic, there: Faulty, *everybody: str) -> Lane:
    """People who are on there and consented to treatments; staff say no to offers for them."""
    lane = lane_of(rt, there)
    lane._calm = len(everybody)
    for one in everybody:
        rt.consent(one, TREATMENTS)
    carry(lane)
    rt.clock.forward(5)
    for one in everybody:
        rt.say(one, Source.STAFF, scope=OFFERS)
    return lane


def outs(rt: Clinic, address: str) -> tuple[list[Source], list[Source]]:
    """Who said the outs of offers, and of treatments."""
    (owner,) = rt.database.read_now(lambda conn: subjects.owners(conn, "rt", [rt.hash(address)]))
    (one,) = rt.database.read_now(lambda conn: subjects.by_ids(conn, [owner]))
    offers, treatments = (
        [o.source for o in one.state.at("rt", s).outs] for s in (OFFERS, TREATMENTS)
    )
    return offers, treatments


def test_our_own_off_is_no_wish_after_a_round_that_broke(rt: Clinic) -> None:
    """Ada's is written when Bob's brings up a fault of ours."""
    facts = replace(FACTS, write_batch=1)
    held = dict.fromkeys((ADA, BOB), Value.ON)
    there = Faulty(rt.clock, held=held, slots=(SHARED,), facts=facts)
    lane = half_out(rt, there, ADA, BOB)
    there.before_write = lambda changes: broken(changes) if changes[0].ref.value == BOB else None
    carry(lane)
    assert there.held == {ADA: Value.OFF, BOB: Value.ON}
    assert outs(rt, ADA) == ([Source.STAFF], [])
    rt.clock.forward(31)
    carry(lane)
    assert waiting(rt, ADA) == []


@pytest.mark.parametrize("walks", [True, False])
def test_our_own_off_is_no_wish_after_a_park(rt: Clinic, walks: bool) -> None:
    """Refused when it was to be read back; it may be met by a walk before the next round."""
    there = Faulty(rt.clock, held={ADA: Value.ON}, slots=(SHARED,))
    lane = half_out(rt, there, ADA)
    there.after_write = lambda: setattr(there, "read_fault", REFUSES)
    carry(lane)
    assert there.held == {ADA: Value.OFF}
    there.read_fault = None
    rt.clock.forward(31)
    if walks:
        walk(rt, there, lane)
    carry(lane)
    assert outs(rt, ADA) == ([Source.STAFF], [])


def walk(rt: Clinic, there: MailingList, lane: Lane) -> None:
    """The poll of a target at which walks work."""
    sees = MailingList(rt.clock, held=there.held, slots=there.slots)
    scan = Scan(TARGET, sees, rt.database, rt.intake, rt.clock)
    assert lane.lease
    asyncio.run(scan.run(lane.lease, None))


@dataclass
class ById(Faulty):
    """Written to by its own id."""

    def _do(self, change: Change) -> None:
        self.held[(change.ref.vendor_id or "").removeprefix("id-")] = Value.OFF


def test_our_own_off_is_no_wish_where_the_vendors_id_is_marked(rt: Clinic) -> None:
    there = ById(rt.clock, held={ADA: Value.ON}, slots=(SHARED,))
    lane, now = half_out(rt, there, ADA), rt.clock().timestamp()

    def by_id_alone(conn: Connection) -> None:
        conn.execute(delete(schema.marks))
        marks.set_marks(conn, [(TARGET.label, 0, f"id-{ADA}")], now, urgent=True)

    rt.database.write_now(by_id_alone)
    there.after_write = lambda: setattr(there, "read_fault", REFUSES)
    carry(lane)
    assert there.held == {ADA: Value.OFF}
    there.read_fault = None
    rt.clock.forward(31)
    carry(lane)
    assert outs(rt, ADA) == ([Source.STAFF], [])


def test_a_park_before_any_write_leaves_no_call_to_wait_for(rt: Clinic) -> None:
    there = Faulty(rt.clock, held={ADA: Value.ON}, read_fault=REFUSES)
    rt.say(ADA, Source.ONE_CLICK)
    lane = lane_of(rt, there)
    carry(lane)
    assert [mark.unsettled_until for mark in waiting(rt, ADA)] == [None]
    there.read_fault = None
    rt.clock.forward(31)
    carry(lane)
    assert waiting(rt, ADA) == []


def test_an_on_among_outs_waits_for_no_place(rt: Clinic) -> None:
    """It comes again in a round without outs; else whoever opts out meanwhile waited for it."""
    there = MailingList(rt.clock, held={ADA: Value.ON, BOB: Value.UNSET})
    rt.say(ADA, Source.ONE_CLICK)
    bob = rt.consent(BOB).subject_id
    now, wanted = rt.clock().timestamp(), [(TARGET.label, bob, "")]
    rt.database.write_now(lambda conn: marks.set_marks(conn, wanted, now, urgent=True))
    told: dict[Wish, bool] = {}

    def note(changes: Sequence[Change]) -> None:
        gives_way = OUT_DUE.get()() and not URGENT.get()
        told.update((change.to, gives_way) for change in changes)

    there.before_write = note
    carry(lane_of(rt, there))
    assert told == {Wish.OFF: False, Wish.ON: True}
