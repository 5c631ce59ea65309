"""A twin of HubSpot: https://developers.hubspot.com/docs/api-reference/overview

Preferences belong to the address: a status for each subscription type, and an unsubscribe-all that
beats them. Contacts mirror them as properties. No webhook tells of a preference; the mirrored
properties' changes are told::

    with running(HubspotTwin()) as (twin, url):
        twin.new_type("101", "Treatments")
        twin.new_contact("amy@example.com", statuses={"101": "SUBSCRIBED"})
        twin.person_unsubscribes("amy@example.com", "101")
        assert twin.status("amy@example.com", "101") == "UNSUBSCRIBED"
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

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
    plain,
)

SPEED = Window(100, 10.0)
BATCH = 100
STATES = ("SUBSCRIBED", "UNSUBSCRIBED", "NOT_SPECIFIED")
STATE_ON = dict(zip(STATES, (True, False, None), strict=True))
LEGAL = {
    "LEGITIMATE_INTEREST_PQL",
    "LEGITIMATE_INTEREST_CLIENT",
    "PERFORMANCE_OF_CONTRACT",
    "CONSENT_WITH_NOTICE",
    "NON_GDPR",
    "PROCESS_AND_STORE",
    "LEGITIMATE_INTEREST_OTHER",
}
V4 = "/communication-preferences/v4"
V3 = "/communication-preferences/v3"
CONTACTS = "/crm/v3/objects/contacts"


@dataclass
class Type:
    id: str
    name: str
    purpose: str
    internal: bool = False
    active: bool = True


@dataclass
class Status:
    """One address and type. `by` is person, admin or api: for the page and for tests."""

    state: str
    source: str
    at: datetime
    by: str
    basis: str | None = None
    wording: str | None = None


@dataclass
class Contact:
    id: int
    email: str
    properties: dict[str, str]
    created: datetime
    changed: datetime


@dataclass
class Write:
    at: datetime
    email: str
    type: str
    state: str
    by: str


@dataclass
class Account:
    types: dict[str, Type] = field(default_factory=dict)
    statuses: dict[str, dict[str, Status]] = field(default_factory=dict)
    out_of_all: dict[str, Status] = field(default_factory=dict)
    contacts: dict[int, Contact] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)
    properties: set[str] = field(default_factory=set)
    blocked: set[str] = field(default_factory=set)
    tokens: dict[str, datetime] = field(default_factory=dict)
    next_id: int = 1001
    next_event: int = 1


SOURCES = {
    "person": "SOURCE_RECIPIENT",
    "admin": "SOURCE_HUBSPOT_CUSTOMER",
    "api": "Public status API, App ID: 54321",
}
"""What a status says of who set it, as seen in public captures; the vendor lists no full set."""


def _error(status: int, category: str, message: str, **more: Any) -> Response:
    body = {
        "status": "error",
        "message": message,
        "category": category,
        "correlationId": "00000000-0000-0000-0000-000000000000",
        **more,
    }
    return JSONResponse(body, status)


class HubspotTwin(Twin[Account]):
    """See the module. Settings beside those of the kit:

    token                  of the private app; or OAuth with client_id, client_secret, refresh_token
    token_life             seconds that an OAuth token lives (default 1800)
    signing_secret         client secret that signs webhooks
    signatures             "v1" or "v3" (default)
    enterprise             batch calls are allowed (default no: 403)
    legal_basis_required   a SUBSCRIBED needs legalBasis and legalBasisExplanation
    new_platform           events are called object.* and carry objectTypeId
    sign_as                sign this URL instead of webhook_url
    """

    name = "hubspot"
    title = "HubSpot"
    default_limits = staticmethod(lambda: Limits(windows=[SPEED]))

    def __init__(self) -> None:
        super().__init__()
        self.courier = Courier((0.2, 0.5, 1.0), not_2xx, timeout=5.0)
        self._defaults()

    def _defaults(self) -> None:
        self.token = "twin-hubspot-token"
        self.client_id, self.client_secret = "twin-client", "twin-client-secret"
        self.refresh_token = "twin-refresh"
        self.token_life = 1800
        self.signing_secret = "twin-signing-secret"
        self.signatures = "v3"
        self.enterprise = False
        self.legal_basis_required = False
        self.new_platform = False
        self.sign_as = ""

    def fresh(self) -> Account:
        return Account()

    def reset(self) -> None:
        super().reset()
        self._defaults()

    def configure(self, **settings: Any) -> None:
        """Its own settings by name, else as the kit."""
        own = {
            "token": str,
            "client_id": str,
            "client_secret": str,
            "refresh_token": str,
            "token_life": int,
            "signing_secret": str,
            "signatures": str,
            "enterprise": bool,
            "legal_basis_required": bool,
            "new_platform": bool,
            "sign_as": str,
        }
        for name in own.keys() & settings.keys():
            setattr(self, name, own[name](settings.pop(name)))
        super().configure(**settings)

    def routes(self) -> Sequence[BaseRoute]:
        one = V4 + "/statuses/{email}"
        return [
            Route(V4 + "/definitions", self.get_definitions, methods=["GET"]),
            Route(V4 + "/statuses/batch/read", self.batch_read, methods=["POST"]),
            Route(V4 + "/statuses/batch/unsubscribe-all/read", self.batch_wide, methods=["POST"]),
            Route(V4 + "/statuses/batch/write", self.batch_write, methods=["POST"]),
            Route(one + "/unsubscribe-all", self.get_out_of_all, methods=["GET"]),
            Route(one + "/unsubscribe-all", self.post_out_of_all, methods=["POST"]),
            Route(one, self.get_statuses, methods=["GET"]),
            Route(one, self.post_status, methods=["POST"]),
            Route(V3 + "/status/email/{email}", self.get_v3, methods=["GET"]),
            Route(V3 + "/subscribe", self.subscribe_v3, methods=["POST"]),
            Route(V3 + "/unsubscribe", self.unsubscribe_v3, methods=["POST"]),
            Route(CONTACTS + "/batch/upsert", self.upsert, methods=["POST"]),
            Route(CONTACTS + "/search", self.search, methods=["POST"]),
            Route(CONTACTS + "/gdpr-delete", self.gdpr_delete, methods=["POST"]),
            Route(CONTACTS, self.list_contacts, methods=["GET"]),
            Route(CONTACTS + "/{id}", self.get_contact, methods=["GET"]),
            Route("/oauth/v1/token", self.get_token, methods=["POST"]),
        ]

    def problem(self, status: int, reason: str = "") -> Response:
        if status == 429:
            return _error(
                429,
                "RATE_LIMITS",
                "You have reached your limit.",
                policyName="TEN_SECONDLY_ROLLING",
            )
        categories = {401: "INVALID_AUTHENTICATION", 403: "MISSING_SCOPES", 404: "OBJECT_NOT_FOUND"}
        return _error(
            status, categories.get(status, "VALIDATION_ERROR"), reason or f"HTTP {status}"
        )

    def reply_headers(self) -> Mapping[str, str]:
        return {
            "X-HubSpot-RateLimit-Max": str(SPEED.calls),
            "X-HubSpot-RateLimit-Remaining": str(self.limits.left(SPEED)),
            "X-HubSpot-RateLimit-Interval-Milliseconds": "10000",
        }

    def gate(self, request: Request) -> Response | None:
        if request.url.path.startswith("/oauth/"):
            return None
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        until = self.state.tokens.get(given)
        alive = given == self.token or (until is not None and until > self.clock())
        return None if scheme == "Bearer" and alive else self.problem(401, "Authentication failed")

    async def get_token(self, request: Request) -> Response:
        form = parse_qs((await request.body()).decode())
        wanted = {
            "grant_type": ["refresh_token"],
            "client_id": [self.client_id],
            "client_secret": [self.client_secret],
            "refresh_token": [self.refresh_token],
        }
        if form != wanted:
            return _error(400, "VALIDATION_ERROR", "bad refresh token")
        token = secrets.token_hex(16)

        self.state.tokens[token] = self.clock() + timedelta(seconds=self.token_life)
        body = {
            "access_token": token,
            "refresh_token": self.refresh_token,
            "expires_in": self.token_life,
            "token_type": "bearer",
        }
        return JSONResponse(body)

    # --- preferences, v4 -----------------------------------------------------------------------

    async def get_definitions(self, request: Request) -> Response:
        shown = [
            {
                "id": t.id,
                "name": t.name,
                "description": t.name,
                "purpose": t.purpose,
                "communicationMethod": "Email",
                "isActive": t.active,
                "isDefault": False,
                "isInternal": t.internal,
                "businessUnitId": 0,
                "createdAt": "2026-01-01T00:00:00Z",
                "updatedAt": "2026-01-01T00:00:00Z",
            }
            for t in self.state.types.values()
        ]
        return JSONResponse({"status": "COMPLETE", "results": shown, **self._times()})

    def _times(self) -> dict[str, str]:
        now = _iso(self.clock())
        return {"startedAt": now, "completedAt": now}

    def _email(self, request: Request) -> str:
        return str(request.path_params["email"]).strip().lower()

    def _needs_channel(self, request: Request) -> None:
        if request.query_params.get("channel") != "EMAIL":
            raise Refusal(self.problem(400, "channel is required and must be EMAIL"))

    async def get_statuses(self, request: Request) -> Response:
        self._needs_channel(request)
        email = self._email(request)
        shown = [self._status(email, t.id) for t in self.state.types.values()]
        return JSONResponse({"status": "COMPLETE", "results": shown, **self._times()})

    def _status(self, email: str, type_id: str) -> dict[str, Any]:
        found = self.state.statuses.get(email, {}).get(type_id)
        return {
            "subscriberIdString": email,
            "subscriptionId": int(type_id),
            "subscriptionName": self.state.types[type_id].name,
            "channel": "EMAIL",
            "status": found.state if found else "NOT_SPECIFIED",
            "source": found.source if found else "",
            "timestamp": _iso(found.at if found else self.clock()),
            "businessUnitId": 0,
            "legalBasis": found.basis if found else None,
            "legalBasisExplanation": found.wording if found else None,
            "setStatusSuccessReason": None,
        }

    async def post_status(self, request: Request) -> Response:
        body = await _json(request, self)
        result = self._set(self._email(request), body)
        return JSONResponse({"status": "COMPLETE", "results": [result], **self._times()})

    def _set(self, email: str, body: Mapping[str, Any]) -> dict[str, Any]:
        known = {
            "channel",
            "statusState",
            "subscriptionId",
            "legalBasis",
            "legalBasisExplanation",
            "subscriberIdString",
        }
        if set(body) - known or body.get("channel") != "EMAIL":
            raise Refusal(self.problem(400, "unknown field, or a channel that is not EMAIL"))
        type_id, state = str(body.get("subscriptionId")), body.get("statusState")
        if not isinstance(body.get("subscriptionId"), int) or type_id not in self.state.types:
            raise Refusal(self.problem(400, "no such subscription"))
        if state not in STATES:
            raise Refusal(self.problem(400, "statusState is not known"))
        self._check_basis(body)
        before = self._state(email, type_id)
        self._write(email, type_id, str(state), "api")
        reason = "NO_STATUS_CHANGE" if before == state else "REQUESTED_CHANGE_OCCURRED"
        if before == "UNSUBSCRIBED" and state == "SUBSCRIBED":
            reason = "RESUBSCRIBE_OCCURRED"
        return self._status(email, type_id) | {"setStatusSuccessReason": reason}

    def _check_basis(self, body: Mapping[str, Any]) -> None:
        basis = body.get("legalBasis")
        if basis is not None and basis not in LEGAL:
            raise Refusal(self.problem(400, "legalBasis is not known"))
        if (
            self.legal_basis_required
            and body.get("statusState") == "SUBSCRIBED"
            and not (basis and body.get("legalBasisExplanation"))
        ):
            raise Refusal(self.problem(400, "legalBasis and legalBasisExplanation are required"))

    def _state(self, email: str, type_id: str) -> str:
        found = self.state.statuses.get(email, {}).get(type_id)
        return found.state if found else "NOT_SPECIFIED"

    def _write(self, email: str, type_id: str, state: str, by: str, travel: Travel = PLAIN) -> None:
        changed = self._state(email, type_id) != state
        now = self.clock()
        of_address = self.state.statuses.setdefault(email, {})
        if changed or type_id not in of_address:
            of_address[type_id] = Status(state, SOURCES[by], now, by)
        self.state.writes.append(Write(now, email, type_id, state, by))
        contact = self._by_email(email)
        if contact and changed:
            value = "true" if state == "UNSUBSCRIBED" else "false"
            self._property(contact, f"hs_email_optout_{type_id}", value, by, travel)

    def _property(
        self, contact: Contact, name: str, value: str, by: str, travel: Travel = PLAIN
    ) -> None:
        contact.properties[name] = value
        contact.changed = self.clock()
        told = {"propertyName": name, "propertyValue": value}
        source = "CRM_UI" if by != "api" else "API"
        self._tell("propertyChange", contact.id, told | {"changeSource": source}, travel)

    async def get_out_of_all(self, request: Request) -> Response:
        self._needs_channel(request)
        email = self._email(request)
        found = self.state.out_of_all.get(email)
        results = [self._wide(email, found)] if found else []
        return JSONResponse({"status": "COMPLETE", "results": results, **self._times()})

    def _wide(self, email: str, found: Status) -> dict[str, Any]:
        return {
            "subscriberIdString": email,
            "channel": "EMAIL",
            "status": "UNSUBSCRIBED",
            "source": found.source,
            "timestamp": _iso(found.at),
            "wideStatusType": "PORTAL_WIDE",
            "businessUnitId": 0,
        }

    async def post_out_of_all(self, request: Request) -> Response:
        self._needs_channel(request)
        self._leave_all(self._email(request), "api")
        return await self.get_out_of_all(request)

    def _leave_all(self, email: str, by: str, travel: Travel = PLAIN) -> None:
        self.state.out_of_all[email] = Status("UNSUBSCRIBED", SOURCES[by], self.clock(), by)
        contact = self._by_email(email)
        if contact:
            self._property(contact, "hs_email_optout", "true", by, travel)

    # --- batches -------------------------------------------------------------------------------

    def _enterprise(self) -> None:
        if not self.enterprise:
            raise Refusal(self.problem(403, "This needs Marketing Hub Enterprise"))

    async def batch_read(self, request: Request) -> Response:
        self._enterprise()
        self._needs_channel(request)
        inputs = _inputs(await _json(request, self), self)
        results: list[Any] = []
        for email in inputs:
            if self.item_fault(request, str(email)) is None:
                shown = [self._status(str(email).lower(), t) for t in self.state.types]
                results.append({"subscriberIdString": str(email), "statuses": shown})
        return JSONResponse({"status": "COMPLETE", "results": results, **self._times()})

    async def batch_wide(self, request: Request) -> Response:
        self._enterprise()
        self._needs_channel(request)
        out = self.state.out_of_all
        results = [
            {
                "subscriberIdString": email,
                "wideStatuses": [self._wide(email, out[email])] if email in out else [],
            }
            for email in (str(one).lower() for one in _inputs(await _json(request, self), self))
        ]
        return JSONResponse({"status": "COMPLETE", "results": results, **self._times()})

    async def batch_write(self, request: Request) -> Response:
        self._enterprise()
        results, errors = [], []
        for item in _inputs(await _json(request, self), self):
            email = str(item.get("subscriberIdString", "")).lower()
            fault = self.item_fault(request, email)
            if fault and fault.kind == "bad_item":
                errors.append(_item_error(email))
                continue
            try:
                done = self._set(email, item)
            except Refusal:
                errors.append(_item_error(email))
                continue
            if fault is None:
                results.append(done)
        body: dict[str, Any] = {"status": "COMPLETE", "results": results, **self._times()}
        if errors:
            body |= {"errors": errors, "numErrors": len(errors)}
        return JSONResponse(body, 207 if errors else 200)

    # --- preferences, v3 -----------------------------------------------------------------------

    async def get_v3(self, request: Request) -> Response:
        email = self._email(request)
        shown = [
            {
                "id": t.id,
                "name": t.name,
                "description": t.name,
                "status": "NOT_SUBSCRIBED"
                if self._state(email, t.id) == "UNSUBSCRIBED"
                else self._state(email, t.id),
                "sourceOfStatus": "PORTAL_WIDE_STATUS"
                if email in self.state.out_of_all
                else "SUBSCRIPTION_STATUS",
            }
            for t in self.state.types.values()
        ]
        return JSONResponse({"recipient": email, "subscriptionStatuses": shown})

    async def subscribe_v3(self, request: Request) -> Response:
        body = await _json(request, self)
        email, type_id = str(body.get("emailAddress", "")).lower(), str(body.get("subscriptionId"))
        held = self.state.statuses.get(email, {}).get(type_id)
        if held and held.state == "UNSUBSCRIBED" and held.by == "person":
            return self.problem(400, "the contact opted out and cannot be resubscribed")
        self._write(email, type_id, "SUBSCRIBED", "api")
        return JSONResponse({"recipient": email, "id": type_id, "status": "SUBSCRIBED"})

    async def unsubscribe_v3(self, request: Request) -> Response:
        body = await _json(request, self)
        email, type_id = str(body.get("emailAddress", "")).lower(), str(body.get("subscriptionId"))
        if self._state(email, type_id) == "UNSUBSCRIBED":
            return self.problem(400, "already unsubscribed")
        self._write(email, type_id, "UNSUBSCRIBED", "api")
        return JSONResponse({"recipient": email, "id": type_id, "status": "NOT_SUBSCRIBED"})

    # --- contacts ------------------------------------------------------------------------------

    def _by_email(self, email: str) -> Contact | None:
        return next((c for c in self.state.contacts.values() if c.email == email), None)

    async def get_contact(self, request: Request) -> Response:
        key = str(request.path_params["id"])
        if request.query_params.get("idProperty") == "email":
            found = self._by_email(key.lower())
        else:
            found = self.state.contacts.get(int(key)) if key.isdigit() else None
        if found is None:
            return self.problem(404, "Object not found")
        return JSONResponse(self._contact(found, _wanted(request.query_params)))

    def _contact(self, one: Contact, wanted: Iterable[str]) -> dict[str, Any]:
        held = {"email": one.email, **one.properties}
        return {
            "id": str(one.id),
            "properties": {name: held.get(name) for name in {*wanted, "email"}},
            "createdAt": _iso(one.created),
            "updatedAt": _iso(one.changed),
            "archived": False,
        }

    async def list_contacts(self, request: Request) -> Response:
        query = request.query_params
        limit, after = int(query.get("limit", 10)), int(query.get("after", 0))
        if limit > 100:
            return self.problem(400, "limit is at most 100")
        rest = [c for id_, c in self.state.contacts.items() if id_ > after]  # ids only grow
        shown = rest[:limit]
        body: dict[str, Any] = {"results": [self._contact(c, _wanted(query)) for c in shown]}
        if len(rest) > limit:
            body["paging"] = {"next": {"after": str(shown[-1].id), "link": ""}}
        return JSONResponse(body)

    async def search(self, request: Request) -> Response:
        body = await _json(request, self)
        if set(body) - {"filterGroups", "sorts", "query", "properties", "limit", "after"}:
            return self.problem(400, "unknown field")
        limit, after = int(body.get("limit", 10)), int(body.get("after") or 0)
        if limit > 200 or after + limit > 10_000:
            return self.problem(400, "at most 200 a page and 10,000 in all")
        found = [c for c in self.state.contacts.values() if _matches(c, body)]
        found.sort(key=lambda c: (c.changed, c.id))
        shown = found[after : after + limit]
        answer: dict[str, Any] = {
            "total": len(found),
            "results": [self._contact(c, body.get("properties", [])) for c in shown],
        }
        if after + limit < len(found):
            answer["paging"] = {"next": {"after": str(after + limit), "link": ""}}
        return JSONResponse(answer)

    async def upsert(self, request: Request) -> Response:
        results, errors = [], []
        for item in _inputs(await _json(request, self), self):
            key = str(item.get("id", "")).lower()
            fault = self.item_fault(request, key)
            values = item.get("properties", {})
            wrong = item.get("idProperty") != "email" or set(values) - self.state.properties
            if wrong or (fault and fault.kind == "bad_item"):
                errors.append(_item_error(key))
                continue
            contact = self._by_email(key) or self._new(key, {})
            for name, value in values.items():
                self._property(contact, name, str(value), "api")
            if fault is None:
                results.append({**self._contact(contact, values), "new": False})
        body: dict[str, Any] = {"status": "COMPLETE", "results": results, **self._times()}
        if errors:
            body |= {"errors": errors, "numErrors": len(errors)}
        return JSONResponse(body, 207 if errors else 200)

    async def gdpr_delete(self, request: Request) -> Response:
        body = await _json(request, self)
        found = self._by_email(str(body.get("objectId", "")).lower())
        self.state.blocked.add(str(body.get("objectId", "")).lower())
        if found:
            del self.state.contacts[found.id]
            self._tell("privacyDeletion", found.id, {}, PLAIN)
        return Response(status_code=204)

    def _new(self, email: str, properties: Mapping[str, str]) -> Contact:
        now = self.clock()
        contact = Contact(self.state.next_id, email, dict(properties), now, now)
        self.state.next_id += 1
        self.state.contacts[contact.id] = contact
        return contact

    # --- webhooks ------------------------------------------------------------------------------

    def _tell(self, kind: str, object_id: int, more: Mapping[str, Any], travel: Travel) -> None:
        if not self.webhook_url:
            return
        event = {
            "eventId": self.state.next_event // 2,
            "subscriptionId": 7,
            "portalId": 62515,
            "appId": 54321,
            "occurredAt": int(self.clock().timestamp() * 1000),
            "subscriptionType": f"{'object' if self.new_platform else 'contact'}.{kind}",
            "attemptNumber": 0,
            "objectId": object_id,
            "changeSource": "CRM_UI",
            **more,
        }
        if self.new_platform:
            event["objectTypeId"] = "0-1"
        self.state.next_event += 1
        self.post(lambda attempt: self._letter([event | {"attemptNumber": attempt}]), travel)

    def _letter(self, events: list[dict[str, Any]]) -> Letter:
        content = json.dumps(events).encode()
        headers = {"Content-Type": "application/json", **self.signature(content)}
        return Letter(self.webhook_url, content, headers)

    def signature(self, content: bytes) -> dict[str, str]:
        """The headers that sign this body now."""
        if self.signatures == "v1":
            digest = hashlib.sha256(self.signing_secret.encode() + content).hexdigest()
            return {"X-HubSpot-Signature": digest, "X-HubSpot-Signature-Version": "v1"}
        moment = str(int(self.clock().timestamp() * 1000))
        url = self.sign_as or self.webhook_url
        text = b"POST" + url.encode() + content + moment.encode()
        signed = hmac.new(self.signing_secret.encode(), text, hashlib.sha256).digest()
        return {
            "X-HubSpot-Signature-v3": base64.b64encode(signed).decode(),
            "X-HubSpot-Request-Timestamp": moment,
        }

    # --- reading for tests ---------------------------------------------------------------------

    def status(self, email: str, type_id: str) -> str:
        with self.lock:
            return self._state(email.lower(), type_id)

    def unsubscribed_from_all(self, email: str) -> bool:
        with self.lock:
            return email.lower() in self.state.out_of_all

    def changes(self, email: str, type_id: str) -> list[Write]:
        with self.lock:
            return [w for w in self.state.writes if (w.email, w.type) == (email.lower(), type_id)]

    def api_changes_of_reminders(self) -> list[Write]:
        """Must be empty: a marketing opt-out never touches a reminder type."""
        with self.lock:
            kinds = {t.id for t in self.state.types.values() if t.purpose == "reminders"}
            return [w for w in self.state.writes if w.by == "api" and w.type in kinds]

    def show(self) -> Any:
        return plain(self.state)

    # --- acts ----------------------------------------------------------------------------------

    @act
    def new_type(
        self,
        id: str,
        name: str = "Newsletter",
        purpose: str = "marketing",
        internal: bool = False,
        active: bool = True,
    ) -> None:
        self.state.types[str(id)] = Type(str(id), name, purpose, internal, active)

    @act
    def new_property(self, name: str) -> None:
        """A custom property of contacts."""
        self.state.properties.add(name)

    @act
    def new_contact(
        self,
        email: str,
        properties: Mapping[str, str] | None = None,
        statuses: Mapping[str, str] | None = None,
    ) -> int:
        """A contact as found at the start: nobody is told. Returns its id."""
        contact = self._new(email.lower(), properties or {})
        for type_id, state in (statuses or {}).items():
            self._found(contact.email, contact, type_id, state, "admin")
        return contact.id

    @act
    def set_status(self, email: str, type_id: str, state: str, by: str = "admin") -> None:
        """A status as found at the start, also of an address without a contact."""
        self._found(email.lower(), self._by_email(email.lower()), type_id, state, by)

    def _found(
        self, address: str, contact: Contact | None, type_id: str, state: str, by: str
    ) -> None:
        if state not in STATES and not state.isupper():
            raise ActError(f"none of {STATES}")
        held = self.state.statuses.setdefault(address, {})
        held[type_id] = Status(state, SOURCES[by], self.clock(), by)
        if contact:
            name = f"hs_email_optout_{type_id}"
            contact.properties[name] = "true" if state == "UNSUBSCRIBED" else "false"

    @act
    def person_unsubscribes(self, email: str, type_id: str = "all", travel: Travel = PLAIN) -> None:
        """The person clicks unsubscribe in a mail: from one type, or from everything."""
        if type_id == "all":
            self._leave_all(email.lower(), "person", travel)
        else:
            self._write(email.lower(), type_id, "UNSUBSCRIBED", "person", travel)

    @act
    def person_subscribes(
        self,
        email: str,
        type_id: str,
        basis: str = "",
        wording: str = "",
        travel: Travel = PLAIN,
    ) -> None:
        """On a page or form; a form with a notice keeps the legal basis and its words."""
        self._write(email.lower(), type_id, "SUBSCRIBED", "person", travel)
        held = self.state.statuses[email.lower()][type_id]
        held.basis, held.wording = basis or None, wording or None

    @act
    def admin_sets(self, email: str, type_id: str, state: str, travel: Travel = PLAIN) -> None:
        """Staff set a status in HubSpot's own pages."""
        self._write(email.lower(), type_id, state, "admin", travel)

    @act
    def other_program_sets(
        self, email: str, type_id: str, state: str, travel: Travel = PLAIN
    ) -> None:
        """Another tool with a key of its own sets a status through the API."""
        self._write(email.lower(), type_id, state, "api", travel)

    @act
    def property_change(self, email: str, name: str, value: str, travel: Travel = PLAIN) -> None:
        """A property changes, or HubSpot says again that it did."""
        self._property(self._known(email), name, value, "admin", travel)

    @act
    def email_change(self, old: str, new: str, travel: Travel = PLAIN) -> None:
        contact = self._known(old)
        contact.email = new.lower()
        told = {"propertyName": "email", "propertyValue": new.lower()}
        self._tell("propertyChange", contact.id, told, travel)

    @act
    def privacy_deletion(self, email: str, travel: Travel = PLAIN) -> None:
        contact = self._known(email)
        del self.state.contacts[contact.id]
        self._tell("privacyDeletion", contact.id, {}, travel)

    @act
    def merge(self, kept: str, gone: str, travel: Travel = PLAIN) -> None:
        winner, loser = self._known(kept), self._known(gone)
        del self.state.contacts[loser.id]
        ids = {
            "primaryObjectId": winner.id,
            "mergedObjectIds": [loser.id],
            "newObjectId": winner.id,
        }
        self._tell("merge", winner.id, ids, travel)

    def _known(self, email: str) -> Contact:
        found = self._by_email(email.lower())
        if found is None:
            raise ActError("no such contact")
        return found

    # --- the page ------------------------------------------------------------------------------

    def people(self) -> Sequence[Row]:
        return [self._row(email) for email in self.state.statuses]

    def _row(self, email: str) -> Row:
        marks: dict[bool, list[Mark]] = {True: [], False: []}
        buttons = []
        for kind in self.state.types.values():
            marketing, state = kind.purpose == "marketing", self._state(email, kind.id)
            said = state.replace("_", " ").lower()
            marks[marketing].append(Mark(f"{kind.name}: {said}", STATE_ON[state]))
            about = {"email": email, "type_id": kind.id}
            if marketing and state == "SUBSCRIBED":
                label = f"Unsubscribe from {kind.name} in a mail"
                buttons.append(Button(label, "person_unsubscribes", about))
            elif marketing:
                again = {**about, "state": "SUBSCRIBED"}
                buttons.append(Button(f"Staff: subscribe to {kind.name}", "admin_sets", again))
        if email in self.state.out_of_all:
            marks[True].append(Mark("out of everything", on=False))
        return Row(email, marks[True], marks[False], self._custom(email), buttons)

    def _custom(self, email: str) -> str:
        contact = self._by_email(email)
        held = contact.properties if contact else {}
        names = sorted(self.state.properties & held.keys())
        return ", ".join(f"{name}: {held[name]}" for name in names)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _wanted(query: Any) -> list[str]:
    return [name for text in query.getlist("properties") for name in text.split(",")]


