"""One adapter a system; the vendor's own module is imported only when a target is built."""

from __future__ import annotations

from importlib import import_module
from typing import Any

SYSTEMS = {
    "activecampaign": "connectors.activecampaign:ActiveCampaign",
    "google": "connectors.google:Google",
    "hubspot": "connectors.hubspot:HubSpot",
    "keap": "connectors.keap:Keap",
    "mailchimp": "connectors.mailchimp:Mailchimp",
    "messenger": "connectors.messenger:Messenger",
    "pabau": "connectors.pabau:Pabau",
    "pipedrive": "connectors.pipedrive:Pipedrive",
    "timely": "connectors.timely:Timely",
    "twilio": "connectors.twilio:Twilio",
    "xero": "connectors.xero:Xero",
}


def load(system: str) -> type[Any]:
    """The adapter's class. Raises KeyError for a system there is no adapter for."""
    module, _, name = SYSTEMS[system].partition(":")
    found: type[Any] = getattr(import_module(module), name)
    return found
