"""Feed, targets, tasks, health, metrics."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
from prometheus_client import generate_latest
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs import assisted
from prefs.checkpoints import REMEDY
from prefs.core.errors import BadInput, NotFound, PrefsError
from prefs.core.ids import subject_text
from prefs.metrics import LEAVING, REGISTRY, WAITING
from prefs.store import ledger, marks, migrate, tasks
from prefs.store.access import ApiKey
from prefs.tasks import KINDS, Settled, settle
from prefs.web.auth import needs
from prefs.web.bodies import BODY_LIMIT, TaskBody, parse, read_body
from prefs.web.check import rfc3339
from prefs.web.context import Service, service
from prefs.web.parts import parts_of
from prefs.web.people import json

_decode_task = msgspec.json.Decoder(TaskBody)
MOST = 1000
LAG_WINDOW = 7 * 86400.0
READY_WITHIN = 2.0
"""Seconds in which the database answers, or is taken for away: whoever asks who is ready waits."""


@needs("check", "rights", "admin")
async def changes(request: Request, served: Service, key: ApiKey) -> Response:
    """Sealed changes of the key's brand after number `after`, in order."""
    after = _number(request, "after", 0, 2**62)
    limit = _number(request, "limit", 100, MOST)
    rows = await served.database.read(lambda conn: ledger.feed(conn, after, limit, key.brand))
    items = [
        {
            "n": row.n,
            "subject_id": subject_text(row.subject_id),
            "channel": row.channel,
            "purpose": row.purpose,
            "topic": row.topic,
            "choice": row.choice or "unset",
            "source": row.source,
            "occurred_at": rfc3339(row.occurred_at or row.at),
        }
        for row in rows
    ]
    return json({"items": items, "next": rows[-1].n if rows else after})


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) > most:
        raise BadInput(f"{name} is a whole number up to {most}", field=name)
    return int(text)


@needs("check", "staff", "admin")
async def all_targets(request: Request, served: Service, key: ApiKey) -> Response:
    """Each target of the key's brand: how far behind, how safe."""
    items = await served.database.read(lambda conn: target_rows(conn, served, key.brand))
    return json({"items": items})


def target_rows(conn: Connection, served: Service, brand: str) -> list[dict[str, Any]]:
    now = served.clock().timestamp()
    waiting, refused = marks.backlog(conn), marks.refused(conn)
    return [
        {
            "target": name,
            "system": target.system,
            "mode": "live" if target.live else "observe",
            "backlog": waiting.get(target.label, (0, now))[0],
            "oldest_seconds": round(max(0.0, now - waiting.get(target.label, (0, now))[1]), 3),
            "unsafe": _unsafe(conn, target.label),
            "refused": refused.get(target.label, 0),
            "lag": _lag(marks.lags(conn, target.label, now - LAG_WINDOW)),
        }
        for name, target in served.settings.brands[brand].targets.items()
    ]


def _unsafe(conn: Connection, label: str) -> bool:
    row = marks.lane(conn, label)
    return bool(row and row.unsafe_since)


def _lag(lags: list[float]) -> dict[str, float | None]:
    return {
        name: None if found is None else round(found, 3) for name, found in parts_of(lags).items()
    }


# --- tasks -------------------------------------------------------------------------------------


@needs("staff", "admin")
async def list_tasks(request: Request, served: Service, key: ApiKey) -> Response:
    """Work that waits for a person, the most urgent first."""
    state, kind = request.query_params.get("state"), request.query_params.get("kind")
    if kind and kind not in KINDS:
        raise BadInput(f"kind is one of: {', '.join(sorted(KINDS))}", field="kind")
    rows = await served.database.read(lambda conn: tasks.listed(conn, key.brand, state, kind))
    if "text/csv" in request.headers.get("accept", ""):
        return Response(assisted.listed(served.keys, rows), media_type="text/csv; charset=utf-8")
    return json({"items": [_task(served, row) for row in rows]})


def _task(served: Service, row: Any) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "kind": row.kind,
        "what": KINDS[row.kind].what,
        "settle_as": list(KINDS[row.kind].states) if row.state == "open" else [],
        "state": row.state,
        "subject_id": subject_text(row.subject_id) if row.subject_id else None,
        "created_at": rfc3339(row.created_at),
        "due_at": rfc3339(row.due_at),
        "closed_at": rfc3339(row.closed_at),
        "body": tasks.body(served.keys, row),
    }


@needs("staff", "admin")
async def settle_task(request: Request, served: Service, key: ApiKey) -> Response:
    """Close a task as its kind allows; each item of the list says how (`settle_as`)."""
    body = parse(_decode_task, await read_body(request, BODY_LIMIT))
    text = request.path_params["id"]
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise NotFound("there is no such task")
    settled = Settled(body.state, body.note, f"key {key.id}")
    row = await served.database.write(
        lambda conn: settle(conn, served, key.brand, int(text), settled)
    )
    return json(_task(served, row))


# --- health ------------------------------------------------------------------------------------


async def healthz(request: Request) -> Response:
    """Alive."""
    return json({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Database and migrations ready, and not told to end; also without a worker."""
    served, leaving = service(request), request.app.state.leaving.is_set()
    try:
        async with asyncio.timeout(READY_WITHIN):
            serves, workers = await served.database.read(
                lambda conn: (migrate.is_served(conn), _workers(conn, served))
            )
    except (PrefsError, TimeoutError):
        serves, workers = False, 0
    ready = serves and not leaving
    said = "ready" if ready else "leaving" if leaving else "not ready"
    response = json({"status": said, "workers": workers} | _marketing(served))
    response.status_code = 200 if ready else 503
    return response


def _marketing(served: Service) -> dict[str, str]:
    paused = served.watch.paused
    if paused is None:
        return {"marketing": "open"}
    return {"marketing": "paused", "reason": f"{paused.reason}; {REMEDY}"}


def _workers(conn: Connection, served: Service) -> int:
    """Worker processes that hold a lane now."""
    return marks.holders(conn, served.clock().timestamp())


async def metrics(request: Request) -> Response:
    """Prometheus text; systems and brands, never a person."""
    state = request.app.state
    await state.figures.refresh()
    WAITING.set(state.service.database.waiting)
    LEAVING.set(state.leaving.is_set())
    return Response(generate_latest(REGISTRY), media_type="text/plain; version=0.0.4")


health = [
    Route("/healthz", healthz, methods=["GET"]),
    Route("/readyz", readyz, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
]
routes = [
    Route("/v1/changes", changes, methods=["GET"]),
    Route("/v1/targets", all_targets, methods=["GET"]),
    Route("/v1/tasks", list_tasks, methods=["GET"]),
    Route("/v1/tasks/{id}", settle_task, methods=["POST"]),
    *health,
]
