"""What a person waits for: a click, and that it counts."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection

from bench import lists, population
from bench.check import question, questions
from bench.data import Data
from bench.kit import (
    KEYS,
    Figure,
    Installation,
    Plan,
    Running,
    end,
    figure,
    load,
    percentile,
    start,
)
from prefs.core import identity
from prefs.core.tokens import Token, TokenKind, mint
from prefs.core.words import Channel, Kind, Purpose

CLICKS = 50
"""A second."""
DENIED_WITHIN = 10.0


def token(number: int) -> str:
    hash_ = KEYS.hash(identity.email(population.address(number)))
    kind, now = TokenKind.FOOTER_UNSUBSCRIBE, datetime.now(UTC)
    made = Token(kind, "rt", Kind.EMAIL, hash_, Channel.EMAIL, Purpose.MARKETING, now)
    return mint(KEYS, made)


def one_click(data: Data, plan: Plan) -> list[Figure]:
    """`POST /u/{token}` at 50/s beside a scrub: p95. Clicks set out at their pace whatever becomes
    of the ones before, of people who were not out; a list of everybody is scrubbed meanwhile, again
    and again, by the same process."""
    seconds = max(4.0, plan.once / CLICKS * 5)
    path = lists.to_scrub(data.place() / "list.csv", plan.people)
    said = [n for n in range(plan.people) if not population.is_out(n)]
    paths = [f"/u/{token(n)}" for n in random.sample(said, min(len(said), int(seconds * CLICKS)))]
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    shape = {"headers": headers, "body": "List-Unsubscribe=One-Click"}
    url = data.copy(data.sqlite(plan.people))
    with Installation(data.folder, url).serving() as served, _scrubbing(served, str(path)):
        found = load(served.port, 32, seconds, shape, paths, CLICKS)
    data.drop(url)
    worst = percentile(found["latencies"], 0.95) * 1000
    return [figure("one_click", worst, "ms", found["requests"], "<=", 100)]


@contextmanager
def _scrubbing(served: Running, path: str) -> Iterator[None]:
    """Begun when it is entered, and list after list from then on."""
    scrub = start("bench.stream", str(served.port), served.key, path, "1000000")
    time.sleep(1)
    try:
        yield
        if scrub.poll() is not None:
            raise SystemExit("no scrub ran beside the clicks")
    finally:
        end(scrub)


def deny_after_ack(data: Data, plan: Plan) -> list[Figure]:
    """Time from the 2xx of an opt-out to the first denying `check`, p99, both as the client sees
    them: on SQLite by the process that took it; on PostgreSQL by that process and by another one;
    the worst of the three. Eight clients ask each process without pause meanwhile."""
    few = Installation(data.folder, data.copy(data.sqlite(plan.few)))
    with few.serving() as first:
        found = [_denied(first, first, plan, 0)]
    apart = Installation(data.folder, data.copy(data.postgres(plan.few)))
    with apart.serving("--no-work") as first, apart.serving("--no-work") as other:
        found += [_denied(first, one, plan, half) for half, one in enumerate((first, other))]
    return [figure("deny_after_ack", max(found), "ms", plan.once, "<=", 50)]


def _denied(first: Running, other: Running, plan: Plan, half: int) -> float:
    """p99 in ms, of people who were not out."""
    said = [n for n in range(plan.few) if not population.is_out(n)]
    with ExitStack() as stack:
        for one in {first, other}:
            stack.enter_context(_busy(one, plan))
        time.sleep(1)
        lags = [_lag(first, other, n) for n in said[half % 2 :: 2][: plan.once]]
    return percentile(lags, 0.99) * 1000


@contextmanager
def _busy(served: Running, plan: Plan) -> Iterator[None]:
    """Eight clients that ask without pause."""
    shape = {"path": "/v1/check", "headers": served.headers}
    lines = "\n".join([json.dumps(shape), *questions(plan.few, 2000)])
    asking = start("bench.load", str(served.port), "8", "3600", "0", stdin=subprocess.PIPE)
    assert asking.stdin
    asking.stdin.write(lines.encode())
    asking.stdin.close()
    try:
        yield
    finally:
        end(asking)


def _lag(first: Running, other: Running, number: int) -> float:
    """One person clicks, and is asked for until the answer is no."""
    body, out = question([population.address(number)]), HTTPConnection("127.0.0.1", first.port)
    asked = HTTPConnection("127.0.0.1", other.port)
    if not _allowed(asked, other, body):
        raise SystemExit("somebody was out before the click")
    _post(out, f"/u/{token(number)}", "List-Unsubscribe=One-Click", {})
    acknowledged = time.perf_counter()
    while _allowed(asked, other, body):
        if time.perf_counter() > acknowledged + DENIED_WITHIN:
            raise SystemExit("an acknowledged opt-out did not count")
    lag = time.perf_counter() - acknowledged
    out.close()
    asked.close()
    return lag


def _allowed(conn: HTTPConnection, served: Running, body: str) -> bool:
    answer = json.loads(_post(conn, "/v1/check", body, served.headers))
    return bool(answer["results"][0]["allowed"])


def _post(conn: HTTPConnection, path: str, body: str, headers: Mapping[str, str]) -> bytes:
    conn.request("POST", path, body, dict(headers))
    answer = conn.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{path[:3]} answered {answer.status}")
    return text
