"""What /metrics says of the database: true, from any process, and read seldom."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from prefs.core.errors import Unavailable
from prefs.store import figures, marks, outbox, tasks
from prefs.store.database import Database
from tests.kit import Clock
from tests.served import Served, eventually, served

ADA, BOB = "ada@example.com", "bob@example.com"
TARGET = """
[brands.rt.targets.list]
system = "mailchimp"
mode = "live"
base_url = "http://127.0.0.1:9"
api_key = "env:MAILCHIMP"
audiences = { a1 = ["treatments"] }
"""
LABEL = "rt/list"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rt(tmp_path: Path, clock: Clock) -> Iterator[Served]:
    with served(tmp_path, TARGET, environ={"MAILCHIMP": "k-us1"}, clock=clock) as made:
        yield made


def told(rt: Served) -> dict[tuple[str, ...], float]:
    """name and label values -> value, read anew."""
    rt.client.app.state.figures._good_until = 0.0
    text = rt.client.get("/metrics").text
    return {
        (sample.name, *sample.labels.values()): round(sample.value, 3)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_marks_that_wait_and_their_age(rt: Served, clock: Clock) -> None:
    for email in (ADA, BOB):
        rt.say(email)
    clock.forward(2 * 3600)
    rt.consent("cleo@example.com")
    said = told(rt)
    assert said["prefs_marks", LABEL] == 3
    assert said["prefs_oldest_mark_seconds", LABEL] == 2 * 3600
    assert said["prefs_overdue_outs", LABEL] == 2
    assert said["prefs_refused_marks", LABEL] == 0
    assert said["prefs_target_unsafe", LABEL] == 0
    assert said["prefs_lane_held", LABEL] == 0


def test_the_lane_of_a_target(rt: Served, clock: Clock) -> None:
    now = clock().timestamp()

    def hold(conn: Any) -> None:
        lease = marks.take_lease(conn, LABEL, "me", now, 30.0)
        assert lease
        marks.set_lane(conn, lease, scanned_at=now - 60, parked_until=now + 60)
        marks.set_unsafe(conn, LABEL, now)

    rt.runtime.database.write_now(hold)
    said = told(rt)
    assert said["prefs_workers",] == 1
    assert said["prefs_lane_held", LABEL] == 1
    assert said["prefs_target_unsafe", LABEL] == 1
    assert said["prefs_target_parked", LABEL] == 1
    assert said["prefs_scanned_seconds", LABEL] == 60
    clock.forward(31)
    assert told(rt)["prefs_lane_held", LABEL] == 0


def test_what_waits_for_its_seal_for_mail_and_for_people(rt: Served, clock: Clock) -> None:
    rt.say(ADA)
    now, keys = clock().timestamp(), rt.runtime.keys

    def ask(conn: Any) -> None:
        outbox.add(conn, keys, "alert", None, None, {"to": ADA, "text": "t"}, now)
        tasks.add(conn, keys, "rt", "overdue", None, {"target": LABEL, "count": 1}, now, now + 60)

    rt.runtime.database.write_now(ask)
    clock.forward(90)
    said = told(rt)
    assert said["prefs_unsealed_seconds",] == 90
    assert said["prefs_ledger_sealed",] == 0
    assert (said["prefs_outbox_waiting",], said["prefs_outbox_late_seconds",]) == (1, 90)
    assert said["prefs_tasks_open", "rt", "overdue"] == 1
    assert said["prefs_tasks_late", "rt", "overdue"] == 1
    (row,) = rt.runtime.database.read_now(lambda conn: tasks.listed(conn, "rt", "open", None))
    rt.runtime.database.write_now(lambda conn: tasks.settle(conn, keys, row.id, "closed", {}, now))
    assert ("prefs_tasks_open", "rt", "overdue") not in told(rt)


def test_the_database_is_read_seldom_however_often_it_is_asked(
    rt: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = 0
    read = figures.read

    def counted(*args: Any) -> figures.Figures:
        nonlocal readings
        readings += 1
        return read(*args)

    monkeypatch.setattr(figures, "read", counted)
    rt.client.app.state.figures._good_until = 0.0
    for _ in range(5):
        rt.client.get("/metrics")
    assert readings == 1
    rt.client.app.state.figures._good_until = 0.0
    rt.client.get("/metrics")
    assert readings == 2


def test_a_store_that_is_away_is_said(rt: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(rt)["prefs_store_up",] == 1

    async def away(*_: Any) -> None:
        raise Unavailable("away")

    monkeypatch.setattr(Database, "read", away)
    assert told(rt)["prefs_store_up",] == 0


def test_a_store_that_hangs_is_said_in_time_and_soon_again_that_it_answers(
    rt: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prometheus would take a process that keeps it waiting for one that is down."""
    answers, true_read = threading.Event(), figures.read

    def hang(*args: Any) -> figures.Figures:
        answers.wait(30)
        return true_read(*args)

    monkeypatch.setattr(figures, "read", hang)
    monkeypatch.setattr("prefs.web.figures.WITHIN", 0.1)
    assert told(rt)[("prefs_store_up",)] == 0
    answers.set()
    eventually(lambda: told(rt)[("prefs_store_up",)] == 1)


def test_writes_and_their_commits_are_counted(rt: Served) -> None:
    before = told(rt)
    rt.say(ADA)
    said = told(rt)
    assert said["prefs_write_group_sum",] >= before["prefs_write_group_sum",] + 1
    assert said["prefs_commit_seconds_count",] > before["prefs_commit_seconds_count",]
    assert said["prefs_writes_waiting",] == 0
