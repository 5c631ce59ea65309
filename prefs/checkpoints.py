"""The ledger's checkpoints: kept outside the database, and held against it at every start.

A database that lacks what its folder was told was restored from an older backup (or its server
failed over to a copy that had not all of it). Opt-outs that people were promised may be missing
there, so that marketing is `paused` until `prefs checkpoint replay --apply` brought them back.
Appointment reminders go on, opt-outs are taken in, and what is off is still carried to the vendors.
"""

from __future__ import annotations

import asyncio
import socket
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog
from sqlalchemy import Connection

from prefs.core import journal as lines
from prefs.core.errors import PrefsError
from prefs.core.journal import Damaged, Seal
from prefs.core.keys import Keyring, UnknownKey
from prefs.journal import Damage, Found, Journal, Tail, Writer, now_text
from prefs.metrics import JOURNALED, PAUSED
from prefs.store import counters, events, journals, ledger, outbox
from prefs.store.database import Database
from prefs.store.journals import Paused
from prefs.store.ledger import GENESIS

log = structlog.get_logger()

WATCH_EVERY = 1.0
"""Seconds between looks at whether marketing is paused."""
NOTE_EVERY = 30.0
"""Seconds after which a folder is noted as living, though nothing came."""
SKIPPED_A_ROW = 64
"""Numbers (of marks, events, payloads) that one row of a lost history may have used up."""
REMEDY = "run prefs checkpoint replay"
MISSING = (
    "the folder of checkpoints is empty, though this database has written some: put it back, or "
    "opt-outs that came after a backup stay lost"
)
OLDER = "this database is older than its newest checkpoint: it was restored from a backup"
FORKED = "the ledger is not the one that its newest checkpoint was made of"
UNSETTLED = "opt-outs of its checkpoints are still to be brought back"

Clock = Callable[[], datetime]


class Lack(NamedTuple):
    """Why marketing has to wait for a folder."""

    place: str
    name: str
    reason: str


@dataclass
class Watch:
    """Whether marketing is paused, as far as this process knows: read once and then every second,
    so that a check need not ask."""

    paused: Paused | None = None

    def look(self, conn: Connection) -> None:
        self.paused = journals.paused(conn)
        PAUSED.set(int(self.paused is not None))


