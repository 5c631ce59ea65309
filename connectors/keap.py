"""Keap: the email status of an address, tags for the channels that Keap has no consent for.

The email status belongs to the address and is shared by all contacts that have it; Keap keeps
broadcasts and campaigns from an address that is not opted in. Whoever left by themselves can only
come back by themselves: Keap answers an opt-in of such an address with 200 and leaves it out.
Phone records hold no consent; a tag says that somebody is out, and Keap does not act on it.

https://developer.keap.com/docs/restv2/#tag/Email-Address
https://developer.keap.com/docs/restv2/#tag/Contact
https://developer.keap.com/docs/restv2/#tag/Tags
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypeVar

import phonenumbers
from phonenumbers import PhoneNumberFormat

from connectors import http, upkeep
from connectors.keap_hooks import KeapHooks
from connectors.keap_line import OAUTH_KEYS, WRITES, Gone, Json, Line, Listing, Now
from prefs.core import identity
from prefs.core.errors import (
    BadIdentifier,
    PropagationError,
    Refused,
    SettingsError,
    Temporary,
)
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
    Unheard,
    Value,
    Wish,
    proof_of,
)
from prefs.core.words import Channel, Kind, Source

Answer = Applied | Local | Failure
T = TypeVar("T")
Shown = tuple[Kind, str]

AT_ONCE = 4
TAGGED_AT_ONCE = 100
OVERLAP = timedelta(minutes=5)
"""A walk of changes starts this much before the last walk began."""

EMAIL = Slot("email:status", Channel.EMAIL)
TAG_PLACE = "tag:"
TAGGABLE = ("sms", "phone", "post", "messenger")
DEFAULT_TAGS = {channel: f"No marketing - {channel}" for channel in TAGGABLE}
EXAMPLE = f'"{DEFAULT_TAGS["sms"]}" and so on'
PHONE_FIELDS = "PHONE1,PHONE2,PHONE3,PHONE4,PHONE5"
DONE = frozenset({"SUCCESS", "DUPLICATE"})
FAILED = frozenset({"FAILURE", "FAILED", "ERROR", "NOT_FOUND"})
"""Words for one contact of a bulk call. Keap documents none: others say nothing, the read does."""

# https://developer.keap.com/docs/restv2/#tag/Email-Address/operation/getEmailAddressStatus
OBJECTIONS = {
    "MANUAL": Source.VENDOR_PERSON,
    "LIST_UNSUBSCRIBE": Source.VENDOR_PERSON,
    "FEEDBACK": Source.VENDOR_PERSON,
    "SPAM": Source.VENDOR_PERSON,
    "ADMIN": Source.VENDOR_ADMIN,
    "SYSTEM": Source.VENDOR_API,
}
UNDELIVERABLE = {
    "HARD_BOUNCE": "hard_bounce",
    "INVALID": "invalid",
    "BOUNCE": None,
    "LOCKDOWN": None,
    "DEACTIVATED": None,
}
CONFIRMED = frozenset({"CONFIRMED", "DOUBLE_OPT_IN"})
"""The person clicked the link of a confirmation mail: https://help.keap.com/help/email-status-explained
`SINGLE_OPT_IN` says nothing of the kind: imports and contacts added by staff get it too."""
DOUBLE_OPT_IN = "double opt-in, confirmed at this time or later"
UNPERMITTED = "not opted in at Keap, which mails nobody there but notes no opt-out either"
"""Such an address has to be watched, and a read will never show it as out."""
NO_OBJECTION = frozenset(
    {
        "UNENGAGED_MARKETABLE",
        "SINGLE_OPT_IN",
        "DOUBLE_OPT_IN",
        "CONFIRMED",
        "UNENGAGED_NON_MARKETABLE",
        "NON_MARKETABLE",
    }
)


@dataclass(frozen=True, slots=True)
class Contact:
    id: str
    addresses: tuple[str, ...]
    numbers: tuple[str, ...]
    tags: frozenset[str] | None
    """Ids of its tags; None where the answer did not show them."""

    @property
    def identifiers(self) -> list[tuple[Kind, str]]:
        addresses = [(Kind.EMAIL, address) for address in self.addresses]
        return addresses + [(Kind.PHONE, number) for number in self.numbers]


class Tags:
    """Our tags by name. Keap allows one name in several categories: each of them counts."""

    def __init__(self, line: Line, slots: Sequence[Slot]) -> None:
        self._line = line
        self._names = {_name(slot): slot for slot in slots}
        self._ids: dict[str, tuple[str, ...]] = {}

    def known(self, slot: Slot) -> frozenset[str]:
        """The tag's ids as last asked for."""
        return frozenset(self._ids.get(_name(slot), ()))

    async def ids(self) -> Mapping[str, tuple[str, ...]]:
        """Name -> ids. Asked again as long as one of them is missing there."""
        if self._names.keys() - self._ids.keys():
            await self.refresh()
        return self._ids

    async def refresh(self) -> None:
        found: dict[str, list[str]] = {}
        for tag in await self._line.tags() if self._names else ():
            found.setdefault(str(tag.get("name", "")).strip().casefold(), []).append(_id(tag))
        held = {name: found.get(name.casefold()) for name in self._names}
        self._ids = {name: tuple(ids) for name, ids in held.items() if ids}

    async def made(self, name: str) -> str:
        """The tag's id; it is made where it is missing, after one more look each time."""

        async def make() -> str:
            await self.refresh()
            if name not in self._ids:
                self._ids[name] = (_id(await self._line.new_tag(name)),)
            return self._ids[name][0]

        known = (await self.ids()).get(name)
        return known[0] if known else await http.retried(make)

    async def lost(self, slot: Slot) -> bool:
        """Whether a tag that was known is there no more; asked for anew."""
        before, self._ids = self.known(slot), {}
        await self.ids()
        return not before or not before <= self.known(slot)


