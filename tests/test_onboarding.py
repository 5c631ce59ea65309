"""Taking over a running clinic, over real twins: who is in which group, and what follows."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from prefs.cli import main
from prefs.core.propagation import Page, Value
from prefs.core.words import Source
from prefs.onboarding import Survey, record, walk
from prefs.scan import Scan
from tests import kit
from tests.served import Served, configure, eventually, listening, served
from tests.twins.activecampaign import ActiveCampaignTwin
from tests.twins.hubspot import HubspotTwin
from tests.twins.kit import Twin, running
from tests.twins.mailchimp import MailchimpTwin
from tests.twins.pabau import PabauTwin
from tests.twins.timely import COLUMNS, TimelyTwin

pytestmark = pytest.mark.told_on("sqlite")

PROVED, DEFAULT, UNKNOWN = 2900, 900, 400
OUT = 60
"""Out in one system and on in another: 40 of the proved, 15 of the defaults, 5 of the unknown."""
TARGETS = """
[brands.rt.targets.mailchimp]
system = "mailchimp"
mode = "{mode}"
base_url = "{mailchimp}"
api_key = "env:MAILCHIMP"
audiences = {{ a1 = ["treatments", "products", "offers", "competitions", "news"] }}
[brands.rt.targets.hubspot]
system = "hubspot"
mode = "{mode}"
base_url = "{hubspot}"
token = "env:HUBSPOT"
types = {{ 101 = "*" }}
limit = "4000/10s"
[brands.rt.targets.pabau]
system = "pabau"
mode = "{mode}"
base_url = "{pabau}"
api_key = "env:PABAU"
encoding = "json"
limit = "1000/1s"
[brands.rt.targets.activecampaign]
system = "activecampaign"
mode = "{mode}"
base_url = "{activecampaign}"
api_key = "env:ACTIVECAMPAIGN"
marketing_lists = {{ 1 = ["treatments", "products", "offers", "competitions", "news"] }}
limit = "1000/1s"
"""
SIGNED_UP = datetime(2025, 3, 1, 9, 0, tzinfo=UTC)


def address(number: int) -> str:
    return f"p{number}@example.com"


@dataclass
class Clinic:
    folder: Path
    mailchimp: MailchimpTwin
    hubspot: HubspotTwin
    pabau: PabauTwin
    campaign: ActiveCampaignTwin
    urls: dict[str, str]
    environ: dict[str, str]

    @property
    def twins(self) -> list[Twin[Any]]:
        return [self.mailchimp, self.hubspot, self.pabau, self.campaign]

    def targets(self, mode: str) -> str:
        return TARGETS.format(mode=mode, **self.urls)

    def onboard(self, *args: str, code: int = 0) -> Any:
        environ = {**self.environ, "PREFS_CONFIG": str(self.folder / "prefs.toml")}
        command = ["onboard", *args, "--brand", "rt", "--json"]
        done = CliRunner().invoke(main, command, env=environ)
        assert done.exit_code == code, done.output
        return json.loads(done.stdout) if code == 0 else done.stderr

    def told(self, *args: str) -> tuple[int, Any]:
        """Exit code and report of a run that did not go well."""
        environ = {**self.environ, "PREFS_CONFIG": str(self.folder / "prefs.toml")}
        command = ["onboard", *args, "--brand", "rt", "--json"]
        done = CliRunner().invoke(main, command, env=environ)
        return done.exit_code, json.loads(done.stdout)

    def people(self, *args: str) -> dict[str, int]:
        """Groups of the e-mail channel, those with nobody left out."""
        found = self.onboard(*args)["channels"]["email"]["people"]
        return {group: count for group, count in found.items() if count}

    def written(self) -> list[Any]:
        """Calls that may change something; HubSpot is read by POST, too."""
        calls = [call for twin in self.twins for call in twin.writes()]
        return [call for call in calls if not call.path.endswith("/read")]

    def look(self) -> Any:
        """The service without its worker."""
        return served(self.folder, self.targets("observe"), environ=self.environ)


def clinic_of(folder: Path, stack: ExitStack) -> Clinic:
    mailchimp, hubspot, pabau = MailchimpTwin(), HubspotTwin(), PabauTwin()
    campaign = ActiveCampaignTwin()
    made: dict[str, Twin[Any]] = {
        "mailchimp": mailchimp,
        "hubspot": hubspot,
        "pabau": pabau,
        "activecampaign": campaign,
    }
    urls = {name: stack.enter_context(running(twin))[1] for name, twin in made.items()}
    for twin in (hubspot, pabau, campaign):
        twin.limits.windows = ()
    environ = {
        "MAILCHIMP": mailchimp.api_key,
        "HUBSPOT": hubspot.token,
        "PABAU": pabau.api_key,
        "ACTIVECAMPAIGN": campaign.token,
        "PREFS_TEST_KEY": "a secret of thirty-two bytes or more",
    }
    mailchimp.new_audience("a1")
    hubspot.new_type("101", "News")
    campaign.new_list("1", "Newsletter")
    clinic = Clinic(folder, mailchimp, hubspot, pabau, campaign, urls, environ)
    configure(folder, clinic.targets("observe"))
    return clinic


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Clinic]:
    with ExitStack() as stack:
        yield clinic_of(tmp_path, stack)


@pytest.fixture
def clinic(empty: Clinic) -> Clinic:
    """The 4,200."""
    for number in range(PROVED):
        sign_up(empty, address(number))
    for number in range(PROVED, PROVED + DEFAULT):
        by_default(empty, address(number))
    for number in range(PROVED + DEFAULT, PROVED + DEFAULT + UNKNOWN):
        empty.campaign.new_contact(address(number), statuses={"1": "1"})
    outs = [*range(40), *range(PROVED, PROVED + 15), *range(PROVED + DEFAULT, PROVED + DEFAULT + 5)]
    for number in outs:
        empty.hubspot.new_contact(address(number))
        empty.hubspot.person_unsubscribes(address(number), "101")
    for twin in empty.twins:
        twin.calls.clear()
    assert len(outs) == OUT
    return empty


def sign_up(clinic: Clinic, email: str) -> None:
    """By a form of Mailchimp's, which keeps when and from where."""
    clinic.mailchimp.new_member(
        "a1",
        email,
        source="Hosted Signup Form",
        timestamp_signup=SIGNED_UP,
        ip_signup="192.0.2.7",
        timestamp_opt=SIGNED_UP,
        ip_opt="192.0.2.7",
    )