@dataclass
class Checkpoints:
    """The folder and the database beside each other."""

    journal: Journal
    database: Database
    keys: Keyring
    clock: Clock
    alert_to: Sequence[str] = ()
    _told: tuple[int, int] | None = field(default=None, init=False)
    _noted_at: float = field(default=0.0, init=False)
    _day: str = field(default="", init=False)

    @property
    def name(self) -> str:
        """The folder as people find it."""
        return f"{socket.gethostname()}:{self.journal.folder}"

    # --- at the start ----------------------------------------------------------------------

    def compare(self) -> str | None:
        """Pause marketing where the database lacks what the folder knows, and say why; it is said
        at every start for as long as it lasts."""
        for lack in self.lacks():
            self._pause(lack)
        waits = self.database.read_now(journals.paused)
        if waits is None:
            return None
        log.error("marketing_paused", reason=waits.reason, remedy=REMEDY)
        return waits.reason

    def lacks(self) -> list[Lack]:
        """What the folder has against the database; nothing is written."""
        try:
            tail = self.journal.tail()
        except (UnknownKey, Damaged, OSError) as fault:
            unread = f"the checkpoints cannot be read: {_said(fault)}"
            return [Lack(self._place(), self.name, unread)]
        if tail.seal is None:
            return self._lost()
        reason = self.database.read_now(partial(_lack, tail=tail))
        return [Lack(tail.place, self.name, reason)] if reason else []

    def _place(self) -> str:
        """Of a folder that does not tell."""
        return f"unread {self.name}"

    def _lost(self) -> list[Lack]:
        now = self.clock().timestamp()
        lost = self.database.read_now(lambda conn: journals.orphaned(conn, now))
        return [Lack(row.place, row.name, MISSING) for row in lost]

    def _pause(self, lack: Lack) -> None:
        now = self.clock().timestamp()

        def turn(conn: Connection) -> bool:
            new = journals.pause(conn, *lack, now)
            if new:
                self._alert(conn, f"marketing is paused: {lack.reason}. To go on: {REMEDY}", now)
            return new

        if self.database.write_now(turn):
            log.error("marketing_paused", reason=lack.reason, remedy=REMEDY)

    def _alert(self, conn: Connection, text: str, now: float) -> None:
        for to in self.alert_to:
            address = to.removeprefix("mail:")
            outbox.add(conn, self.keys, "alert", None, None, {"to": address, "text": text}, now)

    # --- keeping ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Tell the folder what was sealed since; a look of microseconds where nothing was."""
        now = self.clock().timestamp()
        newest = await self.database.read(_newest)
        if newest != self._told or now - self._noted_at > NOTE_EVERY:
            await asyncio.to_thread(self.keep)

    async def end(self) -> None:
        """Seal what is left, and leave a checkpoint behind."""
        with suppress(PrefsError):
            while await self.database.write(ledger.seal):
                pass
            await asyncio.to_thread(self.keep, "shutdown")

    def keep(self, why: str = "") -> None:
        """Write what the folder lacks; on disk when it returns. Nothing where another process is
        writing there."""
        try:
            with self.journal.writing() as writer:
                if writer is not None:
                    self._keep(writer, why)
        except OSError as fault:
            self._tell_of_fault(fault)

    def _keep(self, writer: Writer, why: str) -> None:
        self._tell_of_shortened(writer.tail)
        self.rejoin(writer)
        while news := self.database.read_now(partial(self._news, tail=writer.tail)):
            before = writer.tail.seal
            settled = before.settled if before else not writer.tail.broken
            made = self._seal(news.n, news.hash, news.relinks, settled=settled)
            writer.append(news.lines, made, self.clock())
        tail = writer.tail
        if tail.seal is None:
            self._told, self._noted_at = (0, 0), self.clock().timestamp()
            return
        self._daily(writer, tail.seal, why)
        now = self.clock().timestamp()
        self.database.write_now(
            lambda conn: journals.note(conn, tail.place, self.name, tail.n, now)
        )
        self._told, self._noted_at = (tail.n, tail.seal.relinks), now
        JOURNALED.set(tail.n)

    def _news(self, conn: Connection, tail: Tail) -> journals.News | None:
        relinked = tail.seal.relinks if tail.seal else 0
        return journals.news(conn, self.keys, tail.n, relinked)

    def _seal(self, n: int, hash_: bytes, relinks: int, *, settled: bool, why: str = "") -> Seal:
        at = now_text(self.clock())
        return lines.seal(self.keys, n, hash_, at, relinks=relinks, settled=settled, why=why)

    def _daily(self, writer: Writer, last: Seal, why: str) -> None:
        """The signed checkpoint of the day (or of this end of the service)."""
        today = now_text(self.clock())[:10]
        if self._day == today and not why:
            return
        self._day = today
        kept = [one for one in self.journal.checkpoints() if isinstance(one, Seal)]
        newest = kept[-1] if kept else None
        if newest is not None and newest.at[:10] == today and (not why or newest.n == last.n):
            return
        made = self._seal(
            last.n,
            bytes.fromhex(last.hash),
            last.relinks,
            settled=last.settled,
            why=why or "daily",
        )
        writer.append([], made, self.clock())
        writer.checkpoint(made)

    def _tell_of_shortened(self, tail: Tail) -> None:
        if self._told is not None or not tail.place:
            return
        noted = self.database.read_now(lambda conn: journals.noted(conn, tail.place))
        if noted > tail.n:
            log.error("journal_shortened", held=tail.n, noted=noted)

    def _tell_of_fault(self, fault: OSError) -> None:
        log.error("journal_not_written", reason=_said(fault))
        now = self.clock().timestamp()
        hour = f"journal {int(now // 3600)}"

        def tell(conn: Connection) -> None:
            if events.first_time(conn, "journal", hour, now):
                text = f"opt-outs are not written to the checkpoints: {_said(fault)}"
                self._alert(conn, text, now)

        self.database.write_now(tell)

    # --- another history -------------------------------------------------------------------

    def rejoin(self, writer: Writer) -> bool:
        """Where the ledger is not the one that the folder ends with, go on from the last row that
        both have: what comes in from now on is kept too. True where that was so."""
        tail = writer.tail
        reason = self.database.read_now(partial(_parted, tail=tail))
        if reason is None:
            return False
        self._pause(Lack(tail.place, self.name, reason))
        n, hash_ = self.database.read_now(self._common)
        lost = (tail.n - n) * SKIPPED_A_ROW
        self.database.write_now(lambda conn: counters.skip(conn, lost))
        made = self._seal(n, hash_, 0, settled=False, why="restored")
        writer.append([], made, self.clock())
        return True

    def _common(self, conn: Connection) -> tuple[int, bytes]:
        seals = list(self.seals())

        def differs(one: Seal) -> bool:
            return journals.hash_at(conn, one.n) != bytes.fromhex(one.hash)

        at = bisect_right(seals, False, key=differs)
        if at == 0:
            return 0, GENESIS
        return seals[at - 1].n, bytes.fromhex(seals[at - 1].hash)

    def seals(self) -> Iterator[Seal]:
        """The seals of the history that the folder goes on with, each of a greater n."""
        kept: list[Seal] = []
        for found in self.journal.scan():
            if isinstance(found, Found) and isinstance(found.line, Seal):
                while kept and kept[-1].n >= found.line.n:
                    kept.pop()
                if found.line.n:
                    kept.append(found.line)
        yield from kept

    def settle(self, writer: Writer) -> None:
        """All was brought back: the folder says so, then marketing opens."""
        tail = writer.tail
        if tail.seal is not None and not tail.seal.settled:
            hash_ = bytes.fromhex(tail.seal.hash)
            made = self._seal(tail.n, hash_, tail.seal.relinks, settled=True, why="replayed")
            writer.append([], made, self.clock())
        unread = self._place()

        def turn(conn: Connection) -> None:
            journals.open_again(conn, tail.place)
            journals.forget(conn, [unread])

        self.database.write_now(turn)

    # --- proof -----------------------------------------------------------------------------

    def verify(self, conn: Connection) -> Iterator[Damage]:
        """What is wrong with the folder, or with the ledger as the folder knows it."""
        if not self.journal.files():
            if journals.places(conn):
                yield Damage(MISSING)
            return
        kept: dict[int, str] = {}
        place = ""
        for found in self.journal.scan():
            if isinstance(found, Damage):
                yield found
            elif isinstance(found.line, Seal):
                _keep_in_order(kept, found.line)
            elif isinstance(found.line, lines.Head):
                place = found.line.place
        yield from self._short_file()
        last = max(kept, default=0)
        if journals.noted(conn, place) > last:
            yield Damage(f"the journal ends at row {last}: lines at its end are missing")
        yield from _against(conn, kept)

    def _short_file(self) -> Iterator[Damage]:
        for at, one in enumerate(self.journal.checkpoints(), 1):
            if isinstance(one, Damage):
                yield one
            elif not self._is_ours(one):
                yield Damage(f"checkpoints.jsonl line {at}: the signature is not ours")

    def _is_ours(self, one: Seal) -> bool:
        try:
            return lines.is_signed(self.keys, one)
        except UnknownKey:
            return False


