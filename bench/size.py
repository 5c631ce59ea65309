"""What becomes of speed and place as people grow more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import httpx
from sqlalchemy import Connection, select

from bench import record
from bench.check import CONNECTIONS, question, questions
from bench.data import Data
from bench.kit import (
    Figure,
    Installation,
    Plan,
    Running,
    alternate,
    cpu_seconds,
    figure,
    load,
    median,
    rate,
    status_kib,
)
from bench.population import address
from bench.vendors import carried, outs
from prefs.store import schema
from prefs.store.database import make_engine
from prefs.store.marks import set_marks

SIZES = ("small", "middle", "large")
"""10,000, 100,000 and a million people."""

Costs = dict[tuple[str, int], list[float]]
"""µs of the server's CPU, by what was asked and how many people there are."""


def sizes(plan: Plan) -> list[int]:
    return [plan.few, max(plan.few + 1, plan.people // 10), plan.people]


# --- growth --------------------------------------------------------------------------------------


def growth(data: Data, plan: Plan) -> list[Figure]:
    """Check, record and drain at 1 M people ÷ at 10,000 people, SQLite; `growth` is the smallest of
    the three. Checks and records by 64 clients, on all sizes in turn; drains of the same number of
    offs, each time of other people, to a HubSpot twin that limits nothing.

    Beside them what the plot shows: µs of the server's CPU for a check and a record at three
    sizes."""
    urls = [data.copy(data.sqlite(people)) for people in sizes(plan)]
    costs: Costs = defaultdict(list)
    ratios = _asked(data, plan, urls, costs)
    ratios["drain"] = _drains(data, plan, urls)
    for url in urls:
        data.drop(url)
    return [
        figure("growth", min(ratios.values()), "ratio", plan.people, ">=", 0.8),
        *(figure(f"growth_{name}", one, "ratio", plan.people) for name, one in ratios.items()),
        *(
            figure(f"{what}_cost_{name}", median(costs[what, people]), "us", people)
            for what in ("check", "record")
            for name, people in zip(SIZES, sizes(plan), strict=True)
        ),
    ]


def _asked(data: Data, plan: Plan, urls: Sequence[str], costs: Costs) -> dict[str, float]:
    """The large one's rate ÷ the small one's."""
    with ExitStack() as stack:
        served = [stack.enter_context(Installation(data.folder, url).serving()) for url in urls]
        found = {}
        for what, ask in (("check", _check), ("record", record.many)):
            sides = [
                partial(_side, one, partial(ask, one, people, plan.seconds), costs[what, people])
                for one, people in zip(served, sizes(plan), strict=True)
            ]
            rates = alternate(plan.rounds, *sides)
            found[what] = rates[-1] / rates[0]
    return found


def _check(served: Running, people: int, seconds: float) -> Any:
    shape = {"path": "/v1/check", "headers": served.headers}
    return load(served.port, CONNECTIONS, seconds, shape, questions(people))


def _side(served: Running, ask: Callable[[], Any], costs: list[float]) -> float:
    before = cpu_seconds(served.pid)
    found = ask()
    costs.append((cpu_seconds(served.pid) - before) * 1e6 / found["requests"])
    return rate(found)


def _drains(data: Data, plan: Plan, urls: Sequence[str]) -> float:
    rounds = max(1, plan.rounds - 2)
    parts = [outs(plan.few, plan.few // 3 // rounds, part) for part in range(rounds)]
    here, there = iter(parts), iter(parts)
    small, large = alternate(
        rounds,
        lambda: carried(data, urls[0], next(here), plan.few),
        lambda: carried(data, urls[-1], next(there), plan.people),
    )
    return large / small


# --- footprint -----------------------------------------------------------------------------------


def footprint(data: Data, plan: Plan) -> list[Figure]:
    """Bytes a person in the database (permission row, state, ledger, marks), everybody marked for
    one target, indexes and all; and RSS of `serve` at 1 M people after it was asked, told and given
    a list. The bytes at three sizes are for the plot."""
    bytes_of = {people: _bytes(data.sqlite(people), people) for people in sizes(plan)}
    on_postgres = _bytes(data.postgres(plan.people), plan.people)
    rss = _rss(data, plan)
    return [
        figure("footprint_bytes", bytes_of[plan.people], "bytes", plan.people),
        figure("footprint_bytes_pg", on_postgres, "bytes", plan.people),
        figure("footprint_rss", rss, "MiB", plan.people, "<=", 200),
        *(
            figure(f"bytes_{name}", bytes_of[people], "bytes", people)
            for name, people in zip(SIZES, sizes(plan), strict=True)
        ),
    ]


def _bytes(url: str, people: int) -> float:
    """Of a person. The marks are taken back, and what they took is free for others then."""
    engine = make_engine(url)
    try:
        engine.open()
        return engine.transaction(_marked_size) / people
    finally:
        engine.close()


PART = 10_000
"""Marks in one statement: none that writes may take long."""


def _marked_size(conn: Connection) -> int:
    people = conn.execute(select(schema.subjects.c.id)).scalars().all()
    with conn.begin_nested() as marked:
        for start in range(0, len(people), PART):
            wanted = [("rt/footprint", id_, "") for id_ in people[start : start + PART]]
            set_marks(conn, wanted, 0.0, urgent=True)
        size = _size(conn)
        marked.rollback()
    return size


def _size(conn: Connection) -> int:
    if conn.dialect.name == "postgresql":
        return int(conn.exec_driver_sql(_DATABASE).scalar_one())
    pages, free, size = (
        int(conn.exec_driver_sql(f"PRAGMA {name}").scalar_one())
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


_DATABASE = """SELECT sum(pg_total_relation_size(oid)) FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"""


def _rss(data: Data, plan: Plan) -> float:
    with Installation(data.folder, data.copy(data.sqlite(plan.people))).serving() as served:
        _check(served, plan.people, plan.seconds)
        record.many(served, plan.people, plan.seconds)
        everybody = question([address(number) for number in range(min(plan.people, 10_000))])
        answer = httpx.post(
            f"{served.url}/v1/check", content=everybody, headers=served.headers, timeout=60
        )
        answer.raise_for_status()
        return status_kib(served.pid, "VmRSS") / 1024
