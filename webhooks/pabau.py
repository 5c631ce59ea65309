"""Pabau's webhooks: unsigned hints that a client changed; the lane reads it and judges.

Neither a payload's shape nor a signature is documented, so any JSON or form is taken and searched
for ids and addresses of clients. Never a preference: defaults and bookings set flags to 1, and
anybody who knows the address and its key could send one.

https://support.pabau.com/en/api/webhooks
https://support.pabau.com/en/api/list-of-webhooks
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

from prefs.core import identity
from prefs.core.errors import BadIdentifier
from prefs.core.propagation import Target
from prefs.core.signals import Delivery, Found, Identifier, Recheck, Reply, Unknown
from webhooks import signing

CLIENT_IDS = frozenset({"clientid", "contactid"})
"""Field names in lower case, without what stands between words."""
CLIENTS = frozenset({"client", "clients", "contact", "contacts", "details"})
"""Fields that hold clients: an `id` there is a client's."""
ID = re.compile(r"[0-9]{1,18}")


def verify(request: Delivery, target: Target) -> bool:
    """False: Pabau documents no signature, so `?key=` must be there. Raises Unverified."""
    signing.check_key(request, target)
    return False


def normalise(request: Delivery, target: Target, *, signed: bool) -> list[Found]:
    """The clients to read again. `signed` is always False."""
    if request.method == "GET":
        return []
    payload = _payload(request.body)
    text = request.body.decode("utf-8", "replace")
    rechecks = [
        *(Recheck(vendor_id=id_, event_key=signing.event_key(text, id_)) for id_ in _ids(payload)),
        *(
            Recheck(identifier=one, event_key=signing.event_key(text, one.key))
            for one in _addresses(payload)
        ),
    ]
    return [*rechecks] or [Unknown("no client in it", signing.event_key(text))]


def reply(request: Delivery, target: Target) -> Reply:
    """Any 2xx is success."""
    return Reply()


def _payload(body: bytes) -> Any:
    """JSON, else the fields of a form."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return _nested(parse_qsl(body.decode("utf-8", "replace")))


def _nested(fields: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """`client[email]=...` as an object in an object."""
    nested: dict[str, Any] = {}
    for name, value in fields:
        *path, last = re.findall(r"\w+", name) or [name]
        place = nested
        for step in path:
            inner = place.setdefault(step, {})
            place = inner if isinstance(inner, dict) else {}
        place[last] = value
    return nested


def _ids(payload: Any) -> list[str]:
    found = [
        str(value)
        for under, item in _objects(payload)
        for name, value in item.items()
        if _letters(name) in CLIENT_IDS
        or (name == "id" and (_is_client(under, item) or _says_client(payload)))
    ]
    return [id_ for id_ in dict.fromkeys(found) if ID.fullmatch(id_)]


def _is_client(under: str, item: Mapping[str, Any]) -> bool:
    return under in CLIENTS or any("email" in name or name.startswith("opt_in") for name in item)


def _says_client(payload: Any) -> bool:
    """`object: client`, `event: client.change` and the like."""
    words = payload.values() if isinstance(payload, Mapping) else ()
    return any(isinstance(one, str) and one.lower().startswith("client") for one in words)


def _addresses(payload: Any) -> list[Identifier]:
    found: dict[str, Identifier] = {}
    for _, item in _objects(payload):
        for name, value in item.items():
            if "email" in name.lower() and isinstance(value, str):
                with suppress(BadIdentifier):
                    address = identity.email(value)
                    found.setdefault(address.key, address)
    return list(found.values())


def _objects(payload: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every object with the name of the field it stands in; a list's items have the list's."""
    waiting: list[tuple[str, Any]] = [("", payload)]
    while waiting:
        under, item = waiting.pop()
        if isinstance(item, Mapping):
            yield under, item
            waiting += [(_letters(name), value) for name, value in item.items()]
        elif isinstance(item, list):
            waiting += [(under, value) for value in item]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())
