"""prefs sync over real twins: it lists exactly what differs, repairs it, and then finds nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from prefs.cli import main
from prefs.core import identity
from prefs.core.signals import Evidence, Signal, Statement
from prefs.core.words import Basis, Channel, Choice, Purpose, Scope, Source
from tests.served import configure, opened
from tests.twins.hubspot import HubspotTwin
from tests.twins.kit import running
from tests.twins.mailchimp import MailchimpTwin

PEOPLE = 300
EMAIL = Scope(Channel.EMAIL, Purpose.MARKETING)
TARGETS = """
[brands.rt.targets.mailchimp]
system = "mailchimp"
mode = "live"
base_url = "{mailchimp}"
api_key = "env:MAILCHIMP"
audiences = {{ a1 = ["treatments", "products", "offers", "competitions", "news"] }}
[brands.rt.targets.hubspot]
system = "hubspot"
mode = "live"
base_url = "{hubspot}"
token = "env:HUBSPOT"
types = {{ 101 = "*" }}
reminder_types = ["900"]
"""


def address(number: int) -> str:
    return f"p{number}@example.com"


@dataclass
class Clinic:
    folder: Path
    mailchimp: MailchimpTwin
    hubspot: HubspotTwin
    environ: dict[str, str]

    def invoke(self, *args: str) -> Result:
        environ = {**self.environ, "PREFS_CONFIG": str(self.folder / "prefs.toml")}
        return CliRunner().invoke(main, ["sync", *args, "--json"], env=environ)

    def sync(self, *args: str, code: int) -> Any:
        done = self.invoke(*args)
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)

    def found(self, *args: str, code: int = 1) -> Counter[tuple[str, str]]:
        items = self.sync(*args, code=code)["differences"]
        return Counter((one["target"], one["direction"]) for one in items)


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    """Everybody consented, and both vendors have everybody on."""
    with ExitStack() as stack:
        mailchimp, u1 = stack.enter_context(running(MailchimpTwin()))
        hubspot, u2 = stack.enter_context(running(HubspotTwin()))
        mailchimp.new_audience("a1")
        hubspot.enterprise = True
        hubspot.new_type("101", "News")
        hubspot.new_type("900", "Reminders", purpose="reminders")
        for number in range(PEOPLE):
            mailchimp.new_member("a1", address(number))
            subscribed = {"101": "SUBSCRIBED", "900": "SUBSCRIBED"}
            hubspot.new_contact(address(number), statuses=subscribed)
        environ = {
            "MAILCHIMP": mailchimp.api_key,
            "HUBSPOT": hubspot.token,
            "PREFS_TEST_KEY": "a secret of thirty-two bytes or more",
        }
        made = Clinic(tmp_path, mailchimp, hubspot, environ)
        consent(made, TARGETS.format(mailchimp=u1, hubspot=u2))
        yield made
        assert not hubspot.api_changes_of_reminders()


def consent(clinic: Clinic, targets: str) -> None:
    from prefs.app import utc_now

    configure(clinic.folder, targets)
    runtime = opened(clinic.folder, targets, clinic.environ, utc_now)
    try:
        runtime.database.write_now(
            lambda conn: [
                runtime.intake.record(
                    conn,
                    Signal(
                        "rt",
                        Source.API,
                        (Statement(EMAIL, Choice.IN),),
                        (identity.email(address(number)),),
                        basis=Basis.CONSENT,
                        evidence=Evidence(wording="Yes please"),
                    ),
                )
                for number in range(PEOPLE)
            ]
        )
    finally:
        runtime.close()


def test_it_lists_exactly_what_differs_repairs_it_and_is_quiet_then(clinic: Clinic) -> None:
    assert clinic.found("--apply", code=0) == {}
    for number in range(5):
        clinic.mailchimp.person_unsubscribes("a1", address(number))
    for number in range(10, 14):
        clinic.hubspot.person_unsubscribes(address(number), "101")
    clinic.mailchimp.new_member("a1", "stranger@example.com")
    wanted = {
        ("rt/mailchimp", "take"): 5,
        ("rt/mailchimp", "unknown"): 1,
        ("rt/hubspot", "take"): 4,
    }
    assert clinic.found() == wanted
    assert clinic.found() == wanted, "reading changes nothing"
    assert clinic.found("--apply", code=0) == wanted
    for number in (*range(5), *range(10, 14)):
        assert clinic.mailchimp.member("a1", address(number)).status == "unsubscribed"
        assert clinic.hubspot.status(address(number), "101") == "UNSUBSCRIBED"
    assert clinic.found(code=0) == {}


def test_an_on_against_an_out_is_to_be_pushed(clinic: Clinic) -> None:
    clinic.found("--apply", code=0)
    clinic.mailchimp.person_unsubscribes("a1", address(1))
    clinic.found("--apply", code=0)
    clinic.hubspot.admin_sets(address(1), "101", "SUBSCRIBED")
    assert clinic.found() == {("rt/hubspot", "push"): 1}
    clinic.found("--apply", code=0)
    assert clinic.hubspot.status(address(1), "101") == "UNSUBSCRIBED"


def test_one_target_alone(clinic: Clinic) -> None:
    clinic.mailchimp.person_unsubscribes("a1", address(1))
    clinic.hubspot.person_unsubscribes(address(2), "101")
    assert clinic.found("hubspot") == {("rt/hubspot", "take"): 1}


def test_a_vendor_that_cannot_be_read_is_no_empty_one(clinic: Clinic) -> None:
    clinic.hubspot.faults.add("down", times=None)
    answer = clinic.sync("hubspot", code=75)
    (report,) = answer["targets"]
    assert report["error"]
    assert report["complete"] is False


def test_it_waits_for_another_try(clinic: Clinic) -> None:
    clinic.hubspot.person_unsubscribes(address(1), "101")
    clinic.mailchimp.faults.add("status", method="PATCH", status=503, times=7)
    clinic.environ |= {"PREFS__WORKER__FIRST_RETRY": "2s", "PREFS__WORKER__MAX_RETRY": "4s"}
    assert clinic.found("--apply", code=0) == {("rt/hubspot", "take"): 1}
    assert clinic.mailchimp.member("a1", address(1)).status == "unsubscribed"


def test_what_could_not_be_carried_is_told(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefs.cli.NEXT_TRY_WITHIN", 0.0)
    clinic.hubspot.person_unsubscribes(address(1), "101")
    clinic.mailchimp.faults.add("status", method="PATCH", status=503, times=None)
    said = clinic.invoke("--apply")
    assert said.exit_code == 75
    assert "opt-outs not carried yet: 1" in said.output


def test_it_names_nobody(clinic: Clinic) -> None:
    clinic.mailchimp.person_unsubscribes("a1", "p1@example.com")
    assert "p1@example.com" not in json.dumps(clinic.sync(code=1))
