"""make bench: prints a table, writes bench/results.json and bench/results.svg.

Each figure is a ratio of ours to a floor measured in the same run, alternating, as medians of the
rounds: absolute numbers drift with the machine, ratios hold. What each floor is stands at the
function that measures it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from bench import bulk, check, clicks, plot, record, size, vendors
from bench.data import Data
from bench.kit import Figure, Plan
from prefs.store import sqlite
from tests import postgres

HERE = Path(__file__).parent
FULL = Plan(people=1_000_000, rounds=5, seconds=3.0, once=1000, waiting=10_000)
QUICK = Plan(people=10_000, rounds=2, seconds=0.3, once=20, waiting=600)
BOTH = ("sqlite", "postgresql")

console = Console(stderr=True)


class Job(NamedTuple):
    """A figure (with its further rows), and the engines of the large databases it asks for."""

    run: Callable[[Data, Plan], list[Figure]]
    engines: Sequence[str] = ("sqlite",)


JOBS: Mapping[str, Job] = {
    "check_one": Job(check.check_one),
    "check_one_pg": Job(check.check_one_pg, ("postgresql",)),
    "check_batch": Job(check.check_batch),
    "scrub_million": Job(bulk.scrub_million),
    "record_one": Job(record.record_one, ()),
    "record_many": Job(record.record_many, ()),
    "record_many_pg": Job(record.record_many_pg, ()),
    "one_click": Job(clicks.one_click),
    "deny_after_ack": Job(clicks.deny_after_ack, ()),
    "to_vendor": Job(vendors.to_vendor, ()),
    "to_vendor_pg": Job(vendors.to_vendor_pg, ()),
    "drain_mailchimp": Job(vendors.drain_mailchimp, ()),
    "drain_hubspot": Job(vendors.drain_hubspot, ()),
    "drain_scale": Job(vendors.drain_scale, ()),
    "import_million": Job(bulk.import_million, ()),
    "verify_million": Job(bulk.verify_million),
    "growth": Job(size.growth),
    "footprint": Job(size.footprint, BOTH),
}


def main(arguments: Sequence[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    plan = QUICK if given.quick else FULL
    if given.people:
        plan = replace(plan, people=given.people)
    chosen = {name: job for name, job in JOBS.items() if not given.only or name in given.only}
    postgres.SETTINGS |= {"shared_buffers": "256MB", "max_wal_size": "4GB"}
    postgres.on_disk = True  # in memory a commit would cost nothing
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="prefs-bench-") as folder:
        for found in _measured(Path(folder), plan, chosen):
            figures += found
            _write(given.out, figures, merge=True)  # what is known stays if the run is cut off
    _write(given.out, figures, merge=bool(given.only))
    Console().print(_table(figures))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small counts, the same code")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=JOBS, help="keep the other rows that there are"
    )
    parser.add_argument("--people", type=int, help="of the large installations")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.json and .svg")
    return parser


def _measured(folder: Path, plan: Plan, jobs: Mapping[str, Job]) -> Iterator[list[Figure]]:
    engines = {engine for job in jobs.values() for engine in job.engines}
    with console.status("") as status:
        data = Data(folder, plan, engines, console.log)
        for name, job in jobs.items():
            status.update(f"measuring {name}")
            began = time.monotonic()
            found = job.run(data, plan)
            console.log(
                f"{name}: {found[0].value} {found[0].unit}, {time.monotonic() - began:.0f} s"
            )
            yield found


# --- what is written -----------------------------------------------------------------------------


def _write(folder: Path, figures: Sequence[Figure], *, merge: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    rows: dict[str, Any] = {one.name: one._asdict() for one in figures}
    if merge and path.exists():
        rows = {one["name"]: one for one in json.loads(path.read_text())["figures"]} | rows
    kept = list(rows.values())
    path.write_text(json.dumps({"machine": _machine(), "figures": kept}, indent=2) + "\n")
    (folder / "results.svg").write_text(plot.draw(kept))


def _machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite.library().sqlite_version,
        "postgresql": postgres.version(),
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _table(figures: Sequence[Figure]) -> Table:
    table = Table("name", "value", "unit", "bar", "holds", "n")
    for one in figures:
        bar = "" if one.bar is None else f"{one.op} {one.bar:g}"
        holds = "" if one.bar is None else "yes" if one.holds else "[red]no[/red]"
        table.add_row(one.name, f"{one.value:g}", one.unit, bar, holds, f"{one.n:,}")
    return table


if __name__ == "__main__":
    main()
