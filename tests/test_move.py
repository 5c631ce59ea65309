"""A whole installation carried to another database: all of it, or nothing that could be started."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Connection, text

from prefs import move
from prefs.app import utc_now
from prefs.cli import main
from prefs.core import identity
from prefs.core.errors import SettingsError, Unavailable
from prefs.core.keys import Keyring
from prefs.core.signals import Signal, Statement
from prefs.core.words import Choice, Source
from prefs.intake import Intake
from prefs.move import Refused
from prefs.store import migrate
from prefs.store import postgres as engine_of_postgres
from prefs.store.database import Database, make_engine
from prefs.store.permissions import LookUp
from tests import empty, postgres
from tests.kit import EMAIL
from tests.served import Served, served

KEY = "a secret of thirty-two bytes or more"
ADA = identity.email("ada@example.com")
OTHERS_GONE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'prefs' AND pid <> pg_backend_pid()"""
PEOPLE = [f"p{number}@example.com" for number in range(30)]


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFS_TEST_KEY", KEY)


def filled(rt: Served) -> tuple[str, str]:
    """Some people, and an unsubscribe and a centre link of one more."""
    for address in PEOPLE:
        rt.consent(address)
    for address in PEOPLE[::3]:
        rt.say(address)
    made = rt.post("/v1/links", {"brand": "rt", "email": "old@example.com"}).json()
    return made["unsubscribe"], made["preferences"]


def other(folder: Path) -> str:
    """The URL of an empty database of the other kind."""
    if empty.engine == empty.SQLITE:
        return postgres.bare_database()
    return f"sqlite:///{folder}/other.db"


def run(folder: Path, *args: str) -> Result:
    return CliRunner().invoke(main, ["--config", str(folder / "prefs.toml"), *args])


def moved(folder: Path, to: str) -> Any:
    done = run(folder, "move", "--to", to, "--json")
    assert done.exit_code == 0, done.output + done.stderr
    return json.loads(done.stdout)


def point_to(folder: Path, url: str) -> None:
    path = folder / "prefs.toml"
    old = f'database = "{empty.database(folder)}"'
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, f'database = "{url}"'))


def test_everything_arrives_and_old_links_work(tmp_path: Path) -> None:
    with served(tmp_path) as rt:
        unsubscribe, centre = filled(rt)
        key = rt.key
    url = other(tmp_path)
    told = moved(tmp_path, url)
    assert told["rows"]["ledger"] == 40
    assert told["rows"]["subjects"] == 30
    assert run(tmp_path, "ledger", "verify").exit_code == 1  # the old one is left behind
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(empty, "database", lambda folder: url)
        with served(tmp_path) as rt:
            rt.key = key
            assert rt.reason(PEOPLE[0]) == "opted_out"
            assert rt.reason(PEOPLE[1]) == "consent"
            assert rt.client.post(unsubscribe).status_code == 200
            assert rt.reason("old@example.com") == "opted_out"
            page = rt.client.get(centre)
            assert page.status_code == 200
            assert "choice:email:*" in page.text
            assert rt.consent("new@example.com")["outcomes"][0]["result"] == "applied"
        assert run(tmp_path, "ledger", "verify").exit_code == 0


