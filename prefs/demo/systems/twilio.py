"""Twilio: two messaging services with a number each, so that a STOP reaches marketing only."""

from __future__ import annotations

from prefs.demo.people import Person
from prefs.demo.system import System, Vendor

ACCOUNT = "AC" + "0" * 32
MARKETING, MARKETING_NUMBER = "MG" + "1" * 32, "+447700900001"
REMINDERS, REMINDERS_NUMBER = "MG" + "2" * 32, "+447700900002"
SECTION = f"""
account_sid = "{ACCOUNT}"
auth_token = "file:secrets/twilio_token"
consents = true
"""


def furnish(vendor: Vendor) -> None:
    vendor.configure(
        account_sid=ACCOUNT, auth_token=vendor.secrets["token"], webhook_url=vendor.hook
    )
    vendor.act("new_service", sid=MARKETING, numbers=[MARKETING_NUMBER], purpose="marketing")
    vendor.act("new_service", sid=REMINDERS, numbers=[REMINDERS_NUMBER], purpose="reminders")


def add(vendor: Vendor, person: Person) -> None:
    vendor.act("new_person", number=person.phone, name=person.name)


SYSTEM = System(
    name="twilio",
    section=SECTION,
    secrets={"token": ""},
    furnish=furnish,
    add=add,
    ends={"sms": "accepted"},
    off=lambda state, person, channel: [person.phone, MARKETING] in state["blocked"],
    kept=lambda state, person: [person.phone, REMINDERS] not in state["blocked"],
    try_it="text STOP as Erin, to marketing or to reminders",
)
