"""What is asked of every row of a list, and what was answered so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import NamedTuple, Protocol, TypeVar

from sqlalchemy import Connection

from prefs.core.decision import Ask, Decision, Reason
from prefs.core.words import Channel
from prefs.web.bodies import RefItem
from prefs.web.check import INVALID, decide_all, decide_ref
from prefs.web.context import Service
from prefs.web.scrub.rows import PIECE

T = TypeVar("T")

AT_ONCE = 500
"""Rows answered in one read: whoever waits for the database waits for no more than these."""

Item = str | RefItem | None
"""None is no item at all."""


@dataclass
class Asking:
    """One question for a whole list; every row is answered as `POST /v1/check` would now."""

    served: Service
    brand: str
    ask: Ask
    allowed: int = 0
    reasons: Counter[Reason] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        return self.reasons.total()

    @property
    def channel(self) -> Channel:
        return self.ask.scope.channel

    @property
    def region(self) -> str:
        return self.served.settings.brands[self.brand].region

    def decide(self, conn: Connection, items: Sequence[Item]) -> list[Decision]:
        plain = [item for item in items if item is not None and not _by_ref(item)]
        found = iter(decide_all(conn, self.served, self.brand, self.ask, plain))
        decisions = [self._one(conn, item, found) for item in items]
        for decision in decisions:
            self.note(decision.reason, allowed=decision.allowed)
        return decisions

    def _one(self, conn: Connection, item: Item, found: Iterator[Decision]) -> Decision:
        if item is None:
            return INVALID
        if isinstance(item, RefItem) and item.ref is not None:
            return decide_ref(conn, self.served, self.brand, self.ask, item)
        return next(found)

    def note(self, reason: Reason, *, allowed: bool) -> None:
        self.allowed += allowed
        self.reasons[reason] += 1


def _by_ref(item: str | RefItem) -> bool:
    return isinstance(item, RefItem) and item.ref is not None


class Answered(NamedTuple):
    """One row as it goes out, in three parts."""

    lead: bytes
    """All of the row that stands before our answer, byte for byte."""
    added: bytes
    end: bytes


class List(Protocol[T]):
    """A list on its way through. `take` and `end` raise Unreadable or BadInput."""

    asking: Asking
    media_type: str
    tells_faults: bool
    """A fault on the way is said in the list's own format; else the answer breaks off."""

    def take(self, piece: bytes) -> list[T]:
        """The rows that this piece completes."""

    def end(self) -> list[T]:
        """The rows that were waiting for more."""

    def answer(self, conn: Connection, rows: Sequence[T]) -> list[Answered]: ...

    def lead(self, row: T) -> tuple[bytes, bytes]:
        """What `answer` puts before and after the answer to this row."""

    def reread(self, added: bytes) -> bool:
        """Count an answer that was given before; False where it is none of ours."""

    def last(self) -> bytes:
        """What comes after all rows."""

    def fault(self, status: int, detail: str) -> bytes:
        """What comes last where there is no more."""


def slices(rows: Iterable[T]) -> Iterator[list[T]]:
    """As many as are answered at once."""
    left = iter(rows)
    while part := list(islice(left, AT_ONCE)):
        yield part


def answered_now(list_: List[T], part: Sequence[T]) -> bytes:
    """One slice, for callers without an event loop."""
    return said(list_.asking.served.database.read_now(lambda conn: list_.answer(conn, part)))


def said(part: Iterable[Answered]) -> bytes:
    return b"".join(piece for answered in part for piece in answered)


async def answered(list_: List[T], pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The list as it goes out, slice by slice, as far as the pieces that came allow."""
    read = list_.asking.served.database.read
    async for piece in pieces:
        for at in range(0, len(piece), PIECE):
            for part in slices(list_.take(piece[at : at + PIECE])):
                yield said(await read(partial(list_.answer, rows=part)))
    for part in slices(list_.end()):
        yield said(await read(partial(list_.answer, rows=part)))
    yield list_.last()
