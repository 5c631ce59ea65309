"""Facebook Messenger, one Page: its list of marketing tokens, and a label for staff.

Meta has no opt-out that could be set: our own check guards (`local`). People opt out by writing,
by a button, or by a stop of their marketing token, all of which the webhook tells; a token that
vanishes from the list without having expired is a stop whose event never came. Where `label` is
configured, the people whose opt-out stands carry it in the Page's inbox.

https://developers.facebook.com/docs/messenger-platform/marketing-messages
https://developers.facebook.com/docs/messenger-platform/identity/custom-labels
https://developers.facebook.com/docs/messenger-platform/error-codes
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from typing import Any, ClassVar

from connectors import http, upkeep
from connectors.line import Json, Line, items
from connectors.messenger_hooks import MessengerHooks
from connectors.oauth import Fixed
from prefs.core.errors import PropagationError, Refused, Temporary, Unusable
from prefs.core.propagation import (
    Answer,
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
)
from prefs.core.words import Channel, Kind, Source

HOST = "https://graph.facebook.com"
VERSION = "v25.0"
PAGE = 1000
AT_ONCE = 4
RETURNS = 2
"""Walks that tell of somebody's return: one may come to nothing."""
TOKENS = "tokens"
MOST_SECONDS = 1e11

GUARDED = "Messenger has no opt-out that could be set; our own check guards"
UNREACHABLE = "the person blocked the Page or is gone: nothing can be sent to them"
TERMS = 2018344
"""Subcode: the Page has not accepted the terms for labels."""
WINDOW_CODE, WINDOW_SUBCODE = 1545041, 2018278
"""Outside the 24 hours after the person's last message: of this person alone, and no opt-out."""
LIMITS = frozenset({4, 32, 613})
WAIT = 60.0


class Unreachable(Refused):
    """Code 551."""


@dataclass(frozen=True, slots=True)
class Token:
    """A marketing token as it was last listed; times are seconds since 1970."""

    psid: str
    expires: float
    missed: float = 0.0
    """When the walk began that found it gone; 0 while it is listed."""
    returns: int = 0
    """Walks in which the person had another token after this one was gone."""

    def after(self, began: float, *, back: bool) -> Token:
        """As remembered after one more walk without it, in which the person is `back` or not."""
        if back:
            return replace(self, returns=self.returns + 1)
        return replace(self, missed=self.missed or began, returns=0)


