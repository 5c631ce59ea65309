"""Xero: a contact group "No marketing" for each channel.

Xero holds no preference and enforces none: a group is a mark for staff, exports and mail merges,
so an opt-out is `recorded`. Invoices, statements and their reminders ignore groups. The call that
empties a whole group is never among the writes.

https://developer.xero.com/documentation/api/accounting/contactgroups
https://developer.xero.com/documentation/api/accounting/contacts
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import ClassVar, NamedTuple

from connectors import http, labels
from connectors.index import Index, Shown
from connectors.line import Json, items
from connectors.xero_line import AT_ONCE, Invalid, Missing, connect, once
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
    Local,
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

BASE = "/api.xro/2.0"
CONTACTS = f"{BASE}/Contacts"
GROUPS = f"{BASE}/ContactGroups"
UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
PAGE = 1000
"""Asked for; the vendor's page names 100, so that a page may be shorter than that."""
ORDER = "ContactID ASC"
"""By date, a contact that changes meanwhile would push another one off the next page."""
BATCH = 100
ALONE = 4
"""So many contacts are read one by one; more by reading each group."""
OVERLAP = timedelta(minutes=5)
FRESH = timedelta(seconds=20)
"""So long an index that was brought up to date is not asked for again."""
REFUSED = "Xero refuses this contact"
GONE = "the contact is no longer there; it is looked up again"
ARCHIVED = "archived in Xero, which takes no archived contact into a group: recorded here alone"
NO_GROUP = "Xero refuses to make our group: one differs in capitals only, or there are 100 already"
LACKS = "Xero's answer lacks what was asked for"
ACTIVE = "ACTIVE"
FAX = "FAX"

Held = set[str] | PropagationError
"""The names of the groups that a contact is in, or why they are unknown."""


class Group(NamedTuple):
    name: str
    id: str


