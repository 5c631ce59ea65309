"""A complaint becomes work with a clock; the person gets a receipt; nothing is switched by it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.kit import Clock
from tests.served import Served, served
from tests.web.people import ADA, fresh, mails, post_mail, unsubscribe, visible

PHONE = "+447700900101"
WORDS = "You sold my number.\nPlease explain."


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rt(tmp_path: Path, clock: Clock) -> Iterator[Served]:
    with served(tmp_path, clock=clock) as made:
        made.consent(ADA, subject={"email": ADA, "phone": PHONE})
        yield made


def link(rt: Served, of: str | None = None) -> str:
    """The path that a page of a token offers."""
    page = rt.client.get(of or unsubscribe(rt)).text
    (found,) = re.findall(r'href="(/complain/[^"]+)"', page)
    return str(found)


def complaints(rt: Served) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = rt.get("/v1/tasks?kind=complaint").json()["items"]
    return items


def test_it_is_work_for_staff_with_the_time_to_acknowledge(rt: Served) -> None:
    """Received on 2 March, the first of the 30 days; British summer time by then."""
    answer = rt.client.post(link(rt), data={"text": WORDS})
    assert answer.status_code == 200
    (task,) = complaints(rt)
    assert (task["body"]["text"], task["body"]["from"]) == (WORDS, ADA)
    assert task["body"]["acknowledge_by"] == "2026-03-31"
    assert datetime.fromisoformat(task["due_at"]) == datetime(2026, 3, 31, 16, tzinfo=UTC)
    assert task["subject_id"]
    assert "Your complaint has arrived" in answer.text
    assert "31 March 2026" in visible(answer.text)
    assert "You sold my number." in answer.text


def test_the_receipt_goes_out_by_mail_and_stops_the_clock(rt: Served) -> None:
    rt.client.post(link(rt), data={"text": WORDS})
    (task,) = complaints(rt)
    assert task["body"]["acknowledged_at"] is None
    post_mail(rt)
    (message,) = mails(rt)
    assert message["To"] == ADA
    assert message["Subject"] == "We have received your complaint"
    text = message.get_body(("plain",)).get_content()
    assert "2 March 2026" in text
    assert "sold my number" not in text
    (task,) = complaints(rt)
    assert task["body"]["acknowledged_at"].startswith("2026-03-02T10:00")
    assert task["state"] == "open", "the answer is still owed"


def test_the_page_sent_twice_is_one_complaint(rt: Served, clock: Clock) -> None:
    path = link(rt)
    for _ in range(3):
        assert "has arrived" in rt.client.post(path, data={"text": WORDS}).text
    rt.client.post(path, data={"text": "Another matter"})
    clock.forward(86400)
    rt.client.post(path, data={"text": WORDS})
    assert len(complaints(rt)) == 3


def test_it_switches_nothing_off_and_says_so(rt: Served) -> None:
    page = rt.client.post(link(rt), data={"text": "stop writing to me"}).text
    assert rt.reason(ADA) == "consent"
    (stop,) = re.findall(r'href="(/u/[^"]+)"', page)
    rt.client.post(stop)
    assert rt.reason(ADA) == "opted_out"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Please write what your complaint is about."),
        (" \n ", "Please write what your complaint is about."),
        ("x" * 10_001, "Please say it in up to 10,000 characters."),
    ],
)
def test_what_cannot_be_taken_is_told_with_its_fix(rt: Served, text: str, says: str) -> None:
    answer = rt.client.post(link(rt), data={"text": text})
    assert answer.status_code == 422
    assert says in visible(answer.text)
    assert text.strip() in answer.text, "nothing that was written is lost"
    assert complaints(rt) == []


def test_a_browsers_line_ends_do_not_count_twice(rt: Served) -> None:
    text = "x\r\n" * 5_000
    assert rt.client.post(link(rt), data={"text": text}).status_code == 200


def test_markup_is_shown_as_text(rt: Served) -> None:
    page = rt.client.post(link(rt), data={"text": "<script>alert(1)</script>"}).text
    assert "<script" not in page


def test_a_number_has_no_mail_and_staff_acknowledge(rt: Served) -> None:
    made = rt.post("/v1/links", {"brand": "rt", "phone": PHONE}).json()["unsubscribe"]
    answer = rt.client.post(link(rt, made), data={"text": WORDS})
    assert "receipt by email" not in answer.text
    post_mail(rt)
    assert mails(rt) == []
    (task,) = complaints(rt)
    assert (task["body"]["from"], task["body"]["acknowledged_at"]) == (PHONE, None)


def test_every_link_leads_there_and_no_other_token_does(rt: Served) -> None:
    for of in (unsubscribe(rt), fresh(rt)):
        assert rt.client.get(link(rt, of)).status_code == 200
    token = link(rt).removeprefix("/complain/")
    for path in (f"/u/{token}", f"/p/{token}", f"/c/{token}"):
        assert rt.client.get(path).status_code == 404
    other = unsubscribe(rt).removeprefix("/u/")
    assert rt.client.post(f"/complain/{other}", data={"text": WORDS}).status_code == 404
    assert complaints(rt) == []


def test_looking_is_no_complaint(rt: Served) -> None:
    path = link(rt)
    for _ in range(3):
        rt.client.get(path)
    assert complaints(rt) == []
