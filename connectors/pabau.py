"""Pabau: five marketing flags on the client, read from listings only.

There is no search, no read by id and no filter by date, so clients are found by an index of the
whole listing and read again on the page where they stood. Every flag is documented to default to
1, on updates too: all five go along with every write, as they stand. The separate preference for
confirmations ("need to knows") is neither shown nor changed by this interface.

The key is part of the path; nothing here puts a path into a log or an error.

https://support.pabau.com/en/api/clients
https://support.pabau.com/en/api/rate-limits
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

from connectors import http
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
FLAGS: Mapping[Channel, tuple[str, ...]] = {
    Channel.EMAIL: ("opt_in_email", "opt_in_newsletter"),
    Channel.SMS: ("opt_in_sms",),
    Channel.PHONE: ("opt_in_phone",),
    Channel.POST: ("opt_in_post",),
}
ALL_FLAGS = tuple(flag for flags in FLAGS.values() for flag in flags)
OPTED_OUT = "opted out"
REST_A_PAGE = timedelta(seconds=12)
"""A walk of n pages is not repeated before n times that: reading takes a small share only."""
GONE = "the client is no longer listed; it is looked up again"


@dataclass(frozen=True, slots=True)
class Client:
    """One client as a page showed it."""

    id: str
    page: int
    flags: Mapping[str, int]
    active: int
    shown: Shown
    custom: Mapping[str, Any] | None
    """Custom fields, where this account's listing shows them."""


