"""A twin of Google Contacts: https://developers.google.com/people/api/rest

There is no preference field: contacts carry labels (contact groups), and nothing is ever sent from
here. Changes are found by a sync token, which ends after seven days; listings may lag behind::

    with running(GoogleTwin()) as (twin, url):
        twin.new_contact("amy@example.com")
        twin.staff_labels("amy@example.com", "No marketing - email")
        assert twin.labels("amy@example.com") == {"No marketing - email"}
"""

from __future__ import annotations

import copy
import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from tests.twins.kit import (
    ActError,
    Button,
    Call,
    Fault,
    Limits,
    Mark,
    Refusal,
    Reply,
    Row,
    Twin,
    Window,
    act,
    plain,
)

MINUTE = Window(90, 60.0)
"""Quotas are shown in the Cloud console only; public figures differ."""
TOKEN_LASTS = timedelta(days=7)
"""A sync token, from its full listing on."""
PAGE = 1000
READ = 200
MODIFY = 1000
MINE = "contactGroups/myContacts"
REFUSAL = "No marketing"
"""How the labels begin that stand for a refusal, for the page."""
TAKES_ADDITIONS = {MINE, "contactGroups/starred"}
SYSTEM = {
    MINE: "myContacts",
    "contactGroups/starred": "starred",
    "contactGroups/friends": "friends",
}
FIELDS = {"names", "emailAddresses", "phoneNumbers", "memberships", "metadata", "userDefined"}
STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


@dataclass
class Group:
    id: str
    name: str
    system: bool = False


@dataclass
class Person:
    """`groups` are resource names of labels; `former` are resource names it had before; `moved` is
    the change that an incremental listing goes by."""

    id: str
    name: str
    emails: list[str]
    phones: list[str]
    groups: set[str]
    changed: datetime
    moved: datetime
    deleted: bool = False
    former: list[str] = field(default_factory=list)


@dataclass
class Sync:
    """A sync token: what it has shown, which full listing it came from, and how that was asked."""

    full_at: datetime
    shown_to: datetime
    asked: dict[str, str]


@dataclass
class Rest:
    """A page token: what is still to be shown."""

    people: list[Person]
    sync: Sync
    token: str | None
    asked: dict[str, str]


@dataclass
class Write:
    """One membership changed through the API."""

    label: str
    person: str
    member: bool


def _system_groups() -> dict[str, Group]:
    return {id_: Group(id_, name, system=True) for id_, name in SYSTEM.items()}


@dataclass
class Account:
    groups: dict[str, Group] = field(default_factory=_system_groups)
    versions: dict[str, list[Person]] = field(default_factory=dict)
    """Every state that a contact was in, oldest first: a listing may lag."""
    syncs: dict[str, Sync] = field(default_factory=dict)
    rests: dict[str, Rest] = field(default_factory=dict)
    full_listings: list[datetime] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    tokens: dict[str, datetime] = field(default_factory=dict)
    next_id: int = 1