def by_default(clinic: Clinic, email: str) -> None:
    flags = {"opt_in_sms": 0, "opt_in_phone": 0, "opt_in_post": 0}
    clinic.pabau.new_client(email, flags=flags)


GROUPS = {
    "out": OUT,
    "proved": PROVED - 40,
    "unknown": UNKNOWN - 5,
    "default": DEFAULT - 15,
}


@pytest.mark.timeout(300)
def test_a_running_clinic_is_sorted_taken_over_and_goes_live(clinic: Clinic) -> None:
    report = clinic.onboard()
    found = report["channels"]["email"]
    assert {group: count for group, count in found["people"].items() if count} == GROUPS
    assert {group: count for group, count in found["shown"].items() if count} == {
        "proved": PROVED,
        "unknown": UNKNOWN,
        "default": DEFAULT,
    }
    assert all(one["complete"] for one in report["targets"])
    with clinic.look() as rt:
        assert rt.reason(address(50)) == "no_basis", "a dry run writes nothing"

    assert clinic.people("--apply") == GROUPS
    assert clinic.written() == [], "nothing is written to any system before go-live"
    with clinic.look() as rt:
        asked = {"out": 3, "proved": 50, "default": PROVED + 50, "unknown": PROVED + DEFAULT + 50}
        assert {group: rt.reason(address(number)) for group, number in asked.items()} == {
            "out": "opted_out",
            "proved": "consent",
            "default": "no_basis",
            "unknown": "no_basis",
        }
        assert allowed(rt) == PROVED - 40, "no default and no unknown list became consent"
        (row,) = evidence(rt, address(50))
        assert row["evidence"]["kind"] == "vendor_record"
        assert row["evidence"]["proof"]["at"] == "2025-03-01T09:00:00Z"

    again = {**GROUPS, "known": GROUPS["proved"]}
    del again["proved"]
    assert clinic.people("--apply") == again, "a second run records nothing twice"
    goes_live(clinic)


