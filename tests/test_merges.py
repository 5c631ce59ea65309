"""Timely's merges: an out at Mailchimp that no person said counts, and staff say what it was."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from prefs.cli import main
from prefs.core.signals import Evidence
from prefs.core.words import Choice, Source
from prefs.intake import TargetInfo
from prefs.retract import retract
from prefs.store import batches, tasks
from prefs.store.batches import FEW
from tests.kit import Clinic as Kit
from tests.kit import clinic as kit
from tests.served import Served, eventually, listening
from tests.twins.kit import Travel, running
from tests.twins.mailchimp import MailchimpTwin
from tests.twins.timely import COLUMNS, TimelyTwin

pytestmark = pytest.mark.told_on("sqlite")

ADA, BOB, CAT = "ada@example.com", "bob@example.com", "cat@example.com"
LOST = Travel(drop=True)
ENVIRON = {
    "PREFS_TEST_KEY": "a secret of thirty-two bytes or more",
    "MAILCHIMP": "twin-key-us6",
    "SIGNING": "mailchimp-signing",
    "HOOK": "a key of the hook",
}
MAILCHIMP = """
[brands.rt.targets.mailchimp]
system = "mailchimp"
mode = "live"
base_url = "{url}"
api_key = "env:MAILCHIMP"
{hook}
audiences = {audiences}
"""
ALL = '{ a1 = ["treatments", "products", "offers", "competitions", "news"] }'
APART = '{ a1 = ["treatments", "products"], a2 = ["offers", "competitions", "news"] }'
TIMELY = f"""
[brands.rt.targets.timely]
system = "timely"
mode = "live"
columns = {{ {", ".join(f'{ours} = "{theirs}"' for ours, theirs in COLUMNS.items())} }}
"""


@dataclass
class Clinic:
    """The service with its worker, Mailchimp as a twin, and what staff see of Timely."""

    service: Served
    mailchimp: MailchimpTwin
    timely: TimelyTwin
    folder: Path

    def tasks(self, state: str = "open", kind: str = "merge_check") -> list[Any]:
        items = self.service.get(f"/v1/tasks?kind={kind}&state={state}").json()["items"]
        return list(items)

    def the_task(self) -> Any:
        eventually(self.tasks)
        (task,) = self.tasks()
        return task

    def hint(self) -> str:
        """With the day of the export left open."""
        return re.sub(r"\d{4}-\d\d-\d\d", "DAY", self.the_task()["body"]["hint"])

    def settle(self, task: Any, state: str) -> Any:
        body = {"state": state, "note": "looked her up"}
        return self.service.post(f"/v1/tasks/{task['id']}", body)

    def history(self, email: str) -> list[Any]:
        items = self.service.post("/v1/subjects/search", {"brand": "rt", "email": email}).json()
        (one,) = items["items"]
        return list(self.service.get(f"/v1/subjects/{one['subject_id']}/history").json()["items"])

    def outs(self, email: str) -> list[str]:
        return [row["source"] for row in self.history(email) if row["choice"] == "out"]

    def one_click(self, email: str) -> None:
        made = self.service.post("/v1/links", {"brand": "rt", "email": email}).json()
        assert self.service.client.post(made["unsubscribe"]).status_code == 200

    def out(self, email: str) -> bool:
        return self.service.reason(email) == "opted_out"

    def quiet(self) -> bool:
        targets = self.service.get("/v1/targets").json()["items"]
        return not any(one["backlog"] for one in targets if one["system"] == "mailchimp")

    def settled_down(self) -> None:
        """Until a poll that began from now on has ended, and nothing waits at Mailchimp."""
        seen = len(self.mailchimp.calls)
        eventually(lambda: len(self.mailchimp.calls) > seen + 4 and self.quiet())

    def merge_at_timely(self, email: str, list: str = "a1") -> None:
        """What Timely's add-on does at Mailchimp when a customer is merged or deleted."""
        self.mailchimp.other_program_writes(list, email, "unsubscribed")

    def export(self) -> None:
        """Staff bring Timely's export."""
        file = self.folder / "export.csv"
        file.write_bytes(self.timely.export())
        environ = {**ENVIRON, "PREFS_CONFIG": str(self.folder / "prefs.toml")}
        arguments = ["sync", "timely", "--from", str(file), "--apply"]
        done = CliRunner().invoke(main, arguments, env=environ)
        assert done.exit_code in (0, 1), done.output

    def clean(self) -> bool:
        environ = {**ENVIRON, "PREFS_CONFIG": str(self.folder / "prefs.toml")}
        return CliRunner().invoke(main, ["ledger", "verify"], env=environ).exit_code == 0


