"""Facebook Messenger: one Page, whose inbox shows a label on who opted out."""

from __future__ import annotations

from prefs.demo.people import PAGE, Person
from prefs.demo.system import System, Vendor

LABEL = "No marketing"
SECTION = f"""
page = "{PAGE}"
token = "file:secrets/messenger_token"
app_secret = "file:secrets/messenger_app"
verify_token = "file:secrets/messenger_verify"
label = "{LABEL}"
"""


def furnish(vendor: Vendor) -> None:
    vendor.configure(
        page=PAGE,
        token=vendor.secrets["token"],
        app_secret=vendor.secrets["app"],
        verify_token=vendor.secrets["verify"],
        webhook_url=vendor.hook,
    )


def add(vendor: Vendor, person: Person) -> None:
    vendor.act("new_person", psid=person.psid, name=person.name, token=True)


SYSTEM = System(
    name="messenger",
    section=SECTION,
    secrets={"token": "", "app": "", "verify": ""},
    furnish=furnish,
    add=add,
    ends={"messenger": "local"},
    off=lambda state, person, channel: person.psid in state["labelled"],
    kept=lambda state, person: person.psid not in state["blocked"],
    try_it="type STOP as Erin",
)
