"""A system without an interface: tasks for staff, their list brought back, the export as proof."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from prefs.cli import main
from tests.served import Served, eventually, served
from tests.twins.timely import COLUMNS, TimelyTwin

pytestmark = pytest.mark.told_on("sqlite")

ENVIRON = {"PREFS_TEST_KEY": "a secret of thirty-two bytes or more", "HOOK": "a key of the hook"}
TARGETS = f"""
[brands.rt.targets.timely]
system = "timely"
mode = "live"
webhook_key = "env:HOOK"
columns = {{ {", ".join(f'{ours} = "{theirs}"' for ours, theirs in COLUMNS.items())} }}
"""
AMY = "amy@example.com"


class Clinic:
    """The service, and what staff do beside it."""

    def __init__(self, folder: Path, service: Served, twin: TimelyTwin) -> None:
        self.folder, self.service, self.twin = folder, service, twin

    def tasks(self, state: str = "open") -> list[Any]:
        items: list[Any] = self.service.get(f"/v1/tasks?kind=timely_change&state={state}").json()[
            "items"
        ]
        return items

    def list_of_tasks(self) -> str:
        headers = {**self.service.headers, "Accept": "text/csv"}
        path = "/v1/tasks?kind=timely_change&state=open"
        text: str = self.service.client.get(path, headers=headers).text
        return text

    def bring(self, data: bytes, *more: str, code: int = 0) -> Any:
        file = self.folder / "brought.csv"
        file.write_bytes(data)
        environ = {**ENVIRON, "PREFS_CONFIG": str(self.folder / "prefs.toml")}
        arguments = ["sync", "timely", "--from", str(file), *more, "--json"]
        done = CliRunner().invoke(main, arguments, env=environ)
        assert done.exit_code == code, done.output
        return json.loads(done.stdout) if done.stdout.startswith("{") else done.output

    def outcomes(self, subject: str) -> dict[str, str]:
        items = self.service.get(f"/v1/subjects/{subject}/targets").json()["items"]
        return {one["channel"]: one["outcome"] for one in items}


@contextmanager
def clinic(folder: Path, *, work: bool) -> Iterator[Clinic]:
    twin = TimelyTwin()
    twin.new_customer("7", "Amy", "Pond", AMY, "7700900101")
    with served(folder, TARGETS, work=work, environ=ENVIRON) as service:
        yield Clinic(folder, service, twin)


def test_a_channel_that_nothing_is_asked_of_waits_for_nobody(tmp_path: Path) -> None:
    with clinic(tmp_path, work=True) as made:
        both = {"email": AMY, "phone": "+447700900101"}
        amy = made.service.say(AMY, subject=both)["subject_id"]
        eventually(lambda: made.tasks())
        eventually(lambda: made.outcomes(amy) == {"email": "waiting_for_staff", "sms": "local"})


def test_from_the_opt_out_to_the_proof(tmp_path: Path) -> None:
    with clinic(tmp_path, work=True) as made:
        amy = made.service.say(AMY)["subject_id"]
        eventually(lambda: made.tasks())
        (task,) = made.tasks()
        assert task["body"]["set_to"] == "off"
        assert "Leave appointment notifications and reminders" in task["body"]["instruction"]
        assert made.outcomes(amy)["email"] == "waiting_for_staff"
        assert made.service.reason(AMY) == "opted_out"

        assert made.twin.staff_do_the_list(made.list_of_tasks()) == 1
        made.service.post(f"/v1/tasks/{task['id']}", {"state": "done", "note": "by hand"})
        eventually(lambda: made.outcomes(amy)["email"] == "accepted")
        assert made.tasks() == []

        made.bring(made.twin.export(), "--apply")
        eventually(lambda: made.outcomes(amy)["email"] == "confirmed")
        assert made.tasks() == []
        assert made.twin.reminders_on()


def test_the_export_alone_is_proof_and_nobodys_new_wish(tmp_path: Path) -> None:
    """Staff did what the list said and ticked nothing: what is off now is what we asked for."""
    with clinic(tmp_path, work=True) as made:
        made.bring(made.twin.export(), "--apply")
        amy = made.service.say(AMY)["subject_id"]
        eventually(lambda: made.tasks())
        assert made.twin.staff_do_the_list(made.list_of_tasks()) == 1
        made.bring(made.twin.export())  # without a difference
        made.bring(made.twin.export(), "--apply")
        eventually(lambda: made.outcomes(amy)["email"] == "confirmed")
        assert made.tasks() == []
        history = made.service.get(f"/v1/subjects/{amy}/history").json()["items"]
        assert [row["source"] for row in history] == ["api"]


def test_what_was_done_once_is_not_done_for_the_next_out(tmp_path: Path) -> None:
    """No export was ever brought: only staff know what stands at Timely."""
    with clinic(tmp_path, work=True) as made:
        amy = made.service.say(AMY)["subject_id"]
        eventually(lambda: made.tasks())
        (task,) = made.tasks()
        made.service.post(f"/v1/tasks/{task['id']}", {"state": "done", "note": "by hand"})
        eventually(lambda: made.outcomes(amy)["email"] == "accepted")
        evidence = {"actor": "Clara", "note": "asked for news again", "wording": "Yes please"}
        now = made.service.runtime.clock().isoformat()
        made.service.say(AMY, "in", "staff", basis="consent", evidence=evidence, occurred_at=now)
        eventually(lambda: made.service.reason(AMY) == "consent")
        time.sleep(1.1)  # permission rows know whole seconds
        made.service.say(AMY)
        eventually(lambda: made.tasks())
        (again,) = made.tasks()
        assert again["id"] != task["id"]
        assert made.outcomes(amy)["email"] == "waiting_for_staff"


def test_an_export_that_shows_on_against_an_out_is_new_work(tmp_path: Path) -> None:
    with clinic(tmp_path, work=True) as made:
        amy = made.service.say(AMY)["subject_id"]
        eventually(lambda: made.tasks())
        (task,) = made.tasks()
        made.service.post(f"/v1/tasks/{task['id']}", {"state": "done", "note": "forgot to"})
        eventually(lambda: made.outcomes(amy)["email"] == "accepted")
        made.bring(made.twin.export(), "--apply")
        eventually(lambda: made.outcomes(amy)["email"] == "waiting_for_staff")
        (again,) = made.tasks()
        assert again["id"] != task["id"]
        assert again["body"]["customer_id"] == "7"


def test_a_list_brought_back_ticks_what_is_done(tmp_path: Path) -> None:
    with clinic(tmp_path, work=True) as made:
        amy = made.service.say(AMY)["subject_id"]
        made.service.say("ben@example.com")
        eventually(lambda: len(made.tasks()) == 2)
        rows = list(csv.DictReader(io.StringIO(made.list_of_tasks())))
        done = next(row for row in rows if row["email"] == AMY)
        done |= {"done_at": "2026-11-24", "done_by": "Clara"}
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        made.bring(out.getvalue().encode(), "--apply")
        eventually(lambda: made.outcomes(amy)["email"] == "accepted")
        assert [task["body"]["email"] for task in made.tasks()] == ["ben@example.com"]


def test_off_there_is_an_out_here(tmp_path: Path) -> None:
    with clinic(tmp_path, work=True) as made:
        made.service.consent(AMY)
        made.bring(made.twin.export(), "--apply")
        made.twin.staff_sets("7", "email", False)
        answer = made.bring(made.twin.export(), code=1)
        (one,) = [d for d in answer["differences"] if d["channel"] == "email"]
        assert (one["direction"], one["ours"], one["theirs"]) == ("take", "on", "off")
        assert made.service.reason(AMY) == "consent"
        made.bring(made.twin.export(), "--apply")
        assert made.service.reason(AMY) == "opted_out"


def test_somebody_a_complete_export_does_not_show_is_no_work(tmp_path: Path) -> None:
    with clinic(tmp_path, work=True) as made:
        made.bring(made.twin.export(), "--apply")
        ben = made.service.say("ben@example.com")["subject_id"]
        eventually(lambda: made.outcomes(ben).get("email") == "absent")
        assert made.tasks() == []
        made.twin.new_customer("8", "Ben", "", "ben@example.com", "")
        made.bring(made.twin.export(), "--apply")
        eventually(lambda: made.outcomes(ben).get("email") == "waiting_for_staff")


def test_an_export_that_cannot_be_read_whole_shows_nobody_to_be_gone(tmp_path: Path) -> None:
    """AMY stands in it, in words that nobody knows: her opt-out is still work for staff."""
    with clinic(tmp_path, work=True) as made:
        amy = made.service.say(AMY)["subject_id"]
        eventually(lambda: made.tasks())
        broken = made.twin.export().replace(b"Yes,Yes", b"Yes,As asked")
        answer = made.bring(broken, "--apply", code=75)
        assert answer["targets"][0]["complete"] is False
        made.service.say("ben@example.com")
        eventually(lambda: len(made.tasks()) == 2)
        assert made.outcomes(amy)["email"] == "waiting_for_staff"


def test_a_customer_whom_two_complete_exports_lack_is_no_work_any_more(tmp_path: Path) -> None:
    with clinic(tmp_path, work=True) as made:
        made.bring(made.twin.export(), "--apply")
        amy = made.service.say(AMY)["subject_id"]
        eventually(lambda: made.tasks())
        made.twin.new_customer("8", "Ben", "", "ben@example.com", "")
        made.twin.deletes("7")
        for _ in range(2):
            made.bring(made.twin.export(), "--apply")
        eventually(lambda: made.outcomes(amy)["email"] == "absent")
        assert made.tasks() == []
        made.twin.new_customer("9", "Amy", "", AMY, "")
        made.bring(made.twin.export(), "--apply")
        eventually(lambda: made.outcomes(amy)["email"] == "waiting_for_staff")
        (task,) = made.tasks()
        assert task["body"]["customer_id"] == "9"


def test_a_customer_whom_staff_do_not_find_waits_for_the_next_export(tmp_path: Path) -> None:
    with clinic(tmp_path, work=True) as made:
        ben = made.service.say("ben@example.com")["subject_id"]
        eventually(lambda: made.tasks())
        (task,) = made.tasks()
        settled = {"state": "not_found", "note": "no such customer"}
        assert made.service.post(f"/v1/tasks/{task['id']}", settled).status_code == 200
        eventually(lambda: made.outcomes(ben)["email"] == "absent")
        assert made.tasks() == []
        made.twin.new_customer("8", "Ben", "", "ben@example.com", "")
        made.bring(made.twin.export(), "--apply")
        eventually(lambda: made.outcomes(ben)["email"] == "waiting_for_staff")
        (again,) = made.tasks()
        assert again["id"] != task["id"]


def test_a_choice_taken_back_closes_the_task(tmp_path: Path) -> None:
    with clinic(tmp_path, work=True) as made:
        made.service.say(AMY)
        eventually(lambda: made.tasks())
        evidence = {"actor": "Clara", "note": "asked for news again", "wording": "Yes please"}
        now = made.service.runtime.clock().isoformat()
        made.service.say(AMY, "in", "staff", basis="consent", evidence=evidence, occurred_at=now)
        eventually(lambda: not made.tasks())
        assert len(made.tasks("closed")) == 1


def test_a_file_that_lacks_a_column_is_refused_whole(tmp_path: Path) -> None:
    with clinic(tmp_path, work=False) as made:
        output = made.bring(b"Email,Mobile\namy@example.com,\n", "--apply", code=1)
        assert "receive sms marketing" in output


def test_a_file_that_is_no_table_is_refused_plainly(tmp_path: Path) -> None:
    with clinic(tmp_path, work=False) as made:
        output = made.bring(b'task_id,done_at\n"' + b"x" * 140_000, "--apply", code=1)
        assert "is no CSV" in output


def test_an_id_of_our_own_is_shown_to_no_staff(tmp_path: Path) -> None:
    """The export may come without ids."""
    columns = "".join(f'{ours} = "{theirs}"\n' for ours, theirs in COLUMNS.items() if ours != "id")
    plain = TARGETS[: TARGETS.index("columns =")] + f"[brands.rt.targets.timely.columns]\n{columns}"
    with served(tmp_path, plain, work=True, environ=ENVIRON) as service:
        made = Clinic(tmp_path, service, TimelyTwin())
        made.twin.new_customer("7", "Amy", "Pond", AMY, "")
        bare = b"\n".join(row.partition(b",")[2] for row in made.twin.export().split(b"\n"))
        made.bring(bare, "--apply")
        service.say(AMY)
        eventually(lambda: made.tasks())
        (task,) = made.tasks()
        assert (task["body"]["email"], task["body"]["customer_id"]) == (AMY, "")


@pytest.mark.parametrize("key", ["", "?key=wrong"])
def test_the_hook_wants_its_key(tmp_path: Path, key: str) -> None:
    with clinic(tmp_path, work=False) as made:
        answer = made.service.client.post(f"/webhooks/timely/rt/timely{key}", json={})
        assert answer.status_code == 401


def test_a_flag_that_is_off_counts_and_one_that_is_on_does_not(tmp_path: Path) -> None:
    with clinic(tmp_path, work=False) as made:
        hook = "/webhooks/timely/rt/timely?key=a%20key%20of%20the%20hook"
        off = {"Customer ID": "7", "Email": AMY, "Receive email marketing": "No"}
        on = {"Customer ID": "8", "Email": "ben@example.com", "Receive email marketing": "Yes"}
        for body in (off, on):
            assert made.service.client.post(hook, json=body).status_code == 200
        assert made.service.client.post(hook, data=off).status_code == 200
        assert made.service.reason(AMY) == "opted_out"
        assert made.service.reason("ben@example.com") == "no_basis"
