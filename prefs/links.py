"""Signed links: what they say, where they lead, and the headers that a mail carries.

No address stands in a link. The identifier's row is kept with its spelling, so that a click finds
the person's entries at every target; no subject is created by making a link.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from sqlalchemy import Connection

from prefs.core.keys import Keyring
from prefs.core.signals import Identifier
from prefs.core.tokens import EVERY_TOPIC, Token, TokenKind, mint
from prefs.core.words import CHANNEL_OF_LINK, Channel, Kind, Purpose, Scope
from prefs.settings import Settings
from prefs.store import catalogue, subjects

PATHS = {
    TokenKind.FOOTER_UNSUBSCRIBE: "u",
    TokenKind.CENTRE_FOOTER: "p",
    TokenKind.CENTRE_FRESH: "p",
    TokenKind.CONFIRM: "c",
    TokenKind.COMPLAIN: "complain",
}


class Parts(Protocol):
    """What is needed of the service to make a link."""

    @property
    def settings(self) -> Settings: ...

    @property
    def keys(self) -> Keyring: ...

    @property
    def clock(self) -> Callable[[], datetime]: ...


class Holder(NamedTuple):
    """For whom a link is: one identifier at one brand, and the subject where it is certain."""

    brand: str
    kind: Kind
    hash: bytes
    subject_id: int | None = None


@dataclass(frozen=True, slots=True)
class Links:
    unsubscribe: str
    preferences: str
    headers: Mapping[str, str]


def make_links(
    conn: Connection,
    parts: Parts,
    brand: str,
    identifier: Identifier,
    subject_id: int | None,
    purpose: Purpose,
    topic: str | None,
) -> Links:
    """The links and headers of one message to one person, about a purpose or a topic."""
    hash_ = keep_identifier(conn, parts, brand, identifier)
    holder = Holder(brand, identifier.kind, hash_, subject_id)
    return links_for(conn, parts, holder, purpose, topic)


def links_for(
    conn: Connection, parts: Parts, holder: Holder, purpose: Purpose, topic: str | None
) -> Links:
    """The same for an identifier that is kept already."""
    number = catalogue.topic_number(conn, holder.brand, topic) if topic else EVERY_TOPIC
    token = seal(parts, TokenKind.FOOTER_UNSUBSCRIBE, holder, purpose=purpose, topic=number)
    unsubscribe = f"{parts.settings.public_url}/u/{token}"
    return Links(
        unsubscribe=unsubscribe,
        preferences=parts.settings.public_url + path(parts, TokenKind.CENTRE_FOOTER, holder),
        headers=_headers(parts.settings, holder.brand, unsubscribe, token),
    )


def _headers(settings: Settings, brand: str, unsubscribe: str, token: str) -> dict[str, str]:
    """RFC 2369 section 3.2 and RFC 8058 section 3.1: the first way in the list is preferred."""
    ways = [f"<{unsubscribe}>"]
    inbox = settings.brands[brand].mail
    if inbox:
        local, _, domain = inbox.address.rpartition("@")
        ways.append(f"<mailto:{local}+{token}@{domain}>")
    return {
        "List-Unsubscribe": ", ".join(ways),
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    }


def keep_identifier(conn: Connection, parts: Parts, brand: str, identifier: Identifier) -> bytes:
    """Keep the identifier's row with its spelling; returns the hash it is kept under."""
    controller = parts.settings.brands[brand].controller
    hashes = parts.keys.hashes(identifier)
    rows = subjects.find_hashes(conn, controller, hashes)
    for _, _, hash_, spelled in rows:
        if not spelled and not _erased(conn, controller, hash_):
            subjects.spell(conn, controller, hash_, identifier, parts.keys)
        return hash_
    new = [(identifier.kind, hashes[0], identifier)]
    subjects.add_identifiers(conn, controller, new, parts.keys, parts.clock().timestamp())
    return hashes[0]


def _erased(conn: Connection, controller: str, hash_: bytes) -> bool:
    """An erased person's address is not stored again."""
    owners = subjects.by_ids(conn, subjects.owners(conn, controller, [hash_]))
    return any(one.state.erased for one in owners)


def fresh_link(parts: Parts, holder: Holder) -> str:
    """A link to the preference centre that may switch on: for the stored spelling only."""
    return parts.settings.public_url + path(parts, TokenKind.CENTRE_FRESH, holder)


def confirm_link(conn: Connection, parts: Parts, holder: Holder, scope: Scope) -> str:
    """A double opt-in link for a sign-up of this scope."""
    number = catalogue.topic_number(conn, holder.brand, scope.topic) if scope.topic else EVERY_TOPIC
    token = seal(
        parts,
        TokenKind.CONFIRM,
        holder,
        purpose=scope.purpose,
        topic=number,
        channel=scope.channel,
    )
    return f"{parts.settings.public_url}/c/{token}"


def path(parts: Parts, kind: TokenKind, holder: Holder) -> str:
    """The link's path on this service."""
    return f"/{PATHS[kind]}/{seal(parts, kind, holder)}"


def seal(
    parts: Parts,
    kind: TokenKind,
    holder: Holder,
    *,
    purpose: Purpose = Purpose.MARKETING,
    topic: int = EVERY_TOPIC,
    channel: Channel | None = None,
) -> str:
    token = Token(
        kind=kind,
        brand=holder.brand,
        identifier_kind=holder.kind,
        hash=holder.hash,
        channel=channel or CHANNEL_OF_LINK[holder.kind],
        purpose=purpose,
        issued_at=parts.clock(),
        topic=topic,
        subject_id=holder.subject_id,
    )
    return mint(parts.keys, token)


def holder_of(token: Token) -> Holder:
    return Holder(token.brand, token.identifier_kind, token.hash, token.subject_id)


def scope_of(conn: Connection, token: Token) -> Scope:
    """What the token is about. A topic that nobody knows any more counts as the whole channel: an
    opt-out rather covers too much than nothing."""
    topic = catalogue.topic_of(conn, token.brand, token.topic) if token.topic else None
    return Scope(token.channel, token.purpose, topic)