class Messenger:
    """One Page. `place` of its one slot: the Page's id."""

    facts: ClassVar[Facts] = Facts(
        system="messenger",
        channels=frozenset({Channel.MESSENGER}),
        keys_on=(Kind.MESSENGER,),
        splits_topics=False,
        read_batch=100,
        write_batch=100,
        off_reversible=True,
        readback=Readback.NONE,
        call_alive=30.0,
        limit=Limit(10, 1.0),
        writes=(
            ("POST", r"/v[0-9.]+/[0-9A-Za-z_]+/custom_labels"),
            ("POST", r"/v[0-9.]+/[0-9A-Za-z_]+/label"),
            ("DELETE", r"/v[0-9.]+/[0-9A-Za-z_]+/label"),
            ("POST", r"/v[0-9.]+/[0-9A-Za-z_]+/subscribed_apps"),
        ),
        source_url="https://developers.facebook.com/docs/messenger-platform",
        proves=Proves.EVENT,
    )
    KEYS: ClassVar[Mapping[str, Key]] = {
        "page": Key("text", required=True, help="Id of the Page."),
        "token": Key("secret", required=True, help="Page access token, best of a system user."),
        "app_secret": Key("secret", required=True, help="App secret: signs the webhooks."),
        "verify_token": Key("secret", required=True, help="Text that Meta's handshake repeats."),
        "version": Key("text", help="Version of the Graph API; default v25.0."),
        "label": Key("text", help="Page label for people who opted out; none by default."),
    }

    def __init__(self, target: Target, budget: Budget, now: Callable[[], datetime]) -> None:
        self._target, self._now = target, now
        self._page = target.text("page") or ""
        self._label = target.text("label")
        self._base = f"/{target.text('version') or VERSION}"
        token = target.text("token") or ""
        secret = (target.text("app_secret") or "").encode()
        # https://developers.facebook.com/docs/graph-api/guides/secure-requests
        self._proof = {"appsecret_proof": hmac.digest(secret, token.encode(), "sha256").hex()}
        way = http.Way(target, budget, HOST, self.facts.writes)
        self._budget = budget
        self._line = Line(way, Fixed(token), fault=self._fault)
        self._label_id: str | None = None
        self._labels = asyncio.Lock()
        self._hooks = MessengerHooks(self)

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot(self._page, Channel.MESSENGER, enforced=False),)

    async def close(self) -> None:
        await self._line.close()

    async def observe(self, refs: Sequence[Ref]) -> Mapping[Ref, Failure]:
        return {ref: Refused("Messenger holds no preference that could be read") for ref in refs}

    # --- writing -------------------------------------------------------------------------------

    async def apply(self, changes: Sequence[Change]) -> Mapping[Change, Answer]:
        """The label, where one is configured; what guards is our own check either way."""
        if not self._label:
            return dict.fromkeys(changes, Local(GUARDED))
        answers = await http.spread(changes, self._mark, AT_ONCE)
        return dict(zip(changes, answers, strict=True))

    async def _mark(self, change: Change) -> Answer:
        page, _, psid = change.ref.value.rpartition(":")
        if page != self._page:
            return Local(GUARDED)
        off = change.to is Wish.OFF
        label = await self._label_of(make=off)
        if label is None:
            return Local(GUARDED)
        try:
            answer = await self._labelled("POST" if off else "DELETE", label, psid)
        except Unreachable:
            return Local(UNREACHABLE)
        if answer.get("success") is not True:
            raise Refused("Meta did not say that the label was set")
        return Local(GUARDED)

    async def _labelled(self, method: str, label: str, psid: str) -> Json:
        """A refusal may mean that staff deleted the label: it is looked up again next time."""
        params, path = {"user": psid, **self._proof}, f"{self._base}/{label}/label"
        try:
            return await self._line.write(method, path, params=params, repeat=method == "POST")
        except Refused:
            self._label_id = None
            raise

    async def _label_of(self, *, make: bool) -> str | None:
        """The label's id, looked up once; made at the first opt-out."""
        async with self._labels:
            if self._label_id is None:
                self._label_id = await self._known_label()
            if self._label_id is None and make:
                params = {"page_label_name": str(self._label), **self._proof}
                made = await self._line.write("POST", self._label_path, params=params, repeat=False)
                self._label_id = _id(made)
            return self._label_id

    async def _known_label(self) -> str | None:
        async for page in self._paged(self._label_path, {"fields": "id,page_label_name"}):
            for one in page:
                if one.get("page_label_name") == self._label:
                    return _id(one)
        return None

    @property
    def _label_path(self) -> str:
        return f"{self._base}/{self._page}/custom_labels"

    # --- reading lists -------------------------------------------------------------------------

    async def _paged(self, path: str, params: Mapping[str, str]) -> AsyncIterator[list[Json]]:
        """Page by page; after the last one comes an empty one, or none.
        https://developers.facebook.com/docs/graph-api/results"""
        asked = {"limit": str(PAGE), **params, **self._proof}
        while True:
            answer = await self._line.read(path, asked)
            yield _data(answer)
            after = ((answer.get("paging") or {}).get("cursors") or {}).get("after")
            if not after:
                return
            if str(after) == asked.get("after"):
                raise Temporary("Meta's list does not go on")
            asked["after"] = str(after)

    # --- walking -------------------------------------------------------------------------------

    async def scan(self, cursor: str | None) -> AsyncIterator[Page]:
        """The whole list of marketing tokens, each time: it has no filter by date. A person whose
        tokens all vanished before they expired has stopped; a list may shift while it is read, so
        that a second one must lack them too."""
        began = self._now()
        held, listed = await self._held(), await self._listed()
        if _lacks(held, listed, began.timestamp()):
            listed |= await self._listed()
        missing = _missing(held, listed, began.timestamp())
        yield Page(tuple(self._told(listed, missing, began)), began.isoformat(), complete=True)
        await self._keep(listed | missing)

    async def _listed(self) -> dict[str, Token]:
        listed: dict[str, Token] = {}
        async for page in self._paged(self._tokens, {}):
            try:
                listed |= {_name(one): _token(one) for one in page}
            except (KeyError, TypeError, ValueError):
                raise Temporary("Meta's list of tokens cannot be read") from None
        return listed

    @property
    def _tokens(self) -> str:
        return f"{self._base}/{self._page}/notification_message_tokens"

    async def _held(self) -> dict[str, Token]:
        """What earlier lists showed; names are hashes of the tokens."""
        text = await self._target.vault.get(TOKENS)
        return {name: Token(*fields) for name, fields in json.loads(text or "{}").items()}

    async def _keep(self, tokens: Mapping[str, Token]) -> None:
        """After what it says was told: a list that breaks off counts for nothing."""
        kept = {name: astuple(token) for name, token in tokens.items() if token.returns < RETURNS}
        await self._target.vault.put(TOKENS, json.dumps(kept, sort_keys=True))

    def _told(
        self, listed: Mapping[str, Token], missing: Mapping[str, Token], began: datetime
    ) -> Iterator[tuple[Ref, Observed]]:
        """Who stopped, and who had stopped and is back: a state, told by each walk. That somebody
        is on is told of no others, whose opt-out may stand here and cannot be set there."""
        alive = {token.psid for token in listed.values()}
        gone: defaultdict[str, float] = defaultdict(float)
        for token in missing.values():
            gone[token.psid] = max(gone[token.psid], token.missed)
        for psid, at in sorted(gone.items()):
            stopped = datetime.fromtimestamp(at, UTC)
            off = Seen(Value.OFF, Source.VENDOR_PERSON, stopped, ever_on=True)
            yield self._record(psid, Seen(Value.ON) if psid in alive else off, began)

    def _record(self, psid: str, seen: Seen, began: datetime) -> tuple[Ref, Observed]:
        name = f"{self._page}:{psid}"
        values = dict.fromkeys(self.slots, seen)
        return Ref(Kind.MESSENGER, name), Observed(values, began, psid, ((Kind.MESSENGER, name),))

    def _fault(self, reply: http.Reply) -> PropagationError:
        """Meta's limits come with other statuses than 429, too."""
        if _error(reply).get("code") in LIMITS:
            self._budget.pause(WAIT)
        return _fault(reply)

    # --- the subscription ----------------------------------------------------------------------

    tend_every = upkeep.DAILY

    async def tend(self) -> Unheard | None:
        return await upkeep.tend(self._target, self._hooks, self._now)

    async def subscribed(self) -> list[Json]:
        return _data(await self._line.read(self._subscriptions, self._proof))

    async def subscribe(self, fields: Collection[str]) -> None:
        params = {"subscribed_fields": ",".join(fields), **self._proof}
        await self._line.write("POST", self._subscriptions, params=params, repeat=True)

    @property
    def _subscriptions(self) -> str:
        return f"{self._base}/{self._page}/subscribed_apps"

    async def containers(self) -> Sequence[Container]:
        return []


