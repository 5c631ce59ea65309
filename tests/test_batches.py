"""A machine that turns many off: denied here at once, held from other systems, taken back whole."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from prefs import hooks, retract
from prefs.core import identity
from prefs.core.errors import NotFound
from prefs.core.propagation import Value
from prefs.core.signals import Delivery, Evidence, Recheck, Signal, Statement
from prefs.core.words import Choice, Source
from prefs.scan import Scan
from prefs.store import batches, ledger, marks, permissions, subjects, tasks
from prefs.store.batches import FEW, GATHER, HELD_FOR, PAUSE, Batch
from prefs.store.database import Database
from prefs.store.ledger import Finding
from tests.kit import EMAIL, SMS, TARGET, Clinic, MailingList, clinic, one_round, push_of

BY = Evidence(actor="Sam", note="a fault of the other system")


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Clinic]:
    made = clinic(tmp_path)
    yield made
    made.database.close()


def people(count: int) -> list[str]:
    return [f"p{number}@example.co.uk" for number in range(count)]


def turn_off(rt: Clinic, addresses: list[str], source: Source = Source.VENDOR_ADMIN) -> None:
    for one in addresses:
        rt.say(one, source, origin="rt/other")


def newest(rt: Clinic) -> Batch:
    return rt.database.read_now(batches.listed)[0]


def word(rt: Clinic, address: str) -> str:
    hash_ = rt.hash(address)
    held = rt.database.read_now(lambda conn: permissions.read(conn, "rt", [hash_]))[hash_]
    return str(held.views[EMAIL].word)


def push(rt: Clinic, there: MailingList) -> None:
    lane = push_of(rt, there)
    while asyncio.run(one_round(rt, lane)):
        continue


def take_back(rt: Clinic, label: str) -> None:
    last = 0
    while last := rt.database.write_now(partial(_take_some, rt, label, last)):
        continue


def _take_some(rt: Clinic, label: str, after: int, conn: Connection) -> int:
    return retract.retract(conn, rt.intake, label, BY, after)


def clean(rt: Clinic) -> bool:
    """The ledger verifies, the states are its fold, the permission rows are theirs."""

    def look(conn: Connection) -> bool:
        steps = [*ledger.verify(conn, rt.keys), *rt.intake.verify(conn)]
        return not any(isinstance(step, Finding) for step in steps)

    while rt.database.write_now(ledger.seal):
        continue
    return rt.database.read_now(look)


def test_a_few_go_out_once_no_more_come(rt: Clinic) -> None:
    crowd = people(FEW)
    there = MailingList(rt.clock, held=dict.fromkeys(crowd, Value.ON))
    turn_off(rt, crowd)
    rt.clock.forward(GATHER + 1)
    push(rt, there)
    assert set(there.held.values()) == {Value.OFF}
    assert newest(rt).state == batches.OPEN


def test_none_of_many_slips_out_before_they_are_seen_to_be_many(rt: Clinic) -> None:
    """A lane carries what is due after each of them; they come one by one, and slowly."""
    crowd = people(FEW + 30)
    there = MailingList(rt.clock, held=dict.fromkeys(crowd, Value.ON))
    for one in crowd:
        turn_off(rt, [one])
        push(rt, there)
        rt.clock.forward(GATHER / 4)
    push(rt, there)
    assert set(there.held.values()) == {Value.ON}
    assert newest(rt).state == batches.WAITING


def test_a_walk_holds_what_it_finds_until_it_is_over(rt: Clinic) -> None:
    crowd = people(FEW)
    there = MailingList(rt.clock, held=dict.fromkeys(crowd, Value.ON))
    for one in crowd:
        rt.say(one, Source.VENDOR_API, origin="rt/other", walking=True)
    rt.clock.forward(PAUSE / 2)
    push(rt, there)
    assert set(there.held.values()) == {Value.ON}
    due = rt.clock().timestamp()
    rt.database.write_now(lambda conn: batches.walked(conn, "rt", "rt/other", due))
    push(rt, there)
    assert set(there.held.values()) == {Value.OFF}


def test_the_target_that_says_it_is_read_again_at_once(rt: Clinic) -> None:
    """Only that makes a person's word of what an unsigned webhook says; nothing is written."""
    (one,) = people(1)
    there = MailingList(rt.clock, held={one: Value.OFF})
    rt.say(one, Source.VENDOR_ADMIN, origin=TARGET.label)
    assert asyncio.run(one_round(rt, push_of(rt, there))) == 1
    assert there.written == []


