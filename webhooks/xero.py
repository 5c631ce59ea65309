"""Xero's webhooks: hints that a contact changed; the lane reads it and judges.

An event names the contact and holds no field of it. Whether a change of groups fires one, the
vendor does not say. When a webhook is made, Xero sends signed requests without events, some of them
signed wrongly on purpose ("intent to receive"): right is 200, wrong is 401, with an empty body.

https://developer.xero.com/documentation/guides/webhooks/overview/
https://developer.xero.com/documentation/guides/webhooks/configuring-your-server/
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Mapping
from typing import Any

from prefs.core.errors import Unverified
from prefs.core.propagation import Target
from prefs.core.signals import Delivery, Found, Recheck, Reply, Unknown
from webhooks import signing

CONTACT = "CONTACT"
KINDS = frozenset({"CREATE", "UPDATE"})
"""Archiving is an UPDATE."""


def verify(request: Delivery, target: Target) -> bool:
    """True when signed by Xero with the key of this webhook. Raises Unverified."""
    secrets = [secret for secret in signing.secrets_of(target, "webhook_secret") if secret]
    digests = (hmac.digest(secret.encode(), request.body, "sha256") for secret in secrets)
    expected = [base64.b64encode(digest).decode() for digest in digests]
    if not signing.any_matches([request.headers.get("x-xero-signature", "")], expected):
        raise Unverified("Xero's signature does not match")
    return True


def normalise(request: Delivery, target: Target, *, signed: bool) -> list[Found]:
    """The contacts to read again; none in an intent to receive. `signed` is always True."""
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError):
        return [Unknown("a body that is not JSON")]
    events = body.get("events") if isinstance(body, Mapping) else None
    if not isinstance(events, list):
        return [Unknown("a body without events")]
    return [_found(event, target) for event in events]


def reply(request: Delivery, target: Target) -> Reply:
    """Xero takes an empty body only."""
    return Reply()


def _found(event: Any, target: Target) -> Found:
    """An app has one signing key for all its organisations: one that is not ours is Unknown."""
    if not isinstance(event, Mapping):
        return Unknown("an event that is not an object")
    category, kind = str(event.get("eventCategory")), str(event.get("eventType"))
    vendor_id = event.get("resourceId")
    key = signing.event_key(category, kind, vendor_id, event.get("eventDateUtc"))
    if event.get("tenantId") != target.text("tenant"):
        return Unknown("an event of another organisation", key)
    if category != CONTACT or kind not in KINDS or not isinstance(vendor_id, str):
        return Unknown(f"{category}.{kind}", key)
    return Recheck(vendor_id=vendor_id, event_key=key)
