"""A twin of Xero: https://developer.xero.com/documentation/api/accounting/overview

There is no preference field: contacts stand in contact groups, and nothing acts on them. Webhooks
tell that a contact changed, and not what; groups tell nobody::

    with running(XeroTwin()) as (twin, url):
        twin.new_contact("amy@example.com")
        twin.staff_adds("amy@example.com", "No marketing - email")
        assert twin.groups_of("amy@example.com") == {"No marketing - email"}

A webhook tells nothing before its address has passed the intent to receive::

        twin.webhook_url = "https://..."
        twin.intent_to_receive()
        twin.courier.settle()
        assert twin.state.hook.status == "OK"
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
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
    plain,
)

BASE = "/api.xro/2.0"
TOKENS = "/connect/token"
CONTACTS = BASE + "/Contacts"
GROUPS = BASE + "/ContactGroups"
MINUTE = Window(60, 60.0)
DAY = Window(5000, 86400.0)
WINDOWS = {"Minute": MINUTE, "Day": DAY}
AT_ONCE = 5
LONGEST_KEY = 128
"""https://developer.xero.com/documentation/guides/idempotent-requests/idempotency/"""
DEFAULT_PAGE = 100
MOST_GROUPS = 100
REFUSAL = "No marketing"
"""How the groups begin that stand for a refusal, for the page."""
PARAMS = {
    "where",
    "order",
    "IDs",
    "page",
    "includeArchived",
    "summaryOnly",
    "searchTerm",
    "pageSize",
}


@dataclass
class Contact:
    """`phones` are (type, country code, area code, number); `persons` are further addresses."""

    id: str
    name: str
    email: str
    phones: list[tuple[str, str, str, str]]
    persons: list[str]
    updated: datetime
    archived: bool = False


@dataclass
class Group:
    id: str
    name: str
    members: set[str] = field(default_factory=set)


@dataclass
class Write:
    """One membership changed through the API."""

    group: str
    contact: str
    member: bool


@dataclass
class Done:
    """A write that came with a key, and what it was answered."""

    request: tuple[str, str, bytes]
    status: int
    body: bytes


@dataclass
class Hook:
    """The webhook of the app. `faults` are the answers that Xero does not take."""

    status: str = "Intent to receive required"
    faults: list[str] = field(default_factory=list)
    asked: int = 0
    passed: int = 0


@dataclass
class Organisation:
    contacts: dict[str, Contact] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)
    tokens: dict[str, datetime] = field(default_factory=dict)
    keys: dict[str, Done] = field(default_factory=dict)
    hook: Hook = field(default_factory=Hook)
    next_event: int = 1


