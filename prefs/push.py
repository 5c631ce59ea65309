"""One round of a lane: read, judge, plan, write, read back, prove.

Level-triggered: a claimed mark says only *that* a subject must be looked at. The wish is read
afresh, so nothing can be replayed stale, and fifty changes to one person become one push.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple, TypeVar

import structlog
from sqlalchemy import Connection

from prefs import assisted
from prefs.core import identity
from prefs.core.decision import NOBODY, Ask, Held, decide, said_at, wish
from prefs.core.errors import BadIdentifier, PropagationError, Temporary, Unusable
from prefs.core.propagation import (
    SETTLED,
    URGENT,
    Absent,
    Answer,
    Applied,
    Assisted,
    Change,
    Connector,
    Local,
    Observed,
    Outcome,
    Readback,
    Receipt,
    Ref,
    Seen,
    Slot,
    Target,
    Value,
    Verdict,
    Wish,
    judge,
    meets,
    plan,
)
from prefs.core.signals import DeliveryFact, Identifier, Signal, Statement
from prefs.core.spans import span
from prefs.core.words import KIND_OF, Choice, Kind, Purpose, Scope, Source
from prefs.intake import Intake
from prefs.metrics import PROVED
from prefs.store import journals, marks, permissions, subjects, tasks, waves
from prefs.store.database import Store
from prefs.store.marks import Delay, Lease, Mark, Proof
from prefs.store.waves import Wave
from prefs.texts import next_working_day

T = TypeVar("T")
R = TypeVar("R")

log = structlog.get_logger()

PIECE = 500
"""Marks that one transaction is about, however many a round carries: nobody waits longer for the
database."""
TOGETHER = 8
"""Opt-ins that one reading of wish and lease is good for: about as many as a connector has under
way at once, whatever its vendor takes in a call."""
PUSH_BACKS_AN_HOUR = 4
ALARM_AT = 3
FOUGHT = "turned on again more than 4 times within an hour: somebody's tool is fighting us"
FIGHT, WAVE = "push_back_fight", "opt_in_wave"
"""Kinds of tasks."""
WAVE_LOOK_AGAIN = 3600.0
PAUSED_LOOK_AGAIN = 60.0
PAUSED = "marketing is paused until the checkpoints are replayed"
OBSERVED_AGAIN = 86400.0
LOOK_AGAIN = 3600.0
"""Seconds until a task of staff that is past its due time is looked at again."""
HIDDEN = "the system does not show what is configured here; only our check guards"
UNNAMED_THERE = "the reply named this record neither as done nor as failed"
UNANSWERED = "the read says nothing of this record"
SAID_MISSING = "staff found nobody like that there; whoever appears is looked at again"
SAID_DONE = "staff say it is done; the next read proves it"
REFUSED_AGAIN_AFTER = 3600.0
"""A refused `off` is tried again this often: staff may have mended it at the vendor."""


class Backoff(NamedTuple):
    """Seconds: full jitter over a doubling span."""

    first: float
    longest: float

    def after(self, attempts: int) -> float:
        span = min(self.longest, self.first * 2.0 ** min(attempts, 30))
        return random.uniform(0, span)  # noqa: S311  # spreads retries; nothing secret


@dataclass(slots=True)
class Record:
    """One vendor record of one claimed mark, and what this round learns about it."""

    ref: Ref
    hash: bytes | None
    hashes: set[bytes] = field(default_factory=set)
    mark: Mark | None = None
    read: Observed | Absent | PropagationError | None = None
    held: list[Held] = field(default_factory=list)
    receipts: dict[str, Receipt] = field(default_factory=dict)
    last_row_at: datetime | None = None
    proofs: dict[Slot, Proof] = field(default_factory=dict)
    maybe_ours: bool = False
    """A call of ours that we know no end of may have written what is read."""
    unclear: bool = False
    retry_after: float | None = None
    waits: dict[Slot, float] = field(default_factory=dict)
    """Seconds until a slot that waits for a person is looked at again."""
    stale: bool = False
    listed: bool = True
    """False where a complete upload shows no such record at an assisted target."""


@dataclass(slots=True)
class Case:
    """One claimed mark with the records it is about."""

    mark: Mark
    records: list[Record]


class Lost(Exception):
    """The lease is no longer ours: nothing may be written under it."""


@dataclass
class Push:
    """The work of one lane on claimed marks."""

    target: Target
    connector: Connector
    database: Store
    intake: Intake
    clock: Callable[[], datetime]
    backoff: Backoff
    wrote: set[Mark | None] = field(default_factory=set)
    """Marks for which the last round may have written."""

    @property
    def controller(self) -> str:
        return self.intake.brands[self.target.brand]

    @property
    def call_alive(self) -> float:
        """Seconds that a call without a clear answer may still be at work at the vendor."""
        return self.target.call_alive or self.connector.facts.call_alive

    async def run(self, lease: Lease, claimed: Sequence[Mark]) -> None:
        """Carry claimed marks as far as they go now. Raises Unusable when the target refuses us
        as a whole; every mark is kept then."""
        self.wrote = set()
        urgent = any(mark.urgent for mark in claimed)
        token = URGENT.set(urgent)
        with span("lane.round", target=self.target.label, marks=len(claimed), urgent=urgent):
            try:
                cases = await self._cases(claimed)
                with span("lane.observe"):
                    await self._read_all(cases)
                planned: dict[Ref, Sequence[Change]] = {}
                for part in _pieces(cases):
                    planned |= await self._learn_and_plan(part)
                await self._apply(lease, _records(cases), planned)
            finally:
                URGENT.reset(token)
            _share(_records(cases))
            for part in _pieces(cases):
                await self.database.write(partial(self._prove, lease=lease, cases=part))

    async def look(self, lease: Lease, claimed: Sequence[Mark]) -> None:
        """The same for a target that is only observed: what is read there is taken in, nothing is
        written, and the marks wait for go-live. Raises Unusable."""
        cases = await self._cases(claimed)
        if any(mark.urgent for mark in claimed):
            await self._read_all(cases)
            for part in _pieces(cases):
                await self._learn(_records(part))
        for part in _pieces(cases):
            await self._keep_for_later(lease, part)

    async def _keep_for_later(self, lease: Lease, cases: Sequence[Case]) -> None:
        now = self.clock().timestamp()
        hints = [case.mark for case in cases if not case.mark.subject_id and not _unread(case)]
        later = [
            Delay(case.mark, now + self._looks_again(case), Outcome.PENDING, marks.OBSERVED)
            for case in cases
            if case.mark not in hints
        ]

        def keep(conn: Connection) -> None:
            marks.settle(conn, lease, hints, later)

        await self.database.write(keep)

    def _looks_again(self, case: Case) -> float:
        """Seconds; soon where something could not be read, or was read too early to tell."""
        failed = [r.read for r in case.records if isinstance(r.read, Temporary)]
        if not failed and not any(record.stale for record in case.records):
            return OBSERVED_AGAIN
        asked = max((one.retry_after or 0.0 for one in failed), default=0.0)
        return max(self.backoff.after(case.mark.attempts), asked)

    # --- what is it about ----------------------------------------------------------------------

    async def _cases(self, claimed: Sequence[Mark]) -> list[Case]:
        found: list[Case] = []
        for part in _pieces(claimed):
            found += await self.database.read(partial(self._cases_of, claimed=part))
        return found

    def _cases_of(self, conn: Connection, claimed: Sequence[Mark]) -> list[Case]:
        known = subjects.identifiers_of(
            conn, [mark.subject_id for mark in claimed if mark.subject_id], self.intake.keys
        )
        return [
            Case(mark, list(self._records(conn, mark, known.get(mark.subject_id, []))))
            for mark in claimed
        ]

    def _records(
        self, conn: Connection, mark: Mark, known: Sequence[subjects.Known]
    ) -> Iterable[Record]:
        """A subject's records: one for each identifier that the target keys on. Where only the
        hash is left, the record is found by the vendor's id."""
        maybe_ours = mark.claimed_before or mark.unsettled_until is not None
        if mark.vendor_id:
            yield Record(Ref(None, "", mark.vendor_id), None, mark=mark, maybe_ours=maybe_ours)
        for one in known:
            if one.kind in self.connector.facts.keys_on:
                for ref in self._refs(conn, one):
                    yield Record(ref, one.hash, {one.hash}, mark, maybe_ours=maybe_ours)

    def _refs(self, conn: Connection, one: subjects.Known) -> list[Ref]:
        if one.spelling:
            return [Ref(one.kind, one.spelling)]
        found = marks.vendor_ids(conn, self.target.label, [one.hash])
        return [Ref(one.kind, "", vendor_id) for vendor_id in found.get(one.hash, [])]

    # --- read ----------------------------------------------------------------------------------

    async def _read_all(self, cases: Sequence[Case]) -> None:
        await self._observe(_records(cases))
        for part in _pieces(cases):
            await self._look_by_id(part)

    async def _observe(self, records: Collection[Record]) -> None:
        if self.connector.facts.readback is Readback.NONE:
            return
        found = await self._read([record.ref for record in records])
        for record in records:
            record.read = found.get(record.ref)
        await self._name(records)

    async def _look_by_id(self, cases: Sequence[Case]) -> None:
        """Whom no search finds a walk may have shown: numbers are typed in many ways. Such a record
        is read by its id, and counts if it still shows what was searched for."""
        lost = [one for case in cases for one in case.records if _unfound(one)]
        hashes = {one.hash for one in lost if one.hash}
        if not hashes:
            return
        ids = await self.database.read(
            lambda conn: marks.vendor_ids(conn, self.target.label, hashes)
        )
        known = {
            id(one): [_by_id(one, id_) for id_ in ids.get(one.hash or b"", ())] for one in lost
        }
        await self._observe([one for found in known.values() for one in found])
        for case in cases:
            case.records = [r for one in case.records for r in self._found(one, known)]

    def _found(self, record: Record, known: Mapping[int, Sequence[Record]]) -> Sequence[Record]:
        return [one for one in known.get(id(record), ()) if self._still_shows(one)] or [record]

    def _still_shows(self, record: Record) -> bool:
        """Also true of what could not be read: that is unknown, not absent."""
        if not isinstance(record.read, Observed):
            return not isinstance(record.read, Absent)
        shown = identifiers_shown(record.read, self.target.region)
        return any(record.hash in self.intake.keys.hashes(one) for one in shown)

    async def _read(
        self, refs: Sequence[Ref]
    ) -> Mapping[Ref, Observed | Absent | PropagationError]:
        size = self.connector.facts.read_batch
        unique = list(dict.fromkeys(refs))
        parts = (unique[start : start + size] for start in range(0, len(unique), size))
        found = dict(item for part in await self._beside(parts, self._ask) for item in part.items())
        return {ref: found.get(ref) or Temporary(UNANSWERED) for ref in unique}

    async def _ask(self, part: Sequence[Ref]) -> Mapping[Ref, Observed | Absent | PropagationError]:
        found: Mapping[Ref, Observed | Absent | PropagationError]
        try:
            found = await self.connector.observe(part)
        except PropagationError as fault:
            found = dict.fromkeys(part, fault)
        for answer in found.values():
            if isinstance(answer, Unusable):
                raise answer
        return found

    async def _beside(self, parts: Iterable[T], job: Callable[[T], Awaitable[R]]) -> list[R]:
        """Run for every part, as many at once as the target takes; in any order. After a fault none
        begins any more: it is raised when those under way have ended."""
        left, done = iter(parts), list[R]()

        async def carry() -> None:
            try:
                for part in left:
                    done.append(await job(part))
            finally:
                deque(left, maxlen=0)

        lines = (carry() for _ in range(self.connector.facts.beside))
        for fault in await asyncio.gather(*lines, return_exceptions=True):
            if fault:
                raise fault
        return done

    async def _name(self, records: Iterable[Record]) -> None:
        """A record that was read by the vendor's id alone is known by the addresses it shows."""
        shown = [
            (record, identifiers_shown(record.read, self.target.region))
            for record in records
            if isinstance(record.read, Observed)
        ]
        every = [one for _, of_record in shown for one in of_record]
        keys, controller = self.intake.keys, self.controller
        hashes = await self.database.read(
            lambda conn: subjects.hashes_of_known(conn, controller, keys, every)
        )
        for record, of_record in shown:
            for identifier in of_record:
                hash_ = hashes[identifier]
                record.hashes.add(hash_)
                if record.hash is None and identifier.kind in self.connector.facts.keys_on:
                    record.hash = hash_

    # --- judge ---------------------------------------------------------------------------------

    async def _learn_and_plan(self, cases: Sequence[Case]) -> dict[Ref, Sequence[Change]]:
        records = _records(cases)
        await self._learn(records)
        return {record.ref: self._plan(record) for record in records}

    async def _learn(self, records: Sequence[Record]) -> None:
        """Load what stands, judge what was read, take in what a vendor's person said."""
        await self.database.read(lambda conn: self._load(conn, records))
        heard = [signal for record in records for signal in self._judge(record)]
        facts = [fact for record in records for fact in self._facts(record)]
        if heard or facts:
            await self.database.write(lambda conn: self._take(conn, heard, facts))
            await self.database.read(lambda conn: self._load(conn, records))

    def _load(self, conn: Connection, records: Sequence[Record]) -> None:
        hashes = {hash_ for record in records for hash_ in record.hashes}
        held = permissions.read(conn, self.target.brand, hashes)
        kept = marks.read_receipts(conn, self.target.label, hashes)
        last = subjects.last_rows(conn, self.controller, hashes)
        for record in records:
            record.held = [held.get(hash_, NOBODY) for hash_ in sorted(record.hashes)]
            record.receipts = _kept_of(record, kept)
            times = [last[hash_] for hash_ in record.hashes if hash_ in last]
            record.last_row_at = max(times, default=None)
        if self.connector.facts.assisted:
            self._load_listed(conn, records)

    def _load_listed(self, conn: Connection, records: Sequence[Record]) -> None:
        """Once everybody there was uploaded, whom no record shows is not there."""
        row = marks.lane(conn, self.target.label)
        if row is None or row.walked_at is None:
            return
        hashes = {record.hash for record in records if record.hash}
        known = marks.vendor_ids(conn, self.target.label, hashes, present=True)
        for record in records:
            record.listed = record.hash in known

    def _judge(self, record: Record) -> Iterable[Signal]:
        if not isinstance(record.read, Observed):
            return
        for slot, seen in self._ours(record.read).items():
            wished = wish(slot, record.held)
            judged = judge(
                seen,
                record.read.read_began,
                record.receipts.get(slot.place),
                wished,
                record.last_row_at,
            )
            if judged.verdict is Verdict.READ_AGAIN:
                record.stale = True
            if judged.verdict is not Verdict.OUT or judged.source is None:
                continue
            if source := _whose(record, seen, wished, judged.source):
                yield heard_out(self.target, record.read, slot, seen, source)

    def _ours(self, read: Observed) -> dict[Slot, Seen]:
        """The slots that this target carries; a read may show others (reminders), for their
        delivery facts only."""
        carried = set(self.connector.slots)
        return {slot: seen for slot, seen in read.values.items() if slot in carried}

    def _facts(self, record: Record) -> Iterable[DeliveryFact]:
        if not isinstance(record.read, Observed):
            return
        shown = [
            identifier
            for identifier in identifiers_shown(record.read, self.target.region)
            if identifier.kind in self.connector.facts.keys_on
        ]
        carried = set(self.connector.slots)
        for slot, seen in record.read.values.items():
            pair = (slot.channel, slot.purpose)
            known = any(pair in held.undeliverable for held in record.held)
            for identifier in (one for one in shown if one.kind is KIND_OF[slot.channel]):
                if seen.fact and not known:
                    yield DeliveryFact(identifier, slot.purpose, seen.fact)
                if known and not seen.fact and (seen.value is Value.ON or slot not in carried):
                    yield DeliveryFact(identifier, slot.purpose, "delivers", ended=True)

    def _take(
        self, conn: Connection, heard: Sequence[Signal], facts: Iterable[DeliveryFact]
    ) -> None:
        self.intake.record_many(conn, heard)
        for fact in facts:
            self.intake.fact(conn, self.target.brand, self.target.label, fact)

    # --- write ---------------------------------------------------------------------------------

    async def _apply(
        self, lease: Lease, records: Sequence[Record], planned: Mapping[Ref, Sequence[Change]]
    ) -> None:
        self.wrote = {record.mark for record in records if planned.get(record.ref)}
        by_ref = {record.ref: record for record in records}
        outs = [c for changes in planned.values() for c in changes if c.to is Wish.OFF]
        ins = [c for changes in planned.values() for c in changes if c.to is Wish.ON]
        sent = [c for part in _pieces(outs) for c in await self._not_fought(by_ref, part)]
        await self._send(by_ref, sent)
        if ins and not await self._paused(by_ref, ins):
            URGENT.set(False)
            admitted = await self._admitted(by_ref, ins)
            size = min(TOGETHER, self.connector.facts.write_batch)
            for part in _parts(admitted, size):
                await self._send(by_ref, await self._still_wished(lease, by_ref, part))

    def _plan(self, record: Record) -> list[Change]:
        """Prove what needs no write; the rest are changes."""
        if record.stale or record.hash is None:
            return []
        if self.connector.facts.assisted:
            values = self._uploaded(record)
        elif self.connector.facts.readback is Readback.NONE:
            values = {slot: _remembered(record, slot) for slot in self.connector.slots}
        elif isinstance(record.read, Observed):
            values = self._ours(record.read)
        else:
            self._prove_unread(record)
            return []
        wishes = {slot: wish(slot, record.held) for slot in values}
        bases = {slot: _basis(slot, record.held) for slot in values}
        changes = plan(record.ref, values, wishes, bases)
        self._prove_met(record, values, wishes, {change.slot for change in changes})
        return changes

    def _uploaded(self, record: Record) -> dict[Slot, Seen]:
        """What the last upload showed; before the first one nobody knows."""
        if not record.listed:
            return {}
        seen = {slot: record.receipts.get(slot.place) for slot in self.connector.slots}
        return {slot: Seen((r and r.seen) or Value.UNMARKED) for slot, r in seen.items()}

    def _prove_unread(self, record: Record) -> None:
        for slot in self.connector.slots:
            wished = wish(slot, record.held)
            if isinstance(record.read, Absent):
                began = record.read.read_began.timestamp()
                self._note(record, slot, wished, Outcome.ABSENT, None, seen_began=began)
            elif isinstance(record.read, PropagationError):
                self._fail(record, slot, wished, record.read, sent=False)

    def _prove_met(
        self,
        record: Record,
        values: Mapping[Slot, Seen],
        wishes: Mapping[Slot, Wish],
        changing: Collection[Slot],
    ) -> None:
        read = record.read if isinstance(record.read, Observed) else None
        for slot in self.connector.slots:
            if slot in changing:
                continue
            wished = wishes.get(slot) or wish(slot, record.held)
            if read and slot in read.hidden:
                self._note(record, slot, wished, Outcome.UNSUPPORTED, HIDDEN)
            elif slot not in values:
                self._note(record, slot, wished, Outcome.ABSENT, None)
            elif read:
                value = values[slot].value
                self._note(
                    record, slot, wished, _settled(slot), None, value, read.read_began.timestamp()
                )
            else:
                self._note(record, slot, wished, *_unread_outcome(record, slot, wished))

    async def _not_fought(
        self, records: Mapping[Ref, Record], outs: Sequence[Change]
    ) -> list[Change]:
        """At most four times an hour is one record turned off again after it was off, or after the
        vendor refused that: our own write may bring the webhook that has us look again."""
        fought = [change for change in outs if _again(records[change.ref], change)]
        if not fought:
            return list(outs)
        now = self.clock().timestamp()
        hashes = {records[change.ref].hash or b"" for change in fought}

        def count(conn: Connection) -> dict[bytes, int]:
            label, most = self.target.label, PUSH_BACKS_AN_HOUR
            found = {h: marks.note_pushback(conn, label, h, now, most) for h in hashes}
            for change in fought:
                record = records[change.ref]
                if found[record.hash or b""] >= ALARM_AT and _refused(record, change) is None:
                    self._tell_of_fight(conn, record, change, now)
            return found

        counts = await self.database.write(count)
        given_up = {
            change
            for change in fought
            if self._gives_up(records[change.ref], change, counts[records[change.ref].hash or b""])
        }
        return [change for change in outs if change not in given_up]

    def _tell_of_fight(self, conn: Connection, record: Record, change: Change, now: float) -> None:
        """One open task for each person and target."""
        log.error("push_back_fight", target=self.target.label)
        keys, brand = self.intake.keys, self.target.brand
        subject_id = record.mark.subject_id if record.mark else 0
        body = {"target": self.target.label, "channel": change.slot.channel.value}
        known = tasks.open_of(conn, brand, [FIGHT], [subject_id])
        if subject_id and all(
            tasks.body(keys, row)["target"] != self.target.label for row in known
        ):
            due = next_working_day(self.clock()).timestamp()
            tasks.add(conn, keys, brand, FIGHT, subject_id, body, now, due)

    def _gives_up(self, record: Record, change: Change, count: int) -> bool:
        if count <= PUSH_BACKS_AN_HOUR:
            return False
        outcome, reason = Outcome.REFUSED, _refused(record, change)
        if reason is None:
            outcome, reason = Outcome.PENDING, FOUGHT
        self._note(record, change.slot, change.to, outcome, reason)
        record.waits[change.slot] = 3600.0
        return True

    async def _paused(self, records: Mapping[Ref, Record], ins: Sequence[Change]) -> bool:
        """A database that may lack opt-outs switches nobody on."""
        if await self.database.read(journals.paused) is None:
            return False
        for change in ins:
            record = records[change.ref]
            record.waits[change.slot] = PAUSED_LOOK_AGAIN
            self._note(record, change.slot, change.to, Outcome.PENDING, PAUSED)
        return True

    async def _admitted(self, records: Mapping[Ref, Record], ins: Sequence[Change]) -> list[Change]:
        """A wave of opt-ins waits for a person; one that was stopped never sets out."""
        now = self.clock().timestamp()
        said = {
            record.hash or b"": record.last_row_at.timestamp() if record.last_row_at else now
            for record in (records[change.ref] for change in ins)
        }

        def ask(conn: Connection) -> dict[bytes, str]:
            admitted = waves.admit(conn, self.target.label, said, now)
            if admitted.turned:
                self._tell_of_wave(conn, admitted.turned, now)
            return admitted.states

        states = await self.database.write(ask)
        return [c for c in ins if self._passes(records[c.ref], c, states)]

    def _tell_of_wave(self, conn: Connection, wave: Wave, now: float) -> None:
        log.error("opt_in_wave", target=self.target.label, limit=wave.most)
        body = {"target": self.target.label, "wave": wave.id, "most": wave.most}
        due = next_working_day(self.clock()).timestamp()
        tasks.add(conn, self.intake.keys, self.target.brand, WAVE, None, body, now, due)

    def _passes(self, record: Record, change: Change, states: Mapping[bytes, str]) -> bool:
        state = states[record.hash or b""]
        if state == waves.WAITING:
            record.waits[change.slot] = WAVE_LOOK_AGAIN
            reason = "many people are to be switched on in one run: a person decides whether"
            self._note(record, change.slot, change.to, Outcome.PENDING, reason)
        elif state == waves.STOPPED:
            reason = "a person stopped this wave of opt-ins"
            self._note(record, change.slot, change.to, Outcome.REFUSED, reason)
        return state in (waves.OPEN, waves.RELEASED)

    async def _still_wished(
        self, lease: Lease, records: Mapping[Ref, Record], ins: Sequence[Change]
    ) -> list[Change]:
        """An `on` goes out only if the wish, read again under a live lease, still says so."""
        fresh = [records[change.ref] for change in ins]

        def read_again(conn: Connection) -> bool:
            self._load(conn, fresh)
            return marks.holds(conn, lease, self.clock().timestamp())

        if not await self.database.read(read_again):
            raise Lost
        return [c for c in ins if wish(c.slot, records[c.ref].held) is Wish.ON]

    async def _send(self, records: Mapping[Ref, Record], changes: Sequence[Change]) -> None:
        parts = _parts(changes, self.connector.facts.write_batch)
        found = await self._beside(parts, partial(self._send_part, records))
        answers = dict(item for part in found for item in part.items())
        await self._read_back(records, changes, answers)

    async def _send_part(
        self, records: Mapping[Ref, Record], part: Sequence[Change]
    ) -> Mapping[Change, Answer]:
        with span("lane.apply", changes=len(part)):
            answers = await self._write(part)
        ended = self.clock().timestamp()
        for change in part:
            self._settle(records[change.ref], change, answers.get(change), ended)
        return answers

    async def _write(self, part: Sequence[Change]) -> Mapping[Change, Answer]:
        try:
            answers = await self.connector.apply(part)
        except PropagationError as fault:
            answers = dict.fromkeys(part, fault)
        for answer in answers.values():
            if isinstance(answer, Unusable):
                raise answer
        return answers

    def _settle(
        self,
        record: Record,
        change: Change,
        answer: Answer | None,
        ended: float,
    ) -> None:
        """What the vendor's answer to a write amounts to before any read-back."""
        slot, to = change.slot, change.to
        if answer is None:
            reason, written = UNNAMED_THERE, self._perhaps(to)
            self._note(record, slot, to, Outcome.PENDING, reason, written=written, ended=ended)
        elif isinstance(answer, Local):
            self._note(record, slot, to, Outcome.LOCAL, answer.reason)
        elif isinstance(answer, Assisted):
            self._note(record, slot, to, Outcome.WAITING_FOR_STAFF, answer.instruction)
        elif isinstance(answer, PropagationError):
            self._fail(record, slot, to, answer, ended)
        elif self.connector.facts.readback is Readback.NONE:
            self._note(record, slot, to, Outcome.ACCEPTED, None, written=to, ended=ended)
        else:
            reason = "written; not read back yet"
            self._note(record, slot, to, Outcome.PENDING, reason, written=to, ended=ended)

    async def _read_back(
        self,
        records: Mapping[Ref, Record],
        part: Sequence[Change],
        answers: Mapping[Change, Answer],
    ) -> None:
        if self.connector.facts.readback is Readback.NONE:
            return
        done = [c for c in part if isinstance(answers.get(c), Applied) or c not in answers]
        with span("lane.read_back", changes=len(done)):
            found = await self._read([change.ref for change in done])
        for change in done:
            self._compare(records[change.ref], change, answers.get(change), found.get(change.ref))

    def _compare(
        self,
        record: Record,
        change: Change,
        answer: Answer | None,
        read: Observed | Absent | PropagationError | None,
    ) -> None:
        proof = record.proofs[change.slot]
        if isinstance(read, Absent):
            record.proofs[change.slot] = proof._replace(outcome=Outcome.ABSENT, reason=None)
        if not isinstance(read, Observed) or change.slot not in read.values:
            return
        value = read.values[change.slot].value
        waits = isinstance(answer, Applied) and answer.asked_person
        if meets(value, change.to):
            outcome, reason = _settled(change.slot), None
        elif waits:
            outcome, reason = Outcome.REFUSED, "the vendor asked the person to confirm"
        else:
            outcome, reason = Outcome.PENDING, f"accepted the write but still shows {value}"
        record.proofs[change.slot] = proof._replace(
            outcome=outcome,
            reason=reason,
            seen=value,
            seen_began=read.read_began.timestamp(),
        )

    # --- keep ----------------------------------------------------------------------------------

    def _note(
        self,
        record: Record,
        slot: Slot,
        wished: Wish,
        outcome: Outcome,
        reason: str | None,
        seen: Value | None = None,
        seen_began: float | None = None,
        written: Wish | None = None,
        ended: float | None = None,
    ) -> None:
        record.proofs[slot] = Proof(
            record.hash or b"", slot, wished, outcome, reason, seen, seen_began, written, ended
        )

    def _fail(
        self,
        record: Record,
        slot: Slot,
        wished: Wish,
        fault: PropagationError,
        ended: float | None = None,
        *,
        sent: bool = True,
    ) -> None:
        """`sent` is False for a read that failed: no write can be on its way."""
        if not isinstance(fault, Temporary):
            self._note(record, slot, wished, Outcome.REFUSED, str(fault))
            return
        unclear = fault.unclear and sent
        record.unclear |= unclear
        record.retry_after = max(record.retry_after or 0.0, fault.retry_after or 0.0)
        written = self._perhaps(wished) if unclear else None
        self._note(record, slot, wished, Outcome.PENDING, str(fault), written=written, ended=ended)

    def _perhaps(self, to: Wish) -> Wish | None:
        """What a write without a clear answer leaves to remember. Where nothing can be read back,
        an `off` is one only once the vendor said so: it is sent again until then."""
        unproved = to is Wish.OFF and self.connector.facts.readback is Readback.NONE
        return None if unproved or to is Wish.LEAVE else to

    def _prove(self, conn: Connection, lease: Lease, cases: Sequence[Case]) -> None:
        """Receipts and cleared marks, under our epoch only; if it is lost, mark again."""
        now = self.clock().timestamp()
        if not marks.set_lane(conn, lease, holder=lease.holder):
            again = [
                (self.target.label, case.mark.subject_id, case.mark.vendor_id) for case in cases
            ]
            marks.set_marks(conn, again, now, urgent=True)
            return
        self._ask_staff(conn, cases, now)
        cleared: list[Mark] = []
        delayed: list[Delay] = []
        proofs: list[Proof] = []
        for case in cases:
            delay = self._delay(case, now)
            (delayed.append(delay) if delay else cleared.append(case.mark))
            proofs += _proofs(case, delay)
        self._keep(conn, proofs, _records(cases), now)
        marks.settle(conn, lease, cleared, delayed)

    def _ask_staff(self, conn: Connection, cases: Sequence[Case], now: float) -> None:
        """A task for what waits for staff and for each refused out; what they said is done counts
        until a read shows otherwise."""
        wanted: set[assisted.Asked] = set()
        known: set[int] = set()
        for case in cases:
            found = list(self._work(case))
            for record, slot, asked in found:
                record.proofs[slot] = self._asked(conn, record, record.proofs[slot], asked, now)
            wanted |= {asked for _, _, asked in found}
            if case.mark.subject_id and not _unknown(case):
                known.add(case.mark.subject_id)
        assisted.settle_rest(conn, self.intake.keys, self.target, known, wanted, now)

    def _work(self, case: Case) -> Iterable[tuple[Record, Slot, assisted.Asked]]:
        if not case.mark.subject_id:
            return
        kinds = {Outcome.WAITING_FOR_STAFF: assisted.change_of(self.target)}
        for record in case.records:
            for slot, proof in record.proofs.items():
                kind = kinds.get(proof.outcome)
                if proof.outcome is Outcome.REFUSED and proof.wish is Wish.OFF:
                    kind = assisted.REFUSED
                if kind:
                    subject_id = case.mark.subject_id
                    yield record, slot, assisted.Asked(kind, subject_id, slot.channel, proof.wish)

    def _asked(
        self, conn: Connection, record: Record, proof: Proof, asked: assisted.Asked, now: float
    ) -> Proof:
        receipt = record.receipts.get(proof.slot.place)
        read = record.read if isinstance(record.read, Observed) else None
        began = read.read_began if read else receipt and receipt.seen_began
        said = said_at(proof.slot, asked.to, record.held)
        found = assisted.ask(
            conn,
            self.intake.keys,
            self.target,
            asked,
            max(said, began.timestamp() if began else 0.0),
            proof.reason or "",
            now,
        )
        if found.missing:
            return proof._replace(outcome=Outcome.ABSENT, reason=SAID_MISSING)
        if found.done_at:
            return proof._replace(outcome=Outcome.ACCEPTED, reason=SAID_DONE)
        if proof.outcome is Outcome.WAITING_FOR_STAFF:
            record.waits[proof.slot] = max(found.due_at - now, LOOK_AGAIN)
        return proof

    def _keep(
        self, conn: Connection, proofs: Sequence[Proof], records: Sequence[Record], now: float
    ) -> None:
        label = self.target.label
        marks.write_receipts(conn, label, proofs, now)
        for outcome, count in Counter(proof.outcome for proof in proofs).items():
            PROVED.labels(label, outcome.value).inc(count)
        kept = [
            (record.read.vendor_id, sorted(record.hashes))
            for record in records
            if record.hash and isinstance(record.read, Observed) and record.read.vendor_id
        ]
        marks.keep_records(conn, label, kept, now)

    def _delay(self, case: Case, now: float) -> Delay | None:
        """Why this mark must stay, or None when all of it is settled."""
        unsettled = case.mark.unsettled_until
        if case.mark.claimed_before or any(record.unclear for record in case.records):
            unsettled = now + self.call_alive
        if any(record.stale for record in case.records):
            return Delay(
                case.mark, now, Outcome.PENDING, "read again: it changed meanwhile", unsettled
            )
        open_ = [
            (record, proof)
            for record in case.records
            for proof in record.proofs.values()
            if proof.outcome not in SETTLED and not _final(proof)
        ]
        if open_:
            return self._later(case, open_, now, unsettled)
        if fault := _unread(case):
            wait = max(self.backoff.after(case.mark.attempts), fault.retry_after or 0.0)
            return Delay(case.mark, now + wait, Outcome.PENDING, str(fault), unsettled)
        if unsettled and unsettled > _known_since(case, now):
            due = max(unsettled, now)
            reason = "an earlier call may still be at work there; it is read again afterwards"
            return Delay(case.mark, due, Outcome.PENDING, reason, unsettled)
        return None

    def _later(
        self,
        case: Case,
        open_: Sequence[tuple[Record, Proof]],
        now: float,
        unsettled: float | None,
    ) -> Delay:
        wait = self.backoff.after(case.mark.attempts)
        wait = max([wait, *(record.retry_after or 0.0 for record, _ in open_)])
        wait = max(wait, min(record.waits.get(proof.slot, 0.0) for record, proof in open_))
        refused = next((p for _, p in open_ if p.outcome is Outcome.REFUSED), None)
        proof = refused or open_[0][1]
        if all(p.outcome is Outcome.REFUSED for _, p in open_):
            wait = REFUSED_AGAIN_AFTER
        if unsettled and unsettled <= now:
            unsettled = None
        urgent = unsettled is not None or any(p.wish is not Wish.ON for _, p in open_)
        reason = proof.reason or ""
        return Delay(case.mark, now + wait, proof.outcome, reason, unsettled, urgent=urgent)


