"""make bench: prints a table and writes bench/results.json.

Each figure is a ratio of ours to a floor measured in the same run, alternating, as medians of the
rounds: absolute numbers drift with the machine, ratios hold.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from bench import people
from prefs.core.keys import Keyring
from prefs.store import sqlite
from tests.twins.kit import running
from tests.twins.mailchimp import MailchimpTwin

HERE = Path(__file__).parent
SECRET = secrets.token_hex(32)
TWIN_KEY = "twin-key-us6"
JSON = {"Content-Type": "application/json"}


class Figure(dict[str, Any]):
    """One row: name, value, unit, bar, op, holds, n."""


def figure(name: str, value: float, unit: str, bar: float, op: str, n: int) -> Figure:
    holds = value >= bar if op == ">=" else value <= bar
    rounded = round(value, 3)
    return Figure(name=name, value=rounded, unit=unit, bar=bar, op=op, holds=holds, n=n)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def process(*args: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen([sys.executable, "-m", *args], env={**os.environ, **(env or {})})
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(15)
        except subprocess.TimeoutExpired:
            started.kill()


def wait_for(url: str) -> None:
    for _ in range(200):
        try:
            httpx.get(url, timeout=1)
            return
        except httpx.HTTPError:
            time.sleep(0.05)
    raise SystemExit(f"{url} did not come up")


CONFIG = """
listen = "127.0.0.1:{port}"
public_url = "http://127.0.0.1:{port}"
database = "sqlite:///{folder}/prefs.db"
secret_keys = ["env:BENCH_SECRET"]
[controllers.rt]
name = "Bench Ltd"
address = "1 Test Street"
complaints_email = "complaints@example.co.uk"
[brands.rt]
controller = "rt"
name = "Bench"
privacy_notice = "https://example.co.uk/privacy"
"""
MAILCHIMP = """
[brands.rt.targets.mailchimp]
system = "mailchimp"
mode = "live"
base_url = "{twin}"
api_key = "env:BENCH_TWIN"
audiences = {{ a1 = ["treatments", "products", "offers", "competitions", "news"] }}
"""


class Served:
    """The service on a folder of its own."""

    def __init__(self, folder: Path, twin: str | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = folder / "prefs.toml"
        text = CONFIG.format(port=self.port, folder=folder)
        self.config.write_text(text + (MAILCHIMP.format(twin=twin) if twin else ""))
        self.env = {
            "BENCH_SECRET": SECRET,
            "BENCH_TWIN": TWIN_KEY,
            "PREFS_CONFIG": str(self.config),
        }

    @contextmanager
    def running(self) -> Iterator[str]:
        """Yields an API key."""
        args = ["api-keys", "add", "--brand", "rt", "--scopes", "check,write,staff", "--json"]
        made = subprocess.run(
            [sys.executable, "-m", "prefs.cli", *args],
            env={**os.environ, **self.env},
            capture_output=True,
            check=True,
        )
        with process("prefs.cli", "serve", env=self.env):
            wait_for(f"{self.url}/readyz")
            yield json.loads(made.stdout)["key"]


def load(port: int, connections: int, seconds: float, shape: Any, bodies: list[str]) -> Any:
    given = "\n".join([json.dumps(shape), *bodies])
    args = [sys.executable, "-m", "bench.load", str(port), str(connections), str(seconds)]
    done = subprocess.run(args, input=given, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    if found["errors"]:
        raise SystemExit(f"{found['errors']} of {found['requests']} requests failed")
    return found


def alternate(rounds: int, *sides: Callable[[], float]) -> list[float]:
    """Medians of each side, run in turn."""
    found: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for values, side in zip(found, sides, strict=True):
            values.append(side())
    return [statistics.median(values) for values in found]


def rate(found: Any) -> float:
    return float(found["requests"] / found["seconds"])


def check_one(count: int, rounds: int, seconds: float) -> Figure:
    with tempfile.TemporaryDirectory() as name:
        folder, floor_port = Path(name), free_port()
        people.fill(folder, Keyring([SECRET.encode()]), count)
        served = Served(folder)
        bodies = [
            json.dumps(
                {
                    "brand": "rt",
                    "channel": "email",
                    "purpose": "marketing",
                    "to": [people.address(secrets.randbelow(count))],
                }
            )
            for _ in range(20_000)
        ]
        with served.running() as key, process("bench.floor", str(floor_port)):
            wait_for(f"http://127.0.0.1:{floor_port}/")
            headers = {**JSON, "Authorization": f"Bearer {key}"}
            ours = {"path": "/v1/check", "headers": headers}
            bare = {"path": "/bare", "headers": headers}
            a, b = alternate(
                rounds,
                lambda: rate(load(served.port, 64, seconds, ours, bodies)),
                lambda: rate(load(floor_port, 64, seconds, bare, bodies)),
            )
    return figure("check_one", a / b, "ratio", 0.5, ">=", count)


def preference(number: int) -> str:
    return json.dumps(
        {
            "brand": "rt",
            "subject": {"email": f"r{number}-{secrets.token_hex(4)}@example.co.uk"},
            "changes": [{"channel": "email", "purpose": "marketing", "choice": "out"}],
            "source": "api",
        }
    )


def raw_commits(folder: Path, seconds: float) -> float:
    """One-row commits a second, synced in full, by the same library."""
    library: Any = sqlite.library()
    conn = library.connect(str(folder / f"raw{secrets.token_hex(4)}.db"), isolation_level=None)
    conn.execute("PRAGMA journal_mode=WAL")
    conn.execute("PRAGMA synchronous=FULL")
    conn.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
    until, count = time.perf_counter() + seconds, 0
    while time.perf_counter() < until:
        conn.execute("BEGIN IMMEDIATE")
        conn.execute("INSERT INTO t (body) VALUES (?)", (b"x" * 200,))
        conn.execute("COMMIT")
        count += 1
    conn.close()
    return count / seconds


def records(rounds: int, seconds: float) -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder, floor_port = Path(name), free_port()
        served = Served(folder)
        with served.running() as key, process("bench.floor", str(floor_port)):
            wait_for(f"http://127.0.0.1:{floor_port}/")
            headers = {**JSON, "Authorization": f"Bearer {key}"}
            ours = {"path": "/v1/preferences", "headers": headers}
            bare = {"path": "/bare", "headers": headers}

            def p50(port: int, shape: Any) -> float:
                found = load(port, 1, seconds, shape, [preference(n) for n in range(5_000)])
                return float(statistics.median(found["latencies"]))

            one, post, commits = alternate(
                rounds,
                lambda: p50(served.port, ours),
                lambda: p50(floor_port, bare),
                lambda: raw_commits(folder, seconds),
            )
            many, raw = alternate(
                rounds,
                lambda: rate(
                    load(served.port, 64, seconds, ours, [preference(n) for n in range(40_000)])
                ),
                lambda: raw_commits(folder, seconds),
            )
    return [
        figure("record_one", one / (post + 1 / commits), "ratio", 4, "<=", rounds),
        figure("record_many", many / raw, "ratio", 0.35, ">=", rounds),
    ]


def to_vendor(times: int) -> Figure:
    """From the 2xx of an opt-out to the vendor's call that writes it, idle."""
    with tempfile.TemporaryDirectory() as name, running(MailchimpTwin()) as (twin, url):
        addresses = [f"v{n}@example.co.uk" for n in range(times)]
        twin.new_audience("a1")
        for one in addresses:
            twin.new_member("a1", one)
        served = Served(Path(name), url)
        with served.running() as key, httpx.Client(base_url=served.url) as client:
            time.sleep(2)
            lags = sorted(_one_lag(client, key, twin, one) for one in addresses)
    return figure("to_vendor", lags[int(len(lags) * 0.95)], "s", 1.0, "<=", times)


