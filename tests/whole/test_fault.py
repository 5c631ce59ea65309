"""A vendor's fault turns two thousand people off: denied here at once, held elsewhere, taken back.

Half of it is a bulk edit by somebody's staff, half another program's calls. Among the two thousand
are people who really leave, before the fault and during it: theirs go everywhere, and stay. The
vendors' limits are lifted, and HubSpot takes bulk calls.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from prefs.store.schema import marks
from tests.served import Served, eventually, listening
from tests.twins.hubspot import HubspotTwin
from tests.twins.kit import Travel, Twin
from tests.twins.mailchimp import MailchimpTwin
from tests.twins.pabau import PabauTwin
from tests.twins.twilio import TwilioTwin
from tests.whole.kit import backlog, polled, reasons, recorded, say, secrets, targets
from tests.whole.places import (
    HOOK_KEY,
    Hubspot,
    Mailchimp,
    Pabau,
    Place,
    Twilio,
    email,
    opened,
    phone,
)

pytestmark = [pytest.mark.long, pytest.mark.told_on("sqlite")]

PEOPLE, STRUCK = 2400, 2000
"""Numbers 0 to 1999 are struck; the rest are left alone."""
LINK_BEFORE, TEXT_BEFORE, LINK_DURING, TEXT_DURING = 3, 7, 1203, 1507
BY_LINK, BY_TEXT = (LINK_BEFORE, LINK_DURING), (TEXT_BEFORE, TEXT_DURING)
OWN = (*BY_LINK, *BY_TEXT)
CONSENTED = frozenset(range(3, PEOPLE, 4))
"""Whose consent is recorded here. The others are on a list there, and that is all that is known."""
ALERTS = '[alerts]\nto = ["mail:owner@example.co.uk"]\n'


@dataclass
class Clinic:
    folder: Path
    places: list[Place]
    service: Served
    environ: Mapping[str, str]

    @property
    def hubspot(self) -> Hubspot:
        (found,) = [one for one in self.places if isinstance(one, Hubspot)]
        return found

    @property
    def others(self) -> list[Place]:
        return [one for one in self.places if one is not self.hubspot]

    def off(self, channel: str = "email") -> dict[str, set[int]]:
        """Who is off at each vendor that carries the channel, as its twin holds it."""
        return {
            place.system: {number for number in range(PEOPLE) if place.off(number, channel)}
            for place in self.places
            if channel in place.carries
        }

    def unsubscribes_by_link(self, number: int) -> None:
        made = self.service.post("/v1/links", {"brand": "rt", "email": email(number)}).json()
        assert self.service.client.post(made["unsubscribe"]).status_code == 200

    def texts_stop(self, number: int) -> None:
        (gateway,) = [one for one in self.places if isinstance(one, Twilio)]
        gateway.leaves(number)
        gateway.twin.courier.settle()

    def denied(self) -> set[int]:
        told = reasons(self.service, [email(number) for number in range(PEOPLE)])
        allowed = {number for number, reason in enumerate(told) if reason == "consent"}
        assert allowed <= CONSENTED
        assert set(told) <= {"consent", "no_basis", "opted_out"}
        return {number for number, reason in enumerate(told) if reason == "opted_out"}

    def due(self) -> int:
        """Marks that some lane would carry now."""
        now = self.service.runtime.clock().timestamp()
        waiting = select(func.count()).where(marks.c.due_at <= now)
        return self.service.runtime.database.read_now(
            lambda conn: int(conn.execute(waiting).scalar_one())
        )

    def retract(self, batch: str) -> Any:
        """The real command, in a process of its own."""
        command = [sys.executable, "-m", "prefs.cli", "retract", batch, "--json"]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    """Everybody is on at every vendor; a quarter of them consented."""
    kinds: list[tuple[type[Place], type[Twin[Any]]]] = [
        (Hubspot, HubspotTwin),
        (Mailchimp, MailchimpTwin),
        (Pabau, PabauTwin),
        (Twilio, TwilioTwin),
    ]
    with ExitStack() as stack:
        places = stack.enter_context(opened(kinds))
        for place in places:
            for number in range(PEOPLE):
                place.add(number)
        places[0].twin.configure(enterprise=True)
        recorded(tmp_path, dict.fromkeys(sorted(CONSENTED), ("email", "phone")))
        environ = secrets(places, PREFS__WORKER__POLL_EVERY="10s", PREFS__WORKER__LEASE="30s")
        config = ALERTS + targets(places)
        service = stack.enter_context(listening(tmp_path, config, environ=environ))
        base = service.runtime.settings.public_url
        for place in places:
            place.hears(f"{base}/webhooks/{place.system}/rt/{place.system}?key={HOOK_KEY}")
        of_process = {**os.environ, **environ, "PREFS_CONFIG": str(tmp_path / "prefs.toml")}
        made = Clinic(tmp_path, places, service, of_process)
        eventually(lambda: polled(service))
        yield made


def strike(clinic: Clinic) -> None:
    """Staff's bulk edit, then the other program. Some webhooks come through; a poll finds all."""
    for number in range(STRUCK):
        travel = Travel(drop=number % 4 > 0)
        struck = clinic.hubspot.twin
        by = struck.admin_sets if number < STRUCK // 2 else struck.other_program_sets
        by(email(number), "101", "UNSUBSCRIBED", travel=travel)


