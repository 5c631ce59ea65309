"""/u/{token}: a POST of whatever shape counts once it is on disk; looking changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from prefs.store import postgres, sqlite
from prefs.store.database import Database
from prefs.store.schema import ledger
from tests.empty import locked
from tests.served import PUBLIC, Served, served

ADA, PHONE = "ada@example.com", "+447700900101"


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as made:
        made.consent(ADA)
        yield made


def link(rt: Served, **who: Any) -> str:
    body = {"brand": "rt", **(who or {"email": ADA})}
    made: str = rt.post("/v1/links", body).json()["unsubscribe"]
    return made.removeprefix(PUBLIC)


def rows(rt: Served) -> int:
    def count(conn: Any) -> int:
        found: int = conn.exec_driver_sql("SELECT count(*) FROM ledger").scalar_one()
        return found

    return rt.runtime.database.read_now(count)


BODIES: list[tuple[str, bytes, dict[str, str]]] = [
    (
        "rfc8058",
        b"List-Unsubscribe=One-Click",
        {"Content-Type": "application/x-www-form-urlencoded"},
    ),
    ("empty", b"", {}),
    ("no type", b"List-Unsubscribe=One-Click", {}),
    ("multipart", b"--x\r\n\r\nnot closed", {"Content-Type": "multipart/form-data; boundary=x"}),
    ("no boundary", b"abc", {"Content-Type": "multipart/form-data"}),
    ("json", b'{"a": 1', {"Content-Type": "application/json"}),
    ("broken type", b"x", {"Content-Type": ";;;"}),
    ("bytes", bytes(range(256)), {"Content-Type": "application/octet-stream"}),
    ("large", b"x" * 200_000, {"Content-Type": "text/plain"}),
]


@pytest.mark.parametrize(
    ("content", "headers"), [b[1:] for b in BODIES], ids=[b[0] for b in BODIES]
)
def test_every_form_of_body_opts_out(rt: Served, content: bytes, headers: dict[str, str]) -> None:
    answer = rt.client.post(link(rt), content=content, headers=headers)
    assert answer.status_code == 200
    assert rt.reason(ADA) == "opted_out"
    assert "set-cookie" not in answer.headers
    assert answer.history == []


def test_a_repeat_is_a_success(rt: Served) -> None:
    path = link(rt)
    for _ in range(3):
        assert rt.client.post(path).status_code == 200
    assert rt.reason(ADA) == "opted_out"
    history = rt.get(f"/v1/subjects/{rt.say(ADA)['subject_id']}/history").json()["items"]
    assert [one["result"] for one in history if one["source"] == "one_click"] == [
        "applied",
        "unchanged",
        "unchanged",
    ]


def test_a_thousand_visits_of_scanners_change_nothing(rt: Served) -> None:
    path, before = link(rt), rows(rt)
    prefetch = {"Purpose": "prefetch", "Sec-Purpose": "prefetch;prerender"}
    for number in range(250):
        assert rt.client.get(path, headers=prefetch if number % 2 else {}).status_code == 200
        assert rt.client.head(path).status_code == 200
        assert rt.client.options(path).status_code == 204
        assert rt.client.get(path + "/all").status_code == 200
    assert rows(rt) == before
    assert rt.reason(ADA) == "consent"


def test_the_answer_comes_after_the_write_is_on_disk(
    rt: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another connection sees the row as soon as the 200 is there."""
    assert rt.client.post(link(rt)).status_code == 200
    with Database(rt.runtime.settings.database) as other:
        wanted = select(ledger.c.source).order_by(ledger.c.id.desc())
        assert other.read_now(lambda conn: conn.execute(wanted).scalar()) == "one_click"


