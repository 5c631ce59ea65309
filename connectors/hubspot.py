"""HubSpot: subscription types by address (API v4, httpx), contacts by the vendor's SDK.

Preferences belong to the email address, not to the contact; an address without a contact holds
them too. Unsubscribe-all beats every type, reminders included: it is read, never written and
never lifted.

https://developers.hubspot.com/docs/api-reference/latest/communication-preferences/guide
https://developers.hubspot.com/docs/api-reference/crm-contacts-v3/guide
https://developers.hubspot.com/docs/developer-tooling/platform/usage-guidelines
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote

from connectors import http
from connectors.hubspot_line import (
    BATCH,
    DEFINITIONS,
    STATUSES,
    WRITES,
    Forbidden,
    Json,
    Line,
    Now,
    following,
    results,
    words,
)
from prefs.core.errors import PropagationError, Refused, SettingsError, Temporary
from prefs.core.propagation import (
    Absent,
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
    Proves,
    Readback,
    Ref,
    Seen,
    Slot,
    Target,
    Value,
    Wish,
    proof_of,
)
from prefs.core.words import Basis, Channel, Kind, Purpose, Source

Answer = Applied | Local | Failure
T = TypeVar("T")
R = TypeVar("R")

EMAIL = {"channel": "EMAIL"}
AT_ONCE = 8
"""Calls side by side where there is no bulk call."""
WHOLE_CHANNEL = "*"
"""In `types`: this type is all of email marketing, not one topic."""
MARK_PLACE = "property:"

OURS = {"SUBSCRIBED": Value.ON, "UNSUBSCRIBED": Value.OFF, "NOT_SPECIFIED": Value.UNSET}
THEIRS = {Wish.ON: "SUBSCRIBED", Wish.OFF: "UNSUBSCRIBED"}

# What a contact property of ours holds; HubSpot enforces none of it.
MARKS = {"opted_out": Value.OFF, "opted_in": Value.ON, "": Value.UNSET}
MARK = {Wish.OFF: "opted_out", Wish.ON: "opted_in"}

# How the free text `source` of a status begins; a word that is not here names nobody.
# https://developers.hubspot.com/docs/api-reference/legacy/communication-preferences/v1/get-subscriptions-timeline
SOURCES = {
    "SOURCE_RECIPIENT": Source.VENDOR_PERSON,
    "SOURCE_HUBSPOT_CUSTOMER": Source.VENDOR_ADMIN,
    "Public status API": Source.VENDOR_API,
}

NO_CONSENT = frozenset(
    {
        "LEGITIMATE_INTEREST_PQL",
        "LEGITIMATE_INTEREST_CLIENT",
        "LEGITIMATE_INTEREST_OTHER",
        "PERFORMANCE_OF_CONTRACT",
    }
)
BY_PERSON = "by the person, on a page or form of HubSpot"

# https://developers.hubspot.com/docs/api-reference/latest/communication-preferences/status/update-subscription
LEGAL_BASES = {
    Basis.CONSENT: "CONSENT_WITH_NOTICE",
    Basis.SOFT_OPT_IN: "LEGITIMATE_INTEREST_CLIENT",
    Basis.LEGITIMATE_INTEREST: "LEGITIMATE_INTEREST_OTHER",
}

PASSING = frozenset({"RATE_LIMITS", "INTERNAL_ERROR", "SERVICE_UNAVAILABLE"})
"""Categories of a bulk call's item errors that a later try may get past."""
MARKABLE = frozenset({"sms", "phone", "post", "messenger"})
PHONES = ("phone", "mobilephone")

OVERLAP = timedelta(minutes=5)
"""HubSpot's search index lags: a walk of changes starts this much before the last one began."""
WALK_ALL_EVERY = timedelta(hours=24)
MOST_FOUND = 10_000
"""Most results of one search, over all its pages."""


@dataclass(frozen=True, slots=True)
class Statuses:
    """What HubSpot holds for one address: a status a type, and its unsubscribes from all."""

    began: datetime
    types: Mapping[str, Json]
    wide: Sequence[Json]

    def all_out(self, place: str) -> Json | None:
        """The unsubscribe-all that covers this type: of the account, or of its business unit."""
        unit = self.types.get(place, {}).get("businessUnitId")
        covering = (item for item in self.wide if _ours(OURS, item.get("status")) is Value.OFF)
        return next((item for item in covering if _covers(item, unit)), None)


