"""Inbound mail, whoever brought it: an out at most, else work for staff; never an `in`, never an
answer to the sender.

A token in the address proves itself. Without one a mail counts only when our own receiving server
vouches for the sender's domain. Requests about data or reminders are for staff: nothing is told
and nothing changed by a mail.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

import structlog
from sqlalchemy import Connection

from prefs import links
from prefs.core import tokens
from prefs.core.mail import Mail, Nature, Request, Wish
from prefs.core.signals import DeliveryFact, Evidence, Identifier, Signal, Statement
from prefs.core.tokens import Forged, Token, TokenKind
from prefs.core.words import Channel, Choice, Kind, Purpose, Scope, Source
from prefs.intake import Intake
from prefs.metrics import MAILS
from prefs.settings import Brand, Inbox
from prefs.store import events, subjects, tasks
from prefs.texts import next_working_day

log = structlog.get_logger()

ONLY = (TokenKind.FOOTER_UNSUBSCRIBE,)
MARKETING = Scope(Channel.EMAIL, Purpose.MARKETING)
UNREACHED = (Purpose.MARKETING, Purpose.REMINDERS)


class Became(StrEnum):
    """What a mail led to."""

    OUT = "out"
    HELD = "held"
    TASK = "task"
    FACT = "fact"
    IGNORED = "ignored"
    REPEATED = "repeated"


class Parts(links.Parts, Protocol):
    @property
    def intake(self) -> Intake: ...


def take(conn: Connection, parts: Parts, brand: str, raw: bytes, mail: Mail) -> Became:
    """Keep a mail to this brand and take in what it says, in one transaction; once for each
    Message-ID and tokens."""
    held = _tokens(parts, _plus_parts(parts, mail))
    now = parts.clock().timestamp()
    key = " ".join(["mail", mail.key, *sorted(one.fingerprint.hex() for one in held)])
    became = Became.REPEATED
    if events.first_time(conn, _label(brand), key, now):
        events.keep_raw(conn, parts.keys, _label(brand), raw, now)
        became = _Taking(conn, parts, held[0].brand if held else brand, mail).run(held)
    MAILS.labels(became.value).inc()
    return became


def brands_of(conn: Connection, parts: Parts, mail: Mail) -> list[str]:
    """Whose mail this is where one mailbox serves several brands: the token's, else the one it was
    addressed to, else each brand that knows the sender (the others must not learn of it)."""
    inboxes = _inboxes(parts)
    held = _tokens(parts, (*_plus_parts(parts, mail), *mail.quoted_tokens))
    found = [one.brand for one in held if one.brand in inboxes]
    found = found or [id_ for id_, one in inboxes.items() if mail.went_to(one.address)]
    if not found and len(inboxes) > 1:
        found = [id_ for id_ in inboxes if _known(conn, parts, id_, mail.sender)]
    return list(dict.fromkeys(found)) or list(inboxes)[:1]


def _label(brand: str) -> str:
    """In the place of a target's label, which has a slash and no blank."""
    return f"{brand} mail"


def _inboxes(parts: Parts) -> dict[str, Inbox]:
    return {id_: one.mail for id_, one in parts.settings.brands.items() if one.mail}


def _plus_parts(parts: Parts, mail: Mail) -> list[str]:
    return [tag for one in _inboxes(parts).values() for tag in mail.plus_parts(one.address)]


def _tokens(parts: Parts, texts: Iterable[str]) -> list[Token]:
    """Those that are ours and unchanged. A token is base64url: a server that lower-cased the
    address has spoiled it, and nothing can bring it back."""
    found = []
    for text in dict.fromkeys(texts):
        try:
            token = tokens.read(parts.keys, text, ONLY)
        except Forged:
            continue
        if token.brand in parts.settings.brands:
            found.append(token)
    return found


def _known(conn: Connection, parts: Parts, brand: str, one: Identifier | None) -> bool:
    controller = parts.settings.brands[brand].controller
    return bool(one and subjects.find_hashes(conn, controller, parts.keys.hashes(one)))


