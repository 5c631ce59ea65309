"""prefs doctor: what stands in the way, and which webhook each vendor must be given."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Column, Table
from rich.text import Text
from sqlalchemy import Connection

from prefs import checkpoints
from prefs.checkpoints import Checkpoints, Lack
from prefs.containers import configured
from prefs.core.errors import PrefsError, Unavailable
from prefs.core.keys import Keyring
from prefs.core.propagation import Target
from prefs.settings import Brand, Settings
from prefs.store import containers, journals, migrate
from prefs.store.away import explained
from prefs.store.database import Database
from prefs.store.keys import check_keys

EVENTS = {
    "mailchimp": "subscribe, unsubscribe, profile, cleaned, upemail (sources: user, admin)",
    "hubspot": "contact.propertyChange on hs_email_optout and email, privacyDeletion, deletion, "
    "restore, merge",
    "twilio": "incoming message, as HTTP POST, on each messaging service or number",
    "keap": "contact.add, contact.edit, contact.delete, contact.redact, contactGroup.applied, "
    "contactGroup.removed",
    "activecampaign": "subscribe, unsubscribe, sms_unsub, sms_reply, bounce, update (sources: "
    "public, admin, system)",
    "messenger": "messages, messaging_postbacks, messaging_optins, messaging_policy_enforcement, "
    "inbox_labels, and messaging_optouts if you like (callback of the app, then the Page's "
    "subscription)",
    "pabau": "client create, client change (webhooks dashboard)",
    "pipedrive": "* on person, version 2.0, as an admin's user, with the HTTP credentials",
    "timely": "new or updated customer, from an automation tool",
    "xero": "contacts (developer portal, webhooks of the app)",
}
POLLED = frozenset({"google"})
"""Systems whose vendor sends no webhooks: only the poll finds what changed there."""


def utc_now() -> datetime:
    return datetime.now(UTC)


def examine(settings: Settings) -> dict[str, Any]:
    """Findings, the database's version, and URL and events for each target."""
    database, findings = _database(settings)
    findings += settings.warnings
    return {
        "database": database,
        "database_version": migrate.head(),
        "findings": findings,
        "webhooks": [
            _webhook(target)
            for brand in settings.brands.values()
            for target in brand.targets.values()
        ]
        + [_mail_hook(settings, brand) for brand in settings.brands.values() if brand.mail],
    }


def _database(settings: Settings) -> tuple[str, list[str]]:
    """The engine with its version, and what is found in it."""
    try:
        migrate.ensure(settings.database)
        with Database(settings.database) as database:
            keys = Keyring(settings.secret_keys)
            database.write_now(lambda conn: check_keys(conn, keys, 0.0))
            kept = checkpoints.of(settings.checkpoint, database, keys, utc_now, ())
            lacks = kept.lacks() if kept else []
            return database.read_now(
                lambda conn: (
                    _engine(conn),
                    _unclassified(conn, settings) + _paused(conn, lacks) + _wrong(conn, kept),
                )
            )
    except Unavailable as fault:
        return "not opened", str(explained(fault)).splitlines()
    except PrefsError as fault:
        return "not opened", str(fault).splitlines()


def _engine(conn: Connection) -> str:
    dialect = conn.dialect
    return f"{dialect.name} {'.'.join(map(str, dialect.server_version_info or ()))}"


def _paused(conn: Connection, lacks: Sequence[Lack]) -> list[str]:
    """What marketing waits for, or will when the service is started."""
    waits = {(one.name, one.reason) for one in journals.waiting(conn)}
    waits |= {(one.name, one.reason) for one in lacks}
    return [
        f"marketing is paused for {name}: {reason}; {checkpoints.REMEDY}"
        for name, reason in sorted(waits)
    ]


def _wrong(conn: Connection, kept: Checkpoints | None) -> list[str]:
    found = kept.verify(conn) if kept else ()
    return [f"checkpoints: {one.what}" for one in found if not one.harmless]


def _unclassified(conn: Connection, settings: Settings) -> list[str]:
    """As the worker's last reading of each target found them."""
    return [
        f"{label}: {name} ({id_}) can send and is not classified; name it in the target's "
        "configuration as marketing, or under service_containers or ignored_containers"
        for label, target in settings.targets.items()
        for id_, name in containers.unclassified(conn, label).items()
        if id_ not in configured(target)
    ]


def _webhook(target: Target) -> dict[str, str]:
    mode = "live" if target.live else "observe"
    polled = target.system in POLLED
    return {
        "target": target.label,
        "mode": mode,
        "url": "" if polled else target.webhook_url_shown,
        "events": "none: only polled" if polled else EVENTS.get(target.system, ""),
    }


def _mail_hook(settings: Settings, brand: Brand) -> dict[str, str]:
    return {
        "target": f"{brand.id} mail",
        "mode": "live",
        "url": f"{settings.public_url}/webhooks/mail/{brand.id}/inbox?key=<mail.key>",
        "events": "each mail to the address and its plus addresses, as raw MIME",
    }


def shown(report: dict[str, Any]) -> Table:
    whole = Column("webhook", overflow="fold")  # an address that is cut is of no use
    table = Table("target", "mode", whole, "events", title=report["database"])
    for row in report["webhooks"]:
        table.add_row(row["target"], row["mode"], row["url"], row["events"])
    for finding in report["findings"]:
        table.add_row(Text("finding", "red"), "", finding, "")
    return table
