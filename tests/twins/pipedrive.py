"""A twin of Pipedrive: https://developers.pipedrive.com/docs/api/v1/Persons

The marketing status belongs to the address, persons show that of their primary one. A step that is
not allowed is answered 200 and changes nothing::

    with running(PipedriveTwin()) as (twin, url):
        amy = twin.new_person(emails=["amy@example.com"], status="subscribed")
        twin.person_unsubscribes("amy@example.com")
        assert twin.status("amy@example.com") == "unsubscribed"
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

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
    not_2xx,
)

BURST, SEARCH_BURST = Window(20, 2.0), Window(10, 2.0)
DAILY = 30_000
COSTS = {"read": 1, "me": 2, "list": 10, "write": 5, "search": 20, "hooks": 10}
MOST = 500
V1, V2 = "/v1", "/api/v2"
ACTIONS = ("create", "change", "delete", "*")
NEEDED_OF_HOOK = {"subscription_url", "event_action", "event_object", "name"}
HOOK_FIELDS = NEEDED_OF_HOOK | {"user_id", "http_auth_user", "http_auth_password", "version"}
MOST_HOOKS = 40
OURSELVES = 1
"""Id of the token's user."""
BANNED_AFTER, BANNED_FOR = 10, timedelta(minutes=30)
STATUSES = ("no_consent", "unsubscribed", "subscribed", "archived")
STEPS = {
    "no_consent": {"subscribed", "unsubscribed", "archived"},
    "subscribed": {"unsubscribed", "archived"},
}
"""What the API may do, each step once for an address; the vendor's full table is not public."""
PATCHABLE = {
    *("name", "owner_id", "org_id", "add_time", "update_time", "emails", "phones"),
    *("visible_to", "label_ids", "marketing_status", "custom_fields"),
}
GIVES_UP = timedelta(days=3)
MARKETING = "Marketing - "
"""How the fields begin that stand for marketing, for the page."""
STATUS_ON = {"subscribed": True, "unsubscribed": False}
VALID = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


@dataclass
class Person:
    id: int
    name: str
    emails: list[str]
    phones: list[str]
    added: datetime
    updated: datetime
    custom: dict[str, int | None] = field(default_factory=dict)
    deleted: bool = False

    @property
    def primary(self) -> str:
        return next((one.lower() for one in self.emails if VALID.fullmatch(one)), "")


@dataclass
class Field:
    code: str
    name: str
    type: str
    options: dict[int, str]


@dataclass
class Write:
    """What the API changed: `key` is marketing_status or the name of a field."""

    at: datetime
    person: int
    key: str
    value: str


@dataclass
class Hook:
    """`id` 0 is the one that the setting `webhook_url` stands for."""

    id: int = 0
    url: str = ""
    action: str = "*"
    object: str = "person"
    user_id: int = 1
    login: tuple[str, str] = ("", "")
    version: str = "2.0"
    alive: bool = True
    failing_since: datetime | None = None
    failed_firsts: int = 0
    banned_until: datetime | None = None


@dataclass
class Account:
    persons: dict[int, Person] = field(default_factory=dict)
    statuses: dict[str, str] = field(default_factory=dict)
    confirmed: set[str] = field(default_factory=set)
    """Addresses with a confirmed double opt-in; when is not kept."""
    steps: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    fields: dict[str, Field] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)
    hook: Hook = field(default_factory=Hook)
    hooks: dict[int, Hook] = field(default_factory=dict)
    tokens_left: int = DAILY
    next_id: int = 101
    next_option: int = 31