def _lacks(held: Mapping[str, Token], listed: Mapping[str, Token], began: float) -> bool:
    """Whether a list shows no token of somebody who had one until the last walk."""
    lasting = {one.psid for one in held.values() if one.expires > began and not one.missed}
    return bool(lasting - {one.psid for one in listed.values()})


def _missing(
    held: Mapping[str, Token], listed: Mapping[str, Token], began: float
) -> dict[str, Token]:
    """Tokens that this walk lacks before their end. What was only replaced is forgotten."""
    alive = {token.psid for token in listed.values()}
    return {
        name: token.after(began, back=token.psid in alive)
        for name, token in held.items()
        if name not in listed
        and token.expires > began
        and (token.missed or token.psid not in alive)
    }


def _name(item: Json) -> str:
    return hashlib.sha256(str(item["notification_messages_token"]).encode()).hexdigest()[:32]


def _token(item: Json) -> Token:
    """A token without an end counts as lasting."""
    ends = item.get("token_expiry_timestamp")
    lasting = datetime.max.replace(tzinfo=UTC).timestamp()
    return Token(str(item["recipient_id"]), _seconds(float(ends)) if ends else lasting)


def _seconds(at: float) -> float:
    """Events show milliseconds; of the list no page says which. In seconds these reach 5138."""
    return at / 1000 if at > MOST_SECONDS else at


def _id(item: Json) -> str:
    if not item.get("id"):
        raise Temporary("Meta's answer lacks what was asked for")
    return str(item["id"])


def _data(answer: Json) -> list[Json]:
    if "data" not in answer:
        raise Temporary("Meta's answer lacks what was asked for")
    return items(answer, "data")


def _fault(reply: http.Reply) -> PropagationError:
    """Decided by the error's code: https://developers.facebook.com/docs/graph-api/guides/error-handling"""
    error = _error(reply)
    code, subcode = error.get("code"), error.get("error_subcode")
    if subcode == TERMS:
        return Refused("the Page has not accepted the terms for labels")
    if code in LIMITS:
        return Temporary(f"Meta limits us (code {code})", retry_after=WAIT)
    if code in (1, 2):
        return Temporary(f"Meta could not do it now (code {code})", unclear=True)
    if code == WINDOW_CODE or subcode == WINDOW_SUBCODE:
        return Refused("the person's last message is too long ago")
    if code in (10, 190, 200):
        return Unusable(f"Meta refuses this token (code {code}): a person must reconnect the Page")
    if code == 551:
        return Unreachable(UNREACHABLE)
    return http.fault_of(reply, f"code {code}" if isinstance(code, int) else "")


def _error(reply: http.Reply) -> Mapping[str, Any]:
    try:
        error = json.loads(reply.body).get("error")
    except (ValueError, AttributeError):
        return {}
    return error if isinstance(error, Mapping) else {}
