"""The pages say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import connectors
from prefs.core.propagation import Facts, Key, Proves
from prefs.settings import TARGET_KEYS
from prefs.tasks import KINDS

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "systems.md").read_text()


def row(facts: Facts) -> str:
    limit = facts.limit
    pace = f"{limit.calls} in {limit.seconds:g} s" if limit.seconds else f"{limit.calls} at once"
    cells = [
        facts.system,
        " ".join(sorted(facts.channels)),
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
    assert row(connectors.load(system).facts) in PAGE


def section(system: str) -> str:
    return PAGE.split(f"\n## {system}\n", 1)[1].split("\n## ", 1)[0]


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
    said = section(system)
    for method, path in connectors.load(system).facts.writes:
        assert f"`{method} {path}`" in said


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
