"""What every figure is made with: rows of the table, processes, load, and both sides in turn."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from prefs.core.keys import Keyring
from prefs.store.access import add_key
from prefs.store.database import make_engine

SECRET = "the secret of a bench, long enough"
ENVIRON = {
    "BENCH_SECRET": SECRET,
    "BENCH_MAILCHIMP": "twin-key-us6",
    "BENCH_HUBSPOT": "twin-hubspot-token",
}
KEYS = Keyring([SECRET.encode()])
JSON = {"Content-Type": "application/json"}
COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">=": lambda value, bar: value >= bar,
    "<=": lambda value, bar: value <= bar,
}


class Figure(NamedTuple):
    """One row. Without a bar it is only reported."""

    name: str
    value: float
    unit: str
    bar: float | None
    op: str
    holds: bool
    n: int


def figure(
    name: str, value: float, unit: str, n: int, op: str = "", bar: float | None = None
) -> Figure:
    """`op` and `bar` as contract: `holds` is told of the value as it is shown."""
    shown = round(value, 3 if abs(value) < 100 else 1)
    return Figure(name, shown, unit, bar, op, bar is None or COMPARE[op](shown, bar), n)


@dataclass(frozen=True)
class Plan:
    """How much of everything is measured."""

    people: int
    """Of the large installations; also rows of a list and of an import."""
    rounds: int
    """Of ours and floor, in turn."""
    seconds: float
    """Of one round."""
    once: int
    """Single acts of which p95 or p99 is told."""
    waiting: int
    """Offs on their way to a vendor."""

    @property
    def few(self) -> int:
        """Of the small installations: 10,000 beside a million."""
        return max(self.people // 100, 300)


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def alternate(rounds: int, *sides: Callable[[], float]) -> list[float]:
    """Medians of each side, run in turn."""
    found: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for values, side in zip(found, sides, strict=True):
            values.append(side())
    return [median(values) for values in found]


# --- processes -----------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def start(*args: str, env: Mapping[str, str] | None = None, **how: Any) -> subprocess.Popen[bytes]:
    """Of this Python."""
    given = {**os.environ, **ENVIRON, **(env or {})}
    return subprocess.Popen([sys.executable, "-m", *args], env=given, **how)


def end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path | None = None) -> None:
    for _ in range(600):
        with suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5).status_code < 500:
                return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise SystemExit(f"{url} did not come up\n{log.read_text()[-2000:] if log else ''}")


def told(*args: str, given: str = "") -> Any:
    """What a module that is run as a process says at its end, as JSON."""
    with start(*args, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        out, _ = process.communicate(given.encode())
    if process.returncode:
        raise SystemExit(f"{args[0]} failed")
    return json.loads(out)


@contextmanager
def floor_server(size: int) -> Iterator[int]:
    """The port of a bare server that answers so many bytes."""
    port = free_port()
    process = start("bench.floor", str(port), str(size))
    try:
        wait_for(f"http://127.0.0.1:{port}/", process)
        yield port
    finally:
        end(process)


# --- what the system tells of a process ----------------------------------------------------------


def status_kib(pid: int, name: str) -> int:
    """VmRSS or VmHWM: https://man7.org/linux/man-pages/man5/proc_pid_status.5.html"""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise SystemExit(f"/proc tells no {name}")


@contextmanager
def growth(pid: int) -> Iterator[list[float]]:
    """MiB by which the process grew at its highest."""
    found: list[float] = []
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM begins anew
    before = status_kib(pid, "VmRSS")
    yield found
    found.append(max(0, status_kib(pid, "VmHWM") - before) / 1024)


def cpu_seconds(pid: int) -> float:
    return sum(map(int, _stat(pid)[11:13])) / os.sysconf("SC_CLK_TCK")


def family_seconds(pid: int) -> float:
    """Of a process and its children, those that ended too."""
    ended = sum(map(int, _stat(pid)[13:15])) / os.sysconf("SC_CLK_TCK")
    found = (int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit())
    return ended + cpu_seconds(pid) + sum(cpu_seconds(one) for one in found if parent(one) == pid)


def parent(pid: int) -> int | None:
    """None where it has ended."""
    try:
        return int(_stat(pid)[1])
    except OSError:
        return None


def _stat(pid: int) -> list[str]:
    """https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html from the third field on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


# --- the service ---------------------------------------------------------------------------------

CONFIG = """
listen = "127.0.0.1:{port}"
public_url = "http://127.0.0.1:{port}"
database = "{database}"
secret_keys = ["env:BENCH_SECRET"]
drain = "1ms"
[controllers.rt]
name = "Bench Ltd"
address = "1 Test Street"
complaints_email = "complaints@example.co.uk"
[brands.rt]
controller = "rt"
name = "Bench"
privacy_notice = "https://example.co.uk/privacy"
"""


class Running(NamedTuple):
    url: str
    port: int
    pid: int
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {**JSON, "Authorization": f"Bearer {self.key}"}


class Installation:
    """The service on a database, with a configuration in a folder of its own."""

    def __init__(self, folder: Path, database: str, targets: str = "") -> None:
        self.config = folder / f"prefs-{free_port()}.toml"
        self.log = folder / "log"
        self._database = database
        self.config.write_text(CONFIG.format(port=free_port(), database=database) + targets)

    def start(self, *args: str, **how: Any) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            how = {"stdout": log, "stderr": log, **how}
            return start("prefs.cli", *args, env={"PREFS_CONFIG": str(self.config)}, **how)

    def _key(self) -> str:
        engine = make_engine(self._database)
        try:
            engine.open()
            scopes = ["check", "write", "staff"]
            return engine.transaction(lambda conn: add_key(conn, "rt", scopes, time.time()))[1]
        finally:
            engine.close()

    @contextmanager
    def serving(self, *options: str) -> Iterator[Running]:
        """With a key; on a port of its own, so that several may serve one database."""
        key = self._key()
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        process = self.start("serve", "--listen", f"127.0.0.1:{port}", *options)
        try:
            wait_for(f"{url}/readyz", process, self.log)
            yield Running(url, port, process.pid, key)
        finally:
            end(process)

    @contextmanager
    def working(self, count: int = 1) -> Iterator[list[int]]:
        """Workers alone."""
        processes = [self.start("work") for _ in range(count)]
        try:
            yield [one.pid for one in processes]
        finally:
            for one in processes:
                end(one)


# --- load ----------------------------------------------------------------------------------------


def load(
    port: int,
    connections: int,
    seconds: float,
    shape: Mapping[str, Any],
    bodies: Sequence[str],
    per_second: float = 0.0,
) -> Any:
    """What bench.load tells; SystemExit where a request fails."""
    args = [str(port), str(connections), str(seconds), str(per_second)]
    found = told("bench.load", *args, given="\n".join([json.dumps(shape), *bodies]))
    if found["errors"]:
        raise SystemExit(f"{found['errors']} of {found['requests']} requests failed")
    return found


def rate(found: Any) -> float:
    return float(found["requests"] / found["seconds"])
