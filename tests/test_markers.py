"""Google Contacts and Pipedrive through the whole service: what staff see there follows, and what
they do there is heard."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from prefs.core import identity
from prefs.core.words import Channel, Source
from prefs.store import ledger, subjects
from tests.served import Served, eventually, listening
from tests.twins.google import GoogleTwin
from tests.twins.kit import Travel, running
from tests.twins.pipedrive import PipedriveTwin

ADA, BOB, CAT = "ada@example.com", "bob@example.com", "cat@example.com"
NUMBER = "+447700900101"
POLLS = {"PREFS__WORKER__POLL_EVERY": "200ms"}
LABEL = "No marketing - email"
GOOGLE = """
[brands.rt.targets.google]
system = "google"
mode = "{mode}"
base_url = "{url}"
client_id = "twin-client"
client_secret = "env:GOOGLE_SECRET"
refresh_token = "env:GOOGLE_REFRESH"
limit = "1000/1s"
"""
PIPEDRIVE = """
[brands.rt.targets.pipedrive]
system = "pipedrive"
mode = "{mode}"
base_url = "{url}"
token = "env:PIPEDRIVE"
campaigns = true
webhook_user = "twin-hook"
webhook_password = "env:PIPEDRIVE_HOOK"
limit = "1000/1s"
"""


def sources(rt: Served, email: str) -> set[str]:
    """Where the outs of an address came from."""

    def look(conn: Any) -> set[str]:
        hash_ = rt.runtime.keys.hash(identity.email(email))
        (owner,) = subjects.owners(conn, "rt", [hash_])
        return {row.source for row in ledger.history(conn, owner) if row.choice == "out"}

    return rt.runtime.database.read_now(look)


def outcome(rt: Served, subject: str, channel: str) -> str | None:
    items = rt.get(f"/v1/subjects/{subject}/targets").json()["items"]
    return next((one["outcome"] for one in items if one["channel"] == channel), None)


def quiet(rt: Served) -> bool:
    return not any(one["backlog"] for one in rt.get("/v1/targets").json()["items"])


# --- Google Contacts -----------------------------------------------------------------------------


@contextmanager
def with_google(folder: Path, twin: GoogleTwin, url: str, mode: str = "live") -> Iterator[Served]:
    environ = {"GOOGLE_SECRET": twin.client_secret, "GOOGLE_REFRESH": twin.refresh_token, **POLLS}
    with listening(folder, GOOGLE.format(url=url, mode=mode), environ=environ) as made:
        yield made


@pytest.fixture
def google(hold_to_specs: object) -> Iterator[tuple[GoogleTwin, str]]:
    with running(GoogleTwin()) as (twin, url):
        twin.configure(windows=[])
        twin.new_label("Appointments")
        for email in (ADA, BOB):
            twin.new_contact(email, labels=["Appointments"])
        yield twin, url
        assert twin.touched() <= {f"No marketing - {channel.value}" for channel in Channel}
        assert (twin.dangers, twin.parallel_writes) == ([], 0)


def test_a_label_follows_an_out_and_comes_back_when_staff_remove_it(
    google: tuple[GoogleTwin, str], tmp_path: Path
) -> None:
    twin, url = google
    with with_google(tmp_path, twin, url) as rt:
        ada = rt.say(ADA)["subject_id"]
        eventually(lambda: LABEL in twin.labels(ADA))
        eventually(lambda: outcome(rt, ada, "email") == "recorded")
        twin.staff_removes_label(ADA, LABEL)
        eventually(lambda: LABEL in twin.labels(ADA))
        assert rt.reason(ADA) == "opted_out"
        again = twin.new_contact(ADA.upper())
        eventually(lambda: again in {write.person for write in twin.state.writes})
        assert twin.labels(BOB) == {"Appointments"}


def test_a_label_that_staff_put_on_is_an_out_and_one_that_goes_is_no_in(
    google: tuple[GoogleTwin, str], tmp_path: Path
) -> None:
    twin, url = google
    with with_google(tmp_path, twin, url) as rt:
        rt.consent(BOB)
        eventually(lambda: quiet(rt))
        twin.staff_labels(BOB, LABEL)
        eventually(lambda: rt.reason(BOB) == "opted_out")
        assert sources(rt, BOB) == {Source.VENDOR_API}
        twin.staff_removes_label(BOB, LABEL)
        eventually(lambda: LABEL in twin.labels(BOB))
        assert rt.reason(BOB) == "opted_out"
        assert rt.reason(ADA) == "no_basis"


def test_nothing_is_written_at_google_before_go_live(
    google: tuple[GoogleTwin, str], tmp_path: Path
) -> None:
    twin, url = google
    with with_google(tmp_path, twin, url, "observe") as rt:
        rt.say(ADA)
        twin.staff_labels(BOB, LABEL)
        eventually(lambda: rt.reason(BOB) == "opted_out")
        assert [call for call in twin.writes() if call.path != "/token"] == []
    with with_google(tmp_path, twin, url) as rt:
        eventually(lambda: LABEL in twin.labels(ADA))
        assert rt.reason(BOB) == "opted_out"


# --- Pipedrive -----------------------------------------------------------------------------------


@contextmanager
def with_pipedrive(
    folder: Path, twin: PipedriveTwin, url: str, mode: str = "live"
) -> Iterator[Served]:
    environ = {"PIPEDRIVE": twin.token, "PIPEDRIVE_HOOK": twin.webhook_password, **POLLS}
    with listening(folder, PIPEDRIVE.format(url=url, mode=mode), environ=environ) as made:
        public = made.runtime.settings.public_url
        twin.configure(webhook_url=f"{public}/webhooks/pipedrive/rt/pipedrive")
        yield made
        twin.configure(webhook_url="")


@pytest.fixture
def pipedrive(hold_to_specs: object) -> Iterator[tuple[PipedriveTwin, str]]:
    with running(PipedriveTwin()) as (twin, url):
        twin.configure(windows=[[1000, 2.0]], gaps=[0.05])
        twin.new_field("Appointment reminders", ["By email", "None"])
        for email, status in ((ADA, "subscribed"), (BOB, "subscribed"), (CAT, "no_consent")):
            twin.new_person(emails=[email], status=status)
        yield twin, url
        ours = {"marketing_status", *(f"Marketing - {channel.value}" for channel in Channel)}
        assert {write.key for write in twin.state.writes} <= ours


def test_an_out_reaches_every_person_and_the_copy_for_staff(
    pipedrive: tuple[PipedriveTwin, str], tmp_path: Path
) -> None:
    twin, url = pipedrive
    other = twin.new_person(emails=["other@example.com", ADA], status="subscribed")
    with with_pipedrive(tmp_path, twin, url) as rt:
        ada = rt.say(ADA)["subject_id"]
        eventually(lambda: twin.status(ADA) == twin.status("other@example.com") == "unsubscribed")
        eventually(lambda: outcome(rt, ada, "email") == "confirmed")
        assert twin.option(other, "Marketing - email") == "Opted out"
        assert twin.status(BOB) == "subscribed"


def test_what_a_person_does_there_is_their_own_and_never_consent(
    pipedrive: tuple[PipedriveTwin, str], tmp_path: Path
) -> None:
    twin, url = pipedrive
    with with_pipedrive(tmp_path, twin, url) as rt:
        rt.consent(BOB)
        eventually(lambda: quiet(rt))
        eventually(lambda: [call for call in twin.calls if call.path == "/api/v2/persons"])
        twin.person_unsubscribes(BOB)
        eventually(lambda: rt.reason(BOB) == "opted_out")
        assert sources(rt, BOB) == {Source.VENDOR_PERSON}
        twin.person_subscribes(CAT)
        eventually(lambda: quiet(rt))
        assert rt.reason(CAT) == "no_basis"


def test_an_out_that_pipedrive_keeps_in_silence_is_work_for_staff(
    pipedrive: tuple[PipedriveTwin, str], tmp_path: Path
) -> None:
    """It allows the step once; then somebody turned her on again."""
    twin, url = pipedrive
    with with_pipedrive(tmp_path, twin, url) as rt:
        ada = rt.say(ADA)["subject_id"]
        eventually(lambda: outcome(rt, ada, "email") == "confirmed")
        twin.staff_sets_status(ADA, "subscribed")
        eventually(lambda: outcome(rt, ada, "email") == "refused")
        time.sleep(1.2)  # six polls, and the webhooks of our own writes
        assert outcome(rt, ada, "email") == "refused"
        assert len([call for call in twin.writes() if call.method == "PATCH"]) <= 1 + 4 + 1
        assert not rt.get("/v1/tasks?kind=push_back_fight").json()["items"]
        (task,) = rt.get("/v1/tasks?kind=refused&state=open").json()["items"]
        assert "kept the old status" in task["body"]["instruction"]
        twin.staff_sets_status(ADA, "unsubscribed")
        eventually(lambda: not rt.get("/v1/tasks?kind=refused&state=open").json()["items"])
        eventually(lambda: outcome(rt, ada, "email") == "confirmed")


def test_a_webhook_that_is_lost_is_made_good_by_the_poll(
    pipedrive: tuple[PipedriveTwin, str], tmp_path: Path
) -> None:
    twin, url = pipedrive
    with with_pipedrive(tmp_path, twin, url) as rt:
        eventually(lambda: [call for call in twin.calls if call.path == "/api/v2/persons"])
        twin.person_unsubscribes(BOB, travel=Travel(drop=True))
        eventually(lambda: rt.reason(BOB) == "opted_out")


def test_nothing_is_written_at_pipedrive_before_go_live(
    pipedrive: tuple[PipedriveTwin, str], tmp_path: Path
) -> None:
    twin, url = pipedrive
    with with_pipedrive(tmp_path, twin, url, "observe") as rt:
        rt.say(ADA)
        twin.person_unsubscribes(BOB)
        eventually(lambda: rt.reason(BOB) == "opted_out")
        assert twin.writes() == []
    with with_pipedrive(tmp_path, twin, url) as rt:
        eventually(lambda: twin.status(ADA) == "unsubscribed")
        # What the first service read as it was stopped is trusted after `call_alive`: 30 s.
        eventually(lambda: quiet(rt))
        assert twin.status(CAT) == "no_consent"
