"""Timely (gettimely.com): no public interface that could write. Staff carry each change.

An opt-out becomes a task with what to set and a due time; Timely's own export of customers,
uploaded by staff, confirms or contradicts it. Marketing, notifications and reminders are three
settings on one tab there, and every task says to touch marketing alone.

https://help.gettimely.com/hc/en-gb/articles/360000394936
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import ClassVar, NamedTuple

from prefs.core import identity
from prefs.core.errors import BadIdentifier, BadInput, Refused
from prefs.core.propagation import (
    UNNAMED,
    Answer,
    Assisted,
    Budget,
    Change,
    Container,
    Facts,
    Failure,
    Key,
    Limit,
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
from prefs.core.words import Channel, Kind

OURS = ("id", "first_name", "last_name", "email", "mobile", "sms_marketing", "email_marketing")
NEEDED = frozenset({"email", "mobile", "sms_marketing", "email_marketing"})
FLAGS = {Channel.EMAIL: "email_marketing", Channel.SMS: "sms_marketing"}
WORDS = {
    **dict.fromkeys(("yes", "true", "1", "on", "y"), Value.ON),
    **dict.fromkeys(("no", "false", "0", "off", "n"), Value.OFF),
    "": Value.UNSET,
}
UNREADABLE = "Timely cannot be read by a program: upload its export"
ONLY_MARKETING = "Leave appointment notifications and reminders as they are."


class Export(NamedTuple):
    """What an uploaded file shows. `bad` counts rows that could not be read, or not in full: what
    they do say counts, but nobody passes for gone then."""

    page: Page
    rows: int
    bad: int


class Timely:
    """One business. `place` of a slot: the channel."""

    facts: ClassVar[Facts] = Facts(
        system="timely",
        channels=frozenset(FLAGS),
        keys_on=(Kind.EMAIL, Kind.PHONE),
        splits_topics=False,
        read_batch=1000,
        write_batch=1000,
        off_reversible=True,
        readback=Readback.NONE,
        call_alive=30.0,
        limit=Limit(1),
        writes=(),
        source_url="https://help.gettimely.com",
        unsubscribes_at=frozenset({"mailchimp"}),
        assisted=True,
    )
    KEYS: ClassVar[Mapping[str, Key]] = {
        "columns": Key("table", help="Our column = heading in Timely's export."),
    }

    def __init__(self, target: Target, budget: Budget, now: Callable[[], datetime]) -> None:
        self._now, self._region = now, target.region
        given = self._named = target.table("columns")
        self._columns = {name: str(given.get(name, name)).strip().lower() for name in OURS}
        self._slots = {channel: Slot(channel.value, channel) for channel in FLAGS}

    @property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(self._slots.values())

    async def close(self) -> None:
        return None

    async def observe(self, refs: Sequence[Ref]) -> Mapping[Ref, Failure]:
        return {
            ref: Refused("Timely cannot be read by a program: upload its export") for ref in refs
        }

    async def apply(self, changes: Sequence[Change]) -> Mapping[Change, Answer]:
        return {change: Assisted(instruction(change)) for change in changes}

    async def scan(self, cursor: str | None) -> AsyncIterator[Page]:
        """Nothing: only an upload is read."""
        yield Page((), cursor)

    async def containers(self) -> Sequence[Container]:
        return []

    def read_export(self, data: bytes) -> Export:
        """Timely's own export of customers. Raises BadInput that names a missing column."""
        try:
            return self._export(data)
        except csv.Error:
            raise BadInput(
                "the file is no CSV: bring Timely's export as it was downloaded"
            ) from None

    def _export(self, data: bytes) -> Export:
        began = self._now()
        text = io.StringIO(_text(data), newline="")
        reader = csv.DictReader(text, delimiter=_delimiter(data))
        headings = {name.strip().lower(): name for name in reader.fieldnames or ()}
        self._check(headings)
        records, rows, bad = [], 0, 0
        for row in reader:
            rows += 1
            cells = {key: row.get(headings[key]) or "" for key in headings}
            record, whole = self._record(cells, began)
            records += [record] if record else []
            bad += not whole
        return Export(Page(tuple(records), complete=not bad), rows, bad)

    def _check(self, headings: Mapping[str, str]) -> None:
        """All that must be there, and all that the configuration names."""
        needed = [name for name in OURS if name in NEEDED or name in self._named]
        missing = [self._columns[name] for name in needed if self._columns[name] not in headings]
        if missing:
            raise BadInput(
                f"the file lacks the column {', '.join(missing)}; it has "
                f"{', '.join(headings) or 'none'}: say in `columns` how Timely calls it"
            )

    def _record(
        self, row: Mapping[str, str], began: datetime
    ) -> tuple[tuple[Ref, Observed] | None, bool]:
        """What a row shows, and whether that is all it says: not where a word is in no table, or
        no address can be read of those given. Without any address nothing can be sent to them."""
        cells = {ours: row.get(theirs, "").strip() for ours, theirs in self._columns.items()}
        shown = tuple(self._shown(cells))
        if not shown:
            return None, not (cells["email"] or cells["mobile"])
        words = {self._slots[channel]: cells[name].lower() for channel, name in FLAGS.items()}
        values = {slot: Seen(WORDS[word]) for slot, word in words.items() if word in WORDS}
        (kind, value), id_ = shown[0], cells["id"] or _id_of(*shown[0])
        record = Ref(kind, value, id_), Observed(values, began, id_, shown)
        return record, len(values) == len(words)

    def _shown(self, cells: Mapping[str, str]) -> Iterator[tuple[Kind, str]]:
        """Those that are any."""
        with suppress(BadIdentifier):
            yield Kind.EMAIL, identity.email(cells["email"]).spelling
        with suppress(BadIdentifier):
            yield Kind.PHONE, mobile(cells["mobile"], self._region)


def mobile(text: str, region: str) -> str:
    """E.164. Timely shows mobiles without the leading 0, and spreadsheets take the plus away.
    Raises BadIdentifier."""
    with suppress(BadIdentifier):
        return identity.phone(text, region).key
    return identity.phone(f"0{text}", region).key


def _id_of(kind: Kind, text: str) -> str:
    """Where the export has no ids: one of our own, for ids outlive the address they stand for."""
    key = identity.email(text).key if kind is Kind.EMAIL else text
    return UNNAMED + hashlib.sha256(key.encode()).hexdigest()[:32]


def instruction(change: Change) -> str:
    word = "off" if change.to is Wish.OFF else "on"
    what = "email" if change.slot.channel is Channel.EMAIL else "SMS/text"
    return (
        f"Customer, Edit, Notifications: turn {what} marketing {word}. "
        f"Turn {word} marketing only. {ONLY_MARKETING}"
    )


def _text(data: bytes) -> str:
    """UTF-8 with or without a byte-order mark, else what a Windows spreadsheet writes."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _delimiter(data: bytes) -> str:
    first = data.split(b"\n", 1)[0]
    return ";" if first.count(b";") > first.count(b",") else ","
