"""Xero: a contact group for each channel beside the clinic's own group for invoices."""

from __future__ import annotations

from prefs.demo.people import Person
from prefs.demo.system import CHANNELS, State, System, Vendor

CLIENT = "prefs-demo"
TENANT = "aef86862-2015-4b6b-88bc-d89032cecc50"
INVOICED = "Invoiced by mail"
SECTION = f"""
client_id = "{CLIENT}"
client_secret = "file:secrets/xero_client"
tenant = "{TENANT}"
webhook_secret = "file:secrets/xero_signing"
"""


def furnish(vendor: Vendor) -> None:
    vendor.configure(
        client_id=CLIENT,
        client_secret=vendor.secrets["client"],
        tenant=TENANT,
        webhook_secret=vendor.secrets["signing"],
        webhook_url=vendor.hook,
    )
    vendor.act("new_group", name=INVOICED)


def add(vendor: Vendor, person: Person) -> None:
    area, number = person.phone[3:7], person.phone[7:]
    vendor.act(
        "new_contact", email=person.email, name=person.name, country="44", area=area, phone=number
    )
    vendor.act("staff_adds", email=person.email, group=INVOICED)


def groups(state: State, person: Person) -> set[str]:
    contacts = state["contacts"].values()
    contact = next(one["id"] for one in contacts if one["email"] == person.email)
    return {one["name"] for one in state["groups"].values() if contact in one["members"]}


SYSTEM = System(
    name="xero",
    section=SECTION,
    secrets={"client": "", "signing": ""},
    furnish=furnish,
    add=add,
    ends=dict.fromkeys(CHANNELS, "recorded"),
    off=lambda state, person, channel: f"No marketing - {channel}" in groups(state, person),
    kept=lambda state, person: INVOICED in groups(state, person),
    try_it="take Amelia out of a group: she is put back within a minute (60 calls are its limit)",
    handshake="intent_to_receive",
)
