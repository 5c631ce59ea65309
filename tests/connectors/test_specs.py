"""The check of requests against the vendors' interfaces: that it sees faults, for every system."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from connectors import SYSTEMS
from tests.connectors import specs
from tests.connectors.test_summary import ROOT, quiet
from tests.twins.kit import Call

GROUP = "/api.xro/2.0/ContactGroups/00000000-0000-0000-0000-000000000000"


def call(method: str = "GET", target: str = "/surprise", body: bytes = b"", **headers: str) -> Call:
    path, _, query = target.partition("?")
    pairs = tuple((name, value) for name, _, value in (p.partition("=") for p in query.split("&")))
    at, named = datetime.now(UTC), {name.replace("_", "-"): text for name, text in headers.items()}
    return Call(1, at, time.monotonic(), method, path, target, pairs if query else (), named, body)


def test_every_system_has_an_interface_or_a_reason() -> None:
    assert set(specs.FILES) | set(specs.NONE) == set(SYSTEMS)
    assert set(specs.FILES).isdisjoint(specs.NONE)


@pytest.mark.parametrize("system", sorted(specs.FILES))
def test_a_call_that_the_vendor_does_not_have_is_found(system: str) -> None:
    specs.require()
    assert specs.findings(system, [call()]) == ["GET /surprise: the vendor has no such call"]


def test_a_system_without_an_interface_may_make_no_call() -> None:
    (found,) = specs.findings("timely", [call()])
    assert "no call may be made" in found


@pytest.mark.parametrize(
    ("made", "fault"),
    [
        (call(target=GROUP), "header xero-tenant-id is missing"),
        (call("DELETE", GROUP, xero_tenant_id="t"), "the vendor has no such call"),
        (call("DELETE", f"{GROUP}/Contacts", xero_tenant_id="t"), "the vendor has no such call"),
        (
            call(target="/api.xro/2.0/Contacts?page=one", xero_tenant_id="t"),
            "page is no whole number",
        ),
        (
            call(target="/api.xro/2.0/Contacts?includeArchived=1", xero_tenant_id="t"),
            "includeArchived is neither true nor false",
        ),
        (
            call("PUT", f"{GROUP}/Contacts", b'{"Contacts":[{"Id":"1"}]}', xero_tenant_id="t"),
            "'Id' was unexpected",
        ),
        (
            call("PUT", f"{GROUP}/Contacts", b'{"Contacts":{}}', xero_tenant_id="t"),
            "is not of type 'array'",
        ),
    ],
)
def test_what_is_wrong_is_told(made: Call, fault: str) -> None:
    """The call that empties a whole group is left out of the interface on purpose."""
    specs.require()
    (found,) = specs.findings("xero", [made])
    assert fault in found


# --- without the files ----------------------------------------------------------------------------


def test_without_the_files_it_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(specs, "FOLDER", tmp_path / "none")
    monkeypatch.delenv("PREFS_NO_SKIP", raising=False)
    with pytest.raises(pytest.skip.Exception, match="are not beside this checkout"):
        specs.require()
    monkeypatch.setenv("PREFS_NO_SKIP", "1")
    with pytest.raises(pytest.fail.Exception, match="are not beside this checkout"):
        specs.require()


def test_a_run_without_the_files_says_so() -> None:
    chosen = "tests/connectors/test_messenger.py", "-k", "made_once or meta or described"
    program = f"""
import pathlib, pytest
from tests.connectors import specs
specs.FOLDER = pathlib.Path("/nowhere/at/all")
raise SystemExit(pytest.main({[*chosen, "-n", "0", "-rs"]!r}))
"""
    command = [sys.executable, "-c", program]
    environ = {name: text for name, text in quiet().items() if name != "PREFS_NO_SKIP"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SKIPPED [1]" in done.stdout
    assert "(../shared/specs) are not beside this checkout" in done.stdout
