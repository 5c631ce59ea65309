"""The upkeep of webhooks in the lane: when it looks, what staff are told, and one vendor's whole
story with the service off and on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from connectors import http
from prefs import tending
from prefs.core.errors import PropagationError, Temporary
from prefs.core.propagation import Tended, Unheard
from prefs.store import tasks
from prefs.tending import Tending
from tests import kit
from tests.served import Served, eventually, listening
from tests.twins.keap import EVENT_KEYS, INACTIVE, VERIFIED, KeapTwin
from tests.twins.kit import Clock, running

DAY = 86400.0
GONE = Unheard("Make it again.")
NEVER = Unheard("Register it, or leave it.", once=True)


@dataclass
class Vendor:
    """Says what it is told to; `looks` counts."""

    tend_every: float = DAY
    says: Unheard | None = None
    fault: Exception | None = None
    looks: int = 0

    async def tend(self) -> Unheard | None:
        self.looks += 1
        if self.fault:
            raise self.fault
        return self.says


@dataclass
class Desk:
    """One target's upkeep, and the tasks that staff see of it."""

    clinic: kit.Clinic
    vendor: Vendor = field(default_factory=Vendor)
    name: str = "list"

    @property
    def tending(self) -> Tending:
        assert isinstance(self.vendor, Tended)
        target = replace(kit.TARGET, name=self.name)
        clinic = self.clinic
        return Tending(target, self.vendor, clinic.database, clinic.keys, clinic.clock)

    def look(self, says: Unheard | None) -> None:
        self.vendor.says = says
        asyncio.run(self.tending.look())

    def rows(self, state: str) -> list[Any]:
        def look(conn: Any) -> list[Any]:
            return tasks.listed(conn, "rt", state, "webhook_gone")

        return [row for row in self.clinic.database.read_now(look) if self.is_ours(row)]

    def is_ours(self, row: Any) -> bool:
        return bool(self.body(row)["target"] == f"rt/{self.name}")

    def body(self, row: Any) -> dict[str, Any]:
        return tasks.body(self.clinic.keys, row)

    def open(self) -> list[str]:
        return [self.body(row)["text"] for row in self.rows("open")]

    def staff_close(self) -> None:
        (row,) = self.rows("open")
        now, body = self.clinic.clock().timestamp(), self.body(row)
        self.clinic.database.write_now(
            lambda conn: tasks.settle(conn, self.clinic.keys, row.id, "done", body, now)
        )


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    clinic = kit.clinic(tmp_path)
    yield Desk(clinic)
    clinic.database.close()


# --- what staff are told -------------------------------------------------------------------------


def test_one_task_that_closes_by_itself(desk: Desk) -> None:
    for _ in range(3):
        desk.look(GONE)
    assert desk.open() == [GONE.todo]
    (row,) = desk.rows("open")
    assert row.subject_id is None
    assert row.due_at > desk.clinic.clock().timestamp()
    desk.look(None)
    assert desk.open() == []
    (row,) = desk.rows("done")
    assert "look" in desk.body(row)["settled_with"]
    desk.look(GONE)
    assert desk.open() == [GONE.todo]


def test_other_words_take_the_place_of_the_first(desk: Desk) -> None:
    desk.look(GONE)
    desk.look(Unheard("Something else."))
    assert desk.open() == ["Something else."]
    assert len(desk.rows("done")) == 1


def test_what_staff_closed_and_is_still_gone_is_told_again(desk: Desk) -> None:
    desk.look(GONE)
    desk.staff_close()
    desk.look(GONE)
    assert desk.open() == [GONE.todo]


def test_what_was_never_wanted_is_told_once(desk: Desk) -> None:
    desk.look(NEVER)
    assert desk.open() == [NEVER.todo]
    desk.look(NEVER)
    desk.staff_close()
    desk.look(NEVER)
    assert desk.open() == []
    desk.look(replace(NEVER, todo="Another event is missing."))
    assert desk.open() == ["Another event is missing."]


