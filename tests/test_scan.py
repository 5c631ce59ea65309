"""The poll: outs at a vendor are taken in, what differs is marked, unknown is not empty."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from prefs.core import identity
from prefs.core.errors import PropagationError, Refused, Temporary
from prefs.core.keys import Keyring
from prefs.core.propagation import Outcome, Page, Slot, Target, Value
from prefs.core.words import Channel, Choice, Source
from prefs.lanes import Lane, Pace
from prefs.scan import Direction, Finding, Scan
from prefs.store import ledger, marks, permissions, subjects
from prefs.store.marks import Lease
from tests.kit import EMAIL, SECRET, TARGET, Clinic, MailingList, clinic, one_round, push_of

ADA, BOB, CAT = (f"{name}@example.co.uk" for name in ("ada", "bob", "cat"))


@dataclass
class Paged(MailingList):
    """One record a page; `breaks_after` so many pages. A cursor is the last address seen."""

    breaks_after: int = 99
    cursors: list[str | None] = field(default_factory=list)

    async def scan(self, cursor: str | None) -> AsyncIterator[Page]:
        self.cursors.append(cursor)
        left = [address for address in sorted(self.held) if cursor is None or address > cursor]
        async for page in super().scan(None):
            by_address = {ref.value: (ref, read) for ref, read in page.records}
        for at, address in enumerate(left):
            if at == self.breaks_after:
                raise Temporary("HTTP 503")
            last = address == left[-1]
            yield Page((by_address[address],), None if last else address, complete=last)


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Clinic]:
    made = clinic(tmp_path)
    yield made
    made.database.close()


def lease_of(rt: Clinic) -> Lease:
    now = rt.clock().timestamp()
    lease = rt.database.write_now(
        lambda conn: marks.take_lease(conn, TARGET.label, "one", now, 3600.0)
    )
    assert lease is not None
    return lease


def walk(
    rt: Clinic, there: MailingList, *, due: float | None = None, target: Target = TARGET
) -> None:
    scan = Scan(target, there, rt.database, rt.intake, rt.clock)
    lease = lease_of(rt)
    with suppress(PropagationError):
        asyncio.run(scan.run(lease, None) if due is None else scan.when_due(lease, due))
    rt.clock.forward(1)


def push(rt: Clinic, there: MailingList) -> int:
    return asyncio.run(one_round(rt, push_of(rt, there)))


def word(rt: Clinic, address: str) -> str | None:
    hash_ = rt.hash(address)
    held = rt.database.read_now(lambda conn: permissions.read(conn, "rt", [hash_])).get(hash_)
    view = held.views.get(EMAIL) if held else None
    return view.word if view else None


def sources(rt: Clinic, address: str) -> list[str]:
    """Where the outs of an address came from, as its ledger tells."""
    (owner,) = rt.database.read_now(lambda conn: subjects.owners(conn, "rt", [rt.hash(address)]))
    rows = rt.database.read_now(lambda conn: ledger.history(conn, owner))
    return [row.source for row in rows if row.choice == Choice.OUT]


def test_an_off_at_first_sight_is_an_out(rt: Clinic) -> None:
    walk(rt, MailingList(rt.clock, held={ADA: Value.OFF, BOB: Value.ON}))
    assert word(rt, ADA) == "opted_out"
    assert word(rt, BOB) is None


def test_somebody_who_left_since_the_last_walk_said_so_themselves(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON})
    rt.consent(ADA)
    walk(rt, there)
    there.held[ADA] = Value.OFF
    walk(rt, there)
    assert word(rt, ADA) == "opted_out"
    assert sources(rt, ADA) == [Source.VENDOR_PERSON]


def test_a_later_walk_leaves_alone_when_an_out_was_honoured(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON})
    rt.consent(ADA)
    rt.say(ADA, Source.ONE_CLICK)
    rt.clock.forward(2)
    push(rt, there)
    rt.clock.forward(7200)
    walk(rt, there)
    (lag,) = rt.database.read_now(lambda conn: marks.lags(conn, TARGET.label, 0.0))
    assert lag == pytest.approx(2, abs=0.1)


def test_an_on_at_the_vendor_is_never_consent(rt: Clinic) -> None:
    walk(rt, MailingList(rt.clock, held={ADA: Value.ON}))
    assert word(rt, ADA) is None


@pytest.mark.parametrize("live", [True, False])
def test_a_vendors_proof_is_no_consent_by_itself(rt: Clinic, live: bool) -> None:
    """Only onboarding, which a person applies, and an event of the person's make it one."""
    proof = {"at": "2021-04-08T16:17:44Z", "how": "sign-up form"}
    there = MailingList(rt.clock, held={ADA: Value.ON}, proof=proof)
    for _ in range(2):
        walk(rt, there, target=replace(TARGET, live=live))
    assert word(rt, ADA) is None
    now = rt.clock().timestamp()
    wanted = [(TARGET.label, 0, f"id-{ADA}")]
    rt.database.write_now(lambda conn: marks.set_marks(conn, wanted, now, urgent=True))
    assert push(rt, there) == 1
    assert word(rt, ADA) is None
    assert not rt.database.read_now(lambda conn: subjects.owners(conn, "rt", [rt.hash(ADA)]))
    assert there.held == {ADA: Value.ON}


