"""Work in the background: one at a time, told of while it runs, its end kept whatever it is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prefs.core.errors import Temporary
from prefs.store import jobs
from prefs.store.jobs import Job, Pair
from prefs.web.console.jobs import Jobs, Tell, apart
from tests.kit import Clock
from tests.served import Served, eventually, served


@pytest.fixture
def clock() -> Clock:
    return Clock()


def latest(rt: Served, about: str = "") -> Pair:
    now = rt.runtime.clock().timestamp()
    found = partial(jobs.latest, keys=rt.runtime.keys, brand="rt", kind="k", about=about, now=now)
    return rt.runtime.database.read_now(found)


def newest(rt: Served) -> Job:
    found = latest(rt).newest
    assert found
    return found


async def done(tell: Tell) -> Mapping[str, Any]:
    tell("a step", 7)
    return {"count": 7}


async def refused(tell: Tell) -> Mapping[str, Any]:
    raise Temporary("HTTP 503")


async def broken(tell: Tell) -> Mapping[str, Any]:
    raise ZeroDivisionError("with ada@example.com in it")


def run(rt: Served, *works: Callable[[Tell], Awaitable[Mapping[str, Any]]]) -> None:
    async def go() -> None:
        made = Jobs()
        for work in works:
            await made.start(rt.runtime.service, "rt", "k", "", work)
            while latest(rt).running:
                await asyncio.sleep(0.01)
        await made.stop()

    asyncio.run(go())


def test_a_result_is_kept_and_outlives_a_later_failure(tmp_path: Path) -> None:
    with served(tmp_path) as rt:
        run(rt, done, refused)
        found = latest(rt)
        assert found.done
        assert found.done.result == {"count": 7}
        assert (newest(rt).state, newest(rt).reason) == (jobs.FAILED, "HTTP 503")


def test_a_fault_of_ours_tells_nobodys_address(tmp_path: Path) -> None:
    with served(tmp_path) as rt:
        run(rt, broken)
        assert (newest(rt).state, newest(rt).reason) == (jobs.FAILED, None)


def test_one_that_fell_silent_is_lost_and_bars_no_other(tmp_path: Path, clock: Clock) -> None:
    with served(tmp_path, clock=clock) as rt:
        start = partial(jobs.start, brand="rt", kind="k", about="")
        write = rt.runtime.database.write_now
        assert write(partial(start, now=clock().timestamp()))
        assert write(partial(start, now=clock().timestamp())) is None
        assert write(partial(jobs.start, brand="second", kind="k", about="", now=0.0))
        clock.forward(jobs.SILENT + 1)
        assert newest(rt).state == jobs.LOST
        assert write(partial(start, now=clock().timestamp()))


def test_a_call_of_minutes_keeps_no_process_from_ending(tmp_path: Path) -> None:
    ends = threading.Event()

    async def long(tell: Tell) -> Mapping[str, Any]:
        return {"waited": await apart(partial(ends.wait, 60))}

    async def go() -> None:
        made = Jobs()
        await made.start(rt.runtime.service, "rt", "k", "", long)
        await asyncio.sleep(0)
        await made.stop()

    with served(tmp_path) as rt:
        asyncio.run(go())
        assert not ends.is_set(), "nobody waited for it"
        assert newest(rt).state == jobs.FAILED
        ends.set()
        eventually(lambda: all(one.name != "prefs-job" for one in threading.enumerate()))


def test_what_a_thread_raises_is_raised_where_it_is_awaited() -> None:
    def fails() -> None:
        raise Temporary("HTTP 503")

    with pytest.raises(Temporary):
        asyncio.run(apart(fails))
    assert asyncio.run(apart(lambda: 3)) == 3


def test_results_are_encrypted_and_forgotten(tmp_path: Path, clock: Clock) -> None:
    async def tells(tell: Tell) -> Mapping[str, Any]:
        return {"who": "a•••@e•••.com"}

    with served(tmp_path, clock=clock) as rt:
        run(rt, tells)
        files = list(tmp_path.glob("prefs.db*"))
        assert all("a•••@e•••".encode() not in path.read_bytes() for path in files)
        clock.forward(jobs.KEPT + 1)
        rt.runtime.database.write_now(partial(jobs.purge, now=clock().timestamp()))
        assert latest(rt) == Pair(None, None)
