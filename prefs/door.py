"""Where many come in at once: what is recorded at the same moment is recorded together."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar, cast

from sqlalchemy import Connection

from prefs.core.signals import Signal
from prefs.intake import Intake, Recorded
from prefs.store.database import Database, Together

T = TypeVar("T")

Deed = Callable[[Connection], Generator[Signal, Recorded, T]]
"""Yields the signal to record, is given what became of it, and returns the answer. One that has its
answer already yields nothing. It is begun anew where something was in the way."""


class Door:
    def __init__(self, database: Database, intake: Intake) -> None:
        self._database = database
        self._intake = intake
        self._together: Together[Deed[Any], Any] = Together(self._take_all)

    async def take(self, deed: Deed[T], *, patient: bool = True) -> T:
        """The answer, once it is on disk. Raises Unavailable; Busy for who is not patient."""
        answer = await self._database.write_with(self._together, deed, patient=patient)
        return cast(T, answer)

    def _take_all(self, conn: Connection, deeds: Sequence[Deed[Any]]) -> list[Any]:
        answers: dict[int, Any] = {}
        begun = [deed(conn) for deed in deeds]
        signals: dict[int, Signal] = {}
        for number, deed in enumerate(begun):
            try:
                signals[number] = next(deed)
            except StopIteration as end:
                answers[number] = end.value
        recorded = self._intake.record_many(conn, list(signals.values()))
        for number, done in zip(signals, recorded, strict=True):
            answers[number] = _ended(begun[number], done)
        return [answers[number] for number in range(len(deeds))]


def _ended(deed: Generator[Signal, Recorded, T], done: Recorded) -> T:
    try:
        deed.send(done)
    except StopIteration as end:
        return cast(T, end.value)
    raise RuntimeError("a deed records one signal")