def test_an_on_against_an_out_is_marked_and_pushed_back(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON})
    rt.say(ADA, Source.ONE_CLICK)
    assert push(rt, there) == 1
    there.held[ADA] = Value.ON
    walk(rt, there)
    assert push(rt, there) == 1
    assert there.held[ADA] is Value.OFF


def test_a_quiet_walk_marks_nothing(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON, BOB: Value.OFF})
    rt.consent(ADA)
    push(rt, there)
    walk(rt, there)
    push(rt, there)
    walk(rt, there)
    assert push(rt, there) == 0


def test_our_own_off_found_by_the_walk_is_no_signal(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON})
    rt.say(ADA, Source.STAFF)
    push(rt, there)
    walk(rt, there)
    assert sources(rt, ADA) == [Source.STAFF]


def test_nor_is_it_where_the_walk_comes_between_our_write_and_its_proof(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON})
    walk(rt, there)
    rt.say(ADA, Source.STAFF)
    there.after_write = lambda: in_thread(lambda: walk(rt, there))
    push(rt, there)
    assert there.held[ADA] is Value.OFF
    assert sources(rt, ADA) == [Source.STAFF]


def in_thread(job: Callable[[], None]) -> None:
    thread = threading.Thread(target=job)
    thread.start()
    thread.join()


def test_a_record_that_appears_is_brought_to_its_wish(rt: Clinic) -> None:
    there = MailingList(rt.clock)
    rt.say(ADA, Source.ONE_CLICK)
    push(rt, there)
    there.held[ADA] = Value.ON
    walk(rt, there)
    push(rt, there)
    assert there.held[ADA] is Value.OFF


def test_a_walk_that_broke_goes_on_from_its_cursor(rt: Clinic) -> None:
    there = Paged(rt.clock, held=dict.fromkeys((ADA, BOB, CAT), Value.OFF), breaks_after=2)
    walk(rt, there, due=60.0)
    assert [word(rt, one) for one in (ADA, BOB, CAT)] == ["opted_out", "opted_out", None]
    there.breaks_after = 99
    walk(rt, there, due=60.0)
    assert there.cursors == [None, BOB]
    assert word(rt, CAT) == "opted_out"


def test_a_walk_is_done_once_in_its_time(rt: Clinic) -> None:
    there = Paged(rt.clock, held={ADA: Value.ON})
    walk(rt, there, due=60.0)
    walk(rt, there, due=60.0)
    assert len(there.cursors) == 1
    rt.clock.forward(61)
    walk(rt, there, due=60.0)
    assert len(there.cursors) == 2


def test_a_target_that_is_only_observed_is_read_and_never_written(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON, BOB: Value.OFF})
    rt.say(ADA, Source.ONE_CLICK)
    observed = replace(TARGET, live=False)
    lane = Lane(observed, there, rt.database, rt.intake, rt.clock, Pace(), "one")

    async def until_it_is_heard() -> None:
        work = asyncio.create_task(lane.run())
        async with asyncio.timeout(60):
            while word(rt, BOB) != "opted_out":
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)  # a write would come with it
        work.cancel()

    asyncio.run(until_it_is_heard())
    assert there.written == []


def test_a_record_is_gone_after_two_complete_walks_that_did_not_see_it(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON, BOB: Value.ON})
    rt.say(ADA, Source.ONE_CLICK)
    push(rt, there)
    walk(rt, there)
    del there.held[ADA]
    walk(rt, there)
    assert push(rt, there) == 0
    walk(rt, there)
    assert push(rt, there) == 1
    (receipt,) = rt.database.read_now(lambda conn: marks.receipts_of(conn, [rt.hash(ADA)]))
    assert receipt.outcome == Outcome.ABSENT


