"""Processes that end and come again, one after the other: nobody is refused, nothing waits."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from prefs.app import Runtime
from prefs.core import identity
from prefs.core.decision import Ask, Reason, decide
from prefs.store import marks, permissions
from tests import empty as databases
from tests import nginx
from tests.faults import kit
from tests.served import eventually
from tests.twins.kit import running
from tests.twins.mailchimp import MailchimpTwin

pytestmark = pytest.mark.long

ROLLS = kit.count(10)
SETTLED = 0.5
"""Seconds between one that came again and the next that goes: a request that found the first away
is under way at the second, and nginx tries each once."""
OUT = Reason.OPTED_OUT
NAMED = {"Host": "prefs.example.co.uk"}


@pytest.fixture
def postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes on one database: the engine that is made for it."""
    monkeypatch.setattr(databases, "engine", databases.POSTGRESQL)


def ready(port: int) -> int:
    return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code


# --- behind a proxy ------------------------------------------------------------------------------


@dataclass
class Load:
    """Clients that click, ask and record through a proxy until told to stop."""

    url: str
    links: list[str]
    key: str
    answers: Counter[tuple[str, int | str]] = field(default_factory=Counter)
    clicked: list[int] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, clients: int = 4) -> None:
        shares = [range(one, len(self.links), clients) for one in range(clients)]
        self._threads = [threading.Thread(target=self._client, args=(one,)) for one in shares]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _client(self, numbers: range) -> None:
        with httpx.Client(base_url=self.url, headers=NAMED, verify=False, timeout=60) as client:
            for number in numbers:
                if self._over.is_set():
                    return
                if self._post(client, "click", self.links[number], b"List-Unsubscribe=One-Click"):
                    self.clicked.append(number)
                self._post(client, "check", "/v1/check", self._question(number))

    def _question(self, number: int) -> bytes:
        body = {
            "brand": "rt",
            "channel": "email",
            "purpose": "marketing",
            "to": [kit.address(number)],
        }
        return json.dumps(body).encode()

    def _post(self, client: httpx.Client, kind: str, path: str, content: bytes) -> bool:
        headers = {"Authorization": f"Bearer {self.key}"} if kind == "check" else {}
        try:
            answer: int | str = client.post(path, content=content, headers=headers).status_code
        except httpx.HTTPError as fault:
            answer = type(fault).__name__
        self.answers[kind, answer] += 1
        return answer == 200


def paths(made: kit.Installation, people: int) -> list[str]:
    return [link.removeprefix(made.url) for link in made.links(people)]


@dataclass
class Rolling:
    """Two API processes that can be ended and started again."""

    made: kit.Installation
    ports: list[int]
    processes: list[subprocess.Popen[bytes]]

    def start(self, which: int) -> None:
        self.processes[which] = serve(self.made, self.ports[which])
        until_ready(self.made, self.ports[which], self.processes[which])

    def roll(self, sign: signal.Signals) -> None:
        for which in range(2):
            self.processes[which].send_signal(sign)
            self.processes[which].wait(20)
            self.start(which)
            time.sleep(SETTLED)


def serve(made: kit.Installation, port: int, *more: str) -> subprocess.Popen[bytes]:
    return made.start("serve", "--no-work", "--listen", f"127.0.0.1:{port}", *more)


def until_ready(made: kit.Installation, port: int, process: subprocess.Popen[bytes]) -> None:
    def is_ready() -> bool:
        assert process.poll() is None, made.log.read_text()[-2000:]
        with suppress(httpx.HTTPError):
            return ready(port) == 200
        return False

    eventually(is_ready)


@contextmanager
def two(made: kit.Installation) -> Iterator[Rolling]:
    ports = [kit.free_port(), kit.free_port()]
    rolling = Rolling(made, ports, [serve(made, port) for port in ports])
    try:
        for port, process in zip(ports, rolling.processes, strict=True):
            until_ready(made, port, process)
        yield rolling
    finally:
        for process in rolling.processes:
            kit.end(process)


CUT = "RemoteProtocolError"
"""A process was killed in the middle of its answer, after what it answers was on disk."""


def failed(load: Load) -> dict[tuple[str, int | str], int]:
    return {what: count for what, count in dict(load.answers).items() if what[1] != 200}