@contextmanager
def opened(
    folder: Path,
    *,
    timely: str = TIMELY,
    audiences: str = ALL,
    hook: str = 'webhook_secret = "env:SIGNING"',
    polls: bool = False,
) -> Iterator[Clinic]:
    """Without `polls` only webhooks tell."""
    environ = ENVIRON | ({"PREFS__WORKER__POLL_EVERY": "300ms"} if polls else {})
    with ExitStack() as stack:
        twin, url = stack.enter_context(running(MailchimpTwin()))
        for list_id in ("a1", "a2"):
            twin.new_audience(list_id)
            for email in (ADA, BOB, CAT):
                twin.new_member(list_id, email)
        extra = MAILCHIMP.format(url=url, hook=hook, audiences=audiences) + timely
        service = stack.enter_context(listening(folder, extra, environ=environ))
        made = Clinic(service, twin, TimelyTwin(), folder)
        made.timely.new_customer("7", "Ada", "", ADA, "7700900101")
        for email in (ADA, BOB):
            service.consent(email)
        eventually(made.quiet)
        yield made


@pytest.fixture
def clinic(tmp_path: Path, hold_to_specs: object) -> Iterator[Clinic]:
    with opened(tmp_path, polls=True) as made:
        yield made


@pytest.fixture
def hooked(tmp_path: Path, hold_to_specs: object) -> Iterator[Clinic]:
    with opened(tmp_path) as made:
        url = f"{made.service.runtime.settings.public_url}/webhooks/mailchimp/rt/mailchimp"
        made.mailchimp.old_webhook("a1", url, sources=["user", "admin"], secret=ENVIRON["SIGNING"])
        yield made


# --- what is asked -----------------------------------------------------------------------------


def test_what_no_person_said_counts_at_once_and_is_asked_about(clinic: Clinic) -> None:
    clinic.merge_at_timely(ADA)
    task = clinic.the_task()
    assert clinic.out(ADA)
    assert clinic.outs(ADA) == [Source.VENDOR_API]
    body = task["body"]
    assert (body["target"], body["keeper"], body["channel"]) == (
        "rt/mailchimp",
        "rt/timely",
        "email",
    )
    assert body["email"] == ADA
    assert "Merging or deleting a customer in Timely does that." in body["instruction"]
    assert body["hint"] == "No export was brought yet."
    assert task["settle_as"] == ["done", "release"]
    made, due = (datetime.fromisoformat(task[name]) for name in ("created_at", "due_at"))
    assert due.weekday() < 5
    assert timedelta(days=1) < due - made < timedelta(days=5)
    assert clinic.service.reason(BOB) == "consent"


def test_it_never_becomes_the_persons_own(clinic: Clinic) -> None:
    """However often it is read again."""
    clinic.merge_at_timely(ADA)
    task = clinic.the_task()
    clinic.settled_down()
    clinic.settled_down()
    assert set(clinic.outs(ADA)) == {Source.VENDOR_API}
    assert clinic.tasks() == [task]


def test_a_member_that_was_deleted_is_told_by_webhook(hooked: Clinic) -> None:
    hooked.mailchimp.admin_deletes("a1", ADA)
    task = hooked.the_task()
    assert hooked.out(ADA)
    assert set(hooked.outs(ADA)) == {Source.VENDOR_ADMIN}
    assert task["body"]["email"] == ADA


def test_what_the_lane_finds_when_it_looks_is_asked_about_too(hooked: Clinic) -> None:
    hooked.mailchimp.other_program_writes("a1", ADA, "unsubscribed", travel=LOST)
    hooked.mailchimp.profile_change("a1", ADA, {"FNAME": "Ada"})
    task = hooked.the_task()
    assert task["body"]["batches"]
    assert set(hooked.outs(ADA)) == {Source.VENDOR_API}


def test_what_the_person_did_asks_nothing(hooked: Clinic) -> None:
    hooked.mailchimp.person_unsubscribes("a1", ADA)
    eventually(lambda: hooked.out(ADA))
    eventually(hooked.quiet)
    assert set(hooked.outs(ADA)) == {Source.VENDOR_PERSON}
    assert hooked.tasks() == []


