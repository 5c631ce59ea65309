"""The rules of one lane: what is written, what is proved, what stays marked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from connectors.budget import TokenBudget
from prefs.core.errors import PropagationError, Refused, Temporary, Unusable
from prefs.core.keys import Keyring
from prefs.core.propagation import (
    Absent,
    Applied,
    Change,
    Limit,
    Local,
    Observed,
    Outcome,
    Readback,
    Ref,
    Seen,
    Slot,
    Value,
    Wish,
)
from prefs.core.words import Basis, Choice, Kind, Source
from prefs.push.fights import TASK as FIGHT
from prefs.push.step import Lost
from prefs.push.writing import TOGETHER
from prefs.store import ledger, marks, permissions, schema, subjects, tasks
from prefs.store.marks import Proof
from tests.kit import (
    EMAIL,
    FACTS,
    SECRET,
    SLOT,
    SMS,
    TARGET,
    Clinic,
    Clock,
    MailingList,
    clinic,
    one_round,
    push_of,
)

ADA, BOB = "ada@example.co.uk", "bob@example.co.uk"


class Unsearchable(MailingList):
    """Its search finds nobody; by an id that a walk showed, it answers."""

    def _read(self, ref: Ref, began: datetime) -> Observed | Absent:
        return Absent(began) if ref.value else super()._read(ref, began)

    def _do(self, change: Change) -> None:
        address = (change.ref.vendor_id or "").removeprefix("id-")
        self.held[address] = Value.ON if change.to is Wish.ON else Value.OFF


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Clinic]:
    made = clinic(tmp_path)
    yield made
    made.database.close()


def rounds(rt: Clinic, connector: MailingList, count: int = 1) -> None:
    push = push_of(rt, connector)
    for _ in range(count):
        asyncio.run(one_round(rt, push))


def receipt(rt: Clinic, address: str = ADA) -> Any:
    (row,) = rt.database.read_now(lambda conn: marks.receipts_of(conn, [rt.hash(address)]))
    return row


def waiting(rt: Clinic) -> list[Any]:
    (owner,) = rt.database.read_now(lambda conn: subjects.owners(conn, "rt", [rt.hash(ADA)]))
    return rt.database.read_now(lambda conn: marks.of_subject(conn, owner))


def test_an_out_is_written_read_back_and_proved(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON})
    rt.say(ADA, Source.ONE_CLICK)
    rounds(rt, there)
    assert there.held[ADA] is Value.OFF
    assert receipt(rt).outcome == Outcome.CONFIRMED
    assert (receipt(rt).seen, receipt(rt).wish) == (Value.OFF, Wish.OFF)
    assert waiting(rt) == []


def test_a_lie_is_not_confirmed(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON}, deaf=True)
    rt.say(ADA, Source.ONE_CLICK)
    rounds(rt, there)
    assert receipt(rt).outcome == Outcome.PENDING
    assert "still shows on" in receipt(rt).reason
    assert len(waiting(rt)) == 1


def test_an_address_that_the_target_does_not_have_is_absent_and_not_created(rt: Clinic) -> None:
    there = MailingList(rt.clock)
    rt.say(ADA, Source.ONE_CLICK)
    rounds(rt, there)
    assert there.written == []
    assert receipt(rt).outcome == Outcome.ABSENT
    assert waiting(rt) == []


def test_nothing_is_written_for_somebody_who_never_chose(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON})
    rt.say(ADA, Source.ONE_CLICK, scope=EMAIL._replace(topic="offers"))
    rounds(rt, there)
    assert there.written == []
    assert receipt(rt).wish == Wish.LEAVE


def test_a_failed_read_plans_nothing_and_keeps_the_mark(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON}, read_fault=Temporary("HTTP 503"))
    rt.say(ADA, Source.ONE_CLICK)
    rounds(rt, there)
    assert there.written == []
    (mark,) = waiting(rt)
    assert mark.outcome == Outcome.PENDING


def test_a_read_without_an_answer_wrote_nothing(rt: Clinic) -> None:
    """Its connection broke; there is no call to wait for and no write of ours to know again."""
    lost = Temporary("the connection broke", unclear=True)
    there = MailingList(rt.clock, held={ADA: Value.ON}, read_fault=lost)
    rt.say(ADA, Source.ONE_CLICK)
    rounds(rt, there)
    assert receipt(rt).written is None
    there.read_fault = None
    rt.clock.forward(5)
    rounds(rt, there)
    assert waiting(rt) == []
    assert receipt(rt).outcome == Outcome.CONFIRMED


@pytest.mark.parametrize("fault", [Temporary("HTTP 503"), Temporary("HTTP 429", retry_after=120)])
def test_a_record_that_nobody_is_known_for_is_read_again_after_a_failed_read(
    rt: Clinic, fault: Temporary
) -> None:
    """A webhook told of it: the next walk may be a day away."""
    there = MailingList(rt.clock, held={ADA: Value.OFF}, read_fault=fault)
    now, wanted = rt.clock().timestamp(), [(TARGET.label, 0, f"id-{ADA}")]
    rt.database.write_now(lambda conn: marks.set_marks(conn, wanted, now, urgent=True))
    rounds(rt, there)
    (mark,) = rt.database.read_now(lambda conn: marks.of_subject(conn, 0))
    assert mark.outcome == Outcome.PENDING
    assert mark.due_at >= now + (fault.retry_after or 0)
    there.read_fault = None
    rt.clock.forward(300)
    rounds(rt, there)
    held = rt.database.read_now(lambda conn: permissions.read(conn, "rt", [rt.hash(ADA)]))
    assert held[rt.hash(ADA)].views[EMAIL].word == "opted_out"


def test_a_record_that_the_answer_leaves_out_stays_marked(
    rt: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(_: object) -> dict[Any, Any]:
        return {}

    there = MailingList(rt.clock, held={ADA: Value.ON})
    monkeypatch.setattr(there, "observe", nothing)
    rt.say(ADA, Source.ONE_CLICK)
    rounds(rt, there)
    (mark,) = waiting(rt)
    assert mark.outcome == Outcome.PENDING


def test_retry_after_is_kept(rt: Clinic) -> None:
    fault = Temporary("HTTP 429", retry_after=120.0)
    there = MailingList(rt.clock, held={ADA: Value.ON}, write_fault=fault)
    rt.say(ADA, Source.ONE_CLICK)
    rounds(rt, there)
    (mark,) = waiting(rt)
    assert mark.due_at >= rt.clock.at.timestamp() + 119


def test_what_is_marked_again_meanwhile_is_due_at_once(rt: Clinic) -> None:
    fault = Temporary("HTTP 429", retry_after=120.0)
    there = MailingList(rt.clock, held={ADA: Value.UNSET}, write_fault=fault)
    rt.consent(ADA)

    def opt_out_meanwhile(_: object) -> None:
        there.before_write = None
        rt.say(ADA, Source.ONE_CLICK)

    there.before_write = opt_out_meanwhile
    rounds(rt, there)
    (mark,) = waiting(rt)
    assert mark.due_at <= rt.clock.at.timestamp()


def test_an_opt_in_that_waited_through_an_outage_loses_to_a_later_out(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.OFF}, write_fault=Temporary("HTTP 503"))
    rt.consent(ADA)
    there.held[ADA] = Value.UNSET
    rounds(rt, there)
    assert [change.to for change in there.written] == [Wish.ON]
    there.write_fault = None
    rt.say(ADA, Source.ONE_CLICK)
    rt.clock.forward(5)
    rounds(rt, there, 3)
    assert there.held[ADA] is Value.OFF
    assert [change.to for change in there.written][-1] == Wish.OFF


def test_an_out_between_plan_and_write_stops_the_on(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.UNSET})
    rt.consent(ADA)

    def opt_out_meanwhile() -> None:
        there.before_read = None
        rt.say(ADA, Source.ONE_CLICK)

    there.before_read = opt_out_meanwhile
    rounds(rt, there, 3)
    assert all(change.to is Wish.OFF for change in there.written)
    assert there.held[ADA] is Value.OFF


def test_an_out_made_while_an_on_is_on_its_way_ends_off(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.UNSET})
    rt.consent(ADA)

    def opt_out_meanwhile(_: object) -> None:
        there.before_write = None
        rt.say(ADA, Source.ONE_CLICK)

    there.before_write = opt_out_meanwhile
    rounds(rt, there, 3)
    assert there.held[ADA] is Value.OFF
    assert receipt(rt).outcome == Outcome.CONFIRMED
    assert waiting(rt) == []


def test_a_write_of_unknown_end_is_not_confirmed_by_the_first_equal_read(rt: Clinic) -> None:
    lost = Temporary("timed out", unclear=True)
    there = MailingList(rt.clock, held={ADA: Value.ON}, write_fault=lost, works_all_the_same=True)
    rt.say(ADA, Source.ONE_CLICK)
    rounds(rt, there)
    there.write_fault = None
    rt.clock.forward(5)
    rounds(rt, there)
    assert len(waiting(rt)) == 1
    rt.clock.forward(31)
    rounds(rt, there)
    assert waiting(rt) == []
    assert receipt(rt).outcome == Outcome.CONFIRMED
    (row,) = rt.database.read_now(
        lambda conn: subjects.by_ids(conn, subjects.owners(conn, "rt", [rt.hash(ADA)]))
    )
    (out,) = row.state.at("rt", EMAIL).outs
    assert out.source is Source.ONE_CLICK


def test_an_out_at_the_vendor_wins_over_an_on_of_ours_that_may_still_be_on_its_way(
    rt: Clinic,
) -> None:
    """What we sent was an `on`: an `off` that is read then is nobody's echo."""
    lost = Temporary("timed out", unclear=True)
    there = MailingList(rt.clock, held={ADA: Value.UNSET}, write_fault=lost)
    rt.consent(ADA)
    rounds(rt, there)
    there.write_fault, there.held[ADA] = None, Value.OFF
    rt.clock.forward(5)
    rounds(rt, there)
    rt.clock.forward(60)
    rounds(rt, there)
    assert there.held[ADA] is Value.OFF
    assert [change.to for change in there.written] == [Wish.ON]
    held = rt.database.read_now(lambda conn: permissions.read(conn, "rt", [rt.hash(ADA)]))
    assert held[rt.hash(ADA)].views[EMAIL].word == "opted_out"


