"""The kit itself: a small vendor that counts, with every fault, limit and webhook trick."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tests.twins.kit import (
    PLAIN,
    ActError,
    Compose,
    Letter,
    Limits,
    Mark,
    Refusal,
    Row,
    Travel,
    Twin,
    Window,
    act,
    running,
)
from tests.twins.mailbox import Mailbox, mailbox


@dataclass
class Counts:
    of: dict[str, int] = field(default_factory=dict)


class Counter(Twin[Counts]):
    """A vendor with one bulk call: each named thing is counted up."""

    name = "counter"

    def fresh(self) -> Counts:
        return Counts()

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/v1/counts", self.read, methods=["GET"]),
            Route("/v1/counts", self.count, methods=["POST"]),
            Route("/v1/broken", self.broken, methods=["GET"]),
        ]

    def problem(self, status: int, reason: str = "") -> Response:
        return JSONResponse({"wrong": status, "reason": reason}, status)

    def gate(self, request: Request) -> Response | None:
        return self.problem(401) if request.headers.get("authorization") == "Bearer bad" else None

    def people(self) -> Sequence[Row]:
        return [
            Row(name, [Mark(str(count))], [Mark("on")]) for name, count in self.state.of.items()
        ]

    async def read(self, request: Request) -> Response:
        return JSONResponse(self.state.of)

    async def count(self, request: Request) -> Response:
        names = json.loads(await request.body())
        if not isinstance(names, list):
            raise Refusal(self.problem(400, "not a list"))
        done, failed = [], []
        for name in names:
            fault = self.item_fault(request, name)
            if fault is None or fault.work:
                self.state.of[name] = self.state.of.get(name, 0) + 1
                self.post(self.letter(name))
            if fault is None:
                done.append(name)
            elif fault.kind == "bad_item":
                failed.append(name)
        return JSONResponse({"done": done, "failed": failed})

    async def broken(self, request: Request) -> Response:
        raise LookupError("a fault of the twin")

    @act
    def bump(self, name: str, travel: Travel = PLAIN) -> int:
        if name not in self.state.of:
            raise ActError("no such count")
        self.state.of[name] += 1
        self.post(self.letter(name), travel)
        return self.state.of[name]

    def letter(self, name: str) -> Compose:
        return lambda attempt: Letter(
            self.webhook_url, f"{name}#{attempt}".encode(), {"x-kind": "counted"}
        )


@pytest.fixture
def box() -> Iterator[Mailbox]:
    with mailbox() as made:
        yield made


def bodies(box: Mailbox) -> list[str]:
    return [received.body.decode() for received in box.got]


@pytest.fixture
def twin(box: Mailbox) -> Iterator[Counter]:
    with running(Counter()) as (counter, _):
        counter.webhook_url = box.url
        yield counter


HTTP = httpx.Client()


def post(twin: Counter, *names: str, timeout: float = 60.0) -> httpx.Response:
    return HTTP.post(twin.url + "/v1/counts", json=list(names), timeout=timeout)


def test_a_call_is_done_and_noted(twin: Counter) -> None:
    answer = httpx.post(
        twin.url + "/v1/counts?a=1&b=", json=["x"], headers={"authorization": "Bearer s3cret"}
    )
    assert answer.json() == {"done": ["x"], "failed": []}
    (call,) = twin.calls
    assert (call.n, call.method, call.path, call.query) == (
        1,
        "POST",
        "/v1/counts",
        (("a", "1"), ("b", "")),
    )
    assert (call.status, call.applied, call.known, call.fault) == (200, True, True, None)
    assert call.target == "/v1/counts?a=1&b="
    assert call.json() == ["x"]
    assert call.headers["authorization"] == "Bearer redacted"
    assert "s3cret" not in httpx.get(twin.url + "/_twin/calls").text


def test_refusals_are_noted_as_not_applied(twin: Counter) -> None:
    assert httpx.post(twin.url + "/v1/counts", json={}).json()["reason"] == "not a list"
    bad = httpx.post(twin.url + "/v1/counts", json=["x"], headers={"authorization": "Bearer bad"})
    assert bad.status_code == 401
    assert [c.applied for c in twin.writes()] == [False, False]
    assert twin.state.of == {}


@pytest.mark.parametrize(
    ("method", "path", "status"), [("POST", "/v1/none", 404), ("DELETE", "/v1/counts", 405)]
)
def test_an_unknown_route_has_the_vendors_shape(
    twin: Counter, method: str, path: str, status: int
) -> None:
    assert httpx.request(method, twin.url + path).json()["wrong"] == status
    assert [(c.method, c.path, c.applied) for c in twin.unknown()] == [(method, path, False)]


def test_status_fault(twin: Counter) -> None:
    twin.faults.add("status", status=429, headers={"Retry-After": "7"}, body="", times=2)
    for _ in range(2):
        answer = post(twin, "x")
        assert (answer.status_code, answer.content) == (429, b"")
        assert answer.headers["retry-after"] == "7"
        assert "content-type" not in answer.headers
    assert post(twin, "x").status_code == 200
    twin.faults.add("status", status=500)
    assert post(twin, "x").json()["wrong"] == 500
    assert twin.state.of == {"x": 1}
    assert [c.fault for c in twin.calls] == ["status", "status", None, "status"]


def test_faults_match_method_path_and_skip(twin: Counter) -> None:
    twin.faults.add("status", method="POST", path="/v1/c", skip=1)
    assert httpx.get(twin.url + "/v1/counts").status_code == 200
    assert [post(twin, "x").status_code for _ in range(3)] == [200, 503, 200]
    twin.faults.add("status", path="/v2", times=None)
    assert post(twin, "x").status_code == 200


def test_down_and_hanging(twin: Counter) -> None:
    twin.faults.add("down")
    with pytest.raises(httpx.RemoteProtocolError):
        post(twin, "down")
    twin.faults.add("timeout_after_work", seconds=0.1)
    with pytest.raises(httpx.RemoteProtocolError):
        post(twin, "after")
    twin.faults.add("timeout_before_work", seconds=60)
    with pytest.raises(httpx.ReadTimeout):
        post(twin, "before", timeout=0.1)
    assert twin.state.of == {"after": 1}
    assert [(c.status, c.applied) for c in twin.calls] == [
        (None, False),
        (None, True),
        (None, False),
    ]


def test_late_work_lands_after_the_caller_left(twin: Counter) -> None:
    twin.faults.add("late_work", seconds=0.2)
    with pytest.raises(httpx.ReadTimeout):
        post(twin, "x", timeout=0.05)
    assert twin.state.of == {}
    time.sleep(0.3)
    assert twin.state.of == {"x": 1}


def test_a_lie_changes_nothing_and_sends_nothing(twin: Counter, box: Mailbox) -> None:
    post(twin, "x")
    twin.faults.add("lie")
    assert post(twin, "x", "y").json()["done"] == ["x", "y"]
    twin.courier.settle()
    assert twin.state.of == {"x": 1}
    assert bodies(box) == ["x#0"]
    assert twin.calls[-1].applied is False


def test_html_and_cut_json(twin: Counter) -> None:
    twin.faults.add("html")
    answer = post(twin, "x")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    twin.faults.add("cut_json")
    with pytest.raises(json.JSONDecodeError):
        post(twin, "x").json()
    assert twin.state.of == {"x": 1}


def test_delay(twin: Counter) -> None:
    twin.faults.add("delay", seconds=0.2)
    began = time.monotonic()
    assert post(twin, "x").status_code == 200
    assert time.monotonic() - began >= 0.2


def test_items_fail_or_are_left_out(twin: Counter) -> None:
    twin.faults.add("bad_item", key="^b$")
    twin.faults.add("omit_item", key="^c$")
    twin.faults.add("omit_item", key="^d$", work=True)
    assert post(twin, "a", "b", "c", "d").json() == {"done": ["a"], "failed": ["b"]}
    assert twin.state.of == {"a": 1, "d": 1}
    assert post(twin, "b").json()["done"] == ["b"]


def test_limits_at_once() -> None:
    with running(Counter()) as (twin, _):
        twin.configure(at_once=2, latency=0.2)
        with ThreadPoolExecutor(4) as pool:
            answers = [a.status_code for a in pool.map(lambda _: post(twin, "x"), range(4))]
        assert sorted(answers) == [200, 200, 429, 429]
        assert (twin.limits.most_open, twin.limits.refused, twin.limits.open) == (2, 2, 0)
        assert [c.fault for c in twin.calls].count("limit") == 2
        assert twin.state.of == {"x": 2}


def test_a_hanging_call_keeps_its_slot(twin: Counter) -> None:
    twin.limits.at_once = 1
    twin.faults.add("timeout_after_work", seconds=0.3)
    with pytest.raises(httpx.ReadTimeout):
        post(twin, "x", timeout=0.05)
    assert post(twin, "x").status_code == 429
    time.sleep(0.35)
    assert post(twin, "x").status_code == 200


def test_limits_in_a_period() -> None:
    limits = Limits(windows=[Window(2, 0.2)])
    assert [limits.enter() for _ in range(3)] == [True, True, False]
    assert limits.left(limits.windows[0]) == 0
    time.sleep(0.22)
    assert limits.enter()


def test_webhooks_travel_as_told(twin: Counter, box: Mailbox) -> None:
    post(twin, "a", "b", "c")
    twin.courier.settle()
    box.take()
    twin.bump(name="a", travel=Travel(reorder=True))
    twin.bump(name="b", travel=Travel(duplicate=1))
    twin.bump(name="c", travel=Travel(drop=True))
    twin.courier.settle()
    assert bodies(box) == ["b#0", "b#0", "a#0"]
    twin.bump(name="c", travel=Travel(delay=0.2))
    time.sleep(0.1)
    assert len(box.got) == 3
    twin.courier.settle()
    assert bodies(box)[3:] == ["c#0"]


def test_webhooks_are_tried_again(twin: Counter, box: Mailbox) -> None:
    twin.configure(gaps=[0.01, 0.01])
    box.answers = [503, 500, 500, 200]
    post(twin, "x")
    twin.courier.settle()
    assert bodies(box) == ["x#0", "x#1", "x#2"]
    assert [s.status for s in twin.courier.sent] == [503, 500, 500]


def test_acts_over_http(twin: Counter, box: Mailbox) -> None:
    post(twin, "x")
    act_url = twin.url + "/_twin/acts/"
    sent = {"name": "x", "travel": {"duplicate": 1}}
    assert httpx.post(act_url + "bump", json=sent).json() == {"done": True, "result": 2}
    assert httpx.post(act_url + "bump", json={"name": "y"}).status_code == 400
    assert httpx.post(act_url + "bump", json={"nome": "x"}).status_code == 400
    assert httpx.post(act_url + "reset", json={}).status_code == 404
    assert httpx.post(act_url + "bump", data={"name": "x"}).headers["location"] == "/"
    twin.courier.settle()
    assert bodies(box) == ["x#0"] * 4
    assert [c.path for c in twin.calls] == ["/v1/counts"]


def test_control_over_http(twin: Counter) -> None:
    control = httpx.Client(base_url=twin.url)
    fault = {"kind": "status", "status": 418, "times": None}
    assert control.post("/_twin/faults", json=fault).json()["result"]["status"] == 418
    assert [post(twin, "x").status_code for _ in range(2)] == [418, 418]
    assert control.delete("/_twin/faults").status_code == 200
    assert post(twin, "x").status_code == 200
    assert control.get("/_twin/state").json() == {"of": {"x": 1}}
    assert [c["status"] for c in control.get("/_twin/calls?since=1").json()] == [418, 200]
    assert control.post("/_twin/faults", json={"kind": "none"}).status_code == 400
    assert control.post("/_twin/configure", json={"none": 1}).status_code == 400
    assert control.post("/_twin/configure", json={"webhook_url": "http://h/"}).status_code == 200
    assert twin.webhook_url == "http://h/"
    control.post("/_twin/reset")
    assert (twin.calls, twin.state.of) == ([], {})


def test_the_page_shows_people_and_goes_down_and_back(twin: Counter) -> None:
    post(twin, "<x>")
    page = httpx.get(twin.url + "/").text
    assert "&lt;x&gt;" in page
    assert "<x>" not in page
    assert "http-equiv" in page
    assert "http-equiv" not in httpx.get(twin.url + "/?still").text
    httpx.post(twin.url + "/_twin/faults", data={"kind": "down", "times": ""})
    for _ in range(2):
        with pytest.raises(httpx.RemoteProtocolError):
            post(twin, "x")
    assert "Faults in place: down" in httpx.get(twin.url + "/").text
    httpx.post(twin.url + "/_twin/faults/clear", data={"x": ""})
    assert post(twin, "x").status_code == 200


def test_the_clock_is_moved(twin: Counter) -> None:
    at = datetime(2026, 1, 2, 3, tzinfo=UTC)
    twin.clock.stop(at)
    httpx.post(twin.url + "/_twin/configure", json={"clock_shift": 3600})
    post(twin, "x")
    assert twin.calls[0].at == datetime(2026, 1, 2, 4, tzinfo=UTC)


def test_a_fault_of_the_twin_itself_is_told() -> None:
    with pytest.raises(LookupError), running(Counter()) as (_, url):
        assert httpx.get(url + "/v1/broken").status_code == 500


def test_runs_again_after_its_end(box: Mailbox) -> None:
    counter = Counter()
    for expected in (1, 2):
        with running(counter):
            counter.webhook_url = box.url
            post(counter, "x")
            counter.courier.settle()
        assert len(box.got) == expected


def test_as_a_process_it_refuses_unknown_names() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.twins", "fax=0"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "usage" in ended.stderr
