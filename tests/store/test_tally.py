"""The counts by week are those of the ledger, however they were made."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete

from prefs.core.words import Channel, Choice, Purpose, Scope, Source
from prefs.store import ledger, migrate, tally
from prefs.store.schema import tallies
from prefs.store.tally import Tally
from tests.kit import SMS, Clinic, clinic

NEWS = Scope(Channel.EMAIL, Purpose.MARKETING, "news")
REMINDERS = Scope(Channel.EMAIL, Purpose.REMINDERS)
WEEK = tally.week_of(1_772_445_600.0)
"""The clinic's clock stands at 2 March 2026, a Monday."""


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Clinic]:
    made = clinic(tmp_path)
    made.consent("ada@example.co.uk")
    made.consent("bob@example.co.uk")
    made.say("ada@example.co.uk", Source.ONE_CLICK)
    made.say("ada@example.co.uk", Source.ONE_CLICK)
    made.say("bob@example.co.uk", Source.ONE_CLICK, scope=NEWS)
    made.say("bob@example.co.uk", Source.CENTRE, scope=REMINDERS)
    made.clock.forward(tally.WEEK)
    made.say("bob@example.co.uk", Source.VENDOR_PERSON, scope=SMS, origin="rt/list")
    made.say("cat@example.co.uk", Source.STAFF, brand="second")
    made.database.write_now(ledger.seal)
    yield made
    made.database.close()


def counted(rt: Clinic, since: int = WEEK) -> list[Tally]:
    return rt.database.read_now(lambda conn: tally.since(conn, "rt", since))


EXPECTED = [
    Tally(WEEK, "email", "in", "api", "", 2),
    Tally(WEEK, "email", "out", "one_click", "", 1),
    Tally(WEEK + 1, "sms", "out", "vendor_person", "rt/list", 1),
]


def test_choices_that_changed_something_are_counted_once_by_week_channel_and_door(
    rt: Clinic,
) -> None:
    assert counted(rt) == EXPECTED
    assert counted(rt, WEEK + 1) == EXPECTED[2:]


def test_what_is_sealed_later_is_added(rt: Clinic) -> None:
    rt.say("dan@example.co.uk", Source.VENDOR_PERSON, scope=SMS, origin="rt/list")
    rt.database.write_now(ledger.seal)
    rt.database.write_now(ledger.seal)
    assert counted(rt)[2].number == 2


def test_a_week_begins_on_monday_at_midnight() -> None:
    began = tally.week_began(WEEK)
    assert began == 1_772_409_600.0
    assert tally.week_of(began) == WEEK
    assert tally.week_of(began - 1) == WEEK - 1


def _spoil(conn: Connection) -> None:
    conn.execute(delete(tallies).where(tallies.c.channel == Channel.SMS))
    conn.execute(tallies.update().values(count=7))


def test_a_rebuild_counts_the_ledger_anew(rt: Clinic) -> None:
    rt.database.write_now(_spoil)
    assert counted(rt) != EXPECTED
    rt.database.write_now(rt.intake.rebuild)
    assert counted(rt) == EXPECTED


def _of_migration(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, migrate.FOLDER / "versions" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(conn: Connection, sql: str) -> None:
    conn.execute(delete(tallies))
    conn.exec_driver_sql(sql)


def test_an_older_database_is_counted_when_it_is_migrated(rt: Clinic) -> None:
    sql = _of_migration("0007_owner").COUNT_WHAT_IS_SEALED
    rt.database.write_now(partial(_run, sql=sql))
    assert counted(rt) == EXPECTED


def test_a_refused_wish_is_not_counted(rt: Clinic) -> None:
    rt.say("ada@example.co.uk", Source.API, Choice.IN)
    rt.database.write_now(ledger.seal)
    assert counted(rt) == EXPECTED
