"""Keap's REST hooks: ids of contacts that changed, unsigned; the lane reads them and judges.

No event names an email opt-out, so the poll finds those. A delivery must bring `?key=`. A new hook
is first called with `X-Hook-Secret`, and begins when the answer carries the same header.

https://developer.keap.com/docs/rest/#tag/REST-Hooks
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from prefs.core.propagation import Target
from prefs.core.signals import Delivery, Found, Recheck, Reply, Unknown
from webhooks import signing

HANDSHAKE = "x-hook-secret"
_SECRET = re.compile(r"[\x21-\x7e]{1,512}")
_ID = re.compile(r"[0-9]{1,20}")
CONTACT_EVENTS = frozenset({"contact.add", "contact.edit", "contact.delete", "contact.redact"})
TAG_EVENTS = frozenset({"contactGroup.applied", "contactGroup.removed"})


def verify(request: Delivery, target: Target) -> bool:
    """Always False: Keap documents no signature of its deliveries. Raises Unverified."""
    signing.check_key(request, target)
    return False


def normalise(request: Delivery, target: Target, *, signed: bool) -> list[Found]:
    body = _body(request)
    event = body.get("event_key")
    if _is_handshake(request, event):
        return []
    if not isinstance(event, str):
        return [Unknown("a body that is no event")]
    found: list[Found] = list(_rechecks(event, body, request.body))
    return found or [Unknown(event, signing.event_key(event, request.body))]


def reply(request: Delivery, target: Target) -> Reply:
    """Echoes a handshake's secret, and nothing beside an event. Only registrations of ours can get
    here: `verify` let in what brings our key, and a registration by hand may come at any time."""
    secret = request.headers.get(HANDSHAKE, "")
    if not _is_handshake(request, _body(request).get("event_key")) or not _SECRET.fullmatch(secret):
        return Reply()
    return Reply(headers={"X-Hook-Secret": secret})


def _is_handshake(request: Delivery, event: object) -> bool:
    return request.method == "POST" and event is None and HANDSHAKE in request.headers


def _body(request: Delivery) -> Mapping[str, Any]:
    """Empty for what is no JSON object."""
    try:
        body = json.loads(request.body)
    except ValueError:
        body = None
    return body if isinstance(body, Mapping) else {}


def _rechecks(event: str, body: Mapping[str, Any], raw: bytes) -> Iterator[Recheck]:
    """One for each contact. A repeated delivery has the same times (or the same bytes), and so the
    same keys."""
    if event not in CONTACT_EVENTS | TAG_EVENTS:
        return
    seen: set[str] = set()
    objects = body.get("object_keys")
    for item in objects if isinstance(objects, list) else [objects]:
        stamp = item.get("timestamp") if isinstance(item, Mapping) else None
        ids = _ids(item) if event in CONTACT_EVENTS else _tagged(item)
        for vendor_id in ids:
            key = signing.event_key(event, vendor_id, stamp or raw)
            if key not in seen:
                seen.add(key)
                yield Recheck(vendor_id=vendor_id, event_key=key)


def _ids(item: Any) -> Iterator[str]:
    """The id of an object, or a bare one."""
    found = item.get("id") if isinstance(item, Mapping) else item
    if isinstance(found, str | int) and not isinstance(found, bool) and _ID.fullmatch(str(found)):
        yield str(found)


def _tagged(item: Any) -> Iterator[str]:
    """Contacts of a tag event. Its inner shape is not documented: the tag's id beside a list of
    contacts, under one name or another; without a list, `id` may be the contact's."""
    if not isinstance(item, Mapping):
        yield from _ids(item)
        return
    lists = [part for part in item.values() if isinstance(part, list)]
    named = [item[name] for name in ("contact_id", "contactId") if name in item]
    for one in (*named, *(one for part in lists for one in part)):
        yield from _ids(one)
    if not lists and not named:
        yield from _ids(item)
