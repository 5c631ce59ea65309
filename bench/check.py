"""May we send this? One address, and ten thousand at once."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from contextlib import AbstractContextManager

import httpx

from bench import population
from bench.data import Data, path_of
from bench.kit import (
    KEYS,
    Figure,
    Installation,
    Plan,
    Running,
    alternate,
    figure,
    floor_server,
    load,
    rate,
    told,
)
from prefs.core import identity

BATCH = 10_000
CONNECTIONS = 64


def question(to: Sequence[str]) -> str:
    asked = {"brand": "rt", "channel": "email", "purpose": "marketing", "to": to}
    return json.dumps(asked, separators=(",", ":"))


def questions(people: int, count: int = 20_000) -> list[str]:
    """Of people anywhere in the database: what was read before is seldom asked again."""
    return [question([population.address(random.randrange(people))]) for _ in range(count)]


def floor_of(served: Running, path: str, body: str) -> AbstractContextManager[int]:
    """The port of a bare server whose answer is as long as ours."""
    answer = httpx.post(f"{served.url}{path}", content=body, headers=served.headers)
    answer.raise_for_status()
    return floor_server(len(answer.content))


def check_one(data: Data, plan: Plan) -> list[Figure]:
    """`POST /v1/check`, one address, 1 M people, SQLite, 64 connections: requests/s ÷ a bare
    Starlette POST of the same size on the same server."""
    made = Installation(data.folder, data.sqlite(plan.people))
    return [_one("check_one", made, plan, 0.5)]


def check_one_pg(data: Data, plan: Plan) -> list[Figure]:
    """The same on PostgreSQL, by a process of the API alone."""
    made = Installation(data.folder, data.postgres(plan.people))
    return [_one("check_one_pg", made, plan, 0.4, "--no-work")]


def _one(name: str, made: Installation, plan: Plan, bar: float, *options: str) -> Figure:
    bodies = questions(plan.people)
    with made.serving(*options) as served, floor_of(served, "/v1/check", bodies[0]) as floor:
        ours = {"path": "/v1/check", "headers": served.headers}
        bare = {"path": "/bare", "headers": served.headers}
        a, b = alternate(
            plan.rounds,
            lambda: rate(load(served.port, CONNECTIONS, plan.seconds, ours, bodies)),
            lambda: rate(load(floor, CONNECTIONS, plan.seconds, bare, bodies)),
        )
    return figure(name, a / b, "ratio", plan.people, ">=", bar)


def check_batch(data: Data, plan: Plan) -> list[Figure]:
    """Identifiers/s in checks of 10,000 ÷ raw SQL look-up of the same hashed keys: `IN` of 1000 in
    one prepared statement, keys in the order asked, one connection of a process of its own. Two
    connections ask us, so that one question waits while another is answered."""
    url, size = data.sqlite(plan.people), min(BATCH, plan.people)
    asked = [
        [population.address(one) for one in random.sample(range(plan.people), size)]
        for _ in range(10)
    ]
    keys = [KEYS.hash(identity.email(one)).hex() for part in asked for one in part]
    bodies = [question(part) for part in asked]
    with Installation(data.folder, url).serving() as served:
        ours = {"path": "/v1/check", "headers": served.headers}
        raw = [str(path_of(url)), str(plan.seconds)]
        a, b = alternate(
            plan.rounds,
            lambda: size * rate(load(served.port, 2, plan.seconds, ours, bodies)),
            lambda: float(told("bench.lookup", *raw, given="\n".join(keys))["rate"]),
        )
    return [figure("check_batch", a / b, "ratio", size, ">=", 0.45)]