def test_an_out_at_the_vendor_wins_over_an_on_of_a_worker_that_died(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.OFF})
    rt.consent(ADA)
    now = rt.clock().timestamp()

    def die(conn: Any) -> None:
        lease = marks.take_lease(conn, TARGET.label, "dead", now, 1.0)
        assert lease
        assert marks.claim(conn, lease, now, 10)

    rt.database.write_now(die)
    rt.clock.forward(5)
    rounds(rt, there)
    assert there.written == []
    (owner,) = rt.database.read_now(lambda conn: subjects.owners(conn, "rt", [rt.hash(ADA)]))
    (one,) = rt.database.read_now(lambda conn: subjects.by_ids(conn, [owner]))
    assert [out.source for out in one.state.at("rt", EMAIL).outs] == [Source.VENDOR_API]


def test_the_wish_is_read_again_before_each_part_of_many_ons(rt: Clinic) -> None:
    bob = "bob@example.co.uk"
    facts = replace(FACTS, write_batch=1)
    there = MailingList(rt.clock, facts=facts, held=dict.fromkeys((ADA, bob), Value.UNSET))
    rt.consent(ADA)
    rt.consent(bob)

    def opt_out_meanwhile(changes: Any) -> None:
        there.before_write = None
        (other,) = {ADA, bob} - {change.ref.value for change in changes}
        rt.say(other, Source.ONE_CLICK)

    there.before_write = opt_out_meanwhile
    rounds(rt, there)
    assert [change.to for change in there.written] == [Wish.ON]


