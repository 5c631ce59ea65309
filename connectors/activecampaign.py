"""ActiveCampaign API v3: one status for each contact and list; lists of texts carry SMS.

There is no status of the contact as a whole: somebody is out when every marketing list says so.
Service lists (reminders) are neither read nor written, and exclusions are left alone: they would
stop reminders too. A contact that is on no list gets no marketing, so nobody is ever created.

https://developers.activecampaign.com/reference/update-list-status-for-contact
https://developers.activecampaign.com/reference/retrieve-contact-list-memberships
https://developers.activecampaign.com/reference/list-all-contacts
https://developers.activecampaign.com/reference/pagination
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import AddressValueError, IPv4Address
from typing import Any, ClassVar

import phonenumbers

from connectors import http, upkeep
from connectors.activecampaign_hooks import ActiveCampaignHooks
from connectors.activecampaign_line import API, PAGE, WRITES, Json, Line, listed
from prefs.core import identity
from prefs.core.errors import BadIdentifier, PropagationError, Refused, SettingsError, Temporary
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
from prefs.core.words import Channel, Kind

Answer = Applied | Failure

CONTACTS = f"{API}/contacts"
BATCH = 20
AT_ONCE = 4
WHOLE_CHANNEL = "*"

STATUS = {
    # GET answers texts, POST sometimes numbers.
    "0": Value.UNSET,
    "1": Value.ON,
    "2": Value.OFF,
    "3": Value.SILENT,
}
GONE = "91"
"""A membership that was removed: no entry, and no opt-out."""
FACT = {"3": "hard_bounce"}
THEIRS = {Wish.ON: "1", Wish.OFF: "2"}
BY_FORM = "sign-up form"
SEVERAL = "contacts of several people share this; one of them may be out: switch it on by hand"
CONFIRMS_WITHIN = timedelta(days=7)
"""Between a sign-up and the click that confirms it."""
RESUBSCRIBE = 4
"""The `sourceid` that the vendor asks for when somebody is put back on a list."""


@dataclass(frozen=True, slots=True)
class Contact:
    """One contact with its rows; `rows` is None where the answer did not show them all."""

    began: datetime
    id: str
    email: str
    phone: str
    rows: tuple[Json, ...] | None = None

    @property
    def identifiers(self) -> tuple[tuple[Kind, str], ...]:
        held = ((Kind.EMAIL, self.email), (Kind.PHONE, self.phone))
        return tuple(one for one in held if one[1])

    @property
    def ref(self) -> Ref:
        return Ref(Kind.EMAIL if self.email else None, self.email, self.id)


class ActiveCampaign:
    """The connector. `place` of a slot: the list's id."""

    facts: ClassVar[Facts] = Facts(
        system="activecampaign",
        channels=frozenset({Channel.EMAIL, Channel.SMS}),
        keys_on=(Kind.EMAIL, Kind.PHONE),
        splits_topics=True,
        read_batch=BATCH,
        write_batch=BATCH,
        off_reversible=True,
        readback=Readback.DIRECT,
        call_alive=30.0,
        limit=Limit(5, 1.0),
        writes=WRITES,
        source_url="https://developers.activecampaign.com/reference/update-list-status-for-contact",
        proves=Proves.SCAN,
    )
    KEYS: ClassVar[Mapping[str, Key]] = {
        "api_key": Key("secret", required=True, help="API key of a user who may manage contacts."),
        "marketing_lists": Key("table", help='Marketing list id = topics; "*" = all of email.'),
        "service_lists": Key("list", help="Lists of reminders and service: never read or written."),
        "sms_lists": Key("list", help="SMS lists: all of SMS marketing."),
    }

    def __init__(self, target: Target, budget: Budget, now: Callable[[], datetime]) -> None:
        _check(target)
        self._slots = {slot.place: slot for slot in _slots(target)}
        self._region = target.region
        self._now = now
        self._line = Line(target, budget)
        self._target, self._hooks = target, ActiveCampaignHooks(target, self._line)

    @property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(self._slots.values())

    async def close(self) -> None:
        await self._line.close()

    tend_every = upkeep.DAILY

    async def tend(self) -> Unheard | None:
        return await upkeep.tend(self._target, self._hooks, self._now)

    async def containers(self) -> Sequence[Container]:
        """All lists. https://developers.activecampaign.com/reference/retrieve-all-lists"""
        return [_container(item) for item in await self._line.everything(f"{API}/lists", "lists")]

    # --- reading -------------------------------------------------------------------------------

    async def observe(self, refs: Sequence[Ref]) -> Mapping[Ref, Observed | Absent | Failure]:
        answers = await http.spread(refs, self._observe, AT_ONCE)
        return dict(zip(refs, answers, strict=True))

    async def _observe(self, ref: Ref) -> Observed | Absent:
        """All contacts that the ref stands for, as one record."""
        began = self._now()
        contacts = [await self._whole(one) for one in await self._contacts(ref)]
        if not contacts:
            return Absent(began)
        return _joined([self._observed(contact) for contact in contacts])

    async def _contacts(self, ref: Ref) -> list[Contact]:
        """By address or number where the ref has one, else by the contact's id."""
        if not ref.value:
            return await self._by_id(ref.vendor_id or "")
        if ref.kind is Kind.EMAIL:
            return await self._by_email(ref.value)
        if ref.kind is Kind.PHONE:
            return await self._by_phone(ref.value)
        raise Refused("ActiveCampaign finds people by email address, number or contact id only")

    async def _by_id(self, contact_id: str) -> list[Contact]:
        """https://developers.activecampaign.com/reference/get-contact shows the rows as well."""
        if not contact_id.isdecimal():
            raise Refused("that is no id of an ActiveCampaign contact")
        began = self._now()
        answer = await self._line.read_if_there(f"{CONTACTS}/{contact_id}")
        if answer is None:
            return []
        item = answer.get("contact")
        if not isinstance(item, Mapping) or str(item.get("id")) != contact_id:
            raise Temporary("ActiveCampaign answered something that is not this contact")
        return [replace(_contact(item, began), rows=_rows(answer, contact_id))]

    async def _by_email(self, address: str) -> list[Contact]:
        """Accounts that allow duplicates hold several contacts with one address."""
        wanted, found = _email_key(address), await self._listed(email=address)
        ours = [contact for contact in found if _email_key(contact.email) == wanted]
        if found and not ours:
            raise Temporary("ActiveCampaign answered with other contacts than were asked for")
        return ours

    async def _by_phone(self, number: str) -> list[Contact]:
        """Numbers are kept as they were typed in, and found by how that text begins: each usual
        spelling is asked for, and what comes is compared as a number."""
        wanted = self._phone_key(number)
        found: dict[str, Contact] = {}
        for spelling in _spellings(wanted, self._region):
            for contact in await self._listed(phone=spelling):
                if self._is_number(contact.phone, wanted):
                    found.setdefault(contact.id, replace(contact, phone=wanted))
        return list(found.values())

    def _is_number(self, text: str, wanted: str) -> bool:
        """Spreadsheets lose the plus of a number: its digits alone are enough to know it again."""
        return self._phone_key(text) == wanted or f"+{text.strip()}" == wanted

    def _phone_key(self, text: str) -> str:
        """Empty for what is no number."""
        try:
            return identity.phone(text, self._region).key
        except BadIdentifier:
            return ""

    async def _listed(self, **wanted: str) -> list[Contact]:
        found: list[Contact] = []
        async for answer, began in self._pages("0", include="contactLists", **wanted):
            contacts = _page(answer, began)
            found += contacts
            if len(contacts) < PAGE and len(contacts) >= _total(answer):
                break
        return found

    async def _pages(self, after: str, **wanted: str) -> AsyncIterator[tuple[Json, datetime]]:
        """Contacts in the order of their ids; the last page is an empty one."""
        while True:
            began = self._now()
            asked = {"limit": PAGE, "orders[id]": "asc", "id_greater": after}
            answer = await self._line.read(CONTACTS, **asked, **wanted)
            items = listed(answer, "contacts")
            yield answer, began
            if not items:
                return
            last = max(int(_id(item)) for item in items)
            if last <= int(after):
                raise Temporary("ActiveCampaign's pages do not go on")
            after = str(last)

    async def _whole(self, contact: Contact) -> Contact:
        """With its rows, read alone where the answer that named it did not show them."""
        if contact.rows is not None:
            return contact
        answer = await self._line.read_if_there(f"{CONTACTS}/{contact.id}/contactLists")
        if answer is None:
            raise Temporary("the contact went away while it was read")
        return replace(contact, rows=_rows(answer, contact.id))

    def _observed(self, contact: Contact) -> Observed:
        """Raises Refused for a status that no table knows."""
        values: dict[Slot, Seen] = {}
        for row in contact.rows or ():
            slot = self._slots.get(str(row.get("list")))
            if slot and str(row.get("status")) != GONE:
                values[slot] = _seen(row)
        return Observed(values, contact.began, contact.id, contact.identifiers)

    # --- writing -------------------------------------------------------------------------------

    async def apply(self, changes: Sequence[Change]) -> Mapping[Change, Answer]:
        """One call for each contact and list. Service lists are never written."""
        by_ref: dict[Ref, list[Change]] = {}
        for change in changes:
            by_ref.setdefault(change.ref, []).append(change)
        parts = await http.spread(list(by_ref.values()), self._apply_to, AT_ONCE)
        answers: dict[Change, Answer] = {}
        for asked, part in zip(by_ref.values(), parts, strict=True):
            answers |= dict.fromkeys(asked, part) if isinstance(part, PropagationError) else part
        return answers

    async def _apply_to(self, changes: Sequence[Change]) -> dict[Change, Answer]:
        """The changes of one ref."""
        holders = await self._holders(changes[0].ref)
        answers: dict[Change, Answer] = {}
        for change in changes:
            answer = await self._set(change, holders)
            if answer is not None:
                answers[change] = answer
        return answers

    async def _holders(self, ref: Ref) -> list[Contact]:
        """The contacts to write to. Several are read first: nobody is put on a list by mistake."""
        if not ref.value and ref.vendor_id:
            return [Contact(self._now(), ref.vendor_id, "", "")]
        found = await self._contacts(ref)
        if not found:
            raise Refused("ActiveCampaign has no such contact")
        return [await self._whole(one) for one in found] if len(found) > 1 else found

    async def _set(self, change: Change, holders: Sequence[Contact]) -> Answer | None:
        """None where the vendor's answer does not say what became of it."""
        if self._slots.get(change.slot.place) != change.slot or change.to not in THEIRS:
            return Refused("not one of this target's marketing lists")
        if change.to is Wish.ON and len({self._who(contact) for contact in holders}) > 1:
            return Refused(SEVERAL)
        on_list = [contact for contact in holders if _on_list(contact, change.slot.place)]
        done = [await self._tried(contact.id, change) for contact in on_list]
        failure = http.gravest(one for one in done if isinstance(one, PropagationError))
        return failure or (Applied() if done and all(done) else None)

    def _who(self, contact: Contact) -> tuple[str, str]:
        number = self._phone_key(contact.phone) or contact.phone
        return _email_key(contact.email), number

    async def _tried(self, contact_id: str, change: Change) -> bool | Failure:
        """One contact that fails keeps no other from its opt-out."""
        try:
            return await self._write(contact_id, change)
        except PropagationError as failure:
            return failure

    async def _write(self, contact_id: str, change: Change) -> bool:
        """Whether the answer names the row. Raises Refused where it shows another status."""
        to, on = THEIRS[change.to], change.to is Wish.ON
        row: dict[str, Any] = {"list": change.slot.place, "contact": contact_id, "status": to}
        answer = await self._line.set(row | ({"sourceid": RESUBSCRIBE} if on else {}), once=on)
        said = answer.get("contactList")
        if not isinstance(said, Mapping):
            return False
        if "status" in said and str(said["status"]) != to:
            raise Refused("ActiveCampaign kept another status than it was given")
        return (str(said.get("list")), str(said.get("contact"))) == (change.slot.place, contact_id)

    # --- walking -------------------------------------------------------------------------------

    async def scan(self, cursor: str | None) -> AsyncIterator[Page]:
        """Every contact, each time: whether `updated_after` follows a list's status is not said.

        The cursor is the id after which a walk that broke off goes on; "0" begins a new one.
        A contact whose state no table knows is left out, and the walk is then not complete.
        """
        after = cursor or "0"
        whole = after == "0"
        async for answer, began in self._pages(after, include="contactLists"):
            contacts = _page(answer, began)
            records = await self._records(contacts)
            whole = whole and len(records) == len(contacts)
            last = str(max(int(contact.id) for contact in contacts)) if contacts else "0"
            yield Page(tuple(records), last, complete=whole and not contacts)

    async def _records(self, contacts: Sequence[Contact]) -> list[tuple[Ref, Observed]]:
        records: list[tuple[Ref, Observed]] = []
        for whole in await http.spread(contacts, self._whole, AT_ONCE):
            if isinstance(whole, PropagationError):
                raise whole
            with suppress(Refused):
                records.append((whole.ref, self._observed(whole)))
        return records


