"""What a page says after an act: what stopped, what goes on, which systems follow, how to undo."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import connectors
from prefs.web.texts import Texts
from tests.kit import Clock
from tests.served import Served, served
from tests.web.people import (
    ADA,
    footer,
    form,
    fresh,
    mails,
    post_mail,
    shown,
    unsubscribe,
    visible,
)

TARGETS = """
[brands.rt.targets.mailchimp]
system = "mailchimp"
mode = "live"
base_url = "http://127.0.0.1:9"
api_key = "env:KEY"
audiences = { a1 = ["treatments", "offers"] }
[brands.second.targets.keap]
system = "keap"
mode = "live"
base_url = "http://127.0.0.1:9"
token = "env:KEY"
[brands.rt.targets.hubspot]
system = "hubspot"
base_url = "http://127.0.0.1:9"
token = "env:KEY"
"""
"""HubSpot is only observed: nothing is told there."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rt(tmp_path: Path, clock: Clock) -> Iterator[Served]:
    with served(tmp_path, TARGETS, environ={"KEY": "abc-us6"}, clock=clock) as made:
        made.consent(ADA, subject={"email": ADA, "phone": "+447700900101"})
        yield made


def history(rt: Served, address: str = ADA) -> list[dict[str, Any]]:
    found = rt.post("/v1/subjects/search", {"brand": "rt", "email": address}).json()["items"]
    items: list[dict[str, Any]] = []
    for one in found:
        items += rt.get(f"/v1/subjects/{one['subject_id']}/history").json()["items"]
    return items


# --- unsubscribing -----------------------------------------------------------------------------


def test_a_stop_names_what_stopped_and_the_systems_that_follow(rt: Served) -> None:
    said = visible(rt.client.post(unsubscribe(rt)).text)
    assert "no more marketing emails from RT Aesthetics" in said
    assert "These systems follow: Mailchimp." in said
    assert "Messages about your appointments go on as before." in said


def test_stopping_all_names_every_brand_and_its_systems(rt: Served) -> None:
    said = visible(rt.client.post(unsubscribe(rt) + "/all").text)
    assert "RT Aesthetics and RT Skin" in said
    assert "These systems follow: Mailchimp and Keap." in said
    assert "Another Clinic" not in said


def test_no_system_is_told_of_reminders(rt: Served) -> None:
    said = visible(rt.client.post(unsubscribe(rt, purpose="reminders")).text)
    assert "These systems follow" not in said


@pytest.mark.parametrize("more", ["", "/all"])
def test_a_mistake_is_taken_back_by_a_link_that_is_mailed(rt: Served, more: str) -> None:
    done = rt.client.post(unsubscribe(rt) + more)
    path, fields = form(done.text, "shown")
    answer = rt.client.post(path, data=fields)
    assert "We send you a personal link" in answer.text
    assert rt.reason(ADA) in ("opted_out", "objected")
    post_mail(rt)
    assert len(mails(rt)) == 1


def test_the_link_of_a_number_promises_no_mail(rt: Served) -> None:
    links = rt.post("/v1/links", {"brand": "rt", "phone": "+447700900101"}).json()
    done = rt.client.post(links["unsubscribe"])
    assert "ask for a personal link with your email address" in visible(done.text)
    path = links["preferences"]
    raised = {"shown": "choice:sms:*=off", "choice:sms:*": "in"}
    assert "We are sending" not in visible(rt.client.post(path, data=raised).text)
    post_mail(rt)
    assert mails(rt) == []


def test_every_system_is_called_by_a_name() -> None:
    texts = Texts("en-GB")
    assert all(texts.has(f"system.{name}") for name in connectors.SYSTEMS)


# --- the preference centre ---------------------------------------------------------------------


def save(rt: Served, path: str, *without: str, **more: str) -> str:
    fields = shown(rt, path)
    for name in without:
        del fields[name]
    text: str = rt.client.post(path, data={**fields, **more}).text
    return text