def allowed(rt: Served) -> int:
    total = PROVED + DEFAULT + UNKNOWN
    body = {"brand": "rt", "channel": "email", "purpose": "marketing"}
    answer = rt.post("/v1/check", {**body, "to": [address(n) for n in range(total)]})
    return sum(one["allowed"] for one in answer.json()["results"])


def evidence(rt: Served, email: str) -> list[dict[str, Any]]:
    found = rt.post("/v1/subjects/search", {"brand": "rt", "email": email}).json()["items"]
    history = rt.get(f"/v1/subjects/{found[0]['subject_id']}/history").json()["items"]
    return [row for row in history if row["choice"] == "in" and row["result"] == "applied"]


def goes_live(clinic: Clinic) -> None:
    """Everybody out is off everywhere; nobody else is changed anywhere."""
    mailchimp, pabau, campaign = clinic.mailchimp, clinic.pabau, clinic.campaign
    first, last = PROVED, PROVED + DEFAULT

    def off() -> bool:
        return (
            all(mailchimp.member("a1", address(n)).status == "unsubscribed" for n in range(40))
            and all(
                pabau.flags(pabau.with_email(address(n))[0])["opt_in_email"] == 0
                for n in range(first, first + 15)
            )
            and all(campaign.status(address(n), "1") == "2" for n in range(last, last + 5))
        )

    with listening(clinic.folder, clinic.targets("live"), environ=clinic.environ):
        eventually(off)
    left = [mailchimp.member("a1", address(n)).status for n in range(40, PROVED)]
    assert set(left) == {"subscribed"}
    flags = [pabau.flags(pabau.with_email(address(n))[0]) for n in range(first + 15, last)]
    assert {one["opt_in_email"] for one in flags} == {1}
    rest = [campaign.status(address(n), "1") for n in range(last + 5, last + UNKNOWN)]
    assert set(rest) == {"1"}


# --- attestation -------------------------------------------------------------------------------

ATTESTED = (
    "--owner",
    "the owner",
    "--basis",
    "consent",
    "--wording",
    "Yes, send me news",
    "--since",
    "2023-01-01",
    "--until",
    "2025-12-31",
)


def test_a_named_owner_answers_for_one_list(empty: Clinic) -> None:
    for number in range(3):
        empty.campaign.new_contact(address(number), statuses={"1": "1"})
    empty.hubspot.new_contact(address(0))
    empty.hubspot.person_unsubscribes(address(0), "101")
    by_default(empty, address(9))
    report = empty.onboard("activecampaign", "--attest", "1", *ATTESTED)
    assert report["channels"]["email"]["people"]["attested"] == 2
    assert report["attested_for_ever"] == 0
    report = empty.onboard("activecampaign", "--attest", "1", *ATTESTED, "--apply")
    assert report["attested_for_ever"] == 2
    with empty.look() as rt:
        assert [rt.reason(address(n)) for n in (0, 1, 2, 9)] == [
            "opted_out",
            "consent",
            "consent",
            "no_basis",
        ]
        (row,) = evidence(rt, address(1))
        said = row["evidence"]
        assert (said["kind"], said["actor"]) == ("attested", "the owner")
        assert "2023-01-01" in said["note"]
    assert empty.onboard()["attested_for_ever"] == 2
    assert empty.written() == []


