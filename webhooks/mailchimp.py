"""Mailchimp's webhooks: form-encoded, signed since 2025, older ones not.

https://mailchimp.com/developer/marketing/guides/sync-audience-data-webhooks/
`fired_at` names no zone and is taken as UTC. The body does not say who acted: an unsubscribe with
action `unsub` is the person's, one with `delete` an administrator's.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from prefs.core import identity
from prefs.core.errors import BadIdentifier, Unverified
from prefs.core.propagation import Target
from prefs.core.signals import (
    Delivery,
    DeliveryFact,
    Found,
    Identifier,
    Recheck,
    Renamed,
    Reply,
    Signal,
    Statement,
    Unknown,
)
from prefs.core.words import Channel, Choice, Purpose, Scope, Source
from webhooks import signing

WINDOW = 300.0
HEADER = "x-mailchimp-signature"
REREAD = frozenset({"subscribe", "profile", "sms_subscribe", "sms_unsubscribe", "upsms"})

Fields = dict[str, str]


def verify(request: Delivery, target: Target) -> bool:
    """True when signed. A GET is Mailchimp asking whether the URL lives, and changes nothing.
    Raises Unverified."""
    if request.method == "GET":
        return False
    expected = signing.secrets_of(target, "webhook_secret", _list_of(request))
    if not expected and not _only_unsigned(target):
        expected = signing.secrets_of(target, "webhook_secret")
    if not expected:
        signing.check_key(request, target)
        return False
    _check_signature(request, expected)
    return True


def _only_unsigned(target: Target) -> bool:
    """No secret for this audience: its webhook is of the older, unsigned kind."""
    return target.text("webhook_key") is not None


def _list_of(request: Delivery) -> str | None:
    """The audience that the body names, needed to choose the secret; nothing else of an
    unverified body is looked at."""
    found = re.search(rb"(?:^|&)data(?:\[|%5B)list_id(?:\]|%5D)=([0-9a-zA-Z]+)", request.body)
    return found.group(1).decode() if found else None


def _check_signature(request: Delivery, secrets: list[str]) -> None:
    parts = [part.strip().partition("=") for part in request.headers.get(HEADER, "").split(",")]
    moments = [value for name, _, value in parts if name == "t"]
    given = [value for name, _, value in parts if name == "v1"]
    if len(moments) != 1 or not re.fullmatch(r"[0-9]{1,12}", moments[0]) or not given:
        raise Unverified("the signature is missing or unreadable")
    if not signing.within(float(moments[0]), request.received_at, WINDOW):
        raise Unverified("the signature is too old or too new")
    message = moments[0].encode() + b"." + request.body
    if not signing.any_matches(given, [signing.hmac_hex(one, message) for one in secrets]):
        raise Unverified("the signature does not match")


def normalise(request: Delivery, target: Target, *, signed: bool) -> list[Found]:
    if request.method == "GET":
        return []
    fields = dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True))
    kind = fields.get("type", "")
    key = signing.event_key(
        kind,
        fields.get("data[id]") or fields.get("data[email]") or fields.get("data[new_email]"),
        fields.get("data[list_id]"),
        fields.get("fired_at"),
    )
    try:
        return _events(kind, fields, target, key, signed=signed)
    except BadIdentifier:
        return [Unknown(f"{kind} of an unreadable address", key)]


def _events(kind: str, fields: Fields, target: Target, key: str, *, signed: bool) -> list[Found]:
    if kind == "unsubscribe":
        return _unsubscribed(fields, target, key, signed=signed)
    if kind == "cleaned":
        return _cleaned(fields, target, key, signed=signed)
    if kind == "upemail":
        old, new = _address(fields, "old_email"), _address(fields, "new_email")
        return [Renamed(old, new, key), Recheck(identifier=new, event_key=key + " new")]
    if kind in REREAD:
        return [Recheck(identifier=_address(fields, "email"), event_key=key)]
    return [Unknown(kind or "no type", key)]


def _unsubscribed(fields: Fields, target: Target, key: str, *, signed: bool) -> list[Found]:
    person = fields.get("data[action]") == "unsub" or fields.get("data[reason]") == "abuse"
    source = Source.VENDOR_PERSON if person and signed else Source.VENDOR_ADMIN
    address = _address(fields, "email")
    found: list[Found] = [_out(fields, target, address, source, key)]
    if not signed:
        found.append(Recheck(identifier=address, event_key=key + " recheck"))
    return found


def _cleaned(fields: Fields, target: Target, key: str, *, signed: bool) -> list[Found]:
    address = _address(fields, "email")
    if fields.get("data[reason]") == "abuse":
        source = Source.VENDOR_PERSON if signed else Source.VENDOR_ADMIN
        return [_out(fields, target, address, source, key)]
    moment = _fired_at(fields)
    return [
        DeliveryFact(address, Purpose.MARKETING, "hard_bounce", occurred_at=moment, event_key=key)
    ]


def _out(fields: Fields, target: Target, address: Identifier, source: Source, key: str) -> Signal:
    scopes = _scopes(target, fields.get("data[list_id]", ""))
    return Signal(
        brand=target.brand,
        source=source,
        statements=tuple(Statement(scope, Choice.OUT) for scope in scopes),
        identifiers=(address,),
        occurred_at=_fired_at(fields),
        origin=target.label,
        event_key=key,
    )


def _scopes(target: Target, audience: str) -> list[Scope]:
    """The topics that the audience carries, or the channel when it carries them all."""
    topics = list(target.table("audiences").get(audience, ()))
    channel = Scope(Channel.EMAIL, Purpose.MARKETING)
    if not topics or set(topics) >= set(target.topics):
        return [channel]
    return [channel._replace(topic=topic) for topic in topics]


def _address(fields: Fields, name: str) -> Identifier:
    return identity.email(fields.get(f"data[{name}]", ""))


def _fired_at(fields: Fields) -> datetime | None:
    try:
        return datetime.strptime(fields.get("fired_at", ""), "%Y-%m-%d %H:%M:%S").replace(
            tzinfo=UTC
        )
    except ValueError:
        return None


def reply(request: Delivery, target: Target) -> Reply:
    """Mailchimp disables a webhook that answers 410, and asks no more of any other answer."""
    return Reply()
