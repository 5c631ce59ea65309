"""The pages say what the code does."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import connectors
from connectors.budget import TokenBudget
from prefs.core.propagation import Connector, Facts, Key, Proves, Slot, Target
from prefs.core.words import Channel
from prefs.settings import TARGET_KEYS
from prefs.tasks import KINDS

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "systems.md").read_text()
OTHERS = {name: name for name in ("sms", "phone", "post", "messenger")}
FULL: dict[str, dict[str, Any]] = {
    "activecampaign": {"marketing_lists": {"1": ["news"]}, "sms_lists": ["5"]},
    "google": {},
    "hubspot": {"token": "t", "types": {"1": "*"}, "properties": OTHERS},
    "keap": {"token": "t"},
    "mailchimp": {"api_key": "k-us1", "audiences": {"a1": ["news"]}},
    "messenger": {"page": "1", "token": "t", "app_secret": "s", "label": "No marketing"},
    "pabau": {"api_key": "k", "fields": {"messenger": "Marketing messenger"}},
    "pipedrive": {"token": "t", "campaigns": True},
    "timely": {},
    "twilio": {"consents": True},
    "xero": {},
}
"""The options with which a target of each system holds all that it can."""


def section(system: str) -> str:
    return PAGE.split(f"\n## {system}\n", 1)[1].split("\n## ", 1)[0]


def slots(system: str) -> tuple[Slot, ...]:
    """Of a target that is configured in full."""
    senders = {"marketing": ("MG1",), "reminders": ("MG2",)}
    base = "http://127.0.0.1:9"
    target = Target(system, "rt", system, True, base, FULL[system], ("news",), senders=senders)

    async def made() -> tuple[Slot, ...]:
        kind = connectors.load(system)
        connector: Connector = kind(
            target, TokenBudget(kind.facts.limit), lambda: datetime.now(UTC)
        )
        try:
            return connector.slots
        finally:
            await connector.close()

    return asyncio.run(made())


def acted_on(system: str) -> str:
    """Channels on which the vendor acts, and those that it only holds a mark of."""
    enforced = {slot.channel for slot in slots(system) if slot.enforced}
    recorded = {slot.channel for slot in slots(system)} - enforced
    return " / ".join(" ".join(sorted(some)) or "none" for some in (enforced, recorded))


def row(facts: Facts) -> str:
    limit = facts.limit
    pace = f"{limit.calls} in {limit.seconds:g} s" if limit.seconds else f"{limit.calls} at once"
    cells = [
        facts.system,
        " ".join(sorted(facts.channels)),
        acted_on(facts.system),
        " ".join(facts.keys_on),
        "yes" if facts.splits_topics else "no",
        " ".join(sorted(facts.on_by_default)) or "no",
        facts.proves.value,
        facts.readback.value,
        pace,
        f"{facts.call_alive:g} s",
        facts.source_url,
    ]
    return f"| {' | '.join(cells)} |"


def key_row(name: str, key: Key) -> str:
    needed = "yes" if key.required else ""
    return f"| `{name}` | {key.kind.replace('_', ' ')} | {needed} | {key.help.rstrip('.')} |"


@pytest.mark.parametrize("system", sorted(connectors.SYSTEMS))
def test_the_table_of_systems_is_true(system: str) -> None:
    assert row(connectors.load(system).facts) in PAGE.splitlines()


@pytest.mark.parametrize("system", sorted(connectors.SYSTEMS))
def test_a_full_configuration_holds_every_channel_that_is_declared(system: str) -> None:
    held: set[Channel] = {slot.channel for slot in slots(system)}
    assert held == connectors.load(system).facts.channels


@pytest.mark.parametrize("system", sorted(connectors.SYSTEMS))
def test_what_the_vendor_does_not_confirm_is_said(system: str) -> None:
    """A list, or the word that there is nothing."""
    told = re.findall(r"^Unconfirmed by the vendor: \S.*$", section(system), re.MULTILINE)
    nothing = "Nothing here is unconfirmed by the vendor." in section(system)
    assert len(told) + nothing == 1


def test_the_page_has_a_section_for_each_system_and_no_other() -> None:
    named = re.findall(r"^## (\w+)$", PAGE, re.MULTILINE)
    assert named == sorted(connectors.SYSTEMS)
    table = PAGE.partition("| system |")[2].partition("\n\n")[0].splitlines()[2:]
    assert [line.split("|")[1].strip() for line in table] == named


@pytest.mark.parametrize("system", sorted(connectors.SYSTEMS))
def test_every_system_says_what_it_shows_of_an_opt_in(system: str) -> None:
    (said,) = re.findall(r"^Proof of an opt-in: (.+)$", section(system), re.MULTILINE)
    assert said.startswith("none.") == (connectors.load(system).facts.proves is Proves.NONE)


@pytest.mark.parametrize("system", sorted(connectors.SYSTEMS))
def test_every_system_names_those_where_its_sync_takes_people_out(system: str) -> None:
    told = re.findall(r"unsubscribes them at (\w+), which is not their wish", section(system))
    assert {name.lower() for name in told} == connectors.load(system).facts.unsubscribes_at


@pytest.mark.parametrize("system", sorted(connectors.SYSTEMS))
def test_every_key_of_a_system_is_described(system: str) -> None:
    described = set(re.findall(r"^\| `[^|]+\|.*\|$", section(system), re.MULTILINE))
    keys = connectors.load(system).KEYS
    assert described == {key_row(name, key) for name, key in keys.items()}


@pytest.mark.parametrize("system", sorted(connectors.SYSTEMS))
def test_every_write_that_a_connector_may_make_is_named(system: str) -> None:
    named = re.findall(r"^- `([A-Z]+) (.+)`$", section(system), re.MULTILINE)
    assert named == list(connectors.load(system).facts.writes)


@pytest.mark.parametrize("system", sorted(connectors.SYSTEMS))
def test_how_often_webhooks_are_looked_at_is_told(system: str) -> None:
    """For every system, also where there is nothing to look at."""
    words = {3600.0: "hourly", 86400.0: "daily", None: "never"}
    every = words[getattr(connectors.load(system), "tend_every", None)]
    assert f"\n| {system} | {every} |" in PAGE


@pytest.mark.parametrize("key", sorted(TARGET_KEYS))
def test_the_keys_that_all_targets_share_are_described(key: str) -> None:
    assert f"| `{key}` |" in PAGE


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_kind_of_task_is_described(name: str) -> None:
    kind = KINDS[name]
    row = f"| `{name}` | {kind.what} | {' '.join(kind.states) or 'by itself'} |"
    assert row in (ROOT / "docs" / "tasks.md").read_text()


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