class Xero:
    """One organisation. `place` of a slot: `label:<channel>`."""

    facts: ClassVar[Facts] = Facts(
        system="xero",
        channels=frozenset(Channel),
        keys_on=(Kind.EMAIL, Kind.PHONE),
        splits_topics=False,
        read_batch=BATCH,
        write_batch=BATCH,
        off_reversible=True,
        readback=Readback.DIRECT,
        call_alive=30.0,
        limit=Limit(60, 60.0),
        writes=(
            ("PUT", GROUPS),
            ("PUT", rf"{GROUPS}/{UUID}/Contacts"),
            ("DELETE", rf"{GROUPS}/{UUID}/Contacts/{UUID}"),
        ),
        source_url="https://developer.xero.com/documentation/api/accounting/contactgroups",
    )
    KEYS: ClassVar[Mapping[str, Key]] = {
        "client_id": Key("text", required=True, help="Client id of a custom connection."),
        "client_secret": Key("secret", required=True, help="Client secret of it."),
        "tenant": Key("text", required=True, help="Tenant id of the organisation."),
        "groups": Key("table", help="Channel = contact group; default No marketing - CHANNEL."),
        "webhook_secret": Key("secret", help="Signing key of the webhook."),
    }

    def __init__(self, target: Target, budget: Budget, now: Callable[[], datetime]) -> None:
        self._now = now
        self._labels = labels.slots(labels.names(target, "groups"))
        self._line, self._identity = connect(target, budget, self.facts.writes, now)
        self._index = Index(target.region)
        self._since: datetime | None = None
        self._fresh_until = now()
        # Apart, so that no out waits behind a poll that leaves it half of the budget.
        self._listing = {urgent: asyncio.Lock() for urgent in (True, False)}
        self._groups: dict[str, str] | None = None
        self._archived: set[str] = set()
        self._marked: dict[str, set[str]] = {}
        """Group name -> its contacts, as the last scan of this process found them."""

    @property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(self._labels)

    async def close(self) -> None:
        await self._line.close()
        await self._identity.close()

    # --- reading -------------------------------------------------------------------------------

    async def observe(self, refs: Sequence[Ref]) -> Mapping[Ref, Observed | Absent | Failure]:
        began = self._now()
        try:
            await self._refresh()
            held = await self._held({id_ for ref in refs for id_ in self._ids(ref)})
        except PropagationError as fault:
            return dict.fromkeys(refs, fault)
        return {ref: self._observed(ref, held, began) for ref in refs}

    def _ids(self, ref: Ref) -> list[str]:
        if ref.kind is None or not ref.value:
            return [id_] if re.fullmatch(UUID, id_ := ref.vendor_id or "") else []
        return self._index.find(ref)

    async def _held(self, ids: Iterable[str]) -> dict[str, Held]:
        """By contact id; one that is not there is left out."""
        wanted = sorted(ids)
        alone = [i for i in wanted if len(wanted) <= ALONE or not self._index.shown(i)]
        read = await http.spread(alone, self._contact, AT_ONCE)
        held = {id_: one for id_, one in zip(alone, read, strict=True) if one is not None}
        if len(alone) < len(wanted):
            members = await self._members()
            held |= {id_: _groups_of(id_, members) for id_ in set(wanted) - set(alone)}
        return held

    async def _contact(self, id_: str) -> set[str] | None:
        """The names of its groups; None where there is no such contact."""
        try:
            answer = await self._line.read(f"{CONTACTS}/{id_}")
        except Missing:
            self._index.drop(id_)
            return None
        contact = _only(answer, "Contacts")
        groups = _listed(contact, "ContactGroups", ACTIVE)
        self._learn(id_, contact)
        return {str(group.get("Name")) for group in groups}

    def _learn(self, id_: str, contact: Json) -> None:
        self._index.put(id_, _shown(contact))
        gone = contact.get("ContactStatus", ACTIVE) != ACTIVE
        (self._archived.add if gone else self._archived.discard)(id_)

    async def _members(self) -> dict[str, set[str]]:
        """Each of our groups with the ids of its contacts."""
        known = await self._group_ids(afresh=True)
        members: dict[str, set[str]] = {}
        for name in self._labels.values():
            if name in known:
                group = _only(await self._line.read(f"{GROUPS}/{known[name]}"), "ContactGroups")
                members[name] = {_id(one, "ContactID") for one in _listed(group, "Contacts")}
        return members

    def _observed(
        self, ref: Ref, held: Mapping[str, Held], began: datetime
    ) -> Observed | Absent | Failure:
        """Archived contacts count only where there is no other: Xero may refuse to mark them."""
        found = [id_ for id_ in self._ids(ref) if id_ in held]
        if not found:
            return Absent(began)
        ids = [id_ for id_ in found if id_ not in self._archived] or found
        groups = [held[id_] for id_ in ids]
        known = [one for one in groups if not isinstance(one, PropagationError)]
        if len(known) < len(groups):
            return next(one for one in groups if isinstance(one, PropagationError))
        shown = tuple(dict.fromkeys(one for id_ in ids for one in self._index.shown(id_)))
        return Observed(self._values(known), began, ids[0], shown)

    def _values(self, held: Sequence[set[str]]) -> dict[Slot, Seen]:
        return {
            slot: labels.seen([name in groups for groups in held])
            for slot, name in self._labels.items()
        }

    async def _refresh(self) -> None:
        """Bring the index up to date: everything once, then what changed. No contact can be
        deleted, so that none leaves it but by a 404."""
        async with self._listing[URGENT.get()]:
            if self._since is not None and self._now() < self._fresh_until:
                return
            began = self._now()
            async for _ in self._pages(self._since):
                pass
            self._groups = None
            self._since, self._fresh_until = began - OVERLAP, began + FRESH

    async def _pages(self, since: datetime | None) -> AsyncIterator[tuple[list[str], bool]]:
        """Ids of contacts by pages, archived ones too; the second of each pair marks the last
        page."""
        headers = {"If-Modified-Since": since.strftime("%Y-%m-%dT%H:%M:%S")} if since else None
        params = {"order": ORDER, "pageSize": str(PAGE), "includeArchived": "true"}
        page, last, seen = 0, False, set[str]()
        while not last:
            page += 1
            answer = await self._line.read(CONTACTS, {**params, "page": str(page)}, headers)
            contacts = {_id(one, "ContactID"): one for one in _listed(answer, "Contacts")}
            last = _is_last(answer, contacts, page)
            if contacts and contacts.keys() <= seen:
                raise Temporary("Xero's pages do not go on")
            for id_, contact in contacts.items():
                self._learn(id_, contact)
            seen |= contacts.keys()
            yield list(contacts), last

    async def _group_ids(self, *, afresh: bool = False) -> dict[str, str]:
        """Group name -> its id."""
        if self._groups is None or afresh:
            listed = _listed(await self._line.read(GROUPS), "ContactGroups", ACTIVE)
            self._groups = {str(one.get("Name")): _id(one, "ContactGroupID") for one in listed}
        return self._groups

    # --- writing -------------------------------------------------------------------------------

    async def apply(self, changes: Sequence[Change]) -> Mapping[Change, Answer]:
        answers: dict[Change, Answer] = {}
        for slot, name in self._labels.items():
            outs = [one for one in changes if one.slot == slot and one.to is Wish.OFF]
            ins = [one for one in changes if one.slot == slot and one.to is Wish.ON]
            answers |= await self._add(name, outs) if outs else {}
            answers |= await self._remove(name, ins) if ins else {}
        return answers

    async def _add(self, name: str, changes: Sequence[Change]) -> dict[Change, Answer]:
        """All in one call. Archived contacts go apart: one of them has a whole call refused."""
        try:
            await self._refresh()
            group = await self._group(name)
            ids = {change: self._ids(change.ref) for change in changes}
            wanted = sorted({id_ for some in ids.values() for id_ in some})
            done = await self._put(group, [i for i in wanted if i not in self._archived])
            done |= await self._put_archived(group, [i for i in wanted if i in self._archived])
        except Missing:
            self._groups = None
            return dict.fromkeys(changes, Temporary("the group is gone; it is looked up again"))
        except PropagationError as fault:
            return dict.fromkeys(changes, fault)
        answers = {change: _answer(ids[change], done) for change in changes}
        return {change: answer for change, answer in answers.items() if answer is not None}

    async def _put(self, group: Group, ids: Sequence[str]) -> dict[str, Answer]:
        """Contact id -> what became of it; one that the reply does not name is left out. Where
        Xero refuses the call, each half of it, so that one contact costs nobody else."""
        if not ids:
            return {}
        try:
            return await self._put_together(group, ids)
        except Invalid as fault:
            if len(ids) == 1:
                return {ids[0]: await self._refusal(group, ids[0], fault)}
        middle = len(ids) // 2
        done = await self._put(group, ids[:middle])
        return done | await self._put(group, ids[middle:])

    async def _put_archived(self, group: Group, ids: Sequence[str]) -> dict[str, Answer]:
        """Out of use in Xero, so that only our own check is left to guard them. That Xero takes
        none is not on its pages; seen in https://github.com/calcinai/xero-php/issues/525."""
        try:
            return await self._put_together(group, ids) if ids else {}
        except Invalid:
            return dict.fromkeys(ids, Local(ARCHIVED))

    async def _put_together(self, group: Group, ids: Sequence[str]) -> dict[str, Answer]:
        path = f"{GROUPS}/{group.id}/Contacts"
        body = {"Contacts": [{"ContactID": id_} for id_ in ids]}
        answer = await self._line.write("PUT", path, body, headers=once(), repeat=True)
        return {
            str(one.get("ContactID")): (
                Invalid(REFUSED) if one.get("HasValidationErrors") else Applied()
            )
            for one in items(answer, "Contacts")
        }

    async def _refusal(self, group: Group, id_: str, fault: Invalid) -> Answer:
        """What stands behind a refusal: the contact may be gone or archived since, or be in the
        group already."""
        groups = await self._contact(id_)
        if groups is None:
            return Temporary(GONE)
        if group.name in groups:
            return Applied()
        return Local(ARCHIVED) if id_ in self._archived else fault

    async def _remove(self, name: str, changes: Sequence[Change]) -> dict[Change, Answer]:
        try:
            await self._refresh()
            group = (await self._group_ids()).get(name)
        except PropagationError as fault:
            return dict.fromkeys(changes, fault)
        if group is None:
            return dict.fromkeys(changes, Applied())

        async def remove(change: Change) -> Answer:
            ids = self._ids(change.ref)
            for id_ in ids:
                await self._delete(group, id_)
            return Applied() if ids else Temporary(GONE)

        return dict(zip(changes, await http.spread(changes, remove, AT_ONCE), strict=True))

    async def _delete(self, group: str, id_: str) -> None:
        """Without a contact's id this path would empty the whole group."""
        if not (re.fullmatch(UUID, group) and re.fullmatch(UUID, id_)):
            raise Refused("no contact id: nothing is removed")
        path = f"{GROUPS}/{group}/Contacts/{id_}"
        try:
            await self._line.write("DELETE", path, repeat=False, empty=True)
        except Missing:  # not in the group; or the group itself is another one by now
            self._groups = None

    async def _group(self, name: str) -> Group:
        known = await self._group_ids()
        if name not in known:
            known = await self._group_ids(afresh=True)
        return Group(name, known.get(name) or await self._made(name))

    async def _made(self, name: str) -> str:
        """The id of a new group, or of one that somebody else made meanwhile."""
        body = {"ContactGroups": [{"Name": name}]}
        try:
            answer = await self._line.write("PUT", GROUPS, body, headers=once(), repeat=True)
        except Invalid:
            if found := (await self._group_ids(afresh=True)).get(name):
                return found
            raise Refused(NO_GROUP) from None
        finally:
            self._groups = None
        return _id(_only(answer, "ContactGroups"), "ContactGroupID")

    # --- walking -------------------------------------------------------------------------------

    async def scan(self, cursor: str | None) -> AsyncIterator[Page]:
        """Everybody, or who changed since, and always whoever got into one of our groups or left
        it: a change of a group may not move a contact's date."""
        if cursor:
            await self._refresh()
        began = self._now()
        members = await self._members()
        seen: set[str] = set()
        async for ids, last in self._pages(datetime.fromisoformat(cursor) if cursor else None):
            seen |= set(ids)
            moved = sorted(_moved(self._marked, members) - seen) if last else []
            records = tuple(self._record(id_, members, began) for id_ in (*ids, *moved))
            onward = (began - OVERLAP).isoformat() if last else None
            yield Page(records, onward, complete=last and cursor is None)
        self._marked = members
        if cursor is None:
            self._since, self._fresh_until = began - OVERLAP, began + FRESH

    def _record(
        self, id_: str, members: Mapping[str, set[str]], began: datetime
    ) -> tuple[Ref, Observed]:
        shown = self._index.shown(id_)
        kind, value = shown[0] if shown else (None, "")
        values = self._values([_groups_of(id_, members)])
        return Ref(kind, value, id_), Observed(values, began, id_, shown)

    async def containers(self) -> Sequence[Container]:
        """None that sends: a group is a mark."""
        known = await self._group_ids(afresh=True)
        return [Container(id_, name, sends=False) for name, id_ in known.items()]


