"""The demo's configuration: one clinic, every system that there is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from prefs.demo.systems import SYSTEMS, twilio

BASE = """\
listen = "127.0.0.1:{port}"
public_url = "http://127.0.0.1:{port}"
database = "sqlite:///prefs.db"
secret_keys = ["file:secrets/store"]
[mail]
send = "file://{folder}/mail"
from = "prefs@example.co.uk"
[worker]
first_retry = "500ms"
max_retry = "2s"
poll_every = "5s"
lease = "30s"
[controllers.rt]
name = "RT Aesthetics Ltd"
address = "1 High Street, Leeds LS1 1AA"
complaints_email = "info@example.co.uk"
[brands.rt]
controller = "rt"
name = "RT Aesthetics"
region = "GB"
locale = "en-GB"
privacy_notice = "https://example.co.uk/privacy"
sms = {{ marketing = {marketing}, reminders = {reminders} }}
"""


def configuration(port: int, folder: Path, urls: Mapping[str, str]) -> str:
    """The whole file; `urls` are those of the twins."""
    base = BASE.format(
        port=port,
        folder=folder,
        marketing=json.dumps([twilio.MARKETING, twilio.MARKETING_NUMBER]),
        reminders=json.dumps([twilio.REMINDERS, twilio.REMINDERS_NUMBER]),
    )
    return base + "".join(SYSTEMS[name].configuration(url) for name, url in urls.items())
