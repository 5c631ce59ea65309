"""What a command says of a database that it cannot use: the reason, and how to mend it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy.engine import URL, make_url

from prefs.cli import main
from tests import empty
from tests.served import configure


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PREFS_CONFIG", str(configure(tmp_path)))
    monkeypatch.setenv("PREFS_TEST_KEY", "a secret of thirty-two bytes or more")
    return empty.database(tmp_path)


def on(url: URL | str, *args: str, monkeypatch: pytest.MonkeyPatch) -> Result:
    text = url if isinstance(url, str) else url.render_as_string(hide_password=False)
    monkeypatch.setenv("PREFS__DATABASE", text)
    return CliRunner().invoke(main, [*args])


def nobody_listens() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


@pytest.mark.postgresql
@pytest.mark.parametrize(
    ("other", "code", "told"),
    [
        (lambda url: url.set(username="stranger"), 1, "refuses this user"),
        (lambda url: url.set(database="nowhere"), 1, "has no such database; make it"),
        (lambda url: url.set(port=nobody_listens()), 75, "nothing listens"),
        (lambda url: url.set(host="nowhere.invalid"), 75, "host's name is not known"),
    ],
)
def test_a_server_that_is_not_there_or_refuses_us_is_told_with_the_fix(
    url: str,
    other: Callable[[URL], URL],
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = on(other(make_url(url)), "migrate", monkeypatch=monkeypatch)
    assert (done.exit_code, told in done.stderr) == (code, True), done.stderr
    finding = on(other(make_url(url)), "doctor", "--json", monkeypatch=monkeypatch)
    assert told in finding.stdout


@pytest.mark.sqlite
def test_a_file_that_cannot_be_opened_is_told_with_the_fix(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = on(f"sqlite:///{tmp_path}/nowhere/prefs.db", "migrate", monkeypatch=monkeypatch)
    assert (done.exit_code, "is its folder there" in done.stderr) == (75, True)
    (tmp_path / "letter").write_text("this is no database at all" * 100)
    done = on(f"sqlite:///{tmp_path}/letter", "migrate", monkeypatch=monkeypatch)
    assert (done.exit_code, "is no SQLite database" in done.stderr) == (75, True)


def test_a_disk_that_is_full_is_no_fault_of_the_server(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list is written while the database is read."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("prefs.exporting._write", full)
    listing = ("export", "--brand", "rt", "--channel", "email", "--out", str(tmp_path / "list"))
    done = on(url, *listing, monkeypatch=monkeypatch)
    assert (done.exit_code, "make room" in done.stderr or "No space" in done.stderr) == (75, True)
