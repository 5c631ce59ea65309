"""Twilio: consents of the marketing senders, and what its message list shows.

Twilio keeps a block list for each pair of person and sender (a number, or a Messaging Service for
all its numbers), and no call reads it. It is written by the Consent Management API where the
account has that, else only our own `check` guards; it is learnt from inbound messages and from
sends that it stopped (error 21610).

https://www.twilio.com/docs/messaging/features/consent-api
https://www.twilio.com/docs/messaging/api/message-resource#read-multiple-message-resources
https://www.twilio.com/docs/api/errors/21610 https://www.twilio.com/docs/api/errors/30646
"""

from __future__ import annotations

import json
import logging
import re
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, TypeVar
from urllib.parse import urlsplit

from connectors import http
from prefs.core.errors import BadIdentifier, PropagationError, Refused, Temporary, Unusable
from prefs.core.identity import signed_phone
from prefs.core.propagation import (
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
    Value,
    Wish,
)
from prefs.core.signals import Text
from prefs.core.words import Channel, Kind, Purpose, Source

CONSENTS = "/v1/Consents/Bulk"
BATCH = 25
PAGE = 1000
OVERLAP = timedelta(hours=1)
"""A walk starts this much before the last one began: a failure may show late."""

BLOCKED = 21610
RETRY = "INTERNAL_SERVER_ERROR"
"""The only reason of a failed consent that a repeat may cure."""
STATUS = {Wish.OFF: "opt-out", Wish.ON: "opt-in"}
SOURCE = "others"
"""A change does not say through which door the wish came, and a guess would be false proof."""
REASONS = {
    "INVALID_CONTACT_ID": "the gateway does not take this number",
    "INVALID_SENDER_ID": "the gateway does not know this sender",
    "INVALID_CORRELATION_ID": "the gateway did not take our correlation id",
    "INVALID_DATE_OF_CONSENT": "the gateway did not take the date of consent",
    "INVALID_STATUS": "the gateway did not take the status",
    "INVALID_SOURCE": "the gateway did not take the source",
}

UNREADABLE = "Twilio's block list cannot be read"
NOT_USED = "consents are not switched on for this gateway; only our own check guards"
SHARED = "this sender also carries reminders, which an opt-out there would block"

Answer = Applied | Local | Failure
T = TypeVar("T")


