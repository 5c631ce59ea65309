"""One adapter a system; the vendor's own module is imported only when a target is built."""

from __future__ import annotations

from importlib import import_module
from typing import Any

SYSTEMS = {
    "mailchimp": "connectors.mailchimp:Mailchimp",
    "hubspot": "connectors.hubspot:HubSpot",
    "twilio": "connectors.twilio:Twilio",
    "pabau": "connectors.pabau:Pabau",
}


def load(system: str) -> type[Any]:
    """The adapter's class. Raises KeyError for a system there is no adapter for."""
    module, _, name = SYSTEMS[system].partition(":")
    found: type[Any] = getattr(import_module(module), name)
    return found
