"""Pabau: five marketing flags on the client, read from listings only.

There is no search, no read by id and no filter by date, so clients are found by an index of the
whole listing and read again on the page where they stood. Every flag is documented to default to
1, on updates too: all five go along with every write, as they stand. The separate preference for
confirmations ("need to knows") is neither shown nor changed by this interface.

An update carries flags that were read a moment before: one that somebody changes at Pabau in that
moment is set back. So the client is read again before every try.

The key is part of the path; nothing here puts a path into a log or an error.

https://support.pabau.com/en/api/clients
https://support.pabau.com/en/api/rate-limits
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import quote

from connectors import http, labels
from connectors.index import Index, Shown
from prefs.core.errors import PropagationError, Refused, SettingsError, Temporary, Unusable
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
    Value,
    Wish,
)
from prefs.core.words import Channel, Kind

HOST = "https://api.oauth.pabau.com"
PAGE = 50
BATCH = 50
ENCODINGS = ("json", "form", "query")
FLAGS: Mapping[str, Channel] = {
    "opt_in_email": Channel.EMAIL,
    "opt_in_newsletter": Channel.EMAIL,
    "opt_in_sms": Channel.SMS,
    "opt_in_phone": Channel.PHONE,
    "opt_in_post": Channel.POST,
}
OPTED_OUT = "opted out"
REST_A_PAGE = timedelta(seconds=12)
"""A walk of n pages is not repeated before n times that: reading takes a small share only."""
GONE = "the client is not where it was listed; it is looked up again"
UNSURE = "Pabau's list did not add up (clients come and go); it is read again"
NO_LIST = "Pabau did not answer with a list of clients"

Wanted = Callable[[], set[str]]
"""Ids of the clients that are asked for, as the index knows them now."""


@dataclass(frozen=True, slots=True)
class Client:
    """One client as a page showed it. Flags and `active` are not judged yet."""

    id: str
    flags: Mapping[str, Any]
    active: Any
    shown: Shown
    custom: Mapping[str, Any] | None
    """Custom fields, where this account's listing shows them."""