@pytest.mark.timeout(400)
def test_a_vendors_fault_is_held_and_taken_back_but_no_persons_own_out(clinic: Clinic) -> None:
    clinic.unsubscribes_by_link(LINK_BEFORE)
    clinic.texts_stop(TEXT_BEFORE)
    eventually(lambda: not backlog(clinic.service))

    began = time.monotonic()
    strike(clinic)
    took = eventually(lambda: clinic.denied() == set(range(STRUCK)), 90)
    struck = time.monotonic() - began - took
    say("fault", f"{STRUCK} struck in {struck:.1f} s; {took:.1f} s later all of them are denied")
    eventually(lambda: not clinic.due())
    assert_held(clinic, {LINK_BEFORE}, {TEXT_BEFORE})
    batch = assert_told(clinic)

    clinic.unsubscribes_by_link(LINK_DURING)
    clinic.texts_stop(TEXT_DURING)
    eventually(lambda: not clinic.due())
    assert_held(clinic, set(BY_LINK), set(BY_TEXT))

    began = time.monotonic()
    assert clinic.retract(batch)["state"] == "retracted"
    say("fault", f"prefs retract took {time.monotonic() - began:.1f} s")
    assert clinic.denied() == set(BY_LINK)
    # Who takes back says that they are to be switched on: no wave of opt-ins waits for a person.
    eventually(lambda: not backlog(clinic.service), 120)
    say("fault", f"the vendor is put right {time.monotonic() - began:.1f} s after the taking back")
    assert_put_right(clinic)
    assert set(map(frozenset, clinic.off("sms").values())) == {frozenset(BY_TEXT)}
    open_ = clinic.service.get("/v1/tasks?state=open").json()["items"]
    assert not {one["kind"] for one in open_} & {"batch", "opt_in_wave", "refused"}
    assert clinic.denied() == set(BY_LINK)
    assert set(reasons(clinic.service, [phone(one) for one in BY_TEXT], "sms")) == {"opted_out"}
    assert_nothing_written_elsewhere(clinic)


def assert_held(clinic: Clinic, by_link: set[int], by_text: set[int]) -> None:
    """Elsewhere only people's own outs arrived. Where one switch-board holds both channels, what
    the fault says of a person who texted goes along: one record is one push."""
    for place in clinic.others:
        if "email" in place.carries:
            wanted = by_link | (by_text if "sms" in place.carries else set())
            assert clinic.off()[place.system] == wanted, place.system
        if "sms" in place.carries:
            assert clinic.off("sms")[place.system] == by_text, place.system


def assert_told(clinic: Clinic) -> str:
    """Staff have one task, the owner one mail, and both name the batch; returns it."""
    (task,) = clinic.service.get("/v1/tasks?state=open&kind=batch").json()["items"]
    batch: str = task["body"]["batch"]
    assert task["body"]["origin"] == "rt/hubspot"
    letters: list[str] = []

    def told() -> bool:
        letters[:] = [path.read_text() for path in (clinic.folder / "mail").glob("*.eml")]
        return any(batch in one for one in letters)

    eventually(told)
    (letter,) = [one for one in letters if batch in one]
    assert "owner@example.co.uk" in letter
    assert "@example.com" not in letter, "an alert names no person"
    return batch


def assert_put_right(clinic: Clinic) -> None:
    """The faulty vendor is told `on` where a recorded consent says so, and nobody else's switch is
    ours to turn; elsewhere nothing ever changed."""
    off = clinic.off()
    nobodys = set(range(STRUCK)) - CONSENTED
    assert off.pop("hubspot") == nobodys | set(BY_LINK)
    assert set(map(frozenset, off.values())) == {frozenset(BY_LINK)}


def assert_nothing_written_elsewhere(clinic: Clinic) -> None:
    """No call that changes anything named anybody but those who left themselves."""
    pabau = next(one for one in clinic.others if isinstance(one, Pabau))
    written = {write.id for write in pabau.twin.state.writes}
    assert written == {pabau.ids[number] for number in OWN}
    mailchimp = next(one for one in clinic.others if isinstance(one, Mailchimp))
    members = mailchimp.twin.audience("a1").members.values()
    changed = {member.email for member in members if member.changed_by("api")}
    assert changed == {email(number) for number in BY_LINK}