@dataclass(frozen=True, slots=True)
class Contact:
    began: datetime
    id: str
    properties: Mapping[str, str]

    @property
    def email(self) -> str:
        return self.properties.get("email", "")

    @property
    def ref(self) -> Ref:
        return Ref(Kind.EMAIL if self.email else None, self.email, self.id)


class HubSpot:
    """The connector. `place` of a slot: the subscription type's id, or `property:<name>`."""

    KEYS: ClassVar[Mapping[str, Key]] = {
        "token": Key("secret", help="Access token of a private app; or the three OAuth keys."),
        "client_id": Key("text", help="OAuth: client id of the app."),
        "client_secret": Key("secret", help="OAuth: client secret of the app."),
        "refresh_token": Key("secret", help="OAuth: refresh token of this account."),
        "types": Key("table", help='Marketing subscription type = topic; "*" = all of email.'),
        "reminder_types": Key("list", help="Subscription types of reminders: never written."),
        "signing_secret": Key("secret", help="Client secret that signs the webhooks."),
        "signatures": Key("list", help='Signature versions taken; default ["v3"].'),
        "properties": Key("table", help="Channel = text property (opted_out, opted_in, empty)."),
    }
    facts = Facts(
        system="hubspot",
        channels=frozenset(Channel),
        keys_on=(Kind.EMAIL,),
        splits_topics=True,
        read_batch=BATCH,
        write_batch=BATCH,
        off_reversible=True,
        readback=Readback.DIRECT,
        call_alive=30.0,
        limit=Limit(100, 10.0),
        beside=4,
        writes=WRITES,
        source_url="https://developers.hubspot.com/docs/api-reference/latest/communication-preferences/guide",
        proves=Proves.READ,
    )

    def __init__(self, target: Target, budget: Budget, now: Now) -> None:
        _check(target)
        self._now = now
        self._types = _type_slots(target)
        self._marks = _mark_slots(target)
        self._reminders = tuple(
            Slot(str(place), Channel.EMAIL, Purpose.REMINDERS)
            for place in target.options.get("reminder_types") or ()
        )
        self._properties = _properties(self._types, self._marks)
        self._line = Line(target, budget, now)
        self._bulk_reads = self._bulk_writes = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (*self._types.values(), *self._marks)

    async def close(self) -> None:
        await self._line.close()

    async def containers(self) -> Sequence[Container]:
        """Every subscription type; HubSpot's internal ones (one-to-one mail) count as inactive."""
        found = await self._line.read("GET", DEFINITIONS)
        return [_container(item) for item in results(found)]

    # --- reading -------------------------------------------------------------------------------

    async def observe(self, refs: Sequence[Ref]) -> Mapping[Ref, Observed | Absent | Failure]:
        """Reminder types come along as `silent` slots that nothing plans: their `fact` says that
        an unsubscribe-all keeps reminders from this address."""
        answers: dict[Ref, Observed | Absent | Failure] = {}
        for chunk in _chunks(refs):
            asked = [ref for ref in chunk if self._marks or not _address(ref)]
            answers |= await self._observe(chunk, await _each(self._contact, asked))
        return answers

    async def _observe(
        self, refs: Sequence[Ref], contacts: Mapping[Ref, Contact | Absent | Failure]
    ) -> dict[Ref, Observed | Absent | Failure]:
        addresses = {ref: _address(ref, contacts.get(ref)) for ref in refs}
        statuses = await self._statuses([address for address in addresses.values() if address])

        async def answer(ref: Ref) -> Observed | Absent:
            contact, status = contacts.get(ref), statuses.get(addresses[ref])
            return await self._answer(ref, _good(contact), _good(status))

        return await _each(answer, refs)

    async def _answer(
        self, ref: Ref, contact: Contact | Absent | None, statuses: Statuses | None
    ) -> Observed | Absent:
        """Where nothing was ever chosen, only a contact makes an address known there."""
        values = self._type_values(statuses) if statuses else {}
        untouched = all(seen.value is Value.UNSET for seen in values.values())
        if contact is None and untouched:
            contact = await self._contact(ref)
        if isinstance(contact, Absent):
            if untouched:
                return contact
            contact = None
        values |= self._mark_values(contact) if contact else {}
        began = min(part.began for part in (contact, statuses) if part)
        if not values:
            return Absent(began)
        values |= self._reminder_values(statuses) if statuses else {}
        vendor_id = contact.id if contact else ref.vendor_id
        return Observed(values, began, vendor_id, _identifiers(ref, contact))

    async def _contact(self, ref: Ref) -> Contact | Absent:
        """The contact by address where the ref has one, else by its id."""
        if ref.kind not in (Kind.EMAIL, None):
            raise Refused("HubSpot finds people by email address or contact id only")
        began = self._now()
        found = await self._line.contact(ref.value, ref.vendor_id, self._properties)
        return _contact(found, began) if found else Absent(began)

    async def _statuses(self, addresses: Sequence[str]) -> dict[str, Statuses | Failure]:
        """What a bulk read does not name (left out, or refused there) is read alone."""
        addresses = list(dict.fromkeys(addresses)) if self._types else []
        found: dict[str, Statuses | Failure] = {}
        if len(addresses) > 1 and self._bulk_reads:
            found |= await self._statuses_in_bulk(addresses)
        alone = [address for address in addresses if address not in found]
        return found | await _each(self._statuses_of, alone)

    async def _statuses_of(self, address: str) -> Statuses:
        began = self._now()
        types = await self._types_of(address)
        wide = [] if self._all_off(types) else await self._wide_of(address)
        return Statuses(began, types, wide)

    async def _types_of(self, address: str) -> dict[str, Json]:
        return _by_type(_whole(await self._line.read("GET", _path(address), EMAIL)))

    async def _wide_of(self, address: str) -> list[Json]:
        path = f"{_path(address)}/unsubscribe-all"
        return _whole(await self._line.read("GET", path, EMAIL))

    def _all_off(self, types: Mapping[str, Json]) -> bool:
        """An unsubscribe from all would tell nothing more of this address: each of our types is off
        by itself, and there is no reminder that it would stop. One call of five is saved so."""
        states = (types.get(place, {}).get("status") for place in self._types)
        return not self._reminders and all(state == THEIRS[Wish.OFF] for state in states)

    async def _statuses_in_bulk(self, addresses: Sequence[str]) -> dict[str, Statuses | Failure]:
        began, keys = self._now(), {address: address.casefold() for address in addresses}
        try:
            typed = await self._typed(addresses)
            off = {key: list[Json]() for key, types in typed.items() if self._all_off(types)}
            widely = off | await self._widely([one for one in addresses if keys[one] not in off])
        except Forbidden:
            self._bulk_reads = False
            return {}
        except PropagationError as failure:
            return dict.fromkeys(addresses, failure)
        return {
            address: Statuses(began, typed[key], widely[key])
            for address, key in keys.items()
            if key in typed and key in widely
        }

    async def _typed(self, addresses: Sequence[str]) -> dict[str, dict[str, Json]]:
        body = {"inputs": list(addresses)}
        answer = await self._line.read("POST", f"{STATUSES}/batch/read", EMAIL, body)
        return {key: _by_type(of) for key, of in _by_address(answer, "statuses").items()}

    async def _widely(self, addresses: Sequence[str]) -> dict[str, list[Json]]:
        if not addresses:
            return {}
        path, body = f"{STATUSES}/batch/unsubscribe-all/read", {"inputs": list(addresses)}
        return _by_address(await self._line.read("POST", path, EMAIL, body), "wideStatuses")

    def _type_values(self, statuses: Statuses) -> dict[Slot, Seen]:
        return {slot: _seen(statuses, slot.place) for slot in self._types.values()}

    def _mark_values(self, contact: Contact) -> dict[Slot, Seen]:
        return {
            slot: Seen(_ours(MARKS, contact.properties.get(_property(slot), ""), slot.place))
            for slot in self._marks
        }

    def _reminder_values(self, statuses: Statuses) -> dict[Slot, Seen]:
        return {
            slot: Seen(Value.SILENT, fact="blocked" if statuses.all_out(slot.place) else None)
            for slot in self._reminders
        }

    # --- writing -------------------------------------------------------------------------------

    async def apply(self, changes: Sequence[Change]) -> Mapping[Change, Answer]:
        """Refuses a slot that is not configured here: reminder types are never written."""
        ours = frozenset(self.slots)
        types = [change for change in changes if change.slot in ours and _is_type(change.slot)]
        marks = [change for change in changes if change.slot in ours and not _is_type(change.slot)]
        answers: dict[Change, Answer] = {
            change: Refused("not one of this target's marketing slots")
            for change in changes
            if change.slot not in ours
        }
        for chunk in _chunks([change for change in types if change.to is Wish.OFF]):
            answers |= await self._unsubscribe(chunk)
        ons = [change for change in types if change.to is Wish.ON]
        answers |= _taken(await _each(self._subscribe, ons))
        for to in (Wish.OFF, Wish.ON):
            for chunk in _chunks([change for change in marks if change.to is to]):
                answers |= await self._mark(chunk, repeat=to is Wish.OFF)
        return answers

    async def _unsubscribe(self, changes: Sequence[Change]) -> dict[Change, Answer]:
        if len(changes) > 1 and self._bulk_writes:
            try:
                return await self._unsubscribe_in_bulk(changes)
            except Forbidden:
                self._bulk_writes = False
        return _taken(await _each(self._unsubscribe_one, changes))

    async def _unsubscribe_in_bulk(self, changes: Sequence[Change]) -> dict[Change, Answer]:
        addresses, answers = _split(await _each(self._written_to, changes), str)
        if not addresses:
            return answers
        inputs = [
            {"subscriberIdString": address, **_status(change)}
            for change, address in addresses.items()
        ]
        try:
            reply = await self._line.write(f"{STATUSES}/batch/write", {"inputs": inputs})
        except Forbidden:
            raise
        except PropagationError as failure:
            return answers | dict.fromkeys(addresses, failure)
        return answers | _named(reply, addresses)

    async def _unsubscribe_one(self, change: Change) -> Answer | None:
        return await self._set(change, await self._written_to(change))

    async def _subscribe(self, change: Change) -> Answer | None:
        """Unsubscribe-all is the person's own and covers reminders too: no `on` goes past it."""
        address = await self._written_to(change)
        types, wide = await self._types_of(address), await self._wide_of(address)
        statuses = Statuses(self._now(), types, wide)
        if statuses.all_out(change.slot.place):
            raise Refused("unsubscribed from all email at HubSpot: only the person can lift that")
        return await self._set(change, address)

    async def _set(self, change: Change, address: str) -> Answer | None:
        repeat = change.to is Wish.OFF
        reply = await self._line.write(_path(address), _status(change), repeat=repeat)
        return _named(reply, {change: address}).get(change)

    async def _written_to(self, change: Change) -> str:
        address = _address(change.ref)
        if not address:
            address = _address(change.ref, await self._contact(change.ref))
        if not address:
            raise Refused("HubSpot has no such contact, or no address of it")
        return address

    async def _mark(self, changes: Sequence[Change], *, repeat: bool) -> dict[Change, Answer]:
        """Sets our properties of contacts that exist: an upsert would create the others."""
        contacts, answers = _split(await _each(self._holder, changes), Contact)
        if not contacts:
            return answers
        try:
            reply = await self._line.upsert(_upserts(contacts), repeat=repeat)
        except PropagationError as failure:
            return answers | dict.fromkeys(contacts, failure)
        return answers | _upserted(reply, contacts)

    async def _holder(self, change: Change) -> Contact | Local:
        contact = await self._contact(change.ref)
        if isinstance(contact, Absent) or not contact.email:
            return Local("HubSpot has no contact with an address that could hold this")
        return contact

    # --- walking -------------------------------------------------------------------------------

    async def scan(self, cursor: str | None) -> AsyncIterator[Page]:
        """All contacts once a day, else those changed since the last walk began.

        An address without a contact is invisible here: HubSpot lists no statuses.
        """
        walk: Walk | None = Walk.start(cursor, self._now())
        while walk:
            began = self._now()
            answer = await self._line.page(walk.since, walk.after, self._properties)
            items, after = results(answer), following(answer)
            records = await self._records([_contact(item, began) for item in items])
            walk = replace(walk, whole=walk.whole and len(records) == len(items))
            onward = walk.following(after, items)
            complete = onward is None and walk.since is None and walk.whole
            yield Page(tuple(records), (onward or walk.rest()).text, complete)
            walk = onward

    async def _records(self, contacts: Sequence[Contact]) -> list[tuple[Ref, Observed]]:
        """A contact's properties tell that somebody is out, but not who did it and when: those are
        read from the address. A record that HubSpot describes in unknown words is left out."""
        out = {contact.ref: contact for contact in contacts if self._maybe_out(contact)}
        reads = await self._observe(list(out), out)
        reads |= {one.ref: self._listed(one) for one in contacts if one.ref not in out}
        for read in reads.values():
            if isinstance(read, PropagationError) and not isinstance(read, Refused):
                raise read
        good = {ref: read for ref, read in reads.items() if isinstance(read, Observed)}
        return [(ref, self._ours(read)) for ref, read in good.items()]

    def _maybe_out(self, contact: Contact) -> bool:
        names = ("hs_email_optout", *map(_optout, self._types))
        words = {contact.properties.get(name, "").lower() for name in names}
        return bool(contact.email) and not words <= {"", "false"}

    def _listed(self, contact: Contact) -> Observed | Failure:
        touched = {
            slot: Value.ON if contact.properties.get(_optout(place)) else Value.UNSET
            for place, slot in self._types.items()
            if contact.email
        }
        values = {slot: Seen(value) for slot, value in touched.items()}
        try:
            values |= self._mark_values(contact)
        except Refused as failure:
            return failure
        return Observed(values, contact.began, contact.id, _identifiers(contact.ref, contact))

    def _ours(self, read: Observed) -> Observed:
        values = {slot: seen for slot, seen in read.values.items() if slot in self.slots}
        return replace(read, values=values)


