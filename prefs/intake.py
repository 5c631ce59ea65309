"""The only door in: match, judge, append, answer, mark.

`record` runs inside one transaction of the writer; when that transaction is on disk, the ledger
row, the state, the permission rows and the marks are all there, or none is. A signal that changes
nothing marks nothing, so that echoes die out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection

from prefs import merges
from prefs.core.errors import NotFound
from prefs.core.fold import (
    RELEASED,
    Entry,
    Judgement,
    State,
    apply,
    judge,
    judge_resume,
    pauses,
    release,
    resume,
    spoke_out,
)
from prefs.core.ids import subject_text
from prefs.core.keys import Keyring
from prefs.core.order import lacking, moment
from prefs.core.signals import (
    DeliveryFact,
    Evidence,
    Identifier,
    Renamed,
    Signal,
    Statement,
    TokenUse,
)
from prefs.core.words import (
    KIND_OF,
    Channel,
    Choice,
    Kind,
    Purpose,
    Result,
    Scope,
    Source,
    Strength,
    Why,
    strength,
)
from prefs.merges import Heard, Keeper
from prefs.store import (
    batches,
    events,
    journals,
    ledger,
    marks,
    notices,
    outbox,
    permissions,
    subjects,
    tally,
    tasks,
)
from prefs.store.batches import Batch
from prefs.store.counters import next_numbers
from prefs.store.ledger import Finding
from prefs.store.subjects import Subject

log = structlog.get_logger()

Clock = Callable[[], datetime]

AMBIGUOUS = Judgement(Result.REFUSED, Why.AMBIGUOUS)


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


@dataclass(frozen=True)
class Intake:
    brands: Mapping[str, str]
    """brand -> its controller."""
    targets: Sequence[TargetInfo]
    keys: Keyring
    clock: Clock

    def record(self, conn: Connection, signal: Signal, *, walking: bool = False) -> Recorded:
        """Take one signal in; `walking`: a walk through its origin found it, and goes on. Raises
        NotFound for an unknown brand."""
        now = self.clock()
        controller = self._controller(signal.brand)
        origin = signal.origin or signal.brand
        if signal.event_key and not events.first_time(
            conn, origin, signal.event_key, now.timestamp()
        ):
            return Recorded(0, 0, (), duplicate=True)
        batch = _batch(conn, signal, now.timestamp())
        if batch:
            signal = replace(signal, batch=batch.label)
        match = self._match(conn, controller, signal, now.timestamp())
        payload = ledger.add_payload(conn, self.keys, _content(signal))
        changes = [self._judge_one(conn, match, subject, signal, now) for subject in match.everyone]
        ledger.append(conn, [row for change in changes for row in change.rows], payload)
        for change in changes:
            if change.rows or change.linked or change.subject.ref == signal.ref:
                subjects.store(conn, change.subject)
        if batch:
            batch = self._grow(conn, batch, signal, changes, now.timestamp(), walking)
        due_at = max(now.timestamp(), batch.due_at) if batch and batch.due_at else None
        self._spread(conn, controller, signal, changes, now.timestamp(), due_at)
        self._ask_confirmation(conn, signal, match, changes, now.timestamp())
        if batch is None or batch.state == batches.OPEN:
            self._ask_about_merges(conn, signal, changes, now.timestamp())
        return _recorded(match, changes)

    def _controller(self, brand: str) -> str:
        if brand not in self.brands:
            raise NotFound("unknown brand")
        return self.brands[brand]

    def _brands_of(self, controller: str) -> list[str]:
        return [brand for brand, owner in self.brands.items() if owner == controller]

    # --- whom is it about ----------------------------------------------------------------------

    def _match(self, conn: Connection, controller: str, signal: Signal, now: float) -> _Match:
        rows = self._identifier_rows(conn, controller, signal, now)
        ids = [id_ for id_, _, _ in rows]
        sharers = {s for found in subjects.linked_to(conn, ids).values() for s in found}
        everyone = subjects.by_ids(conn, sharers)
        named, everyone = self._named(conn, controller, signal, everyone, now)
        if named and named.revision == 0 and named.id not in sharers and not named.last_row_at:
            subjects.store_new(conn, controller, named)
        return _Match(everyone, named, ids, {kind: hash_ for _, kind, hash_ in rows})

    def _identifier_rows(
        self, conn: Connection, controller: str, signal: Signal, now: float
    ) -> list[tuple[int, Kind, bytes]]:
        """The signal's identifiers as rows, made where missing, found under any key in use."""
        wanted: list[tuple[Kind, tuple[bytes, ...], Identifier | None]] = [
            (one.kind, self.keys.hashes(one), one) for one in signal.identifiers
        ]
        wanted += [(kind, (hash_,), None) for kind, hash_ in signal.hashes]
        all_hashes = {hash_ for _, hashes, _ in wanted for hash_ in hashes}
        have = {
            hash_: (id_, spelled)
            for id_, _, hash_, spelled in subjects.find_hashes(conn, controller, all_hashes)
        }
        rows: dict[int, tuple[int, Kind, bytes]] = {}
        for kind, hashes, identifier in wanted:
            hash_ = next((one for one in hashes if one in have), hashes[0])
            if hash_ not in have:
                hashed = (kind, hash_, self.keys.newest_id)
                id_ = subjects.add_identifier(conn, controller, identifier, hashed, self.keys, now)
                have[hash_] = (id_, identifier is not None)
            id_, spelled = have[hash_]
            if identifier and not spelled:
                subjects.spell(conn, controller, hash_, identifier, self.keys)
            rows[id_] = (id_, kind, hash_)
        return list(rows.values())

    def _named(
        self,
        conn: Connection,
        controller: str,
        signal: Signal,
        sharers: list[Subject],
        now: float,
    ) -> tuple[Subject | None, list[Subject]]:
        """The one the signal names, and everybody it may concern (the named one first)."""
        if signal.ref:
            named = subjects.by_ref(conn, controller, signal.ref)
            if named is None and len(sharers) == 1 and sharers[0].ref is None:
                named = sharers[0]._replace(ref=signal.ref)
            if named is None:
                named = subjects.create(signal.ref, signal.name, now)
            return named, [named, *(one for one in sharers if one.id != named.id)]
        if signal.about is not None:
            named = subjects.of_controller(conn, controller, signal.about)
            if named is None:
                raise NotFound("there is no such subject")
            return named, [named, *(one for one in sharers if one.id != named.id)]
        if signal.token and signal.token.subject_id:
            chosen = next((one for one in sharers if one.id == signal.token.subject_id), None)
            return chosen or _only(sharers), sharers
        if not sharers:
            named = subjects.create(None, signal.name, now)
            return named, [named]
        return _only(sharers), sharers

    # --- what becomes of it --------------------------------------------------------------------

    def _judge_one(
        self, conn: Connection, match: _Match, subject: Subject, signal: Signal, now: datetime
    ) -> _Change:
        entries = list(self._entries(conn, match, subject, signal, now))
        change = _Change(subject, [], changed=False, state_moved=False, linked=False)
        if subject.id == match.speaker.id:
            change.linked = self._link(conn, match, subject, now.timestamp())
        state, revision = subject.state, subject.revision
        occurred = signal.occurred_at.timestamp() if signal.occurred_at else None
        for entry, judgement in _judged(state, entries, ambiguous=match.named is None):
            state = apply(state, entry, judgement)
            revision += 1
            change.changed |= _moves(entry, judgement)
            change.rows.append(
                ledger.Row(
                    subject.id,
                    revision,
                    "choice" if entry.until is None else "pause",
                    entry,
                    judgement,
                    occurred,
                    now.timestamp(),
                    signal.origin,
                    signal.batch,
                )
            )
        change.state_moved = state is not subject.state
        name = subject.name or signal.name if subject.id == match.speaker.id else subject.name
        change.subject = subject._replace(
            state=state, revision=revision, name=name, last_row_at=now.timestamp()
        )
        return change

    def _link(self, conn: Connection, match: _Match, subject: Subject, now: float) -> bool:
        """New identifiers hang on the one named (without a name, on the oldest who shares)."""
        return subjects.link(conn, subject.id, match.identifier_ids, now)

    def _entries(
        self, conn: Connection, match: _Match, subject: Subject, signal: Signal, now: datetime
    ) -> Iterable[Entry]:
        statements = self._statements(conn, match, subject, signal)
        ids = next_numbers(conn, "event", len(statements)) if statements else range(0)
        for id_, (brand, statement) in zip(ids, statements, strict=True):
            yield self._entry(conn, match, signal, now, id_, brand, statement)

    def _statements(
        self, conn: Connection, match: _Match, subject: Subject, signal: Signal
    ) -> list[tuple[str, Statement]]:
        """An out goes to everybody; an `in` to the one named, or is refused on the oldest."""
        brands = [signal.brand]
        if signal.every_brand:
            ours = self._brands_of(self.brands[signal.brand])
            brands += [brand for brand in ours if brand != signal.brand]
        speaker = subject.id == match.speaker.id
        return [
            (brand, statement)
            for brand in brands
            for statement in signal.statements
            if speaker or signal.hold or statement.choice is Choice.OUT
        ]

    def _entry(
        self,
        conn: Connection,
        match: _Match,
        signal: Signal,
        now: datetime,
        event_id: int,
        brand: str,
        statement: Statement,
    ) -> Entry:
        scope, said = statement
        choice = None if signal.hold else said
        when = moment(signal.source, choice, signal.occurred_at, now)
        evidence = signal.evidence
        known = choice is Choice.IN and notices.known(conn, brand, evidence.notice)
        if choice is Choice.IN and evidence.notice and evidence.wording:
            notices.keep(conn, brand, evidence.notice, evidence.wording, now.timestamp())
        token = signal.token
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

    # --- what follows --------------------------------------------------------------------------

    def _spread(
        self,
        conn: Connection,
        controller: str,
        signal: Signal,
        changes: Sequence[_Change],
        now: float,
        due_at: float | None,
    ) -> None:
        moved = [c.subject.id for c in changes if c.state_moved or c.linked]
        if moved:
            sharers = self.refresh(conn, controller, moved)
            if any(change.changed or change.linked for change in changes):
                self._mark(conn, signal, changes, sharers, now, due_at)
        self._mark_refusal(conn, signal, changes, now)

    def _grow(
        self,
        conn: Connection,
        batch: Batch,
        signal: Signal,
        changes: Sequence[_Change],
        now: float,
        walking: bool,
    ) -> Batch:
        """Count the outs into their batch; past its limit it waits for a person."""
        outs = sum(change.changed for change in changes)
        holds = signal.source is not Source.API
        if not outs:
            return batch
        grown = batches.grow(conn, batch, outs, now, holds=holds, walking=walking)
        if grown.state == batches.WAITING and batch.state != batches.WAITING:
            for target in self.targets:
                if target.label != grown.origin:
                    batches.hold(conn, grown, target.label, target.channels)
            body = {"batch": grown.label, "origin": grown.origin, "limit": grown.most}
            due = grown.due_at or now
            tasks.add(conn, self.keys, grown.brand, "batch", None, body, now, due)
            merges.run_of_many(conn, self.keys, grown.brand, grown.label, now)
            log.error("batch_held", batch=grown.label, origin=grown.origin, limit=grown.most)
        return grown

    def refresh(self, conn: Connection, controller: str, moved: Sequence[int]) -> set[int]:
        """Recompute the permission rows of these subjects' identifiers; returns the ids of all
        who share one."""
        shared, sharers = self._shared(conn, moved)
        permissions.write(conn, self._brands_of(controller), shared)
        return sharers

    def _shared(
        self, conn: Connection, moved: Sequence[int]
    ) -> tuple[list[tuple[bytes, list[State]]], set[int]]:
        """Each identifier of these subjects with the states of all who share it; their ids."""
        hashes = {
            id_: hash_ for found in subjects.hashes_of(conn, moved).values() for id_, hash_ in found
        }
        linked = subjects.linked_to(conn, hashes)
        sharers = {s for found in linked.values() for s in found} | set(moved)
        states = {one.id: one.state for one in subjects.by_ids(conn, sharers)}
        shared = [
            (hashes[id_], [states[s] for s in sorted(found)]) for id_, found in linked.items()
        ]
        return shared, sharers

    def _mark(
        self,
        conn: Connection,
        signal: Signal,
        changes: Sequence[_Change],
        sharers: set[int],
        now: float,
        due_at: float | None,
    ) -> None:
        brands = {row.entry.brand for change in changes for row in change.rows}
        channels = {row.entry.scope.channel for change in changes for row in change.rows}
        if any(change.linked for change in changes):
            channels = set(Channel)
            brands |= {b for change in changes for b in change.subject.state.scopes}
        urgent = signal.hold or any(s.choice is Choice.OUT for s in signal.statements)
        wanted = [
            (target.label, subject_id, "")
            for target in self.targets
            if target.brand in brands and target.channels & channels
            for subject_id in sorted(sharers)
        ]
        urgent = urgent or _any_out(changes)
        if due_at is None:
            marks.set_marks(conn, wanted, now, urgent=urgent, heard=True)
            return
        own = self._spoke_out(conn, signal.brand, sharers)
        # Who says it is read again at once, and told nothing: it is off there.
        freed = [one for one in wanted if one[:2] in own or one[0] == signal.origin]
        held = [one for one in wanted if one not in freed]
        marks.set_marks(conn, freed, now, urgent=urgent, heard=True)
        marks.set_marks(conn, held, now, urgent=urgent, due_at=due_at)

    def _spoke_out(self, conn: Connection, brand: str, sharers: set[int]) -> set[tuple[str, int]]:
        """The targets, with the subjects, to which an out of the person's own has to go: it waits
        for nobody, and what a batch says of them goes along."""
        return {
            (target.label, one.id)
            for one in subjects.by_ids(conn, sharers)
            for target in self.targets
            if spoke_out(one.state, brand, target.channels)
        }

    def _mark_refusal(
        self, conn: Connection, signal: Signal, changes: Sequence[_Change], now: float
    ) -> None:
        """A target that says `in` against us is told again what stands."""
        if signal.origin is None:
            return
        refused = [
            (signal.origin, change.subject.id, "")
            for change in changes
            if any(row.judgement.result is Result.REFUSED for row in change.rows)
        ]
        marks.set_marks(conn, refused, now, urgent=True)

    def _ask_confirmation(
        self,
        conn: Connection,
        signal: Signal,
        match: _Match,
        changes: Sequence[_Change],
        now: float,
    ) -> None:
        """A form sign-up is pending until the person uses the link that this mail carries."""
        hash_ = match.hashes.get(Kind.EMAIL)
        waiting = [
            [*row.entry.scope]
            for change in changes
            for row in change.rows
            if row.judgement.result is Result.PENDING
        ]
        if waiting and hash_:
            content = {"scopes": waiting, "subject_id": match.speaker.id}
            outbox.add(conn, self.keys, "confirm", signal.brand, hash_, content, now)

    def _ask_about_merges(
        self, conn: Connection, signal: Signal, changes: Sequence[_Change], now: float
    ) -> None:
        """An out that another target's housekeeping may have made is a question to staff."""
        told = next((one for one in self.targets if one.label == signal.origin), None)
        keeper = self._keeper_of(told) if told else None
        if told is None or keeper is None:
            return
        for change in changes:
            rows = [row for row in change.rows if _takes_out(row)]
            if rows:
                out = Heard(
                    target=told.label,
                    system=told.system,
                    brand=told.brand,
                    subject_id=change.subject.id,
                    scopes=[row.entry.scope for row in rows],
                    source=signal.source,
                    at=rows[0].entry.at,
                    batch=signal.batch,
                )
                merges.heard(conn, self.keys, keeper, out, now)

    def _keeper_of(self, told: TargetInfo) -> Keeper | None:
        """The brand's target whose own sync takes people out at the one that told us."""
        for one in self.targets:
            if one.brand == told.brand and told.system in one.unsubscribes_at:
                return Keeper(one.label, one.system)
        return None

    def rebuild(self, conn: Connection) -> int:
        """Write every state anew from the ledger, every permission row from the states, and count
        what the ledger holds by week; returns how many subjects."""
        tally.rebuild(conn)
        total = 0
        for controller in sorted(set(self.brands.values())):
            for ids in subjects.all_ids(conn, controller):
                for one in subjects.by_ids(conn, ids):
                    subjects.store(conn, one._replace(state=ledger.state_of(conn, one.id)))
                self.refresh(conn, controller, ids)
                total += len(ids)
        return total

    def verify(self, conn: Connection) -> Iterator[Finding]:
        """Whether every permission row is what the states behind it add up to."""
        for controller in sorted(set(self.brands.values())):
            brands = self._brands_of(controller)
            for ids in subjects.all_ids(conn, controller):
                shared, _ = self._shared(conn, ids)
                for brand, hash_ in permissions.differing(conn, brands, shared):
                    owners = subjects.owners(conn, controller, [hash_])
                    who = ", ".join(map(subject_text, owners))
                    what = f"what {brand} may send to {who} is not what their states say"
                    yield Finding(None, None, what)

    def owner(self, conn: Connection, brand: str, identifier: Identifier) -> int | None:
        """The one person known by this identifier, if it is one."""
        found = subjects.owners(conn, self._controller(brand), self.keys.hashes(identifier))
        return found[0] if len(found) == 1 else None

    def hashes_of_subject(
        self, conn: Connection, subject_id: int, channel: Channel
    ) -> list[tuple[Kind, bytes]]:
        known = subjects.identifiers_of(conn, [subject_id], self.keys)[subject_id]
        return [(one.kind, one.hash) for one in known if one.kind is KIND_OF[channel]]

    def release(
        self, conn: Connection, brand: str, subject_id: int, channel: Channel, evidence: Evidence
    ) -> None:
        """Staff read an unclear wish as no stop: the hold ends, nothing else changes. Nothing at
        all where nothing is held."""
        now = self.clock()
        (subject,) = subjects.by_ids(conn, [subject_id])
        scope = Scope(channel, Purpose.MARKETING)
        if not subject.state.at(brand, scope).hold:
            return
        (event_id,) = next_numbers(conn, "event", 1)
        entry = Entry(event_id, brand, scope, None, Source.STAFF, now.timestamp())
        payload = ledger.add_payload(conn, self.keys, {"evidence": asdict(evidence)})
        row = ledger.Row(
            subject.id,
            subject.revision + 1,
            "release",
            entry,
            RELEASED,
            None,
            now.timestamp(),
            None,
            None,
        )
        ledger.append(conn, [row], payload)
        subjects.store(
            conn,
            subject._replace(
                state=release(subject.state, entry),
                revision=subject.revision + 1,
                last_row_at=now.timestamp(),
            ),
        )
        self.restored(conn, brand, [subject.id])

    def resume(
        self, conn: Connection, brand: str, subject_id: int, token: TokenUse, evidence: Evidence
    ) -> list[Judgement]:
        """The person ends a pause before its day; what stood before stands again. Tells what
        became of it on each scope."""
        (subject,) = subjects.by_ids(conn, [subject_id])
        at = self.clock().timestamp()
        found = [scope for owner, scope, _ in pauses(subject.state) if owner == brand]
        entries = [
            Entry(
                id_,
                brand,
                scope,
                None,
                Source.CENTRE,
                at,
                token=token.fingerprint,
                token_issued=token.issued_at.timestamp(),
            )
            for id_, scope in zip(next_numbers(conn, "event", len(found)), found, strict=True)
        ]
        judged = [(entry, judge_resume(subject.state, entry)) for entry in entries]
        self._resume(conn, subject, judged, evidence)
        return [judgement for _, judgement in judged]

    def end_pauses(self, conn: Connection, subject_id: int) -> None:
        """Those whose day has come end by themselves; what stood before stands again."""
        (subject,) = subjects.by_ids(conn, [subject_id])
        at = self.clock().timestamp()
        found = [one for one in pauses(subject.state) if (one[2].until or 0.0) <= at]
        ids = next_numbers(conn, "event", len(found))
        entries = [
            Entry(id_, brand, scope, None, pause.source, at)
            for id_, (brand, scope, pause) in zip(ids, found, strict=True)
        ]
        self._resume(conn, subject, [(entry, RELEASED) for entry in entries], Evidence())

    def _resume(
        self,
        conn: Connection,
        subject: Subject,
        judged: Sequence[tuple[Entry, Judgement]],
        evidence: Evidence,
    ) -> None:
        if not judged:
            return
        now, state = self.clock().timestamp(), subject.state
        payload = ledger.add_payload(conn, self.keys, {"evidence": _given(evidence)})
        rows = [
            ledger.Row(subject.id, revision, "resume", entry, judgement, None, now, None, None)
            for revision, (entry, judgement) in enumerate(judged, subject.revision + 1)
        ]
        ledger.append(conn, rows, payload)
        ended = [entry for entry, judgement in judged if judgement.result is Result.APPLIED]
        for entry in ended:
            state = resume(state, entry)
        revision = subject.revision + len(rows)
        subjects.store(conn, subject._replace(state=state, revision=revision, last_row_at=now))
        for brand in sorted({entry.brand for entry in ended}):
            self.restored(conn, brand, [subject.id])

    def restored(self, conn: Connection, brand: str, moved: Sequence[int]) -> None:
        """Something that denied is gone: answer anew, and let every target be told."""
        sharers = self.refresh(conn, self._controller(brand), moved)
        wanted = [
            (target.label, one, "")
            for target in self.targets
            if target.brand == brand
            for one in sorted(sharers)
        ]
        marks.set_marks(conn, wanted, self.clock().timestamp(), urgent=False, heard=True)

    # --- what is no wish -----------------------------------------------------------------------

    def fact(self, conn: Connection, brand: str, origin: str, fact: DeliveryFact) -> None:
        """A delivery fact: denies with `undeliverable`, is never pushed as an opt-out."""
        now = self.clock().timestamp()
        controller = self._controller(brand)
        signal = Signal(brand, Source.VENDOR_API, (), identifiers=(fact.identifier,))
        rows = self._identifier_rows(conn, controller, signal, now)
        for id_, kind, hash_ in rows:
            for channel in _channels_of(kind, fact.purpose):
                pair = (channel, fact.purpose)
                if fact.ended:
                    permissions.end_fact(conn, brand, hash_, pair, origin)
                else:
                    permissions.set_fact(conn, brand, hash_, pair, origin, fact.fact, now)
            sharers = subjects.linked_to(conn, [id_])[id_]
            states = [one.state for one in subjects.by_ids(conn, sharers)]
            permissions.write(conn, [brand], [(hash_, states)])

    def rename(self, conn: Connection, brand: str, origin: str, renamed: Renamed) -> None:
        """A vendor moved a record to another address: standing outs cover the new one too, and
        stay on the old one."""
        now = self.clock().timestamp()
        controller = self._controller(brand)
        old = self._identifier_rows(
            conn, controller, Signal(brand, Source.VENDOR_API, (), (renamed.old,)), now
        )
        new = self._identifier_rows(
            conn, controller, Signal(brand, Source.VENDOR_API, (), (renamed.new,)), now
        )
        owners = {
            subject_id
            for found in subjects.linked_to(conn, [id_ for id_, _, _ in old]).values()
            for subject_id in found
        }
        linked = [s for s in owners if subjects.link(conn, s, [id_ for id_, _, _ in new], now)]
        if linked:
            journals.relink(conn, linked)
            sharers = self.refresh(conn, controller, linked)
            wanted = [
                (target.label, subject_id, "")
                for target in self.targets
                if self.brands[target.brand] == controller
                for subject_id in sorted(sharers)
            ]
            marks.set_marks(conn, wanted, now, urgent=True, heard=True)


