"""How a wish travels to a target: the connector protocol, the plan, the judgement of a read.

A connector translates; it never compares and never decides. `plan` turns what was read and what
is wished into changes, `judge` tells what a value read at a vendor says to us. A reply that
repeats our input confirms nothing: only a later read does.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, runtime_checkable
from urllib.parse import quote

from prefs.core.errors import PropagationError
from prefs.core.order import ABSURD_BEFORE
from prefs.core.signals import Text
from prefs.core.words import Channel, Kind, Purpose, Source

URGENT: ContextVar[bool] = ContextVar("urgent", default=False)
"""Set by the lane while it carries an `off`: such calls may use the whole budget."""

OUT_DUE: ContextVar[Callable[[], bool]] = ContextVar("out_due", default=lambda: False)
"""Set by the lane: whether an out waits for the end of its round, or is in it."""

IN_TIME: ContextVar[Callable[[], bool]] = ContextVar("in_time", default=lambda: True)
"""Set by the lane while it writes an `on`: whether that may still set out. It may not once the
lease is over under which its wish was read: another worker may have carried an `off` since."""


UNNAMED = "~"
"""How a vendor id begins that is ours, where the vendor shows none: it tells people nothing."""


class Wish(StrEnum):
    ON = "on"
    OFF = "off"
    LEAVE = "leave"


class Value(StrEnum):
    """What a vendor holds for one slot, in our words."""

    ON = "on"
    OFF = "off"
    UNSET = "unset"
    """Never chosen there; the vendor may send by its default or later, so an `off` is written. Also
    where several records of one address differ: neither an `off` nor an `on` is met."""
    SILENT = "silent"
    """The vendor cannot send marketing here (bounced, archived, transactional only): an `off`
    needs no write and an `on` is not forced."""
    UNMARKED = "unmarked"
    """The vendor holds marks of refusals only (a label, a group, a tag) and this record has none:
    an `off` is written, an `on` is met."""


class Readback(StrEnum):
    DIRECT = "direct"
    LISTING = "listing"
    NONE = "none"


class Proves(StrEnum):
    """Where a vendor's own record of a person's opt-in comes from, if it has any."""

    NONE = "none"
    SCAN = "scan"
    """Scans show it, and so do reads."""
    READ = "read"
    """A read of the record shows it, a scan does not."""
    EVENT = "event"
    """Told once, by the webhook of the opt-in."""


class Outcome(StrEnum):
    CONFIRMED = "confirmed"
    ACCEPTED = "accepted"
    RECORDED = "recorded"
    ABSENT = "absent"
    LOCAL = "local"
    UNSUPPORTED = "unsupported"
    PENDING = "pending"
    REFUSED = "refused"
    WAITING_FOR_STAFF = "waiting_for_staff"


SETTLED = frozenset(
    {
        Outcome.CONFIRMED,
        Outcome.ACCEPTED,
        Outcome.RECORDED,
        Outcome.ABSENT,
        Outcome.LOCAL,
        Outcome.UNSUPPORTED,
    }
)


class Slot(NamedTuple):
    """One switch of a vendor record: `topics` empty means the whole channel.

    `place` is the vendor's own id for it (an audience, an interest, a subscription type, a sender).
    A slot of several topics cannot be split: it is off when any of them is out.
    """

    place: str
    channel: Channel
    purpose: Purpose = Purpose.MARKETING
    topics: tuple[str, ...] = ()
    enforced: bool = True
    """False where the system holds the marker but does not act on it: outcome `recorded`."""


class Ref(NamedTuple):
    """A vendor record to look at: by what the vendor keys on, or by the vendor's own id."""

    kind: Kind | None
    value: str
    """The spelling (address, E.164 number); empty when only `vendor_id` is known."""
    vendor_id: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """One value read. `source` where the vendor says who did it, `at` where it says when."""

    value: Value
    source: Source | None = None
    at: datetime | None = None
    proof: Mapping[str, str] | None = None
    """The vendor's own record that the person opted in, as `proof_of` makes it; never consent by
    itself."""
    ever_on: bool = False
    """The vendor shows that this was on before (an opt-in time, a past subscription)."""
    fact: str | None = None
    """A delivery fact that the vendor shows beside it (hard_bounce, ...)."""


