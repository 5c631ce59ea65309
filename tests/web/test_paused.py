"""While a restored database waits for its replay: marketing is denied everywhere by one word,
nothing is switched on at a vendor, and staff are told on every page."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from prefs.core.propagation import Value
from prefs.core.words import Choice, Source
from prefs.store import journals
from prefs.store.staff import Role
from tests.desk import desk
from tests.kit import Clinic, MailingList, clinic, one_round, push_of
from tests.served import Served, eventually, served


def pause(conn: Connection) -> None:
    journals.pause(conn, "here", "a folder", "this database is older", 1.0)


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as made:
        made.consent("ann@example.com")
        yield made


def test_marketing_is_denied_and_reminders_are_not(rt: Served) -> None:
    assert rt.reason("ann@example.com") == "consent"
    rt.runtime.database.write_now(pause)
    eventually(lambda: rt.reason("ann@example.com") == "paused")
    assert rt.reason("ann@example.com", purpose="reminders") == "service"
    assert rt.reason("no address") == "invalid_identifier"
    body = {"brand": "rt", "channel": "email", "purpose": "service", "to": ["ann@example.com"]}
    answer = rt.post("/v1/check", body).json()
    assert (answer["degraded"], answer["results"][0]["allowed"]) == (True, True)
    assert rt.client.get("/readyz").json()["marketing"] == "paused"
    assert "prefs_marketing_paused 1.0" in rt.client.get("/metrics").text
    rt.runtime.database.write_now(lambda conn: journals.open_again(conn, "here"))
    eventually(lambda: rt.reason("ann@example.com") == "consent")


def test_staff_are_told_on_every_page(rt: Served) -> None:
    one = desk(rt, Role.RECEPTION, "may@example.co.uk")
    assert "All marketing has been paused" not in one.get("/staff")
    rt.runtime.database.write_now(pause)
    eventually(lambda: "All marketing has been paused" in one.get("/staff"))


async def _carried(small: Clinic, vendor: MailingList) -> None:
    push = push_of(small, vendor)
    small.consent("ann@example.co.uk")
    small.say("bob@example.co.uk", Source.ONE_CLICK, Choice.OUT)
    small.database.write_now(pause)
    await one_round(small, push)
    assert vendor.held == {"ann@example.co.uk": Value.UNSET, "bob@example.co.uk": Value.OFF}
    small.database.write_now(lambda conn: journals.open_again(conn, "here"))
    small.clock.forward(61)
    await one_round(small, push)
    assert vendor.held["ann@example.co.uk"] is Value.ON


def test_nobody_is_switched_on_at_a_vendor_while_it_lasts(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    small = clinic(tmp_path / "small")
    held = {"ann@example.co.uk": Value.UNSET, "bob@example.co.uk": Value.ON}
    try:
        asyncio.run(_carried(small, MailingList(small.clock, held=held)))
    finally:
        small.database.close()