def _one_lag(client: httpx.Client, key: str, twin: Any, address: str) -> float:
    before = len(twin.writes())
    body = json.loads(preference(0)) | {"subject": {"email": address}}
    answer = client.post("/v1/preferences", json=body, headers={"Authorization": f"Bearer {key}"})
    answer.raise_for_status()
    acknowledged = time.monotonic()
    while time.monotonic() < acknowledged + 10:
        written = twin.writes()[before:]
        if written:
            time.sleep(0.15)
            return max(0.0, float(written[0].began) - acknowledged)
        time.sleep(0.002)
    raise SystemExit("the vendor was not called within 10 s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100,000 people, short rounds")
    quick = parser.parse_args().quick
    count, rounds, seconds = (100_000, 3, 1.0) if quick else (1_000_000, 5, 3.0)
    console = Console()
    figures = []
    jobs: dict[str, Callable[[], list[Figure]]] = {
        "check_one": lambda: [check_one(count, rounds, seconds)],
        "record_one, record_many": lambda: records(rounds, seconds),
        "to_vendor": lambda: [to_vendor(20 if quick else 100)],
    }
    for name, job in jobs.items():
        with console.status(f"measuring {name}"):
            figures += job()
    table = Table("name", "value", "unit", "bar", "holds", "n")
    for row in figures:
        bar = f"{row['op']} {row['bar']}"
        holds = "yes" if row["holds"] else "[red]no[/red]"
        table.add_row(row["name"], str(row["value"]), row["unit"], bar, holds, str(row["n"]))
    console.print(table)
    machine = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "sqlite": sqlite.library().sqlite_version,
        "standard_sqlite": sqlite3.sqlite_version,
    }
    results = {"machine": machine, "figures": figures}
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
