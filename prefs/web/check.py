"""POST /v1/check: may we send this?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs.core import identity
from prefs.core.decision import (
    NOBODY,
    Ask,
    Decision,
    Held,
    Reason,
    decide,
    hold_together,
)
from prefs.core.errors import BadIdentifier, BadInput, Busy, Unavailable
from prefs.core.screening import as_of, together
from prefs.core.signals import Identifier
from prefs.core.spans import span
from prefs.core.words import KIND_OF, Channel, Purpose
from prefs.metrics import CHECKED
from prefs.store import ledger, marks, permissions, subjects
from prefs.store.access import ApiKey
from prefs.store.answers import Answers
from prefs.web.auth import needs, same_brand
from prefs.web.bodies import BATCH_LIMIT, ITEMS, CheckBody, RefItem, parse, read_body
from prefs.web.context import Service
from prefs.web.scopes import scope_of

_decode = msgspec.json.Decoder(CheckBody)
_encode = msgspec.json.Encoder().encode

T = TypeVar("T")

MANY = 500
"""More are answered beside the event loop: a click need not wait for them."""

_YES, _NO = CHECKED.labels("yes"), CHECKED.labels("no")
INVALID = Decision(False, Reason.INVALID_IDENTIFIER)


async def away(request: Request, served: Service, key: ApiKey) -> Response:
    """The answer without the store."""
    body, ask = await _read(request, served, key)
    return _answer(body, [_degraded(ask)] * len(body.to), degraded=True)


@needs("check", away=away)
async def check(request: Request, served: Service, key: ApiKey) -> Response:
    """Answer for each item of `to`, in the order asked."""
    body, ask = await _read(request, served, key)
    at = (body.at or served.clock()).timestamp()
    try:
        if body.via is not None:
            ask = ask._replace(target_unsafe=await _unsafe(served, body.brand, body.via))
        with span("decision.batch"):
            decisions = await _decisions(served, body.brand, body, ask, at)
    except Busy:
        raise
    except Unavailable:
        return _answer(body, [_degraded(ask)] * len(body.to), degraded=True)
    return _answer(body, decisions, degraded=ask.paused)


async def _read(request: Request, served: Service, key: ApiKey) -> tuple[CheckBody, Ask]:
    """Raises BadInput, Forbidden."""
    body = parse(_decode, await read_body(request, BATCH_LIMIT))
    same_brand(key, body.brand)
    if len(body.to) > ITEMS:
        raise BadInput(f"more than {ITEMS} items; use /v1/scrub", field="$.to", status=413)
    ask = _ask(served, body)
    if body.at and body.at > served.clock():
        raise BadInput("`at` lies in the future", field="$.at")
    return body, ask


def _ask(served: Service, body: CheckBody) -> Ask:
    scope = scope_of(served.settings, body.brand, body.channel, body.purpose, body.topic)
    paused = served.watch.paused is not None
    return Ask(scope, paused, mps_applies=served.settings.brands[body.brand].mps)


async def _unsafe(served: Service, brand: str, via: str) -> bool:
    if via not in served.settings.brands[brand].targets:
        raise BadInput("unknown target", field="$.via")
    label = f"{brand}/{via}"
    row = await served.database.read(lambda conn: marks.lane(conn, label))
    return bool(row and row.unsafe_since)


async def asked(served: Service, body: CheckBody) -> Ask:
    """What a body asks for all of its items. Raises BadInput, Unavailable."""
    ask = _ask(served, body)
    if body.via is None:
        return ask
    return ask._replace(target_unsafe=await _unsafe(served, body.brand, body.via))


def decide_all(
    conn: Connection, served: Service, brand: str, ask: Ask, items: Sequence[str | RefItem]
) -> list[Decision]:
    """The answer for each address or number, in the order given: what `check` would say now."""
    region, now = served.settings.brands[brand].region, served.clock().timestamp()
    hashed = [_hashes(served, item, ask.scope.channel, region) for item in items]
    found = permissions.rows(conn, brand, {hash_ for hashes in hashed for hash_ in hashes})
    return _decided(found, hashed, ask, now)


def _decided(
    found: Mapping[bytes, bytes], hashed: Iterable[Sequence[bytes]], ask: Ask, now: float
) -> list[Decision]:
    """For each item, hashed under every key; for none that is no identifier."""
    answers = Answers(ask, now)
    return [answers[_first(found, hashes)] if hashes else INVALID for hashes in hashed]


def decide_ref(conn: Connection, served: Service, brand: str, ask: Ask, item: RefItem) -> Decision:
    """The answer for somebody named by `ref`."""
    body = CheckBody(brand, ask.scope.channel, ask.scope.purpose, [item])
    held = _held_one(conn, served, brand, body, item)
    return INVALID if held is None else decide(ask, held, served.clock().timestamp())


def _degraded(ask: Ask) -> Decision:
    """The store is away: marketing waits, an appointment reminder goes out."""
    if ask.scope.purpose is Purpose.MARKETING:
        return Decision(False, Reason.PAUSED)
    return Decision(True, Reason.SERVICE)


async def _decisions(
    served: Service, brand: str, body: CheckBody, ask: Ask, moment: float
) -> list[Decision]:
    if body.at is not None or any(_by_ref(item) for item in body.to):
        held = await served.database.read(lambda conn: _held_slowly(conn, served, brand, body))
        return [INVALID if one is None else decide(ask, one, moment) for one in held]
    if len(body.to) > MANY:
        async with served.look_up.alone:
            return await served.database.read(
                lambda conn: decide_all(conn, served, brand, ask, body.to)
            )
    region, channel = served.settings.brands[brand].region, ask.scope.channel
    hashed = [_hashes(served, item, channel, region) for item in body.to]
    found = await served.look_up.of(brand, [hash_ for hashes in hashed for hash_ in hashes])
    return _decided(found, hashed, ask, moment)


def _by_ref(item: str | RefItem) -> bool:
    return isinstance(item, RefItem) and item.ref is not None


def _first(found: Mapping[bytes, T], hashes: Iterable[bytes]) -> T | None:
    for hash_ in hashes:
        if hash_ in found:
            return found[hash_]
    return None


def _hashes(
    served: Service, item: str | RefItem, channel: Channel, region: str
) -> tuple[bytes, ...]:
    try:
        return served.keys.hashes(_identifier(item, channel, region))
    except BadIdentifier:
        return ()


def _identifier(item: str | RefItem, channel: Channel, region: str) -> Identifier:
    if isinstance(item, str):
        return identity.guess(item, channel, region)
    if channel is not Channel.POST or not item.name or not item.postcode:
        raise BadIdentifier("a postal item needs name and postcode, on the channel post")
    return identity.post(item.name, item.lines, item.postcode, item.country)


def _held_slowly(
    conn: Connection, served: Service, brand: str, body: CheckBody
) -> list[Held | None]:
    """Items by `ref`, and answers for a moment in the past: from the people themselves."""
    return [_held_one(conn, served, brand, body, item) for item in body.to]


def _held_one(
    conn: Connection, served: Service, brand: str, body: CheckBody, item: str | RefItem
) -> Held | None:
    controller = served.intake.brands[brand]
    channel = Channel(body.channel)
    people: set[int] = set()
    if isinstance(item, RefItem) and item.ref is not None:
        subject = subjects.by_ref(conn, controller, item.ref)
        if subject is None:
            return NOBODY
        people = {subject.id}
        hashes = _own_hashes(conn, served, subject.id, channel)
    else:
        hashes = _hashes(served, item, channel, served.settings.brands[brand].region)
        if not hashes:
            return None
    people |= set(subjects.owners(conn, controller, hashes))
    rows = permissions.read(conn, brand, hashes)
    screened = together(row.screening for row in _rows(item, hashes, rows))
    if body.at is not None:
        until = body.at.timestamp()
        held = hold_together([ledger.state_of(conn, one, until) for one in people], brand)
        return replace(held, screening=as_of(screened, until))
    held = hold_together([one.state for one in subjects.by_ids(conn, people)], brand)
    undeliverable = frozenset(pair for row in rows.values() for pair in row.undeliverable)
    return replace(held, undeliverable=undeliverable, screening=screened)


def _rows(item: str | RefItem, hashes: Sequence[bytes], rows: dict[bytes, Held]) -> list[Held]:
    """One for each number of somebody named by `ref`; a bare number is hashed under every key."""
    if _by_ref(item):
        return [rows.get(hash_, NOBODY) for hash_ in hashes]
    return [_first(rows, hashes) or NOBODY]


def _own_hashes(
    conn: Connection, served: Service, subject_id: int, channel: Channel
) -> Sequence[bytes]:
    known = subjects.identifiers_of(conn, [subject_id], served.keys)[subject_id]
    return [one.hash for one in known if one.kind is KIND_OF[channel]]


def answer_one(conn: Connection, served: Service, body: CheckBody) -> dict[str, Any]:
    """The answer for the first item, for callers without an event loop."""
    ask = _ask(served, body)
    (held,) = _held_slowly(conn, served, body.brand, body)
    now = served.clock().timestamp()
    decision = INVALID if held is None else decide(ask, held, now)
    return {
        "to": body.to[0],
        "allowed": decision.allowed,
        "reason": decision.reason.value,
        "basis": decision.basis.value if decision.basis else None,
        "since": rfc3339(decision.since),
    }


class _Result(msgspec.Struct):
    to: Any
    allowed: bool
    reason: str
    basis: str | None
    since: datetime | None


def _answer(body: CheckBody, decisions: Sequence[Decision], *, degraded: bool = False) -> Response:
    results = [
        _Result(
            item,
            decision.allowed,
            decision.reason.value,
            decision.basis.value if decision.basis else None,
            None if decision.since is None else datetime.fromtimestamp(decision.since, UTC),
        )
        for item, decision in zip(body.to, decisions, strict=True)
    ]
    _count([decision.allowed for decision in decisions])
    answer: dict[str, Any] = {"results": results}
    if degraded:
        answer["degraded"] = True
    return Response(_encode(answer), media_type="application/json")


def _count(allowed: Sequence[bool]) -> None:
    """A counter takes a lock: what did not happen is not counted."""
    if yes := sum(allowed):
        _YES.inc(yes)
    if no := len(allowed) - yes:
        _NO.inc(no)


def rfc3339(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


routes = [Route("/v1/check", check, methods=["POST"])]