def _parts(changes: Sequence[Change], size: int) -> Iterable[Sequence[Change]]:
    """What goes in one call each; all of one record in the same."""
    part = list[Change]()
    for _, group in groupby(changes, key=attrgetter("ref")):
        of_record = list(group)
        if part and len(part) + len(of_record) > size:
            yield part
            part = []
        part += of_record
    if part:
        yield part


def _pieces(items: Sequence[T]) -> Iterable[Sequence[T]]:
    return (items[start : start + PIECE] for start in range(0, len(items), PIECE))


def _records(cases: Iterable[Case]) -> list[Record]:
    return [record for case in cases for record in case.records]


def _share(records: Sequence[Record]) -> None:
    """People who share an address have one record there, each with a mark: what was sent for one of
    them is known of all."""
    carried = {record.ref: record for record in records}
    for record in records:
        other = carried[record.ref]
        record.proofs = {**other.proofs, **record.proofs}
        record.waits = {**other.waits, **record.waits}
        record.unclear |= other.unclear
        record.retry_after = record.retry_after or other.retry_after


def _proofs(case: Case, delay: Delay | None) -> Iterable[Proof]:
    """Of the records that are known by an identifier."""
    for record in case.records:
        for proof in record.proofs.values() if record.hash is not None else ():
            due_at = None if proof.outcome in SETTLED or not delay else delay.due_at
            yield proof._replace(opened_at=case.mark.since, due_at=due_at)