@dataclass(frozen=True, slots=True)
class Walk:
    """Where a scan stands. Times are ISO texts; `text` is the cursor."""

    all_began: str
    """When the last walk of all contacts began."""
    began: str
    since: str | None = None
    """Changes since then; None walks all contacts."""
    after: str | None = None
    whole: bool = True
    """No record had to be left out so far."""

    @classmethod
    def start(cls, cursor: str | None, now: datetime) -> Walk:
        fresh = cls(now.isoformat(), now.isoformat())
        walk = cls(**json.loads(cursor)) if cursor else fresh
        if walk.after:
            return walk
        if now - datetime.fromisoformat(walk.all_began) >= WALK_ALL_EVERY:
            return fresh
        return replace(walk, began=now.isoformat())

    def following(self, after: str | None, items: Sequence[Json]) -> Walk | None:
        """The next page. A search goes on from the time of the last one found: by its number it
        would pass by as many as changed meanwhile and moved to the end. Only those who changed in
        one instant are counted through; more of them than a search shows, and all are walked."""
        if after is None:
            return None
        last = self.since and str(items[-1]["updatedAt"])
        if last and last != self.since:
            return replace(self, since=last, after=None)
        if last and int(after) + BATCH > MOST_FOUND:
            return Walk(self.began, self.began)
        return replace(self, after=after)

    def rest(self) -> Walk:
        """What the next scan walks, after the last page of this one."""
        since = datetime.fromisoformat(self.began) - OVERLAP
        return Walk(self.all_began, self.began, since.isoformat())

    @property
    def text(self) -> str:
        return json.dumps(asdict(self))


