"""What a subject's ledger adds up to, and who may lift what.

`judge` decides what becomes of one entry over what stands, `apply` carries a judged entry into the
state, `fold` does that for a whole ledger. Times are seconds since 1970 UTC.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from prefs.core.words import (
    PERSONAL,
    Basis,
    Channel,
    Choice,
    Purpose,
    Result,
    Scope,
    Source,
    Strength,
    Why,
    offered,
    strength,
)


class Out(Struct, frozen=True, array_like=True, omit_defaults=True):
    """One standing out. A newer out of the same kind moves `at`, never `since`. With `until` it is
    a pause: the person's own, it denies as any other and ends by a row of the ledger."""

    source: Source
    since: float
    at: float
    event_id: int
    identifier: bytes = b""
    token: bytes = b""
    stop_all: bool = False
    until: float | None = None


class In(Struct, frozen=True, array_like=True, omit_defaults=True):
    source: Source
    basis: Basis | None
    since: float
    at: float
    event_id: int


class Since(Struct, frozen=True, array_like=True):
    """A hold, or a sign-up that waits for its confirmation."""

    at: float
    event_id: int


class Standing(Struct, frozen=True, array_like=True, omit_defaults=True):
    """What stands for one scope. Outs of different kinds stand side by side, so that lifting one
    never hides another; consent under an out is kept for the rule of START."""

    outs: tuple[Out, ...] = ()
    consent: In | None = None
    hold: Since | None = None
    pending: Since | None = None

    @property
    def strongest(self) -> Out | None:
        return max(self.outs, key=_weight) if self.outs else None

    @property
    def lasting(self) -> tuple[Out, ...]:
        return tuple(out for out in self.outs if out.until is None)

    @property
    def pause(self) -> Out | None:
        return next((out for out in self.outs if out.until is not None), None)

    @property
    def until(self) -> float | None:
        """When nothing denies any more, where only a pause does."""
        return self.pause.until if self.pause and not self.lasting else None

    @property
    def newest_out(self) -> float | None:
        return max((out.at for out in self.outs), default=None)


def _weight(out: Out) -> tuple[bool, Strength, float]:
    """What lasts comes before a pause, whoever said it."""
    return out.until is None, strength(out.source), -out.since


NOTHING = Standing()

Scopes = dict[str, dict[Scope, Standing]]


class Restriction(Struct, frozen=True, array_like=True, omit_defaults=True):
    """UK GDPR article 18. `reminders` is the person's own agreement to keep them."""

    at: float
    event_id: int
    reminders: bool = False


class State(Struct, frozen=True, omit_defaults=True):
    """The fold of one subject's ledger: brand -> scope -> what stands."""

    scopes: Scopes = {}
    restricted: Restriction | None = None
    erased: bool = False

    def at(self, brand: str, scope: Scope) -> Standing:
        return self.scopes.get(brand, {}).get(scope, NOTHING)


class Entry(Struct, frozen=True):
    """One statement of a signal as the ledger keeps it; nothing in it is personal data."""

    event_id: int
    brand: str
    scope: Scope
    choice: Choice | None
    """None is a hold."""
    source: Source
    at: float
    sane_time: bool = True
    identifier: bytes = b""
    basis: Basis | None = None
    lacks: Why | None = None
    noted: bool = False
    """Staff gave a name, a note and a time."""
    proof: bool = False
    """The vendor's own per-person record of the opt-in came along."""
    token: bytes = b""
    token_issued: float | None = None
    stop_all: bool = False
    until: float | None = None
    """An `out` that ends then by itself."""


class Judgement(NamedTuple):
    result: Result
    why: Why


