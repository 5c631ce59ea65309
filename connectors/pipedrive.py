"""Pipedrive: the marketing status of its Campaigns add-on, and custom fields that show the rest.

`marketing_status` belongs to a person's primary address; Campaigns mails only `subscribed`. A step
that Pipedrive forbids is answered 200 with the old status. It governs Campaigns alone: one-to-one
mail and automations do not look at it. Custom fields are markers for people to see.

https://developers.pipedrive.com/docs/api/v1/Persons
https://support.pipedrive.com/en/article/campaigns-marketing-contacts
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypeVar

import phonenumbers

from connectors import http, upkeep
from connectors.pipedrive_hooks import PipedriveHooks
from connectors.pipedrive_line import (
    PAGE,
    PERSONS,
    WRITES,
    Denied,
    Field,
    Fields,
    Json,
    Line,
    Now,
    following,
    listed,
)
from prefs.core import identity
from prefs.core.errors import BadIdentifier, PropagationError, Refused, Temporary, Unusable
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
    Readback,
    Ref,
    Seen,
    Slot,
    Target,
    Unheard,
    Value,
    Wish,
)
from prefs.core.words import Channel, Kind

Answer = Applied | Local | Failure
Shown = tuple[Kind, str]
"""A kind and its normalised key."""
T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 4
STATUS = "marketing_status"
FIELD_PLACE = "field:"

STATUSES = {
    "subscribed": Seen(Value.ON),
    "unsubscribed": Seen(Value.OFF),
    "no_consent": Seen(Value.UNSET),
    "archived": Seen(Value.SILENT),
    "bounced": Seen(Value.SILENT, fact="hard_bounce"),
}
THEIRS = {Wish.ON: "subscribed", Wish.OFF: "unsubscribed"}
MARKS = {Wish.ON: Seen(Value.ON), Wish.OFF: Seen(Value.OFF)}
OF_SEVERAL = (Value.ON, Value.UNSET, Value.OFF, Value.SILENT)
"""What several persons of one address amount to, unless some are on and some off: the first of
these that any of them holds."""

FEW = 20
"""So many strangers are searched for; for more, everybody is walked: a search costs 20 tokens of
the day, a page of 500 persons 10. https://developers.pipedrive.com/docs/api/v1/Persons"""
FRESH = timedelta(seconds=20)
"""So long a list of who is new is not asked for again."""
OVERLAP = timedelta(minutes=5)
WALK_ALL_EVERY = timedelta(hours=24)

NO_CAMPAIGNS = (
    "Pipedrive shows no marketing_status: the Campaigns add-on is not active, or our user may not "
    "see it; activate it or set campaigns = false"
)
KEPT = "Pipedrive kept the old status"
NOBODY = "Pipedrive has no person who could hold this"


class NoCampaigns(Refused):
    """The configuration names an add-on that the account does not have."""


@dataclass(frozen=True, slots=True)
class Person:
    """One person as read. `status` is None where the answer holds none."""

    began: datetime
    id: str
    emails: tuple[str, ...]
    phones: tuple[str, ...]
    keys: frozenset[Shown]
    status: object
    custom: Mapping[str, Any]

    @property
    def mailable(self) -> bool:
        """Pipedrive keeps no status of a person without a valid address."""
        return any(kind is Kind.EMAIL for kind, _ in self.keys)

    @property
    def identifiers(self) -> tuple[tuple[Kind, str], ...]:
        emails = ((Kind.EMAIL, text) for text in self.emails)
        return (*emails, *((Kind.PHONE, text) for text in self.phones))


