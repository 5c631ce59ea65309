"""The whole ledger walked: its chain, its payloads, and what the states and answers add up to."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import NamedTuple

from sqlalchemy import Connection

from prefs.checkpoints import Checkpoints
from prefs.intake import Intake
from prefs.store import ledger
from prefs.store.ledger import Finding


def against(conn: Connection, checkpoints: Checkpoints) -> list[Finding]:
    """What the folder of checkpoints has against the ledger, or is itself not right in."""
    found = [one for one in checkpoints.verify(conn) if not one.harmless]
    return [Finding(None, None, f"checkpoints: {one.what}") for one in found]


class Verified(NamedTuple):
    rows: int
    unsealed: int
    """Rows that wait for their seal."""
    findings: list[Finding]


def verify(
    conn: Connection,
    intake: Intake,
    tell: Callable[[int], object],
    checkpoints: Checkpoints | None = None,
) -> Verified:
    """`tell` hears now and then how many rows were read."""
    findings = [] if checkpoints is None else against(conn, checkpoints)
    for step in chain(ledger.verify(conn, intake.keys), intake.verify(conn)):
        if isinstance(step, Finding):
            findings.append(step)
        else:
            tell(step)
    return Verified(ledger.head(conn)[0], ledger.count_unsealed(conn), findings)
