"""A small clinic for tests: a database, an intake, a clock that stands still, a target that
remembers. Used where the rules of the lane matter and no vendor's manners do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefs.core import identity
from prefs.core.errors import PropagationError
from prefs.core.keys import Keyring
from prefs.core.propagation import (
    Absent,
    Applied,
    Change,
    Container,
    Facts,
    Limit,
    Local,
    Observed,
    Page,
    Readback,
    Ref,
    Seen,
    Slot,
    Target,
    Value,
    Wish,
)
from prefs.core.signals import Evidence, Signal, Statement
from prefs.core.words import Basis, Channel, Choice, Kind, Purpose, Scope, Source
from prefs.intake import Intake, Recorded, TargetInfo
from prefs.push.round import Push
from prefs.push.step import Backoff
from prefs.store import marks
from prefs.store.database import Database
from tests import empty

SECRET = b"a secret of thirty-two bytes or more"
EMAIL = Scope(Channel.EMAIL, Purpose.MARKETING)
SMS = Scope(Channel.SMS, Purpose.MARKETING)
SLOT = Slot("list", Channel.EMAIL)
TOPICS = ("treatments", "products", "offers", "competitions", "news")


class Clock:
    """Stands still until it is moved; every look moves it a microsecond, so that no two acts
    happen at the same instant by accident."""

    def __init__(self, at: datetime | None = None) -> None:
        self.at = at or datetime(2026, 3, 2, 10, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.at += timedelta(microseconds=1)
        return self.at

    def forward(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@dataclass
class Clinic:
    """One controller with two brands and one target, on a database of its own."""

    database: Database
    intake: Intake
    keys: Keyring
    clock: Clock

    def say(
        self,
        address: str,
        source: Source,
        choice: Choice = Choice.OUT,
        scope: Scope = EMAIL,
        *,
        brand: str = "rt",
        ref: str | None = None,
        walking: bool = False,
        **more: object,
    ) -> Recorded:
        """One person says something; the answer comes after the commit."""
        signal = Signal(
            brand=brand,
            source=source,
            statements=(Statement(scope, choice),),
            identifiers=(identity.email(address),),
            ref=ref,
            **more,  # type: ignore[arg-type]  # fields of Signal, passed on by name
        )
        return self.database.write_now(
            lambda conn: self.intake.record(conn, signal, walking=walking)
        )

    def consent(self, address: str, scope: Scope = EMAIL, **more: object) -> Recorded:
        return self.say(
            address,
            Source.API,
            Choice.IN,
            scope,
            basis=Basis.CONSENT,
            evidence=Evidence(wording="Yes, send me news"),
            **more,  # type: ignore[arg-type]  # as above
        )

    def hash(self, address: str) -> bytes:
        return self.keys.hash(identity.email(address))


def clinic(folder: Path, clock: Clock | None = None) -> Clinic:
    url = empty.database(folder)
    clock = clock or Clock()
    keys = Keyring([SECRET])
    targets = [TargetInfo("rt/list", "rt", frozenset({Channel.EMAIL}))]
    intake = Intake({"rt": "rt", "second": "rt", "other": "other"}, targets, keys, clock)
    return Clinic(Database(url).open(), intake, keys, clock)


FACTS = Facts(
    system="list",
    channels=frozenset({Channel.EMAIL}),
    keys_on=(Kind.EMAIL,),
    splits_topics=False,
    read_batch=100,
    write_batch=100,
    off_reversible=True,
    readback=Readback.DIRECT,
    call_alive=30.0,
    limit=Limit(10),
    writes=(),
    source_url="https://www.rfc-editor.org/rfc/rfc8058",
)


@dataclass
class MailingList:
    """A target that remembers: address -> value. `before` hooks let a test act in between."""

    clock: Callable[[], datetime]
    facts: Facts = FACTS
    held: dict[str, Value] = field(default_factory=dict)
    written: list[Change] = field(default_factory=list)
    read_fault: PropagationError | None = None
    write_fault: PropagationError | None = None
    works_all_the_same: bool = False
    deaf: bool = False
    omits: bool = False
    proof: Mapping[str, str] | None = None
    """What it shows of everybody's opt-in."""
    before_read: Callable[[], None] | None = None
    before_write: Callable[[Sequence[Change]], None] | None = None
    after_write: Callable[[], None] | None = None
    slots: tuple[Slot, ...] = (SLOT,)
    names: bool = True
    """Whether records have ids."""

    async def observe(
        self, refs: Sequence[Ref]
    ) -> Mapping[Ref, Observed | Absent | PropagationError]:
        began = self.clock()
        if self.before_read:
            self.before_read()
        if self.read_fault:
            return dict.fromkeys(refs, self.read_fault)
        return {ref: self._read(ref, began) for ref in refs}

    def _read(self, ref: Ref, began: datetime) -> Observed | Absent:
        address = ref.value or (ref.vendor_id or "").removeprefix("id-")
        if address not in self.held:
            return Absent(began)
        seen = Seen(self.held[address], proof=self.proof)
        vendor_id = f"id-{address}" if self.names else None
        return Observed(dict.fromkeys(self.slots, seen), began, vendor_id, ((Kind.EMAIL, address),))

    async def apply(
        self, changes: Sequence[Change]
    ) -> Mapping[Change, Applied | Local | PropagationError]:
        if self.before_write:
            self.before_write(changes)
        self.written += changes
        if self.write_fault is None or self.works_all_the_same:
            for change in changes:
                self._do(change)
        if self.after_write:
            self.after_write()
        if self.write_fault:
            return dict.fromkeys(changes, self.write_fault)
        return {} if self.omits else dict.fromkeys(changes, Applied())

    def _do(self, change: Change) -> None:
        if not self.deaf:
            self.held[change.ref.value] = Value.ON if change.to is Wish.ON else Value.OFF

    async def scan(self, cursor: str | None) -> AsyncIterator[Page]:
        began = self.clock()
        records = tuple(
            (Ref(Kind.EMAIL, address, f"id-{address}"), self._read(Ref(Kind.EMAIL, address), began))
            for address in self.held
        )
        yield Page(records, None, complete=True)  # type: ignore[arg-type]  # nothing held is absent

    async def containers(self) -> Sequence[Container]:
        return []

    async def close(self) -> None:
        return None


TARGET = Target(
    name="list",
    brand="rt",
    system="list",
    live=True,
    base_url=None,
    options={},
    topics=TOPICS,
)


def push_of(clinic: Clinic, connector: MailingList) -> Push:
    return Push(
        TARGET, connector, clinic.database, clinic.intake, clinic.clock, Backoff(1.0, 3600.0)
    )


async def one_round(clinic: Clinic, push: Push, holder: str = "one") -> int:
    """Claim what is due and carry it; returns how many marks were claimed."""
    now = clinic.clock().timestamp()
    lease = await clinic.database.write(
        lambda conn: marks.take_lease(conn, TARGET.label, holder, now, 30.0)
    )
    assert lease is not None
    claimed = await clinic.database.write(lambda conn: marks.claim(conn, lease, now, 100))
    await push.run(lease, claimed)
    return len(claimed)
