"""What all tests share: with `hold_to_specs`, every call that a twin got is held against its
vendor's interface; at the end of a run it is told what the connectors' contract covered."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from argon2 import PasswordHasher
from hypothesis import settings

from connectors import http
from prefs.store import staff
from prefs.web import server
from tests import empty
from tests.connectors import specs
from tests.connectors.summary import Summary
from tests.twins.kit import Call, Twin

OPEN_ONE = ("served", "listening", "Served", "Clinic", "Installation", "empty", "recorded")
"""Names that a module of tests brings in where it opens a database."""
CHOSEN = os.environ.get("PREFS_TEST_ENGINES", "").split()

# How long a case takes says nothing on a machine that others share.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Summary())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take a minute begin first: one that begins last is waited for on one core."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What opens a database runs on each engine, unless it says on which."""
    if not any(name in vars(metafunc.module) for name in OPEN_ONE):
        return
    mark = metafunc.definition.get_closest_marker
    alone = [one for one in empty.ENGINES if mark(one)]
    told = mark("told_on")
    usual = told.args if told and os.environ.get("PREFS_FAULTS") != "full" else empty.ENGINES
    engines = alone or CHOSEN or usual
    metafunc.parametrize("engine", engines, indirect=True, scope="module")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How much was shown on which engine."""
    passed = Counter(_engine_of(one.nodeid) for one in terminalreporter.stats.get("passed", ()))
    told = (f"{count} {where}" for where, count in sorted(passed.items()))
    terminalreporter.section("engines")
    terminalreporter.write_line(f"passed: {', '.join(told)}")


def _engine_of(nodeid: str) -> str:
    parameters = nodeid.partition("[")[2].rstrip("]").split("-")
    found = next((one for one in empty.ENGINES if one in parameters), None)
    return f"on {found}" if found else "without a database"


@pytest.fixture(scope="module", autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """The engine of the databases that a test opens: set before any other fixture."""
    empty.engine = getattr(request, "param", empty.SQLITE)
    yield empty.engine
    empty.engine = empty.SQLITE


@pytest.fixture(autouse=True)
def recycled() -> Iterator[None]:
    before = empty.known()
    yield
    empty.give_back(before)


@pytest.fixture(scope="session", autouse=True)
def cheap_passwords() -> Iterator[None]:
    """Argon2id as it is kept takes a sixth of a second of both cores, at every sign-in. That it is
    kept so is shown by tests/web/test_console.py."""
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(staff, "_hasher", cheap)
        patched.setattr(staff, "_NOBODY", cheap.hash("nobody"))
        yield


@pytest.fixture(scope="session", autouse=True)
def calm_once() -> Iterator[None]:
    """Once a process: a walk through every live object at each start of the service took a
    twentieth of the tests' time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("prefs.app.calm_collector", cache(server.calm_collector))
        yield


@pytest.fixture(scope="session", autouse=True)
def hasty_retries() -> Iterator[None]:
    """Half of the time of a connector's tests went by between its tries."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(http, "BACKOFF", 0.005)
        yield


@pytest.fixture
def hold_to_specs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, Call]]]:
    """Notes the calls of every twin in the test; afterwards each must be one that the vendor
    knows. Calls by another client than ours carry the header X-Test."""
    noted: list[tuple[str, Call]] = []
    note = Twin._note

    def noting(self: Twin[Any], scope: Any, body: bytes) -> Call:
        call = note(self, scope, body)
        noted.append((self.name, call))
        return call

    monkeypatch.setattr(Twin, "_note", noting)
    yield noted
    if noted:
        specs.require()
    wrong = [
        found
        for system, call in noted
        if "x-test" not in call.headers
        for found in specs.findings(system, [call])
    ]
    assert not wrong, "\n".join(sorted(set(wrong)))