async def _json(request: Request, twin: HubspotTwin) -> dict[str, Any]:
    try:
        found = json.loads(await request.body())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Refusal(twin.problem(400, "Invalid input JSON"))
    return found


def _inputs(body: Mapping[str, Any], twin: HubspotTwin) -> list[Any]:
    inputs = body.get("inputs")
    if set(body) != {"inputs"} or not isinstance(inputs, list) or len(inputs) > BATCH:
        raise Refusal(twin.problem(400, f"inputs is a list of at most {BATCH}"))
    return inputs


def _item_error(key: str) -> dict[str, Any]:
    return {
        "status": "error",
        "category": "VALIDATION_ERROR",
        "message": "this item was refused",
        "context": {"ids": [key], "subscriberIdString": [key]},
        "errors": [],
        "links": {},
    }


def _matches(contact: Contact, body: Mapping[str, Any]) -> bool:
    return all(
        _since(contact, one)
        for group in body.get("filterGroups", [])
        for one in group.get("filters", [])
    )


def _since(contact: Contact, one: Mapping[str, Any]) -> bool:
    if one.get("propertyName") != "lastmodifieddate" or one.get("operator") not in ("GTE", "GT"):
        raise ValueError("the twin knows filters on lastmodifieddate only")
    value = str(one["value"])
    if value.isdigit():
        return contact.changed.timestamp() * 1000 >= int(value)
    return contact.changed >= datetime.fromisoformat(value)
