"""Mailchimp Marketing API 3.0: one member record for each audience and address.

Everything hangs on `status`; `transactional` members may get receipts and reminders only and are
never written. `interests` carry topics where they are configured. Member, list and bulk calls go
through the vendor's SDK in threads, each with a client of its own.

https://mailchimp.com/developer/marketing/api/list-members/
https://mailchimp.com/developer/marketing/docs/errors/
https://mailchimp.com/developer/marketing/docs/fundamentals/#api-limits
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from math import ceil
from typing import Any, ClassVar, TypeVar

from connectors import http, upkeep
from connectors.mailchimp_hooks import MailchimpHooks
from prefs.core.errors import PropagationError, Refused, SettingsError, Temporary, Unusable
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

Json = dict[str, Any]
Answer = Applied | Local | Failure
T = TypeVar("T")

BULK = 500
PAGE = 1000
READ = 5000
"""Records that are looked for in one listing: the pages of an audience are as many for one as for
all of these."""
WORTH = 10
"""So many reads of one member cost what a page does."""
AT_ONCE = 8
OVERLAP = timedelta(minutes=10)
"""Offset paging shifts while members change, and clocks differ: a walk begins this much early."""

STATUS: dict[str, Value] = {
    # https://mailchimp.com/developer/marketing/api/list-members/get-member-info/
    "subscribed": Value.ON,
    "unsubscribed": Value.OFF,
    "pending": Value.UNSET,
    "cleaned": Value.SILENT,
    "archived": Value.SILENT,
    "transactional": Value.SILENT,
}
FACT = {"cleaned": "hard_bounce"}
BY_ADMIN = "N/A (Unsubscribed by"
"""How `unsubscribe_reason` begins where staff or a program did it; it cannot tell the two apart."""

FORMS = frozenset({"hosted signup form", "embed form", "landing page"})
"""`source` of members who came by a form of Mailchimp's own. Staff (`Admin Add`), imports and
programs (`API - Generic`, or the program's name) leave times and IPs too: theirs."""
BY_FORM = "sign-up form"
EMAIL_WORDS = ("email", "e-mail")
CONFIRMS_WITHIN = timedelta(days=7)
"""An opt-in time that lies further from the sign-up may be that of somebody who put them back."""

COMPLIANCE = "Member In Compliance State"
FORGOTTEN = "Forgotten Email Not Subscribed"

FIELDS = (
    "id,email_address,status,last_changed,interests,unsubscribe_reason,timestamp_opt,"
    "timestamp_signup,ip_opt,ip_signup,source,marketing_permissions"
)
LISTED = ",".join(f"members.{name}" for name in FIELDS.split(",")) + ",total_items"


class Mailchimp:
    """One account. Places are audience ids, and `audience:interest` for topics kept apart."""

    facts: ClassVar[Facts] = Facts(
        system="mailchimp",
        channels=frozenset({Channel.EMAIL}),
        keys_on=(Kind.EMAIL,),
        splits_topics=True,
        read_batch=READ,
        write_batch=BULK,
        off_reversible=False,
        readback=Readback.DIRECT,
        call_alive=120.0,
        limit=Limit(AT_ONCE),
        beside=AT_ONCE,
        writes=(
            ("PATCH", r"/lists/[^/]+/members/[0-9a-f]{32}"),
            ("POST", r"/lists/[^/]+"),
        ),
        source_url="https://mailchimp.com/developer/marketing/api/",
        proves=Proves.SCAN,
    )
    KEYS: ClassVar[Mapping[str, Key]] = {
        "api_key": Key("secret", required=True, help="API key, ending in the data centre"),
        "audiences": Key("table", required=True, help="audience id = topics it carries"),
        "interests": Key("table", help="interest id = topic"),
        "webhook_secret": Key(
            "secret_or_table", help="signing secret of the webhooks, or one for each audience"
        ),
    }

    def __init__(self, target: Target, budget: Budget, now: Callable[[], datetime]) -> None:
        key = target.text("api_key") or ""
        centre = key.rpartition("-")[2]
        if "-" not in key and target.base_url is None:
            raise SettingsError([f"{target.label}.api_key: ends in its data centre, like -us6"])
        host = f"https://{centre}.api.mailchimp.com"
        self._way = http.Way(target, budget, host, self.facts.writes)
        self._sdk = Sdk(f"{self._way.base}/3.0", key)
        self._now = now
        self._audiences: Mapping[str, Sequence[str]] = target.table("audiences")
        self._interests: Mapping[str, str] = target.table("interests")
        self._target, self._hooks = target, MailchimpHooks(target, self._webhooks)

    @property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(slot for audience in self._audiences for slot in self._slots(audience))

    def _slots(self, audience: str) -> list[Slot]:
        """Topics that have an interest of their own are switched there, not by the status."""
        split = {i: t for i, t in self._interests.items() if t in self._audiences[audience]}
        topics = tuple(t for t in self._audiences[audience] if t not in split.values())
        return [
            Slot(audience, Channel.EMAIL, topics=topics),
            *(Slot(f"{audience}:{i}", Channel.EMAIL, topics=(t,)) for i, t in split.items()),
        ]

    # --- reading -------------------------------------------------------------------------------

    async def observe(self, refs: Sequence[Ref]) -> Mapping[Ref, Observed | Absent | Failure]:
        read = partial(self._observe_in, refs)
        parts = await http.spread(list(self._audiences), read, len(self._audiences))
        return {ref: _joined([part[ref] for part in parts]) for ref in refs}

    async def _observe_in(
        self, refs: Sequence[Ref], audience: str
    ) -> dict[Ref, Observed | Absent | Failure]:
        """By pages as far as these are worth it. Who is on none is asked for by name: a page may
        have shifted past a member, so that only this tells of absence."""
        try:
            found = await self._listed(audience, refs) if len(refs) > WORTH else {}
        except PropagationError as fault:
            return dict.fromkeys(refs, fault)
        left = [ref for ref in refs if ref not in found]
        answers = await http.spread(left, partial(self._observe_one, audience), AT_ONCE)
        return found | dict(zip(left, answers, strict=True))

    async def _listed(
        self, audience: str, refs: Sequence[Ref]
    ) -> dict[Ref, Observed | Absent | Failure]:
        """Those whom pages of the audience show, beginning with the newest change: what was just
        written is read back by its first pages. They end where the last ones held few of them, and
        those to come cannot hold many. Never more at once than should hold who is still looked for,
        going by the last ones."""
        began = self._now()
        sought = {member_id(ref): ref for ref in refs}
        found: dict[Ref, Observed | Absent | Failure] = {}
        page, pages, on_one = 0, 1, float(PAGE)
        while sought and page < pages:
            if on_one <= WORTH and (pages - page) * WORTH >= len(sought):
                break
            wave = range(page, min(pages, page + AT_ONCE, page + ceil(len(sought) / on_one)))
            answers = await http.spread(wave, partial(self._numbered, audience), AT_ONCE)
            before = len(sought)
            for answer in answers:
                members, pages = _good(answer)
                for member in (one for one in members if one["id"] in sought):
                    found[sought.pop(member["id"])] = self._shown(audience, member, began)
            page, on_one = wave.stop, max(1.0, (before - len(sought)) / len(wave))
        return found

    async def _numbered(self, audience: str, page: int) -> tuple[list[Json], int]:
        """A page's members, and how many pages there are."""
        members, total = await self._page(audience, page * PAGE, None)
        return members, max(1, ceil(total / PAGE))

    def _shown(self, audience: str, member: Json, began: datetime) -> Observed | Failure:
        try:
            return self._observed(audience, member, began)
        except PropagationError as fault:
            return fault

    async def _observe_one(self, audience: str, ref: Ref) -> Observed | Absent:
        began = self._now()
        member = await self._read_member(audience, member_id(ref))
        return Absent(began) if member is None else self._observed(audience, member, began)

    async def _read_member(self, audience: str, hash_: str) -> Json | None:
        """None where Mailchimp answers that the audience has no such member."""

        async def ask() -> Json | None:
            try:
                return await self._call(
                    "GET",
                    f"/lists/{audience}/members/{hash_}",
                    "get_list_member",
                    audience,
                    hash_,
                    fields=FIELDS.split(","),
                )
            except Gone:
                return None

        return await http.retried(ask)

    async def _pages(
        self, audience: str, since: str | None
    ) -> AsyncIterator[tuple[list[Json], bool]]:
        """Members by pages; the second of each pair marks the last page.

        Newest change first: whoever changes meanwhile moves to the front, so that the pages to
        come repeat somebody and pass nobody by. Where members went, as many are read again.
        """
        offset, total, more = 0, 0, True
        while more:
            before = total
            members, total = await self._page(audience, offset, since)
            gone = max(0, before - total)
            offset = max(0, offset - gone) if gone else offset + len(members)
            more = bool(members) and offset < total
            yield members, not more

    async def _page(self, audience: str, offset: int, since: str | None) -> tuple[list[Json], int]:
        """Members, the newest change first, and how many there are in all."""
        asked: Json = {"since_last_changed": since} if since else {}
        answer = await http.retried(
            partial(
                self._call,
                "GET",
                f"/lists/{audience}/members",
                "get_list_members_info",
                audience,
                offset=offset,
                count=PAGE,
                fields=LISTED.split(","),
                sort_field="last_changed",
                sort_dir="DESC",
                **asked,
            )
        )
        return _items(answer, "members"), int(answer.get("total_items", 0))

    def _observed(self, audience: str, member: Json, began: datetime) -> Observed:
        """Raises Refused for a status that no table knows."""
        status = member.get("status")
        if status not in STATUS:
            raise Refused("unknown state of a Mailchimp member")
        values: dict[Slot, Seen] = {}
        for slot in self._slots(audience):
            seen = _seen(member) if slot.place == audience else _interest(member, slot)
            if seen is not None:
                values[slot] = seen
        shown = ((Kind.EMAIL, str(member["email_address"])),)
        return Observed(values, began, str(member["id"]), shown)

    # --- writing -------------------------------------------------------------------------------

    async def apply(self, changes: Sequence[Change]) -> Mapping[Change, Answer]:
        """A bulk call names people by their address: who is known by the id alone goes apart."""
        answers: dict[Change, Answer] = {}
        outs = [change for change in changes if change.to is Wish.OFF]
        for audience in self._audiences:
            spelled = [c for c in outs if c.slot.place == audience and c.ref.value]
            if len(spelled) > 1:
                answers |= await self._turn_off_together(audience, spelled)
                outs = [change for change in outs if change not in spelled]
        rest = [*outs, *(change for change in changes if change.to is Wish.ON)]
        done = await http.spread(rest, self._apply_one, AT_ONCE)
        return answers | dict(zip(rest, done, strict=True))

    async def _apply_one(self, change: Change) -> Answer:
        audience, _, interest = change.slot.place.partition(":")
        on = change.to is Wish.ON
        if interest:
            body: Json = {"interests": {interest: on}}
        elif on:
            return await self._subscribe(audience, change.ref)
        else:
            body = {"status": "unsubscribed"}
        write = partial(self._patch, audience, change.ref, body)
        await (write() if on else http.retried(write))
        return Applied()

    async def _patch(self, audience: str, ref: Ref, body: Json) -> Json:
        hash_ = member_id(ref)
        path = f"/lists/{audience}/members/{hash_}"
        return await self._call("PATCH", path, "update_list_member", audience, hash_, body)

    async def _subscribe(self, audience: str, ref: Ref) -> Answer:
        """Where the audience asks for confirmation, `subscribed` would skip it. A person who left
        by themselves can only be asked (`pending`), once."""
        asks = partial(self._call, "GET", f"/lists/{audience}", "get_list", audience)
        double = bool((await http.retried(asks)).get("double_optin"))
        if not double:
            try:
                await self._patch(audience, ref, {"status": "subscribed"})
            except Compliance:
                double = True
            else:
                return Applied()
        await self._patch(audience, ref, {"status": "pending"})
        return Applied(asked_person=True)

    async def _turn_off_together(
        self, audience: str, changes: Sequence[Change]
    ) -> dict[Change, Answer]:
        """One bulk call. 200 with `errors[]` is how it fails; who is in neither list is unknown.
        Where all of it is refused, each half of it goes again: one member costs nobody else."""
        by_address = {change.ref.value.strip().lower(): change for change in changes}
        members = [
            {"email_address": change.ref.value, "status": "unsubscribed"} for change in changes
        ]
        body = {"members": members, "update_existing": True}
        call = partial(
            self._call, "POST", f"/lists/{audience}", "batch_list_members", audience, body
        )
        try:
            answer = await http.retried(call)
        except PropagationError as fault:
            if isinstance(fault, Gone) or not isinstance(fault, Refused) or len(changes) == 1:
                return dict.fromkeys(changes, fault)
            middle = len(changes) // 2
            done = await self._turn_off_together(audience, changes[:middle])
            return done | await self._turn_off_together(audience, changes[middle:])
        answers: dict[Change, Answer] = {}
        for name in ("new_members", "updated_members"):
            for item in _items(answer, name):
                change = by_address.get(str(item.get("email_address", "")).lower())
                if change:
                    answers[change] = Applied()
        for item in _items(answer, "errors"):
            change = by_address.get(str(item.get("email_address", "")).lower())
            if change:
                answers[change] = Refused(_safe(item.get("error_code") or "refused in bulk"))
        return answers

    # --- walking -------------------------------------------------------------------------------

    async def scan(self, cursor: str | None) -> AsyncIterator[Page]:
        """All members, or those changed since the walk before began. One in unknown words is left
        out, and the walk is then not complete."""
        since: dict[str, str] = json.loads(cursor) if cursor else {}
        names = list(self._audiences)
        whole = not cursor
        for audience in names:
            began = self._now()
            async for members, last in self._pages(audience, since.get(audience)):
                page_began = self._now() if since.get(audience) else began
                records = tuple(
                    (Ref(Kind.EMAIL, m["email_address"], m["id"]), read)
                    for m in members
                    if (read := self._readable(audience, m, min(began, page_began)))
                )
                if last:
                    since[audience] = (began - OVERLAP).isoformat()
                whole = whole and len(records) == len(members)
                ended = last and audience == names[-1]
                onward = json.dumps(since) if last else None
                yield Page(records, onward, complete=whole and ended)

    def _readable(self, audience: str, member: Json, began: datetime) -> Observed | None:
        try:
            return self._observed(audience, member, began)
        except Refused:
            return None

    async def containers(self) -> Sequence[Container]:
        answer = await http.retried(
            partial(self._call, "GET", "/lists", "get_all_lists", count=PAGE)
        )
        return [Container(one["id"], one["name"], sends=True) for one in _items(answer, "lists")]

    tend_every = upkeep.DAILY

    async def tend(self) -> Unheard | None:
        return await upkeep.tend(self._target, self._hooks, self._now)

    async def _webhooks(self, audience: str) -> list[Json]:
        path = f"/lists/{audience}/webhooks"
        answer = await http.retried(partial(self._call, "GET", path, "get_list_webhooks", audience))
        return _items(answer, "webhooks")

    async def close(self) -> None:
        await self._way.close()

    async def _call(self, method: str, path: str, name: str, *args: Any, **kwargs: Any) -> Json:
        try:
            answer = await self._way.in_thread(
                method, path, partial(self._sdk.call, name, *args, **kwargs)
            )
        except TooMany as fault:
            self._way.pause(fault.reply)
            raise
        if not isinstance(answer, dict):
            raise Temporary("Mailchimp answered something that is not JSON", unclear=True)
        return answer


# --- words ---------------------------------------------------------------------------------------


def member_id(ref: Ref) -> str:
    """MD5 of the lower-cased address: Mailchimp's own name of a member."""
    if not ref.value:
        return ref.vendor_id or ""
    return hashlib.md5(ref.value.strip().lower().encode(), usedforsecurity=False).hexdigest()


def _seen(member: Json) -> Seen:
    status = str(member["status"])
    value = STATUS[status]
    ever_on = bool(member.get("timestamp_opt") or value is Value.ON)
    source = at = None
    if value is Value.OFF:
        at = _moment(member.get("last_changed"))
        source = _who_left(member)
    proof = _proof(member) if value is Value.ON else None
    return Seen(value, source, at, proof, ever_on=ever_on, fact=FACT.get(status))


def _proof(member: Json) -> Mapping[str, str] | None:
    """What Mailchimp keeps of a sign-up by its own form; `timestamp_opt` is the confirmation.
    https://mailchimp.com/developer/marketing/api/list-members/get-member-info/"""
    form = str(member.get("source") or "")
    signed, confirmed = (_moment(member.get(f"timestamp_{name}")) for name in ("signup", "opt"))
    far_apart = signed and confirmed and confirmed - signed > CONFIRMS_WITHIN
    if form.casefold() not in FORMS or far_apart or not _permits_email(member):
        return None
    ip = member.get("ip_opt") if confirmed else member.get("ip_signup")
    return proof_of(confirmed or signed, BY_FORM, form=form, ip=ip and str(ip))


def _permits_email(member: Json) -> bool:
    """Where an audience asks with boxes for each kind of contact, that of email must be ticked."""
    boxes = member.get("marketing_permissions") or []
    ticked = [str(box.get("text", "")) for box in boxes if box.get("enabled")]
    return not boxes or any(word in text.casefold() for text in ticked for word in EMAIL_WORDS)


def _who_left(member: Json) -> Source | None:
    reason = str(member.get("unsubscribe_reason") or "")
    if not reason:
        return None
    return Source.VENDOR_API if reason.startswith(BY_ADMIN) else Source.VENDOR_PERSON


def _interest(member: Json, slot: Slot) -> Seen | None:
    """None where this audience has no such interest."""
    chosen = (member.get("interests") or {}).get(slot.place.partition(":")[2])
    if chosen is None or STATUS[str(member["status"])] is Value.SILENT:
        return None
    return Seen(Value.ON if chosen else Value.UNSET)


def _moment(text: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _joined(parts: Iterable[Observed | Absent | Failure]) -> Observed | Absent | Failure:
    """One record of several audiences: a part that was not read makes the whole unread."""
    parts = list(parts)
    for part in parts:
        if isinstance(part, PropagationError):
            return part
    seen = [part for part in parts if isinstance(part, Observed)]
    began = min(part.read_began for part in parts if isinstance(part, Observed | Absent))
    if not seen:
        return Absent(began)
    values = {slot: value for part in seen for slot, value in part.values.items()}
    return Observed(values, began, seen[0].vendor_id, seen[0].identifiers)


def _good(part: T | Failure) -> T:
    if isinstance(part, PropagationError):
        raise part
    return part


def _items(answer: Json, name: str) -> list[Json]:
    found = answer.get(name)
    if not isinstance(found, list):
        raise Temporary("Mailchimp's answer lacks what was asked for")
    return found


def _safe(word: Any) -> str:
    """A vendor's code as a reason; free text may hold an address and stays out."""
    text = str(word)
    return text if text.replace("_", "").isalnum() and len(text) < 60 else "refused by Mailchimp"


# --- the SDK -------------------------------------------------------------------------------------


class Gone(Refused):
    """404: this audience has no such member."""


class Compliance(Refused):
    """The person left by themselves, bounced, or is under review: only they can come back."""


class TooMany(Temporary):
    """429: more calls at once than Mailchimp takes."""

    def __init__(self, reply: http.Reply) -> None:
        super().__init__("HTTP 429", retry_after=http.retry_after(reply.headers))
        self.reply = reply


class Sdk:
    """mailchimp-marketing 3.0.80 with its traps covered.

    It replaces the text "server" anywhere in a URL by the data centre: naming the centre "server"
    makes that harmless. It returns an answer with an empty body instead of raising, whatever its
    status, and its errors lack the headers: what is no success is raised before it looks.
    """

    def __init__(self, host: str, key: str) -> None:
        self._host, self._key = host, key
        self._threads = threading.local()

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Raises Temporary, Refused or Unusable."""
        from mailchimp_marketing.api_client import ApiClientError

        try:
            return getattr(self._client().lists, name)(*args, **kwargs)
        except ApiClientError as error:
            fault = error.text
            raise (fault if isinstance(fault, PropagationError) else _transport(fault)) from None

    def _client(self) -> Any:
        client = getattr(self._threads, "client", None)
        if client is None:
            import mailchimp_marketing

            client = mailchimp_marketing.Client()
            client.set_config({"api_key": self._key, "server": "server"})
            client.api_client.host = self._host
            client.api_client.request = partial(_ask, ("user", self._key))
            self._threads.client = client
        return client


def _ask(
    key: tuple[str, str], method: str, url: str, query_params: Any, headers: Any, body: Any
) -> Any:
    """As the SDK asks, on a connection with our limits. Raises what an answer amounts to that is no
    success."""
    import requests

    with http.held(requests.Session()) as session:
        answer = session.request(
            method,
            url,
            params=query_params,
            data=None if method in http.READS | {"DELETE"} else json.dumps(body),
            headers=headers,
            auth=key,
            timeout=http.CALL_LIMIT * 7 / 8,
        )
    if 200 <= answer.status_code < 300:
        return answer
    headers = {name.lower(): value for name, value in answer.headers.items()}
    raise _fault(http.Reply(answer.status_code, headers, answer.content))


def _fault(reply: http.Reply) -> PropagationError:
    """https://mailchimp.com/developer/marketing/docs/errors/ A 403 without a body comes from
    overload, one with a body from the account."""
    title = _title(reply.body)
    if title == COMPLIANCE:
        return Compliance("only the person can come back: they left or bounced at Mailchimp")
    if title == FORGOTTEN:
        return Refused("deleted for ever at Mailchimp: only its own form brings the person back")
    if reply.status == 404:
        return Gone("Mailchimp has no such member")
    if reply.status == 429:
        return TooMany(reply)
    if reply.status == 403 and not reply.body:
        return Temporary("HTTP 403 without a body: Mailchimp is overloaded")
    if reply.status in (401, 403):
        return Unusable(f"HTTP {reply.status}: Mailchimp refuses this key")
    return http.fault_of(reply)


def _transport(fault: Any) -> PropagationError:
    import requests

    if isinstance(fault, requests.exceptions.ConnectTimeout):
        return Temporary("no connection to Mailchimp")
    refused = "NewConnectionError" in repr(fault) or "Connection refused" in repr(fault)
    return Temporary("the connection to Mailchimp broke", unclear=not refused)


def _title(body: bytes) -> str:
    try:
        problem = json.loads(body)
    except ValueError:
        return ""
    return str(problem.get("title", "")) if isinstance(problem, dict) else ""
