"""A slip of staff is taken back whole and alone: as if it had never been recorded."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from prefs import retract
from prefs.core.errors import NotFound
from prefs.core.fold import State
from prefs.core.signals import Evidence
from prefs.core.words import Channel, Choice, Purpose, Scope, Source
from prefs.retract import SLIP_WITHIN
from prefs.store import ledger, marks, subjects
from prefs.store.ledger import Finding
from tests.kit import EMAIL, TARGET, Clinic, clinic

ADA = "ada@example.co.uk"
WHY = Evidence(actor="sam@example.co.uk", note="the wrong person")
PHONE = Scope(Channel.PHONE, Purpose.MARKETING)


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Clinic]:
    made = clinic(tmp_path)
    yield made
    made.database.close()


def by_staff(rt: Clinic, scope: Scope = EMAIL, **more: Any) -> tuple[int, int]:
    """A slip: the subject, and what it is taken back by."""
    said = rt.say(ADA, Source.STAFF, scope=scope, **more)
    rows = rt.database.read_now(lambda conn: ledger.history(conn, said.subject_id))
    return said.subject_id, rows[-1].payload_id


def undo(rt: Clinic, subject_id: int, payload_id: int) -> None:
    rt.database.write_now(lambda conn: retract.undo(conn, rt.intake, subject_id, payload_id, WHY))


def state(rt: Clinic, subject_id: int) -> State:
    (found,) = rt.database.read_now(lambda conn: subjects.by_ids(conn, [subject_id]))
    return found.state


def clean(rt: Clinic) -> bool:
    while rt.database.write_now(ledger.seal):
        continue
    steps = rt.database.read_now(
        lambda conn: [*ledger.verify(conn, rt.keys), *rt.intake.verify(conn)]
    )
    return not any(isinstance(step, Finding) for step in steps)


def test_the_consent_from_before_stands_again_as_it_was(rt: Clinic) -> None:
    ada = rt.consent(ADA).subject_id
    before = state(rt, ada)
    slip = by_staff(rt)
    assert state(rt, ada) != before
    undo(rt, *slip)
    assert state(rt, ada) == before
    assert clean(rt)


def test_somebody_never_asked_is_never_asked_again(rt: Clinic) -> None:
    """No consent comes from a slip: calls to them stay subject to the register."""
    ada, payload = by_staff(rt, PHONE)
    undo(rt, ada, payload)
    assert state(rt, ada).at("rt", PHONE).consent is None
    assert not state(rt, ada).at("rt", PHONE).outs


def test_the_persons_own_out_stays(rt: Clinic) -> None:
    slip = by_staff(rt)
    rt.say(ADA, Source.ONE_CLICK)
    undo(rt, *slip)
    (out,) = state(rt, slip[0]).at("rt", EMAIL).outs
    assert out.source is Source.ONE_CLICK


def test_what_a_machine_said_after_it_stands(rt: Clinic) -> None:
    slip = by_staff(rt)
    rt.say(ADA, Source.VENDOR_ADMIN, origin="rt/other")
    undo(rt, *slip)
    assert [out.source for out in state(rt, slip[0]).at("rt", EMAIL).outs] == [Source.VENDOR_ADMIN]


def test_a_hold_that_it_decided_waits_again(rt: Clinic) -> None:
    held = rt.say(ADA, Source.MAIL, hold=True)
    slip = by_staff(rt)
    assert state(rt, held.subject_id).at("rt", EMAIL).hold is None
    undo(rt, *slip)
    assert state(rt, held.subject_id).at("rt", EMAIL).hold


def test_it_is_taken_back_from_all_brands_and_all_who_share_the_address(rt: Clinic) -> None:
    other = rt.say(ADA, Source.API, Choice.OUT, PHONE, ref="other").subject_id
    rt.say(ADA, Source.API, Choice.OUT, PHONE, ref="one")
    before = state(rt, other)
    slip = by_staff(rt, ref="one", every_brand=True)
    assert slip[0] != other
    assert all(state(rt, one).at("second", EMAIL).outs for one in (slip[0], other))
    undo(rt, *slip)
    assert state(rt, other) == before
    assert not state(rt, slip[0]).at("second", EMAIL).outs
    assert clean(rt)


def test_every_system_is_told_again(rt: Clinic) -> None:
    slip = by_staff(rt)

    def clear(conn: Any) -> None:
        lease = marks.take_lease(conn, TARGET.label, "one", 1.0, 1e12)
        assert lease
        marks.clear(conn, lease, marks.claim(conn, lease, 1e12, 100))

    rt.database.write_now(clear)
    assert rt.database.read_now(lambda conn: marks.of_subject(conn, slip[0])) == []
    undo(rt, *slip)
    waiting = rt.database.read_now(lambda conn: marks.of_subject(conn, slip[0]))
    assert [mark.target for mark in waiting] == [TARGET.label]


def test_after_a_quarter_of_an_hour_it_is_no_slip(rt: Clinic) -> None:
    slip = by_staff(rt)
    rt.clock.at += timedelta(seconds=SLIP_WITHIN + 1)
    with pytest.raises(NotFound):
        undo(rt, *slip)


def test_it_is_taken_back_once(rt: Clinic) -> None:
    slip = by_staff(rt)
    undo(rt, *slip)
    with pytest.raises(NotFound):
        undo(rt, *slip)
    assert clean(rt)


def test_the_same_said_again_stands(rt: Clinic) -> None:
    slip = by_staff(rt)
    undo(rt, *slip)
    again = by_staff(rt)
    assert state(rt, again[0]).at("rt", EMAIL).outs


@pytest.mark.parametrize("source", [Source.ONE_CLICK, Source.LINK, Source.VENDOR_ADMIN, Source.API])
def test_nobody_elses_out_is_a_slip(rt: Clinic, source: Source) -> None:
    said = rt.say(ADA, source)
    (row,) = rt.database.read_now(lambda conn: ledger.history(conn, said.subject_id))
    with pytest.raises(NotFound):
        undo(rt, said.subject_id, row.payload_id)
