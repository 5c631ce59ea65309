"""The one way out: what never leaves, what is waited for, what a status amounts to."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import respx
from hypothesis import given
from hypothesis import strategies as st

from connectors import http
from connectors.budget import TokenBudget
from connectors.http import Reply, Undeclared, Way, fault_of, refuse_private, retried, retry_after
from prefs.core.errors import PropagationError, Refused, Temporary, Unusable
from prefs.core.propagation import URGENT, Limit
from tests.kit import TARGET

BASE = "http://127.0.0.1:9"
HERE = replace(TARGET, base_url=BASE)
WRITES = (("PATCH", r"/lists/[^/]+"),)
NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)


def way() -> Way:
    return Way(HERE, TokenBudget(Limit(10)), "https://vendor.example", WRITES)


# --- what never leaves ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/lists/a"),
        ("PATCH", "/lists"),
        ("PATCH", "/lists/a/members"),
        ("PATCH", "/other/lists/a"),
        ("DELETE", "/lists/a"),
    ],
)
@respx.mock
def test_a_write_that_was_not_declared_is_never_sent(method: str, path: str) -> None:
    route = respx.route()
    with pytest.raises(Undeclared):
        asyncio.run(way().send(method, path))
    with pytest.raises(Undeclared):
        asyncio.run(way().in_thread(method, path, lambda: None))
    assert not route.called


@respx.mock
def test_declared_writes_and_all_reads_are_sent() -> None:
    route = respx.route().respond(200)
    asyncio.run(way().send("PATCH", "/lists/a"))
    asyncio.run(way().send("GET", "/whatever"))
    assert route.call_count == 2


@respx.mock
def test_a_redirect_is_not_followed() -> None:
    respx.get(f"{BASE}/lists/a").respond(302, headers={"Location": "https://evil.example/"})
    assert asyncio.run(way().send("GET", "/lists/a")).status == 302


@pytest.mark.parametrize(
    "base", ["http://127.0.0.1", "http://localhost:80", "http://10.1.2.3", "http://[::1]:8080"]
)
def test_a_vendors_name_that_leads_inside_is_refused(base: str) -> None:
    with pytest.raises(Unusable, match="private address"):
        refuse_private(base)


def test_without_a_configured_base_the_guard_stands_before_every_host() -> None:
    guarded = Way(TARGET, TokenBudget(Limit(10)), "http://127.0.0.1:9", WRITES)
    with pytest.raises(Unusable):
        asyncio.run(guarded.send("GET", "/lists/a"))


def test_a_name_that_nobody_finds_holds_up_its_own_target_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No name server answers. Mail is read and checkpoints are written in threads of all."""
    found = threading.Event()
    monkeypatch.setattr(http, "refuse_private", lambda _: found.wait(30))
    monkeypatch.setattr(http, "CONNECT_LIMIT", 0.2)
    guarded = Way(TARGET, TokenBudget(Limit(100)), BASE, WRITES)

    async def call() -> None:
        sent = [asyncio.create_task(guarded.send("GET", "/lists/a")) for _ in range(100)]
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(10):
                await asyncio.to_thread(int)
                for fault in await asyncio.gather(*sent, return_exceptions=True):
                    assert isinstance(fault, Temporary)
                    assert not fault.unclear
        finally:
            found.set()
            await guarded.close()

    asyncio.run(call())


# --- what a fault amounts to ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "unclear"),
    [
        (httpx.ConnectError("refused at 10.0.0.1 with key"), False),
        (httpx.ConnectTimeout("slow"), False),
        (httpx.ReadTimeout("slow"), True),
        (httpx.RemoteProtocolError("cut"), True),
        (httpx.WriteError("cut"), True),
    ],
)
@respx.mock
def test_only_what_surely_did_not_arrive_is_clear(raised: Exception, unclear: bool) -> None:
    respx.route().mock(side_effect=raised)
    with pytest.raises(Temporary) as caught:
        asyncio.run(way().send("GET", "/lists/a"))
    assert caught.value.unclear is unclear
    assert str(raised) not in str(caught.value)


def test_a_target_has_threads_of_its_own() -> None:
    """Python's own pool has four more than the machine has cores, for all targets together: a
    vendor that does not answer would take up everybody's."""
    meeting = threading.Barrier(2 * 8)

    async def call() -> None:
        slow, other = (Way(HERE, TokenBudget(Limit(16)), BASE, ()) for _ in range(2))
        calls = [one.in_thread("GET", "/a", lambda: meeting.wait(5)) for one in [slow, other] * 8]
        await asyncio.gather(*calls)
        await slow.close()
        await other.close()

    asyncio.run(call())