class Pipedrive:
    """The connector. `place` of a slot: `marketing_status`, or `field:<channel>`."""

    KEYS: ClassVar[Mapping[str, Key]] = {
        "token": Key("secret", required=True, help="API token of an admin's user."),
        "campaigns": Key("flag", help="The account has the Campaigns add-on."),
        "fields": Key("table", help='Channel = person field; default "Marketing - CHANNEL".'),
        "webhook_user": Key("text", help="HTTP user name that the webhooks bring."),
        "webhook_password": Key("secret", help="HTTP password that the webhooks bring."),
    }
    facts = Facts(
        system="pipedrive",
        channels=frozenset(Channel),
        keys_on=(Kind.EMAIL, Kind.PHONE),
        splits_topics=False,
        read_batch=50,
        write_batch=50,
        off_reversible=False,
        readback=Readback.DIRECT,
        call_alive=30.0,
        limit=Limit(20, 2.0),
        writes=WRITES,
        source_url="https://developers.pipedrive.com/docs/api/v1/Persons",
    )

    def __init__(self, target: Target, budget: Budget, now: Now) -> None:
        self._now, self._region = now, target.region
        self._campaigns = target.options.get("campaigns") is True
        self._names = _names(target)
        self._line = Line(target, budget, now)
        self._fields = Fields(self._line, now)
        self._book = Book()
        self._target, self._hooks = target, PipedriveHooks(target, self._line)
        self._slots = tuple(self._slot(channel) for channel in Channel)

    @property
    def slots(self) -> tuple[Slot, ...]:
        return self._slots

    def _slot(self, channel: Channel) -> Slot:
        if channel is Channel.EMAIL and self._campaigns:
            return Slot(STATUS, channel)
        return Slot(f"{FIELD_PLACE}{channel}", channel, enforced=False)

    async def close(self) -> None:
        await self._line.close()

    async def containers(self) -> Sequence[Container]:
        """None: the API shows no audiences of Campaigns."""
        return ()

    tend_every = upkeep.DAILY

    async def tend(self) -> Unheard | None:
        return await upkeep.tend(self._target, self._hooks, self._now)

    # --- reading -------------------------------------------------------------------------------

    async def observe(self, refs: Sequence[Ref]) -> Mapping[Ref, Observed | Absent | Failure]:
        try:
            await self._catch_up([ref for ref in refs if self._is_stranger(ref)])
        except PropagationError as failure:
            return dict.fromkeys(refs, failure)
        return await _each(self._observe, refs)

    def _is_stranger(self, ref: Ref) -> bool:
        if not ref.value or ref.kind not in self.facts.keys_on:
            return False
        key = self._key(ref)
        return key is not None and not self._book.persons(key)

    async def _catch_up(self, strangers: Sequence[Ref]) -> None:
        """Learn who is new since everybody was seen: one list tells it of all these strangers."""
        book, began = self._book, self._now()
        enough = 0 if book.walked else FEW
        if len(strangers) <= enough or (book.seen_to and began < book.seen_to + FRESH):
            return
        asked = {"limit": str(PAGE)}
        if book.seen_to:
            asked["updated_since"] = _rfc3339(book.seen_to - OVERLAP)
        while True:
            answer = await self._line.page(PERSONS, asked)
            for item in listed(answer):
                if item.get("is_deleted") is not True:
                    person = _person(item, began, self._region)
                    book.learn(person.id, person.keys)
            after = following(answer)
            if not after:
                break
            asked["cursor"] = after
        book.seen_to = began

    async def _observe(self, ref: Ref) -> Observed | Absent:
        began = self._now()
        fields = await self._fields.read(list(self._names.values()))
        persons = await self._persons(ref, fields)
        return self._observed(persons, fields) if persons else Absent(began)

    async def _persons(self, ref: Ref, fields: Mapping[str, Field]) -> list[Person]:
        """Every person with the ref's address or number, or the one of that id.

        Searches cost twenty times a read: known persons are read by id as long as each of them
        is still there and still shows the address, and once everybody was seen, nobody is
        searched for whom no list shows.
        """
        if not ref.value:
            found = [await self._person(_number(ref.vendor_id), fields)]
            return [person for person in found if person]
        key = self._key(ref)
        if key is None:
            return []
        known = self._book.persons(key)
        if not known and self._book.walked:
            return []
        if known:
            read = [await self._person(number, fields) for number in known]
            held = [person for person in read if person and key in person.keys]
            if len(held) == len(known):
                return held
        hits = await self._search(key, ref.value)
        found = [await self._person(number, fields) for number in hits]
        return [person for person in found if person and key in person.keys]

    def _key(self, ref: Ref) -> Shown | None:
        """None for what is no address or number (a sender's name): no person shows it."""
        if ref.kind not in self.facts.keys_on or ref.kind is None:
            raise Refused("Pipedrive finds people by address, phone number or person id only")
        return _key(ref.kind, ref.value, self._region)

    async def _person(self, number: str, fields: Mapping[str, Field]) -> Person | None:
        began = self._now()
        try:
            item = await self._line.person(number, self._shown(fields))
        except Denied as denied:
            raise Refused(f"our user may not see this person ({denied})") from None
        if item is None or item.get("is_deleted") is True:
            self._book.forget(number)
            return None
        person = _person(item, began, self._region)
        self._book.learn(person.id, person.keys)
        return person

    def _shown(self, fields: Mapping[str, Field]) -> dict[str, str]:
        """The parameters without which Pipedrive leaves the status out, or sends every field."""
        shown = {"include_fields": STATUS} if self._campaigns else {}
        if fields:
            shown["custom_fields"] = ",".join(sorted(field.code for field in fields.values()))
        return shown

    async def _search(self, key: Shown, spelling: str) -> list[str]:
        """Ids of the persons that may show this address or number: reading them tells.

        Pipedrive compares a number with what staff typed, so that one typed with spaces is found
        by a walk only. https://developers.pipedrive.com/docs/api/v1/Persons#searchPersons
        """
        hits: set[str] = set()
        for term in _terms(key, spelling):
            after: str | None = None
            while True:
                onward = {"cursor": after} if after else {}
                answer = await self._line.search({**_exactly(key, term), **onward})
                hits |= {_id(item) for item in _hits(answer)}
                after = following(answer)
                if not after:
                    break
        self._book.searched(key)
        return sorted(hits.union(self._book.persons(key)), key=int)

    # --- what was read -------------------------------------------------------------------------

    def _observed(self, persons: Sequence[Person], fields: Mapping[str, Field]) -> Observed:
        values = [self._values(person, fields) for person in persons]
        found = {
            slot: _of_several([one[slot] for one in values if slot in one])
            for slot in self.slots
            if any(slot in one for one in values)
        }
        shown = (one for person in persons for one in person.identifiers)
        return Observed(
            found,
            min(person.began for person in persons),
            persons[0].id if len(persons) == 1 else None,
            tuple(dict.fromkeys(shown)),
        )

    def _values(self, person: Person, fields: Mapping[str, Field]) -> dict[Slot, Seen]:
        values: dict[Slot, Seen] = {}
        for slot in self.slots:
            if slot.place != STATUS:
                values[slot] = _mark(person, fields.get(self._names[slot.channel]))
            elif person.mailable:
                values[slot] = _status(person.status)
        return values

    # --- writing -------------------------------------------------------------------------------

    async def apply(self, changes: Sequence[Change]) -> Mapping[Change, Answer]:
        """One call for each person and direction, whatever the number of slots."""
        ours = frozenset(self.slots)
        answers: dict[Change, Answer] = {
            change: Refused("not one of this target's marketing slots")
            for change in changes
            if change.slot not in ours or change.to not in THEIRS
        }
        together: dict[tuple[Ref, Wish], list[Change]] = defaultdict(list)
        for change in changes:
            if change not in answers:
                together[change.ref, change.to].append(change)
        for to in (Wish.OFF, Wish.ON):
            parts = [part for (_, towards), part in together.items() if towards is to]
            done = await http.spread(parts, self._change, AT_ONCE)
            for part, found in zip(parts, done, strict=True):
                failed = isinstance(found, PropagationError)
                answers |= dict.fromkeys(part, found) if failed else found
        return answers

    async def _change(self, changes: Sequence[Change]) -> dict[Change, Answer]:
        """Changes of one ref in one direction. What cannot be written does not stop the rest."""
        ref, to = changes[0].ref, changes[0].to
        persons = await self._persons(ref, {})
        answers: dict[Change, Answer] = {}
        options: dict[str, int] = {}
        for change in changes:
            on_status = change.slot.place == STATUS
            if not any(person.mailable or not on_status for person in persons):
                answers[change] = Local(NOBODY)
                continue
            try:
                code, option = await self._option(change)
                options[code] = option
            except Refused as refusal:
                if not on_status:
                    answers[change] = refusal
        good = [change for change in changes if change not in answers]
        return answers | (await self._write(persons, good, options, to) if good else {})

    async def _option(self, change: Change) -> tuple[str, int]:
        """The slot's field, made if need be, and the option to choose there. Beside the status the
        field is a copy for people to see, and the lack of it is no obstacle."""
        held = await self._fields.made(self._names[change.slot.channel])
        return held.code, held.option(change.to)

    async def _write(
        self,
        persons: Sequence[Person],
        changes: Sequence[Change],
        options: Mapping[str, int],
        to: Wish,
    ) -> dict[Change, Answer]:
        """Every person is written to, also after one that failed."""
        statuses = [change for change in changes if change.slot.place == STATUS]
        answers: dict[Change, Answer] = dict.fromkeys(changes, Applied())
        failures: list[Failure] = []
        for person in persons:
            body: dict[str, Any] = {"custom_fields": dict(options)} if options else {}
            if statuses and person.mailable:
                body[STATUS] = THEIRS[to]
            try:
                reply = await self._patch(person, body, to) if body else {}
            except Unusable:
                raise
            except PropagationError as fault:
                failures.append(fault)
                continue
            if STATUS in body and (kept := _kept(reply, to)):
                answers |= dict.fromkeys(statuses, kept)
        failure = http.gravest(failures)
        return dict.fromkeys(changes, failure) if failure else answers

    async def _patch(self, person: Person, body: Json, to: Wish) -> Json:
        try:
            return await self._line.patch(person.id, body, repeat=to is Wish.OFF)
        except Denied as denied:
            raise Refused(f"our user may not edit this person ({denied})") from None
        except Refused:
            self._fields.forget()
            raise

    # --- walking -------------------------------------------------------------------------------

    async def scan(self, cursor: str | None) -> AsyncIterator[Page]:
        """All persons once a day, else those changed since the last walk began.

        Whether a change of the status alone moves `update_time` is not documented: only the walk
        of all persons is sure to see it. A process begins with one, to learn numbers as typed.
        """
        fields = await self._fields.read(list(self._names.values()))
        walk: Walk | None = Walk.start(cursor, self._now(), changes=self._book.walked)
        from_start = walk is not None and walk.after is None and walk.since is None
        started = self._now()
        while walk:
            began = self._now()
            answer = await self._line.page(PERSONS, self._asked(walk, fields))
            items, after = listed(answer), following(answer)
            records, whole = self._records(items, began, fields)
            walk = replace(walk, whole=walk.whole and whole)
            onward = replace(walk, after=after) if after else None
            complete = onward is None and walk.since is None and walk.whole
            if onward is None and from_start:
                self._book.seen_to = started
            yield Page(tuple(records), (onward or walk.rest()).text, complete)
            walk = onward

    def _asked(self, walk: Walk, fields: Mapping[str, Field]) -> dict[str, str]:
        asked = {"limit": str(PAGE), **self._shown(fields)}
        if walk.since:
            asked["updated_since"] = walk.since
        return asked | ({"cursor": walk.after} if walk.after else {})

    def _records(
        self, items: Sequence[Json], began: datetime, fields: Mapping[str, Field]
    ) -> tuple[list[tuple[Ref, Observed]], bool]:
        """A person in unknown words is left out, and the walk is not whole then."""
        records, whole = [], True
        for item in items:
            if item.get("is_deleted") is True:
                continue
            person = _person(item, began, self._region)
            self._book.learn(person.id, person.keys)
            try:
                records.append((Ref(None, "", person.id), self._observed([person], fields)))
            except NoCampaigns:
                raise
            except Refused:
                whole = False
        return records, whole


