"""What we hold about you: by a fresh link of one person, masked, with the words agreed to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import Clock
from tests.served import Served, served
from tests.web.people import ADA, footer, form, fresh, mails, post_mail, unsubscribe, visible

PHONE = "+447700900101"
MAILCHIMP = """
[brands.rt.targets.mailchimp]
system = "mailchimp"
mode = "live"
base_url = "http://127.0.0.1:9"
api_key = "env:KEY"
audiences = { a1 = ["treatments", "offers"] }
"""


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Served]:
    clock = Clock()
    with served(tmp_path, MAILCHIMP, environ={"KEY": "abc-us6"}, clock=clock) as made:
        made.consent(ADA, subject={"email": ADA, "phone": PHONE, "name": "Ada Lowe"})
        made.client.post(unsubscribe(made))
        clock.forward(1)
        yield made


def page(rt: Served, path: str) -> str:
    answer = rt.client.get(f"{path}/data")
    assert answer.status_code == 200
    text: str = answer.text
    return text


def test_it_shows_what_was_said_when_by_which_door_and_in_which_words(rt: Served) -> None:
    said = visible(page(rt, fresh(rt)))
    assert "marketing emails: on (RT Aesthetics, by: another program)" in said
    assert "Yes please" in said
    assert "marketing emails: off (RT Aesthetics, by: unsubscribe button)" in said
    assert said.index("off (RT") < said.index("on (RT"), "the newest first"
    assert "2 Mar 2026, 10:00" in said
    assert "Mailchimp, Email: is being told" in said


def test_addresses_are_masked_and_the_name_is_initials(rt: Served) -> None:
    text = page(rt, fresh(rt))
    assert "a•••@e•••.com" in text
    assert "+44 •••• ••101" in text
    assert "A. L." in text
    assert not any(one in text for one in (ADA, PHONE, "Lowe"))


def test_other_people_and_other_controllers_are_not_in_it(rt: Served) -> None:
    rt.say("eve@example.com", "in", basis="consent", evidence={"wording": "Eve's own words"})
    assert "Eve" not in page(rt, fresh(rt))


def test_a_footer_link_shows_nothing_and_mails_a_fresh_one(rt: Served) -> None:
    path = footer(rt)
    text = page(rt, path)
    assert "you need a personal link" in visible(text)
    assert "Yes please" not in text
    before = len(mails(rt))
    where, fields = form(text, "shown")
    rt.client.post(where, data=fields)
    post_mail(rt)
    assert len(mails(rt)) == before + 1


def test_the_link_of_a_shared_address_shows_nobodys_data(rt: Served) -> None:
    for ref in ("ann", "ben"):
        rt.consent("", subject={"email": "both@example.com", "ref": ref})
    said = visible(page(rt, fresh(rt, "both@example.com")))
    assert "Several people use this address" in said
    assert "by: another program" not in said


def test_a_link_of_somebody_who_gave_the_address_up_shows_nothing_of_the_next(rt: Served) -> None:
    path = fresh(rt)
    rt.runtime.database.write_now(lambda conn: conn.exec_driver_sql("DELETE FROM links"))
    rt.say(ADA, "in", basis="consent", evidence={"wording": "The next one's words"})
    text = page(rt, path)
    assert "The next one" not in text
    assert "you need a personal link" in visible(text)
    assert "reminders:email" not in rt.client.get(path).text


def test_an_address_of_nobody_is_held_alone(rt: Served) -> None:
    rt.post("/v1/links", {"brand": "rt", "email": "new@example.com"})
    said = visible(page(rt, fresh(rt, "new@example.com")))
    assert "n•••@e•••.com" in said
    assert "None: your choices are kept here alone." in said
