"""/staff/tasks: work that waits for a person, in words, what is due first; settled with a note."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs.core.errors import BadInput, NotFound
from prefs.core.ids import subject_text
from prefs.core.propagation import Target, Wish
from prefs.core.words import Channel
from prefs.store import subjects, tasks
from prefs.store.staff import Role
from prefs.tasks import KINDS, UNCLEAR, Settled, channels_of, settle
from prefs.web.console.quick import needed_note
from prefs.web.console.session import Visit, go, signed_in
from prefs.web.console.sheets import Sheet, whole

A_PAGE = 30
STATES = ("open", "settled")
FOR_MANAGERS = frozenset({"batch", "opt_in_wave"})
"""Kinds that decide about many people at once."""
FACTS = (
    "number",
    "from",
    "sender",
    "subject",
    "heard_by",
    "email",
    "mobile",
    "customer_id",
    "count",
    "origin",
    "batch",
    "limit",
    "most",
    "name",
    "container",
)
"""What a task's body may tell beside its texts, in the order in which a page shows it."""
TEXTS = ("text", "instruction", "hint")
WARNINGS = (
    ("after_go_live", True, "task.warning.after_go_live"),
    ("proved", False, "task.warning.not_proved"),
)
"""Name and value in a body, and the text that says what it means."""


class Task(NamedTuple):
    """A task as a page tells it."""

    id: int
    kind: str
    state: str
    due_at: float
    closed_at: float | None
    overdue: bool
    person: tuple[str, str | None] | None
    """Whom it is about: id and name."""
    target: str
    change: tuple[list[Channel], str] | None
    """Channels, and what to set them to; empty where that is the question."""
    facts: list[tuple[str, str]]
    texts: list[tuple[str, str]]
    warnings: list[str]
    """Keys of texts."""
    settle_as: Sequence[str]
    settled: tuple[str, str]
    """With which note, and by whom."""


def told(visit: Visit, row: Any, people: Mapping[int, str | None]) -> Task:
    body = tasks.body(visit.served.keys, row)
    now = visit.served.clock().timestamp()
    is_open = row.state == "open"
    return Task(
        row.id,
        row.kind,
        row.state,
        row.due_at,
        row.closed_at,
        is_open and row.due_at < now,
        (subject_text(row.subject_id), people[row.subject_id])
        if row.subject_id in people
        else None,
        str(body.get("target", "")).partition("/")[2],
        _change(row, body),
        [(name, str(body[name])) for name in FACTS if body.get(name) not in (None, "")],
        [(name, str(body[name])) for name in TEXTS if body.get(name)],
        [key for name, value, key in WARNINGS if body.get(name) is value],
        _settle_as(visit, row) if is_open else (),
        (str(body.get("settled_with", "")), str(body.get("settled_by", ""))),
    )


def _change(row: Any, body: Mapping[str, Any]) -> tuple[list[Channel], str] | None:
    if "set_to" in body:
        return [Channel(body["channel"])], Wish(body["set_to"]).value
    return (channels_of(row, body), "") if row.kind in UNCLEAR else None


def _settle_as(visit: Visit, row: Any) -> Sequence[str]:
    allowed = row.kind not in FOR_MANAGERS or visit.member.role.covers(Role.MANAGER)
    return KINDS[row.kind].states if allowed else ()


# --- the list ----------------------------------------------------------------------------------


class Listed(NamedTuple):
    tasks: list[Task]
    counts: dict[str, int]
    sheet: Sheet


@signed_in()
async def task_list(request: Request, visit: Visit) -> Response:
    """Open ones, what is due first, or settled ones, the latest first; of one kind or all. Changes
    that are carried as a list stand in it one by one only when they are asked for."""
    query = request.query_params
    state = query.get("state", "")
    state = state if state in STATES else STATES[0]
    kind = query.get("kind", "")
    kind = kind if kind in KINDS else ""
    number, brand = whole(query.get("page")), visit.member.brand
    assisted = changed_by_hand(visit)
    as_list = {kind_at(one) for one in assisted} if state == "open" else set()
    wanted = {kind} if kind else KINDS.keys() - as_list

    def look(conn: Connection) -> Listed:
        is_open = state == "open"
        counts = tasks.counts(conn, brand, is_open=is_open)
        sheet = Sheet.of(number, sum(counts.get(one, 0) for one in wanted), A_PAGE)
        rows = tasks.page(conn, brand, wanted, is_open=is_open, first=sheet.first, size=A_PAGE)
        ids = {row.subject_id for row in rows if row.subject_id}
        people = {one.id: one.name for one in subjects.by_ids(conn, ids)}
        return Listed([told(visit, row, people) for row in rows], counts, sheet)

    listed = await visit.served.database.read(look)
    return visit.page(
        "tasks.html",
        listed=listed,
        state=state,
        kind=kind,
        states=STATES,
        assisted=[(one, listed.counts.get(kind_at(one), 0)) for one in assisted],
        as_list=as_list,
        settled=query.get("settled") == "yes",
        kinds=list(KINDS),
    )


def changed_by_hand(visit: Visit) -> list[Target]:
    """Systems without an interface: staff carry the changes."""
    return [one for one in visit.brand.targets.values() if kind_at(one) in KINDS]


def kind_at(target: Target) -> str:
    """The kind of a change that staff carry there."""
    return f"{target.system}_change"


# --- settling ----------------------------------------------------------------------------------


@signed_in()
async def settle_task(request: Request, visit: Visit) -> Response:
    """Close a task as its kind allows, with a note of what was done."""
    id_, state = whole(request.path_params["id"]), visit.form.get("state", "")
    if id_ is None:
        raise NotFound("there is no such task")
    settled = Settled(state, needed_note(visit.form), visit.member.email)

    def job(conn: Connection) -> None:
        _check(conn, visit, id_, state)
        try:
            settle(conn, visit.served, visit.member.brand, id_, settled)
        except BadInput:  # the state was looked at: nobody is known by what the task tells
            raise BadInput("staff.tasks.nobody") from None

    await visit.served.database.write(job)
    kind, page = visit.form.get("kind", ""), whole(visit.form.get("page")) or 1
    kept = f"&kind={kind}" if kind in KINDS else ""
    return go(f"/staff/tasks?settled=yes&page={page}{kept}")


def _check(conn: Connection, visit: Visit, id_: int, state: str) -> None:
    """Raises NotFound, or BadInput in the words of the page."""
    row = tasks.one(conn, visit.member.brand, id_)
    if row is None:
        raise NotFound("there is no such task")
    if row.state != "open":
        raise BadInput("staff.tasks.closed", status=409)
    if state in KINDS[row.kind].states and state not in _settle_as(visit, row):
        raise BadInput("staff.least.manager", status=403)
    if state not in KINDS[row.kind].states:
        raise BadInput("staff.form.damaged")


routes = [
    Route("/staff/tasks", task_list, methods=["GET"]),
    Route("/staff/tasks/{id}/settle", settle_task, methods=["POST"]),
]