def proof_of(at: datetime | None, how: str, **shown: str | None) -> Mapping[str, str] | None:
    """A vendor's record of one person's opt-in in plain words: `at` (RFC 3339), `how`, and what
    else it shows (`ip`, `form`). None without a sane time: what does not say when proves nothing.
    """
    if at is None or at < ABSURD_BEFORE:
        return None
    when = at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return {"at": when, "how": how, **{name: text for name, text in shown.items() if text}}


@dataclass(frozen=True, slots=True)
class Observed:
    """A complete read of one record. A slot that is missing from `values` has no entry there."""

    values: Mapping[Slot, Seen]
    read_began: datetime
    vendor_id: str | None = None
    identifiers: tuple[tuple[Kind, str], ...] = ()
    """What the vendor shows as the record's own addresses and numbers, unnormalised."""
    hidden: frozenset[Slot] = frozenset()
    """Slots that are configured and that the vendor does not show: nothing is known of them."""


@dataclass(frozen=True, slots=True)
class Absent:
    """A complete read shows that the target has no such record."""

    read_began: datetime


class Change(NamedTuple):
    """Set one slot of one record. `to` is ON or OFF; `basis` and `note` go along with an ON."""

    ref: Ref
    slot: Slot
    to: Wish
    basis: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """The vendor took the change. `job` is set while an asynchronous job carries it."""

    job: str | None = None
    asked_person: bool = False
    """An `on` that now waits for the person (Mailchimp `pending`)."""


@dataclass(frozen=True, slots=True)
class Local:
    """The target cannot hold this here; only our own `check` guards it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Assisted:
    """People must do this by hand: the outcome is `waiting_for_staff` until it is seen done."""

    instruction: str


Failure = PropagationError


Answer = Applied | Local | Assisted | Failure
"""What a connector says of one change."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a scan. `next_cursor` is what to pass to go on after it; `complete` is set on
    the last page of a walk that saw every record."""

    records: tuple[tuple[Ref, Observed], ...]
    next_cursor: str | None = None
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Container:
    id: str
    name: str
    sends: bool
    inactive: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """`calls` per `seconds`, or with `seconds` 0 that many calls at once."""

    calls: int
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What a connector declares of its system; docs/systems.md is held against it."""

    system: str
    channels: frozenset[Channel]
    keys_on: tuple[Kind, ...]
    splits_topics: bool
    read_batch: int
    write_batch: int
    off_reversible: bool
    readback: Readback
    call_alive: float
    """Seconds after which a call that we gave up on can no longer be at work there."""
    limit: Limit
    writes: tuple[tuple[str, str], ...]
    """Every request that may change something there: method and path as a regular expression."""
    source_url: str
    """The vendor's page that the connector was written from."""
    on_by_default: frozenset[Channel] = frozenset()
    """Channels whose switches the vendor turns on by itself: an `on` there is nobody's choice, and
    no list of it can be attested as consent."""
    proves: Proves = Proves.NONE
    unsubscribes_at: frozenset[str] = frozenset()
    """Systems at which this one's own sync takes people out when staff merge or delete them here:
    no wish of the person."""
    beside: int = 1
    """So many batches may be read, or written, at the same time; the limit holds for them too."""
    assisted: bool = False
    """No interface: staff carry the changes, and what they upload is what is read."""


class Key(NamedTuple):
    """One configuration key of a system. `kind` is text, secret, flag, list, table or
    secret_or_table; documentation and validation come from it."""

    kind: str
    required: bool = False
    help: str = ""


class Vault(Protocol):
    """What a target must remember between processes and nobody else may read: a refresh token
    that the vendor replaced."""

    async def get(self, name: str) -> str | None: ...

    async def put(self, name: str, value: str) -> None:
        """Returns once it is on disk."""

    def alone(self, name: str) -> AbstractAsyncContextManager[None]:
        """Within, nobody else is within for this name, in no other process either. Raises Temporary
        where somebody stays there too long."""