def test_an_item_that_the_reply_does_not_name_is_unknown_until_read(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON}, omits=True, deaf=True)
    rt.say(ADA, Source.ONE_CLICK)
    rounds(rt, there)
    assert receipt(rt).outcome == Outcome.PENDING


def test_a_switch_that_the_target_does_not_show_is_said_to_be_so(rt: Clinic) -> None:
    """And not that there is no such record, which would be a proof."""
    there = Hiding(rt.clock, held={ADA: Value.ON})
    rt.say(ADA, Source.ONE_CLICK)
    rounds(rt, there)
    assert receipt(rt).outcome == Outcome.UNSUPPORTED
    assert "does not show" in receipt(rt).reason


class Hiding(MailingList):
    """Its answers leave the configured switch out."""

    def _read(self, ref: Ref, began: datetime) -> Observed | Absent:
        read = super()._read(ref, began)
        assert isinstance(read, Observed)
        return replace(read, values={}, hidden=frozenset({SLOT}))


def test_a_refused_off_stays_marked_and_names_the_reason(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON}, write_fault=Refused("archived there"))
    rt.say(ADA, Source.ONE_CLICK)
    rounds(rt, there)
    (mark,) = waiting(rt)
    assert (mark.outcome, mark.reason) == (Outcome.REFUSED, "archived there")


def test_a_refused_off_that_is_marked_again_and_again_is_sent_five_times_an_hour(
    rt: Clinic,
) -> None:
    """The vendor may send a webhook for our own write: that must not go round for ever."""
    there = MailingList(rt.clock, held={ADA: Value.ON}, write_fault=Refused("archived there"))
    said = rt.say(ADA, Source.ONE_CLICK)
    for _ in range(9):
        rounds(rt, there)
        rt.clock.forward(60)
        again = [(TARGET.label, said.subject_id, "")]
        now = rt.clock().timestamp()
        rt.database.write_now(partial(marks.set_marks, wanted=again, now=now, urgent=True))
    assert len(there.written) == 1 + 4
    assert receipt(rt).outcome == Outcome.REFUSED
    assert receipt(rt).reason == "archived there"
    assert rt.database.read_now(lambda conn: tasks.listed(conn, "rt", "open", FIGHT)) == []
    rt.clock.forward(3600)
    rounds(rt, there)
    assert len(there.written) == 1 + 4 + 1


def test_a_refused_on_is_not_tried_again(rt: Clinic) -> None:
    refusal = Refused("Member In Compliance State")
    there = MailingList(rt.clock, held={ADA: Value.UNSET}, write_fault=refusal)
    rt.consent(ADA)
    rounds(rt, there)
    assert waiting(rt) == []
    assert receipt(rt).outcome == Outcome.REFUSED


