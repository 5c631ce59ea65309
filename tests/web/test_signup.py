"""Signing up by a plain form: the notice, its proof, the mailed link, and what strangers learn."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefs.mailer import Mailer
from tests.kit import Clock
from tests.served import PUBLIC, Served, served
from tests.web.people import ADA, form, forms, fresh, mails, post_mail, unsubscribe, visible

NEW, PHONE = "new@example.com", "+447700900105"
PATH = "/signup?brand=rt"
LETTER = {"name": "Nora New", "address": "12 Mill Lane\r\nLeeds", "postcode": "LS1 4AB"}
TO = {"name": "Nora New", "lines": ["12 Mill Lane", "Leeds"], "postcode": "LS1 4AB"}
POST = [{"channel": "post", "purpose": "marketing", "choice": "out"}]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rt(tmp_path: Path, clock: Clock) -> Iterator[Served]:
    with served(tmp_path, clock=clock) as made:
        yield made


def fields(rt: Served, **more: str) -> dict[str, str]:
    """The form as the page has it, filled in."""
    _, untouched = form(rt.client.get(PATH).text, "website")
    return {**untouched, "email": NEW, "choice:email:*": "in", **more}


def sign_up(rt: Served, **more: str) -> Any:
    answer = rt.client.post(PATH, data=fields(rt, **more))
    post_mail(rt)
    return answer


def history(rt: Served, **who: str) -> list[dict[str, Any]]:
    found = rt.post("/v1/subjects/search", {"brand": "rt", **who}).json()["items"]
    items: list[dict[str, Any]] = []
    for one in found:
        items += rt.get(f"/v1/subjects/{one['subject_id']}/history").json()["items"]
    return items


def confirm_path(rt: Served) -> str:
    (found,) = re.findall(r"(/c/\S+)", mails(rt)[-1].get_body(("plain",)).get_content())
    return str(found)


# --- the form ----------------------------------------------------------------------------------


def test_no_box_is_ticked_and_the_notice_stands_beside_them(rt: Served) -> None:
    page = rt.client.get(PATH).text
    boxes = re.findall(r'<input type="checkbox" name="([^"]+)" value="in"( checked)?>', page)
    assert [name for name, _ in boxes if name.startswith("choice")] == [
        "choice:email:*",
        "choice:sms:*",
        "choice:phone:*",
        "choice:post:*",
    ]
    assert {checked for _, checked in boxes} == {""}
    said = visible(page)
    assert "marketing from RT Aesthetics (RT Aesthetics Ltd)" in said
    assert "I can stop it at any time" in said
    assert 'href="https://example.co.uk/privacy"' in page


def test_it_counts_once_the_mailed_link_was_used(rt: Served) -> None:
    assert "Thank you" in sign_up(rt).text
    assert rt.reason(NEW) == "unconfirmed"
    path = confirm_path(rt)
    rt.client.get(path)
    assert rt.reason(NEW) == "unconfirmed"
    assert "it is confirmed" in rt.client.post(path).text
    assert rt.reason(NEW) == "consent"


def test_wording_version_language_page_and_time_go_to_the_ledger(rt: Served, clock: Clock) -> None:
    said = clock.at
    answer = rt.client.post(PATH, data=fields(rt, page="https://clinic.example/news?me=1#form"))
    assert answer.status_code == 200
    clock.forward(120)
    post_mail(rt)
    (row,) = history(rt, email=NEW)
    proof = row["evidence"]
    assert (row["source"], row["result"]) == ("form", "pending")
    assert row["occurred_at"].startswith(said.strftime("%Y-%m-%dT%H:%M"))
    assert "I would like to receive marketing from RT Aesthetics" in proof["wording"]
    assert proof["wording"].splitlines()[1:] == [
        "About some topics only? Tick them. Tick none for all.",
        "Email",
    ]
    assert proof["language"] == "en"
    assert proof["notice"] == f"signup en {proof['version']}"
    assert proof["page"] == "https://clinic.example/news"
    rt.client.post(confirm_path(rt))
    confirmed = history(rt, email=NEW)[-1]["evidence"]
    assert "Somebody signed up with your address" in confirmed["wording"]
    assert confirmed["language"] == "en"


def test_topics_narrow_every_channel_and_one_link_confirms_all(rt: Served) -> None:
    sign_up(rt, **{"topic:offers": "in", "topic:news": "in"})
    (message,) = mails(rt)
    text = message.get_body(("plain",)).get_content()
    assert "emails about “Special offers”" in text
    assert "emails about “News and advice”" in text
    page = rt.client.get(confirm_path(rt)).text
    assert "“Special offers”" in page
    assert "“News and advice”" in page
    rt.client.post(confirm_path(rt))
    assert rt.reason(NEW, topic="offers") == rt.reason(NEW, topic="news") == "consent"
    assert rt.reason(NEW, topic="products") == rt.reason(NEW) == "no_basis"


def test_a_number_is_asked_by_staff_and_no_link_confirms_it(rt: Served) -> None:
    for _ in range(2):
        sign_up(rt, phone="07700 900105", **{"choice:sms:*": "in"})
    assert rt.reason(PHONE, channel="sms") == "unconfirmed"
    rt.client.post(confirm_path(rt))
    assert rt.reason(NEW) == "consent"
    assert rt.reason(PHONE, channel="sms") == "unconfirmed"
    (task,) = rt.get("/v1/tasks?kind=signup_number").json()["items"]
    assert task["body"] == {"number": PHONE}


def test_post_counts_at_once_with_its_proof(rt: Served) -> None:
    sign_up(rt, **LETTER, **{"choice:post:*": "in", "topic:offers": "in"})
    assert rt.reason(TO, channel="post", topic="offers") == "consent"
    assert rt.reason(TO, channel="post", topic="news") == "screening_stale"
    (row,) = [one for one in history(rt, name="Nora New") if one["channel"] == "post"]
    assert (row["source"], row["result"]) == ("form", "applied")
    assert row["evidence"]["wording"].endswith("\nPost, Special offers")
    assert rt.reason(NEW, topic="offers") == "unconfirmed", "the address by mail is another person"


def test_staff_ask_who_had_said_no_to_post(rt: Served, clock: Clock) -> None:
    rt.say("", subject={"post": TO}, changes=POST)
    clock.forward(1)
    for _ in range(2):
        sign_up(rt, **LETTER, **{"choice:post:*": "in"})
    assert rt.reason(TO, channel="post") == "objected"
    (task,) = rt.get("/v1/tasks?kind=signup_address").json()["items"]
    assert task["body"]["text"].splitlines()[:2] == ["Nora New", "12 Mill Lane"]


def test_the_proof_is_what_stood_there_when_it_was_sent(rt: Served, tmp_path: Path) -> None:
    """Texts may change before the outbox is worked through."""
    rt.client.post(PATH, data=fields(rt, **{"topic:offers": "in"}))
    extra = '[brands.rt.topics]\noffers = "Other words"\n'
    with served(tmp_path, extra) as later:
        post_mail(later)
        (row,) = history(later, email=NEW)
        assert row["evidence"]["wording"].endswith("\nEmail, Special offers")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"email": ""}, "Please write your email address"),
        ({"email": "no address"}, "Please write your email address"),
        ({"choice:email:*": ""}, "Please tick at least one way."),
        ({"choice:sms:*": "in"}, "Please write your phone number"),
        ({"choice:sms:*": "in", "phone": "12"}, "Please write your phone number"),
        ({"choice:post:*": "in"}, "For post, please write your name"),
        ({"choice:post:*": "in", **LETTER, "name": ""}, "For post, please write your name"),
        ({"choice:post:*": "in", **LETTER, "postcode": ""}, "For post, please write your name"),
        ({"topic:weddings": "in"}, "The form you filled in is out of date."),
        ({"version": "000000000000"}, "The form you filled in is out of date."),
        ({"version": ""}, "The form you filled in is out of date."),
    ],
)
def test_what_cannot_be_taken_is_told_with_its_fix(
    rt: Served, more: dict[str, str], says: str
) -> None:
    answer = sign_up(rt, **more)
    assert answer.status_code == 422
    assert says in visible(answer.text)
    _, again = form(answer.text, "website")
    assert again["email"] == more.get("email", NEW)
    assert again["version"] == fields(rt)["version"]
    assert history(rt, email=NEW) == []


def test_a_form_with_earlier_words_of_ours_is_proof_of_those(rt: Served, tmp_path: Path) -> None:
    """The clinic's site still has the form of last year."""
    earlier = fields(rt)
    sign_up(rt)
    extra = '[brands.rt.texts]\n"signup.notice" = "New words of {brand} and {controller}"\n'
    with served(tmp_path, extra) as later:
        assert fields(later)["version"] != earlier["version"]
        answer = later.client.post(PATH, data={**earlier, "email": "late@example.com"})
        assert answer.status_code == 200
        post_mail(later)
        (row,) = history(later, email="late@example.com")
        assert row["evidence"]["wording"].startswith("I would like to receive marketing")
        assert row["evidence"]["version"] == earlier["version"]


