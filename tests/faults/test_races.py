"""The races that an opt-out must win."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefs.store import waves
from tests.faults.kit import HUBSPOT, count, dice, say
from tests.served import Served, eventually, listening
from tests.twins.hubspot import HubspotTwin
from tests.twins.kit import running

PEOPLE = count(200)
TARGET = f'{HUBSPOT}limit = "4000/10s"\n'
STATUSES = "/communication-preferences/v4/statuses/"


@pytest.fixture
def clinic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Served, HubspotTwin]]:
    # So many opt-ins at once would wait for a person.
    monkeypatch.setattr(waves, "FEW", 10 * PEOPLE)
    with ExitStack() as stack:
        twin, url = stack.enter_context(running(HubspotTwin()))
        twin.limits.windows = ()
        twin.new_type("101", "Treatments")
        extra = TARGET.format(url=url)
        environ = {"HUBSPOT": twin.token, "PREFS__WORKER__CALL_ALIVE": "1s"}
        yield stack.enter_context(listening(tmp_path, extra, environ=environ)), twin


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("fault", ["status", "late_work"])
def test_an_opt_in_that_is_retried_loses_to_the_opt_out(
    clinic: tuple[Served, HubspotTwin], fault: Any
) -> None:
    """503 to the opt-in, or an opt-in that lands after the caller gave up; then the opt-out."""
    service, twin = clinic
    people = [f"r{number}@example.com" for number in range(PEOPLE)]
    twin.faults.add(fault, method="POST", path=STATUSES, status=503, times=None, seconds=0.4)
    for one in people:
        twin.new_contact(one)
        service.consent(one)
    eventually(lambda: len(twin.writes()) >= min(PEOPLE, 5))
    rest = dice(f"race {fault}")
    for one in rest.sample(people, len(people)):
        service.say(one)
        if rest.random() < 0.05:
            time.sleep(rest.uniform(0, 0.2))
    twin.faults.clear()
    eventually(lambda: all(_settled(service, twin, one) for one in people), 120 + PEOPLE)
    off = sum(twin.status(one, "101") == "UNSUBSCRIBED" for one in people)
    say(f"opt-in retried ({fault}), then opt-out: vendor off {off} of {PEOPLE}")
    assert off == PEOPLE


def _settled(service: Served, twin: HubspotTwin, address: str) -> bool:
    return twin.status(address, "101") == "UNSUBSCRIBED" and not any(
        one["backlog"] for one in service.get("/v1/targets").json()["items"]
    )


@pytest.mark.timeout(600)
def test_two_parallel_first_requests_make_one_person(
    clinic: tuple[Served, HubspotTwin],
) -> None:
    service, _ = clinic
    held = 0
    for number in range(PEOPLE):
        spellings = (f"N{number}@Example.com", f"n{number}@example.com")
        parallel(service, spellings)
        items = service.post("/v1/subjects/search", {"brand": "rt", "email": spellings[1]}).json()
        assert len(items["items"]) == 1
        held += service.reason(spellings[1]) == "opted_out"
    say(f"two parallel first requests: one subject and the opt-out holds {held} of {PEOPLE}")
    assert held == PEOPLE


def parallel(service: Served, spellings: tuple[str, str]) -> None:
    """One says in, one says out, at the same moment, on connections of their own."""
    change = {"channel": "email", "purpose": "marketing"}
    consent = {"basis": "consent", "evidence": {"wording": "Yes"}}
    bodies = [
        {"subject": {"email": spellings[0]}, "changes": [{**change, "choice": "in"}], **consent},
        {"subject": {"email": spellings[1]}, "changes": [{**change, "choice": "out"}]},
    ]
    barrier = threading.Barrier(2)
    statuses: list[int] = []

    def post(body: dict[str, Any]) -> None:
        with httpx.Client(base_url=str(service.client.base_url), timeout=60) as client:
            barrier.wait()
            whole = {"brand": "rt", "source": "api", **body}
            answer = client.post("/v1/preferences", json=whole, headers=service.headers)
            statuses.append(answer.status_code)

    threads = [threading.Thread(target=post, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200, 200]