def test_an_out_found_at_the_vendor_is_taken_in(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON})
    rt.consent(ADA)
    rounds(rt, there)
    there.held[ADA] = Value.OFF
    rt.say(ADA, Source.API, Choice.OUT, EMAIL._replace(topic="offers"))
    rounds(rt, there)
    held = rt.database.read_now(lambda conn: permissions.read(conn, "rt", [rt.hash(ADA)]))
    assert held[rt.hash(ADA)].views[EMAIL].word == "opted_out"
    assert there.held[ADA] is Value.OFF


def test_our_own_write_is_not_heard_as_a_wish(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON})
    said = rt.say(ADA, Source.STAFF)
    rounds(rt, there)
    rt.say(ADA, Source.STAFF, scope=EMAIL._replace(topic="news"))
    rounds(rt, there)
    (one,) = rt.database.read_now(lambda conn: subjects.by_ids(conn, [said.subject_id]))
    assert [out.source for out in one.state.at("rt", EMAIL).outs] == [Source.STAFF]


@pytest.mark.parametrize("value", [Value.ON, Value.UNSET, Value.UNMARKED])
def test_somebody_who_turns_it_on_again_is_pushed_back_four_times_an_hour(
    rt: Clinic, value: Value
) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON})
    said = rt.say(ADA, Source.ONE_CLICK)
    rounds(rt, there)
    for _ in range(8):
        there.held[ADA] = value
        rt.clock.forward(60)
        again = [(TARGET.label, said.subject_id, "")]
        now = rt.clock().timestamp()
        rt.database.write_now(partial(marks.set_marks, wanted=again, now=now, urgent=True))
        rounds(rt, there)
    assert len([change for change in there.written if change.to is Wish.OFF]) == 1 + 4
    (mark,) = waiting(rt)
    assert "fighting" in mark.reason


def test_a_write_that_never_takes_is_no_fight_and_is_tried_on(rt: Clinic) -> None:
    """Nobody turns it on again: it never was off."""
    there = MailingList(rt.clock, held={ADA: Value.ON}, deaf=True)
    rt.say(ADA, Source.ONE_CLICK)
    for _ in range(10):
        rounds(rt, there)
        rt.clock.forward(300)
    assert len(there.written) == 10
    assert rt.database.read_now(lambda conn: tasks.listed(conn, "rt", "open", FIGHT)) == []


def test_a_worker_that_lost_its_lease_proves_nothing_and_marks_again(rt: Clinic) -> None:
    """Frozen between the wish and the write, past its lease: its `on` lands after the `off`."""
    there = MailingList(rt.clock, held={ADA: Value.UNSET})
    rt.consent(ADA)
    other = push_of(rt, there)

    def freeze(_: object) -> None:
        there.before_write = None
        rt.clock.forward(31)
        rt.say(ADA, Source.ONE_CLICK)
        held = asyncio.new_event_loop()
        held.run_until_complete(one_round(rt, other, holder="two"))
        held.close()
        assert there.held[ADA] is Value.OFF

    there.before_write = lambda changes: _in_thread(lambda: freeze(changes))
    rounds(rt, there)
    assert there.held[ADA] is Value.ON
    rt.clock.forward(31)
    asyncio.run(one_round(rt, other, holder="two"))
    assert there.held[ADA] is Value.OFF
    rt.clock.forward(31)
    asyncio.run(one_round(rt, other, holder="two"))
    assert receipt(rt).outcome == Outcome.CONFIRMED


def test_an_opt_out_is_carried_though_the_clock_was_set_back(rt: Clinic) -> None:
    """No read would be younger than what was heard before, for as long as it was set back by."""
    there = MailingList(rt.clock, held={ADA: Value.ON})
    rt.say(ADA, Source.LINK, scope=SMS)
    rt.clock.at -= timedelta(hours=1)
    rt.say(ADA, Source.ONE_CLICK)
    rounds(rt, there)
    assert there.held[ADA] is Value.OFF
    assert waiting(rt) == []


def test_no_on_sets_out_once_the_lease_has_ended(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.UNSET})
    there.before_read = lambda: rt.clock.forward(31)
    rt.consent(ADA)
    with pytest.raises(Lost):
        rounds(rt, there)
    assert there.written == []


@dataclass
class Rationed(MailingList):
    """A vendor whose calls wait for a place."""

    seconds: float = 0.0
    """By the budget's clock."""
    waits: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.budget = TokenBudget(Limit(100), lambda: self.seconds)

    async def apply(
        self, changes: Sequence[Change]
    ) -> Mapping[Change, Applied | Local | PropagationError]:
        self.waits.set()
        try:
            await self.budget.acquire()
        except Temporary as fault:
            return dict.fromkeys(changes, fault)
        self.budget.release()
        return await super().apply(changes)


