"""What stands around a request: who sent it, what it is called, and that its process leaves."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from prefs.core.errors import Unavailable
from prefs.logs import set_up_logs
from prefs.store import ledger, migrate
from prefs.web.around import Arrivals
from tests.served import Served, served

ADA = "ada@example.com"
TRUSTED = {"PREFS__TRUSTED_PROXIES": '["127.0.0.1", "10.0.0.0/8", "2001:db8:5::/48"]'}


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Served]:
    """The service behind a proxy that it trusts."""
    with served(tmp_path, environ=TRUSTED) as rt:
        yield rt


@pytest.fixture
def open_to_all(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as rt:
        yield rt


def seen_from(rt: Served, forwarded: str | None) -> str:
    """The network address that a click's evidence names."""
    link = rt.post("/v1/links", {"brand": "rt", "email": ADA}).json()["unsubscribe"]
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    assert rt.client.post(link, headers=headers).status_code == 200

    def last(conn: Any) -> Any:
        payload_id = conn.exec_driver_sql("SELECT max(payload_id) FROM ledger").scalar_one()
        return ledger.read_payload(conn, rt.runtime.keys, payload_id)

    return str(rt.runtime.database.read_now(last)["evidence"]["ip"])


@pytest.mark.parametrize(
    ("forwarded", "sender"),
    [
        (None, "127.0.0.1"),
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7, 10.1.2.3", "192.0.2.7"),
        ("203.0.113.9, 192.0.2.7, 10.1.2.3, 2001:db8:5::1", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("nonsense, 10.1.2.3", "10.1.2.3"),
        ("192.0.2.7, nonsense", "127.0.0.1"),
    ],
)
def test_a_trusted_proxy_says_who_sent_it(
    behind: Served, forwarded: str | None, sender: str
) -> None:
    """What stands before the first stranger was written by that stranger."""
    assert seen_from(behind, forwarded) == sender


def test_from_anybody_else_the_header_says_nothing(open_to_all: Served) -> None:
    with capture_logs() as logs:
        assert seen_from(open_to_all, "192.0.2.7") == "127.0.0.1"
        assert seen_from(open_to_all, "192.0.2.8") == "127.0.0.1"
    assert [one["event"] for one in logs] == ["forwarded_for_ignored"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("4f2a9c77-proxy.1", True),
        ("short", False),
        ("x" * 65, False),
        ("ada@example.com", False),
        ("a b c d e f g", False),
    ],
)
def test_a_request_is_called_what_the_proxy_calls_it(
    behind: Served, given: str, kept: bool
) -> None:
    told = {"X-Request-Id": given}
    assert (behind.client.get("/p", headers=told).headers.get("x-request-id") == given) is kept
    answer = behind.client.get("/v1/targets", headers={**behind.headers, **told})
    assert (answer.headers["x-request-id"] == given) is kept


def test_else_each_has_a_name_of_its_own(open_to_all: Served) -> None:
    given = {"X-Request-Id": "4f2a9c77-stranger"}
    found = {
        open_to_all.client.get("/v1/targets", headers=given).headers["x-request-id"]
        for _ in range(9)
    }
    assert len(found) == 9
    assert "4f2a9c77-stranger" not in found


def failing(rt: Served, fault: Exception, monkeypatch: pytest.MonkeyPatch) -> Any:
    async def fails(*_: Any) -> None:
        raise fault

    monkeypatch.setattr(type(rt.runtime.database), "read", fails)
    return rt.client.get("/v1/changes", headers=rt.headers)


@pytest.mark.parametrize(
    ("fault", "status", "events"),
    [
        (Unavailable("away"), 503, ["request"]),
        (RuntimeError(ADA), 500, ["request", "request_failed"]),
    ],
)
def test_a_failure_leads_from_its_answer_to_the_log(
    behind: Served,
    fault: Exception,
    status: int,
    events: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    before = structlog.get_config()
    set_up_logs()
    try:
        answer = failing(behind, fault, monkeypatch)
    finally:
        structlog.configure(**before)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    ours = [line for line in lines if line["event"].startswith("request")]
    assert answer.status_code == status
    assert sorted(line["event"] for line in ours) == events
    assert {line["request"] for line in ours} == {answer.headers["x-request-id"]}
    assert ours[0]["route"] == "/v1/changes"
    assert ADA not in written.getvalue()


def test_who_leaves_is_not_ready_and_asks_for_other_connections(open_to_all: Served) -> None:
    rt = open_to_all
    assert rt.client.get("/readyz").status_code == 200
    assert "connection" not in rt.client.get("/healthz").headers
    rt.client.app.state.leaving.set()
    answer = rt.client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "leaving")
    answer = rt.client.get("/healthz")
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert "\nprefs_leaving 1.0\n" in rt.client.get("/metrics").text


VERSIONS: list[tuple[str, Callable[[], str], int]] = [
    ("our own", migrate.head, 200),
    ("of the next release, brought while we serve", lambda: "9999", 200),
    ("older than we need", lambda: "0001", 503),
]


@pytest.mark.parametrize(
    ("version", "status"),
    [(version, status) for _, version, status in VERSIONS],
    ids=[name for name, _, _ in VERSIONS],
)
def test_ready_is_who_knows_the_schema_or_is_followed_by_who_does(
    open_to_all: Served, version: Callable[[], str], status: int
) -> None:
    sql = f"UPDATE alembic_version SET version_num = '{version()}'"
    open_to_all.runtime.database.write_now(lambda conn: conn.exec_driver_sql(sql).rowcount)
    assert open_to_all.client.get("/readyz").status_code == status


@pytest.mark.parametrize("peer", [None, ("testclient", 1)])
def test_a_peer_without_an_address_is_nobodys_proxy(peer: Any) -> None:
    scope = {
        "type": "http",
        "path": "/",
        "client": peer,
        "headers": [(b"x-forwarded-for", b"192.0.2.7")],
    }
    Arrivals(lambda *_: None, ())._arrive(scope)  # type: ignore[arg-type]  # not called
    assert scope["client"] == peer
