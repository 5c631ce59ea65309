"""Bringing back what a database that was restored from a backup does not hold.

Each row of the journal that neither stands in the ledger nor was brought back before is judged
again over what stands now, as the intake would judge it: with the source, the times, the
identifier and the link that it had, so that nothing that could not lift it then can lift it now.
It becomes a row of the ledger, the state, the permission rows and the marks with it, in one
transaction. Not a `Signal`: that would count for whoever shares an identifier today, and from
today on; what the others got by the same act stands in the journal as rows of their own.

Nothing is weakened: a row that lifts (a consent, a resumed pause, a batch taken back) is not in
the journal. Who consented after the backup answers `no_basis`, or as they did before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import Connection

from prefs.checkpoints import Checkpoints
from prefs.core.errors import Unavailable
from prefs.core.fold import Entry, State, apply, judge
from prefs.core.journal import Known, Said, Who
from prefs.core.keys import Keyring
from prefs.core.words import Channel, Choice, Kind, Purpose, Result, Scope, Source
from prefs.intake import Intake
from prefs.journal import Damage
from prefs.store import journals, ledger, marks, subjects
from prefs.store.counters import next_numbers
from prefs.store.ledger import Row
from prefs.store.subjects import Subject

AT_ONCE = 200
"""Lines in one transaction: opt-outs that come in meanwhile wait no longer than that."""
KNOWN_KINDS = ("choice", "pause")

Tell = Callable[[int], object]


@dataclass
class Report:
    """What a replay did, or would do."""

    applied: bool
    lines: int = 0
    missing: int = 0
    """Rows of the journal that the database does not hold."""
    brought: int = 0
    linked: int = 0
    """Subjects who are known by an identifier again."""
    unknown: dict[str, int] = field(default_factory=dict)
    """Rows that cannot be brought back, by why."""
    damage: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    opened: bool = False

    def leave(self, why: str) -> None:
        self.unknown[why] = self.unknown.get(why, 0) + 1

    @property
    def whole(self) -> bool:
        return not (self.damage or self.unknown)


@dataclass
class Replay:
    checkpoints: Checkpoints
    intake: Intake
    tell: Tell = lambda count: None
    _met: set[bytes] = field(default_factory=set, init=False)
    """Digests of rows that were missing."""

    def run(self, *, apply: bool, accept_damage: bool = False) -> Report:
        """Read the journal from its beginning; with `apply` bring back what is missing, and open
        when all of it is. Safe to repeat, also after one that was broken off. Raises Unavailable
        where the folder stays locked."""
        report = Report(apply)
        self._met.clear()
        if apply:
            self._rejoin()
        for part in _parts(self._lines(report)):
            report.lines += len(part)
            self._take(part, report)
            self.tell(report.lines)
        if apply and (report.whole or accept_damage):
            self._open(lost=accept_damage)
        waits = self.checkpoints.database.read_now(journals.waiting)
        report.opened = not waits
        report.notes += [f"{one.name}: {one.reason}" for one in waits]
        return report

    def _rejoin(self) -> None:
        with self.checkpoints.journal.writing(wait=True) as writer:
            if writer is None:
                raise Unavailable("another process is writing the checkpoints")
            self.checkpoints.rejoin(writer)

    def _lines(self, report: Report) -> Iterator[Said | Who]:
        for found in self.checkpoints.journal.scan():
            if isinstance(found, Damage):
                (report.notes if found.harmless else report.damage).append(found.what)
            elif isinstance(found.line, Said | Who):
                yield found.line

    def _take(self, part: Sequence[Said | Who], report: Report) -> None:
        database = self.checkpoints.database
        left = self._new(database.read_now(lambda conn: _left(conn, part)))
        report.missing += sum(isinstance(one, Said) for one in left)
        if not report.applied or not left:
            for one in left:
                self._foresee(one, report)
            return

        def bring(conn: Connection) -> Bringing:
            bringing = Bringing(conn, self.intake, self.checkpoints.keys)
            for one in _left(conn, left):
                bringing.take(one)
            return bringing

        done = database.write_now(bring)
        report.brought += done.brought
        report.linked += done.linked
        for why in done.left:
            report.leave(why)

    def _new(self, left: Iterable[Said | Who]) -> list[Said | Who]:
        """A writer that was killed before the seal of its rows has written them again."""
        new = []
        for one in left:
            if isinstance(one, Who) or one.digest not in self._met:
                new.append(one)
            if isinstance(one, Said):
                self._met.add(one.digest)
        return new

    def _foresee(self, one: Said | Who, report: Report) -> None:
        if isinstance(one, Said) and (why := _unfit(self.intake, one)):
            report.leave(why)

    def _open(self, *, lost: bool) -> None:
        checkpoints = self.checkpoints
        with checkpoints.journal.writing(wait=True) as writer:
            if writer is None:
                raise Unavailable("another process is writing the checkpoints")
            checkpoints.settle(writer)
        if lost:
            checkpoints.database.write_now(self._give_up)

    def _give_up(self, conn: Connection) -> None:
        """Folders that nobody writes any more are gone."""
        since = self.checkpoints.clock().timestamp() - journals.ALIVE_FOR
        dead = [one.place for one in journals.places(conn) if one.noted_at < since]
        journals.forget(conn, dead)


def _parts(some: Iterable[Said | Who]) -> Iterator[list[Said | Who]]:
    rest = iter(some)
    while part := list(islice(rest, AT_ONCE)):
        yield part


def _left(conn: Connection, part: Sequence[Said | Who]) -> list[Said | Who]:
    """What the database does not hold, in order."""
    said = [one for one in part if isinstance(one, Said)]
    missing = {one.digest for one in journals.missing(conn, said)}
    return [
        one
        for one in part
        if (one.digest in missing if isinstance(one, Said) else not journals.has_links(conn, one))
    ]


def _unfit(intake: Intake, one: Said) -> str | None:
    """Why a row cannot be brought back."""
    if one.kind not in KNOWN_KINDS:
        return f"this program does not know how to bring back a row of kind {one.kind}"
    if one.brand not in intake.brands:
        return "their brand is no longer configured"
    return None


class _Whom(NamedTuple):
    controller: str
    subject: int
    known: tuple[Known, ...]
    ref: bytes | None


@dataclass
class Bringing:
    """Lines brought back in one transaction."""

    conn: Connection
    intake: Intake
    keys: Keyring
    brought: int = 0
    linked: int = 0
    left: list[str] = field(default_factory=list)

    def take(self, one: Said | Who) -> None:
        if isinstance(one, Said):
            self._say(one)
        elif one.controller in self.intake.brands.values():
            self._whom(_Whom(one.controller, one.subject, one.known, one.ref))

    # --- whom is it about ------------------------------------------------------------------

    def _whom(self, whom: _Whom) -> Subject:
        """The subject, made again where it is gone, known by all that it was known by."""
        subject = self._subject(whom)
        now = self.intake.clock().timestamp()
        ids = [self._identifier(whom.controller, known, now) for known in whom.known]
        if subjects.link(self.conn, subject.id, ids, now):
            self.linked += 1
            sharers = self.intake.refresh(self.conn, whom.controller, [subject.id])
            self._mark(whom.controller, sharers, None)
        return subject

    def _subject(self, whom: _Whom) -> Subject:
        """One who came again under the same `ref` meanwhile is the same person."""
        found = subjects.of_controller(self.conn, whom.controller, whom.subject)
        ref = self._ref(whom)
        if found is None and ref:
            found = subjects.by_ref(self.conn, whom.controller, ref)
        if found is None:
            now = self.intake.clock().timestamp()
            found = Subject(whom.subject, ref, None, 0, State(), None, now)
            subjects.store_new(self.conn, whom.controller, [found])
        return found

    def _ref(self, whom: _Whom) -> str | None:
        if whom.ref is None:
            return None
        return self.keys.decrypt(whom.ref, journals.ref_aad(whom.subject)).decode()

    def _identifier(self, controller: str, known: Known, now: float) -> int:
        new = [(Kind(known.kind), known.hash, None)]
        subjects.add_identifiers(self.conn, controller, new, self.keys, now, key_id=known.key)
        rows = subjects.find_hashes(self.conn, controller, [known.hash])
        return next(row.id for row in rows if row.kind == known.kind)

    # --- what is said ----------------------------------------------------------------------

    def _say(self, said: Said) -> None:
        if why := _unfit(self.intake, said):
            self.left.append(why)
            return
        controller = self.intake.brands[said.brand or ""]
        subject = self._whom(_Whom(controller, said.subject, said.known, said.ref))
        now = self.intake.clock().timestamp()
        (event_id,) = next_numbers(self.conn, "event", 1)
        entry = _entry(said, event_id)
        judgement = judge(subject.state, entry)
        content = {"brought_back": {"event": said.event, "payload": said.payload.hex()}}
        payload = ledger.add_payload(self.conn, self.keys, content)
        revision = subject.revision + 1
        row = Row(
            subject.id,
            revision,
            said.kind,
            entry,
            judgement,
            said.occurred_at,
            said.received_at,
            said.origin,
            said.batch,
        )
        ledger.append(self.conn, [row], payload)
        state = apply(subject.state, entry, judgement)
        stored = subject._replace(state=state, revision=revision, last_row_at=subject.now(now))
        subjects.store(self.conn, stored)
        sharers = self.intake.refresh(self.conn, controller, [subject.id])
        if judgement.result in (Result.APPLIED, Result.HELD):
            self._mark(controller, sharers, entry)
        journals.mark_brought(self.conn, said, now)
        journals.keep_batch(self.conn, said)
        self.brought += 1

    def _mark(self, controller: str, sharers: Iterable[int], entry: Entry | None) -> None:
        """Every target that the row (or the new identifier) concerns is looked at again."""
        wanted = [
            (target.label, subject_id, "")
            for target in self.intake.targets
            if self.intake.brands.get(target.brand) == controller
            and (entry is None or _concerns(entry, target.brand, target.channels))
            for subject_id in sorted(sharers)
        ]
        now = self.intake.clock().timestamp()
        marks.set_marks(self.conn, wanted, now, urgent=True, heard=True)


def _concerns(entry: Entry, brand: str, channels: Iterable[Channel]) -> bool:
    return brand == entry.brand and entry.scope.channel in channels


def _entry(said: Said, event_id: int) -> Entry:
    return Entry(
        event_id=event_id,
        brand=said.brand or "",
        scope=Scope(Channel(said.channel or ""), Purpose(said.purpose or ""), said.topic),
        choice=Choice(said.choice) if said.choice else None,
        source=Source(said.source or ""),
        at=said.at,
        identifier=said.identifier or b"",
        token=said.token or b"",
        stop_all=said.stop_all,
        until=said.until,
    )


# --- telling -----------------------------------------------------------------------------------


def content(report: Report) -> dict[str, Any]:
    return {**asdict(report), "whole": report.whole}


def shown(report: Report) -> str:
    said = f"{report.missing} rows that deny were not in this database"
    if report.applied:
        said += f"; {report.brought} brought back, {report.linked} people known again"
    told = [said]
    told += [f"not brought back: {count}, {why}" for why, count in report.unknown.items()]
    told += [f"damaged: {what}" for what in report.damage]
    told += report.notes
    if report.applied and report.brought:
        told.append(
            "Consents, notes of staff and whatever was lifted after the backup are not in the "
            "journal: those people answer no_basis, or as they did before."
        )
    told.append(_end(report))
    return "\n".join(told)


def _end(report: Report) -> str:
    if report.opened:
        return "Marketing is open."
    if not report.applied:
        return "Nothing written; --apply brings them back and opens marketing."
    return "Marketing stays paused. Mend what is named, or say --accept-damage."