class XeroTwin(Twin[Organisation]):
    """See the module. Settings beside those of the kit:

    client_id, client_secret   of the custom connection
    tenant           id of the organisation
    token_life       seconds that an access token lives (default 1800)
    page_cap         most contacts of one page, whatever is asked for (default 1000)
    tell_pages       a listing tells how many pages there are (default yes)
    takes_archived   archived contacts may be put into a group (default no)
    groups_move      a change of groups moves a contact's date and fires a webhook (default no)

    dangers          calls that destroy: a group emptied or deleted
    """

    name = "xero"
    default_limits = staticmethod(lambda: Limits(AT_ONCE, [MINUTE, DAY]))

    def __init__(self) -> None:
        super().__init__()
        # An event is tried for 24 h; a 401 is what the intent to receive is there for.
        self.courier = Courier((0.2, 0.5, 1.0), lambda status: status not in (200, 401), 5.0)
        self._defaults()

    def _defaults(self) -> None:
        self.client_id, self.client_secret = "twin-client", "twin-client-secret"
        self.tenant = "aef86862-2015-4b6b-88bc-d89032cecc50"
        self.webhook_secret = "twin-signing-key"
        self.token_life = 1800
        self.page_cap = 1000
        self.tell_pages = True
        self.takes_archived = False
        self.groups_move = False
        self.dangers: list[str] = []

    def fresh(self) -> Organisation:
        return Organisation()

    def reset(self) -> None:
        super().reset()
        self._defaults()

    def configure(self, **settings: Any) -> None:
        """Its own settings by name, else as the kit."""
        own = {
            "client_id": str,
            "client_secret": str,
            "tenant": str,
            "token_life": int,
            "page_cap": int,
            "tell_pages": bool,
            "takes_archived": bool,
            "groups_move": bool,
        }
        for name in own.keys() & settings.keys():
            setattr(self, name, own[name](settings.pop(name)))
        super().configure(**settings)

    def routes(self) -> Sequence[BaseRoute]:
        members = GROUPS + "/{group}/Contacts"
        return [
            Route(TOKENS, self.get_token, methods=["POST"]),
            Route(CONTACTS, self.list_contacts, methods=["GET"]),
            Route(CONTACTS + "/{id}", self.get_contact, methods=["GET"]),
            Route(GROUPS, self.list_groups, methods=["GET"]),
            Route(GROUPS, self.create_group, methods=["PUT"]),
            Route(GROUPS + "/{group}", self.get_group, methods=["GET"]),
            Route(GROUPS + "/{group}", self.change_group, methods=["POST"]),
            Route(members, self.add_members, methods=["PUT"]),
            Route(members, self.empty_group, methods=["DELETE"]),
            Route(members + "/", self.empty_group, methods=["DELETE"]),
            Route(members + "/{id}", self.remove_member, methods=["DELETE"]),
        ]

    def problem(self, status: int, reason: str = "") -> Response:
        if status == 404:
            return PlainTextResponse("The resource you're looking for cannot be found", 404)
        if status == 400:
            return self._invalid([{"ValidationErrors": [{"Message": reason or "HTTP 400"}]}])
        titles = {401: "Unauthorized", 403: "Forbidden", 429: "Too Many Requests"}
        body = {
            "Type": None,
            "Title": titles.get(status, f"HTTP {status}"),
            "Status": status,
            "Detail": reason or "AuthenticationUnsuccessful",
        }
        return JSONResponse(body, status)

    def _invalid(self, elements: Sequence[Mapping[str, Any]]) -> Response:
        body = {
            "ErrorNumber": 10,
            "Type": "ValidationException",
            "Message": "A validation exception occurred",
            "Elements": elements,
        }
        return JSONResponse(body, 400)

    def unlimited(self, path: str) -> bool:
        """The limits are those of an organisation, and tokens come from another host."""
        return path == TOKENS

    def too_many(self) -> Response:
        """Only the limits of a time say when to come back."""
        for name, window in self._windows().items():
            if not self.limits.left(window):
                wait = str(int(window.seconds))
                return PlainTextResponse(
                    "", 429, {"X-Rate-Limit-Problem": name, "Retry-After": wait}
                )
        return PlainTextResponse("", 429, {"X-Rate-Limit-Problem": "Concurrent"})

    def _windows(self) -> dict[str, Window]:
        """Those in force, of a minute and of a day; a test may have set other numbers."""
        by_length = {window.seconds: window for window in self.limits.windows}
        names = {name: by_length.get(known.seconds) for name, known in WINDOWS.items()}
        return {name: window for name, window in names.items() if window}

    def reply_headers(self) -> Mapping[str, str]:
        left = {name: self.limits.left(window) for name, window in self._windows().items()}
        told = {"Minute": "X-MinLimit-Remaining", "Day": "X-DayLimit-Remaining"}
        return {told[name]: str(count) for name, count in left.items()}

    # --- who may come in -----------------------------------------------------------------------

    def gate(self, request: Request) -> Response | None:
        if request.url.path == TOKENS:
            return None
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        until = self.state.tokens.get(given)
        if scheme != "Bearer" or until is None or until <= self.clock():
            return self.problem(401, "TokenExpired")
        if request.headers.get("xero-tenant-id") != self.tenant:
            return self.problem(403, "AuthenticationUnsuccessful")
        return None

    async def get_token(self, request: Request) -> Response:
        pair = f"{self.client_id}:{self.client_secret}".encode()
        wanted = f"Basic {base64.b64encode(pair).decode()}"
        if request.headers.get("authorization") != wanted:
            return JSONResponse({"error": "invalid_client"}, 400)
        form = parse_qs((await request.body()).decode())
        if form.get("grant_type") != ["client_credentials"]:
            return JSONResponse({"error": "unsupported_grant_type"}, 400)
        if form.get("scope") != ["accounting.contacts"]:
            return JSONResponse({"error": "invalid_scope"}, 400)
        token = secrets.token_hex(16)
        self.state.tokens[token] = self.clock() + timedelta(seconds=self.token_life)
        body = {
            "access_token": token,
            "expires_in": self.token_life,
            "token_type": "Bearer",
            "scope": "accounting.contacts",
        }
        return JSONResponse(body)

    # --- writes that are done once -------------------------------------------------------------

    async def _once(self, request: Request, work: Callable[[], Awaitable[Response]]) -> Response:
        """The same key again gets the first answer, and nothing is done; with another request it
        is refused. How long Xero remembers a key is not told here: for good."""
        key = request.headers.get("idempotency-key")
        if key is None:
            return await work()
        if not 0 < len(key) <= LONGEST_KEY:
            return self.problem(400, f"Idempotency-Key: up to {LONGEST_KEY} characters")
        asked = (request.method, request.url.path, await request.body())
        done = self.state.keys.get(key)
        if done is None:
            answer = await work()
            done = self.state.keys[key] = Done(asked, answer.status_code, bytes(answer.body))
        elif done.request != asked:
            return self.problem(400, "the Idempotency-Key was used for another request")
        return Response(done.body, done.status, media_type="application/json")

    # --- contacts ------------------------------------------------------------------------------

    def _shown(self, one: Contact, *, groups: bool) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "ContactID": one.id,
            "ContactStatus": "ARCHIVED" if one.archived else "ACTIVE",
            "Name": one.name,
            "EmailAddress": one.email,
            "ContactPersons": [{"EmailAddress": email} for email in one.persons],
            "Phones": [
                {
                    "PhoneType": kind,
                    "PhoneCountryCode": country,
                    "PhoneAreaCode": area,
                    "PhoneNumber": number,
                }
                for kind, country, area, number in one.phones
            ],
            "UpdatedDateUTC": f"/Date({int(one.updated.timestamp() * 1000)}+0000)/",
            "HasValidationErrors": False,
        }
        if groups:
            shown["ContactGroups"] = [
                {"ContactGroupID": group.id, "Name": group.name, "Status": "ACTIVE"}
                for group in self.state.groups.values()
                if one.id in group.members
            ]
        return shown

    def _envelope(self, **content: Any) -> Response:
        now = int(self.clock().timestamp() * 1000)
        head = {"Id": str(uuid.uuid4()), "Status": "OK", "ProviderName": "Twin"}
        return JSONResponse({**head, "DateTimeUTC": f"/Date({now})/", **content})

    async def list_contacts(self, request: Request) -> Response:
        """Groups and contact persons are in paged lists only."""
        query = request.query_params
        if set(query) - PARAMS:
            return self.problem(400, "unknown parameter")
        found = self._ordered(self._chosen(request), query.get("order", "UpdatedDateUTC ASC"))
        if "page" not in query:
            return self._envelope(Contacts=[self._shown(one, groups=False) for one in found])
        page, size = int(query["page"]), int(query.get("pageSize", DEFAULT_PAGE))
        if page < 1 or size < 1:
            return self.problem(400, "page and pageSize begin with 1")
        size = min(size, self.page_cap)
        shown = [self._shown(one, groups=True) for one in found[(page - 1) * size : page * size]]
        count = -(-len(found) // size)
        pages = {"page": page, "pageSize": size, "pageCount": count, "itemCount": len(found)}
        told = {"pagination": pages} if self.tell_pages else {}
        return self._envelope(Contacts=shown, **told)

    def _chosen(self, request: Request) -> list[Contact]:
        query, since = request.query_params, _moment(request.headers.get("if-modified-since"))
        archived = query.get("includeArchived") == "true"
        ids = set(query["IDs"].split(",")) if "IDs" in query else None
        wanted = _where(query.get("where", ""))
        return [
            one
            for one in self.state.contacts.values()
            if (archived or not one.archived)
            and (since is None or one.updated >= since)
            and (ids is None or one.id in ids)
            and (wanted is None or one.email == wanted)
        ]

    def _ordered(self, contacts: Iterable[Contact], order: str) -> list[Contact]:
        name, _, way = order.partition(" ")
        keys = {"ContactID": "id", "Name": "name", "UpdatedDateUTC": "updated"}
        if name not in keys or way.upper() not in ("", "ASC", "DESC"):
            raise Refusal(self.problem(400, "cannot be ordered by that"))
        return sorted(
            contacts, key=lambda one: getattr(one, keys[name]), reverse=way.upper() == "DESC"
        )

    async def get_contact(self, request: Request) -> Response:
        found = self.state.contacts.get(str(request.path_params["id"]).lower())
        if found is None:
            return self.problem(404)
        return self._envelope(Contacts=[self._shown(found, groups=True)])

    # --- groups --------------------------------------------------------------------------------

    def _group(self, request: Request) -> Group:
        found = self.state.groups.get(str(request.path_params["group"]).lower())
        if found is None:
            raise Refusal(self.problem(404))
        return found

    async def list_groups(self, request: Request) -> Response:
        shown = [self._group_shown(one) for one in self.state.groups.values()]
        return self._envelope(ContactGroups=shown)

    def _group_shown(self, group: Group, members: Iterable[str] = ()) -> dict[str, Any]:
        contacts = [self.state.contacts[id_] for id_ in sorted(members)]
        return {
            "ContactGroupID": group.id,
            "Name": group.name,
            "Status": "ACTIVE",
            "Contacts": [{"ContactID": one.id, "Name": one.name} for one in contacts],
            "HasValidationErrors": False,
        }

    async def get_group(self, request: Request) -> Response:
        group = self._group(request)
        return self._envelope(ContactGroups=[self._group_shown(group, group.members)])

    async def create_group(self, request: Request) -> Response:
        return await self._once(request, lambda: self._create_group(request))

    async def _create_group(self, request: Request) -> Response:
        made = (await self._json(request)).get("ContactGroups")
        names = [str(one.get("Name", "")).strip() for one in made or ()]
        held = {group.name.lower() for group in self.state.groups.values()}
        if not names or not all(names) or any(name.lower() in held for name in names):
            return self.problem(400, "The contact group name must be given and unique")
        if len(held) + len(names) > MOST_GROUPS:
            return self.problem(400, f"You've reached the limit of {MOST_GROUPS} contact groups.")
        shown = [self._group_shown(self._new_group(name)) for name in names]
        return self._envelope(ContactGroups=shown)

    def _new_group(self, name: str) -> Group:
        group = Group(str(uuid.uuid4()), name)
        self.state.groups[group.id] = group
        return group

    async def add_members(self, request: Request) -> Response:
        return await self._once(request, lambda: self._add_members(request))

    async def _add_members(self, request: Request) -> Response:
        """One contact that is refused refuses the whole call."""
        group, body = self._group(request), await self._json(request)
        ids = [str(one.get("ContactID", "")).lower() for one in body.get("Contacts") or ()]
        if not ids or set(body) - {"Contacts"}:
            return self.problem(400, "Contacts: a list of ContactID")
        faults = {id_: self._item_fault(request, id_) for id_ in ids}
        wrong = [id_ for id_ in ids if self._refuses(id_) or faults[id_] == "bad_item"]
        if wrong:
            return self._invalid([self._refused(id_) for id_ in wrong])
        done = [id_ for id_ in ids if faults[id_] is None]
        for id_ in done:
            self.state.writes.append(Write(group.name, id_, member=True))
            self._set(group, id_, member=True)
        named = [self.state.contacts[id_] for id_ in done]
        return self._envelope(Contacts=[self._shown(one, groups=False) for one in named])

    def _item_fault(self, request: Request, id_: str) -> str | None:
        contact = self.state.contacts.get(id_)
        fault = self.item_fault(request, f"{id_} {contact.email if contact else ''}")
        return fault.kind if fault else None

    def _refuses(self, id_: str) -> bool:
        contact = self.state.contacts.get(id_)
        return contact is None or (contact.archived and not self.takes_archived)

    def _refused(self, id_: str) -> dict[str, Any]:
        contact = self.state.contacts.get(id_)
        # The first as seen in https://github.com/calcinai/xero-php/issues/525
        why = "Unable to assign an Archived contact." if contact else "The contact does not exist"
        return {
            "ContactID": id_,
            "Name": contact.name if contact else "",
            "HasValidationErrors": True,
            "ValidationErrors": [{"Message": why}],
        }

    async def remove_member(self, request: Request) -> Response:
        group, id_ = self._group(request), str(request.path_params["id"]).lower()
        if id_ not in group.members:
            return self.problem(404)
        self.state.writes.append(Write(group.name, id_, member=False))
        self._set(group, id_, member=False)
        return Response(status_code=204)

    def _set(self, group: Group, id_: str, *, member: bool, travel: Travel = PLAIN) -> None:
        (group.members.add if member else group.members.discard)(id_)
        if self.groups_move:
            self._moved(self.state.contacts[id_], travel)

    async def _json(self, request: Request) -> dict[str, Any]:
        try:
            found = json.loads(await request.body())
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Refusal(self.problem(400, "the body is no JSON object"))
        return found

    # --- what must never be called -------------------------------------------------------------

    async def empty_group(self, request: Request) -> Response:
        """Without a contact's id the whole group is emptied."""
        self._group(request).members.clear()
        self.dangers.append("a group was emptied")
        return Response(status_code=204)

    async def change_group(self, request: Request) -> Response:
        group, body = self._group(request), await self._json(request)
        changes = (body.get("ContactGroups") or [body])[0]
        if changes.get("Status") == "DELETED":
            self.dangers.append("a group was deleted")
            del self.state.groups[group.id]
        group.name = str(changes.get("Name", group.name))
        return self._envelope(ContactGroups=[self._group_shown(group)])

    # --- webhooks ------------------------------------------------------------------------------

    def _moved(self, contact: Contact, travel: Travel, kind: str = "UPDATE") -> None:
        """The contact's date moves, and whoever listens is told so."""
        contact.updated = self.clock()
        event = {
            "resourceUrl": f"https://api.xero.com{CONTACTS}/{contact.id}",
            "resourceId": contact.id,
            "eventDateUtc": self.clock().strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3],
            "eventType": kind,
            "eventCategory": "CONTACT",
            "tenantId": self.tenant,
            "tenantType": "ORGANISATION",
        }
        self._tell([event], travel)

    def _tell(self, events: list[dict[str, Any]], travel: Travel) -> None:
        if not self.webhook_url or self.state.hook.status != "OK":
            return
        first, self.state.next_event = self.state.next_event, self.state.next_event + len(events)
        self._mail(_told(events, first, self.state.next_event - 1), self._answered, travel)

    def _mail(
        self,
        content: bytes,
        answered: Callable[[Sent], None],
        travel: Travel = PLAIN,
        key: str | None = None,
    ) -> None:
        headers = {"Content-Type": "application/json", **self.signature(content, key)}
        letter = Letter(self.webhook_url, content, headers)
        self.post(lambda attempt: letter, travel, answered)

    def _answered(self, sent: Sent) -> None:
        """After a day of such answers Xero disables the webhook."""
        faults = _unwanted(sent, 200)
        with self.lock:
            self.state.hook.faults += faults
            if faults and (sent.attempt == len(self.courier.gaps) or sent.status == 401):
                self.state.hook.status = "Disabled"

    def _asked(self, wanted: int, sent: Sent) -> None:
        faults, hook = _unwanted(sent, wanted), self.state.hook
        with self.lock:
            hook.faults += faults
            hook.passed += not faults
            if hook.passed == hook.asked and not hook.faults:
                hook.status = "OK"

    def signature(self, content: bytes, key: str | None = None) -> dict[str, str]:
        """The header that signs this body, with another key where one is given."""
        signed = hmac.new((key or self.webhook_secret).encode(), content, hashlib.sha256).digest()
        return {"x-xero-signature": base64.b64encode(signed).decode()}

    # --- reading for tests ---------------------------------------------------------------------

    def groups_of(self, email: str) -> set[str]:
        """Names of the groups of every contact with that address."""
        with self.lock:
            ids = {one.id for one in self._of(email)}
            return {group.name for group in self.state.groups.values() if group.members & ids}

    def id_of(self, email: str) -> str:
        with self.lock:
            return self._known(email).id

    def touched(self) -> set[str]:
        """Names of the groups that were changed through the API."""
        with self.lock:
            return {write.group for write in self.state.writes}

    def _of(self, email: str) -> list[Contact]:
        wanted = email.lower()
        return [one for one in self.state.contacts.values() if one.email.lower() == wanted]

    def _known(self, email: str) -> Contact:
        found = self._of(email)
        if not found:
            raise ActError("no such contact")
        return found[0]

    def _named(self, name: str) -> Group:
        found = next((one for one in self.state.groups.values() if one.name == name), None)
        if found is None:
            raise ActError("no such group")
        return found

    def show(self) -> Any:
        return plain(self.state)

    # --- acts ----------------------------------------------------------------------------------

    @act
    def new_contact(
        self,
        email: str = "",
        name: str = "",
        phone: str = "",
        country: str = "",
        area: str = "",
        kind: str = "MOBILE",
        persons: Sequence[str] = (),
        travel: Travel = PLAIN,
    ) -> str:
        """Staff save a contact. Returns its id."""
        id_ = str(uuid.uuid4())
        phones = [(kind, country, area, phone)] if phone else []
        contact = Contact(id_, name or email or id_, email, phones, list(persons), self.clock())
        self.state.contacts[id_] = contact
        self._moved(contact, travel, "CREATE")
        return id_

    @act
    def new_group(self, name: str) -> str:
        found = (one for one in self.state.groups.values() if one.name == name)
        return (next(found, None) or self._new_group(name)).id

    @act
    def staff_adds(self, email: str, group: str, travel: Travel = PLAIN) -> None:
        """Staff put a contact into a group; one that is new is made."""
        found = self.state.groups[self.new_group(name=group)]
        self._set(found, self._known(email).id, member=True, travel=travel)

    @act
    def staff_removes(self, email: str, group: str, travel: Travel = PLAIN) -> None:
        self._set(self._named(group), self._known(email).id, member=False, travel=travel)

    @act
    def delete_group(self, name: str) -> None:
        """Staff delete a group; its contacts stay."""
        del self.state.groups[self._named(name).id]

    @act
    def rename_group(self, name: str, new: str) -> None:
        self._named(name).name = new

    @act
    def archive(self, email: str, travel: Travel = PLAIN) -> None:
        contact = self._known(email)
        contact.archived = True
        self._moved(contact, travel)

    @act
    def restore(self, email: str, travel: Travel = PLAIN) -> None:
        contact = self._known(email)
        contact.archived = False
        self._moved(contact, travel)

    @act
    def new_address(self, email: str, new: str, travel: Travel = PLAIN) -> None:
        contact = self._known(email)
        contact.email = new
        self._moved(contact, travel)

    @act
    def edit(self, email: str, travel: Travel = PLAIN) -> None:
        """Staff change something that is none of our business."""
        self._moved(self._known(email), travel)

    @act
    def intent_to_receive(self) -> None:
        """What Xero sends when a webhook is made, changed or enabled again: no events, some of
        the requests signed wrongly. All must be answered as they should before any event goes."""
        wanted = (200, 401, 200, 401)
        self.state.hook = Hook(asked=len(wanted))
        for status in wanted:
            key = None if status == 200 else "another key"
            self._mail(_told([], 0, 0), partial(self._asked, status), key=key)

    # --- the page ------------------------------------------------------------------------------

    def people(self) -> Sequence[Row]:
        return [self._row(one) for one in self.state.contacts.values() if one.email]

    def _row(self, one: Contact) -> Row:
        groups = sorted(g.name for g in self.state.groups.values() if one.id in g.members)
        ours = [name for name in groups if name.startswith(REFUSAL)]
        others = [name for name in groups if name not in ours]
        email = {"email": one.email}
        buttons = [
            Button(f"Take out of {name}", "staff_removes", {**email, "group": name})
            for name in groups
        ]
        buttons += [
            Button("Restore", "restore", email)
            if one.archived
            else Button("Archive", "archive", email),
            Button("Put into", "staff_adds", email, ("group",)),
        ]
        marks = [Mark(name, on=False) for name in ours] or [Mark("no refusal")]
        state = f"groups: {', '.join(others) or 'none'}" + (", archived" if one.archived else "")
        return Row(one.email, marks, [Mark("invoices go on", on=True)], state, buttons)

    def page_buttons(self) -> Sequence[Button]:
        return [
            Button("New contact", "new_contact", {}, ("email",)),
            Button("Try the webhook", "intent_to_receive", {}),
        ]