class Pabau:
    """One account. `place` of a slot: the channel, or `field:<name>` for Messenger."""

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
        self._key = target.text("api_key") or ""
        self._way = http.Way(target, budget, HOST, self.facts.writes)
        self._slots = {Slot(channel.value, channel): flags for channel, flags in FLAGS.items()}
        name = target.table("fields").get(Channel.MESSENGER.value)
        field = str(name).replace(" ", "_") if name else None
        self._field = Slot(f"field:{field}", Channel.MESSENGER, enforced=False) if field else None
        self._index = Index(target.region)
        self._pages: dict[str, int] = {}
        self._total: int | None = None
        """How many clients the last whole walk saw; None before the first."""
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
            found = await self._clients({id_ for ref in refs for id_ in self._ids(ref)})
        except PropagationError as fault:
            return dict.fromkeys(refs, fault)
        return {ref: self._observed(ref, found, began) for ref in refs}

    def _ids(self, ref: Ref) -> list[str]:
        return self._index.find(ref)

    async def _know(self, refs: Sequence[Ref]) -> None:
        """Somebody the index does not know may be new: where the number of clients moved since
        the last walk, all are walked again."""
        if self._total is not None and all(self._ids(ref) for ref in refs):
            return
        async with self._walking:
            if self._total is None or (await self._page(1))[1] != self._total:
                async for _ in self._walk():
                    pass

    async def _clients(self, ids: Iterable[str]) -> dict[str, Client]:
        """Each as its page shows it now; one that moved is looked for, then walked for."""
        missing, found = set(ids), dict[str, Client]()
        for shift in (0, 1, -1):
            pages = {self._pages[id_] + shift for id_ in missing if id_ in self._pages}
            for page in sorted(pages - {0}):
                clients, _ = await self._page(page)
                found |= {one.id: one for one in clients if one.id in missing}
                missing -= found.keys()
        if missing:
            async with self._walking:
                async for clients, _ in self._walk():
                    found |= {one.id: one for one in clients if one.id in missing}
        return found

    async def _page(self, number: int) -> tuple[list[Client], int]:
        """The clients of one page, and how many the account has."""
        params = {"per_page": str(PAGE), "page": str(number)}
        path = f"/{self._key}/clients"

        async def ask() -> Any:
            return self._checked(await self._way.send("GET", path, params=params))

        answer = await http.retried(ask)
        try:
            if answer["success"] is not True:
                raise Temporary("Pabau did not answer with a list of clients")
            clients = [_client(item, number) for item in answer["clients"]]
            total = int(answer["total"])
        except (KeyError, TypeError, ValueError):
            raise Temporary("Pabau did not answer with a list of clients") from None
        for one in clients:
            self._index.put(one.id, one.shown)
            self._pages[one.id] = number
        return clients, total

    async def _walk(self) -> AsyncIterator[tuple[list[Client], bool | None]]:
        """Every page. The second of each pair is None before the last one, which says whether
        all were surely seen: clients that are added meanwhile shift pages."""
        number, seen = 0, set[str]()
        first: int | None = None
        while True:
            number += 1
            clients, total = await self._page(number)
            first = total if first is None else first
            seen |= {one.id for one in clients}
            last = len(clients) < PAGE or number * PAGE >= total
            if last:
                break
            yield clients, None
        complete = first == total == len(seen)
        if complete:
            self._index.keep(seen)
            self._total = total
        elif self._total is None:
            self._total = -1  # known in part: whoever is not found is walked for again
        yield clients, complete

    def _observed(self, ref: Ref, found: Mapping[str, Client], began: datetime) -> Any:
        """Of all clients that share the address: off only when each is."""
        clients = [found[id_] for id_ in self._ids(ref) if id_ in found]
        if not clients:
            return Absent(began) if self._total != -1 else Temporary("clients moved while read")
        shown = tuple(dict.fromkeys(one for client in clients for one in client.shown))
        try:
            return Observed(self._values(clients), began, clients[0].id, shown)
        except Refused as fault:
            return fault

    def _values(self, clients: Sequence[Client]) -> dict[Slot, Seen]:
        """Raises Refused for a flag that is neither 0 nor 1."""
        values = {}
        for slot, flags in self._slots.items():
            off = all(_flag(client, flag) == 0 for client in clients for flag in flags)
            values[slot] = Seen(Value.OFF if off else Value.ON)
        if self._field and all(client.custom is not None for client in clients):
            name = self._field.place.removeprefix("field:")
            marked = [(client.custom or {}).get(name) == OPTED_OUT for client in clients]
            values[self._field] = Seen(Value.OFF if all(marked) else Value.UNMARKED)
        return values

    # --- writing -------------------------------------------------------------------------------

    async def apply(self, changes: Sequence[Change]) -> Mapping[Change, Answer]:
        """One update a client, whatever of it changes."""
        try:
            await self._know([change.ref for change in changes])
        except PropagationError as fault:
            return dict.fromkeys(changes, fault)
        by_id: dict[str, list[Change]] = {}
        for change in changes:
            for id_ in self._ids(change.ref):
                by_id.setdefault(id_, []).append(change)
        answers = dict(
            zip(by_id, await http.spread(list(by_id.items()), self._update, 4), strict=True)
        )
        return {change: self._answer(change, answers) for change in changes}

    def _answer(self, change: Change, answers: Mapping[str, Answer]) -> Answer:
        ids = self._ids(change.ref)
        if not ids:
            return Temporary(GONE)
        return next((answers[i] for i in ids if not isinstance(answers[i], Applied)), Applied())

    async def _update(self, item: tuple[str, Sequence[Change]]) -> Answer:
        """The client is read just before, so that the flags that stay are sent as they stand."""
        id_, changes = item
        async with self._locks[id_]:
            found = await self._clients([id_])
            if id_ not in found:
                return Temporary(GONE)
            body = self._body(found[id_], changes)
            path = f"/{self._key}/clients/{id_}/update"

            async def send() -> None:
                reply = await self._way.send("POST", path, **self._encoded(body))
                answer = self._checked(reply)
                done = isinstance(answer, dict) and (
                    str(answer.get("status")) == "1" or answer.get("success") is True
                )
                if not done:
                    raise Refused("Pabau did not say that the update was done")

            once = any(change.to is Wish.ON for change in changes)
            await (send() if once else http.retried(send))
        return Applied()

    def _body(self, client: Client, changes: Sequence[Change]) -> dict[str, Any]:
        body: dict[str, Any] = {flag: _flag(client, flag) for flag in ALL_FLAGS}
        body["is_active"] = client.active
        for change in changes:
            off = change.to is Wish.OFF
            if change.slot == self._field:
                body[change.slot.place.removeprefix("field:")] = OPTED_OUT if off else ""
            for flag in self._slots.get(change.slot, ()):
                body[flag] = 0 if off else 1
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
        """All clients; there is no other way to see a change. The cursor says when the last walk
        began and how many pages it had: the next one waits in proportion."""
        held = json.loads(cursor) if cursor else None
        began = self._now()
        if held and began < datetime.fromisoformat(held["at"]) + held["pages"] * REST_A_PAGE:
            yield Page((), cursor)
            return
        pages = 0
        async with self._walking:
            async for clients, complete in self._walk():
                pages += 1
                records = tuple(self._record(one, began) for one in clients)
                onward = json.dumps({"at": began.isoformat(), "pages": pages})
                last = complete is not None
                yield Page(
                    tuple(one for one in records if one),
                    onward if last else None,
                    complete=bool(complete),
                )

    def _record(self, client: Client, began: datetime) -> tuple[Ref, Observed] | None:
        try:
            values = self._values([client])
        except Refused:
            return None
        kind, value = client.shown[0] if client.shown else (None, "")
        return Ref(kind, value, client.id), Observed(values, began, client.id, client.shown)

    async def containers(self) -> Sequence[Container]:
        return []


def _client(item: Mapping[str, Any], page: int) -> Client:
    details, said = item["details"], item["communications"]
    pairs = ((Kind.EMAIL, "email"), (Kind.PHONE, "mobile"), (Kind.PHONE, "phone"))
    shown = tuple((kind, str(said[name])) for kind, name in pairs if said.get(name))
    flags = {flag: said[flag] for flag in ALL_FLAGS}
    active = int(details.get("is_active", 1))
    return Client(str(details["id"]), page, flags, active, shown, item.get("custom_fields"))


def _flag(client: Client, flag: str) -> int:
    value = client.flags[flag]
    if str(value) not in ("0", "1"):
        raise Refused("unknown value of a Pabau marketing flag")
    return int(value)
