"""ActiveCampaign: two mail lists and a text list for marketing, one list for appointments."""

from __future__ import annotations

from prefs.demo.people import Person
from prefs.demo.system import State, System, Vendor

NEWS, OFFERS, APPOINTMENTS, TEXTS = "1", "2", "3", "4"
MARKETING = {"email": (NEWS, OFFERS), "sms": (TEXTS,)}
ACTIVE, UNSUBSCRIBED = "1", "2"
EVENTS = ("subscribe", "unsubscribe", "sms_unsub", "sms_reply", "bounce", "update")
SECTION = f"""
api_key = "file:secrets/activecampaign_key"
service_lists = ["{APPOINTMENTS}"]
sms_lists = ["{TEXTS}"]
[brands.rt.targets.activecampaign.marketing_lists]
{NEWS} = ["news", "competitions"]
{OFFERS} = ["treatments", "products", "offers"]
"""


def furnish(vendor: Vendor) -> None:
    vendor.configure(token=vendor.secrets["key"])
    vendor.act("new_list", id=NEWS, name="News")
    vendor.act("new_list", id=OFFERS, name="Offers")
    vendor.act("new_list", id=APPOINTMENTS, name="Appointments", purpose="service")
    vendor.act("new_list", id=TEXTS, name="Text offers", channel="sms")
    vendor.act("has_webhook", url=vendor.hook, events=EVENTS)


def add(vendor: Vendor, person: Person) -> None:
    statuses = dict.fromkeys((NEWS, OFFERS, APPOINTMENTS, TEXTS), ACTIVE)
    vendor.act("new_contact", email=person.email, phone=person.phone, statuses=statuses)


def status(state: State, person: Person, list_id: str) -> str:
    contacts = state["contacts"].values()
    contact = next(one["id"] for one in contacts if one["email"] == person.email)
    found: str = state["rows"][f"{contact}/{list_id}"]["status"]
    return found


def off(state: State, person: Person, channel: str) -> bool:
    return all(status(state, person, one) == UNSUBSCRIBED for one in MARKETING[channel])


def kept(state: State, person: Person) -> bool:
    """The list of appointments was not even written to."""
    written = APPOINTMENTS in state["written"]
    return status(state, person, APPOINTMENTS) == ACTIVE and not written


SYSTEM = System(
    name="activecampaign",
    section=SECTION,
    secrets={"key": "", "hook": ""},
    furnish=furnish,
    add=add,
    ends={"email": "confirmed", "sms": "confirmed"},
    off=off,
    kept=kept,
    try_it="let staff put Amelia on a list again: she is taken off",
)
