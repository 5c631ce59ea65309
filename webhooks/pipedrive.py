"""Pipedrive's webhooks (version 2.0): hints that a person changed; the lane reads it and judges.

Nothing is signed: deliveries bring HTTP credentials at most, which prove a sender but no content.
So everything here becomes a `Recheck` by person id, and no payload is ever a wish. A merge arrives
as a deletion and a change.

https://pipedrive.readme.io/docs/guide-for-webhooks-v2
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from prefs.core.errors import Unverified
from prefs.core.propagation import Target
from prefs.core.signals import Delivery, Found, Recheck, Reply, Unknown
from webhooks import signing

ACTIONS = frozenset({"create", "change", "delete"})
PERSON = "person"
_DEDUPE = ("correlation_id", "timestamp", "user_id")
"""What tells events apart where one has no `meta.id`; `attempt` differs between deliveries."""


def verify(request: Delivery, target: Target) -> bool:
    """Always False: the credentials, or `?key=` where none are configured, only let in.
    Raises Unverified."""
    user, password = target.text("webhook_user"), target.text("webhook_password")
    if user and password:
        _check_credentials(request, user, password)
    else:
        signing.check_key(request, target)
    return False


def _check_credentials(request: Delivery, user: str, password: str) -> None:
    """RFC 7617: UTF-8, and no colon in the user name."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    try:
        brought = base64.b64decode(given.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        brought = ""
    if scheme.lower() != "basic" or not signing.same(brought, f"{user}:{password}"):
        raise Unverified("the webhook's HTTP credentials are missing or wrong")


def normalise(request: Delivery, target: Target, *, signed: bool) -> list[Found]:
    try:
        event = json.loads(request.body)
    except ValueError:
        return [Unknown("a body that is not JSON")]
    meta = event.get("meta") if isinstance(event, Mapping) else None
    if not isinstance(meta, Mapping):
        return [Unknown("an event without meta")]
    return [_found(event, meta)]


def _found(event: Mapping[str, Any], meta: Mapping[str, Any]) -> Found:
    action, entity = str(meta.get("action")), str(meta.get("entity"))
    number = _person_id(event, meta)
    key = _key(meta, action, entity, number)
    if entity != PERSON or action not in ACTIONS or number is None:
        return Unknown(f"{action[:40]}.{entity[:40]}", key)
    return Recheck(vendor_id=number, event_key=key)


def _person_id(event: Mapping[str, Any], meta: Mapping[str, Any]) -> str | None:
    """Of a deletion, `data` is null and the person stands in `previous`."""
    given = [meta.get("entity_id")]
    for part in (event.get("data"), event.get("previous")):
        given += [part.get("id")] if isinstance(part, Mapping) else []
    texts = (str(one) for one in given if one is not None)
    return next((text for text in texts if text.isascii() and text.isdigit()), None)


def _key(meta: Mapping[str, Any], action: str, entity: str, number: str | None) -> str:
    if meta.get("id"):
        return signing.event_key("pipedrive", meta["id"])
    parts = (meta.get(name) for name in _DEDUPE)
    return signing.event_key("pipedrive", action, entity, number, *parts)


def reply(request: Delivery, target: Target) -> Reply:
    """Any 2xx within ten seconds counts as delivered."""
    return Reply()
