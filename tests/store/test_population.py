"""The many people of the figures are such as the intake would have written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import population
from prefs.core.keys import Keyring
from prefs.core.words import Channel, Purpose, Scope
from prefs.intake import Intake
from prefs.store import ledger, permissions, subjects
from prefs.store.database import Database
from prefs.verify import verify
from tests import empty
from tests.kit import SECRET, Clock

KEYS = Keyring([SECRET])


@pytest.fixture
def many(tmp_path: Path) -> Iterator[Database]:
    url = empty.database(tmp_path)
    population.fill(url, KEYS, 90)
    with Database(url) as database:
        yield database


def test_it_verifies_and_answers(many: Database) -> None:
    intake = Intake({"rt": "rt"}, [], KEYS, Clock())
    found = many.read_now(lambda conn: verify(conn, intake, lambda rows: None))
    assert (found.rows, found.unsealed, found.findings) == (183, 0, [])
    (out, _), (kept, *_) = population.identifiers(0), population.identifiers(2)
    held = many.read_now(
        lambda conn: permissions.read(conn, "rt", [KEYS.hash(out), KEYS.hash(kept)])
    )
    scope = Scope(Channel.EMAIL, Purpose.MARKETING)
    assert [str(held[KEYS.hash(one)].views[scope].word) for one in (out, kept)] == [
        "objected",
        "in",
    ]


def test_its_numbers_go_on(many: Database) -> None:
    def add(conn: object) -> int:
        return ledger.add_payload(conn, KEYS, {}).id  # type: ignore[arg-type]  # a connection

    assert many.write_now(add) == 91 + 30 + 10 + 13
    assert many.read_now(lambda conn: subjects.by_ref(conn, "rt", "crm-89")) is not None