def _listed(answer: Json, name: str, status: str | None = None) -> list[Json]:
    """A list of objects, those of a status only where one is given. Raises Temporary where there
    is none: Xero sends empty ones, too."""
    if name not in answer:
        raise Temporary(LACKS)
    found = items(answer, name)
    return [one for one in found if status is None or one.get("Status", status) == status]


def _only(answer: Json, name: str) -> Json:
    """The one object of a list. Raises Temporary for none or several."""
    found = _listed(answer, name)
    if len(found) != 1:
        raise Temporary(LACKS)
    return found[0]


def _id(one: Json, name: str) -> str:
    """Raises Temporary where it is no id: it becomes part of a path."""
    if not re.fullmatch(UUID, found := str(one.get(name))):
        raise Temporary(LACKS)
    return found


def _is_last(answer: Json, contacts: Mapping[str, Json], page: int) -> bool:
    """As the answer counts its pages; where it does not, an empty page ends the walk."""
    pages = answer.get("pagination")
    count = pages.get("pageCount") if isinstance(pages, Mapping) else None
    return page >= count if isinstance(count, int) else not contacts


def _groups_of(id_: str, members: Mapping[str, set[str]]) -> set[str]:
    return {name for name, ids in members.items() if id_ in ids}


def _moved(before: Mapping[str, set[str]], now: Mapping[str, set[str]]) -> set[str]:
    """Whoever got into a group or left it; with nothing before, whoever is in one."""
    return {
        id_
        for name in before.keys() | now.keys()
        for id_ in before.get(name, set()) ^ now.get(name, set())
    }