def _only(sharers: list[Subject]) -> Subject | None:
    return sharers[0] if len(sharers) == 1 else None


def _judged(
    state: State, entries: Sequence[Entry], *, ambiguous: bool
) -> Iterable[tuple[Entry, Judgement]]:
    """Each entry over what the ones before it in the same signal left."""
    for entry in entries:
        refuse = ambiguous and entry.choice is Choice.IN
        judgement = AMBIGUOUS if refuse else judge(state, entry)
        state = apply(state, entry, judgement)
        yield entry, judgement


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


def _stops_all(signal: Signal) -> bool:
    """An out on all five channels made by one signal."""
    if signal.until:
        return False
    outs = {
        scope.channel
        for scope, choice in signal.statements
        if choice is Choice.OUT and scope.purpose is Purpose.MARKETING and scope.topic is None
    }
    return outs == set(Channel)


def _channels_of(kind: Kind, purpose: Purpose) -> list[Channel]:
    channels = [channel for channel, of in KIND_OF.items() if of is kind]
    return [channel for channel in channels if channel is not Channel.PHONE]


def _content(signal: Signal) -> dict[str, Any]:
    """What the ledger keeps, salted and encrypted, as proof of the signal."""
    content: dict[str, Any] = {"evidence": _given(signal.evidence)}
    if signal.identifiers:
        content["identifiers"] = [[one.kind.value, one.spelling] for one in signal.identifiers]
    if signal.soft_opt_in:
        content["soft_opt_in"] = asdict(signal.soft_opt_in)
    if signal.raw:
        content["raw"] = signal.raw
    return content


def _given(evidence: Evidence) -> dict[str, Any]:
    return {name: value for name, value in asdict(evidence).items() if value is not None}


def _batch(conn: Connection, signal: Signal, now: float) -> Batch | None:
    """The run that an out belongs to which no person and no staff said."""
    machine = strength(signal.source) is Strength.MACHINE
    if not machine or all(s.choice is not Choice.OUT for s in signal.statements):
        return None
    origin = signal.batch or signal.origin or signal.source.value
    return batches.join(conn, signal.brand, origin, now)


def _recorded(match: _Match, changes: Sequence[_Change]) -> Recorded:
    speaker = next(change for change in changes if change.subject.id == match.speaker.id)
    outcomes = tuple(
        Outcome(
            Statement(row.entry.scope, row.entry.choice or Choice.OUT),
            row.judgement.result,
            row.judgement.why,
            row.entry.event_id,
        )
        for row in speaker.rows
    )
    also = tuple(c.subject.id for c in changes if c is not speaker and c.rows)
    return Recorded(speaker.subject.id, speaker.subject.revision, outcomes, also)