class Twilio:
    """The connector. `place` of a slot: a marketing sender, as the configuration names it."""

    facts = Facts(
        system="twilio",
        channels=frozenset({Channel.SMS}),
        keys_on=(Kind.PHONE,),
        splits_topics=False,
        read_batch=BATCH,
        write_batch=BATCH,
        off_reversible=True,
        readback=Readback.NONE,
        call_alive=30.0,
        limit=Limit(100, 60.0),
        writes=(("POST", CONSENTS),),
        source_url="https://www.twilio.com/docs/messaging/features/consent-api",
    )
    KEYS: ClassVar[Mapping[str, Key]] = {
        "account_sid": Key("text", required=True, help="Account SID (AC...)."),
        "auth_token": Key("secret", required=True, help="Primary Auth Token: signs the webhooks."),
        "api_key": Key("text", help="API key SID (SK...): calls use it, not the Auth Token."),
        "api_secret": Key("secret", help="Secret of api_key."),
        "shared_keys": Key("table", help="SharedKey id = secret, for webhooks signed with one."),
        "consents": Key("flag", help="The account has the Consent Management API."),
    }

    def __init__(self, target: Target, budget: Budget, now: Callable[[], datetime]) -> None:
        marketing = dict.fromkeys(target.senders.get(Purpose.MARKETING, ()))
        self._slots = {place: Slot(place, Channel.SMS) for place in marketing}
        self._other = _others(target)
        self._consents = target.options.get("consents") is True
        self._now = now
        self._line = Line(target, budget, self.facts.writes)

    @property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(self._slots.values())

    async def close(self) -> None:
        await self._line.close()

    async def observe(self, refs: Sequence[Ref]) -> Mapping[Ref, Failure]:
        return {ref: Refused(UNREADABLE) for ref in refs}

    # --- writing -------------------------------------------------------------------------------

    async def apply(self, changes: Sequence[Change]) -> Mapping[Change, Answer]:
        """One consent for each number and sender. Reminder senders are never written."""
        answers: dict[Change, Answer] = {}
        for change in changes:
            obstacle = self._obstacle(change)
            if obstacle:
                answers[change] = obstacle
        for to in (Wish.OFF, Wish.ON):
            sent = [change for change in changes if change.to is to and change not in answers]
            for start in range(0, len(sent), BATCH):
                answers |= await self._consent(sent[start : start + BATCH], again=to is Wish.OFF)
        return answers

    def _obstacle(self, change: Change) -> Local | Refused | None:
        if self._slots.get(change.slot.place) != change.slot or change.to not in STATUS:
            return Refused("not a marketing sender of this gateway")
        if change.slot.place in self._other:
            return Local(SHARED)
        if not self._consents:
            return Local(NOT_USED)
        return None if change.ref.value else Refused("no number is known for this record")

    async def _consent(self, changes: Sequence[Change], *, again: bool) -> dict[Change, Answer]:
        try:
            return await self._line.consents(changes, again=again)
        except Denied as denied:
            return dict.fromkeys(changes, Local(str(denied)))
        except Failure as failure:
            return dict.fromkeys(changes, failure)

    # --- the message list ----------------------------------------------------------------------

    async def scan(self, cursor: str | None) -> AsyncIterator[Page]:
        """Numbers that a marketing sender's block list stopped (21610), newest message first.

        A message that got through after it ends that. The cursor is the time from which the next
        walk reads, or within a walk that time, the time it began and the page to go on with.
        """
        settled: set[tuple[str, Slot]] = set()
        async for batch in self._walk(Cursor.read(cursor)):
            blocked = self._blocked(batch.messages, settled)
            records = [
                (Ref(Kind.PHONE, number), _observed(number, seen, batch.began))
                for number, seen in blocked.items()
            ]
            yield Page(tuple(records), str(batch.cursor), complete=batch.cursor.page is None)

    async def inbound(self, cursor: str | None) -> tuple[list[Text], str]:
        """Every message that people sent since the cursor, oldest first, and the next cursor.

        The list has no opt-out flag (`OptOutType`): the words alone tell.
        """
        messages: list[Message] = []
        after = Cursor.read(cursor)
        async for batch in self._walk(after):
            messages += [message for message in batch.messages if message.direction == "inbound"]
            after = batch.cursor
        messages.sort(key=lambda message: message.at or NEVER)
        return [text for message in messages if (text := _text(message))], str(after)

    async def _walk(self, cursor: Cursor) -> AsyncIterator[Batch]:
        """All messages of the account: some of a service's senders may be unknown here, and a
        message that was stopped may name no number of ours at all."""
        now = self._now()
        while True:
            began = self._now()
            try:
                found, page = await self._line.messages(cursor)
            except Refused:
                if not cursor.page:
                    raise
                cursor = cursor._replace(page=None)
                continue
            start = cursor.began or now
            new = [message for message in found if _since(message, cursor)]
            cursor = Cursor(cursor.since, start, page) if page else Cursor(start - OVERLAP)
            yield Batch(began, new, cursor)
            if not page:
                return

    def _blocked(
        self, messages: Iterable[Message], settled: set[tuple[str, Slot]]
    ) -> dict[str, dict[Slot, Seen]]:
        """The newest message that got through or was stopped settles a number and sender."""
        found: dict[str, dict[Slot, Seen]] = {}
        for message in messages:
            slot = self._slots.get(message.service) or self._slots.get(message.sender)
            number = _plain(message.recipient)
            stopped = message.code == BLOCKED
            if not slot or not number or (number, slot) in settled:
                continue
            if stopped or message.status in ARRIVED:
                settled.add((number, slot))
            if stopped:
                seen = Seen(Value.OFF, Source.VENDOR_PERSON, message.at)
                found.setdefault(number, {})[slot] = seen
        return found

    async def message_time(self, message_id: str) -> datetime:
        """When that message was sent. Raises Refused where Twilio does not know it."""
        if not re.fullmatch(r"[A-Za-z0-9]{2,64}", message_id):
            raise Refused("that is no id of a Twilio message")
        return await self._line.message_time(message_id)

    async def containers(self) -> Sequence[Container]:
        """Messaging Services, and the numbers outside them or named in the configuration."""
        services = await self._line.services()
        covered = {number for one in services for number in await self._line.numbers_of(one.id)}
        named = self._other | set(self._slots)
        numbers = [
            number
            for number in await self._line.numbers()
            if number.id not in covered or number.id in named
        ]
        return [*services, *numbers]


