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
from tests.twins.kit import Travel
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
)

PEOPLE, STRUCK = 2400, 2000
"""Numbers 0 to 1999 are struck; the rest are left alone."""
LINK_BEFORE, TEXT_BEFORE, LINK_DURING, TEXT_DURING = 3, 7, 1203, 1507
BY_LINK, BY_TEXT = (LINK_BEFORE, LINK_DURING), (TEXT_BEFORE, TEXT_DURING)
OWN = (*BY_LINK, *BY_TEXT)
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

    def denied(self) -> set[int]:
        told = reasons(self.service, [email(number) for number in range(PEOPLE)])
        assert set(told) <= {"consent", "opted_out"}
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
    """Everybody consented and is on at every vendor; all agree."""
    kinds = [
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
        recorded(tmp_path, dict.fromkeys(range(PEOPLE), ("email", "phone")))
        environ = secrets(places, PREFS__WORKER__POLL_EVERY="2s", PREFS__WORKER__LEASE="30s")
        config = ALERTS + targets(places)
        service = stack.enter_context(listening(tmp_path, config, environ=environ))
        base = service.runtime.settings.public_url
        for place in places:
            place.hears(f"{base}/webhooks/{place.system}/rt/{place.system}?key={HOOK_KEY}")
        of_process = {**os.environ, **environ, "PREFS_CONFIG": str(tmp_path / "prefs.toml")}
        made = Clinic(tmp_path, places, service, of_process)
        eventually(lambda: polled(service), 60)
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
    eventually(lambda: not backlog(clinic.service), 20)
    before = clinic.off()

    began = time.monotonic()
    strike(clinic)
    took = eventually(lambda: clinic.denied() == set(range(STRUCK)), 90)
    say(
        "fault",
        f"{STRUCK} struck in {time.monotonic() - began - took:.1f} s, denied {took:.1f} s later",
    )
    eventually(lambda: not clinic.due(), 60)
    held = clinic.off()
    for place in clinic.others:
        if "email" in place.carries:
            assert held[place.system] == before[place.system] == {LINK_BEFORE}, place.system
