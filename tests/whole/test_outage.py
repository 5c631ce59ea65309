"""Four hours without us while a thousand people leave: one round of polls finds every one of them.

The service runs on a clock that is moved, and so do the vendors. Their webhooks meet a closed port
and are tried again as often as the vendor does, then lost; only the gaps between the tries are
shortened, like the hours. So are the vendors' limits lifted, and HubSpot takes bulk calls: the
18,000 calls that it takes to follow would keep ActiveCampaign and Keap busy for half an hour.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import func, select

from prefs.core.words import Choice
from prefs.store.schema import ledger
from tests.faults.kit import FULL
from tests.served import Served, eventually, listening
from tests.twins.kit import Clock
from tests.whole.kit import backlog, polled, reasons, recorded, say, secrets, targets
from tests.whole.places import HEARD, HOOK_KEY, READABLE, Place, email, opened, phone, psid

pytestmark = [pytest.mark.long, pytest.mark.told_on("postgresql")]

HOURS = 4
EACH = 1 if FULL else 2
"""Every second of them in `make test`."""
LEAVE = {
    "mailchimp": range(0, 170, EACH),
    "hubspot": range(170, 340, EACH),
    "activecampaign": range(340, 460, EACH),
    "keap": range(460, 600, EACH),
    "pipedrive": range(600, 720, EACH),
    "pabau": range(720, 840, EACH),
    "twilio": range(840, 940, EACH),
    "messenger": range(940, 1000, EACH),
}
"""Who leaves where. At Google and Xero nobody can: those labels are kept by staff."""
STAY = range(1000, 1040, EACH)
EVERYBODY = range(0, 1040, EACH)
CHANNEL = {"twilio": "sms", "messenger": "messenger"}
"""What they leave; elsewhere it is e-mail."""


def known_by(number: int) -> tuple[str, ...]:
    """Who texts has a number, who writes to the Page a PSID; all have an address."""
    if number in LEAVE["twilio"]:
        return ("email", "phone")
    return ("email", "messenger") if number in LEAVE["messenger"] else ("email",)


def address(number: int, channel: str) -> str:
    return {"email": email, "sms": phone, "messenger": psid_of_page}[channel](number)


def psid_of_page(number: int) -> str:
    return f"900100:{psid(number)}"


@dataclass
class Clinic:
    folder: Path
    places: list[Place]
    clock: Clock = field(default_factory=Clock)

    @contextmanager
    def served(self) -> Iterator[Served]:
        """Our service, worker inside, on a port of its own that every vendor knows."""
        environ = secrets(self.places, PREFS__WORKER__POLL_EVERY="15m", PREFS__WORKER__LEASE="30s")
        config = targets(self.places)
        with listening(self.folder, config, environ=environ, clock=self.clock) as service:
            base = service.runtime.settings.public_url
            for place in self.places:
                if place.system != "google":
                    place.hears(f"{base}/webhooks/{place.system}/rt/{place.system}?key={HOOK_KEY}")
            yield service

    def move(self, seconds: float) -> None:
        self.clock.move(seconds)
        for place in self.places:
            place.twin.clock.move(seconds)

    def place(self, system: str) -> Place:
        return next(one for one in self.places if one.system == system)


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    """Everybody is in every system and consented; the service knows it, and has polled once."""
    with opened((*READABLE, *HEARD)) as places:
        made = Clinic(tmp_path, places)
        made.place("hubspot").twin.configure(enterprise=True)
        for place in places:
            place.twin.courier.gaps = tuple(0.02 for _ in place.twin.courier.gaps)
            for number in EVERYBODY:
                place.add(number)
        people = {number: known_by(number) for number in EVERYBODY}
        recorded(tmp_path, people, clock=made.clock)
        yield made


def leave(clinic: Clinic) -> None:
    """A thousand people, one after the other, over four hours."""
    pace = HOURS * 3600 / sum(map(len, LEAVE.values()))
    for system, numbers in LEAVE.items():
        for number in numbers:
            clinic.place(system).leaves(number)
            clinic.move(pace)


def missed(service: Served) -> dict[str, dict[int, str]]:
    """Who left somewhere and is answered with anything but `opted_out`; by where they left."""
    found = {}
    for system, numbers in LEAVE.items():
        channel = CHANNEL.get(system, "email")
        told = reasons(service, [address(number, channel) for number in numbers], channel)
        pairs = zip(numbers, told, strict=True)
        found[system] = {number: reason for number, reason in pairs if reason != "opted_out"}
    return {system: rest for system, rest in found.items() if rest}


@pytest.mark.timeout(400)
def test_one_round_of_polls_finds_all_who_left_while_we_were_off(clinic: Clinic) -> None:
    with clinic.served() as service:
        eventually(lambda: polled(service) and not backlog(service))
        assert set(reasons(service, [email(one) for one in EVERYBODY])) == {"consent"}

    leave(clinic)
    assert_webhooks_lost(clinic)

    back, began = clinic.clock().timestamp(), time.monotonic()
    with clinic.served() as service:
        # The next round comes in a quarter of an hour: what is found now is found in one.
        took = eventually(lambda: polled(service, back), 120)
        say("outage", f"first round of polls: {took:.1f} s")
        assert missed(service) == {}
        eventually(lambda: not backlog(service), 200)
        say("outage", f"all vendors follow: {time.monotonic() - began:.1f} s")
        assert_followed(clinic, service)
        assert heard(service) == {f"rt/{system}": len(who) for system, who in LEAVE.items()}


def assert_webhooks_lost(clinic: Clinic) -> None:
    lost = 0
    for place in clinic.places:
        place.twin.courier.settle(60)
        sent = place.twin.courier.sent
        assert {one.status for one in sent} <= {None}, place.system
        lost += len(sent)
    say("outage", f"{lost} tries of webhooks met a closed port")


def heard(service: Served) -> dict[str, int]:
    """How many people's outs came from each vendor, as the ledger tells: our own writes, which the
    polls see at all the others, are nobody's wish."""
    outs = select(ledger.c.origin, func.count(ledger.c.subject_id.distinct()))
    wanted = outs.where(ledger.c.choice == Choice.OUT.value).group_by(ledger.c.origin)
    rows = service.runtime.database.read_now(lambda conn: conn.execute(wanted).all())
    return {str(origin): int(number) for origin, number in rows}


def assert_followed(clinic: Clinic, service: Served) -> None:
    """Whoever left is off wherever that channel has a switch; nobody else is touched."""
    for place in clinic.places:
        for channel in sorted(place.carries):
            wanted = {
                number
                for system, numbers in LEAVE.items()
                if CHANNEL.get(system, "email") == channel
                for number in numbers
            }
            assert {one for one in EVERYBODY if place.off(one, channel)} == wanted, place.system
    assert set(reasons(service, [email(one) for one in STAY])) == {"consent"}
    calls = sum(len(place.twin.calls) for place in clinic.places)
    gone = sum(map(len, LEAVE.values()))
    say("outage", f"{gone} outs at ten vendors, {calls} calls in all")