def test_a_list_filled_by_the_vendor_cannot_be_attested(empty: Clinic) -> None:
    by_default(empty, address(1))
    said = empty.onboard("pabau", "--attest", "opt_in_email", *ATTESTED, "--apply", code=1)
    assert "by itself" in said or "has no list" in said
    with empty.look() as rt:
        assert rt.reason(address(1)) == "no_basis"


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("--attest", "1", *ATTESTED), 2, "name the TARGET"),
        (("activecampaign", "--attest", "1", *ATTESTED[:4]), 2, "--wording"),
        (("activecampaign", "--attest", "77", *ATTESTED), 1, "has no list 77"),
        (("nonsense",), 2, "name the TARGET"),
        (
            (
                "activecampaign",
                "--attest",
                "1",
                *ATTESTED[:3],
                "legitimate_interest",
                *ATTESTED[4:],
            ),
            1,
            "no basis for email",
        ),
    ],
)
def test_a_wrong_attestation_says_what_is_wrong(
    empty: Clinic, args: tuple[str, ...], code: int, says: str
) -> None:
    assert says in empty.onboard(*args, code=code)


# --- what is not known -------------------------------------------------------------------------


def test_a_proof_that_only_a_read_shows_is_read(empty: Clinic) -> None:
    hubspot = empty.hubspot
    hubspot.new_contact(address(1))
    hubspot.person_subscribes(address(1), "101")
    hubspot.new_contact(address(2), statuses={"101": "SUBSCRIBED"})
    assert empty.people("--apply") == {"proved": 1, "unknown": 1}
    with empty.look() as rt:
        assert (rt.reason(address(1)), rt.reason(address(2))) == ("consent", "no_basis")


def test_a_system_that_cannot_be_read_is_said_to_be_unread(empty: Clinic) -> None:
    sign_up(empty, address(1))
    empty.hubspot.faults.add("down", times=None)
    environ = {**empty.environ, "PREFS_CONFIG": str(empty.folder / "prefs.toml")}
    done = CliRunner().invoke(main, ["onboard", "--brand", "rt", "--json"], env=environ)
    assert done.exit_code == 75
    by_name = {one["target"]: one for one in json.loads(done.stdout)["targets"]}
    assert by_name["rt/hubspot"]["error"]
    assert by_name["rt/hubspot"]["complete"] is False
    assert by_name["rt/mailchimp"]["complete"] is True


def test_no_consent_is_taken_in_while_a_system_that_may_say_out_is_unread(empty: Clinic) -> None:
    sign_up(empty, address(1))
    empty.hubspot.new_contact(address(1))
    empty.hubspot.person_unsubscribes(address(1), "101")
    empty.hubspot.faults.add("down", times=None)
    code, report = empty.told("--apply")
    assert (code, report["unread"]) == (75, ["email"])
    with empty.look() as rt:
        assert rt.reason(address(1)) == "no_basis"
    empty.hubspot.faults.clear()
    assert empty.people("--apply") == {"out": 1}
    with empty.look() as rt:
        assert rt.reason(address(1)) == "opted_out"


def test_a_record_that_could_not_be_read_may_be_an_out_too(empty: Clinic) -> None:
    sign_up(empty, address(1))
    broken = empty.pabau.new_client(address(1))
    empty.pabau.staff_set(broken, "opt_in_email", "2")
    code, report = empty.told("--apply")
    assert (code, report["unread"]) == (1, ["email", "phone", "post", "sms"])
    with empty.look() as rt:
        assert rt.reason(address(1)) == "no_basis"
    empty.pabau.staff_set(broken, "opt_in_email", "0")
    assert empty.people("--apply") == {"out": 1}


TIMELY = f"""
[brands.rt.targets.timely]
system = "timely"
columns = {{ {", ".join(f'{ours} = "{theirs}"' for ours, theirs in COLUMNS.items())} }}
"""