APPLIED = Judgement(Result.APPLIED, Why.APPLIED_RULE)
SAME = Judgement(Result.UNCHANGED, Why.SAME)
TOO_WEAK = Judgement(Result.REFUSED, Why.SOURCE_TOO_WEAK)
OLDER = Judgement(Result.REFUSED, Why.OLDER)
SEEN_OLDER = Judgement(Result.UNCHANGED, Why.OLDER)
NEEDS_CONFIRMATION = Judgement(Result.PENDING, Why.NEEDS_CONFIRMATION)
HELD = Judgement(Result.HELD, Why.HELD)
RELEASED = Judgement(Result.APPLIED, Why.APPLIED_RULE)
NOT_OFFERED = Judgement(Result.REFUSED, Why.NOT_OFFERED)

CONFIRMING = frozenset({Source.CENTRE, Source.DOUBLE_OPT_IN})
"""The only sources that lift a person's own out anywhere and clear a hold."""
ATTESTED = frozenset({Source.SOFT_OPT_IN, Source.IMPORT, Source.API})
BY_VOICE = frozenset({Channel.PHONE, Channel.POST})


def judge(state: State, entry: Entry) -> Judgement:
    """What becomes of an entry over what stands."""
    if not offered(entry.scope.channel, entry.scope.purpose):
        return NOT_OFFERED
    if entry.choice is None:
        return _judge_hold(state, entry)
    if entry.choice is Choice.OUT:
        return _judge_out(state.at(entry.brand, entry.scope), entry)
    if entry.scope.purpose is Purpose.MARKETING:
        return _judge_in(state, entry)
    return _judge_switch_on(state, entry)


def _judge_hold(state: State, entry: Entry) -> Judgement:
    standing = state.at(entry.brand, entry.scope)
    return SAME if standing.outs or standing.hold else HELD


def _judge_out(standing: Standing, entry: Entry) -> Judgement:
    if entry.scope.purpose is Purpose.REMINDERS and not _person_or_staff(entry):
        return TOO_WEAK
    consent = standing.consent
    if consent and consent.source in PERSONAL and entry.at < consent.at:
        return SEEN_OLDER
    if entry.until is not None:
        return _judge_pause(standing, entry)
    if any(strength(out.source) >= strength(entry.source) for out in standing.lasting):
        return SAME
    return APPLIED


def _judge_pause(standing: Standing, entry: Entry) -> Judgement:
    """A pause stands beside what lasts: that may be lifted before its day. Its end may be moved
    either way by a link that may switch on, and only further away by one that may not."""
    pause = standing.pause
    if entry.until is None:
        return SAME
    if pause is None or pause.until is None or entry.until > pause.until:
        return APPLIED
    sooner = entry.until < pause.until
    return APPLIED if sooner and entry.source in CONFIRMING and _later(entry, pause) else SAME


def _person_or_staff(entry: Entry) -> bool:
    return strength(entry.source) >= Strength.STAFF


def _judge_in(state: State, entry: Entry) -> Judgement:
    if state.restricted:
        return HELD
    outs = _outs_over(state, entry)
    if entry.source is Source.FORM and not (entry.scope.channel in BY_VOICE and not outs):
        return NEEDS_CONFIRMATION
    if entry.source not in CONFIRMING and _held(state, entry):
        return HELD
    standing = state.at(entry.brand, entry.scope)
    refusal = _refusal(entry, outs, standing)
    if refusal:
        return refusal
    return APPLIED if outs or _adds(standing, entry) else SAME


def _outs_over(state: State, entry: Entry) -> tuple[Out, ...]:
    """The outs that an `in` meets: those of its scope, and of the channel that covers it. A tick
    on the preference centre meets no pause: what is ticked there goes on once that is over."""
    standings = [state.at(entry.brand, scope) for scope in {entry.scope, entry.scope.covering}]
    ticked = entry.source is Source.CENTRE
    return tuple(out for one in standings for out in (one.lasting if ticked else one.outs))


def _held(state: State, entry: Entry) -> bool:
    covering = state.at(entry.brand, entry.scope.covering)
    return bool(state.at(entry.brand, entry.scope).hold or covering.hold)


