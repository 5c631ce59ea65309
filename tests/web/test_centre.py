"""The preference centre: a save is a full statement of what the page showed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import Clock
from tests.served import Served, served
from tests.web.people import ADA, footer, fresh, mails, post_mail, shown, visible
from tests.web.people import form as form_with

PHONE = "+447700900101"


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as made:
        made.consent(ADA, subject={"email": ADA, "phone": "+447700900101"})
        yield made


def choices(rt: Served) -> dict[str, str]:
    (one,) = rt.post("/v1/subjects/search", {"brand": "rt", "email": ADA}).json()["items"]
    person = rt.get(f"/v1/subjects/{one['subject_id']}").json()
    return {
        f"{c['channel']}:{c['purpose']}:{c['topic'] or '*'}": f"{c['choice']} {c['source']}"
        for c in person["choices"]
    }


def test_saving_what_was_shown_changes_nothing(rt: Served) -> None:
    path = fresh(rt)
    before = choices(rt)
    assert rt.client.post(path, data=shown(rt, path)).status_code == 200
    after = choices(rt)
    assert rt.reason(ADA) == "consent"
    assert {k: v for k, v in after.items() if v.startswith("in")}.keys() == before.keys()
    assert rt.reason("+442079460018", channel="phone") == "screening_stale"


def test_unticking_a_channel_is_an_out_that_covers_its_topics(rt: Served) -> None:
    path = fresh(rt)
    form = shown(rt, path)
    del form["choice:email:*"]
    assert "Your preferences are saved" in rt.client.post(path, data=form).text
    assert rt.reason(ADA) == "opted_out"
    assert rt.reason(ADA, topic="offers") == "opted_out"
    assert choices(rt)["email:marketing:*"] == "out centre"


def test_unticking_a_topic_leaves_the_channel(rt: Served) -> None:
    path = fresh(rt)
    form = shown(rt, path)
    del form["choice:email:offers"]
    rt.client.post(path, data=form)
    assert rt.reason(ADA, topic="offers") == "opted_out"
    assert rt.reason(ADA) == "consent"


def test_a_fresh_link_switches_on_what_the_person_had_switched_off(rt: Served) -> None:
    rt.client.post(rt.post("/v1/links", {"brand": "rt", "email": ADA}).json()["unsubscribe"])
    assert rt.reason(ADA) == "opted_out"
    path = fresh(rt)
    form = shown(rt, path)
    assert "choice:email:*" not in form
    rt.client.post(path, data={**form, "choice:email:*": "in"})
    assert rt.reason(ADA) == "consent"


def test_it_takes_back_what_it_switched_off_itself(rt: Served) -> None:
    path = fresh(rt)
    form = shown(rt, path)
    del form["choice:email:*"]
    rt.client.post(path, data=form)
    assert rt.reason(ADA) == "opted_out"
    again = shown(rt, path)
    rt.client.post(path, data={**again, "choice:email:*": "in"})
    assert rt.reason(ADA) == "consent"


def test_an_out_that_came_after_the_link_stands(rt: Served) -> None:
    path = fresh(rt)
    form = shown(rt, path)
    rt.client.post(rt.post("/v1/links", {"brand": "rt", "email": ADA}).json()["unsubscribe"])
    answer = rt.client.post(path, data=form)
    assert "What we could not switch on" in answer.text
    assert rt.reason(ADA) == "opted_out"


def test_reminders_change_only_when_listed_and_changed(rt: Served) -> None:
    path = fresh(rt)
    form = shown(rt, path)
    rt.client.post(path, data={"choice:email:*": "in"})
    assert rt.reason(ADA, purpose="reminders") == "service"
    del form["reminders:email"]
    rt.client.post(path, data=form)
    assert rt.reason(ADA, purpose="reminders") == "opted_out"
    assert rt.reason(ADA) == "consent"


def test_a_default_tick_left_alone_stays_unset(rt: Served) -> None:
    path = fresh(rt)
    form = shown(rt, path)
    assert "choice:phone:*" in form
    rt.client.post(path, data=form)
    assert "phone:marketing:*" not in choices(rt)
    del form["choice:phone:*"]
    rt.client.post(path, data=form)
    assert choices(rt)["phone:marketing:*"] == "out centre"


@pytest.mark.parametrize(
    "bad", ["choice:email:*", "choice:fax:*=on", "x=on", "choice:email:*=maybe"]
)
def test_a_damaged_form_is_422_and_stores_nothing(rt: Served, bad: str) -> None:
    path = fresh(rt)
    before = choices(rt)
    assert rt.client.post(path, data={"shown": bad}).status_code == 422
    assert choices(rt) == before


def test_a_form_of_a_thousand_fields_is_refused(rt: Served) -> None:
    path = fresh(rt)
    answer = rt.client.post(path, data={f"field{n}": "in" for n in range(1000)})
    assert answer.status_code == 422
    assert rt.client.post("/p", content=b"a&" * 1000).status_code == 422
    assert rt.reason(ADA) == "consent"


def test_a_footer_link_switches_off_and_never_on(rt: Served) -> None:
    path = footer(rt)
    form = shown(rt, path)
    assert not [name for name in form if name.startswith(("reminders", "choice:sms"))]
    del form["choice:email:*"]
    rt.client.post(path, data=form)
    assert choices(rt)["email:marketing:*"] == "out link"
    before = len(mails(rt))
    answer = rt.client.post(path, data={**shown(rt, path), "choice:email:*": "in"})
    assert "personal link" in answer.text
    assert rt.reason(ADA) == "opted_out"
    post_mail(rt)
    assert len(mails(rt)) == before + 1


def test_a_centre_link_is_no_unsubscribe_link_and_back(rt: Served) -> None:
    token = fresh(rt).removeprefix("/p/")
    assert rt.client.post(f"/u/{token}").status_code == 404
    click = rt.post("/v1/links", {"brand": "rt", "email": ADA}).json()["unsubscribe"]
    assert rt.client.get("/p/" + click.rsplit("/", 1)[1]).status_code == 404


def test_asking_looks_the_same_for_known_unknown_and_nonsense(rt: Served) -> None:
    asked = [ADA, "nobody@example.com", "no address", "", "x" * 5000]
    answers = [rt.client.post("/p?brand=rt", data={"email": one}) for one in asked]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    post_mail(rt)
    assert [message["To"] for message in mails(rt)] == [ADA]


def test_links_are_mailed_three_times_a_day_and_once_where_it_is_out(rt: Served) -> None:
    for _ in range(5):
        rt.client.post("/p?brand=rt", data={"email": ADA})
        post_mail(rt)
    assert len(mails(rt)) == 3
    rt.say("out@example.com")
    for _ in range(3):
        rt.client.post("/p?brand=rt", data={"email": "out@example.com"})
        post_mail(rt)
    assert len(mails(rt)) == 4


def test_without_a_brand_each_brand_that_holds_the_address_writes(rt: Served) -> None:
    rt.client.post("/p", data={"email": ADA})
    post_mail(rt)
    subjects = sorted(message["Subject"] for message in mails(rt))
    assert subjects == [
        "Your link to your preferences at RT Aesthetics",
        "Your link to your preferences at RT Skin",
    ]


def test_a_mail_carries_its_own_way_out_and_no_offer(rt: Served) -> None:
    fresh(rt)
    (message,) = mails(rt)
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message.get_body(("html",)) is not None


# --- stop all marketing ------------------------------------------------------------------------


def test_stop_all_is_for_every_channel_and_brand_and_its_link_takes_it_back(rt: Served) -> None:
    in_second(rt)
    path = fresh(rt)
    where, _ = form_with(rt.client.get(path).text, "/all")
    page = rt.client.post(where).text
    said = visible(page).split("Tick what", 1)[0]
    for part in (
        "All marketing is stopped",
        "RT Skin",
        "marketing emails",
        "appointment reminders",
    ):
        assert part in said
    assert rt.reason(ADA) == rt.reason(PHONE, channel="phone") == "objected"
    assert rt.reason(ADA, purpose="reminders") == "service"
    assert at_second(rt) == "objected"
    undo, fields = form_with(page, "undo")
    rt.client.post(undo, data=fields)
    assert rt.reason(ADA) == "consent"
    assert rt.reason(PHONE, channel="sms") == "objected", "it was not on before"
    assert at_second(rt) == "objected", "the page speaks of one brand"


def test_stop_all_by_a_footer_is_taken_back_by_a_mailed_link_alone(rt: Served) -> None:
    path = footer(rt)
    where, _ = form_with(rt.client.get(path).text, "/all")
    page = rt.client.post(where).text
    assert "All marketing is stopped" in page
    assert 'name="undo"' not in page
    assert rt.reason(ADA) == rt.reason(PHONE, channel="sms") == "objected"
    assert choices(rt)["email:marketing:*"] == "out link"


def in_second(rt: Served) -> None:
    key = {"Authorization": f"Bearer {rt.key_for('write', 'second')}"}
    change = {"channel": "email", "purpose": "marketing", "choice": "in"}
    body = {"brand": "second", "subject": {"email": ADA}, "changes": [change], "source": "api"}
    proof = {"basis": "consent", "evidence": {"wording": "Yes please"}}
    rt.client.post("/v1/preferences", json={**body, **proof}, headers=key)
    assert at_second(rt) == "consent"


def at_second(rt: Served) -> str:
    key = {"Authorization": f"Bearer {rt.key_for('check', 'second')}"}
    body = {"brand": "second", "channel": "email", "purpose": "marketing", "to": [ADA]}
    answer = rt.client.post("/v1/check", json=body, headers=key)
    return str(answer.json()["results"][0]["reason"])


# --- a page that stayed open -------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def later(tmp_path: Path, clock: Clock) -> Iterator[Served]:
    """A service whose clock can be moved."""
    with served(tmp_path, clock=clock) as made:
        made.consent(ADA, subject={"email": ADA, "phone": PHONE})
        yield made


def test_what_is_unticked_on_a_page_older_than_its_link_counts(later: Served, clock: Clock) -> None:
    path = fresh(later)
    form = shown(later, path)
    clock.forward(73 * 3600)
    del form["choice:phone:*"], form["reminders:sms"]
    answer = later.client.post(path, data=form)
    assert "marketing calls" in answer.text.split("Stopped", 1)[1]
    assert later.reason(PHONE, channel="phone") == "objected"
    assert choices(later)["phone:marketing:*"] == "out link"
    assert later.reason(PHONE, channel="sms", purpose="reminders") == "opted_out"
    assert later.reason(ADA) == "consent"


def test_a_break_on_a_page_older_than_its_link_is_the_one_it_spoke_of(
    later: Served, clock: Clock
) -> None:
    path = fresh(later)
    _, form = form_with(later.client.get(path).text, "until")
    clock.forward(73 * 3600)
    assert "marketing calls" in later.client.post(f"{path}/pause", data=form).text
    assert later.reason(PHONE, channel="phone") == "objected"


def test_a_page_opened_with_an_expired_link_speaks_of_its_channel_alone(
    later: Served, clock: Clock
) -> None:
    path = fresh(later)
    clock.forward(73 * 3600)
    where, form = form_with(later.client.get(path).text, "until")
    later.client.post(where, data=form)
    assert later.reason(ADA) == "opted_out"
    assert later.reason(PHONE, channel="phone") == "screening_stale"


def test_a_footers_link_stops_what_it_shows_and_nothing_else(rt: Served) -> None:
    """Neither reminders nor another channel, whatever somebody makes the form say."""
    path = footer(rt)
    made_up = "reminders:email=on service:email=on choice:sms:*=on choice:phone:*=default"
    assert rt.client.post(path, data={"shown": made_up}).status_code == 200
    where, form = form_with(rt.client.get(path).text, "until")
    assert rt.client.post(where, data={**form, "channels": "sms phone"}).status_code == 200
    assert rt.reason(ADA, purpose="reminders") == rt.reason(ADA, purpose="service") == "service"
    assert rt.reason(PHONE, channel="phone") == "screening_stale"
    assert choices(rt).keys() == {"email:marketing:*"}


# --- double opt-in -------------------------------------------------------------------------------


def sign_up(rt: Served, address: str = "new@example.com") -> str:
    change = {"channel": "email", "purpose": "marketing", "choice": "in"}
    body = {"brand": "rt", "subject": {"email": address}, "changes": [change], "source": "form"}
    rt.post("/v1/preferences", {**body, "basis": "consent"})
    post_mail(rt)
    message = mails(rt)[-1]
    found = re.search(r"(/c/\S+)", message.get_body(("plain",)).get_content())
    assert found
    return found.group(1)


def test_a_sign_up_counts_once_its_link_was_used(rt: Served) -> None:
    path = sign_up(rt)
    for _ in range(3):
        assert "Did you ask for this?" in rt.client.get(path).text
    assert rt.reason("new@example.com") == "unconfirmed"
    assert "it is confirmed" in rt.client.post(path).text
    assert rt.reason("new@example.com") == "consent"


def test_a_link_from_before_an_out_confirms_nothing(rt: Served) -> None:
    path = sign_up(rt)
    rt.say("new@example.com")
    assert "Nothing was switched on" in rt.client.post(path).text
    assert rt.reason("new@example.com") == "opted_out"
