"""What the tests of the whole share: a clinic's people recorded, its vendors configured, checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from prefs.app import Clock, Runtime, utc_now
from prefs.core import identity
from prefs.core.ids import subject_text
from prefs.core.signals import Evidence, Identifier, Signal, Statement
from prefs.core.words import Basis, Channel, Choice, Purpose, Scope, Source
from prefs.store import marks
from tests.served import Served
from tests.served import opened as runtime_of
from tests.whole.places import HOOK_KEY, Place, email, phone, psid

EMAIL = Scope(Channel.EMAIL, Purpose.MARKETING)
TOGETHER = 200
"""People recorded in one transaction."""


def say(test: str, figure: str) -> None:
    """A figure of the run, for whoever reads the output (-s)."""
    print(f"\n[{test}] {figure}", flush=True)  # noqa: T201  # the run's own report


def targets(places: Iterable[Place]) -> str:
    """Their part of the configuration."""
    return "".join(place.config() for place in places)


def secrets(places: Iterable[Place], **more: str) -> dict[str, str]:
    """The environment that the configuration names."""
    named = (place.secrets() for place in places)
    found = {name: secret for one in named for name, secret in one.items()}
    return {
        "HOOK": HOOK_KEY,
        "PREFS_TEST_KEY": "a secret of thirty-two bytes or more",
        **found,
        **more,
    }


def identifiers(number: int, kinds: Sequence[str] = ("email", "phone")) -> tuple[Identifier, ...]:
    made = {
        "email": identity.email(email(number)),
        "phone": identity.phone(phone(number)),
        "messenger": identity.messenger(psid(number), "900100"),
    }
    return tuple(made[kind] for kind in kinds)


def recorded(
    folder: Path,
    people: Mapping[int, Sequence[str]],
    *,
    out: Iterable[int] = (),
    clock: Clock = utc_now,
) -> dict[int, str]:
    """Number -> the person's id here. Everybody consented to e-mail, some are out; `people` tells
    of each what is known. Done before there is any target, so that nothing waits to be pushed. Not
    in one transaction: PostgreSQL keeps each former state of a counter until its end, and looks
    through them all."""
    gone = set(out)

    def record_all(conn: Connection, part: Sequence[int]) -> dict[int, str]:
        return {one: record(conn, one) for one in part}

    def record(conn: Connection, number: int) -> str:
        who = identifiers(number, people[number])
        subject_id = _consent(conn, runtime, who)
        if number in gone:
            no = (Statement(EMAIL, Choice.OUT),)
            runtime.intake.record(conn, Signal("rt", Source.ONE_CLICK, no, who))
        return subject_text(subject_id)

    runtime = runtime_of(folder, "", {}, clock)
    try:
        known: dict[int, str] = {}
        numbers = list(people)
        for start in range(0, len(numbers), TOGETHER):
            part = numbers[start : start + TOGETHER]
            known |= runtime.database.write_now(partial(record_all, part=part))
        return known
    finally:
        runtime.close()


def _consent(conn: Connection, runtime: Runtime, who: tuple[Identifier, ...]) -> int:
    yes, wording = (Statement(EMAIL, Choice.IN),), Evidence(wording="Yes please")
    signal = Signal("rt", Source.API, yes, who, basis=Basis.CONSENT, evidence=wording)
    return runtime.intake.record(conn, signal).subject_id


def reasons(service: Served, to: Sequence[str], channel: str = "email") -> list[str]:
    """What check answers for each, in order."""
    body = {"brand": "rt", "channel": channel, "purpose": "marketing", "to": to}
    answer = service.post("/v1/check", body)
    assert answer.status_code == 200, f"HTTP {answer.status_code} {answer.text}"
    return [one["reason"] for one in answer.json()["results"]]


def polled(service: Served, since: float = 0.0) -> bool:
    """Every lane has walked its vendor since then."""
    targets = service.runtime.targets
    found = service.runtime.database.read_now(
        lambda conn: [marks.lane(conn, target.label) for target in targets]
    )
    return all(row and row.scanned_at and row.scanned_at >= since for row in found)


def backlog(service: Served) -> int:
    return sum(one["backlog"] for one in service.get("/v1/targets").json()["items"])
