"""The rules that span the app: a wish made at one door is honoured at every other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.served import Served, eventually, listening
from tests.twins.hubspot import HubspotTwin
from tests.twins.kit import Travel, running
from tests.twins.mailchimp import MailchimpTwin
from tests.twins.twilio import TwilioTwin

pytestmark = pytest.mark.told_on("sqlite")

ADA, ADAS_PHONE = "ada@example.com", "+447700900101"
BOB = "bob@example.com"
TREATMENTS, REMINDERS = "101", "900"
MARKETING_SENDER, REMINDER_SENDER = "+447700900001", "+447700900002"

TARGETS = """
[brands.rt.targets.mailchimp]
system = "mailchimp"
mode = "live"
base_url = "{mailchimp}"
api_key = "env:MAILCHIMP"
webhook_secret = "env:MAILCHIMP_SIGNING"
audiences = {{ a1 = ["treatments", "products", "offers", "competitions", "news"] }}
[brands.rt.targets.hubspot]
system = "hubspot"
mode = "live"
base_url = "{hubspot}"
token = "env:HUBSPOT"
signing_secret = "env:HUBSPOT_SIGNING"
types = {{ 101 = "*" }}
reminder_types = ["900"]
[brands.rt.targets.twilio]
system = "twilio"
mode = "live"
base_url = "{twilio}"
account_sid = "{account}"
auth_token = "env:TWILIO"
consents = {consents}
"""


@dataclass
class Clinic:
    """The service and the three vendors as twins, with Ada and Bob on every list."""

    service: Served
    mailchimp: MailchimpTwin
    hubspot: HubspotTwin
    twilio: TwilioTwin

    def outcomes(self, subject_id: str) -> dict[str, str]:
        items = self.service.get(f"/v1/subjects/{subject_id}/targets").json()["items"]
        return {f"{one['target']}/{one['channel']}": one["outcome"] for one in items}

    def quiet(self) -> bool:
        """No mark waits anywhere."""
        return not any(one["backlog"] for one in self.targets())

    def targets(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.service.get("/v1/targets").json()["items"]
        return items

    def subject(self, email: str) -> str:
        items = self.service.post("/v1/subjects/search", {"brand": "rt", "email": email}).json()
        (one,) = items["items"]
        found: str = one["subject_id"]
        return found

    def one_click(self, email: str) -> None:
        made = self.service.post("/v1/links", {"brand": "rt", "email": email}).json()
        answer = self.service.client.post(made["unsubscribe"])
        assert answer.status_code == 200

    def reminders_untouched(self) -> bool:
        """No write of ours ever reached what carries reminders."""
        return (
            not self.hubspot.api_changes_of_reminders()
            and not self.twilio.consents_of("MG2")
            and not self.twilio.consents_of(REMINDER_SENDER)
            and all(not member.changed_by("api") for member in self.mailchimp.service_members())
        )


def furnish(clinic: Clinic) -> None:
    clinic.mailchimp.new_audience("a1")
    clinic.hubspot.new_type(TREATMENTS, "Treatments")
    clinic.hubspot.new_type(REMINDERS, "Reminders", purpose="reminders")
    clinic.twilio.new_service(sid="MG1", numbers=[MARKETING_SENDER])
    clinic.twilio.new_service(sid="MG2", numbers=[REMINDER_SENDER], purpose="reminders")
    clinic.mailchimp.new_member("a1", "receipts@example.com", status="transactional")
    for address in (ADA, BOB):
        clinic.mailchimp.new_member("a1", address)
        subscribed = {TREATMENTS: "SUBSCRIBED", REMINDERS: "SUBSCRIBED"}
        clinic.hubspot.new_contact(address, statuses=subscribed)


def hook_up(clinic: Clinic) -> None:
    base = clinic.service.runtime.settings.public_url
    secret = "mailchimp-signing"
    clinic.mailchimp.old_webhook(
        "a1", f"{base}/webhooks/mailchimp/rt/mailchimp", sources=["user", "admin"], secret=secret
    )
    clinic.hubspot.webhook_url = f"{base}/webhooks/hubspot/rt/hubspot"
    clinic.twilio.webhook_url = f"{base}/webhooks/twilio/rt/twilio"


def opened(stack: ExitStack, folder: Path, *, consents: str = "true") -> Clinic:
    mailchimp, u1 = stack.enter_context(running(MailchimpTwin()))
    hubspot, u2 = stack.enter_context(running(HubspotTwin()))
    twilio, u3 = stack.enter_context(running(TwilioTwin()))
    hubspot.signing_secret = "hubspot-signing"
    extra = TARGETS.format(
        mailchimp=u1, hubspot=u2, twilio=u3, account=twilio.account_sid, consents=consents
    )
    environ = {
        "MAILCHIMP": mailchimp.api_key,
        "MAILCHIMP_SIGNING": "mailchimp-signing",
        "HUBSPOT": hubspot.token,
        "HUBSPOT_SIGNING": "hubspot-signing",
        "TWILIO": twilio.auth_token,
    }
    clinic = Clinic(None, mailchimp, hubspot, twilio)  # type: ignore[arg-type]  # set below
    furnish(clinic)
    clinic.service = stack.enter_context(listening(folder, extra, environ=environ))
    hook_up(clinic)
    both = {"subject": {"email": ADA, "phone": ADAS_PHONE, "ref": "p1", "name": "Ada"}}
    clinic.service.consent(ADA, **both)
    sms = [{"channel": "sms", "purpose": "marketing", "choice": "in"}]
    clinic.service.consent(ADA, **both, changes=sms)
    clinic.service.consent(BOB)
    eventually(clinic.quiet)
    return clinic


@pytest.fixture
def clinic(tmp_path: Path, hold_to_specs: object) -> Iterator[Clinic]:
    with ExitStack() as stack:
        made = opened(stack, tmp_path)
        yield made
        assert made.reminders_untouched()


# --- from us to them -----------------------------------------------------------------------------


def test_one_click_reaches_every_system_and_is_proved(clinic: Clinic) -> None:
    clinic.one_click(ADA)
    assert clinic.service.reason(ADA) == "opted_out"
    eventually(
        lambda: (
            clinic.mailchimp.member("a1", ADA).status == "unsubscribed"
            and clinic.hubspot.status(ADA, TREATMENTS) == "UNSUBSCRIBED"
        )
    )
    eventually(clinic.quiet)
    found = clinic.outcomes(clinic.subject(ADA))
    assert found["mailchimp/email"] == found["hubspot/email"] == "confirmed"
    assert clinic.hubspot.status(ADA, REMINDERS) == "SUBSCRIBED"
    assert not clinic.hubspot.unsubscribed_from_all(ADA)
    assert clinic.mailchimp.member("a1", BOB).status == "subscribed"
    assert clinic.service.reason(ADA, purpose="reminders") == "service"


def test_stop_all_reaches_the_gateway_too(clinic: Clinic) -> None:
    made = clinic.service.post("/v1/links", {"brand": "rt", "email": ADA}).json()
    assert clinic.service.client.post(made["unsubscribe"] + "/all").status_code == 200
    eventually(lambda: clinic.twilio.blocked(ADAS_PHONE, "MG1"))
    eventually(clinic.quiet)
    assert not clinic.twilio.blocked(ADAS_PHONE, "MG2")
    assert clinic.outcomes(clinic.subject(ADA))["twilio/sms"] == "accepted"
    assert clinic.service.reason(ADAS_PHONE, channel="sms") == "objected"
    assert clinic.service.reason(ADAS_PHONE, channel="sms", purpose="reminders") == "service"


def test_a_vendor_that_is_down_gets_the_out_when_it_comes_back(clinic: Clinic) -> None:
    clinic.mailchimp.faults.add("down", path="/3.0/lists", times=None)
    clinic.one_click(ADA)
    assert clinic.service.reason(ADA) == "opted_out"
    eventually(lambda: clinic.outcomes(clinic.subject(ADA))["mailchimp/email"] == "pending")
    assert clinic.mailchimp.member("a1", ADA).status == "subscribed"
    clinic.mailchimp.faults.clear()
    eventually(lambda: clinic.mailchimp.member("a1", ADA).status == "unsubscribed")
    eventually(lambda: clinic.outcomes(clinic.subject(ADA))["mailchimp/email"] == "confirmed")


def test_a_vendor_that_lies_is_not_believed(clinic: Clinic) -> None:
    clinic.mailchimp.faults.add("lie", method="PATCH", times=2)
    clinic.one_click(ADA)
    eventually(lambda: clinic.mailchimp.member("a1", ADA).status == "unsubscribed")
    eventually(clinic.quiet)


def test_many_at_once_go_in_bulk_and_a_bad_item_fails_alone(clinic: Clinic) -> None:
    people = [f"many{number}@example.com" for number in range(60)]
    for one in people:
        clinic.mailchimp.new_member("a1", one)
    clinic.mailchimp.faults.add("delay", method="GET", path="/3.0/lists", seconds=0.4)
    clinic.mailchimp.faults.add("bad_item", key="many7@")
    for one in people:
        clinic.service.say(one)
    eventually(lambda: sum(one["backlog"] for one in clinic.targets()) <= 1)
    left = [one for one in people if clinic.mailchimp.member("a1", one).status == "subscribed"]
    assert left == ["many7@example.com"]
    assert clinic.outcomes(clinic.subject(left[0]))["mailchimp/email"] == "refused"
    assert [call for call in clinic.mailchimp.writes() if call.method == "POST"]


# --- from them to us -----------------------------------------------------------------------------


def test_an_unsubscribe_inside_mailchimp_counts_and_spreads(clinic: Clinic) -> None:
    clinic.mailchimp.person_unsubscribes("a1", ADA)
    eventually(lambda: clinic.service.reason(ADA) == "opted_out")
    eventually(lambda: clinic.hubspot.status(ADA, TREATMENTS) == "UNSUBSCRIBED")
    person = clinic.service.get(f"/v1/subjects/{clinic.subject(ADA)}").json()
    out = next(one for one in person["choices"] if one["channel"] == "email")
    assert out["source"] == "vendor_person"


def test_an_unsubscribe_inside_hubspot_counts_and_spreads(clinic: Clinic) -> None:
    clinic.hubspot.person_unsubscribes(ADA, TREATMENTS)
    eventually(lambda: clinic.service.reason(ADA) == "opted_out")
    eventually(lambda: clinic.mailchimp.member("a1", ADA).status == "unsubscribed")


@pytest.mark.parametrize("travel", [Travel(duplicate=3), Travel(delay=0.3)])
def test_doubled_and_late_webhooks_count_once(clinic: Clinic, travel: Travel) -> None:
    clinic.mailchimp.person_unsubscribes("a1", ADA, travel=travel)
    eventually(lambda: clinic.service.reason(ADA) == "opted_out")
    clinic.mailchimp.courier.settle()
    history = clinic.service.get(f"/v1/subjects/{clinic.subject(ADA)}/history").json()["items"]
    heard = [one for one in history if one["source"] == "vendor_person"]
    assert [one["result"] for one in heard].count("applied") == 1


def test_an_echo_of_our_own_write_dies_out(clinic: Clinic) -> None:
    clinic.one_click(ADA)
    eventually(clinic.quiet)
    before = len(clinic.service.get(f"/v1/subjects/{clinic.subject(ADA)}/history").json()["items"])
    clinic.hubspot.property_change(ADA, "hs_email_optout_101", "true")
    clinic.hubspot.courier.settle()
    eventually(clinic.quiet)
    after = clinic.service.get(f"/v1/subjects/{clinic.subject(ADA)}/history").json()["items"]
    assert len(after) == before


def test_a_text_stop_is_a_marketing_out_and_leaves_reminders(clinic: Clinic) -> None:
    clinic.twilio.text(sender=ADAS_PHONE, to=MARKETING_SENDER, body="Stop.")
    eventually(lambda: clinic.service.reason(ADAS_PHONE, channel="sms") == "opted_out")
    assert clinic.service.reason(ADAS_PHONE, channel="sms", purpose="reminders") == "service"
    assert clinic.service.reason(ADA) == "consent"


def test_stop_to_the_reminder_sender_stops_both(clinic: Clinic) -> None:
    clinic.twilio.text(sender=ADAS_PHONE, to=REMINDER_SENDER, body="STOP")
    eventually(lambda: clinic.service.reason(ADAS_PHONE, channel="sms") == "opted_out")
    reminder = {"channel": "sms", "purpose": "reminders"}
    assert clinic.service.reason(ADAS_PHONE, **reminder) == "opted_out"


def test_start_lifts_the_texted_stop_once_the_gateway_told_its_time(clinic: Clinic) -> None:
    clinic.twilio.text(sender=ADAS_PHONE, to=MARKETING_SENDER, body="STOP")
    eventually(lambda: clinic.service.reason(ADAS_PHONE, channel="sms") == "opted_out")
    clinic.twilio.faults.add("status", path=".*/Messages/SM", status=503, times=4)
    clinic.twilio.clock.move(2)
    clinic.twilio.text(sender=ADAS_PHONE, to=MARKETING_SENDER, body="START")
    assert clinic.service.reason(ADAS_PHONE, channel="sms") == "opted_out"
    eventually(lambda: clinic.service.reason(ADAS_PHONE, channel="sms") == "consent")


def test_a_start_sent_before_the_stop_lifts_nothing(clinic: Clinic) -> None:
    clinic.twilio.clock.move(-3600)
    clinic.twilio.text(sender=ADAS_PHONE, to=MARKETING_SENDER, body="START", travel=Travel(delay=1))
    clinic.twilio.clock.reset()
    clinic.twilio.text(sender=ADAS_PHONE, to=MARKETING_SENDER, body="STOP")
    clinic.twilio.courier.settle()
    eventually(clinic.quiet)
    assert clinic.service.reason(ADAS_PHONE, channel="sms") == "opted_out"


def test_an_unclear_text_is_held_for_staff_and_settled_by_them(clinic: Clinic) -> None:
    clinic.twilio.text(sender=ADAS_PHONE, to=MARKETING_SENDER, body="not interested")
    eventually(lambda: clinic.service.reason(ADAS_PHONE, channel="sms") == "held")
    (task,) = clinic.service.get("/v1/tasks?state=open&kind=held_text").json()["items"]
    assert task["body"]["text"] == "not interested"
    settled = clinic.service.post(f"/v1/tasks/{task['id']}", {"state": "out", "note": "rang her"})
    assert settled.json()["state"] == "out"
    assert clinic.service.reason(ADAS_PHONE, channel="sms") == "opted_out"
    again = clinic.service.post(f"/v1/tasks/{task['id']}", {"state": "out", "note": "twice"})
    assert again.status_code == 409


def test_a_held_text_released_by_staff_leaves_things_as_they_were(clinic: Clinic) -> None:
    clinic.twilio.text(sender=ADAS_PHONE, to=MARKETING_SENDER, body="not interested")
    eventually(lambda: clinic.service.reason(ADAS_PHONE, channel="sms") == "held")
    (task,) = clinic.service.get("/v1/tasks?kind=held_text").json()["items"]
    clinic.service.post(f"/v1/tasks/{task['id']}", {"state": "release", "note": "meant a call"})
    assert clinic.service.reason(ADAS_PHONE, channel="sms") == "consent"


def test_cancel_to_the_reminder_sender_is_a_task_and_no_choice(clinic: Clinic) -> None:
    clinic.twilio.text(sender=ADAS_PHONE, to=REMINDER_SENDER, body="CANCEL")
    eventually(lambda: clinic.service.get("/v1/tasks?kind=appointment_reply").json()["items"])
    reminder = {"channel": "sms", "purpose": "reminders"}
    assert clinic.service.reason(ADAS_PHONE, **reminder) == "undeliverable"
    assert clinic.service.reason(ADAS_PHONE, channel="sms") == "consent"


@pytest.mark.parametrize(
    "path", ["mailchimp/rt/mailchimp", "hubspot/rt/hubspot", "twilio/rt/twilio"]
)
def test_an_unsigned_webhook_is_refused_and_kept_nowhere(clinic: Clinic, path: str) -> None:
    answer = clinic.service.client.post(f"/webhooks/{path}", content=b"type=unsubscribe")
    assert answer.status_code == 401

    def kept(conn: Any) -> int:
        found: int = conn.exec_driver_sql("SELECT count(*) FROM inbox").scalar_one()
        return found

    assert clinic.service.runtime.database.read_now(kept) == 0


# --- the gateway without consents ----------------------------------------------------------------


def test_without_consents_the_gateway_is_guarded_by_our_check_alone(tmp_path: Path) -> None:
    with ExitStack() as stack:
        clinic = opened(stack, tmp_path, consents="false")
        sms = [{"channel": "sms", "purpose": "marketing", "choice": "out"}]
        clinic.service.say(ADA, subject={"phone": ADAS_PHONE}, changes=sms)
        eventually(clinic.quiet)
        assert clinic.outcomes(clinic.subject(ADA))["twilio/sms"] == "local"
        assert clinic.twilio.writes() == []


def test_a_gateway_that_refuses_consents_says_so(tmp_path: Path) -> None:
    with ExitStack() as stack:
        clinic = opened(stack, tmp_path)
        clinic.twilio.consents = False
        sms = [{"channel": "sms", "purpose": "marketing", "choice": "out"}]
        clinic.service.say(ADA, subject={"phone": ADAS_PHONE}, changes=sms)
        eventually(clinic.quiet)
        items = clinic.service.get(f"/v1/subjects/{clinic.subject(ADA)}/targets").json()["items"]
        (gateway,) = [one for one in items if one["target"] == "twilio"]
        assert gateway["outcome"] == "local"
        assert "403" in gateway["reason"]