def test_a_broken_walk_is_no_complete_one(rt: Clinic) -> None:
    there = Paged(rt.clock, held=dict.fromkeys((ADA, BOB, CAT), Value.ON))
    rt.say(ADA, Source.ONE_CLICK)
    push(rt, there)
    walk(rt, there)
    del there.held[ADA]
    there.breaks_after = 1
    for _ in range(3):
        walk(rt, there)
    assert push(rt, there) == 0


def test_once_a_day_a_walk_begins_at_the_beginning(rt: Clinic) -> None:
    there = Paged(rt.clock, held={ADA: Value.ON, BOB: Value.ON})
    walk(rt, there, due=60.0)
    for _ in range(2):
        rt.clock.forward(3600)
        walk(rt, there, due=60.0)
    rt.clock.forward(86400)
    walk(rt, there, due=60.0)
    assert there.cursors == [None, ADA, ADA, None]


def test_an_on_that_the_vendor_turned_down_is_not_asked_again_by_the_poll(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.UNSET}, write_fault=Refused("not by us"))
    walk(rt, there)
    rt.consent(ADA)
    push(rt, there)
    assert len(there.written) == 1
    walk(rt, there)
    assert push(rt, there) == 0


def directions(rt: Clinic, there: MailingList) -> dict[str, Direction | None]:
    """What comparing says of each address."""
    scan = Scan(TARGET, there, rt.database, rt.intake, rt.clock)

    async def look() -> list[Finding]:
        return [
            found
            async for page in there.scan(None)
            for found in await rt.database.read(partial(scan.compare, page=page))
        ]

    rt.clock.forward(1)
    return {one.row.ref.value: one.direction for one in asyncio.run(look())}


def test_comparing_writes_nothing(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.OFF, BOB: Value.ON, CAT: Value.ON})
    rt.say(BOB, Source.ONE_CLICK)
    found = directions(rt, there)
    assert found == {ADA: Direction.TAKE, BOB: Direction.PUSH, CAT: Direction.UNKNOWN}
    assert word(rt, ADA) is None
    assert there.written == []


def test_an_off_that_stands_here_already_is_no_difference(rt: Clinic) -> None:
    rt.say(ADA, Source.ONE_CLICK)
    assert directions(rt, MailingList(rt.clock, held={ADA: Value.OFF})) == {ADA: None}


def test_an_off_of_a_list_is_one_as_long_as_a_topic_of_it_is_not_out_here(rt: Clinic) -> None:
    rt.say(ADA, Source.ONE_CLICK, scope=EMAIL._replace(topic="offers"))
    both = Slot("list", Channel.EMAIL, topics=("offers", "news"))
    there = MailingList(rt.clock, held={ADA: Value.OFF}, slots=(both,))
    assert directions(rt, there) == {ADA: Direction.TAKE}


def test_an_unknown_record_is_told_until_it_was_taken_in(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON})
    for _ in range(2):
        assert directions(rt, there) == {ADA: Direction.UNKNOWN}
    walk(rt, there)
    assert directions(rt, there) == {ADA: None}
    assert word(rt, ADA) is None


def test_so_is_one_that_the_vendor_has_no_id_for(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON}, names=False)
    assert directions(rt, there) == {ADA: Direction.UNKNOWN}
    walk(rt, there)
    assert directions(rt, there) == {ADA: None}


def test_seeing_again_what_was_proved_is_no_late_proof(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON})
    rt.say(ADA, Source.ONE_CLICK)
    push(rt, there)
    rt.clock.forward(3600)
    walk(rt, there)
    (lag,) = rt.database.read_now(lambda conn: marks.lags(conn, TARGET.label, 0.0))
    assert lag < 1.0


def test_a_walk_knows_everybody_after_a_change_of_keys(rt: Clinic) -> None:
    """Whoever is turned on there is turned off again, and our own `off` is no news."""
    there = MailingList(rt.clock, held={ADA: Value.ON, BOB: Value.ON})
    for address in (ADA, BOB):
        rt.say(address, Source.STAFF)
    push(rt, there)
    rt.keys = Keyring([b"another secret of thirty-two bytes", SECRET])
    rt.intake = replace(rt.intake, keys=rt.keys)
    rt.clock.forward(60)
    there.held[ADA] = Value.ON
    walk(rt, there)
    assert push(rt, there) == 1
    assert there.held == {ADA: Value.OFF, BOB: Value.OFF}
    (bob,) = rt.database.read_now(
        lambda conn: subjects.owners(conn, "rt", rt.keys.hashes(identity.email(BOB)))
    )
    rows = rt.database.read_now(lambda conn: ledger.history(conn, bob))
    assert [row.source for row in rows] == ["staff"]
