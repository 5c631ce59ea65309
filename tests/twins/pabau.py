"""A twin of Pabau, clinic software: https://support.pabau.com/en/api/clients

Five marketing flags on each client, and beside them `need_to_knows` (confirmations and reminders),
which the interface neither shows nor changes. Clients are listed page by page and updated one by
one; there is no search and no read by id::

    with running(PabauTwin()) as (twin, url):
        amy = twin.new_client("amy@example.com", mobile="07700 900101")
        twin.client_unsubscribes(id=amy, channel="sms")
        assert twin.flags(amy)["opt_in_sms"] == 0

The vendor documents a default of 1 for every flag, on updates too: a flag that an update leaves out
becomes 1 here, and so does `is_active`. What comes in an encoding that the twin does not take is
left out altogether. The shapes of answers to updates, of errors, of custom fields and of webhooks
are not documented: they are our guess.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

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
    Travel,
    Twin,
    Window,
    act,
    not_2xx,
)

ESSENTIAL = Window(20, 2.0)
"""The smallest plan: https://support.pabau.com/en/api/rate-limits"""
SHOWN = 20
MOST_SHOWN = 50
FLAGS = ("opt_in_email", "opt_in_phone", "opt_in_post", "opt_in_sms", "opt_in_newsletter")
BY_CHANNEL = {
    "email": ("opt_in_email", "opt_in_newsletter"),
    "sms": ("opt_in_sms",),
    "phone": ("opt_in_phone",),
    "post": ("opt_in_post",),
}
TEXTS = ("first_name", "last_name", "email", "phone", "mobile")
ENCODINGS = ("json", "form", "query")


@dataclass
class Client:
    id: int
    first_name: str
    last_name: str
    email: str
    phone: str
    mobile: str
    created: datetime
    changed: datetime | None = None
    flags: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(FLAGS, 1))
    is_active: int = 1
    need_to_knows: int = 1
    custom: dict[str, str] = field(default_factory=dict)


@dataclass
class Write:
    """What one update sent, as it was understood."""

    at: datetime
    id: int
    fields: dict[str, str]


@dataclass
class Account:
    clients: dict[int, Client] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)
    fields: set[str] = field(default_factory=set)
    """Custom fields, with underscores for blanks."""
    next_id: int = 1001