# --- where we are ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Book:
    """Which persons show which address or number, as learnt by this process."""

    seen_to: datetime | None = None
    """Every person that stood there then was seen."""
    _holders: dict[Shown, set[str]] = field(default_factory=dict)
    _shown: dict[str, frozenset[Shown]] = field(default_factory=dict)
    _searched: set[Shown] = field(default_factory=set)

    @property
    def walked(self) -> bool:
        """What stands here is not just some of an address's persons."""
        return self.seen_to is not None

    def persons(self, key: Shown) -> list[str]:
        """Empty where only a search can tell."""
        if not self.walked and key not in self._searched:
            return []
        return sorted(self._holders.get(key, ()), key=int)

    def learn(self, number: str, keys: frozenset[Shown]) -> None:
        if self._shown.get(number) == keys:
            return
        self.forget(number)
        self._shown[number] = keys
        for key in keys:
            self._holders.setdefault(key, set()).add(number)

    def forget(self, number: str) -> None:
        for key in self._shown.pop(number, ()):
            self._holders[key].discard(number)

    def searched(self, key: Shown) -> None:
        self._searched.add(key)


@dataclass(frozen=True, slots=True)
class Walk:
    """Where a scan stands. Times are RFC 3339 texts; `text` is the cursor."""

    all_began: str
    """When the last walk of all persons began."""
    began: str
    since: str | None = None
    """Changes since then; None walks all persons."""
    after: str | None = None
    whole: bool = True
    """No person had to be left out so far."""

    @classmethod
    def start(cls, cursor: str | None, now: datetime, *, changes: bool = True) -> Walk:
        """Without `changes`, a new walk is of all persons; one that broke off goes on."""
        fresh = cls(_rfc3339(now), _rfc3339(now))
        walk = cls(**json.loads(cursor)) if cursor else fresh
        if walk.after:
            return walk
        if not changes or now - datetime.fromisoformat(walk.all_began) >= WALK_ALL_EVERY:
            return fresh
        return replace(walk, began=_rfc3339(now))

    def rest(self) -> Walk:
        """What the next scan walks, after the last page of this one."""
        since = datetime.fromisoformat(self.began) - OVERLAP
        return Walk(self.all_began, self.began, _rfc3339(since))

    @property
    def text(self) -> str:
        return json.dumps(asdict(self))