def _refusal(entry: Entry, outs: tuple[Out, ...], standing: Standing) -> Judgement | None:
    if not outs:
        return _refusal_over_unset(entry)
    if not all(_may_lift(entry, out, standing) for out in outs):
        return TOO_WEAK
    if not entry.sane_time or not all(_later(entry, out) for out in outs):
        return OLDER
    return _lack(entry) if entry.source is Source.STAFF else None


def _refusal_over_unset(entry: Entry) -> Judgement | None:
    source = entry.source
    if source in CONFIRMING:
        return None
    if source is Source.SMS:
        return SAME
    if source is Source.VENDOR_PERSON:
        return None if entry.proof else Judgement(Result.REFUSED, Why.NO_EVIDENCE)
    if source is Source.STAFF or source is Source.FORM or source in ATTESTED:
        return _lack(entry)
    return TOO_WEAK


def _lack(entry: Entry) -> Judgement | None:
    return Judgement(Result.REFUSED, entry.lacks) if entry.lacks else None


def _may_lift(entry: Entry, out: Out, standing: Standing) -> bool:
    if entry.source in CONFIRMING:
        return True
    own = strength(out.source) is Strength.PERSON
    if entry.source is Source.SMS:
        same_number = out.source is Source.SMS and out.identifier == entry.identifier
        return same_number and standing.consent is not None
    if entry.source is Source.STAFF:
        return entry.noted and (not own or entry.scope.channel in BY_VOICE)
    return False


def _later(entry: Entry, out: Out) -> bool:
    """A lift, and the token by which it came, must be later than the out; a tie is out."""
    if entry.at <= out.at:
        return False
    same_token = bool(entry.token) and entry.token == out.token
    return entry.token_issued is None or entry.token_issued > out.at or same_token


def _adds(standing: Standing, entry: Entry) -> bool:
    """Whether an `in` over nothing that denies says more than what stands already."""
    consent = standing.consent
    if consent is None or (standing.hold and entry.source in CONFIRMING):
        return True
    rank = [Basis.LEGITIMATE_INTEREST, Basis.SOFT_OPT_IN, Basis.CONSENT]
    old, new = consent.basis, entry.basis
    return new is not None and (old is None or rank.index(new) > rank.index(old))


def _judge_switch_on(state: State, entry: Entry) -> Judgement:
    """Reminders and service: on by default; back on by the person, or by staff with a note."""
    standing = state.at(entry.brand, entry.scope)
    if not standing.outs:
        return SAME
    by_person = entry.source in CONFIRMING or entry.source is Source.SMS
    if not (by_person or (entry.source is Source.STAFF and entry.noted)):
        return TOO_WEAK
    later = entry.sane_time and all(_later(entry, out) for out in standing.outs)
    return APPLIED if later else OLDER


def apply(state: State, entry: Entry, judgement: Judgement) -> State:
    """The state after an entry that was judged so."""
    standing = state.at(entry.brand, entry.scope)
    changed = _carry(standing, entry, judgement)
    if changed is standing:
        return state
    return _with(state, entry, changed)


def release(state: State, entry: Entry) -> State:
    """Staff read an unclear wish as no stop: the hold of the scope ends."""
    standing = state.at(entry.brand, entry.scope)
    return _with(state, entry, replace(standing, hold=None))


def judge_resume(state: State, entry: Entry) -> Judgement:
    """Whether the person may end a pause before its day: as any other lift, by a link that is
    newer than the pause or made it."""
    pause = state.at(entry.brand, entry.scope).pause
    if pause is None:
        return SAME
    if state.restricted:
        return HELD
    if entry.source not in CONFIRMING:
        return TOO_WEAK
    return APPLIED if _later(entry, pause) else OLDER


def resume(state: State, entry: Entry) -> State:
    """The pause of the scope ends; what lasts stays."""
    standing = state.at(entry.brand, entry.scope)
    return _with(state, entry, replace(standing, outs=standing.lasting))


