"""The mailbox that mails to unsubscribe arrive in, read by IMAP (RFC 9051, RFC 3501).

A message is marked as read only when what it says is on disk. Where we are stands in the vault by
UIDVALIDITY and UID, not by the flag: people open mailboxes too. After a crash between the two a
message is read again and found to be known by its Message-ID.
"""

from __future__ import annotations

import asyncio
import imaplib
import re
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import structlog
from sqlalchemy import Connection

from prefs import inbound
from prefs.core import mail
from prefs.core.errors import PrefsError
from prefs.inbound import Parts
from prefs.settings import Mail
from prefs.store.database import Database
from prefs.store.vault import StoreVault

log = structlog.get_logger()

T = TypeVar("T")

EVERY = 60.0
ANSWERS_WITHIN = 20.0
"""Seconds for each piece that the server sends."""
CALL_WITHIN = 60.0
LONGEST = 1024 * 1024
"""Of a longer message its beginning is read: a wish stands there, and pictures after it."""
PLACE = "mailbox"
"""In the place of a target's label, which has a slash."""


class Away(PrefsError):
    """The mailbox cannot be read now; nothing in it is lost."""


class Served(Parts, Protocol):
    """What the reader works with."""

    @property
    def database(self) -> Database: ...


class Position:
    """How far the folder has been read. UIDs count within one UIDVALIDITY (RFC 9051 section
    2.3.1.1): with another one the folder is a new one."""

    def __init__(self, text: str | None) -> None:
        validity, _, uid = (text or "").partition(" ")
        self.validity, self.uid = validity, int(uid or 0)

    def within(self, validity: str) -> Position:
        return self if self.validity == validity else Position(f"{validity} 0")

    def at(self, uid: int) -> Position:
        return Position(f"{self.validity} {uid}")

    def __str__(self) -> str:
        return f"{self.validity} {self.uid}"


@dataclass
class Mailbox:
    """Reads one folder. Two readers at once do no harm: each mail is taken once."""

    served: Served

    async def run(self) -> None:
        """Take in what came. Raises Away."""
        await self.read()

    async def read(self) -> int:
        """The same; returns how many messages came."""
        settings: Mail | None = self.served.settings.mail
        if settings is None or settings.inbox is None:
            return 0
        folder = Folder(settings)
        try:
            await _called(folder.open)
            return await self._take_all(folder)
        finally:
            with suppress(Away):
                await _called(folder.close)

    async def _take_all(self, folder: Folder) -> int:
        vault = StoreVault(self.served.database, self.served.keys, PLACE, self.served.clock)
        place = Position(await vault.get("position")).within(folder.validity)
        read = 0
        for uid in await _called(partial(folder.after, place.uid)):
            raw = await _called(partial(folder.fetch, uid))
            if raw:
                await self._take(raw)
                read += 1
            await vault.put("position", str(place.at(uid)))
            with suppress(Away):  # the mark is for people; a server that refuses it stops nothing
                await _called(partial(folder.mark, uid))
        return read

    async def _take(self, raw: bytes) -> None:
        served = self.served
        found = await asyncio.to_thread(mail.read, raw)

        def job(conn: Connection) -> None:
            for brand in inbound.brands_of(conn, served, found):
                inbound.take(conn, served, brand, raw, found)

        await served.database.write(job)


async def _called(call: Callable[[], T]) -> T:
    """In a thread, within the time of a call. The fault is told without what the server said: it
    may repeat an address."""
    try:
        async with asyncio.timeout(CALL_WITHIN):
            return await asyncio.to_thread(call)
    except (imaplib.IMAP4.error, OSError, TimeoutError) as fault:
        raise Away(f"the mailbox cannot be read: {type(fault).__name__}") from None


class Folder:
    """One folder on its server; every method waits, and belongs into a thread."""

    def __init__(self, settings: Mail) -> None:
        where = urlsplit(settings.inbox or "")
        self.secure = where.scheme == "imaps"
        self.host = where.hostname or ""
        self.port = where.port or (993 if self.secure else 143)
        self.user = unquote(where.username or "")
        self.password = settings.inbox_password or unquote(where.password or "")
        self.name = unquote(where.path.strip("/")) or "INBOX"
        self.validity = ""
        self._imap: imaplib.IMAP4 | None = None

    @property
    def imap(self) -> imaplib.IMAP4:
        if self._imap is None:
            raise ConnectionError("not open")
        return self._imap

    def open(self) -> None:
        if self.secure:
            trust = ssl.create_default_context()
            self._imap = imaplib.IMAP4_SSL(
                self.host, self.port, ssl_context=trust, timeout=ANSWERS_WITHIN
            )
        else:
            self._imap = imaplib.IMAP4(self.host, self.port, timeout=ANSWERS_WITHIN)
        self.imap.login(self.user, self.password)
        quoted = self.name.replace("\\", "\\\\").replace('"', '\\"')
        _ok(self.imap.select(f'"{quoted}"'))
        validity = self.imap.response("UIDVALIDITY")[1][0]
        if not isinstance(validity, bytes) or not validity.isdigit():
            raise ConnectionError("no UIDVALIDITY")
        self.validity = validity.decode()

    def after(self, uid: int) -> list[int]:
        """The UIDs above this one. `*` is the last message even when it is below (RFC 9051 section
        6.4.4)."""
        found = _ok(self.imap.uid("SEARCH", "UID", f"{uid + 1}:*"))
        numbers = b" ".join(one for one in found if isinstance(one, bytes)).split()
        return sorted(int(one) for one in numbers if int(one) > uid)

    def fetch(self, uid: int) -> bytes:
        """The beginning of a message, unmarked; empty where it is gone."""
        found = _ok(self.imap.uid("FETCH", str(uid), f"(UID BODY.PEEK[]<0.{LONGEST}>)"))
        wanted = re.compile(rb"\bUID %d\b" % uid)
        pieces = [one for one in found if isinstance(one, tuple)]
        mine = [one[1] for one in pieces if wanted.search(one[0]) or len(pieces) == 1]
        return mine[0] if mine else b""

    def mark(self, uid: int) -> None:
        _ok(self.imap.uid("STORE", str(uid), "+FLAGS.SILENT", r"(\Seen)"))

    def close(self) -> None:
        if self._imap is not None:
            self._imap.logout()
            self._imap = None


def _ok(answer: tuple[str, list[Any]]) -> list[Any]:
    kind, found = answer
    if kind != "OK":
        raise imaplib.IMAP4.error("refused")
    return found
