"""HubSpot's webhooks: hints that a contact changed; the lane reads it and judges.

There is no event for a change of a subscription preference. `contact.propertyChange` on
`hs_email_optout` and `hs_email_optout_<type>` comes nearest, and no event holds an address, so
everything here becomes a `Recheck` by contact id.

Signatures: https://developers.hubspot.com/docs/apps/legacy-apps/authentication/validating-requests
Events: https://developers.hubspot.com/docs/api-reference/webhooks-webhooks-v3/guide
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prefs.core.errors import Unverified
from prefs.core.propagation import Target
from prefs.core.signals import Delivery, Found, Recheck, Reply, Unknown
from webhooks import signing

V3 = "v3"
DEFAULT_SIGNATURES = (V3,)
WINDOW = 300.0
"""Seconds by which a v3 timestamp may differ from our clock, either way."""

# HubSpot signs a URL in which only these escapes are decoded (%20, %25, %26 and %3D stay).
DECODED = {
    "%3A": ":", "%2F": "/", "%3F": "?", "%40": "@", "%21": "!", "%24": "$",
    "%27": "'", "%28": "(", "%29": ")", "%2A": "*", "%2C": ",", "%3B": ";",
}  # fmt: skip
_ESCAPE = re.compile("|".join(DECODED), re.IGNORECASE)

CONTACT = "0-1"
"""`objectTypeId` of a contact in the `object.*` events of the newer developer platform."""

# Kind -> fields that name contacts. A kind that is not here is `Unknown`.
# Creation counts: an address that was absent so far may be out.
KINDS = {
    "contact.creation": ("objectId",),
    "contact.propertyChange": ("objectId",),
    "contact.restore": ("objectId",),
    "contact.deletion": ("objectId",),
    "contact.privacyDeletion": ("objectId",),
    "contact.merge": ("primaryObjectId", "newObjectId", "objectId", "mergedObjectIds"),
}
WATCHED = frozenset({"email", "hs_email_optout"})
_DEDUPE = ("portalId", "objectId", "eventId", "occurredAt", "propertyName")
"""With the kind, what tells one event from another: `eventId` alone is not unique."""


def verify(request: Delivery, target: Target) -> bool:
    """True when signed by HubSpot. Raises `Unverified` for anything else.

    v3 is preferred where it is present; v1 and v2 carry no time, so only de-duplication stops
    their replay, and they count only where `signatures` names them.
    """
    secrets = [secret for secret in signing.secrets_of(target, "signing_secret") if secret]
    allowed = tuple(target.options.get("signatures") or DEFAULT_SIGNATURES)
    if V3 in allowed and "x-hubspot-signature-v3" in request.headers:
        given, expected = request.headers["x-hubspot-signature-v3"], _v3(request, secrets)
    else:
        given = request.headers.get("x-hubspot-signature", "")
        expected = _plain(request, secrets, allowed)
    if not signing.any_matches([given], expected):
        raise Unverified("HubSpot's signature does not match")
    return True


def _v3(request: Delivery, secrets: Sequence[str]) -> list[str]:
    stamp = request.headers.get("x-hubspot-request-timestamp", "")
    if not (stamp.isascii() and stamp.isdigit()) or len(stamp) > 15:
        raise Unverified("HubSpot's request timestamp is missing or no number")
    if not signing.within(int(stamp) / 1000, request.received_at, WINDOW):
        raise Unverified("HubSpot's request timestamp is more than 5 minutes off")
    text = f"{request.method}{signed_uri(request.url)}".encode() + request.body + stamp.encode()
    digests = (hmac.digest(secret.encode(), text, "sha256") for secret in secrets)
    return [base64.b64encode(digest).decode() for digest in digests]


def _plain(request: Delivery, secrets: Sequence[str], allowed: tuple[str, ...]) -> list[str]:
    version = request.headers.get("x-hubspot-signature-version", "").lower()
    if version not in ("v1", "v2") or version not in allowed:
        raise Unverified("no HubSpot signature of a version that this target accepts")
    more = b"" if version == "v1" else f"{request.method}{request.url}".encode()
    return [hashlib.sha256(secret.encode() + more + request.body).hexdigest() for secret in secrets]


def signed_uri(url: str) -> str:
    """The URL as HubSpot signs it. One pass: an escaped percent sign does not unfold twice."""
    return _ESCAPE.sub(lambda match: DECODED[match[0].upper()], url)


def normalise(request: Delivery, target: Target, *, signed: bool) -> list[Found]:
    """The records to read again. `signed` is always True: HubSpot signs everything it sends."""
    try:
        body = json.loads(request.body)
    except ValueError:
        return [Unknown("a body that is not JSON")]
    events = body if isinstance(body, list) else [body]
    watched = WATCHED | set(target.table("properties").values())
    return [found for event in events for found in _found(event, watched)]


def reply(request: Delivery, target: Target) -> Reply:
    return Reply()


def _found(event: Any, watched: frozenset[str]) -> Iterator[Found]:
    if not isinstance(event, Mapping):
        yield Unknown("an event that is not an object")
        return
    kind = _kind(event)
    ids = _ids(event, KINDS.get(kind, ()))
    if not ids:
        yield Unknown(kind, _key(event, kind))
    elif kind != "contact.propertyChange" or _holds_preference(event, watched):
        for vendor_id in ids:
            yield Recheck(vendor_id=vendor_id, event_key=_key(event, kind, vendor_id))


def _kind(event: Mapping[str, Any]) -> str:
    """The event's type, in the `contact.*` spelling where it is about a contact."""
    kind = str(event.get("subscriptionType") or event.get("eventType") or "no type")
    family, _, what = kind.partition(".")
    if family == "object" and event.get("objectTypeId") == CONTACT:
        return f"contact.{what}"
    return kind


def _ids(event: Mapping[str, Any], fields: tuple[str, ...]) -> list[str]:
    values = (event.get(field) for field in fields)
    flat = (item for value in values for item in (value if isinstance(value, list) else [value]))
    return list(dict.fromkeys(str(item) for item in flat if item is not None))


def _holds_preference(event: Mapping[str, Any], watched: frozenset[str]) -> bool:
    name = str(event.get("propertyName", ""))
    return name in watched or name.startswith("hs_email_optout_")


def _key(event: Mapping[str, Any], kind: str, vendor_id: str = "") -> str:
    """Of the de-duplication fields, and of the id: one merge names several records."""
    return signing.event_key(kind, vendor_id, *(event.get(field) for field in _DEDUPE))