def test_no_more_jobs_run_at_once_than_were_asked_for() -> None:
    now, most = 0, 0

    async def job(number: int) -> int:
        nonlocal now, most
        now += 1
        most = max(now, most)
        await asyncio.sleep(0.001 * (number % 3))
        now -= 1
        if number == 5:
            raise Temporary("later")
        return number

    answers = asyncio.run(http.spread(range(20), job, 4))
    assert isinstance(answers.pop(5), Temporary)
    assert answers == [number for number in range(20) if number != 5]
    assert most == 4


class Jobs:
    """Items begun and ended; each waits for its turn of the loop a few times."""

    def __init__(self, broken: int | None = None) -> None:
        self.begun: list[int] = []
        self.ended: list[int] = []
        self._broken = broken

    async def __call__(self, number: int) -> None:
        self.begun.append(number)
        await asyncio.sleep(0)
        if number == self._broken:
            raise RuntimeError("a fault of ours")
        for _ in range(5):
            await asyncio.sleep(0)
        self.ended.append(number)


def test_after_a_fault_no_item_is_begun_and_those_under_way_are_waited_for() -> None:
    jobs = Jobs(broken=2)

    async def run() -> None:
        with pytest.raises(RuntimeError, match="of ours"):
            await http.spread(range(40), jobs, 4)
        assert sorted(jobs.ended) == [0, 1, 3]
        await asyncio.sleep(0.01)

    asyncio.run(run())
    assert jobs.begun == [0, 1, 2, 3]


def test_whoever_is_cancelled_leaves_nothing_running() -> None:
    jobs = Jobs()

    async def run() -> None:
        spread = asyncio.create_task(http.spread(range(40), jobs, 4))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        spread.cancel()
        with pytest.raises(asyncio.CancelledError):
            await spread
        await asyncio.sleep(0.01)

    asyncio.run(run())
    assert jobs.begun == [0, 1, 2, 3]
    assert jobs.ended == []


def test_a_cancel_ends_those_that_a_fault_left_under_way() -> None:
    begun: list[int] = []

    async def job(number: int) -> None:
        begun.append(number)
        if number == 2:
            raise RuntimeError("a fault of ours")
        await asyncio.sleep(60)

    async def run() -> None:
        spread = asyncio.create_task(http.spread(range(40), job, 4))
        await asyncio.sleep(0.01)
        assert not spread.done()
        spread.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(spread, 60)

    asyncio.run(run())
    assert begun == [0, 1, 2]


@respx.mock
def test_a_call_has_a_hard_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CALL_LIMIT", 0.05)
    began = time.monotonic()
    with pytest.raises(Temporary) as caught:
        asyncio.run(way().in_thread("GET", "/lists/a", lambda: time.sleep(0.5)))
    assert caught.value.unclear
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Refused),
        (401, Unusable),
        (403, Unusable),
        (404, Refused),
        (408, Temporary),
        (422, Refused),
        (429, Temporary),
        (500, Temporary),
        (503, Temporary),
        (524, Temporary),
        (599, Temporary),
    ],
)
def test_a_status_is_a_fault_of_a_kind(status: int, kind: type[PropagationError]) -> None:
    fault = fault_of(Reply(status, {"retry-after": "7"}, b"secret"))
    assert type(fault) is kind
    assert "secret" not in str(fault)
    if isinstance(fault, Temporary):
        assert fault.retry_after == 7


@pytest.mark.parametrize("status", [408, 423, 425, 429, 477, 501, 503])
def test_what_says_that_it_was_not_begun_is_clear(status: int) -> None:
    fault = fault_of(Reply(status, {}, b""))
    assert isinstance(fault, Temporary)
    assert not fault.unclear