class PipedriveTwin(Twin[Account]):
    """See the module. Settings beside those of the kit:

    token          of the API, header x-api-token
    campaigns      the Campaigns add-on is active (default); else the status is left out, ignored
    admin          our user may make fields, and sees every person (default)
    page_size      most items of a page, whatever is asked for
    tokens_left    of the company's daily budget
    webhook_user, webhook_password   HTTP credentials of the webhooks
    """

    name = "pipedrive"
    default_limits = staticmethod(lambda: Limits(windows=[BURST]))

    def __init__(self) -> None:
        super().__init__()
        self.courier = Courier((3.0, 30.0, 150.0), not_2xx, timeout=10.0)
        self._defaults()

    def _defaults(self) -> None:
        self.token = "twin-pipedrive-token"
        self.campaigns = self.admin = True
        self.page_size = MOST
        self.webhook_user, self.webhook_password = "twin-hook", "twin-hook-password"
        self.searches = Limits(windows=[SEARCH_BURST])

    def fresh(self) -> Account:
        return Account()

    def reset(self) -> None:
        super().reset()
        self._defaults()

    def configure(self, **settings: Any) -> None:
        """Its own settings by name, else as the kit."""
        own = {"token", "campaigns", "admin", "page_size", "webhook_user", "webhook_password"}
        for name in own & settings.keys():
            setattr(self, name, settings.pop(name))
        if "tokens_left" in settings:
            self.state.tokens_left = int(settings.pop("tokens_left"))
        super().configure(**settings)

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route(f"{V2}/persons/search", self.search, methods=["GET"]),
            Route(f"{V2}/persons", self.list_persons, methods=["GET"]),
            Route(f"{V2}/persons/{{id}}", self.get_person, methods=["GET"]),
            Route(f"{V2}/persons/{{id}}", self.patch_person, methods=["PATCH"]),
            Route(f"{V2}/personFields", self.list_fields, methods=["GET"]),
            Route(f"{V2}/personFields", self.new_person_field, methods=["POST"]),
            Route(f"{V1}/users/me", self.get_me, methods=["GET"]),
            Route(f"{V1}/webhooks", self.list_webhooks, methods=["GET"]),
            Route(f"{V1}/webhooks", self.new_webhook, methods=["POST"]),
        ]

    def problem(self, status: int, reason: str = "") -> Response:
        words = {401: "unauthorized access", 404: "not found", 429: "request over limit"}
        error = reason or words.get(status, f"HTTP {status}")
        return JSONResponse({"success": False, "error": error, "errorCode": status}, status)

    def too_many(self) -> Response:
        """A penalty of ten seconds, whatever is left of the window."""
        answer = self.problem(429)
        answer.headers["Retry-After"] = "10"
        return answer

    def reply_headers(self) -> Mapping[str, str]:
        return {
            "x-ratelimit-limit": str(BURST.calls),
            "x-ratelimit-remaining": str(self.limits.left(BURST)),
            "x-ratelimit-reset": "2",
            "x-daily-requests-left": str(self.state.tokens_left),
        }

    def gate(self, request: Request) -> Response | None:
        right = request.headers.get("x-api-token") == self.token
        return None if right else self.problem(401)

    def _pay(self, what: str) -> None:
        if self.state.tokens_left < COSTS[what]:
            self.state.tokens_left = 0
            raise Refusal(self.problem(429, "daily API token budget exceeded"))
        self.state.tokens_left -= COSTS[what]

    def _bad(self, reason: str) -> Refusal:
        return Refusal(self.problem(400, f"Validation failed: {reason}"))

    # --- persons -------------------------------------------------------------------------------

    async def search(self, request: Request) -> Response:
        """As typed by staff, whatever the case: a number with spaces is another text."""
        if not self.searches.enter():
            raise Refusal(self.too_many())
        self.searches.leave()
        self._pay("search")
        query = self._query(request, {"term", "fields", "exact_match"})
        term, exact = query.get("term", "").lower(), query.get("exact_match") == "true"
        if len(term) < (1 if exact else 2) or query.get("fields") not in ("email", "phone"):
            raise self._bad("term is too short, or fields is neither email nor phone")

        def hit(person: Person) -> bool:
            held = person.emails if query["fields"] == "email" else person.phones
            return any(term == one.lower() or (not exact and term in one.lower()) for one in held)

        found = [one for one in self.state.persons.values() if hit(one) and not one.deleted]
        shown, after = self._part(found, query)
        items = [
            {
                "result_score": 0.5,
                "item": {"id": one.id, "type": "person", "name": one.name}
                | {"emails": one.emails, "phones": one.phones, "custom_fields": [], "notes": []},
            }
            for one in shown
        ]
        return _success({"items": items}, after)

    async def list_persons(self, request: Request) -> Response:
        self._pay("list")
        query = self._query(request, {"include_fields", "custom_fields", "updated_since"})
        since = _moment(query["updated_since"], self) if "updated_since" in query else None
        found = [
            one
            for one in self.state.persons.values()
            if not one.deleted and (since is None or one.updated >= since)
        ]
        shown, after = self._part(found, query)
        return _success([self._shown(one, query) for one in shown], after)

    async def get_person(self, request: Request) -> Response:
        self._pay("read")
        query = self._query(request, {"include_fields", "custom_fields"})
        return _success(self._shown(self._addressed(request), query))

    async def patch_person(self, request: Request) -> Response:
        self._pay("write")
        person, body = self._addressed(request), await self._json(request)
        if person.deleted:
            raise Refusal(self.problem(404, "Person not found"))
        if set(body) - PATCHABLE:
            raise self._bad("unknown field")
        custom, status = body.get("custom_fields", {}), body.get("marketing_status")
        if not isinstance(custom, dict) or set(custom) - set(self.state.fields):
            raise self._bad("custom_fields holds an unknown field")
        for code, value in custom.items():
            if value is not None and value not in self.state.fields[code].options:
                raise self._bad("custom_fields holds an unknown option")
        if "marketing_status" in body and status not in STATUSES:
            raise self._bad("marketing_status is not known")
        for code, value in custom.items():
            self._set_field(person, code, value, by_api=True)
        if status and self.campaigns:
            self._step(person, str(status))
        self._touch(person, "change", "api", PLAIN)
        wanted = {"include_fields": "marketing_status"} if status else {}
        return _success(self._shown(person, wanted))

    def _step(self, person: Person, status: str) -> None:
        """Not allowed: nothing happens, and the answer is that of success."""
        address = person.primary
        before = self._status(person)
        done = self.state.steps.setdefault(address, set())
        if address and status in STEPS.get(before, ()) and (before, status) not in done:
            done.add((before, status))
            self.state.statuses[address] = status
            self._wrote(person, "marketing_status", status)

    def _set_field(
        self, person: Person, code: str, value: int | None, *, by_api: bool = False
    ) -> None:
        person.custom[code] = value
        if by_api:
            held = self.state.fields[code]
            self._wrote(person, held.name, held.options[value] if value else "")

    def _wrote(self, person: Person, key: str, value: str) -> None:
        self.state.writes.append(Write(self.clock(), person.id, key, value))

    def _status(self, person: Person) -> str:
        return self.state.statuses.get(person.primary, "no_consent")

    def _addressed(self, request: Request) -> Person:
        number = str(request.path_params["id"])
        found = self.state.persons.get(int(number)) if number.isdigit() else None
        if found is None:
            raise Refusal(self.problem(404, "Person not found"))
        return found

    def _shown(self, one: Person, query: Mapping[str, str]) -> dict[str, Any]:
        """The status only where it was asked for, and only with Campaigns."""
        codes = query["custom_fields"].split(",") if query.get("custom_fields") else None
        shown: dict[str, Any] = {
            "id": one.id,
            "name": one.name,
            "emails": _valued(one.emails),
            "phones": _valued(one.phones),
            "is_deleted": one.deleted,
            "add_time": _iso(one.added),
            "update_time": _iso(one.updated),
            "label_ids": [],
            "custom_fields": {
                code: one.custom.get(code)
                for code in self.state.fields
                if codes is None or code in codes
            },
        }
        included = query.get("include_fields", "").split(",")
        if self.campaigns and "marketing_status" in included:
            shown["marketing_status"] = self._status(one)
        if self.campaigns and "doi_status" in included:
            shown["doi_status"] = "confirmed" if one.primary in self.state.confirmed else None
        return shown

    def _query(self, request: Request, known: set[str]) -> dict[str, str]:
        query = dict(request.query_params)
        if set(query) - known - {"limit", "cursor"}:
            raise self._bad("unknown parameter")
        if len(query.get("custom_fields", "").split(",")) > 15:
            raise self._bad("custom_fields takes at most 15 keys")
        included = query.get("include_fields", "marketing_status").split(",")
        if set(included) - {"marketing_status", "doi_status"}:
            raise self._bad("include_fields is not known to the twin")
        return query

    def _part(
        self, found: Iterable[Person], query: Mapping[str, str]
    ) -> tuple[list[Person], str | None]:
        """By id; the cursor is opaque and good for the next page only."""
        limit = query.get("limit", "100")
        if not limit.isdigit() or not 0 < int(limit) <= MOST:
            raise self._bad(f"limit is at most {MOST}")
        try:
            after = int(base64.urlsafe_b64decode(query["cursor"])) if "cursor" in query else 0
        except ValueError:
            raise self._bad("cursor is not valid") from None
        rest = sorted((one for one in found if one.id > after), key=lambda one: one.id)
        shown = rest[: min(int(limit), self.page_size)]
        more = len(rest) > len(shown)
        return shown, base64.urlsafe_b64encode(
            str(shown[-1].id).encode()
        ).decode() if more else None

    async def _json(self, request: Request) -> dict[str, Any]:
        try:
            found = json.loads(await request.body())
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise self._bad("the body is no JSON object")
        return found

    # --- fields --------------------------------------------------------------------------------

    async def list_fields(self, request: Request) -> Response:
        """Two of the vendor's own come first, a page at a time."""
        self._pay("list")
        query = self._query(request, set())
        own = [Field("name", "Name", "varchar", {}), Field("label_ids", "Labels", "set", {})]
        found = [*own, *self.state.fields.values()]
        numbers = query.get("cursor", "0"), query.get("limit", "100")
        if not all(map(str.isdigit, numbers)) or not 0 < int(numbers[1]) <= MOST:
            raise self._bad(f"cursor is not valid, or limit is not up to {MOST}")
        start, end = int(numbers[0]), int(numbers[0]) + min(int(numbers[1]), self.page_size)
        after = str(end) if end < len(found) else None
        return _success([_field(one) for one in found[start:end]], after)

    async def new_person_field(self, request: Request) -> Response:
        self._pay("write")
        body = await self._json(request)
        if not self.admin:
            raise Refusal(self.problem(403, "only an admin may do this"))
        known = {"field_name", "field_type", "options", "ui_visibility"}
        options = body.get("options", [])
        if set(body) - known or not body.get("field_name") or body.get("field_type") != "enum":
            raise self._bad("field_name is missing, or field_type is not enum")
        labels = [
            str(one["label"]) for one in options if isinstance(one, dict) and one.get("label")
        ]
        if not labels or len(labels) != len(options):
            raise self._bad("options is a list of labels")
        return _success(_field(self._make_field(str(body["field_name"]), "enum", labels)))

    def _make_field(self, name: str, type: str, labels: Iterable[str]) -> Field:
        numbered = dict(enumerate(labels, self.state.next_option))
        self.state.next_option += len(numbered)
        made = Field(uuid.uuid4().hex + "beef0123", name, type, numbered)
        self.state.fields[made.code] = made
        return made

    # --- webhooks ------------------------------------------------------------------------------

    async def get_me(self, request: Request) -> Response:
        self._pay("me")
        apps = ("global", "sales", "campaigns")
        access = [{"app": app, "admin": self.admin, "permission_set_id": "p"} for app in apps]
        return _success({"id": OURSELVES, "name": "Integration", "access": access})

    async def list_webhooks(self, request: Request) -> Response:
        """All of the company, deleted ones no more."""
        self._pay("hooks")
        return _success([self._hook(hook) for hook in self.state.hooks.values()])

    async def new_webhook(self, request: Request) -> Response:
        self._pay("hooks")
        body = await self._json(request)
        wrong = NEEDED_OF_HOOK - set(body) | set(body) - HOOK_FIELDS
        wrong |= {"event_action"} if body.get("event_action") not in ACTIONS else set()
        if wrong or len(self.state.hooks) >= MOST_HOOKS:
            errors = {name: ["is not valid"] for name in wrong}
            raise Refusal(
                JSONResponse({"status": "error", "success": False, "errors": errors}, 400)
            )
        hook = self._add_hook(
            url=body["subscription_url"],
            action=body["event_action"],
            object=body["event_object"],
            user_id=body.get("user_id", OURSELVES),
            login=(body.get("http_auth_user") or "", body.get("http_auth_password") or ""),
            version=body.get("version", "2.0"),
        )
        return JSONResponse({"status": "ok", "success": True, "data": self._hook(hook)}, 201)

    def _add_hook(self, **fields: Any) -> Hook:
        hook = Hook(self.state.next_id, **fields)
        self.state.next_id += 1
        self.state.hooks[hook.id] = hook
        return hook

    def _hook(self, hook: Hook) -> dict[str, Any]:
        return {
            "id": hook.id,
            "company_id": 9,
            "user_id": hook.user_id,
            "event_action": hook.action,
            "event_object": hook.object,
            "subscription_url": hook.url,
            "version": hook.version,
            "is_active": 1,
            "remove_time": None,
            "type": "general",
            "http_auth_user": hook.login[0] or None,
            "http_auth_password": hook.login[1] or None,
            "remove_reason": None,
        }

    def _touch(self, person: Person, action: str, source: str, travel: Travel) -> None:
        """The person changed; whoever subscribed to it is told."""
        person.updated = self.clock()
        self._tell(person, action, source, travel)

    def _tell(self, person: Person, action: str, source: str, travel: Travel) -> None:
        for hook in self._listening(action):
            event = self._event(person, action, source, hook)
            self._send_to(hook, event, travel)

    def _listening(self, action: str) -> list[Hook]:
        if self.webhook_url:
            login = self.webhook_user, self.webhook_password
            self.state.hook.url, self.state.hook.login = self.webhook_url, login
        held = [self.state.hook, *self.state.hooks.values()]
        return [
            hook
            for hook in held
            if hook.url
            and hook.alive
            and hook.action in (action, "*")
            and (hook.banned_until is None or hook.banned_until <= self.clock())
        ]

    def _event(self, person: Person, action: str, source: str, hook: Hook) -> dict[str, Any]:
        gone = action == "delete"
        return {
            "meta": {
                "action": action,
                "entity": "person",
                "entity_id": str(person.id),
                "id": str(uuid.uuid4()),
                "timestamp": _iso(self.clock()),
                "change_source": source,
                "user_id": 1,
                "company_id": 9,
                "webhook_id": hook.id,
                "correlation_id": str(uuid.uuid4()),
                "is_bulk_edit": False,
                "version": hook.version,
            },
            "data": None if gone else self._shown(person, {}),
            "previous": {"id": person.id} if gone else {},
        }

    def _send_to(self, hook: Hook, event: Mapping[str, Any], travel: Travel) -> None:
        def letter(attempt: int) -> Letter:
            meta = {**event["meta"], "attempt": attempt + 1}
            content = json.dumps({**event, "meta": meta}).encode()
            return Letter(hook.url, content, _credentials(*hook.login))

        self.post(letter, travel, lambda sent: self._answered(hook, sent))

    def credentials(self) -> dict[str, str]:
        """The headers of a webhook: nothing is signed."""
        return _credentials(self.webhook_user, self.webhook_password)

    def _answered(self, hook: Hook, sent: Sent) -> None:
        """Ten failed first attempts ban a hook for half an hour; three days without success delete
        it."""
        with self.lock:
            now, failed = self.clock(), not_2xx(sent.status)
            hook.failing_since = (hook.failing_since or now) if failed else None
            hook.failed_firsts = hook.failed_firsts + (sent.attempt == 0) if failed else 0
            if hook.failed_firsts >= BANNED_AFTER:
                hook.failed_firsts, hook.banned_until = 0, now + BANNED_FOR
            hook.alive = hook.alive and now - (hook.failing_since or now) < GIVES_UP
            if not hook.alive:
                self.state.hooks.pop(hook.id, None)

    # --- reading for tests ---------------------------------------------------------------------

    def status(self, email: str) -> str:
        with self.lock:
            return self.state.statuses.get(email.lower(), "no_consent")

    def option(self, person: int, name: str) -> str:
        """The label chosen in a field, or an empty text."""
        with self.lock:
            held = self._field_named(name)
            value = self.state.persons[person].custom.get(held.code)
            return held.options[value] if value is not None else ""

    # --- acts ----------------------------------------------------------------------------------

    @act
    def has_hook(
        self,
        url: str,
        action: str = "*",
        login: tuple[str, str] = ("", ""),
        object: str = "person",
        version: str = "2.0",
    ) -> None:
        """A webhook as found at the start, made by staff."""
        self._add_hook(url=url, action=action, login=login, object=object, version=version)

    @act
    def hooks_vanish(self) -> None:
        """Staff or Pipedrive deleted them all."""
        self.state.hooks.clear()

    @act
    def new_field(self, name: str, options: Sequence[str] = (), type: str = "enum") -> str:
        return self._make_field(name, type, options).code

    @act
    def new_person(
        self,
        emails: Sequence[str] | str = (),
        phones: Sequence[str] | str = (),
        status: str = "",
        marks: Mapping[str, str] | None = None,
        travel: Travel = PLAIN,
    ) -> int:
        """Staff add a person; `marks` is field name = label. Returns the id."""
        now, number = self.clock(), self.state.next_id
        person = Person(number, f"Person {number}", _list(emails), _list(phones), now, now)
        self.state.next_id += 1
        self.state.persons[number] = person
        if status and person.primary:
            self.state.statuses[person.primary] = status
        for name, label in (marks or {}).items():
            self._mark(person, name, label)
        self._touch(person, "create", "app", travel)
        return number

    @act
    def person_unsubscribes(self, email: str, travel: Travel = PLAIN) -> None:
        """The person clicks unsubscribe in a campaign."""
        self._says(email, "unsubscribed", travel)

    @act
    def person_subscribes(self, email: str, travel: Travel = PLAIN) -> None:
        """The person confirms in a form of Pipedrive: from any status."""
        self.state.confirmed.add(email.lower())
        self._says(email, "subscribed", travel)

    @act
    def staff_sets_status(self, email: str, status: str, travel: Travel = PLAIN) -> None:
        """In Pipedrive's own pages, also words that the API does not document."""
        self._says(email, status, travel)

    def _says(self, email: str, status: str, travel: Travel) -> None:
        shown = [one for one in self.state.persons.values() if one.primary == email.lower()]
        if not shown:
            raise ActError("no person has this as the primary address")
        self.state.statuses[email.lower()] = status
        for person in shown:
            self._touch(person, "change", "app", travel)

    @act
    def staff_marks(self, person: int, name: str, label: str = "", travel: Travel = PLAIN) -> None:
        """Staff choose an option of a field; an empty label clears it."""
        self._mark(self._known(person), name, label)
        self._touch(self._known(person), "change", "app", travel)

    def _mark(self, person: Person, name: str, label: str) -> None:
        held = self._field_named(name)
        numbers = {text: number for number, text in held.options.items()}
        if label and label not in numbers:
            held.options[self.state.next_option] = label
            numbers[label] = self.state.next_option
            self.state.next_option += 1
        self._set_field(person, held.code, numbers.get(label))

    @act
    def staff_edits(
        self, person: int, emails: Sequence[str], phones: Sequence[str], travel: Travel = PLAIN
    ) -> None:
        known = self._known(person)
        known.emails, known.phones = _list(emails), _list(phones)
        self._touch(known, "change", "app", travel)

    @act
    def delete_person(self, person: int, purge: bool = False, travel: Travel = PLAIN) -> None:
        """Marked as deleted; the status of the address outlives it. `purge`: 30 days later."""
        known = self._known(person)
        known.deleted = True
        self._touch(known, "delete", "app", travel)
        if purge:
            del self.state.persons[known.id]

    @act
    def merge(self, kept: int, gone: int, travel: Travel = PLAIN) -> None:
        """A deletion and a change."""
        winner, loser = self._known(kept), self._known(gone)
        winner.emails += [one for one in loser.emails if one not in winner.emails]
        winner.phones += [one for one in loser.phones if one not in winner.phones]
        loser.deleted = True
        self._touch(loser, "delete", "app", travel)
        self._touch(winner, "change", "app", travel)

    def _known(self, person: int) -> Person:
        found = self.state.persons.get(int(person))
        if found is None:
            raise ActError("no such person")
        return found

    def _field_named(self, name: str) -> Field:
        found = next((one for one in self.state.fields.values() if one.name == name), None)
        if found is None:
            raise ActError("no such field")
        return found

    # --- the page ------------------------------------------------------------------------------

    def people(self) -> Sequence[Row]:
        return [self._row(one) for one in self.state.persons.values() if not one.deleted]

    def page_buttons(self) -> Sequence[Button]:
        return [Button("New person", "new_person", {"status": "subscribed"}, ("emails",))]

    def _row(self, person: Person) -> Row:
        chosen = {
            held.name: held.options[number]
            for held in self.state.fields.values()
            if (number := person.custom.get(held.code)) is not None
        }
        ours = {name: label for name, label in chosen.items() if name.startswith(MARKETING)}
        marks = [Mark(f"{n}: {label.lower()}", "out" not in label) for n, label in ours.items()]
        if self.campaigns:
            status = self._status(person)
            marks.insert(0, Mark(f"Campaigns: {status}", STATUS_ON.get(status)))
        others = "; ".join(f"{name}: {chosen[name]}" for name in chosen if name not in ours)
        who = ", ".join([*person.emails, *person.phones]) or person.name
        none = [Mark("Pipedrive sends none")]
        return Row(who, marks, none, others, self._buttons_of(person, chosen))

    def _buttons_of(self, person: Person, chosen: Mapping[str, str]) -> list[Button]:
        """What is not so yet."""
        buttons = []
        if person.primary and self._status(person) == "subscribed":
            email = {"email": person.primary}
            buttons.append(Button("Unsubscribe in a campaign", "person_unsubscribes", email))
        elif person.primary:
            email = {"email": person.primary}
            buttons.append(Button("Confirm in a form", "person_subscribes", email))
        about = {"person": str(person.id)}
        buttons += [
            Button(
                f"Staff: {held.name}: {label}",
                "staff_marks",
                about | {"name": held.name, "label": label},
            )
            for held in self.state.fields.values()
            for label in held.options.values()
            if held.name in chosen and chosen[held.name] != label
        ]
        return [*buttons, Button("Delete", "delete_person", about)]


def _credentials(user: str, password: str) -> dict[str, str]:
    basic = base64.b64encode(f"{user}:{password}".encode()).decode()
    login = {"Authorization": f"Basic {basic}"} if user else {}
    return {"Content-Type": "application/json", **login}


def _success(data: Any, after: str | None = None) -> Response:
    more = {"additional_data": {"next_cursor": after}} if isinstance(data, list) or after else {}
    return JSONResponse({"success": True, "data": data, **more})


def _field(one: Field) -> dict[str, Any]:
    return {
        "field_name": one.name,
        "field_code": one.code,
        "field_type": one.type,
        "options": [{"id": n, "label": label} for n, label in one.options.items()] or None,
        "is_custom_field": len(one.code) == 40,
        "is_optional_response_field": False,
    }


def _list(given: Sequence[str] | str) -> list[str]:
    """A form on the page sends one text."""
    return [given] if isinstance(given, str) else list(given)


def _valued(texts: Sequence[str]) -> list[dict[str, Any]]:
    return [{"value": text, "primary": n == 0, "label": "work"} for n, text in enumerate(texts)]


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _moment(text: str, twin: PipedriveTwin) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise twin._bad("updated_since is no RFC 3339 time") from None