@pytest.mark.usefixtures("postgresql")
@pytest.mark.timeout(600)
def test_a_roll_behind_nginx_loses_no_click(tmp_path: Path) -> None:
    """Nor does a kill lose what was acknowledged; the log of the proxy holds no token."""
    tmp_path.chmod(0o755)
    extra = 'allowed_hosts = ["prefs.example.co.uk"]\ntrusted_proxies = ["127.0.0.1"]\n'
    made = kit.Installation(tmp_path, "", {})
    made.config.write_text(extra + made.config.read_text())
    links, key = paths(made, 3000 * ROLLS), made.key("check")
    with two(made) as rolling, nginx.running(tmp_path, rolling.ports) as url:
        load = Load(url, links, key)
        load.start()
        for _ in range(ROLLS):
            rolling.roll(signal.SIGTERM)
        refused = failed(load)
        rolling.roll(signal.SIGKILL)
        load.stop()
    kit.say(f"{ROLLS} rolls and two kills behind nginx: {dict(load.answers)}")
    assert load.answers["click", 200] > 20 * ROLLS
    assert refused == {}
    assert {answer for _, answer in failed(load)} <= {CUT}
    with made.opened() as runtime:
        hashes = [runtime.keys.hash(identity.email(kit.address(n))) for n in load.clicked]
        held = runtime.database.read_now(lambda conn: permissions.read(conn, "rt", hashes))
    denied = {one for one, row in held.items() if decide(Ask(kit.EMAIL), row, 0.0).reason is OUT}
    assert denied == set(hashes)
    logged = (tmp_path / "nginx-access.log").read_text() + (
        tmp_path / "nginx-error.log"
    ).read_text()
    assert '"kind":"/u"' in logged
    assert not [link for link in links if link.removeprefix("/u/") in logged + made.log.read_text()]


# --- one process ---------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path: Path) -> kit.Installation:
    return kit.Installation(tmp_path, "", {"PREFS__DRAIN": "3s"})


def test_a_process_that_leaves_says_so_and_still_answers(made: kit.Installation) -> None:
    """Not ready at once, so that a proxy turns away; who comes all the same is served, and asked
    to come by another connection."""
    links = paths(made, 2)
    process = serve(made, made.port)
    try:
        until_ready(made, made.port, process)
        with httpx.Client(base_url=made.url) as client:
            assert "connection" not in client.get("/healthz").headers
            process.send_signal(signal.SIGTERM)
            eventually(lambda: client.get("/readyz").status_code == 503)
            answer = client.post(links[0])
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            assert client.get("/healthz").status_code == 200
        assert process.wait(20) == 0
    finally:
        kit.end(process)
    with pytest.raises(httpx.ConnectError):
        ready(made.port)


def test_a_request_in_flight_is_answered_though_the_listener_is_closed(
    tmp_path: Path,
) -> None:
    """Its body is still under way when the process is told to end."""
    made = kit.Installation(tmp_path, "", {"PREFS__DRAIN": "100ms"})
    links = paths(made, 1)
    process = serve(made, made.port)
    try:
        until_ready(made, made.port, process)
        with socket.create_connection(("127.0.0.1", made.port), timeout=60) as slow:
            head = f"POST {links[0]} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nLi"
            slow.sendall(head.encode())
            process.send_signal(signal.SIGTERM)
            eventually(lambda: refused(made.port))
            slow.sendall(b"st")
            assert slow.recv(65536).startswith(b"HTTP/1.1 200")
        assert process.wait(20) == 0
    finally:
        kit.end(process)


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_who_comes_between_two_processes_waits_where_the_socket_was_handed_over(
    made: kit.Installation,
) -> None:
    """As systemd hands it over: the port stays open while one process follows another."""
    links = paths(made, 1)
    with socket.create_server(("127.0.0.1", made.port), backlog=16) as port:
        first = handed_over(made, port)
        until_ready(made, made.port, first)
        first.send_signal(signal.SIGINT)
        assert first.wait(20) == 0
        with socket.create_connection(("127.0.0.1", made.port), timeout=60) as between:
            between.sendall(f"POST {links[0]} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            second = handed_over(made, port)
            try:
                assert between.recv(65536).startswith(b"HTTP/1.1 200")
            finally:
                kit.end(second)


def handed_over(made: kit.Installation, port: socket.socket) -> subprocess.Popen[bytes]:
    number = port.fileno()
    with made.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "prefs.cli", "serve", "--listen", f"fd:{number}"],
            env=made.environ,
            stdout=log,
            stderr=log,
            pass_fds=[number],
        )


# --- workers -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("postgresql")
def test_a_worker_that_ends_frees_its_lanes_for_another_at_once(tmp_path: Path) -> None:
    """Its lease would have gone on for ten minutes."""
    with running(MailchimpTwin()) as (twin, url):
        environ = {"MAILCHIMP": twin.api_key, "PREFS__WORKER__LEASE": "10m"}
        made = kit.Installation(tmp_path, kit.MAILCHIMP.format(url=url), environ)
        first = work(made)
        try:
            with made.opened() as runtime:
                eventually(lambda: holder(runtime))
                held_by = holder(runtime)
                second = work(made)
                try:
                    first.send_signal(signal.SIGTERM)
                    took = eventually(lambda: holder(runtime) not in (None, held_by))
                    kit.say(f"a lane went from one worker to another after {took:.2f} s")
                    assert first.wait(20) == 0
                finally:
                    kit.end(second)
        finally:
            kit.end(first)


def work(made: kit.Installation) -> subprocess.Popen[bytes]:
    """A worker, once it answers."""
    port = kit.free_port()
    process = made.start("work", "--listen", f"127.0.0.1:{port}")
    until_ready(made, port, process)
    return process


def holder(runtime: Runtime) -> str | None:
    """Who holds the lane now."""
    row = runtime.database.read_now(lambda conn: marks.lane(conn, "rt/mailchimp"))
    alive = row is not None and row.lease_until > time.time()
    return str(row.holder) if alive and row and row.holder else None
