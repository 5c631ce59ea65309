"""A twin of Keap: https://developer.keap.com/docs/restv2/, hooks: https://developer.keap.com/docs/rest/

The email status belongs to the address. An API opt-in works from four statuses only; from the
others it answers 200 and changes nothing. Hooks carry ids alone, unsigned, and no event names an
opt-out::

    with running(KeapTwin()) as (twin, url):
        number = twin.new_contact("amy@example.com", status="CONFIRMED")
        twin.person_unsubscribes("amy@example.com")
        assert twin.status("amy@example.com") == "LIST_UNSUBSCRIBE"
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import httpx
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

MARKETABLE = ("UNENGAGED_MARKETABLE", "SINGLE_OPT_IN", "DOUBLE_OPT_IN", "CONFIRMED")
NOT_MARKETABLE = (
    "UNENGAGED_NON_MARKETABLE", "NON_MARKETABLE", "LOCKDOWN", "BOUNCE", "HARD_BOUNCE", "MANUAL",
    "ADMIN", "SYSTEM", "LIST_UNSUBSCRIBE", "FEEDBACK", "SPAM", "INVALID", "DEACTIVATED",
)  # fmt: skip
OPT_IN_FROM = ("UNENGAGED_MARKETABLE", "UNENGAGED_NON_MARKETABLE", "NON_MARKETABLE", "MANUAL")
PHONE_FIELDS = {"PHONE1", "PHONE2", "PHONE3", "PHONE4", "PHONE5"}
SECOND, MINUTE = Window(10, 1.0), Window(240, 60.0)
OWN = {"token", "client_id", "client_secret", "token_life", "opt_out_as"}
OWN |= {"token_as_bearer", "hide_tags", "tells_opt_out", "odd_tag_events", "keeps_unpermitted"}
OWN |= {"hide_statuses", "knows_all"}
V2 = "/crm/rest/v2"
HOOKS = "/crm/rest/v1/hooks"
UNVERIFIED, VERIFIED, INACTIVE = "Unverified", "Verified", "Inactive"
EVENT_KEYS = (
    "contact.add", "contact.edit", "contact.delete", "contact.redact", "contactGroup.applied",
    "contactGroup.removed", "order.add",
)  # fmt: skip
REFUSAL = "No marketing"
"""How the tags begin that stand for a refusal, for the page."""


@dataclass
class Status:
    status: str
    opted_in: bool
    created: datetime


@dataclass
class Contact:
    id: int
    emails: list[str]
    phones: list[str]
    tags: dict[int, datetime]
    updated: datetime


@dataclass
class Hook:
    key: str
    event: str
    url: str
    status: str = UNVERIFIED


@dataclass
class Account:
    contacts: dict[int, Contact] = field(default_factory=dict)
    statuses: dict[str, Status] = field(default_factory=dict)
    tags: dict[int, str] = field(default_factory=dict)
    changed_by_api: set[str] = field(default_factory=set)
    """`status`, or names of tags."""
    hooks: dict[str, Hook] = field(default_factory=dict)
    """By key."""
    tokens: dict[str, datetime] = field(default_factory=dict)
    refresh_token: str = "twin-refresh"
    next_id: int = 11


class KeapTwin(Twin[Account]):
    """See the module. Settings beside those of the kit:

    token          a personal access token; or OAuth with client_id, client_secret and the first
                   refresh_token (`twin-refresh`), each good for one use
    token_as_bearer  the personal token is taken as a bearer token only
    token_life     seconds that an OAuth token lives (default 86400)
    opt_out_as     the status that an API opt-out makes: MANUAL (default) or ADMIN
    keeps_unpermitted  an API opt-out of an address without permission leaves its status
    knows_all      a bulk call that names a contact Keap does not have is refused as a whole
    hide_statuses  contacts are shown without the statuses of their addresses
    hide_tags      contacts are shown without `tag_ids`
    tells_opt_out  an opt-out, the API's too, fires `contact.edit` (default no)
    odd_tag_events the other shape of tag events: `tagId` and lists of contact ids

    `webhook_url` is a hook for every event that is never given up and stands in no list.
    """

    name = "keap"
    default_limits = staticmethod(lambda: Limits(windows=[SECOND, MINUTE]))

    def __init__(self) -> None:
        super().__init__()
        self.courier = Courier((0.2, 0.5, 1.0), _again, timeout=5.0)
        self._defaults()

    def _defaults(self) -> None:
        self.token = "twin-keap-token"
        self.client_id, self.client_secret = "twin-client", "twin-client-secret"
        self.token_life = 86400
        self.opt_out_as = "MANUAL"
        self.token_as_bearer = False
        self.hide_tags = self.tells_opt_out = self.odd_tag_events = False
        self.keeps_unpermitted = self.hide_statuses = self.knows_all = False

    def fresh(self) -> Account:
        return Account()

    def reset(self) -> None:
        super().reset()
        self._defaults()

    def configure(self, **settings: Any) -> None:
        for name in OWN & settings.keys():
            setattr(self, name, type(getattr(self, name))(settings.pop(name)))
        if "refresh_token" in settings:
            self.state.refresh_token = str(settings.pop("refresh_token"))
        super().configure(**settings)

    def routes(self) -> Sequence[BaseRoute]:
        status, tag = V2 + "/emailAddresses/{email}/status", V2 + "/tags/{tag}"
        return [
            Route("/token", self.get_token, methods=["POST"]),
            Route(V2 + "/emailAddresses", self.list_statuses, methods=["GET"]),
            Route(status, self.get_status, methods=["GET"]),
            Route(status, self.patch_status, methods=["PATCH"]),
            Route(V2 + "/contacts", self.list_contacts, methods=["GET"]),
            Route(V2 + "/contacts/{id}", self.get_contact, methods=["GET"]),
            Route(V2 + "/contacts/{id}/tags", self.list_tags_of, methods=["GET"]),
            Route(V2 + "/tags", self.list_tags, methods=["GET"]),
            Route(V2 + "/tags", self.post_tag, methods=["POST"]),
            Route(tag + "/contacts:applyTags", self.apply_tag, methods=["POST"]),
            Route(tag + "/contacts:removeTags", self.remove_tag, methods=["POST"]),
            Route(HOOKS, self.list_hooks, methods=["GET"]),
            Route(HOOKS, self.post_hook, methods=["POST"]),
            Route(HOOKS + "/event_keys", self.list_event_keys, methods=["GET"]),
            Route(HOOKS + "/{key}", self.delete_hook, methods=["DELETE"]),
            Route(HOOKS + "/{key}/verify", self.verify_hook, methods=["POST"]),
        ]

    # --- errors, limits, getting in ------------------------------------------------------------

    def problem(self, status: int, reason: str = "") -> Response:
        if status == 401:
            detail = {"errorcode": "oauth.v2.InvalidApiKey"}
            return JSONResponse({"fault": {"faultstring": "Invalid", "detail": detail}}, 401)
        if status == 429:
            body = {"code": "429", "message": "Quota Exceeded", "status": "Request Throttled"}
            return JSONResponse(body | {"details": []}, 429)
        words = {400: "BAD_REQUEST", 403: "FORBIDDEN", 404: "NOT_FOUND", 409: "CONFLICT"}
        named = {"message": reason or f"HTTP {status}", "status": words.get(status, "INTERNAL")}
        return JSONResponse({"code": status, "details": [], **named}, status)

    def reply_headers(self) -> Mapping[str, str]:
        day = 30_000
        return {
            "x-keap-product-quota-limit": str(day),
            "x-keap-product-quota-used": str(len(self.calls)),
            "x-keap-product-quota-available": str(max(0, day - len(self.calls))),
            "x-keap-product-throttle-limit": str(MINUTE.calls),
            "x-keap-product-throttle-available": str(self.limits.left(MINUTE)),
        }

    def gate(self, request: Request) -> Response | None:
        if request.url.path == "/token":
            return None
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        until = self.state.tokens.get(given)
        alive = scheme == "Bearer" and until is not None and until > self.clock()
        key = given if self.token_as_bearer else request.headers.get("x-keap-api-key")
        return None if alive or key == self.token else self.problem(401)

    async def get_token(self, request: Request) -> Response:
        form = parse_qs((await request.body()).decode())
        pair = base64.b64encode(f"{self.client_id}:{self.client_secret}".encode()).decode()
        wanted = {"grant_type": ["refresh_token"], "refresh_token": [self.state.refresh_token]}
        if form != wanted or request.headers.get("authorization") != f"Basic {pair}":
            return JSONResponse({"error": "invalid_grant"}, 400)

        token, self.state.refresh_token = secrets.token_hex(16), secrets.token_hex(16)
        self.state.tokens[token] = self.clock() + timedelta(seconds=self.token_life)
        body = {"token_type": "bearer", "scope": "full", "expires_in": self.token_life}
        return JSONResponse(
            body | {"access_token": token, "refresh_token": self.state.refresh_token}
        )

    def _refuse(self, status: int, reason: str) -> Refusal:
        return Refusal(self.problem(status, reason))

    async def _body(self, request: Request, needs: Mapping[str, type]) -> dict[str, Any]:
        """A JSON object with these fields, of these types, and no others."""
        try:
            found = json.loads(await request.body())
        except ValueError:
            found = None
        if not isinstance(found, dict) or found.keys() != needs.keys():
            raise self._refuse(400, "Input could not be converted")
        if not all(isinstance(found[name], kind) for name, kind in needs.items()):
            raise self._refuse(400, "Input could not be converted")
        return found

    def _criteria(self, request: Request, known: set[str]) -> dict[str, str]:
        text = request.query_params.get("filter", "")
        parts = [part.partition("==") for part in text.split(";") if part]
        if any(not sign or name not in known for name, sign, _ in parts):
            raise self._refuse(400, "Invalid filter")
        return {name: value for name, _, value in parts}

    def _listing(
        self, request: Request, name: str, items: Sequence[Any], shown: Callable[[Any], Any]
    ) -> Response:
        query = request.query_params
        size, start = int(query.get("page_size", 1000)), query.get("page_token", "0")
        if not 0 < size <= 1000 or not start.isdigit():
            raise self._refuse(400, "page_size is at most 1000, page_token as it was given")
        end = int(start) + size
        body: dict[str, Any] = {name: [shown(item) for item in items[int(start) : end]]}
        return JSONResponse(body | ({"next_page_token": str(end)} if end < len(items) else {}))

    # --- addresses -----------------------------------------------------------------------------

    def _status_of(self, request: Request) -> tuple[str, Status]:
        email = str(request.path_params["email"]).strip().lower()
        found = self.state.statuses.get(email)
        if found is None:
            raise self._refuse(404, f"Email address {email} not found")
        return email, found

    def _shown(self, email: str) -> dict[str, Any]:
        held = self.state.statuses[email]
        shown = {"email": email, "opted_in": held.opted_in, "status": held.status}
        return {**shown, "create_time": _iso(held.created)}

    async def list_statuses(self, request: Request) -> Response:
        wanted = self._criteria(request, {"opted_in"}).get("opted_in")
        held = sorted(self.state.statuses.items())
        found = [email for email, s in held if wanted in (None, str(s.opted_in).lower())]
        return self._listing(request, "email_addresses", found, self._shown)

    async def get_status(self, request: Request) -> Response:
        return JSONResponse(self._shown(self._status_of(request)[0]))

    async def patch_status(self, request: Request) -> Response:
        body = await self._body(request, {"opted_in": bool, "reason": str})
        email, held = self._status_of(request)
        if body["opted_in"] and held.status in OPT_IN_FROM:
            self._set(email, "SINGLE_OPT_IN")
        elif not body["opted_in"] and (held.opted_in or self._notes(held.status)):
            self._set(email, self.opt_out_as)
        self.state.changed_by_api.add("status")
        self._tell_holders(email)
        return JSONResponse(self._shown(email))

    def _notes(self, status: str) -> bool:
        """Whether an API opt-out of an address that is not opted in changes it."""
        return status in OPT_IN_FROM and not self.keeps_unpermitted

    def _set(self, email: str, status: str) -> None:
        held = self.state.statuses.get(email)
        created = held.created if held else self.clock()
        self.state.statuses[email] = Status(status, status in MARKETABLE, created)

    # --- contacts ------------------------------------------------------------------------------

    def _contact(self, one: Contact, request: Request) -> dict[str, Any]:
        """Only the `fields` that were asked for."""
        shown: dict[str, Any] = {
            "id": str(one.id),
            "email_addresses": [
                {"email": email, "field": f"EMAIL{n}", **self._told_of(email)}
                for n, email in enumerate(one.emails, 1)
            ],
            "phone_numbers": [
                {"number": phone, "field": f"PHONE{n}", "type": "Mobile"}
                for n, phone in enumerate(one.phones, 1)
            ],
            "tag_ids": [str(tag) for tag in one.tags],
        }
        wanted = set(request.query_params.get("fields", ",".join(shown)).split(","))
        wanted -= {"tag_ids"} if self.hide_tags else set()
        return {name: value for name, value in shown.items() if name in wanted}

    def _told_of(self, email: str) -> dict[str, Any]:
        """A contact shows the status of its addresses, too."""
        held = self.state.statuses.get(email)
        if held is None or self.hide_statuses:
            return {}
        return {"is_opt_in": held.opted_in, "email_opt_status": held.status}

    async def list_contacts(self, request: Request) -> Response:
        wanted = self._criteria(
            request, {"email", "phone_number", "phone_fields", "start_update_time"}
        )
        if ("phone_number" in wanted) != ("phone_fields" in wanted):
            raise self._refuse(400, "phone_fields is required with phone_number")
        if not set(wanted.get("phone_fields", "PHONE1").split(",")) <= PHONE_FIELDS:
            raise self._refuse(400, "no such phone field")
        since = wanted.get("start_update_time", "")
        if since and not (since.endswith("Z") and "." in since):
            raise self._refuse(400, "start_update_time needs milliseconds and a zone")
        found = [c for c in self.state.contacts.values() if _matches(c, wanted)]  # ids only grow
        return self._listing(request, "contacts", found, lambda c: self._contact(c, request))

    def _known(self, request: Request) -> Contact:
        key = str(request.path_params["id"])
        found = self.state.contacts.get(int(key)) if key.isdigit() else None
        if found is None:
            raise self._refuse(404, "Contact not found")
        return found

    async def get_contact(self, request: Request) -> Response:
        return JSONResponse(self._contact(self._known(request), request))

    async def list_tags_of(self, request: Request) -> Response:
        held = sorted(self._known(request).tags.items())
        return self._listing(request, "tags", held, self._applied)

    def _applied(self, held: tuple[int, datetime]) -> dict[str, Any]:
        return {"tag": self._tag(held[0]), "applied_time": _iso(held[1])}

    # --- tags ----------------------------------------------------------------------------------

    def _tag(self, tag: int) -> dict[str, Any]:
        return {"id": str(tag), "name": self.state.tags[tag]}

    async def list_tags(self, request: Request) -> Response:
        wanted = self._criteria(request, {"name"})
        names = sorted(self.state.tags.items())
        found = [tag for tag, name in names if wanted.get("name", name) == name]
        return self._listing(request, "tags", found, self._tag)

    async def post_tag(self, request: Request) -> Response:
        body = await self._body(request, {"name": str})
        if body["name"] in self.state.tags.values():
            raise self._refuse(409, "Tag already exists")
        return JSONResponse(self._tag(self._new_tag(body["name"])), 201)

    def _new_tag(self, name: str) -> int:
        tag = self._next()
        self.state.tags[tag] = name
        return tag

    async def _tagging(self, request: Request) -> tuple[int, list[str]]:
        body = await self._body(request, {"contact_ids": list})
        tag = str(request.path_params["tag"])
        if not tag.isdigit() or int(tag) not in self.state.tags:
            raise self._refuse(404, "Tag not found")
        ids = body["contact_ids"]
        if len(set(ids)) < len(ids) or not all(isinstance(one, str) for one in ids):
            raise self._refuse(400, "contact_ids are texts, each once")
        known = {str(number) for number in self.state.contacts}
        if self.knows_all and not known.issuperset(ids):
            raise self._refuse(404, "Contact not found")
        return int(tag), ids

    async def apply_tag(self, request: Request) -> Response:
        tag, ids = await self._tagging(request)
        results = {}
        for one in ids:
            contact = self.state.contacts.get(int(one)) if one.isdigit() else None
            fault = self.item_fault(request, one)
            if contact is None or (fault and fault.kind == "bad_item"):
                results[one] = "FAILURE"
            elif fault is None:
                results[one] = "DUPLICATE" if tag in contact.tags else "SUCCESS"
                self._put_tag(contact, tag, "api")
        return JSONResponse({"results": results})

    async def remove_tag(self, request: Request) -> Response:
        tag, ids = await self._tagging(request)
        for one in ids:
            contact = self.state.contacts.get(int(one)) if one.isdigit() else None
            if contact:
                self._take_tag(contact, tag, "api")
        return Response(status_code=204)

    def _put_tag(self, one: Contact, tag: int, by: str, travel: Travel = PLAIN) -> None:
        if tag not in one.tags:
            one.tags[tag] = self.clock()
            self._tell("contactGroup.applied", one.id, travel, tag)
        if by == "api":
            self.state.changed_by_api.add(self.state.tags[tag])

    def _take_tag(self, one: Contact, tag: int, by: str, travel: Travel = PLAIN) -> None:
        if one.tags.pop(tag, None):
            self._tell("contactGroup.removed", one.id, travel, tag)
        if by == "api":
            self.state.changed_by_api.add(self.state.tags[tag])

    # --- hooks ---------------------------------------------------------------------------------

    async def list_event_keys(self, request: Request) -> Response:
        return JSONResponse(list(EVENT_KEYS))

    async def list_hooks(self, request: Request) -> Response:
        return JSONResponse([_hook(hook) for hook in self.state.hooks.values()])

    async def post_hook(self, request: Request) -> Response:
        """The URL is called before the answer; a hook that is not answered stays Unverified."""
        body = await self._body(request, {"eventKey": str, "hookUrl": str})
        if body["eventKey"] not in EVENT_KEYS or not body["hookUrl"].startswith("http"):
            raise self._refuse(400, "Invalid eventKey or hookUrl")
        hook = Hook(str(self._next()), body["eventKey"], body["hookUrl"])
        self.state.hooks[hook.key] = hook
        return JSONResponse(_hook(await self._shaken(hook)))

    async def verify_hook(self, request: Request) -> Response:
        return JSONResponse(_hook(await self._shaken(self._hook_of(request))))

    async def delete_hook(self, request: Request) -> Response:
        del self.state.hooks[self._hook_of(request).key]
        return Response(status_code=204)

    def _hook_of(self, request: Request) -> Hook:
        hook = self.state.hooks.get(str(request.path_params["key"]))
        if hook is None:
            raise self._refuse(404, "Hook not found")
        return hook

    async def _shaken(self, hook: Hook) -> Hook:
        """200, and the same header with the same value, make it Verified."""
        secret = secrets.token_hex(16)
        headers = {"X-Hook-Secret": secret, "Content-Type": "application/json"}
        async with httpx.AsyncClient(trust_env=False, timeout=5, verify=False) as client:
            try:
                answer = await client.post(hook.url, content=b"{}", headers=headers)
                good = answer.status_code == 200 and answer.headers.get("x-hook-secret") == secret
            except httpx.HTTPError:
                good = False
        hook.status = VERIFIED if good else hook.status
        return hook

    def _tell(self, event: str, contact: int, travel: Travel = PLAIN, tag: int = 0) -> None:
        told: dict[str, Any] = {"id": tag or contact, "timestamp": _iso(self.clock())}
        if tag and self.odd_tag_events:
            told = {"tagId": tag, event.partition(".")[2]: [contact]}
        elif tag:
            told |= {"contact_details": [{"id": contact, "timestamp": told["timestamp"]}]}
        kind = event.partition(".")[0]
        told |= {"apiUrl": ""}
        body = {"event_key": event, "object_type": kind, "object_keys": [told]}
        content = json.dumps(body).encode()
        if self.webhook_url:
            self._deliver(content, {}, travel)
        for hook in self.state.hooks.values():
            if hook.event == event and hook.status == VERIFIED:
                headers = {"Content-Type": "application/json"}
                self._send_to(hook, Letter(hook.url, content, headers), travel)

    def _send_to(self, hook: Hook, letter: Letter, travel: Travel) -> None:
        """After the fourth attempt that fails, or at once by a 410, the hook is Inactive."""

        def answered(sent: Sent) -> None:
            last = _again(sent.status) and sent.attempt >= len(self.courier.gaps)
            if last or sent.status == 410:
                with self.lock:
                    hook.status = INACTIVE

        self.post(lambda attempt: letter, travel, answered)

    def _deliver(self, content: bytes, more: Mapping[str, str], travel: Travel) -> None:
        headers = {"Content-Type": "application/json", **more}
        self.post(lambda attempt: Letter(self.webhook_url, content, headers), travel)

    # --- reading for tests ---------------------------------------------------------------------

    def status(self, email: str) -> str:
        with self.lock:
            return self.state.statuses[email.lower()].status

    def tags_of(self, contact: int) -> set[str]:
        with self.lock:
            return {self.state.tags[tag] for tag in self.state.contacts[contact].tags}

    def hooks(self) -> dict[str, str]:
        """Status by event."""
        with self.lock:
            return {hook.event: hook.status for hook in self.state.hooks.values()}

    def changed_by_api(self) -> set[str]:
        """What the API changed: `status`, or names of tags. Reminder tags must not be there."""
        with self.lock:
            return set(self.state.changed_by_api)

    # --- acts ----------------------------------------------------------------------------------

    def _next(self) -> int:
        self.state.next_id += 1
        return self.state.next_id

    def _of(self, contact: int | str) -> Contact:
        if int(contact) not in self.state.contacts:
            raise ActError("no such contact")
        return self.state.contacts[int(contact)]

    def _named(self, name: str) -> int:
        held = {text: tag for tag, text in self.state.tags.items()}
        return held[name] if name in held else self._new_tag(name)

    @act
    def new_contact(
        self,
        email: str = "",
        phone: str = "",
        status: str = "NON_MARKETABLE",
        tags: Sequence[str] = (),
        travel: Travel = PLAIN,
    ) -> int:
        """Somebody new; `email` and `phone` may name several, parted by blanks or commas."""
        emails = email.lower().split()
        phones = [part.strip() for part in phone.split(",") if part.strip()]
        if not emails and not phones:
            raise ActError("at least an address or a number")
        now = self.clock()
        held = {self._named(name): now for name in tags}
        one = Contact(self._next(), emails, phones, held, now)
        self.state.contacts[one.id] = one
        for address in emails:
            if address not in self.state.statuses:
                self._set(address, status)
        self._tell("contact.add", one.id, travel)
        return one.id

    @act
    def new_status(self, email: str, status: str, opted_in: bool | None = None) -> None:
        """An address as found at the start, with or without a contact."""
        self._set(email.lower(), status)
        if opted_in is not None:
            self.state.statuses[email.lower()].opted_in = opted_in

    @act
    def forget_status(self, email: str) -> None:
        """The address of a contact that Keap has no status of."""
        del self.state.statuses[email.lower()]

    @act
    def person_unsubscribes(
        self, email: str, status: str = "LIST_UNSUBSCRIBE", travel: Travel = PLAIN
    ) -> None:
        """By the link of a mail (or MANUAL, FEEDBACK, SPAM). No event names it."""
        self._change(email, status, travel)

    @act
    def person_confirms(self, email: str, travel: Travel = PLAIN) -> None:
        """By the link of a confirmation mail."""
        self._change(email, "CONFIRMED", travel)

    @act
    def admin_opts_out(self, email: str, travel: Travel = PLAIN) -> None:
        self._change(email, "ADMIN", travel)

    def _change(self, email: str, status: str, travel: Travel) -> None:
        if email.lower() not in self.state.statuses or status not in MARKETABLE + NOT_MARKETABLE:
            raise ActError("no such address or status")
        self._set(email.lower(), status)
        self._tell_holders(email.lower(), travel)

    def _tell_holders(self, email: str, travel: Travel = PLAIN) -> None:
        for one in self.state.contacts.values():
            if email in one.emails and self.tells_opt_out:
                self._tell("contact.edit", one.id, travel)

    @act
    def admin_tags(self, contact: int | str, tag: str, travel: Travel = PLAIN) -> None:
        self._put_tag(self._of(contact), self._named(tag), "admin", travel)

    @act
    def admin_untags(self, contact: int | str, tag: str, travel: Travel = PLAIN) -> None:
        self._take_tag(self._of(contact), self._named(tag), "admin", travel)

    @act
    def admin_deletes_tag(self, tag: str) -> None:
        number = self._named(tag)
        for one in self.state.contacts.values():
            one.tags.pop(number, None)
        del self.state.tags[number]

    @act
    def admin_edits(self, contact: int | str, email: str, travel: Travel = PLAIN) -> None:
        """Another address; the status of the old one stays."""
        one = self._of(contact)
        one.emails, one.updated = email.lower().split(), self.clock()
        for address in one.emails:
            if address not in self.state.statuses:
                self._set(address, "NON_MARKETABLE")
        self._tell("contact.edit", one.id, travel)

    @act
    def redact(self, contact: int | str, travel: Travel = PLAIN) -> None:
        """Erasure in Keap's own pages."""
        del self.state.contacts[self._of(contact).id]
        self._tell("contact.redact", int(contact), travel)

    @act
    def handshake(self, travel: Travel = PLAIN) -> str:
        """The call that a new hook gets first; the answer must carry the same header."""
        secret = secrets.token_hex(16)
        self._deliver(b"{}", {"X-Hook-Secret": secret}, travel)
        return secret

    @act
    def has_hooks(
        self, url: str, events: Iterable[str] = EVENT_KEYS, status: str = VERIFIED
    ) -> None:
        """Hooks as found at the start, without a handshake."""
        for event in events:
            hook = Hook(str(self._next()), event, url, status)
            self.state.hooks[hook.key] = hook

    @act
    def hooks_vanish(self, *events: str) -> None:
        """Somebody deleted them in Keap; without events all."""
        gone = events or EVENT_KEYS
        kept = {key: one for key, one in self.state.hooks.items() if one.event not in gone}
        self.state.hooks = kept

    # --- the page ------------------------------------------------------------------------------

    def page_buttons(self) -> Sequence[Button]:
        return [Button("New contact", "new_contact", asks=("email", "phone"))]

    def people(self) -> Sequence[Row]:
        return [self._row(one) for one in self.state.contacts.values()]

    def _row(self, one: Contact) -> Row:
        tags = sorted(self.state.tags[tag] for tag in one.tags)
        refusals = [tag for tag in tags if tag.startswith(REFUSAL)]
        marks = [self._status_mark(email) for email in one.emails]
        marks += [Mark(tag, on=False) for tag in refusals]
        others = ", ".join(tag for tag in tags if tag not in refusals)
        tag = {"contact": str(one.id), "tag": f"{REFUSAL} - sms"}
        texts = Button("Staff: remove the SMS tag", "admin_untags", tag)
        if tag["tag"] not in refusals:
            texts = Button("Staff: tag as no SMS", "admin_tags", tag)
        buttons = [button for email in one.emails for button in self._mail_buttons(email)]
        person = ", ".join([*one.emails, *one.phones])
        by_hand = [Mark("one-to-one mail goes on", on=True)]
        return Row(person, marks, by_hand, f"tags: {others or 'none'}", [*buttons, texts])

    def _status_mark(self, email: str) -> Mark:
        held = self.state.statuses.get(email)
        said = held.status.replace("_", " ").lower() if held else "no status"
        return Mark(f"mail: {said}", held.opted_in if held else None)

    def _mail_buttons(self, email: str) -> list[Button]:
        fields = {"email": email}
        return [
            Button("Unsubscribe in a mail", "person_unsubscribes", fields),
            Button("Staff: opt out", "admin_opts_out", fields),
            Button("Confirm by mail", "person_confirms", fields),
        ]


def _hook(hook: Hook) -> dict[str, str]:
    shown = {"key": hook.key, "eventKey": hook.event}
    return {**shown, "hookUrl": hook.url, "status": hook.status}


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _again(status: int | None) -> bool:
    """Failed are no answer, below 200, 400 and above; 410 ends it at once."""
    return status != 410 and (status is None or not 200 <= status < 400)


def _matches(one: Contact, wanted: Mapping[str, str]) -> bool:
    email, number = wanted.get("email"), wanted.get("phone_number")
    if email is not None and email.endswith("*"):
        return any(held.startswith(email[:-1].lower()) for held in one.emails)
    if email is not None and email.lower() not in one.emails:
        return False
    if number is not None and number not in one.phones:
        return False
    since = wanted.get("start_update_time")
    return since is None or one.updated >= datetime.fromisoformat(since)
