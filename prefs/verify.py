"""The whole ledger walked: its chain, its payloads, and what the states and answers add up to."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from multiprocessing import get_context
from typing import NamedTuple

from sqlalchemy import Connection

from prefs.checkpoints import Checkpoints
from prefs.core.keys import Keyring
from prefs.intake import Intake
from prefs.store import ledger
from prefs.store.database import Database, make_engine
from prefs.store.ledger import Finding

LARGE = 100_000
"""Sealed rows from which on a second process is worth the second that it takes to begin."""


def against(conn: Connection, checkpoints: Checkpoints) -> list[Finding]:
    """What the folder of checkpoints has against the ledger, or is itself not right in."""
    found = [one for one in checkpoints.verify(conn) if not one.harmless]
    return [Finding(None, None, f"checkpoints: {one.what}") for one in found]


class Verified(NamedTuple):
    rows: int
    unsealed: int
    """Rows that wait for their seal."""
    findings: list[Finding]


Tell = Callable[[int], object]
"""Hears now and then how many rows were read."""


def verify(
    conn: Connection, intake: Intake, tell: Tell, checkpoints: Checkpoints | None = None
) -> Verified:
    """All of it, one walk after another."""
    findings = [] if checkpoints is None else against(conn, checkpoints)
    findings += _found(chain(ledger.verify(conn, intake.keys), intake.verify(conn)), tell)
    return Verified(ledger.head(conn)[0], ledger.count_unsealed(conn), findings)


def _found(steps: Iterable[Finding | int], tell: Tell) -> list[Finding]:
    findings = []
    for step in steps:
        if isinstance(step, Finding):
            findings.append(step)
        else:
            tell(step)
    return findings


# --- by two processes --------------------------------------------------------------------------


class Place(NamedTuple):
    """What another process needs to read the same."""

    url: str
    secrets: Sequence[bytes]
    brands: Mapping[str, str]


def verify_large(
    database: Database,
    place: Place,
    intake: Intake,
    tell: Tell,
    checkpoints: Checkpoints | None = None,
) -> Verified:
    """The same; a large ledger by two processes, for no walk needs what another one saw."""
    rows, _ = database.read_now(ledger.head)
    if rows < LARGE or not database.many_read:
        return database.read_now(partial(verify, intake=intake, tell=tell, checkpoints=checkpoints))
    with ProcessPoolExecutor(1, get_context("spawn")) as beside:
        others = beside.submit(_proofs_and_answers, place)
        here = database.read_now(partial(_order_and_states, tell=tell, checkpoints=checkpoints))
        return here._replace(findings=[*here.findings, *others.result()])


def _order_and_states(conn: Connection, tell: Tell, checkpoints: Checkpoints | None) -> Verified:
    findings = [] if checkpoints is None else against(conn, checkpoints)
    findings += _found(chain(ledger.verify_chain(conn), ledger.verify_subjects(conn)), tell)
    return Verified(ledger.head(conn)[0], ledger.count_unsealed(conn), findings)


def _proofs_and_answers(place: Place) -> list[Finding]:
    gc.freeze()
    engine, keys = make_engine(place.url), Keyring(place.secrets)
    intake = Intake(place.brands, (), keys, lambda: datetime.now(UTC))
    try:
        return engine.read_now(
            lambda conn: [*ledger.verify_payloads(conn, keys), *intake.verify(conn)]
        )
    finally:
        engine.close()