def _kept_of(record: Record, kept: Mapping[tuple[bytes, str], Receipt]) -> dict[str, Receipt]:
    """By place: what is kept under the record's own identifier, where that says nothing under
    another one that it shows. Else our own write would be news when it is met by another name."""
    found: dict[str, Receipt] = {}
    for (hash_, place), receipt in kept.items():
        tells = hash_ in record.hashes and (
            receipt.seen or receipt.written or receipt.refused is not None
        )
        if tells and (hash_ == record.hash or place not in found):
            found[place] = receipt
    return found


def _unfound(record: Record) -> bool:
    return isinstance(record.read, Absent) and bool(record.ref.value and record.hash)


def _by_id(record: Record, vendor_id: str) -> Record:
    """The same identifier's record, to be read by the vendor's own id."""
    ref = Ref(record.ref.kind, "", vendor_id)
    hashes = set(record.hashes)
    return Record(ref, record.hash, hashes, record.mark, maybe_ours=record.maybe_ours)


def _whose(record: Record, seen: Seen, wished: Wish, source: Source) -> Source | None:
    """Who said an `off` that a call of ours may have written, in words of the vendor's none: with
    an `off` wished it may be our own, and says nothing new. Else it counts, for what we know no end
    of may have been an `on`; of a worker that died nothing is known, and it is no person's own."""
    if not record.maybe_ours or seen.source is not None:
        return source
    if wished is Wish.OFF:
        return None
    died = record.mark is not None and record.mark.claimed_before
    return Source.VENDOR_API if died else source