def pauses(state: State) -> Iterator[tuple[str, Scope, Out]]:
    """Every pause that stands, with its brand and scope."""
    for brand, of_brand in state.scopes.items():
        for scope, standing in of_brand.items():
            if standing.pause:
                yield brand, scope, standing.pause


def without_pauses(state: State) -> State:
    """What stands again once they are over."""
    scopes = {
        brand: {
            scope: replace(standing, outs=standing.lasting) if standing.pause else standing
            for scope, standing in of_brand.items()
        }
        for brand, of_brand in state.scopes.items()
    }
    return replace(state, scopes=scopes)


def next_end(state: State) -> float | None:
    """When the first pause ends."""
    return min((pause.until for _, _, pause in pauses(state) if pause.until), default=None)


def _with(state: State, entry: Entry, standing: Standing) -> State:
    of_brand = {**state.scopes.get(entry.brand, {}), entry.scope: standing}
    return replace(state, scopes={**state.scopes, entry.brand: of_brand})


def _carry(standing: Standing, entry: Entry, judgement: Judgement) -> Standing:
    result, why = judgement
    if result is Result.REFUSED or why is Why.OLDER:
        return standing
    if result is Result.PENDING:
        return replace(standing, pending=Since(entry.at, entry.event_id))
    if entry.choice is None and result is Result.HELD:
        return replace(standing, hold=Since(entry.at, entry.event_id))
    if entry.choice is None:
        return standing
    if result is Result.HELD:
        return standing
    if entry.choice is Choice.OUT:
        adds = entry.until is None or result is Result.APPLIED
        return _with_out(standing, entry) if adds else standing
    return _with_in(standing, entry, applied=result is Result.APPLIED)


def _with_out(standing: Standing, entry: Entry) -> Standing:
    same = next((out for out in standing.outs if _kind(out) == _kind_of(entry)), None)
    out = Out(
        source=same.source if same else entry.source,
        since=min(same.since, entry.at) if same else entry.at,
        at=max(same.at, entry.at) if same else entry.at,
        event_id=same.event_id if same else entry.event_id,
        identifier=entry.identifier,
        token=entry.token,
        stop_all=entry.stop_all or (same.stop_all if same else False),
        until=entry.until,
    )
    others = tuple(other for other in standing.outs if other is not same)
    decided = strength(entry.source) >= Strength.STAFF and entry.until is None
    return Standing((*others, out), standing.consent, None if decided else standing.hold)


OutKind = tuple[bool, Strength, bytes, bytes]


def _kind(out: Out) -> OutKind:
    if out.until is not None:
        return PAUSE
    texted = out.identifier if out.source is Source.SMS else b""
    return False, strength(out.source), texted, out.token


def _kind_of(entry: Entry) -> OutKind:
    if entry.until is not None:
        return PAUSE
    texted = entry.identifier if entry.source is Source.SMS else b""
    return False, strength(entry.source), texted, entry.token


PAUSE: OutKind = (True, Strength.PERSON, b"", b"")
"""One pause stands at a time."""


def _with_in(standing: Standing, entry: Entry, *, applied: bool) -> Standing:
    old = standing.consent
    if not applied:
        if old and entry.source in CONFIRMING and entry.at > old.at and not standing.outs:
            affirmed = replace(old, source=entry.source, at=entry.at)
            return replace(standing, consent=affirmed, pending=None)
        return standing
    basis = entry.basis
    if entry.source is Source.SMS and old:
        basis = old.basis
    hold = None if entry.source in CONFIRMING else standing.hold
    stays = (standing.pause,) if standing.pause and entry.source is Source.CENTRE else ()
    return Standing(stays, In(entry.source, basis, entry.at, entry.at, entry.event_id), hold)


class Folded(NamedTuple):
    """One ledger row as the fold takes it. `kind` is choice, pause, resume, release, retract or
    undo; the `batch` of an undo names the event that it takes back."""

    kind: str
    entry: Entry
    judgement: Judgement
    batch: str | None = None


