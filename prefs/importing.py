"""prefs import: a CSV of people and choices through the one door, in chunks, resumable.

Columns: email,phone,name,ref,channel,purpose,topic,choice,occurred_at,basis,notice,wording,note.
Rows that fail go, with the reason, to FILE.rejected.csv. After each chunk the row number is kept
beside the ledger, so that an interrupted import goes on where it stopped.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from sqlalchemy import Connection

from prefs.core import identity
from prefs.core.errors import BadInput
from prefs.core.signals import Evidence, Identifier, Signal, Statement
from prefs.core.words import Basis, Choice, Source
from prefs.store import events, ledger
from prefs.web.context import Service
from prefs.web.scopes import scope_of

COLUMNS = (
    "email",
    "phone",
    "name",
    "ref",
    "channel",
    "purpose",
    "topic",
    "choice",
    "occurred_at",
    "basis",
    "notice",
    "wording",
    "note",
)
CHUNK = 500
"""Rows a transaction: a chunk holds the writer and so delays every other record."""


@dataclass
class _Tally:
    rows: int = 0
    results: dict[str, int] = field(default_factory=dict)
    rejected: list[tuple[dict[str, str], str]] = field(default_factory=list)
    skipped: int = 0


class _DryRun(Exception):
    """Rolls the writes of a dry run back."""


def run(
    served: Service, brand: str, file: Path, *, write: bool, console: Console | None
) -> dict[str, Any]:
    """Import the file; a dry run judges every row and writes nothing."""
    tally = _Tally()
    digest = _digest(file)
    with file.open(newline="", encoding="utf-8-sig") as text:
        reader = csv.DictReader(text)
        _check_header(reader.fieldnames)
        with Progress(console=console, disable=console is None) as progress:
            job = progress.add_task("importing" if write else "trying", total=None)
            for number, chunk in enumerate(_chunks(reader)):
                label = f"import {digest} {number}"
                _chunk(served, brand, chunk, tally, label, write=write)
                progress.update(job, completed=tally.rows)
    while write and served.database.write_now(ledger.seal):
        continue
    rejected = _write_rejected(file, tally) if tally.rejected else None
    return {
        "rows": tally.rows,
        "applied": write,
        "results": tally.results,
        "done_before": tally.skipped,
        "rejected": len(tally.rejected),
        "rejected_file": rejected,
    }


def _digest(file: Path) -> str:
    with file.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


def _check_header(names: Any) -> None:
    unknown = sorted(set(names or ()) - set(COLUMNS))
    missing = [name for name in ("channel", "purpose", "choice") if name not in (names or ())]
    if unknown or missing:
        raise BadInput(
            f"the first line names the columns; unknown: {', '.join(unknown) or 'none'}; "
            f"missing: {', '.join(missing) or 'none'}; known are: {','.join(COLUMNS)}"
        )


def _chunks(reader: csv.DictReader[str]) -> Iterator[list[dict[str, str]]]:
    while chunk := list(islice(reader, CHUNK)):
        yield chunk


def _chunk(
    served: Service,
    brand: str,
    rows: list[dict[str, str]],
    tally: _Tally,
    label: str,
    *,
    write: bool,
) -> None:
    """One transaction; a chunk done by an earlier run is skipped."""
    tally.rows += len(rows)
    run = label.rpartition(" ")[0]
    signals = []
    for row in rows:
        try:
            signals.append(replace(signal_of(served, brand, row), batch=run))
        except BadInput as fault:
            tally.rejected.append((row, str(fault)))

    def job(conn: Connection) -> None:
        if write and not events.first_time(conn, brand, label, served.clock().timestamp()):
            tally.skipped += len(rows)
            return
        results = [
            outcome.result
            for signal in signals
            for outcome in served.intake.record(conn, signal).outcomes
        ]
        for result in results:
            tally.results[result.value] = tally.results.get(result.value, 0) + 1
        if not write:
            raise _DryRun

    try:
        served.database.write_now(job)
    except _DryRun:
        return


def signal_of(served: Service, brand: str, row: dict[str, str]) -> Signal:
    """Raises BadInput with what is wrong with the row; the value itself is never repeated."""
    cells = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
    if None in row:
        raise BadInput("more cells than columns")
    scope = scope_of(
        served.settings,
        brand,
        cells.get("channel", ""),
        cells.get("purpose", ""),
        cells.get("topic") or None,
    )
    identifiers = _identifiers(cells, served.settings.brands[brand].region)
    if not identifiers and not cells.get("ref"):
        raise BadInput("no email, phone or ref")
    return Signal(
        brand=brand,
        source=Source.IMPORT,
        statements=(Statement(scope, _choice(cells.get("choice", ""))),),
        identifiers=identifiers,
        ref=cells.get("ref") or None,
        name=cells.get("name") or None,
        occurred_at=_moment(cells.get("occurred_at", "")),
        basis=_basis(cells.get("basis", "")),
        evidence=Evidence(
            notice=cells.get("notice") or None,
            wording=cells.get("wording") or None,
            note=cells.get("note") or None,
        ),
    )


def _identifiers(cells: dict[str, str], region: str) -> tuple[Identifier, ...]:
    found = []
    if cells.get("email"):
        found.append(identity.email(cells["email"]))
    if cells.get("phone"):
        found.append(identity.phone(cells["phone"], region))
    return tuple(found)


def _choice(text: str) -> Choice:
    try:
        return Choice(text)
    except ValueError:
        raise BadInput("choice is in or out") from None


def _basis(text: str) -> Basis | None:
    if text in ("", "soft_opt_in"):
        return None
    try:
        return Basis(text)
    except ValueError:
        raise BadInput("basis is consent or legitimate_interest") from None


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput("occurred_at is no RFC 3339 time") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _write_rejected(file: Path, tally: _Tally) -> str:
    path = file.with_name(f"{file.name}.rejected.csv")
    with path.open("w", newline="", encoding="utf-8") as text:
        writer = csv.DictWriter(text, [*COLUMNS, "reason"], extrasaction="ignore")
        writer.writeheader()
        for row, reason in tally.rejected:
            writer.writerow({**{k: v for k, v in row.items() if k}, "reason": reason})
    return str(path)


def shown(report: dict[str, Any]) -> str:
    results = ", ".join(f"{count} {name}" for name, count in sorted(report["results"].items()))
    lines = [f"{report['rows']} rows: {results or 'nothing new'}"]
    if report["done_before"]:
        lines.append(f"{report['done_before']} rows were done by an earlier run")
    if report["rejected"]:
        lines.append(f"{report['rejected']} rejected, see {report['rejected_file']}")
    if not report["applied"]:
        lines.append("Nothing written; --apply writes it.")
    return "\n".join(lines)
