"""A million rows through the doors for many."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from bench import lists
from bench.data import Data, path_of
from bench.kit import Figure, Installation, Plan, alternate, figure, growth, told
from prefs.importing import CHUNK


def scrub_million(data: Data, plan: Plan) -> list[Figure]:
    """CSV of 1 M rows through `/v1/scrub`, wall time ÷ (csv read + normalise + hash + raw SQL join
    of the same rows), the floor in a process of its own; and by how much the serving process grows
    at its highest during the first list."""
    url = data.sqlite(plan.people)
    path = lists.to_scrub(data.place() / "list.csv", plan.people)
    with Installation(data.folder, url).serving() as served:

        def ours() -> float:
            found = told("bench.stream", str(served.port), served.key, str(path), "1")
            assert found["rows"] == plan.people, found
            return float(found["seconds"])

        with growth(served.pid) as grown:
            first = ours()
        rounds = iter([first])
        a, b = alternate(
            max(1, plan.rounds - 2),
            lambda: next(rounds, None) or ours(),
            lambda: float(told("bench.scrubbing", str(path_of(url)), str(path))["seconds"]),
        )
    return [
        figure("scrub_million", a / b, "ratio", plan.people, "<=", 2.5),
        figure("scrub_million_memory", grown[0], "MiB", plan.people, "<=", 64),
    ]


def import_million(data: Data, plan: Plan) -> list[Figure]:
    """Rows/s of `prefs import --apply` (the whole process, into an empty SQLite database) ÷ raw
    executemany of the same rows: the very rows that it wrote, read back from all tables, in as many
    transactions, `synchronous=FULL`. Memory growth: its highest RSS above that of an import of a
    hundredth."""
    path = lists.to_import(data.place() / "import.csv", plan.people)
    small = lists.to_import(data.place() / "few.csv", plan.few)
    filled = data.empty_sqlite()
    _, least = _import(data, data.empty_sqlite(), small)
    seconds, most = _import(data, filled, path)
    empty = data.empty_sqlite()
    told_of = [str(path_of(filled)), str(path_of(empty)), str(plan.people), str(CHUNK)]
    floor = float(told("bench.rewrite", *told_of)["seconds"])
    for url in (filled, empty):
        data.drop(url)
    return [
        figure("import_million", floor / seconds, "ratio", plan.people, ">=", 0.35),
        figure("import_million_memory", most - least, "MiB", plan.people, "<=", 128),
    ]


def _import(data: Data, url: str, path: Path) -> tuple[float, float]:
    """Seconds, and the highest RSS in MiB."""
    return _run(lambda: Installation(data.folder, url), "import", str(path), "--apply")


def verify_million(data: Data, plan: Plan) -> list[Figure]:
    """`prefs ledger verify` (the whole process) ÷ reading the rows and SHA-256 of the same bytes,
    in a process of its own, its start not counted. More than a row a person stands in the ledger;
    both walk all of them."""
    url = data.sqlite(plan.people)
    rows: list[int] = []

    def floor() -> float:
        found = told("bench.walk", str(path_of(url)))
        rows.append(found["rows"])
        return float(found["seconds"])

    made = Installation(data.folder, url)
    a, b = alternate(
        max(1, plan.rounds - 3), lambda: _run(lambda: made, "ledger", "verify")[0], floor
    )
    return [figure("verify_million", a / b, "ratio", rows[0], "<=", 4)]


def _run(make: Callable[[], Installation], *args: str) -> tuple[float, float]:
    """Seconds and highest RSS (MiB) of a command."""
    began = time.perf_counter()
    process = make().start(*args, "--json")
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"prefs {args[0]} failed")
    return time.perf_counter() - began, used.ru_maxrss / 1024