# --- words ----------------------------------------------------------------------------------------


def _status(word: object) -> Seen:
    """Raises Refused for a word that is not in the table: an unknown state is never guessed."""
    if word is None:
        raise NoCampaigns(NO_CAMPAIGNS)
    if isinstance(word, str) and word in STATUSES:
        return STATUSES[word]
    raise Refused(f"unknown marketing_status at Pipedrive; known are {', '.join(STATUSES)}")


def _mark(person: Person, held: Field | None) -> Seen:
    option = person.custom.get(held.code) if held else None
    if held is None or option is None:
        return Seen(Value.UNSET)
    return MARKS[held.meaning(option)]


def _of_several(seen: Sequence[Seen]) -> Seen:
    """Where some are on and some off, neither an out nor an in is met."""
    if {Value.ON, Value.OFF} <= {one.value for one in seen}:
        return Seen(Value.UNSET)
    return min(seen, key=lambda one: OF_SEVERAL.index(one.value))


def _kept(reply: Json, to: Wish) -> Refused | None:
    """A status that the reply does not hold says nothing: the read-back does."""
    word = reply.get(STATUS)
    if word is None or word == THEIRS[to]:
        return None
    silent = isinstance(word, str) and word in STATUSES and STATUSES[word].value is Value.SILENT
    return None if to is Wish.OFF and silent else Refused(KEPT)