class _Taking:
    """One mail on its way in."""

    def __init__(self, conn: Connection, parts: Parts, brand: str, mail: Mail) -> None:
        self.conn = conn
        self.parts = parts
        self.brand: Brand = parts.settings.brands[brand]
        self.mail = mail
        server = self.brand.mail.authserv_id if self.brand.mail else None
        self.proved = mail.proved(server)

    def run(self, held: list[Token]) -> Became:
        match self.mail.nature:
            case Nature.COMPLAINT:
                return self._complaint()
            case Nature.BOUNCE:
                return self._bounce()
            case Nature.NOTICE:
                return Became.IGNORED
            case Nature.AUTOMATIC if not held:
                return Became.IGNORED
        if self._ours():
            return Became.IGNORED
        return self._held_token(held) if held else self._letter()

    def _ours(self) -> bool:
        """Our own mail came back: our address in From, or a Message-ID as the mailer makes them."""
        outgoing = self.parts.settings.mail
        ours = {one.address.lower() for one in _inboxes(self.parts).values()}
        if outgoing:
            ours.add(outgoing.sender.lower())
            domain = re.escape(outgoing.sender.rpartition("@")[2])
            if re.fullmatch(rf"<\d{{15,}}\.\d+\.\d+@{domain}>", self.mail.message_id):
                return True
        return self.mail.sender is not None and self.mail.sender.key in ours

    # --- people --------------------------------------------------------------------------------

    def _held_token(self, held: list[Token]) -> Became:
        """Whoever holds the token may go down with it, from any address, with any words; mail
        programs send these by themselves."""
        for token in held:
            scope = links.scope_of(self.conn, token)
            self._record(
                token.brand,
                Source.MAIL,
                scope,
                hashes=((token.identifier_kind, token.hash),),
                token=token.use,
            )
        if self.mail.nature is Nature.LETTER:
            self._requests(self._owner_of(held[0]))
        return Became.OUT

    def _letter(self) -> Became:
        sender = self.mail.sender
        owner = self._owner(sender)
        asked = self._requests(owner)
        if sender and self.proved:
            return self._proved_letter(sender, asked=asked)
        clear = self.mail.wish is Wish.OUT
        if clear or (not asked and self._unclear() and self._is_known(sender)):
            self._task("unproved_mail", owner)
            return Became.TASK
        return Became.TASK if asked else Became.IGNORED

    def _proved_letter(self, sender: Identifier, *, asked: bool) -> Became:
        if self.mail.wish is Wish.OUT:
            self._record(self.brand.id, Source.MAIL, MARKETING, identifiers=(sender,))
            return Became.OUT
        if asked or not self._unclear():
            return Became.TASK if asked else Became.IGNORED
        held = self._record(self.brand.id, Source.MAIL, MARKETING, identifiers=(sender,), hold=True)
        self._task("held_mail", held)
        return Became.HELD

    def _unclear(self) -> bool:
        """Words that may mean us, a spoiled token, or an empty mail to the address that our mails
        name for unsubscribing."""
        empty = not (self.mail.subject or self.mail.text)
        spoiled = bool(_plus_parts(self.parts, self.mail))
        return self.mail.wish is Wish.UNCLEAR or spoiled or empty

    def _requests(self, owner: int | None) -> bool:
        """Tasks for what only staff may answer. True when there was one."""
        now = self.parts.clock()
        due = {Request.RIGHTS: one_month(now), Request.REMINDERS: next_working_day(now)}
        for one in self.mail.requests:
            self._task(one.value, owner, due[one])
        return bool(self.mail.requests)

    # --- machines ------------------------------------------------------------------------------

    def _complaint(self) -> Became:
        """The person pressed "spam" (RFC 5965). Reporters hide the address as they like; the token
        in the mail they quote is ours."""
        quoted = [
            one
            for one in _tokens(self.parts, self.mail.quoted_tokens)
            if one.identifier_kind is Kind.EMAIL
        ]
        for token in quoted:
            hashes = ((token.identifier_kind, token.hash),)
            self._record(token.brand, Source.COMPLAINT, MARKETING, hashes=hashes, token=token.use)
        about = self.mail.complained
        if quoted:
            return Became.OUT
        if about and self.proved:
            self._record(self.brand.id, Source.COMPLAINT, MARKETING, identifiers=(about,))
            return Became.OUT
        if about and self._is_known(about):
            self._task("unproved_complaint", self._owner(about), about=about)
            return Became.TASK
        return Became.IGNORED

    def _bounce(self) -> Became:
        """An address that does not exist (RFC 3463 section 3.2). Anybody can write such a report:
        it counts where it quotes our mail to that very address."""
        found = Became.IGNORED
        for token in _tokens(self.parts, self.mail.quoted_tokens):
            for one in self.mail.unreachable:
                if token.hash in self.parts.keys.hashes(one):
                    self._unreachable(token.brand, one)
                    found = Became.FACT
        return found

    def _unreachable(self, brand: str, one: Identifier) -> None:
        for purpose in UNREACHED:
            fact = DeliveryFact(one, purpose, "hard_bounce")
            self.parts.intake.fact(self.conn, brand, _label(brand), fact)

    # --- writing -------------------------------------------------------------------------------

    def _record(self, brand: str, source: Source, scope: Scope, **more: Any) -> int:
        signal = Signal(
            brand=brand,
            source=source,
            statements=(Statement(scope, Choice.OUT),),
            occurred_at=self.mail.arrived_at,
            evidence=Evidence(wording=self._words()),
            **more,
        )
        return self.parts.intake.record(self.conn, signal).subject_id

    def _words(self) -> str:
        return "\n".join(part for part in (self.mail.subject, self.mail.text) if part)

    def _task(
        self,
        kind: str,
        owner: int | None,
        due: datetime | None = None,
        *,
        about: Identifier | None = None,
    ) -> None:
        now = self.parts.clock()
        who = about or self.mail.sender
        body = {
            "from": who.spelling if who else "",
            "subject": self.mail.subject,
            "text": self.mail.text,
            "proved": self.proved,
        }
        at = (due or next_working_day(now)).timestamp()
        keys = self.parts.keys
        tasks.add(self.conn, keys, self.brand.id, kind, owner, body, now.timestamp(), at)

    def _owner(self, one: Identifier | None) -> int | None:
        return self.parts.intake.owner(self.conn, self.brand.id, one) if one else None

    def _is_known(self, one: Identifier | None) -> bool:
        return _known(self.conn, self.parts, self.brand.id, one)

    def _owner_of(self, token: Token) -> int | None:
        controller = self.parts.settings.brands[token.brand].controller
        found = subjects.owners(self.conn, controller, [token.hash])
        return found[0] if len(found) == 1 else None


def one_month(now: datetime) -> datetime:
    """The corresponding day of the next month, else its last (UK GDPR article 12(3)).
    https://ico.org.uk/for-organisations/uk-gdpr-guidance-and-resources/individual-rights/individual-rights/right-of-access/what-should-we-consider-when-responding-to-a-request/
    """
    year, month = now.year + now.month // 12, now.month % 12 + 1
    last = calendar.monthrange(year, month)[1]
    return now.replace(year=year, month=month, day=min(now.day, last))