# --- ActiveCampaign's answers ---------------------------------------------------------------------


def _total(answer: Json) -> int:
    """What `meta.total` says, a text; 0 where it is missing."""
    meta = answer.get("meta")
    said = str(meta.get("total")) if isinstance(meta, Mapping) else ""
    return int(said) if said.isdecimal() else 0


def _id(item: Json) -> str:
    said = str(item.get("id"))
    if not said.isdecimal():
        raise Temporary("ActiveCampaign answered a contact without an id")
    return said


def _contact(item: Json, began: datetime) -> Contact:
    return Contact(began, _id(item), str(item.get("email") or ""), str(item.get("phone") or ""))


def _page(answer: Json, began: datetime) -> list[Contact]:
    """The contacts of one page, with the rows that came along."""
    beside = _beside(answer)
    return [
        replace(_contact(item, began), rows=_sideloaded(beside, item))
        for item in listed(answer, "contacts")
    ]


def _rows(answer: Json, contact_id: str) -> tuple[Json, ...]:
    """The rows of an answer about one contact. Raises Temporary for those of somebody else."""
    rows = tuple(listed(answer, "contactLists"))
    if any(str(row.get("contact", contact_id)) != contact_id for row in rows):
        raise Temporary("ActiveCampaign answered with another contact's lists")
    return rows


