"""A list checked before a campaign: unchanged, in order, answered as `check` answers."""

from __future__ import annotations

import csv
import io
import re
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from prefs.store import marks
from prefs.store.staff import Role
from prefs.web.console import campaign, lists
from tests.desk import Desk, desk
from tests.served import Served, served

pytestmark = pytest.mark.told_on("sqlite")

ADA, BOB, CAT = (f"{name}@example.com" for name in ("ada", "bob", "cat"))
TARGETS = """
[brands.rt.targets.timely]
system = "timely"
mode = "live"
"""
WANTED = {"column": "0", "channel": "email", "purpose": "marketing", "headed": "yes"}


@pytest.fixture
def rt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with served(tmp_path, TARGETS) as made:
        made.consent(ADA)
        made.say(BOB, "out")
        yield made


@pytest.fixture
def may(rt: Served) -> Desk:
    return desk(rt, Role.MANAGER, "may@example.co.uk")


def bring(
    one: Desk, content: bytes, name: str = "clients.csv", csrf: str | None = None
) -> httpx.Response:
    token = one.csrf if csrf is None else csrf
    files = {"list": (name, content, "text/csv")}
    answer: httpx.Response = one.ask("POST", "/staff/campaign", data={"csrf": token}, files=files)
    return answer


def checked(one: Desk, content: bytes, **wanted: str) -> bytes:
    """The list as it comes back."""
    path = bring(one, content).headers["location"]
    answer = one.post(f"{path}/check", **{**WANTED, **wanted})
    assert answer.status_code == 303, answer.text
    page = one.wait(path)
    assert "did not come to its end" not in page
    found = one.ask("GET", f"{path}/download")
    assert found.status_code == 200
    return bytes(found.content)


def test_every_row_comes_back_with_its_answer(may: Desk) -> None:
    content = b"email,name\nada@example.com,Ada\nbob@example.com,Bob\ncat@example.com,\nnone,x\n"
    assert checked(may, content) == (
        b"email,name,allowed,reason\n"
        b"ada@example.com,Ada,true,consent\n"
        b"bob@example.com,Bob,false,opted_out\n"
        b"cat@example.com,,false,no_basis\n"
        b"none,x,false,invalid_identifier\n"
    )


ODD = [
    pytest.param(b'email,n\r\nada@example.com,"a ""b"", c"\r\n', b",true,consent\r\n", id="quotes"),
    pytest.param(b'n,email\n"two\nlines",ada@example.com\n', b",true,consent\n", id="line ends"),
    pytest.param(b"email;n\nada@example.com;1,5\n", b";true;consent\n", id="semicolons"),
    pytest.param(b"email\tn\nada@example.com\tx\n", b"\ttrue\tconsent\n", id="tabs"),
    pytest.param(b"email,n\nada@example.com,x", b",true,consent", id="no last line end"),
    pytest.param(b"\xef\xbb\xbfemail,n\nada@example.com,x\n", b",true,consent\n", id="BOM"),
    pytest.param(b"email,n\nada@example.com,Zo\xeb \x80\n", b",true,consent\n", id="cp1252"),
    pytest.param("email,n\nada@example.com,Zoë €\n".encode(), b",true,consent\n", id="UTF-8"),
    pytest.param(b"email,n\n ADA@example.com ,=cmd|'/C'!A0\n", b",true,consent\n", id="formula"),
    pytest.param(b"email,n,m\nada@example.com\n", b",,,true,consent\n", id="short row"),
]


@pytest.mark.parametrize(("content", "added"), ODD)
def test_a_rows_bytes_are_never_rewritten(may: Desk, content: bytes, added: bytes) -> None:
    found = checked(may, content, column=str(int(content.startswith(b"n,email"))))
    heading, row = content.rstrip(b"\r\n").split(b"\n", 1)
    assert found.startswith(heading.rstrip(b"\r"))
    assert found.endswith(row + added)


def test_blank_rows_stay_and_are_not_answered(may: Desk) -> None:
    content = b"\nemail\n\nada@example.com\n\n"
    assert checked(may, content) == b"\nemail,allowed,reason\n\nada@example.com,true,consent\n\n"