def test_a_statement_that_takes_long_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million people are counted and analysed for longer than a service would wait."""
    with served(tmp_path) as rt:
        filled(rt)

    def slowly(conn: Connection) -> None:
        if conn.dialect.name == "postgresql":
            conn.exec_driver_sql("SELECT pg_sleep(0.6)")

    monkeypatch.setattr(engine_of_postgres, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(move, "go_on_counting", slowly)
    assert moved(tmp_path, other(tmp_path))["rows"]["subjects"] == 30


def test_the_old_database_says_where_it_went(tmp_path: Path) -> None:
    with served(tmp_path) as rt:
        filled(rt)
    url = other(tmp_path)
    moved(tmp_path, url)
    for command in (["api-keys", "list"], ["migrate"], ["move", "--to", other(tmp_path)]):
        done = run(tmp_path, *command)
        assert done.exit_code == 1
        assert "it was moved to" in done.stderr


def test_who_was_cut_off_meanwhile_can_do_nothing_there(tmp_path: Path) -> None:
    """A process whose connections were gone as the database moved, and which comes back."""
    with served(tmp_path) as rt:
        filled(rt)
    with Database(empty.database(tmp_path)) as left:
        look_up, keys = LookUp(left), Keyring([KEY.encode()])
        intake = Intake({"rt": "rt"}, [], keys, utc_now)
        cut_off(left)
        moved(tmp_path, other(tmp_path))
        out = Signal("rt", Source.ONE_CLICK, (Statement(EMAIL, Choice.OUT),), (ADA,))
        with pytest.raises(Unavailable):
            left.write_now(lambda conn: intake.record(conn, out))
        with pytest.raises(Unavailable):
            asyncio.run(look_up.of("rt", [keys.hash(ADA)]))
        assert not left.read_now(migrate.is_served)


def cut_off(database: Database) -> None:
    if database.many_write:
        engine = make_engine(database.url)
        engine.transaction(lambda conn: conn.exec_driver_sql(OTHERS_GONE))
        engine.close()


def test_a_target_that_holds_something_is_refused(tmp_path: Path) -> None:
    with served(tmp_path) as rt:
        filled(rt)
    url = other(tmp_path)
    migrate.ensure(url)
    done = run(tmp_path, "move", "--to", url)
    assert (done.exit_code, "not empty" in done.stderr) == (1, True)
    with served(tmp_path) as rt:
        assert rt.reason(PEOPLE[0]) == "opted_out"


def test_a_source_that_others_have_open_is_refused(tmp_path: Path) -> None:
    with served(tmp_path) as rt:
        filled(rt)
        done = run(tmp_path, "move", "--to", other(tmp_path))
        assert done.exit_code == 1
        assert "stop prefs serve and prefs work first" in done.stderr


def test_a_move_that_broke_off_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(tmp_path) as rt:
        filled(rt)
    url = other(tmp_path)

    def broken(conn: Connection) -> None:
        raise Refused("broken off")

    with monkeypatch.context() as patched:
        patched.setattr(move, "go_on_counting", broken)
        assert run(tmp_path, "move", "--to", url).exit_code == 1
    with pytest.raises(SettingsError, match="run prefs move again"):
        migrate.migrate(url)
    assert moved(tmp_path, url)["rows"]["subjects"] == 30


@pytest.mark.parametrize("to", ["nonsense", "sqlite:///", "mysql://prefs@db/prefs"])
def test_what_is_no_database_is_refused(tmp_path: Path, to: str) -> None:
    """In memory all of it would be gone, and the old one marked as left."""
    with served(tmp_path) as rt:
        filled(rt)
    done = run(tmp_path, "move", "--to", to)
    assert (done.exit_code, "write sqlite:///FILE or" in done.stderr) == (1, True)
    with served(tmp_path) as rt:
        assert rt.reason(PEOPLE[0]) == "opted_out"


def test_the_target_may_stand_in_a_file_as_other_secrets_do(tmp_path: Path) -> None:
    """On the command line all users of the machine could read its password."""
    with served(tmp_path) as rt:
        filled(rt)
    (tmp_path / "url").write_text(other(tmp_path))
    assert moved(tmp_path, "file:url")["database"] == "file:url"
    point_to(tmp_path, "file:url")
    assert "no: opted_out" in run(tmp_path, "check", PEOPLE[0], "--brand", "rt").stdout


def test_a_move_may_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(tmp_path) as rt:
        filled(rt)
    url = other(tmp_path)

    def stop(_: move.Move) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(move.Move, "_alone", stop)
        done = run(tmp_path, "move", "--to", url)
    assert (done.exit_code, "give the same command again" in done.stderr) == (75, True)
    assert moved(tmp_path, url)["rows"]["subjects"] == 30


def test_what_arrives_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(tmp_path) as rt:
        filled(rt)
    url, true_write = other(tmp_path), move.write

    def lying(conn: Connection, table: Any, rows: Any) -> None:
        true_write(conn, table, rows)
        if table.name == "subjects":
            conn.execute(text("UPDATE subjects SET created_at = created_at + 1"))

    with monkeypatch.context() as patched:
        patched.setattr(move, "write", lying)
        done = run(tmp_path, "move", "--to", url)
    assert (done.exit_code, "subjects: what arrived" in done.stderr) == (1, True)
    with served(tmp_path) as rt:
        assert rt.reason(PEOPLE[0]) == "opted_out"


def test_and_back_again(tmp_path: Path) -> None:
    with served(tmp_path) as rt:
        filled(rt)
    there, back = other(tmp_path), f"sqlite:///{tmp_path}/back.db"
    first = moved(tmp_path, there)
    point_to(tmp_path, there)
    second = moved(tmp_path, back)
    assert first["rows"] == second["rows"]
    with Database(back) as database:
        assert database.read_now(migrate.is_current)
