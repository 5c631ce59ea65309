"""Pabau: five flags of marketing on each client; "need to knows" are the confirmations' own."""

from __future__ import annotations

from typing import Any

from prefs.demo.people import Person
from prefs.demo.system import State, System, Vendor

FLAGS = {
    "email": ("opt_in_email", "opt_in_newsletter"),
    "sms": ("opt_in_sms",),
    "phone": ("opt_in_phone",),
    "post": ("opt_in_post",),
}
SECTION = """
api_key = "file:secrets/pabau_key"
"""


def furnish(vendor: Vendor) -> None:
    vendor.configure(api_key=vendor.secrets["key"], webhook_url=vendor.hook)


def add(vendor: Vendor, person: Person) -> None:
    vendor.act("new_client", email=person.email, mobile=person.phone, name=person.name)


def client(state: State, person: Person) -> dict[str, Any]:
    clients = state["clients"].values()
    found: dict[str, Any] = next(one for one in clients if one["email"] == person.email)
    return found


def off(state: State, person: Person, channel: str) -> bool:
    flags = client(state, person)["flags"]
    return all(flags[name] == 0 for name in FLAGS[channel])


def kept(state: State, person: Person) -> bool:
    held = client(state, person)
    return bool(held["need_to_knows"] == 1 and held["is_active"] == 1)


SYSTEM = System(
    name="pabau",
    section=SECTION,
    secrets={"key": "", "hook": ""},
    furnish=furnish,
    add=add,
    ends=dict.fromkeys(FLAGS, "confirmed"),
    off=off,
    kept=kept,
    try_it="book online as Amelia: its form turns her on, she is turned off again",
)
