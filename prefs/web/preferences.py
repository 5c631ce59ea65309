"""POST /v1/preferences: take a wish in from a program."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from typing import Any

import msgspec
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs.core.errors import BadInput, Forbidden
from prefs.core.ids import subject_text
from prefs.core.signals import Signal, Statement
from prefs.core.spans import span
from prefs.core.words import Choice, Source
from prefs.intake import Recorded
from prefs.metrics import RECORDED
from prefs.store import access
from prefs.store.access import ApiKey
from prefs.web.auth import needs, same_brand
from prefs.web.bodies import (
    BODY_LIMIT,
    PreferencesBody,
    basis_of,
    evidence_of,
    identifiers_of,
    parse,
    read_body,
)
from prefs.web.context import Service
from prefs.web.scopes import scope_of

_decode = msgspec.json.Decoder(PreferencesBody)
_encode = msgspec.json.Encoder().encode

BY_KEY = frozenset({Source.STAFF, Source.FORM, Source.SOFT_OPT_IN, Source.IMPORT, Source.API})
LONGEST_KEY = 255


@needs("write", "staff")
async def record(request: Request, served: Service, key: ApiKey) -> Response:
    """Record the changes of one person; the answer comes after they are on disk."""
    raw = await read_body(request, BODY_LIMIT)
    body = parse(_decode, raw)
    same_brand(key, body.brand)
    signal = signal_of(served, key, body)
    repeat = request.headers.get("idempotency-key")
    if repeat is not None and not 0 < len(repeat) <= LONGEST_KEY:
        raise BadInput("an Idempotency-Key has 1 to 255 characters", field="Idempotency-Key")

    body_hash = hashlib.sha256(raw).digest()
    with span("intake.record"):
        answer = await served.door.take(
            lambda conn: _once(conn, served, key, signal, repeat, body_hash), patient=False
        )
    return Response(answer, media_type="application/json")


def _once(
    conn: Connection,
    served: Service,
    key: ApiKey,
    signal: Signal,
    repeat: str | None,
    body_hash: bytes,
) -> Generator[Signal, Recorded, bytes]:
    """The kept answer of the same request, or a new one kept with what it records."""
    now = served.clock().timestamp()
    if repeat is not None:
        kept = access.kept_answer(conn, key.id, repeat, now)
        if kept and kept.body_hash != body_hash:
            raise BadInput(
                "this Idempotency-Key was used for another body", field="Idempotency-Key"
            )
        if kept:
            return kept.answer
    recorded = yield signal
    answer = _encode(answer_of(recorded, signal.source))
    if repeat is not None:
        access.keep_answer(conn, key.id, repeat, body_hash, answer, now)
    return answer


def signal_of(served: Service, key: ApiKey, body: PreferencesBody) -> Signal:
    """Raises Forbidden for a source that no key may claim, BadInput for the rest."""
    source = _source(key, body)
    region = served.settings.brands[body.brand].region
    identifiers = identifiers_of(body.subject, region)
    if not identifiers and not body.subject.ref:
        raise BadInput("name the person by email, phone, messenger, post or ref", field="$.subject")
    basis, soft = basis_of(body.basis)
    return Signal(
        brand=body.brand,
        source=source,
        statements=_statements(served, body),
        identifiers=identifiers,
        ref=body.subject.ref,
        name=body.subject.name,
        occurred_at=body.occurred_at,
        basis=basis,
        soft_opt_in=soft,
        evidence=evidence_of(body.evidence),
    )


def _source(key: ApiKey, body: PreferencesBody) -> Source:
    known = {source.value for source in BY_KEY}
    if body.source not in known:
        raise Forbidden(f"a key may not claim this source; it may: {', '.join(sorted(known))}")
    source = Source(body.source)
    if source is Source.STAFF:
        if "staff" not in key.scopes:
            raise Forbidden("the source staff needs a key with the scope staff")
        if not (body.evidence and body.evidence.actor and body.evidence.note):
            raise BadInput(
                "the source staff needs evidence.actor and evidence.note", field="$.evidence"
            )
    elif "write" not in key.scopes:
        raise Forbidden("this key lacks the scope write")
    return source


def _statements(served: Service, body: PreferencesBody) -> tuple[Statement, ...]:
    return tuple(
        Statement(
            scope_of(
                served.settings,
                body.brand,
                change.channel,
                change.purpose,
                change.topic,
                f"$.changes[{number}]",
            ),
            Choice(change.choice),
        )
        for number, change in enumerate(body.changes)
    )


def answer_of(recorded: Recorded, source: Source) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "subject_id": subject_text(recorded.subject_id),
        "revision": recorded.revision,
        "outcomes": [
            {
                "channel": outcome.statement.scope.channel.value,
                "purpose": outcome.statement.scope.purpose.value,
                "topic": outcome.statement.scope.topic,
                "choice": outcome.statement.choice.value,
                "result": outcome.result.value,
                "reason": outcome.why.value,
                "event_id": str(outcome.event_id),
            }
            for outcome in recorded.outcomes
        ],
    }
    for outcome in recorded.outcomes:
        RECORDED.labels(source.value, outcome.result.value).inc()
    if recorded.also:
        answer["also_applied_to"] = [subject_text(one) for one in recorded.also]
    return answer


routes = [Route("/v1/preferences", record, methods=["POST"])]
