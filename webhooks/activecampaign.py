"""ActiveCampaign's webhooks: unsigned forms, sent once and never again, some of them twice.

https://developers.activecampaign.com/page/webhooks
Nothing proves who sent them but the key in the URL: an explicit unsubscribe counts as a program's
out and the contact is read; everything else only asks for a read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from prefs.core import identity
from prefs.core.errors import BadIdentifier
from prefs.core.propagation import Target
from prefs.core.signals import (
    Delivery,
    Found,
    Identifier,
    Recheck,
    Reply,
    Signal,
    Statement,
    Unknown,
    Work,
)
from prefs.core.words import Channel, Choice, Purpose, Scope, Source
from webhooks import signing

LEFT, TEXTED_STOP = "unsubscribe", "sms_unsub"
REREAD = frozenset({LEFT, TEXTED_STOP, "subscribe", "sms_reply", "bounce", "update"})
ABOUT_NOBODY = frozenset({"list_add"})
BLOCKED = "a STOP by text: ActiveCampaign sends this number no texts any more"
OURS = "api"
"""`initiated_from` of what a program did through the API: it may be the echo of our own write."""
LIST = re.compile(r"list(\[[0-9]*\]\[id\])?")
"""`list` where staff did it, `list[][id]`, once for each, where the person did."""
_DEDUPE = ("date_time", "contact[id]", "contact[email]", "campaign[id]", "sms[id]", "sms[phone]")

Fields = dict[str, str]


def verify(request: Delivery, target: Target) -> bool:
    """Never signed. Raises Unverified without the right `?key=`."""
    signing.check_key(request, target)
    return False


def reply(request: Delivery, target: Target) -> Reply:
    """A 410 would switch the webhook off for good; no other answer is looked at."""
    return Reply()


def normalise(request: Delivery, target: Target, *, signed: bool) -> list[Found]:
    pairs = parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True)
    fields = dict(pairs)
    lists = list(dict.fromkeys(value for name, value in pairs if LIST.fullmatch(name)))
    kind = fields.get("type", "")
    key = signing.event_key(kind, *(fields.get(name) for name in _DEDUPE), *sorted(lists))
    if kind in ABOUT_NOBODY:
        return []
    if kind not in REREAD:
        return [Unknown(kind or "no type", key)]
    outs: list[Found] = []
    if fields.get("initiated_from") != OURS:
        outs += [
            signal
            for channel, scopes in _left(kind, lists, target).items()
            if (signal := _out(fields, target, channel, scopes, key))
        ]
        outs += _blocked(fields, kind, target, key)
    return [*outs, _recheck(fields, kind, key, beside=bool(outs))]


def _left(kind: str, lists: Sequence[str], target: Target) -> dict[Channel, list[Scope]]:
    """What an event switches off. A list that the configuration does not name says nothing."""
    found: dict[Channel, list[Scope]] = {}
    texts = {str(place) for place in target.options.get("sms_lists") or ()}
    if kind == TEXTED_STOP or (kind == LEFT and texts.intersection(lists)):
        found[Channel.SMS] = [Scope(Channel.SMS, Purpose.MARKETING)]
    marketing = {str(place): topics for place, topics in target.table("marketing_lists").items()}
    scopes = [
        scope
        for place in lists
        if kind == LEFT and place in marketing
        for scope in _scopes(marketing[place], target)
    ]
    if scopes:
        found[Channel.EMAIL] = list(dict.fromkeys(scopes))
    return found


def _scopes(given: object, target: Target) -> list[Scope]:
    """The topics that the list carries, or the channel when it carries them all."""
    named = [given] if isinstance(given, str) else given if isinstance(given, Sequence) else ()
    topics = [str(topic) for topic in named if topic not in ("", "*")]
    channel = Scope(Channel.EMAIL, Purpose.MARKETING)
    if not topics or set(topics) >= set(target.topics):
        return [channel]
    return [channel._replace(topic=topic) for topic in topics]


def _out(
    fields: Fields, target: Target, channel: Channel, scopes: Sequence[Scope], key: str
) -> Signal | None:
    """None where the event names nobody in a way that can be read: the contact is read then."""
    person = _number(fields, target) if channel is Channel.SMS else None
    person = person or _address(fields)
    if person is None:
        return None
    return Signal(
        brand=target.brand,
        source=Source.VENDOR_ADMIN,
        statements=tuple(Statement(scope, Choice.OUT) for scope in scopes),
        identifiers=(person,),
        occurred_at=_time(fields.get("date_time", "")),
        origin=target.label,
        event_key=f"{key} {channel}",
    )


def _blocked(fields: Fields, kind: str, target: Target, key: str) -> list[Found]:
    """STOP blocks a number for every text of the account, where reminders are sent from here too.
    That is no delivery fact: the brand may send them from another system, and they must go on."""
    reminds = target.options.get("service_lists") or target.options.get("service_containers")
    number = _number(fields, target)
    if kind != TEXTED_STOP or not reminds or number is None:
        return []
    return [Work("reminders_blocked_at_gateway", BLOCKED, number, f"{key} blocked")]


def _recheck(fields: Fields, kind: str, key: str, *, beside: bool) -> Found:
    """By the contact's id, else by its address."""
    key = f"{key} recheck" if beside else key
    vendor_id, address = fields.get("contact[id]", ""), _address(fields)
    if vendor_id.isdecimal() and int(vendor_id):
        return Recheck(vendor_id=vendor_id, event_key=key)
    if address:
        return Recheck(identifier=address, event_key=key)
    return Unknown(f"{kind} of nobody that can be read", key)


def _address(fields: Fields) -> Identifier | None:
    try:
        return identity.email(fields.get("contact[email]", ""))
    except BadIdentifier:
        return None


def _number(fields: Fields, target: Target) -> Identifier | None:
    for name in ("sms[phone]", "contact[phone]"):
        try:
            return identity.phone(fields.get(name, ""), target.region)
        except BadIdentifier:
            continue
    return None


def _time(text: str) -> datetime | None:
    """None without a zone: the account's is not told, and an out then counts from receipt."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.astimezone(UTC) if found.tzinfo else None
