"""The demo: its story holds, its vendors are furnished as a clinic has them, and what it asks of
them can fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefs.demo.people import AMELIA
from prefs.demo.system import Vendor
from prefs.demo.systems import (
    SYSTEMS,
    activecampaign,
    google,
    hubspot,
    keap,
    mailchimp,
    pipedrive,
    twilio,
    xero,
)
from tests.twins.__main__ import TWINS, load
from tests.twins.kit import Twin, running

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parent.parent
Furnished = tuple[Twin[Any], Vendor]


def test_the_story_holds(tmp_path: Path) -> None:
    """All of it, as `DEMO_CHECK=1 make demo` runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "prefs.cli", "demo", "--folder", str(tmp_path / "demo")],
        cwd=ROOT,
        env={**os.environ, "DEMO_CHECK": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert _told(done.stdout) == ENDS


def test_the_readme_shows_what_the_story_tells() -> None:
    assert _told((ROOT / "README.md").read_text()) == ENDS


ENDS = {(name, channel): end for name, s in SYSTEMS.items() for channel, end in s.ends.items()}


def _told(text: str) -> dict[tuple[str, str], str]:
    """(system, channel) -> the outcome of "stop all marketing"."""
    lines = text.split("stops all marketing", 1)[1].split("held", 1)[0]
    told = re.findall(r"^   (\w+) +([a-z ]+?) +([a-z_]+) +[0-9.]+ s$", lines, re.MULTILINE)
    return {(name, one): outcome for name, channels, outcome in told for one in channels.split()}


def test_a_folder_that_is_in_use_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    command = [sys.executable, "-m", "prefs.cli", "demo", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is not empty" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_every_system_is_in_it() -> None:
    assert SYSTEMS.keys() == TWINS.keys()


@pytest.fixture(params=SYSTEMS)
def furnished(request: pytest.FixtureRequest) -> Iterator[Furnished]:
    system = SYSTEMS[request.param]
    with running(load(system.name)) as (twin, url):
        made = {name: f"a secret of {name}{ending}" for name, ending in system.secrets.items()}
        vendor = Vendor(system.name, url, "", made)
        system.furnish(vendor)
        system.add(vendor, AMELIA)
        yield twin, vendor


def test_marketing_and_reminders_begin_as_on(furnished: Furnished) -> None:
    _, vendor = furnished
    system, state = SYSTEMS[vendor.name], vendor.state()
    assert not any(system.off(state, AMELIA, channel) for channel in system.ends)
    assert system.kept(state, AMELIA)


def _sets(state: Callable[[Any], Any], name: str, value: Any) -> Callable[[Any, Vendor], None]:
    """What no act of a person does."""
    return lambda twin, vendor: setattr(state(twin.state), name, value)


REMINDERS_OFF: dict[str, Callable[[Any, Vendor], object]] = {
    "mailchimp": lambda twin, vendor: vendor.act(
        "person_unsubscribes", list_id=mailchimp.AFTERCARE, email=AMELIA.email
    ),
    "hubspot": lambda twin, vendor: vendor.act(
        "person_unsubscribes", email=AMELIA.email, type_id=hubspot.REMINDERS
    ),
    "twilio": lambda twin, vendor: vendor.act(
        "text", sender=AMELIA.phone, to=twilio.REMINDERS_NUMBER, body="STOP"
    ),
    "activecampaign": lambda twin, vendor: vendor.act(
        "admin_sets", email=AMELIA.email, list=activecampaign.APPOINTMENTS, status="2"
    ),
    "keap": lambda twin, vendor: vendor.act(
        "admin_untags", contact=next(iter(twin.state.contacts)), tag=keap.REMINDERS
    ),
    "pipedrive": lambda twin, vendor: vendor.act(
        "staff_marks", person=next(iter(twin.state.persons)), name=pipedrive.REMINDERS, label="No"
    ),
    "pabau": _sets(lambda state: next(iter(state.clients.values())), "need_to_knows", 0),
    "google": lambda twin, vendor: vendor.act(
        "staff_removes_label", email=AMELIA.email, label=google.CLIENTS
    ),
    "xero": lambda twin, vendor: vendor.act(
        "staff_removes", email=AMELIA.email, group=xero.INVOICED
    ),
    "timely": _sets(lambda state: state.customers["p1"], "notifications", {"sms": False}),
    "messenger": _sets(lambda state: state.people[AMELIA.psid], "blocked", True),
}


def test_reminders_that_are_switched_off_are_seen(furnished: Furnished) -> None:
    twin, vendor = furnished
    REMINDERS_OFF[vendor.name](twin, vendor)
    assert not SYSTEMS[vendor.name].kept(vendor.state(), AMELIA)
