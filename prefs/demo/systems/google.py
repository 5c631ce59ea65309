"""Google Contacts: a label for each channel beside the clinic's own label "Clients".

The vendor publishes no quota: an account's console shows it, and `limit` says it. Here it is
enough for a poll every few seconds.
"""

from __future__ import annotations

from prefs.demo.people import Person
from prefs.demo.system import CHANNELS, State, System, Vendor

CLIENT = "prefs-demo"
CLIENTS = "Clients"
CALLS_A_MINUTE = 200
SECTION = f"""
client_id = "{CLIENT}"
client_secret = "file:secrets/google_client"
refresh_token = "file:secrets/google_refresh"
"""


def furnish(vendor: Vendor) -> None:
    vendor.configure(
        client_id=CLIENT,
        client_secret=vendor.secrets["client"],
        refresh_token=vendor.secrets["refresh"],
        windows=[[CALLS_A_MINUTE, 60]],
    )
    vendor.act("new_label", name=CLIENTS)


def add(vendor: Vendor, person: Person) -> None:
    vendor.act(
        "new_contact",
        email=person.email,
        phone=person.phone,
        name=person.name,
        labels=[CLIENTS],
    )


def labels(state: State, person: Person) -> set[str]:
    latest = [versions[-1] for versions in state["versions"].values()]
    held = next(one["groups"] for one in latest if person.email in one["emails"])
    return {state["groups"][id_]["name"] for id_ in held}


SYSTEM = System(
    name="google",
    section=SECTION,
    secrets={"client": "", "refresh": ""},
    furnish=furnish,
    add=add,
    ends=dict.fromkeys(CHANNELS, "recorded"),
    off=lambda state, person, channel: f"No marketing - {channel}" in labels(state, person),
    kept=lambda state, person: CLIENTS in labels(state, person),
    try_it='remove "No marketing - email" from Amelia: it is put back',
    limit=f"{CALLS_A_MINUTE}/60s",
)
