"""Processes at hosts of their own: cables are pulled, and what is sent gets lost."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from prefs.store import marks
from prefs.store.database import make_engine
from tests import postgres
from tests.faults.kit import Installation, end
from tests.lan import SWITCH, lan
from tests.served import eventually
from tests.twins.hubspot import HubspotTwin
from tests.twins.kit import running

pytestmark = [pytest.mark.long, pytest.mark.postgresql]

BASE = "base"
"""The host of the database."""
ADA, BOB = "ada@example.com", "bob@example.com"
WISH = {"brand": "rt", "source": "api", "basis": "consent", "evidence": {"wording": "Yes"}}
EMAIL = {"channel": "email", "purpose": "marketing"}
HUBSPOT = """
[brands.rt.targets.hubspot]
system = "hubspot"
mode = "live"
base_url = "{url}"
token = "env:HUBSPOT"
types = {{ 101 = "*" }}
"""
STATUSES = "/communication-preferences/v4/statuses/"


def test_what_hung_in_a_cable_never_comes_after_an_opt_out(tmp_path: Path) -> None:
    """A worker ends while its opt-in is on the way, which its kernel would send again for two
    minutes; the worker that follows reads back after a shorter time, and then no more."""
    with ExitStack() as stack:
        net = stack.enter_context(lan(BASE, "first", "second"))
        with net.at(BASE):
            url = stack.enter_context(postgres.at_host(net.address(BASE)))
        twin, there = stack.enter_context(running(HubspotTwin(), host=net.address(SWITCH)))
        twin.new_type("101", "Treatments")
        for address in (ADA, BOB):
            twin.new_contact(address)
        environ = {"HUBSPOT": twin.token, "PREFS__WORKER__CALL_ALIVE": "6s"}
        made = Installation(tmp_path, HUBSPOT.format(url=there), environ, url)
        stack.enter_context(made.serving("--no-work"))
        key, engine = made.key("write"), make_engine(url)
        stack.callback(engine.close)

        def work_at(host: str) -> subprocess.Popen[bytes]:
            with net.at(host):
                worker = made.start("work")
            stack.callback(end, worker)
            return worker

        def say(address: str, choice: str) -> None:
            body = {**WISH, "subject": {"email": address}, "changes": [{**EMAIL, "choice": choice}]}
            headers = {"Authorization": f"Bearer {key}"}
            sent = httpx.post(f"{made.url}/v1/preferences", json=body, headers=headers, timeout=60)
            sent.raise_for_status()

        def done() -> bool:
            return not engine.read_now(marks.backlog)

        def looks() -> int:
            """At what the vendor holds of her, each of two calls: one to judge by, one just before
            an opt-in is sent."""
            return sum(call.path.startswith(STATUSES + ADA) for call in twin.calls)

        first = work_at("first")
        say(BOB, "in")
        eventually(lambda: twin.status(BOB, "101") == "SUBSCRIBED" and done())
        twin.faults.add("delay", method="GET", path=STATUSES, seconds=0.5, times=None)
        say(ADA, "in")
        eventually(lambda: looks() == 4 and not net.on_the_way("first", SWITCH))
        net.lose("first", SWITCH)
        eventually(lambda: net.on_the_way("first", SWITCH))
        first.kill()
        say(ADA, "out")
        work_at("second")
        eventually(done)
        net.lose_no_more("first", SWITCH)
        eventually(lambda: not net.on_the_way("first", SWITCH))
        time.sleep(0.5)
        assert twin.status(ADA, "101") == "UNSUBSCRIBED"
