"""What watches over the lanes: overdue and unsafe targets, alerts, sealing, forgetting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from prefs.chores import AFTER_FAULT, Forgetting, Sealer, Sweep, every
from prefs.core.errors import Unavailable
from prefs.core.propagation import Target
from prefs.store import events, ledger, marks, outbox, tasks
from prefs.store.database import Database
from prefs.store.marks import Lease
from tests.kit import Clock
from tests.served import Served, served

ADA = "ada@example.com"
HOUR, DAY = 3600.0, 86400.0
MAILCHIMP = """
[alerts]
to = ["mail:owner@example.co.uk"]
[brands.rt.targets.mailchimp]
system = "mailchimp"
mode = "live"
base_url = "http://127.0.0.1:9"
api_key = "env:MAILCHIMP"
unsafe_after = "12h"
audiences = { a1 = ["treatments", "products", "offers", "competitions", "news"] }
"""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rt(tmp_path: Path, clock: Clock) -> Iterator[Served]:
    environ = {"MAILCHIMP": "0123456789abcdef0123456789abcdef-us6"}
    with served(tmp_path, MAILCHIMP, environ=environ, clock=clock) as made:
        made.consent(ADA)
        yield made


def run(rt: Served, chore: Callable[[], Coroutine[Any, Any, None]]) -> None:
    rt.client.portal.call(chore)


def sweep(rt: Served, clock: Clock, later: float = 0.0) -> None:
    clock.forward(later)
    settings = rt.runtime.settings
    run(
        rt,
        Sweep(rt.runtime.database, rt.runtime.targets, rt.runtime.keys, clock, settings.alerts).run,
    )


def target(rt: Served) -> Target:
    (one,) = rt.runtime.targets
    return one


def alerts(rt: Served) -> list[str]:
    def look(conn: Any) -> list[str]:
        rows = outbox.due(conn, rt.runtime.clock().timestamp(), 100)
        kept = [outbox.content(rt.runtime.keys, row) for row in rows if row.kind == "alert"]
        assert all(one["to"] == "owner@example.co.uk" for one in kept)
        return [one["text"] for one in kept]

    return rt.runtime.database.read_now(look)


def status(rt: Served) -> dict[str, Any]:
    (one,) = rt.get("/v1/targets").json()["items"]
    return dict(one)


def confirm_all(rt: Served, clock: Clock) -> None:
    """The lane got an answer for everything."""

    def work(conn: Any) -> None:
        label, now = target(rt).label, clock().timestamp()
        lease = marks.take_lease(conn, label, "one", now, 60.0)
        assert isinstance(lease, Lease)
        marks.clear(conn, lease, marks.claim(conn, lease, now, 100))

    rt.runtime.database.write_now(work)


def test_an_out_that_waits_for_an_hour_is_overdue_and_tells_once_an_hour(
    rt: Served, clock: Clock
) -> None:
    rt.say(ADA)
    sweep(rt, clock, HOUR - 60)
    assert alerts(rt) == []
    sweep(rt, clock, 120)
    sweep(rt, clock, 5)
    assert len(alerts(rt)) == 1
    assert "rt/mailchimp" in alerts(rt)[0]
    assert ADA not in alerts(rt)[0]
    sweep(rt, clock, HOUR)
    assert len(alerts(rt)) == 2
    assert rt.reason("bob@example.com", via="mailchimp") == "no_basis"


def test_a_consent_that_waits_is_no_danger(rt: Served, clock: Clock) -> None:
    sweep(rt, clock, 30 * DAY)
    assert alerts(rt) == []
    assert status(rt)["unsafe"] is False


def test_an_unsafe_target_denies_all_marketing_through_it_until_it_is_confirmed(
    rt: Served, clock: Clock
) -> None:
    rt.consent("bob@example.com")
    rt.say(ADA)
    sweep(rt, clock, 12 * HOUR + 1)
    assert status(rt)["unsafe"] is True
    assert rt.reason("bob@example.com", via="mailchimp") == "target_unsafe"
    assert rt.reason("bob@example.com") == "consent"
    assert rt.reason(ADA, via="mailchimp") == "opted_out"
    assert rt.reason("bob@example.com", purpose="reminders", via="mailchimp") == "service"
    assert any("unsafe" in one for one in alerts(rt))
    confirm_all(rt, clock)
    sweep(rt, clock, 5)
    assert status(rt)["unsafe"] is False
    assert rt.reason("bob@example.com", via="mailchimp") == "consent"


def test_two_processes_that_find_it_unsafe_at_once_tell_once(rt: Served, clock: Clock) -> None:
    """`serve` and `work` both sweep."""
    rt.say(ADA)
    clock.forward(12 * HOUR + 1)
    runtime, now = rt.runtime, clock().timestamp()
    to = runtime.settings.alerts
    sweeps = [Sweep(runtime.database, runtime.targets, runtime.keys, clock, to) for _ in range(2)]
    for unsafe in (True, False):
        for one in sweeps:
            turn = partial(one._turn, target=target(rt), unsafe=unsafe, now=now)
            runtime.database.write_now(turn)
    assert len([one for one in alerts(rt) if "unsafe" in one]) == 1


def test_an_alert_that_was_told_is_not_written_about_again(
    rt: Served, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"batch": "b_1", "origin": "x", "limit": 50}
    runtime, now = rt.runtime, clock().timestamp()
    runtime.database.write_now(
        lambda conn: tasks.add(conn, runtime.keys, "rt", "batch", None, body, now, now)
    )
    sweep(rt, clock)
    assert len(alerts(rt)) == 1

    def no_write(job: Any) -> None:
        raise AssertionError("nothing is to be written")

    monkeypatch.setattr(runtime.database, "write", no_write)
    sweep(rt, clock, 5)
    assert len(alerts(rt)) == 1


@contextmanager
def statements() -> Iterator[list[str]]:
    """What any database is asked meanwhile."""
    asked: list[str] = []

    def note(_conn: Any, _cursor: Any, text: str, *_: Any) -> None:
        asked.append(text)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def fight(rt: Served, at: str = "rt/mailchimp") -> None:
    keys, now = rt.runtime.keys, rt.runtime.clock().timestamp()
    body = {"target": at, "channel": "email"}
    rt.runtime.database.write_now(
        lambda conn: tasks.add(conn, keys, "rt", "push_back_fight", None, body, now, now)
    )


def test_alike_alerts_are_one_mail_an_hour_and_none_is_lost(rt: Served, clock: Clock) -> None:
    """A tool that turns a thousand people on again is one thing to see to."""
    clock.forward(HOUR - clock().timestamp() % HOUR)
    for at in ("rt/mailchimp", "rt/mailchimp", "rt/hubspot"):
        fight(rt, at)
    sweep(rt, clock)
    assert ["(2 tasks)" in one for one in sorted(alerts(rt))] == [False, True]
    fight(rt)
    sweep(rt, clock, 5)
    sweep(rt, clock, HOUR - 10)
    assert len(alerts(rt)) == 2
    sweep(rt, clock, 10)
    sweep(rt, clock, 5)
    assert len(alerts(rt)) == 3
    assert "(2 tasks)" not in alerts(rt)[2]


def test_what_was_told_is_not_asked_about_one_by_one(rt: Served, clock: Clock) -> None:
    for _ in range(20):
        fight(rt)
    sweep(rt, clock)
    with statements() as asked:
        sweep(rt, clock, 5)
    assert 0 < len(asked) < 20


def test_a_target_that_is_only_observed_from_now_on_is_not_said_to_have_confirmed(
    rt: Served, clock: Clock
) -> None:
    rt.say(ADA)
    sweep(rt, clock, HOUR + 1)
    observed = replace(target(rt), live=False)
    runtime, to = rt.runtime, rt.runtime.settings.alerts
    run(rt, Sweep(runtime.database, [observed], runtime.keys, clock, to).run)
    (closed,) = rt.get("/v1/tasks?kind=overdue").json()["items"]
    assert closed["state"] == "closed"
    assert "confirmed" not in closed["body"]["settled_with"]


def test_a_mark_set_again_does_not_grow_young(rt: Served, clock: Clock) -> None:
    rt.say(ADA, source="api")
    clock.forward(11 * HOUR)
    rt.say(ADA, source="staff", evidence={"actor": "Sam", "note": "said so again"})
    sweep(rt, clock, HOUR + 1)
    assert status(rt)["unsafe"] is True


def test_a_chore_that_fails_does_not_fill_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    faults = [Unavailable("the store is away"), ValueError("no"), None, None]

    async def chore() -> None:
        if fault := faults[len(waited)]:
            raise fault

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == len(faults):
            raise asyncio.CancelledError

    monkeypatch.setattr("prefs.chores.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(every(0.25, chore))
    assert waited == [AFTER_FAULT, AFTER_FAULT, 0.25, 0.25]


def test_the_sealer_gives_numbers_without_gaps(rt: Served) -> None:
    for number in range(5):
        rt.say(f"p{number}@example.com")
    run(rt, Sealer(rt.runtime.database).run)
    number, _ = rt.runtime.database.read_now(ledger.head)
    items = rt.get("/v1/changes").json()["items"]
    assert [one["n"] for one in items] == list(range(1, number + 1))
    assert number == 6


@pytest.mark.postgresql
def test_an_opt_out_waits_for_no_purge(
    rt: Served, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of tables with millions of rows that takes seconds."""
    inside, leave = threading.Event(), threading.Event()

    def slowly(conn: Connection, now: float) -> None:
        inside.set()
        while not leave.wait(0.1):  # else the server would take us for frozen
            conn.exec_driver_sql("SELECT 1")

    monkeypatch.setattr(events, "purge", slowly)
    with Database(rt.runtime.database.url) as other:
        purging = threading.Thread(target=lambda: asyncio.run(Forgetting(other, clock).run()))
        purging.start()
        assert inside.wait(10)
        try:
            rt.say(ADA)
        finally:
            leave.set()
            purging.join()


def test_kept_answers_are_forgotten_after_seven_days(rt: Served, clock: Clock) -> None:
    again = {"Idempotency-Key": "one"}
    change = {"channel": "email", "purpose": "marketing", "choice": "out"}
    body = {"brand": "rt", "subject": {"email": ADA}, "changes": [change], "source": "api"}
    first = rt.post("/v1/preferences", body, headers=again).json()
    run(rt, Forgetting(rt.runtime.database, clock).run)
    assert rt.post("/v1/preferences", body, headers=again).json() == first
    clock.forward(7 * DAY + 1)
    run(rt, Forgetting(rt.runtime.database, clock).run)
    later = rt.post("/v1/preferences", body, headers=again).json()
    assert later["outcomes"][0]["result"] == "unchanged"