def test_a_list_without_headings_is_seen_as_one(may: Desk) -> None:
    content = b"x,ada@example.com\ny,bob@example.com\n"
    path = bring(may, content).headers["location"]
    page = may.get(path)
    assert "Column 2" in page
    assert 'name="headed" value="yes" checked' not in page
    assert '<option value="1" selected>' in page
    found = checked(may, content, column="1", headed="")
    assert found == b"x,ada@example.com,true,consent\ny,bob@example.com,false,opted_out\n"


def test_a_list_of_numbers_is_asked_by_text_message(rt: Served, may: Desk) -> None:
    sms = [{"channel": "sms", "purpose": "marketing", "choice": "in"}]
    rt.consent("", subject={"phone": "+447700900101"}, changes=sms)
    content = b"name,mobile\nAda,07700 900101\nBob,+447700900102\n"
    page = may.get(bring(may, content).headers["location"])
    assert '<option value="sms" selected>' in page
    found = checked(may, content, column="1", channel="sms")
    assert b"Ada,07700 900101,true,consent\nBob,+447700900102,false,no_basis\n" in found


def test_answers_are_those_of_check(rt: Served, may: Desk) -> None:
    """For topics, purposes and an unsafe system too."""
    news = [{"channel": "email", "purpose": "marketing", "topic": "news", "choice": "out"}]
    rt.say(ADA, changes=news)
    rt.runtime.database.write_now(lambda conn: marks.set_unsafe(conn, "rt/timely", 1.0))
    people = [ADA, BOB, CAT, "nobody"]
    content = "\n".join(["email", *people, ""]).encode()
    for wanted in (
        {"purpose": "marketing"},
        {"purpose": "marketing", "topic": "news"},
        {"purpose": "marketing", "via": "timely"},
        {"purpose": "reminders"},
        {"purpose": "service"},
    ):
        asked = {"brand": "rt", "channel": "email", "to": people, **wanted}
        answers = rt.post("/v1/check", asked).json()["results"]
        rows = list(csv.DictReader(io.StringIO(checked(may, content, **wanted).decode())))
        said = [(row["allowed"] == "true", row["reason"]) for row in rows]
        assert said == [(one["allowed"], one["reason"]) for one in answers]


def test_the_result_is_counted(may: Desk) -> None:
    path = bring(may, b"email\nada@example.com\nbob@example.com\n").headers["location"]
    may.post(f"{path}/check", **WANTED)
    page = may.wait(path)
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert "1 of 2 may be sent to." in text
    assert "opted out opted_out 1" in text


BAD = [
    (b"", "This file is empty"),
    (b"PK\x03\x04 and so on", "This is an Excel workbook"),
    ("email\n".encode("utf-16"), "Save it as “CSV UTF-8”"),
    (b"x" * 300_000, "A row of this file is too long"),
    (b'email\n"ada@example.com\n', "In row 2 a quotation mark is opened and never closed"),
    (b"email\rada@example.com\r", "Row 1 cannot be read"),
]


@pytest.mark.parametrize(("content", "says"), BAD)
def test_what_is_no_list_is_told_with_its_fix(may: Desk, content: bytes, says: str) -> None:
    answer = bring(may, content)
    assert answer.status_code == 422
    assert says in answer.text


def test_a_fault_far_down_names_its_row_and_leaves_nothing_to_download(may: Desk) -> None:
    content = b"email\n" + b"ada@example.com\n" * 1500 + b'"never closed\n'
    path = bring(may, content).headers["location"]
    may.post(f"{path}/check", **WANTED)
    assert "In row 1502 a quotation mark" in may.wait(path)
    assert may.ask("GET", f"{path}/download").status_code == 404


@pytest.mark.parametrize(
    "wanted",
    [
        {"column": "7"},
        {"column": "-1"},
        {"channel": "pigeon"},
        {"topic": "weather"},
        {"purpose": "reminders", "topic": "news"},
        {"purpose": "reminders", "channel": "phone"},
        {"via": "nothing"},
    ],
)
def test_what_cannot_be_asked_is_refused(may: Desk, wanted: dict[str, str]) -> None:
    path = bring(may, b"email\nada@example.com\n").headers["location"]
    assert may.post(f"{path}/check", **{**WANTED, **wanted}).status_code == 422
    assert may.ask("GET", f"{path}/download").status_code == 404


