"""What staff must do by hand at a target: systems without an interface, and refused opt-outs.

One open task for each person, channel and direction at a target. It closes when staff say that it
is done, or when the target shows it; a target that shows otherwise afterwards opens a new one.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection

from prefs.core.errors import BadInput
from prefs.core.keys import Keyring
from prefs.core.propagation import Target, Wish
from prefs.core.words import Channel
from prefs.store import marks, tasks
from prefs.texts import next_working_day

REFUSED = "refused"
DONE, NOT_FOUND = "done", "not_found"
"""How staff may settle a change that they carry."""
COLUMNS = (
    "task_id",
    "created_at",
    "due_at",
    "first_name",
    "last_name",
    "email",
    "mobile",
    "timely_customer_id",
    "channel",
    "set_to",
    "keep_reminders",
    "done_at",
    "done_by",
    "note",
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet would run."""


class Asked(NamedTuple):
    """What a person is to do at a target: one channel of one subject."""

    kind: str
    subject_id: int
    channel: Channel
    to: Wish


class Answered(NamedTuple):
    """Where the task stands. `done_at` is set when staff said that it is done, or that nobody like
    that is there: `missing`."""

    due_at: float
    done_at: float | None
    missing: bool = False


def change_of(target: Target) -> str:
    """The kind of task that carries a change to a system without an interface."""
    return f"{target.system}_change"


def ask(
    conn: Connection,
    keys: Keyring,
    target: Target,
    asked: Asked,
    since: float,
    instruction: str,
    now: float,
) -> Answered:
    """The task that stands for this, made where there is none. One that was done, or whose person
    was not found, counts where that was `since` the wish was said and the target was last seen
    otherwise."""
    for row, to in _tasks_of(conn, keys, target, asked):
        if row.state == "open" and to == asked.to:
            return Answered(row.due_at, None)
        if row.state in (DONE, NOT_FOUND) and to == asked.to and row.closed_at > since:
            return Answered(row.due_at, row.closed_at, row.state == NOT_FOUND)
        if row.state != "open":
            break
    due = tasks.due_at(now)
    if asked.kind == REFUSED:
        due = next_working_day(datetime.fromtimestamp(now, UTC)).timestamp()
    body = {
        "target": target.label,
        "channel": asked.channel.value,
        "set_to": asked.to.value,
        "instruction": instruction,
        **tasks.person(conn, keys, target.label, asked.subject_id),
    }
    tasks.add(conn, keys, target.brand, asked.kind, asked.subject_id, body, now, due)
    return Answered(due, None)


def settle_rest(
    conn: Connection,
    keys: Keyring,
    target: Target,
    subject_ids: Collection[int],
    still: Collection[Asked],
    now: float,
) -> None:
    """Close the open tasks of these subjects that are wanted no more: seen done, or changed."""
    kinds = (change_of(target), REFUSED)
    for row in tasks.open_of(conn, target.brand, kinds, subject_ids):
        body = tasks.body(keys, row)
        one = Asked(row.kind, row.subject_id, Channel(body["channel"]), Wish(body["set_to"]))
        if body["target"] == target.label and one not in still:
            body["settled_with"] = "seen done, or no longer wished"
            tasks.settle(conn, keys, row.id, "closed", body, now)


def past_due(conn: Connection, keys: Keyring, target: Target, now: float) -> int:
    """How many changes staff should have carried by now."""
    late = tasks.open_past(conn, target.brand, change_of(target), now)
    about = {"target": target.label, "set_to": Wish.OFF.value}.items()
    return sum(about <= tasks.body(keys, row).items() for row in late)


def _tasks_of(
    conn: Connection, keys: Keyring, target: Target, asked: Asked
) -> Iterable[tuple[Any, str]]:
    """Those of this person's channel, and to what each sets it; the newest first."""
    for row in tasks.of_subject(conn, target.brand, asked.kind, asked.subject_id):
        body = tasks.body(keys, row)
        if (body["target"], body["channel"]) == (target.label, asked.channel.value):
            yield row, body["set_to"]


# --- the list that staff take along -----------------------------------------------------------


def listed(keys: Keyring, rows: Sequence[Any]) -> str:
    """Open tasks as CSV; cells are safe to open in a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for row in rows:
        body = tasks.body(keys, row)
        cells = {
            **body,
            "task_id": str(row.id),
            "created_at": _iso(row.created_at),
            "due_at": _iso(row.due_at),
            "timely_customer_id": body.get("customer_id", ""),
            "keep_reminders": "yes",
            "done_at": _iso(row.closed_at) if row.closed_at else "",
        }
        writer.writerow([safe_cell(str(cells.get(name, ""))) for name in COLUMNS])
    return out.getvalue()


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def safe_cell(cell: str) -> str:
    """A number such as +447700900123 keeps its plus; everything else that a spreadsheet would run
    is quoted."""
    harmless = cell[1:].isdigit() and cell.startswith("+")
    return f"'{cell}" if cell.startswith(FORMULA) and not harmless else cell


class Ticked(NamedTuple):
    done: int
    unknown: int


def is_list(header: Sequence[str]) -> bool:
    """Whether a file is our own list come back, and not the system's export."""
    return {"task_id", "done_at"} <= set(header)


def take_list(
    conn: Connection, keys: Keyring, target: Target, rows: Iterable[Mapping[str, str]], now: float
) -> Ticked:
    """Tick what the list says is done, and let the lane look again. Raises BadInput."""
    done = unknown = 0
    for row in rows:
        if not (row.get("done_at") or "").strip():
            continue
        found = _listed_task(conn, target, row)
        body = tasks.body(keys, found) if found else {}
        if found is None or body["target"] != target.label:
            unknown += 1
            continue
        if found.state == "open":
            body |= {"done_by": row.get("done_by", ""), "note": row.get("note", "")}
            tasks.settle(conn, keys, found.id, "done", body, now)
            look_again(conn, target, found.subject_id, now)
            done += 1
    return Ticked(done, unknown)


def _listed_task(conn: Connection, target: Target, row: Mapping[str, str]) -> Any | None:
    """The change that a line is about. Raises BadInput."""
    text = (row.get("task_id") or "").strip().lstrip("'")
    if not (text.isascii() and text.isdigit()):
        raise BadInput("a task_id is no number: use the list as it was downloaded")
    found = tasks.one(conn, target.brand, int(text)) if len(text) <= 18 else None
    return found if found and found.kind == change_of(target) else None


def look_again(conn: Connection, target: Target, subject_id: int, now: float) -> None:
    marks.set_marks(conn, [(target.label, subject_id, "")], now, urgent=True, heard=True)
