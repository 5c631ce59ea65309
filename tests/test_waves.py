"""A wave of opt-ins towards one target waits for a person; opt-outs never do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from prefs.chores import Forgetting
from prefs.core.errors import Temporary
from prefs.core.propagation import (
    Applied,
    Change,
    Observed,
    Outcome,
    Ref,
    Seen,
    Slot,
    Value,
    Wish,
)
from prefs.core.words import Channel, Choice, Kind, Source
from prefs.store import marks, subjects, tasks, waves
from tests.kit import EMAIL, TARGET, Clinic, MailingList, clinic, one_round, push_of


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Clinic]:
    made = clinic(tmp_path)
    yield made
    made.database.close()


def address(number: int) -> str:
    return f"p{number}@example.co.uk"


def people(rt: Clinic, first: int, count: int) -> list[str]:
    """People who consented here, not asked at the vendor yet."""
    found = [address(number) for number in range(first, first + count)]
    for one in found:
        rt.consent(one)
    return found


def there(rt: Clinic, count: int) -> MailingList:
    return MailingList(rt.clock, held={address(n): Value.UNSET for n in range(count)})


def carry(rt: Clinic, target: MailingList) -> None:
    asyncio.run(one_round(rt, push_of(rt, target)))


def on(target: MailingList) -> int:
    return sum(value is Value.ON for value in target.held.values())


def task(rt: Clinic) -> Any:
    found = rt.database.read_now(lambda conn: tasks.listed(conn, "rt", "open", "opt_in_wave"))
    assert len(found) == 1
    return tasks.body(rt.keys, found[0])


def decide(rt: Clinic, state: str) -> None:
    wave, now = task(rt)["wave"], rt.clock().timestamp()
    rt.database.write_now(lambda conn: waves.decide(conn, waves.by_id(conn, wave), state, now))


def outcomes(rt: Clinic, addresses: list[str]) -> set[str]:
    hashes = [rt.hash(one) for one in addresses]
    rows = rt.database.read_now(lambda conn: marks.receipts_of(conn, hashes))
    return {row.outcome for row in rows}


def test_ten_pass_and_the_eleventh_stops_all_of_its_round(rt: Clinic) -> None:
    target = there(rt, 30)
    people(rt, 0, 10)
    carry(rt, target)
    assert on(target) == 10
    late = people(rt, 10, 1)
    carry(rt, target)
    assert on(target) == 10
    assert outcomes(rt, late) == {Outcome.PENDING}
    assert task(rt)["target"] == TARGET.label


def test_a_large_target_lets_one_in_twenty_pass(rt: Clinic) -> None:
    target = there(rt, 300)
    found = [(f"id-{number}", [number.to_bytes(4, "big")]) for number in range(300)]
    now = rt.clock().timestamp()
    rt.database.write_now(lambda conn: marks.keep_records(conn, TARGET.label, found, now))
    people(rt, 0, 15)
    carry(rt, target)
    assert on(target) == 15
    people(rt, 15, 1)
    carry(rt, target)
    assert on(target) == 15


def test_a_run_ends_and_the_next_one_counts_anew(rt: Clinic) -> None:
    target = there(rt, 30)
    for start in (0, 10, 20):
        people(rt, start, 10)
        carry(rt, target)
        rt.clock.forward(waves.RUN + 1)
    assert on(target) == 30


def test_an_opt_in_that_is_tried_again_counts_once(rt: Clinic) -> None:
    """Else five people and a vendor that is down would make a wave."""
    target = there(rt, 30)
    target.write_fault = Temporary("down")
    people(rt, 0, 5)
    for _ in range(4):
        carry(rt, target)
        rt.clock.forward(60)
    assert len(target.written) == 20
    target.write_fault = None
    carry(rt, target)
    assert on(target) == 5


def test_outs_pass_a_wave(rt: Clinic) -> None:
    target = there(rt, 30)
    target.held |= dict.fromkeys(map(address, range(20, 30)), Value.ON)
    people(rt, 0, 20)
    carry(rt, target)
    for number in range(20, 30):
        rt.say(address(number), Source.ONE_CLICK)
    rt.say(address(3), Source.ONE_CLICK)
    carry(rt, target)
    assert [target.held[address(n)] for n in (3, *range(20, 30))] == [Value.OFF] * 11
    assert on(target) == 0


def test_a_person_lets_it_through_and_only_what_waited(rt: Clinic) -> None:
    target = there(rt, 60)
    people(rt, 0, 20)
    carry(rt, target)
    decide(rt, waves.RELEASED)
    people(rt, 20, 20)
    carry(rt, target)
    assert on(target) == 20
    assert {target.held[address(n)] for n in range(20)} == {Value.ON}


def test_a_person_stops_it_and_it_never_sets_out(rt: Clinic) -> None:
    target = there(rt, 60)
    stopped = people(rt, 0, 20)
    carry(rt, target)
    decide(rt, waves.STOPPED)
    carry(rt, target)
    rt.clock.forward(86400)
    carry(rt, target)
    assert target.written == []
    assert outcomes(rt, stopped) == {Outcome.REFUSED}
    assert rt.database.read_now(lambda conn: marks.backlog(conn)) == {}


@pytest.mark.parametrize("state", [waves.STOPPED, waves.RELEASED])
def test_a_decision_counts_however_often_the_record_is_looked_at(rt: Clinic, state: str) -> None:
    """A webhook tells of them one after the other, days later: no new opt-in is among it."""
    target = there(rt, 60)
    crowd = people(rt, 0, 20)
    carry(rt, target)
    decide(rt, state)
    target.write_fault = Temporary("down")
    carry(rt, target)
    target.write_fault = None
    for start in range(0, 20, 5):
        rt.clock.forward(86400)
        look_at(rt, crowd[start : start + 5])
        carry(rt, target)
    assert on(target) == (20 if state == waves.RELEASED else 0)
    assert task(rt), "and no second wave is asked about"


def look_at(rt: Clinic, addresses: list[str]) -> None:
    def mark(conn: Any) -> None:
        owners = subjects.owners(conn, "rt", [rt.hash(one) for one in addresses])
        wanted = [(TARGET.label, owner, "") for owner in owners]
        marks.set_marks(conn, wanted, rt.clock().timestamp(), urgent=True)

    rt.database.write_now(mark)


def test_what_no_wave_needs_any_more_is_forgotten(rt: Clinic) -> None:
    target = there(rt, 80)
    people(rt, 0, 10)
    carry(rt, target)
    rt.clock.forward(waves.RUN + 1)
    forget(rt)
    assert rows_of_waves(rt) == 0
    people(rt, 10, 20)
    carry(rt, target)
    rt.clock.forward(waves.RUN + 1)
    forget(rt)
    assert rows_of_waves(rt) == 20, "they wait for a person"
    decide(rt, waves.RELEASED)
    forget(rt)
    carry(rt, target)
    assert on(target) == 30
    rt.clock.forward(waves.KEEP + 1)
    forget(rt)
    assert rows_of_waves(rt) == 0


def test_a_stop_is_never_forgotten(rt: Clinic) -> None:
    target = there(rt, 60)
    crowd = people(rt, 0, 20)
    carry(rt, target)
    decide(rt, waves.STOPPED)
    carry(rt, target)
    rt.clock.forward(10 * waves.KEEP)
    forget(rt)
    look_at(rt, crowd[:5])
    carry(rt, target)
    assert on(target) == 0


def forget(rt: Clinic) -> None:
    asyncio.run(Forgetting(rt.database, rt.clock).run())


def rows_of_waves(rt: Clinic) -> int:
    text = "SELECT count(*) FROM wave_ons"
    return int(rt.database.read_now(lambda conn: conn.exec_driver_sql(text).scalar_one()))


def test_who_was_stopped_once_may_opt_in_later(rt: Clinic) -> None:
    target = there(rt, 60)
    people(rt, 0, 20)
    carry(rt, target)
    decide(rt, waves.STOPPED)
    carry(rt, target)
    rt.clock.forward(86400)
    rt.say(address(1), Source.ONE_CLICK)
    carry(rt, target)
    rt.clock.forward(60)
    rt.say(address(1), Source.CENTRE, Choice.IN, occurred_at=rt.clock())
    carry(rt, target)
    assert [change.to for change in target.written] == [Wish.OFF, Wish.ON]


# --- beside an out of the same person -------------------------------------------------------------

NEWS, OFFERS = (Slot(topic, Channel.EMAIL, topics=(topic,)) for topic in ("news", "offers"))


@dataclass
class TwoLists(MailingList):
    """Two lists in one record: everybody gets offers and nobody gets news yet. While `down`, no
    write of an out arrives."""

    slots: tuple[Slot, ...] = (NEWS, OFFERS)
    down: bool = False
    there: dict[tuple[str, Slot], Value] = field(default_factory=dict)

    def value(self, address: str, slot: Slot) -> Value:
        return self.there.get((address, slot), Value.UNSET if slot == NEWS else Value.ON)

    async def observe(self, refs: Sequence[Ref]) -> Mapping[Ref, Observed]:
        return {
            ref: Observed(
                {slot: Seen(self.value(ref.value, slot)) for slot in self.slots},
                self.clock(),
                f"id-{ref.value}",
                ((Kind.EMAIL, ref.value),),
            )
            for ref in refs
        }

    async def apply(self, changes: Sequence[Change]) -> Mapping[Change, Applied | Temporary]:
        self.written += changes
        answers: dict[Change, Applied | Temporary] = {}
        for change in changes:
            answers[change] = Temporary("HTTP 503") if self.down else Applied()
            if not self.down:
                value = Value.OFF if change.to is Wish.OFF else Value.ON
                self.there[change.ref.value, change.slot] = value
        return answers


def wave_of_news(rt: Clinic, target: TwoLists) -> str:
    """Twenty people who want news, and wait; the first of them."""
    for number in range(20):
        rt.consent(address(number), EMAIL._replace(topic="news"))
    carry(rt, target)
    assert task(rt)
    return address(0)


def test_an_out_is_tried_again_soon_though_an_opt_in_beside_it_waits(rt: Clinic) -> None:
    target = TwoLists(rt.clock)
    ada = wave_of_news(rt, target)
    target.down = True
    rt.say(ada, Source.ONE_CLICK, scope=EMAIL._replace(topic="offers"))
    carry(rt, target)
    target.down = False
    rt.clock.forward(30)
    carry(rt, target)
    assert target.value(ada, OFFERS) is Value.OFF
    assert target.value(ada, NEWS) is Value.UNSET


def test_an_opt_in_that_waits_is_no_overdue_out(rt: Clinic) -> None:
    target = TwoLists(rt.clock)
    ada = wave_of_news(rt, target)
    rt.say(ada, Source.ONE_CLICK, scope=EMAIL._replace(topic="offers"))
    carry(rt, target)
    assert target.value(ada, OFFERS) is Value.OFF
    rt.clock.forward(86400)
    late = rt.clock().timestamp() - 3600
    assert rt.database.read_now(lambda conn: marks.overdue(conn, late)) == {}
    assert rt.database.read_now(marks.backlog)[TARGET.label][0] == 20
    decide(rt, waves.RELEASED)
    carry(rt, target)
    assert target.value(ada, NEWS) is Value.ON


def test_an_out_is_not_as_old_as_the_opt_in_that_waited_before_it(rt: Clinic) -> None:
    target = TwoLists(rt.clock, down=True)
    ada = wave_of_news(rt, target)
    rt.clock.forward(2 * 86400)
    rt.say(ada, Source.ONE_CLICK, scope=EMAIL._replace(topic="offers"))
    carry(rt, target)
    late = rt.clock().timestamp() - 3600
    assert rt.database.read_now(lambda conn: marks.overdue(conn, late)) == {}
    rt.clock.forward(3601)
    late = rt.clock().timestamp() - 3600
    assert rt.database.read_now(lambda conn: marks.overdue(conn, late)) == {TARGET.label: 1}
