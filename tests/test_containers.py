"""What a target sends from: classified, watched, and marked for whoever is out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from prefs.chores import Sweep
from prefs.containers import Census, Class, class_of, configured
from prefs.core.errors import Temporary
from prefs.core.propagation import Container, Slot, Target
from prefs.core.words import Channel, Source
from prefs.store import containers, marks, outbox, tasks
from prefs.store.marks import Lease
from tests.kit import EMAIL, TARGET, Clinic, MailingList, clinic

ADA, BOB = "ada@example.co.uk", "bob@example.co.uk"
NEWS = Container("a1", "Newsletter", sends=True)
VIP = Container("a2", "VIP offers", sends=True)
TEST = Container("a3", "Old test list", sends=True, inactive=True)
LABEL = TARGET.label


@dataclass
class Lists(MailingList):
    """A mailing system with lists."""

    lists: tuple[Container, ...] = (NEWS,)
    away: bool = False

    async def containers(self) -> Sequence[Container]:
        if self.away:
            raise Temporary("down")
        return self.lists


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Clinic]:
    made = clinic(tmp_path)
    yield made
    made.database.close()


def target_with(*, live: bool = True, **options: Any) -> Target:
    return replace(TARGET, live=live, options={"audiences": {"a1": ["news"]}, **options})


def read(rt: Clinic, there: Lists, target: Target | None = None) -> Census:
    """What a lane does at its start."""
    census = Census(target or target_with(), there, rt.database, rt.intake, rt.clock)
    lease = rt.database.write_now(
        lambda conn: marks.take_lease(conn, LABEL, "one", rt.clock().timestamp(), 30.0)
    )
    assert isinstance(lease, Lease)

    async def start() -> None:
        await census.mark_new_places(lease)
        await census.read(lease)

    asyncio.run(start())
    return census


def sweep(rt: Clinic, target: Target | None = None) -> None:
    to = ["mail:owner@example.co.uk"]
    asyncio.run(Sweep(rt.database, [target or target_with()], rt.keys, rt.clock, to).run())


def unsafe(rt: Clinic) -> bool:
    row = rt.database.read_now(lambda conn: marks.lane(conn, LABEL))
    return bool(row and row.unsafe_since)


def open_tasks(rt: Clinic) -> list[dict[str, Any]]:
    rows = rt.database.read_now(lambda conn: tasks.listed(conn, "rt", "open", "container"))
    return [tasks.body(rt.keys, row) for row in rows]


def alerts(rt: Clinic) -> list[str]:
    rows = rt.database.read_now(lambda conn: outbox.due(conn, rt.clock().timestamp(), 100))
    return [outbox.content(rt.keys, row)["text"] for row in rows]


def marked(rt: Clinic) -> int:
    return rt.database.read_now(marks.backlog).get(LABEL, (0, 0.0))[0]


def clear(rt: Clinic) -> None:
    rt.database.write_now(lambda conn: conn.exec_driver_sql("DELETE FROM marks"))


# --- classes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "class_"),
    [
        (Container("a1", "", sends=True), Class.MARKETING),
        (Container("s1", "", sends=True), Class.SERVICE),
        (Container("l2", "", sends=True), Class.SERVICE),
        (Container("t9", "", sends=True), Class.SERVICE),
        (Container("i1", "", sends=True), Class.IGNORED),
        (Container("x1", "", sends=True), Class.MARKETING),
        (Container("MG1", "", sends=True), Class.MARKETING),
        (Container("MG2", "", sends=True), Class.SERVICE),
        (Container("new", "", sends=True), Class.UNCLASSIFIED),
        (Container("new", "", sends=False), Class.INERT),
        (Container("new", "", sends=True, inactive=True), Class.INERT),
    ],
)
def test_a_container_is_what_the_configuration_says(one: Container, class_: Class) -> None:
    target = replace(
        target_with(
            service_containers=["s1"],
            service_lists=["l2"],
            reminder_types=["t9"],
            ignored_containers=["i1"],
            sms_lists=["x1"],
        ),
        senders={"marketing": ("MG1",), "reminders": ("MG2",)},
    )
    assert class_of(one, configured(target)) is class_


# --- unclassified ------------------------------------------------------------------------------


def test_one_that_stands_nowhere_is_an_alarm_and_no_danger_before_go_live(rt: Clinic) -> None:
    read(rt, Lists(rt.clock, lists=(NEWS, VIP, TEST)))
    sweep(rt)
    (task,) = open_tasks(rt)
    assert (task["container"], task["name"], task["after_go_live"]) == ("a2", "VIP offers", False)
    assert len(alerts(rt)) == 1
    assert "VIP offers" in alerts(rt)[0]
    assert not unsafe(rt)


def test_one_that_appears_after_go_live_makes_the_target_unsafe_until_it_is_classified(
    rt: Clinic,
) -> None:
    there = Lists(rt.clock)
    read(rt, there)
    rt.clock.forward(86400)
    there.lists = (NEWS, VIP)
    read(rt, there)
    sweep(rt)
    assert unsafe(rt)
    assert open_tasks(rt)[0]["after_go_live"] is True
    read(rt, there, target_with(ignored_containers=["a2"]))
    sweep(rt)
    assert not unsafe(rt)
    assert open_tasks(rt) == []


def test_one_that_begins_to_send_after_go_live_appeared_then(rt: Clinic) -> None:
    there = Lists(rt.clock, lists=(NEWS, TEST))
    read(rt, there)
    rt.clock.forward(86400)
    there.lists = (NEWS, replace(TEST, inactive=False))
    read(rt, there)
    sweep(rt)
    assert unsafe(rt)
    assert open_tasks(rt)[0]["after_go_live"] is True


def test_one_that_the_configuration_names_no_more_did_not_appear_after_go_live(rt: Clinic) -> None:
    """What is told and what is denied agree."""
    there = Lists(rt.clock, lists=(NEWS, VIP))
    read(rt, there, target_with(ignored_containers=["a2"]))
    rt.clock.forward(86400)
    read(rt, there)
    sweep(rt)
    assert not unsafe(rt)
    assert open_tasks(rt)[0]["after_go_live"] is False


def test_one_that_was_deleted_there_is_no_danger_any_more(rt: Clinic) -> None:
    there = Lists(rt.clock)
    read(rt, there)
    rt.clock.forward(86400)
    there.lists = (NEWS, VIP)
    read(rt, there)
    there.lists = (NEWS,)
    read(rt, there)
    sweep(rt)
    assert (unsafe(rt), open_tasks(rt)) == (False, [])


def test_reading_again_asks_once(rt: Clinic) -> None:
    there = Lists(rt.clock, lists=(NEWS, VIP))
    for _ in range(3):
        read(rt, there)
        sweep(rt)
    assert len(open_tasks(rt)) == len(alerts(rt)) == 1


def test_a_reading_that_fails_concludes_nothing(rt: Clinic) -> None:
    there = Lists(rt.clock, lists=(NEWS, VIP))
    read(rt, there)
    there.away = True
    with pytest.raises(Temporary):
        read(rt, there)
    assert len(rt.database.read_now(lambda conn: containers.listed(conn, LABEL))) == 2
    assert len(open_tasks(rt)) == 1


def test_a_target_that_is_observed_is_never_unsafe_and_goes_live_later(rt: Clinic) -> None:
    there = Lists(rt.clock)
    observed = target_with(live=False)
    read(rt, there, observed)
    there.lists = (NEWS, VIP)
    rt.clock.forward(86400)
    read(rt, there, observed)
    sweep(rt, observed)
    assert not unsafe(rt)
    read(rt, there)
    sweep(rt)
    assert not unsafe(rt), "it stood there before go-live"


# --- new places --------------------------------------------------------------------------------


def test_a_new_target_marks_every_standing_out_and_nobody_else(rt: Clinic) -> None:
    rt.say(ADA, Source.ONE_CLICK)
    rt.consent(BOB)
    rt.say("cat@example.co.uk", Source.ONE_CLICK, scope=EMAIL._replace(topic="news"))
    rt.say("dan@example.co.uk", Source.ONE_CLICK, brand="second")
    clear(rt)
    read(rt, Lists(rt.clock))
    assert marked(rt) == 2


def test_a_second_start_marks_nobody(rt: Clinic) -> None:
    rt.say(ADA, Source.ONE_CLICK)
    read(rt, Lists(rt.clock))
    clear(rt)
    read(rt, Lists(rt.clock))
    assert marked(rt) == 0


def test_a_list_that_is_configured_later_marks_again_for_its_channel(rt: Clinic) -> None:
    rt.say(ADA, Source.ONE_CLICK)
    read(rt, Lists(rt.clock))
    clear(rt)
    slots = (Slot("list", Channel.EMAIL), Slot("texts", Channel.SMS))
    read(rt, Lists(rt.clock, slots=slots))
    assert marked(rt) == 0, "nobody is out by SMS"
    read(rt, Lists(rt.clock, slots=(*slots, Slot("vip", Channel.EMAIL))))
    assert marked(rt) == 1


def test_a_target_that_was_not_configured_for_a_while_is_a_new_one(rt: Clinic) -> None:
    """Who opted out meanwhile was not marked for it, and it may not be readable."""
    read(rt, Lists(rt.clock))
    sweep_without_targets(rt)
    rt.say(ADA, Source.ONE_CLICK)
    clear(rt)
    read(rt, Lists(rt.clock))
    assert marked(rt) == 1


def test_a_list_of_a_target_that_is_gone_is_no_question_any_more(rt: Clinic) -> None:
    read(rt, Lists(rt.clock, lists=(NEWS, VIP)))
    sweep(rt)
    assert len(open_tasks(rt)) == 1
    sweep_without_targets(rt)
    assert open_tasks(rt) == []
    read(rt, Lists(rt.clock, lists=(NEWS, VIP)))
    assert len(open_tasks(rt)) == 1


def sweep_without_targets(rt: Clinic) -> None:
    """The target was taken out of the configuration."""
    asyncio.run(Sweep(rt.database, [], rt.keys, rt.clock).run())


def test_more_people_than_a_page_are_all_marked(
    rt: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefs.containers.PAGE", 3)
    for number in range(10):
        rt.say(f"p{number}@example.co.uk", Source.ONE_CLICK)
    clear(rt)
    read(rt, Lists(rt.clock))
    assert marked(rt) == 10