def test_an_on_that_waits_for_a_place_does_not_outlast_the_lease(rt: Clinic) -> None:
    """A worker froze while it waited. Another one carried the opt-out that came, and waited until
    no earlier call could be alive; then the first one wakes."""
    there = Rationed(rt.clock, held={ADA: Value.UNSET})
    followed = MailingList(rt.clock, held=there.held)
    rt.consent(ADA)
    there.budget.pause(1.0)

    async def freeze_and_wake() -> None:
        first = asyncio.create_task(one_round(rt, push_of(rt, there)))
        await there.waits.wait()
        rt.clock.forward(31)
        rt.say(ADA, Source.ONE_CLICK)
        for _ in range(2):
            await one_round(rt, push_of(rt, followed), holder="two")
            rt.clock.forward(31)
        assert rt.database.read_now(marks.backlog) == {}
        there.seconds = 2.0
        await first

    asyncio.run(freeze_and_wake())
    assert there.held[ADA] is Value.OFF
    assert there.written == []


def test_an_epoch_that_comes_again_is_another_workers(rt: Clinic) -> None:
    """The server failed over to a copy that did not know of the first lease yet; what the first
    worker read was of before."""
    there = MailingList(rt.clock, held={ADA: Value.ON})
    rt.say(ADA, Source.ONE_CLICK)
    forgotten = update(schema.lanes).values(epoch=0, holder=None, lease_until=0.0)
    now = rt.clock().timestamp()

    def fail_over() -> None:
        there.after_write = None
        rt.database.write_now(lambda conn: conn.execute(forgotten))
        rt.database.write_now(lambda conn: marks.take_lease(conn, TARGET.label, "two", now, 30.0))

    there.after_write = lambda: _in_thread(fail_over)
    rounds(rt, there)
    row = rt.database.read_now(lambda conn: marks.lane(conn, TARGET.label))
    assert row is not None
    assert (row.holder, row.epoch) == ("two", 1)
    assert waiting(rt) != []


def test_what_was_done_under_a_lost_lease_is_not_proved(rt: Clinic) -> None:
    """Another worker holds the lane by now, and has claimed nothing yet."""
    there = MailingList(rt.clock, held={ADA: Value.ON})
    rt.say(ADA, Source.ONE_CLICK)

    def lose(_: object) -> None:
        rt.clock.forward(31)
        now = rt.clock().timestamp()
        lease = rt.database.write_now(
            lambda conn: marks.take_lease(conn, TARGET.label, "two", now, 30.0)
        )
        assert lease

    there.before_write = lambda changes: _in_thread(lambda: lose(changes))
    rounds(rt, there)
    assert rt.database.read_now(lambda conn: marks.receipts_of(conn, [rt.hash(ADA)])) == []
    (mark,) = waiting(rt)
    assert (mark.urgent, mark.attempts) == (1, 0)


def _in_thread(job: Any) -> None:
    import threading

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()


def look(rt: Clinic, there: MailingList) -> int:
    """What the lane of a target does that is only observed."""

    async def one() -> int:
        push, now = push_of(rt, there), rt.clock().timestamp()
        lease = await rt.database.write(
            lambda conn: marks.take_lease(conn, TARGET.label, "one", now, 30.0)
        )
        assert lease is not None
        claimed = await rt.database.write(lambda conn: marks.claim(conn, lease, now, 100))
        await push.look(lease, claimed)
        return len(claimed)

    return asyncio.run(one())


def test_an_observed_target_is_read_again_and_never_written(rt: Clinic) -> None:
    """A scan that was too early to tell has set the mark; nothing else would read it in time."""
    there = MailingList(rt.clock, held={ADA: Value.OFF, "bob@example.com": Value.ON})
    rt.say(ADA, Source.STAFF, scope=SMS)
    rt.say("bob@example.com", Source.ONE_CLICK)
    said = rt.say(ADA, Source.STAFF, scope=EMAIL._replace(topic="news"))
    assert look(rt, there) == 2
    (one,) = rt.database.read_now(lambda conn: subjects.by_ids(conn, [said.subject_id]))
    assert one.state.at("rt", EMAIL).outs, "the out found there counts here"
    assert there.written == []
    assert {mark.reason for mark in waiting(rt)} == {marks.OBSERVED}
    while look(rt, there):
        continue
    now = rt.clock().timestamp()
    rt.database.write_now(lambda conn: marks.went_live(conn, TARGET.label, now))
    rounds(rt, there)
    assert there.held["bob@example.com"] is Value.OFF
    assert waiting(rt) == []


def test_an_observed_target_is_not_asked_about_opt_ins(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.UNSET}, read_fault=Temporary("down"))
    rt.consent(ADA)
    assert look(rt, there) == 1
    assert {mark.reason for mark in waiting(rt)} == {marks.OBSERVED}


