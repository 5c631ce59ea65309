"""Outs that one system's housekeeping made at another, and the question to staff.

Where customers are merged or deleted at a system that fills another one's lists, its sync takes
them out there, which is not their wish. Such an out counts at once, like every other that no person
said; staff, who see the customers, say what it was.

https://help.gettimely.com/article/292-timely-and-mailchimp-overview
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import Connection

from prefs.core.keys import Keyring
from prefs.core.words import KIND_OF, Channel, Scope, Source, Strength, strength
from prefs.store import marks, subjects, tasks

KIND = "merge_check"
NO_PERSON = frozenset({Source.VENDOR_ADMIN, Source.VENDOR_API})


class Keeper(NamedTuple):
    """A target where customers are merged and deleted, and whose sync tells of it elsewhere."""

    label: str
    system: str


class Heard(NamedTuple):
    """An out heard at a target that a keeper fills, as far as it changed something for somebody."""

    target: str
    system: str
    brand: str
    subject_id: int
    scopes: Sequence[Scope]
    source: Source
    at: float
    batch: str | None
    """The run it belongs to; None where a person said it."""


def heard(conn: Connection, keys: Keyring, keeper: Keeper, out: Heard, now: float) -> None:
    """Ask staff about an out that no person said, once for each person; one that the same system
    shows to be the person's own after all ends the question."""
    if strength(out.source) is Strength.PERSON:
        _end(conn, keys, out, now)
    elif out.source in NO_PERSON and out.batch:
        _ask(conn, keys, keeper, out, now)


def _end(conn: Connection, keys: Keyring, out: Heard, now: float) -> None:
    for row in tasks.open_of(conn, out.brand, [KIND], [out.subject_id]):
        body = tasks.body(keys, row)
        asked = [Scope(*scope) for scope in body["scopes"]]
        covered = all({scope, scope.covering} & set(out.scopes) for scope in asked)
        if body["target"] == out.target and covered:
            body["settled_with"] = "the person said it themselves"
            tasks.settle(conn, keys, row.id, "closed", body, now)


def _ask(conn: Connection, keys: Keyring, keeper: Keeper, out: Heard, now: float) -> None:
    scopes = [list(scope) for scope in out.scopes]
    for row in tasks.open_of(conn, out.brand, [KIND], [out.subject_id]):
        body = tasks.body(keys, row)
        body["batches"] = list(dict.fromkeys([*body["batches"], out.batch]))
        body["scopes"] += [scope for scope in scopes if scope not in body["scopes"]]
        tasks.rewrite(conn, keys, row.id, body)
        return
    body = {
        "target": out.target,
        "keeper": keeper.label,
        "batches": [out.batch],
        "channel": out.scopes[0].channel.value,
        "scopes": scopes,
        "instruction": _instruction(keeper, out),
        **tasks.person(conn, keys, keeper.label, out.subject_id),
        "hint": _hint(conn, keys, keeper.label, out.subject_id, out.scopes[0].channel),
    }
    due = tasks.due_at(now)
    tasks.add(conn, keys, out.brand, KIND, out.subject_id, body, now, due)


def _instruction(keeper: Keeper, out: Heard) -> str:
    there, here = out.system.capitalize(), keeper.system.capitalize()
    at = datetime.fromtimestamp(out.at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"{there} took this address out ({at}) and does not say that the person asked for it. "
        f"Merging or deleting a customer in {here} does that. Look the customer up in {here}. "
        "Merged, or deleted without a wish to hear no more: settle as release, and this opt-out is "
        "taken back. Neither, or nobody can tell: settle as done, and it stays."
    )


def _hint(conn: Connection, keys: Keyring, keeper: str, subject_id: int, channel: Channel) -> str:
    """What the keeper's last export shows of the address."""
    row = marks.lane(conn, keeper)
    if row is None or row.walked_at is None:
        return "No export was brought yet."
    known = subjects.identifiers_of(conn, [subject_id], keys)[subject_id]
    hashes = [one.hash for one in known if one.kind is KIND_OF[channel]]
    seen = marks.records_seen(conn, keeper, hashes)
    there = [id_ for id_, at in seen if at >= row.walked_at]
    gone = [id_ for id_, at in seen if at < row.walked_at]
    day = datetime.fromtimestamp(row.walked_at, UTC).strftime("%Y-%m-%d")
    told = _told(there, gone, f"in the export of {day}")
    return told[:1].upper() + told[1:]


def _told(there: Collection[str], gone: Collection[str], where: str) -> str:
    """Ids of customers that are, or once were, known by the address."""
    if there and gone:
        return (
            f"{_named(gone)}, once known by this address, is gone; {_named(there)} is {where}: "
            "they may have been merged."
        )
    if gone:
        return f"{_named(gone)}, once known by this address, is no more {where}."
    return f"{_named(there)}, known by this address, is {where}." if there else f"not {where}."


def _named(ids: Collection[str]) -> str:
    """Where the export has no ids, customers are known by their addresses."""
    numbers = sorted(id_ for id_ in ids if "@" not in id_)
    return f"customer {', '.join(numbers)}" if numbers else "the customer"


def exported(conn: Connection, keys: Keyring, brand: str, keeper: str) -> None:
    """An export was brought: open questions tell what it shows."""
    for row in tasks.open_about(conn, keys, brand, KIND, keeper=keeper):
        body = tasks.body(keys, row)
        channel = Channel(body["channel"])
        body["hint"] = _hint(conn, keys, keeper, row.subject_id, channel)
        tasks.rewrite(conn, keys, row.id, body)


def run_of_many(conn: Connection, keys: Keyring, brand: str, batch: str, now: float) -> None:
    """A whole run is asked about at once: no question for each of its people beside it."""
    _close(conn, keys, brand, batch, f"asked about together, as {batch}", now)


def taken_back(conn: Connection, keys: Keyring, brand: str, batch: str, now: float) -> None:
    """A whole run was taken back: nothing is left to ask about its people."""
    _close(conn, keys, brand, batch, f"taken back, as {batch}", now)


def _close(conn: Connection, keys: Keyring, brand: str, batch: str, said: str, now: float) -> None:
    for row in tasks.open_about(conn, keys, brand, KIND, batches=[batch]):
        body = tasks.body(keys, row) | {"settled_with": said}
        tasks.settle(conn, keys, row.id, "closed", body, now)