# --- strangers ---------------------------------------------------------------------------------


def test_the_answer_is_the_same_whoever_is_named(rt: Served) -> None:
    rt.consent(ADA)
    rt.say("out@example.com")
    answers = [sign_up(rt, email=one) for one in (ADA, "out@example.com", NEW)]
    trapped = sign_up(rt, website="https://spam.example")
    assert len({answer.content for answer in [*answers, trapped]}) == 1
    assert {answer.status_code for answer in answers} == {200}


def test_the_field_that_nobody_sees_keeps_programs_out(rt: Served) -> None:
    page = rt.client.get(PATH).text
    assert re.search(r"<div hidden>.{0,200}name=\"website\"", page, re.DOTALL)
    sign_up(rt, website="https://spam.example")
    assert history(rt, email=NEW) == []
    assert mails(rt) == []


def test_one_address_is_mailed_three_times_a_day_and_once_where_it_is_out(rt: Served) -> None:
    for _ in range(5):
        sign_up(rt)
    assert len(mails(rt)) == 3
    assert len(history(rt, email=NEW)) == 3, "and no more is written down"
    rt.say("out@example.com")
    for _ in range(3):
        sign_up(rt, email="out@example.com")
    assert len(mails(rt)) == 4


@pytest.mark.parametrize("known", [True, False])
def test_a_stranger_cannot_hang_an_address_on_the_owner_of_a_number(
    rt: Served, clock: Clock, *, known: bool
) -> None:
    """Eve knows Ada's number, and would read Ada's data, and lift her STOP, by links mailed to her
    own address: also where Ada comes to be known later."""
    if known:
        rt.consent(ADA, subject={"email": ADA, "phone": PHONE})
    sign_up(rt, email="eve@example.com", phone=PHONE, **{"choice:sms:*": "in"})
    sms = [{"channel": "sms", "purpose": "marketing", "choice": "out"}]
    rt.say("", subject={"phone": PHONE}, changes=sms)
    clock.forward(1)
    sign_up(rt, email="eve@example.com", phone=PHONE, **{"choice:sms:*": "in"})
    rt.client.post(confirm_path(rt))
    path = fresh(rt, "eve@example.com")
    rt.client.post(path, data={"shown": "choice:sms:*=off", "choice:sms:*": "in"})
    assert rt.reason(PHONE, channel="sms") == "opted_out"
    shown = visible(rt.client.get(path + "/data").text)
    assert "e•••@e•••.com" in shown
    assert "a•••@e•••.com" not in shown
    assert "••105" not in shown