class Pabau:
    """One account. `place` of a slot: the flag, or `field:<name>` for Messenger.

    Email has two flags, each a slot: an out of either one is heard, and both are turned off."""

    facts: ClassVar[Facts] = Facts(
        system="pabau",
        channels=frozenset(Channel),
        keys_on=(Kind.EMAIL, Kind.PHONE),
        splits_topics=False,
        read_batch=BATCH,
        write_batch=BATCH,
        off_reversible=True,
        readback=Readback.LISTING,
        call_alive=30.0,
        limit=Limit(5, 1.0),
        writes=(("POST", r"/[^/]+/clients/[0-9]+/update"),),
        source_url="https://support.pabau.com/en/api/clients",
        on_by_default=frozenset(FLAGS.values()),
    )
    KEYS: ClassVar[Mapping[str, Key]] = {
        "api_key": Key("secret", required=True, help="API key (Setup, Developer Hub)."),
        "encoding": Key("text", help="How an update is sent: json (default), form or query."),
        "fields": Key("table", help="messenger = custom field that says opted out."),
    }

    def __init__(self, target: Target, budget: Budget, now: Callable[[], datetime]) -> None:
        self._encoding = target.text("encoding") or "json"
        if self._encoding not in ENCODINGS:
            raise SettingsError([f"{target.label}.encoding: one of {', '.join(ENCODINGS)}"])
        self._now = now
        self._key = quote(target.text("api_key") or "", safe="")
        self._way = http.Way(target, budget, HOST, self.facts.writes)
        self._slots = {Slot(flag, channel): flag for flag, channel in FLAGS.items()}
        self._field = _field(target)
        self._index = Index(target.region)
        self._pages: dict[str, int] = {}
        self._walked = False
        self._total: int | None = None
        """How many clients the last walk saw; None where it may have missed some."""
        self._rest_until = now()
        self._walking = asyncio.Lock()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (*self._slots, *([self._field] if self._field else []))

    async def close(self) -> None:
        await self._way.close()

    # --- reading -------------------------------------------------------------------------------

    async def observe(self, refs: Sequence[Ref]) -> Mapping[Ref, Observed | Absent | Failure]:
        began = self._now()
        try:
            await self._know(refs)
            found = await self._clients(lambda: {i for ref in refs for i in self._index.find(ref)})
        except PropagationError as fault:
            return dict.fromkeys(refs, fault)
        return {ref: self._observed(ref, found, began) for ref in refs}

    async def _know(self, refs: Sequence[Ref]) -> None:
        """Somebody the index does not know may be new: unless the number of clients is that of
        the last walk, all are walked again."""
        if self._walked and all(self._index.find(ref) for ref in refs):
            return
        async with self._walking:
            if self._total is None or (await self._page(1))[1] != self._total:
                async for _ in self._walk():
                    pass

    async def _clients(self, wanted: Wanted) -> dict[str, Client]:
        """Each as it stands now; who is not near its page is walked for."""
        found = await self._located(wanted)
        if wanted() <= found.keys():
            return found
        async with self._walking:
            async for clients, _ in self._walk():
                found |= _those(clients, wanted())
        return found

    async def _located(self, wanted: Wanted, attempts: int = http.ATTEMPTS) -> dict[str, Client]:
        """Those on the pages where they stood, or on a page beside."""
        found = dict[str, Client]()
        for shift in (0, 1, -1):
            missing = wanted() - found.keys()
            pages = {self._pages[id_] + shift for id_ in missing if id_ in self._pages}
            for page in sorted(pages - {0}):
                clients, _ = await self._page(page, attempts)
                found |= _those(clients, wanted())
        return found

    async def _page(self, number: int, attempts: int = http.ATTEMPTS) -> tuple[list[Client], int]:
        """The clients of one page, and how many the account has."""
        params = {"per_page": str(PAGE), "page": str(number)}

        async def ask() -> Any:
            return self._checked(
                await self._way.send("GET", f"/{self._key}/clients", params=params)
            )

        clients, total = _listed(await http.retried(ask, attempts))
        for one in clients:
            self._index.put(one.id, one.shown)
            self._pages[one.id] = number
        return clients, total

    async def _walk(self) -> AsyncIterator[tuple[list[Client], bool | None]]:
        """Every page. The second of each pair is None before the last one, which says whether
        all were surely seen: clients that come and go meanwhile shift pages."""
        number, seen, complete = 0, set[str](), None
        first: int | None = None
        while complete is None:
            number += 1
            clients, total = await self._page(number)
            first = total if first is None else first
            new = {one.id for one in clients} - seen
            seen |= new
            if not new or len(seen) >= total:
                complete = first == total == len(seen)
                self._end_walk(seen, complete=complete)
            yield clients, complete

    def _end_walk(self, seen: set[str], *, complete: bool) -> None:
        self._walked, self._total = True, len(seen) if complete else None
        if complete:
            self._index.keep(seen)
            self._pages = {id_: page for id_, page in self._pages.items() if id_ in seen}

    def _observed(
        self, ref: Ref, found: Mapping[str, Client], began: datetime
    ) -> Observed | Absent | Failure:
        """All clients that share the address, taken together."""
        ids = self._index.find(ref)
        clients = [found[id_] for id_ in ids if id_ in found]
        if (not clients or len(clients) < len(ids)) and self._total is None:
            return Temporary(UNSURE)
        if not clients:
            return Absent(began)
        shown = tuple(dict.fromkeys(one for client in clients for one in client.shown))
        try:
            values = self._values(clients)
        except Refused as fault:
            return fault
        hidden = {self._field} if self._field else set()
        return Observed(values, began, clients[0].id, shown, frozenset(hidden - values.keys()))

    def _values(self, clients: Sequence[Client]) -> dict[Slot, Seen]:
        """Raises Refused for a flag that is neither 0 nor 1."""
        values = {}
        for slot, flag in self._slots.items():
            held = [_bit(client.flags[flag]) for client in clients]
            values[slot] = Seen(_together(held))
        if self._field and all(client.custom is not None for client in clients):
            name = self._field.place.removeprefix("field:")
            values[self._field] = labels.seen(
                [(client.custom or {}).get(name) == OPTED_OUT for client in clients]
            )
        return values

    # --- writing -------------------------------------------------------------------------------

    async def apply(self, changes: Sequence[Change]) -> Mapping[Change, Answer]:
        """One update a client, whatever of it changes."""
        try:
            await self._know([change.ref for change in changes])
        except PropagationError as fault:
            return dict.fromkeys(changes, fault)
        ids = {change: self._index.find(change.ref) for change in changes}
        by_id: dict[str, list[Change]] = {}
        for change in changes:
            for id_ in ids[change]:
                by_id.setdefault(id_, []).append(change)
        done = await http.spread(list(by_id.items()), self._update, 4)
        answers = dict(zip(by_id, done, strict=True))
        told = {change: _answer([answers[id_] for id_ in ids[change]]) for change in changes}
        return {change: answer for change, answer in told.items() if answer}

    async def _update(self, item: tuple[str, Sequence[Change]]) -> Answer | None:
        """None where the reply says neither done nor failed: what updates answer is unconfirmed
        by the vendor's pages."""
        id_, changes = item

        async def update() -> Answer | None:
            found = await self._located(lambda: {id_}, attempts=1)
            if id_ not in found:
                return Temporary(GONE)
            body = self._encoded(self._body(found[id_], changes))
            path = f"/{self._key}/clients/{id_}/update"
            return _done(self._checked(await self._way.send("POST", path, **body)))

        once = any(change.to is Wish.ON for change in changes)
        async with self._locks[id_]:
            return await http.retried(update, 1 if once else http.ATTEMPTS)

    def _body(self, client: Client, changes: Sequence[Change]) -> dict[str, Any]:
        """The flags that stay are sent as they stand. Raises Refused for one that is unknown."""
        body: dict[str, Any] = {flag: _bit(client.flags[flag]) for flag in FLAGS}
        body["is_active"] = _bit(client.active)
        for change in changes:
            off = change.to is Wish.OFF
            if change.slot == self._field:
                body[change.slot.place.removeprefix("field:")] = OPTED_OUT if off else ""
            elif change.slot in self._slots:
                body[self._slots[change.slot]] = 0 if off else 1
        return body

    def _encoded(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Whether updates are JSON, a form or a query is unconfirmed by the vendor's pages."""
        if self._encoding == "json":
            return {"json": body}
        name = "data" if self._encoding == "form" else "params"
        return {name: {key: str(value) for key, value in body.items()}}

    def _checked(self, reply: http.Reply) -> Any:
        if reply.status == 402:
            raise Unusable("HTTP 402: the account is closed or unpaid")
        if reply.status == 429:
            self._way.pause(reply)
        return http.checked(reply)

    # --- walking -------------------------------------------------------------------------------

    async def scan(self, cursor: str | None) -> AsyncIterator[Page]:
        """All clients; there is no other way to see a change, and nowhere to go on from. After a
        walk the next ones are put off in proportion to its pages."""
        started = began = self._now()
        if started < self._rest_until:
            yield Page((), cursor)
            return
        pages, known = 0, True
        async with self._walking:
            async for clients, complete in self._walk():
                pages += 1
                records = [self._record(one, began) for one in clients]
                known = known and None not in records
                read = tuple(one for one in records if one)
                yield Page(read, complete=known and bool(complete))
                began = self._now()
        self._rest_until = started + pages * REST_A_PAGE

    def _record(self, client: Client, began: datetime) -> tuple[Ref, Observed] | None:
        """None for a flag in unknown words: such a record was not seen."""
        try:
            values = self._values([client])
        except Refused:
            return None
        kind, value = client.shown[0] if client.shown else (None, "")
        return Ref(kind, value, client.id), Observed(values, began, client.id, client.shown)

    async def containers(self) -> Sequence[Container]:
        return []


def _field(target: Target) -> Slot | None:
    """The custom field for Messenger, which no flag covers; blanks become underscores there.
    Raises SettingsError."""
    fields = target.table("fields")
    if set(fields) - {Channel.MESSENGER.value}:
        raise SettingsError([f"{target.label}.fields can hold messenger only: the rest has flags"])
    name = str(fields.get(Channel.MESSENGER.value, "")).replace(" ", "_")
    return Slot(f"field:{name}", Channel.MESSENGER, enforced=False) if name else None


def _those(clients: Sequence[Client], ids: set[str]) -> dict[str, Client]:
    return {one.id: one for one in clients if one.id in ids}


def _listed(answer: Any) -> tuple[list[Client], int]:
    """Raises Temporary for an answer that is no list of clients."""
    try:
        if answer["success"] is not True:
            raise Temporary(NO_LIST)
        return [_client(item) for item in answer["clients"]], int(answer["total"])
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Temporary(NO_LIST) from None


def _client(item: Mapping[str, Any]) -> Client:
    details, said, custom = item["details"], item["communications"], item.get("custom_fields")
    pairs = ((Kind.EMAIL, "email"), (Kind.PHONE, "mobile"), (Kind.PHONE, "phone"))
    return Client(
        id=str(details["id"]),
        flags={flag: said.get(flag) for flag in FLAGS},
        active=details.get("is_active"),
        shown=tuple((kind, str(said[name])) for kind, name in pairs if said.get(name)),
        custom=custom if isinstance(custom, Mapping) else None,
    )


def _together(bits: Sequence[int]) -> Value:
    """Of all clients that share the address; where they differ, neither an out nor an in is met."""
    if not any(bits):
        return Value.OFF
    return Value.ON if all(bits) else Value.UNSET


def _bit(value: Any) -> int:
    if str(value) not in ("0", "1"):
        raise Refused("a flag of the client is neither 0 nor 1 at Pabau")
    return int(value)


def _done(answer: Any) -> Applied | None:
    """Raises Refused where the vendor says that it was not done."""
    said = answer if isinstance(answer, Mapping) else {}
    if str(said.get("status")) == "1" or said.get("success") is True:
        return Applied()
    if "status" in said or "success" in said:
        raise Refused("Pabau says that the update was not done")
    return None


def _answer(answers: Sequence[Answer | None]) -> Answer | None:
    """Of all clients that share the address: done only when each is."""
    if not answers:
        return Temporary(GONE)
    failed = http.gravest(one for one in answers if isinstance(one, PropagationError))
    return failed or (None if None in answers else Applied())