def _keep_in_order(kept: dict[int, str], one: Seal) -> None:
    if one.why == "restored":
        for n in [n for n in kept if n > one.n]:
            del kept[n]
    if one.n:
        kept[one.n] = one.hash


def _against(conn: Connection, kept: dict[int, str]) -> Iterator[Damage]:
    """The first row that is another one, or not there: all after it follow from that."""
    have = journals.hashes_at(conn, kept)
    for n, hash_ in sorted(kept.items()):
        if n not in have:
            yield Damage(f"row {n} is missing, of which there is a checkpoint")
            return
        if have[n].hex() != hash_:
            yield Damage(f"row {n} is not the one that its checkpoint was made of")
            return


def _newest(conn: Connection) -> tuple[int, int]:
    return ledger.head(conn)[0], journals.last_relink(conn)


def _parted(conn: Connection, tail: Tail) -> str | None:
    """Whether row n of the ledger is not the one that the folder ends with."""
    if tail.seal is None or tail.n == 0:
        return None
    have = journals.hash_at(conn, tail.n)
    if have is None:
        return OLDER
    return None if have.hex() == tail.seal.hash else FORKED


def _lack(conn: Connection, tail: Tail) -> str | None:
    settled = tail.seal is None or tail.seal.settled
    return _parted(conn, tail) or (None if settled else UNSETTLED)


def _said(fault: Exception) -> str:
    """Without the path of the folder, which may tell of a person's account."""
    if isinstance(fault, OSError):
        return fault.strerror or type(fault).__name__
    return str(fault)


def of(
    folder: Path | None,
    database: Database,
    keys: Keyring,
    clock: Clock,
    alert_to: Sequence[str],
) -> Checkpoints | None:
    """None where no folder is configured."""
    if folder is None:
        return None
    return Checkpoints(Journal(folder, keys), database, keys, clock, alert_to)
