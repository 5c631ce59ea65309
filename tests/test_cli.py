"""The command line as an operator uses it: exit codes, JSON, dry runs."""

from __future__ import annotations

import errno
import json
import os
import socket
import sqlite3
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from prefs import verify
from prefs.app import load_settings, open_runtime
from prefs.cli import main
from prefs.core.propagation import Container
from prefs.store import containers, migrate
from tests.served import configure


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFS_CONFIG", str(configure(tmp_path)))
    monkeypatch.setenv("PREFS_TEST_KEY", "a secret of thirty-two bytes or more")
    return tmp_path


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def answer(*args: str, code: int = 0) -> Any:
    done = run(*args, "--json")
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


CSV = """email,phone,name,ref,channel,purpose,topic,choice,occurred_at,basis,notice,wording,note
ada@example.com,,Ada,p1,email,marketing,,in,2026-01-05T10:00:00Z,consent,,Yes please,
bob@example.com,,Bob,p2,email,marketing,offers,out,2026-01-05T10:00:00Z,,,,
not an address,,,,email,marketing,,out,,,,,
,020 7946 0018,Cleo,p3,phone,marketing,,out,,,,,told us
dan@example.com,,,,fax,marketing,,out,,,,,
"""


@pytest.fixture
def people(folder: Path) -> Path:
    file = folder / "people.csv"
    file.write_text(CSV)
    return file


def check(to: str, *more: str) -> Any:
    return json.loads(run("check", to, "--brand", "rt", *more, "--json").stdout)


def test_an_import_is_a_dry_run_until_it_is_applied(people: Path) -> None:
    report = answer("import", str(people), "--brand", "rt", code=1)
    assert (report["applied"], report["results"], report["rejected"]) == (
        False,
        {"applied": 3},
        2,
    )
    assert check("ada@example.com")["reason"] == "no_basis"
    answer("import", str(people), "--brand", "rt", "--apply", code=1)
    assert check("ada@example.com")["reason"] == "consent"
    assert check("bob@example.com", "--topic", "offers")["reason"] == "opted_out"
    assert check("+442079460018", "--channel", "phone")["reason"] == "objected"


def test_rejected_rows_come_back_with_their_reason(people: Path) -> None:
    report = answer("import", str(people), "--brand", "rt", "--apply", code=1)
    lines = Path(report["rejected_file"]).read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].endswith(",reason")
    assert "unknown channel" in lines[2]


def test_an_import_done_before_is_not_done_again(people: Path) -> None:
    answer("import", str(people), "--brand", "rt", "--apply", code=1)
    again = answer("import", str(people), "--brand", "rt", "--apply", code=1)
    assert again["done_before"] == 5
    assert again["results"] == {}


def test_an_import_gone_on_with_shows_how_far_it_is(people: Path) -> None:
    for _ in range(2):
        done = run("import", str(people), "--brand", "rt", "--apply")
        assert ("100%" in done.stderr, "5 rows" in done.stderr) == (True, True)


def test_a_dry_run_says_of_no_batch_that_it_is_held(folder: Path) -> None:
    rows = "".join(f"p{n}@example.com,email,marketing,out\n" for n in range(60))
    (folder / "outs.csv").write_text(f"email,channel,purpose,choice\n{rows}")
    done = run("import", str(folder / "outs.csv"), "--brand", "rt")
    assert ("60 applied" in done.stdout, "batch_held" in done.stderr) == (True, False)


def test_a_file_with_other_columns_is_refused(folder: Path) -> None:
    file = folder / "wrong.csv"
    file.write_text("e-mail,choice\na@b.example,out\n")
    done = run("import", str(file), "--brand", "rt")
    assert done.exit_code == 1
    assert "unknown: e-mail" in done.stderr


def test_names_stand_as_they_are(people: Path) -> None:
    file = people.rename(people.parent / "clients [old] :cat:.csv")
    done = run("import", str(file), "--brand", "rt")
    assert "clients [old] :cat:.csv.rejected.csv" in done.stdout