def test_a_save_names_what_stopped_what_goes_on_and_who_follows(rt: Served) -> None:
    said = visible(save(rt, fresh(rt), "choice:email:*", "reminders:sms"))
    stopped = said.split("Stopped", 1)[1].split("What goes on", 1)[0]
    assert "marketing emails" in stopped
    assert "appointment reminders by text message" in stopped
    assert "emails about" not in stopped, "the channel stands for its topics"
    goes_on = said.split("What goes on", 1)[1].split("These systems", 1)[0]
    assert "marketing calls" in goes_on
    assert "appointment reminders by email" in goes_on
    assert "marketing emails" not in goes_on
    assert "These systems follow: Mailchimp." in said


def test_what_was_never_on_is_not_called_stopped(rt: Served) -> None:
    assert "Nothing has changed." in visible(save(rt, fresh(rt)))


def test_undo_brings_back_what_the_save_switched_off_and_nothing_else(rt: Served) -> None:
    path = fresh(rt)
    done = save(rt, path, "choice:email:offers", "reminders:sms")
    assert rt.reason(ADA, topic="offers") == "opted_out"
    rt.client.post(path, data={"shown": "choice:email:news=on"})
    where, fields = form(done, "undo")
    assert where == path
    rt.client.post(where, data=fields)
    assert rt.reason(ADA, topic="offers") == "consent"
    assert rt.reason("+447700900101", channel="sms", purpose="reminders") == "service"
    assert rt.reason(ADA, topic="news") == "opted_out"


def test_undo_switches_off_again_what_the_save_switched_on(rt: Served) -> None:
    path = fresh(rt)
    done = save(rt, path, **{"choice:sms:*": "in"})
    assert "marketing text messages" in visible(done).split("Switched on", 1)[1]
    rt.client.post(path, data=form(done, "undo")[1])
    assert rt.reason("+447700900101", channel="sms") == "opted_out"
    assert rt.reason(ADA) == "consent"


def test_undo_is_evidence_of_its_own_words(rt: Served) -> None:
    path = fresh(rt)
    done = save(rt, path, "choice:email:*")
    rt.client.post(path, data=form(done, "undo")[1])
    last = history(rt)[-1]
    assert (last["choice"], last["source"]) == ("in", "centre")
    assert "you agree again" in last["evidence"]["wording"]
    assert "marketing emails" in last["evidence"]["wording"]


def test_undo_does_not_lift_an_out_that_came_later(rt: Served) -> None:
    path = fresh(rt)
    done = save(rt, path, "choice:email:*")
    rt.client.post(unsubscribe(rt))
    assert (
        "you said no after this link was sent"
        in rt.client.post(path, data=form(done, "undo")[1]).text
    )
    assert rt.reason(ADA) == "opted_out"


def test_the_words_kept_are_those_of_the_page_that_was_sent(rt: Served) -> None:
    """Also of one that tells what a save did, under another heading."""
    page = save(rt, fresh(rt), "choice:email:*")
    where, fields = form(page, "choice:phone:*")
    rt.client.post(where, data={**fields, "choice:sms:*": "in"})
    (last,) = [one for one in history(rt) if one["channel"] == "sms" and one["choice"] == "in"]
    *said, ticked = last["evidence"]["wording"].splitlines()
    assert said
    assert all(line in visible(page) for line in said)
    assert ticked == "Text message"


def test_a_consent_keeps_wording_version_language_page_and_time(rt: Served) -> None:
    path = fresh(rt)
    save(rt, path, **{"choice:sms:*": "in"})
    seen = next(one["evidence"] for one in history(rt) if one["channel"] == "sms")
    assert "I agree to receive marketing from RT Aesthetics" in seen["wording"]
    assert (seen["language"], seen["page"]) == ("en", "/p/{token}")
    assert len(seen["version"]) == 12
    save(rt, path, **{"choice:messenger:*": "in"})
    other = next(one["evidence"] for one in history(rt) if one["channel"] == "messenger")
    assert other["version"] == seen["version"], "the same words, whatever is ticked"


