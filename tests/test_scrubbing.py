"""prefs scrub: the same answers over a file, interrupted at any byte and gone on with."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from prefs import scrubbing
from prefs.cli import main
from prefs.core.decision import Ask
from prefs.core.errors import BadInput
from prefs.core.words import Channel, Purpose, Scope
from prefs.web.scrub.asking import Asking
from tests.faults.kit import Installation, end
from tests.served import Served, served

ADA, BOB = "ada@example.com", "bob@example.com"
QUESTION = ("--brand", "rt", "--channel", "email", "--purpose", "marketing")


@pytest.fixture(scope="module")
def rt(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp(engine)
    with served(folder) as made, pytest.MonkeyPatch.context() as patched:
        made.consent(ADA)
        made.say(BOB, "out")
        patched.setenv("PREFS_CONFIG", str(folder / "prefs.toml"))
        patched.setenv("PREFS_TEST_KEY", "a secret of thirty-two bytes or more")
        yield made


@pytest.fixture
def files(rt: Served, tmp_path: Path) -> Path:
    return tmp_path


def run(*args: object, code: int = 0, **more: Any) -> Result:
    done = CliRunner().invoke(main, ["scrub", *map(str, args), *QUESTION], **more)
    assert done.exit_code == code, done.output
    return done


CONTENT = b'n,email\r\n"two\nlines",ada@example.com\r\n\r\nx,bob@example.com\r\n,none'
WANTED = (
    b'n,email,allowed,reason\r\n"two\nlines",ada@example.com,true,consent\r\n\r\n'
    b"x,bob@example.com,false,opted_out\r\n,none,false,invalid_identifier"
)
REPORT = {
    "rows": 3,
    "allowed": 1,
    "reasons": {"consent": 1, "opted_out": 1, "invalid_identifier": 1},
}


def test_a_list_goes_to_standard_output(files: Path) -> None:
    (files / "list.csv").write_bytes(CONTENT)
    done = run(files / "list.csv", "--json")
    assert done.stdout_bytes == WANTED
    assert json.loads(done.stderr) == REPORT
    assert run("-", input=CONTENT).stdout_bytes == WANTED


def test_json_lines_are_known_by_their_name(files: Path) -> None:
    (files / "list.jsonl").write_bytes(b'{"email":"bob@example.com"}\n')
    done = run(files / "list.jsonl")
    wanted = b'{"email":"bob@example.com","allowed":false,"reason":"opted_out"}\n{"done":1}\n'
    assert done.stdout_bytes == wanted


def interrupted(files: Path, done: bytes, sort: str = "csv") -> None:
    """What lies there after an interruption."""
    (files / "out.csv").unlink(missing_ok=True)
    note = {"at": time.time(), "question": _question(sort)}
    (files / "out.csv.part.json").write_text(json.dumps(note))
    (files / "out.csv.part").write_bytes(done)


def _question(sort: str = "csv") -> dict[str, Any]:
    asked = {"brand": "rt", "channel": "email", "purpose": "marketing"}
    return {**asked, "topic": None, "column": None, "format": sort}


def gone_on(rt: Served, files: Path, content: bytes, sort: str = "csv") -> dict[str, Any]:
    """What the command does, without its start."""
    scope = Scope(Channel.EMAIL, Purpose.MARKETING)
    list_ = scrubbing.FORMATS[sort](Asking(rt.runtime.service, "rt", Ask(scope)))
    job = scrubbing.Job(list_, io.BytesIO(content), None, _question(sort), None)
    return scrubbing.to_file(job, files / "out.csv", time.time())


def test_whatever_was_written_is_gone_on_with(rt: Served, files: Path) -> None:
    """Cut at every byte: no row is lost, doubled or torn, and the figures are of all rows."""
    for cut in range(len(WANTED) + 1):
        interrupted(files, WANTED[:cut])
        report = gone_on(rt, files, CONTENT)
        assert (files / "out.csv").read_bytes() == WANTED
        assert {name: report[name] for name in REPORT} == REPORT
        assert [path.name for path in files.iterdir()] == ["out.csv"]


def test_json_lines_are_gone_on_with_too(rt: Served, files: Path) -> None:
    content = b'{"email":"ada@example.com"}\n\n"bob@example.com"\n{}'
    gone_on(rt, files, content, "ndjson")
    whole = (files / "out.csv").read_bytes()
    assert whole.endswith(b'\n{"done":3}\n')
    for cut in range(len(whole) + 1):
        interrupted(files, whole[:cut], "ndjson")
        assert gone_on(rt, files, content, "ndjson")["rows"] == 3
        assert (files / "out.csv").read_bytes() == whole


@pytest.mark.parametrize(
    "changed",
    [
        CONTENT.replace(b"lines", b"rows!"),
        CONTENT.replace(b"x,bob", b"x,ada"),
        CONTENT.replace(b"\r\n\r\n", b"\r\n"),
        CONTENT.partition(b"x,bob")[0],
    ],
)
def test_a_list_that_changed_meanwhile_is_refused(rt: Served, files: Path, changed: bytes) -> None:
    interrupted(files, WANTED[:-10])
    with pytest.raises(BadInput, match="was changed meanwhile; delete that file"):
        gone_on(rt, files, changed)
    assert (files / "out.csv.part").read_bytes() == WANTED[:-10]


def test_another_question_is_refused(files: Path) -> None:
    interrupted(files, WANTED[:60])
    (files / "list.csv").write_bytes(CONTENT)
    to = (files / "list.csv", "--out", files / "out.csv")
    assert "another question" in run(*to, "--column", "email", code=1).stderr
    (files / "out.csv.part.json").unlink()
    assert "another question" in run(*to, code=1).stderr


def test_answers_that_grew_old_are_not_gone_on_with(
    rt: Served, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was allowed then may be out by now."""
    interrupted(files, WANTED.replace(b"false,opted_out", b"true,consent")[:-30])
    monkeypatch.setattr(scrubbing, "GOES_STALE", 0.0)
    report = gone_on(rt, files, CONTENT)
    assert "more than an hour old" in scrubbing.shown(report)
    assert (files / "out.csv").read_bytes() == WANTED