def _again(record: Record, change: Change) -> bool:
    """Somebody turned this on again, or cleared it, after it was seen off; or the vendor refused
    it before."""
    receipt = record.receipts.get(change.slot.place)
    was_off = receipt is not None and (receipt.seen is Value.OFF or receipt.refused is not None)
    return was_off and isinstance(record.read, Observed)


def _refused(record: Record, change: Change) -> str | None:
    """Why the vendor did not take it the last time, where it did not."""
    receipt = record.receipts.get(change.slot.place)
    return receipt.refused if receipt else None


def _unread(case: Case) -> Temporary | None:
    """Why a record that is known by the vendor's id alone could not be read."""
    reads = (record.read for record in case.records if record.hash is None)
    return next((read for read in reads if isinstance(read, Temporary)), None)


def _known_since(case: Case, now: float) -> float:
    """When the oldest of what this round read of its records was read; what cannot be read was told
    just now. A call that could still land after that is not over."""
    reads = (record.read for record in case.records)
    times = [r.read_began.timestamp() for r in reads if isinstance(r, Observed | Absent)]
    return min([now, *times])


def _unknown(case: Case) -> bool:
    """Whether this round learnt nothing of one of its records."""
    proofs = [proof for record in case.records for proof in record.proofs.values()]
    stale = any(record.stale for record in case.records)
    return stale or any(proof.outcome is Outcome.PENDING for proof in proofs)


