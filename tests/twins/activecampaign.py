"""A twin of ActiveCampaign: https://developers.activecampaign.com/reference/overview

One row for each contact and list holds the status ("2" is out); nothing on the contact does.
Webhooks are unsigned forms, sent once and never again::

    with running(ActiveCampaignTwin()) as (twin, url):
        twin.new_list("1", "News")
        twin.new_contact("amy@example.com", phone="07700 900123", statuses={"1": "1"})
        twin.person_unsubscribes("amy@example.com", "1")
        assert twin.status("amy@example.com", "1") == "2"
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tests.twins.kit import (
    PLAIN,
    ActError,
    Button,
    Courier,
    Letter,
    Limits,
    Mark,
    Refusal,
    Row,
    Sent,
    Travel,
    Twin,
    Window,
    act,
)

SPEED = Window(5, 1.0)
"""Of the whole account: https://developers.activecampaign.com/reference/rate-limits"""
PAGE, LARGEST_PAGE = 20, 100
API = "/api/3"
ZONE = timezone(timedelta(hours=-6))
"""The account's; times show it."""
WORDS = {"0": "unconfirmed", "1": "active", "2": "unsubscribed", "3": "bounced", "91": "removed"}
WRITABLE = {"0", "1", "2"}
EVENTS = {"subscribe", "unsubscribe", "sms_unsub", "sms_reply", "bounce", "update", "list_add"}
SOURCES = {"public", "admin", "api", "system"}
ROW_FIELDS = {"list", "contact", "status", "sourceid"}
CONTACT_FIELDS = {"email", "phone", "firstName", "lastName", "fieldValues"}


@dataclass
class List:
    id: str
    name: str
    channel: str
    purpose: str


@dataclass
class Contact:
    id: str
    email: str
    phone: str
    changed: datetime


@dataclass
class Membership:
    """`by` is person, admin or api: for the page and for tests. `form` and `ip` are those of a
    sign-up by a form."""

    id: str
    contact: str
    list: str
    status: str
    subscribed: datetime | None
    left: datetime | None
    by: str
    made: datetime
    source_id: str = "0"
    form: str | None = None
    ip: str = ""


@dataclass
class Account:
    lists: dict[str, List] = field(default_factory=dict)
    contacts: dict[str, Contact] = field(default_factory=dict)
    rows: dict[str, Membership] = field(default_factory=dict)
    """By contact and list, joined by a slash."""
    webhooks: dict[str, dict[str, Any]] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    """Lists of which a program set a row."""
    next_id: int = 40