def test_a_system_without_an_interface_is_unread_until_its_export_is_brought(
    empty: Clinic,
) -> None:
    configure(empty.folder, empty.targets("observe") + TIMELY)
    timely = TimelyTwin()
    for number in (1, 2):
        sign_up(empty, address(number))
        timely.new_customer(str(number), "Amy", "", address(number), "", number == 2)
    code, report = empty.told("--apply")
    assert (code, report["unread"]) == (1, ["email", "sms"])
    file = empty.folder / "customers.csv"
    file.write_bytes(timely.export())
    for args in (("timely", "--from", str(file), "--apply"), ("--apply",)):
        assert empty.onboard(*args)["unread"] == []
    with empty.look() as rt:
        assert (rt.reason(address(1)), rt.reason(address(2))) == ("opted_out", "consent")


def test_an_export_with_rows_that_cannot_be_read_is_not_whole(empty: Clinic) -> None:
    configure(empty.folder, empty.targets("observe") + TIMELY)
    timely = TimelyTwin()
    sign_up(empty, address(1))
    timely.new_customer("1", "Amy", "", address(1), "")
    file = empty.folder / "customers.csv"
    whole = timely.export()
    for brought in (whole.replace(b"Yes", b"Perhaps"), whole, whole.replace(b"Yes", b"Perhaps")):
        file.write_bytes(brought)
        code, report = empty.told("timely", "--from", str(file), "--apply")
        unread = [] if brought == whole else ["email", "sms"]
        assert (code, report["unread"]) == (int(brought != whole), unread)


def test_an_off_that_was_read_too_early_to_tell_keeps_consent_out(tmp_path: Path) -> None:
    """Something else is heard of Ada while the page with her opt-out is on its way."""
    proof = {"at": "2025-03-01T09:00:00Z", "how": "form"}
    made = kit.clinic(tmp_path)
    ada = address(1)

    def meanwhile() -> None:
        made.say(ada, Source.STAFF, scope=kit.SMS)

    out = Late(made.clock, held={ada: Value.OFF}, meanwhile=meanwhile)
    proved = kit.MailingList(made.clock, held={ada: Value.ON}, proof=proof)
    scans = [
        Scan(replace(kit.TARGET, name=name), there, made.database, made.intake, made.clock)
        for name, there in (("out", out), ("list", proved))
    ]

    async def onboard() -> int:
        survey = Survey()
        for scan in scans:
            await walk(scan, survey, [], lambda *_: None, apply=True)
        return await record(scans[0], survey, [], lambda *_: None)

    try:
        assert asyncio.run(onboard()) == 0
    finally:
        made.database.close()


@dataclass
class Late(kit.MailingList):
    """A page that something happens behind."""

    meanwhile: Callable[[], None] = lambda: None

    async def scan(self, cursor: str | None) -> AsyncIterator[Page]:
        async for page in super().scan(cursor):
            self.meanwhile()
            yield page


def test_an_out_made_here_wins_too(empty: Clinic) -> None:
    sign_up(empty, address(1))
    with empty.look() as rt:
        rt.say(address(1))
    assert empty.people("--apply") == {"out": 1}
    with empty.look() as rt:
        assert rt.reason(address(1)) == "opted_out"


def test_who_is_to_be_asked_is_written_to_a_file_and_nowhere_else(empty: Clinic) -> None:
    sign_up(empty, address(1))
    by_default(empty, address(2))
    empty.campaign.new_contact(address(2), statuses={"1": "1"})
    path = empty.folder / "ask.csv"
    report = empty.onboard("--list", str(path))
    assert report["listed"] == 1
    assert "@" not in json.dumps(report)
    (row,) = csv.DictReader(path.open())
    assert row == {
        "channel": "email",
        "address": address(2),
        "stands_at": "rt/activecampaign rt/pabau",
    }


def test_no_address_runs_as_a_formula_where_the_file_is_opened(empty: Clinic) -> None:
    for formula in ("=1+1@example.com", "@sum@example.com", "-2@example.com"):
        empty.campaign.new_contact(formula, statuses={"1": "1"})
    path = empty.folder / "ask.csv"
    empty.onboard("--list", str(path))
    cells = [row["address"] for row in csv.DictReader(path.open())]
    assert cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
