"""Mail that the outbox holds: rendered, limited, sent; retried while the mail server is away.

Whether a request for a link leads to a mail is decided here, long after the page answered, so that
nobody can learn from the page who is known. Links we mail carry no offer.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import aiosmtplib
import structlog
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy import Connection

from prefs import links
from prefs.core import identity
from prefs.core.decision import NOBODY
from prefs.core.errors import BadIdentifier, PrefsError, Unavailable
from prefs.core.words import Channel, Kind, Purpose, Scope
from prefs.settings import Mail
from prefs.store import outbox, permissions, subjects, tasks
from prefs.texts import next_working_day
from prefs.web import complain, signup
from prefs.web.context import Service
from prefs.web.texts import Texts, texts_of

log = structlog.get_logger()

DAY = 86400.0
MOST_A_DAY = 3
MOST_A_DAY_WHERE_OUT = 1
SEND_WITHIN = 20.0
FIRST_RETRY, LONGEST_RETRY, ATTEMPTS = 5.0, 3600.0, 40
"""For more than a day."""
CLAIMED_FOR = 300.0
"""Seconds that one worker has for one mail."""
PERMANENT = 500
"""Replies from here on are final (RFC 5321 section 4.2.1)."""
FAILED = "mail_failed"
"""Kind of a task."""
Made = tuple[str, dict[str, Any]]
"""The template of a mail and its values."""
WIRE = policy.SMTP.clone(max_line_length=998, cte_type="7bit")
"""The longest line of RFC 5322 section 2.1.1. With the usual 78 the standard library writes a link
that is longer as encoded words, in which no mail program finds it (RFC 2047 section 5)."""

_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "web" / "templates" / "mail"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class Letter(NamedTuple):
    """One mail ready to go."""

    to: str
    message: EmailMessage


class NotSent(PrefsError):
    """The mail server did not take it; a later try may go through, unless it is `final`: the
    server refuses this address."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