def _beside(answer: Json) -> dict[str, list[Json]] | None:
    """Contact id -> the rows that came beside a page of contacts; None where none were sent."""
    rows = answer.get("contactLists")
    if not isinstance(rows, list):
        return None
    found: dict[str, list[Json]] = {}
    for row in rows:
        if isinstance(row, Mapping):
            found.setdefault(str(row.get("contact")), []).append(row)
    return found


def _sideloaded(beside: dict[str, list[Json]] | None, item: Json) -> tuple[Json, ...] | None:
    """A contact's rows beside a page of contacts; None where they may not be all.

    `include` is described by the vendor's staff only (https://community.activecampaign.com/), so
    a contact that names rows which did not come along, or neither names nor has any, is read alone.
    """
    if beside is None:
        return None
    ours, named = tuple(beside.get(_id(item), ())), item.get("contactLists")
    if not isinstance(named, list):
        return ours or None
    return ours if {str(row.get("id")) for row in ours}.issuperset(map(str, named)) else None


def _on_list(contact: Contact, place: str) -> bool:
    """Whether a change of this list may be written to it. The rows of a lone contact are not read
    again: it is on the list, else nothing would be planned for it."""
    if contact.rows is None:
        return True
    statuses = {str(row.get("status")) for row in contact.rows if str(row.get("list")) == place}
    return bool(statuses - {GONE, *FACT})


