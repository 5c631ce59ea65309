"""Today's call list: what its lines mean, whether we may, and what one key does."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefs import screening
from prefs.core.screening import Register
from prefs.store import papers, tasks
from prefs.store.staff import Role
from prefs.web.console import call_list, uploads
from tests.desk import Desk, desk, seen
from tests.kit import Clock
from tests.served import Served, served

ADA, BOB, CAT, DAN, NEW = (f"+44770090010{n}" for n in range(1, 6))
POST = [{"channel": "post", "purpose": "marketing", "choice": "out"}]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rt(tmp_path: Path, clock: Clock) -> Iterator[Served]:
    """Ada may be called, Bob objected, Cat is on the register, Dan is held."""
    with served(tmp_path, clock=clock) as made:
        people = (("Ada Lowe", ADA), ("Bob Marsh", BOB), ("Cat Pike", CAT), ("Dan Shaw", DAN))
        for name, number in people:
            subject = {"phone": number, "name": name, "ref": name[:3].lower()}
            made.say("", subject=subject, changes=POST)
        no = [{"channel": "phone", "purpose": "marketing", "choice": "out"}]
        made.say("", subject={"phone": BOB, "ref": "bob"}, changes=no)
        screen(made, tmp_path, CAT)
        yield made


@pytest.fixture
def sam(rt: Served) -> Desk:
    return desk(rt, Role.RECEPTION)


def screen(rt: Served, folder: Path, *listed: str) -> None:
    file = folder / "hits.csv"
    file.write_text("\n".join(listed))
    brand = rt.runtime.settings.brands["rt"]
    now = rt.runtime.clock()
    when = screening.when(now.isoformat(), brand, now)
    job = screening.Job(rt.runtime.service, brand, Register.TPS, when, file, False, None)
    assert screening.run(job)["done"]


def pasted(sam: Desk, rows: str) -> str:
    """Where the list is that these lines make."""
    answer = sam.ask(
        "POST",
        "/staff/calls",
        data={"csrf": sam.csrf, "rows": rows},
        files={"file": ("", b"", "application/octet-stream")},
    )
    assert answer.status_code == 303, answer.text
    found: str = answer.headers["location"]
    return found


def rows(page: str) -> list[str]:
    """The lines of a list as they are read."""
    body = re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL)
    parts = re.findall(r"<tr.*?</tr>", body[0], re.DOTALL) if body else []
    return [seen(part.replace("<", " <")).text for part in parts]


def lines(sam: Desk, text: str) -> list[str]:
    return rows(sam.get(pasted(sam, text)))


# --- what the lines mean -----------------------------------------------------------------------


def test_each_number_is_answered_with_the_reason(sam: Desk) -> None:
    found = lines(sam, f"07700 900101\n{BOB}\n{CAT}\n(07700) 900104\n0113 496 0000\n12\n")
    assert [one.split(" No more calls")[0] for one in found] == [
        f"{ADA} Ada Lowe Yes nothing speaks against it",
        f"{BOB} Bob Marsh No objected to this 2 March 2026",
        f"{CAT} Cat Pike No on the telephone preference register 2 March 2026",
        f"{DAN} Dan Shaw Yes nothing speaks against it",
        "+441134960000 not known here No not checked against the register lately",
        "12 No not a valid address or number",
    ]


def test_it_is_what_check_answers(rt: Served, sam: Desk) -> None:
    page = sam.get(pasted(sam, f"{ADA}\n{BOB}\n{CAT}\n{DAN}\n{NEW}"))
    answers = [rt.reason(number, channel="phone") for number in (ADA, BOB, CAT, DAN, NEW)]
    assert answers == [
        "legitimate_interest",
        "objected",
        "tps",
        "legitimate_interest",
        "screening_stale",
    ]
    assert "May be called: 2. May not: 3." in seen(page).text
    assert "objected to this: 1" in seen(page).text


def test_names_and_refs_lead_to_their_numbers(rt: Served, sam: Desk) -> None:
    rt.say("", subject={"phone": NEW, "ref": "ada"}, changes=POST)
    rt.say("z@example.com", subject={"email": "z@example.com", "name": "Zoe", "ref": "zoe"})
    rt.say("", subject={"phone": "+447700900201", "name": "dán SHAW", "ref": "d2"}, changes=POST)
    found = lines(sam, "bob\nAda Lowe\nDan Shaw\nZoe\nnobody at all\n")
    assert [one.split()[0] for one in found] == [BOB, ADA, NEW, "Dan", "Zoe", "nobody"]
    assert "several people are called so" in found[3]
    assert "no number is known" in found[4]
    assert "nobody is called so" in found[5]


@pytest.mark.parametrize(
    "text",
    [
        f"Name,Phone\nAda Lowe,07700 900101\nBob,{BOB}\n",
        f"name;mobile\nAda Lowe;07700 900101\nBob;{BOB}",
        f"Ada Lowe\t07700 900101\r\nBob\t{BOB}\r\n",
        f'"Lowe, Ada","07700 900101"\n"Marsh, Bob",{BOB}',
        f"Id,Born,Phone\n07700900199,01.02.1980,07700 900101\n2,1970-01-01,{BOB}",
    ],
)
def test_a_spreadsheet_may_be_pasted_or_brought(rt: Served, sam: Desk, text: str) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "cp1252"):
        page = sam.upload("/staff/calls", text.encode(encoding))
        assert [one.split()[0] for one in rows(page)] == [ADA, BOB]
    assert [one.split()[0] for one in lines(sam, text)] == [ADA, BOB]


def test_a_number_that_comes_again_is_called_once(sam: Desk) -> None:
    assert len(lines(sam, f"{ADA}\n07700 900101\nAda Lowe\nada\n{BOB}")) == 2


def test_everybody_with_a_number_by_name(rt: Served, sam: Desk) -> None:
    rt.say("z@example.com")
    rt.say("", subject={"phone": ADA, "ref": "other"}, changes=POST)
    page = sam.submit("/staff/calls/all")
    assert [one.split()[0] for one in rows(page)] == [ADA, BOB, CAT, DAN]
    assert "Ada Lowe" in rows(page)[0]


def test_what_cannot_be_a_list_is_told_with_its_fix(
    rt: Served, sam: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for nothing in ("", " \n\n", "Name,Phone\n"):
        assert "nothing to check" in sam.upload("/staff/calls", nothing.encode(), 422)
    assert "choose “Save as” and CSV" in sam.upload("/staff/calls", b"PK\x03\x04\0\0\0", 422)
    monkeypatch.setattr(call_list, "MOST", 2)
    for brought in (f"{ADA}\n{BOB}\n{CAT}", "x\n" * 5):
        assert "at most" in sam.upload("/staff/calls", brought.encode(), 422)
    assert "at most" in sam.submit("/staff/calls/all", 422)
    monkeypatch.setattr(uploads, "MOST_BYTES", 1000)
    assert "larger than" in sam.upload("/staff/calls", b"1" * 2000, 413)


def test_whoever_shares_a_number_is_named(rt: Served, sam: Desk) -> None:
    rt.say("", subject={"phone": ADA, "name": "Adam Lowe", "ref": "adam"}, changes=POST)
    (line,) = lines(sam, ADA)
    assert "Ada Lowe , Adam Lowe" in line


def test_own_consent_beats_register_and_staleness(rt: Served, sam: Desk, clock: Clock) -> None:
    yes = [{"channel": "phone", "purpose": "marketing", "choice": "in"}]
    rt.consent("", subject={"phone": CAT, "ref": "cat"}, changes=yes)
    path = pasted(sam, f"{ADA}\n{CAT}")
    assert [("Yes" in one) for one in rows(sam.get(path))] == [True, True]
    clock.forward(29 * 86400.0)
    sam.sign_in()
    path = pasted(sam, f"{ADA}\n{CAT}")
    page = sam.get(path)
    assert [("Yes" in one) for one in rows(page)] == [False, True]
    assert "not checked against the register lately" in rows(page)[0]
    assert "counted to the end of 29 March 2026" in seen(page).text


# --- one key -----------------------------------------------------------------------------------


def test_no_more_calls_from_the_list(rt: Served, sam: Desk) -> None:
    path = pasted(sam, f"{BOB}\n{ADA}\n{DAN}\n{NEW}")
    page = sam.submit(f"{path}/stop", row="1", show="all", page="1")
    assert "Recorded: no more calls" in page
    assert rt.reason(ADA, channel="phone") == "objected"
    assert rt.reason(ADA, channel="sms") == "no_basis"
    (button,) = re.findall(r"<button[^>]* autofocus>No more calls<span[^>]*> ([^<]+)", page)
    assert button == DAN
    history = rt.get(f"/v1/subjects/{subject(page, ADA)}/history").json()["items"]
    assert history[-1]["actor"] == "sam@example.co.uk"
    sam.submit(f"{path}/stop", row="3")
    assert rt.reason(NEW, channel="phone") == "objected"


def subject(page: str, number: str) -> str:
    found = re.search(rf"{re.escape(number)}.*?/staff/people/(s_\w+)", page, re.DOTALL)
    assert found
    return found[1]


def test_on_a_filtered_list_the_next_one_is_at_hand(rt: Served, sam: Desk) -> None:
    path = pasted(sam, f"{ADA}\n{BOB}\n{DAN}")
    page = sam.submit(f"{path}/stop", row="0", show="yes", page="1")
    assert [one.split()[0] for one in rows(page)] == [DAN]
    assert page.count("autofocus") == 1
    page = sam.submit(f"{path}/stop", row="2", show="yes", page="1")
    assert "No line is like this" in page


def test_it_answers_what_was_asked_about_the_same_wish(rt: Served, sam: Desk) -> None:
    page = sam.get(f"/staff/people/{subject(sam.get(pasted(sam, ADA)), ADA)}")
    action = re.findall(r'action="(/staff/people/[^"]+/record)"', page)[0]
    sam.submit(action, channel="phone", choice="hold", told="phone")
    held = lines(sam, ADA)
    assert "No on hold for staff" in held[0]
    sam.submit(f"{pasted(sam, ADA)}/stop", row="0")
    assert rt.runtime.database.read_now(lambda conn: tasks.count_open(conn, "rt")) == 0


@pytest.mark.parametrize("row", ["-1", "99", "", "x", "1"])
def test_a_line_that_is_none_stops_nobody(rt: Served, sam: Desk, row: str) -> None:
    path = pasted(sam, f"{ADA}\nnobody at all")
    sam.submit(f"{path}/stop", 422, row=row)
    assert rt.reason(ADA, channel="phone") == "legitimate_interest"


# --- to take along -----------------------------------------------------------------------------


def download(sam: Desk, path: str) -> tuple[list[dict[str, str]], str]:
    answer = sam.ask("GET", f"{path}/callable.csv")
    assert answer.status_code == 200
    text = answer.content.decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text))), answer.headers["content-disposition"]


def test_those_who_may_be_called_as_a_file(rt: Served, sam: Desk) -> None:
    path = pasted(sam, f"{ADA}\n{BOB}\n{CAT}\n{DAN}\n{NEW}\nnobody")
    found, name = download(sam, path)
    assert [(one["number"], one["name"]) for one in found] == [(ADA, "Ada Lowe"), (DAN, "Dan Shaw")]
    assert name == 'attachment; filename="calls-2026-03-02.csv"'
    sam.submit(f"{path}/stop", row="0")
    found, _ = download(sam, path)
    assert [one["number"] for one in found] == [DAN]


@pytest.mark.parametrize("name", ["=1+1", "+cmd|' /C calc'!A0", "@SUM(A1)", "-2+3", "\tx"])
def test_no_cell_is_a_formula(rt: Served, sam: Desk, name: str) -> None:
    rt.say("", subject={"phone": NEW, "name": name, "ref": "evil"}, changes=POST)
    yes = [{"channel": "phone", "purpose": "marketing", "choice": "in"}]
    rt.consent("", subject={"phone": NEW, "ref": "evil"}, changes=yes)
    found, _ = download(sam, pasted(sam, NEW))
    assert found[0]["name"][:1] not in ("=", "+", "@", "-", "\t")
    assert found[0]["number"] == NEW


def test_what_a_name_holds_is_shown_as_text(rt: Served, sam: Desk) -> None:
    attack = "<script>document.title=1</script>"
    rt.say("", subject={"phone": NEW, "name": attack, "ref": "evil"}, changes=POST)
    page = seen(sam.get(pasted(sam, f'{NEW}\nx"><img src=x onerror=x>')))
    assert page.acts == []
    assert attack in page.text
    assert 'x"><img src=x onerror=x>' in page.text


# --- whose list --------------------------------------------------------------------------------


def test_a_list_is_the_brands_and_lasts_a_day(rt: Served, sam: Desk, clock: Clock) -> None:
    path = pasted(sam, ADA)
    colleague = desk(rt, email="pat@example.co.uk")
    assert ADA in colleague.get(path)
    assert path in colleague.get("/staff/calls")
    stranger = desk(rt, email="eve@example.org", brand="foreign")
    for address in (path, f"{path}/callable.csv"):
        stranger.get(address, 404)
    stranger.submit(f"{path}/stop", 404, row="0")
    assert path not in stranger.get("/staff/calls")
    clock.forward(papers.KEEP + 1)
    sam.sign_in()
    sam.get(path, 404)
    pasted(sam, BOB)
    kept = rt.runtime.database.read_now(
        lambda conn: conn.exec_driver_sql("SELECT count(*) FROM papers").scalar_one()
    )
    assert kept == 1


def test_a_kept_list_tells_nobody_without_the_key(rt: Served, sam: Desk) -> None:
    pasted(sam, f"{ADA}\nSomebody Private")
    raw = rt.runtime.database.read_now(
        lambda conn: conn.exec_driver_sql("SELECT body FROM papers").scalar_one()
    )
    assert b"Private" not in raw
    assert ADA.encode() not in raw


def test_5000_lines_come_in_pages(rt: Served, sam: Desk) -> None:
    numbers = [f"+4477{n:08d}" for n in range(5000)]
    path = pasted(sam, "\n".join(numbers))
    page = sam.get(path)
    assert "May be called: 0. May not: 5000." in seen(page).text
    assert len(rows(page)) == 100
    assert "Page 1 of 50" in page
    last = sam.get(f"{path}?show=no&page=50")
    assert [one.split()[0] for one in rows(last)] == numbers[-100:]
    assert "Page 50 of 50" in sam.get(f"{path}?page=999999999")
    assert "Page 1 of 50" in sam.get(f"{path}?page=-1&show=nonsense")
