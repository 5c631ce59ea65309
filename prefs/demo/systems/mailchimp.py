"""Mailchimp: an audience for the newsletter, and one for aftercare that marketing never touches."""

from __future__ import annotations

from typing import Any

from prefs.demo.people import Person
from prefs.demo.system import State, System, Vendor

NEWSLETTER, AFTERCARE = "a1b2c3", "d4e5f6"
SECTION = f"""
api_key = "file:secrets/mailchimp_key"
webhook_secret = "file:secrets/mailchimp_signing"
audiences = {{ {NEWSLETTER} = ["treatments", "products", "offers", "competitions", "news"] }}
service_containers = ["{AFTERCARE}"]
"""


def furnish(vendor: Vendor) -> None:
    vendor.configure(api_key=vendor.secrets["key"])
    vendor.act("new_audience", list_id=NEWSLETTER, name="Newsletter")
    vendor.act("new_audience", list_id=AFTERCARE, name="Aftercare", purpose="service")
    vendor.act(
        "old_webhook",
        list_id=NEWSLETTER,
        url=vendor.hook,
        sources=["user", "admin"],
        secret=vendor.secrets["signing"],
    )


def add(vendor: Vendor, person: Person) -> None:
    for list_id in (NEWSLETTER, AFTERCARE):
        vendor.act("new_member", list_id=list_id, email=person.email)


def status(state: State, person: Person, list_id: str = NEWSLETTER) -> str:
    members: list[dict[str, Any]] = list(state["audiences"][list_id]["members"].values())
    found: str = next(one["status"] for one in members if one["email"] == person.email)
    return found


SYSTEM = System(
    name="mailchimp",
    section=SECTION,
    secrets={"key": "-us6", "signing": ""},
    furnish=furnish,
    add=add,
    ends={"email": "confirmed"},
    off=lambda state, person, channel: status(state, person) == "unsubscribed",
    kept=lambda state, person: status(state, person, AFTERCARE) == "subscribed",
    try_it="unsubscribe Erin from the Newsletter: the rest follow",
)
