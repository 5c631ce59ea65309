"""Where the demo plays: the service, its worker and the twins as child processes, and how the
story speaks to each of them. Nothing leaves the loopback interface."""

from __future__ import annotations

import json
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from prefs.demo.clinic import configuration
from prefs.demo.people import PEOPLE, Person
from prefs.demo.system import Vendor
from prefs.demo.systems import SYSTEMS

ROOT = Path(__file__).resolve().parent.parent.parent
STARTS_WITHIN = 20.0
FOLLOWS_WITHIN = 20.0


class StepFailed(Exception):
    """A step of the story did not hold."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def started(args: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child process that ends with the demo; its errors go to the log."""
    with log.open("ab") as output:
        child = subprocess.Popen(  # noqa: S603  # our own modules, no shell
            args, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=output
        )
        try:
            yield child
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()


def until(what: str, holds: Callable[[], Any], seconds: float = FOLLOWS_WITHIN) -> float:
    """Wait until something holds; returns the seconds it took. Raises StepFailed."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if holds():
            return time.monotonic() - began
        time.sleep(0.05)
    raise StepFailed(f"{what} did not happen within {seconds:.0f} s")


def expect(what: str, holds: bool) -> None:
    if not holds:
        raise StepFailed(what)


@dataclass
class Stage:
    """One run: where everything listens. Secrets and logs lie in `folder`."""

    console: Console
    folder: Path
    port: int
    env: dict[str, str]
    vendors: dict[str, Vendor] = field(default_factory=dict)
    key: str = ""
    _subjects: dict[str, str] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def say(self, text: str = "") -> None:
        self.console.print(text, highlight=False)

    # --- setting up ----------------------------------------------------------------------------

    def start(self) -> None:
        """Twins, people in them, configuration, service. Raises StepFailed."""
        urls = self._start_twins()
        for system in SYSTEMS.values():
            kept = self._secrets_of(system.name)
            hook = f"{self.url}/webhooks/{system.name}/rt/{system.name}"
            hook += f"?key={kept['hook']}" if "hook" in kept else ""
            self.vendors[system.name] = Vendor(system.name, urls[system.name], hook, kept)
        self._configure()
        self._furnish()
        scopes = "check,write,staff,rights,admin"
        self.key = self.prefs("api-keys", "add", "--brand", "rt", "--scopes", scopes)["key"]
        serve = [sys.executable, "-m", "prefs.cli", "serve"]
        self._stack.enter_context(started(serve, self.env, self.folder / "serve.log"))
        until("the service's start", self._ready, STARTS_WITHIN)
        for name, vendor in self.vendors.items():
            if SYSTEMS[name].handshake:
                vendor.act(SYSTEMS[name].handshake)

    def end(self) -> None:
        """Every child ends, the youngest first."""
        self._stack.close()

    def _start_twins(self) -> dict[str, str]:
        args = [sys.executable, "-m", "tests.twins", *(f"{name}=0" for name in SYSTEMS)]
        twins = self._stack.enter_context(started(args, self.env, self.folder / "twins.log"))
        assert twins.stdout is not None  # noqa: S101  # asked for above
        line = twins.stdout.readline()
        expect("the twins start", line.startswith(b"{"))
        urls: dict[str, str] = json.loads(line)
        return urls

    def _secrets_of(self, name: str) -> dict[str, str]:
        """Made up, in files, so that every command works on the configuration as it stands."""
        folder = self.folder / "secrets"
        folder.mkdir(mode=0o700, exist_ok=True)
        made = {
            key: secrets.token_hex(16) + ending for key, ending in SYSTEMS[name].secrets.items()
        }
        for key, text in made.items():
            (folder / f"{name}_{key}").write_text(text)
        return made

    def _configure(self) -> None:
        (self.folder / "secrets" / "store").write_text(secrets.token_hex(32))
        urls = {name: vendor.url for name, vendor in self.vendors.items()}
        file = self.folder / "prefs.toml"
        file.write_text(configuration(self.port, self.folder, urls))
        self.env["PREFS_CONFIG"] = str(file)

    def _furnish(self) -> None:
        for name, vendor in self.vendors.items():
            SYSTEMS[name].furnish(vendor)
            for person in PEOPLE:
                if name not in person.away:
                    SYSTEMS[name].add(vendor, person)

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=1).status_code == 200
        except httpx.HTTPError:
            return False

    # --- speaking to the service ---------------------------------------------------------------

    def prefs(self, *args: str) -> Any:
        """Run a command of ours; its JSON answer. Raises StepFailed."""
        done = subprocess.run(  # noqa: S603  # our own module, no shell
            [sys.executable, "-m", "prefs.cli", *args, "--json"],
            env=self.env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 1):
            raise StepFailed(f"prefs {args[0]} failed: {done.stderr.strip()[-400:]}")
        return json.loads(done.stdout)

    def begin(self, *args: str) -> None:
        """Run a command of ours beside the story; it ends by itself, or with the demo."""
        command = [sys.executable, "-m", "prefs.cli", *args]
        self._stack.enter_context(started(command, self.env, self.folder / "commands.log"))

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = httpx.request(
            method,
            self.url + path,
            json=body,
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=10,
        )
        expect(f"{method} {path} answered {answer.status_code}", answer.status_code == 200)
        return answer.json()

    def tasks_of_staff(self) -> str:
        """What staff have to do at Timely, as the CSV file that they take along."""
        answer = httpx.get(
            f"{self.url}/v1/tasks?state=open&kind=timely_change",
            headers={"Authorization": f"Bearer {self.key}", "Accept": "text/csv"},
            timeout=10,
        )
        expect(f"the list of tasks answered {answer.status_code}", answer.status_code == 200)
        return answer.text

    def links(self, person: Person) -> Any:
        return self.ask("POST", "/v1/links", {"brand": "rt", "email": person.email})

    def reason(self, to: str, channel: str, purpose: str = "marketing") -> str:
        """What `check` answers."""
        body = {"brand": "rt", "channel": channel, "purpose": purpose, "to": [to]}
        found: str = self.ask("POST", "/v1/check", body)["results"][0]["reason"]
        return found

    def outcomes(self, person: Person) -> dict[tuple[str, str], tuple[str, str]]:
        """(target, channel) -> (wish, outcome)."""
        items = self.ask("GET", f"/v1/subjects/{self._subject(person)}/targets")["items"]
        return {
            (one["target"], one["channel"]): (one["wish"] or "", one["outcome"] or "")
            for one in items
        }

    def _subject(self, person: Person) -> str:
        if person.ref not in self._subjects:
            body = {"brand": "rt", "email": person.email}
            items = self.ask("POST", "/v1/subjects/search", body)["items"]
            expect(f"{person.name} is one person, not {len(items)}", len(items) == 1)
            self._subjects[person.ref] = items[0]["subject_id"]
        return self._subjects[person.ref]