def test_an_observed_target_that_could_not_be_read_is_read_again_soon(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.OFF}, read_fault=Temporary("down"))
    rt.say(ADA, Source.STAFF, scope=EMAIL._replace(topic="news"))
    now, wanted = rt.clock().timestamp(), [(TARGET.label, 0, "id-bob@example.com")]
    rt.database.write_now(partial(marks.set_marks, wanted=wanted, now=now, urgent=True))
    there.held["bob@example.com"] = Value.OFF
    assert look(rt, there) == 2
    there.read_fault = None
    rt.clock.forward(600)
    assert look(rt, there) == 2
    hashes = [rt.hash(ADA), rt.hash("bob@example.com")]
    held = rt.database.read_now(lambda conn: permissions.read(conn, "rt", hashes))
    assert [held[hash_].views[EMAIL].word for hash_ in hashes] == ["opted_out"] * 2


def test_a_clock_moves_at_every_look() -> None:
    clock = Clock()
    assert clock() < clock()


def test_an_off_that_a_walk_saw_confirms_no_on(rt: Clinic) -> None:
    """A target that cannot be asked tells of stops only: an opt-in after one is kept here alone."""
    there = MailingList(rt.clock, facts=replace(FACTS, readback=Readback.NONE))
    owner = rt.say(ADA, Source.VENDOR_PERSON).subject_id
    off = Proof(
        rt.hash(ADA), SLOT, Wish.OFF, Outcome.ACCEPTED, None, Value.OFF, rt.clock().timestamp()
    )
    rt.database.write_now(lambda conn: marks.write_receipts(conn, "rt/list", [off], 0.0))
    rt.say(ADA, Source.DOUBLE_OPT_IN, Choice.IN, basis=Basis.CONSENT)
    rounds(rt, there)
    assert there.written == []
    assert (receipt(rt).wish, receipt(rt).outcome) == (Wish.ON, Outcome.LOCAL)
    assert rt.database.read_now(lambda conn: marks.of_subject(conn, owner)) == []


def known(rt: Clinic, address: str, vendor_id: str) -> None:
    """A walk saw this record with this address."""
    found = [(vendor_id, [rt.hash(address)])]
    rt.database.write_now(lambda conn: marks.keep_records(conn, "rt/list", found, 0.0))


def test_whom_a_search_does_not_find_is_read_by_the_id_that_a_walk_showed(rt: Clinic) -> None:
    """Numbers are typed in many ways, and no search knows them all."""
    there = Unsearchable(rt.clock, held={ADA: Value.ON})
    known(rt, ADA, f"id-{ADA}")
    rt.say(ADA, Source.ONE_CLICK)
    rounds(rt, there)
    assert there.held[ADA] is Value.OFF
    assert receipt(rt).outcome == Outcome.CONFIRMED
    assert waiting(rt) == []


def test_a_record_that_shows_the_address_no_more_is_somebody_else(rt: Clinic) -> None:
    there = Unsearchable(rt.clock, held={BOB: Value.ON})
    known(rt, ADA, f"id-{BOB}")
    rt.say(ADA, Source.ONE_CLICK)
    rounds(rt, there)
    assert there.written == []
    assert there.held[BOB] is Value.ON
    assert receipt(rt).outcome == Outcome.ABSENT


def test_a_read_by_id_that_fails_is_unknown_not_absent(rt: Clinic) -> None:
    there = Unsearchable(rt.clock, held={ADA: Value.ON})

    def break_down() -> None:
        there.before_read = lambda: setattr(there, "read_fault", Temporary("HTTP 503"))

    there.before_read = break_down
    known(rt, ADA, f"id-{ADA}")
    rt.say(ADA, Source.ONE_CLICK)
    rounds(rt, there)
    assert receipt(rt).outcome == Outcome.PENDING
    assert len(waiting(rt)) == 1


class TwoNames(MailingList):
    """One record, found by either of two addresses; it calls every off the person's own."""

    def _read(self, ref: Ref, began: datetime) -> Observed | Absent:
        found = super()._read(Ref(Kind.EMAIL, ADA), began)
        if not isinstance(found, Observed):
            return found
        value = self.held[ADA]
        seen = Seen(value, Source.VENDOR_PERSON if value is Value.OFF else None)
        shown = ((Kind.EMAIL, ADA), (Kind.EMAIL, BOB))
        return replace(found, values={SLOT: seen}, identifiers=shown)

    def _do(self, change: Change) -> None:
        self.held[ADA] = Value.ON if change.to is Wish.ON else Value.OFF


def test_our_own_write_is_no_wish_when_the_record_is_met_by_another_name(rt: Clinic) -> None:
    there = TwoNames(rt.clock, held={ADA: Value.ON})
    rt.say(ADA, Source.API, ref="ada")
    rounds(rt, there)
    assert receipt(rt).outcome == Outcome.CONFIRMED
    rt.say(BOB, Source.API, ref="ada", scope=EMAIL._replace(topic="news"))
    rounds(rt, there)
    (owner,) = rt.database.read_now(lambda conn: subjects.owners(conn, "rt", [rt.hash(BOB)]))
    rows = rt.database.read_now(lambda conn: ledger.history(conn, owner))
    assert {row.source for row in rows} == {Source.API}
    assert receipt(rt, BOB).outcome == Outcome.CONFIRMED