# --- words ---------------------------------------------------------------------------------------


def _ours(table: Mapping[str, Value], word: object, where: str = "a status") -> Value:
    """Raises Refused for a word that is not in the table: an unknown state is never guessed. The
    word is not repeated: staff can type anything into a property."""
    if isinstance(word, str) and word in table:
        return table[word]
    raise Refused(
        f"unknown state in {where} at HubSpot; known are {', '.join(filter(None, table))}"
    )


def _seen(statuses: Statuses, place: str) -> Seen:
    item = statuses.types.get(place, {})
    value = _ours(OURS, item.get("status", "NOT_SPECIFIED"), f"type {place}")
    source, at = _source(item), _time(item.get("timestamp"))
    wide = statuses.all_out(place)
    if value is Value.OFF:
        return Seen(value, source, at)
    if wide:
        return Seen(Value.OFF, at=_time(wide.get("timestamp")), ever_on=value is Value.ON)
    if value is Value.UNSET:
        return Seen(value)
    by_person = source is Source.VENDOR_PERSON
    return Seen(value, source, at, _proof(item, at) if by_person else None)


def _source(item: Json) -> Source | None:
    said = str(item.get("source", ""))
    return next((ours for word, ours in SOURCES.items() if said.startswith(word)), None)


def _proof(item: Json, at: datetime | None) -> Mapping[str, str] | None:
    """HubSpot's record of what the person did. One that names another legal basis than consent
    proves none."""
    basis, wording = (str(item.get(f"legalBasis{part}") or "") for part in ("", "Explanation"))
    return None if basis in NO_CONSENT else proof_of(at, BY_PERSON, basis=basis, wording=wording)


