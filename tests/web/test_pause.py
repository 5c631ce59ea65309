"""Taking a break on the page: from when, until when, who may end it, what a save does to it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from prefs.chores import Resuming
from tests.kit import Clock
from tests.served import Served, eventually, served
from tests.web.people import ADA, footer, form, fresh, shown, unsubscribe, visible

PHONE = "+447700900101"
DAY = 86400.0
UNTIL = "2026-04-05"


@pytest.fixture
def clock() -> Clock:
    """The second of March; British summer time begins on the 29th."""
    return Clock()


@pytest.fixture
def rt(tmp_path: Path, clock: Clock) -> Iterator[Served]:
    with served(tmp_path, clock=clock) as made:
        sms = [{"channel": "sms", "purpose": "marketing", "choice": "in"}]
        both = {"subject": {"email": ADA, "phone": PHONE}}
        made.consent(ADA, **both)
        made.consent(ADA, **both, changes=sms)
        clock.forward(1)
        yield made


def pause(rt: Served, path: str, until: str = UNTIL) -> str:
    answer = rt.client.post(f"{path}/pause", data={"until": until})
    assert answer.status_code == 200, answer.text
    text: str = answer.text
    return text


def pass_time(rt: Served, clock: Clock, until: datetime) -> None:
    clock.at = until
    runtime = rt.runtime
    rt.client.portal.call(Resuming(runtime.database, runtime.intake).run)


def test_a_break_is_no_marketing_in_no_way_and_ends_with_the_night(
    rt: Served, clock: Clock
) -> None:
    said = visible(pause(rt, fresh(rt)))
    assert "Your break begins now" in said
    assert "until 5 April 2026" in said
    assert rt.reason(ADA) == rt.reason(PHONE, channel="sms") == "opted_out"
    assert rt.reason(PHONE, channel="phone") == "objected"
    assert rt.reason(ADA, purpose="reminders") == "service"
    pass_time(rt, clock, datetime(2026, 4, 4, 22, 59, tzinfo=UTC))
    assert rt.reason(ADA) == "opted_out"
    pass_time(rt, clock, datetime(2026, 4, 4, 23, 0, tzinfo=UTC))
    assert rt.reason(ADA) == rt.reason(PHONE, channel="sms") == "consent"
    assert rt.reason(PHONE, channel="phone") == "screening_stale"


def test_it_is_this_brands_alone(rt: Served) -> None:
    rt.consent(ADA, brand="rt")
    pause(rt, fresh(rt))
    key = {"Authorization": f"Bearer {rt.key_for('check', 'second')}"}
    body = {"brand": "second", "channel": "email", "purpose": "marketing", "to": [ADA]}
    assert rt.client.post("/v1/check", json=body, headers=key).json()["results"][0]["reason"] == (
        "no_basis"
    )


@pytest.mark.parametrize(
    "until", ["", "soon", "2026-03-02", "2020-01-01", "2027-06-01", "2026-02-30"]
)
def test_a_day_that_is_not_offered_is_told_with_those_that_are(rt: Served, until: str) -> None:
    answer = rt.client.post(f"{fresh(rt)}/pause", data={"until": until})
    assert answer.status_code == 422
    assert "Please choose a day from 3 March 2026 to 3 March 2027." in visible(answer.text)
    assert rt.reason(ADA) == "consent"


def test_saving_the_page_during_a_break_neither_ends_it_nor_makes_it_last(
    rt: Served, clock: Clock
) -> None:
    path = fresh(rt)
    pause(rt, path)
    fields = shown(rt, path)
    assert "choice:email:*=paused" in fields["shown"]
    assert "choice:email:*" in fields, "ticked: it goes on after the break"
    del fields["choice:sms:*"]
    done = rt.client.post(path, data=fields)
    assert "marketing text messages" in visible(done.text).split("Stopped", 1)[1]
    assert rt.reason(ADA) == "opted_out"
    pass_time(rt, clock, datetime(2026, 4, 6, tzinfo=UTC))
    assert rt.reason(ADA) == "consent"
    assert rt.reason(PHONE, channel="sms") == "opted_out", "this one was unticked for good"


def test_what_is_ticked_during_a_break_goes_on_after_it(rt: Served, clock: Clock) -> None:
    """The page says so; a tick is no word about the break."""
    rt.client.post(unsubscribe(rt))
    clock.forward(60)
    path = fresh(rt)
    pause(rt, path)
    ticked = {**shown(rt, path), "choice:email:*": "in"}
    assert "Switched on" in rt.client.post(path, data=ticked).text
    assert rt.reason(ADA) == "opted_out"
    assert "choice:email:*=paused" in shown(rt, path)["shown"]
    pass_time(rt, clock, datetime(2026, 4, 6, tzinfo=UTC))
    assert rt.reason(ADA) == "consent"


def test_taking_a_change_back_leaves_the_break(rt: Served, clock: Clock) -> None:
    path = fresh(rt)
    pause(rt, path)
    fields = shown(rt, path)
    del fields["choice:sms:*"]
    where, undo = form(rt.client.post(path, data=fields).text, "undo")
    rt.client.post(where, data=undo)
    assert rt.reason(PHONE, channel="sms") == "opted_out"
    pass_time(rt, clock, datetime(2026, 4, 6, tzinfo=UTC))
    assert rt.reason(PHONE, channel="sms") == "consent"


def test_a_page_from_before_the_break_does_not_end_it(rt: Served, clock: Clock) -> None:
    """Another tab, or the button that goes back."""
    path = fresh(rt)
    before = shown(rt, path)
    pause(rt, path)
    rt.client.post(path, data=before)
    assert rt.reason(ADA) == "opted_out"


def test_a_break_is_kept_where_staff_may_lift_what_lasted(rt: Served, clock: Clock) -> None:
    rt.say(ADA)
    pause(rt, footer(rt))
    clock.forward(60)
    note = {"actor": "reception", "note": "the list was wrong", "wording": "Yes please"}
    at = clock().isoformat()
    lifted = rt.say(ADA, "in", "staff", basis="consent", evidence=note, occurred_at=at)
    assert lifted["outcomes"][0]["reason"] == "source_too_weak"
    assert rt.reason(ADA) == "opted_out"


def test_unsubscribing_during_a_break_is_offered_and_lasts(rt: Served, clock: Clock) -> None:
    pause(rt, fresh(rt))
    link = unsubscribe(rt)
    assert "already switched off" not in rt.client.get(link).text
    assert "You are unsubscribed" in rt.client.post(link).text
    assert "already switched off" in rt.client.get(link).text
    pass_time(rt, clock, datetime(2026, 4, 6, tzinfo=UTC))
    assert rt.reason(ADA) == "opted_out"


def test_the_person_ends_it_by_a_fresh_link(rt: Served, clock: Clock) -> None:
    path = fresh(rt)
    page = pause(rt, path)
    clock.forward(DAY)
    where, fields = form(page, "/resume")
    done = rt.client.post(where, data=fields)
    assert "Your break is over" in done.text
    assert rt.reason(ADA) == "consent"


def test_a_link_from_before_the_break_does_not_end_it(rt: Served, clock: Clock) -> None:
    old = fresh(rt)
    clock.forward(60)
    pause(rt, fresh(rt))
    clock.forward(60)
    assert "ask for a new link" in visible(rt.client.post(f"{old}/resume").text)
    assert rt.reason(ADA) == "opted_out"


def test_a_footer_begins_a_break_of_its_channel_and_ends_none(rt: Served, clock: Clock) -> None:
    path = footer(rt)
    said = visible(pause(rt, path)).split("Tick what", 1)[0]
    assert "none of these from RT Aesthetics: marketing emails Messages about" in said
    assert rt.reason(ADA) == "opted_out"
    assert rt.reason(PHONE, channel="sms") == "consent"
    clock.forward(60)
    assert "Your break goes on" in rt.client.post(f"{path}/resume").text
    pause(rt, path, "2026-03-10")
    assert rt.reason(ADA) == "opted_out"
    pass_time(rt, clock, datetime(2026, 3, 12, tzinfo=UTC))
    assert rt.reason(ADA) == "opted_out", "a footer moves the end further away only"
    pass_time(rt, clock, datetime(2026, 4, 6, tzinfo=UTC))
    assert rt.reason(ADA) == "consent"


def test_looking_at_either_address_changes_nothing(rt: Served) -> None:
    path = fresh(rt)
    for more in ("/all", "/pause", "/resume", "/data"):
        assert rt.client.get(path + more).status_code == 200
    assert rt.reason(ADA) == "consent"


def test_the_worker_ends_breaks_by_itself(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefs.app.RESUME_EVERY", 0.05)
    with served(tmp_path, clock=clock, work=True) as rt:
        rt.consent(ADA)
        path = footer(rt)
        pause(rt, path)
        assert rt.reason(ADA) == "opted_out"
        clock.at = datetime(2026, 4, 6, tzinfo=UTC)
        eventually(lambda: rt.reason(ADA) == "consent")


def test_history_and_feed_show_beginning_and_end(rt: Served, clock: Clock) -> None:
    pause(rt, fresh(rt))
    pass_time(rt, clock, datetime(2026, 4, 6, tzinfo=UTC))
    (one,) = rt.post("/v1/subjects/search", {"brand": "rt", "email": ADA}).json()["items"]
    items = rt.get(f"/v1/subjects/{one['subject_id']}/history").json()["items"]
    email = [row["choice"] for row in items if row["channel"] == "email"]
    assert email == ["in", "pause", "resume"]
    person = rt.get(f"/v1/subjects/{one['subject_id']}").json()
    assert {c["choice"] for c in person["choices"]} == {"in"}