def test_without_a_file_the_page_says_so(may: Desk) -> None:
    assert "No file was chosen" in bring(may, b"", name="").text


def test_a_form_that_is_not_ours_keeps_nothing(rt: Served, may: Desk) -> None:
    assert bring(may, b"email\n", csrf="wrong").status_code == 403
    assert bring(may, b"email\n", csrf="").status_code == 403
    assert may.post("/staff/campaign").status_code == 415
    assert "None. A list that you bring" in may.get("/staff/campaign")


def test_a_list_that_is_too_large_is_refused(may: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "LARGEST", 1000)
    assert bring(may, b"email\n" + b"x@example.com\n" * 200).status_code == 413


def test_lists_are_their_brands_own(rt: Served, may: Desk) -> None:
    path = bring(may, b"email\nada@example.com\n").headers["location"]
    other = desk(rt, Role.OWNER, "ola@example.co.uk", "second")
    assert "clients.csv" not in other.get("/staff/campaign")
    assert other.ask("GET", path).status_code == 404
    assert other.post(f"{path}/check", **WANTED).status_code == 404
    assert other.post(f"{path}/drop").status_code == 404
    assert may.ask("GET", f"/staff/campaign/{'.' * 32}").status_code == 404
    assert may.get(path)


def test_a_list_is_deleted_when_asked_and_after_an_hour(rt: Served, may: Desk) -> None:
    first = bring(may, b"email\nada@example.com\n", "first.csv").headers["location"]
    second = bring(may, b"email\nada@example.com\n", "second.csv").headers["location"]
    may.post(f"{first}/drop")
    assert may.ask("GET", first).status_code == 404
    kept = rt.client.app.state.lists
    kept.sweep(time.time() + lists.KEPT - 60)
    assert may.get(second)
    kept.sweep(time.time() + lists.KEPT + 1)
    assert may.ask("GET", second).status_code == 404
    assert list(Path(tempfile.gettempdir()).glob("prefs-*/*/*")) == []


def test_nobody_else_on_the_machine_reads_a_list(may: Desk) -> None:
    bring(may, b"email\nada@example.com\n")
    (folder,) = Path(tempfile.gettempdir()).glob("prefs-*")
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o755)
    assert may.ask("GET", "/staff/campaign").status_code == 500
    folder.chmod(0o700)


def test_a_file_name_is_shown_as_text_and_is_no_header(may: Desk) -> None:
    name = 'a"; <b>x.csv'
    path = bring(may, b"email\nada@example.com\n", name).headers["location"]
    assert "<b>x" not in may.get(path)
    assert "&lt;b&gt;x.csv" in may.get(path)
    may.post(f"{path}/check", **WANTED)
    may.wait(path)
    answer = may.ask("GET", f"{path}/download")
    assert answer.headers["content-disposition"].startswith("attachment; filename")
    assert "<b>" not in answer.headers["content-disposition"]
    assert answer.headers["content-type"].startswith("text/csv")


def many(count: int) -> bytes:
    return b"n,email,x\n" + b"".join(b"%d,p%d@example.com,x\n" % (n, n) for n in range(count))


def test_a_hundred_thousand_rows(may: Desk) -> None:
    path = bring(may, many(100_000)).headers["location"]
    may.post(f"{path}/check", **{**WANTED, "column": "1"})
    assert "100,000" in may.wait(path)
    (found,) = Path(tempfile.gettempdir()).glob("*/*/*/checked.csv")
    assert found.read_bytes().count(b",false,no_basis\n") == 100_000


def test_the_list_is_never_held_whole(may: Desk) -> None:
    """Its rows as Python holds them would be some fifteen megabytes."""
    path = bring(may, many(40_000)).headers["location"]
    may.wait(path)
    tracemalloc.start()
    may.post(f"{path}/check", **{**WANTED, "column": "1"})
    may.wait(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_only_managers_check_lists(rt: Served) -> None:
    desk_of_reception = desk(rt, Role.RECEPTION, "rec@example.co.uk")
    assert desk_of_reception.ask("GET", "/staff/campaign").status_code == 403
    assert bring(desk_of_reception, b"email\n").status_code == 403
