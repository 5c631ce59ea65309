"""A twin of Timely as staff see it: customers with three kinds of settings, and an export.

There is no interface: the only route is the export that staff download in the browser::

    twin.new_customer("7", "Amy", "Pond", "amy@example.com", "7700900101")
    twin.staff_sets("7", "email", False)
    twin.export()                                  # bytes of the CSV
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tests.twins.kit import PLAIN, ActError, Button, Letter, Mark, Row, Travel, Twin, act

HEADINGS = (
    "Customer ID",
    "First name",
    "Last name",
    "Email",
    "Mobile",
    "Receive SMS marketing",
    "Receive email marketing",
    "Gender",
)
COLUMNS = {
    "id": "Customer ID",
    "first_name": "First name",
    "last_name": "Last name",
    "email": "Email",
    "mobile": "Mobile",
    "sms_marketing": "Receive SMS marketing",
    "email_marketing": "Receive email marketing",
}


@dataclass
class Customer:
    id: str
    first: str
    last: str
    email: str
    mobile: str
    """Without the leading 0: Timely adds the country's prefix itself."""
    marketing: dict[str, bool]
    notifications: dict[str, bool] = field(default_factory=lambda: {"email": True, "sms": True})


@dataclass
class Account:
    customers: dict[str, Customer] = field(default_factory=dict)


class TimelyTwin(Twin[Account]):
    name = "timely"

    def fresh(self) -> Account:
        return Account()

    def routes(self) -> Sequence[BaseRoute]:
        return [Route("/export.csv", self.download, methods=["GET"])]

    def problem(self, status: int, reason: str = "") -> Response:
        return JSONResponse({"error": reason or f"HTTP {status}"}, status)

    async def download(self, request: Request) -> Response:
        return Response(self.export(), media_type="text/csv")

    def export(self) -> bytes:
        """With a byte-order mark, as spreadsheets like it."""
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(HEADINGS)
        with self.lock:
            for one in self.state.customers.values():
                flags = ["Yes" if one.marketing[name] else "No" for name in ("sms", "email")]
                writer.writerow([one.id, one.first, one.last, one.email, one.mobile, *flags, ""])
        return out.getvalue().encode("utf-8-sig")

    def customer(self, id_: str) -> Customer:
        if id_ not in self.state.customers:
            raise ActError("no such customer")
        return self.state.customers[id_]

    def reminders_on(self) -> bool:
        with self.lock:
            return all(all(one.notifications.values()) for one in self.state.customers.values())

    @act
    def new_customer(
        self, id_: str, first: str, last: str, email: str, mobile: str, marketing: bool = True
    ) -> None:
        flags = {"email": marketing, "sms": marketing}
        self.state.customers[id_] = Customer(id_, first, last, email, mobile, flags)

    @act
    def deletes(self, id_: str) -> None:
        """Staff delete the customer, or anonymise them: exports lack them from now on."""
        del self.state.customers[self.customer(id_).id]

    @act
    def staff_sets(self, id_: str, channel: str, on: bool, travel: Travel = PLAIN) -> None:
        """On the Notifications tab; an automation tool may tell of the updated customer."""
        one = self.customer(id_)
        one.marketing[channel] = bool(on)
        self._tell(one, travel)

    @act
    def staff_do_the_list(self, text: str) -> int:
        """Staff go through our list of tasks and do what it says; returns how many."""
        done = 0
        for task in csv.DictReader(io.StringIO(text)):
            one = self.state.customers.get(task["timely_customer_id"]) or self._named(task)
            if one:
                one.marketing[task["channel"]] = task["set_to"] == "on"
                done += 1
        return done

    def _named(self, task: Mapping[str, str]) -> Customer | None:
        return next(
            (
                one
                for one in self.state.customers.values()
                if (task["email"] and one.email == task["email"])
                or (one.mobile and task["mobile"].endswith(one.mobile))
            ),
            None,
        )

    def _tell(self, one: Customer, travel: Travel) -> None:
        if not self.webhook_url:
            return
        flags = {name: "Yes" if on else "No" for name, on in one.marketing.items()}
        body = {
            "Customer ID": one.id,
            "Email": one.email,
            "Mobile": one.mobile,
            "Receive SMS marketing": flags["sms"],
            "Receive email marketing": flags["email"],
        }
        content = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        self.post(lambda attempt: Letter(self.webhook_url, content, headers), travel)

    def show(self) -> Any:
        return {
            one.id: {"marketing": one.marketing, "notifications": one.notifications}
            for one in self.state.customers.values()
        }

    def people(self) -> Sequence[Row]:
        return [self._row(one) for one in self.state.customers.values()]

    def _row(self, one: Customer) -> Row:
        buttons = [
            Button(
                f"Staff: {name} {'off' if on else 'on'}",
                "staff_sets",
                {"id_": one.id, "channel": name, "on": "" if on else "yes"},
            )
            for name, on in one.marketing.items()
        ]
        return Row(
            f"{one.first} {one.last}",
            _marks(one.marketing),
            _marks(one.notifications),
            ", ".join(filter(None, (one.email, one.mobile))),
            buttons,
        )

    def page_links(self) -> Mapping[str, str]:
        return {"Export of all customers (CSV)": "/export.csv"}


def _marks(settings: Mapping[str, bool]) -> list[Mark]:
    return [Mark(f"{name}: {'on' if on else 'off'}", on) for name, on in settings.items()]