class Memory:
    """A vault that lasts as long as its process."""

    def __init__(self) -> None:
        self._held: dict[str, str] = {}
        self._alone: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def alone(self, name: str) -> AbstractAsyncContextManager[None]:
        return self._alone[name]

    async def get(self, name: str) -> str | None:
        return self._held.get(name)

    async def put(self, name: str, value: str) -> None:
        self._held[name] = value


@dataclass(frozen=True, slots=True)
class Target:
    """One configured system of one brand, secrets resolved."""

    name: str
    brand: str
    system: str
    live: bool
    base_url: str | None
    options: Mapping[str, Any]
    topics: tuple[str, ...]
    region: str = "GB"
    senders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """`[brands.*.sms]`: purpose -> sender ids."""
    limit: Limit | None = None
    unsafe_after: float = 86400.0
    call_alive: float | None = None
    """Overrides the system's documented figure (tests move the clock with it)."""
    public_url: str = ""
    """Where people and vendors reach this service; without a slash at its end."""
    vault: Vault = field(default_factory=Memory, compare=False, repr=False)

    @property
    def label(self) -> str:
        return f"{self.brand}/{self.name}"

    @property
    def webhook_url(self) -> str:
        """Where the vendor delivers to us, with the key where there is one: a secret then."""
        key = self.text("webhook_key")
        return self._webhook_url(quote(key, safe="") if key else None)

    @property
    def webhook_url_shown(self) -> str:
        """The same for people to read, without the key itself."""
        return self._webhook_url("<webhook_key>" if self.text("webhook_key") else None)

    def _webhook_url(self, key: str | None) -> str:
        url = f"{self.public_url}/webhooks/{self.system}/{self.brand}/{self.name}"
        return f"{url}?key={key}" if key else url

    def text(self, key: str) -> str | None:
        value = self.options.get(key)
        return value if isinstance(value, str) else None

    def table(self, key: str) -> Mapping[str, Any]:
        value = self.options.get(key)
        return value if isinstance(value, Mapping) else {}


class Budget(Protocol):
    """One budget a target: every call of its adapter, by SDK or httpx, passes through it."""

    async def acquire(self) -> None:
        """Wait for a place. Calls without URGENT leave half of the budget untouched. Raises
        Temporary where one of these would wait while an out is due (OUT_DUE), and where it is not
        IN_TIME any more."""

    def release(self) -> None: ...

    def pause(self, seconds: float) -> None:
        """No call before that many seconds (a 429's Retry-After)."""


class Connector(Protocol):
    """One adapter, built as `Connector(target, budget, now)`; `now` is the clock (aware UTC)."""

    facts: Facts

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Every slot that the configuration makes this target hold."""

    async def observe(self, refs: Sequence[Ref]) -> Mapping[Ref, Observed | Absent | Failure]: ...

    async def apply(self, changes: Sequence[Change]) -> Mapping[Change, Answer]:
        """Safe to repeat. A change that the vendor's reply does not name is left out of the
        answer: unknown, not done."""

    def scan(self, cursor: str | None) -> AsyncIterator[Page]: ...

    async def containers(self) -> Sequence[Container]: ...

    async def close(self) -> None: ...


class Timed(Protocol):
    """A connector that can ask its vendor when an inbound message was sent."""

    async def message_time(self, message_id: str) -> datetime: ...


@runtime_checkable
class Listens(Protocol):
    """A connector whose vendor keeps the messages that people sent us."""

    async def inbound(self, cursor: str | None) -> tuple[list[Text], str]:
        """Messages since the cursor, and the next cursor. Seen ones may come again."""

    async def message_time(self, message_id: str) -> datetime: ...


@dataclass(frozen=True, slots=True)
class Unheard:
    """The vendor does not tell us of all that we want to hear, and cannot be brought to it."""

    todo: str
    """What a person must do, in words; without the webhook's key."""
    once: bool = False
    """Said once and not again when staff have closed it: a webhook that was never registered (not
    everybody wants one), a question."""


