"""A twin of Twilio's messaging: https://www.twilio.com/docs/messaging

No contact, no readable preference: a block list for each pair of person and sender (a number, or a
Messaging Service for all its numbers), written by inbound keywords and by the Consent Management
API where the account has it. A send to a blocked pair is refused with 21610::

    with running(TwilioTwin()) as (twin, url):
        twin.new_service(sid="MG1", numbers=["+447700900001"], purpose="marketing")
        twin.webhook_url = "http://127.0.0.1:8080/webhooks/twilio/rt/twilio"
        twin.text(sender="+447700900101", to="+447700900001", body="STOP")
        assert twin.blocked("+447700900101", "MG1")

Basic auth: `twin.account_sid` with `twin.auth_token`, or `twin.api_key` with `twin.api_secret`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

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
)

STOPS = {"STOP", "UNSUBSCRIBE", "END", "QUIT", "STOPALL", "REVOKE", "OPTOUT", "CANCEL"}
STARTS = {"START", "UNSTOP", "YES"}
HELPS = {"HELP", "INFO"}
"""https://help.twilio.com/articles/223134027"""

ITEMS = 25
CONSENT_CALLS = Window(100, 60.0)
E164 = re.compile(r"\+[1-9][0-9]{6,14}")
SENDER = re.compile(r"MG[0-9a-fA-F]{1,32}|\+[1-9][0-9]{6,14}|[0-9]{3,8}")
CONSENT_FIELDS = {
    "contact_id",
    "correlation_id",
    "sender_id",
    "status",
    "source",
    "date_of_consent",
}
CONSENT_SOURCES = {"website", "offline", "opt-in-message", "opt-out-message", "others"}
PAGE_SIZE = 50
LARGEST_PAGE = 1000


@dataclass
class Service:
    sid: str
    name: str
    numbers: list[str]
    purpose: str
    toll_free: bool = False


@dataclass
class Message:
    sid: str
    direction: str
    sender: str
    to: str
    body: str
    status: str
    sent: datetime
    service: str | None = None
    error_code: int | None = None


@dataclass
class Consent:
    at: datetime
    contact: str
    sender: str
    status: str
    source: str


@dataclass
class Account:
    services: dict[str, Service] = field(default_factory=dict)
    numbers: dict[str, str] = field(default_factory=dict)
    """Number -> purpose, for numbers outside any service."""
    toll_free: set[str] = field(default_factory=set)
    people: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    """Of some of them, for the page."""
    block: set[tuple[str, str]] = field(default_factory=set)
    by_consent: list[Consent] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    correlations: set[str] = field(default_factory=set)


def _error(status: int, code: int, message: str) -> Response:
    body = {
        "code": code,
        "message": message,
        "more_info": f"https://www.twilio.com/docs/errors/{code}",
        "status": status,
    }
    return JSONResponse(body, status)