# --- many at once --------------------------------------------------------------------------------

MANY = [f"p{number}@example.com" for number in range(12)]


@dataclass
class Meeting(MailingList):
    """Answers a group only when two others have come beside it."""

    met: asyncio.Barrier = field(default_factory=lambda: asyncio.Barrier(3))
    groups: int = 0

    async def observe(
        self, refs: Sequence[Ref]
    ) -> Mapping[Ref, Observed | Absent | PropagationError]:
        await self._meet()
        return await super().observe(refs)

    async def apply(
        self, changes: Sequence[Change]
    ) -> Mapping[Change, Applied | Local | PropagationError]:
        await self._meet()
        return await super().apply(changes)

    async def _meet(self) -> None:
        self.groups += 1
        async with asyncio.timeout(60):
            await self.met.wait()


def many_leave(rt: Clinic) -> dict[str, Value]:
    for one in MANY:
        rt.say(one, Source.ONE_CLICK)
    return dict.fromkeys(MANY, Value.ON)


def test_groups_are_read_and_written_beside_each_other(rt: Clinic) -> None:
    facts = replace(FACTS, read_batch=4, write_batch=4, beside=3)

    async def go() -> Meeting:
        there = Meeting(rt.clock, facts, many_leave(rt))
        await one_round(rt, push_of(rt, there))
        return there

    there = asyncio.run(go())
    assert there.groups == 9
    assert set(there.held.values()) == {Value.OFF}
    assert {receipt(rt, one).outcome for one in MANY} == {Outcome.CONFIRMED}


@dataclass
class Keeper(MailingList):
    """How many groups are under way at most."""

    now: int = 0
    most: int = 0

    async def observe(
        self, refs: Sequence[Ref]
    ) -> Mapping[Ref, Observed | Absent | PropagationError]:
        self.now += 1
        self.most = max(self.now, self.most)
        await asyncio.sleep(0.001)
        self.now -= 1
        return await super().observe(refs)


def test_one_after_the_other_where_the_target_does_not_say_otherwise(rt: Clinic) -> None:
    there = Keeper(rt.clock, replace(FACTS, read_batch=2), many_leave(rt))
    rounds(rt, there)
    assert there.most == 1
    assert set(there.held.values()) == {Value.OFF}


def test_after_a_refusal_of_the_whole_target_nothing_more_begins(rt: Clinic) -> None:
    facts = replace(FACTS, write_batch=1, beside=2)
    there = MailingList(rt.clock, facts, many_leave(rt), write_fault=Unusable("HTTP 401"))
    with pytest.raises(Unusable):
        rounds(rt, there)
    assert len(there.written) <= 2


def test_what_goes_to_one_record_goes_in_one_group(rt: Clinic) -> None:
    """Two writes to one record at the same time might undo each other."""
    slots = SLOT, Slot("other", SLOT.channel)
    groups: list[list[Change]] = []
    there = MailingList(rt.clock, replace(FACTS, write_batch=3, beside=4), many_leave(rt))
    there.slots, there.before_write = slots, lambda changes: groups.append(list(changes))
    rounds(rt, there)
    assert len(groups) == len(MANY)
    assert all(len({change.ref for change in group}) == 1 for group in groups)
    assert sum(len(group) for group in groups) == 2 * len(MANY)


