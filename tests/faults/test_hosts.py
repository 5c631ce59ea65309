"""Processes at hosts of their own: cables are pulled, and what is sent gets lost."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from prefs.store import marks
from prefs.store.database import make_engine
from tests import postgres
from tests.faults.kit import (
    FULL,
    HUBSPOT,
    MAILCHIMP,
    Installation,
    address,
    check,
    client_of_threads,
    dice,
    end,
    off,
    once_each,
    say,
)
from tests.lan import SWITCH, Lan, lan
from tests.served import eventually
from tests.twins.hubspot import HubspotTwin
from tests.twins.kit import running
from tests.twins.mailchimp import MailchimpTwin

pytestmark = [pytest.mark.long, pytest.mark.postgresql]

BASE = "base"
"""The host of the database."""
ADA, BOB = "ada@example.com", "bob@example.com"
APIS, WORKERS = ("api-1", "api-2"), ("worker-1", "worker-2")
SECONDS, A_SECOND = (60, 50) if FULL else (10, 20)
PEOPLE = SECONDS * A_SECOND
PULLED, WHOLE = 4.0, 1.0
"""Seconds: twice a lease, and between."""
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
        for one in (ADA, BOB):
            twin.new_contact(one)
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

        def done() -> bool:
            return not engine.read_now(marks.backlog)

        def looks() -> int:
            """At what the vendor holds of her, each of two calls: one to judge by, one just before
            an opt-in is sent."""
            return sum(call.path.startswith(STATUSES + ADA) for call in twin.calls)

        first = work_at("first")
        made.say(key, BOB, "in")
        eventually(lambda: twin.status(BOB, "101") == "SUBSCRIBED" and done())
        twin.faults.add("delay", method="GET", path=STATUSES, seconds=0.5, times=None)
        made.say(key, ADA, "in")
        eventually(lambda: looks() == 4 and not net.on_the_way("first", SWITCH))
        net.lose("first", SWITCH)
        eventually(lambda: net.on_the_way("first", SWITCH))
        first.kill()
        made.say(key, ADA, "out")
        work_at("second")
        eventually(done)
        net.lose_no_more("first", SWITCH)
        eventually(lambda: not net.on_the_way("first", SWITCH))
        time.sleep(0.5)
        assert twin.status(ADA, "101") == "UNSUBSCRIBED"


@pytest.mark.timeout(600)
def test_cables_are_pulled_and_nothing_is_lost(tmp_path: Path) -> None:
    """Of a host of the API, of a worker's, of the database's."""
    with ExitStack() as stack:
        net = stack.enter_context(lan(BASE, *APIS, *WORKERS))
        with net.at(BASE):
            url = stack.enter_context(postgres.at_host(net.address(BASE)))
        twin, there = stack.enter_context(running(MailchimpTwin(), host=net.address(SWITCH)))
        twin.new_audience("a1")
        for number in range(PEOPLE):
            twin.new_member("a1", address(number))
        environ = {"MAILCHIMP": twin.api_key}
        made = Installation(tmp_path, MAILCHIMP.format(url=there), environ, url)
        links = [httpx.URL(link).path for link in made.links(PEOPLE)]
        apis = []
        for host in APIS:
            with net.at(host):
                apis.append(made.at(net.address(host)))
                stack.enter_context(apis[-1].serving("--no-work"))
        for host in WORKERS:
            with net.at(host):
                stack.callback(end, made.start("work"))
        clicked = Clicked([api.url for api in apis])
        clicking = threading.Thread(target=clicked.all_of, args=(links,))
        clicking.start()
        pulled = pull(net, clicking)
        eventually(lambda: off(twin, PEOPLE) == PEOPLE)
        check(made, range(PEOPLE))
        assert once_each(made) == PEOPLE
    say(
        f"{pulled} cables pulled at {A_SECOND} clicks/s for {SECONDS} s: {PEOPLE} acknowledged, "
        f"0 lost, 0 left on, {clicked.answers.total() - PEOPLE} clicks sent again, "
        f"slowest {clicked.slowest:.1f} s"
    )
    assert clicked.answers[200] == PEOPLE
    assert set(clicked.answers) <= {200, 503, "unanswered"}
    assert clicked.answers["unanswered"]


@dataclass
class Clicked:
    """Clicks that are sent until they are acknowledged, as a mailbox provider or a proxy does."""

    apis: Sequence[str]
    answers: Counter[int | str] = field(default_factory=Counter)
    slowest: float = 0.0

    def all_of(self, links: Sequence[str]) -> None:
        began = time.monotonic()
        with client_of_threads(3) as client, ThreadPoolExecutor(64) as clicks:
            for number, link in enumerate(links):
                time.sleep(max(0.0, began + number / A_SECOND - time.monotonic()))
                clicks.submit(self.one, client, link, number)

    def one(self, client: httpx.Client, link: str, number: int) -> None:
        began = time.monotonic()
        for turn in count(number):
            answer = self._answer(client, self.apis[turn % len(self.apis)] + link)
            self.answers[answer] += 1
            if answer == 200:
                self.slowest = max(self.slowest, time.monotonic() - began)
                return

    def _answer(self, client: httpx.Client, url: str) -> int | str:
        try:
            return client.post(url).status_code
        except httpx.TransportError:
            return "unanswered"


def pull(net: Lan, clicking: threading.Thread) -> int:
    """Two hosts at a time, and each third time the database's; how many."""
    rest, pulled = dice("cables"), 0
    for turn in count(1):
        hosts = (rest.choice(APIS), rest.choice(WORKERS)) if turn % 3 else (BASE,)
        for host in hosts:
            net.pull(host)
        pulled += len(hosts)
        clicking.join(PULLED)
        for host in hosts:
            net.plug(host)
        clicking.join(WHOLE)
        if not clicking.is_alive():
            break
    return pulled


def test_of_a_host_that_is_gone_the_database_keeps_no_session(tmp_path: Path) -> None:
    with ExitStack() as stack:
        net = stack.enter_context(lan(BASE, "api"))
        with net.at(BASE):
            url = stack.enter_context(postgres.at_host(net.address(BASE)))
        made = Installation(tmp_path, "", {}, url)
        engine = make_engine(url)
        stack.callback(engine.close)
        wanted = text("SELECT count(*) FROM pg_stat_activity WHERE host(client_addr) = :host")

        def sessions() -> int:
            asked = {"host": net.address("api")}
            found: int = engine.read_now(lambda conn: conn.execute(wanted, asked).scalar_one())
            return found

        with net.at("api"):
            api = stack.enter_context(made.at(net.address("api")).serving("--no-work"))
        eventually(lambda: sessions() >= 2)
        net.pull("api")
        api.kill()
        eventually(lambda: not sessions())
