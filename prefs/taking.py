"""Taking signals in: match, judge, append, answer, mark.

Many signals are taken in one after the other, in memory, and written together: what each does is
the same as if it came alone. When their transaction is on disk, ledger rows, states, permission
rows and marks are all there, or none is. A signal that changes nothing marks nothing, so that
echoes die out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection

from prefs import merges
from prefs.core.errors import NotFound
from prefs.core.fold import Entry, Judgement, State, apply, judge, spoke_out
from prefs.core.keys import Keyring
from prefs.core.order import lacking, moment
from prefs.core.signals import Evidence, Signal, Statement
from prefs.core.words import (
    KIND_OF,
    Channel,
    Choice,
    Kind,
    Purpose,
    Result,
    Source,
    Strength,
    Why,
    strength,
)
from prefs.merges import Heard, Keeper
from prefs.store import (
    batches,
    events,
    ledger,
    marks,
    notices,
    outbox,
    permissions,
    subjects,
    tasks,
)
from prefs.store.batches import Batch
from prefs.store.circle import Circle, Named, named_of
from prefs.store.counters import Numbers
from prefs.store.marks import Marking
from prefs.store.subjects import Subject

log = structlog.get_logger()

EVERY_CHANNEL = frozenset(Channel)
_EVIDENCE = [one.name for one in fields(Evidence)]
AMBIGUOUS = Judgement(Result.REFUSED, Why.AMBIGUOUS)

Run = tuple[str, str]
"""Brand and origin."""


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """What the intake must know of a target: whom to mark, and whose housekeeping it may hear."""

    label: str
    brand: str
    channels: frozenset[Channel]
    system: str = ""
    unsubscribes_at: frozenset[str] = frozenset()


class Outcome(NamedTuple):
    statement: Statement
    result: Result
    why: Why
    event_id: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a signal. `subject_id` is the one named, else the oldest of several."""

    subject_id: int
    revision: int
    outcomes: tuple[Outcome, ...]
    also: tuple[int, ...] = ()
    duplicate: bool = False


DUPLICATE = Recorded(0, 0, (), duplicate=True)


@dataclass(slots=True)
class _Match:
    """Whom a signal is about."""

    everyone: list[Subject]
    named: Subject | None
    identifier_ids: list[int]
    hashes: dict[Kind, bytes] = field(default_factory=dict)

    @property
    def speaker(self) -> Subject:
        return self.named or min(self.everyone, key=lambda one: (one.created_at, one.id))


@dataclass(slots=True)
class _Change:
    """What one signal did to one subject."""

    subject: Subject
    rows: list[ledger.Row]
    changed: bool
    state_moved: bool
    linked: bool


@dataclass(slots=True)
class _Taken:
    signal: Signal
    match: _Match
    changes: list[_Change]
    batch: Batch | None
    sharers: set[int] = field(default_factory=set)
    """Everybody who shared an identifier with one who moved, then."""

    @property
    def moved(self) -> list[int]:
        return [one.subject.id for one in self.changes if one.state_moved or one.linked]


