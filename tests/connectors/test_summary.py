"""The table at the end of a run: it tells what ran, and only where the contract was collected."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from connectors import SYSTEMS, load
from tests.connectors.contract import EXEMPT, ConnectorContract
from tests.connectors.summary import MARK, Summary, lines

ROOT = Path(__file__).resolve().parents[2]


def quiet() -> dict[str, str]:
    """The environment without a word of the run that we are in."""
    return {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}


def run(*args: str) -> str:
    """What a run of pytest of its own prints."""
    command = [sys.executable, "-m", "pytest", *args]
    done = subprocess.run(command, cwd=ROOT, env=quiet(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_tells_its_cases_and_why_some_did_not_run(workers: str) -> None:
    chosen = "Timely and (described or marketing or revoked or words)"
    told = run("tests/connectors/test_timely.py", "-n", workers, "-k", chosen)
    section = told.partition(" connector contract ")[2].splitlines()
    assert section[1].split() == ["timely", "4", "cases", "2", "ran"]
    reason = "Timely has no interface to call; staff carry the changes"
    assert section[2].startswith(f"    exempt: {reason} (a revoked key")


def test_a_run_of_something_else_tells_nothing() -> None:
    assert "connector contract" not in run("tests/core/test_keys.py", "-n", "0")


def report(
    name: str, when: str, outcome: str = "passed", reason: str = "", system: str = "acme"
) -> Any:
    longrepr = ("contract.py", 1, f"Skipped: {reason}") if reason else None
    return SimpleNamespace(
        nodeid=f"tests/test_{system}.py::TestIt::{name}",
        when=when,
        user_properties=[(MARK, system)] if system else [],
        longrepr=longrepr,
        skipped=outcome == "skipped",
        failed=outcome == "failed",
    )


def told(*reports: Any) -> list[str]:
    summary = Summary()
    for one in reports:
        summary.pytest_runtest_logreport(one)
    return list(lines(summary.cases))


def test_it_counts_what_the_reports_say() -> None:
    found = told(
        report("test_on", "setup"),
        report("test_on", "call"),
        report("test_off[1]", "call", "failed"),
        report("test_off[2]", "setup", "failed"),
        report("test_word", "setup", "skipped", f"{EXEMPT}no word"),
        report("test_bulk[1]", "call", "skipped", f"{EXEMPT}no bulk call"),
        report("test_bulk[2]", "call", "skipped", f"{EXEMPT}no bulk call"),
        report("test_other", "call", system=""),
        report("test_on", "call", system="zeta"),
    )
    assert [line.split() for line in found if not line.startswith(" ")] == [
        ["acme", "6", "cases", "2", "ran", "2", "failed"],
        ["zeta", "1", "cases", "1", "ran"],
    ]
    assert found[1:3] == ["    exempt: no bulk call (bulk)", "    exempt: no word (word)"]


def test_a_case_that_was_not_held_to_the_interface_says_so() -> None:
    """It ran, and the check after it was skipped."""
    absent = report("test_on", "teardown", "skipped", "the interface files are not here")
    assert told(report("test_on", "call"), absent) == [
        "acme               1 cases    1 ran",
        "    skipped: the interface files are not here (on)",
    ]


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_every_system_has_its_suite(system: str) -> None:
    module = import_module(f"tests.connectors.test_{system}")
    suites = [
        kind
        for name, kind in vars(module).items()
        if name.startswith("Test") and issubclass(kind, ConnectorContract)
    ]
    assert {kind.system for kind in suites} == {system}
    assert ("calls" in suites[0].exempt) is load(system).facts.assisted