def _final(proof: Proof) -> bool:
    """A refused `on` is news for staff, never tried again by itself."""
    return proof.outcome is Outcome.REFUSED and proof.wish is not Wish.OFF


def _settled(slot: Slot) -> Outcome:
    return Outcome.CONFIRMED if slot.enforced else Outcome.RECORDED


def _remembered(record: Record, slot: Slot) -> Seen:
    """What a target that cannot be read was last told. An `off` is told again where a call of ours
    that we know no end of may have come after it."""
    receipt = record.receipts.get(slot.place)
    told_off = receipt is not None and receipt.written is Wish.OFF
    if wish(slot, record.held) is Wish.OFF:
        return Seen(Value.OFF if told_off and not record.maybe_ours else Value.UNSET)
    return Seen(Value.OFF if told_off else Value.SILENT)


def _unread_outcome(record: Record, slot: Slot, wished: Wish) -> tuple[Outcome, str | None]:
    receipt = record.receipts.get(slot.place)
    if receipt and receipt.written:
        return Outcome.ACCEPTED, None
    if receipt and receipt.seen and meets(receipt.seen, wished):
        return Outcome.CONFIRMED, None
    return Outcome.LOCAL, "nothing to tell there"


def _basis(slot: Slot, held: Sequence[Held]) -> str:
    topic = slot.topics[0] if slot.topics else None
    ask = Ask(Scope(slot.channel, slot.purpose, topic))
    bases = [decide(ask, one, 0.0).basis for one in held]
    return next((basis.value for basis in bases if basis), "")


