"""The whole service for tests: a configuration file, an opened runtime, a client of its app."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from starlette.testclient import TestClient

from prefs.app import (
    Clock,
    Runtime,
    load_settings,
    make_app,
    make_connector,
    open_runtime,
    utc_now,
)
from prefs.scan import Scan
from prefs.store import access, marks
from prefs.store.marks import Lease
from prefs.web.server import config
from tests import empty, prompt

PUBLIC = "https://prefs.example.co.uk"

BASE = """
listen = "127.0.0.1:0"
public_url = "{public}"
database = "{database}"
secret_keys = ["env:PREFS_TEST_KEY"]
[mail]
send = "file://{folder}/mail"
from = "prefs@example.co.uk"
[worker]
first_retry = "50ms"
max_retry = "1s"
poll_every = "1h"
lease = "5s"
[controllers.rt]
name = "RT Aesthetics Ltd"
address = "1 High Street, Leeds"
complaints_email = "info@example.co.uk"
[controllers.other]
name = "Another Ltd"
address = "2 High Street, Leeds"
complaints_email = "info@example.org"
[brands.rt]
controller = "rt"
name = "RT Aesthetics"
privacy_notice = "https://example.co.uk/privacy"
sms = {{ marketing = ["MG1", "+447700900001"], reminders = ["MG2", "+447700900002"] }}
[brands.second]
controller = "rt"
name = "RT Skin"
privacy_notice = "https://example.co.uk/privacy"
[brands.foreign]
controller = "other"
name = "Another Clinic"
privacy_notice = "https://example.org/privacy"
"""


@dataclass
class Served:
    """`client` speaks to the app as programs and people do."""

    runtime: Runtime
    client: Any
    """A TestClient, or an httpx.Client of the real port."""
    key: str
    folder: Path

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def post(self, path: str, body: Any, **more: Any) -> Any:
        headers = {**self.headers, **more.pop("headers", {})}
        return self.client.post(path, json=body, headers=headers, **more)

    def get(self, path: str, **more: Any) -> Any:
        return self.client.get(path, headers=self.headers, **more)

    def key_for(self, scopes: str, brand: str = "rt") -> str:
        now = self.runtime.clock().timestamp()
        _, key = self.runtime.database.write_now(
            lambda conn: access.add_key(conn, brand, scopes.split(","), now)
        )
        return key

    def say(self, email: str, choice: str = "out", source: str = "api", **more: Any) -> Any:
        """POST /v1/preferences for e-mail marketing; the parsed answer."""
        change = {"channel": "email", "purpose": "marketing", "choice": choice}
        body = {
            "brand": "rt",
            "subject": {"email": email},
            "changes": [change],
            "source": source,
            **more,
        }
        answer = self.post("/v1/preferences", body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def consent(self, email: str, **more: Any) -> Any:
        return self.say(email, "in", basis="consent", evidence={"wording": "Yes please"}, **more)

    def reason(
        self, to: Any, channel: str = "email", purpose: str = "marketing", **more: Any
    ) -> str:
        """What check answers for one item."""
        body = {"brand": "rt", "channel": channel, "purpose": purpose, "to": [to], **more}
        answer = self.post("/v1/check", body)
        assert answer.status_code == 200, answer.text
        reason: str = answer.json()["results"][0]["reason"]
        return reason


def configure(folder: Path, extra: str = "", public: str = PUBLIC) -> Path:
    path = folder / "prefs.toml"
    base = BASE.format(folder=folder, public=public, database=empty.database(folder))
    path.write_text(base + extra)
    return path


def opened(
    folder: Path,
    extra: str,
    environ: Mapping[str, str] | None,
    clock: Clock,
    public: str = PUBLIC,
) -> Runtime:
    secrets = {"PREFS_TEST_KEY": "a secret of thirty-two bytes or more", **(environ or {})}
    return open_runtime(load_settings(configure(folder, extra, public), secrets), clock)


@contextmanager
def served(
    folder: Path,
    extra: str = "",
    *,
    work: bool = False,
    environ: Mapping[str, str] | None = None,
    clock: Clock = utc_now,
) -> Iterator[Served]:
    """Run the app in this process; with `work` its worker too."""
    runtime = opened(folder, extra, environ, clock)
    try:
        app, here = make_app(runtime, work=work), ("127.0.0.1", 50000)
        with TestClient(app, PUBLIC, raise_server_exceptions=False, client=here) as client:
            made = Served(runtime, client, "", folder)
            made.key = made.key_for("check,write,staff,rights,admin")
            yield made
    finally:
        runtime.close()


@contextmanager
def listening(
    folder: Path,
    extra: str = "",
    *,
    environ: Mapping[str, str] | None = None,
    clock: Clock = utc_now,
    port: int = 0,
) -> Iterator[Served]:
    """The same on a real port of the loopback interface (a free one, or one that it had before),
    worker inside, so that vendors' twins can reach its webhooks. Format `extra` with {service}
    where the own URL is wanted."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        runtime = opened(folder, extra, environ, clock, url)
        served = config(make_app(runtime, work=True), "127.0.0.1", 0)
        served.loop = "asyncio"
        try:
            with (
                prompt.running(served, listener, "the service"),
                httpx.Client(base_url=url, timeout=60, verify=False) as client,
            ):
                _until_answered(client)
                made = Served(runtime, client, "", folder)
                made.key = made.key_for("check,write,staff,rights,admin")
                yield made
        finally:
            runtime.close()


def _until_answered(client: httpx.Client) -> None:
    def answers() -> bool:
        with suppress(httpx.HTTPError):
            return client.get("/healthz").status_code == 200
        return False

    eventually(answers)


def lane(service: Served, target: str) -> Any:
    """The row of a target's lane, once a worker holds it."""
    return service.runtime.database.read_now(lambda conn: marks.lane(conn, target))


def walked(service: Served, target: str) -> Any:
    """The lane's row after the first walk of its worker."""
    eventually(lambda: getattr(lane(service, target), "scanned_at", None))
    return lane(service, target)


def poll(service: Served, target: str, cursor: str | None = None, times: int = 1) -> None:
    """Walk through a target now, beside the worker that holds its lane."""
    (found,) = [one for one in service.runtime.targets if one.label == target]
    row, made = walked(service, target), service.runtime
    connector = make_connector(made, found)
    scan = Scan(found, connector, made.database, made.intake, made.clock)

    async def walks() -> None:
        for _ in range(times):
            await scan.run(Lease(target, row.holder, row.epoch), cursor)
        await connector.close()

    asyncio.run(walks())


def eventually(holds: Callable[[], object], seconds: float = 60.0) -> float:
    """Wait until something holds; returns the seconds it took. The limit says when a test gives up,
    and promises nothing: the same must hold on a machine that is busy with other work."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if holds():
            return time.monotonic() - began
        time.sleep(0.02)
    raise AssertionError("it did not come to hold in time")
