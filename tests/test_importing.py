"""prefs import: streaming, stopped anywhere and gone on with, its files named row by row."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from prefs import importing
from prefs.core.errors import BadInput
from prefs.import_rows import COLUMNS
from prefs.intake import Intake
from tests.faults.kit import Installation, end
from tests.served import Served, served
from tests.test_scrubbing import grown, until

_numbers = count()


@pytest.fixture(scope="module")
def rt(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp(engine)) as made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "people.csv"


def run(rt: Served, file: Path, *, write: bool = True) -> dict[str, Any]:
    return importing.run(rt.runtime.service, "rt", file, write=write, console=None)


def row(address: str, **more: str) -> dict[str, str]:
    return {"email": address, "channel": "email", "purpose": "marketing", "choice": "out", **more}


def written(file: Path, rows: Sequence[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    file.write_text(text.getvalue(), newline="")


def rejected(file: Path) -> list[dict[str, str]]:
    with Path(f"{file}.rejected.csv").open(newline="") as text:
        return list(csv.DictReader(text))


def in_ledger(rt: Served) -> int:
    def counted(conn: Any) -> int:
        found: int = conn.exec_driver_sql("SELECT count(*) FROM ledger").scalar_one()
        return found

    return rt.runtime.database.read_now(counted)


# --- bad files ---------------------------------------------------------------------------------

HEAD = b"email,channel,purpose,choice\n"
GOOD = b"ada@example.com,email,marketing,out\n"
BAD = [
    (b"", "names no columns"),
    (GOOD, "names no columns; known are"),
    (HEAD.replace(b"choice", b"choise"), "unknown: choise; missing: choice"),
    (HEAD.replace(b",", b";") + GOOD, "separated by ;: save the file with commas"),
    (HEAD.replace(b",", b"\t"), "separated by tab"),
    (b"email,email," + HEAD, "twice: email"),
    (b"PK\x03\x04", "an Excel workbook"),
    (HEAD.decode().encode("utf-16"), "UTF-16: save it as CSV UTF-8"),
    (HEAD + GOOD + b"zo\xeb@example.com,email,marketing,out\n", "row 3 is not UTF-8"),
    (HEAD + b'"x\ny",email,marketing,out\n' + b"a\0b,email,marketing,out\n", "row 3 holds a NUL"),
    (HEAD + GOOD + b'"never,email,marketing,out\n' + GOOD, "row 3 opens a quotation mark"),
    (HEAD + GOOD + b'"never' + GOOD * 5000, "row 3 cannot be read"),
    (HEAD + b"a\rb,email,marketing,out\n", "row 2 cannot be read"),
]


@pytest.mark.parametrize(("content", "says"), BAD)
def test_a_bad_file_is_told_with_its_row_before_anything_is_written(
    rt: Served, file: Path, content: bytes, says: str
) -> None:
    file.write_bytes(content)
    before = in_ledger(rt)
    for write in (False, True):
        with pytest.raises(BadInput, match=says):
            run(rt, file, write=write)
    assert in_ledger(rt) == before
    assert list(file.parent.iterdir()) == [file]


# --- rows --------------------------------------------------------------------------------------


def test_rows_of_any_order_and_width_are_read(rt: Served, file: Path) -> None:
    """A BOM, spaces, columns in another order, short rows, blank rows, line ends in cells."""
    text = (
        "\ufeffchoice, purpose,channel,email,wording,basis,ref\r\n"
        'in ,marketing,email, first@example.com ,"Yes,\r\nplease",consent,r1\r\n'
        "\r\n"
        "out,marketing,email,second@example.com\r\n"
        "out,marketing,email,third@example.com,,,,,,\r\n"
        "out,marketing,email,fourth@example.com,,,,more,"
    )
    file.write_text(text, newline="")
    report = run(rt, file)
    assert (report["rows"], report["results"], report["rejected"]) == (4, {"applied": 3}, 1)
    assert rt.reason("first@example.com") == "consent"
    assert rt.reason({"ref": "r1"}) == "consent"
    assert rt.reason("second@example.com") == "opted_out"
    (found,) = rejected(file)
    assert found["reason"] == "more cells than columns"


def test_rejected_rows_can_be_mended_and_brought_again(rt: Served, file: Path) -> None:
    wrong = row("mend@example.com", channel="e-mail", note='a\rb\n"c"')
    written(file, [wrong, row("", choice="in"), row("x@example.com", occurred_at="soon")])
    report = run(rt, file)
    assert report["rejected"] == 3
    path = Path(report["rejected_file"])
    assert path.stat().st_mode & 0o077 == 0
    found = rejected(file)
    assert {name: found[0][name] for name in wrong} == wrong
    reasons = [one["reason"] for one in found]
    assert reasons[0].startswith("unknown channel; known are")
    assert reasons[1:] == ["no email, phone or ref", "occurred_at is no RFC 3339 time"]
    path.write_text(path.read_text().replace("e-mail", "email"), newline="")
    again = run(rt, path)
    assert (again["results"], again["rejected"]) == ({"applied": 1}, 2)
    assert [one["reason"] for one in rejected(path)] == reasons[1:]


# --- stopped and gone on with ------------------------------------------------------------------


def mixed(dice: random.Random, people: int, prefix: str) -> list[dict[str, str]]:
    """Rows of which some are about the same people, by address or by ref, and some are bad."""
    made = []
    for _ in range(people):
        who = f"{prefix}{dice.randint(0, people // 2)}"
        one = row(f"{who}@example.com", choice=dice.choice(["in", "out"]), name=who)
        one |= {"ref": who} if dice.random() < 0.3 else {}
        one |= {"email": "", "ref": who} if dice.random() < 0.2 else {}
        one |= {"phone": "020 7946 0018"} if dice.random() < 0.2 else {}
        one |= {"basis": "consent", "wording": "Yes"} if dice.random() < 0.7 else {}
        one |= {"basis": "consent", "notice": "n1"} if dice.random() < 0.3 else {}
        one |= {"channel": "fax"} if dice.random() < 0.2 else {}
        one |= {"topic": "news"} if dice.random() < 0.2 else {}
        one |= {"occurred_at": f"2026-0{dice.randint(1, 3)}-01"} if dice.random() < 0.5 else {}
        made.append(one)
    return made


class Stop(Exception):
    """Where a test stops an import."""


def stopped(rt: Served, file: Path, chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunk after so many is rolled back, its rejected rows are on disk already."""
    real, left = Intake.record_many, count(chunks, -1)

    def record(*args: Any, **more: Any) -> Any:
        found = real(*args, **more)
        if next(left) <= 0:
            raise Stop
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Intake, "record_many", record)
        with pytest.raises(Stop):
            run(rt, file)