def _names(target: Target) -> dict[Channel, str]:
    given = target.table("fields")
    return {channel: str(given.get(channel) or f"Marketing - {channel}") for channel in Channel}


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- Pipedrive's answers --------------------------------------------------------------------------


def _person(item: Json, began: datetime, region: str) -> Person:
    emails, phones = _texts(item, "emails"), _texts(item, "phones")
    custom = item.get("custom_fields") or {}
    if not isinstance(custom, Mapping):
        raise Temporary("Pipedrive answered something that is not a person")
    keys = _keys(emails, phones, region)
    return Person(began, _id(item), emails, phones, keys, item.get(STATUS), custom)


def _id(item: Json) -> str:
    number = item.get("id")
    if not isinstance(number, int) or isinstance(number, bool):
        raise Temporary("Pipedrive answered something that is not a person")
    return str(number)


def _number(vendor_id: str | None) -> str:
    if not vendor_id or not (vendor_id.isascii() and vendor_id.isdigit()):
        raise Refused("that is no id of a Pipedrive person")
    return vendor_id


def _texts(item: Json, name: str) -> tuple[str, ...]:
    """Addresses or numbers: objects in a person, plain texts in a search hit."""
    values = (one.get("value") if isinstance(one, Mapping) else one for one in item.get(name) or ())
    return tuple(value for value in values if isinstance(value, str) and value.strip())