def test_a_pipe_is_no_file_to_import(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    done = run("import", str(folder / "pipe"), "--brand", "rt")
    assert (done.exit_code, "bring a file" in done.stderr) == (1, True)


@pytest.mark.parametrize("command", ["serve", "work"])
def test_a_port_that_is_taken_is_told(folder: Path, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run(command, "--listen", where)
    assert (done.exit_code, f"{where} cannot be opened" in done.stderr) == (1, True)


LISTING = ("--brand", "rt", "--channel", "email")


@pytest.mark.parametrize(
    "command", [("export",), ("scrub", "people.csv", "--purpose", "marketing")]
)
def test_a_file_that_cannot_be_written_is_named(
    people: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(people.parent)
    done = run(*command, *LISTING, "--out", "nowhere/out.csv")
    assert (done.exit_code, "nowhere" in done.stderr) == (1, True)
    assert "No such file or directory; mend that" in done.stderr


def test_a_full_disk_is_no_end_of_an_import(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", full)
        done = run("import", str(people), "--brand", "rt", "--apply")
    assert (done.exit_code, "No space left on device; mend that" in done.stderr) == (75, True)
    report = answer("import", str(people), "--brand", "rt", "--apply", code=1)
    assert (report["results"], report["rejected"]) == ({"applied": 3}, 2)


def test_check_says_no_by_its_exit_code(folder: Path) -> None:
    assert run("check", "ada@example.com", "--brand", "rt").exit_code == 1
    reminder = run("check", "ada@example.com", "--brand", "rt", "--purpose", "reminders")
    assert reminder.exit_code == 0
    assert "yes: service" in reminder.stdout


def test_keys_are_made_listed_and_ended(folder: Path) -> None:
    made = answer("api-keys", "add", "--brand", "rt", "--scopes", "check,write")
    assert made["key"].startswith("prefs_")
    items = answer("api-keys", "list")["items"]
    assert [(one["id"], one["revoked"]) for one in items] == [(made["id"], False)]
    assert made["key"] not in json.dumps(items)
    assert answer("api-keys", "revoke", made["id"]) == {"revoked": True}
    assert answer("api-keys", "revoke", made["id"], code=1) == {"revoked": False}
    assert answer("api-keys", "list")["items"][0]["revoked"] is True


@pytest.mark.parametrize(
    "args",
    [
        ("api-keys", "add", "--brand", "rt", "--scopes", "everything"),
        ("api-keys", "add", "--brand", "rt"),
        ("links", "--brand", "rt"),
        ("serve", "--listen", "nowhere"),
        ("nothing",),
    ],
)
def test_wrong_use_is_2(folder: Path, args: tuple[str, ...]) -> None:
    assert run(*args).exit_code == 2


def test_an_unknown_brand_is_refused_by_name(folder: Path) -> None:
    done = run("check", "a@b.example", "--brand", "nowhere")
    assert done.exit_code == 1
    assert "known are: rt, second, foreign" in done.stderr


def test_links_come_without_the_address(folder: Path) -> None:
    made = answer("links", "--brand", "rt", "--email", "ada@example.com")
    assert made["unsubscribe"].startswith("https://prefs.example.co.uk/u/")
    assert "ada" not in json.dumps(made)


EDITS = {
    "UPDATE ledger SET choice = 'in' WHERE n = 2": "row 2 (event 2) was changed after sealing",
    "UPDATE ledger SET received_at = 1 WHERE n = 1": "row 1 (event 1) was changed after sealing",
    "DELETE FROM ledger WHERE n = 1": "row 1 is missing: the next one is 2",
    "DELETE FROM ledger WHERE n = (SELECT max(n) FROM ledger)": "has a hole in its revisions",
    "UPDATE payloads SET body = x'00' WHERE id = 1": "the payload of event 1 was changed",
    "DELETE FROM payloads WHERE id = 1": "the payload of event 1 is gone",
    "UPDATE subjects SET state = x'90'": "is not the fold of its rows",
    "DELETE FROM permissions": "is not what their states say",
}


@pytest.mark.parametrize(("edit", "named"), EDITS.items())
def test_the_ledger_verifies_and_a_hand_edit_is_named(people: Path, edit: str, named: str) -> None:
    answer("import", str(people), "--brand", "rt", "--apply", code=1)
    assert answer("ledger", "verify")["findings"] == []
    with sqlite3.connect(people.parent / "prefs.db") as conn:
        assert conn.execute(edit).rowcount
    found = answer("ledger", "verify", code=1)["findings"]
    assert named in found[0]["what"]


def test_a_large_ledger_is_verified_by_two_processes(
    people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "LARGE", 1)
    answer("import", str(people), "--brand", "rt", "--apply", code=1)
    assert answer("ledger", "verify")["findings"] == []
    edits = [one for one, what in EDITS.items() if what.endswith(("sealing", "changed", "say"))]
    with sqlite3.connect(people.parent / "prefs.db") as conn:
        for edit in edits:
            conn.execute(edit)
    found = [one["what"] for one in answer("ledger", "verify", code=1)["findings"]]
    for edit in edits:
        assert any(EDITS[edit] in what for what in found)


def test_permissions_are_built_anew_from_the_ledger(people: Path) -> None:
    answer("import", str(people), "--brand", "rt", "--apply", code=1)
    with sqlite3.connect(people.parent / "prefs.db") as conn:
        conn.execute("DELETE FROM permissions")
    answer("ledger", "verify", "--rebuild", code=1)
    assert answer("ledger", "verify")["findings"] == []


def test_an_older_database_asks_for_migrate(folder: Path) -> None:
    (folder / "prefs.db").unlink()
    newest = migrate.head()
    assert answer("migrate") == {"before": None, "after": newest}
    assert answer("migrate") == {"before": newest, "after": newest}
    with sqlite3.connect(folder / "prefs.db") as conn:
        conn.execute("UPDATE alembic_version SET version_num = '0001'")
    done = run("api-keys", "list")
    assert done.exit_code == 1
    assert "run prefs migrate" in done.stderr


@pytest.mark.parametrize("command", [("migrate",), ("api-keys", "list"), ("work",)])
def test_a_database_of_a_later_release_asks_for_that_release(
    folder: Path, command: tuple[str, ...]
) -> None:
    with sqlite3.connect(folder / "prefs.db") as conn:
        conn.execute("UPDATE alembic_version SET version_num = '9999'")
    done = run(*command)
    assert (done.exit_code, "install that release" in done.stderr) == (1, True)


@pytest.mark.parametrize("command", [("migrate",), ("api-keys", "list")])
def test_a_database_of_something_else_is_left_alone(folder: Path, command: tuple[str, ...]) -> None:
    (folder / "prefs.db").unlink()
    with closing(sqlite3.connect(folder / "prefs.db")) as conn:
        conn.execute("CREATE TABLE orders (id INTEGER)")
    done = run(*command)
    assert (done.exit_code, "tables of something else" in done.stderr) == (1, True)
    with closing(sqlite3.connect(folder / "prefs.db")) as conn:
        assert conn.execute("SELECT name FROM sqlite_schema").fetchall() == [("orders",)]


def test_doctor_tells_webhooks_and_a_missing_key(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert answer("doctor")["findings"] == []
    monkeypatch.setenv("PREFS_TEST_KEY", "another secret of thirty-two bytes")
    found = answer("doctor", code=1)["findings"]
    assert any("add the old secret" in one for one in found)


KEAP = """
[brands.rt.targets.keap]
system = "keap"
token = "env:KEAP"
webhook_key = "env:HOOK"
"""


def test_doctor_tells_each_target_its_webhook_and_no_key(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(folder, KEAP)
    monkeypatch.setenv("KEAP", "a token of Keap")
    monkeypatch.setenv("HOOK", "a key of the hook")
    (hook,) = answer("doctor")["webhooks"]
    assert hook["url"] == "https://prefs.example.co.uk/webhooks/keap/rt/keap?key=<webhook_key>"
    assert "contactGroup.applied" in hook["events"]
    shown = [line.split("│") for line in run("doctor").stdout.splitlines() if line[0] == "│"]
    assert "".join(cells[3].strip() for cells in shown) == hook["url"]


def test_doctor_tells_of_a_list_that_stands_nowhere_until_it_is_configured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = configure(folder, KEAP)
    monkeypatch.setenv("KEAP", "a token of Keap")
    monkeypatch.setenv("HOOK", "a key of the hook")
    with closing(open_runtime(load_settings(path, os.environ))) as runtime:
        found = [(Container("a2", "VIP offers [/old]", sends=True), "unclassified")]
        runtime.database.write_now(lambda conn: containers.keep(conn, "rt/keap", found, 1.0))
    (finding,) = answer("doctor", code=1)["findings"]
    assert "VIP offers [/old] (a2)" in finding
    assert "[/old]" in run("doctor").stdout
    configure(folder, KEAP + 'ignored_containers = ["a2"]\n')
    assert answer("doctor")["findings"] == []


def test_doctor_tells_where_mails_are_to_be_sent(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFS__BRANDS__RT__MAIL__INBOX", "unsubscribe@example.co.uk")
    monkeypatch.setenv("PREFS__BRANDS__RT__MAIL__KEY", "a secret of the hook")
    (hook,) = answer("doctor")["webhooks"]
    assert hook["target"] == "rt mail"
    assert hook["url"] == "https://prefs.example.co.uk/webhooks/mail/rt/inbox?key=<mail.key>"


def test_every_fault_of_the_configuration_is_told_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFS_TEST_KEY")
    monkeypatch.setenv("PREFS__BRANDS__RT__COLOUR", "red")
    done = run("doctor")
    assert done.exit_code == 1
    assert "PREFS_TEST_KEY" in done.stderr
    assert "colour" in done.stderr.lower()


def test_the_version_is_told_where_nothing_is_installed_too() -> None:
    """As in a checkout and in the image."""
    project = Path(__file__).parent.parent / "pyproject.toml"
    version = tomllib.loads(project.read_text())["project"]["version"]
    assert run("--version").stdout == f"prefs, version {version}\n"


def test_every_command_has_help(folder: Path) -> None:
    for name in main.commands:
        done = run(name, "--help")
        assert done.exit_code == 0
        assert done.stdout.startswith("Usage:")
