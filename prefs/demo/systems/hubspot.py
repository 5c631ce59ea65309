"""HubSpot: one subscription type for marketing, one for reminders, and a property for texts."""

from __future__ import annotations

from prefs.demo.people import Person
from prefs.demo.system import State, System, Vendor

MARKETING, REMINDERS = "101", "900"
PROPERTY = "marketing_by_sms"
SECTION = f"""
token = "file:secrets/hubspot_token"
signing_secret = "file:secrets/hubspot_signing"
types = {{ {MARKETING} = "*" }}
reminder_types = ["{REMINDERS}"]
properties = {{ sms = "{PROPERTY}" }}
"""


def furnish(vendor: Vendor) -> None:
    vendor.configure(
        token=vendor.secrets["token"],
        signing_secret=vendor.secrets["signing"],
        webhook_url=vendor.hook,
    )
    vendor.act("new_type", id=MARKETING, name="Treatments and offers")
    vendor.act("new_type", id=REMINDERS, name="Appointment reminders", purpose="reminders")
    vendor.act("new_property", name=PROPERTY)


def add(vendor: Vendor, person: Person) -> None:
    subscribed = {MARKETING: "SUBSCRIBED", REMINDERS: "SUBSCRIBED"}
    vendor.act("new_contact", email=person.email, statuses=subscribed)


def status(state: State, person: Person, type_id: str) -> str:
    found: str = state["statuses"][person.email][type_id]["state"]
    return found


def off(state: State, person: Person, channel: str) -> bool:
    if channel == "email":
        return status(state, person, MARKETING) == "UNSUBSCRIBED"
    contacts = state["contacts"].values()
    held = next(one["properties"] for one in contacts if one["email"] == person.email)
    return bool(held.get(PROPERTY) == "opted_out")


def kept(state: State, person: Person) -> bool:
    """The type that reminders go by, and no unsubscribe from everything, which would beat it."""
    out_of_all = person.email in state["out_of_all"]
    return status(state, person, REMINDERS) == "SUBSCRIBED" and not out_of_all


SYSTEM = System(
    name="hubspot",
    section=SECTION,
    secrets={"token": "", "signing": ""},
    furnish=furnish,
    add=add,
    ends={"email": "confirmed", "sms": "recorded"},
    off=off,
    kept=kept,
    try_it="unsubscribe Erin in a mail: its webhook only says that she changed",
)