class TwilioTwin(Twin[Account]):
    """See the module. Settings beside those of the kit:

    account_sid, auth_token, api_key, api_secret   who may come in
    consents            the account has the Consent Management API (default yes)
    consents_refusal    status where it has not: 403 or 404
    advanced_opt_out    inbound keywords carry OptOutType
    signing             "token" (HMAC-SHA1) or "shared_key" (HMAC-SHA256)
    shared_key_id, shared_key_secret
    as_json             inbound messages as JSON with bodySHA256
    sign_as             sign this URL instead of `webhook_url` (a proxy's public one)
    """

    name = "twilio"

    def __init__(self) -> None:
        super().__init__()
        self.courier = Courier((0.05,), lambda status: status is None, timeout=15.0)
        self._defaults()

    def _defaults(self) -> None:
        self.account_sid = "AC" + "0" * 32
        self.auth_token = "twin-twilio-token"
        self.api_key = "SK" + "0" * 32
        self.api_secret = "twin-twilio-secret"
        self.consents = True
        self.consents_refusal = 403
        self.advanced_opt_out = False
        self.signing = "token"
        self.shared_key_id = "key1"
        self.shared_key_secret = "twin-shared-secret"
        self.as_json = False
        self.sign_as = ""
        self.consent_limits = Limits(windows=[CONSENT_CALLS])

    def fresh(self) -> Account:
        return Account()

    def reset(self) -> None:
        super().reset()
        self._defaults()

    def configure(self, **settings: Any) -> None:
        """Its own settings by name, else as the kit."""
        own = {
            "account_sid": str,
            "auth_token": str,
            "api_key": str,
            "api_secret": str,
            "consents": bool,
            "consents_refusal": int,
            "advanced_opt_out": bool,
            "signing": str,
            "shared_key_id": str,
            "shared_key_secret": str,
            "as_json": bool,
            "sign_as": str,
        }
        for name in own.keys() & settings.keys():
            setattr(self, name, own[name](settings.pop(name)))
        super().configure(**settings)

    def routes(self) -> Sequence[BaseRoute]:
        account = "/2010-04-01/Accounts/{account}"
        return [
            Route("/v1/Consents/Bulk", self.post_consents, methods=["POST"]),
            Route(account + "/Messages.json", self.get_messages, methods=["GET"]),
            Route(account + "/Messages.json", self.post_message, methods=["POST"]),
            Route(account + "/Messages/{sid}.json", self.get_message, methods=["GET"]),
            Route(account + "/Messages/{sid}.json", self.redact_message, methods=["POST"]),
            Route(account + "/Messages/{sid}.json", self.delete_message, methods=["DELETE"]),
            Route(account + "/IncomingPhoneNumbers.json", self.get_numbers, methods=["GET"]),
            Route("/v1/Services", self.get_services, methods=["GET"]),
            Route("/v1/Services/{sid}", self.get_service, methods=["GET"]),
            Route("/v1/Services/{sid}/PhoneNumbers", self.get_service_numbers, methods=["GET"]),
        ]

    def problem(self, status: int, reason: str = "") -> Response:
        codes = {401: 20003, 403: 20003, 404: 20404, 429: 20429, 500: 20500, 503: 20503}
        return _error(status, codes.get(status, 20001), reason or f"HTTP {status}")

    def gate(self, request: Request) -> Response | None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        try:
            pair = base64.b64decode(given, validate=True).decode() if scheme == "Basic" else ""
        except ValueError:
            pair = ""
        known = {f"{self.account_sid}:{self.auth_token}", f"{self.api_key}:{self.api_secret}"}
        return None if pair in known else self.problem(401, "Authenticate")

    # --- consents ----------------------------------------------------------------------------

    async def post_consents(self, request: Request) -> Response:
        if not self.consents:
            return self.problem(self.consents_refusal, "Consent Management is not enabled")
        if not self.consent_limits.enter():
            return self.problem(429, "Too many requests")
        self.consent_limits.leave()
        form = parse_qsl((await request.body()).decode(), keep_blank_values=True)
        if {name for name, _ in form} - {"Items"} or not form:
            return self.problem(400, "Items is required, and nothing else is known")
        if len(form) > ITEMS:
            return self.problem(400, f"at most {ITEMS} items")
        answers = [self._consent(request, text) for _, text in form]
        return JSONResponse({"items": [one for one in answers if one]}, 201)

    def _consent(self, request: Request, text: str) -> dict[str, Any] | None:
        try:
            item = json.loads(text)
        except ValueError:
            raise Refusal(self.problem(400, "an item is not JSON")) from None
        if not isinstance(item, dict) or set(item) - CONSENT_FIELDS:
            raise Refusal(self.problem(400, "an item has unknown fields"))
        correlation = str(item.get("correlation_id", ""))
        wrong = self._wrong(item)
        fault = self.item_fault(request, str(item.get("contact_id", "")))
        if fault and fault.kind == "bad_item":
            wrong = fault.body or "INVALID_CONTACT_ID"
        if not wrong and (fault is None or fault.work):
            self._keep_consent(item)
        if fault and fault.kind == "omit_item":
            return None
        return {
            "correlation_id": correlation,
            "error_code": 30646 if wrong else 0,
            "error_messages": [wrong] if wrong else [],
        }

    def _wrong(self, item: Mapping[str, Any]) -> str:
        correlation = str(item.get("correlation_id", ""))
        if not E164.fullmatch(str(item.get("contact_id", ""))):
            return "INVALID_CONTACT_ID"
        if len(correlation) != 32 or correlation in self.state.correlations:
            return "INVALID_CORRELATION_ID"
        if not self._knows(str(item.get("sender_id", ""))):
            return "INVALID_SENDER_ID"
        if item.get("status") not in ("opt-in", "opt-out"):
            return "INVALID_CONSENT_STATUS"
        if item.get("source") not in CONSENT_SOURCES:
            return "INVALID_CONSENT_SOURCE"
        return ""

    def _knows(self, sender: str) -> bool:
        if not SENDER.fullmatch(sender):
            return False
        of_services = {n for service in self.state.services.values() for n in service.numbers}
        return sender in self.state.services or sender in self.state.numbers | dict.fromkeys(
            of_services, ""
        )

    def _keep_consent(self, item: Mapping[str, Any]) -> None:
        contact, sender = str(item["contact_id"]), str(item["sender_id"])
        self.state.correlations.add(str(item["correlation_id"]))
        self.state.by_consent.append(
            Consent(self.clock(), contact, sender, str(item["status"]), str(item["source"]))
        )
        self._know(contact)
        if item["status"] == "opt-out":
            self.state.block.add((contact, sender))
        elif sender not in self.state.toll_free:
            self.state.block.discard((contact, sender))

    def _know(self, number: str) -> None:
        if number not in self.state.people:
            self.state.people.append(number)

    # --- messages ----------------------------------------------------------------------------

    async def post_message(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        to, body = form.get("To", ""), form.get("Body", "")
        sender = form.get("MessagingServiceSid") or form.get("From", "")
        if not E164.fullmatch(to):
            return _error(400, 21211, "Invalid 'To' phone number")
        if not body:
            return _error(400, 21602, "Message body is required")
        if not self._knows(sender):
            return _error(400, 21603, "A 'From' or 'MessagingServiceSid' is required")
        if (to, self._sender_of(sender)) in self.state.block:
            return _error(400, 21610, "Attempt to send to unsubscribed recipient")
        message = self._message("outbound-api", sender, to, body, "sent")
        return JSONResponse(self._shown(message), 201)

    def _sender_of(self, number: str) -> str:
        """The service that a number belongs to (its block list covers all of them), or itself."""
        for service in self.state.services.values():
            if number in service.numbers:
                return service.sid
        return number

    def _message(self, direction: str, sender: str, to: str, body: str, status: str) -> Message:
        ours = to if direction == "inbound" else sender
        service = self._sender_of(ours)
        message = Message(
            "SM" + uuid.uuid4().hex,
            direction,
            sender,
            to,
            body,
            status,
            self.clock().replace(microsecond=0),
            service if service.startswith("MG") else None,
        )
        self.state.messages.append(message)
        return message

    async def get_messages(self, request: Request) -> Response:
        query = dict(request.query_params)
        known = {
            "To",
            "From",
            "DateSent",
            "DateSent<",
            "DateSent>",
            "PageSize",
            "Page",
            "PageToken",
        }
        if query.keys() - known:
            return self.problem(400, "unknown parameter")
        size = min(int(query.get("PageSize", PAGE_SIZE)), LARGEST_PAGE)
        page = int(query.get("Page", 0))
        found = sorted(
            (m for m in self.state.messages if _matches(m, query)),
            key=lambda m: m.sent,
            reverse=True,
        )
        shown = found[page * size : (page + 1) * size]
        path = f"/2010-04-01/Accounts/{self.account_sid}/Messages.json"
        more = (page + 1) * size < len(found)
        next_query = urlencode({**query, "PageSize": size, "Page": page + 1, "PageToken": "PA1"})
        body = {
            "messages": [self._shown(m) for m in shown],
            "page": page,
            "page_size": size,
            "start": page * size,
            "end": page * size + len(shown) - 1,
            "uri": f"{path}?{urlencode(query)}",
            "first_page_uri": f"{path}?PageSize={size}&Page=0",
            "previous_page_uri": None,
            "next_page_uri": f"{path}?{next_query}" if more else None,
        }
        return JSONResponse(body)

    def _find(self, request: Request) -> Message:
        sid = request.path_params["sid"]
        found = next((m for m in self.state.messages if m.sid == sid), None)
        if found is None:
            raise Refusal(self.problem(404, "The requested resource was not found"))
        return found

    async def get_message(self, request: Request) -> Response:
        return JSONResponse(self._shown(self._find(request)))

    async def redact_message(self, request: Request) -> Response:
        message = self._find(request)
        form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        if form != {"Body": ""}:
            return self.problem(400, "only an empty Body is taken")
        message.body = ""
        return JSONResponse(self._shown(message))

    async def delete_message(self, request: Request) -> Response:
        self.state.messages.remove(self._find(request))
        return Response(status_code=204)

    def _shown(self, message: Message) -> dict[str, Any]:
        sent = format_datetime(message.sent)
        return {
            "sid": message.sid,
            "account_sid": self.account_sid,
            "api_version": "2010-04-01",
            "messaging_service_sid": message.service,
            "body": message.body,
            "from": message.sender,
            "to": message.to,
            "direction": message.direction,
            "status": message.status,
            "date_created": sent,
            "date_sent": sent,
            "date_updated": sent,
            "num_media": "0",
            "num_segments": "1",
            "error_code": message.error_code,
            "error_message": None,
            "price": None,
            "price_unit": "GBP",
            "subresource_uris": {},
            "uri": f"/2010-04-01/Accounts/{self.account_sid}/Messages/{message.sid}.json",
        }

    # --- services and numbers ----------------------------------------------------------------

    async def get_services(self, request: Request) -> Response:
        shown = [self._service(one) for one in self.state.services.values()]
        return JSONResponse({"services": shown, "meta": self._meta("services")})

    async def get_service(self, request: Request) -> Response:
        found = self.state.services.get(request.path_params["sid"])
        if found is None:
            return self.problem(404, "The requested resource was not found")
        return JSONResponse(self._service(found))

    async def get_service_numbers(self, request: Request) -> Response:
        found = self.state.services.get(request.path_params["sid"])
        if found is None:
            return self.problem(404, "The requested resource was not found")
        shown = [
            {"sid": _number_sid(n), "service_sid": found.sid, "phone_number": n}
            for n in found.numbers
        ]
        return JSONResponse({"phone_numbers": shown, "meta": self._meta("phone_numbers")})

    async def get_numbers(self, request: Request) -> Response:
        numbers = [n for s in self.state.services.values() for n in s.numbers]
        numbers += [n for n in self.state.numbers if n not in numbers]
        shown = [
            {"sid": _number_sid(n), "account_sid": self.account_sid, "phone_number": n}
            for n in numbers
        ]
        body = {"incoming_phone_numbers": shown, "page": 0, "next_page_uri": None}
        return JSONResponse(body)

    def _service(self, one: Service) -> dict[str, Any]:
        return {
            "sid": one.sid,
            "account_sid": self.account_sid,
            "friendly_name": one.name,
            "inbound_request_url": self.webhook_url or None,
            "usecase": one.purpose,
        }

    def _meta(self, name: str) -> dict[str, Any]:
        return {
            "page": 0,
            "page_size": 50,
            "first_page_url": f"{self.url}/v1/Services",
            "previous_page_url": None,
            "url": f"{self.url}/v1/Services",
            "next_page_url": None,
            "key": name,
        }

    # --- reading for tests -------------------------------------------------------------------

    def blocked(self, number: str, sender: str) -> bool:
        """Whether this sender (a service, or a number outside any) may not text this number."""
        with self.lock:
            return (number, self._sender_of(sender)) in self.state.block

    def consents_of(self, sender: str) -> list[Consent]:
        """What the API wrote for a sender; must be empty for reminder senders."""
        with self.lock:
            return [one for one in self.state.by_consent if one.sender == sender]

    def show(self) -> Any:
        return {
            "services": {s.sid: s.purpose for s in self.state.services.values()},
            "blocked": sorted([number, sender] for number, sender in self.state.block),
            "consents": [[c.contact, c.sender, c.status] for c in self.state.by_consent],
            "messages": [self._shown(m) for m in self.state.messages],
        }

    # --- acts --------------------------------------------------------------------------------

    @act
    def new_service(
        self,
        sid: str,
        numbers: Sequence[str] = (),
        purpose: str = "marketing",
        name: str = "",
        toll_free: bool = False,
    ) -> None:
        """A Messaging Service with its numbers; `purpose` is for the page and for tests."""
        self.state.services[sid] = Service(sid, name or purpose, list(numbers), purpose, toll_free)
        if toll_free:
            self.state.toll_free |= {sid, *numbers}

    @act
    def new_number(self, number: str, purpose: str = "marketing", toll_free: bool = False) -> None:
        """A number outside any service."""
        self.state.numbers[number] = purpose
        if toll_free:
            self.state.toll_free.add(number)

    @act
    def new_person(self, number: str, name: str = "") -> None:
        """Somebody who shows on the page before they did anything."""
        self._know(number)
        self.state.names[number] = name

    @act
    def text(self, sender: str, to: str, body: str, travel: Travel = PLAIN) -> str:
        """A person texts one of our numbers; keywords act on the block list at once. Returns the
        message's sid."""
        if not E164.fullmatch(sender):
            raise ActError("sender is a number such as +447700900101")
        if not self._knows(to):
            raise ActError("no such number of ours")
        message = self._message("inbound", sender, to, body, "received")
        self._know(sender)
        word = body.strip().upper()
        pair = (sender, self._sender_of(to))
        if word in STOPS:
            self.state.block.add(pair)
        elif word in STARTS:
            self.state.block.discard(pair)
        self._tell(message, word, travel)
        return message.sid

    @act
    def failed_send(self, number: str, sender: str) -> None:
        """A message of some other program that the block list stopped: it shows in the list."""
        message = self._message("outbound-api", sender, number, "Offer", "failed")
        message.error_code = 21610
        self._know(number)

    def _tell(self, message: Message, word: str, travel: Travel) -> None:
        if not self.webhook_url:
            return
        fields = {
            "ToCountry": "GB",
            "MessageSid": message.sid,
            "SmsSid": message.sid,
            "SmsMessageSid": message.sid,
            "AccountSid": self.account_sid,
            "From": message.sender,
            "To": message.to,
            "Body": message.body,
            "NumMedia": "0",
            "NumSegments": "1",
            "SmsStatus": "received",
            "FromCountry": "GB",
            "FromCity": "",
            "FromState": "",
            "FromZip": "",
            "ApiVersion": "2010-04-01",
        }
        if message.service:
            fields["MessagingServiceSid"] = message.service
        if self.advanced_opt_out and word in STOPS | STARTS | HELPS:
            fields["OptOutType"] = _opt_out_type(word)
        token = str(uuid.uuid4())
        self.post(lambda attempt: self._letter(fields, token), travel)

    def _letter(self, fields: Mapping[str, str], token: str) -> Letter:
        url, signed = self.webhook_url, self.sign_as or self.webhook_url
        headers = {"I-Twilio-Idempotency-Token": token, "User-Agent": "TwilioProxy/1.1"}
        if self.as_json:
            content = json.dumps(fields).encode()
            digest = hashlib.sha256(content).hexdigest()
            url, signed = _with_digest(url, digest), _with_digest(signed, digest)
            headers["Content-Type"] = "application/json"
            text = signed
        else:
            content = urlencode(fields).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded; charset=UTF-8"
            text = signed + "".join(name + fields[name] for name in sorted(fields))
        return Letter(url, content, headers | self._signature(text))

    def _signature(self, text: str) -> dict[str, str]:
        if self.signing == "shared_key":
            digest = hmac.new(self.shared_key_secret.encode(), text.encode(), hashlib.sha256)
            settings = f"key={self.shared_key_id},algorithm=HMAC_SHA256"
            return {
                "X-Twilio-Signature": base64.b64encode(digest.digest()).decode(),
                "X-Twilio-Webhooks-Signature-Settings": settings,
            }
        digest = hmac.new(self.auth_token.encode(), text.encode(), hashlib.sha1)
        return {"X-Twilio-Signature": base64.b64encode(digest.digest()).decode()}

    # --- the page ----------------------------------------------------------------------------

    def people(self) -> Sequence[Row]:
        return [self._row(number) for number in self.state.people]

    def _row(self, number: str) -> Row:
        marks: dict[str, list[Mark]] = {"marketing": [], "reminders": []}
        buttons = []
        for service in self.state.services.values():
            blocked = (number, service.sid) in self.state.block
            said = f"{service.name}: {'blocked' if blocked else 'open'}"
            marks.setdefault(service.purpose, []).append(Mark(said, not blocked))
            if service.numbers:
                word = "START" if blocked else "STOP"
                fields = {"sender": number, "to": service.numbers[0], "body": word}
                buttons.append(Button(f"Text {word} to {service.name}", "text", fields))
        name = self.state.names.get(number)
        who = f"{name}, {number}" if name else number
        return Row(who, marks["marketing"], marks["reminders"], buttons=buttons)

    def page_buttons(self) -> Sequence[Button]:
        return [Button("Text us", "text", {}, ["sender", "to", "body"])]


def _matches(message: Message, query: Mapping[str, str]) -> bool:
    if "To" in query and message.to != query["To"]:
        return False
    if "From" in query and message.sender != query["From"]:
        return False
    if "DateSent" in query and message.sent.date() != _date(query["DateSent"]).date():
        return False
    if "DateSent>" in query and message.sent < _date(query["DateSent>"]):
        return False
    return not ("DateSent<" in query and message.sent > _date(query["DateSent<"]))


def _date(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Refusal(_error(400, 20001, "unreadable date")) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _opt_out_type(word: str) -> str:
    if word in STOPS:
        return "STOP"
    return "START" if word in STARTS else "HELP"


def _number_sid(number: str) -> str:
    return "PN" + hashlib.md5(number.encode(), usedforsecurity=False).hexdigest()


def _with_digest(url: str, digest: str) -> str:
    parts = urlsplit(url)
    query = f"{parts.query}&bodySHA256={digest}" if parts.query else f"bodySHA256={digest}"
    return urlunsplit(parts._replace(query=query))
