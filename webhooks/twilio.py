"""Twilio's requests for inbound messages and for the status of outbound ones.

Parameters: https://www.twilio.com/docs/messaging/guides/webhook-request and
https://www.twilio.com/docs/messaging/guides/track-outbound-message-status. Signature:
https://www.twilio.com/docs/usage/webhooks/webhooks-security. An inbound text carries no time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl

from prefs.core.errors import BadIdentifier, Unverified
from prefs.core.identity import signed_phone
from prefs.core.propagation import Target
from prefs.core.signals import (
    Delivery,
    DeliveryFact,
    Found,
    Identifier,
    Reply,
    Signal,
    Statement,
    Text,
    Unknown,
)
from prefs.core.words import Channel, Choice, Purpose, Scope, Source

Fields = tuple[tuple[str, str], ...]

FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 500
"""Far above what Twilio sends (about 30)."""

BLOCKED = "21610"
"""https://www.twilio.com/docs/api/errors/21610: the recipient has opted out of this sender."""

TEXTED = ("", "rcs")
"""Address prefixes that Twilio's opt-out covers, MMS included: a plain number, and RCS."""

NO_NEWS = frozenset(
    {
        "accepted",
        "scheduled",
        "queued",
        "sending",
        "sent",
        "delivered",
        "partially_delivered",
        "read",
        "canceled",
        "undelivered",
        "failed",
    }
)
"""https://www.twilio.com/docs/messaging/api/message-resource#message-status-values"""


# --- signature -----------------------------------------------------------------------------------


def verify(request: Delivery, target: Target) -> bool:
    """Twilio signs everything it sends: True, or Unverified is raised."""
    signature = request.headers.get("x-twilio-signature", "")
    if not signature:
        raise Unverified("no X-Twilio-Signature")
    secret, algorithm = _key(request.headers, target)
    signed = "".join(name + value for name, value in _signed_fields(request))
    for url in _spellings(request.url):
        digest = hmac.new(secret.encode(), (url + signed).encode(), algorithm).digest()
        if hmac.compare_digest(base64.b64encode(digest), signature.encode()):
            return True
    raise Unverified("X-Twilio-Signature does not match")


def _key(headers: Mapping[str, str], target: Target) -> tuple[str, str]:
    """Secret and hash. Only a SharedKey that is configured here makes SHA-256 acceptable, and
    without the settings header only the Auth Token counts."""
    settings = _settings(headers.get("x-twilio-webhooks-signature-settings", ""))
    algorithm = settings.get("algorithm", "HMAC_SHA1").upper()
    if algorithm == "HMAC_SHA1" and "key" not in settings:
        return _secret(target.text("auth_token")), "sha1"
    if algorithm == "HMAC_SHA256":
        return _secret(target.table("shared_keys").get(settings.get("key", ""))), "sha256"
    raise Unverified("signed in a way that is not configured")


def _secret(secret: object) -> str:
    if not isinstance(secret, str) or not secret:
        raise Unverified("signed with a key that is not configured")
    return secret


def _settings(header: str) -> dict[str, str]:
    parts = (part.partition("=") for part in header.split(","))
    return {name.strip(): value.strip() for name, _, value in parts if value.strip()}


def _signed_fields(request: Delivery) -> list[tuple[str, str]]:
    """What follows the URL in the signed text: each distinct pair once, sorted by name, then
    value. A body that is no form is covered by its hash in the signed query instead."""
    if not request.body:
        return []
    if _is_form(request):
        return sorted(set(_form(request)))
    given = dict(request.query).get("bodySHA256", "")
    actual = hashlib.sha256(request.body).hexdigest()
    if not hmac.compare_digest(given.lower().encode(), actual.encode()):
        raise Unverified("bodySHA256 does not match the body")
    return []


def _is_form(request: Delivery) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == FORM


