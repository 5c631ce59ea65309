"""A twin of one Facebook Page on the Graph API: https://developers.facebook.com/docs/graph-api/

Marketing tokens in a paged list, page labels, the app's subscription; signed webhooks of what
people type, press and stop::

    with running(MessengerTwin()) as (twin, url):
        twin.new_person("1001", token=True)
        twin.types("1001", "STOP")
        twin.stops("1001")                        # the token vanishes, an event says so
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

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
    Mark,
    Refusal,
    Row,
    Sent,
    Travel,
    Twin,
    act,
    not_2xx,
)

BASE = "/v25.0"
NEEDED = ("messages", "messaging_postbacks", "messaging_optins")
CODES = {401: (190, "Invalid OAuth access token"), 429: (613, "Calls have exceeded the limit")}
YEAR = 365 * 86400
PATIENCE = timedelta(hours=1)
"""So long Meta delivers in vain before it ends a subscription."""


@dataclass
class Person:
    psid: str
    name: str
    tokens: dict[str, int] = field(default_factory=dict)
    """token -> when it ends, in milliseconds."""
    blocked: bool = False


@dataclass
class Account:
    people: dict[str, Person] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    labelled: set[tuple[str, str]] = field(default_factory=set)
    """(label id, psid)."""
    subscribed: list[str] = field(default_factory=list)
    other_apps: list[list[str]] = field(default_factory=list)
    """What other apps of the Page hear."""
    failing_since: datetime | None = None
    next_id: int = 5001


class MessengerTwin(Twin[Account]):
    """See the module. Settings beside those of the kit:

    page, token, app_secret, verify_token
    page_size        tokens in one page of the list, whatever was asked for
    terms_accepted   the Page took the terms for labels (default yes)
    underscores      a stop says STOP_NOTIFICATIONS
    standby          events come in `standby`
    seconds          the list of tokens shows times in seconds (default milliseconds)
    """

    name = "messenger"
    title = "Facebook Messenger"

    def __init__(self) -> None:
        super().__init__()
        self.courier = Courier((0.2, 0.5, 1.0), not_2xx, timeout=5.0)
        self._defaults()

    def _defaults(self) -> None:
        self.page = "900100"
        self.token = "twin-page-token"
        self.app_secret = "twin-app-secret"
        self.verify_token = "twin-verify-token"
        self.page_size = 1000
        self.terms_accepted = True
        self.underscores = self.standby = self.seconds = False

    def fresh(self) -> Account:
        return Account(subscribed=[*NEEDED, "messaging_policy_enforcement", "inbox_labels"])

    def reset(self) -> None:
        super().reset()
        self._defaults()

    def configure(self, **settings: Any) -> None:
        own = {
            "page": str,
            "token": str,
            "app_secret": str,
            "verify_token": str,
            "page_size": int,
            "terms_accepted": bool,
            "underscores": bool,
            "standby": bool,
            "seconds": bool,
        }
        for name in own.keys() & settings.keys():
            setattr(self, name, own[name](settings.pop(name)))
        super().configure(**settings)

    def routes(self) -> Sequence[BaseRoute]:
        page = BASE + "/{page}"
        return [
            Route(page + "/notification_message_tokens", self.get_tokens, methods=["GET"]),
            Route(page + "/subscribed_apps", self.get_subscribed, methods=["GET"]),
            Route(page + "/subscribed_apps", self.subscribe, methods=["POST"]),
            Route(page + "/custom_labels", self.get_labels, methods=["GET"]),
            Route(page + "/custom_labels", self.new_label, methods=["POST"]),
            Route(BASE + "/{label}/label", self.label, methods=["POST", "DELETE"]),
        ]

    def problem(self, status: int, reason: str = "") -> Response:
        code, message = CODES.get(status, (2 if status >= 500 else 100, f"HTTP {status}"))
        return self._error(status, code, reason or message)

    def _error(self, status: int, code: int, message: str, subcode: int | None = None) -> Response:
        error = {"message": message, "type": "OAuthException", "code": code, "fbtrace_id": "A"}
        return JSONResponse(
            {"error": error | ({"error_subcode": subcode} if subcode else {})}, status
        )

    def gate(self, request: Request) -> Response | None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or given != self.token:
            return self._error(401, 190, "Invalid OAuth access token")
        proof = hmac.digest(self.app_secret.encode(), self.token.encode(), "sha256").hex()
        shown = request.query_params.get("appsecret_proof")
        if shown is None:
            return self._error(400, 100, "API calls from the server require an appsecret_proof")
        if shown != proof:
            return self._error(400, 100, "Invalid appsecret_proof provided in the API argument")
        return None

    def _own_page(self, request: Request) -> None:
        if request.path_params["page"] != self.page:
            raise Refusal(self._error(404, 100, "Unsupported get request"))

    # --- tokens and subscription ------------------------------------------------------------------

    async def get_tokens(self, request: Request) -> Response:
        self._own_page(request)
        unit = 1000 if self.seconds else 1
        listed = [
            {
                "notification_messages_token": token,
                "recipient_id": person.psid,
                "user_token_status": "REFRESHED",
                "notification_messages_reoptin": "ENABLED",
                "creation_timestamp": (ends - YEAR * 1000) // unit,
                "token_expiry_timestamp": ends // unit,
                "topic_title": "News",
            }
            for person in self.state.people.values()
            for token, ends in person.tokens.items()
        ]
        return self._listing(request, listed)

    def _listing(self, request: Request, items: Sequence[Mapping[str, Any]]) -> Response:
        """25 at most unless more were asked for. The last page that holds something has a cursor
        too: https://developers.facebook.com/docs/graph-api/results"""
        query = request.query_params
        start = int(query.get("after", "0"))
        size = min(int(query.get("limit", "25")), self.page_size)
        shown = items[start : start + size]
        body: dict[str, Any] = {"data": shown}
        if shown:
            body["paging"] = {"cursors": {"before": str(start), "after": str(start + len(shown))}}
        return JSONResponse(body)

    async def get_subscribed(self, request: Request) -> Response:
        self._own_page(request)
        fields = self.state.subscribed
        held = [*self.state.other_apps, *([fields] if fields else [])]
        apps = [{"id": str(70 + n), "subscribed_fields": one} for n, one in enumerate(held)]
        return JSONResponse({"data": apps})

    async def subscribe(self, request: Request) -> Response:
        self._own_page(request)
        fields = request.query_params.get("subscribed_fields", "")
        if not fields:
            raise Refusal(self._error(400, 100, "(#100) param subscribed_fields must be non-empty"))
        self.state.subscribed, self.state.failing_since = fields.split(","), None
        return JSONResponse({"success": True})

    # --- labels -------------------------------------------------------------------------------

    async def get_labels(self, request: Request) -> Response:
        self._own_page(request)
        shown = [{"id": id_, "page_label_name": name} for id_, name in self.state.labels.items()]
        return self._listing(request, shown)

    async def new_label(self, request: Request) -> Response:
        self._own_page(request)
        name = request.query_params.get("page_label_name")
        if not name:
            raise Refusal(self._error(400, 100, "(#100) The parameter page_label_name is required"))
        self._needs_terms()
        id_ = str(self.state.next_id)
        self.state.next_id += 1
        self.state.labels[id_] = name
        return JSONResponse({"id": id_})

    async def label(self, request: Request) -> Response:
        self._needs_terms()
        pair = (request.path_params["label"], request.query_params.get("user", ""))
        if pair[0] not in self.state.labels or pair[1] not in self.state.people:
            raise Refusal(self._error(400, 100, "(#100) No matching user or label"))
        if self.state.people[pair[1]].blocked:
            raise Refusal(self._error(400, 551, "(#551) This person isn't available right now"))
        if request.method == "POST":
            self.state.labelled.add(pair)
        else:
            self.state.labelled.discard(pair)
        return JSONResponse({"success": True})

    def _needs_terms(self) -> None:
        if not self.terms_accepted:
            raise Refusal(self._error(400, 2, "Page has not accepted the terms", 2018344))

    # --- reading for tests ------------------------------------------------------------------------

    def has_label(self, psid: str) -> bool:
        with self.lock:
            return any(one == psid for _, one in self.state.labelled)

    # --- acts ---------------------------------------------------------------------------------

    def _known(self, psid: str) -> Person:
        if psid not in self.state.people:
            raise ActError("no such person")
        return self.state.people[psid]

    def _now(self) -> int:
        return int(self.clock().timestamp() * 1000)

    @act
    def new_person(self, psid: str, name: str = "", token: bool = False) -> None:
        """Somebody who wrote to the Page; with `token` they agreed to marketing messages."""
        person = self.state.people[psid] = Person(psid, name or psid)
        if token:
            person.tokens[secrets.token_hex(8)] = self._now() + YEAR * 1000

    @act
    def types(self, psid: str, text: str, travel: Travel = PLAIN) -> None:
        message = {"mid": "m_" + secrets.token_hex(8), "text": text}
        self._known(psid)
        self._tell(psid, {"message": message}, travel)

    @act
    def presses(self, psid: str, payload: str, title: str = "Stop", travel: Travel = PLAIN) -> None:
        postback = {"mid": "m_" + secrets.token_hex(8), "payload": payload, "title": title}
        self._known(psid)
        self._tell(psid, {"postback": postback}, travel)

    @act
    def opts_in(self, psid: str, travel: Travel = PLAIN) -> None:
        """The person agrees to marketing messages: a token, and its event."""
        token, ends = secrets.token_hex(8), self._now() + YEAR * 1000
        self._known(psid).tokens[token] = ends
        self._tell(psid, {"optin": self._optin(token, ends)}, travel)

    @act
    def stops(self, psid: str, travel: Travel = PLAIN) -> None:
        """The person stops marketing messages: the tokens vanish; the event may be lost."""
        person = self._known(psid)
        word = "STOP_NOTIFICATIONS" if self.underscores else "STOP NOTIFICATIONS"
        for token, ends in person.tokens.items():
            status = {"notification_messages_status": word}
            self._tell(psid, {"optin": self._optin(token, ends) | status}, travel)
        person.tokens.clear()

    @act
    def blocks_page(self, psid: str) -> None:
        """The person blocks the Page: nothing reaches them any more, and no event says so."""
        self._known(psid).blocked = True

    @act
    def tokens_expire(self, psid: str) -> None:
        """The tokens come to their end and are listed no more."""
        person = self._known(psid)
        person.tokens.clear()

    @act
    def loses_subscription(self) -> None:
        """Meta ended the webhooks after an hour of failures."""
        self.state.subscribed = []

    @act
    def enforces_policy(self, action: str, reason: str = "spam", travel: Travel = PLAIN) -> None:
        """Meta warns the Page, blocks its messages or lets them through again; nobody sent it."""
        told = {"policy_enforcement": {"action": action, "reason": reason}}
        self._tell("", told, travel)

    @act
    def verifies_callback(self, token: str = "") -> bool:
        """As the app's settings do it when the callback is saved; whether it was taken."""
        challenge = str(secrets.randbelow(10**9))
        asked = {"mode": "subscribe", "verify_token": token or self.verify_token}
        params = {
            f"hub.{name}": value for name, value in (asked | {"challenge": challenge}).items()
        }
        answer = httpx.get(self.webhook_url, params=params, trust_env=False, timeout=5)
        return answer.status_code == 200 and answer.text == challenge

    @act
    def another_app(self, *fields: str) -> None:
        """A chat program of somebody else hears these fields of the Page."""
        self.state.other_apps.append(list(fields))

    @act
    def staff_makes_label(self, name: str) -> None:
        self.state.labels[str(self.state.next_id)] = name
        self.state.next_id += 1

    @act
    def staff_deletes_label(self, name: str) -> None:
        gone = {id_ for id_, held in self.state.labels.items() if held == name}
        self.state.labels = {i: n for i, n in self.state.labels.items() if i not in gone}
        self.state.labelled = {pair for pair in self.state.labelled if pair[0] not in gone}

    @act
    def staff_removes_label(self, psid: str, travel: Travel = PLAIN) -> None:
        self.state.labelled = {pair for pair in self.state.labelled if pair[1] != psid}
        self._tell(psid, {"inbox_labels": {"action": "remove"}}, travel)

    def _optin(self, token: str, ends: int) -> dict[str, Any]:
        return {
            "type": "notification_messages",
            "payload": "news",
            "notification_messages_token": token,
            "notification_messages_timezone": "Europe/London",
            "token_expiry_timestamp": ends,
            "user_token_status": "REFRESHED",
            "title": "News and offers",
        }

    def _tell(self, psid: str, what: Mapping[str, Any], travel: Travel) -> None:
        if not self.webhook_url or not self.state.subscribed:
            return
        now = self._now()
        event = {"recipient": {"id": self.page}, "timestamp": now, **what}
        event |= {"sender": {"id": psid}} if psid else {}
        where = "standby" if self.standby else "messaging"
        entry = {"id": self.page, "time": now, where: [event]}
        # Meta escapes what is not ASCII, in lower case: as json.dumps does.
        content = json.dumps({"object": "page", "entry": [entry]}).encode()
        self.post(lambda attempt: self._letter(content), travel, self._answered)

    def _answered(self, sent: Sent) -> None:
        """An hour of failures ends the subscription."""
        with self.lock:
            now, since = self.clock(), self.state.failing_since
            self.state.failing_since = (since or now) if not_2xx(sent.status) else None
            if now - (self.state.failing_since or now) >= PATIENCE:
                self.state.subscribed = []

    def _letter(self, content: bytes) -> Letter:
        signed = hmac.new(self.app_secret.encode(), content, hashlib.sha256).hexdigest()
        headers = {"Content-Type": "application/json", "X-Hub-Signature-256": f"sha256={signed}"}
        return Letter(self.webhook_url, content, headers)

    # --- the page -----------------------------------------------------------------------------

    def show(self) -> Any:
        return {
            "people": {p.psid: sorted(p.tokens) for p in self.state.people.values()},
            "labelled": sorted(psid for _, psid in self.state.labelled),
            "blocked": sorted(p.psid for p in self.state.people.values() if p.blocked),
            "subscribed": self.state.subscribed,
        }

    def people(self) -> Sequence[Row]:
        return [self._row(person) for person in self.state.people.values()]

    def _row(self, person: Person) -> Row:
        marks = [Mark("marketing token", on=True) if person.tokens else Mark("no token")]
        marks += [
            Mark(f"label: {self.state.labels[label]}", on=False)
            for label, psid in sorted(self.state.labelled)
            if psid == person.psid
        ]
        who = {"psid": person.psid}
        buttons = [
            Button("Type STOP", "types", {**who, "text": "STOP"}),
            Button("Stop marketing messages", "stops", who)
            if person.tokens
            else Button("Agree to marketing messages", "opts_in", who),
        ]
        utility = [
            Mark(f"utility messages: {'blocked' if person.blocked else 'on'}", not person.blocked)
        ]
        return Row(person.name, marks, utility, f"PSID {person.psid}", buttons)