@dataclass(slots=True)
class Taking:
    """Signals of one controller that are taken in together."""

    conn: Connection
    controller: str
    brands: Mapping[str, str]
    targets: Sequence[TargetInfo]
    keys: Keyring
    now: datetime
    walking: bool
    """A walk through their origin found them, and goes on."""
    at: float = field(init=False)
    """`now`, in seconds."""
    circle: Circle = field(init=False)
    _numbers: Numbers = field(init=False)
    _joined: Mapping[Run | None, Batch] = field(default_factory=dict)
    _notices: dict[tuple[str, str], bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.at = self.now.timestamp()

    def run(self, signals: Sequence[Signal]) -> list[Recorded]:
        """Raises NotFound where one names a subject that there is not: then nothing is kept."""
        heard = [self._is_first(one) for one in signals]
        fresh = [one for one, first in zip(signals, heard, strict=True) if first]
        brought = [named_of(self.keys, one.identifiers, one.hashes) for one in fresh]
        self._gather(fresh, brought)
        self._join(fresh)
        taken = [self._take(one, named) for one, named in zip(fresh, brought, strict=True)]
        self._write(taken)
        self._follow(taken)
        done = iter(taken)
        return [_recorded(next(done)) if first else DUPLICATE for first in heard]

    def _is_first(self, signal: Signal) -> bool:
        origin = signal.origin or signal.brand
        key = signal.event_key
        return key is None or events.first_time(self.conn, origin, key, self.at)

    def _join(self, fresh: Iterable[Signal]) -> None:
        """The batches that these belong to, in the order in which they are locked."""
        runs = {run for one in fresh if (run := _run_of(one))}
        self._joined = {run: batches.join(self.conn, *run, self.at) for run in sorted(runs)}

    def _gather(self, fresh: Sequence[Signal], brought: Iterable[list[Named]]) -> None:
        self.circle = Circle(self.conn, self.controller, self.keys, self.at)
        refs = {one.ref for one in fresh if one.ref}
        about = {one.about for one in fresh if one.about is not None}
        self.circle.gather([one for named in brought for one in named], refs, about)
        said = sum(len(one.statements) for one in fresh)
        self._numbers = Numbers(self.conn, "event", max(1, said))

    # --- whom is it about ----------------------------------------------------------------------

    def _take(self, signal: Signal, brought: list[Named]) -> _Taken:
        match, batch = self._match(signal, brought), self._joined.get(_run_of(signal))
        run = batch.label if batch else signal.batch
        changes = [self._judge_one(match, subject, signal, run) for subject in match.everyone]
        for change in changes:
            if change.rows or change.linked or signal.ref:
                self.circle.put(change.subject)
        taken = _Taken(signal, match, changes, batch)
        taken.sharers = self.circle.around(taken.moved)
        return taken

    def _match(self, signal: Signal, brought: list[Named]) -> _Match:
        rows = self.circle.identifiers(brought)
        named, everyone = self._named(signal, self.circle.sharing(rows))
        return _Match(everyone, named, list(rows), dict(rows.values()))

    def _named(
        self, signal: Signal, sharers: list[Subject]
    ) -> tuple[Subject | None, list[Subject]]:
        """The one the signal names, and everybody it may concern (the named one first)."""
        if signal.ref:
            named = self.circle.by_ref(signal.ref)
            if named is None and len(sharers) == 1 and sharers[0].ref is None:
                named = sharers[0]._replace(ref=signal.ref)
            return _first(named or self._create(signal), sharers)
        if signal.about is not None:
            about = self.circle.one(signal.about)
            if about is None:
                raise NotFound("there is no such subject")
            return _first(about, sharers)
        if signal.token and signal.token.subject_id:
            chosen = next((one for one in sharers if one.id == signal.token.subject_id), None)
            return chosen or _only(sharers), sharers
        return _first(self._create(signal), []) if not sharers else (_only(sharers), sharers)

    def _create(self, signal: Signal) -> Subject:
        subject = subjects.create(signal.ref, signal.name, self.at)
        self.circle.add(subject)
        return subject

    # --- what becomes of it --------------------------------------------------------------------

    def _judge_one(
        self, match: _Match, subject: Subject, signal: Signal, run: str | None
    ) -> _Change:
        """New identifiers hang on the one named (without a name, on the oldest who shares)."""
        speaks = subject.id == match.speaker.id
        linked = speaks and self.circle.link(subject.id, match.identifier_ids)
        entries = self._entries(match, subject, signal)
        state, judged = _judge(subject.state, entries, ambiguous=match.named is None)
        return _Change(
            subject._replace(
                state=state,
                revision=subject.revision + len(judged),
                name=subject.name or signal.name if speaks else subject.name,
                last_row_at=subject.now(self.at),
            ),
            [
                self._row(subject, revision, signal, run, *one)
                for revision, one in enumerate(judged, subject.revision + 1)
            ],
            any(_moves(*one) for one in judged),
            state is not subject.state,
            linked,
        )

    def _row(
        self,
        subject: Subject,
        revision: int,
        signal: Signal,
        run: str | None,
        entry: Entry,
        judgement: Judgement,
    ) -> ledger.Row:
        return ledger.Row(
            subject.id,
            revision,
            "choice" if entry.until is None else "pause",
            entry,
            judgement,
            signal.occurred_at.timestamp() if signal.occurred_at else None,
            self.at,
            signal.origin,
            run,
        )

    def _entries(self, match: _Match, subject: Subject, signal: Signal) -> list[Entry]:
        statements = self._statements(match, subject, signal)
        ids = self._numbers.take(len(statements))
        return [
            self._entry(match, subject, signal, id_, brand, statement)
            for id_, (brand, statement) in zip(ids, statements, strict=True)
        ]

    def _statements(
        self, match: _Match, subject: Subject, signal: Signal
    ) -> list[tuple[str, Statement]]:
        """An out goes to everybody; an `in` to the one named, or is refused on the oldest."""
        speaks = subject.id == match.speaker.id
        brands = self._all_brands(signal.brand) if signal.every_brand else [signal.brand]
        return [
            (brand, statement)
            for brand in brands
            for statement in signal.statements
            if speaks or signal.hold or statement.choice is Choice.OUT
        ]

    def _all_brands(self, first: str) -> list[str]:
        """The controller's, the one that was spoken to first."""
        return [first, *(brand for brand in self._own_brands() if brand != first)]

    def _own_brands(self) -> list[str]:
        return [brand for brand, owner in self.brands.items() if owner == self.controller]

    def _entry(
        self,
        match: _Match,
        subject: Subject,
        signal: Signal,
        event_id: int,
        brand: str,
        statement: Statement,
    ) -> Entry:
        scope, said = statement
        choice = None if signal.hold else said
        when = moment(signal.source, choice, signal.occurred_at, self._received(subject, choice))
        evidence, token = signal.evidence, signal.token
        known = choice is Choice.IN and self._notice(brand, evidence)
        ends = signal.until and choice is Choice.OUT and scope.purpose is Purpose.MARKETING
        return Entry(
            event_id=event_id,
            brand=brand,
            scope=scope,
            choice=choice,
            source=signal.source,
            at=when.at.timestamp(),
            sane_time=when.sane,
            identifier=match.hashes.get(KIND_OF[scope.channel], b""),
            basis=signal.basis,
            lacks=lacking(scope, signal.basis, signal.soft_opt_in, evidence, known),
            noted=bool(evidence.actor and evidence.note),
            proof=bool(evidence.proof),
            token=token.fingerprint if token else b"",
            token_issued=token.issued_at.timestamp() if token else None,
            stop_all=_stops_all(signal),
            until=signal.until.timestamp() if signal.until and ends else None,
        )

    def _received(self, subject: Subject, choice: Choice | None) -> datetime:
        """What denies and counts from receipt is never older than what was heard before it; what
        allows gains nothing by that."""
        if choice is Choice.IN:
            return self.now
        return datetime.fromtimestamp(subject.now(self.at), UTC)

    def _notice(self, brand: str, evidence: Evidence) -> bool:
        """Whether the notice was known before; with its wording it is from now on."""
        if not evidence.notice:
            return False
        key = (brand, evidence.notice)
        if key not in self._notices:
            self._notices[key] = notices.known(self.conn, *key)
        known = self._notices[key]
        if evidence.wording and not known:
            notices.keep(self.conn, *key, evidence.wording, self.at)
            self._notices[key] = True
        return known

    # --- what is written -----------------------------------------------------------------------

    def _write(self, taken: Sequence[_Taken]) -> None:
        self.circle.write()
        payloads = ledger.add_payloads(
            self.conn, self.keys, [_content(one.signal) for one in taken]
        )
        ledger.append_all(
            self.conn,
            [
                (row, payload)
                for one, payload in zip(taken, payloads, strict=True)
                for change in one.changes
                for row in change.rows
            ],
        )
        moved = {id_ for one in taken for id_ in one.moved}
        if moved:
            permissions.write(self.conn, self._own_brands(), self.circle.shared(moved))

    def _follow(self, taken: Sequence[_Taken]) -> None:
        """What goes out to others."""
        self._grow(taken)
        marks.set_all(self.conn, [mark for one in taken for mark in self._marks(one)], self.at)
        for one in taken:
            self._ask_confirmation(one)
            if one.batch is None or one.batch.state == batches.OPEN:
                self._ask_about_merges(one)

    def _grow(self, taken: Sequence[_Taken]) -> None:
        """Count outs into their batches; one past its limit waits for a person."""
        for batch in self._joined.values():
            of_batch = [one for one in taken if one.batch is batch]
            outs = sum(change.changed for one in of_batch for change in one.changes)
            holds = any(one.signal.source is not Source.API for one in of_batch)
            grown = batch
            if outs:
                grown = batches.grow(
                    self.conn, batch, outs, self.at, holds=holds, walking=self.walking
                )
            if grown.state == batches.WAITING and batch.state != batches.WAITING:
                self._hold(grown)
            for one in of_batch:
                one.batch = grown

    def _hold(self, batch: Batch) -> None:
        for target in self.targets:
            if target.label != batch.origin:
                batches.hold(self.conn, batch, target.label, target.channels)
        body = {"batch": batch.label, "origin": batch.origin, "limit": batch.most}
        due = batch.due_at or self.at
        tasks.add(self.conn, self.keys, batch.brand, "batch", None, body, self.at, due)
        merges.run_of_many(self.conn, self.keys, batch.brand, batch.label, self.at)
        if self.targets:  # of a dry run nothing waits
            log.error("batch_held", batch=batch.label, origin=batch.origin, limit=batch.most)

    def _marks(self, one: _Taken) -> Iterable[Marking]:
        moved = any(change.changed or change.linked for change in one.changes)
        if moved and self.targets and one.moved:
            yield from self._marks_of_change(one)
        yield from _marks_of_refusal(one)

    def _marks_of_change(self, one: _Taken) -> Iterable[Marking]:
        signal, changes, batch = one.signal, one.changes, one.batch
        brands = {row.entry.brand for change in changes for row in change.rows}
        channels: Collection[Channel] = {
            row.entry.scope.channel for change in changes for row in change.rows
        }
        if any(change.linked for change in changes):
            channels = EVERY_CHANNEL
            brands |= {b for change in changes for b in change.subject.state.scopes}
        urgent = signal.hold or any(s.choice is Choice.OUT for s in signal.statements)
        urgent = urgent or _any_out(changes)
        held_until = max(self.at, batch.due_at) if batch and batch.due_at else None
        for target in self.targets:
            if target.brand not in brands or target.channels.isdisjoint(channels):
                continue
            for id_ in sorted(one.sharers):
                # Who says it is read again at once, and told nothing: it is off there. And an out
                # of a person's own waits for nobody: what a batch says of them goes along.
                free = held_until is None or target.label == signal.origin
                free = free or spoke_out(self.circle.state(id_), signal.brand, target.channels)
                due_at = self.at if free or held_until is None else held_until
                yield Marking(target.label, id_, "", urgent, due_at, heard=free)

    def _ask_confirmation(self, one: _Taken) -> None:
        """A form sign-up is pending until the person uses the link that this mail carries."""
        hash_ = one.match.hashes.get(Kind.EMAIL)
        waiting = [
            [*row.entry.scope]
            for change in one.changes
            for row in change.rows
            if row.judgement.result is Result.PENDING
        ]
        if waiting and hash_:
            content = {"scopes": waiting, "subject_id": one.match.speaker.id}
            outbox.add(self.conn, self.keys, "confirm", one.signal.brand, hash_, content, self.at)

    def _ask_about_merges(self, one: _Taken) -> None:
        """An out that another target's housekeeping may have made is a question to staff."""
        told = next((info for info in self.targets if info.label == one.signal.origin), None)
        keeper = self._keeper_of(told) if told else None
        if told is None or keeper is None:
            return
        for change in one.changes:
            rows = [row for row in change.rows if _takes_out(row)]
            if rows:
                out = Heard(
                    target=told.label,
                    system=told.system,
                    brand=told.brand,
                    subject_id=change.subject.id,
                    scopes=[row.entry.scope for row in rows],
                    source=one.signal.source,
                    at=rows[0].entry.at,
                    batch=one.batch.label if one.batch else one.signal.batch,
                )
                merges.heard(self.conn, self.keys, keeper, out, self.at)

    def _keeper_of(self, told: TargetInfo) -> Keeper | None:
        """The brand's target whose own sync takes people out at the one that told us."""
        for one in self.targets:
            if one.brand == told.brand and told.system in one.unsubscribes_at:
                return Keeper(one.label, one.system)
        return None


def _run_of(signal: Signal) -> Run | None:
    """An out that no person and no staff said belongs to a run."""
    machine = strength(signal.source) is Strength.MACHINE
    if not machine or all(s.choice is not Choice.OUT for s in signal.statements):
        return None
    return signal.brand, signal.batch or signal.origin or signal.source.value


def _first(named: Subject, sharers: Iterable[Subject]) -> tuple[Subject, list[Subject]]:
    return named, [named, *(one for one in sharers if one.id != named.id)]


def _only(sharers: list[Subject]) -> Subject | None:
    return sharers[0] if len(sharers) == 1 else None


def _judge(
    state: State, entries: Iterable[Entry], *, ambiguous: bool
) -> tuple[State, list[tuple[Entry, Judgement]]]:
    """Each entry over what the ones before it in the same signal left."""
    judged = []
    for entry in entries:
        refuse = ambiguous and entry.choice is Choice.IN
        judgement = AMBIGUOUS if refuse else judge(state, entry)
        state = apply(state, entry, judgement)
        judged.append((entry, judgement))
    return state, judged


def _moves(entry: Entry, judgement: Judgement) -> bool:
    if judgement.result is Result.APPLIED:
        return True
    return entry.choice is None and judgement.result is Result.HELD


def _takes_out(row: ledger.Row) -> bool:
    applied = row.judgement.result is Result.APPLIED
    return applied and row.entry.choice is Choice.OUT


def _any_out(changes: Sequence[_Change]) -> bool:
    return any(
        standing.outs or standing.hold
        for change in changes
        if change.linked
        for of_brand in change.subject.state.scopes.values()
        for standing in of_brand.values()
    )


def _marks_of_refusal(one: _Taken) -> Iterable[Marking]:
    """A target that says `in` against us is told again what stands."""
    if one.signal.origin is None:
        return
    for change in one.changes:
        if any(row.judgement.result is Result.REFUSED for row in change.rows):
            at = change.rows[0].received_at
            yield Marking(one.signal.origin, change.subject.id, "", True, at, heard=False)


def _stops_all(signal: Signal) -> bool:
    """An out on all five channels made by one signal."""
    if signal.until or len(signal.statements) < len(EVERY_CHANNEL):
        return False
    outs = {
        scope.channel
        for scope, choice in signal.statements
        if choice is Choice.OUT and scope.purpose is Purpose.MARKETING and scope.topic is None
    }
    return outs == EVERY_CHANNEL


def _content(signal: Signal) -> dict[str, Any]:
    """What the ledger keeps, salted and encrypted, as proof of the signal."""
    content: dict[str, Any] = {"evidence": given(signal.evidence)}
    if signal.identifiers:
        content["identifiers"] = [[one.kind.value, one.spelling] for one in signal.identifiers]
    if signal.soft_opt_in:
        content["soft_opt_in"] = asdict(signal.soft_opt_in)
    if signal.raw:
        content["raw"] = signal.raw
    return content


_given = attrgetter(*_EVIDENCE)


def given(evidence: Evidence) -> dict[str, Any]:
    """What there is of it."""
    said = zip(_EVIDENCE, _given(evidence), strict=True)
    return {name: value for name, value in said if value is not None}


def _recorded(taken: _Taken) -> Recorded:
    changes = taken.changes
    speaker = next(one for one in changes if one.subject.id == taken.match.speaker.id)
    outcomes = tuple(
        Outcome(
            Statement(row.entry.scope, row.entry.choice or Choice.OUT),
            row.judgement.result,
            row.judgement.why,
            row.entry.event_id,
        )
        for row in speaker.rows
    )
    also = tuple(one.subject.id for one in changes if one is not speaker and one.rows)
    return Recorded(speaker.subject.id, speaker.subject.revision, outcomes, also)