def test_a_footer_link_has_no_undo_and_mails_a_link_instead(rt: Served) -> None:
    path = footer(rt)
    done = save(rt, path, "choice:email:*")
    assert 'name="undo"' not in done
    assert "Stopped" in visible(done)
    assert "Messages about your appointments go on" in visible(done)


# --- old links ---------------------------------------------------------------------------------


def test_an_old_fresh_link_goes_down_only_and_offers_a_new_one(rt: Served, clock: Clock) -> None:
    path = fresh(rt)
    clock.forward(timedelta(hours=73).total_seconds())
    page = rt.client.get(path)
    assert "more than 72 hours old" in visible(page.text)
    assert 'href="/p?brand=rt"' in page.text
    assert "reminders:email" not in page.text
    save(rt, path, "choice:email:*")
    assert rt.reason(ADA) == "opted_out"
    answer = rt.client.post(path, data={"shown": "choice:email:*=off", "choice:email:*": "in"})
    assert "We send you a personal link" in answer.text
    assert rt.reason(ADA) == "opted_out"


def test_a_page_of_a_token_says_what_to_do_when_it_is_not_yours(rt: Served) -> None:
    for path in (unsubscribe(rt), footer(rt), fresh(rt)):
        page = rt.client.get(path).text
        assert "Not you, or not your address?" in page
        assert 'href="/p?brand=rt"' in page
        assert 'href="/complain/' in page


# --- shared addresses --------------------------------------------------------------------------

BOTH = "both@example.com"


@pytest.fixture
def shared(rt: Served) -> Served:
    rt.consent(BOTH, subject={"email": BOTH, "ref": "ann"})
    rt.consent(BOTH, subject={"email": BOTH, "ref": "ben", "phone": "+447700900102"})
    return rt


def test_a_link_of_a_shared_address_names_nobody_and_switches_off_for_all(shared: Served) -> None:
    path = fresh(shared, BOTH)
    assert "Several people use this address" in visible(shared.client.get(path).text)
    page = save(shared, path, "choice:email:*")
    assert 'name="undo"' not in page
    assert "Send me the link" not in page, "no link could switch it on: staff are named"
    outs = [one for one in history(shared, BOTH) if one["choice"] == "out"]
    assert {one["channel"] for one in outs} >= {"email"}
    assert len([one for one in outs if one["channel"] == "email"]) == 2, "both of them"
    assert shared.reason(BOTH) == "opted_out"
    days = form(shared.client.get(path).text, "until")[1]
    assert 'action="' + path + '/resume"' not in shared.client.post(f"{path}/pause", data=days).text


def test_someone_at_this_address_asked_us_to_stop(shared: Served, clock: Clock) -> None:
    """Ann has a number too, which Ben uses; Ben said no to texts."""
    number = "+447700900102"
    sms = {"channel": "sms", "purpose": "marketing"}
    ann = {"email": "ann@example.com", "phone": number, "ref": "ann2"}
    shared.consent("", subject=ann, changes=[{**sms, "choice": "in"}])
    shared.say("", subject={"phone": number, "ref": "ben"}, changes=[{**sms, "choice": "out"}])
    clock.forward(1)
    path = fresh(shared, "ann@example.com")
    assert "(someone at this address asked us to stop" in visible(shared.client.get(path).text)
    done = shared.client.post(path, data={"shown": "choice:sms:*=off", "choice:sms:*": "in"})
    on = visible(done.text).split("What goes on", 1)[1].split("Your choices now", 1)[0]
    assert "marketing text messages" not in on
    assert "appointment reminders by text message" in on
    said = visible(shared.client.get(path).text)
    assert "choice:sms:*" in shown(shared, path), "her own choice is kept"
    assert "Someone at your address or number asked us to stop" in said
    assert shared.reason(number, channel="sms") == "opted_out"


def test_who_has_an_address_alone_is_told_of_nobody_else(rt: Served) -> None:
    rt.client.post(unsubscribe(rt))
    said = visible(rt.client.get(fresh(rt)).text)
    assert "omeone at" not in said