# --- the line ------------------------------------------------------------------------------------

API = "https://api.twilio.com"
DOMAINS = ("api", "accounts", "messaging")
NOT_ACTIVE = 20005
"""https://www.twilio.com/docs/api/errors/20005: the account is not active."""


class Denied(PropagationError):
    """The account has no Consent Management API."""


class Answered(Exception):
    """An answer that is no success, on its way out of the SDK."""

    def __init__(self, reply: http.Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


class Line:
    """The vendor's SDK, each call in a thread and under the budget."""

    def __init__(self, target: Target, budget: Budget, writes: Sequence[tuple[str, str]]) -> None:
        self._way = http.Way(target, budget, API, writes)
        self._target = target
        self._lock = threading.Lock()
        self._client: Any = None

    async def close(self) -> None:
        await self._way.close()
        if self._client:
            self._client.http_client.close()

    async def consents(self, changes: Sequence[Change], *, again: bool) -> dict[Change, Answer]:
        """Raises Denied where the account has no consents. Not `again`: sent exactly once."""

        async def send() -> dict[Change, Answer]:
            sent = {uuid.uuid4().hex: change for change in changes}
            items = [_item(change, correlation) for correlation, change in sent.items()]
            reply = await self._call(
                "POST", CONSENTS, lambda sdk: sdk.accounts.v1.bulk_consents.create(items=items)
            )
            return _answers(reply.items, sent)

        return await (http.retried(send) if again else send())

    async def messages(self, cursor: Cursor) -> tuple[list[Message], str | None]:
        """One page, newest first, and the path of the next. Twilio filters by whole days."""
        since = {}
        if cursor.since:
            since["date_sent_after"] = datetime.combine(cursor.since.date(), time(), UTC)
        return await self._page("api", lambda sdk: sdk.messages, _message, cursor.page, **since)

    async def message_time(self, message_id: str) -> datetime:
        path = f"/2010-04-01/Messages/{message_id}"
        found = await self._read(path, lambda sdk: sdk.messages(message_id).fetch())
        at = _time(found)
        if at is None:
            raise Refused("Twilio shows no time of this message")
        return at

    async def services(self) -> list[Container]:
        return await self._all("messaging", lambda sdk: sdk.messaging.v1.services, _service)

    async def numbers_of(self, service: str) -> list[str]:
        return await self._all(
            "messaging",
            lambda sdk: sdk.messaging.v1.services(service).phone_numbers,
            lambda item: str(item.phone_number),
        )

    async def numbers(self) -> list[Container]:
        return await self._all("api", lambda sdk: sdk.incoming_phone_numbers, _number)

    async def _all(
        self, domain: str, listing: Callable[[Any], Any], shape: Callable[[Any], T]
    ) -> list[T]:
        found, after = await self._page(domain, listing, shape, None)
        while after:
            more, after = await self._page(domain, listing, shape, after)
            found += more
        return found

    async def _page(
        self,
        domain: str,
        listing: Callable[[Any], Any],
        shape: Callable[[Any], T],
        after: str | None,
        **filters: Any,
    ) -> tuple[list[T], str | None]:
        def ask(sdk: Any) -> tuple[list[T], str | None]:
            listed = listing(sdk)
            if after:
                page = listed.get_page(getattr(sdk, domain).absolute_url(after))
            else:
                page = listed.page(page_size=PAGE, **filters)
            return [shape(item) for item in page], _path(page.next_page_url)

        return await self._read(f"/{domain}", ask)

    async def _read(self, path: str, work: Callable[[Any], T]) -> T:
        return await http.retried(lambda: self._call("GET", path, work))

    async def _call(self, method: str, path: str, work: Callable[[Any], T]) -> T:
        try:
            return await self._way.in_thread(method, path, lambda: self._work(work))
        except Answered as answered:
            raise self._fault(method, answered.reply) from None

    def _work(self, work: Callable[[Any], T]) -> T:
        unread = import_module("twilio.base.exceptions").TwilioException
        try:
            return work(self._sdk())
        except unread:
            raise Temporary("an answer that the vendor's SDK cannot read") from None

    def _fault(self, method: str, reply: http.Reply) -> PropagationError:
        code = _code(reply)
        if reply.status == 429:
            self._way.pause(reply)
        if code == NOT_ACTIVE:
            return Unusable("the Twilio account is not active")
        if method == "POST" and reply.status in (403, 404):
            return Denied(f"the gateway has not enabled consents (HTTP {reply.status})")
        return http.fault_of(reply, f"Twilio error {code}" if code else "")

    def _sdk(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = _client(self._target, self._way.base)
        return self._client


def _client(target: Target, base: str) -> Any:
    """The SDK's client. Region and edge of the environment must not bend where it calls."""
    sid, token = target.text("account_sid"), target.text("auth_token")
    client = import_module("twilio.rest").Client(
        target.text("api_key") or sid,
        target.text("api_secret") or token,
        sid,
        http_client=Wire(),
        environment={"TWILIO_REGION": ""},
    )
    for domain in DOMAINS:
        if target.base_url:
            getattr(client, domain).base_url = base
    return client


class Wire:
    """What the SDK calls for HTTP: its own client with time-outs, and every answer that is no
    JSON success taken out before the SDK looks at it (it loses headers, and shows addresses)."""

    is_async = False

    def __init__(self) -> None:
        # At INFO it writes every parameter, numbers included.
        logging.getLogger("twilio.http_client").setLevel(logging.WARNING)
        self._inner = import_module("twilio.http.http_client").TwilioHttpClient()
        self._inner.timeout = (http.CONNECT_LIMIT, http.CALL_LIMIT)
        http.held(self._inner.session)
        self._faults = import_module("requests.exceptions")

    def request(self, method: str, url: str, **more: Any) -> Any:
        """Raises Undeclared, Temporary or Answered."""
        if method.upper() != "GET" and urlsplit(url).path != CONSENTS:
            raise http.Undeclared(f"{method.upper()} is not among the declared writes")
        try:
            answer = self._inner.request(method, url, **more)
        except self._faults.RequestException as fault:
            raise _broken(fault) from None
        headers = {name.lower(): value for name, value in answer.headers.items()}
        reply = http.Reply(answer.status_code, headers, answer.text.encode())
        if not 200 <= reply.status < 300:
            raise Answered(reply)
        if not isinstance(reply.json(), dict):
            raise Temporary("an answer that is no JSON object")
        return answer

    def close(self) -> None:
        self._inner.session.close()


def _broken(fault: Exception) -> Temporary:
    """Only where no connection came about is it sure that nothing was sent."""
    reason = getattr(fault.args[0] if fault.args else None, "reason", None)
    if type(reason).__name__ in ("NewConnectionError", "ConnectTimeoutError"):
        return Temporary("no connection to the vendor")
    return Temporary("the connection to the vendor broke or timed out", unclear=True)


def _code(reply: http.Reply) -> int | None:
    """Twilio's own error number: https://www.twilio.com/docs/api/errors."""
    try:
        code = json.loads(reply.body)["code"]
    except (ValueError, TypeError, KeyError):
        return None
    return code if isinstance(code, int) else None


def _path(url: str | None) -> str | None:
    """Path and query of a page's address; the host is always the configured one."""
    parts = urlsplit(url or "")
    return f"{parts.path}?{parts.query}" if parts.path else None


def _service(item: Any) -> Container:
    return Container(item.sid, item.friendly_name or item.sid, sends=True)


def _number(item: Any) -> Container:
    able = {str(name).lower(): can for name, can in (item.capabilities or {}).items()}
    sends = bool(able.get("sms", True))
    return Container(item.phone_number, item.friendly_name or item.phone_number, sends)


# --- the vendor's words --------------------------------------------------------------------------

ARRIVED = frozenset({"sent", "delivered", "read", "partially_delivered"})
TEXTED = ("", "rcs")
"""Address prefixes that the opt-out covers, MMS included."""


class Message(NamedTuple):
    id: str
    direction: str
    sender: str
    recipient: str
    service: str
    body: str
    status: str
    code: int | None
    at: datetime | None


class Cursor(NamedTuple):
    """Where a walk begins (`since`), and while it is under way, when it began and its next page."""

    since: datetime | None = None
    began: datetime | None = None
    page: str | None = None

    @classmethod
    def read(cls, text: str | None) -> Cursor:
        since, began, page = (text or "").split("|", 2) if "|" in (text or "") else (text, "", "")
        return cls(_moment(since), _moment(began), page or None)

    def __str__(self) -> str:
        times = [at.isoformat() if at else "" for at in (self.since, self.began)]
        return "|".join((*times, self.page)) if self.page else times[0]


class Batch(NamedTuple):
    began: datetime
    messages: list[Message]
    cursor: Cursor


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _message(item: Any) -> Message:
    return Message(
        id=item.sid or "",
        direction=str(item.direction or ""),
        sender=item.from_ or "",
        recipient=item.to or "",
        service=item.messaging_service_sid or "",
        body=item.body or "",
        status=str(item.status or ""),
        code=item.error_code,
        at=_time(item),
    )


NEVER = datetime.min.replace(tzinfo=UTC)


def _since(message: Message, cursor: Cursor) -> bool:
    return not (message.at and cursor.since) or message.at >= cursor.since


def _time(item: Any) -> datetime | None:
    found = item.date_sent or item.date_created
    return found if isinstance(found, datetime) else None


def _plain(address: str) -> str:
    """The number of an address, empty where the opt-out does not reach (WhatsApp, ...)."""
    prefix, _, number = address.rpartition(":")
    return number if prefix in TEXTED else ""


def _text(message: Message) -> Text | None:
    ours = message.recipient.rpartition(":")[2]
    try:
        number = signed_phone(_plain(message.sender))
    except BadIdentifier:
        return None
    return Text(
        message_id=message.id,
        number=number,
        sender=message.service or ours,
        other_sender=ours if message.service else None,
        body=message.body,
        flag=None,
    )


def _observed(number: str, seen: Mapping[Slot, Seen], began: datetime) -> Observed:
    return Observed(seen, began, None, ((Kind.PHONE, number),))


def _item(change: Change, correlation: str) -> dict[str, str]:
    return {
        "contact_id": change.ref.value,
        "correlation_id": correlation,
        "sender_id": change.slot.place,
        "status": STATUS[change.to],
        "source": SOURCE,
    }


def _answers(items: object, sent: Mapping[str, Change]) -> dict[Change, Answer]:
    """What the reply names; the rest is unknown."""
    named = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return {
        sent[item["correlation_id"]]: _answer(item)
        for item in named
        if item.get("correlation_id") in sent and isinstance(item.get("error_code"), int)
    }


def _answer(item: Mapping[str, Any]) -> Answer:
    code, words = item["error_code"], item.get("error_messages") or []
    if code == 0:
        return Applied()
    if RETRY in words:
        return Temporary("the gateway failed on this number and asks to try again")
    reasons = [REASONS[word] for word in words if word in REASONS]
    return Refused(", ".join(reasons) or f"the gateway refused this number (code {code})")


def _others(target: Target) -> frozenset[str]:
    """Senders of reminders and service messages: never written."""
    kept = (Purpose.REMINDERS, Purpose.SERVICE)
    return frozenset(sender for purpose in kept for sender in target.senders.get(purpose, ()))
