"""A worker frozen past its lease wakes: neither its receipt nor its late write may win."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, select

from prefs.store import marks
from prefs.store.database import make_engine
from prefs.store.schema import receipts, wave_ons, waves
from tests.faults.kit import HUBSPOT, Installation, count, dice, end, say
from tests.served import eventually
from tests.twins.hubspot import HubspotTwin
from tests.twins.kit import running

pytestmark = pytest.mark.postgresql

ROUNDS = count(20)
LABEL = "rt/hubspot"
STATUSES = "/communication-preferences/v4/statuses/"


class Scene:
    """The service without a worker, and two workers beside it."""

    def __init__(self, made: Installation, twin: HubspotTwin) -> None:
        self.made, self.twin = made, twin
        self.key = made.key("write")
        self.engine = make_engine(made.database)
        self.workers: dict[int, subprocess.Popen[bytes]] = {}

    def say(self, address: str, choice: str) -> None:
        self.made.say(self.key, address, choice)

    def lane(self) -> Any:
        return self.engine.read_now(lambda conn: marks.lane(conn, LABEL))

    def backlog(self) -> int:
        return self.engine.read_now(marks.backlog).get(LABEL, (0, 0.0))[0]

    def forget_waves(self) -> None:
        """So many opt-ins within ten minutes would wait for a person."""

        def forget(conn: Connection) -> None:
            for table in (wave_ons, waves):
                conn.execute(delete(table))

        self.engine.transaction(forget)

    def outcomes(self) -> set[str]:
        wanted = select(receipts.c.outcome).where(receipts.c.target == LABEL)
        return self.engine.read_now(lambda conn: set(conn.execute(wanted).scalars()))


@pytest.mark.timeout(1500)
def test_a_frozen_worker_leaves_the_vendor_right(tmp_path: Path) -> None:
    rest = dice("frozen")
    late = 0
    with ExitStack() as stack:
        twin, url = stack.enter_context(running(HubspotTwin()))
        twin.new_type("101", "Treatments")
        made = Installation(tmp_path, HUBSPOT.format(url=url), {"HUBSPOT": twin.token})
        stack.enter_context(made.serving("--no-work"))
        scene = Scene(made, twin)
        for round_ in range(ROUNDS):
            scene.forget_waves()
            on_the_way = round_ % 2 == 1
            late += one_round(scene, f"f{round_}@example.com", rest.uniform(0.0, 0.4), on_the_way)
    say(f"frozen workers: {ROUNDS} of {ROUNDS} end off and confirmed; {late} late writes landed")


def one_round(scene: Scene, address: str, moment: float, on_the_way: bool) -> int:
    """Freeze the first worker while it decides on an opt-in, or while that is on the way and lands
    late at the vendor; opt out; let the second work. Returns how many late writes landed."""
    twin = scene.twin
    twin.new_contact(address)
    first = scene.made.start("work")
    second: subprocess.Popen[bytes] | None = None
    try:
        eventually(lambda: (row := scene.lane()) and row.holder and scene.backlog() == 0)
        epoch = scene.lane().epoch
        if on_the_way:
            twin.faults.add("late_work", method="POST", path=STATUSES, seconds=3.0 + moment)
        else:
            twin.faults.add("delay", method="GET", path="/communication-preferences", seconds=0.4)
        scene.say(address, "in")
        sent = len(twin.writes())
        if on_the_way:
            eventually(lambda: len(twin.writes()) > sent)
        else:
            time.sleep(moment)
        first.send_signal(signal.SIGSTOP)
        before = len(twin.changes(address, "101"))
        scene.say(address, "out")
        second = scene.made.start("work")
        eventually(lambda: scene.lane().epoch > epoch)
        eventually(off(scene, address))
        if on_the_way:
            eventually(lambda: landed(twin, address, before))
        first.send_signal(signal.SIGCONT)
        time.sleep(1.0)
        eventually(lambda: off(scene, address)() and scene.backlog() == 0)
        assert scene.outcomes() <= {"confirmed", "absent"}
        return landed(twin, address, before)
    finally:
        twin.faults.clear()
        end(first)
        if second:
            end(second)


def landed(twin: HubspotTwin, address: str, before: int) -> int:
    """How many of the changes since then switched the person on."""
    changes = twin.changes(address, "101")[before:]
    return sum(one.state == "SUBSCRIBED" for one in changes)


def off(scene: Scene, address: str) -> Callable[[], bool]:
    return lambda: scene.twin.status(address, "101") == "UNSUBSCRIBED"