def _form(request: Delivery) -> Fields:
    """Empty values are part of what is signed, so they are kept."""
    try:
        pairs = parse_qsl(request.body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise Unverified("the body is no form") from None
    return tuple(pairs)


def _spellings(url: str) -> tuple[str, str]:
    """The URL with and without its port: Twilio signs now the one, now the other."""
    scheme, _, rest = url.partition("#")[0].partition("://")
    cut = min((at for at in map(rest.find, "/?") if at >= 0), default=len(rest))
    host, port = _split_port(rest[:cut])
    port = port or ("443" if scheme == "https" else "80")
    return f"{scheme}://{host}{rest[cut:]}", f"{scheme}://{host}:{port}{rest[cut:]}"


def _split_port(netloc: str) -> tuple[str, str]:
    host, colon, port = netloc.rpartition(":")
    return (host, port) if colon and port.isdigit() else (netloc, "")


# --- meaning -------------------------------------------------------------------------------------


def normalise(request: Delivery, target: Target, *, signed: bool) -> list[Found]:
    """One Text for an inbound message; for an outbound one what its failure says."""
    fields = dict(_fields(request))
    message_id = fields.get("MessageSid") or fields.get("SmsSid")
    if not signed or not message_id:
        return [Unknown("request without MessageSid")]
    if "MessageStatus" in fields:
        return _status(fields, message_id, target)
    if "Body" in fields or fields.get("SmsStatus") == "received":
        return [_inbound(fields, message_id)]
    return [Unknown("message request of an unknown kind", _event_key(message_id, "kind"))]


def _fields(request: Delivery) -> Iterable[tuple[str, str]]:
    if request.method == "GET":
        return request.query
    return _form(request) if _is_form(request) else _json(request.body)


def _json(body: bytes) -> Fields:
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        return ()
    pairs = found.items() if isinstance(found, dict) else ()
    return tuple((name, value) for name, value in pairs if isinstance(value, str))


def _inbound(fields: Mapping[str, str], message_id: str) -> Found:
    number = _number(fields.get("From", ""))
    if number is None:
        return Unknown("inbound message of no number", _event_key(message_id, "inbound"))
    service, our_number = fields.get("MessagingServiceSid"), _address(fields.get("To", ""))[1]
    return Text(
        message_id=message_id,
        number=number,
        sender=service or our_number,
        other_sender=our_number if service else None,
        body=fields.get("Body", ""),
        flag=fields.get("OptOutType") or None,
    )


def _status(fields: Mapping[str, str], message_id: str, target: Target) -> list[Found]:
    status, code = fields["MessageStatus"].lower(), fields.get("ErrorCode", "")
    key = _event_key(message_id, status, code)
    if status not in NO_NEWS:
        return [Unknown("message status that is not in the table", key)]
    number = _number(fields.get("To", ""))
    if code != BLOCKED or number is None:
        return []
    purpose = _purpose(target, fields.get("MessagingServiceSid", ""), fields.get("From", ""))
    if purpose is Purpose.MARKETING:
        return [_opted_out(number, target, key)]
    return [DeliveryFact(number, purpose, "blocked", event_key=key)]


def _opted_out(number: Identifier, target: Target, key: str) -> Signal:
    return Signal(
        brand=target.brand,
        source=Source.VENDOR_PERSON,
        statements=(Statement(Scope(Channel.SMS, Purpose.MARKETING), Choice.OUT),),
        identifiers=(number,),
        origin=target.label,
        event_key=key,
    )


def _purpose(target: Target, *senders: str) -> Purpose:
    """That of our sender; one that the configuration does not know counts as marketing."""
    named = ((sender, purpose) for sender in senders if sender for purpose in Purpose)
    return next(
        (purpose for sender, purpose in named if sender in target.senders.get(purpose, ())),
        Purpose.MARKETING,
    )


def _number(address: str) -> Identifier | None:
    prefix, number = _address(address)
    if prefix not in TEXTED:
        return None
    try:
        return signed_phone(number)
    except BadIdentifier:
        return None


def _address(address: str) -> tuple[str, str]:
    prefix, _, number = address.rpartition(":")
    return prefix.lower(), number.strip()


def _event_key(*parts: str) -> str:
    return hashlib.sha256("\n".join(("twilio", *parts)).encode()).hexdigest()


def reply(request: Delivery, target: Target) -> Reply:
    """No TwiML verb: Twilio, or nobody, answers the person."""
    return Reply(200, b"<Response/>", "text/xml")