def identifiers_shown(read: Observed, region: str) -> list[Identifier]:
    """The addresses and numbers that a vendor record shows, as far as they are any."""
    shown = []
    for kind, text in read.identifiers:
        with suppress(BadIdentifier):
            shown.append(_identifier(kind, text, region))
    return shown


def _identifier(kind: Kind, text: str, region: str) -> Identifier:
    if kind is Kind.EMAIL:
        return identity.email(text)
    return (
        identity.messenger(text, None) if kind is Kind.MESSENGER else identity.phone(text, region)
    )


def scopes_of(slot: Slot, brand_topics: Collection[str]) -> list[Scope]:
    """What an off in this slot is about: its topics, or the channel when it holds them all."""
    if not slot.topics or set(slot.topics) >= set(brand_topics):
        return [Scope(slot.channel, slot.purpose)]
    return [Scope(slot.channel, slot.purpose, topic) for topic in slot.topics]


def heard_out(target: Target, read: Observed, slot: Slot, seen: Seen, source: Source) -> Signal:
    """An out found at a vendor, as the signal that it is."""
    purpose_ok = slot.purpose is Purpose.MARKETING
    assert purpose_ok, "connectors carry marketing slots only"  # noqa: S101  # a programming error
    return Signal(
        brand=target.brand,
        source=source,
        statements=tuple(Statement(scope, Choice.OUT) for scope in scopes_of(slot, target.topics)),
        identifiers=tuple(identifiers_shown(read, target.region)),
        occurred_at=seen.at,
        origin=target.label,
    )