def _told(events: Sequence[Mapping[str, Any]], first: int, last: int) -> bytes:
    """The body of a webhook: https://developer.xero.com/documentation/guides/webhooks/overview/"""
    entropy = secrets.token_hex(10).upper()
    sequence = {"firstEventSequence": first, "lastEventSequence": last}
    return json.dumps({"events": events, **sequence, "entropy": entropy}).encode()


def _unwanted(sent: Sent, wanted: int) -> list[str]:
    """What Xero does not take in an answer:
    https://developer.xero.com/documentation/guides/webhooks/configuring-your-server/"""
    answer = sent.answer
    if answer is None:
        return ["no answer within 5 seconds"]
    faults = [] if answer.status_code == wanted else [f"{answer.status_code} instead of {wanted}"]
    faults += ["a body"] if answer.content else []
    return faults + (["a cookie"] if "set-cookie" in answer.headers else [])


def _moment(text: str | None) -> datetime | None:
    if not text:
        return None
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _where(text: str) -> str | None:
    """The address of the one filter that the twin knows: EmailAddress=="..."."""
    if not text:
        return None
    found = re.fullmatch(r'EmailAddress=="((?:[^"\\]|\\.)*)"', text)
    if found is None:
        raise ValueError("the twin knows filters on EmailAddress only")
    return found[1]
