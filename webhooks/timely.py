"""Timely, by way of an automation tool: "new or updated customer" sent to us by its web step.

Timely itself has no webhook. The field names of the tool's trigger are the user's to map
(`columns`); nothing is signed, so the URL must bring `?key=`. A marketing flag that is off counts
as staff's word there; everything else waits for the next upload of the export.

https://help.gettimely.com
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

from prefs.core import identity
from prefs.core.errors import BadIdentifier
from prefs.core.propagation import Target
from prefs.core.signals import Delivery, Found, Identifier, Reply, Signal, Statement, Unknown
from prefs.core.words import Channel, Choice, Purpose, Scope, Source
from webhooks import signing

FLAGS = {"email_marketing": Channel.EMAIL, "sms_marketing": Channel.SMS}
OFF = frozenset({"no", "false", "0", "off", "n"})


def verify(request: Delivery, target: Target) -> bool:
    """Never signed; the key must be right. Raises Unverified."""
    signing.check_key(request, target)
    return False


def reply(request: Delivery, target: Target) -> Reply:
    return Reply()


def normalise(request: Delivery, target: Target, *, signed: bool) -> list[Found]:
    return [_found(customer, target) for customer in _customers(request.body)]


def _customers(body: bytes) -> Iterator[Mapping[str, Any]]:
    text = body.decode("utf-8", "replace")
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = dict(parse_qsl(text, keep_blank_values=True))
    for one in parsed if isinstance(parsed, list) else [parsed]:
        yield one if isinstance(one, Mapping) else {}


def _found(customer: Mapping[str, Any], target: Target) -> Found:
    """Told is how a customer stands, not what happened: the same words may come again after the
    customer came back, so that no delivery passes for the repeat of an earlier one."""
    columns = target.table("columns")
    cells = {str(name).strip().lower(): str(value).strip() for name, value in customer.items()}

    def cell(ours: str) -> str:
        return cells.get(str(columns.get(ours, ours)).strip().lower(), "")

    who = tuple(_identifiers(cell("email"), cell("mobile"), target.region))
    outs = [channel for flag, channel in FLAGS.items() if cell(flag).lower() in OFF]
    if not who or not outs:
        return Unknown("a customer without an opt-out or without an address")
    return Signal(
        brand=target.brand,
        source=Source.VENDOR_ADMIN,
        statements=tuple(
            Statement(Scope(channel, Purpose.MARKETING), Choice.OUT) for channel in outs
        ),
        identifiers=who,
        origin=target.label,
    )


def _identifiers(email: str, mobile: str, region: str) -> Iterator[Identifier]:
    try:
        if email:
            yield identity.email(email)
    except BadIdentifier:
        pass
    for text in (mobile, f"0{mobile}"):  # Timely shows mobiles without the leading 0
        try:
            if mobile:
                yield identity.phone(text, region)
                return
        except BadIdentifier:
            continue