def test_what_the_person_did_asks_nothing_when_a_poll_finds_it(clinic: Clinic) -> None:
    clinic.mailchimp.person_unsubscribes("a1", ADA)
    eventually(lambda: clinic.out(ADA))
    clinic.settled_down()
    assert set(clinic.outs(ADA)) == {Source.VENDOR_PERSON}
    assert clinic.tasks() == []


def test_an_unsigned_unsubscribe_that_was_the_persons_own_ends_the_question(
    tmp_path: Path,
) -> None:
    """It counts as a program's until the member was read."""
    with opened(tmp_path, hook='webhook_key = "env:HOOK"') as made:
        url = f"{made.service.runtime.settings.public_url}/webhooks/mailchimp/rt/mailchimp"
        made.mailchimp.old_webhook("a1", f"{url}?key=a%20key%20of%20the%20hook")
        made.mailchimp.person_unsubscribes("a1", ADA)
        eventually(lambda: made.tasks("closed"))
        assert made.tasks() == []
        assert set(made.outs(ADA)) == {Source.VENDOR_ADMIN, Source.VENDOR_PERSON}


def test_without_timely_nobody_is_asked(tmp_path: Path) -> None:
    with opened(tmp_path, timely="", polls=True) as made:
        made.merge_at_timely(ADA)
        eventually(lambda: made.out(ADA))
        made.settled_down()
        assert made.tasks() == []


def test_one_question_for_one_person(tmp_path: Path) -> None:
    """Two audiences, merged one after the other."""
    with opened(tmp_path, audiences=APART, polls=True) as made:
        made.merge_at_timely(ADA, "a1")
        made.the_task()
        made.merge_at_timely(ADA, "a2")
        eventually(lambda: len(made.the_task()["body"]["scopes"]) == 5)
        assert made.settle(made.the_task(), "release").status_code == 200
        for topic in ("treatments", "news"):
            assert made.service.reason(ADA, topic=topic) == "consent"


# --- how it is settled -------------------------------------------------------------------------


def test_left_as_it_is_it_stays(clinic: Clinic) -> None:
    clinic.merge_at_timely(ADA)
    assert clinic.settle(clinic.the_task(), "done").status_code == 200
    clinic.settled_down()
    assert clinic.out(ADA)
    assert clinic.tasks() == []
    assert clinic.mailchimp.member("a1", ADA).status == "unsubscribed"


def test_released_only_this_one_is_taken_back(clinic: Clinic) -> None:
    for email in (ADA, BOB, CAT):
        clinic.merge_at_timely(email)
    eventually(lambda: len(clinic.tasks()) == 3)
    ada = next(task for task in clinic.tasks() if task["body"]["email"] == ADA)
    assert len({task["body"]["batches"][0] for task in clinic.tasks()}) == 1
    assert clinic.settle(ada, "release").status_code == 200
    assert clinic.service.reason(ADA) == "consent"
    assert clinic.out(BOB)
    assert clinic.out(CAT)
    assert len(clinic.tasks()) == 2
    eventually(lambda: clinic.mailchimp.member("a1", ADA).status == "subscribed")
    clinic.settled_down()
    assert clinic.service.reason(ADA) == "consent"
    assert {clinic.mailchimp.member("a1", one).status for one in (BOB, CAT)} == {"unsubscribed"}
    assert clinic.clean()


def test_a_vendor_that_still_shows_it_off_does_not_bring_it_back(clinic: Clinic) -> None:
    """Cat never consented here: nothing is written, and the old out is not heard anew."""
    clinic.merge_at_timely(CAT)
    clinic.settle(clinic.the_task(), "release")
    for _ in range(2):
        clinic.settled_down()
    assert clinic.service.reason(CAT) == "no_basis"
    assert clinic.mailchimp.member("a1", CAT).status == "unsubscribed"
    assert clinic.tasks() == []


def test_the_next_merge_is_asked_about_anew(clinic: Clinic) -> None:
    clinic.merge_at_timely(ADA)
    first = clinic.the_task()
    clinic.settle(first, "release")
    eventually(lambda: clinic.mailchimp.member("a1", ADA).status == "subscribed")
    clinic.settled_down()
    clinic.merge_at_timely(ADA)
    second = clinic.the_task()
    assert second["id"] != first["id"]
    assert clinic.out(ADA)
    clinic.settle(second, "release")
    assert clinic.service.reason(ADA) == "consent"
    assert clinic.clean()


