"""The one door: whom a signal is about, what it changes, whom it marks."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from prefs.core import identity
from prefs.core.decision import Word
from prefs.core.fold import fold
from prefs.core.signals import DeliveryFact, Evidence, Renamed, Signal, Statement
from prefs.core.words import Basis, Channel, Choice, Purpose, Result, Scope, Source, Why
from prefs.store import ledger, marks, permissions, subjects
from prefs.store.codec import encode_state
from tests.kit import EMAIL, SMS, Clinic, clinic

ADA = "ada@example.co.uk"


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Clinic]:
    made = clinic(tmp_path)
    yield made
    made.database.close()


def word(rt: Clinic, address: str = ADA, scope: Scope = EMAIL, brand: str = "rt") -> Word | None:
    hash_ = rt.hash(address)
    held = rt.database.read_now(lambda conn: permissions.read(conn, brand, [hash_]))
    view = held[hash_].views.get(scope) if hash_ in held else None
    return view.word if view else None


def owners(rt: Clinic, address: str = ADA) -> list[int]:
    return rt.database.read_now(lambda conn: subjects.owners(conn, "rt", [rt.hash(address)]))


def marked(rt: Clinic) -> int:
    return sum(count for count, _ in rt.database.read_now(marks.backlog).values())


def test_one_address_in_any_case_is_one_person(rt: Clinic) -> None:
    first, second = rt.say("A@Example.co.uk", Source.LINK), rt.say("a@example.CO.UK", Source.LINK)
    assert first.subject_id == second.subject_id
    assert [o.result for o in second.outcomes] == [Result.UNCHANGED]


def number(rt: Clinic) -> int:
    """Of the one mark of the one person."""
    (owner,) = owners(rt)
    (mark,) = rt.database.read_now(lambda conn: marks.of_subject(conn, owner))
    return int(mark.number)


def test_a_repeat_marks_nothing(rt: Clinic) -> None:
    rt.say(ADA, Source.LINK)
    before = number(rt)
    rt.say(ADA, Source.LINK)
    assert (marked(rt), number(rt)) == (1, before)


def test_a_mark_set_again_gets_a_new_number(rt: Clinic) -> None:
    rt.say(ADA, Source.IMPORT)
    before = number(rt)
    rt.say(ADA, Source.LINK)
    assert number(rt) != before


def test_an_out_goes_to_all_who_share_an_address_and_an_in_to_none(rt: Clinic) -> None:
    one, two = rt.consent(ADA, ref="p1"), rt.consent(ADA, ref="p2")
    assert one.subject_id != two.subject_id
    out = rt.say(ADA, Source.ONE_CLICK)
    assert {out.subject_id, *out.also} == {one.subject_id, two.subject_id}
    back = rt.consent(ADA)
    assert back.outcomes[0].why is Why.AMBIGUOUS
    assert word(rt) is Word.OPTED_OUT


def test_an_in_of_one_sharer_does_not_lift_anothers_own_out(rt: Clinic) -> None:
    rt.consent(ADA, ref="p1")
    rt.consent(ADA, ref="p2")
    rt.say(ADA, Source.LINK)
    lifted = rt.say(ADA, Source.DOUBLE_OPT_IN, Choice.IN, ref="p1", basis=Basis.CONSENT)
    assert lifted.outcomes[0].result is Result.APPLIED
    assert word(rt) is Word.OPTED_OUT


def test_a_clock_that_is_set_back_makes_no_opt_out_older(rt: Clinic) -> None:
    """Nor does one that is behind that of the machine which took the consent in."""
    rt.say(ADA, Source.DOUBLE_OPT_IN, Choice.IN, basis=Basis.CONSENT)
    rt.clock.at -= timedelta(seconds=5)
    rt.say(ADA, Source.LINK, scope=SMS)
    rt.clock.forward(1)
    out = rt.say(ADA, Source.ONE_CLICK)
    assert out.outcomes[0].result is Result.APPLIED
    assert word(rt) is Word.OPTED_OUT


def test_a_clock_that_is_set_back_lifts_nothing(rt: Clinic) -> None:
    rt.say(ADA, Source.ONE_CLICK)
    rt.clock.at -= timedelta(seconds=5)
    back = rt.say(ADA, Source.DOUBLE_OPT_IN, Choice.IN, basis=Basis.CONSENT)
    assert back.outcomes[0].why is Why.OLDER
    assert word(rt) is Word.OPTED_OUT


def test_somebody_new_at_a_suppressed_address_is_denied_too(rt: Clinic) -> None:
    rt.say(ADA, Source.ONE_CLICK, ref="p1")
    new = rt.consent(ADA, ref="p2")
    assert new.outcomes[0].result is Result.APPLIED
    assert word(rt) is Word.OPTED_OUT


def test_a_ref_is_taken_on_by_the_one_who_had_none(rt: Clinic) -> None:
    first = rt.consent(ADA)
    assert rt.consent(ADA, ref="p1").subject_id == first.subject_id


def test_a_new_address_of_a_person_inherits_their_out_and_is_marked(rt: Clinic) -> None:
    rt.say(ADA, Source.LINK, ref="p1")
    rt.consent("ada@home.example", ref="p1")
    assert word(rt, "ada@home.example") is Word.OPTED_OUT


def test_stop_all_counts_for_every_brand_of_the_controller_only(rt: Clinic) -> None:
    everything = tuple(Statement(Scope(c, Purpose.MARKETING), Choice.OUT) for c in Channel)
    signal = Signal("rt", Source.LINK, everything, (identity.email(ADA),), every_brand=True)
    rt.database.write_now(lambda conn: rt.intake.record(conn, signal))
    assert word(rt) is Word.OBJECTED
    assert word(rt, brand="second") is Word.OBJECTED
    assert word(rt, brand="other") is None


def test_a_one_click_is_its_brands(rt: Clinic) -> None:
    rt.say(ADA, Source.ONE_CLICK)
    assert word(rt, brand="second") is None


def test_a_marketing_out_leaves_reminders_alone(rt: Clinic) -> None:
    rt.say(ADA, Source.ONE_CLICK)
    assert word(rt, scope=Scope(Channel.EMAIL, Purpose.REMINDERS)) is None


def test_a_second_delivery_of_one_event_is_a_duplicate(rt: Clinic) -> None:
    more: dict[str, Any] = {"origin": "rt/list", "event_key": "e1"}
    rt.say(ADA, Source.VENDOR_PERSON, **more)
    assert rt.say(ADA, Source.VENDOR_PERSON, **more).duplicate
    (owner,) = owners(rt)
    assert len(rt.database.read_now(lambda conn: ledger.history(conn, owner))) == 1


def test_a_refused_in_of_a_target_marks_that_target(rt: Clinic) -> None:
    rt.say(ADA, Source.LINK)
    now = rt.clock().timestamp()
    lease = rt.database.write_now(lambda c: marks.take_lease(c, "rt/list", "one", now, 30.0))
    assert lease
    claimed = rt.database.write_now(lambda c: marks.claim(c, lease, now + 1, 10))
    rt.database.write_now(lambda c: marks.clear(c, lease, claimed))
    assert marked(rt) == 0
    rt.say(ADA, Source.VENDOR_ADMIN, Choice.IN, origin="rt/list")
    assert marked(rt) == 1


def test_a_notice_is_known_once_its_wording_was_given(rt: Clinic) -> None:
    blind = Evidence(notice="web-2026")
    refused = rt.say(ADA, Source.API, Choice.IN, basis=Basis.CONSENT, evidence=blind)
    assert refused.outcomes[0].why is Why.NO_EVIDENCE
    told = Evidence(notice="web-2026", wording="Yes please")
    rt.say("b@example.co.uk", Source.API, Choice.IN, basis=Basis.CONSENT, evidence=told)
    known = rt.say(ADA, Source.API, Choice.IN, basis=Basis.CONSENT, evidence=blind)
    assert known.outcomes[0].result is Result.APPLIED


def test_a_moved_address_takes_its_out_along_and_leaves_it_behind(rt: Clinic) -> None:
    rt.say(ADA, Source.LINK)
    moved = Renamed(identity.email(ADA), identity.email("new@example.co.uk"))
    rt.database.write_now(lambda conn: rt.intake.rename(conn, "rt", "rt/list", moved))
    assert word(rt, "new@example.co.uk") is Word.OPTED_OUT
    assert word(rt, ADA) is Word.OPTED_OUT


def test_a_delivery_fact_denies_and_ends(rt: Clinic) -> None:
    def fact(*, ended: bool) -> DeliveryFact:
        return DeliveryFact(identity.email(ADA), Purpose.MARKETING, "hard_bounce", ended=ended)

    def undeliverable() -> bool:
        held = rt.database.read_now(lambda c: permissions.read(c, "rt", [rt.hash(ADA)]))
        return (Channel.EMAIL, Purpose.MARKETING) in held[rt.hash(ADA)].undeliverable

    rt.consent(ADA)
    rt.database.write_now(lambda c: rt.intake.fact(c, "rt", "rt/list", fact(ended=False)))
    assert undeliverable()
    rt.database.write_now(lambda c: rt.intake.fact(c, "rt", "rt/list", fact(ended=True)))
    assert not undeliverable()


def test_an_out_from_the_future_counts_from_receipt(rt: Clinic) -> None:
    later = rt.clock.at + timedelta(days=400)
    rt.say(ADA, Source.API, occurred_at=later)
    lifted = rt.say(ADA, Source.CENTRE, Choice.IN)
    assert lifted.outcomes[0].result is Result.APPLIED


@pytest.mark.parametrize("round_", range(20))
def test_two_parallel_first_requests_make_one_person_and_the_out_holds(
    rt: Clinic, round_: int
) -> None:
    spellings = [("A@x.example", Choice.IN), ("a@x.example", Choice.OUT)]
    barrier = threading.Barrier(2)

    def act(address: str, choice: Choice) -> None:
        barrier.wait()
        if choice is Choice.IN:
            rt.consent(address)
        else:
            rt.say(address, Source.ONE_CLICK)

    threads = [threading.Thread(target=act, args=pair) for pair in spellings]
    for thread in threads[:: 1 if round_ % 2 else -1]:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(owners(rt, "a@x.example")) == 1
    assert word(rt, "a@x.example") is Word.OPTED_OUT


def test_the_state_is_the_fold_of_the_ledger_and_the_ledger_verifies(rt: Clinic) -> None:
    acts = itertools.product(
        [Source.ONE_CLICK, Source.CENTRE, Source.STAFF, Source.IMPORT],
        [Choice.OUT, Choice.IN],
        [EMAIL, EMAIL._replace(topic="offers"), SMS],
    )
    for source, choice, scope in acts:
        rt.say(ADA, source, choice, scope, basis=Basis.CONSENT)
    while rt.database.write_now(ledger.seal):
        pass
    (owner,) = owners(rt)
    (subject,) = rt.database.read_now(lambda conn: subjects.by_ids(conn, [owner]))
    rows = rt.database.read_now(lambda conn: ledger.history(conn, owner))
    rebuilt = fold(ledger.folded(row) for row in rows)
    assert encode_state(rebuilt) == encode_state(subject.state)
    findings = rt.database.read_now(lambda conn: list(ledger.verify(conn, rt.keys)))
    assert [one for one in findings if isinstance(one, ledger.Finding)] == []


EDITED = [
    "DELETE FROM permissions WHERE brand = 'rt'",
    "UPDATE permissions SET value = (SELECT value FROM permissions ORDER BY value LIMIT 1)",
    "DELETE FROM delivery_facts",
    "UPDATE delivery_facts SET purpose = 'reminders'",
]


@pytest.mark.parametrize("edit", EDITED)
def test_an_answer_that_is_not_what_is_held_is_found(rt: Clinic, edit: str) -> None:
    """With a delivery fact of one of them; the others are told by their states alone."""
    first, others = identity.email(ADA), [f"p{number}@example.co.uk" for number in range(3)]
    for address in others:
        rt.consent(address)
    rt.say(ADA, Source.ONE_CLICK)
    bounced = DeliveryFact(first, Purpose.MARKETING, "hard_bounce")
    rt.database.write_now(lambda conn: rt.intake.fact(conn, "rt", "rt/list", bounced))
    assert rt.database.read_now(lambda conn: list(rt.intake.verify(conn))) == []
    rt.database.write_now(lambda conn: conn.exec_driver_sql(edit))
    found = rt.database.read_now(lambda conn: list(rt.intake.verify(conn)))
    assert found
    assert all("is not what their states say" in one.what for one in found)


def test_the_owners_of_more_identifiers_than_a_statement_takes(rt: Clinic) -> None:
    """A system from which hundreds of thousands were deleted at once."""
    said = rt.say(ADA, Source.ONE_CLICK)
    hashes = [number.to_bytes(16, "big") for number in range(260_000)]
    found = rt.database.read_now(lambda conn: subjects.owners(conn, "rt", [*hashes, rt.hash(ADA)]))
    assert found == [said.subject_id]


@pytest.mark.sqlite
def test_a_page_of_people_sorts_nobody_else(rt: Clinic) -> None:
    """Else a walk over a million takes a million steps for each page of five hundred."""
    for number in range(5):
        rt.say(f"p{number}@example.co.uk", Source.ONE_CLICK)

    def plan(conn: Any) -> str:
        wanted = subjects._after("rt", -1, 3)
        text = wanted.compile(dialect=conn.dialect, compile_kwargs={"literal_binds": True})
        return str(conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").all())

    assert "USING INTEGER PRIMARY KEY" in rt.database.read_now(plan)
    ids = rt.database.read_now(lambda conn: list(subjects.all_ids(conn, "rt", 2)))
    assert [len(page) for page in ids] == [2, 2, 1]
    assert rt.database.read_now(lambda conn: list(subjects.all_ids(conn, "other", 2))) == []


def test_everybody_who_shares_the_address_is_marked(rt: Clinic) -> None:
    for ref in ("one", "two"):
        rt.consent(ADA, ref=ref)
    rt.database.write_now(lambda conn: conn.exec_driver_sql("DELETE FROM marks"))
    rt.consent(ADA, EMAIL._replace(topic="news"), ref="one")
    assert marked(rt) == 2
