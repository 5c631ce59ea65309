"""Pauses: the person's own out that ends by itself, here and in the connected systems."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from prefs.chores import Resuming
from prefs.core.decision import Ask, Reason, decide
from prefs.core.propagation import Value
from prefs.core.signals import Evidence, Signal, Statement, TokenUse
from prefs.core.words import Choice, Kind, Source
from prefs.store import ledger, permissions
from prefs.store.codec import decode_held, encode_held
from prefs.store.schema import ledger as ledger_table
from tests.kit import EMAIL, Clinic, MailingList, clinic, one_round, push_of

ADA, ADAM = "ada@example.com", "adam@example.com"
DAY = 86400.0


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Clinic]:
    made = clinic(tmp_path)
    yield made
    made.database.close()


def pause(rt: Clinic, days: float = 30, source: Source = Source.CENTRE) -> datetime:
    until = rt.clock.at + timedelta(days=days)
    rt.say(ADA, source, until=until)
    return until


def carry(rt: Clinic, there: MailingList) -> None:
    asyncio.run(one_round(rt, push_of(rt, there)))


def sweep(rt: Clinic) -> None:
    asyncio.run(Resuming(rt.database, rt.intake).run())


def reason(rt: Clinic, address: str = ADA, brand: str = "rt") -> Reason:
    hash_ = rt.hash(address)
    held = rt.database.read_now(lambda conn: permissions.read(conn, brand, [hash_]))
    return decide(Ask(EMAIL), held[hash_], rt.clock().timestamp()).reason


def findings(rt: Clinic) -> list[Any]:
    def look(conn: Any) -> list[Any]:
        while ledger.seal(conn):
            pass
        chain = [one for one in ledger.verify(conn, rt.keys) if not isinstance(one, int)]
        return chain + list(rt.intake.verify(conn))

    return rt.database.write_now(look)


def test_a_pause_is_off_everywhere_and_on_again_after_its_day(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON})
    rt.consent(ADA)
    carry(rt, there)
    pause(rt, 30)
    assert reason(rt) is Reason.OPTED_OUT
    carry(rt, there)
    assert there.held[ADA] is Value.OFF
    rt.clock.forward(29 * DAY)
    sweep(rt)
    assert reason(rt) is Reason.OPTED_OUT
    rt.clock.forward(DAY)
    sweep(rt)
    assert reason(rt) is Reason.CONSENT
    carry(rt, there)
    assert there.held[ADA] is Value.ON
    assert findings(rt) == []


def test_an_unsubscribe_during_a_pause_stays(rt: Clinic) -> None:
    rt.consent(ADA)
    pause(rt)
    rt.say(ADA, Source.ONE_CLICK)
    rt.clock.forward(31 * DAY)
    sweep(rt)
    assert reason(rt) is Reason.OPTED_OUT
    assert findings(rt) == []


def test_nothing_that_was_off_comes_on_by_a_pause(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON})
    rt.say(ADA, Source.IMPORT)
    pause(rt)
    rt.clock.forward(31 * DAY)
    sweep(rt)
    carry(rt, there)
    assert reason(rt) is Reason.OPTED_OUT
    assert there.held[ADA] is Value.OFF


def test_a_vendor_that_turns_it_on_meanwhile_is_pushed_back(rt: Clinic) -> None:
    there = MailingList(rt.clock, held={ADA: Value.ON})
    rt.consent(ADA)
    pause(rt)
    carry(rt, there)
    there.held[ADA] = Value.ON
    refused = rt.say(ADA, Source.VENDOR_API, Choice.IN, origin="rt/list")
    assert refused.outcomes[0].result == "refused"
    carry(rt, there)
    assert there.held[ADA] is Value.OFF


def test_who_shares_the_address_is_silent_for_as_long(rt: Clinic) -> None:
    rt.consent(ADA, ref="ada")
    rt.consent(ADA, ref="adam")
    pause(rt)
    assert reason(rt) is Reason.OPTED_OUT
    rt.clock.forward(31 * DAY)
    sweep(rt)
    assert reason(rt) is Reason.CONSENT


def test_ended_early_by_the_person(rt: Clinic) -> None:
    rt.consent(ADA)
    pause(rt)
    subject = rt.consent(ADA).subject_id
    assert reason(rt) is Reason.OPTED_OUT
    rt.database.write_now(
        partial(
            rt.intake.resume,
            brand="rt",
            subject_id=subject,
            token=TokenUse(b"t", rt.clock(), rt.hash(ADA)),
            evidence=Evidence(),
        )
    )
    assert reason(rt) is Reason.CONSENT
    assert findings(rt) == []


def test_the_state_is_rebuilt_with_its_pauses(rt: Clinic) -> None:
    rt.consent(ADA)
    until = pause(rt)
    rt.database.write_now(rt.intake.rebuild)
    assert findings(rt) == []
    rt.clock.forward((until - rt.clock.at).total_seconds())
    sweep(rt)
    assert reason(rt) is Reason.CONSENT


@pytest.mark.parametrize("until", ["2030-01-01", None])
def test_an_end_that_was_changed_behind_our_back_is_found(rt: Clinic, until: str | None) -> None:
    pause(rt)
    assert findings(rt) == []
    other = datetime.fromisoformat(until).replace(tzinfo=UTC).timestamp() if until else None
    rt.database.write_now(lambda conn: conn.execute(update(ledger_table).values(until=other)))
    assert any("changed after sealing" in one.what for one in findings(rt))


def test_stop_all_during_a_pause_is_an_objection_and_a_pause_of_all_is_none(rt: Clinic) -> None:
    everything = [Statement(EMAIL._replace(channel=c), Choice.OUT) for c in type(EMAIL.channel)]

    def all_of(**more: Any) -> None:
        hashes = ((Kind.EMAIL, rt.hash(ADA)),)
        signal = Signal("rt", Source.CENTRE, tuple(everything), hashes=hashes, **more)
        rt.database.write_now(lambda conn: rt.intake.record(conn, signal))

    rt.consent(ADA)
    all_of(until=rt.clock.at + timedelta(days=3))
    assert reason(rt) is Reason.OPTED_OUT
    all_of()
    assert reason(rt) is Reason.OBJECTED


def test_the_end_is_kept_beside_the_answer(rt: Clinic) -> None:
    rt.consent(ADA)
    until = pause(rt)
    hash_ = rt.hash(ADA)
    held = rt.database.read_now(lambda conn: permissions.read(conn, "rt", [hash_]))[hash_]
    assert held.views[EMAIL].until == int(until.timestamp())
    assert decode_held(encode_held(held)) == held
