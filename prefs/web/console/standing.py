"""What stands for one person: what may be sent and why, who said so, what staff may take back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from msgspec.structs import replace
from sqlalchemy import Connection

from prefs import retract
from prefs.core.decision import NOBODY, Ask, Decision, Held, decide, hold_together
from prefs.core.fold import Standing
from prefs.core.ids import subject_text
from prefs.core.words import CHANNELS_OF, KIND_OF, Channel, Kind, Purpose, Scope
from prefs.store import ledger, permissions, subjects
from prefs.store.subjects import Known, Subject
from prefs.web import people
from prefs.web.context import Service


class By(NamedTuple):
    """Who said what stands: the source, and the member of staff or the system if there is one."""

    source: str
    actor: str | None


class Answer(NamedTuple):
    """What may be sent on one channel: what `check` says of this person's own address or number."""

    scope: Scope
    decision: Decision
    by: By | None
    to: str | None
    """Which address or number, where there are several and they differ."""
    reachable: bool
    shared: bool
    """The answer comes from somebody else who is known by the same."""
    screened_at: float | None


class Waiting(NamedTuple):
    """A hold that staff may end."""

    channel: Channel
    since: float
    by: By | None


class Slip(NamedTuple):
    """An out that staff recorded just now. `act` is what it is taken back by."""

    act: int
    at: float
    actor: str
    scopes: list[Scope]


class Sharer(NamedTuple):
    id: str
    name: str | None
    shared: list[str]


class Shown(NamedTuple):
    subject: Mapping[str, Any]
    answers: list[Answer]
    topics: list[Answer]
    holds: list[Waiting]
    slips: list[Slip]
    addresses: list[tuple[int, str]]
    """Email addresses that a link can be mailed to, by the number of their row."""
    sharers: list[Sharer]
    targets: list[dict[str, Any]]
    history: list[dict[str, Any]]


class _Seen(NamedTuple):
    """What the rows of one person's page are made from."""

    served: Service
    brand: str
    one: Subject
    own: Held
    said: Mapping[int, By]
    """By event."""

    def by(self, standing: Standing) -> By | None:
        found = standing.strongest or standing.hold or standing.consent or standing.pending
        return self.said.get(found.event_id) if found else None


def look(conn: Connection, served: Service, brand: str, text: str) -> Shown:
    """Raises NotFound."""
    one = people.person(conn, served, brand, text)
    known = subjects.identifiers_of(conn, [one.id], served.keys)[one.id]
    history = people.history_of(conn, served, brand, text)
    said = {int(item["event_id"]): By(item["source"], item["actor"]) for item in history}
    seen = _Seen(served, brand, one, hold_together([one.state], brand), said)
    return Shown(
        people.subject_of(conn, served, brand, text),
        list(_answers(conn, seen, known)),
        _topics(seen),
        _holds(seen),
        _slips(conn, seen),
        [(k.id, k.spelling) for k in known if k.kind is Kind.EMAIL and k.spelling],
        _sharers(conn, served, one, known),
        [_waiting(one, served) for one in people.targets_of(conn, served, brand, text)],
        list(reversed(history)),
    )


def _waiting(one: dict[str, Any], served: Service) -> dict[str, Any]:
    """Whether a system is looked at again only later, and its reason where it tells more."""
    due, reason = one["due_at"], one["reason"]
    waits = bool(due and datetime.fromisoformat(due) > served.clock())
    known = reason in (people.WAITS, people.UNKNOWN_THERE)
    return one | {"waits": waits, "reason": None if known else reason}


def _answers(conn: Connection, seen: _Seen, known: Iterable[Known]) -> Iterable[Answer]:
    known = list(known)
    held = permissions.read(conn, seen.brand, [k.hash for k in known])
    for purpose in Purpose:
        for channel in CHANNELS_OF[purpose]:
            scope = Scope(channel, purpose)
            own = [k for k in known if k.kind is KIND_OF[channel]]
            found = [_answer(seen, scope, held.get(k.hash, NOBODY), k.spelling) for k in own]
            yield from _merged(found) if found else [_answer(seen, scope, seen.own, None)]


def _merged(found: list[Answer]) -> list[Answer]:
    """One line where all addresses have the same answer."""
    same = {one._replace(to=None) for one in found}
    return list(same) if len(same) == 1 else found


def _answer(seen: _Seen, scope: Scope, held: Held, to: str | None) -> Answer:
    now = seen.served.clock().timestamp()
    paused = seen.served.watch.paused is not None
    ask = Ask(scope, paused, mps_applies=seen.served.settings.brands[seen.brand].mps)
    decision = decide(ask, held, now)
    alone = replace(held, views=seen.own.views, restricted=seen.own.restricted)
    shared = decide(ask, alone, now).reason is not decision.reason
    by = None if shared else seen.by(seen.one.state.at(seen.brand, scope))
    reachable, screened = held is not seen.own, held.screening
    at = screened.mps_screened_at if scope.channel is Channel.POST else screened.tps_screened_at
    return Answer(scope, decision, by, to, reachable, shared, at)


def _topics(seen: _Seen) -> list[Answer]:
    """Topics that were chosen by themselves."""
    scopes = [s for s in seen.one.state.scopes.get(seen.brand, {}) if s.topic is not None]
    found = [_answer(seen, scope, seen.own, None) for scope in sorted(scopes)]
    return [one for one in found if one.by]


def _holds(seen: _Seen) -> list[Waiting]:
    found = []
    for scope, standing in sorted(seen.one.state.scopes.get(seen.brand, {}).items()):
        if standing.hold and scope.topic is None and not standing.outs:
            by = seen.said.get(standing.hold.event_id)
            found.append(Waiting(scope.channel, standing.hold.at, by))
    return found


def _slips(conn: Connection, seen: _Seen) -> list[Slip]:
    """The newest first; one line for everything that one act said at this brand."""
    acts: dict[int, list[Any]] = {}
    for row in retract.slips(conn, seen.one.id, seen.served.clock().timestamp()):
        if row.brand == seen.brand:
            acts.setdefault(row.payload_id, []).append(row)
    return [_slip(conn, seen.served, act, rows) for act, rows in acts.items()]


def _slip(conn: Connection, served: Service, act: int, rows: list[Any]) -> Slip:
    said = ledger.read_payload(conn, served.keys, act).get("evidence", {})
    scopes = [Scope(Channel(r.channel), Purpose(r.purpose), r.topic) for r in reversed(rows)]
    return Slip(act, rows[0].received_at, said.get("actor") or "", scopes)


def _sharers(
    conn: Connection, served: Service, one: Subject, known: Iterable[Known]
) -> list[Sharer]:
    """Others known by the same address or number, and by which."""
    spelled = {k.id: k.spelling or "" for k in known}
    linked = subjects.linked_to(conn, list(spelled))
    return [
        Sharer(
            subject_text(other.id),
            other.name,
            [spelled[id_] for id_, ids in linked.items() if other.id in ids and spelled[id_]],
        )
        for other in subjects.sharers(conn, one.id)
        if other.id != one.id
    ]