def _covers(wide: Json, unit: object) -> bool:
    """An unsubscribe from one business unit (brand) covers its types; an unknown unit, all."""
    if wide.get("wideStatusType") != "BUSINESS_UNIT_WIDE":
        return True
    return unit is None or wide.get("businessUnitId") in (None, unit)


def _time(text: object) -> datetime | None:
    """None for what is no ISO 8601 time; HubSpot names the zone."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _status(change: Change) -> dict[str, Any]:
    """The body that sets one subscription type. Basis and explanation go with an `on` only."""
    body = {**EMAIL, "statusState": THEIRS[change.to], "subscriptionId": int(change.slot.place)}
    if change.to is Wish.ON and change.basis:
        body["legalBasis"] = LEGAL_BASES[Basis(change.basis)]
        body["legalBasisExplanation"] = change.note or f"{change.basis} recorded by prefs"
    return body


# --- configuration --------------------------------------------------------------------------------


def _check(target: Target) -> None:
    faults = []
    oauth = all(target.text(key) for key in ("client_id", "client_secret", "refresh_token"))
    if not target.text("token") and not oauth:
        faults.append(f"{target.label}: set token, or client_id, client_secret and refresh_token")
    reminders = {str(place) for place in target.options.get("reminder_types") or ()}
    for place in map(str, target.table("types")):
        if place in reminders:
            faults.append(f"{target.label}: type {place} cannot be marketing and a reminder type")
        if not place.isdigit():
            faults.append(f"{target.label}: type {place} is no number; HubSpot's type ids are")
    if not MARKABLE.issuperset(target.table("properties")):
        faults.append(f"{target.label}: properties can hold {', '.join(sorted(MARKABLE))}")
    if faults:
        raise SettingsError(faults)


def _type_slots(target: Target) -> dict[str, Slot]:
    return {
        str(place): Slot(
            str(place), Channel.EMAIL, topics=() if topic == WHOLE_CHANNEL else (str(topic),)
        )
        for place, topic in target.table("types").items()
    }


def _mark_slots(target: Target) -> tuple[Slot, ...]:
    return tuple(
        Slot(f"{MARK_PLACE}{name}", Channel(channel), enforced=False)
        for channel, name in target.table("properties").items()
    )


def _properties(types: Mapping[str, Slot], marks: Sequence[Slot]) -> list[str]:
    """The contact properties to ask for. Numbers only where a property speaks for them."""
    spoken = {slot.channel for slot in marks} & {Channel.SMS, Channel.PHONE}
    numbers = PHONES if spoken else ()
    return ["email", "hs_email_optout", *map(_optout, types), *map(_property, marks), *numbers]


def _is_type(slot: Slot) -> bool:
    return not slot.place.startswith(MARK_PLACE)


def _property(slot: Slot) -> str:
    return slot.place.removeprefix(MARK_PLACE)


def _optout(place: str) -> str:
    return f"hs_email_optout_{place}"


def _container(item: Json) -> Container:
    dead = not item.get("isActive") or bool(item.get("isInternal"))
    return Container(str(item["id"]), str(item.get("name", "")), sends=not dead, inactive=dead)


# --- HubSpot's answers ----------------------------------------------------------------------------


def _whole(answer: Json) -> list[Json]:
    """The results of an answer that has no errors beside them: part of a read is no read."""
    if answer.get("errors"):
        raise Temporary("HubSpot read only a part of what it holds")
    return results(answer)


def _by_type(items: Sequence[Json]) -> dict[str, Json]:
    return {str(item.get("subscriptionId")): item for item in items}


def _by_address(answer: Json, part: str) -> dict[str, list[Json]]:
    """Addresses come back as HubSpot keeps them, in lower case."""
    return {
        str(item.get("subscriberIdString")).casefold(): item[part]
        for item in results(answer)
        if isinstance(item.get(part), list)
    }


def _named(answer: Json, addresses: Mapping[Change, str]) -> dict[Change, Answer]:
    """What a reply to status writes says of each change; one it does not name is left out."""
    done = {
        (str(item.get("subscriberIdString")).casefold(), str(item.get("subscriptionId"))): item
        for item in results(answer)
    }
    answers: dict[Change, Answer] = {}
    for change, address in addresses.items():
        item = done.get((address.casefold(), change.slot.place), {})
        if item.get("status") == THEIRS[change.to]:
            answers[change] = Applied()
        elif failure := _item_failure(answer, {address.casefold()}, change.slot.place):
            answers[change] = failure
    return answers


def _upserts(contacts: Mapping[Change, Contact]) -> list[Json]:
    properties: dict[str, dict[str, str]] = {}
    for change, contact in contacts.items():
        properties.setdefault(contact.email, {})[_property(change.slot)] = MARK[change.to]
    return [
        {"id": email, "idProperty": "email", "properties": marks}
        for email, marks in properties.items()
    ]


def _upserted(answer: Json, contacts: Mapping[Change, Contact]) -> dict[Change, Answer]:
    done = {str(item.get("id")) for item in results(answer)}
    answers: dict[Change, Answer] = {}
    for change, contact in contacts.items():
        if contact.id in done:
            answers[change] = Applied()
        elif failure := _item_failure(answer, {contact.email.casefold(), contact.id}):
            answers[change] = failure
    return answers


def _item_failure(answer: Json, names: set[str], place: str | None = None) -> Failure | None:
    """The error of a partly failed bulk call (207) that names this item in its context."""
    for error in answer.get("errors") or ():
        said = {text.casefold() for text in _texts(error)}
        other_type = place not in said and any(text.isdigit() for text in said)
        if names & said and not (place and other_type):
            return _refusal(error)
    return None


def _texts(error: Json) -> Iterator[str]:
    details = [error, *(error.get("errors") or ())]
    for context in (detail.get("context") or {} for detail in details):
        for values in context.values():
            yield from map(str, values if isinstance(values, list) else [values])


def _refusal(error: Json) -> Failure:
    if error.get("category") in PASSING:
        return Temporary(f"HubSpot could not do it now ({error['category']})")
    return Refused(f"HubSpot refuses: {words(error)}")


def _contact(item: Json, began: datetime) -> Contact:
    properties = item.get("properties")
    if not isinstance(properties, Mapping) or not item.get("id"):
        raise Temporary("HubSpot answered something that is not a contact")
    held = {name: str(value) for name, value in properties.items() if value is not None}
    return Contact(began, str(item["id"]), held)


def _address(ref: Ref, contact: Contact | Absent | Failure | None = None) -> str:
    if ref.kind is Kind.EMAIL and ref.value:
        return ref.value
    return contact.email if isinstance(contact, Contact) else ""


def _identifiers(ref: Ref, contact: Contact | None) -> tuple[tuple[Kind, str], ...]:
    """The address first: it is what HubSpot keys on."""
    if contact is None:
        return ((Kind.EMAIL, ref.value),)
    held = [(Kind.EMAIL, contact.email or ref.value)]
    held += [(Kind.PHONE, contact.properties.get(name, "")) for name in PHONES]
    return tuple(dict.fromkeys(one for one in held if one[1]))


# --- small helpers --------------------------------------------------------------------------------


def _path(address: str) -> str:
    return f"{STATUSES}/{quote(address, safe='')}"


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


async def _each(call: Callable[[T], Awaitable[R]], items: Sequence[T]) -> dict[T, R | Failure]:
    """One call an item, side by side; what an item raises is its answer."""
    return dict(zip(items, await http.spread(items, call, AT_ONCE), strict=True))


def _split(
    found: Mapping[T, R | Local | Failure], good: type[R]
) -> tuple[dict[T, R], dict[T, Answer]]:
    """What goes on, and what is answered already."""
    on = {item: part for item, part in found.items() if isinstance(part, good)}
    answered: dict[T, Answer] = {
        item: part for item, part in found.items() if isinstance(part, Local | PropagationError)
    }
    return on, answered


def _taken(found: Mapping[T, Answer | None]) -> dict[T, Answer]:
    """Without the items that HubSpot's answer did not name."""
    return {item: answer for item, answer in found.items() if answer is not None}


def _good(part: R | Failure) -> R:
    if isinstance(part, PropagationError):
        raise part
    return part