def _keys(emails: Iterable[str], phones: Iterable[str], region: str) -> frozenset[Shown]:
    found = [_key(Kind.EMAIL, text, region) for text in emails]
    found += [_key(Kind.PHONE, text, region) for text in phones]
    return frozenset(key for key in found if key)


def _key(kind: Kind, text: str, region: str) -> Shown | None:
    """None for what staff typed into the wrong box."""
    try:
        found = identity.email(text) if kind is Kind.EMAIL else identity.phone(text, region)
    except BadIdentifier:
        return None
    return found.kind, found.key


def _hits(answer: Json) -> list[Json]:
    data = answer.get("data") or {}
    items = data.get("items") if isinstance(data, Mapping) else None
    found = [one.get("item") if isinstance(one, Mapping) else None for one in items or ()]
    if not isinstance(items, list):
        raise Temporary("Pipedrive answered something that is not a list of hits")
    hits = [item for item in found if isinstance(item, Mapping)]
    if len(hits) != len(items):
        raise Temporary("Pipedrive answered something that is not a list of hits")
    return hits


def _terms(key: Shown, spelling: str) -> tuple[str, ...]:
    """What to search for: an address as it is spelt and as it is compared, which differ where its
    domain is not ASCII; a number in E.164 and as it is dialled at home."""
    kind, text = key
    if kind is Kind.EMAIL:
        return tuple(dict.fromkeys((text, spelling.strip().lower())))
    national = phonenumbers.format_number(
        phonenumbers.parse(text), phonenumbers.PhoneNumberFormat.NATIONAL
    )
    digits = "".join(character for character in national if character.isdigit())
    return tuple(dict.fromkeys((text, digits)))


def _exactly(key: Shown, term: str) -> dict[str, str]:
    return {"term": term, "fields": key[0].value, "exact_match": "true", "limit": str(PAGE)}


# --- small helpers --------------------------------------------------------------------------------


async def _each(call: Callable[[T], Awaitable[R]], items: Sequence[T]) -> dict[T, R | Failure]:
    """One call an item, side by side; what an item raises is its answer."""
    return dict(zip(items, await http.spread(items, call, AT_ONCE), strict=True))
