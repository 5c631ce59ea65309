"""Google Contacts: a label "No marketing" for each channel, through the People API.

Google sends nothing itself, so a label is `recorded`: it is for the staff who look there and for
tools that mail from there. People are found by an index of the whole listing; the vendor's search
reads a cache that lags. A listing lags too, so what a label says is always read by id. Nothing is
ever deleted: deleting a label can take its contacts along. "Other contacts" (addresses that Google
saved by itself) can carry no label and are left out.

https://developers.google.com/people/api/rest/v1/people.connections/list
https://developers.google.com/people/api/rest/v1/contactGroups.members/modify
https://developers.google.com/people/v1/contacts#protocol_1
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import ClassVar, NamedTuple

from connectors import http, labels
from connectors.index import Index, Shown
from connectors.line import Json, Line, items
from connectors.oauth import OAuth
from prefs.core.errors import PropagationError, Refused, Temporary
from prefs.core.propagation import (
    URGENT,
    Absent,
    Answer,
    Applied,
    Budget,
    Change,
    Container,
    Facts,
    Failure,
    Key,
    Limit,
    Observed,
    Page,
    Readback,
    Ref,
    Seen,
    Slot,
    Target,
    Wish,
)
from prefs.core.words import Channel, Kind

HOST = "https://people.googleapis.com"
TOKENS = "/token"
OAUTH_HOST = "https://oauth2.googleapis.com"
PEOPLE = "/v1/people/me/connections"
GROUPS = "/v1/contactGroups"
FIELDS = "names,emailAddresses,phoneNumbers,memberships,metadata"
PAGE = 1000
READ = 200
"""Most people of one `people:batchGet`."""
MEMBERS = 25_000
"""Members asked for of a label: as many as an account has contacts at most (unconfirmed)."""
MODIFY = 500
"""People of one `members:modify`; the vendor takes 1,000."""
FRESH = timedelta(seconds=20)
"""So long an index that was brought up to date is not asked for again."""

GONE = "the contact is no longer there; it is looked up again"
PERSON = re.compile(r"people/[\w-]+")


class Expired(Refused):
    """A sync token lives 7 days: the listing starts from the beginning."""


class Missing(Refused):
    """404: no such label."""


class Exists(Refused):
    """409: there is a label of that name."""


class Listed(NamedTuple):
    """One page of a listing. `onward` is the next sync token, on the last page."""

    people: list[Json]
    onward: str | None
    last: bool


class Google:
    """One account. `place` of a slot: `label:<channel>`."""

    facts: ClassVar[Facts] = Facts(
        system="google",
        channels=frozenset(Channel),
        keys_on=(Kind.EMAIL, Kind.PHONE),
        splits_topics=False,
        read_batch=READ,
        write_batch=MODIFY,
        off_reversible=True,
        readback=Readback.LISTING,
        call_alive=30.0,
        limit=Limit(60, 60.0),
        writes=(("POST", GROUPS), ("POST", rf"{GROUPS}/[^/:]+/members:modify")),
        source_url="https://developers.google.com/people/api/rest",
    )
    KEYS: ClassVar[Mapping[str, Key]] = {
        "client_id": Key("text", required=True, help="OAuth: client id."),
        "client_secret": Key("secret", required=True, help="OAuth: client secret."),
        "refresh_token": Key("secret", required=True, help="OAuth: refresh token of the account."),
        "groups": Key("table", help="Channel = label; default No marketing - CHANNEL."),
    }

    def __init__(self, target: Target, budget: Budget, now: Callable[[], datetime]) -> None:
        self._now = now
        self._labels = labels.slots(labels.names(target, "groups"))
        self._token_way = http.Way(target, budget, OAUTH_HOST, (), (("POST", TOKENS),))
        way = http.Way(target, budget, HOST, self.facts.writes)
        self._line = Line(way, self._tokens(target), fault=_fault)
        self._index = Index(target.region)
        self._token: str | None = None
        self._fresh_until = now()
        # Apart, so that no out waits behind a poll that leaves it half of the budget.
        self._listing = {urgent: asyncio.Lock() for urgent in (True, False)}
        # Mutations of one account must come one after another.
        self._writing = asyncio.Lock()
        self._groups: dict[str, str] | None = None
        self._members: dict[str, set[str]] = {}
        """Label -> its contacts, as the last scan of this process found them."""

    def _tokens(self, target: Target) -> OAuth:
        keys = ("client_id", "client_secret", "refresh_token")
        form = {"grant_type": "refresh_token", **{key: target.text(key) or "" for key in keys}}
        return OAuth(self._token_way, TOKENS, form, self._now, vault=target.vault)

    @property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(self._labels)

    async def close(self) -> None:
        await self._line.close()
        await self._token_way.close()

    # --- reading -------------------------------------------------------------------------------

    async def observe(self, refs: Sequence[Ref]) -> Mapping[Ref, Observed | Absent | Failure]:
        began = self._now()
        try:
            await self._refresh()
            asked = {ref: self._ids(ref) for ref in refs}
            people = await self._people({id_ for ids in asked.values() for id_ in ids})
            people |= _by_name(people.values())
            groups = await self._group_ids()
        except PropagationError as fault:
            return dict.fromkeys(refs, fault)
        return {ref: self._observed(ref, people, groups, began) for ref in refs}

    def _ids(self, ref: Ref) -> list[str]:
        """The records of a ref; one that it names by id may be younger than the index."""
        if ref.kind is None or not ref.value:
            return [id_] if PERSON.fullmatch(id_ := ref.vendor_id or "") else []
        return self._index.find(ref)

    async def _people(self, ids: Iterable[str]) -> dict[str, Json]:
        """Read by id, and the index corrected by what is read. Who is not there is left out."""
        wanted, found = sorted(ids), {}
        for start in range(0, len(wanted), READ):
            part = wanted[start : start + READ]
            params = [("resourceNames", id_) for id_ in part] + [("personFields", FIELDS)]
            answer = await self._line.read("/v1/people:batchGet", params)
            read = {
                str(one.get("requestedResourceName")): one for one in items(answer, "responses")
            }
            for id_ in part:
                person = _person(read.get(id_, {}))
                self._index.drop(id_)
                if person is not None:
                    found[id_] = person
                    self._index.put(str(person["resourceName"]), _shown(person))
        return found

    def _observed(
        self, ref: Ref, people: Mapping[str, Json], groups: Mapping[str, str], began: datetime
    ) -> Observed | Absent:
        ids = [id_ for id_ in self._ids(ref) if id_ in people]
        if not ids:
            return Absent(began)
        read = [people[id_] for id_ in ids]
        shown = tuple(dict.fromkeys(one for person in read for one in _shown(person)))
        vendor_id = str(read[0]["resourceName"])
        return Observed(self._values(read, groups), began, vendor_id, shown)

    def _values(self, people: Sequence[Json], groups: Mapping[str, str]) -> dict[Slot, Seen]:
        memberships = [_memberships(person) for person in people]
        return {
            slot: labels.seen([groups.get(name) in member for member in memberships])
            for slot, name in self._labels.items()
        }

    async def _refresh(self) -> None:
        """Bring the index up to date: everything once, then what changed."""
        async with self._listing[URGENT.get()]:
            if self._token is not None and self._now() < self._fresh_until:
                return
            began = self._now()
            try:
                self._token = await self._follow(self._token)
            except Expired:
                self._token = await self._follow(None)
            self._fresh_until = began + FRESH

    async def _follow(self, token: str | None) -> str | None:
        """Walk to the end; returns the sync token for the next time."""
        onward = None
        async for page in self._walk(token):
            onward = page.onward
        return onward

    async def _walk(self, token: str | None) -> AsyncIterator[Listed]:
        """Everybody, or what changed since the token; feeds the index."""
        params = {"personFields": FIELDS, "pageSize": str(PAGE), "requestSyncToken": "true"}
        params |= {"syncToken": token} if token else {}
        seen: list[str] = []
        last = False
        while not last:
            answer = await self._line.read(PEOPLE, params)
            people = items(answer, "connections")
            seen += [str(person["resourceName"]) for person in people]
            self._learn(people)
            last = not answer.get("nextPageToken")
            if last and token is None:
                self._index.keep(seen)
            onward = answer.get("nextSyncToken") if last else None
            yield Listed(people, str(onward) if onward else None, last)
            params = {**params, "pageToken": str(answer.get("nextPageToken"))}

    def _learn(self, people: Iterable[Json]) -> None:
        for person in people:
            meta = person.get("metadata") or {}
            for former in meta.get("previousResourceNames") or ():
                self._index.drop(str(former))
            if meta.get("deleted"):
                self._index.drop(str(person["resourceName"]))
            else:
                self._index.put(str(person["resourceName"]), _shown(person))

    async def _group_ids(self, *, afresh: bool = False) -> dict[str, str]:
        """Label name -> resource name."""
        if self._groups is None or afresh:
            self._groups = {
                str(one.get("name")): str(one["resourceName"]) for one in await self._all_groups()
            }
        return self._groups

    async def _all_groups(self) -> list[Json]:
        found: list[Json] = []
        params = {"pageSize": str(PAGE)}
        while True:
            answer = await self._line.read(GROUPS, params)
            found += items(answer, "contactGroups")
            if not answer.get("nextPageToken"):
                return found
            params = {**params, "pageToken": str(answer["nextPageToken"])}

    # --- writing -------------------------------------------------------------------------------

    async def apply(self, changes: Sequence[Change]) -> Mapping[Change, Answer]:
        answers: dict[Change, Answer] = {}
        for to in (Wish.OFF, Wish.ON):
            for slot in self._labels:
                part = [change for change in changes if change.to is to and change.slot == slot]
                if part:
                    answers |= await self._modify(slot, to, part)
        return answers

    async def _modify(
        self, slot: Slot, to: Wish, changes: Sequence[Change]
    ) -> dict[Change, Answer]:
        try:
            await self._refresh()
            ids = {change: self._ids(change.ref) for change in changes}
            group = await self._group(self._labels[slot], make=to is Wish.OFF)
            if group is None:
                return dict.fromkeys(changes, Applied())
            failed = await self._send(group, to, sorted({i for ids_ in ids.values() for i in ids_}))
        except Missing:
            self._groups = None
            return dict.fromkeys(changes, Temporary("the label is gone; it is looked up again"))
        except PropagationError as fault:
            return dict.fromkeys(changes, fault)
        return {change: _answer(ids[change], failed) for change in changes}

    async def _send(self, group: str, to: Wish, ids: Sequence[str]) -> dict[str, PropagationError]:
        """A 200 names what it did not do."""
        failed: dict[str, PropagationError] = {}
        for start in range(0, len(ids), MODIFY):
            part = list(ids[start : start + MODIFY])
            name = "resourceNamesToAdd" if to is Wish.OFF else "resourceNamesToRemove"
            async with self._writing:
                answer = await self._line.write(
                    "POST", f"/v1/{group}/members:modify", {name: part}, repeat=to is Wish.OFF
                )
            for id_ in answer.get("notFoundResourceNames") or ():
                failed[str(id_)] = Temporary(GONE)
            for id_ in answer.get("canNotRemoveLastContactGroupResourceNames") or ():
                failed[str(id_)] = Refused("Google keeps a contact in its last label")
        return failed

    async def _group(self, name: str, *, make: bool) -> str | None:
        known = await self._group_ids()
        if name not in known:
            known = await self._group_ids(afresh=True)
        return known.get(name) or (await self._make(name) if make else None)

    async def _make(self, name: str) -> str:
        try:
            async with self._writing:
                answer = await self._line.write(
                    "POST", GROUPS, {"contactGroup": {"name": name}}, repeat=False
                )
        except Exists:
            raise Temporary("somebody made the label just now; it is looked up again") from None
        finally:
            self._groups = None
        if not isinstance(made := answer.get("resourceName"), str):
            raise Temporary("Google's answer does not name the new label")
        return made

    # --- walking -------------------------------------------------------------------------------

    async def scan(self, cursor: str | None) -> AsyncIterator[Page]:
        """Everybody, or what changed since."""
        try:
            async for page in self._scanned(cursor):
                yield page
        except Expired:
            if cursor is None:
                raise
            async for page in self._scanned(None):
                yield page

    async def _scanned(self, cursor: str | None) -> AsyncIterator[Page]:
        """Whom the listing shows with a label is read by id before it is believed: it may show
        what we changed minutes ago. So is whose membership changed: a label alone may not make a
        contact show up."""
        groups = await self._group_ids(afresh=True)
        ours = {groups[name] for name in self._labels.values() if name in groups}
        read: set[str] = set()
        first = began = self._now()
        async for people, onward, last in self._walk(cursor):
            alive = {str(one["resourceName"]): one for one in people if not _deleted(one)}
            marked = {id_ for id_, person in alive.items() if _memberships(person) & ours}
            members = await self._members_of(ours) if last else self._members
            if last:
                marked |= _moved(self._members, members) - read
            found = await self._people(marked)
            read |= marked
            shown = {id_: one for id_, one in alive.items() if id_ not in marked}
            shown |= _by_name(found.values())
            records = tuple(
                (_ref(id_, person), self._record(id_, person, groups, began))
                for id_, person in shown.items()
            )
            yield Page(records, onward, complete=last and cursor is None)
            self._members, began = members, self._now()
            if last and cursor is None:
                self._token, self._fresh_until = onward, first + FRESH

    async def _members_of(self, ours: set[str]) -> dict[str, set[str]]:
        """Each of these labels with its contacts."""
        if not ours:
            return {}
        params = [("resourceNames", id_) for id_ in sorted(ours)]
        params += [("maxMembers", str(MEMBERS))]
        answer = await self._line.read(f"{GROUPS}:batchGet", params)
        shown = [one.get("contactGroup") or {} for one in items(answer, "responses")]
        return {
            str(group.get("resourceName")): set(map(str, group.get("memberResourceNames") or ()))
            for group in shown
        }

    def _record(
        self, id_: str, person: Json, groups: Mapping[str, str], began: datetime
    ) -> Observed:
        return Observed(self._values([person], groups), began, id_, _shown(person))

    async def containers(self) -> Sequence[Container]:
        """None that sends: a label is a mark."""
        return [
            Container(id_, name, sends=False)
            for name, id_ in (await self._group_ids(afresh=True)).items()
        ]


def _answer(ids: Sequence[str], failed: Mapping[str, PropagationError]) -> Answer:
    if not ids:
        return Temporary(GONE)
    return next((failed[id_] for id_ in ids if id_ in failed), Applied())


def _person(response: Json) -> Json | None:
    """Who was read; None for a contact that is not there. Raises Temporary where Google says
    neither."""
    person = response.get("person")
    if isinstance(person, Mapping) and person.get("resourceName"):
        return person
    if response.get("httpStatusCode") == 404 or (response.get("status") or {}).get("code") == 5:
        return None
    raise Temporary("Google left a contact out of its answer")


def _by_name(people: Iterable[Json]) -> dict[str, Json]:
    """By the present resource name, which may not be the one that was asked for."""
    return {str(person["resourceName"]): person for person in people}


def _shown(person: Json) -> Shown:
    pairs = [(Kind.EMAIL, "emailAddresses"), (Kind.PHONE, "phoneNumbers")]
    return tuple(
        (kind, str(item["value"]))
        for kind, name in pairs
        for item in person.get(name) or ()
        if item.get("value")
    )


def _memberships(person: Json) -> set[str]:
    held = (one.get("contactGroupMembership") or {} for one in person.get("memberships") or ())
    return {str(one["contactGroupResourceName"]) for one in held if one}


def _moved(before: Mapping[str, set[str]], now: Mapping[str, set[str]]) -> set[str]:
    """Whoever got or lost a label; with nothing before, whoever has one."""
    return {
        id_
        for group in before.keys() | now.keys()
        for id_ in before.get(group, set()) ^ now.get(group, set())
    }


def _deleted(person: Json) -> bool:
    return bool((person.get("metadata") or {}).get("deleted"))


def _ref(id_: str, person: Json) -> Ref:
    shown = _shown(person)
    kind, value = shown[0] if shown else (None, "")
    return Ref(kind, value, id_)


def _fault(reply: http.Reply) -> PropagationError:
    """https://developers.google.com/people/v1/contacts: decided by `status` and `reason`."""
    try:
        error = json.loads(reply.body).get("error", {})
        reasons = {str(detail.get("reason")) for detail in error.get("details") or ()}
    except (ValueError, AttributeError, TypeError):
        return http.fault_of(reply)
    if reply.status == 404:
        return Missing("Google has no such label")
    if reply.status == 409:
        return Exists("Google has a label of that name")
    if "EXPIRED_SYNC_TOKEN" in reasons:
        return Expired("Google's sync token has expired")
    if error.get("status") == "FAILED_PRECONDITION":
        return Temporary("the contact changed meanwhile; it is read again")
    return http.fault_of(reply)