class ActiveCampaignTwin(Twin[Account]):
    """See the module. Settings beside those of the kit: `token` (of the header Api-Token),
    `sideloads` (no: `include` is not understood), and `shows_state` (no: the list of webhooks does
    not say which are off). `webhook_url` hears every event and stands in no list."""

    name = "activecampaign"
    title = "ActiveCampaign"
    default_limits = staticmethod(lambda: Limits(windows=[SPEED]))

    def __init__(self) -> None:
        super().__init__()
        self.courier = Courier((), lambda status: False)
        self.token = "twin-activecampaign-key"
        self.sideloads = self.shows_state = True

    def fresh(self) -> Account:
        return Account()

    def reset(self) -> None:
        super().reset()
        self.token = "twin-activecampaign-key"
        self.sideloads = self.shows_state = True

    def configure(self, **settings: Any) -> None:
        """Its own settings by name, else as the kit."""
        self.token = str(settings.pop("token", self.token))
        self.sideloads = bool(settings.pop("sideloads", self.sideloads))
        self.shows_state = bool(settings.pop("shows_state", self.shows_state))
        super().configure(**settings)

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route(f"{API}/contacts", self.get_contacts, methods=["GET"]),
            Route(f"{API}/contacts", self.post_contact, methods=["POST"]),
            Route(f"{API}/contacts/{{id}}", self.get_contact, methods=["GET"]),
            Route(f"{API}/contacts/{{id}}", self.delete_contact, methods=["DELETE"]),
            Route(f"{API}/contacts/{{id}}/contactLists", self.get_rows, methods=["GET"]),
            Route(f"{API}/contactLists", self.post_row, methods=["POST"]),
            Route(f"{API}/lists", self.get_lists, methods=["GET"]),
            Route(f"{API}/webhooks", self.get_webhooks, methods=["GET"]),
            Route(f"{API}/webhooks", self.post_webhook, methods=["POST"]),
            Route(f"{API}/webhooks/{{id}}", self.delete_webhook, methods=["DELETE"]),
        ]

    def problem(self, status: int, reason: str = "", code: str = "") -> Response:
        """404 is a message; 403 and 422 are a list of errors."""
        reason = reason or f"HTTP {status}"
        if status not in (403, 422):
            return JSONResponse({"message": reason}, status)
        error = {"title": reason, "detail": "", "code": code, "source": {"pointer": "/data"}}
        return JSONResponse({"errors": [error]}, status)

    def too_many(self) -> Response:
        response = self.problem(429, "You have exceeded the rate limit")
        response.headers["Retry-After"] = "1"
        return response

    def reply_headers(self) -> Mapping[str, str]:
        left = str(self.limits.left(SPEED))
        return {"RateLimit-Limit": str(SPEED.calls), "RateLimit-Remaining": left}

    def gate(self, request: Request) -> Response | None:
        """A bad key is 403 here, not 401."""
        good = request.headers.get("api-token") == self.token
        return None if good else self.problem(403, "Forbidden")

    # --- contacts ------------------------------------------------------------------------------

    async def get_contacts(self, request: Request) -> Response:
        """Filters that it does not know are ignored, like those of the vendor."""
        asked = request.query_params
        found = list(self.state.contacts.values())  # ids only grow
        if "email" in asked:
            found = [one for one in found if one.email.lower() == asked["email"].lower()]
        if "phone" in asked:
            found = [one for one in found if one.phone.startswith(asked["phone"])]
        if "id_greater" in asked:
            found = [one for one in found if int(one.id) > int(asked["id_greater"])]
        if asked.get("orders[id]", "asc").lower() == "desc":
            found.reverse()
        page = _page(found, asked)
        body: dict[str, Any] = {"contacts": [self._shown(one) for one in page]}
        if asked.get("include") == "contactLists" and self.sideloads:
            rows = [row for one in page for row in self._rows(one.id)]
            body["contactLists"] = [self._row_shown(row) for row in rows]
            for shown in body["contacts"]:
                shown["contactLists"] = [row.id for row in rows if row.contact == shown["id"]]
        return JSONResponse(body | {"meta": {"total": str(len(found))}})

    async def get_contact(self, request: Request) -> Response:
        contact = self._contact(request.path_params["id"])
        rows = [self._row_shown(row) for row in self._rows(contact.id)]
        shown = self._shown(contact) | {"contactLists": [row["id"] for row in rows]}
        return JSONResponse({"contactLists": rows, "fieldValues": [], "contact": shown})

    async def post_contact(self, request: Request) -> Response:
        fields = await self._fields(request, "contact", CONTACT_FIELDS, {"email"})
        if self._named(fields["email"]):
            reason = "Email address already exists in the system"
            return self.problem(422, reason, "duplicate")
        contact = self._add(fields["email"], fields.get("phone", ""))
        return JSONResponse({"fieldValues": [], "contact": self._shown(contact)}, 201)

    async def delete_contact(self, request: Request) -> Response:
        contact = self._contact(request.path_params["id"])
        del self.state.contacts[contact.id]
        for row in self._rows(contact.id):
            del self.state.rows[f"{row.contact}/{row.list}"]
        return JSONResponse({})

    def _contact(self, contact_id: str) -> Contact:
        if contact_id not in self.state.contacts:
            reason = f"No Result found for Subscriber with id {contact_id}"
            raise Refusal(self.problem(404, reason))
        return self.state.contacts[contact_id]

    def _named(self, email: str) -> list[Contact]:
        return [c for c in self.state.contacts.values() if c.email.lower() == email.lower()]

    def _add(self, email: str, phone: str) -> Contact:
        contact = Contact(self._new_id(), email.lower(), phone, self.clock())
        self.state.contacts[contact.id] = contact
        return contact

    def _new_id(self) -> str:
        self.state.next_id += 1
        return str(self.state.next_id)

    def _shown(self, contact: Contact) -> dict[str, Any]:
        return {
            "id": contact.id,
            "email": contact.email,
            "phone": contact.phone,
            "deleted": "0",
            "udate": _time(contact.changed),
            "links": {"contactLists": f"{self.url}{API}/contacts/{contact.id}/contactLists"},
        }

    # --- rows ----------------------------------------------------------------------------------

    async def get_rows(self, request: Request) -> Response:
        contact = self._contact(request.path_params["id"])
        rows = [self._row_shown(row) for row in self._rows(contact.id)]
        return JSONResponse({"contactLists": rows})

    async def post_row(self, request: Request) -> Response:
        """Anybody can be put back, silently; a row is made where there was none."""
        fields = await self._fields(request, "contactList", ROW_FIELDS, ROW_FIELDS - {"sourceid"})
        contact, status = self._contact(str(fields["contact"])), str(fields["status"])
        if str(fields["list"]) not in self.state.lists or status not in WRITABLE:
            raise Refusal(self.problem(400, "no such list or status"))
        row = self._write(contact, str(fields["list"]), status, "api")
        row.source_id = str(fields.get("sourceid", 0))
        shown = self._row_shown(row) | {"status": int(row.status)}
        return JSONResponse({"contacts": [self._shown(contact)], "contactList": shown})

    def _rows(self, contact_id: str) -> list[Membership]:
        keys = (f"{contact_id}/{list_id}" for list_id in self.state.lists)
        return [self.state.rows[key] for key in keys if key in self.state.rows]

    def _row_shown(self, row: Membership) -> dict[str, Any]:
        return {
            "id": row.id,
            "contact": row.contact,
            "list": row.list,
            "status": row.status,
            "sdate": row.subscribed and _time(row.subscribed),
            "udate": row.left and _time(row.left),
            "unsubreason": None,
            "form": row.form,
            "sourceid": row.source_id,
            "ip4Sub": str(int(IPv4Address(row.ip))) if row.ip else "0",
            "ip4_last": "0",
            "ip4Unsub": "0",
            "created_timestamp": row.made.astimezone(ZONE).strftime("%Y-%m-%d %H:%M:%S"),
        }

    def _write(
        self, contact: Contact, list_id: str, status: str, by: str, travel: Travel = PLAIN
    ) -> Membership:
        now, key = self.clock(), f"{contact.id}/{list_id}"
        if list_id not in self.state.lists:
            raise ActError("no such list")
        row = self.state.rows.get(key)
        before = row.status if row else None
        if row is None:
            row = Membership(self._new_id(), contact.id, list_id, status, None, None, by, now)
            self.state.rows[key] = row
        row.status = status
        if by == "api":
            self.state.written.add(list_id)
        if before == status:
            return row
        row.by = by
        row.subscribed = now if status == "1" else row.subscribed
        row.left = now if status == "2" else None
        kind = {"1": "subscribe", "2": "unsubscribe"}.get(status)
        if kind:
            self._tell(kind, contact, by, _list_fields(list_id, by), travel)
        return row

    # --- lists ---------------------------------------------------------------------------------

    async def get_lists(self, request: Request) -> Response:
        lists = list(self.state.lists.values())
        shown = [
            {"id": one.id, "name": one.name, "channel": one.channel, "deletestamp": None}
            for one in _page(lists, request.query_params)
        ]
        return JSONResponse({"lists": shown, "meta": {"total": str(len(lists))}})

    # --- webhooks ------------------------------------------------------------------------------

    async def post_webhook(self, request: Request) -> Response:
        needed = {"name", "url", "events", "sources"}
        fields = await self._fields(request, "webhook", needed | {"listid"}, needed)
        if set(fields["events"]) - EVENTS or set(fields["sources"]) - SOURCES:
            raise Refusal(self.problem(422, "no such event or source"))
        return JSONResponse({"webhook": self._hook_shown(self._add_hook(fields))}, 201)

    def _add_hook(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """`listid` 0 is every list."""
        place = str(fields.get("listid", 0))
        hook = {**fields, "listid": place, "id": self._new_id(), "state": "1"}
        self.state.webhooks[str(hook["id"])] = hook
        return hook

    async def get_webhooks(self, request: Request) -> Response:
        hooks = list(self.state.webhooks.values())
        shown = [self._hook_shown(hook) for hook in _page(hooks, request.query_params)]
        return JSONResponse({"webhooks": shown, "meta": {"total": str(len(hooks))}})

    def _hook_shown(self, hook: Mapping[str, Any]) -> dict[str, Any]:
        hidden = () if self.shows_state else ("state",)
        return {name: value for name, value in hook.items() if name not in hidden}

    async def delete_webhook(self, request: Request) -> Response:
        if self.state.webhooks.pop(request.path_params["id"], None) is None:
            raise Refusal(self.problem(404, "No Result found for Webhook"))
        return JSONResponse({})

    def _tell(
        self, kind: str, contact: Contact, by: str, more: Iterable[tuple[str, str]], travel: Travel
    ) -> None:
        source = {"person": "public"}.get(by, by)
        fields = [
            ("type", kind),
            ("date_time", _time(self.clock())),
            ("initiated_from", source),
            ("initiated_by", source),
            *more,
            ("contact[id]", contact.id),
            ("contact[email]", contact.email),
            ("contact[phone]", contact.phone),
            ("contact[tags]", ""),
        ]
        content = urlencode(fields).encode()
        headers = {"content-type": "application/x-www-form-urlencoded"}
        if self.webhook_url:
            letter = Letter(self.webhook_url, content, headers)
            self.post(lambda attempt: letter, travel)
        for hook in self.state.webhooks.values():
            wanted = kind in hook["events"] and source in hook["sources"]
            if wanted and hook["state"] == "1" and _is_about(hook, more):
                self._send_to(hook, Letter(hook["url"], content, headers), travel)

    def _send_to(self, hook: dict[str, Any], letter: Letter, travel: Travel) -> None:
        """An answer of 410 switches the webhook off for good."""

        def answered(sent: Sent) -> None:
            if sent.status == 410:
                hook["state"] = "0"

        self.post(lambda attempt: letter, travel, answered)

    async def _fields(
        self, request: Request, name: str, known: set[str], needed: set[str]
    ) -> dict[str, Any]:
        try:
            body = json.loads(await request.body())
        except ValueError:
            body = None
        fields = body.get(name) if isinstance(body, dict) and set(body) == {name} else None
        if not isinstance(fields, dict) or set(fields) - known or needed - set(fields):
            raise Refusal(self.problem(422, f"the body is not that of a {name}"))
        return fields

    # --- what tests ask ------------------------------------------------------------------------

    def status(self, email: str, list_id: str) -> str | None:
        """Of the first contact with this address; None where it is not on the list."""
        row = self.state.rows.get(f"{self._known(email).id}/{list_id}")
        return row.status if row else None

    def api_changes_of_service(self) -> set[str]:
        lists = self.state.lists.values()
        return self.state.written - {one.id for one in lists if one.purpose == "marketing"}

    def _known(self, person: str) -> Contact:
        """By address or number."""
        found = [c for c in self.state.contacts.values() if person in (c.email, c.phone)]
        if not found:
            raise ActError("no such contact")
        return found[0]

    # --- acts ----------------------------------------------------------------------------------

    @act
    def new_list(
        self, id: str, name: str, channel: str = "email", purpose: str = "marketing"
    ) -> str:
        self.state.lists[id] = List(id, name, channel, purpose)
        return id

    @act
    def new_contact(
        self, email: str, phone: str = "", statuses: Mapping[str, str] | None = None
    ) -> str:
        """Another one where the address is known: accounts may allow duplicates."""
        contact, now = self._add(email, phone), self.clock()
        for list_id, status in (statuses or {}).items():
            joined = now if status in ("1", "2", "3") else None
            left = now if status == "2" else None
            who, id = contact.id, self._new_id()
            row = Membership(id, who, list_id, status, joined, left, "admin", now)
            self.state.rows[f"{contact.id}/{list_id}"] = row
        return contact.id

    @act
    def person_unsubscribes(self, email: str, list: str, travel: Travel = PLAIN) -> None:
        """The link in a mail."""
        self._write(self._known(email), list, "2", "person", travel)

    @act
    def person_subscribes(
        self,
        email: str,
        list: str,
        form: str = "5",
        ip: str = "192.0.2.7",
        travel: Travel = PLAIN,
    ) -> None:
        """By a form of the account."""
        row = self._write(self._known(email), list, "1", "person", travel)
        row.form, row.ip = form, ip

    @act
    def imported(self, email: str, list: str, ip: str = "198.51.100.4") -> None:
        """From a file of staff's, with what it says of times and IPs. Imports fire no webhooks."""
        now, contact = self.clock(), self._add(email, "")
        row = Membership(self._new_id(), contact.id, list, "1", now, None, "admin", now, ip=ip)
        self.state.rows[f"{contact.id}/{list}"] = row

    @act
    def admin_sets(self, email: str, list: str, status: str, travel: Travel = PLAIN) -> None:
        """Staff on ActiveCampaign's own pages; "91" takes the contact off the list."""
        self._write(self._known(email), list, status, "admin", travel)

    @act
    def bounces(self, email: str, travel: Travel = PLAIN) -> None:
        contact = self._known(email)
        for row in self._rows(contact.id):
            row.status = "3"
        told = [("bounce[type]", "hard"), ("bounce[code]", "5.1.1"), ("campaign[id]", "7")]
        self._tell("bounce", contact, "system", told, travel)

    @act
    def texts_stop(self, phone: str, travel: Travel = PLAIN) -> None:
        contact = self._known(phone)
        for row in self._rows(contact.id):
            if self.state.lists[row.list].channel == "sms":
                row.status, row.left, row.by = "2", self.clock(), "person"
        told = [("sms[id]", self._new_id()), ("sms[phone]", phone)]
        self._tell("sms_unsub", contact, "person", told, travel)

    @act
    def has_webhook(self, url: str, events: Sequence[str], listid: str = "0") -> None:
        """A webhook as found at the start, made by staff."""
        sources = ["public", "admin", "system"]
        fields = {"name": "ours", "url": url, "events": list(events), "sources": sources}
        self._add_hook({**fields, "listid": listid})

    @act
    def webhooks_vanish(self) -> None:
        """Somebody deleted them all in ActiveCampaign."""
        self.state.webhooks.clear()

    # --- the page ------------------------------------------------------------------------------

    def people(self) -> Sequence[Row]:
        return [self._row(contact) for contact in self.state.contacts.values()]

    def _row(self, contact: Contact) -> Row:
        marks: dict[bool, list[Mark]] = {True: [], False: []}
        buttons = []
        for row in self._rows(contact.id):
            one = self.state.lists[row.list]
            marketing = one.purpose == "marketing"
            said = WORDS.get(row.status, row.status)
            on = {"1": True, "2": False}.get(row.status)
            marks[marketing].append(Mark(f"{one.name}: {said}", on))
            fields = {"email": contact.email, "list": row.list}
            if marketing and on and one.channel == "email":
                buttons.append(
                    Button(f"Unsubscribe from {one.name}", "person_unsubscribes", fields)
                )
            elif marketing and not on:
                again = {**fields, "status": "1"}
                buttons.append(Button(f"Staff: put on {one.name}", "admin_sets", again))
        if contact.phone:
            buttons.append(Button("Text STOP", "texts_stop", {"phone": contact.phone}))
        return Row(contact.email, marks[True], marks[False], contact.phone, buttons)


def _list_fields(list_id: str, by: str) -> list[tuple[str, str]]:
    """Staff and programs: `list`; the person: `list[][id]`, repeated for each list."""
    return [("list[][id]", list_id)] if by == "person" else [("list", list_id)]


def _is_about(hook: Mapping[str, Any], fields: Iterable[tuple[str, str]]) -> bool:
    """A webhook of one list hears events of that list only."""
    places = {value for name, value in fields if name in ("list", "list[][id]")}
    return hook["listid"] in ("0", *places)


def _page(items: Sequence[Any], asked: Mapping[str, str]) -> Sequence[Any]:
    limit = min(int(asked.get("limit", PAGE)), LARGEST_PAGE)
    start = int(asked.get("offset", 0))
    return items[start : start + limit]


def _time(moment: datetime) -> str:
    return moment.astimezone(ZONE).isoformat(timespec="seconds")
