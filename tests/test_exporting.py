"""prefs export: who must not be contacted on a channel, whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import update

from prefs import exporting
from prefs.cli import main
from prefs.core import identity
from prefs.core.errors import Unavailable
from prefs.core.signals import Signal, Statement
from prefs.core.words import Channel, Choice, Purpose, Scope, Source
from prefs.store import permissions, stopped
from prefs.store.schema import identifiers
from tests.served import Served, served

ADA, BOB, CAT = (f"{name}@Example.com" for name in ("ada", "bob", "cat"))


@pytest.fixture(scope="module")
def rt(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp(engine)
    with served(folder) as made, pytest.MonkeyPatch.context() as patched:
        patched.setenv("PREFS_CONFIG", str(folder / "prefs.toml"))
        patched.setenv("PREFS_TEST_KEY", "a secret of thirty-two bytes or more")
        _people(made)
        yield made


def _people(rt: Served) -> None:
    def out(channel: str, **more: str) -> list[dict[str, str]]:
        return [{"channel": channel, "purpose": "marketing", "choice": "out", **more}]

    rt.consent(ADA)
    rt.say(BOB)
    rt.say("=cmd@example.com")
    rt.say("news@example.com", changes=out("email", topic="news"))
    rt.say("texts@example.com", changes=out("sms"))
    rt.say("", subject={"phone": "07700 900101", "ref": "p1"}, changes=out("phone"))
    rt.say("", subject={"phone": "07700 900102"}, changes=out("sms"))
    home = {"name": "Zoë Smith, MBE", "lines": ["Flat 2", "1 High Street"], "postcode": "LS1 1AA"}
    rt.say("", subject={"post": home}, changes=out("post"))
    said = (Statement(Scope(Channel.EMAIL, Purpose.MARKETING), Choice.OUT),)
    who = (identity.email("held@example.com"),)
    held = Signal("rt", Source.MAIL, said, who, hold=True)
    second = Signal("second", Source.MAIL, said, (identity.email("second@example.com"),))
    for one in (held, second):
        rt.runtime.database.write_now(partial(rt.runtime.intake.record, signal=one))
    bounced = identity.email("bounced@example.com")
    pair = (Channel.EMAIL, Purpose.MARKETING)
    rt.runtime.database.write_now(
        lambda conn: permissions.set_fact(
            conn, "rt", rt.runtime.keys.hash(bounced), pair, "x", "hard_bounce", 1.0
        )
    )


def run(*args: object, code: int = 0, brand: str = "rt", channel: str = "email") -> Result:
    wanted = ["export", "--brand", brand, "--channel", channel, *map(str, args)]
    done = CliRunner().invoke(main, wanted)
    assert done.exit_code == code, done.output
    return done


def cells(content: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content, newline="")))


def test_who_said_no_is_listed_and_nobody_else(rt: Served) -> None:
    """Not: consent, an out of one topic, of another channel, of another brand, a bounce."""
    done = run()
    head, *rows = cells(done.stdout)
    assert head == ["email"]
    assert sorted(rows) == [["=cmd@example.com"], [BOB], ["held@example.com"]]
    assert "3 on the list of email" in done.stderr
    assert cells(run(brand="second").stdout) == [["email"], ["second@example.com"]]


def test_every_row_is_denied_by_check(rt: Served) -> None:
    _, *rows = cells(run().stdout)
    assert {rt.reason(row[0]) for row in rows} == {"opted_out", "held"}


def test_numbers_are_e164_and_of_their_channel(rt: Served) -> None:
    assert cells(run(channel="phone").stdout) == [["phone"], ["+447700900101"]]
    assert cells(run(channel="sms").stdout) == [["phone"], ["+447700900102"]]


def test_letters_have_a_column_each(rt: Served) -> None:
    wanted = ["Zoë Smith, MBE", "Flat 2", "1 High Street", "", "", "LS1 1AA", "GB"]
    head, *rows = cells(run(channel="post").stdout)
    assert head == ["name", "line_1", "line_2", "line_3", "line_4", "postcode", "country"]
    assert rows == [wanted]
    line = json.loads(run("--format", "ndjson", channel="post").stdout)
    assert list(line.values()) == wanted


LETTERS = [
    (["A B", "1 Road", "LS1"], ["A B", "1 Road", "", "", "", "LS1", ""]),
    (
        ["A B", *(f"line {n}" for n in range(1, 7)), "LS1", "GB"],
        ["A B", "line 1", "line 2", "line 3", "line 4, line 5, line 6", "LS1", "GB"],
    ),
    (["A B", "The Barn", "GB"], ["A B", "The Barn", "", "", "", "GB", ""]),
]


@pytest.mark.parametrize(("lines", "wanted"), LETTERS)
def test_lines_of_a_postal_address_find_their_columns(lines: list[str], wanted: list[str]) -> None:
    assert exporting.postal("\n".join(lines)) == wanted


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_hashes_are_over_the_normalised_address(rt: Served) -> None:
    head, *rows = cells(run("--hashed", "sha256").stdout)
    assert head == ["sha256"]
    wanted = ["=cmd@example.com", "bob@example.com", "held@example.com"]
    assert sorted(rows) == sorted([sha256(one)] for one in wanted)
    assert cells(run("--hashed", "sha256", channel="phone").stdout)[1] == [sha256("+447700900101")]
    letters = cells(run("--hashed", "sha256", channel="post").stdout)
    assert letters[1] == [sha256("ls11aa|2|smith")]


def test_no_cell_is_a_formula_where_that_is_asked(rt: Served) -> None:
    rows = cells(run("--formula-safe").stdout)
    assert ["'=cmd@example.com"] in rows
    assert [BOB] in rows
    assert cells(run("--formula-safe", channel="sms").stdout)[1] == ["'+447700900102"]
    run("--formula-safe", "--format", "ndjson", code=2)


def test_a_file_is_private_and_told_of(rt: Served, tmp_path: Path) -> None:
    out = tmp_path / "stop.csv"
    report = json.loads(run("--out", out, "--json").stdout)
    assert (report["listed"], report["hash_only"], report["out"]) == (3, 0, str(out))
    assert out.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == [out]
    assert json.loads(run("--json").stderr)["listed"] == 3


def test_a_list_that_was_not_finished_leaves_the_old_one(
    rt: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "stop.csv"
    out.write_text("the old one")
    real = stopped.held_of

    def broken(*args: Any) -> Iterator[Any]:
        yield next(real(*args))
        raise Unavailable("gone")

    monkeypatch.setattr(stopped, "held_of", broken)
    run("--out", out, code=75)
    assert run(code=75).stdout == ""
    assert out.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [out]


def test_who_is_known_by_hash_alone_is_counted(rt: Served) -> None:
    hash_ = rt.runtime.keys.hash(identity.email(BOB))

    def spelled(spelling: bytes | None) -> None:
        wanted = update(identifiers).where(identifiers.c.hash == hash_).values(spelling=spelling)
        rt.runtime.database.write_now(lambda conn: conn.execute(wanted))

    spelled(None)
    for more in ((), ("--hashed", "sha256")):
        report = json.loads(run(*more, "--json").stderr)
        assert (report["listed"], report["hash_only"]) == (2, 1)
    assert "1 more are known by their hash only" in run().stderr
    spelled(rt.runtime.keys.encrypt(BOB.encode(), hash_))
