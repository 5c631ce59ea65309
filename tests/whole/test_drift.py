"""`prefs sync` over ten thousand people at eight vendors: exactly what differs, mended, then quiet.

The documented limits alone would make one walk take over a minute and a half (Pabau: 200 pages at
half of 5 a second), so that the twins have none here and each target a `limit` of its own; that
limits are kept is what tests/connectors/ proves.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.faults.kit import FULL
from tests.served import Served, configure, served
from tests.whole.kit import reasons, recorded, say, secrets, targets
from tests.whole.places import READABLE, Place, email, opened

pytestmark = [pytest.mark.long, pytest.mark.told_on("sqlite")]

PEOPLE = 10_000 if FULL else 4_000
WORKER = {"PREFS__WORKER__LEASE": "30s"}
Row = tuple[str, str, str]
"""Target, direction, the person's id here (empty for nobody's)."""


class Plan(NamedTuple):
    """So many people at one vendor: who left there; who were turned on again; who consented here
    and were never asked there; and whom nobody knows here."""

    left: int
    flipped: int
    unasked: int = 0
    strange: int = 0


PLANS = {
    "mailchimp": Plan(9, 6, 0, 5),
    "hubspot": Plan(8, 6, 3, 5),
    "activecampaign": Plan(7, 5, 3, 5),
    "keap": Plan(8, 6, 0, 5),
    "pipedrive": Plan(7, 5, 0, 4),
    # A new client has five switches, all on.
    "pabau": Plan(8, 6, 0, 1),
    # Nobody is ever `on` where a label marks who is out: a stranger without one is no difference.
    "google": Plan(5, 6, 0, 3),
    "xero": Plan(5, 5, 0, 3),
}
DIFFERENCES = 137
OUT = sum(plan.flipped for plan in PLANS.values())
"""People 0, 1, ... who are out here and everywhere before anything is planted."""


@dataclass
class Clinic:
    folder: Path
    places: list[Place]
    ids: dict[int, str]
    """Number -> the person's id here."""

    def sync(self, *args: str, code: int) -> Any:
        """The real command, in a process of its own."""
        began = time.monotonic()
        command = [sys.executable, "-m", "prefs.cli", "sync", *args, "--json"]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True)
        assert done.returncode == code, done.stderr[-2000:]
        answer = json.loads(done.stdout)
        assert all(one["complete"] for one in answer["targets"])
        records = sum(one["records"] for one in answer["targets"])
        told, took = len(answer["differences"]), time.monotonic() - began
        say("drift", f"sync {' '.join(args)}: {records} records, {told} differences, {took:.1f} s")
        return answer

    @property
    def environ(self) -> Mapping[str, str]:
        config = {"PREFS_CONFIG": str(self.folder / "prefs.toml")}
        return {**os.environ, **secrets(self.places, **WORKER), **config}

    def off(self) -> dict[str, set[int]]:
        """Who is off at each vendor, as its twin holds it."""
        return {
            place.system: {number for number in range(PEOPLE) if place.off(number)}
            for place in self.places
        }


def rows(answer: Any) -> Counter[Row]:
    return Counter(
        (one["target"], one["direction"], " ".join(one["subject_ids"]))
        for one in answer["differences"]
    )


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    """Everybody consented to e-mail, the first few are out, and every vendor agrees."""
    began = time.monotonic()
    with opened(READABLE) as places:
        for place in places:
            for number in range(PEOPLE):
                if number in UNASKED[place.system]:
                    place.add_unasked(number)
                else:
                    place.add(number, out=number < OUT)
        people = dict.fromkeys(range(PEOPLE), ("email", "phone"))
        made = Clinic(tmp_path, places, recorded(tmp_path, people, out=range(OUT)))
        configure(tmp_path, targets(places))
        took = time.monotonic() - began
        say("drift", f"{PEOPLE} people, {len(places)} vendors, made in {took:.1f} s")
        yield made


# --- the plan ------------------------------------------------------------------------------------


def shares(first: int, part: str) -> dict[str, range]:
    """Each vendor's own people for one part of the plan, beginning with a number."""
    found = {}
    for system, plan in PLANS.items():
        size = getattr(plan, part)
        found[system] = range(first, first + size)
        first += size
    return found


FLIPPED, LEFT, UNASKED = shares(0, "flipped"), shares(1000, "left"), shares(2000, "unasked")
STRANGE = shares(PEOPLE, "strange")


def plant(clinic: Clinic) -> Counter[Row]:
    """Everything of the plan; returns what sync has to say of it."""
    wanted: Counter[Row] = Counter()
    for place in clinic.places:
        system, target = place.system, f"rt/{place.system}"
        for number in FLIPPED[system]:
            place.turned_on(number)
        for number in LEFT[system]:
            place.leaves(number)
        for number in STRANGE[system]:
            place.add(number)
        pushed = (*FLIPPED[system], *UNASKED[system])
        wanted.update((target, "push", clinic.ids[number]) for number in pushed)
        wanted.update((target, "take", clinic.ids[number]) for number in LEFT[system])
        wanted[target, "unknown", ""] += len(STRANGE[system]) * place.on_at_first
    return +wanted


@pytest.mark.timeout(400)
def test_sync_lists_exactly_what_differs_repairs_it_and_is_quiet_then(clinic: Clinic) -> None:
    wanted, before = plant(clinic), clinic.off()
    assert wanted.total() == DIFFERENCES
    assert rows(clinic.sync(code=1)) == wanted
    assert clinic.off() == before, "reading changes nothing"

    assert rows(clinic.sync("--apply", code=0)) == wanted
    left = {number for numbers in LEFT.values() for number in numbers}
    out = {*range(OUT), *left}
    assert clinic.off() == {place.system: out for place in clinic.places}
    config, environ = targets(clinic.places), secrets(clinic.places)
    with served(clinic.folder, config, environ=environ) as service:
        assert_recorded(service, clinic, left)

    # A record of somebody unknown is told until a sync with --apply kept it: after that it is
    # known, still never consent, and no difference any more.
    assert rows(clinic.sync(code=0)) == Counter()


def assert_recorded(service: Served, clinic: Clinic, left: set[int]) -> None:
    """Outs are outs here, the rest consented still, and strangers have no basis."""
    told = reasons(service, [email(number) for number in range(PEOPLE)])
    out = {*range(OUT), *left}
    assert {number for number, reason in enumerate(told) if reason == "opted_out"} == out
    assert set(told) == {"opted_out", "consent"}
    strangers = [email(number) for numbers in STRANGE.values() for number in numbers]
    assert set(reasons(service, strangers)) == {"no_basis"}
    assert {source(service, clinic.ids[n]) for n in LEFT["mailchimp"]} == {"vendor_person"}
    for place in clinic.places:
        assert not any(place.off(number) for number in UNASKED[place.system])


def source(service: Served, subject_id: str) -> str:
    choices = service.get(f"/v1/subjects/{subject_id}").json()["choices"]
    found: str = next(one["source"] for one in choices if one["channel"] == "email")
    return found