def test_who_was_out_comes_back_by_the_mailed_link_alone(rt: Served, clock: Clock) -> None:
    rt.consent(NEW)
    rt.client.post(unsubscribe(rt, NEW))
    clock.forward(1)
    sign_up(rt)
    assert rt.reason(NEW) == "opted_out"
    rt.client.post(confirm_path(rt))
    assert rt.reason(NEW) == "consent"


def test_a_name_is_kept_of_somebody_new_only(rt: Served) -> None:
    rt.consent(ADA)
    sign_up(rt, email=ADA, name="Mallory")
    sign_up(rt, name="Nora New")
    names = [
        rt.post("/v1/subjects/search", {"brand": "rt", "email": one}).json()["items"][0]["name"]
        for one in (ADA, NEW)
    ]
    assert names == [None, "Nora New"]


# --- other sites -------------------------------------------------------------------------------


def test_the_form_to_copy_posts_to_us_from_anywhere(rt: Served) -> None:
    answer = rt.client.get("/signup/form?brand=rt")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["x-content-type-options"] == "nosniff"
    ((action, untouched),) = forms(answer.text)
    assert action == f"{PUBLIC}/signup?brand=rt"
    assert not re.search(r"<script|style=|class=\"trap", answer.text)
    posted = {**untouched, "email": NEW, "choice:email:*": "in"}
    headers = {"Origin": "https://clinic.example", "Referer": "https://clinic.example/"}
    done = rt.client.post(action, data=posted, headers=headers)
    assert done.status_code == 200
    assert "set-cookie" not in done.headers
    post_mail(rt)
    (row,) = history(rt, email=NEW)
    assert row["evidence"]["page"] == "https://clinic.example/"


def test_a_form_of_no_brand_is_not_served_where_there_are_several(rt: Served) -> None:
    for path in ("/signup", "/signup?brand=nobody", "/signup/form"):
        assert rt.client.get(path).status_code == 404
    assert rt.client.post("/signup?brand=nobody", data=fields(rt)).status_code == 404


def test_a_damaged_form_leads_back_to_the_brands_own(rt: Served) -> None:
    for path in (PATH, "/p?brand=rt"):
        answer = rt.client.post(path, content=b"x" * 70_000)
        assert answer.status_code == 413
        assert f'<a href="{path}">' in answer.text


def test_without_a_way_to_send_mail_a_sign_up_is_kept_and_nothing_else_is_done(rt: Served) -> None:
    rt.client.post(PATH, data=fields(rt))
    rt.client.post("/p?brand=rt", data={"email": NEW})
    service = rt.runtime.service
    mute = replace(service, settings=replace(service.settings, mail=None))
    rt.client.portal.call(Mailer(mute).run)
    assert rt.reason(NEW) == "unconfirmed"
    assert mails(rt) == []
    post_mail(rt)
    assert len(mails(rt)) == 2, "once there is one, what waited goes out"


def test_a_sign_up_is_not_lost_between_two_processes(rt: Served, tmp_path: Path) -> None:
    rt.client.post(PATH, data=fields(rt))
    assert history(rt, email=NEW) == []
    with served(tmp_path) as again:
        post_mail(again)
        assert again.reason(NEW) == "unconfirmed"
