"""The only door in.

`record` runs inside one transaction of the writer: what becomes of a signal stands in `taking`.
Beside it: what ends a hold or a pause, delivery facts, renamed addresses, and the proof that what
is kept is what the ledger says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import islice
from operator import itemgetter

from sqlalchemy import Connection

from prefs.core.errors import NotFound
from prefs.core.fold import (
    RELEASED,
    Entry,
    Judgement,
    State,
    judge_resume,
    pauses,
    release,
    resume,
)
from prefs.core.ids import subject_text
from prefs.core.keys import Keyring
from prefs.core.signals import DeliveryFact, Evidence, Identifier, Renamed, Signal, TokenUse
from prefs.core.words import KIND_OF, Channel, Kind, Purpose, Result, Scope, Source
from prefs.store import journals, ledger, marks, permissions, subjects, tally
from prefs.store.circle import Circle, named_of
from prefs.store.counters import next_numbers
from prefs.store.ledger import Finding
from prefs.store.subjects import Subject
from prefs.taking import Outcome, Recorded, Taking, TargetInfo, given

__all__ = ["Clock", "Intake", "Outcome", "Recorded", "TargetInfo"]

Clock = Callable[[], datetime]

PAGE = 1000
"""Identifiers whose rows are looked into at once."""


@dataclass(frozen=True)
class Intake:
    brands: Mapping[str, str]
    """brand -> its controller."""
    targets: Sequence[TargetInfo]
    keys: Keyring
    clock: Clock

    def record(self, conn: Connection, signal: Signal, *, walking: bool = False) -> Recorded:
        """Take one signal in. Raises NotFound for an unknown brand or subject."""
        (recorded,) = self.record_many(conn, [signal], walking=walking)
        return recorded

    def record_many(
        self, conn: Connection, signals: Sequence[Signal], *, walking: bool = False
    ) -> list[Recorded]:
        """Take signals in, one after the other; `walking`: a walk through their origin found them,
        and goes on. Raises NotFound for an unknown brand or subject: then none is to be kept."""
        now = self.clock()
        done: dict[int, Recorded] = {}
        for controller in dict.fromkeys(self._controller(one.brand) for one in signals):
            own = [n for n, one in enumerate(signals) if self.brands[one.brand] == controller]
            taking = Taking(conn, controller, self.brands, self.targets, self.keys, now, walking)
            done |= zip(own, taking.run([signals[n] for n in own]), strict=True)
        return [done[number] for number in range(len(signals))]

    def _controller(self, brand: str) -> str:
        if brand not in self.brands:
            raise NotFound("unknown brand")
        return self.brands[brand]

    def _brands_of(self, controller: str) -> list[str]:
        return [brand for brand, owner in self.brands.items() if owner == controller]

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
        for brand, controller in sorted(self.brands.items(), key=itemgetter(1, 0)):
            doubtful = permissions.doubtful(conn, controller, brand)
            while page := list(islice(doubtful, PAGE)):
                for _, hash_ in permissions.differing(conn, [brand], page):
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
                last_row_at=subject.now(now.timestamp()),
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
        payload = ledger.add_payload(conn, self.keys, {"evidence": given(evidence)})
        rows = [
            ledger.Row(subject.id, revision, "resume", entry, judgement, None, now, None, None)
            for revision, (entry, judgement) in enumerate(judged, subject.revision + 1)
        ]
        ledger.append(conn, rows, payload)
        ended = [entry for entry, judgement in judged if judgement.result is Result.APPLIED]
        for entry in ended:
            state = resume(state, entry)
        revision = subject.revision + len(rows)
        subjects.store(
            conn, subject._replace(state=state, revision=revision, last_row_at=subject.now(now))
        )
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
        circle, rows = self._circle(conn, self._controller(brand), fact.identifier, now)
        for kind, hash_ in rows.values():
            for channel in _channels_of(kind, fact.purpose):
                pair = (channel, fact.purpose)
                if fact.ended:
                    permissions.end_fact(conn, brand, hash_, pair, origin)
                else:
                    permissions.set_fact(conn, brand, hash_, pair, origin, fact.fact, now)
            states = [one.state for one in circle.sharing(rows)]
            permissions.write(conn, [brand], [(hash_, states)])

    def _circle(
        self, conn: Connection, controller: str, identifier: Identifier, now: float
    ) -> tuple[Circle, dict[int, tuple[Kind, bytes]]]:
        circle = Circle(conn, controller, self.keys, now)
        named = named_of(self.keys, [identifier], [])
        circle.gather(named)
        return circle, circle.identifiers(named)

    def rename(self, conn: Connection, brand: str, origin: str, renamed: Renamed) -> None:
        """A vendor moved a record to another address: standing outs cover the new one too, and
        stay on the old one."""
        now = self.clock().timestamp()
        controller = self._controller(brand)
        circle, old = self._circle(conn, controller, renamed.old, now)
        _, new = self._circle(conn, controller, renamed.new, now)
        owners = [one.id for one in circle.sharing(old)]
        linked = [one for one in owners if subjects.link(conn, one, new, now)]
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


def _channels_of(kind: Kind, purpose: Purpose) -> list[Channel]:
    channels = [channel for channel, of in KIND_OF.items() if of is kind]
    return [channel for channel in channels if channel is not Channel.PHONE]
