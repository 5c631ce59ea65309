"""Keap: the status of the address, a tag for each other channel, and a tag of the clinic's own.

Connected by OAuth, whose limit is larger than that of a personal token:
https://developer.keap.com/docs/restv2/
"""

from __future__ import annotations

from prefs.demo.people import Person
from prefs.demo.system import CHANNELS, State, System, Vendor

CLIENT = "prefs-demo"
REMINDERS = "Appointment reminders"
CALLS_A_MINUTE = 1500
SECTION = f"""
client_id = "{CLIENT}"
client_secret = "file:secrets/keap_client"
refresh_token = "file:secrets/keap_refresh"
"""


def furnish(vendor: Vendor) -> None:
    vendor.configure(
        client_id=CLIENT,
        client_secret=vendor.secrets["client"],
        refresh_token=vendor.secrets["refresh"],
        windows=[[CALLS_A_MINUTE, 60]],
    )
    vendor.act("has_hooks", url=vendor.hook)


def add(vendor: Vendor, person: Person) -> None:
    vendor.act(
        "new_contact",
        email=person.email,
        phone=person.phone,
        status="SINGLE_OPT_IN",
        tags=[REMINDERS],
    )


def tags(state: State, person: Person) -> set[str]:
    contacts = state["contacts"].values()
    held = next(one["tags"] for one in contacts if person.email in one["emails"])
    return {state["tags"][tag] for tag in held}


def off(state: State, person: Person, channel: str) -> bool:
    if channel == "email":
        return state["statuses"][person.email]["opted_in"] is False
    return f"No marketing - {channel}" in tags(state, person)


SYSTEM = System(
    name="keap",
    section=SECTION,
    secrets={"client": "", "refresh": "", "hook": ""},
    furnish=furnish,
    add=add,
    ends=dict.fromkeys(CHANNELS, "recorded") | {"email": "confirmed"},
    off=off,
    kept=lambda state, person: REMINDERS in tags(state, person),
    try_it="unsubscribe Erin: no webhook of Keap tells that, the poll finds it",
    limit=f"{CALLS_A_MINUTE}/60s",
)