@dataclass
class Mailer:
    """Works through the outbox. A mail is sent at least once: where we stop between sending and
    noting it, it is sent again."""

    served: Service

    async def run(self) -> None:
        """Do what is due. Without a way to send, sign-ups are taken all the same. None waits for
        one that brings up a fault of ours (its brand is configured no more): that is tried again.
        """
        now = self.served.clock().timestamp()
        kinds = None if self.served.settings.mail else (signup.KIND,)
        rows = await self.served.database.read(lambda conn: outbox.due(conn, now, kinds=kinds))
        for row in rows:
            try:
                await self._handle(row)
            except Unavailable:
                raise
            except Exception as fault:
                log.exception("mail_failed", kind=row.kind, fault=type(fault).__name__)
                await self._put_off(row, f"a fault of ours ({type(fault).__name__})")

    async def _handle(self, row: Any) -> None:
        content = outbox.content(self.served.keys, row)
        letters = await self.served.database.write(partial(self._take, row=row, content=content))
        mail = self.served.settings.mail
        if not letters or mail is None:
            return
        try:
            for letter in letters:
                await send(mail, letter)
        except NotSent as fault:
            await self._later(row, content, fault)
        else:
            await self.served.database.write(partial(self._sent, row=row, content=content))

    def _take(self, conn: Connection, row: Any, content: Mapping[str, Any]) -> list[Letter]:
        """Claim a row and make its letters; one that makes none is done with."""
        now = self.served.clock().timestamp()
        if not outbox.claim(conn, row, now + CLAIMED_FOR):
            return []
        letters = self._letters(conn, row, content)
        if not letters:
            outbox.settle(conn, row.id, "dropped")
        return letters

    def _sent(self, conn: Connection, row: Any, content: Mapping[str, Any]) -> None:
        outbox.settle(conn, row.id, "sent")
        if row.kind == complain.KIND:
            complain.acknowledged(conn, self.served, row.brand, content["task"])

    async def _later(self, row: Any, content: Mapping[str, Any], fault: NotSent) -> None:
        log.warning("mail_not_sent", kind=row.kind, reason=str(fault))
        if fault.final or row.attempts + 1 >= ATTEMPTS:
            log.error("mail_given_up", kind=row.kind)
            await self.served.database.write(
                partial(self._give_up, row=row, content=content, reason=str(fault))
            )
            return
        await self._put_off(row, str(fault))

    async def _put_off(self, row: Any, reason: str) -> None:
        wait = min(LONGEST_RETRY, FIRST_RETRY * 2.0 ** min(row.attempts, ATTEMPTS))
        due = self.served.clock().timestamp() + wait
        await self.served.database.write(
            partial(outbox.retry, id_=row.id, due_at=due, reason=reason)
        )

    def _give_up(self, conn: Connection, row: Any, content: Mapping[str, Any], reason: str) -> None:
        """Staff are told, since nobody else will."""
        outbox.settle(conn, row.id, "failed", reason)
        body = {"mail": row.kind, "to": self._to(conn, row, content), "reason": reason}
        for brand in [row.brand] if row.brand else self.served.settings.brands:
            self._tell_staff(conn, brand, row, body)

    def _to(self, conn: Connection, row: Any, content: Mapping[str, Any]) -> str | None:
        if row.kind == "alert":
            return str(content["to"])
        return self._spelling(conn, row.brand, row.hash)

    def _tell_staff(self, conn: Connection, brand: str, row: Any, body: Mapping[str, Any]) -> None:
        """One open task for each address and kind."""
        keys, now = self.served.keys, self.served.clock()
        if tasks.open_about(conn, keys, brand, FAILED, mail=body["mail"], to=body["to"]):
            return
        controller = self.served.settings.brands[brand].controller
        owners = subjects.owners(conn, controller, [row.hash]) if row.hash else []
        only = owners[0] if len(owners) == 1 else None
        due = next_working_day(now).timestamp()
        tasks.add(conn, keys, brand, FAILED, only, body, now.timestamp(), due)

    # --- what a row becomes --------------------------------------------------------------------

    def _letters(self, conn: Connection, row: Any, content: Mapping[str, Any]) -> list[Letter]:
        if row.kind == "alert":
            return [self._alert(content)]
        if row.kind == signup.KIND:
            signup.take(conn, self.served, row.brand, content)
            return []
        if row.hash is None:
            self._take_request(conn, row.brand, content)
            return []
        return self._to_person(conn, row, content)

    def _to_person(self, conn: Connection, row: Any, content: Mapping[str, Any]) -> list[Letter]:
        """To the stored spelling alone, within the limits of a day."""
        to = self._spelling(conn, row.brand, row.hash)
        if to is None or not self._within_limits(conn, row):
            return []
        kinds = {"confirm": self._confirm, complain.KIND: self._complaint}
        name, context = kinds.get(row.kind, self._centre)(conn, row, content)
        at = on_the_wire(to)
        return [Letter(at, self._to_client(conn, name, row.brand, row.hash, at, **context))]

    def _alert(self, content: Mapping[str, Any]) -> Letter:
        texts = texts_of(None)
        message = self._message("alert", texts, str(content["to"]), None, text=content["text"])
        return Letter(str(content["to"]), message)

    def _take_request(
        self, conn: Connection, brand: str | None, content: Mapping[str, Any]
    ) -> None:
        """A mail for each brand that holds the address; none for an address nobody knows."""
        try:
            wanted = identity.email(str(content.get("email", "")))
        except BadIdentifier:
            return
        now = self.served.clock().timestamp()
        hashes = self.served.keys.hashes(wanted)
        brands = [brand] if brand else list(self.served.settings.brands)
        for name in brands:
            controller = self.served.intake.brands[name]
            for _, kind, hash_, spelled in subjects.find_hashes(conn, controller, hashes):
                if kind is Kind.EMAIL and spelled:
                    outbox.add(conn, self.served.keys, "centre_link", name, hash_, {}, now)

    def _centre(self, conn: Connection, row: Any, content: Mapping[str, Any]) -> Made:
        shown = self.served.settings.brands[row.brand]
        owners = subjects.owners(conn, shown.controller, [row.hash])
        only = owners[0] if len(owners) == 1 else None
        holder = links.Holder(row.brand, Kind.EMAIL, row.hash, only)
        return "centre", {"link": links.fresh_link(self.served, holder)}

    def _confirm(self, conn: Connection, row: Any, content: Mapping[str, Any]) -> Made:
        """One link confirms all that was asked for together."""
        brand = self.served.settings.brands[row.brand]
        holder = links.Holder(row.brand, Kind.EMAIL, row.hash, content["subject_id"])
        scopes = [Scope(Channel(c), Purpose(p), t) for c, p, t in content["scopes"]]
        texts = texts_of(brand)
        link = links.confirm_link(conn, self.served, holder, scopes[0])
        return "confirm", {"asked": [texts.what(brand, scope) for scope in scopes], "link": link}

    def _complaint(self, conn: Connection, row: Any, content: Mapping[str, Any]) -> Made:
        return "complaint", {"received": content["received"]}

    def _spelling(self, conn: Connection, brand: str, hash_: bytes) -> str | None:
        controller = self.served.settings.brands[brand].controller
        known = subjects.known(conn, controller, hash_, self.served.keys)
        return known.spelling if known and known.kind is Kind.EMAIL else None

    def _within_limits(self, conn: Connection, row: Any) -> bool:
        """Three a day to one address, one where it is out; the two kinds are counted apart."""
        now = self.served.clock().timestamp()
        others = outbox.others_since(conn, row, now - DAY, now)
        held = permissions.read(conn, row.brand, [row.hash]).get(row.hash, NOBODY)
        view = held.views.get(Scope(Channel.EMAIL, Purpose.MARKETING))
        out = view is not None and view.word not in ("in", "unconfirmed")
        return others < (MOST_A_DAY_WHERE_OUT if out else MOST_A_DAY)

    # --- rendering -----------------------------------------------------------------------------

    def _to_client(
        self, conn: Connection, name: str, brand: str, hash_: bytes, to: str, **context: Any
    ) -> EmailMessage:
        shown = self.served.settings.brands[brand]
        holder = links.Holder(brand, Kind.EMAIL, hash_)
        made = links.links_for(conn, self.served, holder, Purpose.MARKETING, None)
        message = self._message(
            name,
            texts_of(shown),
            to,
            brand,
            unsubscribe=made.unsubscribe,
            **context,
        )
        for header, value in made.headers.items():
            message[header] = value
        return message

    def _message(
        self, name: str, texts: Texts, to: str, brand: str | None, **context: Any
    ) -> EmailMessage:
        mail = self.served.settings.mail
        shown = self.served.settings.brands[brand] if brand else None
        controller = self.served.settings.controllers[shown.controller] if shown else None
        values = {"t": texts, "brand": shown, "controller": controller, **context}
        message = EmailMessage()
        called = {"brand": shown.name} if shown else {}
        message["Subject"] = texts(f"mail.{name}.subject", **called)
        message["From"] = mail.sender if mail else ""
        message["To"] = to
        message["Date"] = format_datetime(self.served.clock())
        message["Message-ID"] = make_msgid(domain=message["From"].addresses[0].domain)
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(_environment.get_template(f"{name}.txt").render(values))
        html = _environment.get_template(f"{name}.html").render(values)
        message.add_alternative(html, subtype="html")
        return message


