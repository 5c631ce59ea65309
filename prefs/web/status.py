"""Feed, targets, tasks, health, metrics."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from prometheus_client import generate_latest
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs import assisted
from prefs.core.errors import BadInput, NotFound, PrefsError
from prefs.core.ids import subject_text
from prefs.core.signals import Evidence, Signal, Statement
from prefs.core.words import Channel, Choice, Purpose, Scope, Source
from prefs.metrics import REGISTRY
from prefs.store import batches, ledger, marks, migrate, tasks
from prefs.store.access import ApiKey
from prefs.web.auth import needs
from prefs.web.bodies import BODY_LIMIT, TaskBody, parse, read_body
from prefs.web.check import rfc3339
from prefs.web.context import Service, service
from prefs.web.people import json

_decode_task = msgspec.json.Decoder(TaskBody)
MOST = 1000
LAG_WINDOW = 7 * 86400.0
HELD = {"held_text": Channel.SMS, "held_mail": Channel.EMAIL}
"""Tasks that a hold waits for, and the channel that it holds."""


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
    ordered = sorted(lags)
    return {
        name: round(ordered[min(len(ordered) - 1, int(len(ordered) * part))], 3)
        if ordered
        else None
        for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    }


# --- tasks -------------------------------------------------------------------------------------


@needs("staff", "admin")
async def list_tasks(request: Request, served: Service, key: ApiKey) -> Response:
    """Work that waits for a person, the most urgent first."""
    state, kind = request.query_params.get("state"), request.query_params.get("kind")
    rows = await served.database.read(lambda conn: tasks.listed(conn, key.brand, state, kind))
    if "text/csv" in request.headers.get("accept", ""):
        return Response(assisted.listed(served.keys, rows), media_type="text/csv; charset=utf-8")
    return json({"items": [_task(served, row) for row in rows]})


def _task(served: Service, row: Any) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "kind": row.kind,
        "state": row.state,
        "subject_id": subject_text(row.subject_id) if row.subject_id else None,
        "created_at": rfc3339(row.created_at),
        "due_at": rfc3339(row.due_at),
        "closed_at": rfc3339(row.closed_at),
        "body": tasks.body(served.keys, row),
    }


@needs("staff", "admin")
async def settle_task(request: Request, served: Service, key: ApiKey) -> Response:
    """Close a task. A held text or mail is settled as `out` (they meant stop) or `release`d."""
    body = parse(_decode_task, await read_body(request, BODY_LIMIT))
    text = request.path_params["id"]
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise NotFound("there is no such task")
    job = served.database.write(lambda conn: _settle(conn, served, key, int(text), body))
    return json(await job)


def _settle(
    conn: Connection, served: Service, key: ApiKey, id_: int, body: TaskBody
) -> dict[str, Any]:
    row = tasks.one(conn, key.brand, id_)
    if row is None:
        raise NotFound("there is no such task")
    if row.state != "open":
        raise BadInput("this task is closed already", field="$.state", status=409)
    if row.kind in HELD:
        _decide_hold(conn, served, key, row, body)
    elif row.kind == "batch" and body.state == "done":
        batch = batches.by_label(conn, tasks.body(served.keys, row)["batch"])
        batches.release(conn, batch, served.clock().timestamp())
    elif body.state == "done" and row.kind in assisted.KINDS:
        _look_again(conn, served, row)
    elif body.state != "done":
        raise BadInput("only a held text or mail can be settled as out or release", field="$.state")
    now = served.clock().timestamp()
    noted = {**tasks.body(served.keys, row), "settled_with": body.note}
    tasks.settle(conn, served.keys, id_, body.state, noted, now)
    return _task(served, tasks.one(conn, key.brand, id_))


def _look_again(conn: Connection, served: Service, row: Any) -> None:
    """The lane notes what staff say is done."""
    target = served.settings.targets.get(tasks.body(served.keys, row)["target"])
    if target:
        assisted.look_again(conn, target, row.subject_id, served.clock().timestamp())


def _decide_hold(conn: Connection, served: Service, key: ApiKey, row: Any, body: TaskBody) -> None:
    if body.state == "done" or row.subject_id is None:
        raise BadInput("settle a held text or mail as out or release", field="$.state")
    evidence = Evidence(actor=f"key {key.id}", note=body.note)
    channel = Channel(tasks.body(served.keys, row).get("channel") or HELD[row.kind])
    if body.state == "release":
        served.intake.release(conn, key.brand, row.subject_id, channel, evidence)
        return
    hashes = tuple(served.intake.hashes_of_subject(conn, row.subject_id, channel))
    scope = Scope(channel, Purpose.MARKETING)
    signal = Signal(
        key.brand, Source.STAFF, (Statement(scope, Choice.OUT),), hashes=hashes, evidence=evidence
    )
    served.intake.record(conn, signal)


# --- health ------------------------------------------------------------------------------------


async def healthz(request: Request) -> Response:
    """Alive."""
    return json({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Database and migrations ready; also without a worker."""
    served = service(request)
    try:
        ready, workers = await served.database.read(
            lambda conn: (migrate.is_current(conn), _workers(conn, served))
        )
    except PrefsError:
        ready, workers = False, 0
    response = json({"status": "ready" if ready else "not ready", "workers": workers})
    response.status_code = 200 if ready else 503
    return response


def _workers(conn: Connection, served: Service) -> int:
    """Worker processes that hold a lane now."""
    return marks.holders(conn, served.clock().timestamp())


async def metrics(request: Request) -> Response:
    """Prometheus text; systems and brands, never a person."""
    return Response(generate_latest(REGISTRY), media_type="text/plain; version=0.0.4")


routes = [
    Route("/v1/changes", changes, methods=["GET"]),
    Route("/v1/targets", all_targets, methods=["GET"]),
    Route("/v1/tasks", list_tasks, methods=["GET"]),
    Route("/v1/tasks/{id}", settle_task, methods=["POST"]),
    Route("/healthz", healthz, methods=["GET"]),
    Route("/readyz", readyz, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
]