class GoogleTwin(Twin[Account]):
    """See the module. Settings beside those of the kit:

    client_id, client_secret, refresh_token   of the account
    token_life       seconds that an access token lives (default 3599)
    page_cap         most people of one page of a listing, whatever is asked for
    group_page_cap   the same for labels
    lag              seconds until a listing shows a write
    labels_move      an incremental listing shows a change of labels alone (default yes)
    full_quota       full listings a minute (default no limit)

    dangers          calls that destroy: a label deleted, a contact deleted
    parallel_writes  mutations that came while another was at work: they fail
    """

    name = "google"
    title = "Google Contacts"
    default_limits = staticmethod(lambda: Limits(windows=[MINUTE]))

    def __init__(self) -> None:
        super().__init__()
        self._defaults()

    def _defaults(self) -> None:
        self.client_id, self.client_secret = "twin-client", "twin-client-secret"
        self.refresh_token = "twin-refresh"
        self.token_life = 3599
        self.page_cap = self.group_page_cap = PAGE
        self.lag = 0.0
        self.labels_move = True
        self.full_quota: int | None = None
        self.dangers: list[str] = []
        self.parallel_writes = 0
        self._writing: Call | None = None

    def fresh(self) -> Account:
        return Account()

    def reset(self) -> None:
        super().reset()
        self._defaults()

    def configure(self, **settings: Any) -> None:
        """Its own settings by name, else as the kit."""
        own = {
            "client_id": str,
            "client_secret": str,
            "refresh_token": str,
            "token_life": int,
            "page_cap": int,
            "group_page_cap": int,
            "lag": float,
            "labels_move": bool,
            "full_quota": int,
        }
        for name in own.keys() & settings.keys():
            setattr(self, name, own[name](settings.pop(name)))
        super().configure(**settings)

    def routes(self) -> Sequence[BaseRoute]:
        group = "/v1/contactGroups/{group}"
        return [
            Route("/token", self.get_token, methods=["POST"]),
            Route("/v1/people/me/connections", self.list_people, methods=["GET"]),
            Route("/v1/people:batchGet", self.batch_get, methods=["GET"]),
            Route("/v1/people:batchDeleteContacts", self.batch_delete, methods=["POST"]),
            Route("/v1/people/{person}:deleteContact", self.delete_person, methods=["DELETE"]),
            Route("/v1/people/{person}", self.get_person, methods=["GET"]),
            Route("/v1/contactGroups", self.list_groups, methods=["GET"]),
            Route("/v1/contactGroups", self.create_group, methods=["POST"]),
            Route("/v1/contactGroups:batchGet", self.batch_groups, methods=["GET"]),
            Route(group + "/members:modify", self.modify, methods=["POST"]),
            Route(group, self.get_group, methods=["GET"]),
            Route(group, self.delete_group, methods=["DELETE"]),
        ]

    def problem(self, status: int, reason: str = "", code: str = "", word: str = "") -> Response:
        """`reason` is the text, `code` the ErrorInfo's reason, `word` the status where it is not
        the usual one."""
        info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "domain": "googleapis.com"}
        error = {
            "code": status,
            "message": reason or f"HTTP {status}",
            "status": word or STATUS.get(status, "UNKNOWN"),
            **({"details": [{**info, "reason": code}]} if code else {}),
        }
        return JSONResponse({"error": error}, status)

    def too_many(self) -> Response:
        return self.problem(429, "Quota exceeded", "RATE_LIMIT_EXCEEDED")

    # --- who may come in -----------------------------------------------------------------------

    def gate(self, request: Request) -> Response | None:
        if request.url.path == "/token":
            return None
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        until = self.state.tokens.get(given)
        alive = until is not None and until > self.clock()
        return None if scheme == "Bearer" and alive else self.problem(401, "Invalid credentials")

    async def get_token(self, request: Request) -> Response:
        form = parse_qs((await request.body()).decode())
        if form.get("client_id") != [self.client_id] or form.get("client_secret") != [
            self.client_secret
        ]:
            return JSONResponse({"error": "invalid_client"}, 401)
        if form.get("grant_type") != ["refresh_token"]:
            return JSONResponse({"error": "unsupported_grant_type"}, 400)
        if form.get("refresh_token") != [self.refresh_token]:
            described = "Token has been expired or revoked."
            return JSONResponse(
                {"error": "invalid_grant", "error_description": described}, status_code=400
            )
        token = secrets.token_hex(16)
        self.state.tokens[token] = self.clock() + timedelta(seconds=self.token_life)
        body = {
            "access_token": token,
            "expires_in": self.token_life,
            "scope": "https://www.googleapis.com/auth/contacts",
            "token_type": "Bearer",
        }
        return JSONResponse(body)

    async def _answer(self, call: Call, fault: Fault | None, scope: Scope) -> Reply | None:
        """Mutations of one account that overlap fail."""
        if not call.writes or call.path == "/token":
            return await super()._answer(call, fault, scope)
        if self._writing is not None:
            self.parallel_writes += 1
            return await super()._answer(call, Fault("status", status=503), scope)
        self._writing = call
        try:
            return await super()._answer(call, fault, scope)
        finally:
            self._end(call)

    async def _work(self, call: Call, scope: Scope, keep: bool = True) -> Reply:
        reply = await super()._work(call, scope, keep)
        self._end(call)
        return reply

    def _end(self, call: Call) -> None:
        if self._writing is call:
            self._writing = None

    # --- people --------------------------------------------------------------------------------

    def _find(self, id_: str) -> Person | None:
        """By its present resource name, or one that it had before."""
        versions = self.state.versions.get(id_) or next(
            (v for v in self.state.versions.values() if id_ in v[-1].former), None
        )
        return versions[-1] if versions and not versions[-1].deleted else None

    def _change(self, person: Person, **changes: Any) -> Person:
        """A new version of the contact, made now."""
        changed = copy.deepcopy(person)
        for name, value in changes.items():
            setattr(changed, name, value)
        changed.changed = self.clock()
        if set(changes) != {"groups"} or self.labels_move:
            changed.moved = changed.changed
        self.state.versions.setdefault(changed.id, []).append(changed)
        return changed

    def _shown(self, person: Person, fields: Iterable[str]) -> dict[str, Any]:
        primary = {"metadata": {"primary": True}}
        everything: dict[str, Any] = {
            "names": [{"displayName": person.name}] if person.name else [],
            "emailAddresses": [{**primary, "value": one} for one in person.emails],
            "phoneNumbers": [{**primary, "value": one} for one in person.phones],
            "memberships": [
                {
                    "contactGroupMembership": {
                        "contactGroupId": group.rpartition("/")[2],
                        "contactGroupResourceName": group,
                    }
                }
                for group in sorted(person.groups)
            ],
            "metadata": {"objectType": "PERSON", "sources": [{"type": "CONTACT"}]},
        }
        found = {name: everything[name] for name in fields if everything.get(name)}
        return {"resourceName": person.id, "etag": "%EgUBAgMuNw==", **found}

    def _fields(self, request: Request) -> list[str]:
        fields = [one for one in request.query_params.get("personFields", "").split(",") if one]
        if not fields or set(fields) - FIELDS:
            raise Refusal(self.problem(400, "personFields mask is required"))
        return fields

    async def get_person(self, request: Request) -> Response:
        fields = self._fields(request)
        found = self._find(f"people/{request.path_params['person']}")
        if found is None:
            return self.problem(404, "Requested entity was not found.")
        return JSONResponse(self._shown(found, fields))

    async def batch_get(self, request: Request) -> Response:
        fields, ids = self._fields(request), request.query_params.getlist("resourceNames")
        if not 0 < len(ids) <= READ or any(not id_.startswith("people/") for id_ in ids):
            return self.problem(400, f"resourceNames: 1 to {READ} names of people")
        return JSONResponse({"responses": [self._response(id_, fields) for id_ in ids]})

    def _response(self, id_: str, fields: Iterable[str]) -> dict[str, Any]:
        found = self._find(id_)
        if found is None:
            status = {"code": 5, "message": "Requested entity was not found."}
            return {"httpStatusCode": 404, "requestedResourceName": id_, "status": status}
        return {
            "httpStatusCode": 200,
            "person": self._shown(found, fields),
            "requestedResourceName": id_,
            "status": {},
        }

    # --- listings ------------------------------------------------------------------------------

    async def list_people(self, request: Request) -> Response:
        fields = self._fields(request)
        query = dict(request.query_params)
        page, sync = query.pop("pageToken", None), query.pop("syncToken", None)
        size = self._page_size(query.get("pageSize"), 100)
        rest = self._go_on(page, sync, query) if page else self._begin(sync, query)
        shown = rest.people[: min(size, self.page_cap)]
        body: dict[str, Any] = {"totalItems": len(self.state.versions)}
        if shown:
            body["connections"] = [
                self._listed(one, fields, sync=bool(rest.token)) for one in shown
            ]
        left = rest.people[len(shown) :]
        token = secrets.token_urlsafe(24)
        if left:
            self.state.rests[token] = Rest(left, rest.sync, rest.token, rest.asked)
            body["nextPageToken"] = token
        elif query.get("requestSyncToken") == "true":
            self.state.syncs[token] = rest.sync
            body["nextSyncToken"] = token
        return JSONResponse(body)

    def _page_size(self, text: str | None, default: int) -> int:
        size = int(text or default)
        if not 0 <= size <= PAGE:
            raise Refusal(self.problem(400, f"pageSize: 1 to {PAGE}"))
        return size or default

    def _listed(self, person: Person, fields: list[str], *, sync: bool) -> dict[str, Any]:
        """A listing by sync token tells what is gone and what has a new name."""
        if person.deleted:
            return {"resourceName": person.id, "metadata": {"deleted": True}}
        shown = self._shown(person, fields)
        if sync and person.former and "metadata" in fields:
            shown["metadata"] = {**shown["metadata"], "previousResourceNames": person.former}
        return shown

    def _go_on(self, page: str, sync: str | None, asked: dict[str, str]) -> Rest:
        rest = self.state.rests.get(page)
        if rest is None or rest.asked != asked or rest.token != sync:
            raise Refusal(self.problem(400, "all other parameters must match the first call"))
        return rest

    def _begin(self, sync: str | None, asked: dict[str, str]) -> Rest:
        now = self.clock()
        shown_to = now - timedelta(seconds=self.lag)
        if sync:
            since = self._since(sync, asked)
            people = [one for one in self._visible(shown_to) if one.moved >= since.shown_to]
            return Rest(people, Sync(since.full_at, shown_to, asked), sync, asked)
        self._spend(now)
        alive = [one for one in self._visible(shown_to) if not one.deleted]
        return Rest(alive, Sync(now, shown_to, asked), None, asked)

    def _since(self, token: str, asked: dict[str, str]) -> Sync:
        found = self.state.syncs.get(token)
        if found is None or self.clock() - found.full_at >= TOKEN_LASTS:
            text = "Sync token is expired. Clear local cache and retry call without the sync token."
            raise Refusal(self.problem(400, text, "EXPIRED_SYNC_TOKEN", word="FAILED_PRECONDITION"))
        if found.asked != asked:
            raise Refusal(self.problem(400, "all other parameters must match the first call"))
        return found

    def _visible(self, at: datetime) -> list[Person]:
        """Each contact as a listing shows it that knows of everything up to then."""
        seen = ([v for v in versions if v.changed <= at] for versions in self._all_versions())
        return [versions[-1] for versions in seen if versions]

    def _all_versions(self) -> Iterable[list[Person]]:
        return self.state.versions.values()

    def _spend(self, now: datetime) -> None:
        """The first page of a full listing has a quota of its own."""
        recent = [at for at in self.state.full_listings if now - at < timedelta(minutes=1)]
        if self.full_quota is not None and len(recent) >= self.full_quota:
            raise Refusal(self.too_many())
        self.state.full_listings = [*recent, now]

    # --- labels --------------------------------------------------------------------------------

    def _group(self, request: Request) -> Group:
        found = self.state.groups.get(f"contactGroups/{request.path_params['group']}")
        if found is None:
            raise Refusal(self.problem(404, "Requested entity was not found."))
        return found

    def _members(self, group: Group) -> list[str]:
        latest = (versions[-1] for versions in self._all_versions())
        return sorted(one.id for one in latest if group.id in one.groups and not one.deleted)

    def _group_shown(self, group: Group, members: int = 0) -> dict[str, Any]:
        kind = "SYSTEM_CONTACT_GROUP" if group.system else "USER_CONTACT_GROUP"
        held = self._members(group)
        return {
            "resourceName": group.id,
            "groupType": kind,
            "name": group.name,
            "formattedName": group.name,
            **({"memberCount": len(held)} if held else {}),
            **({"memberResourceNames": held[:members]} if held and members else {}),
        }

    async def list_groups(self, request: Request) -> Response:
        size = self._page_size(request.query_params.get("pageSize"), 30)
        after = int(request.query_params.get("pageToken", "0"))
        groups = list(self.state.groups.values())
        upto = after + min(size, self.group_page_cap)
        shown = [self._group_shown(one) for one in groups[after:upto]]
        body: dict[str, Any] = {"contactGroups": shown, "totalItems": len(groups)}
        if upto < len(groups):
            body["nextPageToken"] = str(upto)
        return JSONResponse(body)

    async def get_group(self, request: Request) -> Response:
        most = int(request.query_params.get("maxMembers", "0"))
        return JSONResponse(self._group_shown(self._group(request), most))

    async def batch_groups(self, request: Request) -> Response:
        ids = request.query_params.getlist("resourceNames")
        if not 0 < len(ids) <= READ:
            return self.problem(400, f"resourceNames: 1 to {READ}")
        most = int(request.query_params.get("maxMembers", "0"))
        return JSONResponse({"responses": [self._group_response(id_, most) for id_ in ids]})

    def _group_response(self, id_: str, most: int) -> dict[str, Any]:
        found = self.state.groups.get(id_)
        if found is None:
            status = {"code": 5, "message": "Requested entity was not found."}
            return {"requestedResourceName": id_, "status": status}
        shown = self._group_shown(found, most)
        return {"requestedResourceName": id_, "contactGroup": shown, "status": {}}

    async def create_group(self, request: Request) -> Response:
        name = str((await self._json(request)).get("contactGroup", {}).get("name", "")).strip()
        if not name:
            return self.problem(400, "contactGroup.name is required")
        if any(group.name == name for group in self.state.groups.values()):
            return self.problem(409, "Contact group name already exists.")
        return JSONResponse(self._group_shown(self._new_group(name)))

    def _new_group(self, name: str) -> Group:
        group = Group(f"contactGroups/{self.state.next_id:x}0a", name)
        self.state.next_id += 1
        self.state.groups[group.id] = group
        return group

    async def modify(self, request: Request) -> Response:
        """What could not be done stands in the answer of a 200."""
        group, body = self._group(request), await self._json(request)
        add = [str(one) for one in body.get("resourceNamesToAdd", [])]
        remove = [str(one) for one in body.get("resourceNamesToRemove", [])]
        if set(body) - {"resourceNamesToAdd", "resourceNamesToRemove"}:
            return self.problem(400, "unknown field")
        if not 0 < len(add) + len(remove) <= MODIFY:
            return self.problem(400, f"1 to {MODIFY} resource names")
        if any(not one.startswith("people/") for one in (*add, *remove)):
            return self.problem(400, "not the resource name of a person")
        if add and group.system and group.id not in TAKES_ADDITIONS:
            return self.problem(400, "this system group takes no additions")
        missing = [id_ for id_ in add if not self._put(request, group, id_, member=True)]
        missing += [id_ for id_ in remove if not self._put(request, group, id_, member=False)]
        last = [id_ for id_ in remove if id_ not in missing and self._is_last(group, id_)]
        named = {
            "notFoundResourceNames": missing,
            "canNotRemoveLastContactGroupResourceNames": last,
        }
        return JSONResponse({name: ids for name, ids in named.items() if ids})

    def _is_last(self, group: Group, id_: str) -> bool:
        found = self._find(id_)
        return found is not None and found.groups == {group.id}

    def _put(self, request: Request, group: Group, id_: str, *, member: bool) -> bool:
        """Whether there is such a contact; a contact stays in its last label."""
        versions = self.state.versions.get(id_)
        if versions is None or versions[-1].deleted:
            return False
        person = versions[-1]
        fault = self.item_fault(request, f"{id_} {' '.join(person.emails)}")
        if fault and fault.kind == "bad_item":
            return False
        if fault is None and not (not member and self._is_last(group, id_)):
            self.state.writes.append(Write(group.name, id_, member))
            self._set(person, group, member=member)
        return True

    def _set(self, person: Person, group: Group, *, member: bool) -> None:
        held = person.groups | {group.id} if member else person.groups - {group.id}
        if held != person.groups:
            self._change(person, groups=held)

    async def _json(self, request: Request) -> dict[str, Any]:
        try:
            found = json.loads(await request.body())
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Refusal(self.problem(400, "Invalid JSON payload received."))
        return found

    # --- what must never be called -------------------------------------------------------------

    async def delete_group(self, request: Request) -> Response:
        """With `deleteContacts=true` the contacts go too."""
        group = self._group(request)
        self.dangers.append("a label was deleted")
        if request.query_params.get("deleteContacts") == "true":
            for id_ in self._members(group):
                self._change(self.state.versions[id_][-1], deleted=True)
        self._drop_group(group)
        return JSONResponse({})

    def _drop_group(self, group: Group) -> None:
        for id_ in self._members(group):
            self._set(self.state.versions[id_][-1], group, member=False)
        del self.state.groups[group.id]

    async def delete_person(self, request: Request) -> Response:
        found = self._find(f"people/{request.path_params['person']}")
        if found is None:
            return self.problem(404, "Requested entity was not found.")
        self.dangers.append("a contact was deleted")
        self._change(found, deleted=True)
        return JSONResponse({})

    async def batch_delete(self, request: Request) -> Response:
        for id_ in (await self._json(request)).get("resourceNames", []):
            if found := self._find(str(id_)):
                self._change(found, deleted=True)
        self.dangers.append("contacts were deleted")
        return JSONResponse({})

    # --- reading for tests ---------------------------------------------------------------------

    def labels(self, email: str) -> set[str]:
        """Names of the labels of every contact with that address, without myContacts."""
        with self.lock:
            held = {id_ for one in self._of(email) for id_ in one.groups}
            return {self.state.groups[id_].name for id_ in held if id_ != MINE}

    def id_of(self, email: str) -> str:
        with self.lock:
            return self._known(email).id

    def touched(self) -> set[str]:
        """Names of the labels that were changed through the API."""
        with self.lock:
            return {write.label for write in self.state.writes}

    def _of(self, email: str) -> list[Person]:
        latest = (versions[-1] for versions in self._all_versions())
        wanted = email.lower()
        return [
            one
            for one in latest
            if not one.deleted and wanted in (address.lower() for address in one.emails)
        ]

    def _known(self, email: str) -> Person:
        found = self._of(email)
        if not found:
            raise ActError("no such contact")
        return found[0]

    def _named(self, name: str) -> Group:
        found = next((one for one in self.state.groups.values() if one.name == name), None)
        if found is None:
            raise ActError("no such label")
        return found

    def show(self) -> Any:
        return plain(self.state)

    # --- acts ----------------------------------------------------------------------------------

    @act
    def new_contact(
        self, email: str = "", phone: str = "", name: str = "", labels: Sequence[str] = ()
    ) -> str:
        """Staff save a person. Several addresses stand in one text, with blanks between."""
        groups = {MINE, *(self._label(one).id for one in labels)}
        id_ = f"people/c{self.state.next_id}"
        self.state.next_id += 1
        phones = [phone] if phone else []
        now = self.clock()
        person = Person(id_, name, email.split(), phones, groups, now, now)
        self.state.versions[id_] = [person]
        return id_

    def _label(self, name: str) -> Group:
        found = (one for one in self.state.groups.values() if one.name == name)
        return next(found, None) or self._new_group(name)

    @act
    def new_label(self, name: str) -> str:
        return self._label(name).id

    @act
    def staff_labels(self, email: str, label: str) -> None:
        """Staff put a label on a contact; one that is new is made."""
        self._set(self._known(email), self._label(label), member=True)

    @act
    def staff_removes_label(self, email: str, label: str) -> None:
        self._set(self._known(email), self._named(label), member=False)

    @act
    def only_in(self, email: str, label: str) -> None:
        """The contact is in this label and in no other, not even in myContacts."""
        self._change(self._known(email), groups={self._label(label).id})

    @act
    def delete_label(self, name: str) -> None:
        """Staff delete a label and keep its contacts."""
        self._drop_group(self._named(name))

    @act
    def delete_contact(self, email: str) -> None:
        self._change(self._known(email), deleted=True)

    @act
    def new_name(self, email: str) -> str:
        """The contact gets another resource name, as happens when it is linked to a profile."""
        person = self._known(email)
        id_ = f"people/c{self.state.next_id}"
        self.state.next_id += 1
        del self.state.versions[person.id]
        self._change(person, id=id_, former=[*person.former, person.id])
        return id_

    @act
    def new_address(self, email: str, new: str) -> None:
        person = self._known(email)
        self._change(person, emails=[new if one == email else one for one in person.emails])

    # --- the page ------------------------------------------------------------------------------

    def people(self) -> Sequence[Row]:
        latest = (versions[-1] for versions in self._all_versions())
        return [self._row(one) for one in latest if not one.deleted and one.emails]

    def _row(self, person: Person) -> Row:
        email = person.emails[0]
        labels = sorted(self.state.groups[id_].name for id_ in person.groups - {MINE})
        ours = [name for name in labels if name.startswith(REFUSAL)]
        others = [name for name in labels if name not in ours]
        refusal = {"email": email, "label": f"{REFUSAL} - email"}
        buttons = [
            Button(f"Remove {name}", "staff_removes_label", {"email": email, "label": name})
            for name in labels
        ]
        if refusal["label"] not in ours:
            buttons.append(Button(f"Put on {refusal['label']}", "staff_labels", refusal))
        buttons.append(Button("Put on", "staff_labels", {"email": email}, ("label",)))
        marks = [Mark(name, on=False) for name in ours] or [Mark("no refusal")]
        sends = [Mark("Google sends nothing")]
        return Row(email, marks, sends, f"labels: {', '.join(others) or 'none'}", buttons)

    def page_buttons(self) -> Sequence[Button]:
        return [Button("New contact", "new_contact", {}, ("email", "phone"))]
