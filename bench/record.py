"""A choice on disk before it is acknowledged."""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from bench import population, rows
from bench.check import CONNECTIONS, floor_of
from bench.data import Data
from bench.kit import (
    Figure,
    Installation,
    Plan,
    Running,
    alternate,
    figure,
    load,
    median,
    rate,
    told,
)
from bench.raw import commits

PATH = "/v1/preferences"


def word(email: str, choice: str) -> str:
    body = {
        "brand": "rt",
        "subject": {"email": email},
        "changes": [{"channel": "email", "purpose": "marketing", "choice": choice}],
        "source": "api",
    }
    if choice == "in":
        body |= {"basis": "consent", "evidence": {"wording": "Yes please, send me news"}}
    return json.dumps(body)


def words(people: int, count: int) -> list[str]:
    """Half consents of people who are new, half outs of people who are known."""

    def one(number: int) -> str:
        if number % 2:
            return word(population.address(random.randrange(people)), "out")
        return word(f"new-{secrets.token_hex(8)}@example.co.uk", "in")

    return [one(number) for number in range(count)]


def many(served: Running, people: int, seconds: float) -> Any:
    """What the load generator tells."""
    shape = {"path": PATH, "headers": served.headers}
    bodies = words(people, int(6000 * seconds) + 1000)
    return load(served.port, CONNECTIONS, seconds, shape, bodies)


def _p50(port: int, shape: Mapping[str, Any], people: int, seconds: float) -> float:
    bodies = words(people, int(3000 * seconds) + 1000)
    return median(load(port, 1, seconds, shape, bodies)["latencies"])


def record_one(data: Data, plan: Plan) -> list[Figure]:
    """Durable `POST /v1/preferences`, one client: p50 ÷ (one raw fsync'd SQLite commit + a bare
    POST), both p50 too."""
    raw = data.place() / "raw.db"
    url = data.copy(data.sqlite(plan.few))
    made, first = Installation(data.folder, url), words(plan.few, 1)[0]
    with made.serving() as served, floor_of(served, PATH, first) as floor:
        ours = {"path": PATH, "headers": served.headers}
        bare = {"path": "/bare", "headers": served.headers}
        one, post, commit = alternate(
            plan.rounds,
            lambda: _p50(served.port, ours, plan.few, plan.seconds),
            lambda: _p50(floor, bare, plan.few, plan.seconds),
            lambda: median(commits(raw, plan.seconds)),
        )
    return [figure("record_one", one / (post + commit), "ratio", plan.rounds, "<=", 4)]


def record_many(data: Data, plan: Plan) -> list[Figure]:
    """64 clients, SQLite: acknowledged/s ÷ raw one-row fsync'd commits/s."""
    raw = data.place() / "raw.db"
    url = data.copy(data.sqlite(plan.few))
    with Installation(data.folder, url).serving() as served:
        ours, floor = alternate(
            plan.rounds,
            lambda: rate(many(served, plan.few, plan.seconds)),
            lambda: 1 / _mean(commits(raw, plan.seconds)),
        )
    return [figure("record_many", ours / floor, "ratio", plan.rounds, ">=", 0.35)]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def record_many_pg(data: Data, plan: Plan) -> list[Figure]:
    """64 clients, PostgreSQL: acknowledged/s ÷ the same rows with one transaction each through
    asyncpg. Those are the very rows that our records of this round wrote, read back from the
    tables, written into a database that was the same before: 64 tasks, a pool of 16 connections,
    prepared statements, the event loop that we use too, the same server on the same disk. One API
    process and one worker (which seals) are ours."""
    url = data.copy(data.postgres(plan.few))
    other = data.copy(data.postgres(plan.few))
    made = Installation(data.folder, url)
    with made.working(), made.serving("--no-work") as served:
        rounds = _rounds(served, plan, url, other)
        ours, floor = alternate(plan.rounds, *(partial(next, rounds) for _ in range(2)))
    return [figure("record_many_pg", ours / floor, "ratio", plan.rounds, ">=", 2)]


def _rounds(served: Running, plan: Plan, url: str, other: str) -> Iterator[float]:
    """Ours, and the floor with what that wrote."""
    while True:
        after = rows.last_payload(url)
        yield rate(many(served, plan.few, plan.seconds))
        yield float(told("bench.rows", url, other, str(after))["rate"])