class PabauTwin(Twin[Account]):
    """See the module. Settings beside those of the kit:

    api_key        the first segment of every path
    closed         the account is closed or unpaid: 402
    encodings      which of json, form and query an update is read from (default json)
    newest_first   order of the listing, which the vendor does not document
    shows_custom   the listing shows custom fields
    says           "status" or "success": how an update answers that it was done
    tells_updates  an update fires a webhook (default no)
    """

    name = "pabau"
    default_limits = staticmethod(lambda: Limits(windows=[ESSENTIAL]))

    def __init__(self) -> None:
        super().__init__()
        self.courier = Courier((0.2, 0.5, 1.0), not_2xx, timeout=5.0)
        self._defaults()

    def _defaults(self) -> None:
        self.api_key = "twin-pabau-key"
        self.closed = False
        self.encodings: tuple[str, ...] = ("json",)
        self.newest_first = False
        self.shows_custom = False
        self.says = "status"
        self.tells_updates = False

    def fresh(self) -> Account:
        return Account()

    def reset(self) -> None:
        super().reset()
        self._defaults()

    def configure(self, **settings: Any) -> None:
        """Its own settings by name, else as the kit."""
        own = {
            "api_key": str,
            "closed": bool,
            "encodings": tuple,
            "newest_first": bool,
            "shows_custom": bool,
            "says": str,
            "tells_updates": bool,
        }
        if set(settings.get("encodings", ())) - set(ENCODINGS):
            raise ValueError(f"encodings are of {ENCODINGS}")
        for name in own.keys() & settings.keys():
            setattr(self, name, own[name](settings.pop(name)))
        super().configure(**settings)

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/{key}/clients", self.get_clients, methods=["GET"]),
            Route("/{key}/clients/{id:int}/update", self.post_update, methods=["POST"]),
        ]

    def problem(self, status: int, reason: str = "") -> Response:
        return JSONResponse({"success": False, "message": reason or f"HTTP {status}"}, status)

    def gate(self, request: Request) -> Response | None:
        key = request.url.path.split("/")[1]
        if key != self.api_key:
            return self.problem(401, "Invalid token")
        return self.problem(402, "Account closed") if self.closed else None

    # --- the listing ---------------------------------------------------------------------------

    async def get_clients(self, request: Request) -> Response:
        """What else the query holds is ignored: there is no filter."""
        size = min(self._number(request, "per_page", SHOWN), MOST_SHOWN)
        page = self._number(request, "page", 1)
        clients = list(self.state.clients.values())
        if self.newest_first:
            clients.reverse()
        shown = [self._shown(one) for one in clients[(page - 1) * size : page * size]]
        return JSONResponse({"success": True, "total": len(clients), "clients": shown})

    def _number(self, request: Request, name: str, default: int) -> int:
        text = request.query_params.get(name, str(default))
        if not text.isdigit() or int(text) < 1:
            raise Refusal(self.problem(400, f"{name} is a number from 1"))
        return int(text)

    def _shown(self, client: Client) -> dict[str, Any]:
        shown = {
            "details": {
                "id": client.id,
                "custom_id": None,
                "first_name": client.first_name,
                "last_name": client.last_name,
                "DOB": None,
                "gender": None,
                "last_updated_date": _moment(client.changed) if client.changed else "",
                "is_active": client.is_active,
            },
            "communications": {
                "email": client.email,
                "phone": client.phone,
                "mobile": client.mobile,
                **client.flags,
            },
            "address": {"mailing_street": "", "mailing_city": "", "mailing_country": ""},
            "created": {"created_date": _moment(client.created), "owner": []},
            "client_insights": [],
        }
        return shown | ({"custom_fields": dict(client.custom)} if self.shows_custom else {})

    # --- updates -------------------------------------------------------------------------------

    async def post_update(self, request: Request) -> Response:
        client = self.state.clients.get(request.path_params["id"])
        if client is None:
            return self.problem(400, "No such client")
        fields = await self._fields(request)
        flags = {name: self._bit(fields.get(name, "1")) for name in (*FLAGS, "is_active")}
        self._refuse_unknown(fields)
        fault = self.item_fault(request, f"{client.id} {client.email}")
        if fault and fault.kind == "bad_item":
            return self.problem(400, fault.body or "This client cannot be updated")
        if fault is None or fault.work:
            self._update(client, fields, flags)
            if self.tells_updates:
                self._tell_of(client, "change", PLAIN)
        return JSONResponse({} if fault else self._said(client))

    def _said(self, client: Client) -> dict[str, Any]:
        done: dict[str, Any] = {"success": True} if self.says == "success" else {"status": 1}
        return done | {"message": "Client updated", "contact_id": str(client.id)}

    async def _fields(self, request: Request) -> dict[str, str]:
        """Of every encoding that is taken; the rest of the request is not looked at."""
        found: dict[str, Any] = {}
        body = await request.body()
        media = request.headers.get("content-type", "")
        if "query" in self.encodings:
            found |= request.query_params
        if "form" in self.encodings and "urlencoded" in media:
            found |= dict(parse_qsl(body.decode(), keep_blank_values=True))
        if "json" in self.encodings and "json" in media:
            found |= self._object(body)
        return {name: str(value) for name, value in found.items()}

    def _object(self, body: bytes) -> dict[str, Any]:
        try:
            found = json.loads(body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Refusal(self.problem(400, "The body is not understood"))
        return found

    def _bit(self, text: str) -> int:
        if text not in ("0", "1"):
            raise Refusal(self.problem(400, "A flag is 0 or 1"))
        return int(text)

    def _refuse_unknown(self, fields: Mapping[str, str]) -> None:
        known = {*FLAGS, *TEXTS, "is_active", "need_to_knows", *self.state.fields}
        if set(fields) - known:
            raise Refusal(self.problem(400, "Unknown field"))

    def _update(self, client: Client, fields: Mapping[str, str], flags: Mapping[str, int]) -> None:
        for name in TEXTS:
            if name in fields:
                setattr(client, name, fields[name])
        client.flags = {name: flags[name] for name in FLAGS}
        client.is_active = flags["is_active"]
        client.custom |= {name: fields[name] for name in self.state.fields & fields.keys()}
        client.changed = self.clock()
        self.state.writes.append(Write(self.clock(), client.id, dict(fields)))

    # --- webhooks ------------------------------------------------------------------------------

    def _tell(self, action: str, payload: Mapping[str, Any], travel: Travel) -> None:
        if not self.webhook_url:
            return
        content = json.dumps(payload).encode()
        headers = {"Content-Type": "application/json", "X-Pabau-Event": f"client.{action}"}
        self.post(lambda attempt: Letter(self.webhook_url, content, headers), travel)

    def _tell_of(self, client: Client, action: str, travel: Travel) -> None:
        data = {"id": client.id, "email": client.email, **client.flags}
        self._tell(action, {"object": "client", "action": action, "data": data}, travel)

    # --- reading for tests ---------------------------------------------------------------------

    def flags(self, id: int) -> dict[str, Any]:
        with self.lock:
            return dict(self._known(id).flags)

    def client(self, id: int) -> Client:
        with self.lock:
            return self._known(id)

    def with_email(self, email: str) -> list[int]:
        with self.lock:
            return [c.id for c in self.state.clients.values() if c.email == email]

    def reminders_touched(self) -> bool:
        """Must be False: no call names `need_to_knows`, and every client still has what its clinic
        gave it (1)."""
        with self.lock:
            named = any(b"need_to_knows" in call.target.encode() + call.body for call in self.calls)
            return named or any(not c.need_to_knows for c in self.state.clients.values())

    # --- acts ----------------------------------------------------------------------------------

    @act
    def new_client(
        self,
        email: str = "",
        mobile: str = "",
        phone: str = "",
        name: str = "Amy Example",
        flags: Mapping[str, int] | None = None,
        active: int = 1,
        travel: Travel = PLAIN,
    ) -> int:
        """Registered in the clinic: every flag is 1 unless said otherwise. Returns the id."""
        first, _, last = name.partition(" ")
        now = self.clock()
        client = Client(self.state.next_id, first, last, email, phone, mobile, now)
        client.flags |= flags or {}
        client.is_active = active
        self.state.next_id += 1
        self.state.clients[client.id] = client
        self._tell_of(client, "create", travel)
        return client.id

    @act
    def new_field(self, name: str) -> None:
        """A custom field of clients."""
        self.state.fields.add(name.replace(" ", "_"))

    @act
    def client_unsubscribes(self, id: int, channel: str = "email", travel: Travel = PLAIN) -> None:
        """In a message or in the client portal."""
        if channel not in BY_CHANNEL:
            raise ActError(f"none of {tuple(BY_CHANNEL)}")
        client = self._known(id)
        client.flags |= dict.fromkeys(BY_CHANNEL[channel], 0)
        self._changed(client, travel)

    @act
    def staff_set(self, id: int, flag: str, value: str = "0", travel: Travel = PLAIN) -> None:
        """Staff set a flag on the client's card; tests also what no flag should hold."""
        if flag not in FLAGS:
            raise ActError(f"none of {FLAGS}")
        client = self._known(id)
        client.flags[flag] = int(value) if value.isdigit() else value
        self._changed(client, travel)

    @act
    def staff_edit(self, id: int, name: str, value: str, travel: Travel = PLAIN) -> None:
        """Staff change a name, an address or a number."""
        if name not in TEXTS:
            raise ActError(f"none of {TEXTS}")
        client = self._known(id)
        setattr(client, name, value)
        self._changed(client, travel)

    @act
    def booking(self, id: int, travel: Travel = PLAIN) -> None:
        """An online booking with the boxes as they stood: every flag is 1 again."""
        client = self._known(id)
        client.flags = dict.fromkeys(FLAGS, 1)
        self._changed(client, travel)

    @act
    def delete_client(self, id: int, travel: Travel = PLAIN) -> None:
        """Staff delete a client for good, which the interface cannot."""
        client = self._known(id)
        del self.state.clients[client.id]
        self._tell_of(client, "delete", travel)

    @act
    def webhook(self, payload: Any, action: str = "change", travel: Travel = PLAIN) -> None:
        """A webhook of any JSON: the vendor documents no shape."""
        self._tell(action, payload, travel)

    def _changed(self, client: Client, travel: Travel) -> None:
        client.changed = self.clock()
        self._tell_of(client, "change", travel)

    def _known(self, id: int | str) -> Client:
        found = self.state.clients.get(int(id))
        if found is None:
            raise ActError("no such client")
        return found

    # --- the page ------------------------------------------------------------------------------

    def page_buttons(self) -> Sequence[Button]:
        return [Button("New client", "new_client", asks=("name", "email", "mobile"))]

    def people(self) -> Sequence[Row]:
        return [self._row(one) for one in self.state.clients.values()]

    def _row(self, client: Client) -> Row:
        marks = [
            Mark(f"{name.removeprefix('opt_in_')}: {'on' if bit else 'off'}", bool(bit))
            for name, bit in client.flags.items()
        ]
        kept = "on" if client.need_to_knows else "off"
        who = {"id": str(client.id)}
        buttons = [
            Button(f"No {channel}", "client_unsubscribes", {**who, "channel": channel})
            for channel, flags in BY_CHANNEL.items()
            if any(client.flags[flag] for flag in flags)
        ]
        return Row(
            f"{client.first_name} {client.last_name}",
            marks,
            [Mark(f"confirmations: {kept}", bool(client.need_to_knows))],
            detail=", ".join(filter(None, (client.email, client.mobile, client.phone))),
            buttons=[*buttons, Button("Book online: turns all on", "booking", who)],
        )


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S")
