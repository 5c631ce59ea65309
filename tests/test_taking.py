"""What is taken in together is what would have become of it one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from sqlalchemy import Connection, Table, delete, select

from prefs.core import identity
from prefs.core.errors import NotFound
from prefs.core.signals import Evidence, Signal, SoftOptIn, Statement
from prefs.core.words import Basis, Channel, Choice, Purpose, Scope, Source
from prefs.intake import Intake, Recorded
from prefs.store import schema, subjects
from prefs.store.counters import Numbers
from tests.kit import Clinic, clinic

AT = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
ADDRESSES = ("ada@example.com", "ben@example.com", "eve@example.com")
NUMBERS = ("+447700900101", "+447700900102")
SCOPES = (
    Scope(Channel.EMAIL, Purpose.MARKETING),
    Scope(Channel.EMAIL, Purpose.MARKETING, "offers"),
    Scope(Channel.SMS, Purpose.MARKETING),
    Scope(Channel.EMAIL, Purpose.REMINDERS),
)
COMPARED: dict[str, str] = {
    "subjects": "id ref name revision state last_row_at resume_at",
    "permissions": "brand hash value",
    "ledger": "id subject_id revision kind brand channel purpose topic choice source at identifier "
    "basis result why origin",
    "marks": "target subject_id vendor_id urgent due_at since attempts",
    "batches": "brand origin state outs due_at",
    "notices": "brand name wording",
    "events": "target event_key",
}

identifiers = some.lists(
    some.sampled_from([*map(identity.email, ADDRESSES)])
    | some.sampled_from([identity.phone(number, "GB") for number in NUMBERS]),
    max_size=2,
    unique=True,
)


@some.composite
def signals(draw: some.DrawFn) -> Signal:
    brought = tuple(draw(identifiers))
    ref = draw(some.sampled_from([None, None, "p1", "p2"])) if brought else "p1"
    source = draw(some.sampled_from([one for one in Source if one is not Source.MESSENGER]))
    vendor = source.value.startswith("vendor")
    scope, choice = draw(some.sampled_from(SCOPES)), draw(some.sampled_from(list(Choice)))
    return Signal(
        brand=draw(some.sampled_from(["rt", "second", "other"])),
        source=source,
        statements=(Statement(scope, choice),),
        identifiers=brought,
        ref=ref,
        name=draw(some.sampled_from([None, "Ada"])),
        occurred_at=AT + timedelta(seconds=draw(some.integers(-2, 2))),
        basis=draw(some.sampled_from([None, Basis.CONSENT])),
        soft_opt_in=draw(some.sampled_from([None, SoftOptIn(True, True, True, True, True)])),
        evidence=Evidence(
            notice=draw(some.sampled_from([None, "n1"])),
            wording=draw(some.sampled_from([None, "Yes"])),
            actor="Reception",
            note="said so",
        ),
        hold=draw(some.integers(0, 9)) == 0,
        origin="rt/list" if vendor else None,
        event_key=draw(some.sampled_from([None, None, "e1"])) if vendor else None,
    )


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Clinic]:
    made = clinic(tmp_path)
    with made.database:
        yield made


class Still:
    """A clock that stands still, so that what is compared carries equal times."""

    def __call__(self) -> datetime:
        return AT


def kept(conn: Connection, taken: Sequence[Recorded]) -> dict[str, Any]:
    """What everything adds up to, beside what the caller was told; then all is forgotten."""
    found: dict[str, Any] = {"taken": taken}
    for name, columns in COMPARED.items():
        table: Table = schema.metadata.tables[name]
        rows = conn.execute(select(*(table.c[column] for column in columns.split()))).all()
        found[name] = sorted(map(repr, rows))
    linked = schema.links.join(
        schema.identifiers, schema.identifiers.c.id == schema.links.c.identifier_id
    )
    wanted = select(schema.links.c.subject_id, schema.identifiers.c.hash).select_from(linked)
    found["links"] = sorted(map(repr, conn.execute(wanted).all()))
    for name in (*COMPARED, "links", "identifiers", "payloads", "tasks", "outbox"):
        conn.execute(delete(schema.metadata.tables[name]))
    return found


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(said=some.lists(signals(), min_size=1, max_size=8))
def test_together_is_one_after_the_other(rt: Clinic, said: list[Signal]) -> None:
    intake = Intake(rt.intake.brands, rt.intake.targets, rt.keys, Still())
    said.sort(
        key=lambda signal: signal.brand == "other"
    )  # what is of one controller is taken first

    def one_by_one(conn: Connection) -> dict[str, Any]:
        return kept(conn, [intake.record(conn, signal) for signal in said])

    def together(conn: Connection) -> dict[str, Any]:
        return kept(conn, intake.record_many(conn, said))

    with pytest.MonkeyPatch.context() as patched:
        found = [numbered_alike(patched, rt, way) for way in (one_by_one, together)]
    assert found[0] == found[1]


def numbered_alike(patched: pytest.MonkeyPatch, rt: Clinic, way: Any) -> dict[str, Any]:
    people, rows = itertools.count(1000), itertools.count(1)
    patched.setattr(subjects, "new_id", people.__next__)
    patched.setattr(Numbers, "take", lambda _, count: list(itertools.islice(rows, count)))
    done: dict[str, Any] = rt.database.write_now(way)
    return done


def test_one_that_cannot_be_takes_nobody_along(rt: Clinic) -> None:
    out = (Statement(SCOPES[0], Choice.OUT),)
    good = Signal("rt", Source.API, out, (identity.email(ADDRESSES[0]),))
    bad = Signal("rt", Source.STAFF, out, about=77)
    with pytest.raises(NotFound):
        rt.database.write_now(lambda conn: rt.intake.record_many(conn, [good, bad]))
    assert rt.database.read_now(lambda conn: conn.execute(select(schema.subjects)).all()) == []
