"""Timely: no interface, so staff carry each change and bring its export as proof."""

from __future__ import annotations

from typing import Any

from prefs.demo.people import Person
from prefs.demo.system import State, System, Vendor

SECTION = """
unsafe_after = "72h"
[brands.rt.targets.timely.columns]
id = "Customer ID"
first_name = "First name"
last_name = "Last name"
email = "Email"
mobile = "Mobile"
sms_marketing = "Receive SMS marketing"
email_marketing = "Receive email marketing"
"""


def add(vendor: Vendor, person: Person) -> None:
    """Timely shows mobiles without the country's code."""
    vendor.act(
        "new_customer",
        id_=person.ref,
        first=person.first,
        last=person.last,
        email=person.email,
        mobile=person.phone.removeprefix("+44"),
    )


def customer(state: State, person: Person) -> dict[str, Any]:
    found: dict[str, Any] = state[person.ref]
    return found


SYSTEM = System(
    name="timely",
    section=SECTION,
    secrets={},
    furnish=lambda vendor: None,
    add=add,
    ends={"email": "waiting_for_staff", "sms": "waiting_for_staff"},
    off=lambda state, person, channel: not customer(state, person)["marketing"][channel],
    kept=lambda state, person: all(customer(state, person)["notifications"].values()),
    try_it="switch a person off by hand, then bring the export as below",
)