def test_many_count_here_at_once_and_wait_elsewhere(rt: Clinic) -> None:
    crowd = people(FEW + 30)
    there = MailingList(rt.clock, held=dict.fromkeys(crowd, Value.ON))
    turn_off(rt, crowd)
    push(rt, there)
    assert {word(rt, one) for one in crowd} == {"opted_out"}
    assert set(there.held.values()) == {Value.ON}
    assert newest(rt).state == batches.WAITING
    (task,) = rt.database.read_now(lambda conn: tasks.listed(conn, "rt", "open", "batch"))
    assert tasks.body(rt.keys, task)["batch"] == newest(rt).label


@pytest.mark.postgresql
def test_processes_that_take_in_at_once_count_into_one_batch(
    rt: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reads how many there are before the other has written its own."""
    both = threading.Barrier(2)
    join = batches.join

    def joined(conn: Connection, *of: Any) -> Batch:
        both.wait(10)
        found = join(conn, *of)
        time.sleep(0.2)
        return found

    monkeypatch.setattr(batches, "join", joined)
    some, others = people(2 * FEW)[::2], people(2 * FEW)[1::2]
    threads = [threading.Thread(target=at_once, args=(rt, part)) for part in (some, others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (batch,) = rt.database.read_now(batches.listed)
    assert (batch.outs, batch.state) == (2 * FEW, batches.WAITING)
    assert len(rt.database.read_now(lambda conn: tasks.listed(conn, "rt", "open", "batch"))) == 1


def at_once(rt: Clinic, addresses: list[str]) -> None:
    """As a process of its own takes in what programs send it together."""
    outs = (Statement(EMAIL, Choice.OUT),)
    said = [Signal("rt", Source.IMPORT, outs, (identity.email(one),)) for one in addresses]
    with Database(rt.database.url) as database:
        database.engine.transaction(lambda conn: rt.intake.record_many(conn, said), alone=False)


def test_those_are_held_too_who_are_older_than_their_batch(rt: Clinic) -> None:
    """By the clock of another process, or because it waited for others before it joined."""
    crowd = people(FEW + 30)
    there = MailingList(rt.clock, held=dict.fromkeys(crowd, Value.ON))
    turn_off(rt, crowd[:1])
    rt.clock.at -= timedelta(seconds=1)
    turn_off(rt, crowd[1:])
    rt.clock.forward(PAUSE)
    push(rt, there)
    assert set(there.held.values()) == {Value.ON}


def test_they_go_out_by_themselves_after_four_hours(rt: Clinic) -> None:
    crowd = people(FEW + 5)
    there = MailingList(rt.clock, held=dict.fromkeys(crowd, Value.ON))
    turn_off(rt, crowd)
    rt.clock.forward(HELD_FOR + PAUSE)
    push(rt, there)
    assert set(there.held.values()) == {Value.OFF}


def test_a_person_says_go(rt: Clinic) -> None:
    crowd = people(FEW + 5)
    there = MailingList(rt.clock, held=dict.fromkeys(crowd, Value.ON))
    turn_off(rt, crowd)
    held, now = newest(rt), rt.clock().timestamp()
    rt.database.write_now(lambda conn: batches.release(conn, held, now))
    turn_off(rt, ["late@example.co.uk"])
    there.held["late@example.co.uk"] = Value.ON
    push(rt, there)
    assert set(there.held.values()) == {Value.OFF}


def test_outs_by_people_pass_though_they_are_among_them(rt: Clinic) -> None:
    crowd = people(FEW + 30)
    there = MailingList(rt.clock, held=dict.fromkeys(crowd, Value.ON))
    turn_off(rt, crowd[:40])
    rt.say(crowd[3], Source.ONE_CLICK)
    turn_off(rt, crowd[40:])
    rt.say(crowd[70], Source.ONE_CLICK)
    push(rt, there)
    off = [one for one in crowd if there.held[one] is Value.OFF]
    assert off == [crowd[3], crowd[70]]


def walk(rt: Clinic, there: MailingList) -> None:
    now = rt.clock().timestamp()
    lease = rt.database.write_now(
        lambda conn: marks.take_lease(conn, TARGET.label, "one", now, 30.0)
    )
    assert lease
    asyncio.run(Scan(TARGET, there, rt.database, rt.intake, rt.clock).run(lease, None))


def webhooks(rt: Clinic, addresses: list[str]) -> None:
    """The target tells that these records changed."""
    delivery = Delivery("POST", "", (), {}, b"", rt.clock())
    found = [Recheck(identifier=identity.email(one)) for one in addresses]
    rt.database.write_now(lambda conn: hooks.take(conn, rt.intake, TARGET, delivery, found))


def test_neither_a_poll_nor_a_webhook_lets_them_through(rt: Clinic) -> None:
    crowd = people(FEW + 30)
    there = MailingList(rt.clock, held=dict.fromkeys(crowd, Value.ON))
    turn_off(rt, crowd)
    walk(rt, there)
    webhooks(rt, crowd)
    push(rt, there)
    assert set(there.held.values()) == {Value.ON}
    rt.clock.forward(HELD_FOR)
    push(rt, there)
    assert set(there.held.values()) == {Value.OFF}


def test_what_a_person_said_long_ago_is_pushed_back_at_once_all_the_same(rt: Clinic) -> None:
    """The batch says it of them too, and somebody turns them on there meanwhile."""
    crowd = people(FEW + 30)
    there = MailingList(rt.clock, held=dict.fromkeys(crowd, Value.ON))
    early, late, by_text = crowd[3], crowd[70], crowd[71]
    for one in (early, late):
        rt.say(one, Source.ONE_CLICK)
    # The list carries no texts: no word of this person's own has to go there.
    rt.say(by_text, Source.STAFF, scope=SMS)
    push(rt, there)
    there.held |= dict.fromkeys((early, late), Value.ON)
    rt.clock.forward(PAUSE + 1)
    turn_off(rt, crowd[:40])
    walk(rt, there)
    turn_off(rt, crowd[40:])
    walk(rt, there)
    push(rt, there)
    off = [one for one in crowd if there.held[one] is Value.OFF]
    assert off == [early, late]


def test_what_waited_before_the_batch_began_is_not_held_by_it(rt: Clinic) -> None:
    crowd = people(FEW + 30)
    there = MailingList(rt.clock, held=dict.fromkeys(crowd, Value.ON))
    rt.say(crowd[5], Source.VENDOR_ADMIN, origin="rt/first")
    rt.clock.forward(60)
    turn_off(rt, crowd)
    push(rt, there)
    assert [one for one in crowd if there.held[one] is Value.OFF] == [crowd[5]]


@pytest.mark.parametrize("source", [Source.VENDOR_PERSON, Source.STAFF, Source.API])
def test_no_other_source_is_held(rt: Clinic, source: Source) -> None:
    crowd = people(FEW + 5)
    there = MailingList(rt.clock, held=dict.fromkeys(crowd, Value.ON))
    turn_off(rt, crowd, source)
    push(rt, there)
    assert set(there.held.values()) == {Value.OFF}


def test_what_is_taken_back_counts_as_never_said(rt: Clinic) -> None:
    crowd = people(FEW + 30)
    for one in crowd[:10]:
        rt.consent(one)
    turn_off(rt, crowd)
    rt.say(crowd[2], Source.ONE_CLICK)
    rt.say(crowd[3], Source.API)
    take_back(rt, newest(rt).label)
    assert word(rt, crowd[0]) == "in"
    assert word(rt, crowd[2]) == word(rt, crowd[3]) == "opted_out"
    there = MailingList(rt.clock, held={crowd[0]: Value.ON, crowd[2]: Value.ON})
    push(rt, there)
    assert there.held == {crowd[0]: Value.ON, crowd[2]: Value.OFF}
    assert clean(rt)


def test_what_had_gone_out_already_is_put_right(rt: Clinic) -> None:
    crowd = people(20)
    there = MailingList(rt.clock, held=dict.fromkeys(crowd, Value.ON))
    for one in crowd:
        rt.consent(one)
    turn_off(rt, crowd)
    rt.clock.forward(GATHER + 1)
    push(rt, there)
    assert set(there.held.values()) == {Value.OFF}
    take_back(rt, newest(rt).label)
    push(rt, there)
    assert set(there.held.values()) == {Value.ON}


def test_taking_back_twice_is_taking_back_once(rt: Clinic) -> None:
    crowd = people(5)
    turn_off(rt, crowd)
    label = newest(rt).label
    take_back(rt, label)
    (owner,) = rt.database.read_now(lambda conn: subjects.owners(conn, "rt", [rt.hash(crowd[0])]))
    before = len(rt.database.read_now(lambda conn: ledger.history(conn, owner)))
    take_back(rt, label)
    assert len(rt.database.read_now(lambda conn: ledger.history(conn, owner))) == before
    assert clean(rt)


def test_the_same_origin_begins_a_new_batch_after_a_pause_or_a_taking_back(rt: Clinic) -> None:
    turn_off(rt, people(3))
    first = newest(rt).label
    rt.clock.forward(PAUSE + 1)
    turn_off(rt, ["a@example.co.uk"])
    second = newest(rt).label
    take_back(rt, second)
    turn_off(rt, ["b@example.co.uk"])
    assert len({first, second, newest(rt).label}) == 3


def take_one_back(rt: Clinic, label: str, address: str) -> None:
    (who,) = rt.database.read_now(lambda conn: subjects.owners(conn, "rt", [rt.hash(address)]))
    rt.database.write_now(lambda conn: retract.of_one(conn, rt.intake, label, who, BY))


def test_one_person_alone_is_taken_out_of_it(rt: Clinic) -> None:
    one, *others = people(4)
    rt.consent(one)
    turn_off(rt, [one, *others])
    label = newest(rt).label
    rt.say(others[0], Source.ONE_CLICK)
    for address in (one, one, others[0]):
        take_one_back(rt, label, address)
    assert word(rt, one) == "in"
    assert {word(rt, other) for other in others} == {"opted_out"}
    assert newest(rt).state == batches.OPEN
    assert clean(rt)


def test_what_the_same_batch_says_afterwards_counts_until_it_is_taken_back(rt: Clinic) -> None:
    one, other = people(2)
    for address in (one, other):
        rt.consent(address)
    turn_off(rt, [one, other])
    label = newest(rt).label
    take_one_back(rt, label, one)
    turn_off(rt, [one])
    assert newest(rt).label == label
    assert word(rt, one) == "opted_out"
    take_back(rt, label)
    assert word(rt, one) == word(rt, other) == "in"
    assert clean(rt)


def test_what_is_taken_back_asks_nobody_any_more(rt: Clinic) -> None:
    turn_off(rt, people(FEW + 5))
    (task,) = open_tasks(rt)
    take_back(rt, newest(rt).label)
    assert open_tasks(rt) == []
    (closed,) = rt.database.read_now(lambda conn: tasks.listed(conn, "rt", "closed", "batch"))
    assert closed.id == task.id
    assert newest(rt).state == batches.RETRACTED


def test_nothing_of_what_was_taken_back_is_let_go(rt: Clinic) -> None:
    turn_off(rt, people(FEW + 5))
    label, now = newest(rt).label, rt.clock().timestamp()
    take_back(rt, label)
    held = rt.database.read_now(lambda conn: batches.by_label(conn, label))
    rt.database.write_now(lambda conn: batches.release(conn, held, now))
    assert newest(rt).state == batches.RETRACTED
    turn_off(rt, ["late@example.co.uk"])
    assert newest(rt).label != label


def open_tasks(rt: Clinic) -> list[Any]:
    return rt.database.read_now(lambda conn: tasks.listed(conn, "rt", "open", "batch"))


def test_an_unknown_batch_is_refused(rt: Clinic) -> None:
    for label in ("b_99", "b_", "99", "b_x"):
        with pytest.raises(NotFound):
            take_back(rt, label)


def test_an_opt_out_said_again_later_stands(rt: Clinic) -> None:
    (one,) = people(1)
    turn_off(rt, [one])
    take_back(rt, newest(rt).label)
    rt.say(one, Source.VENDOR_ADMIN, Choice.OUT, origin="rt/other")
    assert word(rt, one) == "opted_out"
    assert clean(rt)


def test_the_marks_of_the_others_are_left_alone(rt: Clinic) -> None:
    rt.say("own@example.co.uk", Source.ONE_CLICK)
    turn_off(rt, people(FEW + 5))
    now = rt.clock().timestamp()
    assert rt.database.read_now(lambda conn: marks.any_due(conn, TARGET.label, now))