def test_each_target_has_a_task_of_its_own(desk: Desk) -> None:
    other = Desk(desk.clinic, Vendor(), "second")
    desk.look(GONE)
    other.look(GONE)
    other.look(None)
    assert (desk.open(), other.open()) == ([GONE.todo], [])


# --- when it looks -------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tending, "GLANCE", 0.005)


async def turns(desk: Desk, *waits: float) -> list[int]:
    """The count of looks after each wait on the clinic's clock, of one process."""
    job = asyncio.create_task(desk.tending.run())
    counts = []
    for seconds in waits:
        desk.clinic.clock.forward(seconds)
        await asyncio.sleep(0.3)
        counts.append(desk.vendor.looks)
    job.cancel()
    with suppress(asyncio.CancelledError):
        await job
    return counts


def test_it_looks_at_the_start_and_then_at_its_own_pace(desk: Desk, quick: None) -> None:
    assert asyncio.run(turns(desk, 0, DAY / 2, DAY / 2, 60, DAY)) == [1, 1, 2, 2, 3]


def test_a_start_looks_again_but_not_each_of_many(desk: Desk, quick: None) -> None:
    assert asyncio.run(turns(desk, 0)) == [1]
    assert asyncio.run(turns(desk, 60)) == [1]
    assert asyncio.run(turns(desk, tending.SOON)) == [2]


def test_while_staff_have_something_to_do_it_looks_hourly(desk: Desk, quick: None) -> None:
    desk.vendor.says = NEVER
    assert asyncio.run(turns(desk, 0, tending.WAITING)) == [1, 2]
    desk.staff_close()
    desk.vendor.looks = 0
    assert asyncio.run(turns(desk, tending.SOON, tending.WAITING, DAY)) == [1, 1, 2]


@pytest.mark.parametrize("fault", [Temporary("away"), KeyError("a fault of ours")])
def test_a_fault_is_outlived_and_looked_after_soon(
    desk: Desk, quick: None, fault: PropagationError | KeyError
) -> None:
    desk.look(GONE)
    desk.vendor.fault = fault
    desk.vendor.looks = 0
    counts = asyncio.run(turns(desk, tending.SOON, 60, tending.SOON))
    assert counts == [1, 1, 2]
    assert desk.open() == [GONE.todo]


# --- the whole service, with Keap ----------------------------------------------------------------

KEAP = """
[brands.rt.targets.keap]
system = "keap"
mode = "{mode}"
base_url = "{url}"
token = "env:KEAP"
webhook_key = "env:HOOK"
limit = "1000/1s"
"""
ADA, ADAS_PHONE = "ada@example.com", "+447700900101"
NO_SMS = "No marketing - sms"
HOUR = 3600.0
HOOKS, WALKS = "/crm/rest/v1/hooks", "/crm/rest/v2/emailAddresses"
OURS = EVENT_KEYS[:-1]


@dataclass
class Story:
    """Keap as a twin, and the service that comes and goes at one address."""

    folder: Path
    twin: KeapTwin
    url: str
    mode: str
    clock: Clock = field(default_factory=Clock)
    port: int = 0

    def service(self) -> Any:
        """It polls once, at its first start: what comes later comes by a webhook."""
        polls = {"PREFS__WORKER__POLL_EVERY": "48h"}
        environ = {"KEAP": self.twin.token, "HOOK": "a key of the hook", **polls}
        extra = KEAP.format(url=self.url, mode=self.mode)
        return listening(self.folder, extra, environ=environ, clock=self.clock, port=self.port)

    def begin(self, service: Served) -> None:
        """Nothing is registered; the operator does it; the next look finds all well."""
        eventually(lambda: open_tasks(service))
        self.register(service)
        self.wait_for_a_look()
        eventually(lambda: not open_tasks(service))

    def register(self, service: Served) -> None:
        """The operator, as `prefs doctor` says."""
        hook = service.runtime.settings.targets["rt/keap"].webhook_url
        self.port = urlsplit(hook).port or 0
        headers = {"X-Keap-API-Key": self.twin.token, "X-Test": "1"}
        for event in OURS:
            body = {"eventKey": event, "hookUrl": hook}
            made = httpx.post(f"{self.url}{HOOKS}", json=body, headers=headers)
            assert made.json()["status"] == VERIFIED

    def ours(self) -> list[str]:
        """Paths of what our service wrote about hooks."""
        return [
            call.path
            for call in self.twin.writes()
            if "x-test" not in call.headers and "/hooks" in call.path
        ]

    def wait_for_a_look(self) -> None:
        """An hour passes."""
        before = len(self.looks())
        self.clock.move(HOUR)
        eventually(lambda: len(self.looks()) > before)

    def looks(self) -> list[Any]:
        return [c for c in self.twin.calls if (c.method, c.path) == ("GET", HOOKS)]