# --- senders -------------------------------------------------------------------------------------


def on_the_wire(spelling: str) -> str:
    """The address with its domain as A-labels (RFC 5890), the part before the @ untouched."""
    domain = identity.email(spelling).key.rpartition("@")[2]
    return f"{spelling.rpartition('@')[0]}@{domain}"


async def send(mail: Mail, letter: Letter) -> None:
    """Raises NotSent. Letters beyond ASCII before the @ would take SMTPUTF8 (RFC 6531) of every
    server on the way."""
    if not letter.to.isascii():
        raise NotSent("mail servers do not take the letters of this address", final=True)
    where = urlsplit(mail.send)
    if where.scheme == "file":
        await asyncio.to_thread(_to_folder, Path(unquote(where.netloc + where.path)), letter)
        return
    try:
        await aiosmtplib.send(
            letter.message.as_bytes(policy=WIRE),
            sender=mail.sender,
            hostname=where.hostname,
            port=where.port,
            username=unquote(where.username) if where.username and where.password else None,
            password=unquote(where.password) if where.password else None,
            use_tls=where.scheme == "smtps",
            timeout=SEND_WITHIN,
            recipients=[letter.to],
        )
    except aiosmtplib.SMTPRecipientsRefused as fault:
        final = all(one.code >= PERMANENT for one in fault.recipients)
        raise NotSent("the mail server refuses this address", final=final) from fault
    except (aiosmtplib.SMTPException, OSError) as fault:
        raise NotSent(f"the mail server answered {type(fault).__name__}") from fault


def _to_folder(folder: Path, letter: Letter) -> None:
    """One .eml a message, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    name = secrets.token_hex(12)
    part = folder / f".{name}.part"
    part.write_bytes(letter.message.as_bytes(policy=WIRE))
    part.replace(folder / f"{name}.eml")
