"""Every change of a sealed row, a payload or a state is found and named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from prefs.core.words import Choice, Source
from prefs.store import ledger
from tests.kit import Clinic, clinic


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Clinic]:
    made = clinic(tmp_path)
    for number in range(5):
        made.consent(f"p{number}@example.co.uk")
        made.say(f"p{number}@example.co.uk", Source.ONE_CLICK)
    made.database.write_now(ledger.seal)
    yield made
    made.database.close()


def findings(rt: Clinic) -> list[ledger.Finding]:
    found = rt.database.read_now(lambda conn: list(ledger.verify(conn, rt.keys)))
    return [one for one in found if isinstance(one, ledger.Finding)]


def edit(rt: Clinic, sql: str) -> None:
    def job(conn: Connection) -> None:
        conn.exec_driver_sql(sql)

    rt.database.write_now(job)


def test_an_untouched_ledger_has_no_findings(rt: Clinic) -> None:
    assert findings(rt) == []
    assert rt.database.read_now(ledger.head)[0] == 10


def test_numbers_are_gapless_whoever_seals(rt: Clinic) -> None:
    rt.say("late@example.co.uk", Source.LINK)
    assert rt.database.write_now(ledger.seal) == 1
    assert rt.database.write_now(ledger.seal) == 0
    assert rt.database.read_now(ledger.head)[0] == 11


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("UPDATE ledger SET choice = 'in' WHERE n = 4", "row 4 "),
        ("UPDATE ledger SET at = at + 1 WHERE n = 7", "row 7 "),
        ("DELETE FROM ledger WHERE n = 3", "row 3 is missing"),
        ("DELETE FROM payloads WHERE id = 2", "payload of event"),
        ("UPDATE payloads SET salt = hash FROM ledger WHERE payloads.id = 2", "payload of event"),
        ("UPDATE payloads SET body = salt WHERE id = 2", "payload of event"),
        ("UPDATE subjects SET revision = 1 WHERE revision = 2", "hole in its revisions"),
    ],
)
def test_a_hand_edit_is_named(rt: Clinic, sql: str, what: str) -> None:
    edit(rt, sql)
    assert any(what in finding.what for finding in findings(rt))


def test_the_first_finding_names_the_first_bad_row(rt: Clinic) -> None:
    edit(rt, "UPDATE ledger SET source = 'staff' WHERE n IN (6, 9)")
    assert findings(rt)[0].n == 6


def test_a_state_that_is_not_the_fold_is_found_and_rebuilt(rt: Clinic) -> None:
    edit(rt, "UPDATE subjects SET state = (SELECT state FROM subjects ORDER BY id LIMIT 1)")
    assert any("not the fold" in finding.what for finding in findings(rt))
    rt.database.write_now(rt.intake.rebuild)
    assert findings(rt) == []


def test_the_feed_holds_what_changed_something_in_order(rt: Clinic) -> None:
    rt.say("p1@example.co.uk", Source.ONE_CLICK)
    rt.say("p1@example.co.uk", Source.STAFF, Choice.IN)
    rt.database.write_now(ledger.seal)
    rows = rt.database.read_now(lambda conn: ledger.feed(conn, 0, 100, "rt"))
    assert [row.n for row in rows] == list(range(1, 11))
    assert rt.database.read_now(lambda conn: ledger.feed(conn, 8, 1, "rt"))[0].n == 9
