"""The real service as processes of its own, to be killed and frozen, and what tests do beside it:
open it, make links and keys."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path

import httpx
from sqlalchemy import func, select

from prefs.app import Runtime, load_settings, open_runtime
from prefs.core import identity
from prefs.core.decision import NOBODY, Ask, decide
from prefs.core.words import Channel, Purpose, Scope
from prefs.links import make_links
from prefs.store import access, ledger, permissions
from prefs.store.schema import ledger as rows
from tests import empty
from tests.served import BASE, eventually
from tests.twins.mailchimp import MailchimpTwin

FULL = os.environ.get("PREFS_FAULTS") == "full"
SEED = 20260302
EMAIL = Scope(Channel.EMAIL, Purpose.MARKETING)
MAILCHIMP = """
[brands.rt.targets.mailchimp]
system = "mailchimp"
mode = "live"
base_url = "{url}"
api_key = "env:MAILCHIMP"
audiences = {{ a1 = ["treatments", "products", "offers", "competitions", "news"] }}
"""
HUBSPOT = """
[brands.rt.targets.hubspot]
system = "hubspot"
mode = "live"
base_url = "{url}"
token = "env:HUBSPOT"
types = {{ 101 = "*" }}
"""
CONSENT = {"basis": "consent", "evidence": {"wording": "Yes"}}


def count(full: int) -> int:
    """All of it, or a twentieth."""
    return full if FULL else max(1, full // 20)


def dice(name: str) -> random.Random:
    return random.Random(f"{SEED} {name}")


def address(number: int) -> str:
    return f"p{number}@example.com"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def client_of_threads(seconds: float) -> httpx.Client:
    """With limits its pool closes what it takes for a spare connection although another thread is
    about to use it: an answer that came is then never read
    (https://github.com/encode/httpcore/issues/1110)."""
    none_is_spare = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.Client(timeout=seconds, limits=none_is_spare)


def say(figure: str) -> None:
    """A figure of the run, for whoever reads the output (-s)."""
    print(f"\n[faults] {figure}", flush=True)  # noqa: T201  # the run's own report


class Installation:
    """A folder with its configuration, on a port of its own."""

    def __init__(
        self, folder: Path, extra: str, environ: Mapping[str, str], database: str | None = None
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.database = database or empty.database(folder)
        text = BASE.format(folder=folder, public=self.url, database=self.database)
        text = text.replace('listen = "127.0.0.1:0"', f'listen = "127.0.0.1:{self.port}"')
        text = text.replace('lease = "5s"', 'lease = "2s"\ncall_alive = "2s"')
        self.config = folder / "prefs.toml"
        self.config.write_text(text + extra)
        self.log = folder / "log"
        self.environ = {
            **os.environ,
            **environ,
            "PREFS_TEST_KEY": "a secret of thirty-two bytes or more",
            "PREFS_CONFIG": str(self.config),
        }

    def beside(self) -> Installation:
        """The same installation on another port, for another process of the API."""
        return self.at("127.0.0.1")

    def at(self, host: str) -> Installation:
        """The same installation at this address, on a port that is free here."""
        other = copy(self)
        other.port = free_port()
        other.url = f"http://{host}:{other.port}"
        at = {"PREFS__LISTEN": f"{host}:{other.port}", "PREFS__ALLOWED_HOSTS": f'["{host}"]'}
        other.environ = {**self.environ, **at}
        return other

    def by(self, database: str) -> Installation:
        """The same installation, whose database is reached another way."""
        other = copy(self)
        other.environ = {**self.environ, "PREFS__DATABASE": database}
        return other

    @contextmanager
    def opened(self) -> Iterator[Runtime]:
        """Its runtime here, beside the processes."""
        runtime = open_runtime(load_settings(self.config, self.environ))
        try:
            yield runtime
        finally:
            runtime.close()

    def say(self, key: str, email: str, choice: str) -> None:
        """A wish about e-mail marketing, by a program with this key."""
        body = {
            "brand": "rt",
            "subject": {"email": email},
            "changes": [{"channel": "email", "purpose": "marketing", "choice": choice}],
            "source": "api",
            **(CONSENT if choice == "in" else {}),
        }
        headers = {"Authorization": f"Bearer {key}"}
        answer = httpx.post(f"{self.url}/v1/preferences", json=body, headers=headers, timeout=60)
        answer.raise_for_status()

    def key(self, *scopes: str) -> str:
        with self.opened() as runtime:
            _, key = runtime.database.write_now(
                lambda conn: access.add_key(conn, "rt", list(scopes), time.time())
            )
            return key

    def links(self, people: int) -> list[str]:
        """What unsubscribes each of so many."""
        with self.opened() as runtime:
            service, marketing = runtime.service, Purpose.MARKETING
            of = [identity.email(address(number)) for number in range(people)]
            return runtime.database.write_now(
                lambda conn: [
                    make_links(conn, service, "rt", one, None, marketing, None).unsubscribe
                    for one in of
                ]
            )

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "prefs.cli", *command],
                env=self.environ,
                stdout=log,
                stderr=log,
            )

    def until_ready(self, process: subprocess.Popen[bytes]) -> None:
        def ready() -> bool:
            assert process.poll() is None, self.log.read_text()[-2000:]
            with suppress(httpx.HTTPError):
                return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
            return False

        eventually(ready)

    @contextmanager
    def serving(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        process = self.start("serve", *options)
        try:
            self.until_ready(process)
            yield process
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL for one that does not listen (or is frozen)."""
    if process.poll() is not None:
        return
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)
        process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


def end_all(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for one in processes:
        end(one)


def off(twin: MailchimpTwin, people: int) -> int:
    """How many have left."""
    return sum(twin.member("a1", address(n)).status == "unsubscribed" for n in range(people))


def once_each(made: Installation) -> int:
    """How many people have one applied row, and only one."""
    wanted = (
        select(rows.c.subject_id)
        .where(rows.c.result == "applied")
        .group_by(rows.c.subject_id)
        .having(func.count() == 1)
    )
    with made.opened() as runtime:
        return len(runtime.database.read_now(lambda conn: conn.execute(wanted).all()))


def check(made: Installation, people: Sequence[int]) -> None:
    """Everybody is denied; every state is the fold of its rows, every permission row what the
    states add up to, and the chain holds."""
    with made.opened() as runtime:
        hashes = [runtime.keys.hash(identity.email(address(number))) for number in people]
        read = runtime.database.read_now
        held = read(lambda conn: permissions.read(conn, "rt", hashes))
        allowed = [h for h in hashes if decide(Ask(EMAIL), held.get(h, NOBODY), 0.0).allowed]
        assert allowed == []
        while runtime.database.write_now(ledger.seal):
            pass
        assert list(_findings(runtime)) == []


def _findings(runtime: Runtime) -> Iterator[ledger.Finding]:
    read = runtime.database.read_now
    found = read(lambda conn: list(ledger.verify(conn, runtime.keys)))
    yield from (one for one in found if isinstance(one, ledger.Finding))
    yield from read(lambda conn: list(runtime.intake.verify(conn)))