class Keap:
    """The connector. `place` of a slot: `email:status`, or `tag:<name>`."""

    KEYS: ClassVar[Mapping[str, Key]] = {
        "token": Key("secret", help="Personal access token; or the three OAuth keys."),
        "client_id": Key("text", help="OAuth: client id of the app."),
        "client_secret": Key("secret", help="OAuth: client secret of the app."),
        "refresh_token": Key("secret", help="OAuth: first refresh token; Keap replaces it."),
        "tags": Key("table", help=f"Channel = tag of who is out; default {EXAMPLE}."),
    }
    facts = Facts(
        system="keap",
        channels=frozenset(Channel),
        keys_on=(Kind.EMAIL, Kind.PHONE),
        splits_topics=False,
        read_batch=25,
        write_batch=TAGGED_AT_ONCE,
        off_reversible=False,
        readback=Readback.DIRECT,
        call_alive=30.0,
        limit=Limit(8, 2.0),
        writes=WRITES,
        source_url="https://developer.keap.com/docs/restv2/",
        proves=Proves.SCAN,
    )

    def __init__(self, target: Target, budget: Budget, now: Now) -> None:
        _check(target)
        self._now = now
        self._region = target.region
        self._marks = _mark_slots(target)
        self._line = Line(target, budget, now)
        self._tags = Tags(self._line, self._marks)
        self._target, self._hooks = target, KeapHooks(target, self._line)

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (EMAIL, *self._marks)

    async def close(self) -> None:
        await self._line.close()

    async def containers(self) -> Sequence[Container]:
        """None: broadcasts go by the address's status, not by membership in a list."""
        return ()

    tend_every = upkeep.HOURLY

    async def tend(self) -> Unheard | None:
        return await upkeep.tend(self._target, self._hooks, self._now)

    # --- reading -------------------------------------------------------------------------------

    async def observe(self, refs: Sequence[Ref]) -> Mapping[Ref, Observed | Absent | Failure]:
        try:
            await self._tags.ids()
        except PropagationError as failure:
            return dict.fromkeys(refs, failure)
        return dict(zip(refs, await http.spread(refs, self._observe, AT_ONCE), strict=True))

    async def _observe(self, ref: Ref) -> Observed | Absent:
        """By address: its status, and the tags of all contacts that have it. By number or id: the
        statuses of all addresses of those contacts. Several contacts have no id in common."""
        began = self._now()
        contacts = await self._contacts(ref)
        found = [await self._line.status(address) for address in _addresses(ref, contacts)]
        statuses = [_seen(status) for status in found if status is not None]
        if ref.kind is not Kind.EMAIL or not ref.value:
            statuses = [replace(seen, fact=None) for seen in statuses]
        if not contacts and not statuses:
            return Absent(began)
        values = {EMAIL: _together(statuses)} if statuses else {}
        if contacts:
            values |= await self._mark_values(contacts)
        vendor_id = contacts[0].id if len(contacts) == 1 else None
        return Observed(values, began, vendor_id, self._shown(ref, contacts, values.get(EMAIL)))

    def _shown(self, ref: Ref, contacts: Sequence[Contact], seen: Seen | None) -> tuple[Shown, ...]:
        """What the record was asked by comes first; of several contacts what all of them have. A
        delivery fact counts for all that is shown with it: beside a bounced address nothing else
        is, lest it silence a phone."""
        own = ((ref.kind, ref.value),) if ref.kind and ref.value else ()
        if own and seen and seen.fact:
            return own
        held = [_who(contact.identifiers, self._region) for contact in contacts]
        found = {**_who(own, self._region), **(held[0] if held else {})}
        shown = {key: found[key] for key in found if all(key in one for one in held)}
        return tuple({**_who(own, self._region), **shown}.values())

    def _strangers(self, contacts: Sequence[Contact]) -> bool:
        """Whether contacts show different people, as far as anybody can tell."""
        held = {frozenset(_who(contact.identifiers, self._region)) for contact in contacts}
        return len(held) > 1

    async def _contacts(self, ref: Ref) -> list[Contact]:
        if ref.kind not in (Kind.EMAIL, Kind.PHONE, None):
            raise Refused("Keap finds people by email address, phone number or contact id only")
        if ref.value and ref.kind is Kind.EMAIL:
            return await self._by_address(ref.value)
        if ref.value and ref.kind is Kind.PHONE:
            return await self._by_number(ref.value)
        if not ref.vendor_id:
            raise Refused("neither an address, a number nor a contact id is known")
        found = await self._line.contact(ref.vendor_id)
        return [_contact(found)] if found else []

    async def _by_address(self, address: str) -> list[Contact]:
        """Keap takes `*` at the end as a wildcard: only contacts with this address count."""
        if re.search(r"[;,\s]", address):
            raise Refused("Keap cannot be asked for an address with these characters")
        found = map(_contact, await self._line.contacts_by(f"email=={address}"))
        return [one for one in found if _has(one.addresses, address)]

    async def _by_number(self, number: str) -> list[Contact]:
        """Keap does not say how it compares numbers: it is asked for each usual spelling."""
        found: dict[str, Contact] = {}
        for spelling in _spellings(number):
            criteria = f"phone_number=={spelling};phone_fields=={PHONE_FIELDS}"
            for contact in map(_contact, await self._line.contacts_by(criteria)):
                if number in _keys(contact.numbers, self._region):
                    found[contact.id] = contact
        return list(found.values())

    async def _mark_values(self, contacts: Sequence[Contact]) -> dict[Slot, Seen]:
        held = [await self._tags_of(contact) for contact in contacts]
        known = {slot: self._tags.known(slot) for slot in self._marks}
        return {
            slot: Seen(Value.OFF if all(ids & one for one in held) else Value.UNMARKED)
            for slot, ids in known.items()
        }

    async def _tags_of(self, contact: Contact) -> frozenset[str]:
        """An answer without `tag_ids` is not one of a contact without tags."""
        if contact.tags is not None or not self._marks:
            return contact.tags or frozenset()
        return frozenset(map(_id, await self._line.tags_of(contact.id)))

    # --- writing -------------------------------------------------------------------------------

    async def apply(self, changes: Sequence[Change]) -> Mapping[Change, Answer]:
        answers: dict[Change, Answer] = {
            change: Refused("not one of this target's marketing slots")
            for change in changes
            if change.slot not in self.slots
        }
        emails = [change for change in changes if change.slot == EMAIL]
        said = await http.spread(emails, self._set_status, AT_ONCE)
        answers |= dict(zip(emails, said, strict=True))
        for slot in self._marks:
            for to in (Wish.OFF, Wish.ON):
                asked = [c for c in changes if c.slot == slot and c.to is to]
                answers |= await self._mark(slot, to, asked) if asked else {}
        return answers

    async def _set_status(self, change: Change) -> Answer:
        addresses = await self._written_to(change.ref, change.to)
        shown = [status for one in addresses if (status := await self._set(one, change))]
        if not shown:
            raise Refused("Keap has no such contact, or no address of it")
        if change.to is Wish.ON and not all(status.get("opted_in") is True for status in shown):
            raise Refused("Keap keeps this address out: only the person can come back, in Keap")
        if change.to is Wish.OFF and not all(status.get("opted_in") is False for status in shown):
            raise Refused("Keap answered, but shows the address as still opted in")
        if any(status.get("status") in NO_OBJECTION for status in shown if change.to is Wish.OFF):
            return Local(UNPERMITTED)
        return Applied()

    async def _set(self, address: str, change: Change) -> Json | None:
        reply = await self._line.set_status(
            address,
            opted_in=change.to is Wish.ON,
            reason=_reason(change),
            repeat=change.to is Wish.OFF,
        )
        if reply is not None and str(reply.get("email", "")).casefold() != address.casefold():
            raise Temporary("Keap's answer is about another address", unclear=True)
        return reply

    async def _written_to(self, ref: Ref, to: Wish) -> Sequence[str]:
        if ref.kind is Kind.EMAIL and ref.value:
            return [ref.value]
        return _addresses(ref, await self._holding(ref, to))

    async def _holding(self, ref: Ref, to: Wish) -> list[Contact]:
        """Raises Refused where an `on` would reach several people: one of them may be out."""
        contacts = await self._contacts(ref)
        if to is Wish.ON and self._strangers(contacts):
            raise Refused("contacts of several people share this; one of them may be out")
        return contacts

    async def _mark(self, slot: Slot, to: Wish, changes: Sequence[Change]) -> dict[Change, Answer]:
        """Tags the contacts that exist, in bulk. Nobody is made to be tagged."""
        found = await http.spread(changes, self._holders, AT_ONCE)
        answers: dict[Change, Answer] = {}
        holders: dict[Change, list[str]] = {}
        for change, ids in zip(changes, found, strict=True):
            if isinstance(ids, list):
                holders[change] = ids
            else:
                answers[change] = ids
        for part in _chunks(holders):
            answers |= await self._mark_part(slot, to, part)
        return answers

    async def _holders(self, change: Change) -> list[str] | Local:
        ref = change.ref
        if ref.vendor_id and not ref.value:
            return [ref.vendor_id]
        ids = [contact.id for contact in await self._holding(ref, change.to)]
        return ids or Local("Keap has no contact that could hold this")

    async def _mark_part(
        self, slot: Slot, to: Wish, holders: Mapping[Change, Sequence[str]]
    ) -> dict[Change, Answer]:
        try:
            return await self._marked(slot, to, holders)
        except Refused as failure:
            return await self._refused(slot, to, holders, failure)
        except PropagationError as failure:
            return dict.fromkeys(holders, failure)

    async def _marked(
        self, slot: Slot, to: Wish, holders: Mapping[Change, Sequence[str]]
    ) -> dict[Change, Answer]:
        ids = list(dict.fromkeys(id_ for held in holders.values() for id_ in held))
        if to is Wish.ON:
            return await self._unmark(slot, ids, holders)
        words = await self._line.apply_tag(await self._tags.made(_name(slot)), ids)
        answers = {change: _answer(words, held) for change, held in holders.items()}
        return {change: answer for change, answer in answers.items() if answer is not None}

    async def _refused(
        self, slot: Slot, to: Wish, holders: Mapping[Change, Sequence[str]], failure: Refused
    ) -> dict[Change, Answer]:
        """One contact that is gone may cost the whole call: it is made in halves, so that it costs
        nobody else. A tag that is gone has the same answer, and is looked up again."""
        try:
            lost = isinstance(failure, Gone) and await self._tags.lost(slot)
        except PropagationError as fault:
            return dict.fromkeys(holders, fault)
        if lost:
            return dict.fromkeys(holders, Temporary("the tag is gone; it is looked up again"))
        if len(holders) == 1:
            return dict.fromkeys(holders, failure)
        items = list(holders.items())
        answers: dict[Change, Answer] = {}
        for part in (items[: len(items) // 2], items[len(items) // 2 :]):
            answers |= await self._mark_part(slot, to, dict(part))
        return answers

    async def _unmark(
        self, slot: Slot, ids: Sequence[str], holders: Iterable[Change]
    ) -> dict[Change, Answer]:
        for tag in (await self._tags.ids()).get(_name(slot), ()):
            await self._line.remove_tag(tag, ids)
        return dict.fromkeys(holders, Applied())

    # --- walking -------------------------------------------------------------------------------

    async def scan(self, cursor: str | None) -> AsyncIterator[Page]:
        """All addresses, then all contacts for their tags. With a cursor: the addresses that are
        out, and the contacts changed since the last walk began, with what they show of their
        addresses: a new one may get marketing from its first day."""
        walk: Walk | None = Walk.start(cursor, self._now())
        resumed = walk.token is not None if walk else False
        await self._tags.refresh()
        while walk:
            began = self._now()
            try:
                items, token = await self._items(walk)
            except Refused:
                if not resumed:
                    raise
                walk = replace(walk, token=None)  # Keap no longer knows that page
                items, token = await self._items(walk)
            resumed = False
            records = [await self._record(walk, item, began) for item in items]
            known = tuple(record for record in records if record)
            walk = replace(walk, whole=walk.whole and len(known) == len(items))
            onward = walk.following(token)
            complete = onward is None and walk.since is None and walk.whole
            yield Page(known, (onward or walk.rest()).text, complete)
            walk = onward

    async def _items(self, walk: Walk) -> Listing:
        if walk.contacts:
            since = f"start_update_time=={walk.since}" if walk.since else None
            return await self._line.contacts(since, walk.token)
        return await self._line.statuses(walk.token, only_out=walk.since is not None)

    async def _record(self, walk: Walk, item: Json, began: datetime) -> tuple[Ref, Observed] | None:
        """None for an address whose status Keap describes in unknown words."""
        if walk.contacts:
            contact = _contact(item)
            statuses = _statuses_shown(item) if walk.since else []
            values = await self._mark_values([contact])
            values |= {EMAIL: _together(statuses)} if statuses else {}
            shown = tuple(contact.identifiers)
            return Ref(None, "", contact.id), Observed(values, began, contact.id, shown)
        address = str(item.get("email") or "")
        try:
            values = {EMAIL: _seen(item)}
        except Refused:
            return None
        shown = ((Kind.EMAIL, address),)
        return Ref(Kind.EMAIL, address), Observed(values, began, None, shown)


@dataclass(frozen=True, slots=True)
class Walk:
    """Where a scan stands: addresses first, then contacts. `text` is the cursor."""

    began: str = ""
    """When this walk began; empty between two walks."""
    since: str | None = None
    """Changes since then; None walks everything."""
    contacts: bool = False
    token: str | None = None
    whole: bool = True
    """No record had to be left out so far."""

    @classmethod
    def start(cls, cursor: str | None, now: datetime) -> Walk:
        walk = cls(**json.loads(cursor)) if cursor else cls()
        return walk if walk.began else replace(walk, began=now.isoformat())

    def following(self, token: str | None) -> Walk | None:
        if token:
            return replace(self, token=token)
        return None if self.contacts else replace(self, contacts=True, token=None)

    def rest(self) -> Walk:
        """What the next scan walks. Keap takes times with milliseconds and a zone only."""
        since = (datetime.fromisoformat(self.began) - OVERLAP).astimezone(UTC)
        return Walk(since=since.isoformat(timespec="milliseconds").replace("+00:00", "Z"))

    @property
    def text(self) -> str:
        return json.dumps(asdict(self))


# --- words ---------------------------------------------------------------------------------------


def _seen(status: Json) -> Seen:
    """Raises Refused for a word that is not in the tables, and for an objection that counts as
    opted in: neither is guessed. Keap shows no time of a change: `create_time` is when the status
    of the address was first recorded, before or at the confirmation."""
    word, opted_in = status.get("status"), status.get("opted_in")
    if not isinstance(opted_in, bool) or not isinstance(word, str):
        raise Refused("unknown state of an address at Keap")
    if word in OBJECTIONS:
        if opted_in:
            raise Refused(f"Keap shows an address as opted in and as {word}")
        return Seen(Value.OFF, OBJECTIONS[word])
    if word in UNDELIVERABLE:
        return Seen(Value.ON if opted_in else Value.SILENT, fact=UNDELIVERABLE[word])
    if word in NO_OBJECTION:
        return Seen(Value.ON, proof=_proof(status)) if opted_in else Seen(Value.UNSET)
    raise Refused("unknown state of an address at Keap")


def _statuses_shown(contact: Json) -> list[Seen]:
    """What a contact shows of its addresses; nothing where it leaves one of them open."""
    held = contact.get("email_addresses") or ()
    said = [
        {"opted_in": one.get("is_opt_in"), "status": one.get("email_opt_status")} for one in held
    ]
    try:
        return [replace(_seen(status), fact=None) for status in said]
    except Refused:
        return []


def _proof(status: Json) -> Mapping[str, str] | None:
    if status.get("status") not in CONFIRMED:
        return None
    return proof_of(_moment(status.get("create_time")), DOUBLE_OPT_IN)


def _moment(text: object) -> datetime | None:
    """None for what is no ISO 8601 time with a zone."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo else None


def _together(statuses: Sequence[Seen]) -> Seen:
    """One value for several addresses: on if any is, off only if all that can be mailed are."""
    if len(statuses) == 1:
        return statuses[0]
    for value in (Value.ON, Value.UNSET):
        if any(seen.value is value for seen in statuses):
            return Seen(value)
    outs = [seen for seen in statuses if seen.value is Value.OFF]
    by_person = [seen for seen in outs if seen.source is Source.VENDOR_PERSON]
    return next(iter(by_person or outs), Seen(Value.SILENT))


def _reason(change: Change) -> str:
    if change.to is Wish.OFF:
        return "Opted out of marketing, recorded by prefs"
    return change.note or f"Opted in to marketing ({change.basis or 'no basis'}), recorded by prefs"


def _answer(words: Mapping[str, str], contacts: Sequence[str]) -> Answer | None:
    """What a bulk reply says of all contacts of one change; None where it leaves one open."""
    said = [words.get(contact) for contact in contacts]
    if any(word in FAILED for word in said):
        return Refused("Keap did not tag a contact of this person")
    return Applied() if all(word in DONE for word in said) else None


# --- Keap's answers -------------------------------------------------------------------------------


def _contact(item: Json) -> Contact:
    tags = item.get("tag_ids")
    return Contact(
        _id(item),
        tuple(dict.fromkeys(_texts(item.get("email_addresses"), "email"))),
        tuple(dict.fromkeys(_texts(item.get("phone_numbers"), "number_e164", "number"))),
        frozenset(map(str, tags)) if isinstance(tags, list) else None,
    )


def _texts(items: Any, *names: str) -> Iterator[str]:
    """Of each item the first of these fields that is filled."""
    held = items if items is not None else []
    if not isinstance(held, list) or not all(isinstance(item, Mapping) for item in held):
        raise Temporary("Keap answered something that is not a contact")
    for item in held:
        text = next((item[name] for name in names if item.get(name)), None)
        if text:
            yield str(text)


def _id(item: Json) -> str:
    if not item.get("id"):
        raise Temporary("Keap answered something without an id")
    return str(item["id"])


def _addresses(ref: Ref, contacts: Sequence[Contact]) -> list[str]:
    if ref.kind is Kind.EMAIL and ref.value:
        return [ref.value]
    found = (address for contact in contacts for address in contact.addresses)
    return list({address.casefold(): address for address in found}.values())


def _who(shown: Iterable[Shown], region: str) -> dict[Shown, Shown]:
    """Addresses and numbers by what makes two spellings the same."""
    return {(kind, _key(kind, text, region)): (kind, text) for kind, text in shown}


def _key(kind: Kind, text: str, region: str) -> str:
    return next(_keys([text], region), text) if kind is Kind.PHONE else text.casefold()


def _has(addresses: Iterable[str], address: str) -> bool:
    return any(one.casefold() == address.casefold() for one in addresses)


def _keys(numbers: Iterable[str], region: str) -> Iterator[str]:
    for number in numbers:
        try:
            yield identity.phone(number, region).key
        except BadIdentifier:
            continue


def _spellings(number: str) -> list[str]:
    """E.164, and the national form with blanks and without."""
    try:
        parsed = phonenumbers.parse(number)
    except phonenumbers.NumberParseException:
        return [number]
    national = phonenumbers.format_number(parsed, PhoneNumberFormat.NATIONAL)
    return list(dict.fromkeys((number, re.sub(r"\D", "", national), national)))


# --- configuration --------------------------------------------------------------------------------


def _check(target: Target) -> None:
    faults = []
    if not target.text("token") and not all(target.text(key) for key in OAUTH_KEYS):
        faults.append(f"{target.label}: set token, or client_id, client_secret and refresh_token")
    if not set(TAGGABLE).issuperset(target.table("tags")):
        faults.append(f"{target.label}: tags can stand for {', '.join(TAGGABLE)}")
    names = [name.casefold() for name in _tag_names(target).values()]
    if not all(names) or len(set(names)) < len(names):
        faults.append(f"{target.label}: each channel needs a tag of its own")
    if faults:
        raise SettingsError(faults)


def _tag_names(target: Target) -> dict[str, str]:
    """By channel; one that the configuration does not name keeps its default."""
    named = {**DEFAULT_TAGS, **target.table("tags")}
    return {channel: str(name).strip() for channel, name in named.items()}


def _mark_slots(target: Target) -> tuple[Slot, ...]:
    return tuple(
        Slot(f"{TAG_PLACE}{name}", Channel(channel), enforced=False)
        for channel, name in _tag_names(target).items()
        if channel in TAGGABLE
    )


def _name(slot: Slot) -> str:
    return slot.place.removeprefix(TAG_PLACE)


def _chunks(holders: Mapping[Change, Sequence[str]]) -> Iterator[dict[Change, Sequence[str]]]:
    """So many contacts a call, those of one change together."""
    part: dict[Change, Sequence[str]] = {}
    for change, ids in holders.items():
        if part and sum(map(len, part.values())) + len(ids) > TAGGED_AT_ONCE:
            yield part
            part = {}
        part[change] = ids
    if part:
        yield part
