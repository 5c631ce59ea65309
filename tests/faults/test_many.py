"""Several processes of the API and several workers on one PostgreSQL: killed, frozen and raced."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path

import httpx
import pytest

from tests.faults.kit import (
    FULL,
    MAILCHIMP,
    Installation,
    address,
    check,
    client_of_threads,
    count,
    dice,
    end_all,
    off,
    once_each,
    say,
)
from tests.served import eventually
from tests.twins.kit import running
from tests.twins.mailchimp import MailchimpTwin

pytestmark = [pytest.mark.long, pytest.mark.postgresql]

SECONDS = 120.0 if FULL else 8.0
A_SECOND = 200 if FULL else 40
APIS, WORKERS = 3, 4
KILL_EVERY = 5.0
LEASE = 2.0
PAIRS = count(10_000)


@dataclass
class Clicked:
    """What people were answered."""

    acknowledged: set[int] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    slowest: float = 0.0


def click_for(links: Sequence[str], apis: Sequence[Installation], found: Clicked) -> None:
    """One click after the other at a steady pace, each at the next process."""
    began = time.monotonic()
    turn = cycle(apis)
    with client_of_threads(10) as client, ThreadPoolExecutor(32) as clicks:
        for number, link in enumerate(links):
            time.sleep(max(0.0, began + number / A_SECOND - time.monotonic()))
            clicks.submit(click, client, next(turn).url + httpx.URL(link).path, number, found)


def click(client: httpx.Client, url: str, number: int, found: Clicked) -> None:
    began = time.monotonic()
    try:
        answer = client.post(url)
    except httpx.HTTPError as fault:
        found.errors.append(type(fault).__name__)
        return
    found.slowest = max(found.slowest, time.monotonic() - began)
    if answer.status_code == 200:
        found.acknowledged.add(number)
    else:
        found.errors.append(str(answer.status_code))


@pytest.mark.timeout(3000)
def test_workers_are_killed_and_frozen_and_nothing_is_lost(tmp_path: Path) -> None:
    people, found = int(SECONDS * A_SECOND), Clicked()
    with ExitStack() as stack:
        twin, url = stack.enter_context(running(MailchimpTwin()))
        twin.new_audience("a1")
        for number in range(people):
            twin.new_member("a1", address(number))
        made = Installation(tmp_path, MAILCHIMP.format(url=url), {"MAILCHIMP": twin.api_key})
        links = made.links(people)
        apis = [made, *(made.beside() for _ in range(APIS - 1))]
        for one in apis:
            stack.enter_context(one.serving("--no-work"))
        workers = [made.start("work") for _ in range(WORKERS)]
        stack.callback(end_all, workers)
        clicking = threading.Thread(target=click_for, args=(links, apis, found))
        clicking.start()
        killed, frozen = trouble(made, workers, clicking)
        eventually(lambda: off(twin, people) == len(found.acknowledged), 60 + people / 50)
        check(made, range(people))
        assert once_each(made) == people
    say(
        f"{APIS} API processes, {WORKERS} workers, {A_SECOND}/s for {SECONDS:.0f} s: "
        f"{killed} kills, {frozen} freezes, {len(found.acknowledged)} acknowledged, 0 lost, "
        f"0 left on, {len(found.errors)} errors, slowest answer {found.slowest * 1000:.0f} ms"
    )
    assert found.errors == []
    assert len(found.acknowledged) == people
    assert killed


def trouble(
    made: Installation, workers: list[subprocess.Popen[bytes]], clicking: threading.Thread
) -> tuple[int, int]:
    """Kill a worker every few seconds, another takes its place; freeze one for twice its lease."""
    dices, killed, frozen = dice("many"), 0, 0
    while clicking.is_alive():
        one, other = dices.sample(range(len(workers)), 2)
        workers[one].send_signal(signal.SIGSTOP)
        frozen += 1
        workers[other].kill()
        workers[other].wait()
        workers[other] = made.start("work")
        killed += 1
        clicking.join(2 * LEASE)
        workers[one].send_signal(signal.SIGCONT)
        clicking.join(KILL_EVERY - 2 * LEASE)
    return killed, frozen


@pytest.mark.timeout(3000)
def test_opposite_wishes_at_the_same_instant(tmp_path: Path) -> None:
    """An opt-in and an opt-out of the same moment, at different processes: a tie is out."""
    made = Installation(tmp_path, "", {})
    key = made.key("write")
    apis = [made, *(made.beside() for _ in range(3))]
    with ExitStack() as stack:
        for one in apis:
            stack.enter_context(one.serving("--no-work"))
        client = stack.enter_context(client_of_threads(30))
        client.headers["Authorization"] = f"Bearer {key}"
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(lambda n: _pair(client, apis, n), range(2 * PAIRS)))
        check(made, range(PAIRS))
    say(f"{PAIRS} pairs of opt-in and opt-out at 4 processes: 0 mismatches, every tie is out")


def _pair(client: httpx.Client, apis: Sequence[Installation], turn: int) -> None:
    """Every even turn says in, the odd one after it out, of the same person and moment."""
    number, out = divmod(turn, 2)
    at = datetime(2026, 3, 2, 10, 0, tzinfo=UTC).isoformat()
    body = {
        "brand": "rt",
        "subject": {"email": address(number)},
        "changes": [{"channel": "email", "purpose": "marketing", "choice": "out" if out else "in"}],
        "source": "api",
        "occurred_at": at,
        "basis": "consent",
        "evidence": {"wording": "Yes"},
    }
    api = apis[(number + out) % len(apis)]
    client.post(f"{api.url}/v1/preferences", json=body).raise_for_status()
