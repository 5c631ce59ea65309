"""What the demo must know of a system: how a clinic has it, and how its twin's state is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from prefs.demo.people import Person

CHANNELS = ("email", "sms", "phone", "post", "messenger")

State = Any
"""What a twin's `GET /_twin/state` shows."""


class NotDone(Exception):
    """A twin did not do what it was asked for."""


@dataclass(frozen=True)
class Vendor:
    """A running twin. `hook` is where its webhooks go, `secrets` are those of the configuration."""

    name: str
    url: str
    hook: str
    secrets: Mapping[str, str]

    def act(self, act: str, **said: Any) -> Any:
        """What people and staff do inside the vendor. Raises NotDone."""
        return self.post(f"acts/{act}", said)["result"]

    def configure(self, **settings: Any) -> None:
        self.post("configure", settings)

    def post(self, path: str, body: Any) -> Any:
        answer = httpx.post(f"{self.url}/_twin/{path}", json=body, timeout=10)
        if answer.is_error:
            raise NotDone(f"the {self.name} twin refused {path}: {answer.text[:200]}")
        return answer.json()

    def state(self) -> State:
        return httpx.get(f"{self.url}/_twin/state", timeout=10).json()

    def calls(self) -> list[dict[str, Any]]:
        """Every call that the vendor got."""
        found: list[dict[str, Any]] = httpx.get(f"{self.url}/_twin/calls", timeout=10).json()
        return found


@dataclass(frozen=True)
class System:
    """One vendor as a clinic has it.

    section   its keys in the configuration, beside those that all targets share
    secrets   name -> what the made-up text ends with; `hook` is the key of unsigned webhooks
    furnish   lists, types, senders: what is there before anybody comes
    add       one person, with marketing and reminders on
    ends      channel -> the outcome that an opt-out truly has there
    off       whether the twin itself holds this person's marketing on this channel as off
    kept      whether what is no marketing is as it was: reminders, service lists, other labels
    try_it    what a person may do on the twin's page
    """

    name: str
    section: str
    secrets: Mapping[str, str]
    furnish: Callable[[Vendor], None]
    add: Callable[[Vendor, Person], None]
    ends: Mapping[str, str]
    off: Callable[[State, Person, str], bool]
    kept: Callable[[State, Person], bool]
    try_it: str
    limit: str = ""
    """Other than the vendor's smallest plan, where the twin is furnished for a larger one."""
    handshake: str = ""
    """What staff do at the vendor once the service is up, before it sends any webhook."""

    def configuration(self, url: str) -> str:
        lines = [
            f"[brands.rt.targets.{self.name}]",
            f'system = "{self.name}"',
            'mode = "live"',
            f'base_url = "{url}"',
        ]
        if self.limit:
            lines.append(f'limit = "{self.limit}"')
        if "hook" in self.secrets:
            lines.append(f'webhook_key = "file:secrets/{self.name}_hook"')
        return "\n".join(lines) + self.section
