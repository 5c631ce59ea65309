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

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
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
TOKENS = "tokens"

GUARDED = "Messenger has no opt-out that could be set; our own check guards"
TERMS = 2018344
"""Subcode: the Page has not accepted the terms for labels."""
WAIT = 60.0


@dataclass(frozen=True, slots=True)
class Token:
    """A marketing token as it was last listed. `expires` is a Unix time."""

    psid: str
    expires: float


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
        self._line = Line(way, Fixed(token), fault=_fault)
        self._label_id: str | None = None
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
        method, params = ("POST" if off else "DELETE"), {"user": psid, **self._proof}
        path = f"{self._base}/{label}/label"
        answer = await self._line.write(method, path, params=params, repeat=off)
        if answer.get("success") is not True:
            raise Refused("Meta did not say that the label was set")
        return Local(GUARDED)

    async def _label_of(self, *, make: bool) -> str | None:
        """The label's id, looked up once; made at the first opt-out."""
        if self._label_id is None:
            path = f"{self._base}/{self._page}/custom_labels"
            answer = await self._line.read(path, {"fields": "id,page_label_name", **self._proof})
            known = {str(one.get("page_label_name")): str(one["id"]) for one in _data(answer)}
            self._label_id = known.get(str(self._label))
            if self._label_id is None and make:
                params = {"page_label_name": str(self._label), **self._proof}
                made = await self._line.write("POST", path, params=params, repeat=False)
                self._label_id = str(made["id"])
        return self._label_id

    # --- walking -------------------------------------------------------------------------------

    async def scan(self, cursor: str | None) -> AsyncIterator[Page]:
        """The whole list of marketing tokens, each time: it has no filter by date. A person whose
        tokens all vanished before they expired has stopped; a list may shift while it is read, so
        that a second one must lack them too."""
        began = self._now()
        listed = await self._listed()
        stopped = self._stopped(await self._held(), listed)
        if stopped:
            listed |= await self._listed()
            stopped = self._stopped(await self._held(), listed)
        yield Page(tuple(self._record(p, began) for p in stopped), began.isoformat(), complete=True)
        await self._keep(listed)

    async def _listed(self) -> dict[str, Token]:
        listed: dict[str, Token] = {}
        async for part in self._tokens():
            listed |= part
        return listed

    async def _tokens(self) -> AsyncIterator[dict[str, Token]]:
        path = f"{self._base}/{self._page}/notification_message_tokens"
        params = {"limit": str(PAGE), **self._proof}
        while True:
            answer = await self._line.read(path, params)
            try:
                yield {_name(one): _token(one) for one in _data(answer)}
            except (KeyError, TypeError, ValueError):
                raise Temporary("Meta's list of tokens cannot be read") from None
            after = ((answer.get("paging") or {}).get("cursors") or {}).get("after")
            if not after:
                return
            params = {**params, "after": str(after)}

    async def _held(self) -> dict[str, Token]:
        """What earlier lists showed; names are hashes of the tokens."""
        text = await self._target.vault.get(TOKENS)
        return {name: Token(*fields) for name, fields in json.loads(text or "{}").items()}

    def _stopped(self, held: Mapping[str, Token], listed: Mapping[str, Token]) -> list[str]:
        now = self._now().timestamp()
        alive = {token.psid for token in listed.values()}
        lasting = {token.psid for token in held.values() if token.expires > now}
        return sorted(lasting - alive)

    async def _keep(self, listed: Mapping[str, Token]) -> None:
        """After what vanished has been told: a list that breaks off counts for nothing."""
        rows = {name: [token.psid, token.expires] for name, token in listed.items()}
        await self._target.vault.put(TOKENS, json.dumps(rows, sort_keys=True))

    def _record(self, psid: str, began: datetime) -> tuple[Ref, Observed]:
        name = f"{self._page}:{psid}"
        seen = Seen(Value.OFF, Source.VENDOR_PERSON, ever_on=True)
        values = dict.fromkeys(self.slots, seen)
        return Ref(Kind.MESSENGER, name), Observed(values, began, psid, ((Kind.MESSENGER, name),))

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


def _name(item: Json) -> str:
    return hashlib.sha256(str(item["notification_messages_token"]).encode()).hexdigest()[:32]


def _token(item: Json) -> Token:
    """Times come in milliseconds; a token without an end counts as lasting."""
    ends = item.get("token_expiry_timestamp")
    lasting = datetime.max.replace(tzinfo=UTC).timestamp()
    return Token(str(item["recipient_id"]), float(ends) / 1000 if ends else lasting)


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
    if code in (4, 32, 613):
        return Temporary(f"Meta limits us (code {code})", retry_after=WAIT)
    if code in (1, 2):
        return Temporary(f"Meta could not do it now (code {code})")
    if code in (10, 190, 200):
        return Unusable(f"Meta refuses this token (code {code}): a person must reconnect the Page")
    if code == 551:
        return Refused("the person blocked the Page or is gone")
    return http.fault_of(reply, f"code {code}" if isinstance(code, int) else "")


def _error(reply: http.Reply) -> Mapping[str, Any]:
    try:
        error = json.loads(reply.body).get("error")
    except (ValueError, AttributeError):
        return {}
    return error if isinstance(error, Mapping) else {}
