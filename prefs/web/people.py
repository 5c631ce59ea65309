"""What programs may read of a person: choices, history, targets; search and links."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs.core import identity
from prefs.core.errors import BadInput, NotFound
from prefs.core.fold import Standing, State
from prefs.core.ids import subject_number, subject_text
from prefs.core.propagation import SETTLED, Outcome, worst
from prefs.core.signals import Identifier
from prefs.core.words import CHANNELS_OF, KIND_OF, Channel, Kind, Purpose, Scope
from prefs.links import make_links
from prefs.store import ledger, marks, subjects
from prefs.store.access import ApiKey
from prefs.store.subjects import Subject
from prefs.web.auth import needs, same_brand
from prefs.web.bodies import BODY_LIMIT, LinksBody, SearchBody, parse, read_body
from prefs.web.check import rfc3339
from prefs.web.context import Service
from prefs.web.scopes import scope_of

_decode_search = msgspec.json.Decoder(SearchBody)
_decode_links = msgspec.json.Decoder(LinksBody)
WAITS, UNKNOWN_THERE = "waiting for its turn", "nothing is known that this system keys on"
"""Reasons of our own that only repeat the outcome in other words."""
READING = ("staff", "rights", "write")


def json(content: Any) -> Response:
    return Response(
        msgspec.json.encode(content),
        headers={"Cache-Control": "no-store"},
        media_type="application/json",
    )


# --- search ------------------------------------------------------------------------------------


@needs(*READING)
async def search(request: Request, served: Service, key: ApiKey) -> Response:
    """People by address, number, ref or name."""
    body = parse(_decode_search, await read_body(request, BODY_LIMIT))
    same_brand(key, body.brand)
    given = [text for text in (body.email, body.phone, body.ref, body.name) if text is not None]
    if len(given) != 1:
        raise BadInput("search by exactly one of email, phone, ref, name")
    found = await served.database.read(lambda conn: _search(conn, served, body))
    return json({"items": found})


def _search(conn: Connection, served: Service, body: SearchBody) -> list[dict[str, Any]]:
    controller = served.intake.brands[body.brand]
    if body.ref is not None:
        one = subjects.by_ref(conn, controller, body.ref)
        people = [one] if one else []
    elif body.name is not None:
        people = subjects.by_name(conn, controller, body.name)
    else:
        hashes = served.keys.hashes(_sought(served, body))
        people = subjects.by_ids(conn, subjects.owners(conn, controller, hashes))
    known = subjects.identifiers_of(conn, [one.id for one in people], served.keys)
    return [_found(body.brand, one, known[one.id]) for one in people]


def _sought(served: Service, body: SearchBody | LinksBody) -> Identifier:
    if body.email is not None:
        return identity.email(body.email)
    return identity.phone(body.phone or "", served.settings.brands[body.brand].region)


def _found(brand: str, one: Subject, known: Sequence[subjects.Known]) -> dict[str, Any]:
    return {
        "subject_id": subject_text(one.id),
        "name": one.name,
        "identifiers": _identifiers(known),
        "marketing": _switches(one.state, brand, Purpose.MARKETING),
        "reminders": _switches(one.state, brand, Purpose.REMINDERS),
    }


def _identifiers(known: Iterable[subjects.Known]) -> list[dict[str, Any]]:
    return [{"kind": one.kind.value, "value": one.spelling} for one in known]


def _switches(state: State, brand: str, purpose: Purpose) -> dict[str, str]:
    return {
        channel.value: said(state.at(brand, Scope(channel, purpose)))
        for channel in CHANNELS_OF[purpose]
    }


def said(standing: Standing) -> str:
    """`out`, `hold`, `in` or `unset`: the first that stands."""
    if standing.outs:
        return "out"
    if standing.hold:
        return "hold"
    return "in" if standing.consent else "unset"


# --- one person --------------------------------------------------------------------------------


def person(conn: Connection, served: Service, brand: str, text: str) -> Subject:
    """Raises NotFound: also for somebody of another controller."""
    controller = served.intake.brands[brand]
    found = subjects.of_controller(conn, controller, subject_number(text))
    if found is None:
        raise NotFound("there is no such subject")
    return found


@needs(*READING)
async def subject(request: Request, served: Service, key: ApiKey) -> Response:
    """One person's choices at the key's brand."""
    text = request.path_params["id"]
    return json(await served.database.read(lambda conn: subject_of(conn, served, key.brand, text)))


def subject_of(conn: Connection, served: Service, brand: str, text: str) -> dict[str, Any]:
    one = person(conn, served, brand, text)
    known = subjects.identifiers_of(conn, [one.id], served.keys)[one.id]
    standing = one.state.scopes.get(brand, {})
    return {
        "subject_id": text,
        "name": one.name,
        "identifiers": _identifiers(known),
        "choices": [
            choice for scope in sorted(standing) if (choice := _choice(scope, standing[scope]))
        ],
        "restricted": one.state.restricted is not None,
        "holds": [
            {"channel": scope.channel.value, "since": rfc3339(found.hold.at)}
            for scope, found in sorted(standing.items())
            if found.hold
        ],
    }


def _choice(scope: Scope, standing: Standing) -> dict[str, Any] | None:
    answer: dict[str, Any] = {
        "channel": scope.channel.value,
        "purpose": scope.purpose.value,
        "topic": scope.topic,
    }
    out, consent = standing.strongest, standing.consent
    if out:
        return answer | {
            "choice": "out",
            "source": out.source.value,
            "basis": None,
            "since": rfc3339(out.since),
            "event_id": str(out.event_id),
        }
    if consent and not standing.hold:
        return answer | {
            "choice": "in",
            "source": consent.source.value,
            "basis": consent.basis.value if consent.basis else None,
            "since": rfc3339(consent.since),
            "event_id": str(consent.event_id),
        }
    return None


@needs(*READING)
async def history(request: Request, served: Service, key: ApiKey) -> Response:
    """Every row of one person's ledger at the key's brand, oldest first."""
    text = request.path_params["id"]
    items = await served.database.read(lambda conn: history_of(conn, served, key.brand, text))
    return json({"items": items})


def history_of(conn: Connection, served: Service, brand: str, text: str) -> list[dict[str, Any]]:
    one = person(conn, served, brand, text)
    rows = [row for row in ledger.history(conn, one.id) if row.brand == brand]
    proofs: dict[int, Mapping[str, Any]] = {
        id_: ledger.read_payload(conn, served.keys, id_).get("evidence", {})
        for id_ in {row.payload_id for row in rows}
    }
    return [_row(row, proofs[row.payload_id]) for row in rows]


def _row(row: Any, evidence: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "n": row.n,
        "event_id": str(row.id),
        "channel": row.channel,
        "purpose": row.purpose,
        "topic": row.topic,
        "choice": _said(row),
        "source": row.source,
        "actor": evidence.get("actor") or row.origin,
        "occurred_at": rfc3339(row.occurred_at or row.at),
        "received_at": rfc3339(row.received_at),
        "result": row.result,
        "reason": row.why,
        "notice": evidence.get("notice"),
        "evidence": evidence,
    }


def _said(row: Any) -> str:
    """`in`, `out` or `hold`; `pause`, and `resume` where it ends; else `unset`: something that
    denied was taken back."""
    if row.kind in ("pause", "resume"):
        return str(row.kind)
    return row.choice or ("hold" if row.kind == "choice" else "unset")


# --- where it stands at each target ------------------------------------------------------------


@needs(*READING, "check")
async def targets(request: Request, served: Service, key: ApiKey) -> Response:
    """What each target holds of one person, and with which outcome."""
    text = request.path_params["id"]
    items = await served.database.read(lambda conn: targets_of(conn, served, key.brand, text))
    return json({"items": items})


def targets_of(conn: Connection, served: Service, brand: str, text: str) -> list[dict[str, Any]]:
    one = person(conn, served, brand, text)
    known = subjects.identifiers_of(conn, [one.id], served.keys)[one.id]
    waiting = {mark.target: mark for mark in marks.of_subject(conn, one.id)}
    kept: dict[tuple[str, str], list[Any]] = {}
    for receipt in marks.receipts_of(conn, [one.hash for one in known]):
        kept.setdefault((receipt.target, receipt.channel), []).append(receipt)
    kinds = {one.kind for one in known}
    return [
        _target(served, brand, info.label, channel, kept, waiting, kinds)
        for info in served.intake.targets
        if info.brand == brand
        for channel in sorted(info.channels)
    ]


def _target(
    served: Service,
    brand: str,
    label: str,
    channel: Channel,
    kept: Mapping[tuple[str, str], Sequence[Any]],
    waiting: Mapping[str, Any],
    kinds: set[Kind],
) -> dict[str, Any]:
    found = kept.get((label, channel.value), [])
    mark = waiting.get(label)
    outcome, reason, due = _standing_outcome(found, mark)
    if outcome is None and KIND_OF[channel] not in kinds:
        outcome, reason = Outcome.ABSENT, UNKNOWN_THERE
    name = label.removeprefix(f"{brand}/")
    latest = max(found, key=lambda row: row.seen_began or 0.0, default=None)
    wishes = {row.wish for row in found}
    return {
        "target": name,
        "system": served.settings.brands[brand].targets[name].system,
        "channel": channel.value,
        "outcome": outcome.value if outcome else None,
        "wish": next((wish for wish in ("off", "on", "leave") if wish in wishes), None),
        "seen": latest.seen if latest else None,
        "seen_at": rfc3339(latest.seen_began) if latest else None,
        "written_at": rfc3339(
            max((row.written_ended or 0.0 for row in found), default=0.0) or None
        ),
        "reason": reason,
        "due_at": rfc3339(due),
    }


def _standing_outcome(
    found: Sequence[Any], mark: Any | None
) -> tuple[Outcome | None, str | None, float | None]:
    """A waiting mark comes before what the receipts said last: not before what its own last try
    settled, as where it waits for another channel alone."""
    outcome = worst(Outcome(row.outcome) for row in found if row.outcome)
    reason = next((row.reason for row in found if outcome and row.outcome == outcome.value), None)
    if mark is None or (found and mark.attempts and _settled(found, mark.claimed_at)):
        return outcome, reason, None
    if outcome is None or outcome in SETTLED:
        said_so = Outcome(mark.outcome) if mark.outcome else Outcome.PENDING
        return said_so, mark.reason or WAITS, mark.due_at
    return outcome, reason or mark.reason, mark.due_at


def _settled(found: Sequence[Any], since: float) -> bool:
    return all(row.settled_at is not None and row.settled_at >= since for row in found)


# --- links -------------------------------------------------------------------------------------


@needs("write", "staff")
async def links(request: Request, served: Service, key: ApiKey) -> Response:
    """Signed links to put into a message to one person."""
    body = parse(_decode_links, await read_body(request, BODY_LIMIT))
    same_brand(key, body.brand)
    given = [text for text in (body.email, body.phone, body.ref) if text is not None]
    if len(given) != 1:
        raise BadInput("name the person by exactly one of email, phone, ref")
    return json(await served.database.write(lambda conn: links_for(conn, served, body)))


def links_for(conn: Connection, served: Service, body: LinksBody) -> dict[str, Any]:
    """Raises BadInput for an unknown purpose or topic, NotFound for an unknown ref."""
    scope = scope_of(served.settings, body.brand, Channel.EMAIL.value, body.purpose, body.topic)
    if body.ref is None:
        identifier, subject_id = _sought(served, body), None
    else:
        identifier, subject_id = _of_ref(conn, served, body.brand, body.ref)
    made = make_links(conn, served, body.brand, identifier, subject_id, scope.purpose, scope.topic)
    return {
        "unsubscribe": made.unsubscribe,
        "preferences": made.preferences,
        "headers": dict(made.headers),
    }


def _of_ref(conn: Connection, served: Service, brand: str, ref: str) -> tuple[Identifier, int]:
    one = subjects.by_ref(conn, served.intake.brands[brand], ref)
    known = subjects.identifiers_of(conn, [one.id], served.keys)[one.id] if one else []
    region = served.settings.brands[brand].region
    for kind in (Kind.EMAIL, Kind.PHONE):
        for found in known:
            if one and found.kind is kind and found.spelling:
                channel = Channel.EMAIL if kind is Kind.EMAIL else Channel.SMS
                return identity.guess(found.spelling, channel, region), one.id
    raise NotFound("nobody with this ref has an address or a number")


routes = [
    Route("/v1/subjects/search", search, methods=["POST"]),
    Route("/v1/subjects/{id}", subject, methods=["GET"]),
    Route("/v1/subjects/{id}/history", history, methods=["GET"]),
    Route("/v1/subjects/{id}/targets", targets, methods=["GET"]),
    Route("/v1/links", links, methods=["POST"]),
]