def fold(rows: Iterable[Folded]) -> State:
    """The state of one subject from its ledger rows in the order of their revisions. An out of a
    batch that a later row takes back counts as never said; so does a slip of staff."""
    rows = list(rows)
    retracted = {row.batch: at for at, row in enumerate(rows) if row.kind == "retract"}
    undone = {row.batch for row in rows if row.kind == "undo"}
    state = State()
    for at, row in enumerate(rows):
        if row.kind == "release":
            state = release(state, row.entry)
        elif row.kind == "resume" and row.judgement.result is Result.APPLIED:
            state = resume(state, row.entry)
        elif row.kind not in ("choice", "pause") or _taken_back(row, at, retracted):
            continue
        elif not (_out_by_staff(row) and slip(row.entry.event_id) in undone):
            state = apply(state, row.entry, row.judgement)
    return state


def slip(event_id: int) -> str:
    """How an undo names the event that it takes back."""
    return f"event {event_id}"


def _out_by_staff(row: Folded) -> bool:
    return row.entry.source is Source.STAFF and row.entry.choice is Choice.OUT


def _taken_back(row: Folded, at: int, retracted: Mapping[str | None, int]) -> bool:
    """A person's own out, and one by staff, never is."""
    if row.batch is None or at >= retracted.get(row.batch, -1):
        return False
    return strength(row.entry.source) is Strength.MACHINE and row.entry.choice is Choice.OUT


def denies(state: State, brand: str, channels: Collection[Channel]) -> bool:
    """Whether anything stands that keeps marketing on one of these channels from this subject."""
    marketing = (
        standing
        for scope, standing in state.scopes.get(brand, {}).items()
        if scope.channel in channels and scope.purpose is Purpose.MARKETING
    )
    return state.restricted is not None or any(one.outs or one.hold for one in marketing)


def spoke_out(state: State, brand: str, channels: Collection[Channel]) -> bool:
    """Whether an out by the person or by staff stands on one of these channels."""
    return any(
        strength(out.source) > Strength.MACHINE
        for scope, standing in state.scopes.get(brand, {}).items()
        if scope.channel in channels
        for out in standing.outs
    )


def said_out(state: State, brand: str, scope: Scope) -> bool:
    """Whether a lasting out of the person's own covers this scope."""
    return any(
        strength(out.source) is Strength.PERSON
        for part in {scope, scope.covering}
        for out in state.at(brand, part).lasting
    )


def merge(one: State, other: State) -> State:
    """Two subjects found to be one person: per scope the first of out, hold, in, unset."""
    brands = {*one.scopes, *other.scopes}
    scopes = {
        brand: {
            scope: _merge_standing(one.at(brand, scope), other.at(brand, scope))
            for scope in {*one.scopes.get(brand, {}), *other.scopes.get(brand, {})}
        }
        for brand in brands
    }
    return State(
        scopes=scopes,
        restricted=_stricter(one.restricted, other.restricted),
        erased=one.erased or other.erased,
    )


def _merge_standing(one: Standing, other: Standing) -> Standing:
    return Standing(
        outs=_merge_outs(one.outs + other.outs),
        consent=max(one.consent, other.consent, key=_at),
        hold=one.hold or other.hold,
        pending=one.pending or other.pending,
    )


def _at(consent: In | None) -> float:
    return consent.at if consent else -1.0


def _merge_outs(outs: tuple[Out, ...]) -> tuple[Out, ...]:
    kept: dict[OutKind, Out] = {}
    for out in sorted(outs, key=lambda out: out.since):
        first = kept.setdefault(_kind(out), out)
        kept[_kind(out)] = replace(
            first,
            at=max(first.at, out.at),
            stop_all=first.stop_all or out.stop_all,
            until=out.until and max(out.until, first.until or 0.0),
        )
    return tuple(kept.values())


def _stricter(one: Restriction | None, other: Restriction | None) -> Restriction | None:
    if one is None or other is None:
        return one or other
    return one if not one.reminders else other