def _container(item: Json) -> Container:
    dead = bool(item.get("deletestamp"))
    return Container(_id(item), str(item.get("name", "")), sends=not dead, inactive=dead)


# --- words ---------------------------------------------------------------------------------------


def _seen(row: Json) -> Seen:
    """Who left is not said; `sdate` shows that somebody once was on the list."""
    status = str(row.get("status"))
    if status not in STATUS:
        raise Refused("unknown status of an ActiveCampaign list membership")
    value = STATUS[status]
    at = _time(row.get("udate")) if value is Value.OFF else None
    ever_on = value is Value.ON or _time(row.get("sdate")) is not None
    proof = _proof(row) if value is Value.ON else None
    return Seen(value, at=at, proof=proof, ever_on=ever_on, fact=FACT.get(status))


def _proof(row: Json) -> Mapping[str, str] | None:
    """A sign-up by one of the account's forms. A time and an IP without a form may come from an
    import, staff or a program: no page says what the numbers of `sourceid` mean."""
    form = str(row.get("form") or "")
    if not form.isdecimal() or not int(form) or _put_back(row):
        return None
    return proof_of(_time(row.get("sdate")), BY_FORM, form=form, ip=_ip(row.get("ip4Sub")))


def _put_back(row: Json) -> bool:
    """On the list again after they left, or long after the row was made: who did it is not said.
    `created_timestamp` has no zone."""
    if str(row.get("sourceid")) == str(RESUBSCRIBE) or _time(row.get("udate")):
        return True
    joined, made = _time(row.get("sdate")), _time(f"{row.get('created_timestamp')}+00:00")
    return bool(joined and made and joined - made > CONFIRMS_WITHIN)


