"""Google Contacts: a label "No marketing" for each channel, through the People API.

Google sends nothing itself, so a label is `recorded`: it is for the staff who look there and for
tools that mail from there. People are found by an index of the whole listing; the vendor's search
reads a cache that lags. A listing lags too, so what a label says is always read by id. Nothing is
ever deleted: deleting a label can take its contacts along.

https://developers.google.com/people/api/rest/v1/people.connections/list
https://developers.google.com/people/api/rest/v1/contactGroups.members/modify
https://developers.google.com/people/v1/contacts#protocol_1
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import ClassVar

from connectors import http, labels
from connectors.index import Index, Shown
from connectors.line import Json, Line, items
from connectors.oauth import OAuth
from prefs.core.errors import PropagationError, Refused, Temporary
from prefs.core.propagation import (
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
MODIFY = 500
"""People of one `members:modify`; the vendor takes 1,000."""
FRESH = timedelta(seconds=20)
"""So long an index that was brought up to date is not asked for again."""

GONE = "the contact is no longer there; it is looked up again"


class Expired(Refused):
    """A sync token lives 7 days: the listing starts from the beginning."""


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
        self._listing = asyncio.Lock()
        # Mutations of one account must come one after another.
        self._writing = asyncio.Lock()
        self._groups: dict[str, str] | None = None

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
            groups = await self._group_ids()
        except PropagationError as fault:
            return dict.fromkeys(refs, fault)
        return {ref: self._observed(ref, people, groups, began) for ref in refs}

    def _ids(self, ref: Ref) -> list[str]:
        """The records of a ref; one that it names by id may be younger than the index."""
        if ref.kind is None:
            return [ref.vendor_id or ""]
        return self._index.find(ref)

    async def _people(self, ids: Iterable[str]) -> dict[str, Json]:
        """Read by id, and the index corrected by what is read."""
        wanted, found = sorted(filter(None, ids)), {}
        for start in range(0, len(wanted), READ):
            part = wanted[start : start + READ]
            params = [("resourceNames", id_) for id_ in part] + [("personFields", FIELDS)]
            answer = await self._line.read("/v1/people:batchGet", params)
            for item in items(answer, "responses"):
                id_, person = str(item.get("requestedResourceName")), item.get("person")
                if isinstance(person, Mapping):
                    found[id_] = person
                    self._index.put(id_, _shown(person))
                elif item.get("httpStatusCode") == 404:
                    self._index.drop(id_)
                else:
                    raise Temporary("Google left a contact out of its answer")
        return found

    def _observed(
        self, ref: Ref, people: Mapping[str, Json], groups: Mapping[str, str], began: datetime
    ) -> Observed | Absent:
        ids = [id_ for id_ in self._ids(ref) if id_ in people]
        if not ids:
            return Absent(began)
        shown = tuple(dict.fromkeys(one for id_ in ids for one in _shown(people[id_])))
        return Observed(self._values([people[id_] for id_ in ids], groups), began, ids[0], shown)

    def _values(self, people: Sequence[Json], groups: Mapping[str, str]) -> dict[Slot, Seen]:
        memberships = [_memberships(person) for person in people]
        return {
            slot: labels.seen([groups.get(name) in member for member in memberships])
            for slot, name in self._labels.items()
        }

    async def _refresh(self) -> None:
        """Bring the index up to date: everything once, then what changed."""
        async with self._listing:
            if self._token is not None and self._now() < self._fresh_until:
                return
            async for _, _ in self._walk(self._token):
                pass

    async def _walk(self, token: str | None) -> AsyncIterator[tuple[list[Json], str | None]]:
        """Pages of people with the next sync token on the last one; feeds the index."""
        began = self._now()
        try:
            async for people, onward in self._pages(token):
                self._learn(people)
                yield people, onward
                if onward:
                    self._token = onward
        except Expired:
            if token is None:
                raise
            self._token = None
            async for page in self._walk(None):
                yield page
        self._fresh_until = began + FRESH

    async def _pages(self, token: str | None) -> AsyncIterator[tuple[list[Json], str | None]]:
        params = {"personFields": FIELDS, "pageSize": str(PAGE), "requestSyncToken": "true"}
        params |= {"syncToken": token} if token else {}
        seen: list[str] = []
        while True:
            answer = await self._line.read(PEOPLE, params)
            people = items(answer, "connections")
            seen += [str(person["resourceName"]) for person in people]
            onward = answer.get("nextPageToken")
            if not onward and token is None:
                self._index.keep(seen)
            yield people, None if onward else str(answer.get("nextSyncToken") or "")
            if not onward:
                return
            params = {**params, "pageToken": str(onward)}

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
            answer = await self._line.read(GROUPS, {"pageSize": str(PAGE)})
            self._groups = {
                str(one.get("name")): str(one["resourceName"])
                for one in items(answer, "contactGroups")
            }
        return self._groups

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
                failed[str(id_)] = Temporary(
                    "the contact is no longer there; it is looked up again"
                )
            for id_ in answer.get("canNotRemoveLastContactGroupResourceNames") or ():
                failed[str(id_)] = Refused("Google keeps a contact in its last label")
        return failed

    async def _group(self, name: str, *, make: bool) -> str | None:
        found = (await self._group_ids()).get(name) or (await self._group_ids(afresh=True)).get(
            name
        )
        if found or not make:
            return found
        async with self._writing:
            answer = await self._line.write(
                "POST", GROUPS, {"contactGroup": {"name": name}}, repeat=False
            )
        self._groups = None
        return str(answer["resourceName"])

    # --- walking -------------------------------------------------------------------------------

    async def scan(self, cursor: str | None) -> AsyncIterator[Page]:
        """Everybody, or what changed since. Whom the listing shows with a label is read by id
        before it is believed: it may show what we changed minutes ago."""
        groups = await self._group_ids(afresh=True)
        async for people, onward in self._walk(cursor):
            began = self._now()
            alive = {str(p["resourceName"]): p for p in people if not _deleted(p)}
            ours = {groups[name] for name in self._labels.values() if name in groups}
            marked = [id_ for id_, person in alive.items() if _memberships(person) & ours]
            alive |= await self._people(marked)
            records = tuple(
                (_ref(id_, person), self._record(id_, person, groups, began))
                for id_, person in alive.items()
            )
            yield Page(records, onward, complete=onward is not None)

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
    except (ValueError, AttributeError):
        return http.fault_of(reply)
    if "EXPIRED_SYNC_TOKEN" in reasons:
        return Expired("Google's sync token has expired")
    if error.get("status") == "FAILED_PRECONDITION":
        return Temporary("the contact changed meanwhile; it is read again")
    return http.fault_of(reply)
