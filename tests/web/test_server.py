"""Slow, silent and oversized clients are closed after a deadline; others are served meanwhile."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from prefs.metrics import REGISTRY
from prefs.web import server
from tests.served import Served, eventually, listening

DEADLINE = 0.6
LONG = 8.0
"""Seconds, below the deadlines that stand where a test sets none."""


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(server, "HEADERS_WITHIN", DEADLINE)
    monkeypatch.setattr(server, "BODY_PIECE_WITHIN", DEADLINE)
    monkeypatch.setattr(server, "LINGER", DEADLINE / 2)
    monkeypatch.setattr(server, "IDLE_WITHIN", 2)
    with listening(tmp_path) as made:
        yield made


@contextmanager
def dialled(service: Served) -> Iterator[socket.socket]:
    url = service.client.base_url
    with socket.create_connection((url.host, url.port), timeout=10) as connection:
        yield connection


def heard(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def closed_after(connection: socket.socket) -> tuple[float, bytes]:
    began = time.monotonic()
    answer = heard(connection)
    return time.monotonic() - began, answer


def link(service: Served) -> str:
    answer = service.post("/v1/links", {"brand": "rt", "email": "a@example.co.uk"})
    return str(answer.json()["unsubscribe"]).split("/u/", 1)[1]


def post(path: str, *headers: str) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: localhost", *headers, "", "")
    return "\r\n".join(lines).encode()


def out(service: Served) -> bool:
    return service.reason("a@example.co.uk") == "opted_out"


def test_a_silent_client_is_closed(service: Served) -> None:
    with dialled(service) as silent:
        took, answer = closed_after(silent)
    assert DEADLINE * 0.8 < took < LONG
    assert answer == b""


def send_until_closed(connection: socket.socket, pieces: Iterable[bytes], every: float) -> float:
    """Seconds until the other side would take no more."""
    began = time.monotonic()
    with suppress(ConnectionError):
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(every)
        raise AssertionError("all was taken")
    return time.monotonic() - began


def test_headers_that_drip_are_closed_though_each_drop_comes_in_time(service: Served) -> None:
    drops = (b"GET /healthz HTTP/1.1\r\n", *[b"X-Drop: 1\r\n"] * 100)
    with dialled(service) as slow:
        assert send_until_closed(slow, drops, DEADLINE / 5) < LONG


def test_a_second_request_on_a_kept_connection_has_a_deadline_too(service: Served) -> None:
    with dialled(service) as kept:
        kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in kept.recv(4096)
        kept.sendall(b"GET /healthz HTTP/1.1\r\n")
        took, _ = closed_after(kept)
    assert took < LONG


def test_an_idle_kept_connection_is_closed(service: Served) -> None:
    with dialled(service) as idle:
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        took, answer = closed_after(idle)
    assert answer.startswith(b"HTTP/1.1 200")
    assert 1 < took < LONG


FRAMINGS = pytest.mark.parametrize("framing", ["Content-Length: 400", "Transfer-Encoding: chunked"])


@FRAMINGS
def test_a_program_whose_body_stalls_is_refused(service: Served, framing: str) -> None:
    with dialled(service) as stalled:
        stalled.sendall(post("/v1/check", framing, f"Authorization: Bearer {service.key}"))
        stalled.sendall(b"5\r\n{    \r\n")
        took, answer = closed_after(stalled)
    assert took < LONG
    assert answer.startswith(b"HTTP/1.1 408")


@FRAMINGS
def test_a_click_whose_body_stalls_is_closed_and_counts(service: Served, framing: str) -> None:
    with dialled(service) as stalled:
        stalled.sendall(post(f"/u/{link(service)}", framing) + b"5\r\nList-\r\n")
        took, answer = closed_after(stalled)
    assert took < LONG
    assert answer.startswith(b"HTTP/1.1 200")
    assert out(service)


def test_a_body_that_goes_on_after_its_answer_is_closed(service: Served) -> None:
    with dialled(service) as endless:
        endless.sendall(post("/v1/check", "Content-Length: 4000000000") + b"x" * 1000)
        took, answer = closed_after(endless)
    assert took < LONG
    assert answer.startswith(b"HTTP/1.1 401")


def test_a_body_that_drips_in_time_is_taken(service: Served) -> None:
    body = b"List-Unsubscribe=One-Click"
    with dialled(service) as slow:
        slow.sendall(post(f"/u/{link(service)}", f"Content-Length: {len(body)}"))
        for at in range(len(body)):
            slow.sendall(body[at : at + 1])
            time.sleep(DEADLINE / 12)
        assert slow.recv(65536).startswith(b"HTTP/1.1 200")
    assert out(service)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/check", "application/json"),
        ("/v1/scrub?brand=rt&channel=email&purpose=marketing", "text/csv"),
    ],
)
def test_who_goes_away_in_the_midst_is_no_fault_of_ours(
    service: Served, path: str, kind: str
) -> None:
    """Else an alert calls somebody for each."""

    def counted(status: int) -> float:
        labels = {"route": path.split("?", 1)[0], "status": str(status)}
        return REGISTRY.get_sample_value("prefs_request_seconds_count", labels) or 0.0

    gone, failed = counted(499), counted(500)
    authorization = f"Authorization: {service.headers['Authorization']}"
    with dialled(service) as leaving:
        leaving.sendall(post(path, authorization, f"Content-Type: {kind}", "Content-Length: 90"))
        leaving.sendall(b"half of it")
    eventually(lambda: (counted(499), counted(500)) != (gone, failed))
    assert (counted(499), counted(500)) == (gone + 1, failed)


@pytest.mark.parametrize("size", [40_000, 300_000, 3_000_000])
def test_a_large_body_is_taken_however_it_arrives(service: Served, size: int) -> None:
    """The end of a body is no beginning of headers, however much comes with it."""
    with dialled(service) as large:
        headers = (f"Content-Length: {size}", f"Authorization: Bearer {service.key}")
        large.sendall(post("/v1/check", *headers) + b" " * size)
        assert large.recv(65536).startswith(b"HTTP/1.1 400")


def test_a_chunked_body_is_taken(service: Served) -> None:
    with dialled(service) as chunked:
        chunked.sendall(post(f"/u/{link(service)}", "Transfer-Encoding: chunked"))
        chunked.sendall(b"4\r\nList\r\n0\r\n\r\n")
        assert chunked.recv(65536).startswith(b"HTTP/1.1 200")
    assert out(service)


def test_a_client_that_waits_for_a_continue_gets_one(service: Served) -> None:
    with dialled(service) as polite:
        headers = ("Content-Length: 4", "Expect: 100-continue")
        polite.sendall(post(f"/u/{link(service)}", *headers))
        assert polite.recv(4096).startswith(b"HTTP/1.1 100")
        polite.sendall(b"List")
        assert polite.recv(65536).startswith(b"HTTP/1.1 200")
    assert out(service)


@pytest.mark.parametrize("lines", [1, 800], ids=["one line", "many lines"])
def test_headers_over_the_limit_are_refused(service: Served, lines: int) -> None:
    each = "y" * (5 * server.HEADER_BYTES // lines // 4)
    request = post(f"/u/{link(service)}", *(f"X-{n}: {each}" for n in range(lines)))
    with dialled(service) as large:
        large.sendall(request)
        answer = heard(large)
    assert answer.startswith(b"HTTP/1.1 431")
    assert not out(service)


def test_headers_over_the_limit_are_refused_behind_another_request(service: Served) -> None:
    """Most of them come with the request before, and only their end by itself."""
    large = post(f"/u/{link(service)}", f"X-Much: {'y' * (server.HEADER_BYTES + 1000)}")
    before = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    end = large.index(b"\r\n\r\n")
    with dialled(service) as one:
        one.sendall(before + large[:end])
        time.sleep(0.3)
        one.sendall(large[end:])
        answer = heard(one)
    assert b"HTTP/1.1 431" in answer
    assert not out(service)


@pytest.mark.parametrize("items", [1000, 2400, 10_000])
def test_a_large_body_is_no_large_header(service: Served, items: int) -> None:
    """Whether it comes in one piece or in several, and again on the same connection."""
    to = [f"p{number}@example.com" for number in range(items)]
    body = {"brand": "rt", "channel": "email", "purpose": "marketing", "to": to}
    for _ in range(2):
        answer = service.post("/v1/check", body)
        assert answer.status_code == 200
        assert len(answer.json()["results"]) == items


def test_endless_headers_are_refused_before_they_end(service: Served) -> None:
    line = b"X-More: " + b"y" * 4096 + b"\r\n"
    with dialled(service) as endless:
        send_until_closed(endless, (b"GET /healthz HTTP/1.1\r\n", *[line] * 8000), 0)


def test_what_is_not_http_is_refused(service: Served) -> None:
    with dialled(service) as odd:
        odd.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100)
        assert heard(odd).startswith(b"HTTP/1.1 400")


def test_a_hundred_silent_clients_do_not_keep_a_click_waiting(service: Served) -> None:
    url = service.client.base_url
    silent = [socket.create_connection((url.host, url.port)) for _ in range(100)]
    try:
        began = time.monotonic()
        assert service.client.post(f"/u/{link(service)}").status_code == 200
        assert time.monotonic() - began < LONG
    finally:
        for connection in silent:
            connection.close()