@runtime_checkable
class Tended(Protocol):
    """A connector whose vendor ends the delivery of webhooks that failed for too long."""

    tend_every: float
    """Seconds between two looks."""

    async def tend(self) -> Unheard | None:
        """Look whether the vendor still delivers to us. Where the target is live, bring back what
        was there before; a webhook that the operator never registered is not made. None when all
        is well."""


Make = Callable[[Target, Budget, Callable[[], datetime]], Connector]


def plan(
    ref: Ref,
    values: Mapping[Slot, Seen],
    wishes: Mapping[Slot, Wish],
    bases: Mapping[Slot, str] | None = None,
) -> list[Change]:
    """The changes that bring one record to its wish. Slots without an entry are not created."""
    return [
        Change(ref, slot, wishes[slot], (bases or {}).get(slot))
        for slot, seen in values.items()
        if slot in wishes and _differs(seen.value, wishes[slot])
    ]


def _differs(value: Value, wish: Wish) -> bool:
    if wish is Wish.OFF:
        return value in (Value.ON, Value.UNSET, Value.UNMARKED)
    return wish is Wish.ON and value in (Value.OFF, Value.UNSET)


def meets(value: Value, wish: Wish) -> bool:
    """Whether a value read fulfils the wish."""
    return not _differs(value, wish)


class Verdict(StrEnum):
    NOTHING = "nothing"
    READ_AGAIN = "read_again"
    OUT = "out"
    PUSH_BACK = "push_back"
    SEEN_ON = "seen_on"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is kept for one record and slot: last value read and last write of ours."""

    seen: Value | None = None
    seen_began: datetime | None = None
    written: Wish | None = None
    written_ended: datetime | None = None
    ever_on: bool = False
    refused: str | None = None
    """Why the vendor did not take what we last wished; None where it did."""


SKEW = timedelta(seconds=5)
"""By so much the clocks of two machines may differ."""


class Judged(NamedTuple):
    verdict: Verdict
    source: Source | None = None


def judge(
    seen: Seen,
    read_began: datetime,
    receipt: Receipt | None,
    wish: Wish,
    last_row_at: datetime | None,
    now: datetime,
) -> Judged:
    """What a value read at a vendor says to us.

    `last_row_at` is when the subject's last ledger row was received: a read that began before it,
    or before our own last write ended, is too old to tell anything. Not so where that lies ahead
    of `now`, by a clock that was set back since: every read would be too old until that time comes.
    """
    receipt = receipt or Receipt()
    if _stale(read_began, now, receipt.written_ended, last_row_at):
        return Judged(Verdict.READ_AGAIN)
    if seen.value is Value.OFF:
        return _judge_off(seen, receipt, wish)
    if seen.value in (Value.ON, Value.UNMARKED) and wish is Wish.OFF:
        return Judged(Verdict.PUSH_BACK)
    if seen.value is Value.ON and wish is Wish.LEAVE:
        return Judged(Verdict.SEEN_ON)
    return Judged(Verdict.NOTHING)


def _stale(read_began: datetime, now: datetime, *marks: datetime | None) -> bool:
    return any(mark is not None and read_began <= mark <= now + SKEW for mark in marks)


def _judge_off(seen: Seen, receipt: Receipt, wish: Wish) -> Judged:
    if receipt.seen is Value.OFF or receipt.written is Wish.OFF:
        return Judged(Verdict.NOTHING)
    ever_on = seen.ever_on or receipt.ever_on or receipt.seen is Value.ON
    nameless = Source.VENDOR_PERSON if ever_on else Source.VENDOR_API
    return Judged(Verdict.OUT, seen.source or nameless)


def worst(outcomes: Iterable[Outcome]) -> Outcome | None:
    """The outcome to show for a channel that several slots of a target carry."""
    order = [
        Outcome.REFUSED,
        Outcome.PENDING,
        Outcome.WAITING_FOR_STAFF,
        Outcome.LOCAL,
        Outcome.RECORDED,
        Outcome.ACCEPTED,
        Outcome.CONFIRMED,
        Outcome.ABSENT,
        Outcome.UNSUPPORTED,
    ]
    found = set(outcomes)
    return next((outcome for outcome in order if outcome in found), None)