def own_click(made: Clinic) -> None:
    made.one_click(ADA)


def by_staff(made: Clinic) -> None:
    evidence = {"actor": "Clara", "note": "asked at the desk"}
    made.service.say(ADA, "out", "staff", evidence=evidence)


@pytest.mark.parametrize("said", [own_click, by_staff])
def test_what_was_said_meanwhile_is_kept(clinic: Clinic, said: Callable[[Clinic], None]) -> None:
    clinic.merge_at_timely(ADA)
    task = clinic.the_task()
    said(clinic)
    assert clinic.settle(task, "release").status_code == 200
    assert clinic.out(ADA)
    clinic.settled_down()
    assert clinic.out(ADA)
    assert clinic.mailchimp.member("a1", ADA).status == "unsubscribed"
    assert clinic.clean()


def test_an_out_is_no_answer(clinic: Clinic) -> None:
    clinic.merge_at_timely(ADA)
    task = clinic.the_task()
    assert clinic.settle(task, "out").status_code == 422
    assert clinic.settle(task, "done").status_code == 200
    assert clinic.settle(task, "release").status_code == 409
    assert clinic.out(ADA)


# --- what Timely's export tells ------------------------------------------------------------------


def test_the_export_tells_what_became_of_the_customer(hooked: Clinic) -> None:
    hooked.export()
    hooked.mailchimp.admin_deletes("a1", ADA)
    assert hooked.the_task()["body"]["customer_id"] == "7"
    assert hooked.hint() == "Customer 7, known by this address, is in the export of DAY."

    del hooked.timely.state.customers["7"]
    hooked.export()
    gone = "Customer 7, once known by this address, is"
    assert hooked.hint() == f"{gone} no more in the export of DAY."

    hooked.timely.new_customer("8", "Ada", "Lovelace", ADA, "7700900101")
    hooked.export()
    merged = "customer 8 is in the export of DAY: they may have been merged."
    assert hooked.hint() == f"{gone} gone; {merged}"


# --- many at once --------------------------------------------------------------------------------


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Kit]:
    made = kit(tmp_path)
    made.intake.targets.append(  # type: ignore[attr-defined]  # a list in tests
        TargetInfo("rt/keeper", "rt", frozenset(), "keeper", frozenset({"list"}))
    )
    object.__setattr__(made.intake.targets[0], "system", "list")
    yield made
    made.database.close()


def test_a_run_of_many_is_one_question(rt: Kit) -> None:
    """And a person may let it go on: its rest asks nothing more."""
    crowd = [f"p{number}@example.co.uk" for number in range(FEW + 20)]
    for email in crowd[: FEW - 1]:
        rt.say(email, Source.VENDOR_API, Choice.OUT, origin="rt/list")
    assert len(open_checks(rt)) == FEW - 1
    for email in crowd[FEW - 1 : -5]:
        rt.say(email, Source.VENDOR_API, Choice.OUT, origin="rt/list")
    assert open_checks(rt) == []
    (batch,) = rt.database.read_now(batches.listed)
    assert batch.state == batches.WAITING
    now = rt.clock().timestamp()
    rt.database.write_now(lambda conn: batches.release(conn, batch, now))
    for email in crowd[-5:]:
        rt.say(email, Source.VENDOR_API, Choice.OUT, origin="rt/list")
    assert open_checks(rt) == []


def test_a_run_that_was_taken_back_asks_nothing_more(rt: Kit) -> None:
    crowd = [f"p{number}@example.co.uk" for number in range(3)]
    for email in crowd:
        rt.say(email, Source.VENDOR_API, Choice.OUT, origin="rt/list")
    assert len(open_checks(rt)) == 3
    (batch,) = rt.database.read_now(batches.listed)
    by, last = Evidence(actor="Sam", note="a fault"), 0

    def step(conn: Any) -> int:
        return retract(conn, rt.intake, batch.label, by, last)

    while last := rt.database.write_now(step):
        continue
    assert open_checks(rt) == []


def open_checks(rt: Kit) -> list[Any]:
    return rt.database.read_now(lambda conn: tasks.listed(conn, "rt", "open", "merge_check"))