@pytest.mark.parametrize("status", [500, 502, 504, 520, 521, 522, 523, 524, 525, 599])
def test_behind_another_fault_of_a_server_the_vendor_may_still_be_at_work(status: int) -> None:
    fault = fault_of(Reply(status, {}, b""))
    assert isinstance(fault, Temporary)
    assert fault.unclear


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", None),
        ("0", 0.0),
        ("7", 7.0),
        ("  7 ", 7.0),
        ("99999999", 3600.0),
        ("-5", None),
        ("7.5", None),
        ("soon", None),
        ("٧", None),
        ("Mon, 02 Mar 2026 10:00:30 GMT", 30.0),
        ("Mon, 02 Mar 2026 09:59:30 GMT", None),
        ("Mon, 02 Mar 2029 10:00:30 GMT", 3600.0),
    ],
)
def test_retry_after_is_read_as_the_standard_says(text: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": text}, NOW) == seconds


@given(st.text())
def test_retry_after_never_breaks(text: str) -> None:
    wait = retry_after({"retry-after": text}, NOW)
    assert wait is None or 0 <= wait <= 3600


def failing(*faults: PropagationError) -> tuple[list[int], Callable[[], Any]]:
    calls: list[int] = []
    left = list(faults)

    async def call() -> str:
        calls.append(1)
        if left:
            raise left.pop(0)
        return "done"

    return calls, call


def test_a_passing_fault_is_tried_again_a_few_times() -> None:
    calls, call = failing(Temporary("HTTP 500"), Temporary("HTTP 500"))
    assert asyncio.run(retried(call)) == "done"
    assert len(calls) == 3


def test_what_had_no_clear_end_once_stays_so_over_later_tries() -> None:
    _, call = failing(Temporary("HTTP 504", unclear=True), *[Temporary("HTTP 503")] * 2)
    with pytest.raises(Temporary) as caught:
        asyncio.run(retried(call))
    assert str(caught.value) == "HTTP 503"
    assert caught.value.unclear


@pytest.mark.parametrize(
    "fault", [Refused("no"), Unusable("no"), Temporary("later", retry_after=60)]
)
def test_no_short_try_where_none_can_help(fault: PropagationError) -> None:
    calls, call = failing(fault)
    with pytest.raises(PropagationError):
        asyncio.run(retried(call))
    assert len(calls) == 1


# --- budgets -------------------------------------------------------------------------------------


class Watch:
    """A clock that waiting moves."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def spend(budget: TokenBudget, watch: Watch, count: int) -> list[float]:
    """When each call could go; a wait moves the clock by what the budget asks for."""
    went = []
    for _ in range(count):
        while (wait := budget._wait()) is not None:
            watch.at += wait
        asyncio.run(budget.acquire())
        budget.release()
        went.append(watch.at)
    return went


@given(
    st.integers(1, 20),
    st.floats(0.5, 60),
    st.lists(st.floats(0, 10), min_size=1, max_size=60),
    st.booleans(),
)
def test_at_no_moment_more_calls_than_the_period_allows(
    calls: int, seconds: float, gaps: list[float], urgent: bool
) -> None:
    watch = Watch()
    budget = TokenBudget(Limit(calls, seconds), watch)
    held = URGENT.set(urgent)
    try:
        went = []
        for gap in gaps:
            watch.at += gap
            went += spend(budget, watch, 1)
    finally:
        URGENT.reset(held)
    share = calls if urgent else max(1, calls // 2)
    for at in went:
        assert sum(at - seconds < other <= at for other in went) <= share


def test_a_call_counts_at_the_vendor_when_it_arrives_which_may_be_late() -> None:
    watch = Watch()
    budget = TokenBudget(Limit(2, 1.0), watch)
    held = URGENT.set(True)
    try:
        asyncio.run(budget.acquire())
        asyncio.run(budget.acquire())
        watch.at = 0.2  # both arrive here, and are answered
        assert budget._wait() is not None
        budget.release()
        budget.release()
        assert budget._wait() == pytest.approx(1.0)
        watch.at = 1.25
        assert budget._wait() is None
    finally:
        URGENT.reset(held)


def test_half_is_kept_for_outs() -> None:
    watch = Watch()
    budget = TokenBudget(Limit(10, 10.0), watch)
    assert spend(budget, watch, 5) == [0.0] * 5
    assert budget._wait() == pytest.approx(10.0)
    held = URGENT.set(True)
    try:
        assert spend(budget, watch, 5) == [0.0] * 5
        assert budget._wait() == pytest.approx(10.0)
    finally:
        URGENT.reset(held)


def test_a_pause_holds_outs_too() -> None:
    watch = Watch()
    budget = TokenBudget(Limit(10, 10.0), watch)
    budget.pause(30)
    budget.pause(3)
    held = URGENT.set(True)
    try:
        assert spend(budget, watch, 1) == [30.0]
    finally:
        URGENT.reset(held)


def test_so_many_at_once() -> None:
    async def run() -> int:
        budget = TokenBudget(Limit(4))
        URGENT.set(True)
        most = at_once = 0

        async def call() -> None:
            nonlocal most, at_once
            await budget.acquire()
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.01)
            at_once -= 1
            budget.release()

        await asyncio.gather(*(call() for _ in range(20)))
        return most

    assert asyncio.run(run()) == 4
