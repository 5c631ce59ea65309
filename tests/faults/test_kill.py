"""kill -9 at random moments under one-click load: no acknowledged opt-out is ever lost."""

from __future__ import annotations

import random
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from prefs.app import Runtime
from prefs.core import identity
from prefs.core.decision import Ask, Reason, decide
from prefs.core.journal import Said
from prefs.journal import Found
from prefs.store import ledger, permissions
from tests.faults.kit import EMAIL, MAILCHIMP, Installation, address, count, dice, end, say
from tests.served import eventually
from tests.twins.kit import running
from tests.twins.mailchimp import MailchimpTwin

pytestmark = [pytest.mark.long, pytest.mark.told_on("sqlite")]

ROUNDS = count(200)
A_ROUND = 40
CLIENTS = 4


@pytest.mark.timeout(3000)
def test_no_acknowledged_opt_out_is_lost(tmp_path: Path) -> None:
    dices = dice("kill")
    acknowledged: set[int] = set()
    with ExitStack() as stack:
        twin, url = stack.enter_context(running(MailchimpTwin()))
        twin.new_audience("a1")
        made = Installation(tmp_path, MAILCHIMP.format(url=url), {"MAILCHIMP": twin.api_key})
        made.config.write_text(f'checkpoint = "file:checkpoints"\n{made.config.read_text()}')
        links = made.links(ROUNDS * A_ROUND)
        for number in range(ROUNDS * A_ROUND):
            twin.new_member("a1", address(number))
        for round_ in range(ROUNDS):
            numbers = list(range(round_ * A_ROUND, (round_ + 1) * A_ROUND))
            acknowledged |= one_round(made, links, numbers, dices)
            check(made, acknowledged)
        reach_the_vendor(made, twin, acknowledged)
    say(f"kill -9: {ROUNDS} kills, {len(acknowledged)} acknowledged opt-outs, 0 lost")
    assert len(acknowledged) > ROUNDS


def one_round(
    made: Installation, links: list[str], numbers: list[int], dices: random.Random
) -> set[int]:
    """Start, load, kill at any moment after some answers; returns whose click was answered 200."""
    enough, after = dices.randint(0, A_ROUND // 2), dices.uniform(0.0, 0.05)
    process = made.start("serve")
    answered: set[int] = set()
    try:
        made.until_ready(process)
        clients = [
            threading.Thread(target=click, args=(links, numbers[one::CLIENTS], answered))
            for one in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        while len(answered) < enough and any(client.is_alive() for client in clients):
            time.sleep(0.001)
        time.sleep(after)
        process.kill()
        for client in clients:
            client.join()
    finally:
        end(process)
    return answered


def click(links: list[str], numbers: list[int], answered: set[int]) -> None:
    with httpx.Client(timeout=5) as client:
        for number in numbers:
            try:
                if client.post(links[number]).status_code == 200:
                    answered.add(number)
            except httpx.HTTPError:
                return


def check(made: Installation, acknowledged: set[int]) -> None:
    """Everybody acknowledged is denied; state is the fold; the chain holds. Nobody is missing from
    the checkpoints, and they have nothing against the ledger."""
    with made.opened() as runtime:
        hashes = {n: runtime.keys.hash(identity.email(address(n))) for n in acknowledged}
        held = runtime.database.read_now(
            lambda conn: permissions.read(conn, "rt", list(hashes.values()))
        )
        lost = [n for n, hash_ in hashes.items() if hash_ not in held]
        lost += [
            n
            for n, hash_ in hashes.items()
            if hash_ in held and decide(Ask(EMAIL), held[hash_], 0.0).reason is not Reason.OPTED_OUT
        ]
        assert lost == []
        while runtime.database.write_now(ledger.seal):
            pass
        found = runtime.database.read_now(lambda conn: list(ledger.verify(conn, runtime.keys)))
        assert [one for one in found if isinstance(one, ledger.Finding)] == []
        check_journal(runtime, set(hashes.values()))


def check_journal(runtime: Runtime, hashes: set[bytes]) -> None:
    kept = runtime.checkpoints
    assert kept is not None
    assert runtime.watch.paused is None
    kept.keep()
    told = [one.line for one in kept.journal.scan() if isinstance(one, Found)]
    assert hashes <= {one.identifier for one in told if isinstance(one, Said)}
    found = runtime.database.read_now(lambda conn: list(kept.verify(conn)))
    assert [one.what for one in found if not one.harmless] == []


def reach_the_vendor(made: Installation, twin: MailchimpTwin, acknowledged: set[int]) -> None:
    """After a last start all of them land."""
    twin.limits.at_once = None
    with made.serving():
        eventually(
            lambda: all(
                twin.member("a1", address(n)).status == "unsubscribed" for n in acknowledged
            ),
            30 + len(acknowledged) / 50,
        )