def _answer(ids: Sequence[str], done: Mapping[str, Answer]) -> Answer | None:
    """Of all contacts that one address stands for: the first refusal; None where the reply left
    one out. An archived one counts only where there is no other."""
    if not ids:
        return Temporary(GONE)
    if any(id_ not in done for id_ in ids):
        return None
    answers = [done[id_] for id_ in ids]
    refused = next((one for one in answers if isinstance(one, PropagationError)), None)
    return refused or next((one for one in answers if isinstance(one, Applied)), answers[0])


def _shown(contact: Json) -> Shown:
    """Its own address and numbers, and the addresses of its contact persons."""
    addresses = [contact.get("EmailAddress")]
    addresses += [one.get("EmailAddress") for one in contact.get("ContactPersons") or ()]
    phones = [one for one in contact.get("Phones") or () if one.get("PhoneType") != FAX]
    numbers = [_number(phone) for phone in phones]
    pairs = [(Kind.EMAIL, one) for one in addresses] + [(Kind.PHONE, one) for one in numbers]
    return tuple((kind, str(text)) for kind, text in pairs if text)


def _number(phone: Json) -> str:
    """Xero splits a number in three: country code, area code, number. People write all of it into
    the last one, too."""
    parts = ("PhoneCountryCode", "PhoneAreaCode", "PhoneNumber")
    country, area, number = (str(phone.get(part) or "").strip() for part in parts)
    if not number or number.startswith(("+", "00")):
        return number
    prefix = f"+{country.lstrip('+0')}" if country.strip("+0") else ""
    return " ".join(part for part in (prefix, area, number) if part)