def test_stopped_anywhere_it_loses_and_doubles_nothing(
    rt: Served, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "CHUNK", 4)
    rows = mixed(random.Random(5), 40, f"stop{next(_numbers)}-")
    bad = [one for one in rows if one["channel"] == "fax"]
    written(file, rows)
    before = in_ledger(rt)
    for chunks in (0, 1, 0, 3, 2):
        stopped(rt, file, chunks, monkeypatch)
    report = run(rt, file)
    assert report["done_before"] == 24
    assert (report["rows"], report["rejected"]) == (40, len(bad))
    assert in_ledger(rt) - before >= 40 - len(bad)
    assert [one["name"] for one in rejected(file)] == [one["name"] for one in bad]
    after = in_ledger(rt)
    again = run(rt, file)
    assert (again["done_before"], again["results"], again["rejected"]) == (40, {}, len(bad))
    assert in_ledger(rt) == after


def test_every_row_is_recorded_once_however_often_it_is_stopped(
    rt: Served, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "CHUNK", 3)
    people = [f"once{next(_numbers)}x{n}@example.com" for n in range(20)]
    written(file, [row(one) for one in people])
    before = in_ledger(rt)
    for chunks in range(4):
        stopped(rt, file, chunks, monkeypatch)
    run(rt, file)
    assert in_ledger(rt) - before == 20
    assert {rt.reason(one) for one in people} == {"opted_out"}