def _ip(text: object) -> str | None:
    """ActiveCampaign keeps IPv4 addresses as numbers; 0 stands for none."""
    said = str(text)
    try:
        address = IPv4Address(int(said) if said.isdecimal() else said)
    except AddressValueError:
        return None
    return None if address.is_unspecified else str(address)


def _time(text: object) -> datetime | None:
    """None for what is no ISO 8601 time with a zone (`0000-00-00` stands for never)."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found.astimezone(UTC) if found.tzinfo else None


RANK = (Value.ON, Value.UNSET, Value.SILENT, Value.OFF)
"""Of several contacts with one address, the first of these speaks: off is only what is off in
all of them."""


def _joined(reads: Sequence[Observed]) -> Observed:
    """Several contacts as one record. It shows the addresses that all of them share: what only
    one of them has may be somebody else's."""
    values: dict[Slot, Seen] = {}
    for read in reads:
        for slot, seen in read.values.items():
            values[slot] = min(values.get(slot, seen), seen, key=lambda one: RANK.index(one.value))
    others = [{_key(one) for one in read.identifiers} for read in reads[1:]]
    shared = [one for one in reads[0].identifiers if all(_key(one) in keys for keys in others)]
    vendor_id = reads[0].vendor_id if len(reads) == 1 else None
    return Observed(values, min(read.read_began for read in reads), vendor_id, tuple(shared))


def _key(one: tuple[Kind, str]) -> tuple[Kind, str]:
    kind, text = one
    return kind, _email_key(text) if kind is Kind.EMAIL else text


def _email_key(text: str) -> str:
    try:
        return identity.email(text).key
    except BadIdentifier:
        return text.strip().casefold()


def _spellings(number: str, region: str) -> Iterable[str]:
    """How a number may stand in a contact: E.164, without its plus, and as people write it."""
    try:
        parsed = phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException:
        raise Refused("that is no number that ActiveCampaign could be asked for") from None
    abroad = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.INTERNATIONAL)
    home = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.NATIONAL)
    compact = "".join(character for character in home if character.isdigit())
    return dict.fromkeys((number, number.removeprefix("+"), compact, abroad, home))


# --- configuration --------------------------------------------------------------------------------


def _check(target: Target) -> None:
    faults = []
    if not target.base_url:
        faults.append(f"{target.label}.base_url: set the URL of Settings > Developer")
    marketing = [str(place) for place in target.table("marketing_lists")]
    texts, service = _ids(target, "sms_lists"), _ids(target, "service_lists")
    if not marketing and not texts:
        faults.append(f"{target.label}: set marketing_lists, sms_lists or both")
    for place in dict.fromkeys((*marketing, *texts, *service)):
        if (*marketing, *texts, *service).count(place) > 1:
            faults.append(f"{target.label}: list {place} stands twice; it can be one thing only")
        if not place.isdecimal():
            faults.append(f"{target.label}: list {place} is no number; ActiveCampaign's ids are")
    if faults:
        raise SettingsError(faults)


def _ids(target: Target, key: str) -> list[str]:
    return [str(place) for place in target.options.get(key) or ()]


def _slots(target: Target) -> list[Slot]:
    return [
        *(
            Slot(str(place), Channel.EMAIL, topics=_topics(topics))
            for place, topics in target.table("marketing_lists").items()
        ),
        *(Slot(place, Channel.SMS) for place in _ids(target, "sms_lists")),
    ]


def _topics(given: object) -> tuple[str, ...]:
    """None for a list of all email marketing (`"*"`)."""
    named = [given] if isinstance(given, str) else given if isinstance(given, Sequence) else ()
    return tuple(str(topic) for topic in named if topic not in ("", WHOLE_CHANNEL))