def test_however_many_a_round_carries_its_transactions_are_short(
    rt: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opts out meanwhile waits for one of them."""
    monkeypatch.setattr("prefs.push.case.PIECE", 5)
    kept, settle = list[int](), marks.settle

    def noted(conn: Any, lease: Any, cleared: Any, delayed: Any) -> None:
        kept.append(len(cleared) + len(delayed))
        settle(conn, lease, cleared, delayed)

    monkeypatch.setattr(marks, "settle", noted)
    there = MailingList(rt.clock, held=many_leave(rt))
    rounds(rt, there)
    assert kept == [5, 5, 2]
    assert {receipt(rt, one).outcome for one in MANY} == {Outcome.CONFIRMED}
    assert rt.database.read_now(marks.backlog) == {}


UNREAD = replace(FACTS, readback=Readback.NONE)


@pytest.mark.parametrize("reply", ["none", "of others"])
def test_an_off_that_cannot_be_read_is_sent_until_the_vendor_says_so(
    rt: Clinic, reply: str
) -> None:
    there = MailingList(rt.clock, facts=UNREAD, deaf=True)
    if reply == "none":
        there.write_fault = Temporary("timed out", unclear=True)
    there.omits = reply == "of others"
    rt.say(ADA, Source.ONE_CLICK)
    for tries in (1, 2, 3):
        rounds(rt, there)
        assert len(there.written) == tries
        assert receipt(rt).outcome == Outcome.PENDING
        assert len(waiting(rt)) == 1
        rt.clock.forward(60)
    there.write_fault, there.omits, there.deaf = None, False, False
    rounds(rt, there)
    rt.clock.forward(60)
    rounds(rt, there)
    assert there.held[ADA] is Value.OFF
    assert receipt(rt).outcome == Outcome.ACCEPTED
    assert waiting(rt) == []


def test_an_off_that_cannot_be_read_is_sent_again_once_an_unclear_on_is_over(rt: Clinic) -> None:
    """It may have landed after the `off`, and nobody can look."""
    there = MailingList(rt.clock, facts=UNREAD)
    off = Proof(rt.hash(ADA), SLOT, Wish.OFF, Outcome.ACCEPTED, None, written=Wish.OFF)
    rt.database.write_now(lambda conn: marks.write_receipts(conn, "rt/list", [off], 0.0))
    rt.consent(ADA)
    there.write_fault = Temporary("timed out", unclear=True)
    rounds(rt, there)
    assert [change.to for change in there.written] == [Wish.ON]
    there.write_fault = None
    rt.say(ADA, Source.ONE_CLICK)
    rounds(rt, there)
    there.held[ADA] = Value.ON  # the late `on` lands
    rt.clock.forward(31)
    rounds(rt, there)
    assert there.held[ADA] is Value.OFF
    assert waiting(rt) == []


def test_no_on_goes_out_long_after_its_wish_was_read(rt: Clinic) -> None:
    """A vendor takes a hundred in a call, and an `on` may be three calls. (Ten are no wave.)"""
    people = [f"p{number}@example.co.uk" for number in range(10)]
    there = MailingList(rt.clock, held=dict.fromkeys(people, Value.UNSET))
    for one in people:
        rt.consent(one)
    late: list[str] = []

    def stop_the_others(changes: Sequence[Change]) -> None:
        if not late:
            sent = {change.ref.value for change in changes}
            late.extend(one for one in people if one not in sent)
            for one in late:
                rt.say(one, Source.ONE_CLICK)

    there.before_write = stop_the_others
    rounds(rt, there)
    assert len(late) == len(people) - TOGETHER
    on = {change.ref.value for change in there.written if change.to is Wish.ON}
    assert not on & set(late)


def test_a_call_that_lands_after_the_read_is_not_over(rt: Clinic) -> None:
    """A round takes its time between reading and proving."""
    there = MailingList(rt.clock, held={ADA: Value.UNSET})
    there.write_fault = Temporary("timed out", unclear=True)
    rt.consent(ADA)
    rounds(rt, there)
    there.write_fault = None
    rt.clock.forward(25)
    rt.say(ADA, Source.ONE_CLICK)
    there.held[ADA] = Value.OFF

    def take_ten_seconds() -> None:
        there.before_read = None
        rt.clock.forward(10)

    there.before_read = take_ten_seconds
    rounds(rt, there)
    there.held[ADA] = Value.ON
    assert len(waiting(rt)) == 1
    rounds(rt, there)
    assert there.held[ADA] is Value.OFF
    assert waiting(rt) == []


def test_two_people_with_one_address_are_both_marked_until_it_is_off(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON}, deaf=True)
    rt.say(ADA, Source.STAFF, ref="mother")
    rt.say(ADA, Source.STAFF, ref="daughter")
    owners = rt.database.read_now(lambda conn: subjects.owners(conn, "rt", [rt.hash(ADA)]))
    assert len(owners) == 2

    def open_marks() -> list[int]:
        return rt.database.read_now(
            lambda conn: [len(marks.of_subject(conn, owner)) for owner in owners]
        )

    rounds(rt, there)
    assert open_marks() == [1, 1]
    there.deaf = False
    rt.clock.forward(60)
    rounds(rt, there)
    assert open_marks() == [0, 0]


def new_key(rt: Clinic) -> None:
    """A newer secret stands first; what was kept under the older one stays as it is."""
    rt.keys = Keyring([b"another secret of thirty-two bytes", SECRET])
    rt.intake = replace(rt.intake, keys=rt.keys)


def test_a_record_read_by_its_id_is_known_after_a_change_of_keys(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.OFF})
    rt.say(ADA, Source.ONE_CLICK)
    rounds(rt, there)
    new_key(rt)
    rt.clock.forward(60)
    there.held[ADA] = Value.ON
    now, hint = rt.clock().timestamp(), [(TARGET.label, 0, f"id-{ADA}")]
    rt.database.write_now(partial(marks.set_marks, wanted=hint, now=now, urgent=True))
    rounds(rt, there)
    assert [change.to for change in there.written] == [Wish.OFF]
