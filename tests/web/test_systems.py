"""The owner's page of systems: how they stand, what differs, machine-made opt-outs, taking over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, select, update

from prefs.core.propagation import Container
from prefs.store import containers, jobs, marks, tasks
from prefs.store.batches import FEW
from prefs.store.schema import lanes
from prefs.store.schema import marks as marks_table
from prefs.store.staff import Role
from tests.desk import Desk, desk
from tests.served import Served, eventually, served
from tests.twins.kit import running
from tests.twins.mailchimp import MailchimpTwin

TARGETS = """
[brands.rt.targets.mailchimp]
system = "mailchimp"
mode = "observe"
base_url = "{mailchimp}"
api_key = "env:MAILCHIMP"
audiences = {{ a1 = ["treatments", "products", "offers", "competitions", "news"] }}
[brands.rt.targets.timely]
system = "timely"
mode = "live"
"""
ADA, BOB, CAT, DAN = (f"{name}@example.com" for name in ("ada", "bob", "cat", "dan"))
LABEL = "rt/mailchimp"


@dataclass
class Clinic:
    rt: Served
    owner: Desk
    twin: MailchimpTwin

    def write(self, job: Any) -> None:
        self.rt.runtime.database.write_now(job)


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    with ExitStack() as stack:
        twin, url = stack.enter_context(running(MailchimpTwin()))
        twin.new_audience("a1", name="Newsletter")
        extra = TARGETS.format(mailchimp=url)
        rt = stack.enter_context(served(tmp_path, extra, environ={"MAILCHIMP": twin.api_key}))
        yield Clinic(rt, desk(rt), twin)


def text(page: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def set_lane(conn: Connection, **values: Any) -> None:
    marks.set_unsafe(conn, LABEL, None)  # makes the row
    conn.execute(update(lanes).where(lanes.c.target == LABEL).values(**values))


# --- how they stand ----------------------------------------------------------------------------


def test_a_system_is_told_with_its_mode_and_what_waits(clinic: Clinic) -> None:
    clinic.rt.say(ADA, "out")
    clinic.rt.say(BOB, "out")
    page = text(clinic.owner.get("/staff/systems"))
    assert "Mailchimp only watched 2 " in page
    assert "Timely live 2 " in page


def test_an_unsafe_system_says_why_and_a_parked_one_what_it_was_told(clinic: Clinic) -> None:
    now = clinic.rt.runtime.clock().timestamp()
    lane = {"live_since": 1.0, "unsafe_since": now - 60}
    clinic.write(lambda conn: set_lane(conn, **lane, parked_until=now + 60, parked_reason="Gone"))
    found = [(Container("a9", "<b>Forgotten</b>", sends=True), "unclassified")]
    clinic.write(lambda conn: containers.keep(conn, LABEL, found, now))
    assert "unsafe" in text(clinic.owner.get("/staff/systems"))
    page = clinic.owner.get("/staff/systems/mailchimp")
    assert "A list that can send appeared" in page
    assert "has not confirmed for too long" not in page
    assert "refuses us as a whole; nothing is lost, and it is tried again. It says:" in page
    assert "Gone" in page
    assert "&lt;b&gt;Forgotten&lt;/b&gt;" in page
    assert "not classified" in page


def test_overdue_opt_outs_are_why_a_system_is_unsafe(clinic: Clinic) -> None:
    now = clinic.rt.runtime.clock().timestamp()
    clinic.write(lambda conn: set_lane(conn, unsafe_since=now))
    wanted = [(LABEL, 7, "")]
    clinic.write(partial(marks.set_marks, wanted=wanted, now=now - 90_000, urgent=True))
    page = text(clinic.owner.get("/staff/systems/mailchimp"))
    assert "Opt-outs that it has not confirmed for too long: 1." in page
    assert "Oldest waits 25 hrs" in page


def test_a_brand_without_systems_is_told_how_to_add_one(clinic: Clinic) -> None:
    other = desk(clinic.rt, email="ola@example.co.uk", brand="second")
    page = other.get("/staff/systems")
    assert "[brands.second.targets.mailchimp]" in page
    assert "timely" not in page.lower()
    assert other.ask("GET", "/staff/systems/mailchimp").status_code == 404


# --- what differs ------------------------------------------------------------------------------


def furnish(clinic: Clinic) -> None:
    """Ada is on there and out here, Bob the reverse, Cat on there and nobody here."""
    for address in (ADA, BOB, CAT):
        clinic.twin.new_member("a1", address)
    clinic.twin.person_unsubscribes("a1", BOB)
    clinic.rt.say(ADA, "out")
    clinic.rt.consent(BOB)
    clinic.twin.calls.clear()


def counts(page: str) -> list[int]:
    found = re.findall(r'data-label="Entries" class="number">([0-9]+)<', page)
    return [int(one) for one in found]


def test_going_live_is_foretold_and_nothing_is_written(clinic: Clinic) -> None:
    furnish(clinic)
    started = clinic.owner.post("/staff/systems/mailchimp/drift")
    assert started.headers["location"] == "/staff/systems/mailchimp#drift"
    page = clinic.owner.wait("/staff/systems/mailchimp")
    assert "What going live will do" in page
    off, take, on, unknown = counts(page)
    assert (off, take, on, unknown) == (1, 1, 0, 1)
    assert "a•••@e•••.com" in page
    assert ADA not in page
    assert '[brands.rt.targets.mailchimp]\nmode = "live"' in page.replace("&#34;", '"')
    assert clinic.twin.writes() == []
    assert clinic.rt.reason(BOB) == "consent"


def test_a_walk_that_breaks_says_so(clinic: Clinic) -> None:
    furnish(clinic)
    clinic.twin.api_key = "another"
    clinic.owner.post("/staff/systems/mailchimp/drift")
    assert "It could not be read to its end" in clinic.owner.wait("/staff/systems/mailchimp")


def test_a_system_that_only_its_export_shows_is_not_read(clinic: Clinic) -> None:
    page = clinic.owner.get("/staff/systems/timely")
    assert "prefs sync TARGET --from FILE" in page
    assert "/staff/systems/timely/drift" not in page
    assert clinic.owner.post("/staff/systems/timely/drift").status_code == 404


def test_one_walk_at_a_time(clinic: Clinic) -> None:
    now = clinic.rt.runtime.clock().timestamp()
    start = partial(jobs.start, brand="rt", kind="drift", about="mailchimp", now=now)
    clinic.write(start)
    clinic.owner.post("/staff/systems/mailchimp/drift")
    assert clinic.twin.calls == []
    assert "data-poll" in clinic.owner.get("/staff/systems/mailchimp")


def test_a_job_whose_process_died_can_be_started_again(clinic: Clinic) -> None:
    now = clinic.rt.runtime.clock().timestamp()
    start = partial(jobs.start, brand="rt", kind="drift", about="mailchimp", now=now - 120)
    clinic.write(start)
    assert "did not come to its end" in clinic.owner.get("/staff/systems/mailchimp")
    clinic.owner.post("/staff/systems/mailchimp/drift")
    assert "entries read" in clinic.owner.wait("/staff/systems/mailchimp")


def test_how_far_a_job_is_is_its_brands_own_business(clinic: Clinic) -> None:
    now = clinic.rt.runtime.clock().timestamp()
    id_ = clinic.rt.runtime.database.write_now(
        partial(jobs.start, brand="rt", kind="drift", about="mailchimp", now=now)
    )
    assert id_
    clinic.write(partial(jobs.beat, id_=id_, done=1234, step="rt/mailchimp", now=now))
    assert "1,234 done so far" in clinic.owner.get(f"/staff/jobs/{id_}")
    other = desk(clinic.rt, email="ola@example.co.uk", brand="second")
    assert other.ask("GET", f"/staff/jobs/{id_}").status_code == 404


# --- taking over -------------------------------------------------------------------------------


def test_the_report_is_made_in_the_background_and_kept(clinic: Clinic) -> None:
    furnish(clinic)
    clinic.owner.post("/staff/onboarding")
    page = text(clinic.owner.wait("/staff/onboarding"))
    assert "Nothing was changed" in page
    assert "Email 1 0 0 0 1 0" in page
    assert "entries switched off there because the person said no: 1." in page
    assert "shown only by its own export" in page
    assert clinic.twin.writes() == []
    assert clinic.rt.reason(BOB) == "consent"
    assert "The last report is of" in clinic.owner.get("/staff/systems")


def test_a_report_takes_in_what_it_finds_where_that_is_ticked(clinic: Clinic) -> None:
    furnish(clinic)
    clinic.owner.post("/staff/onboarding", apply="yes")
    page = clinic.owner.wait("/staff/onboarding")
    assert "Opt-outs and proved consents were taken in here." in page
    assert clinic.rt.reason(BOB) == "opted_out"
    assert clinic.twin.writes() == []


# --- machine-made opt-outs ---------------------------------------------------------------------


def many(clinic: Clinic) -> list[str]:
    """More opt-outs of an import than go out by themselves."""
    crowd = [f"p{number}@example.com" for number in range(FEW + 3)]
    for address in crowd:
        clinic.rt.say(address, "out", source="import")
    return crowd


def due(clinic: Clinic) -> int:
    now = clinic.rt.runtime.clock().timestamp()
    count = clinic.rt.runtime.database.read_now(
        lambda conn: conn.execute(
            select(func.count()).where(marks_table.c.target == LABEL, marks_table.c.due_at <= now)
        ).scalar_one()
    )
    return int(count)


def open_tasks(clinic: Clinic) -> int:
    read = clinic.rt.runtime.database.read_now
    return len(read(lambda conn: tasks.listed(conn, "rt", "open", "batch")))


def test_the_owner_lets_a_batch_go(clinic: Clinic) -> None:
    many(clinic)
    assert (due(clinic), open_tasks(clinic)) == (0, 1)
    page = clinic.owner.get("/staff/systems")
    (path,) = re.findall(r'action="(/staff/batches/\w+/go)"', page)
    assert clinic.owner.post(path).status_code == 303
    assert (due(clinic), open_tasks(clinic)) == (FEW + 3, 0)
    assert "other systems follow" in clinic.owner.get("/staff/systems")


def test_the_owner_takes_a_batch_back_but_no_persons_own_wish(clinic: Clinic) -> None:
    clinic.rt.consent("p0@example.com")
    clinic.rt.consent("p1@example.com")
    many(clinic)
    made = clinic.rt.post("/v1/links", {"brand": "rt", "email": "p1@example.com"}).json()
    clinic.rt.client.post(made["unsubscribe"])
    page = clinic.owner.get("/staff/systems")
    (path,) = re.findall(r'action="(/staff/batches/\w+/back)"', page)
    refused = clinic.owner.post(path)
    assert refused.status_code == 422
    assert "Write down what went wrong" in refused.text
    assert clinic.owner.post(path, note="the wrong file").status_code == 303
    eventually(lambda: clinic.rt.reason("p0@example.com") == "consent")
    assert "taken back" in clinic.owner.wait("/staff/systems")
    assert clinic.rt.reason("p1@example.com") == "opted_out"
    assert open_tasks(clinic) == 0
    assert path not in clinic.owner.get("/staff/systems")


def test_a_batch_of_another_brand_is_not_touched(clinic: Clinic) -> None:
    many(clinic)
    (path,) = re.findall(r'action="(/staff/batches/\w+/back)"', clinic.owner.get("/staff/systems"))
    other = desk(clinic.rt, email="ola@example.co.uk", brand="second")
    assert "from import" not in other.get("/staff/systems")
    assert other.post(path, note="mine").status_code == 404
    assert other.post(path.replace("back", "go")).status_code == 404
    assert (due(clinic), open_tasks(clinic)) == (0, 1)


@pytest.mark.parametrize("path", ["/staff/systems", "/staff/systems/timely", "/staff/onboarding"])
def test_systems_are_the_owners(clinic: Clinic, path: str) -> None:
    manager = desk(clinic.rt, Role.MANAGER, "may@example.co.uk")
    assert manager.ask("GET", path).status_code == 403
