"""Marks, lanes, receipts, records: what each target has not confirmed yet, and what it has.

A mark says "target T has not confirmed subject S since mark number N". Setting it again replaces
its number; clearing it needs the number that was claimed and the epoch that claimed it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    TextClause,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    not_,
    or_,
    select,
    update,
)

from prefs.core.propagation import Outcome, Receipt, Slot, Value, Wish
from prefs.store import dialect
from prefs.store.counters import next_numbers
from prefs.store.hot import ByKeys, Statement
from prefs.store.schema import (
    HONOURED,
    identifiers,
    lanes,
    links,
    marks,
    pushbacks,
    receipts,
    record_identifiers,
    records,
)


class Mark(NamedTuple):
    subject_id: int
    vendor_id: str
    number: int
    urgent: bool
    since: float
    attempts: int
    claimed_before: bool
    """Claimed under another epoch: that worker's call may still be under way."""
    unsettled_until: float | None


class Lease(NamedTuple):
    target: str
    holder: str
    epoch: int


class Marking(NamedTuple):
    """A mark to set. Only something `heard` of the person, here or by staff, frees a mark that a
    batch holds back: what a target shows or tells does not."""

    target: str
    subject_id: int
    vendor_id: str
    urgent: bool
    due_at: float
    heard: bool


def set_marks(
    conn: Connection,
    wanted: Iterable[tuple[str, int, str]],
    now: float,
    *,
    urgent: bool,
    heard: bool = False,
) -> None:
    """Mark (target, subject id, vendor id) each, due now."""
    set_all(conn, [Marking(*one, urgent, now, heard) for one in wanted], now)


def set_all(conn: Connection, wanted: Sequence[Marking], now: float) -> None:
    """One after the other where several are for the same; in the order in which rows are locked."""
    numbers = next_numbers(conn, "mark", len(wanted)) if wanted else ()
    rows = [
        {
            **one._asdict(),
            "urgent": int(one.urgent),
            "b_heard": int(one.heard),
            "number": number,
            "since": now,
            "attempts": 0,
        }
        for one, number in zip(sorted(wanted, key=lambda one: one[:3]), numbers, strict=True)
    ]
    _SET.run_many(conn, rows)


_FIELDS = ("target", "subject_id", "vendor_id", "number", "urgent", "due_at", "since", "attempts")
_insert = dialect.insert(marks).values({name: bindparam(name) for name in _FIELDS})
_unheard = bindparam("b_heard", type_=Integer) == 0
_SET = Statement(
    _insert.on_conflict_do_update(
        index_elements=["target", "subject_id", "vendor_id"],
        set_={
            "number": _insert.excluded.number,
            "urgent": dialect.greatest(marks.c.urgent, _insert.excluded.urgent),
            # An out is not as old as the opt-in that waited before it.
            "since": case(
                (marks.c.urgent < _insert.excluded.urgent, _insert.excluded.since),
                else_=marks.c.since,
            ),
            # A mark that was never tried and is due later is one that is held back (or its target
            # parked).
            "due_at": case(
                (
                    and_(marks.c.attempts == 0, bindparam("b_heard", type_=Integer) == 0),
                    marks.c.due_at,
                ),
                else_=dialect.least(marks.c.due_at, _insert.excluded.due_at),
            ),
            "attempts": 0,
        },
    )
)


# --- lanes -----------------------------------------------------------------------------------


def take_lease(
    conn: Connection, target: str, holder: str, now: float, seconds: float
) -> Lease | None:
    """Become (or stay) the one worker of a target. A new holder gets a new epoch."""
    row = _lane(conn, target)
    if row.holder == holder and row.lease_until > now:
        epoch = row.epoch
    elif row.holder is None or row.lease_until <= now:
        epoch = row.epoch + 1
    else:
        return None
    conn.execute(
        update(lanes)
        .where(lanes.c.target == target, lanes.c.epoch == row.epoch)
        .values(holder=holder, epoch=epoch, lease_until=now + seconds)
    )
    return Lease(target, holder, epoch)


