"""Work for staff: where it comes from, how it is settled, when it closes by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prefs import assisted
from prefs.chores import Forgetting, Sweep
from prefs.core.errors import BadInput, Refused, Temporary
from prefs.core.ids import subject_number
from prefs.core.propagation import Outcome, Target, Value, Wish
from prefs.core.words import Channel, Choice, Source
from prefs.store import marks, outbox, tasks, waves
from prefs.tasks import KINDS
from tests.kit import TARGET, Clinic, Clock, MailingList, clinic, one_round, push_of
from tests.served import Served, served

ADA = "ada@example.co.uk"
HOUR, DAY = 3600.0, 86400.0
MAILCHIMP = """
[alerts]
to = ["mail:owner@example.co.uk"]
[brands.rt.targets.list]
system = "mailchimp"
mode = "live"
base_url = "http://127.0.0.1:9"
api_key = "env:MAILCHIMP"
audiences = { a1 = ["treatments", "products", "offers", "competitions", "news"] }
"""


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Clinic]:
    made = clinic(tmp_path)
    yield made
    made.database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def desk(tmp_path: Path, clock: Clock) -> Iterator[Served]:
    """The service without a worker; its target answers nothing."""
    environ = {"MAILCHIMP": "0123456789abcdef0123456789abcdef-us6"}
    with served(tmp_path, MAILCHIMP, environ=environ, clock=clock) as made:
        yield made


def carry(rt: Clinic, there: MailingList, rounds: int = 1) -> None:
    for _ in range(rounds):
        asyncio.run(one_round(rt, push_of(rt, there)))


def listed(rt: Clinic, kind: str, state: str = "open") -> list[dict[str, Any]]:
    rows = rt.database.read_now(lambda conn: tasks.listed(conn, "rt", state, kind))
    return [tasks.body(rt.keys, row) | {"id": row.id} for row in rows]


def tick(rt: Clinic, id_: int) -> None:
    """Staff say that it is done; the lane looks again, as `prefs.tasks` has it."""
    now = rt.clock().timestamp()

    def done(conn: Any) -> None:
        row = tasks.one(conn, "rt", id_)
        assert row is not None
        tasks.settle(conn, rt.keys, id_, "done", tasks.body(rt.keys, row), now)
        marks.set_marks(conn, [(TARGET.label, row.subject_id, "")], now, urgent=True)

    rt.database.write_now(done)


def outcome(rt: Clinic) -> str:
    (row,) = rt.database.read_now(lambda conn: marks.receipts_of(conn, [rt.hash(ADA)]))
    return str(row.outcome)


# --- refused -----------------------------------------------------------------------------------


def refusing(rt: Clinic) -> MailingList:
    return MailingList(rt.clock, held={ADA: Value.ON}, write_fault=Refused("in compliance state"))


def test_a_refused_out_is_work_for_staff_once(rt: Clinic) -> None:
    there = refusing(rt)
    rt.say(ADA, Source.ONE_CLICK)
    for _ in range(3):
        carry(rt, there)
        rt.clock.forward(HOUR + 1)
    (task,) = listed(rt, "refused")
    assert (task["target"], task["channel"], task["email"]) == (TARGET.label, "email", ADA)
    assert task["instruction"] == "in compliance state"


def test_it_closes_when_the_vendor_shows_it_off(rt: Clinic) -> None:
    there = refusing(rt)
    rt.say(ADA, Source.ONE_CLICK)
    carry(rt, there)
    there.held[ADA] = Value.OFF
    rt.clock.forward(HOUR + 1)
    carry(rt, there)
    assert listed(rt, "refused") == []
    assert len(listed(rt, "refused", "closed")) == 1
    assert outcome(rt) == Outcome.CONFIRMED


def test_done_is_not_believed_while_the_vendor_shows_it_on(rt: Clinic) -> None:
    there = refusing(rt)
    rt.say(ADA, Source.ONE_CLICK)
    carry(rt, there)
    (task,) = listed(rt, "refused")
    tick(rt, task["id"])
    carry(rt, there)
    assert len(listed(rt, "refused")) == 1
    assert outcome(rt) == Outcome.REFUSED


def test_done_counts_where_the_record_cannot_be_read(rt: Clinic) -> None:
    there = refusing(rt)
    there.read_fault = Refused("unknown state of a member")
    rt.say(ADA, Source.ONE_CLICK)
    carry(rt, there)
    (task,) = listed(rt, "refused")
    tick(rt, task["id"])
    carry(rt, there)
    assert listed(rt, "refused") == []
    assert outcome(rt) == Outcome.ACCEPTED


def test_done_counts_for_no_out_that_was_said_afterwards(rt: Clinic) -> None:
    there = refusing(rt)
    there.read_fault = Refused("unknown state of a member")
    rt.say(ADA, Source.ONE_CLICK)
    carry(rt, there)
    (task,) = listed(rt, "refused")
    tick(rt, task["id"])
    carry(rt, there)
    rt.clock.forward(DAY)
    rt.say(ADA, Source.CENTRE, Choice.IN, occurred_at=rt.clock())
    carry(rt, there)
    rt.clock.forward(DAY)
    rt.say(ADA, Source.ONE_CLICK)
    carry(rt, there)
    (again,) = listed(rt, "refused")
    assert again["id"] != task["id"]
    assert outcome(rt) == Outcome.REFUSED


def test_done_goes_on_counting_while_the_same_out_stands(rt: Clinic) -> None:
    there = refusing(rt)
    there.read_fault = Refused("unknown state of a member")
    said = rt.say(ADA, Source.ONE_CLICK)
    carry(rt, there)
    (task,) = listed(rt, "refused")
    tick(rt, task["id"])
    carry(rt, there)
    rt.clock.forward(DAY)
    rt.say(ADA, Source.STAFF)
    again, now = [(TARGET.label, said.subject_id, "")], rt.clock().timestamp()
    rt.database.write_now(partial(marks.set_marks, wanted=again, now=now, urgent=True))
    carry(rt, there)
    assert listed(rt, "refused") == []
    assert outcome(rt) == Outcome.ACCEPTED


def test_done_counts_no_more_once_staff_did_the_opposite(rt: Clinic) -> None:
    """Off, on and off again, where nobody says when the last off was said."""
    kind = assisted.change_of(TARGET)
    subject = rt.say(ADA, Source.ONE_CLICK).subject_id

    def ask(to: Wish) -> assisted.Answered:
        return ask_staff(rt, assisted.Asked(kind, subject, Channel.EMAIL, to))

    for to in (Wish.OFF, Wish.ON):
        assert ask(to).done_at is None
        tick(rt, listed(rt, kind)[0]["id"])
        assert ask(to).done_at
    assert ask(Wish.OFF).done_at is None
    assert len(listed(rt, kind)) == 1


def test_a_read_that_fails_closes_no_task(rt: Clinic) -> None:
    there = refusing(rt)
    rt.say(ADA, Source.ONE_CLICK)
    carry(rt, there)
    there.read_fault = Temporary("down")
    rt.clock.forward(HOUR + 1)
    carry(rt, there)
    assert len(listed(rt, "refused")) == 1


def test_what_one_target_shows_closes_nothing_at_another(rt: Clinic) -> None:
    other, now = replace(TARGET, name="other"), rt.clock().timestamp()
    subject = rt.say(ADA, Source.ONE_CLICK).subject_id
    asked = assisted.Asked(assisted.REFUSED, subject, Channel.EMAIL, Wish.OFF)
    rt.database.write_now(
        lambda conn: assisted.ask(conn, rt.keys, other, asked, 0.0, "in compliance state", now)
    )
    carry(rt, MailingList(rt.clock, held={ADA: Value.ON}))
    assert outcome(rt) == Outcome.CONFIRMED
    assert [task["target"] for task in listed(rt, "refused")] == [other.label]


def test_a_refused_opt_in_is_no_work(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.OFF}, write_fault=Refused("compliance"))
    rt.consent(ADA)
    carry(rt, there)
    assert listed(rt, "refused") == []


# --- fights ------------------------------------------------------------------------------------


def test_a_fight_is_one_task_and_one_alert(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON})
    said = rt.say(ADA, Source.ONE_CLICK)
    carry(rt, there)
    for count in range(1, 5):
        there.held[ADA] = Value.ON
        rt.clock.forward(60)
        again, now = [(TARGET.label, said.subject_id, "")], rt.clock().timestamp()
        rt.database.write_now(partial(marks.set_marks, wanted=again, now=now, urgent=True))
        carry(rt, there)
        assert len(listed(rt, "push_back_fight")) == (1 if count >= 3 else 0)
    for _ in range(2):
        sweep = Sweep(rt.database, [TARGET], rt.keys, rt.clock, ["mail:owner@example.co.uk"])
        asyncio.run(sweep.run())
    texts = mailed(rt)
    assert [ADA in text for text in texts] == [False]
    assert TARGET.label in texts[0]


def mailed(rt: Clinic) -> list[str]:
    rows = rt.database.read_now(lambda conn: outbox.due(conn, rt.clock().timestamp(), 100))
    return [outbox.content(rt.keys, row)["text"] for row in rows if row.kind == "alert"]


# --- overdue -----------------------------------------------------------------------------------


def sweep(desk: Served, clock: Clock, later: float, *, live: bool = True) -> None:
    clock.forward(later)
    runtime = desk.runtime
    targets = [replace(one, live=live) for one in runtime.targets]
    to = runtime.settings.alerts
    desk.client.portal.call(Sweep(runtime.database, targets, runtime.keys, clock, to).run)


def open_of(desk: Served, kind: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = desk.get(f"/v1/tasks?state=open&kind={kind}").json()["items"]
    return items


def unsafe(desk: Served) -> bool:
    (one,) = desk.get("/v1/targets").json()["items"]
    return bool(one["unsafe"])


def confirm_all(desk: Served, clock: Clock) -> None:
    def work(conn: Any) -> None:
        now = clock().timestamp()
        lease = marks.take_lease(conn, "rt/list", "one", now, 60.0)
        assert lease
        marks.clear(conn, lease, marks.claim(conn, lease, now, 100))

    desk.runtime.database.write_now(work)


def test_a_list_brought_back_ticks_tasks_of_its_own_target_only(rt: Clinic) -> None:
    other = replace(TARGET, name="other")
    subject = rt.say(ADA, Source.ONE_CLICK).subject_id
    asked = assisted.Asked(assisted.change_of(other), subject, Channel.EMAIL, Wish.OFF)
    now = rt.clock().timestamp()
    rt.database.write_now(
        lambda conn: assisted.ask(conn, rt.keys, other, asked, 0.0, "off please", now)
    )
    (task,) = listed(rt, asked.kind)
    row = {"task_id": str(task["id"]), "done_at": "today"}

    def bring(target: Target, row: dict[str, str]) -> assisted.Ticked:
        return rt.database.write_now(
            lambda conn: assisted.take_list(conn, rt.keys, target, [row], now)
        )

    assert bring(TARGET, row) == (0, 1)
    assert len(listed(rt, asked.kind)) == 1
    assert bring(other, row) == (1, 0)
    for wrong in ("\u00b2", "x"):
        with pytest.raises(BadInput):
            bring(other, {**row, "task_id": wrong})
    assert bring(other, {**row, "task_id": "9" * 30}) == (0, 1)


def test_what_staff_carry_is_overdue_from_its_due_time_on(rt: Clinic) -> None:
    subject = rt.say(ADA, Source.ONE_CLICK).subject_id
    rt.database.write_now(lambda conn: conn.exec_driver_sql("DELETE FROM marks"))
    kind = assisted.change_of(TARGET)
    due = 0.0
    for to, channel in ((Wish.OFF, Channel.EMAIL), (Wish.ON, Channel.SMS)):
        due = ask_staff(rt, assisted.Asked(kind, subject, channel, to)).due_at
    for at, late in ((due - HOUR, []), (due + 1, [1])):
        rt.clock.forward(at - rt.clock().timestamp())
        asyncio.run(Sweep(rt.database, [TARGET], rt.keys, rt.clock).run())
        assert [one["count"] for one in listed(rt, "overdue")] == late


def ask_staff(rt: Clinic, asked: assisted.Asked) -> assisted.Answered:
    now = rt.clock().timestamp()
    return rt.database.write_now(
        lambda conn: assisted.ask(conn, rt.keys, TARGET, asked, 0.0, "", now)
    )


def test_what_is_overdue_is_one_task_that_closes_by_itself(desk: Served, clock: Clock) -> None:
    desk.say(ADA)
    sweep(desk, clock, HOUR + 1)
    sweep(desk, clock, HOUR)
    (task,) = open_of(desk, "overdue")
    assert task["body"]["target"] == "rt/list"
    assert ADA not in str(task)
    confirm_all(desk, clock)
    sweep(desk, clock, 5)
    assert open_of(desk, "overdue") == []


def test_removed_by_hand_ends_unsafe_until_the_next_scan(desk: Served, clock: Clock) -> None:
    desk.say(ADA)
    sweep(desk, clock, DAY + 1)
    assert unsafe(desk)
    (task,) = open_of(desk, "overdue")
    answer = desk.post(f"/v1/tasks/{task['id']}", {"state": "done", "note": "Sam switched it off"})
    assert answer.json()["body"]["settled_with"] == "Sam switched it off"
    assert answer.json()["body"]["settled_by"].startswith("key ")
    sweep(desk, clock, 5)
    assert not unsafe(desk)
    assert desk.reason(ADA) == "opted_out"
    scanned(desk, clock)
    sweep(desk, clock, 5)
    assert unsafe(desk)


def test_removed_by_hand_covers_no_later_out(desk: Served, clock: Clock) -> None:
    desk.say(ADA)
    sweep(desk, clock, DAY + 1)
    (task,) = open_of(desk, "overdue")
    desk.post(f"/v1/tasks/{task['id']}", {"state": "done", "note": "Sam switched it off"})
    desk.say("bob@example.co.uk")
    sweep(desk, clock, DAY + 1)
    assert unsafe(desk)


def scanned(desk: Served, clock: Clock) -> None:
    def work(conn: Any) -> None:
        now = clock().timestamp()
        lease = marks.take_lease(conn, "rt/list", "one", now, 60.0)
        assert lease
        marks.set_lane(conn, lease, scanned_at=now)

    desk.runtime.database.write_now(work)


def test_a_target_that_is_only_observed_is_neither_overdue_nor_unsafe(
    desk: Served, clock: Clock
) -> None:
    desk.say(ADA)
    sweep(desk, clock, 2 * DAY, live=False)
    assert open_of(desk, "overdue") == []
    assert not unsafe(desk)


# --- the list ----------------------------------------------------------------------------------


def add(desk: Served, kind: str, **body: Any) -> str:
    runtime = desk.runtime
    now = runtime.clock().timestamp()
    id_ = runtime.database.write_now(
        lambda conn: tasks.add(conn, runtime.keys, "rt", kind, None, body, now, now + HOUR)
    )
    return str(id_)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_says_what_is_asked_and_how_it_may_be_settled(desk: Served, kind: str) -> None:
    id_ = add(desk, kind)
    (item,) = open_of(desk, kind)
    assert item["what"]
    assert item["settle_as"] == list(KINDS[kind].states)
    wrong = {"state": "stop" if "stop" not in KINDS[kind].states else "out", "note": "no"}
    refused = desk.post(f"/v1/tasks/{id_}", wrong)
    assert refused.status_code == 422
    assert refused.json()["detail"]
    assert open_of(desk, kind)


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.alarm])
def test_no_alarm_names_a_person(kind: str) -> None:
    alarm: Callable[[Any], str] | None = KINDS[kind].alarm
    assert alarm
    body = dict.fromkeys(
        (
            "target",
            "origin",
            "batch",
            "limit",
            "most",
            "container",
            "name",
            "after_go_live",
            "text",
        ),
        "x",
    )
    person = {"email": ADA, "mobile": "+447700900123", "first_name": "Ada", "subject": ADA}
    text = alarm(body | person)
    assert not any(value in text for value in person.values())


def test_an_unknown_kind_is_told_the_known_ones(desk: Served) -> None:
    answer = desk.get("/v1/tasks?kind=nonsense")
    assert answer.status_code == 422
    assert "held_text" in answer.json()["detail"]


def test_a_task_of_nobody_known_cannot_become_an_out(desk: Served) -> None:
    id_ = add(desk, "unproved_mail", text="stop please")
    answer = desk.post(f"/v1/tasks/{id_}", {"state": "out", "note": "rang them"})
    assert answer.status_code == 422
    assert desk.post(f"/v1/tasks/{id_}", {"state": "done", "note": "by hand"}).status_code == 200


def test_a_wave_is_decided_by_its_task(desk: Served, clock: Clock) -> None:
    now = clock().timestamp()
    hashes = {bytes([n]) * 16: now for n in range(waves.FEW + 1)}
    turned = desk.runtime.database.write_now(
        lambda conn: waves.admit(conn, "rt/list", hashes, now)
    ).turned
    assert turned
    id_ = add(desk, "opt_in_wave", wave=turned.id, target="rt/list", most=turned.most)
    assert desk.post(f"/v1/tasks/{id_}", {"state": "done", "note": "a form"}).status_code == 200
    states = desk.runtime.database.write_now(
        lambda conn: waves.admit(conn, "rt/list", hashes, now)
    ).states
    assert set(states.values()) == {waves.RELEASED}


def test_an_out_by_hand_over_a_hold_of_mail_is_recorded(desk: Served) -> None:
    answer = desk.say(ADA, "in", basis="consent", evidence={"wording": "Yes"})
    runtime, now = desk.runtime, desk.runtime.clock().timestamp()
    subject = subject_number(answer["subject_id"])
    id_ = runtime.database.write_now(
        lambda conn: tasks.add(
            conn, runtime.keys, "rt", "unproved_mail", subject, {"text": "stop"}, now, now
        )
    )
    assert desk.reason(ADA) == "consent"
    assert desk.post(f"/v1/tasks/{id_}", {"state": "out", "note": "it was her"}).status_code == 200
    assert desk.reason(ADA) == "opted_out"
    assert Choice.OUT in {Choice(one["choice"]) for one in choices(desk, answer["subject_id"])}


def choices(desk: Served, subject: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = desk.get(f"/v1/subjects/{subject}").json()["choices"]
    return found


def test_what_was_closed_long_ago_is_forgotten_and_what_is_open_never(
    desk: Served, clock: Clock
) -> None:
    """A task holds names and addresses."""
    ids = [add(desk, "rights_request", text="my data please") for _ in range(2)]
    desk.post(f"/v1/tasks/{ids[0]}", {"state": "done", "note": "answered"})
    forgetting = Forgetting(desk.runtime.database, clock)
    for years, left in ((1, ids), (1.1, ids[1:])):
        clock.forward(years * 365 * DAY)
        desk.client.portal.call(forgetting.run)
        items = desk.get("/v1/tasks?kind=rights_request").json()["items"]
        assert sorted(one["id"] for one in items) == left
