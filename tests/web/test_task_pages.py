"""The list of work for staff: in words, what is due first, settled as each kind allows."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefs.core.ids import subject_number
from prefs.locales import catalogues
from prefs.store import batches, papers, tasks
from prefs.store.staff import Role
from prefs.tasks import KINDS
from prefs.web.console.by_hand import KIND
from tests.desk import Desk, desk, seen
from tests.kit import Clock
from tests.served import Served, served
from tests.twins.timely import COLUMNS, TimelyTwin

AMY, PHONE = "amy@example.com", "+447700900101"
HOUR = 3600.0
TIMELY = f"""
[brands.rt.targets.timely]
system = "timely"
mode = "live"
columns = {{ {", ".join(f'{ours} = "{theirs}"' for ours, theirs in COLUMNS.items())} }}
[brands.rt.targets.list]
system = "mailchimp"
mode = "observe"
base_url = "http://127.0.0.1:9"
api_key = "env:MAILCHIMP"
audiences = {{ a1 = ["treatments"] }}
"""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rt(tmp_path: Path, clock: Clock) -> Iterator[Served]:
    with served(tmp_path, TIMELY, environ={"MAILCHIMP": "a-us6"}, clock=clock) as made:
        yield made


@pytest.fixture
def sam(rt: Served) -> Desk:
    return desk(rt, Role.RECEPTION)


def add(rt: Served, kind: str, who: str | None = None, due: float = HOUR, /, **body: Any) -> int:
    runtime = rt.runtime
    now = runtime.clock().timestamp()
    subject = subject_number(who) if who else None
    return runtime.database.write_now(
        lambda conn: tasks.add(conn, runtime.keys, "rt", kind, subject, body, now, now + due)
    )


def amy(rt: Served) -> str:
    subject = {"email": AMY, "phone": PHONE, "name": "Amy Pond"}
    found: str = rt.consent(AMY, subject=subject)["subject_id"]
    return found


def articles(page: str) -> list[str]:
    return [
        seen(one.replace("<", " <")).text
        for one in re.findall(r"<article.*?</article>", page, re.DOTALL)
    ]


# --- in words ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_is_told_in_the_words_of_the_program(kind: str) -> None:
    texts = catalogues()["en"]
    assert texts[f"task.{kind}.what"] == KINDS[kind].what
    assert texts[f"task.{kind}"]
    for state in KINDS[kind].states:
        assert f"task.{kind}.as.{state}" in texts or f"task.as.{state}" in texts


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_has_its_ways_and_no_other(rt: Served, kind: str) -> None:
    kim = desk(rt, Role.MANAGER, "kim@example.co.uk")
    add(rt, kind, target="rt/timely", text="x", channel="email")
    page = kim.get(f"/staff/tasks?kind={kind}")
    assert re.findall(r'<button class="plain" name="state" value="(\w+)"', page) == list(
        KINDS[kind].states
    )
    (told,) = articles(page)
    assert KINDS[kind].what in told


def test_what_is_overdue_stands_first_and_is_marked(rt: Served, sam: Desk) -> None:
    for kind, due in (("held_mail", 2 * HOUR), ("refused", -HOUR), ("held_text", HOUR)):
        add(rt, kind, None, due, channel="email", target="rt/list", set_to="off")
    found = articles(sam.get("/staff/tasks"))
    assert [
        one.startswith(t)
        for one, t in zip(
            found, ("Refused by a system", "A text message", "A mail to read"), strict=True
        )
    ] == [True] * 3
    assert ["Overdue" in one for one in found] == [True, False, False]


def test_a_task_tells_what_is_asked_of_whom_and_where(rt: Served, sam: Desk) -> None:
    who = amy(rt)
    body = {"target": "rt/timely", "channel": "email", "set_to": "off", "email": AMY}
    add(rt, "timely_change", who, instruction="Customer, Edit, Notifications", **body)
    add(rt, "held_text", who, text="stop it\nplease", number=PHONE, sender="MG1")
    page = sam.get("/staff/tasks")
    (text,) = articles(page)
    (change,) = articles(sam.get("/staff/tasks?kind=timely_change"))
    assert "Timely" in change
    assert "Email: switch marketing off" in change
    assert "Customer, Edit, Notifications" in change
    assert "Amy Pond" in change
    assert f"Number {PHONE}" in text
    assert "stop it please" in text
    assert f'href="/staff/people/{who}"' in page


def test_what_is_carried_as_a_list_stands_first_and_hides_nothing_else(
    rt: Served, sam: Desk
) -> None:
    """Eighty customers to change at once would push a complaint to the third page."""
    for _ in range(40):
        change(rt, amy(rt))
    add(rt, "held_text", None, text="stop it", number=PHONE)
    page = sam.get("/staff/tasks")
    (text,) = articles(page)
    assert "stop it" in text
    shown = seen(page).text
    assert shown.index("Waiting: 40.") < shown.index("stop it")
    assert "Page 1 of" not in shown
    assert len(articles(sam.get("/staff/tasks?kind=timely_change"))) == 30
    assert len(articles(sam.get("/staff/tasks?state=settled"))) == 0


def test_the_navigation_counts_what_is_open(rt: Served, sam: Desk) -> None:
    assert 'class="count"' not in sam.get("/staff")
    ids = [add(rt, "rights_request", text="x") for _ in range(3)]
    assert re.search(r'class="count"[^>]*>3<', sam.get("/staff"))
    sam.submit(f"/staff/tasks/{ids[0]}/settle", state="done", note="sent")
    assert re.search(r'class="count"[^>]*>2<', sam.get("/staff"))


def test_it_is_filtered_by_kind_and_state(rt: Served, sam: Desk) -> None:
    id_ = add(rt, "rights_request", text="my data")
    add(rt, "held_text", text="hm")
    assert len(articles(sam.get("/staff/tasks?kind=held_text"))) == 1
    assert articles(sam.get("/staff/tasks?state=settled")) == []
    sam.submit(f"/staff/tasks/{id_}/settle", state="done", note="sent by post")
    (one,) = articles(sam.get("/staff/tasks?state=settled"))
    assert "sent by post sam@example.co.uk" in one
    assert len(articles(sam.get("/staff/tasks?kind=nonsense&state=nonsense&page=x"))) == 1
    assert "Nothing waits" in sam.get("/staff/tasks?kind=rights_request")


def test_many_come_in_pages(rt: Served, sam: Desk) -> None:
    for n in range(65):
        add(rt, "rights_request", None, HOUR + n, text=f"number {n}.")
    assert "Page 1 of 3" in sam.get("/staff/tasks")
    last = articles(sam.get("/staff/tasks?kind=rights_request&page=3"))
    assert len(last) == 5
    assert "number 64." in last[-1]


def test_another_brands_work_is_nobodys(rt: Served) -> None:
    id_ = add(rt, "rights_request", text="private")
    stranger = desk(rt, Role.OWNER, "eve@example.org", "foreign")
    assert "private" not in stranger.get("/staff/tasks")
    stranger.submit(f"/staff/tasks/{id_}/settle", 404, state="done", note="x")
    stranger.get("/staff/changes/timely/list.csv", 404)


@pytest.mark.parametrize("name", ["text", "instruction", "from", "subject", "name", "hint"])
def test_what_vendors_and_senders_wrote_is_shown_as_text(rt: Served, sam: Desk, name: str) -> None:
    attack = "<script>alert(1)</script><img src=x onerror=alert(1)>{{ 7*7 }}\u202e"
    id_ = add(rt, "held_mail", **{name: attack, "target": f"rt/{attack}"})
    page = seen(sam.get("/staff/tasks"))
    assert page.acts == []
    assert page.text.count("<script>alert(1)</script><img src=x onerror=alert(1)>{{ 7*7 }}") == 2
    sam.submit(f"/staff/tasks/{id_}/settle", 422, state="out", note=attack)


# --- settling ----------------------------------------------------------------------------------


def test_a_text_that_meant_stop_is_an_out_by_name(rt: Served, sam: Desk) -> None:
    who = amy(rt)
    id_ = add(rt, "held_text", who, text="hm", number=PHONE)
    sam.submit(f"/staff/tasks/{id_}/settle", 422, state="out", note="  ")
    assert "Settled." in sam.submit(f"/staff/tasks/{id_}/settle", state="out", note="rang her")
    assert rt.reason(PHONE, channel="sms") == "opted_out"
    assert rt.reason(AMY) == "consent"
    row = rt.get(f"/v1/subjects/{who}/history").json()["items"][-1]
    assert (row["actor"], row["evidence"]["note"]) == ("sam@example.co.uk", "rang her")
    sam.submit(f"/staff/tasks/{id_}/settle", 409, state="out", note="again")


def test_a_text_of_a_shared_number_stops_it_for_all(rt: Served, sam: Desk) -> None:
    """Nobody can tell which of them wrote it."""
    for ref in ("one", "two"):
        sms = [{"channel": "sms", "purpose": "marketing", "choice": "in"}]
        rt.consent("", subject={"phone": PHONE, "ref": ref}, changes=sms)
    id_ = add(rt, "held_text", text="hm", number=PHONE)
    assert rt.reason(PHONE, channel="sms") == "consent"
    sam.submit(f"/staff/tasks/{id_}/settle", state="out", note="rang")
    assert rt.reason(PHONE, channel="sms") == "opted_out"
    assert rt.reason({"ref": "two"}, channel="sms") == "opted_out"


@pytest.mark.parametrize("state", ["nonsense", "", "release"])
def test_no_way_but_its_own(rt: Served, sam: Desk, state: str) -> None:
    id_ = add(rt, "rights_request", text="x")
    sam.submit(f"/staff/tasks/{id_}/settle", 422, state=state, note="x")
    assert rt.runtime.database.read_now(lambda conn: tasks.count_open(conn, "rt")) == 1


@pytest.mark.parametrize("id_", ["0", "x", "9" * 30, "-1"])
def test_a_task_that_is_none(sam: Desk, id_: str) -> None:
    sam.submit(f"/staff/tasks/{id_}/settle", 404, state="done", note="x")


def test_what_is_about_many_is_for_managers(rt: Served, sam: Desk) -> None:
    now = rt.runtime.clock().timestamp()
    batch = rt.runtime.database.write_now(lambda conn: batches.join(conn, "rt", "rt/list", now))
    id_ = add(rt, "batch", batch=batch.label, origin="rt/list", limit=50)
    assert 'name="state"' not in sam.get("/staff/tasks?kind=batch").split("<article", 1)[1]
    sam.submit(f"/staff/tasks/{id_}/settle", 403, state="done", note="go on")
    kim = desk(rt, Role.MANAGER, "kim@example.co.uk")
    kim.submit(f"/staff/tasks/{id_}/settle", state="done", note="it is meant")
    released = rt.runtime.database.read_now(lambda conn: batches.by_label(conn, batch.label))
    assert released.state == batches.RELEASED


def test_enter_chooses_nothing_where_there_is_a_choice(rt: Served, sam: Desk) -> None:
    add(rt, "held_text", text="x")
    page = sam.get("/staff/tasks")
    form = page.split('class="settle"', 1)[1]
    assert re.findall(r"<button[^>]*>", form)[0] == '<button type="submit" disabled hidden>'


# --- by hand -----------------------------------------------------------------------------------


@pytest.fixture
def twin() -> TimelyTwin:
    made = TimelyTwin()
    made.new_customer("7", "Amy", "Pond", AMY, "7700900101")
    return made


def change(rt: Served, who: str, target: str = "rt/timely") -> int:
    body = {"target": target, "channel": "email", "set_to": "off", "email": AMY}
    return add(rt, "timely_change", who, first_name="Amy", last_name="=Pond", **body)


def taken_along(sam: Desk) -> list[dict[str, str]]:
    answer = sam.ask("GET", "/staff/changes/timely/list.csv")
    assert answer.headers["content-disposition"].endswith('filename="timely-2026-03-02.csv"')
    return list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))


def test_the_list_to_take_along_holds_what_is_open_there(rt: Served, sam: Desk) -> None:
    who = amy(rt)
    id_ = change(rt, who)
    change(rt, who, "rt/other")
    add(rt, "refused", who, target="rt/timely", channel="email", set_to="off")
    (row,) = taken_along(sam)
    assert (row["task_id"], row["email"], row["set_to"]) == (str(id_), AMY, "off")
    assert (row["keep_reminders"], row["last_name"]) == ("yes", "'=Pond")
    sam.get("/staff/changes/list/list.csv", 404)


def test_ticks_count_and_nothing_else_does(rt: Served, sam: Desk) -> None:
    who = amy(rt)
    done, left = change(rt, who), change(rt, who)
    rows = taken_along(sam)
    rows[0] |= {"done_at": "2026-03-02", "done_by": "Clara", "note": "done"}
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    page = sam.upload("/staff/changes/timely", out.getvalue().encode("utf-8-sig"))
    assert "Ticked as done: 1" in page
    rows_now = rt.runtime.database.read_now(
        lambda conn: {id_: tasks.one(conn, "rt", id_) for id_ in (done, left)}
    )
    states = {id_: row.state for id_, row in rows_now.items() if row}
    assert states == {done: "done", left: "open"}


def test_an_export_is_compared_first_and_taken_in_by_a_yes(
    rt: Served, sam: Desk, twin: TimelyTwin
) -> None:
    amy(rt)
    twin.staff_sets("7", "email", False)
    page = sam.upload("/staff/changes/timely", twin.export())
    assert "Nothing is changed yet" in page
    assert "Off there and not here: 1" in page
    assert AMY not in page
    assert rt.reason(AMY) == "consent"
    (paper,) = re.findall(r'name="paper" value="(\w+)"', page)
    stranger = desk(rt, Role.OWNER, "eve@example.org", "foreign")
    stranger.submit("/staff/changes/timely/take", 404, paper=paper)
    assert "Taken in: 1" in sam.submit("/staff/changes/timely/take", paper=paper)
    assert rt.reason(AMY) == "opted_out"
    sam.submit("/staff/changes/timely/take", 404, paper=paper)
    kept = rt.runtime.database.read_now(lambda conn: papers.listed(conn, "rt", KIND, 0.0))
    assert kept == []


@pytest.mark.parametrize(
    ("data", "says"), [(b"", "choose a file"), (b"Email,Mobile\n", "lacks the column")]
)
def test_a_wrong_file_is_told_with_its_fix(rt: Served, sam: Desk, data: bytes, says: str) -> None:
    assert says in sam.upload("/staff/changes/timely", data, 422)
    sam.upload("/staff/changes/list", b"x", 404)


def test_no_file_counts_without_its_token(rt: Served, sam: Desk, twin: TimelyTwin) -> None:
    files = {"file": ("a.csv", twin.export())}
    answer = sam.ask("POST", "/staff/changes/timely", data={"csrf": "no"}, files=files)
    assert answer.status_code == 403
    kept = rt.runtime.database.read_now(lambda conn: papers.listed(conn, "rt", KIND, 0.0))
    assert kept == []