def test_a_broken_list_is_refused_and_leaves_no_result(files: Path) -> None:
    (files / "list.csv").write_bytes(b'email\nada@example.com\n"never closed\n')
    done = run(files / "list.csv", "--out", files / "out.csv", code=1)
    assert "in row 3 a quotation mark is opened and never closed" in done.stderr
    assert not (files / "out.csv").exists()


@pytest.mark.parametrize(
    "args", [("--format", "xml"), ("--channel", "post"), ("--nothing",)], ids=str
)
def test_wrong_use_is_2(files: Path, args: tuple[str, ...]) -> None:
    (files / "list.csv").write_bytes(CONTENT)
    assert (
        CliRunner().invoke(main, ["scrub", str(files / "list.csv"), *QUESTION, *args]).exit_code
        == 2
    )


def test_a_channel_that_is_none_is_refused(files: Path) -> None:
    (files / "list.csv").write_bytes(CONTENT)
    done = CliRunner().invoke(
        main, ["scrub", str(files / "list.csv"), *QUESTION, "--channel", "fax"]
    )
    assert done.exit_code == 1
    assert "unknown channel" in done.stderr


# --- killed ------------------------------------------------------------------------------------


def grown(path: Path, size: int) -> Callable[[], bool]:
    return lambda: path.exists() and path.stat().st_size > size


def until(holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None and not holds():
        time.sleep(0.001)


def test_killed_again_and_again_it_comes_to_its_end(tmp_path: Path) -> None:
    rows = 6000
    content = b"n,email\n" + b"".join(b"%d,p%d@example.com\n" % (n, n) for n in range(rows))
    made = Installation(tmp_path, "", {})
    source, out, part = (tmp_path / name for name in ("list.csv", "out.csv", "out.csv.part"))
    source.write_bytes(content)
    kills = 0
    for number in range(2):
        process = made.start("scrub", str(source), "--out", str(out), *QUESTION)
        until(grown(part, number * 100_000), process)
        kills += process.poll() is None
        process.kill()
        process.wait()
    done = subprocess.run(
        [sys.executable, "-m", "prefs.cli", "scrub", source, "--out", out, *QUESTION, "--json"],
        env=made.environ,
        capture_output=True,
    )
    end(process)
    assert done.returncode == 0, done.stderr
    assert kills
    assert json.loads(done.stdout)["resumed"] > 0
    assert out.stat().st_mode & 0o077 == 0
    head, *found = out.read_bytes().splitlines()
    assert head == b"n,email,allowed,reason"
    assert found == [b"%d,p%d@example.com,false,no_basis" % (n, n) for n in range(rows)]