def open_tasks(service: Served) -> list[dict[str, Any]]:
    found = service.get("/v1/tasks?state=open&kind=webhook_gone").json()
    items: list[dict[str, Any]] = found["items"]
    return items


@pytest.fixture
def story(tmp_path: Path, hold_to_specs: object, request: pytest.FixtureRequest) -> Iterator[Story]:
    with running(KeapTwin()) as (twin, url):
        twin.configure(windows=[], gaps=[0.02, 0.02, 0.02])
        yield Story(tmp_path, twin, url, getattr(request, "param", "live"))


def die_while_the_service_is_off(story: Story) -> None:
    """Keap delivers four times in vain, then no more."""
    number = story.twin.new_contact("bob@example.com")
    story.twin.admin_edits(number, "bob@example.org")
    story.twin.courier.settle()
    assert story.twin.hooks()["contact.edit"] == INACTIVE
    story.twin.admin_tags(number, NO_SMS)
    story.twin.courier.settle()
    assert story.twin.hooks()["contactGroup.applied"] == INACTIVE


def test_a_hook_that_died_comes_back_and_an_opt_out_flows_again(story: Story) -> None:
    ada = story.twin.new_contact(ADA, ADAS_PHONE, "CONFIRMED")
    with story.service() as service:
        story.begin(service)
        (task,) = service.get("/v1/tasks?kind=webhook_gone").json()["items"]
        assert task["state"] == "done"
        assert "contact.edit" in task["body"]["text"]
        assert "a%20key" not in task["body"]["text"]
    assert story.ours() == []
    die_while_the_service_is_off(story)
    story.clock.move(HOUR / 2)
    with story.service() as service:
        eventually(lambda: set(story.twin.hooks().values()) == {VERIFIED})
        assert all(path.endswith("/verify") for path in story.ours())
        before = len(story.twin.calls)
        story.twin.admin_tags(ada, NO_SMS)
        eventually(lambda: service.reason(ADAS_PHONE, channel="sms") == "opted_out")
        assert not [c for c in story.twin.calls[before:] if c.path == WALKS]
        assert open_tasks(service) == []


@pytest.mark.parametrize("story", ["observe"], indirect=True)
def test_in_observe_mode_it_is_told_and_nothing_is_written(story: Story) -> None:
    with story.service() as service:
        story.begin(service)
    die_while_the_service_is_off(story)
    story.clock.move(HOUR / 2)
    with story.service() as service:
        eventually(lambda: open_tasks(service))
        (task,) = open_tasks(service)
        assert "observe" in task["body"]["text"]
        assert "contact.edit" in task["body"]["text"]
        assert "contact.redact" not in task["body"]["text"]
        assert task["kind"] == "webhook_gone"
    assert story.twin.hooks()["contact.edit"] == INACTIVE
    assert [call for call in story.twin.writes() if "x-test" not in call.headers] == []


def test_a_look_that_hangs_holds_nothing_up(story: Story) -> None:
    story.twin.new_contact(ADA, status="CONFIRMED")
    story.twin.faults.add("timeout_before_work", path=HOOKS, seconds=30, times=None)
    with story.service() as service:
        eventually(story.looks)
        service.say(ADA)
        eventually(lambda: story.twin.status(ADA) == "MANUAL", http.CALL_LIMIT)
        assert len(story.looks()) == 1