def test_a_locked_store_is_503_with_another_way_out(
    rt: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = link(rt)
    monkeypatch.setattr("prefs.web.pages.WRITE_WITHIN", 0.3)
    with locked(rt.runtime.settings.database):
        answer = rt.client.post(path)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert "info@example.co.uk" in answer.text
        assert "STOP" in answer.text
    assert sqlite.BUSY_MS >= 5000
    assert postgres.LOCK_MS >= 5000
    assert rt.client.post(path).status_code == 200


def test_the_page_says_what_stops_and_what_goes_on(rt: Served) -> None:
    shown = rt.client.get(link(rt)).text
    assert "Stop marketing emails from RT Aesthetics?" in shown
    assert ADA not in shown
    assert "appointments go on" in shown
    done = rt.client.post(link(rt)).text
    assert "You are unsubscribed" in done
    assert "appointments go on" in done
    assert rt.reason(ADA, purpose="reminders") == "service"


def test_what_others_switched_off_can_still_be_stopped_in_person(rt: Served) -> None:
    """A list that was imported by mistake is taken back; a person's own word is not."""
    rt.say(ADA)
    path = link(rt)
    page = rt.client.get(path).text
    assert "already switched off" not in page
    assert f'<form method="post" action="{path}">' in page
    rt.client.post(path)
    assert "already switched off" in rt.client.get(path).text
    note = {"actor": "reception", "note": "the list was wrong", "wording": "Yes please"}
    now = rt.runtime.clock().isoformat()
    rt.say(ADA, "in", "staff", basis="consent", evidence=note, occurred_at=now)
    assert rt.reason(ADA) == "opted_out"


def test_a_link_of_a_topic_stops_that_topic(rt: Served) -> None:
    rt.client.post(link(rt, email=ADA, topic="offers"))
    assert rt.reason(ADA, topic="offers") == "opted_out"
    assert rt.reason(ADA) == "consent"


def test_a_link_of_reminders_stops_reminders_alone(rt: Served) -> None:
    rt.client.post(link(rt, email=ADA, purpose="reminders"))
    assert rt.reason(ADA, purpose="reminders") == "opted_out"
    assert rt.reason(ADA) == "consent"


def test_a_phones_link_stops_texts(rt: Served) -> None:
    rt.client.post(link(rt, phone=PHONE))
    assert rt.reason(PHONE, channel="sms") == "opted_out"


def test_stop_all_is_all_five_channels_of_every_brand(rt: Served) -> None:
    answer = rt.client.post(link(rt) + "/all")
    assert answer.status_code == 200
    assert "All marketing is stopped" in answer.text
    assert rt.reason(ADA) == "objected"
    assert rt.reason(ADA, purpose="reminders") == "service"
    foreign = {"Authorization": f"Bearer {rt.key_for('check', 'second')}"}
    body = {"brand": "second", "channel": "email", "purpose": "marketing", "to": [ADA]}
    results = rt.client.post("/v1/check", json=body, headers=foreign).json()["results"]
    assert results[0]["reason"] == "objected"


def test_a_link_of_somebody_unknown_makes_one_person_who_is_out(rt: Served) -> None:
    path = link(rt, email="new@example.com")
    assert rt.client.post(path).status_code == 200
    assert rt.reason("new@example.com") == "opted_out"


def test_forged_tokens_get_the_same_bytes(rt: Served) -> None:
    good = link(rt)
    centre = rt.post("/v1/links", {"brand": "rt", "email": ADA}).json()["preferences"]
    token = centre.rsplit("/", 1)[1]
    forged = [
        good[:-1] + ("A" if good[-1] != "A" else "B"),
        "/u/x",
        f"/u/{token}",
        "/u/" + "A" * 76,
    ]
    answers = [rt.client.get(path) for path in forged] + [rt.client.post(path) for path in forged]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1
    assert b'href="/p"' in answers[0].content
    assert rt.reason(ADA) == "consent"


def test_every_page_guards_itself(rt: Served) -> None:
    for answer in (rt.client.get(link(rt)), rt.client.post(link(rt)), rt.client.get("/p")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-inline" not in policy
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert "<script" not in answer.text
        assert "style=" not in answer.text
