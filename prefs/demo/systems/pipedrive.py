"""Pipedrive with Campaigns: the marketing status, a field for each other channel, and a field of
the clinic's own."""

from __future__ import annotations

from prefs.demo.people import Person
from prefs.demo.system import CHANNELS, State, System, Vendor

USER = "prefs"
REMINDERS = "Appointment reminders"
SECTION = f"""
token = "file:secrets/pipedrive_token"
campaigns = true
webhook_user = "{USER}"
webhook_password = "file:secrets/pipedrive_password"
"""


def furnish(vendor: Vendor) -> None:
    vendor.configure(token=vendor.secrets["token"])
    vendor.act("has_hook", url=vendor.hook, login=[USER, vendor.secrets["password"]])
    vendor.act("new_field", name=REMINDERS, options=["Yes", "No"])


def add(vendor: Vendor, person: Person) -> None:
    vendor.act(
        "new_person",
        emails=[person.email],
        phones=[person.phone],
        status="subscribed",
        marks={REMINDERS: "Yes"},
    )


def option(state: State, person: Person, name: str) -> str:
    """What is chosen in a field; empty for none."""
    persons = state["persons"].values()
    custom = next(one["custom"] for one in persons if person.email in one["emails"])
    held = next((one for one in state["fields"].values() if one["name"] == name), None)
    return str(held["options"].get(str(custom.get(held["code"])), "")) if held else ""


def off(state: State, person: Person, channel: str) -> bool:
    if channel == "email":
        return bool(state["statuses"][person.email] == "unsubscribed")
    return option(state, person, f"Marketing - {channel}") == "Opted out"


SYSTEM = System(
    name="pipedrive",
    section=SECTION,
    secrets={"token": "", "password": ""},
    furnish=furnish,
    add=add,
    ends=dict.fromkeys(CHANNELS, "recorded") | {"email": "confirmed"},
    off=off,
    kept=lambda state, person: option(state, person, REMINDERS) == "Yes",
    try_it="unsubscribe Erin in a campaign",
)