def test_rejected_rows_that_were_taken_away_are_written_again(
    rt: Served, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "CHUNK", 3)
    bad = [row(f"x{number}@example.com", channel="fax", name=str(number)) for number in range(20)]
    written(file, bad)
    stopped(rt, file, 4, monkeypatch)
    Path(f"{file}.rejected.csv").unlink()
    run(rt, file)
    assert [one["name"] for one in rejected(file)] == [str(number) for number in range(20)]


def test_one_file_is_imported_by_one_process(
    rt: Served, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(file, [row(f"alone{next(_numbers)}@example.com")])
    with importing._alone(file), pytest.raises(BadInput, match="by another prefs import"):
        run(rt, file)
    copy = file.with_name("copy.csv")
    copy.write_bytes(file.read_bytes())
    real = Intake.record_many

    def record(*args: Any, **more: Any) -> Any:
        monkeypatch.setattr(Intake, "record_many", real)
        raise Stop

    monkeypatch.setattr(Intake, "record_many", record)
    with pytest.raises(Stop):
        run(rt, file)
    report = run(rt, copy)
    assert (report["rows"], report["done_before"]) == (1, 0)
    assert run(rt, file)["done_before"] == 1


def test_of_two_copies_that_begin_at_once_one_goes_on(
    rt: Served, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(file, [row(f"twice{next(_numbers)}@example.com")])
    copy, begun = file.with_name("copy.csv"), importing._begun
    copy.write_bytes(file.read_bytes())

    def other_first(*args: Any) -> Any:
        monkeypatch.setattr(importing, "_begun", begun)
        found = begun(*args)
        assert run(rt, copy)["rows"] == 1
        return found

    monkeypatch.setattr(importing, "_begun", other_first)
    before = in_ledger(rt)
    with pytest.raises(BadInput, match="by another prefs import"):
        run(rt, file)
    assert in_ledger(rt) == before + 1


@pytest.mark.parametrize("seed", range(3))
def test_a_dry_run_tells_what_the_real_one_does(
    rt: Served, file: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Also of people who come again in a later chunk, and of those known before."""
    monkeypatch.setattr(importing, "CHUNK", 4)
    dice, prefix = random.Random(seed), f"dry{next(_numbers)}-"
    for _ in range(2):  # the second file meets what the first one made
        written(file, mixed(dice, 60, prefix))
        before = in_ledger(rt)
        dry = run(rt, file, write=False)
        assert in_ledger(rt) == before
        kept = rejected(file)
        real = run(rt, file)
        assert dry["results"] == real["results"]
        assert len(Counter(real["results"])) > 2
        assert rejected(file) == kept
        assert not dry["applied"]
        assert (dry["rows"], dry["rejected"]) == (real["rows"], real["rejected"])


# --- killed ------------------------------------------------------------------------------------

PEOPLE = 12_000


def test_killed_and_interrupted_it_comes_to_its_end(tmp_path: Path) -> None:
    made, file = Installation(tmp_path, "", {}), tmp_path / "people.csv"
    bad = Path(f"{file}.rejected.csv")
    rows = [row(f"k{n}@example.com", name=str(n)) for n in range(PEOPLE)]
    for number, one in enumerate(rows):
        one["choice"] = "?" if number % 10 else "out"
    written(file, rows)
    command = ("import", str(file), "--brand", "rt", "--apply", "--json")
    # Who is started in the background by a shell hears no SIGINT, nor does whom it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, ends in enumerate((signal.SIGKILL, signal.SIGINT)):
        before = bad.stat().st_size if bad.exists() else 0
        process = made.start(*command)
        os.setpriority(os.PRIO_PROCESS, process.pid, 5)  # who looks at it is to be in time
        until(grown(bad, max(before, number * 90_000)), process)
        process.send_signal(ends)
        process.wait()
        assert process.returncode == (-signal.SIGKILL if ends == signal.SIGKILL else 75)
    assert "the same command goes on where it stopped" in made.log.read_text()
    done = subprocess.run(
        [sys.executable, "-m", "prefs.cli", *command],
        env=made.environ,
        capture_output=True,
        check=False,
    )
    end(process)
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert 0 < report["done_before"] < PEOPLE
    assert report["rejected"] == PEOPLE * 9 // 10
    names = [one["name"] for one in rejected(file)]
    assert names == [str(number) for number in range(PEOPLE) if number % 10]