def _lane(conn: Connection, target: str) -> Any:
    """The lane's row, made at first sight, held by nobody."""
    row = lane(conn, target)
    if row is None:
        conn.execute(insert(lanes), {"target": target, "epoch": 0, "lease_until": 0.0})
        row = lane(conn, target)
    return row


def _ours(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    """An epoch alone may come again: after a failover to a copy that did not know of it yet."""
    own = lanes.c.epoch == lease.epoch, lanes.c.holder == lease.holder
    return lanes.c.target == lease.target, *own


def give_lease_up(conn: Connection, lease: Lease) -> None:
    conn.execute(update(lanes).where(*_ours(lease)).values(holder=None, lease_until=0.0))


def held_until(conn: Connection, lease: Lease, now: float) -> float | None:
    """When the lease ends, if it is still ours and has time left."""
    row = conn.execute(
        select(lanes.c.epoch, lanes.c.holder, lanes.c.lease_until).where(
            lanes.c.target == lease.target
        )
    ).first()
    if row is None or (row.epoch, row.holder) != (lease.epoch, lease.holder):
        return None
    return float(row.lease_until) if row.lease_until > now else None


def lane(conn: Connection, target: str) -> Any | None:
    return conn.execute(select(lanes).where(lanes.c.target == target)).first()


def presence(holder: str) -> str:
    """The name of the row by which a worker is seen that holds no lane; a target's has no blank."""
    return f"worker {holder}"


def leave(conn: Connection, holder: str) -> None:
    conn.execute(delete(lanes).where(lanes.c.target == presence(holder)))


def forget_workers(conn: Connection, before: float) -> None:
    """Those that ended without a word."""
    seen = lanes.c.target.startswith(presence(""))
    conn.execute(delete(lanes).where(seen, lanes.c.lease_until < before))


def holders(conn: Connection, now: float) -> int:
    """How many worker processes hold a lane, or wait for one."""
    return int(
        conn.execute(
            select(func.count(lanes.c.holder.distinct())).where(lanes.c.lease_until > now)
        ).scalar_one()
    )


def set_lane(conn: Connection, lease: Lease, **values: Any) -> bool:
    """Change a lane's row under our epoch; False when it is no longer ours."""
    done = conn.execute(update(lanes).where(*_ours(lease)).values(**values))
    return done.rowcount == 1


def left(conn: Connection, labels: Collection[str]) -> list[str]:
    """Targets other than these whose standing outs were marked once."""
    others = (lanes.c.places.is_not(None), lanes.c.target.not_in(sorted(labels)))
    return list(conn.execute(select(lanes.c.target).where(*others)).scalars())


def forget_places(conn: Connection, targets: Collection[str]) -> None:
    """At the next start of these targets every standing out is marked again."""
    conn.execute(update(lanes).where(lanes.c.target.in_(sorted(targets))).values(places=None))


def uploaded(conn: Connection, target: str, at: float) -> None:
    """Everybody at an assisted target was seen in an upload."""
    _lane(conn, target)
    conn.execute(update(lanes).where(lanes.c.target == target).values(walked_at=at))


def set_unsafe(conn: Connection, target: str, since: float | None) -> None:
    _lane(conn, target)
    conn.execute(update(lanes).where(lanes.c.target == target).values(unsafe_since=since))


# --- claiming and clearing --------------------------------------------------------------------


def claim(
    conn: Connection, lease: Lease, now: float, limit: int, calm_limit: int | None = None
) -> list[Mark]:
    """The marks that are due, claimed under this lease's epoch: outs first and by themselves, so
    that they alone use the whole budget. Of others at most `calm_limit`."""
    due = _due(conn, lease, now, limit, urgent=True)
    due = due or _due(conn, lease, now, limit if calm_limit is None else calm_limit, urgent=False)
    found = [_mark(row, lease.epoch) for row in due]
    _CLAIM.run_many(
        conn,
        [
            {
                "b_target": lease.target,
                "b_subject": mark.subject_id,
                "b_vendor": mark.vendor_id,
                "b_epoch": lease.epoch,
                "b_now": now,
            }
            for mark in found
        ],
    )
    return found


def _due(conn: Connection, lease: Lease, now: float, limit: int, *, urgent: bool) -> Sequence[Any]:
    return conn.execute(
        select(marks)
        .where(marks.c.target == lease.target, marks.c.urgent == int(urgent), marks.c.due_at <= now)
        .order_by(marks.c.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()


_CLAIM = Statement(
    update(marks)
    .where(
        marks.c.target == bindparam("b_target"),
        marks.c.subject_id == bindparam("b_subject"),
        marks.c.vendor_id == bindparam("b_vendor"),
    )
    .values(
        claimed_epoch=bindparam("b_epoch"),
        claimed_at=bindparam("b_now"),
        attempts=marks.c.attempts + 1,
    )
)


def _mark(row: Any, epoch: int) -> Mark:
    before = row.claimed_epoch is not None and row.claimed_epoch != epoch
    return Mark(
        row.subject_id,
        row.vendor_id,
        row.number,
        bool(row.urgent),
        row.since,
        row.attempts,
        before,
        row.unsettled_until,
    )


_LOCK = ByKeys(
    select(marks.c.number)
    .where(marks.c.target == bindparam("target"))
    .order_by(marks.c.subject_id, marks.c.vendor_id)
    .with_for_update(),
    marks.c.subject_id,
)


def settle(
    conn: Connection, lease: Lease, cleared: Sequence[Mark], delayed: Sequence[Delay]
) -> None:
    """What becomes of claimed marks. They are locked first, in the order in which they are set."""
    people = {mark.subject_id for mark in (*cleared, *(one.mark for one in delayed))}
    _LOCK.run(conn, people, {"target": lease.target})
    clear(conn, lease, cleared)
    delay(conn, lease, delayed)


def clear(conn: Connection, lease: Lease, cleared: Iterable[Mark]) -> int:
    """Clear marks that still carry the number and the epoch they were claimed with."""
    params = [
        {
            "b_subject": mark.subject_id,
            "b_vendor": mark.vendor_id,
            "b_number": mark.number,
        }
        for mark in cleared
    ]
    if not params:
        return 0
    done = conn.execute(
        delete(marks).where(
            marks.c.target == lease.target,
            marks.c.subject_id == bindparam("b_subject"),
            marks.c.vendor_id == bindparam("b_vendor"),
            marks.c.number == bindparam("b_number"),
            marks.c.claimed_epoch == lease.epoch,
        ),
        params,
    )
    return done.rowcount


class Delay(NamedTuple):
    """Why a claimed mark stays, and until when."""

    mark: Mark
    due_at: float
    outcome: Outcome
    reason: str
    unsettled_until: float | None = None
    urgent: bool = True
    """False where only opt-ins are left to do."""


def delay(conn: Connection, lease: Lease, delayed: Iterable[Delay]) -> None:
    """Keep claimed marks for later. One that was set again meanwhile stays due at once."""
    params = [
        {
            "b_subject": one.mark.subject_id,
            "b_vendor": one.mark.vendor_id,
            "b_number": one.mark.number,
            "b_due": one.due_at,
            "b_outcome": one.outcome.value,
            "b_reason": one.reason,
            "b_unsettled": one.unsettled_until,
            "b_urgent": int(one.urgent),
        }
        for one in delayed
    ]
    if not params:
        return
    same = marks.c.number == bindparam("b_number")
    conn.execute(
        update(marks)
        .where(
            marks.c.target == lease.target,
            marks.c.subject_id == bindparam("b_subject"),
            marks.c.vendor_id == bindparam("b_vendor"),
            marks.c.claimed_epoch == lease.epoch,
        )
        .values(
            due_at=case((same, bindparam("b_due")), else_=marks.c.due_at),
            urgent=case(
                (same, dialect.least(marks.c.urgent, bindparam("b_urgent"))), else_=marks.c.urgent
            ),
            outcome=bindparam("b_outcome"),
            reason=bindparam("b_reason"),
            unsettled_until=bindparam("b_unsettled"),
            claimed_epoch=None,
        ),
        params,
    )


_AT_WORK = or_(marks.c.claimed_epoch.is_not(None), marks.c.unsettled_until.is_not(None))
_PUSHED = ByKeys(
    select(identifiers.c.hash)
    .join(links, links.c.identifier_id == identifiers.c.id)
    .join(marks, marks.c.subject_id == links.c.subject_id)
    .where(marks.c.target == bindparam("target"), _AT_WORK),
    identifiers.c.hash,
)
_PUSHED_IDS = ByKeys(
    select(marks.c.vendor_id).where(
        marks.c.target == bindparam("target"),
        marks.c.subject_id == 0,
        _AT_WORK,
    ),
    marks.c.vendor_id,
)


def pushed_now(
    conn: Connection, target: str, hashes: Collection[bytes], ids: Collection[str]
) -> set[bytes | str]:
    """Which of these hashes and vendor ids a push of this target is about at this moment, or may
    have written what no push has proved yet."""
    rows = _PUSHED.run(conn, hashes, {"target": target})
    rows += _PUSHED_IDS.run(conn, ids, {"target": target})
    return {name for (name,) in rows}


def any_due(conn: Connection, target: str, now: float, *, urgent: bool = False) -> bool:
    """Whether a mark is due; with `urgent`, one of an out."""
    row = conn.execute(
        select(marks.c.number)
        .where(marks.c.target == target, marks.c.due_at <= now, marks.c.urgent >= int(urgent))
        .limit(1)
    ).first()
    return row is not None


def park(
    conn: Connection, lease: Lease, claimed: Iterable[Mark], until: float, reason: str
) -> None:
    """Keep every mark of a target that refuses us as a whole, until the next try, with what the
    claimed ones say of calls still under way."""
    if not set_lane(conn, lease, parked_until=until, parked_reason=reason):
        return
    later = [Delay(mark, until, Outcome.REFUSED, reason, mark.unsettled_until) for mark in claimed]
    delay(conn, lease, later)
    conn.execute(
        update(marks)
        .where(marks.c.target == lease.target, marks.c.due_at < until)
        .values(due_at=until)
    )


def of_subject(conn: Connection, subject_id: int) -> list[Any]:
    return list(conn.execute(select(marks).where(marks.c.subject_id == subject_id)))


def backlog(conn: Connection) -> dict[str, tuple[int, float]]:
    """target -> (marks, the oldest one's time)."""
    rows = conn.execute(
        select(marks.c.target, func.count(), func.min(marks.c.since)).group_by(marks.c.target)
    )
    return {target: (count, oldest) for target, count, oldest in rows}


def refused(conn: Connection) -> dict[str, int]:
    rows = conn.execute(
        select(marks.c.target, func.count())
        .where(marks.c.outcome == Outcome.REFUSED.value)
        .group_by(marks.c.target)
    )
    return {row[0]: row[1] for row in rows}


def overdue(
    conn: Connection, before: float, *, staff: bool = True, target: str | None = None
) -> dict[str, int]:
    """target (each, or the one named) -> outs that it has not confirmed since `before`, those left
    out that a person said were removed there by hand, until the next scan; without `staff` those
    too that staff carry."""
    by_hand = and_(
        marks.c.since <= func.coalesce(lanes.c.by_hand_at, 0.0),
        func.coalesce(lanes.c.scanned_at, 0.0) <= func.coalesce(lanes.c.by_hand_at, 0.0),
    )
    wanted = (
        select(marks.c.target, func.count())
        .join_from(marks, lanes, lanes.c.target == marks.c.target, isouter=True)
        .where(marks.c.urgent == 1, marks.c.since < before, not_(by_hand))
        .group_by(marks.c.target)
    )
    if target is not None:
        wanted = wanted.where(marks.c.target == target)
    if not staff:
        outcome = func.coalesce(marks.c.outcome, "")
        wanted = wanted.where(outcome != Outcome.WAITING_FOR_STAFF.value)
    rows = conn.execute(wanted)
    return {row[0]: row[1] for row in rows}


def removed_by_hand(conn: Connection, target: str, now: float) -> None:
    """A person says that what this target has not confirmed until now is off there."""
    _lane(conn, target)
    conn.execute(update(lanes).where(lanes.c.target == target).values(by_hand_at=now))


OBSERVED = "only observed: nothing is written there before go-live"


def went_live(conn: Connection, target: str, now: float) -> None:
    """What waited for go-live is due now."""
    conn.execute(
        update(marks)
        .where(marks.c.target == target, marks.c.reason == OBSERVED, marks.c.due_at > now)
        .values(due_at=now)
    )


def hurry(conn: Connection, target: str, now: float) -> None:
    """Marks that wait with an opt-in are due now."""
    conn.execute(
        update(marks)
        .where(marks.c.target == target, marks.c.urgent == 0, marks.c.due_at > now)
        .values(due_at=now)
    )


def under_way(conn: Connection, targets: Collection[str], until: float) -> int:
    """Marks that no push has come to an end with since they were set, or whose next try is due by
    then; those held for a person are left out."""
    new = and_(marks.c.attempts == 0, marks.c.due_at <= marks.c.since)
    again = and_(marks.c.outcome == Outcome.PENDING.value, marks.c.due_at <= until)
    waiting = or_(new, again, marks.c.claimed_epoch.is_not(None))
    wanted = select(func.count()).where(marks.c.target.in_(sorted(targets)), waiting)
    return int(conn.execute(wanted).scalar_one())


def outs_pending(conn: Connection, targets: Collection[str]) -> int:
    """Outs that were tried and are tried again later."""
    pending = (marks.c.urgent == 1, marks.c.outcome == Outcome.PENDING.value)
    wanted = select(func.count()).where(marks.c.target.in_(sorted(targets)), *pending)
    return int(conn.execute(wanted).scalar_one())


def next_due(conn: Connection, targets: Collection[str]) -> float | None:
    found: float | None = conn.execute(
        select(func.min(marks.c.due_at)).where(marks.c.target.in_(sorted(targets)))
    ).scalar()
    return found


# --- records ----------------------------------------------------------------------------------


_insert_record = dialect.insert(records).values(
    {name: bindparam(name) for name in ("target", "vendor_id", "seen_at")}
)
_SEE = Statement(
    _insert_record.on_conflict_do_update(
        index_elements=["target", "vendor_id"],
        set_={"seen_at": _insert_record.excluded.seen_at, "gone_at": None},
    )
)
_NAME = Statement(
    dialect.insert(record_identifiers)
    .values({c.name: bindparam(c.name) for c in record_identifiers.c})
    .on_conflict_do_nothing()
)


def keep_records(
    conn: Connection, target: str, found: Iterable[tuple[str, Sequence[bytes]]], now: float
) -> None:
    """Remember which vendor id belongs to which identifiers."""
    rows = [(vendor_id, hash_) for vendor_id, hashes in found for hash_ in hashes]
    ids = {vendor_id for vendor_id, _ in rows}
    _SEE.run_many(conn, [{"target": target, "vendor_id": one, "seen_at": now} for one in ids])
    _NAME.run_many(
        conn, [{"target": target, "hash": hash_, "vendor_id": one} for one, hash_ in rows]
    )


def record_hashes(conn: Connection, target: str, vendor_id: str) -> list[bytes]:
    return list(
        conn.execute(
            select(record_identifiers.c.hash).where(
                record_identifiers.c.target == target,
                record_identifiers.c.vendor_id == vendor_id,
            )
        ).scalars()
    )


def records_seen(
    conn: Connection, target: str, hashes: Collection[bytes]
) -> list[tuple[str, float]]:
    """Every record that was ever known by one of these identifiers, and when it was last seen."""
    shown = select(record_identifiers.c.vendor_id).where(
        record_identifiers.c.target == target, record_identifiers.c.hash.in_(sorted(hashes))
    )
    rows = conn.execute(
        select(records.c.vendor_id, records.c.seen_at).where(
            records.c.target == target, records.c.vendor_id.in_(shown)
        )
    )
    return [(row.vendor_id, row.seen_at) for row in rows]


_KNOWN = ByKeys(
    select(records.c.vendor_id).where(records.c.target == bindparam("target")),
    records.c.vendor_id,
)


def known_records(conn: Connection, target: str, vendor_ids: Collection[str]) -> set[str]:
    return {vendor_id for (vendor_id,) in _KNOWN.run(conn, vendor_ids, {"target": target})}


def count_records(conn: Connection, target: str) -> int:
    held = select(func.count()).where(records.c.target == target, records.c.gone_at.is_(None))
    return int(conn.execute(held).scalar_one())


def gone(conn: Connection, target: str, unseen_since: float, now: float) -> list[bytes]:
    """Hashes of the records that were last seen before then; they count as gone now."""
    missing = (
        records.c.target == target,
        records.c.gone_at.is_(None),
        records.c.seen_at < unseen_since,
    )
    ids = select(records.c.vendor_id).where(*missing)
    wanted = select(record_identifiers.c.hash).where(
        record_identifiers.c.target == target, record_identifiers.c.vendor_id.in_(ids)
    )
    hashes = list(conn.execute(wanted.distinct()).scalars())
    conn.execute(update(records).where(*missing).values(gone_at=now))
    return hashes


def vendor_ids(
    conn: Connection, target: str, hashes: Collection[bytes], *, present: bool = False
) -> dict[bytes, list[str]]:
    """Every record that was ever known by one of these; with `present`, those that complete walks
    still show."""
    found: dict[bytes, list[str]] = {}
    wanted = select(record_identifiers.c.hash, record_identifiers.c.vendor_id).where(
        record_identifiers.c.target == target, record_identifiers.c.hash.in_(sorted(hashes))
    )
    if present:
        there = select(records.c.vendor_id).where(
            records.c.target == target, records.c.gone_at.is_(None)
        )
        wanted = wanted.where(record_identifiers.c.vendor_id.in_(there))
    for hash_, vendor_id in conn.execute(wanted):
        found.setdefault(hash_, []).append(vendor_id)
    return found


# --- receipts ---------------------------------------------------------------------------------


_RECEIPTS = ByKeys(
    select(
        receipts.c.hash,
        receipts.c.place,
        receipts.c.seen,
        receipts.c.seen_began,
        receipts.c.written,
        receipts.c.written_ended,
        receipts.c.ever_on,
        receipts.c.outcome,
        receipts.c.reason,
    ).where(receipts.c.target == bindparam("target")),
    receipts.c.hash,
)


def read_receipts(
    conn: Connection, target: str, hashes: Collection[bytes]
) -> dict[tuple[bytes, str], Receipt]:
    """(hash, place) -> what is kept of it."""
    rows = _RECEIPTS.run(conn, hashes, {"target": target})
    return {(hash_, place): _receipt(*kept) for hash_, place, *kept in rows}


def _receipt(
    seen: str | None,
    seen_began: float | None,
    written: str | None,
    written_ended: float | None,
    ever_on: int,
    outcome: str | None,
    reason: str | None,
) -> Receipt:
    return Receipt(
        seen=Value(seen) if seen else None,
        seen_began=_moment(seen_began),
        written=Wish(written) if written else None,
        written_ended=_moment(written_ended),
        ever_on=bool(ever_on),
        refused=reason or "" if outcome == Outcome.REFUSED else None,
    )


def _moment(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)


class Proof(NamedTuple):
    """What one push of one slot of one record came to."""

    hash: bytes
    slot: Slot
    wish: Wish
    outcome: Outcome
    reason: str | None
    seen: Value | None = None
    seen_began: float | None = None
    written: Wish | None = None
    written_ended: float | None = None
    due_at: float | None = None
    opened_at: float | None = None


_insert_receipt = dialect.insert(receipts).values({c.name: bindparam(c.name) for c in receipts.c})
_new = _insert_receipt.excluded
_KEEP = Statement(
    _insert_receipt.on_conflict_do_update(
        index_elements=["target", "hash", "place"],
        set_={
            "channel": _new.channel,
            "wish": _new.wish,
            "seen": func.coalesce(_new.seen, receipts.c.seen),
            "seen_began": func.coalesce(_new.seen_began, receipts.c.seen_began),
            "written": func.coalesce(_new.written, receipts.c.written),
            "written_ended": func.coalesce(_new.written_ended, receipts.c.written_ended),
            "ever_on": dialect.greatest(_new.ever_on, receipts.c.ever_on),
            "outcome": _new.outcome,
            "reason": _new.reason,
            "due_at": _new.due_at,
            "opened_at": func.coalesce(_new.opened_at, receipts.c.opened_at),
            # Seeing again what a push proved is no later proof of it.
            "settled_at": case(
                (_new.opened_at.is_(None), func.coalesce(receipts.c.settled_at, _new.settled_at)),
                else_=_new.settled_at,
            ),
        },
    )
)


def write_receipts(conn: Connection, target: str, proofs: Iterable[Proof], now: float) -> None:
    """Keep what was seen and written. A value that was not learnt this time keeps its old one."""
    rows = [_proof_values(target, proof, now) for proof in proofs]
    if rows:
        _KEEP.run_many(conn, rows)


def _proof_values(target: str, proof: Proof, now: float) -> Mapping[str, Any]:
    open_ = proof.due_at is not None
    return {
        "target": target,
        "hash": proof.hash,
        "place": proof.slot.place,
        "channel": proof.slot.channel.value,
        "wish": proof.wish.value,
        "seen": proof.seen.value if proof.seen else None,
        "seen_began": proof.seen_began,
        "written": proof.written.value if proof.written else None,
        "written_ended": proof.written_ended,
        "ever_on": int(proof.seen is Value.ON),
        "outcome": proof.outcome.value,
        "reason": proof.reason,
        "due_at": proof.due_at,
        "opened_at": proof.opened_at,
        "settled_at": None if open_ else now,
    }


def receipts_of(conn: Connection, hashes: Collection[bytes]) -> list[Any]:
    return list(conn.execute(select(receipts).where(receipts.c.hash.in_(sorted(hashes)))))


def lags(conn: Connection, target: str, since: float, limit: int = 1000) -> list[float]:
    """Seconds from mark to proof of the outs that were honoured last."""
    rows = conn.execute(
        select(_LAG)
        .where(*_honoured(target, since))
        .order_by(receipts.c.settled_at.desc())
        .limit(limit)
    ).scalars()
    return [float(lag) for lag in rows]


_LAG = receipts.c.settled_at - receipts.c.opened_at


def _honoured(target: str, since: float) -> tuple[ColumnElement[bool] | TextClause, ...]:
    known = receipts.c.opened_at.is_not(None)
    return receipts.c.target == target, receipts.c.settled_at >= since, known, HONOURED


def worst_lag(conn: Connection, target: str, since: float) -> tuple[int, float | None]:
    """How many outs were honoured, and the seconds of the slowest."""
    wanted = select(func.count(), func.max(_LAG)).where(*_honoured(target, since))
    count, worst = conn.execute(wanted).one()
    return int(count), worst


# --- push-backs -------------------------------------------------------------------------------


def note_pushback(conn: Connection, target: str, hash_: bytes, now: float, most: int) -> int:
    """Count one more push-back of this record, unless the last hour saw `most`: one that is not
    sent is none. Returns which of the hour it is, or would be."""
    conn.execute(
        delete(pushbacks).where(and_(pushbacks.c.target == target, pushbacks.c.at < now - 3600))
    )
    count = count_pushbacks(conn, target, hash_, now)
    if count < most:
        row = {"target": target, "hash": hash_, "at": now}
        conn.execute(dialect.insert(pushbacks).on_conflict_do_nothing(), row)
    return count + 1


def count_pushbacks(conn: Connection, target: str, hash_: bytes, now: float) -> int:
    return int(
        conn.execute(
            select(func.count()).where(
                pushbacks.c.target == target,
                pushbacks.c.hash == hash_,
                or_(pushbacks.c.at >= now - 3600),
            )
        ).scalar_one()
    )
