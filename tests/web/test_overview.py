"""The overview: its numbers are those of the ledger, the receipts and `check`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from prefs import reach
from prefs.core.propagation import Outcome, Slot, Wish
from prefs.core.words import Channel
from prefs.store import ledger, marks, tally
from prefs.store.marks import Proof
from prefs.store.staff import Role
from prefs.web import pages
from tests.desk import Desk, desk
from tests.kit import Clock
from tests.served import Served, served

TARGETS = """
[brands.rt.targets.timely]
system = "timely"
mode = "live"
"""
SMS = [{"channel": "sms", "purpose": "marketing", "choice": "out"}]
LABEL = "rt/timely"


class Tables(HTMLParser):
    """Table id -> rows of cells, the heading first."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] = []
        self._within = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._rows = self.found.setdefault(str(dict(attrs).get("id")), [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._rows[-1].append("")
            self._within = True

    def handle_endtag(self, tag: str) -> None:
        self._within = self._within and tag not in ("th", "td")

    def handle_data(self, data: str) -> None:
        if self._within:
            self._rows[-1][-1] += data


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rt(tmp_path: Path, clock: Clock) -> Iterator[Served]:
    with served(tmp_path, TARGETS, clock=clock) as made:
        yield made


@pytest.fixture
def may(rt: Served) -> Desk:
    return desk(rt, Role.MANAGER, "may@example.co.uk")


def shown(one: Desk, weeks: int = 4) -> dict[str, list[list[str]]]:
    one.rt.runtime.database.write_now(ledger.seal)
    return Tables(one.get(f"/staff/overview?weeks={weeks}")).found


# --- what came in ------------------------------------------------------------------------------


def click(rt: Served, email: str) -> None:
    made = rt.post("/v1/links", {"brand": "rt", "email": email}).json()
    assert rt.client.post(made["unsubscribe"]).status_code == 200


def test_choices_are_counted_by_week_channel_and_door(rt: Served, clock: Clock) -> None:
    for number in range(3):
        rt.consent(f"p{number}@example.com")
    click(rt, "p0@example.com")
    clock.forward(tally.WEEK)
    click(rt, "p1@example.com")
    click(rt, "p1@example.com")
    rt.say("", subject={"phone": "+447700900101"}, changes=SMS, source="import")
    tables = shown(desk(rt, Role.MANAGER, "may@example.co.uk"))
    assert tables["outs"] == [
        ["Week from", "Email", "Text message", "All"],
        ["16 Feb", "0", "0", "0"],
        ["23 Feb", "0", "0", "0"],
        ["2 Mar", "1", "0", "1"],
        ["9 Mar", "1", "1", "2"],
    ]
    assert tables["ins"][3] == ["2 Mar", "3", "3"]
    assert tables["doors"][1:] == [
        ["unsubscribe button", "2", "0"],
        ["import", "1", "0"],
        ["another program", "0", "3"],
    ]


def test_what_another_brand_or_an_earlier_week_brought_is_not_counted(
    rt: Served, clock: Clock
) -> None:
    click(rt, "old@example.com")
    clock.forward(tally.WEEK * 4)
    key = rt.key_for("write", "second")
    change = {"channel": "email", "purpose": "marketing", "choice": "out"}
    body = {"subject": {"email": "x@example.com"}, "changes": [change], "source": "api"}
    rt.post(
        "/v1/preferences", {"brand": "second", **body}, headers={"Authorization": f"Bearer {key}"}
    )
    one = desk(rt, Role.MANAGER, "may@example.co.uk")
    assert "outs" not in shown(one)
    assert sum(int(row[-1]) for row in shown(one, 12)["outs"][1:]) == 1
    assert "Nothing came in during these weeks." in one.get("/staff/overview?weeks=4")


@pytest.mark.parametrize("weeks", ["", "0", "-1", "9999999999", "x", "４"])
def test_a_span_that_is_not_offered_is_the_usual_one(may: Desk, weeks: str) -> None:
    page = may.get(f"/staff/overview?weeks={weeks}")
    assert 'href="/staff/overview?weeks=12" aria-current="true"' in page


# --- how soon ----------------------------------------------------------------------------------


def honour(rt: Served, took: list[float], wish: Wish, outcome: Outcome) -> None:
    now = rt.runtime.clock().timestamp()
    proofs = [
        Proof(
            bytes([number]) * 16, Slot(wish, Channel.EMAIL), wish, outcome, None, opened_at=now - s
        )
        for number, s in enumerate(took)
    ]
    rt.runtime.database.write_now(lambda conn: marks.write_receipts(conn, LABEL, proofs, now))


def test_time_to_honoured_is_told_by_system_and_the_worst_is_not_hidden(
    rt: Served, may: Desk
) -> None:
    honour(rt, [2.0] * 97 + [50.0, 600.0, 90_000.0], Wish.OFF, Outcome.CONFIRMED)
    honour(rt, [999.0], Wish.ON, Outcome.CONFIRMED)
    honour(rt, [999.0], Wish.LEAVE, Outcome.REFUSED)
    (_, row) = shown(may)["lags"]
    assert row == ["Timely", "100", "2 secs", "2 secs", "10 mins", "25 hrs"]


def test_a_system_that_honoured_nothing_yet_says_none(may: Desk) -> None:
    assert shown(may)["lags"][1] == ["Timely", "0", "none", "none", "none", "none"]


# --- whom we may reach -------------------------------------------------------------------------


def test_shares_are_the_answers_of_check(rt: Served, may: Desk) -> None:
    rt.consent("in@example.com")
    rt.say("out@example.com", "out")
    rt.consent("both@example.com")
    click(rt, "both@example.com")
    news = [{"channel": "email", "purpose": "marketing", "topic": "news", "choice": "out"}]
    rt.say("topic@example.com", changes=news)
    rt.post("/v1/links", {"brand": "rt", "email": "a-link-makes-nobody@example.com"})
    _, email = shown(may)["reach"]
    assert email == ["Email", "25%", "50%", "25%", "0%", "4"]


def test_a_number_counts_for_texts_and_calls(rt: Served, may: Desk) -> None:
    rt.say("", subject={"phone": "+447700900101"}, changes=SMS)
    _, sms, phone = shown(may)["reach"]
    assert sms == ["Text message", "0%", "100%", "0%", "0%", "1"]
    assert phone[:5] == ["Phone call", "0%", "0%", "0%", "100%"], "nobody screened it"


def test_a_large_brand_is_sampled_and_says_so(
    rt: Served, may: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "SAMPLE", 20)
    for number in range(30):
        rt.say(f"p{number}@example.com", "out")
    _, email = shown(may)["reach"]
    assert email == ["Email", "0%", "100%", "0%", "0%", "a sample of 20"]


# --- the library -------------------------------------------------------------------------------


def test_the_chart_library_is_the_one_that_is_noted() -> None:
    folder = pages.HERE / "static" / "vendor"
    row = re.compile(r"^\| `([^`]+)` \|.*`([0-9a-f]{64})` \|$", re.MULTILINE)
    noted = dict(row.findall((folder / "README.md").read_text()))
    kept = {path.name for path in folder.iterdir() if path.suffix == ".js"}
    assert noted.keys() == kept
    for name, hash_ in noted.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == hash_
    assert (folder / "LICENSE-chart.js.md").read_text().startswith("The MIT License")


def test_the_overview_is_not_receptions(rt: Served) -> None:
    reception = desk(rt, Role.RECEPTION, "rec@example.co.uk")
    assert reception.ask("GET", "/staff/overview").status_code == 403
