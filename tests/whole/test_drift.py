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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Connection

from prefs.app import Runtime, utc_now
from prefs.core import identity
from prefs.core.ids import subject_text
from prefs.core.signals import Evidence, Signal, Statement
from prefs.core.words import Basis, Channel, Choice, Purpose, Scope, Source
from tests.served import Served, configure, served
from tests.served import opened as runtime_of
from tests.whole.places import HOOK_KEY, READABLE, Place, email, opened, phone

PEOPLE = 10_000
EMAIL = Scope(Channel.EMAIL, Purpose.MARKETING)
ENVIRON = {
    "HOOK": HOOK_KEY,
    "PREFS_TEST_KEY": "a secret of thirty-two bytes or more",
    "PREFS__WORKER__LEASE": "30s",
}
Row = tuple[str, str, str]
"""Target, direction, the person's id here (empty for nobody's)."""


class Plan(NamedTuple):
    """So many switches at one vendor: of people who left there; who were turned on again; who
    consented here and were never asked there; and of people whom nobody knows here."""

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
    "pabau": Plan(8, 6, 0, 5),
    # Nobody is ever `on` where a label marks who is out: a stranger without one is no difference.
    "google": Plan(5, 6),
    "xero": Plan(5, 5),
}
DIFFERENCES = 137
OUT = sum(plan.flipped for plan in PLANS.values())
"""People 0, 1, ... who are out here and everywhere before anything is planted."""


def say(figure: str) -> None:
    """A figure of the run, for whoever reads the output (-s)."""
    print(f"\n[drift] {figure}", flush=True)  # noqa: T201  # the run's own report


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
        say(f"sync {' '.join(args)}: {records} records, {told} differences, {took:.1f} s")
        return answer

    @property
    def environ(self) -> Mapping[str, str]:
        config = {"PREFS_CONFIG": str(self.folder / "prefs.toml")}
        return {**os.environ, **ENVIRON, **self.secrets, **config}

    @property
    def secrets(self) -> dict[str, str]:
        named = (place.secrets().items() for place in self.places)
        return {name: secret for one in named for name, secret in one}

    @property
    def targets(self) -> str:
        return "".join(place.config() for place in self.places)

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
            unasked = set(the_unasked(place))
            for number in range(PEOPLE):
                if number in unasked:
                    place.add_unasked(number)
                else:
                    place.add(number, out=number < OUT)
        made = Clinic(tmp_path, places, recorded(tmp_path))
        configure(tmp_path, made.targets)
        took = time.monotonic() - began
        say(f"{PEOPLE} people, {len(places)} vendors, made in {took:.1f} s")
        yield made


def recorded(folder: Path) -> dict[int, str]:
    """Before there is any target, so that nothing waits to be pushed."""
    runtime = runtime_of(folder, "", {}, utc_now)
    try:
        return runtime.database.write_now(
            lambda conn: {number: record(conn, runtime, number) for number in range(PEOPLE)}
        )
    finally:
        runtime.close()


def record(conn: Connection, runtime: Runtime, number: int) -> str:
    who = (identity.email(email(number)), identity.phone(phone(number)))
    yes, no = (Statement(EMAIL, Choice.IN),), (Statement(EMAIL, Choice.OUT),)
    wording = Evidence(wording="Yes please")
    consent = Signal("rt", Source.API, yes, who, basis=Basis.CONSENT, evidence=wording)
    known = runtime.intake.record(conn, consent)
    if number < OUT:
        runtime.intake.record(conn, Signal("rt", Source.ONE_CLICK, no, who))
    return subject_text(known.subject_id)


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


def the_unasked(place: Place) -> Iterable[int]:
    return UNASKED[place.system]


def plant(clinic: Clinic) -> Counter[Row]:
    """Everything of the plan; returns what sync has to say of it."""
    wanted: Counter[Row] = Counter()
    strangers = count(PEOPLE)
    for place in clinic.places:
        target = f"rt/{place.system}"
        for number in FLIPPED[place.system]:
            place.turned_on(number)
        for number in LEFT[place.system]:
            place.leaves(number)
        for _ in range(
            PLANS[place.system].strange // place.on_at_first if place.on_at_first else 3
        ):
            place.add(next(strangers))
        wanted.update((target, "take", clinic.ids[number]) for number in LEFT[place.system])
        pushed = (*FLIPPED[place.system], *UNASKED[place.system])
        wanted.update((target, "push", clinic.ids[number]) for number in pushed)
        wanted[target, "unknown", ""] += PLANS[place.system].strange
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
    with served(clinic.folder, clinic.targets, environ={**ENVIRON, **clinic.secrets}) as service:
        assert_recorded(service, clinic, left)

    # A record of somebody unknown is told until a sync with --apply kept it: after that it is
    # known, still never consent, and no difference any more.
    assert rows(clinic.sync(code=0)) == Counter()


def assert_recorded(service: Served, clinic: Clinic, left: set[int]) -> None:
    """Outs are outs here, the rest consented still, and strangers have no basis."""
    reasons = checked(service, [email(number) for number in range(PEOPLE)])
    out = {*range(OUT), *left}
    assert {n for n, reason in enumerate(reasons) if reason == "opted_out"} == out
    assert set(reasons) == {"opted_out", "consent"}
    strangers = [email(PEOPLE + number) for number in range(50)]
    assert set(checked(service, strangers)) == {"no_basis"}
    assert {source(service, clinic.ids[n]) for n in LEFT["mailchimp"]} == {"vendor_person"}
    for place in clinic.places[1:3]:
        assert not any(place.off(number) for number in UNASKED[place.system])


def checked(service: Served, to: list[str]) -> list[str]:
    body = {"brand": "rt", "channel": "email", "purpose": "marketing", "to": to}
    return [one["reason"] for one in service.post("/v1/check", body).json()["results"]]


def source(service: Served, subject_id: str) -> str:
    choices = service.get(f"/v1/subjects/{subject_id}").json()["choices"]
    found: str = next(one["source"] for one in choices if one["channel"] == "email")
    return found
