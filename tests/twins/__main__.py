"""Run twins as a process: `python -m tests.twins mailchimp=9001 hubspot=0`; port 0 is a free one.

Prints one JSON line of name to URL when all answer, and ends on SIGINT or SIGTERM."""

from __future__ import annotations

import contextlib
import importlib
import json
import signal
import sys
from typing import Any

from tests.twins.kit import Twin, running

TWINS = {
    "activecampaign": "tests.twins.activecampaign:ActiveCampaignTwin",
    "google": "tests.twins.google:GoogleTwin",
    "hubspot": "tests.twins.hubspot:HubspotTwin",
    "keap": "tests.twins.keap:KeapTwin",
    "mailchimp": "tests.twins.mailchimp:MailchimpTwin",
    "messenger": "tests.twins.messenger:MessengerTwin",
    "pabau": "tests.twins.pabau:PabauTwin",
    "pipedrive": "tests.twins.pipedrive:PipedriveTwin",
    "timely": "tests.twins.timely:TimelyTwin",
    "twilio": "tests.twins.twilio:TwilioTwin",
    "xero": "tests.twins.xero:XeroTwin",
}


def load(name: str) -> Twin[Any]:
    module, _, cls = TWINS[name].partition(":")
    made: Twin[Any] = getattr(importlib.import_module(module), cls)()
    return made


def parse(arguments: list[str]) -> dict[str, int]:
    """Ports by name. Raises SystemExit with the usage on anything else."""
    wanted = {}
    for argument in arguments:
        name, _, port = argument.partition("=")
        if name not in TWINS or not port.isdigit():
            raise SystemExit(f"usage: python -m tests.twins NAME=PORT ... ({', '.join(TWINS)})")
        wanted[name] = int(port)
    return wanted


def main(arguments: list[str]) -> None:
    wanted = parse(arguments)
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with contextlib.ExitStack() as stack:
        urls = {name: stack.enter_context(running(load(name), p))[1] for name, p in wanted.items()}
        print(json.dumps(urls), flush=True)
        signal.sigwait(ends)


if __name__ == "__main__":
    main(sys.argv[1:])
