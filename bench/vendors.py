"""On the way to vendors: how soon a call arrives, and how fast what waits is carried."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import httpx
from sqlalchemy import Connection, delete, func, insert, select, update

from bench import population
from bench.clicks import token
from bench.data import Data
from bench.kit import (
    ENVIRON,
    KEYS,
    Figure,
    Installation,
    Plan,
    Running,
    cpu_seconds,
    family_seconds,
    figure,
    parent,
    percentile,
)
from bench.twins import Hosted, Seen, configured, hosted
from connectors.hubspot_line import BATCH
from connectors.mailchimp import BULK
from prefs.app import Runtime, load_settings, make_connector, open_runtime
from prefs.store import marks, schema

CALLED_WITHIN = 10.0
CARRIED_WITHIN = 1800.0
FASTEST = "1000 at once"
"""A limit of ours that is none."""
FEW = 5000
"""Offs that do not make up a measurement by the limit of 10 s."""


# --- what waits ----------------------------------------------------------------------------------


@contextmanager
def opened(made: Installation) -> Iterator[Runtime]:
    """Its database from here, beside its processes."""
    runtime = open_runtime(load_settings(made.config, ENVIRON))
    try:
        yield runtime
    finally:
        runtime.close()


def settle(runtime: Runtime) -> None:
    """Every target as it is on any later day: read through a moment ago, nothing new configured."""
    now = runtime.clock().timestamp()
    rows = []
    for target in runtime.targets:
        slots = make_connector(runtime, target).slots
        places = sorted(" ".join([s.place, s.channel.value, *s.topics]) for s in slots)
        row = {"target": target.label, "epoch": 0, "lease_until": 0.0, "places": json.dumps(places)}
        rows.append({**row, "scanned_at": now, "walked_at": now, "live_since": now})

    def write(conn: Connection) -> None:
        conn.execute(delete(schema.lanes))
        conn.execute(insert(schema.lanes), rows)

    runtime.database.write_now(write)


def outs(people: int, count: int, part: int = 0) -> list[int]:
    """Numbers of people who are out: the `part`th `count` of them."""
    found = [number for number in range(people) if population.is_out(number)]
    return found[part * count :][:count]


def mark(runtime: Runtime, numbers: Sequence[int], people: int, later: float = 0.0) -> None:
    """Their offs wait for every target; due in so many seconds."""
    made, now = population.Population(KEYS, people), runtime.clock().timestamp() + later
    ids = [made.subject_id(number) for number in numbers]
    for target in runtime.targets:
        wanted = [(target.label, id_, "") for id_ in ids]
        runtime.database.write_now(partial(marks.set_marks, wanted=wanted, now=now, urgent=True))


def waiting(runtime: Runtime) -> int:
    def count(conn: Connection) -> int:
        return int(conn.execute(select(func.count()).select_from(schema.marks)).scalar_one())

    return runtime.database.read_now(count)


def until_carried(runtime: Runtime) -> None:
    began = time.monotonic()
    while left := waiting(runtime):
        if time.monotonic() > began + CARRIED_WITHIN:
            raise SystemExit(f"{left} offs still wait")
        time.sleep(0.05)


def until_held(runtime: Runtime, workers: int = 1) -> list[int]:
    """Every lane has a worker, and so many workers have divided them evenly; how many each has."""
    labels = [target.label for target in runtime.targets]
    wanted = select(schema.lanes.c.holder).where(schema.lanes.c.target.in_(labels))
    for _ in range(1200):
        held = runtime.database.read_now(lambda conn: conn.execute(wanted).scalars().all())
        shares = [held.count(one) for one in {*held} - {None}]
        if sum(shares) == len(labels) and len(shares) == workers and max(shares) - min(shares) < 2:
            return shares
        time.sleep(0.05)
    raise SystemExit(f"{workers} worker(s) did not divide the lanes")


# --- how soon ------------------------------------------------------------------------------------


def to_vendor(data: Data, plan: Plan) -> list[Figure]:
    """Idle: from the 2xx to the vendor's call arriving, p95: the call that writes, of a one-click's
    out, one after the other, at random moments. The worker runs inside `serve`."""
    url = data.copy(data.sqlite(plan.few))
    lags = _lags(data, url, plan, [])
    return [figure("to_vendor", percentile(lags, 0.95), "s", len(lags), "<=", 1)]


def to_vendor_pg(data: Data, plan: Plan) -> list[Figure]:
    """The same on PostgreSQL, with API and worker apart."""
    url = data.copy(data.postgres(plan.few))
    lags = _lags(data, url, plan, ["--no-work"])
    return [figure("to_vendor_pg", percentile(lags, 0.95), "s", len(lags), "<=", 1)]


def _lags(data: Data, url: str, plan: Plan, options: Sequence[str]) -> list[float]:
    said = [n for n in range(plan.few) if not population.is_out(n)]
    chosen = random.sample(said, min(len(said), max(10, plan.once // 4)))
    with hosted({"system": "mailchimp", "people": plan.few}) as twins:
        made = Installation(data.folder, url, configured("mailchimp", twins.urls[0]))
        with ExitStack() as stack:
            runtime = stack.enter_context(opened(made))
            settle(runtime)
            if options:
                stack.enter_context(made.working())
            served = stack.enter_context(made.serving(*options))
            until_held(runtime)
            time.sleep(2)
            return [_lag(served, twins.urls[0], number) for number in chosen]


def _lag(served: Running, twin: str, number: int) -> float:
    time.sleep(random.uniform(0.1, 0.6))
    since = len(_calls(twin, 0))
    httpx.post(f"{served.url}/u/{token(number)}").raise_for_status()
    acknowledged = time.time()
    while time.time() < acknowledged + CALLED_WITHIN:
        found = [one for one in _calls(twin, since) if one["method"] != "GET"]
        if found:
            return max(0.0, datetime.fromisoformat(found[0]["at"]).timestamp() - acknowledged)
        time.sleep(0.01)
    raise SystemExit("the vendor was not called within 10 s")


def _calls(twin: str, since: int) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = httpx.get(f"{twin}/_twin/calls?since={since}").json()
    return found


# --- how fast ------------------------------------------------------------------------------------


def drain_mailchimp(data: Data, plan: Plan) -> list[Figure]:
    """10,000 waiting offs to the Mailchimp twin that enforces the documented limit, 10 calls at
    once: calls/s ÷ the limit, offs/s ÷ (limit × batch size), and offs a second. A limit on calls at
    once lets through 10 ÷ (mean seconds of a call) a second, so that the first is the mean number
    of calls under way ÷ 10; we keep 8 at most. The twin answers in 0.1 s.

    Read the third. The first rewards calls, not offs: when every 500 offs listed the whole audience
    anew, it took 1,220 calls for what 90 do. What is left between the calls is our own work, which
    few calls cannot hide: at 8 under way 90 calls would be through in 1.2 s. The second, with the
    500 of a bulk call, cannot reach 1: every off is also read before and read back after. 10,000
    offs in an audience of 30,000, 5,000 a round, take 2 × 30 pages, 20 writes and, as whoever was
    changed last is listed first, 10 pages to read back."""
    seen = _drained(data, plan, "mailchimp", {"latency": 0.1})
    allowed = 10 * seen.calls / seen.busy * seen.seconds
    return _drain("mailchimp", plan, seen, seen.calls / allowed, allowed * BULK)


def drain_hubspot(data: Data, plan: Plan) -> list[Figure]:
    """10,000 waiting offs to the HubSpot twin that enforces the documented limit, 100 calls in any
    10 s: calls/s ÷ the limit, offs/s ÷ (limit × batch size), and offs a second. (Few offs would be
    through before the limit binds: for those it is 10 calls a second, here and at the twin.)

    The limit lets 100 go at once, and the next 100 ten seconds later: n calls take at the least
    10 s × ((n - 1) // 100). The first is that time ÷ the time they took. (It was calls ÷ 100 × (1 +
    seconds / 10), as if calls that were not needed had been held back: where the last call was the
    first of its ten seconds, nobody could have more than n / (n + 99) of that.)

    The second, with the 100 of a bulk call, can reach 0.25: for each hundred two calls read
    (statuses, unsubscribes from all), one writes, and one reads back."""
    calls, seconds = (100, 10) if plan.waiting > FEW else (10, 1)
    limit = f"{calls}/{seconds}s"
    seen = _drained(data, plan, "hubspot", {"windows": [[calls, seconds]]}, limit)
    least = seconds * ((seen.calls - 1) // calls)
    allowed = calls * (1 + seen.seconds / seconds)
    return _drain("hubspot", plan, seen, least / seen.seconds, allowed * BATCH)


def _drain(system: str, plan: Plan, seen: Seen, calls: float, offs: float) -> list[Figure]:
    """`calls`: the part of what the limit allows; `offs` that it would allow if all calls wrote."""
    return [
        figure(f"drain_{system}", calls, "ratio", plan.waiting, ">=", 0.8),
        figure(f"drain_{system}_offs", seen.offs / offs, "ratio", plan.waiting, ">=", 0.8),
        figure(f"drain_{system}_rate", seen.offs / seen.seconds, "offs/s", plan.waiting),
        figure(f"drain_{system}_calls", seen.calls, "calls", plan.waiting),
    ]


def _drained(
    data: Data, plan: Plan, system: str, settings: Mapping[str, Any], limit: str = ""
) -> Seen:
    """Three times as many people, all known at the vendor; one third is out."""
    people = 3 * plan.waiting
    url = data.copy(data.sqlite(people))
    with hosted({"system": system, "people": people, **settings}) as twins:
        made = Installation(data.folder, url, configured(system, twins.urls[0], "", limit))
        with opened(made) as runtime:
            settle(runtime)
            mark(runtime, outs(people, plan.waiting), people)
            with made.serving():
                until_carried(runtime)
        return _whole(twins, plan.waiting)[0]


def _whole(twins: Hosted, offs: int) -> list[Seen]:
    """What the twins saw. Every off must have arrived there, and none been refused by a limit."""
    seen = twins.end()
    for one in seen:
        if one.offs != offs or one.refused:
            raise SystemExit(f"{one.offs} of {offs} offs arrived, {one.refused} calls refused")
    return seen


def carried(data: Data, url: str, numbers: Sequence[int], people: int) -> float:
    """Offs a second at a HubSpot that limits nothing, by the worker inside `serve`, from the first
    call there to the last: when the worker looks next for what another process marked is chance."""
    wanted = {"system": "hubspot", "people": numbers[-1] + 1, "unlimited": True}
    with hosted(wanted) as twins:
        made = Installation(data.folder, url, configured("hubspot", twins.urls[0], limit=FASTEST))
        with opened(made) as runtime, ExitStack() as stack:
            settle(runtime)
            stack.enter_context(made.serving())
            until_held(runtime)
            mark(runtime, numbers, people)
            until_carried(runtime)
        seen = _whole(twins, len(numbers))[0]
    return seen.offs / seen.seconds


# --- with how many hands -------------------------------------------------------------------------

TARGETS, WORKERS = 8, 4
WARM = 50
"""Offs of each target that are carried before: a first call brings in what it needs."""
LATER = 3600.0
SOON_DIVIDED = '[worker]\nlease = "6s"\n'
"""Workers give way to each other three times a lease; all of that is over before marks are due."""


def drain_scale(data: Data, plan: Plan) -> list[Figure]:
    """Marks/s with 4 workers on 8 targets ÷ 1 worker, PostgreSQL. HubSpot twins that answer in 50
    ms, limit nothing and share two processes; each target holds the same offs, all set before and
    due at one moment, when each worker holds its share of the lanes and has carried a few.

    `drain_scale` reads the words as they stand: one worker carries the same 8 targets, all at the
    same time. `drain_scale_weak` gives the one worker its share, 2 of the targets.

    One worker waits for 8 vendors at once, so that more workers help where it is out of processor,
    and only where there are more: `drain_scale_cpu_*` tell who used how much for a mark with 4
    workers. With c cores, marks/s are at most c ÷ their sum; one worker, which is one core, has
    1 ÷ its own. So the ratio is at most c × worker ÷ (worker + database + twins)."""
    each = max(plan.waiting // 4, 500) + WARM
    people = 3 * each
    many = _marks(data, plan, people, each, TARGETS, WORKERS)
    one = _marks(data, plan, people, each, TARGETS, 1)
    share = _marks(data, plan, people, each, TARGETS // WORKERS, 1)
    count = (each - WARM) * TARGETS
    return [
        figure("drain_scale", many.rate / one.rate, "ratio", count, ">=", 3),
        figure("drain_scale_weak", many.rate / share.rate, "ratio", count, ">=", 3),
        figure("drain_scale_rate", many.rate, "marks/s", count),
        *(
            figure(f"drain_scale_cpu_{who}", 1e6 * cpu, "us", count)
            for who, cpu in many.cpu.items()
        ),
    ]


class Marks(NamedTuple):
    rate: float
    """A second, from when they are due until none waits."""
    cpu: Mapping[str, float]
    """Seconds of the processor for one, of all processes of each kind."""


def _marks(data: Data, plan: Plan, people: int, each: int, targets: int, workers: int) -> Marks:
    url = data.copy(data.postgres(people))
    twin = {"system": "hubspot", "people": people, "unlimited": True, "latency": 0.05}
    half = [twin] * (targets // 2)
    with hosted(*half) as left, hosted(*half) as right:
        text = "".join(
            configured("hubspot", url, f"t{number}", FASTEST)
            for number, url in enumerate(left.urls + right.urls)
        )
        made = Installation(data.folder, url, text + SOON_DIVIDED)
        with opened(made) as runtime:
            settle(runtime)
            with made.working(workers) as pids:
                shares = until_held(runtime, workers)
                first, rest = outs(people, each)[:WARM], outs(people, each)[WARM:]
                mark(runtime, first, people)
                until_carried(runtime)
                mark(runtime, rest, people, later=LATER)

                def used() -> dict[str, float]:
                    mine = sum(map(cpu_seconds, pids))
                    return {"worker": mine, "database": _cpu(runtime), "twin": left.cpu + right.cpu}

                before, began = used(), time.monotonic()
                runtime.database.write_now(partial(_make_due, now=runtime.clock().timestamp()))
                until_carried(runtime)
                took = time.monotonic() - began
                after = used()
        for twins in (left, right):
            _whole(twins, each)
    count = len(rest) * targets
    cpu = {who: (after[who] - before[who]) / count for who in after}
    told = ", ".join(f"{who} {1e6 * one:.0f} us" for who, one in cpu.items())
    data.tell(f"{workers} worker(s) held {shares} lanes: {count / took:.0f} marks/s; {told}")
    return Marks(count / took, cpu)


def _make_due(conn: Connection, now: float) -> None:
    conn.execute(update(schema.marks).values(due_at=now))


def _cpu(runtime: Runtime) -> float:
    """Of a PostgreSQL server, all processes."""
    wanted = select(func.pg_backend_pid())
    pid = runtime.database.read_now(lambda conn: int(conn.execute(wanted).scalar_one()))
    return family_seconds(parent(pid) or pid)
